/* The random numbers that torch draws, for "same seed, same image" with the tools that use it.
 *
 * CPU generator: mt19937, seed taken mod 2^32. A run of normals of 16 or more elements uses 24-bit uniforms in blocks of
 * 16 (cosine half, sine half; a ragged tail redraws the last 16); fewer use 53-bit uniforms in double with one normal kept
 * for the next call (aten/src/ATen/native/cpu/DistributionTemplates.h, normal_fill; core/DistributionsHelper.h).
 * The bits are those of torch on x86 CPUs with AVX2 (elsewhere torch itself differs by up to 2e-6), on every machine.
 * CUDA generator: Philox4x32-10 over a 64-bit seed (aten/src/ATen/native/cuda/DistributionTemplates.h,
 * curand_normal.h); normals agree to 2e-6, since a GPU's sine is its own. */
#ifndef BASE_RNG_TORCH_H
#define BASE_RNG_TORCH_H

#include <stdint.h>

typedef struct {
    uint32_t state[624];
    int left;        /* words left before the state is renewed */
    int has_cached;
    double cached;   /* second normal of a pair drawn by the small path */
} RngTorch;

void rng_torch_init(RngTorch *g, uint64_t seed);
uint32_t rng_torch_u32(RngTorch *g);
uint64_t rng_torch_u64(RngTorch *g); /* high word first */

/* torch.randn(n, generator=g, dtype=...): one call, contiguous. The streams of different dtypes differ.
 * f16 and bf16 are given as raw bits, every operation rounded to the dtype as torch does (n >= 16; fewer come from the
 * double path, rounded once). */
void rng_torch_normal_f32(RngTorch *g, float *out, int64_t n);
void rng_torch_normal_f64(RngTorch *g, double *out, int64_t n);
void rng_torch_normal_f16(RngTorch *g, uint16_t *out, int64_t n);
void rng_torch_normal_bf16(RngTorch *g, uint16_t *out, int64_t n);

/* Number of threads that torch's normal kernel has in flight: SMs * (threads per SM / 256) * 256. */
enum {
    RNG_TORCH_THREADS_H100 = 270336,
    RNG_TORCH_THREADS_A100 = 221184,
    RNG_TORCH_THREADS_RTX4090 = 196608,
    RNG_TORCH_THREADS_RTX3090 = 125952
};
/* The CUDA generator between calls. */
typedef struct {
    uint64_t seed;
    uint64_t offset;  /* in blocks of 4: 0 at first, grows with each call */
    int64_t threads;  /* emulated device, RNG_TORCH_THREADS_*; results differ between devices only where n > threads */
} RngTorchCuda;

/* threads <= 0: unlimited, so that n never exceeds it (what A1111's "NV" source does). */
void rng_torch_cuda_init(RngTorchCuda *g, uint64_t seed, int64_t threads);
void rng_torch_cuda_normal(RngTorchCuda *g, float *out, int64_t n);

#endif
