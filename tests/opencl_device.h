// For tests of an OpenCL device: only where there is none are they skipped. One that is there has to work.
#ifndef TESTS_OPENCL_DEVICE_H
#define TESTS_OPENCL_DEVICE_H

#include "engine/inspect.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>

// Skips the test where there is no library, no driver, or no device that the engine would take; not while an engine is
// open.
static inline void need_opencl(void) {
    struct engine_opencl_device devices[ENGINE_OPENCL_DEVICES_MAX];
    struct error error;
    int count = 0, code = engine_opencl_devices(devices, &count, &error);
    if (code && code != ERROR_UNSUPPORTED) fail_msg("%s", error.message);
    for (int i = 0; !code && i < count && i < ENGINE_OPENCL_DEVICES_MAX; i++)
        if (!devices[i].refused) return;
    printf("# skipped: %s\n", code ? error.message : count ? devices[0].refused : "no OpenCL device");
    skip();
}

#endif
