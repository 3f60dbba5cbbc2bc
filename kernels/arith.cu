/* Element-wise arithmetic, broadcasts and their sums, and ops that only move elements. */
#include "device.h"
#include "grid.h"
#include "kernels.h"

namespace {

struct Add {
    __device__ __forceinline__ float operator()(float a, float b) const { return a + b; }
};
struct Mul {
    __device__ __forceinline__ float operator()(float a, float b) const { return a * b; }
};
struct Scale {
    const float *s;
    float factor;
    __device__ __forceinline__ float operator()(float a) const { return (s ? factor * *s : factor) * a; }
};
struct Same {
    __device__ __forceinline__ float operator()(float a) const { return a; }
};

template <typename T, typename V, typename F>
__global__ void k_bcast(const T *x, const V *v, T *y, int64_t rows, int64_t c, int64_t div, int64_t mod, F f)
{
    for (int64_t i = grid_first(); i < rows * c; i += grid_step()) {
        int64_t r = i / c, ch = i % c;
        store(y + i, f(load(x + i), load(v + r / div % mod * c + ch)));
    }
}

template <typename T, typename V, int N, typename F>
__global__ void k_bcast_pack(const T *x, const V *v, T *y, int64_t rows, int64_t c, int64_t div, int64_t mod, F f)
{
    int64_t packs = c / N;
    for (int64_t i = grid_first(); i < rows * packs; i += grid_step()) {
        int64_t r = i / packs, ch = i % packs * N;
        const V *w = v + r / div % mod * c + ch;
        float a[N];
        load_pack(a, x + i * N);
        for (int k = 0; k < N; k++)
            a[k] = f(a[k], load(w + k));
        store_pack(y + i * N, a);
    }
}

/* part[item, chunk, c]: thread per channel, rows of the chunk in order. */
template <typename T> __global__ void k_sum_chunk(const T *x, float *part, int64_t rows, int64_t c, int64_t chunk)
{
    int64_t ch = (int64_t)blockIdx.x * blockDim.x + threadIdx.x, first = (int64_t)blockIdx.y * chunk;
    if (ch >= c)
        return;
    int64_t last = min(first + chunk, rows);
    const T *p = x + (int64_t)blockIdx.z * rows * c + ch;
    float s = 0;
    for (int64_t r = first; r < last; r++)
        s += load(p + r * c);
    part[((int64_t)blockIdx.z * gridDim.y + blockIdx.y) * c + ch] = s;
}

template <typename T> __global__ void k_sum_parts(const float *part, T *out, int64_t items, int64_t chunks, int64_t c)
{
    for (int64_t i = grid_first(); i < items * c; i += grid_step()) {
        float s = 0;
        for (int64_t k = 0; k < chunks; k++)
            s += part[(i / c * chunks + k) * c + i % c];
        store(out + i, s);
    }
}

template <typename T, typename O> __global__ void k_sum_items(const T *x, O *out, int64_t items, int64_t count)
{
    for (int64_t i = grid_first(); i < count; i += grid_step()) {
        float s = 0;
        for (int64_t n = 0; n < items; n++)
            s += load(x + n * count + i);
        store(out + i, s);
    }
}

template <typename W>
__global__ void k_copy_rows(const W *x, int64_t sx, int64_t from, W *out, int64_t so, int64_t at, int64_t rows, int64_t width)
{
    for (int64_t i = grid_first(); i < rows * width; i += grid_step()) {
        int64_t r = i / width, j = i % width;
        out[r * so + at + j] = x[r * sx + from + j];
    }
}

template <typename A, typename B> __global__ void k_cast(const A *x, B *y, int64_t n)
{
    for (int64_t i = grid_first(); i < n; i += grid_step())
        store(y + i, load(x + i));
}

enum { TILE = 32, TILE_ROWS = 8 };

template <typename W> __global__ void k_transpose(const W *x, W *out, int64_t rows, int64_t cols)
{
    SHARED(W, tile, TILE * (TILE + 1));
    int64_t base = (int64_t)blockIdx.z * rows * cols, r0 = (int64_t)blockIdx.x * TILE, c0 = (int64_t)blockIdx.y * TILE;
    int tx = (int)threadIdx.x % TILE, ty = (int)threadIdx.x / TILE;
    for (int j = ty; j < TILE; j += TILE_ROWS)
        if (r0 + j < rows && c0 + tx < cols)
            tile[j * (TILE + 1) + tx] = x[base + (r0 + j) * cols + c0 + tx];
    BARRIER();
    for (int j = ty; j < TILE; j += TILE_ROWS)
        if (c0 + j < cols && r0 + tx < rows)
            out[base + (c0 + j) * rows + r0 + tx] = tile[tx * (TILE + 1) + j];
}

template <typename W>
__global__ void k_upsample(const W *x, W *y, int64_t n, int64_t h, int64_t w, int64_t oh, int64_t ow, int64_t c)
{
    for (int64_t i = grid_first(); i < n * oh * ow * c; i += grid_step()) {
        int64_t ch = i % c, px = i / c % ow, py = i / c / ow % oh, item = i / c / ow / oh;
        y[i] = x[((item * h + py * h / oh) * w + px * w / ow) * c + ch];
    }
}

template <typename T>
__global__ void k_upsample_bwd(const T *dy, T *dx, int64_t n, int64_t h, int64_t w, int64_t oh, int64_t ow, int64_t c)
{
    for (int64_t i = grid_first(); i < n * h * w * c; i += grid_step()) {
        int64_t ch = i % c, px = i / c % w, py = i / c / w % h, item = i / c / w / h;
        int64_t y0 = (py * oh + h - 1) / h, y1 = ((py + 1) * oh + h - 1) / h;
        int64_t x0 = (px * ow + w - 1) / w, x1 = ((px + 1) * ow + w - 1) / w;
        float s = 0;
        for (int64_t yy = y0; yy < y1; yy++)
            for (int64_t xx = x0; xx < x1; xx++)
                s += load(dy + ((item * oh + yy) * ow + xx) * c + ch);
        store(dx + i, s);
    }
}

/* By the rows alone, so that an item's sum does not depend on the batch. */
int64_t sum_chunk(int64_t rows) { return rows <= 64 ? 64 : ceil_div(rows, ceil_div(rows, 128) < 512 ? ceil_div(rows, 128) : 512); }

} // namespace

