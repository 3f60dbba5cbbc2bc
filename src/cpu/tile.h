/* Own code around oneDNN's tiles, one copy per instruction set (tile.simd.c). bf: 1 where the tensor is bfloat16. */
#ifndef CPU_TILE_H
#define CPU_TILE_H

#include <stdint.h>

enum { CPU_TILE_TAPS = 64 }; /* most taps of a convolution kernel below */

typedef struct {
    /* out[r,c] = acc[r,c] (+ bias[c]) (+ res[r,c]); acc has acc_ld, res and out have ld elements per row. res may be out. */
    void (*store)(const float *acc, int64_t acc_ld, const float *bias, const void *res, void *out, int64_t ld, int64_t rows,
                  int64_t cols, int bf);
    /* out[c,r] = x[r,c]; x has ld elements per row, out is dense [cols, rows]. */
    void (*transpose)(const void *x, int64_t ld, void *out, int64_t rows, int64_t cols, int bf);
    /* out[i] = part[i] + part[stride + i] + ..., in this order. */
    void (*sum)(const float *part, int64_t stride, int64_t parts, void *out, int64_t n, int bf);
    /* acc[i] += x[i] */
    void (*add)(float *acc, const float *x, int64_t n);
    /* out[c * taps + t] = tap[t][c] */
    void (*interleave)(const void *const *tap, int taps, void *out, int64_t channels, int bf);
    /* out[c] = tap[0][c * stride] + tap[1][c * stride] + ..., in this order; n may be 0. */
    void (*add_taps)(const float *const *tap, int n, int64_t stride, float *out, int64_t channels);
} CpuTileOps;

extern const CpuTileOps cpu_tile_ops_base, cpu_tile_ops_avx2, cpu_tile_ops_avx512;

#if defined(__x86_64__)
#define CPU_TILE_OPS(isa) \
    ((isa) == CPU_ISA_AVX512 ? &cpu_tile_ops_avx512 : (isa) == CPU_ISA_AVX2 ? &cpu_tile_ops_avx2 : &cpu_tile_ops_base)
#else
#define CPU_TILE_OPS(isa) (&cpu_tile_ops_base)
#endif

#endif
