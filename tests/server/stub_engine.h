// See stub_engine.c.
#ifndef TESTS_SERVER_STUB_ENGINE_H
#define TESTS_SERVER_STUB_ENGINE_H

#include "engine/engine.h"

enum { STUB_STEP_US = 500 }; // a token of every running job; the environment's STUB_STEP_US wins

// While tokenizing is held, it waits. Any thread.
void stub_engine_hold_tokenizing(bool held);

#endif
