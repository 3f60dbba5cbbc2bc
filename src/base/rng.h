/* Counter-based random numbers: any element of any stream is a pure function of (seed, purpose, item, step, index).
 *
 * Generator: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC11).
 * A stream is named by (seed, purpose, item, step):
 *     subkey = first 64 bits of philox(key = seed, counter = (purpose, 0x41746c72, item lo, item hi))
 *     block b of the stream = philox(key = subkey, counter = (b lo, b hi, step lo, step hi)), four 32-bit words
 * so element i is word i % 4 of block i / 4. Nothing here is stateful except RngStream, which only counts.
 *
 * Same bits on every machine with IEEE 754 doubles: logarithm and sine are this file's own polynomials of + - * / and
 * sqrt (correctly rounded everywhere), because libm's results change between versions and CPUs.
 */
#ifndef BASE_RNG_H
#define BASE_RNG_H

#include <stdint.h>

/* What the numbers are for. Values are part of the saved formats' meaning: never renumber, only append. */
typedef enum {
    RNG_NOISE = 1,     /* noise added to training latents */
    RNG_TIMESTEP = 2,  /* training timesteps */
    RNG_SHUFFLE = 3,   /* order of the items of an epoch */
    RNG_CROP = 4,
    RNG_FLIP = 5,
    RNG_CAPTION = 6,   /* caption choice, shuffling and dropping */
    RNG_INIT = 7,      /* initial weights */
    RNG_SAMPLE = 8,    /* initial latents of a rendered image */
    RNG_ANCESTRAL = 9, /* noise that samplers add on the way */
    RNG_LATENT = 10,   /* draw from the VAE's posterior */
    RNG_OFFSET = 11,   /* noise offset, multi-resolution and input perturbation noise */
    RNG_DROPOUT = 12,
    RNG_COMPOSE = 13,  /* composed pictures: placement, scale, background */
    RNG_AUGMENT = 14,  /* colour and other changes */
    RNG_BUCKET = 15,
    RNG_PRIOR = 16,    /* choice of class images (DreamBooth) */
    RNG_WILDCARD = 17, /* prompt alternatives */
    RNG_ROUND = 18,    /* rounding of trained values that are kept in bf16 */
    RNG_TEST = 1000
} RngPurpose;

/* Names one stream. Made by rng_key; plain value. */
typedef struct {
    uint32_t key[2];
    uint32_t step[2];
} RngKey;

RngKey rng_key(uint64_t seed, RngPurpose purpose, uint64_t item, uint64_t step);

/* The bare generator: out = philox4x32-10(ctr, key). out may be ctr. */
void rng_philox(uint32_t out[4], const uint32_t ctr[4], const uint32_t key[2]);
void rng_block(uint32_t out[4], RngKey k, uint64_t block);

/* Element i of the stream. */
uint32_t rng_u32(RngKey k, uint64_t i);
/* In [0,1), multiples of 2^-24. */
float rng_uniform(RngKey k, uint64_t i);
/* Standard normal. Elements 4b..4b+3 come from block b: Box-Muller in double, rounded once to float:
 * u = (w0 + 0.5) * 2^-32, r = sqrt(-2 ln u), a = 2 pi w1 * 2^-32; elements r cos a, r sin a, then the same from (w2, w3).
 * |value| <= 6.77. */
float rng_normal(RngKey k, uint64_t i);

/* out[j] = element first + j of the stream. */
void rng_u32_fill(uint32_t *out, int64_t n, RngKey k, uint64_t first);
void rng_uniform_fill(float *out, int64_t n, RngKey k, uint64_t first);
/* out[j] = lo + (hi - lo) * uniform, in float. */
void rng_range_fill(float *out, int64_t n, RngKey k, uint64_t first, float lo, float hi);
void rng_normal_fill(float *out, int64_t n, RngKey k, uint64_t first);

/* For draws whose number is not known beforehand (rejection). */
typedef struct {
    RngKey key;
    uint64_t next;
} RngStream;

RngStream rng_stream(RngKey k);
uint32_t rng_stream_u32(RngStream *s);
uint64_t rng_stream_u64(RngStream *s); /* low word first */
float rng_stream_uniform(RngStream *s);
/* Uniform in 0..n-1 without bias (rejection); 0 when n <= 1. Uses one word per try for n <= 2^32, else two. */
uint64_t rng_stream_below(RngStream *s, uint64_t n);
/* The first rng_stream_below of a stream. */
uint64_t rng_below(RngKey k, uint64_t n);

/* out[0..n) = a permutation of 0..n-1, all equally likely (Fisher-Yates from the top with rng_stream_below). */
void rng_permutation(int64_t *out, int64_t n, RngKey k);

/* ln(x) for normal positive x, and sin/cos of 2 pi * turns for turns in [0,1): same bits everywhere, error under 2 ulp. */
double rng_log(double x);
void rng_sincos_turns(double turns, double *sine, double *cosine);

#endif
