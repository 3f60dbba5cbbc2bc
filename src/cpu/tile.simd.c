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

/* Blocks of 16x16, so that whole cache lines are read and written: four rounds of exchanging halves between rows that are
 * 8, 4, 2 and 1 apart. */
#define LANES(f) {f(0), f(1), f(2), f(3), f(4), f(5), f(6), f(7), f(8), f(9), f(10), f(11), f(12), f(13), f(14), f(15)}
#define LOW8(j) ((j) & 8 ? 16 + (j) - 8 : (j))
#define LOW4(j) ((j) & 4 ? 16 + (j) - 4 : (j))
#define LOW2(j) ((j) & 2 ? 16 + (j) - 2 : (j))
#define LOW1(j) ((j) & 1 ? 16 + (j) - 1 : (j))
#define HIGH8(j) ((j) & 8 ? 16 + (j) : (j) + 8)
#define HIGH4(j) ((j) & 4 ? 16 + (j) : (j) + 4)
#define HIGH2(j) ((j) & 2 ? 16 + (j) : (j) + 2)
#define HIGH1(j) ((j) & 1 ? 16 + (j) : (j) + 1)
#define ROUND(v, mask, s)                                                      \
    _Pragma("GCC unroll 16") for (int i = 0; i < 16; i++) if (!(i & s))        \
    {                                                                          \
        __typeof__(v[0]) a = v[i], b = v[i + s];                               \
        v[i] = __builtin_shuffle(a, b, (mask)LANES(LOW##s));                   \
        v[i + s] = __builtin_shuffle(a, b, (mask)LANES(HIGH##s));              \
    }

#define TRANSPOSE(name, type, vec, mask)                                                                   \
    typedef type vec __attribute__((vector_size(16 * sizeof(type))));                                      \
    INLINE void name##_block(const type *x, int64_t ld, type *out, int64_t out_ld)                         \
    {                                                                                                      \
        vec v[16];                                                                                         \
        _Pragma("GCC unroll 16") for (int i = 0; i < 16; i++) memcpy(&v[i], x + i * ld, sizeof v[i]);      \
        ROUND(v, mask, 8)                                                                                  \
        ROUND(v, mask, 4)                                                                                  \
        ROUND(v, mask, 2)                                                                                  \
        ROUND(v, mask, 1)                                                                                  \
        _Pragma("GCC unroll 16") for (int i = 0; i < 16; i++) memcpy(out + i * out_ld, &v[i], sizeof v[i]); \
    }                                                                                                      \
    static void name(const type *x, int64_t ld, type *out, int64_t rows, int64_t cols)                     \
    {                                                                                                      \
        for (int64_t r = 0; r < rows; r += 16)                                                             \
            for (int64_t c = 0; c < cols; c += 16) {                                                       \
                if (r + 16 <= rows && c + 16 <= cols) {                                                    \
                    name##_block(x + r * ld + c, ld, out + c * rows + r, rows);                            \
                    continue;                                                                              \
                }                                                                                          \
                for (int64_t i = r; i < rows && i < r + 16; i++)                                           \
                    for (int64_t j = c; j < cols && j < c + 16; j++)                                       \
                        out[j * rows + i] = x[i * ld + j];                                                 \
            }                                                                                              \
    }
typedef int32_t lanes32 __attribute__((vector_size(64)));
typedef int16_t lanes16 __attribute__((vector_size(32)));
TRANSPOSE(transpose_f32, float, vec_f32, lanes32)
TRANSPOSE(transpose_bf16, uint16_t, vec_bf16, lanes16)

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

/* 3x3 is what matters; the constant lets the compiler keep the nine pointers in registers. */
#define INTERLEAVE(name, type)                                                             \
    INLINE void name##_loop(const void *const *tap, int taps, type *out, int64_t channels) \
    {                                                                                      \
        const type *from[CPU_TILE_TAPS];                                                   \
        for (int t = 0; t < taps; t++)                                                     \
            from[t] = tap[t];                                                              \
        for (int64_t c = 0; c < channels; c++)                                             \
            for (int t = 0; t < taps; t++)                                                 \
                out[c * taps + t] = from[t][c];                                            \
    }                                                                                      \
    static void name(const void *const *tap, int taps, type *out, int64_t channels)        \
    {                                                                                      \
        if (taps == 9)                                                                     \
            name##_loop(tap, 9, out, channels);                                            \
        else                                                                               \
            name##_loop(tap, taps, out, channels);                                         \
    }
INTERLEAVE(interleave_f32, float)
INTERLEAVE(interleave_bf16, uint16_t)

static void tile_interleave(const void *const *tap, int taps, void *out, int64_t channels, int bf)
{
    if (bf)
        interleave_bf16(tap, taps, out, channels);
    else
        interleave_f32(tap, taps, out, channels);
}

static void tile_add_taps(const float *const *tap, int n, int64_t stride, float *out, int64_t channels)
{
    for (int64_t c = 0; c < channels; c++) {
        float sum = n ? tap[0][c * stride] : 0;
        for (int t = 1; t < n; t++)
            sum += tap[t][c * stride];
        out[c] = sum;
    }
}

const CpuTileOps CPU_FN(cpu_tile_ops) = {tile_store, tile_transpose, tile_sum,
                                         tile_add,   tile_interleave, tile_add_taps};
