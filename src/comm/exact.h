/* Exact, order-free sums of float gradients: each value is rounded once to a multiple of 2^-40 and added as an integer,
 * so the sum of micro-batches is the same bits whatever the order, the threads, or the ranks that computed them. */
#ifndef COMM_EXACT_H
#define COMM_EXACT_H

#include <stdint.h>

#include "comm/comm.h"

enum { EXACT_SHIFT = 40, EXACT_MAX_LOG2 = 20 };

/* acc[i] += round_to_nearest_even(g[i] * 2^40). Returns how many elements could not be added and were left out:
 * not finite, |g| > 2^20, or a sum out of range (|acc| > 2^62). Zero is the normal case. */
int64_t exact_add(int64_t *acc, const float *g, int64_t n);
/* ERR_NUMERIC on every rank if any rank left out elements (`bad`), or sums in acc, or in `large` others, could pass the range of int64
 * when all ranks' are added. Collective. */
int exact_check(Comm *c, const int64_t *acc, int64_t n, int64_t bad, int64_t large);
/* The most a sum may be on each of so many ranks. */
static inline int64_t exact_limit(const Comm *c) { return INT64_MAX / c->size; }
/* exact_check, then sums over all ranks in place, in chunks. Collective. */
int exact_reduce(Comm *c, int64_t *acc, int64_t n, int64_t bad);
/* out[i] = (float)(acc[i] * 2^-40 * scale), in double until the one rounding to float. out may not alias acc. */
void exact_to_float(float *out, const int64_t *acc, int64_t n, double scale);

#endif
