/* Normalisations. Statistics of a group are summed per channel and chunk of rows (chunks depend on the item's rows alone), then over
 * chunks and channels in order. Sums are taken of x - k, k the group's first value of the item, so that a mean far from zero
 * does not eat the digits of the variance. */
#include "device.h"
#include "grid.h"
#include "kernels.h"

namespace {

enum { GN_BLOCK = 256, GN_CHUNK_ROWS = 64, GN_CHUNKS = 256, LN_WARPS = 4 };

int64_t gn_chunks(int64_t rows)
{
    int64_t n = ceil_div(rows, GN_CHUNK_ROWS);
    return n < GN_CHUNKS ? n : (int64_t)GN_CHUNKS;
}

struct GnArg {
    int64_t rows, c, chunk; /* rows of an item, channels, rows of a chunk */
    int width;              /* channels of a group */
};

/* dz of y = silu(z), or dy. */
template <bool SILU> __device__ __forceinline__ float gn_dz(float dy, float z)
{
    if (!SILU)
        return dy;
    float s = 1.0f / (1.0f + expf(-z));
    return dy * s * (1.0f + z * (1.0f - s));
}

/* Adds the two sums of the block's rows, in order, and stores them at part[item, chunk, 2, c]. One barrier: all threads come. */
template <int N> __device__ __forceinline__ void gn_store_sums(const float *s1, const float *s2, float *red, float *part, int64_t ch, int64_t c)
{
    int across = (int)blockDim.x, deep = (int)blockDim.y, tx = (int)threadIdx.x, ty = (int)threadIdx.y;
    for (int i = 0; i < N; i++) {
        red[(ty * across + tx) * N + i] = s1[i];
        red[(GN_BLOCK + ty * across + tx) * N + i] = s2[i];
    }
    BARRIER();
    if (ty > 0 || ch >= c)
        return;
    float *out = part + ((int64_t)blockIdx.z * gridDim.y + blockIdx.y) * 2 * c;
    for (int i = 0; i < N; i++) {
        float t1 = 0, t2 = 0;
        for (int y = 0; y < deep; y++) {
            t1 += red[(y * across + tx) * N + i];
            t2 += red[(GN_BLOCK + y * across + tx) * N + i];
        }
        out[ch + i] = t1;
        out[c + ch + i] = t2;
    }
}

/* part[item, chunk, 2, c]: forward: sums of x-k and (x-k)^2. Block: (channel packs, rows side by side). */
template <typename T, int N> __global__ void k_gn_sums(const T *x, float *part, GnArg a)
{
    SHARED(float, red, 2 * GN_BLOCK * N);
    int across = (int)blockDim.x, deep = (int)blockDim.y, tx = (int)threadIdx.x, ty = (int)threadIdx.y;
    int64_t ch = ((int64_t)blockIdx.x * across + tx) * N, item = blockIdx.z, first = (int64_t)blockIdx.y * a.chunk;
    int64_t last = min(first + a.chunk, a.rows);
    const T *p = x + item * a.rows * a.c;
    float s1[N], s2[N], k[N], v[N];
    for (int i = 0; i < N; i++) {
        s1[i] = s2[i] = 0;
        k[i] = ch + i < a.c ? load(p + (ch + i) / a.width * a.width) : 0;
    }
    if (ch < a.c)
        for (int64_t r = first + ty; r < last; r += deep) {
            load_n<T, N>(v, p + r * a.c + ch);
            for (int i = 0; i < N; i++) {
                float d = v[i] - k[i];
                s1[i] += d;
                s2[i] += d * d;
            }
        }
    gn_store_sums<N>(s1, s2, red, part, ch, a.c);
}

/* Warp per (item, group): lanes take channels, chunks in order. */
template <typename T>
__global__ void k_gn_stats(const T *x, const float *part, float *mean, float *rstd, int64_t n, int64_t chunks, int groups, float eps, GnArg a)
{
    int64_t i = (int64_t)blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    int lane = (int)threadIdx.x % 32;
    if (i >= n)
        return;
    int64_t item = i / groups, c0 = i % groups * a.width;
    float s1 = 0, s2 = 0;
    for (int ch = lane; ch < a.width; ch += 32)
        for (int64_t k = 0; k < chunks; k++) {
            const float *p = part + (item * chunks + k) * 2 * a.c + c0 + ch;
            s1 += p[0];
            s2 += p[a.c];
        }
    s1 = warp_sum(s1);
    s2 = warp_sum(s2);
    if (lane)
        return;
    float count = (float)a.rows * (float)a.width, d = s1 / count, v = s2 / count - d * d;
    mean[i] = load(x + item * a.rows * a.c + c0) + d;
    rstd[i] = 1.0f / sqrtf((v > 0 ? v : v <= 0 ? 0 : v) + eps);
}

template <typename T, int N, bool SILU>
__global__ void k_gn_apply(const T *x, const float *gamma, const float *beta, const float *mean, const float *rstd, T *y, int64_t items,
                           int groups, GnArg a)
{
    int64_t packs = a.c / N;
    for (int64_t j = grid_first(); j < items * a.rows * packs; j += grid_step()) {
        int64_t ch = j % packs * N, item = j / packs / a.rows;
        float v[N];
        load_n<T, N>(v, x + j * N);
        for (int i = 0; i < N; i++) {
            int64_t g = item * groups + (ch + i) / a.width;
            float z = (v[i] - mean[g]) * rstd[g] * gamma[ch + i] + beta[ch + i];
            v[i] = SILU ? z / (1.0f + expf(-z)) : z;
        }
        store_n<T, N>(y + j * N, v);
    }
}

/* part[item, chunk, 2, c]: sums of dz and dz * xhat. */
template <typename T, int N, bool SILU>
__global__ void k_gn_bwd_sums(const T *dy, const T *x, const float *gamma, const float *beta, const float *mean, const float *rstd,
                              float *part, int groups, GnArg a)
{
    SHARED(float, red, 2 * GN_BLOCK * N);
    int across = (int)blockDim.x, deep = (int)blockDim.y, tx = (int)threadIdx.x, ty = (int)threadIdx.y;
    int64_t ch = ((int64_t)blockIdx.x * across + tx) * N, item = blockIdx.z, first = (int64_t)blockIdx.y * a.chunk;
    int64_t last = min(first + a.chunk, a.rows);
    float s1[N], s2[N], m[N], rs[N], ga[N], be[N], v[N], d[N];
    for (int i = 0; i < N; i++) {
        int64_t c = min(ch + i, a.c - 1), g = item * groups + c / a.width;
        s1[i] = s2[i] = 0;
        m[i] = mean[g], rs[i] = rstd[g], ga[i] = gamma[c], be[i] = beta[c];
    }
    if (ch < a.c)
        for (int64_t r = first + ty; r < last; r += deep) {
            int64_t at = (item * a.rows + r) * a.c + ch;
            load_n<T, N>(v, x + at);
            load_n<T, N>(d, dy + at);
            for (int i = 0; i < N; i++) {
                float h = (v[i] - m[i]) * rs[i], dz = gn_dz<SILU>(d[i], h * ga[i] + be[i]);
                s1[i] += dz;
                s2[i] += dz * h;
            }
        }
    gn_store_sums<N>(s1, s2, red, part, ch, a.c);
}

/* sums[item, 2, c] = part over chunks; then dgamma, dbeta over items and the two group sums per (item, group). */
__global__ void k_gn_bwd_items(const float *part, float *sums, int64_t items, int64_t chunks, int64_t c2)
{
    for (int64_t i = grid_first(); i < items * c2; i += grid_step()) {
        float s = 0;
        for (int64_t k = 0; k < chunks; k++)
            s += part[(i / c2 * chunks + k) * c2 + i % c2];
        sums[i] = s;
    }
}

__global__ void k_gn_bwd_params(const float *sums, float *dgamma, float *dbeta, int64_t items, int64_t c)
{
    for (int64_t i = grid_first(); i < c; i += grid_step()) {
        float b = 0, g = 0;
        for (int64_t n = 0; n < items; n++) {
            b += sums[n * 2 * c + i];
            g += sums[n * 2 * c + c + i];
        }
        if (dbeta)
            dbeta[i] = b;
        dgamma[i] = g;
    }
}

__global__ void k_gn_bwd_groups(const float *sums, const float *gamma, float *group, int64_t n, int groups, GnArg a)
{
    int64_t i = (int64_t)blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    int lane = (int)threadIdx.x % 32;
    if (i >= n)
        return;
    int64_t item = i / groups, c0 = i % groups * a.width;
    float s1 = 0, s2 = 0;
    for (int ch = lane; ch < a.width; ch += 32) {
        s1 += gamma[c0 + ch] * sums[item * 2 * a.c + c0 + ch];
        s2 += gamma[c0 + ch] * sums[item * 2 * a.c + a.c + c0 + ch];
    }
    s1 = warp_sum(s1);
    s2 = warp_sum(s2);
    if (lane)
        return;
    float count = (float)a.rows * (float)a.width;
    group[2 * i] = s1 / count;
    group[2 * i + 1] = s2 / count;
}

template <typename T, int N, bool SILU>
__global__ void k_gn_bwd_apply(const T *dy, const T *x, const float *gamma, const float *beta, const float *mean, const float *rstd,
                               const float *group, T *dx, int64_t items, int groups, GnArg a)
{
    int64_t packs = a.c / N;
    for (int64_t j = grid_first(); j < items * a.rows * packs; j += grid_step()) {
        int64_t ch = j % packs * N, item = j / packs / a.rows;
        float v[N], d[N];
        load_n<T, N>(v, x + j * N);
        load_n<T, N>(d, dy + j * N);
        for (int i = 0; i < N; i++) {
            int64_t g = item * groups + (ch + i) / a.width;
            float h = (v[i] - mean[g]) * rstd[g], ga = gamma[ch + i];
            float dz = gn_dz<SILU>(d[i], h * ga + beta[ch + i]);
            v[i] = rstd[g] * (dz * ga - group[2 * g] - h * group[2 * g + 1]);
        }
        store_n<T, N>(dx + j * N, v);
    }
}

/* ---- rows: one warp each; the row is read again for each pass, from cache. RMS norm: mean NULL (0), beta NULL (0) ---- */

template <typename T, int N>
__global__ void k_layer_norm(const T *x, const float *gamma, const float *beta, T *y, float *mean, float *rstd, int64_t rows, int64_t c, float eps)
{
    int64_t r = (int64_t)blockIdx.x * LN_WARPS + threadIdx.x / 32;
    int lane = (int)threadIdx.x % 32;
    if (r >= rows)
        return;
    const T *p = x + r * c;
    float v[N], s = 0, q = 0;
    for (int64_t i = lane * N; mean && i < c; i += 32 * N) {
        load_n<T, N>(v, p + i);
        for (int k = 0; k < N; k++)
            s += v[k];
    }
    float m = mean ? warp_sum(s) / (float)c : 0.0f;
    for (int64_t i = lane * N; i < c; i += 32 * N) {
        load_n<T, N>(v, p + i);
        for (int k = 0; k < N; k++)
            q += (v[k] - m) * (v[k] - m);
    }
    float rs = 1.0f / sqrtf(warp_sum(q) / (float)c + eps);
    for (int64_t i = lane * N; i < c; i += 32 * N) {
        load_n<T, N>(v, p + i);
        for (int k = 0; k < N; k++)
            v[k] = (v[k] - m) * rs * gamma[i + k] + (beta ? beta[i + k] : 0.0f);
        store_n<T, N>(y + r * c + i, v);
    }
    if (lane == 0) {
        if (mean)
            mean[r] = m;
        rstd[r] = rs;
    }
}

template <typename T, int N>
__global__ void k_layer_norm_bwd(const T *dy, const T *x, const float *gamma, const float *mean, const float *rstd, T *dx, int64_t rows, int64_t c)
{
    int64_t r = (int64_t)blockIdx.x * LN_WARPS + threadIdx.x / 32;
    int lane = (int)threadIdx.x % 32;
    if (r >= rows)
        return;
    float v[N], d[N], s1 = 0, s2 = 0, m = mean ? mean[r] : 0.0f, rs = rstd[r];
    for (int64_t i = lane * N; i < c; i += 32 * N) {
        load_n<T, N>(v, x + r * c + i);
        load_n<T, N>(d, dy + r * c + i);
        for (int k = 0; k < N; k++) {
            float w = d[k] * gamma[i + k];
            s1 += w;
            s2 += w * (v[k] - m) * rs;
        }
    }
    s1 = mean ? warp_sum(s1) / (float)c : 0.0f;
    s2 = warp_sum(s2) / (float)c;
    for (int64_t i = lane * N; i < c; i += 32 * N) {
        load_n<T, N>(v, x + r * c + i);
        load_n<T, N>(d, dy + r * c + i);
        for (int k = 0; k < N; k++)
            v[k] = rs * (d[k] * gamma[i + k] - s1 - (v[k] - m) * rs * s2);
        store_n<T, N>(dx + r * c + i, v);
    }
}

/* part[chunk, 2, c]: thread per channel. */
template <typename T>
__global__ void k_ln_bwd_params(const T *dy, const T *x, const float *mean, const float *rstd, float *part, int64_t rows, int64_t c, int64_t chunk)
{
    int64_t ch = (int64_t)blockIdx.x * blockDim.x + threadIdx.x, first = (int64_t)blockIdx.y * chunk;
    if (ch >= c)
        return;
    int64_t last = min(first + chunk, rows);
    float g = 0, b = 0;
    for (int64_t r = first; r < last; r++) {
        float d = load(dy + r * c + ch);
        b += d;
        g += d * (load(x + r * c + ch) - (mean ? mean[r] : 0.0f)) * rstd[r];
    }
    part[(int64_t)blockIdx.y * 2 * c + ch] = b;
    part[(int64_t)blockIdx.y * 2 * c + c + ch] = g;
}

template <typename T, int N> __global__ void k_l2_norm(const T *x, T *y, float *norm, int64_t rows, int64_t c)
{
    int64_t r = (int64_t)blockIdx.x * LN_WARPS + threadIdx.x / 32;
    int lane = (int)threadIdx.x % 32;
    if (r >= rows)
        return;
    float v[N], s = 0;
    for (int64_t i = lane * N; i < c; i += 32 * N) {
        load_n<T, N>(v, x + r * c + i);
        for (int k = 0; k < N; k++)
            s += v[k] * v[k];
    }
    float l = sqrtf(warp_sum(s));
    l = l > 1e-12f ? l : l <= 1e-12f ? 1e-12f : l;
    for (int64_t i = lane * N; i < c; i += 32 * N) {
        load_n<T, N>(v, x + r * c + i);
        for (int k = 0; k < N; k++)
            v[k] /= l;
        store_n<T, N>(y + r * c + i, v);
    }
    if (lane == 0)
        norm[r] = l;
}

template <typename T, int N> __global__ void k_l2_norm_bwd(const T *dy, const T *y, const float *norm, T *dx, int64_t rows, int64_t c)
{
    int64_t r = (int64_t)blockIdx.x * LN_WARPS + threadIdx.x / 32;
    int lane = (int)threadIdx.x % 32;
    if (r >= rows)
        return;
    float v[N], d[N], s = 0, l = norm[r];
    if (l > 1e-12f)
        for (int64_t i = lane * N; i < c; i += 32 * N) {
            load_n<T, N>(v, y + r * c + i);
            load_n<T, N>(d, dy + r * c + i);
            for (int k = 0; k < N; k++)
                s += v[k] * d[k];
        }
    s = warp_sum(s);
    for (int64_t i = lane * N; i < c; i += 32 * N) {
        load_n<T, N>(v, y + r * c + i);
        load_n<T, N>(d, dy + r * c + i);
        for (int k = 0; k < N; k++)
            v[k] = (d[k] - v[k] * s) / l;
        store_n<T, N>(dx + r * c + i, v);
    }
}

/* Threads across packs of channels, and rows side by side in what is left of the block. */
dim3 gn_block(int64_t packs)
{
    unsigned across = packs < GN_BLOCK ? (unsigned)packs : (unsigned)GN_BLOCK;
    return dim3(across, GN_BLOCK / across);
}

unsigned ln_grid(int64_t rows) { return (unsigned)ceil_div(rows, LN_WARPS); }

} // namespace

