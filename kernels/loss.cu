/* Losses per item, summed in pieces whose size depends on the item alone, and their gradients. */
#include "device.h"
#include "grid.h"
#include "kernels.h"

namespace {

enum { PIECE = 16384, BLOCK = 256 };

__device__ __forceinline__ float clamp_logvar(float v) { return v < -30 ? -30 : v > 20 ? 20 : v; }

struct Pair {
    int l1;
    __device__ __forceinline__ float operator()(float x, float y) const
    {
        float d = x - y;
        return l1 ? fabsf(d) : d * d;
    }
};

/* part[item, piece] = sum of f(x, y) over the piece */
template <typename T> __global__ void k_pair_pieces(const T *x, const T *y, float *part, int64_t count, Pair f)
{
    SHARED(float, red, 32);
    int64_t first = (int64_t)blockIdx.x * PIECE, last = min(first + PIECE, count), base = (int64_t)blockIdx.y * count;
    float s = 0;
    for (int64_t i = first + threadIdx.x; i < last; i += BLOCK)
        s += f(load(x + base + i), load(y + base + i));
    s = block_sum(s, red);
    if (threadIdx.x == 0)
        part[(int64_t)blockIdx.y * gridDim.x + blockIdx.x] = s;
}

/* Values of OpLoss in src/ops/op.h. */
enum { L2, L1, HUBER };

__device__ __forceinline__ float pixel_value(int kind, float d, float c)
{
    if (kind == L2)
        return d * d;
    if (kind == L1)
        return fabsf(d);
    return 2 * (kind == HUBER ? c : 1.0f) * (d * d / (sqrtf(d * d + c * c) + c)); /* sqrt(d^2 + c^2) - c without cancellation */
}

__device__ __forceinline__ float pixel_slope(int kind, float d, float c)
{
    if (kind == L2)
        return 2 * d;
    if (kind == L1)
        return d > 0 ? 1.0f : d < 0 ? -1.0f : d;
    return 2 * (kind == HUBER ? c : 1.0f) * d / sqrtf(d * d + c * c);
}

template <typename T>
__global__ void k_pixel_pieces(int kind, const T *x, const T *y, const float *c, const float *mask, float *part, int64_t count, int64_t width)
{
    SHARED(float, red, 32);
    int64_t first = (int64_t)blockIdx.x * PIECE, last = min(first + PIECE, count), base = (int64_t)blockIdx.y * count;
    float s = 0;
    for (int64_t i = first + threadIdx.x; i < last; i += BLOCK)
        s += mask[(base + i) / width] * pixel_value(kind, load(x + base + i) - load(y + base + i), c[blockIdx.y]);
    s = block_sum(s, red);
    if (threadIdx.x == 0)
        part[(int64_t)blockIdx.y * gridDim.x + blockIdx.x] = s;
}

template <typename T>
__global__ void k_pixel_bwd(int kind, const float *dl, const T *x, const T *y, const float *weight, const float *c, const float *mask, T *dx,
                            int64_t items, int64_t count, int64_t width)
{
    for (int64_t i = grid_first(); i < items * count; i += grid_step()) {
        int64_t n = i / count;
        store(dx + i, dl[n] * weight[n] / (float)count * mask[i / width] * pixel_slope(kind, load(x + i) - load(y + i), c[n]));
    }
}

/* moments[rows, 2 w]: mean^2 + exp(logvar) - 1 - logvar */
template <typename T> __global__ void k_kl_pieces(const T *m, float *part, int64_t count, int64_t w)
{
    SHARED(float, red, 32);
    int64_t first = (int64_t)blockIdx.x * PIECE, last = min(first + PIECE, count), base = (int64_t)blockIdx.y * count * 2;
    float s = 0;
    for (int64_t i = first + threadIdx.x; i < last; i += BLOCK) {
        const T *p = m + base + i / w * 2 * w + i % w;
        float mean = load(p), lv = clamp_logvar(load(p + w));
        s += mean * mean + (expm1f(lv) - lv);
    }
    s = block_sum(s, red);
    if (threadIdx.x == 0)
        part[(int64_t)blockIdx.y * gridDim.x + blockIdx.x] = s;
}

__global__ void k_loss_items(const float *part, const float *weight, float *loss, int64_t items, int64_t pieces, float factor)
{
    for (int64_t n = grid_first(); n < items; n += grid_step()) {
        double s = 0;
        for (int64_t k = 0; k < pieces; k++)
            s += (double)part[n * pieces + k];
        loss[n] = weight[n] * (float)(s * (double)factor);
    }
}

template <typename T>
__global__ void k_pair_bwd(const float *dl, const T *x, const T *y, const float *weight, T *dx, int64_t items, int64_t count, int l1)
{
    for (int64_t i = grid_first(); i < items * count; i += grid_step()) {
        int64_t n = i / count;
        float d = load(x + i) - load(y + i), k = dl[n] * weight[n] / (float)count;
        store(dx + i, k * (l1 ? (d > 0 ? 1.0f : d < 0 ? -1.0f : d) : 2 * d));
    }
}

/* Warp per row. */
template <typename T, bool BWD>
__global__ void k_xent(const float *dl, const T *x, const int32_t *target, float *loss, T *dx, int64_t rows, int64_t c)
{
    int64_t r = (int64_t)blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    int lane = (int)threadIdx.x % 32;
    if (r >= rows)
        return;
    const T *p = x + r * c;
    float top = -INFINITY, s = 0;
    for (int64_t i = lane; i < c; i += 32)
        top = max(top, load(p + i));
    top = warp_max(top);
    for (int64_t i = lane; i < c; i += 32)
        s += expf(load(p + i) - top);
    float lse = top + logf(warp_sum(s));
    if constexpr (BWD) {
        for (int64_t i = lane; i < c; i += 32)
            store(dx + r * c + i, dl[r] * (expf(load(p + i) - lse) - (i == target[r] ? 1.0f : 0.0f)));
    } else if (lane == 0) {
        loss[r] = target[r] >= 0 && target[r] < c ? lse - load(p + target[r]) : NAN;
    }
}

template <typename T> __global__ void k_gauss_sample(const T *m, const T *noise, T *z, int64_t rows, int64_t w)
{
    for (int64_t i = grid_first(); i < rows * w; i += grid_step()) {
        const T *p = m + i / w * 2 * w + i % w;
        store(z + i, load(p) + expf(0.5f * clamp_logvar(load(p + w))) * load(noise + i));
    }
}

template <typename T> __global__ void k_gauss_sample_bwd(const T *dz, const T *m, const T *noise, T *dm, int64_t rows, int64_t w)
{
    for (int64_t i = grid_first(); i < rows * w; i += grid_step()) {
        int64_t at = i / w * 2 * w + i % w;
        float lv = load(m + at + w), d = load(dz + i);
        store(dm + at, d);
        store(dm + at + w, lv >= -30 && lv <= 20 ? 0.5f * d * load(noise + i) * expf(0.5f * lv) : 0.0f);
    }
}

template <typename T> __global__ void k_kl_bwd(const float *dk, const T *m, const float *weight, T *dm, int64_t items, int64_t rows, int64_t w)
{
    for (int64_t i = grid_first(); i < items * rows * w; i += grid_step()) {
        int64_t n = i / (rows * w), at = i / w * 2 * w + i % w;
        float k = dk[n] * weight[n] / ((float)rows * (float)w), lv = load(m + at + w);
        store(dm + at, k * load(m + at));
        store(dm + at + w, lv >= -30 && lv <= 20 ? 0.5f * k * expm1f(lv) : 0.0f);
    }
}

int64_t pieces_of(int64_t count) { return ceil_div(count, PIECE); }

} // namespace