void kernel_add(int t, const void *x, const void *y, void *z, int64_t n, void *stream) { map2(t, x, y, z, n, Add(), stream); }
void kernel_mul(int t, const void *x, const void *y, void *z, int64_t n, void *stream) { map2(t, x, y, z, n, Mul(), stream); }

void kernel_scale(int t, const void *x, const float *s, float factor, void *y, int64_t n, void *stream)
{
    map1(t, x, y, n, Scale{s, factor}, stream);
}

template <typename T, typename V, int N, typename F>
static void bcast(const void *x, const void *v, void *y, int64_t rows, int64_t c, int64_t div, int64_t mod, F f, void *stream)
{
    if (c % N == 0)
        LAUNCH((k_bcast_pack<T, V, N, F>), grid_for(rows * c / N), GRID_BLOCK, 0, stream, (const T *)x, (const V *)v, (T *)y, rows, c, div,
               mod, f);
    else
        LAUNCH((k_bcast<T, V, F>), grid_for(rows * c), GRID_BLOCK, 0, stream, (const T *)x, (const V *)v, (T *)y, rows, c, div, mod, f);
}

template <typename F>
static void bcast_of(int t, int tv, const void *x, const void *v, void *y, int64_t rows, int64_t c, int64_t div, int64_t mod, F f, void *stream)
{
    if (t == KERNEL_F32)
        bcast<float, float, 4>(x, v, y, rows, c, div, mod, f, stream);
    else if (tv == KERNEL_F32)
        bcast<bf16, float, 8>(x, v, y, rows, c, div, mod, f, stream);
    else
        bcast<bf16, bf16, 8>(x, v, y, rows, c, div, mod, f, stream);
}

void kernel_add_rows(int t, int tv, const void *x, const void *v, void *y, int64_t rows, int64_t c, int64_t div, int64_t mod, void *stream)
{
    bcast_of(t, tv, x, v, y, rows, c, div, mod, Add(), stream);
}

void kernel_mul_rows(int t, int tv, const void *x, const void *v, void *y, int64_t rows, int64_t c, int64_t div, int64_t mod, void *stream)
{
    bcast_of(t, tv, x, v, y, rows, c, div, mod, Mul(), stream);
}

size_t kernel_sum_rows_scratch(int64_t items, int64_t rows, int64_t c)
{
    return (size_t)(items * ceil_div(rows, sum_chunk(rows)) * c) * sizeof(float);
}

