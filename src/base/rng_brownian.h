/* The Brownian path of torchsde 0.2.6 (BrownianTree: BrownianInterval with halfway_tree, tol 1e-6, pool_size 24), whose increments
 * k-diffusion's SDE samplers take as noise. A binary tree over [t0, t1], times rounded to six decimals: a node's increment is split at
 * its middle by a normal draw whose seed is numpy's SeedSequence of (entropy, node number, depth). Any increment depends on the
 * entropy, the ends and the shape alone, not on what was asked before. */
#ifndef BASE_RNG_BROWNIAN_H
#define BASE_RNG_BROWNIAN_H

#include <stdint.h>

/* numpy.random.SeedSequence(entropy, spawn_key=spawn[nspawn], pool_size=24).generate_state(n), n <= 8, nspawn <= 4. */
void rng_seed_sequence(uint64_t entropy, const uint32_t *spawn, int nspawn, uint32_t *out, int n);

/* out[n] = normals of a generator freshly seeded with `seed`. */
typedef void (*RngBrownianDraw)(void *ctx, uint32_t seed, float *out, int64_t n);

typedef struct RngBrownian RngBrownian;

/* n: elements of the path. t0 < t1. draw and ctx are kept. ERR_NOMEM, ERR_RANGE. */
int rng_brownian_create(RngBrownian **out, uint64_t entropy, double t0, double t1, int64_t n, RngBrownianDraw draw, void *ctx);
void rng_brownian_destroy(RngBrownian *b); /* NULL is fine */
/* out[n] = W(tb) - W(ta), ta <= tb, both moved into [t0, t1]. ERR_NOMEM. */
int rng_brownian_increment(RngBrownian *b, double ta, double tb, float *out);

#endif
