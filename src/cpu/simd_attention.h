/* What both directions of attention share. Lanes are queries: a block of 64 queries is held transposed, [width][64], and
 * the scores of a tile of keys are [keys][64]. Then keys and values are read as they lie in memory, softmax needs no sum
 * across lanes, and a head's width needs no padding.
 *
 * Scores are kept times log2(e), so that the exponential is 2^x. */
#ifndef CPU_SIMD_ATTENTION_H
#define CPU_SIMD_ATTENTION_H

#include "cpu/attention.h"
#include "cpu/simd_gemm.h"
#include "cpu/simd_math.h"

enum { QB = ATTENTION_QUERIES, KB = ATTENTION_KEYS };
#define LOG2_E 1.44269504f
#define LN_2 0.693147181f

/* to[d][i] = x[i][d] * scale for `rows` queries, 0 for the rest of the block. ld: elements between rows of x. */
static __attribute__((unused)) void attention_transpose(float *to, const void *x, int64_t at, int64_t ld, int64_t rows, int64_t width, float scale,
                                int bf)
{
    for (int64_t i = 0; i < QB; i += VL)
        for (int64_t d = 0; d < width; d += VL) {
            const int n = lanes_at(d, width);
            vf t[VL];
            for (int k = 0; k < VL; k++) {
                t[k] = vf_zero();
                if (i + k < rows)
                    t[k] = vt_load(x, at + (i + k) * ld + d, n, bf) * vf_set(scale);
            }
            vf_transpose(t);
            for (int k = 0; k < n; k++)
                vf_store(to + (d + k) * QB + i, t[k]);
        }
}

/* to[i][0..padded) = x[i][0..width) as float, zero-filled. */
static __attribute__((unused)) void attention_rows(float *to, const void *x, int64_t at, int64_t ld, int64_t rows, int64_t width, int64_t padded,
                           int bf)
{
    for (int64_t i = 0; i < rows; i++)
        for (int64_t d = 0; d < padded; d += VL)
            vf_store(to + i * padded + d, d < width ? vt_load(x, at + i * ld + d, lanes_at(d, width), bf) : vf_zero());
}

/* x[i][d] = from[d][i] for `rows` queries. */
static __attribute__((unused)) void attention_untranspose(void *x, int64_t at, int64_t ld, const float *from, int64_t rows, int64_t width, int bf)
{
    for (int64_t i = 0; i < rows; i += VL)
        for (int64_t d = 0; d < width; d += VL) {
            const int n = lanes_at(d, width);
            vf t[VL];
            for (int k = 0; k < VL; k++) {
                t[k] = vf_zero();
                if (k < n)
                    t[k] = vf_load(from + (d + k) * QB + i);
            }
            vf_transpose(t);
            for (int k = 0; k < VL && i + k < rows; k++)
                vt_store(x, at + (i + k) * ld + d, t[k], n, bf);
        }
}

/* Puts s[j][i] to -1e30 where key j0 + j comes after query i0 + i. Not -inf: inf - inf would be NaN. */
static __attribute__((unused)) void attention_mask(float *s, int64_t keys, int64_t j0, int64_t i0)
{
    for (int64_t j = 0; j < keys; j++)
        for (int64_t i = 0; i < QB && i0 + i < j0 + j; i++)
            s[j * QB + i] = -1e30f;
}

/* Keys of the tile at j0 that the block of queries ending at `last` may see. */
INLINE int64_t attention_keys(const AttentionShape *s, int64_t j0, int64_t last, int causal)
{
    int64_t end = causal && last + 1 < s->lk ? last + 1 : s->lk;
    return end - j0 < KB ? end - j0 : KB;
}

/* A tile of keys or values as float: in place for float tensors, converted into `buf` [KB][padded] for bf16. */
INLINE const float *attention_tile(const AttentionShape *s, const void *x, int64_t at, int64_t keys, float *buf, int bf,
                                   int64_t *ld)
{
    if (!bf) {
        *ld = s->channels;
        return (const float *)x + at;
    }
    attention_rows(buf, x, at, s->channels, keys, s->width, s->padded, 1);
    *ld = s->padded;
    return buf;
}

#endif
