/* The orders of threads in which the emulated device runs a test; a GPU has one. The backend of a program's tests, and its
 * start and end for cmocka_run_group_tests. */
#ifndef TESTS_CUDA_ORDERS_H
#define TESTS_CUDA_ORDERS_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cuda/cuda.h"

#ifdef EMULATED
void emu_order(int order, uint64_t seed);
void emu_race_grid(int on);
#if defined(EMU_TSAN) || defined(__SANITIZE_ADDRESS__) /* what they find does not depend on the order; see emu.h */
enum { FIRST_ORDER = 2, ORDERS = 3 };
#else
enum { FIRST_ORDER = 0, ORDERS = 3 };
#endif
#else
static inline void emu_order(int order, uint64_t seed)
{
    (void)order;
    (void)seed;
}
static inline void emu_race_grid(int on)
{
    (void)on;
}
enum { FIRST_ORDER = 0, ORDERS = 1 };
#endif

static Backend *cuda;

static int cuda_start(void **state)
{
    (void)state;
    const char *grid = getenv("EMU_RACE");
    emu_race_grid(grid && !strcmp(grid, "grid"));
    if (cuda_backend_create(&cuda, 0) < 0) {
        fprintf(stderr, "%s\n", err_message());
        return -1;
    }
    return 0;
}

static int cuda_stop(void **state)
{
    (void)state;
    backend_destroy(cuda);
    return 0;
}

#endif