size_t kernel_group_norm_scratch(int64_t items, int64_t rows, int64_t c)
{
    return (size_t)(items * (gn_chunks(rows) + 1) * 2 * c + 2 * items * c) * sizeof(float);
}

void kernel_group_norm(int t, const void *x, const float *gamma, const float *beta, void *y, float *mean, float *rstd, int64_t items,
                       int64_t rows, int64_t c, int groups, float eps, int silu, void *scratch, void *stream)
{
    int64_t chunks = gn_chunks(rows), n = items * groups;
    GnArg a = {rows, c, ceil_div(rows, chunks), (int)(c / groups)};
    chunks = ceil_div(rows, a.chunk);
    float *part = (float *)scratch;
#define DO(T, N)                                                                                                                   \
    do {                                                                                                                           \
        dim3 block = gn_block(c / N), grid((unsigned)ceil_div(c / N, block.x), (unsigned)chunks, (unsigned)items);                 \
        LAUNCH((k_gn_sums<T, N>), grid, block, 0, stream, (const T *)x, part, a);                                                  \
        LAUNCH((k_gn_stats<T>), (unsigned)ceil_div(n, 4), 128, 0, stream, (const T *)x, part, mean, rstd, n, chunks, groups, eps, a); \
        if (silu)                                                                                                                  \
            LAUNCH((k_gn_apply<T, N, true>), grid_for(items * rows * (c / N)), GRID_BLOCK, 0, stream, (const T *)x, gamma, beta,   \
                   mean, rstd, (T *)y, items, groups, a);                                                                          \
        else                                                                                                                       \
            LAUNCH((k_gn_apply<T, N, false>), grid_for(items * rows * (c / N)), GRID_BLOCK, 0, stream, (const T *)x, gamma, beta,  \
                   mean, rstd, (T *)y, items, groups, a);                                                                          \
    } while (0)
    EACH_TYPE_PACK(t, c, DO);
#undef DO
}

