/* Small matrix products on tiles that fit the cache: C[r][i] (+)= sum over k of A[r][k] B[k][i].
 *
 * Lanes run along i. A is read one scalar at a time through two strides, so neither A nor its transpose is packed; B and C
 * are row-major floats whose columns are padded to whole vectors. Every element of C is one chain of multiply-adds in the
 * order of k, starting from C's old value when `add` is set: cutting k into several calls changes no bit.
 *
 * With GEMM_PAIRS defined every 32-bit word of A and B is a pair of bf16, the lower half first in k; C stays float. */
#ifndef CPU_SIMD_GEMM_H
#define CPU_SIMD_GEMM_H

#include "cpu/simd.h"

enum { GEMM_ROWS = 6, GEMM_VECS = CPU_ISA_LEVEL == 2 ? 4 : 2 };

typedef struct {
    const float *a;
    int64_t row, step; /* A[r][k] = a[r * row + k * step] */
    const float *b;
    int64_t ldb;
    float *c;
    int64_t ldc;
    int64_t depth;
    int add;
} GemmTile;

#ifdef GEMM_PAIRS
INLINE vf gemm_step(vf acc, vf a, vf b) { return _mm512_dpbf16_ps(acc, (__m512bh)a, (__m512bh)b); }
#else
INLINE vf gemm_step(vf acc, vf a, vf b) { return acc + a * b; }
#endif

INLINE void gemm_block(const GemmTile *t, int64_t r0, int64_t c0, int rows, int vecs)
{
    vf acc[GEMM_ROWS][GEMM_VECS];
    float *c = t->c + r0 * t->ldc + c0;
    const float *b = t->b + c0, *a = t->a + r0 * t->row;
    const int64_t row = t->row, step = t->step, ldb = t->ldb;
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 8
        for (int v = 0; v < vecs; v++) {
            acc[r][v] = vf_zero();
            if (t->add)
                acc[r][v] = vf_load(c + r * t->ldc + v * VL);
        }
    for (int64_t k = 0; k < t->depth; k++, a += step, b += ldb) {
        vf bv[GEMM_VECS];
#pragma GCC unroll 8
        for (int v = 0; v < vecs; v++)
            bv[v] = vf_load(b + v * VL);
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++) {
            vf av = vf_set(a[r * row]);
#pragma GCC unroll 8
            for (int v = 0; v < vecs; v++)
                acc[r][v] = gemm_step(acc[r][v], av, bv[v]);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 8
        for (int v = 0; v < vecs; v++)
            vf_store(c + r * t->ldc + v * VL, acc[r][v]);
}

INLINE void gemm_panel(const GemmTile *t, int64_t rows, int64_t c0, int vecs)
{
    int64_t r = 0;
    for (; r + GEMM_ROWS <= rows; r += GEMM_ROWS)
        gemm_block(t, r, c0, GEMM_ROWS, vecs);
    switch (rows - r) {
    case 1: gemm_block(t, r, c0, 1, vecs); break;
    case 2: gemm_block(t, r, c0, 2, vecs); break;
    case 3: gemm_block(t, r, c0, 3, vecs); break;
    case 4: gemm_block(t, r, c0, 4, vecs); break;
    case 5: gemm_block(t, r, c0, 5, vecs); break;
    default: break;
    }
}

/* cols: a multiple of VL. Panels are made as even as they go: 5 vectors are 3 + 2, not 4 + 1. */
static void gemm_tile(const GemmTile *t, int64_t rows, int64_t cols)
{
    int64_t vecs = cols / VL, panels = cpu_ceil_div(vecs, GEMM_VECS);
    for (int64_t p = 0, c0 = 0; p < panels; p++) {
        int64_t n = cpu_ceil_div(vecs, panels - p);
        switch (n) {
#if CPU_ISA_LEVEL == 2
        case 4: gemm_panel(t, rows, c0, 4); break;
        case 3: gemm_panel(t, rows, c0, 3); break;
#endif
        case 2: gemm_panel(t, rows, c0, 2); break;
        default: gemm_panel(t, rows, c0, 1); break;
        }
        c0 += n * VL;
        vecs -= n;
    }
}

#endif
