/* Rows by index, their adjoints, and the sinusoids of a timestep. */
#include "device.h"
#include "grid.h"
#include "kernels.h"

namespace {

template <typename W> __global__ void k_embed(const int32_t *ids, const W *table, W *y, int64_t n, int64_t vocab, int64_t c)
{
    for (int64_t i = grid_first(); i < n * c; i += grid_step()) {
        int32_t id = ids[i / c];
        y[i] = id >= 0 && id < vocab ? table[id * c + i % c] : W();
    }
}

/* Block per row of the table; its tokens are added in the order of the text. */
template <typename T> __global__ void k_embed_bwd(const T *dy, const int32_t *ids, float *dtable, int64_t n, int64_t c)
{
    int64_t row = blockIdx.x;
    for (int64_t ch = threadIdx.x; ch < c; ch += blockDim.x) {
        float s = 0;
        for (int64_t i = 0; i < n; i++)
            if (ids[i] == row)
                s += load(dy + i * c + ch);
        dtable[row * c + ch] = s;
    }
}

template <typename W> __global__ void k_gather_row(const W *x, const int32_t *idx, W *y, int64_t n, int64_t len, int64_t c)
{
    for (int64_t i = grid_first(); i < n * c; i += grid_step()) {
        int32_t at = idx[i / c];
        y[i] = at >= 0 && at < len ? x[(i / c * len + at) * c + i % c] : W();
    }
}

template <typename W> __global__ void k_gather_row_bwd(const W *dy, const int32_t *idx, W *dx, int64_t n, int64_t len, int64_t c)
{
    for (int64_t i = grid_first(); i < n * len * c; i += grid_step()) {
        int64_t item = i / c / len;
        dx[i] = idx[item] == i / c % len ? dy[item * c + i % c] : W();
    }
}

template <typename T>
__global__ void k_time_embed(const float *time, T *y, int64_t n, int64_t dim, int flip, float shift, float log_period)
{
    int64_t half = dim / 2;
    for (int64_t i = grid_first(); i < n * half; i += grid_step()) {
        int64_t r = i / half, j = i % half;
        float e = log_period * (float)j / ((float)half - shift);
        float v = time[r] * expf(e);
        store(y + r * dim + (flip ? half : 0) + j, sinf(v));
        store(y + r * dim + (flip ? 0 : half) + j, cosf(v));
    }
}

} // namespace

#define EACH_SIZE(size, DO)     \
    do {                        \
        if ((size) == 4)        \
            DO(uint32_t);       \
        else                    \
            DO(uint16_t);       \
    } while (0)

void kernel_embed(int size, const int32_t *ids, const void *table, void *y, int64_t n, int64_t vocab, int64_t c, void *stream)
{
#define DO(W) LAUNCH((k_embed<W>), grid_for(n * c), GRID_BLOCK, 0, stream, ids, (const W *)table, (W *)y, n, vocab, c)
    EACH_SIZE(size, DO);
#undef DO
}

void kernel_embed_bwd(int t, const void *dy, const int32_t *ids, float *dtable, int64_t n, int64_t vocab, int64_t c, void *stream)
{
#define DO(T) LAUNCH((k_embed_bwd<T>), (unsigned)vocab, 64, 0, stream, (const T *)dy, ids, dtable, n, c)
    EACH_TYPE(t, DO);
#undef DO
}

void kernel_gather_row(int size, const void *x, const int32_t *idx, void *y, int64_t n, int64_t len, int64_t c, void *stream)
{
#define DO(W) LAUNCH((k_gather_row<W>), grid_for(n * c), GRID_BLOCK, 0, stream, (const W *)x, idx, (W *)y, n, len, c)
    EACH_SIZE(size, DO);
#undef DO
}

void kernel_gather_row_bwd(int size, const void *dy, const int32_t *idx, void *dx, int64_t n, int64_t len, int64_t c, void *stream)
{
#define DO(W) LAUNCH((k_gather_row_bwd<W>), grid_for(n * len * c), GRID_BLOCK, 0, stream, (const W *)dy, idx, (W *)dx, n, len, c)
    EACH_SIZE(size, DO);
#undef DO
}

void kernel_time_embed(int t, const float *time, void *y, int64_t n, int64_t dim, int flip, float shift, float max_period, void *stream)
{
    float log_period = (float)-log((double)max_period);
#define DO(T) LAUNCH((k_time_embed<T>), grid_for(n * dim / 2), GRID_BLOCK, 0, stream, time, (T *)y, n, dim, flip, shift, log_period)
    EACH_TYPE(t, DO);
#undef DO
}
