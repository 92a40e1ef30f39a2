// What is expected of a layer on an OpenCL device, computed in double precision, each value with how far off it may be:
// tolerances of sums as in test_stages.c. At levels of integer products the rows that are multiplied are the CPU's own
// int8, and between gate and down a value may fall to either side where it lies within its tolerance of the border
// between two.
#ifndef TESTS_KERNELS_OPENCL_EXPECTED_H
#define TESTS_KERNELS_OPENCL_EXPECTED_H

#include "tests/kernels/opencl_data.h"

static inline bool is_dot(void) {
    return strstr(level, "dot") != NULL;
}

// Formats whose kernels are this level's own: integer products leave those of floats as they are.
static inline enum weight_format first_format(void) {
    return is_dot() ? WEIGHTS_INT8 : WEIGHTS_F32;
}

// ---- What is expected

static inline double sum_error(int n, double absolute_sum) {
    return (4 * sqrt(n) + 8) * 0x1p-24 * absolute_sum;
}

static inline struct packed_x *quantize(const float *x, int columns) {
    struct packed_x *packed = calloc(packed_x_blocks(columns), sizeof *packed);
    assert_non_null(packed);
    packed_c.quantize(x, columns, packed);
    return packed;
}

static inline double quantized_at(const struct packed_x *packed, int columns, int k) {
    const struct packed_outliers *list = packed_outliers_of(packed, columns);
    for (int i = 0; i < list->count; i++)
        if (list->at[i].column == k) return (double)list->at[i].x;
    const struct packed_x *block = &packed[k / PACKED_COLUMNS];
    return (double)block->scale[k % PACKED_COLUMNS / PACKED_GROUP] * block->value[k % PACKED_COLUMNS];
}

// The values between gate and down, and how far off the device may be there.
static inline void gated_bounds(const struct mixture *m, const struct expert *expert, const double *x, double *gated,
                         double *tolerance) {
    for (int i = 0; i < m->inner; i++) {
        double g = 0, u = 0, g_absolute = 0, u_absolute = 0;
        for (int k = 0; k < m->hidden; k++) {
            double by_gate = weight_at(&expert->gate, i, k) * x[k], by_up = weight_at(&expert->up, i, k) * x[k];
            g += by_gate;
            u += by_up;
            g_absolute += fabs(by_gate);
            u_absolute += fabs(by_up);
        }
        double silu = g / (1 + exp(-g)); // its slope is nowhere above 1.1; exp and division may be off by some units
        gated[i] = silu * u;
        tolerance[i] = 1.1 * sum_error(m->hidden, g_absolute) * fabs(u) +
                       fabs(silu) * sum_error(m->hidden, u_absolute) + 16 * 0x1p-24 * fabs(gated[i]);
    }
}

// The same values as int8: what they become, and how far off that may be. A step's size follows its group's largest
// value; where a value is so near the border between two steps that its tolerance reaches it, it may take either.
static inline void quantize_bounds(int columns, double *value, double *tolerance) {
    float *x = allocate((size_t)columns, sizeof *x);
    for (int k = 0; k < columns; k++) x[k] = (float)value[k];
    struct packed_x *packed = quantize(x, columns);
    for (int first = 0; first < columns; first += PACKED_GROUP) {
        int end = first + PACKED_GROUP < columns ? first + PACKED_GROUP : columns;
        double step = (double)packed[first / PACKED_COLUMNS].scale[first % PACKED_COLUMNS / PACKED_GROUP], widest = 0;
        for (int k = first; k < end; k++) widest = fmax(widest, tolerance[k]);
        for (int k = first; k < end; k++) {
            double seen = quantized_at(packed, columns, k), moved = widest / (127 * step) + 0x1p-22;
            bool outlier = seen == (double)x[k];
            if (step > 0 && !outlier) {
                double steps = value[k] / step, off = tolerance[k] / step + fabs(steps) * moved;
                bool either = fabs(steps - floor(steps) - 0.5) <= off;
                tolerance[k] = fabs(seen) * moved + (either ? step : 0);
            }
            value[k] = seen;
        }
    }
    free(packed);
    free(x);
}

// A row's output, every step'th value, with the route that the device took.
static inline void check_row(const struct mixture *m, const struct answer *a, int row, int step) {
    bool integers = is_dot() && weight_format_packed(m->expert[0].gate.format);
    double *x = allocate((size_t)m->hidden, sizeof *x);
    double *gated = allocate((size_t)m->inner * 4, sizeof *gated), *tolerance = gated + 2 * m->inner;
    const float *own = m->x + (size_t)row * (size_t)m->hidden;
    struct packed_x *packed = quantize(own, m->hidden);
    for (int k = 0; k < m->hidden; k++) x[k] = integers ? quantized_at(packed, m->hidden, k) : (double)own[k];
    for (int slot = 0; slot < 2; slot++) {
        gated_bounds(m, &m->expert[a->expert[2 * row + slot]], x, gated + slot * m->inner, tolerance + slot * m->inner);
        if (integers) quantize_bounds(m->inner, gated + slot * m->inner, tolerance + slot * m->inner);
    }
    for (int o = row % step; o < m->hidden; o += step) {
        size_t at = (size_t)row * (size_t)m->hidden + (size_t)o;
        double expected = (double)m->y[at], allowed = 8 * 0x1p-24 * fabs(expected);
        for (int slot = 0; slot < 2; slot++) {
            const struct matrix *down = &m->expert[a->expert[2 * row + slot]].down;
            double weight = (double)a->weight[2 * row + slot], sum = 0, absolute = 0, inner = 0;
            for (int i = 0; i < m->inner; i++) {
                double term = weight_at(down, o, i) * gated[slot * m->inner + i];
                sum += term;
                absolute += fabs(term);
                inner += fabs(weight_at(down, o, i)) * tolerance[slot * m->inner + i];
            }
            expected += weight * sum;
            allowed += fabs(weight) * (inner + sum_error(m->inner, absolute) + 8 * 0x1p-24 * fabs(sum));
        }
        check("output", (double)a->y[at], expected, allowed);
    }
    free(gated);
    free(x);
    free(packed);
}

// Routes as the reference does, but where its scores leave it open: a route may turn only within rounding.
static inline void check_routes(const struct mixture *m, const struct answer *a, int turned_max) {
    struct stage_limits limits = limits_of(m);
    struct answer expected = answer_for(m);
    void *reference;
    struct error error;
    assert_int_equal(reference_stages.open(&reference, &limits, &error), 0);
    reference_stages.route(reference, &m->layer.router, m->x, m->rows, &expected.routing);
    int turned = 0;
    for (int r = 0; r < m->rows; r++) {
        bool same = true;
        for (int i = 2 * r; i < 2 * r + 2; i++) {
            assert_in_range(a->expert[i], 0, m->experts - 1);
            same = same && a->expert[i] == expected.expert[i] &&
                   fabs((double)a->weight[i] - (double)expected.weight[i]) <= 1e-4;
        }
        turned += !same;
    }
    assert_true(turned <= turned_max);
    reference_stages.close(reference);
    answer_free(&expected);
}

#endif
