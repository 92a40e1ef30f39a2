// For tests that open the toy checkpoints, or copies that they have changed. Failures end the test.
#ifndef TESTS_UNIT_TOY_MODELS_H
#define TESTS_UNIT_TOY_MODELS_H

#include "engine/model.h"
#include "tests/unit/model_files.h"

#define TOY_WINDOW "tests/golden/data/toy-window"   // bf16
#define TOY_SHARDED "tests/golden/data/toy-sharded" // f16, two files
#define TOY_STACKED "tests/golden/data/toy-stacked" // f32, stacked experts
#define TOY_TIED "tests/golden/data/toy-tied"       // f32, tied head, no biases

static inline struct model *open_model(const char *dir, enum weight_format weights) {
    struct model *model = NULL;
    struct error error;
    const struct model_options options = {.dir = dir, .weights = weights};
    if (model_open(&model, &options, &error)) fail_msg("%s", error.message);
    return model;
}

static inline void refused(const char *dir, const char *part) {
    struct model *model = NULL;
    struct error error = {0};
    const struct model_options options = {.dir = dir, .weights = WEIGHTS_F32};
    int rc = model_open(&model, &options, &error);
    if (rc == 0) fail_msg("expected to be refused: %s", part);
    assert_null(model);
    assert_int_equal(error.code, rc);
    expect_text(error.message, dir);
    expect_text(error.message, part);
}

#endif
