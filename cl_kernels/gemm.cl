// What stands around the matrix products where a library computes them: it takes rows that lie side by side and weights
// that are numbers of one kind, REAL, so rows are gathered and weights unpacked for it. HALF: REAL is f16, which needs
// no extension where it is only read and written.

#ifdef HALF
typedef half REAL;

static inline float real_at(__global const half *from, ulong at) {
    return vload_half(at, from);
}

static inline void real_put(__global half *to, ulong at, float value) {
    vstore_half_rte(value, at, to);
}
#else
typedef float REAL;

static inline float real_at(__global const float *from, ulong at) {
    return from[at];
}

static inline void real_put(__global float *to, ulong at, float value) {
    to[at] = value;
}
#endif

// out[place] = the row of the slot that lies there
KERNEL void gather(__global const float *x, // [rows][hidden]
            __global const int *slot_at, int hidden, int top_k,
            __global REAL *out) // [slots][hidden]
{
    const int column = get_global_id(0), place = get_group_id(1);
    const ulong row = slot_at[place] / top_k;
    if (column < hidden) real_put(out, (ulong)place * hidden + column, x[row * hidden + column]);
}

// One matrix of an expert's three.
KERNEL void unpack(__global const WEIGHT *weights, __global const ulong *start, int expert, int which, int columns,
            __global REAL *out, // [outputs][columns] from out_start on
            ulong out_start) {
    const int k = 4 * get_global_id(0), output = get_group_id(1);
    if (k >= columns) return;
    float values[4];
    vstore4(weight4(weights + start[3 * expert + which], output, k, columns), 0, values);
    const ulong at = out_start + (ulong)output * columns + k;
    for (int i = 0; i < 4 && k + i < columns; i++) real_put(out, at + i, values[i]);
}

// gated = silu(gate) * up
KERNEL void gate_all(__global const REAL *products, // [gate, up][places][inner]
              int places, int inner,
              __global REAL *gated) // [places][inner]
{
    const int column = get_global_id(0), place = get_group_id(1);
    if (column >= inner) return;
    const ulong at = (ulong)place * inner + column;
    real_put(gated, at, gate_value(real_at(products, at), real_at(products, at + (ulong)places * inner)));
}

// As scatter does it.
KERNEL void scatter_real(__global const REAL *mixed, // [slots][hidden]
                  __global const int *place_of, __global const float *weight, int hidden, int top_k,
                  __global float *out) // [rows][hidden]
{
    const int column = get_global_id(0), row = get_group_id(1);
    if (column >= hidden) return;
    float sum = 0;
    for (int slot = 0; slot < top_k; slot++) {
        const int at = row * top_k + slot;
        sum = fma(weight[at], real_at(mixed, (ulong)place_of[at] * hidden + column), sum);
    }
    out[(ulong)row * hidden + column] = sum;
}
