// Rows as integer dot products read them: values in int8 with a scale for each group of 32 columns, and apart from them
// those few that would cost all of their group its precision. As the CPU does it, operation by operation, so that both
// multiply the same numbers: engine/cpu/packed.h says what and why. One work group a row, an item a group.
#ifdef DOT

// A list while it is being found: beside each outlier the next largest of its group.
struct found {
    struct packed_outliers list;
    float next[OUTLIERS];
};

// What the rest of a group would lose, squared.
static inline float worth_of(float x, float next) {
    return x * x - next * next;
}

// Takes column's x into the list if there is room, or if it matters more than one that is there.
static inline void note(__local struct found *found, int column, float x, float next) {
    int at = found->list.count;
    if (at == OUTLIERS) {
        at = 0;
        for (int i = 1; i < OUTLIERS; i++)
            if (worth_of(found->list.at[i].x, found->next[i]) < worth_of(found->list.at[at].x, found->next[at])) at = i;
        if (!(worth_of(found->list.at[at].x, found->next[at]) < worth_of(x, next))) return;
    } else {
        found->list.count++;
    }
    found->list.at[at].column = column;
    found->list.at[at].x = x;
    found->next[at] = next;
}

// The largest size in a group, the next largest, and where the first of the largest lies.
struct largest {
    float most, next;
    int column;
};

// One group of a row, but for the column `without`. One that is not finite becomes NaN, and has no outlier.
static inline struct largest quantize_group(__global const float *row, int columns, int group, int without,
                                            __global struct packed_x *blocks) {
    struct largest largest = {0, 0, 0};
    float x[BLOCK_GROUP];
    bool finite = true;
    for (int i = 0; i < BLOCK_GROUP; i++) {
        const int column = group * BLOCK_GROUP + i;
        x[i] = column < columns && column != without ? row[column] : 0.0f;
        finite = finite && isfinite(x[i]);
        if (fabs(x[i]) > largest.most) {
            largest.most = fabs(x[i]);
            largest.column = column;
        }
    }
    for (int i = 0; i < BLOCK_GROUP; i++)
        if (fabs(x[i]) < largest.most && fabs(x[i]) > largest.next) largest.next = fabs(x[i]);

    const float inverse = finite && largest.most > 0 ? 127 / largest.most : 0.0f;
    __global struct packed_x *block = blocks + group / 2;
    int sum = 0;
    for (int i = 0; i < BLOCK_GROUP; i++) {
        const char value = convert_char_sat_rte(finite ? x[i] * inverse : 0.0f);
        block->value[group % 2 * BLOCK_GROUP + i] = value;
        sum += value;
    }
    block->sum[group % 2] = sum;
    block->scale[group % 2] = finite ? largest.most / 127 : NAN;
    if (!finite) largest.most = largest.next = 0;
    return largest;
}

KERNEL void quantize(__global const float *x, // [rows][columns]
              int columns,
              __global struct packed_x *out) // [rows][blocks, and one with the row's outliers]
{
    __local struct found found;
    __local struct largest seen[GROUP];
    const int item = get_local_id(0), blocks = blocks_of(columns), groups = 2 * blocks;
    __global const float *row = x + (ulong)get_group_id(0) * columns;
    __global struct packed_x *mine = out + (ulong)get_group_id(0) * (blocks + 1);

    if (item == 0) found.list.count = 0;
    for (int first = 0; first < groups; first += GROUP) {
        const int group = first + item;
        if (group < groups) seen[item] = quantize_group(row, columns, group, -1, mine);
        barrier(CLK_LOCAL_MEM_FENCE);
        for (int i = 0; item == 0 && i < min(GROUP, groups - first); i++)
            if (seen[i].most > OUTLIER_TIMES * seen[i].next)
                note(&found, seen[i].column, row[seen[i].column], seen[i].next);
        barrier(CLK_LOCAL_MEM_FENCE | CLK_GLOBAL_MEM_FENCE);
    }
    if (item < found.list.count) {
        const int column = found.list.at[item].column;
        quantize_group(row, columns, column / BLOCK_GROUP, column, mine);
    }
    if (item == 0) *(__global struct packed_outliers *)(mine + blocks) = found.list;
}
#endif
