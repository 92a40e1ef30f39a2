// What all kernels share: how weights are read, and the pieces of a tiled product. The launcher,
// engine/opencl/mixture.c, says with -D how weights are held (QUANT) and the sizes that it has to know itself: GROUP,
// the items of every work group; FEW_ROWS and FEW_OUTPUTS, TILE_ROWS and TILE_OUTPUTS, what one of them computes;
// EXPERTS_MAX. SUB_GROUPS: the device has them, of 16 items, as Intel's extension says.
//
// Every sum is taken in one order that does not depend on the rows beside it, so that runs repeat to the bit: nothing
// is added atomically, and the compiler may not contract a product and a sum of its own accord; where they belong
// together, fma() says so.
#pragma OPENCL FP_CONTRACT OFF

#ifdef SUB_GROUPS
#define KERNEL __kernel __attribute__((reqd_work_group_size(GROUP, 1, 1), intel_reqd_sub_group_size(16)))
#else
#define KERNEL __kernel __attribute__((reqd_work_group_size(GROUP, 1, 1)))
#endif

#define PASTE_(a, b) a##b
#define PASTE(a, b) PASTE_(a, b)

// ---- Weights: -DQUANT=f32, bf16, f16, int8 or int4 chooses a type, and how four of an output's weights, or one,
// become floats. Floats lie output by output; int8 and int4 in blocks of 16 outputs by 64 columns, as the CPU's kernels
// have them: engine/quants/packed.h says how.

typedef float weight_f32;
typedef ushort weight_bf16; // the upper half of a float: widening it is exact

static inline float4 unpack4_f32(__global const float *w) {
    return vload4(0, w);
}

static inline float unpack_f32(__global const float *w) {
    return *w;
}

static inline float4 unpack4_bf16(__global const ushort *w) {
    return as_float4(convert_uint4(vload4(0, w)) << 16);
}

static inline float unpack_bf16(__global const ushort *w) {
    return as_float((uint)*w << 16);
}

typedef half weight_f16; // read without an extension

static inline float4 unpack4_f16(__global const half *w) {
    return vload_half4(0, w);
}

static inline float unpack_f16(__global const half *w) {
    return vload_half(0, w);
}

typedef uchar weight_int8;
typedef uchar weight_int4;

enum { BLOCK_OUTPUTS = 16, BLOCK_COLUMNS = 64, BLOCK_GROUP = 32 };
enum { SCALE_BYTES = 64, INT8_BYTES = 1088, INT4_BYTES = 576 };

static inline __global const uchar *block_at(__global const uchar *matrix, int output, int k, int columns, int bytes) {
    const int across = (columns + BLOCK_COLUMNS - 1) / BLOCK_COLUMNS;
    return matrix + ((ulong)(output / BLOCK_OUTPUTS) * across + k / BLOCK_COLUMNS) * bytes;
}

static inline float scale_at(__global const uchar *block, int output, int k) {
    const int at = k % BLOCK_COLUMNS / BLOCK_GROUP * BLOCK_OUTPUTS + output % BLOCK_OUTPUTS;
    return vload_half(at, (__global const half *)block);
}

// The word of a block that holds column k of an output, so many columns to a word.
static inline uint word_at(__global const uchar *block, int output, int k, int columns) {
    const int word = k % BLOCK_COLUMNS / columns * BLOCK_OUTPUTS + output % BLOCK_OUTPUTS;
    return ((__global const uint *)(block + SCALE_BYTES))[word];
}

static inline float4 blocks4_int8(__global const uchar *matrix, int output, int k, int columns) {
    __global const uchar *block = block_at(matrix, output, k, columns, INT8_BYTES);
    return (convert_float4(as_uchar4(word_at(block, output, k, 4))) - 128.0f) * scale_at(block, output, k);
}

static inline float4 blocks4_int4(__global const uchar *matrix, int output, int k, int columns) {
    __global const uchar *block = block_at(matrix, output, k, columns, INT4_BYTES);
    const uint stored = word_at(block, output, k, 8) >> (k % 8) & 0x0f0f0f0f;
    return (convert_float4(as_uchar4(stored)) - 8.0f) * scale_at(block, output, k);
}

#define WEIGHT PASTE(weight_, QUANT)

// Four weights of an output from column k on, which is a multiple of 4; zeros beyond the last column.
static inline float4 weight4(__global const WEIGHT *matrix, int output, int k, int columns) {
    if (k >= columns) return (float4)(0.0f);
#ifdef PACKED
    return PASTE(blocks4_, QUANT)(matrix, output, k, columns);
#else
    __global const WEIGHT *row = matrix + (ulong)output * columns + k;
    if (k + 4 <= columns) return PASTE(unpack4_, QUANT)(row);
    return (float4)(PASTE(unpack_, QUANT)(row), k + 1 < columns ? PASTE(unpack_, QUANT)(row + 1) : 0.0f,
                    k + 2 < columns ? PASTE(unpack_, QUANT)(row + 2) : 0.0f, 0.0f);
#endif
}

