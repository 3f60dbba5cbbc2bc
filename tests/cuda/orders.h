/* The orders of threads in which the emulated device runs a test; a GPU has one. */
#ifndef TESTS_CUDA_ORDERS_H
#define TESTS_CUDA_ORDERS_H

#include <stdint.h>

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

#endif
