/* The normal numbers of one image, as the program that is followed draws them for a seed ("same seed, same image"). Always per image,
 * so that an image does not depend on its batch; only COMFYUI defines whole batches (batch_index, batch_size). Variations, noise of
 * another size and the VAE's posterior are the renderer's. */
#ifndef SAMPLER_NOISE_H
#define SAMPLER_NOISE_H

#include <stdint.h>

#include "base/rng_brownian.h"
#include "base/rng_torch.h"
#include "sampler/solver.h"

/* ATELIER: Philox streams keyed by (seed, purpose, pass, call), same on every machine. DIFFUSERS_CPU: torch.Generator("cpu"), f32,
 * which goes on for later noise; DIFFUSERS_CPU_FP16: the same with a pipeline in half precision (another stream); DIFFUSERS_CUDA:
 * torch.Generator("cuda"). COMFYUI: first noise from torch's CPU generator, later noise from a CUDA generator that starts anew.
 * A1111_GPU: torch's CUDA generator (A1111's "GPU" and "NV" sources); A1111_CPU: its "CPU" source. */
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

/* Goes into SamplerConf.rules. */
SamplerRules sampler_compat_rules(SamplerCompat c);

typedef struct {
    SamplerCompat compat;
    uint64_t seed;
    int pass;                  /* 0, 1: streams of the second pass are others (ATELIER), or start again (the programs' generators) */
    int64_t ensd;              /* eta noise seed delta: later noise comes from seed + ensd; 0: it goes on (A1111's) */
    int64_t gpu_threads;       /* emulated device, RNG_TORCH_THREADS_*; 0: any that holds an image in one go */
    int batch_index, batch_size; /* COMFYUI: place in a batch drawn as a whole; size 0: alone */
} SamplerNoiseConf;

typedef struct {
    SamplerNoiseConf c;
    RngTorch cpu;
    RngTorchCuda gpu;
    int later;                 /* the generator of later noise is set up */
    int churned;               /* draws of churn so far */
    RngBrownian *path;
    int64_t path_n;
    int path_gpu;
} SamplerNoise;

/* sampler_noise_deinit when done. The address must not change after the first sampler_noise_step. */
void sampler_noise_init(SamplerNoise *z, const SamplerNoiseConf *conf);
void sampler_noise_deinit(SamplerNoise *z);
/* The first n normals of the image (CHW order). ERR_NOMEM. */
int sampler_noise_first(SamplerNoise *z, float *out, int64_t n);
/* The first n normals of another seed by the same rules. */
int sampler_noise_fresh(const SamplerNoise *z, uint64_t seed, float *out, int64_t n);
/* The next n normals of the image's generator; ATELIER: of (purpose, k). For draws besides the sampler's (VAE posterior). */
int sampler_noise_next(SamplerNoise *z, int purpose, int k, float *out, int64_t n);
/* The noise of step i of s: the next of the stream, or the Brownian increment where the sampler takes that. ERR_NOMEM, ERR_RANGE. */
int sampler_noise_step(SamplerNoise *z, const Sampler *s, int i, float *out, int64_t n);
/* For sampler_churn before call i. A1111 draws at every step, needed or not. */
int sampler_noise_churn(SamplerNoise *z, const Sampler *s, int i, float *out, int64_t n);

#endif