template <typename T, int N, bool SILU>
static void group_norm_bwd(const void *dy, const void *x, const float *gamma, const float *beta, const float *mean, const float *rstd,
                           void *dx, float *dgamma, float *dbeta, int64_t items, int groups, GnArg a, void *scratch, void *stream)
{
    int64_t chunks = ceil_div(a.rows, a.chunk), n = items * groups;
    float *part = (float *)scratch, *sums = part + items * gn_chunks(a.rows) * 2 * a.c, *group = sums + items * 2 * a.c;
    dim3 block = gn_block(a.c / N), grid((unsigned)ceil_div(a.c / N, block.x), (unsigned)chunks, (unsigned)items);
    LAUNCH((k_gn_bwd_sums<T, N, SILU>), grid, block, 0, stream, (const T *)dy, (const T *)x, gamma, beta, mean, rstd, part, groups, a);
    LAUNCH(k_gn_bwd_items, grid_for(items * 2 * a.c), GRID_BLOCK, 0, stream, part, sums, items, chunks, 2 * a.c);
    LAUNCH(k_gn_bwd_params, grid_for(a.c), GRID_BLOCK, 0, stream, sums, dgamma, dbeta, items, a.c);
    LAUNCH(k_gn_bwd_groups, (unsigned)ceil_div(n, 4), 128, 0, stream, sums, gamma, group, n, groups, a);
    LAUNCH((k_gn_bwd_apply<T, N, SILU>), grid_for(items * a.rows * (a.c / N)), GRID_BLOCK, 0, stream, (const T *)dy, (const T *)x,
           gamma, beta, mean, rstd, group, (T *)dx, items, groups, a);
}