// ---- Plans, as lists.cl writes them: how many tiles there are, then each tile's expert, first row and rows

enum { TILE_FIELDS = 3 };

struct tile {
    int expert, first, rows;
};

static inline struct tile tile_at(__global const int *tiles, int index) {
    __global const int *fields = tiles + 1 + index * TILE_FIELDS;
    struct tile tile = {fields[0], fields[1], fields[2]};
    return tile;
}

// ---- Few rows: so many items, the lanes, share an output's weights. Neighbours read what lies side by side: columns
// of one output, and of blocks the same columns of 16 outputs. In the first case lanes can be a sub-group, which adds
// up by itself.

enum { FEW_LANES = GROUP / FEW_OUTPUTS };

#if defined SUB_GROUPS && !defined PACKED
#define FEW_SUB_GROUPS
#endif

static inline int few_lane(void) {
#ifdef FEW_SUB_GROUPS
    return get_sub_group_local_id();
#elif defined PACKED
    return get_local_id(0) / FEW_OUTPUTS;
#else
    return get_local_id(0) % FEW_LANES;
#endif
}

// Which of the work group's outputs this item works on.
static inline int few_output(void) {
#ifdef FEW_SUB_GROUPS
    return get_sub_group_id();
#elif defined PACKED
    return get_local_id(0) % FEW_OUTPUTS;
#else
    return get_local_id(0) / FEW_LANES;
#endif
}

static inline float sum_of(float4 x) {
    return (x.s0 + x.s1) + (x.s2 + x.s3);
}

// One row's sum over its lanes' parts.
static inline float sum_lanes(__local const float *part) {
    float sum = 0;
    for (int lane = 0; lane < FEW_LANES; lane++) sum += part[lane];
    return sum;
}

// ---- Many rows, 16 columns at a time. Without sub-groups: 32 rows by 32 outputs to a work group, four by four to an
// item, by way of local memory. With them: 32 rows by 16 outputs, 8 rows to a sub-group and an output to an item; rows
// pass from item to item without local memory, which is too slow to feed the multipliers.

enum { TILE_DEPTH = 16, TILE_PITCH = TILE_ROWS + 4 };

// Four values of a row from column k on; zeros beyond its end, and for a row that is not there.
static inline float4 row4(__global const float *row, int k, int columns, bool there) {
    if (!there || k >= columns) return (float4)(0.0f);
    if (k + 4 <= columns) return vload4(0, row + k);
    return (float4)(row[k], k + 1 < columns ? row[k + 1] : 0.0f, k + 2 < columns ? row[k + 2] : 0.0f, 0.0f);
}

// Four values of row (or output) `at` into a tile: [TILE_DEPTH][TILE_PITCH], columns first.
static inline void tile_put(__local float *tile, int depth, int at, float4 values) {
    tile[depth * TILE_PITCH + at] = values.s0;
    tile[(depth + 1) * TILE_PITCH + at] = values.s1;
    tile[(depth + 2) * TILE_PITCH + at] = values.s2;
    tile[(depth + 3) * TILE_PITCH + at] = values.s3;
}

// sum[i] += x[row 4 * across + i] * w[outputs 4 * along ...]
static inline void tile_multiply(float4 sum[4], __local const float *x, __local const float *w, int across, int along) {
    for (int k = 0; k < TILE_DEPTH; k++) {
        float4 rows = vload4(across, x + k * TILE_PITCH);
        float4 outputs = vload4(along, w + k * TILE_PITCH);
        sum[0] = fma((float4)(rows.s0), outputs, sum[0]);
        sum[1] = fma((float4)(rows.s1), outputs, sum[1]);
        sum[2] = fma((float4)(rows.s2), outputs, sum[2]);
        sum[3] = fma((float4)(rows.s3), outputs, sum[3]);
    }
}

#ifdef SUB_GROUPS
enum { SUB_ROWS = 8 };

// Column k + i of a row, in item i; zero beyond its end.
static inline float row_lane(__global const float *row, int k, int columns) {
    if (k + 16 <= columns) return as_float(intel_sub_group_block_read((__global const uint *)(row + k)));
    const int column = k + (int)get_sub_group_local_id();
    return column < columns ? row[column] : 0.0f;
}

// sum[r] += the rows' columns from `first` on, by the weights of this item's output there
static inline void sub_multiply(float sum[SUB_ROWS], const float x[SUB_ROWS], float4 w, int first) {
    for (int r = 0; r < SUB_ROWS; r++) {
        sum[r] = fma(w.s0, sub_group_broadcast(x[r], first), sum[r]);
        sum[r] = fma(w.s1, sub_group_broadcast(x[r], first + 1), sum[r]);
        sum[r] = fma(w.s2, sub_group_broadcast(x[r], first + 2), sum[r]);
        sum[r] = fma(w.s3, sub_group_broadcast(x[r], first + 3), sum[r]);
    }
}
#endif
