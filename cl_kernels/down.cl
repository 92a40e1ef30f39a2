// mixed = down gated, for every slot, in sorted order.

KERNEL void down_few(__global const WEIGHT *weights, // of all experts of a layer
              __global const ulong *start,    // [experts][gate, up, down] where each begins
              __global const int *tiles,
              __global const ROW *gated, // [slots][row_length(inner)]
              int hidden, int inner,
              __global float *mixed) // [slots][hidden]
{
    const int lane = few_lane(), output = get_group_id(0) * FEW_OUTPUTS + few_output();
    if ((int)get_group_id(1) >= tiles[0]) return;
    const struct tile tile = tile_at(tiles, get_group_id(1));

    __global const WEIGHT *down = weights + start[3 * tile.expert + 2];
    __global const ROW *row[FEW_ROWS];
    for (int r = 0; r < FEW_ROWS; r++)
        row[r] = gated + (ulong)(tile.first + min(r, tile.rows - 1)) * row_length(inner);
#ifdef DOT
    __local float products[FEW_PRODUCTS];
    const int r = few_row();
    __global const ROW *mine = gated + (ulong)(tile.first + min(r, tile.rows - 1)) * row_length(inner);
    const float whole = dot_few(products, down, output, row, mine, tile.rows, inner);
    if (r < tile.rows && output < hidden) mixed[(ulong)(tile.first + r) * hidden + output] = whole;
#else
    float lane_sum[FEW_ROWS];
    float4 sum[FEW_ROWS];
    for (int r = 0; r < FEW_ROWS; r++) sum[r] = (float4)(0.0f);
    if (output < hidden) {
        for (int k = 4 * lane; k < inner; k += 4 * FEW_LANES) {
            const float4 w = weight4(down, output, k, inner);
            for (int r = 0; r < FEW_ROWS; r++) {
                if (r >= tile.rows) break;
                sum[r] = fma(w, row4(row[r], k, inner, true), sum[r]);
            }
        }
    }
    for (int r = 0; r < FEW_ROWS; r++) lane_sum[r] = sum_of(sum[r]);

#ifdef FEW_SUB_GROUPS
    float whole = 0; // as in gate_up.cl
    for (int r = 0; r < tile.rows; r++) {
        const float row_sum = sub_group_reduce_add(lane_sum[r]);
        whole = lane == r ? row_sum : whole;
    }
    if (lane < tile.rows && output < hidden) mixed[(ulong)(tile.first + lane) * hidden + output] = whole;
#else
    __local float part[FEW_ROWS * GROUP]; // [row][output][lane]
    const int item = get_local_id(0), mine = few_output() * FEW_LANES + lane;
    for (int r = 0; r < FEW_ROWS; r++) part[r * GROUP + mine] = lane_sum[r];
    barrier(CLK_LOCAL_MEM_FENCE);

    const int r = item / FEW_OUTPUTS, o = item % FEW_OUTPUTS, to = get_group_id(0) * FEW_OUTPUTS + o;
    if (r >= tile.rows || to >= hidden) return;
    mixed[(ulong)(tile.first + r) * hidden + to] = sum_lanes(part + r * GROUP + o * FEW_LANES);
#endif
#endif
}

KERNEL void down_many(__global const WEIGHT *weights, __global const ulong *start, __global const int *tiles,
               __global const ROW *gated, int hidden, int inner, __global float *mixed) {
    if ((int)get_group_id(1) >= tiles[0]) return;
    const struct tile tile = tile_at(tiles, get_group_id(1));
#if defined DOT
    const int output = get_group_id(0) * TILE_OUTPUTS + get_local_id(0) % BLOCK_OUTPUTS;
    const int first = dot_first_row(); // beyond the tile's rows its last one is computed, for nobody
    if (first >= tile.rows) return;    // a whole sub-group
    __global const WEIGHT *down = weights + start[3 * tile.expert + 2];
    __global const struct packed_x *row[DOT_ROWS];
    float sum[DOT_ROWS];
    for (int r = 0; r < DOT_ROWS; r++) {
        sum[r] = 0;
        row[r] = gated + (ulong)(tile.first + min(first + r, tile.rows - 1)) * row_length(inner);
    }
    for (int block = 0; block < blocks_of(inner); block++) dot_many(sum, down, output, block, row, inner);
    for (int r = 0; r < DOT_ROWS; r++) {
        if (first + r >= tile.rows || output >= hidden) break;
        mixed[(ulong)(tile.first + first + r) * hidden + output] = add_outliers(sum[r], down, output, row[r], inner);
    }
#elif defined SUB_GROUPS
    const int output = get_group_id(0) * TILE_OUTPUTS + (int)get_sub_group_local_id();
    const int first = (int)get_sub_group_id() * SUB_ROWS; // beyond the tile's rows its last one is computed, for nobody
    if (first >= tile.rows) return;                       // a whole sub-group
    __global const WEIGHT *down = weights + start[3 * tile.expert + 2];
    const int last = min(output, hidden - 1); // what is beyond it is computed for nobody
    __global const float *row[SUB_ROWS];
    float sum[SUB_ROWS], x[SUB_ROWS];
    for (int r = 0; r < SUB_ROWS; r++) {
        sum[r] = 0;
        row[r] = gated + (ulong)(tile.first + min(first + r, tile.rows - 1)) * inner;
    }
    for (int k = 0; k < inner; k += TILE_DEPTH) {
        for (int r = 0; r < SUB_ROWS; r++) x[r] = row_lane(row[r], k, inner);
        for (int i = 0; i < TILE_DEPTH; i += 4) sub_multiply(sum, x, weight4(down, last, k + i, inner), i);
    }
    for (int r = 0; r < SUB_ROWS; r++)
        if (first + r < tile.rows && output < hidden) mixed[(ulong)(tile.first + first + r) * hidden + output] = sum[r];
#else
    __local float x_tile[TILE_DEPTH * TILE_PITCH], down_tile[TILE_DEPTH * TILE_PITCH];
    const int item = get_local_id(0), along = item % 8, across = item / 8;
    const int at = item / 2, depth = item % 2 * 8; // what this item loads: 8 columns of one row and of one output
    const int output = get_group_id(0) * TILE_OUTPUTS + at;
    const bool row_there = at < tile.rows;
    __global const float *row = gated + (ulong)(tile.first + min(at, tile.rows - 1)) * inner;
    __global const WEIGHT *down = weights + start[3 * tile.expert + 2];
    const int last = min(output, hidden - 1); // what is beyond it is computed for nobody

    float4 sum[4];
    for (int i = 0; i < 4; i++) sum[i] = (float4)(0.0f);
    for (int k = 0; k < inner; k += TILE_DEPTH) {
        for (int i = 0; i < 8; i += 4) {
            tile_put(x_tile, depth + i, at, row4(row, k + depth + i, inner, row_there));
            tile_put(down_tile, depth + i, at, weight4(down, last, k + depth + i, inner));
        }
        barrier(CLK_LOCAL_MEM_FENCE);
        tile_multiply(sum, x_tile, down_tile, across, along);
        barrier(CLK_LOCAL_MEM_FENCE);
    }

    for (int i = 0; i < 4; i++) {
        const int r = 4 * across + i;
        if (r >= tile.rows) break;
        float values[4];
        vstore4(sum[i], 0, values);
        for (int j = 0; j < 4; j++) {
            const int to = get_group_id(0) * TILE_OUTPUTS + 4 * along + j;
            if (to < hidden) mixed[(ulong)(tile.first + r) * hidden + to] = values[j];
        }
    }
#endif
}
