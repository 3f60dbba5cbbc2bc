/* What the forward and the backward kernels of attention share. */
#ifndef KERNELS_ATTENTION_H
#define KERNELS_ATTENTION_H

#include "device.h"
#include "grid.h"
#include "kernels.h"

namespace {

struct AttArg {
    int64_t lq, lk, width; /* width = heads * d: elements from token to token */
    int heads, d, causal;
    float scale;
};

/* Tensor cores: a block has 64 rows, 16 for each of 4 warps. */
enum { BR = 64, THREADS = 128, SKEW = 8 };

/* rows [first, first + ROWS) of one head into shared memory [ROWS][DP + SKEW]; what lies outside becomes 0. */
template <int DP, int ROWS> __device__ __forceinline__ void load_tile(bf16 *tile, const bf16 *src, int64_t first, int64_t rows, AttArg a)
{
    const int CH = DP / 8;
    for (int i = (int)threadIdx.x; i < ROWS * CH; i += THREADS) {
        int r = i / CH, c = i % CH * 8;
        bool inside = first + r < rows && c < a.d;
        copy_async_16(tile + r * (DP + SKEW) + c, inside ? src + (first + r) * a.width + c : src, inside ? 16 : 0);
    }
}

/* acc[MT][16 rows x DP] += f[MT][16 rows x BC] c[BC x DP] */
template <int DP, int BC, int MT> __device__ __forceinline__ void add_product(float (*acc)[DP / 8][4], const uint32_t (*f)[BC / 16][4], const bf16 *c)
{
    int lane = (int)threadIdx.x % 32;
#pragma unroll
    for (int kk = 0; kk < BC / 16; kk++)
#pragma unroll
        for (int j = 0; j < DP / 16; j++) {
            uint32_t fb[4];
            ldmatrix_x4_trans(fb, c + (kk * 16 + lane % 16) * (DP + SKEW) + j * 16 + lane / 16 * 8);
#pragma unroll
            for (int m = 0; m < MT; m++) {
                mma_16816(acc[m][2 * j], f[m][kk], fb);
                mma_16816(acc[m][2 * j + 1], f[m][kk], fb + 2);
            }
        }
}

/* ---- plain: one block per query (forward, dq) or per key (dk, dv). A thread takes one partner of a chunk of 128 for the products
 * of rows, then one channel in four for the sums over the chunk, in order. ---- */

enum { PLAIN = 128, MOST_D = 512, PER_THREAD = MOST_D / PLAIN };

template <typename T> __device__ __forceinline__ float dot_with(const float *a, const T *p, int d)
{
    float s = 0;
    for (int c = 0; c < d; c++)
        s = fmaf(a[c], load(p + c), s);
    return s;
}

template <typename T> __device__ __forceinline__ void row_to_shared(float *a, const T *p, int d)
{
    for (int c = (int)threadIdx.x; c < d; c += PLAIN)
        a[c] = load(p + c);
}

inline dim3 plain_grid(int64_t rows, int heads, int64_t n) { return dim3((unsigned)rows, (unsigned)heads, (unsigned)n); }

/* The padded head size DP for d channels: DO(DP). */
#define EACH_HEAD(d, DO)     \
    do {                     \
        if ((d) <= 32)       \
            DO(32);          \
        else if ((d) <= 48)  \
            DO(48);          \
        else if ((d) <= 64)  \
            DO(64);          \
        else if ((d) <= 80)  \
            DO(80);          \
        else if ((d) <= 128) \
            DO(128);         \
        else                 \
            DO(160);         \
    } while (0)

inline bool on_tensor_cores(int t, int64_t d) { return t == KERNEL_BF16 && d % 8 == 0 && d <= 160; }

} // namespace
#endif
