/* Where the noise of an item comes from: streams of a seed, variations, noise of another size. */
#ifndef SWEEP_RENDER_NOISE_H
#define SWEEP_RENDER_NOISE_H

#include "base/rng.h"
#include "sweep/render.h"

typedef struct {
    const RenderItem *item;
    int draws;             /* of the sampler, so far */
    SamplerNoise stream;
} RenderNoise;

/* render_noise_deinit when done. */
void render_noise_init(RenderNoise *z, const RenderSetup *s, const RenderItem *item, int pass);
void render_noise_deinit(RenderNoise *z);
/* out[C,h,w]: the initial noise, dim = {C, h, w}; `factor` pixels per latent (for the item's seed size). With a variation or a seed
 * size as A1111's modules/rng.py (ImageRNG.first) does it: the mixing runs along columns of height h, and the noise of another
 * size lies in the middle of the image's own. ERR_NOMEM. */
int render_noise_first(RenderNoise *z, const int64_t dim[3], int factor, float *out);
/* Draw k (0: source, 1: masked source) from the VAE's posterior. */
int render_noise_latent(RenderNoise *z, int k, float *out, int64_t n);
/* out = slerp along rows: low, high and out are [rows][n][columns], the angle is between vectors of n. */
void render_noise_slerp(float *out, const float *low, const float *high, double weight, int64_t rows, int64_t n, int64_t columns);

#endif
