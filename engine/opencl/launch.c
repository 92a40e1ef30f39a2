// Enqueues the kernels of a call: five, or four where the host routes; two more where rows are quantized; of staged
// weights two for each expert.
#include "engine/opencl/mixture.h"

#include "base/clock.h"
#include "engine/quants/packed.h"

// ---- One kernel

bool opencl_launch(struct opencl *opencl, cl_command_queue queue, enum opencl_kernel which, int across, int down,
                   const struct opencl_argument *arguments, size_t count, cl_event after, cl_event *done,
                   struct error *error) {
    cl_kernel kernel = opencl->program.kernel[which];
    const char *name = OPENCL_KERNEL_NAMES[which];
    const size_t items[2] = {(size_t)across * OPENCL_GROUP, (size_t)down}, group[2] = {OPENCL_GROUP, 1};
    for (size_t i = 0; i < count; i++) {
        cl_int rc = CL_CALL(opencl->api, SetKernelArg, kernel, (cl_uint)i, arguments[i].bytes, arguments[i].value);
        if (rc) return opencl_error(error, rc, name) == 0;
    }
    cl_int rc = CL_CALL(opencl->api, EnqueueNDRangeKernel, queue, kernel, 2, NULL, items, group, after ? 1 : 0,
                        after ? &after : NULL, done);
    return rc == CL_SUCCESS || opencl_error(error, rc, name) == 0;
}

bool opencl_launch_and_tell(struct opencl *opencl, struct opencl_slot *slot, enum opencl_kernel which, int across,
                            int down, const struct opencl_argument *arguments, size_t count, cl_event *done,
                            struct error *error) {
    struct opencl_span *span = opencl->span ? &slot->spans[slot->span_count] : NULL;
    if (!opencl_launch(opencl, opencl->queue, which, across, down, arguments, count, NULL, span ? &span->event : done,
                       error))
        return false;
    if (!span) return true;
    if (done) {
        opencl->api->RetainEvent(span->event);
        *done = span->event;
    }
    span->name = OPENCL_KERNEL_NAMES[which];
    span->enqueued_at = clock_seconds();
    slot->span_count++;
    return true;
}

bool opencl_launch_of(struct opencl *opencl, struct opencl_slot *slot, enum opencl_kernel which, int across, int down,
                      const struct opencl_argument *arguments, size_t count, struct error *error) {
    return opencl_launch_and_tell(opencl, slot, which, across, down, arguments, count, NULL, error);
}

// ---- Shapes

int opencl_few_outputs(enum weight_format weights) {
    return weight_format_packed(weights) ? OPENCL_FEW_OUTPUTS_PACKED : OPENCL_FEW_OUTPUTS;
}

int opencl_tile_outputs(const struct opencl_level *level, enum weight_format weights) {
    return level->sub_groups || opencl_uses_dot(level, weights) ? 16 : 32;
}

bool opencl_uses_dot(const struct opencl_level *level, enum weight_format weights) {
    return level->dot && weight_format_packed(weights);
}

int opencl_tiles_max(const struct opencl *opencl, int slots, int tile_rows) {
    int most = slots / tile_rows + opencl->limits.experts;
    return most < slots ? most : slots;
}

// ---- A call

static int groups_for(int count, int each) {
    return (count + each - 1) / each;
}

static int tiles_of(const struct opencl *opencl, const struct opencl_slot *slot) {
    return opencl_tiles_max(opencl, slot->rows * slot->top_k, slot->few ? OPENCL_FEW_ROWS : OPENCL_TILE_ROWS);
}

// What comes of the rows' experts, in sorted order, from x and gated, which hold integers where products take those.
static bool launch_gate_up(struct opencl *opencl, const struct opencl_layer *on_device, struct opencl_slot *slot,
                           cl_mem x, int across, struct error *error) {
    const cl_int hidden = opencl->limits.hidden, inner = opencl->limits.intermediate, top_k = slot->top_k;
    if (!on_device) return opencl_staging_gate_up(opencl, slot, x, across, error);
    const struct opencl_argument arguments[] = {
        OPENCL_ARGUMENT(on_device->weights), OPENCL_ARGUMENT(on_device->start), OPENCL_ARGUMENT(opencl->tiles),
        OPENCL_ARGUMENT(opencl->slot_at),    OPENCL_ARGUMENT(x),                OPENCL_ARGUMENT(hidden),
        OPENCL_ARGUMENT(inner),              OPENCL_ARGUMENT(top_k),            OPENCL_ARGUMENT(opencl->gated),
    };
    return opencl_launch_of(opencl, slot, slot->few ? KERNEL_gate_up_few : KERNEL_gate_up_many, across,
                            tiles_of(opencl, slot), arguments, OPENCL_COUNT(arguments), error);
}

