// gated = silu(gate x) * (up x) for every slot, in sorted order: both products in one pass over x, which is gathered on
// the way, since the row of the slot at a sorted place is slot_at[place] / top_k.

// e^x as the CPU computes it (vec_exp in engine/cpu/kernels_template.h says how), so that both have the same bits; a
// device's own exp() may be off by three units in the last place, each by others.
static inline float exp_value(float x) {
    x = x > 88.0f ? 88.0f : x < -87.3f ? -87.3f : x; // NaN stays
    const float n = rint(x * 1.44269504f);
    const float r = fma(n, 2.12194440e-4f, fma(n, -0.693359375f, x));
    float sum = 1.0f / 5040;
    sum = fma(sum, r, 1.0f / 720);
    sum = fma(sum, r, 1.0f / 120);
    sum = fma(sum, r, 1.0f / 24);
    sum = fma(sum, r, 1.0f / 6);
    sum = fma(sum, r, 0.5f);
    sum = fma(sum, r, 1.0f);
    sum = fma(sum, r, 1.0f);
    return sum * as_float(convert_int_sat(n + 127) << 23);
}

static inline float gate_value(float gate, float up) {
    return gate / (1 + exp_value(-gate)) * up;
}

// Tiles of up to FEW_ROWS rows: the weights are what takes time, and each is read once.
KERNEL void gate_up_few(__global const WEIGHT *weights, // of all experts of a layer
                 __global const ulong *start,    // [experts][gate, up, down] where each begins
                 __global const int *tiles, __global const int *slot_at,
                 __global const ROW *x, // [rows][row_length(hidden)]
                 int hidden, int inner, int top_k,
                 __global float *gated) // [slots][inner]
{
    const int lane = few_lane(), output = get_group_id(0) * FEW_OUTPUTS + few_output();
    if ((int)get_group_id(1) >= tiles[0]) return;
    const struct tile tile = tile_at(tiles, get_group_id(1));
    __global const WEIGHT *gate = weights + start[3 * tile.expert], *up = weights + start[3 * tile.expert + 1];
    __global const ROW *row[FEW_ROWS];
    for (int r = 0; r < FEW_ROWS; r++)
        row[r] = x + (ulong)(slot_at[tile.first + min(r, tile.rows - 1)] / top_k) * row_length(hidden);
#ifdef DOT
    __local float products[FEW_PRODUCTS];
    const int r = few_row();
    __global const ROW *mine = x + (ulong)(slot_at[tile.first + min(r, tile.rows - 1)] / top_k) * row_length(hidden);
    const float g = dot_few(products, gate, output, row, mine, tile.rows, hidden);
    const float u = dot_few(products, up, output, row, mine, tile.rows, hidden);
    if (r < tile.rows && output < inner) gated[(ulong)(tile.first + r) * inner + output] = gate_value(g, u);
#else
    float gate_part[FEW_ROWS], up_part[FEW_ROWS]; // this lane's
    float4 gate_sum[FEW_ROWS], up_sum[FEW_ROWS];
    for (int r = 0; r < FEW_ROWS; r++) gate_sum[r] = up_sum[r] = (float4)(0.0f);
    if (output < inner) {
        for (int k = 4 * lane; k < hidden; k += 4 * FEW_LANES) {
            const float4 g = weight4(gate, output, k, hidden), u = weight4(up, output, k, hidden);
            for (int r = 0; r < FEW_ROWS; r++) {
                if (r >= tile.rows) break;
                const float4 value = row4(row[r], k, hidden, true);
                gate_sum[r] = fma(g, value, gate_sum[r]);
                up_sum[r] = fma(u, value, up_sum[r]);
            }
        }
    }
    for (int r = 0; r < FEW_ROWS; r++) {
        gate_part[r] = sum_of(gate_sum[r]);
        up_part[r] = sum_of(up_sum[r]);
    }

#ifdef FEW_SUB_GROUPS
    // Each lane keeps the row of its number: with more than a store between two reductions PoCL 6.0 sums up wrongly.
    float g = 0, u = 0;
    for (int r = 0; r < tile.rows; r++) {
        const float gate_row = sub_group_reduce_add(gate_part[r]), up_row = sub_group_reduce_add(up_part[r]);
        g = lane == r ? gate_row : g;
        u = lane == r ? up_row : u;
    }
    if (lane < tile.rows && output < inner) gated[(ulong)(tile.first + lane) * inner + output] = gate_value(g, u);
#else
    __local float part[2 * FEW_ROWS * GROUP]; // [gate, up][row][output][lane]
    const int item = get_local_id(0), mine = few_output() * FEW_LANES + lane;
    for (int r = 0; r < FEW_ROWS; r++) {
        part[r * GROUP + mine] = gate_part[r];
        part[(FEW_ROWS + r) * GROUP + mine] = up_part[r];
    }
    barrier(CLK_LOCAL_MEM_FENCE);

    const int r = item / FEW_OUTPUTS, o = item % FEW_OUTPUTS, to = get_group_id(0) * FEW_OUTPUTS + o;
    if (r >= tile.rows || to >= inner) return;
    const float g = sum_lanes(part + r * GROUP + o * FEW_LANES);
    const float u = sum_lanes(part + (FEW_ROWS + r) * GROUP + o * FEW_LANES);
    gated[(ulong)(tile.first + r) * inner + to] = gate_value(g, u);
#endif
#endif
}