size_t kernel_loss_scratch(int64_t items, int64_t count) { return (size_t)(items * pieces_of(count)) * sizeof(float); }

void kernel_pair_loss(int t, int l1, const void *x, const void *y, const float *weight, float *loss, int64_t items, int64_t count,
                      void *scratch, void *stream)
{
    float *part = (float *)scratch;
    dim3 grid((unsigned)pieces_of(count), (unsigned)items);
#define DO(T) LAUNCH((k_pair_pieces<T>), grid, BLOCK, 0, stream, (const T *)x, (const T *)y, part, count, Pair{l1})
    EACH_TYPE(t, DO);
#undef DO
    LAUNCH(k_loss_items, grid_for(items), GRID_BLOCK, 0, stream, part, weight, loss, items, pieces_of(count), 1.0f / (float)count);
}

void kernel_pair_loss_bwd(int t, int l1, const float *dl, const void *x, const void *y, const float *weight, void *dx, int64_t items,
                          int64_t count, void *stream)
{
#define DO(T) \
    LAUNCH((k_pair_bwd<T>), grid_for(items * count), GRID_BLOCK, 0, stream, dl, (const T *)x, (const T *)y, weight, (T *)dx, items, count, l1)
    EACH_TYPE(t, DO);
#undef DO
}

void kernel_pixel_loss(int t, int kind, const void *x, const void *y, const float *weight, const float *c, const float *mask, float *loss,
                       int64_t items, int64_t count, int64_t width, void *scratch, void *stream)
{
    float *part = (float *)scratch;
    dim3 grid((unsigned)pieces_of(count), (unsigned)items);
#define DO(T) LAUNCH((k_pixel_pieces<T>), grid, BLOCK, 0, stream, kind, (const T *)x, (const T *)y, c, mask, part, count, width)
    EACH_TYPE(t, DO);
#undef DO
    LAUNCH(k_loss_items, grid_for(items), GRID_BLOCK, 0, stream, part, weight, loss, items, pieces_of(count), 1.0f / (float)count);
}