void kernel_group_norm_bwd(int t, const void *dy, const void *x, const float *gamma, const float *beta, const float *mean,
                           const float *rstd, void *dx, float *dgamma, float *dbeta, int64_t items, int64_t rows, int64_t c,
                           int groups, int silu, void *scratch, void *stream)
{
    GnArg a = {rows, c, ceil_div(rows, gn_chunks(rows)), (int)(c / groups)};
#define DO(T, N)                                                                                                                  \
    do {                                                                                                                          \
        if (silu)                                                                                                                 \
            group_norm_bwd<T, N, true>(dy, x, gamma, beta, mean, rstd, dx, dgamma, dbeta, items, groups, a, scratch, stream);     \
        else                                                                                                                      \
            group_norm_bwd<T, N, false>(dy, x, gamma, beta, mean, rstd, dx, dgamma, dbeta, items, groups, a, scratch, stream);    \
    } while (0)
    EACH_TYPE_PACK(t, c, DO);
#undef DO
}

void kernel_layer_norm(int t, const void *x, const float *gamma, const float *beta, void *y, float *mean, float *rstd, int64_t rows,
                       int64_t c, float eps, void *stream)
{
#define DO(T, N) \
    LAUNCH((k_layer_norm<T, N>), ln_grid(rows), LN_WARPS * 32, 0, stream, (const T *)x, gamma, beta, (T *)y, mean, rstd, rows, c, eps)
    EACH_TYPE_PACK(t, c, DO);
#undef DO
}