// Tiles of up to TILE_ROWS rows.
KERNEL void gate_up_many(__global const WEIGHT *weights, __global const ulong *start, __global const int *tiles,
                  __global const int *slot_at, __global const ROW *x, int hidden, int inner, int top_k,
                  __global float *gated) {
    if ((int)get_group_id(1) >= tiles[0]) return;
    const struct tile tile = tile_at(tiles, get_group_id(1));
#if defined DOT
    const int output = get_group_id(0) * TILE_OUTPUTS + get_local_id(0) % BLOCK_OUTPUTS;
    const int first = dot_first_row(); // beyond the tile's rows its last one is computed, for nobody
    if (first >= tile.rows) return;    // a whole sub-group
    __global const WEIGHT *gate = weights + start[3 * tile.expert], *up = weights + start[3 * tile.expert + 1];
    __global const struct packed_x *row[DOT_ROWS];
    float gate_sum[DOT_ROWS], up_sum[DOT_ROWS];
    for (int r = 0; r < DOT_ROWS; r++) {
        gate_sum[r] = up_sum[r] = 0;
        row[r] = x + (ulong)(slot_at[tile.first + min(first + r, tile.rows - 1)] / top_k) * row_length(hidden);
    }
    for (int block = 0; block < blocks_of(hidden); block++) {
        dot_many(gate_sum, gate, output, block, row, hidden);
        dot_many(up_sum, up, output, block, row, hidden);
    }
    for (int r = 0; r < DOT_ROWS; r++) {
        if (first + r >= tile.rows || output >= inner) break;
        const float g = add_outliers(gate_sum[r], gate, output, row[r], hidden);
        const float u = add_outliers(up_sum[r], up, output, row[r], hidden);
        gated[(ulong)(tile.first + first + r) * inner + output] = gate_value(g, u);
    }
#elif defined SUB_GROUPS
    const int output = get_group_id(0) * TILE_OUTPUTS + (int)get_sub_group_local_id(), last = min(output, inner - 1);
    const int first = (int)get_sub_group_id() * SUB_ROWS; // beyond the tile's rows its last one is computed, for nobody
    if (first >= tile.rows) return;                       // a whole sub-group
    __global const WEIGHT *gate = weights + start[3 * tile.expert], *up = weights + start[3 * tile.expert + 1];
    __global const float *row[SUB_ROWS];
    float gate_sum[SUB_ROWS], up_sum[SUB_ROWS], value[SUB_ROWS];
    for (int r = 0; r < SUB_ROWS; r++) {
        gate_sum[r] = up_sum[r] = 0;
        row[r] = x + (ulong)(slot_at[tile.first + min(first + r, tile.rows - 1)] / top_k) * hidden;
    }
    for (int k = 0; k < hidden; k += TILE_DEPTH) {
        for (int r = 0; r < SUB_ROWS; r++) value[r] = row_lane(row[r], k, hidden);
        for (int i = 0; i < TILE_DEPTH; i += 4) {
            sub_multiply(gate_sum, value, weight4(gate, last, k + i, hidden), i);
            sub_multiply(up_sum, value, weight4(up, last, k + i, hidden), i);
        }
    }
    for (int r = 0; r < SUB_ROWS; r++)
        if (first + r < tile.rows && output < inner)
            gated[(ulong)(tile.first + first + r) * inner + output] = gate_value(gate_sum[r], up_sum[r]);
#else
    __local float x_tile[TILE_DEPTH * TILE_PITCH], gate_tile[TILE_DEPTH * TILE_PITCH], up_tile[TILE_DEPTH * TILE_PITCH];
    const int item = get_local_id(0), along = item % 8, across = item / 8;
    const int at = item / 2, depth = item % 2 * 8; // what this item loads: 8 columns of one row and of two outputs
    const int output = get_group_id(0) * TILE_OUTPUTS + at;
    const int last = min(output, inner - 1); // what is beyond it is computed for nobody
    const bool row_there = at < tile.rows;
    __global const float *row = x + (ulong)(slot_at[tile.first + min(at, tile.rows - 1)] / top_k) * hidden;
    __global const WEIGHT *gate = weights + start[3 * tile.expert], *up = weights + start[3 * tile.expert + 1];

    float4 gate_sum[4], up_sum[4];
    for (int i = 0; i < 4; i++) gate_sum[i] = up_sum[i] = (float4)(0.0f);
    for (int k = 0; k < hidden; k += TILE_DEPTH) {
        for (int i = 0; i < 8; i += 4) {
            tile_put(x_tile, depth + i, at, row4(row, k + depth + i, hidden, row_there));
            tile_put(gate_tile, depth + i, at, weight4(gate, last, k + depth + i, hidden));
            tile_put(up_tile, depth + i, at, weight4(up, last, k + depth + i, hidden));
        }
        barrier(CLK_LOCAL_MEM_FENCE);
        tile_multiply(gate_sum, x_tile, gate_tile, across, along);
        tile_multiply(up_sum, x_tile, up_tile, across, along);
        barrier(CLK_LOCAL_MEM_FENCE);
    }

    for (int i = 0; i < 4; i++) {
        const int r = 4 * across + i;
        if (r >= tile.rows) break;
        float g[4], u[4];
        vstore4(gate_sum[i], 0, g);
        vstore4(up_sum[i], 0, u);
        for (int j = 0; j < 4; j++) {
            const int to = get_group_id(0) * TILE_OUTPUTS + 4 * along + j;
            if (to < inner) gated[(ulong)(tile.first + r) * inner + to] = gate_value(g[j], u[j]);
        }
    }
#endif
}