void kernel_pixel_loss_bwd(int t, int kind, const float *dl, const void *x, const void *y, const float *weight, const float *c,
                           const float *mask, void *dx, int64_t items, int64_t count, int64_t width, void *stream)
{
#define DO(T)                                                                                                                   \
    LAUNCH((k_pixel_bwd<T>), grid_for(items * count), GRID_BLOCK, 0, stream, kind, dl, (const T *)x, (const T *)y, weight, c, mask, \
           (T *)dx, items, count, width)
    EACH_TYPE(t, DO);
#undef DO
}

void kernel_xent(int t, const void *x, const int32_t *target, float *loss, int64_t rows, int64_t c, void *stream)
{
#define DO(T)                                                                                                                      \
    LAUNCH((k_xent<T, false>), (unsigned)((rows + 3) / 4), 128, 0, stream, (const float *)nullptr, (const T *)x, target, loss, (T *)nullptr, \
           rows, c)
    EACH_TYPE(t, DO);
#undef DO
}

void kernel_xent_bwd(int t, const float *dl, const void *x, const int32_t *target, void *dx, int64_t rows, int64_t c, void *stream)
{
#define DO(T)                                                                                                                    \
    LAUNCH((k_xent<T, true>), (unsigned)((rows + 3) / 4), 128, 0, stream, dl, (const T *)x, target, (float *)nullptr, (T *)dx, rows, c)
    EACH_TYPE(t, DO);
#undef DO
}

void kernel_gauss_sample(int t, const void *moments, const void *noise, void *z, int64_t rows, int64_t w, void *stream)
{
#define DO(T) \
    LAUNCH((k_gauss_sample<T>), grid_for(rows * w), GRID_BLOCK, 0, stream, (const T *)moments, (const T *)noise, (T *)z, rows, w)
    EACH_TYPE(t, DO);
#undef DO
}

void kernel_gauss_sample_bwd(int t, const void *dz, const void *moments, const void *noise, void *dm, int64_t rows, int64_t w, void *stream)
{
#define DO(T)                                                                                                                       \
    LAUNCH((k_gauss_sample_bwd<T>), grid_for(rows * w), GRID_BLOCK, 0, stream, (const T *)dz, (const T *)moments, (const T *)noise, \
           (T *)dm, rows, w)
    EACH_TYPE(t, DO);
#undef DO
}

void kernel_kl(int t, const void *moments, const float *weight, float *kl, int64_t items, int64_t rows, int64_t w, void *scratch, void *stream)
{
    float *part = (float *)scratch;
    int64_t count = rows * w;
    dim3 grid((unsigned)pieces_of(count), (unsigned)items);
#define DO(T) LAUNCH((k_kl_pieces<T>), grid, BLOCK, 0, stream, (const T *)moments, part, count, w)
    EACH_TYPE(t, DO);
#undef DO
    LAUNCH(k_loss_items, grid_for(items), GRID_BLOCK, 0, stream, part, weight, kl, items, pieces_of(count), 0.5f / (float)count);
}

void kernel_kl_bwd(int t, const float *dk, const void *moments, const float *weight, void *dm, int64_t items, int64_t rows, int64_t w, void *stream)
{
#define DO(T) LAUNCH((k_kl_bwd<T>), grid_for(items * rows * w), GRID_BLOCK, 0, stream, dk, (const T *)moments, weight, (T *)dm, items, rows, w)
    EACH_TYPE(t, DO);
#undef DO
}
