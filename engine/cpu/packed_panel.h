// int8 and int4 as panels of bf16 (engine/cpu/bf16.h), for processors that multiply those. Pure; any thread.
#ifndef ENGINE_CPU_PACKED_PANEL_H
#define ENGINE_CPU_PACKED_PANEL_H

#include "engine/quants/packed.h"

#if defined __x86_64__
// Blocks of a matrix of so many columns, from the first of them on, to [steps][32 outputs][32 columns]: what is beyond
// the matrix is 0. Needs AVX512-BF16.
void packed_panel(enum weight_format format, const void *blocks, int columns, int outputs, int depth, uint16_t *panel);
#endif

#endif