size_t kernel_layer_norm_bwd_scratch(int64_t rows, int64_t c) { return (size_t)(gn_chunks(rows) + 1) * 2 * (size_t)c * sizeof(float); }

void kernel_layer_norm_bwd(int t, const void *dy, const void *x, const float *gamma, const float *mean, const float *rstd, void *dx,
                           float *dgamma, float *dbeta, int64_t rows, int64_t c, void *scratch, void *stream)
{
    int64_t chunk = ceil_div(rows, gn_chunks(rows)), chunks = ceil_div(rows, chunk);
    float *part = (float *)scratch, *sums = part + chunks * 2 * c;
    dim3 grid((unsigned)ceil_div(c, 64), (unsigned)chunks);
#define DO(T) LAUNCH((k_ln_bwd_params<T>), grid, 64, 0, stream, (const T *)dy, (const T *)x, mean, rstd, part, rows, c, chunk)
    EACH_TYPE(t, DO);
#undef DO
    LAUNCH(k_gn_bwd_items, grid_for(2 * c), GRID_BLOCK, 0, stream, part, sums, (int64_t)1, chunks, 2 * c);
    LAUNCH(k_gn_bwd_params, grid_for(c), GRID_BLOCK, 0, stream, sums, dgamma, dbeta, (int64_t)1, c);
#define DO(T, N)                                                                                                                  \
    LAUNCH((k_layer_norm_bwd<T, N>), ln_grid(rows), LN_WARPS * 32, 0, stream, (const T *)dy, (const T *)x, gamma, mean, rstd, (T *)dx, \
           rows, c)
    EACH_TYPE_PACK(t, c, DO);
#undef DO
}

void kernel_l2_norm(int t, const void *x, void *y, float *norm, int64_t rows, int64_t c, void *stream)
{
#define DO(T, N) LAUNCH((k_l2_norm<T, N>), ln_grid(rows), LN_WARPS * 32, 0, stream, (const T *)x, (T *)y, norm, rows, c)
    EACH_TYPE_PACK(t, c, DO);
#undef DO
}

void kernel_l2_norm_bwd(int t, const void *dy, const void *y, const float *norm, void *dx, int64_t rows, int64_t c, void *stream)
{
#define DO(T, N) \
    LAUNCH((k_l2_norm_bwd<T, N>), ln_grid(rows), LN_WARPS * 32, 0, stream, (const T *)dy, (const T *)y, norm, (T *)dx, rows, c)
    EACH_TYPE_PACK(t, c, DO);
#undef DO
}
