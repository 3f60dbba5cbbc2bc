/* The noise of one image, as the program that is followed draws it for a seed (stands for "same seed, same image").
 *
 *     SamplerNoise *z;                         sampler_noise_create(&z, &conf)
 *     sampler_noise_initial(z, chw)            unit noise for sampler_start
 *     sampler_noise_step(z, s, i, chw)         before sampler_step(s, i, ...) where sampler_needs_noise
 *     sampler_noise_churn(z, s, i, chw)        before sampler_churn
 *
 * Always per image, so that an image does not depend on its batch; only COMFYUI defines whole batches (batch_index, batch_size). */
#ifndef SAMPLER_NOISE_H
#define SAMPLER_NOISE_H

#include <stdint.h>

#include "sampler/solver.h"

/* ATELIER: Philox streams keyed by (seed, purpose, call), same on every machine; samplers as the model's scheduler says.
 * DIFFUSERS_CPU: torch.Generator("cpu"), f32; DIFFUSERS_CPU_FP16: the same with a pipeline in half precision (another stream);
 * DIFFUSERS_CUDA: torch.Generator("cuda"). COMFYUI: first noise from torch's CPU generator, later noise from a CUDA generator that
 * starts anew. A1111_GPU: torch's CUDA generator (A1111's "GPU" and "NV" sources); A1111_CPU: its "CPU" source. */
typedef enum {
    SAMPLER_COMPAT_ATELIER,
    SAMPLER_COMPAT_DIFFUSERS_CPU,
    SAMPLER_COMPAT_DIFFUSERS_CPU_FP16,
    SAMPLER_COMPAT_DIFFUSERS_CUDA,
    SAMPLER_COMPAT_COMFYUI,
    SAMPLER_COMPAT_A1111_GPU,
    SAMPLER_COMPAT_A1111_CPU,
    SAMPLER_COMPAT_COUNT
} SamplerCompat;
extern const char *const SAMPLER_COMPAT_NAMES[SAMPLER_COMPAT_COUNT + 1]; /* ends with NULL */

/* Goes into SamplerConf.rules; also whose prompt weights hold. */
SamplerRules sampler_compat_rules(SamplerCompat c);

typedef struct {
    SamplerCompat compat;
    uint64_t seed;
    int64_t dim[3];            /* [C,h,w] of the latents */
    /* Variation (A1111's): the first noise turned towards that of another seed by spherical interpolation, 0..1. */
    uint64_t variation_seed;
    double variation_strength;
    int resize_h, resize_w;    /* first noise drawn at this latent size and placed in the middle; 0: none (A1111's seed resize) */
    int64_t ensd;              /* eta noise seed delta: later noise comes from seed + ensd; 0: goes on (A1111's) */
    int64_t gpu_threads;       /* emulated device, RNG_TORCH_THREADS_*; 0: any that holds an image in one go */
    int batch_index, batch_size; /* COMFYUI: place in a batch drawn as a whole; size 0: alone. Others: ignored */
    int sde_gpu;               /* COMFYUI: Brownian path drawn on the GPU (samplers *_gpu) */
} SamplerNoiseConf;

typedef struct SamplerNoise SamplerNoise;

/* ERR_NOMEM, ERR_RANGE. */
int sampler_noise_create(SamplerNoise **out, const SamplerNoiseConf *conf);
void sampler_noise_destroy(SamplerNoise *z); /* NULL is fine */
/* out[C*h*w], unit normal, in CHW order. Once, before any other. */
int sampler_noise_initial(SamplerNoise *z, float *out);
/* For img2img where the program draws noise at another place than for text to image (the source's latent sample is drawn before it:
 * diffusers): the next C*h*w normals of the stream, without variation or resize. */
int sampler_noise_next(SamplerNoise *z, float *out);
/* The noise of step i of s, stream or Brownian as the sampler has it. */
int sampler_noise_step(SamplerNoise *z, const Sampler *s, int i, float *out);
int sampler_noise_churn(SamplerNoise *z, const Sampler *s, int i, float *out);

#endif
