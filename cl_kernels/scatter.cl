// out[row] = the sum over its slots of weight * mixed[where that slot lies]: a row fetches its own, so that nothing is
// added by two at once. Products are rounded before they are added, so that the sum of two is the same in any order,
// and where another device has one of them.

KERNEL void scatter(__global const float *mixed,  // [slots][hidden]
             __global const int *place_of, // [rows][top_k]
             __global const float *weight, // [rows][top_k]
             int hidden, int top_k,
             __global float *out) // [rows][hidden]
{
    const int column = get_global_id(0), row = get_group_id(1);
    if (column >= hidden) return;
    float sum = 0;
    for (int slot = 0; slot < top_k; slot++) {
        const int at = row * top_k + slot;
        if (place_of[at] < 0) continue; // another device has it
        sum += weight[at] * mixed[(ulong)place_of[at] * hidden + column];
    }
    out[(ulong)row * hidden + column] = sum;
}
