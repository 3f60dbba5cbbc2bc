/* Shared by exact.c, which knows no ranks, and exact_reduce.c. */
#ifndef COMM_EXACT_IMPL_H
#define COMM_EXACT_IMPL_H

#include "comm/exact.h"

/* Compiled also with 512-bit conversions between double and int64, chosen at start. Same bits either way. */
#if defined(__x86_64__)
#define WIDE __attribute__((noinline, target_clones("arch=skylake-avx512", "default"), optimize("O3", "no-math-errno", "no-trapping-math")))
#else
#define WIDE
#endif

enum { CHUNK = 1 << 16 };

static inline int64_t chunk_size(int64_t n, int64_t first)
{
    return n - first < CHUNK ? n - first : CHUNK;
}

#endif
