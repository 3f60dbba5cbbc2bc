#include "cpu/simd.h"
#include "cpu/tile.h"

INLINE void store_loop(const float *acc, int64_t acc_ld, const float *bias, const void *res, void *out, int64_t ld, int64_t rows,
                       int64_t cols, int bf)
{
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < cols; c += VL) {
            int n = lanes_at(c, cols);
            vf v = vf_load_n(acc + r * acc_ld + c, n);
            if (bias)
                v += vf_load_n(bias + c, n);
            if (res)
                v += vt_load(res, r * ld + c, n, bf);
            vt_store(out, r * ld + c, v, n, bf);
        }
}

static void tile_store(const float *acc, int64_t acc_ld, const float *bias, const void *res, void *out, int64_t ld, int64_t rows,
                       int64_t cols, int bf)
{
    if (bf)
        store_loop(acc, acc_ld, bias, res, out, ld, rows, cols, 1);
    else
        store_loop(acc, acc_ld, bias, res, out, ld, rows, cols, 0);
}

/* Blocks of 16x16: 16 whole cache lines are read and written at a time. */
#define TRANSPOSE(name, type)                                                                              \
    static void name(const type *x, int64_t ld, type *out, int64_t rows, int64_t cols)                     \
    {                                                                                                      \
        for (int64_t r = 0; r < rows; r += 16)                                                             \
            for (int64_t c = 0; c < cols; c += 16) {                                                       \
                const type *from = x + r * ld + c;                                                         \
                type *to = out + c * rows + r;                                                             \
                if (r + 16 <= rows && c + 16 <= cols) {                                                    \
                    type t[16][16];                                                                        \
                    for (int i = 0; i < 16; i++)                                                           \
                        for (int j = 0; j < 16; j++)                                                       \
                            t[j][i] = from[i * ld + j];                                                    \
                    for (int j = 0; j < 16; j++)                                                           \
                        memcpy(to + j * rows, t[j], sizeof t[j]);                                          \
                } else {                                                                                   \
                    for (int64_t i = 0; r + i < rows && i < 16; i++)                                       \
                        for (int64_t j = 0; c + j < cols && j < 16; j++)                                   \
                            to[j * rows + i] = from[i * ld + j];                                           \
                }                                                                                          \
            }                                                                                              \
    }
TRANSPOSE(transpose_f32, float)
TRANSPOSE(transpose_bf16, uint16_t)

static void tile_transpose(const void *x, int64_t ld, void *out, int64_t rows, int64_t cols, int bf)
{
    if (bf)
        transpose_bf16(x, ld, out, rows, cols);
    else
        transpose_f32(x, ld, out, rows, cols);
}

static void tile_sum(const float *part, int64_t stride, int64_t parts, void *out, int64_t n, int bf)
{
    for (int64_t i = 0; i < n; i += VL) {
        int lanes = lanes_at(i, n);
        vf v = vf_load_n(part + i, lanes);
        for (int64_t p = 1; p < parts; p++)
            v += vf_load_n(part + p * stride + i, lanes);
        vt_store(out, i, v, lanes, bf);
    }
}

static void tile_add(float *acc, const float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i += VL) {
        int lanes = lanes_at(i, n);
        vf_store_n(acc + i, vf_load_n(acc + i, lanes) + vf_load_n(x + i, lanes), lanes);
    }
}

const CpuTileOps CPU_FN(cpu_tile_ops) = {tile_store, tile_transpose, tile_sum, tile_add};
