// Sorts the rows' slots by expert (a counting sort that keeps their order, so always the same) and cuts each expert's
// run into tiles for the products. One work group does all of it: there are a thousand slots, not a million.

KERNEL void lists(__global const int *expert, // [slots]; negative: computed elsewhere
           int slots, int experts, int tile_rows,
           __global int *slot_at,  // [slots] which slot lies at a sorted place
           __global int *place_of, // [slots] where a slot lies; -1: nowhere
           __global int *tiles)    // count, then [tiles] expert, first place, places
{
    __local int next[GROUP * EXPERTS_MAX]; // [item][expert]: how many there are, then where the next one goes
    __local int total[EXPERTS_MAX], first[EXPERTS_MAX];
    const int item = get_local_id(0);
    const int share = (slots + GROUP - 1) / GROUP;
    const int from = min(item * share, slots), to = min(from + share, slots);

    for (int e = 0; e < experts; e++) next[item * experts + e] = 0;
    for (int i = from; i < to; i++)
        if (expert[i] >= 0) next[item * experts + expert[i]]++;
    barrier(CLK_LOCAL_MEM_FENCE);

    if (item < experts) {
        int sum = 0;
        for (int i = 0; i < GROUP; i++) {
            const int count = next[i * experts + item];
            next[i * experts + item] = sum;
            sum += count;
        }
        total[item] = sum;
    }
    barrier(CLK_LOCAL_MEM_FENCE);

    if (item == 0) {
        int place = 0, count = 0;
        for (int e = 0; e < experts; e++) {
            first[e] = place;
            for (int row = 0; row < total[e]; row += tile_rows, count++) {
                __global int *tile = tiles + 1 + count * TILE_FIELDS;
                tile[0] = e;
                tile[1] = place + row;
                tile[2] = min(tile_rows, total[e] - row);
            }
            place += total[e];
        }
        tiles[0] = count;
    }
    barrier(CLK_LOCAL_MEM_FENCE);

    for (int i = from; i < to; i++) {
        const int e = expert[i];
        if (e < 0) {
            place_of[i] = -1;
            continue;
        }
        const int place = first[e] + next[item * experts + e]++;
        place_of[i] = place;
        slot_at[place] = i;
    }
}