void kernel_sum_rows(int t, int tout, const void *x, void *out, int64_t items, int64_t rows, int64_t c, void *scratch, void *stream)
{
    int64_t chunk = sum_chunk(rows), chunks = ceil_div(rows, chunk);
    float *part = (float *)scratch;
    for (int64_t i = 0; i < items; i += 65535) {
        dim3 grid((unsigned)ceil_div(c, 64), (unsigned)chunks, (unsigned)min(items - i, (int64_t)65535));
#define DO(T) LAUNCH((k_sum_chunk<T>), grid, 64, 0, stream, (const T *)x + i * rows * c, part + i * chunks * c, rows, c, chunk)
        EACH_TYPE(t, DO);
#undef DO
    }
#define DO(T) LAUNCH((k_sum_parts<T>), grid_for(items * c), GRID_BLOCK, 0, stream, part, (T *)out, items, chunks, c)
    EACH_TYPE(tout, DO);
#undef DO
}

void kernel_sum_items(int t, int tout, const void *x, void *out, int64_t items, int64_t count, void *stream)
{
#define DO(T, O) LAUNCH((k_sum_items<T, O>), grid_for(count), GRID_BLOCK, 0, stream, (const T *)x, (O *)out, items, count)
    if (t == KERNEL_F32)
        DO(float, float);
    else if (tout == KERNEL_F32)
        DO(bf16, float);
    else
        DO(bf16, bf16);
#undef DO
}

void kernel_copy_rows(int size, const void *x, int64_t sx, int64_t from, void *out, int64_t so, int64_t at, int64_t rows, int64_t width, void *stream)
{
    int64_t n = 16 / size;
#define DO(W, q)                                                                                                            \
    LAUNCH((k_copy_rows<W>), grid_for(rows * width / (q)), GRID_BLOCK, 0, stream, (const W *)x, sx / (q), from / (q), (W *)out, \
           so / (q), at / (q), rows, width / (q))
    if (sx % n == 0 && from % n == 0 && so % n == 0 && at % n == 0 && width % n == 0)
        DO(uint4, n);
    else if (size == 4)
        DO(uint32_t, 1);
    else
        DO(uint16_t, 1);
#undef DO
}

template <typename A> static void cast_from(int to, const void *x, void *y, int64_t n, void *stream)
{
#define DO(B) LAUNCH((k_cast<A, B>), grid_for(n), GRID_BLOCK, 0, stream, (const A *)x, (B *)y, n)
    if (to == KERNEL_F32)
        DO(float);
    else if (to == KERNEL_BF16)
        DO(bf16);
    else
        DO(f16);
#undef DO
}

void kernel_cast(int from, int to, const void *x, void *y, int64_t n, void *stream)
{
    if (from == to && from != KERNEL_F16)
        map1(from, x, y, n, Same(), stream);
    else if (from == KERNEL_F32)
        cast_from<float>(to, x, y, n, stream);
    else if (from == KERNEL_BF16)
        cast_from<bf16>(to, x, y, n, stream);
    else
        cast_from<f16>(to, x, y, n, stream);
}

void kernel_transpose(int size, const void *x, void *out, int64_t items, int64_t rows, int64_t cols, void *stream)
{
    for (int64_t i = 0; i < items; i += 65535) {
        dim3 grid((unsigned)ceil_div(rows, TILE), (unsigned)ceil_div(cols, TILE), (unsigned)min(items - i, (int64_t)65535));
#define DO(W)                                                                                                       \
    LAUNCH((k_transpose<W>), grid, TILE * TILE_ROWS, 0, stream, (const W *)x + i * rows * cols, (W *)out + i * rows * cols, rows, \
           cols)
        if (size == 4)
            DO(uint32_t);
        else
            DO(uint16_t);
#undef DO
    }
}

void kernel_upsample(int size, const void *x, void *y, int64_t n, int64_t h, int64_t w, int64_t oh, int64_t ow, int64_t c, void *stream)
{
    int64_t per = 16 / size;
#define DO(W, q) LAUNCH((k_upsample<W>), grid_for(n * oh * ow * c / (q)), GRID_BLOCK, 0, stream, (const W *)x, (W *)y, n, h, w, oh, ow, c / (q))
    if (c % per == 0)
        DO(uint4, per);
    else if (size == 4)
        DO(uint32_t, 1);
    else
        DO(uint16_t, 1);
#undef DO
}

void kernel_upsample_bwd(int t, const void *dy, void *dx, int64_t n, int64_t h, int64_t w, int64_t oh, int64_t ow, int64_t c, void *stream)
{
#define DO(T) LAUNCH((k_upsample_bwd<T>), grid_for(n * h * w * c), GRID_BLOCK, 0, stream, (const T *)dy, (T *)dx, n, h, w, oh, ow, c)
    EACH_TYPE(t, DO);
#undef DO
}
