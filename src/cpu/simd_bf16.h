/* Pairs of bf16 in 32-bit words, for the dot products of AVX512_BF16. Include before anything else in a *.simd.c; only its
 * avx512 object has code. */
#ifndef CPU_SIMD_BF16_H
#define CPU_SIMD_BF16_H

#if CPU_ISA_LEVEL == 2
#pragma GCC target("avx512bf16")
#define GEMM_PAIRS
#include "cpu/simd_attention.h"

/* Words (a0 b0) (a1 b1) ... from the 16 halves a and 16 halves b. */
INLINE __m512i pair_zip(__m512i ab)
{
    const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5,
                                           20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    return _mm512_permutexvar_epi16(order, ab);
}

/* Two float vectors as pairs (a, b), rounded to nearest even. */
INLINE vf pair_round(vf a, vf b)
{
    return _mm512_castsi512_ps(pair_zip((__m512i)_mm512_cvtne2ps_pbh(b, a)));
}

/* to[r/2][d] = (x[r][d], x[r+1][d]) for rows of `width` halves; a missing last row counts as 0. */
static void pair_rows(float *to, const uint16_t *x, int64_t ld, int64_t rows, int64_t width, int64_t padded)
{
    for (int64_t r = 0; r < rows; r += 2, to += padded)
        for (int64_t d = 0; d < width; d += VL) {
            const __mmask16 m = vm_lanes(lanes_at(d, width));
            __m256i a = _mm256_maskz_loadu_epi16(m, x + r * ld + d), b = _mm256_setzero_si256();
            if (r + 1 < rows)
                b = _mm256_maskz_loadu_epi16(m, x + (r + 1) * ld + d);
            __m512i ab = _mm512_inserti64x4(_mm512_castsi256_si512(a), b, 1);
            vf_store(to + d, _mm512_castsi512_ps(pair_zip(ab)));
        }
}

/* to[d/2][i] = (x[i][d], x[i][d+1]) for `rows` rows, 0 for the rest of the block of QB. width: even. */
static void pair_transpose(float *to, const uint16_t *x, int64_t ld, int64_t rows, int64_t width)
{
    const float *words = (const float *)(const void *)x;
    attention_transpose(to, words, 0, ld / 2, rows, width / 2, 1.0f, 0);
}
#endif

#endif
