// SparseMixer: each row's two experts and their weights. One work group a row.
//
// Scores are products of the router's rows and x, in fp32. Every item takes four columns of each 256 for sixteen
// experts at once, so that x is read once for them; then item e adds expert e's parts up in order.

enum { ROUTE_AT_ONCE = 16 };

// The largest score, the first among equals, without `taken`; a NaN is larger than all, so that it reaches the output.
static int route_choose(__local const float *score, int experts, int taken) {
    int best = -1;
    for (int j = 0; j < experts; j++) {
        if (j == taken) continue;
        if (best < 0 || score[j] > score[best] || (isnan(score[j]) && !isnan(score[best]))) best = j;
    }
    return best;
}

// The share of `best` in a softmax over those that are not removed for being too far below it. What is *removed* is
// compared, as transformers does, so that 0/0 keeps an expert.
static float route_share(__local const float *score, int experts, int best, int taken, float jitter) {
    const float most = score[best];
    float total = 0;
    for (int j = 0; j < experts; j++) {
        float size = fabs(score[j]) < most ? most : fabs(score[j]);
        if (j != taken && !((most - score[j]) / size > 2 * jitter)) total += exp(score[j] - most);
    }
    return 1 / total;
}

KERNEL void route(__global const float *router, // [experts][hidden]
           __global const float *x,      // [rows][hidden]
           int hidden, int experts, int top_k, float jitter,
           __global int *expert,   // [rows][top_k]
           __global float *weight) // [rows][top_k]
{
    __local float part[ROUTE_AT_ONCE * GROUP];
    __local float score[EXPERTS_MAX];
    const int item = get_local_id(0), row = get_group_id(0);
    __global const float *mine = x + (ulong)row * hidden;

    for (int first = 0; first < experts; first += ROUTE_AT_ONCE) {
        float sum[ROUTE_AT_ONCE];
        for (int e = 0; e < ROUTE_AT_ONCE; e++) sum[e] = 0;
        for (int k = 4 * item; k < hidden; k += 4 * GROUP)
            for (int i = k; i < k + 4 && i < hidden; i++) {
                const float value = mine[i];
                for (int e = 0; e < ROUTE_AT_ONCE; e++)
                    if (first + e < experts) sum[e] = fma(router[(ulong)(first + e) * hidden + i], value, sum[e]);
            }
        for (int e = 0; e < ROUTE_AT_ONCE; e++) part[e * GROUP + item] = sum[e];
        barrier(CLK_LOCAL_MEM_FENCE);
        if (item < ROUTE_AT_ONCE && first + item < experts) {
            float total = 0;
            for (int i = 0; i < GROUP; i++) total += part[item * GROUP + i];
            score[first + item] = total;
        }
        barrier(CLK_LOCAL_MEM_FENCE);
    }

    if (item > 0) return;
    int taken = -1;
    for (int slot = 0; slot < top_k; slot++) {
        const int best = route_choose(score, experts, taken);
        expert[row * top_k + slot] = best;
        weight[row * top_k + slot] = route_share(score, experts, best, taken, jitter);
        taken = best;
    }
}
