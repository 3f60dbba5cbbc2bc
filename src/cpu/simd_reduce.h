/* Column sums of [rows, C] matrices in a fixed order: rows are cut into chunks by C alone, each chunk is summed in float
 * in row order, and the chunks are added in double in chunk order. */
#ifndef CPU_SIMD_REDUCE_H
#define CPU_SIMD_REDUCE_H

#include "cpu/simd.h"

/* sum[c] = x[r0..r1, c] added in row order. */
INLINE void reduce_columns(const void *x, int64_t r0, int64_t r1, int64_t channels, float *sum, int bf)
{
    int64_t c = 0;
    for (; c + 4 * VL <= channels; c += 4 * VL) {
        vf s0 = vf_zero(), s1 = vf_zero(), s2 = vf_zero(), s3 = vf_zero();
        for (int64_t r = r0; r < r1; r++) {
            int64_t i = r * channels + c;
            s0 += vt_load(x, i, VL, bf);
            s1 += vt_load(x, i + VL, VL, bf);
            s2 += vt_load(x, i + 2 * VL, VL, bf);
            s3 += vt_load(x, i + 3 * VL, VL, bf);
        }
        vf_store(sum + c, s0);
        vf_store(sum + c + VL, s1);
        vf_store(sum + c + 2 * VL, s2);
        vf_store(sum + c + 3 * VL, s3);
    }
    for (; c < channels; c += VL) {
        int n = lanes_at(c, channels);
        vf s = vf_zero();
        for (int64_t r = r0; r < r1; r++)
            s += vt_load(x, r * channels + c, n, bf);
        vf_store_n(sum + c, s, n);
    }
}

/* sum[0..n) of part[k * stride + 0..n) over k = 0..chunks-1; n <= 64. */
INLINE void reduce_partials(const float *part, int64_t chunks, int64_t stride, int n, double *sum)
{
    for (int j = 0; j < n; j++)
        sum[j] = 0;
    for (int64_t k = 0; k < chunks; k++)
        for (int j = 0; j < n; j++)
            sum[j] += (double)part[k * stride + j];
}

#endif
