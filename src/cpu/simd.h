/* Vectors of VL floats for one instruction set. Included only by *.simd.c, each compiled with CPU_ISA_LEVEL 0 (any
 * machine), 1 (AVX2+FMA) or 2 (AVX-512); CPU_FN(name) gives exported symbols their suffix.
 *
 * `lanes` arguments: how many leading lanes a load or store touches; the others read as zero.
 * Tensors are read and written as float whatever they hold: vt_load and vt_store take `bf` (1: bfloat16, rounded to
 * nearest even on store). Sums of lanes follow one fixed tree. */
#ifndef CPU_SIMD_H
#define CPU_SIMD_H

#include <math.h>
#include <string.h>

#include "cpu/half.h"
#include "cpu/kernel.h"

#ifndef CPU_ISA_LEVEL
#error "compile as *.simd.c: CPU_ISA and CPU_ISA_LEVEL come from the Makefile"
#endif
#define CPU_CAT_(a, b) a##_##b
#define CPU_CAT(a, b) CPU_CAT_(a, b)
#define CPU_FN(name) CPU_CAT(name, CPU_ISA)
#define INLINE static inline __attribute__((always_inline, unused))
#define ALIGNED __attribute__((aligned(64)))

#if CPU_ISA_LEVEL == 2
#include "cpu/simd_avx512.h"
#elif CPU_ISA_LEVEL == 1
#include "cpu/simd_avx2.h"
#else
#include "cpu/simd_base.h"
#endif

INLINE vf vf_load_n(const float *p, int lanes)
{
    return lanes == VL ? vf_load(p) : vf_load_part(p, lanes);
}

INLINE void vf_store_n(float *p, vf v, int lanes)
{
    if (lanes == VL)
        vf_store(p, v);
    else
        vf_store_part(p, v, lanes);
}

INLINE vf vt_load(const void *p, int64_t i, int lanes, int bf)
{
    if (!bf)
        return vf_load_n((const float *)p + i, lanes);
    const uint16_t *q = (const uint16_t *)p + i;
    return lanes == VL ? vf_load_bf16(q) : vf_load_bf16_part(q, lanes);
}

INLINE void vt_store(void *p, int64_t i, vf v, int lanes, int bf)
{
    if (!bf) {
        vf_store_n((float *)p + i, v, lanes);
        return;
    }
    uint16_t *q = (uint16_t *)p + i;
    if (lanes == VL)
        vf_store_bf16(q, v);
    else
        vf_store_bf16_part(q, v, lanes);
}

INLINE float t_load(const void *p, int64_t i, int bf)
{
    return bf ? bf16_to_float(((const uint16_t *)p)[i]) : ((const float *)p)[i];
}

INLINE void t_store(void *p, int64_t i, float v, int bf)
{
    if (bf)
        ((uint16_t *)p)[i] = bf16_from_float(v);
    else
        ((float *)p)[i] = v;
}

INLINE const void *t_at(const void *p, int64_t i, int bf)
{
    return (const char *)p + i * (bf ? 2 : 4);
}

INLINE void *t_at_mut(void *p, int64_t i, int bf)
{
    return (char *)p + i * (bf ? 2 : 4);
}

/* Transposes a square of VL vectors: each round of zips rotates the bits of (row, lane) by one. */
INLINE void vf_transpose(vf x[VL])
{
    for (int n = 1; n < VL; n *= 2) {
        vf y[VL];
#pragma GCC unroll 8
        for (int i = 0; i < VL / 2; i++) {
            y[2 * i] = vf_zip_low(x[i], x[i + VL / 2]);
            y[2 * i + 1] = vf_zip_high(x[i], x[i + VL / 2]);
        }
#pragma GCC unroll 16
        for (int i = 0; i < VL; i++)
            x[i] = y[i];
    }
}

/* Lanes left of `end` at i, at most VL. */
INLINE int lanes_at(int64_t i, int64_t end)
{
    return end - i < VL ? (int)(end - i) : VL;
}

INLINE int is_bf16(const OpView *v)
{
    return v->dtype == DTYPE_BF16;
}

#endif