static bool launch_down(struct opencl *opencl, const struct opencl_layer *on_device, struct opencl_slot *slot,
                        cl_mem gated, int across, struct error *error) {
    const cl_int hidden = opencl->limits.hidden, inner = opencl->limits.intermediate;
    if (!on_device) return opencl_staging_down(opencl, slot, gated, across, error);
    const struct opencl_argument arguments[] = {
        OPENCL_ARGUMENT(on_device->weights), OPENCL_ARGUMENT(on_device->start), OPENCL_ARGUMENT(opencl->tiles),
        OPENCL_ARGUMENT(gated),              OPENCL_ARGUMENT(hidden),           OPENCL_ARGUMENT(inner),
        OPENCL_ARGUMENT(opencl->mixed),
    };
    return opencl_launch_of(opencl, slot, slot->few ? KERNEL_down_few : KERNEL_down_many, across,
                            tiles_of(opencl, slot), arguments, OPENCL_COUNT(arguments), error);
}

// Routes on the device, unless the host has, and sorts there, unless weights are staged.
static bool launch_lists(struct opencl *opencl, const struct opencl_layer *on_device, struct opencl_slot *slot,
                         struct error *error) {
    const struct router *router = &slot->layer->router;
    const cl_int hidden = router->hidden, experts = router->experts, top_k = router->top_k, slots = slot->rows * top_k;
    const cl_int tile_rows = slot->few ? OPENCL_FEW_ROWS : OPENCL_TILE_ROWS;
    const cl_float jitter = router->jitter;
    if (!on_device) return true;
    const struct opencl_argument route[] = {
        OPENCL_ARGUMENT(on_device->router), OPENCL_ARGUMENT(slot->x.buffer),      OPENCL_ARGUMENT(hidden),
        OPENCL_ARGUMENT(experts),           OPENCL_ARGUMENT(top_k),               OPENCL_ARGUMENT(jitter),
        OPENCL_ARGUMENT(slot->expert.buffer), OPENCL_ARGUMENT(slot->weight.buffer),
    };
    const struct opencl_argument lists[] = {
        OPENCL_ARGUMENT(slot->expert.buffer), OPENCL_ARGUMENT(slots),            OPENCL_ARGUMENT(experts),
        OPENCL_ARGUMENT(tile_rows),           OPENCL_ARGUMENT(opencl->slot_at),  OPENCL_ARGUMENT(opencl->place_of),
        OPENCL_ARGUMENT(opencl->tiles),
    };
    return (slot->chosen ||
            opencl_launch_of(opencl, slot, KERNEL_route, slot->rows, 1, route, OPENCL_COUNT(route), error)) &&
           opencl_launch_of(opencl, slot, KERNEL_lists, 1, 1, lists, OPENCL_COUNT(lists), error);
}

bool opencl_launch_all(struct opencl *opencl, const struct opencl_layer *on_device, struct opencl_slot *slot,
                       struct error *error) {
    const cl_int hidden = opencl->limits.hidden, inner = opencl->limits.intermediate, top_k = slot->top_k;
    const int outputs =
        slot->few ? opencl_few_outputs(opencl->weights) : opencl_tile_outputs(opencl->device.level, opencl->weights);
    const bool dot = opencl_uses_dot(opencl->device.level, opencl->weights);
    const cl_mem x = dot ? opencl->quantized_x : slot->x.buffer, gated = dot ? opencl->quantized_gated : opencl->gated;
    const struct opencl_argument quantize_x[] = {OPENCL_ARGUMENT(slot->x.buffer), OPENCL_ARGUMENT(hidden),
                                                 OPENCL_ARGUMENT(opencl->quantized_x)};
    const struct opencl_argument quantize_gated[] = {OPENCL_ARGUMENT(opencl->gated), OPENCL_ARGUMENT(inner),
                                                     OPENCL_ARGUMENT(opencl->quantized_gated)};
    const struct opencl_argument scatter[] = {
        OPENCL_ARGUMENT(opencl->mixed), OPENCL_ARGUMENT(opencl->place_of), OPENCL_ARGUMENT(slot->weight.buffer),
        OPENCL_ARGUMENT(hidden),        OPENCL_ARGUMENT(top_k),            OPENCL_ARGUMENT(slot->out.buffer),
    };
#define LAUNCH(kernel, across, down, arguments) \
    opencl_launch_of(opencl, slot, kernel, across, down, arguments, OPENCL_COUNT(arguments), error)
    return launch_lists(opencl, on_device, slot, error) &&
           (!dot || LAUNCH(KERNEL_quantize, slot->rows, 1, quantize_x)) &&
           launch_gate_up(opencl, on_device, slot, x, groups_for(inner, outputs), error) &&
           (!dot || LAUNCH(KERNEL_quantize, slot->rows * top_k, 1, quantize_gated)) &&
           launch_down(opencl, on_device, slot, gated, groups_for(hidden, outputs), error) &&
           LAUNCH(KERNEL_scatter, groups_for(hidden, OPENCL_GROUP), slot->rows, scatter);
#undef LAUNCH
}
