/* Training state on the device: exact sums of gradients, optimizers, running average. Element-wise over chunks of all tensors at once, or
 * sums in the host code's fixed order; nothing is contracted, so the bits are those of src/comm/exact.c and src/cpu/optim*.c. */
#include "device.h"
#include "grid.h"
#include "kernels.h"

namespace {

enum { BLOCK = 256, WIDTH = 4, MAP = 256, QUANT = 256 /* OPTIM_BLOCK of src/ops/optim.h */ };

/* Up to four neighbours; `n` of them are there. */
__device__ __forceinline__ void load4(float v[4], const float *p, int n)
{
    if (n >= 4)
        load_pack(v, p);
    else
        for (int k = 0; k < 4; k++)
            v[k] = k < n ? p[k] : 0.0f;
}
__device__ __forceinline__ void store4(float *p, const float v[4], int n)
{
    if (n >= 4)
        store_pack(p, v);
    else
        for (int k = 0; k < 4; k++)
            if (k < n)
                p[k] = v[k];
}
__device__ __forceinline__ void load4(int64_t v[4], const int64_t *p, int n)
{
    if (n >= 4) {
        Pair64 a = *reinterpret_cast<const Pair64 *>(p), b = *reinterpret_cast<const Pair64 *>(p + 2);
        v[0] = a.x, v[1] = a.y, v[2] = b.x, v[3] = b.y;
    } else {
        for (int k = 0; k < 4; k++)
            v[k] = k < n ? p[k] : 0;
    }
}
__device__ __forceinline__ void store4(int64_t *p, const int64_t v[4], int n)
{
    if (n >= 4) {
        *reinterpret_cast<Pair64 *>(p) = Pair64{v[0], v[1]};
        *reinterpret_cast<Pair64 *>(p + 2) = Pair64{v[2], v[3]};
    } else {
        for (int k = 0; k < 4; k++)
            if (k < n)
                p[k] = v[k];
    }
}

__global__ void k_exact_add(const KernelChunk *chunk, const float *const *grad, int64_t *sum, int64_t limit, uint64_t *left_out,
                            uint64_t *large)
{
    const KernelChunk c = chunk[blockIdx.x];
    const float *g = grad[c.slot] + c.from;
    const int64_t most = (int64_t)1 << 62;
    int bad = 0, over = 0;
    for (int i = (int)threadIdx.x * WIDTH; i < c.count; i += BLOCK * WIDTH) {
        float v[4];
        int64_t s[4];
        load4(v, g + i, c.count - i);
        load4(s, sum + c.at + i, c.count - i);
        for (int k = 0; k < 4; k++) {
            bool fits = fabsf(v[k]) <= 0x1p20f; /* false for NaN */
            int64_t next = s[k] + round_i64((double)(fits ? v[k] : 0.0f) * 0x1p40);
            bool inside = next <= most && next >= -most;
            s[k] = inside ? next : s[k];
            bad += !(fits && inside);
            over += s[k] > limit || s[k] < -limit;
        }
        store4(sum + c.at + i, s, c.count - i);
    }
    if (bad)
        count_add(left_out + c.slot, (uint64_t)bad);
    if (over)
        count_add(large, (uint64_t)over);
}

__global__ void k_exact_to_float(float *out, const int64_t *sum, int64_t n, double scale)
{
    for (int64_t i = grid_first() * WIDTH; i < n; i += grid_step() * WIDTH) {
        int here = n - i < 4 ? (int)(n - i) : 4;
        int64_t s[4];
        float v[4];
        load4(s, sum + i, here);
        for (int k = 0; k < 4; k++)
            v[k] = (float)((double)s[k] * 0x1p-40 * scale);
        store4(out + i, v, here);
    }
}

/* The 16 chains of cpu/optim.c's tiles, four in each of four lanes. Products of floats are exact in double. */
template <int WHAT> __global__ void k_tile_sums(const float *x, const float *y, int64_t n, double *tile, int64_t tiles)
{
    int64_t t = grid_first() / 4;
    int part = (int)threadIdx.x % 4;
    int64_t first = t * KERNEL_TILE, last = t < tiles ? min(first + KERNEL_TILE, n) : first;
    double s[4] = {0, 0, 0, 0};
#pragma unroll 4
    for (int64_t i = first + part * 4; i < last; i += 16) {
        int here = last - i < 4 ? (int)(last - i) : 4;
        float v[4], w[4];
        load4(v, x + i, here);
        if constexpr (WHAT == KERNEL_SUM_PRODUCT)
            load4(w, y + i, here);
        for (int k = 0; k < 4; k++)
            s[k] += WHAT == KERNEL_SUM_ABS ? (double)fabsf(v[k]) : (double)v[k] * (double)(WHAT == KERNEL_SUM_PRODUCT ? w[k] : v[k]);
    }
    for (int k = 0; k < 4; k++) {
        s[k] += warp_xor(s[k], 2);
        s[k] += warp_xor(s[k], 1);
    }
    if (part == 0 && t < tiles)
        tile[t] = (s[0] + s[2]) + (s[1] + s[3]);
}

__device__ __forceinline__ float moment(float old, float beta, float keep, float x) { return add_rn(mul_rn(old, beta), mul_rn(x, keep)); }

__device__ __forceinline__ float adam_value(float p, float m, float v, const KernelRate &r, const KernelMoments &a)
{
    float change = m / add_rn(sqrtf(v) / a.root, a.eps);
    return add_rn(mul_rn(p, r.decay), -mul_rn(r.step, change));
}

__global__ void k_adamw(const KernelChunk *chunk, const KernelRate *rate, float *p, float *m, float *v, const float *grad, KernelMoments a)
{
    const KernelChunk c = chunk[blockIdx.x];
    const KernelRate r = rate[c.slot];
    for (int i = (int)threadIdx.x * WIDTH; i < c.count; i += BLOCK * WIDTH) {
        int n = c.count - i;
        float w[4], x[4], y[4], g[4];
        load4(g, grad + c.at + i, n);
        load4(x, m + c.state + i, n);
        load4(y, v + c.state + i, n);
        load4(w, p + c.at + i, n);
        for (int k = 0; k < 4; k++) {
            g[k] = mul_rn(g[k], a.scale);
            x[k] = moment(x[k], a.beta1, a.keep1, g[k]);
            y[k] = moment(y[k], a.beta2, a.keep2, mul_rn(g[k], g[k]));
            w[k] = adam_value(w[k], x[k], y[k], r, a);
        }
        store4(m + c.state + i, x, n);
        store4(v + c.state + i, y, n);
        store4(p + c.at + i, w, n);
    }
}

/* Index of the value of a rising map that is nearest. */
__device__ __forceinline__ uint32_t nearest(const float *map, float x)
{
    int low = 0, high = MAP - 1;
    while (high - low > 1) {
        int mid = (low + high) / 2;
        if (map[mid] <= x)
            low = mid;
        else
            high = mid;
    }
    return (uint32_t)(fabsf(x - map[low]) <= fabsf(x - map[high]) ? low : high);
}

/* Eight codes from p; `n` of them are there. */
__device__ __forceinline__ void load_codes(uint32_t code[2], const uint8_t *p, int n)
{
    if (n >= 8) {
        uint2 q = *reinterpret_cast<const uint2 *>(p);
        code[0] = q.x, code[1] = q.y;
        return;
    }
    code[0] = code[1] = 0;
#pragma unroll
    for (int k = 0; k < 8; k++)
        code[k / 4] |= (k < n ? (uint32_t)p[k] : 0u) << k % 4 * 8;
}
__device__ __forceinline__ void store_codes(uint8_t *p, const uint32_t code[2], int n)
{
    if (n >= 8) {
        uint2 q;
        q.x = code[0], q.y = code[1];
        *reinterpret_cast<uint2 *>(p) = q;
        return;
    }
#pragma unroll
    for (int k = 0; k < 8; k++)
        if (k < n)
            p[k] = (uint8_t)(code[k / 4] >> k % 4 * 8);
}

/* Codes of x over the warp's block of 256 values, and the block's maximum. */
__device__ __forceinline__ float quantize(uint32_t code[2], const float x[8], int n, const float *map)
{
    float top = 0;
    for (int k = 0; k < 8; k++)
        top = k < n ? max(top, fabsf(x[k])) : top;
    top = warp_max(top);
    top = top == 0 ? 1.0f : top;
    code[0] = code[1] = 0;
#pragma unroll
    for (int k = 0; k < 8; k++)
        code[k / 4] |= nearest(map, x[k] / top) << k % 4 * 8;
    return top;
}

/* The block's maximum, read by one lane alone since that lane writes the new one. */
__device__ __forceinline__ float old_top(const float *top, int lane) { return warp_get(lane == 0 ? *top : 0.0f, 0); }

/* A warp for each block of 256 values, eight per lane. */
__global__ void k_adamw8(const KernelChunk *chunk, const KernelRate *rate, const float *maps, float *p, uint8_t *m8, float *m_max,
                         uint8_t *v8, float *v_max, const float *grad, KernelMoments a)
{
    SHARED(float, map, 2 * MAP);
    const KernelChunk c = chunk[blockIdx.x];
    const KernelRate r = rate[c.slot];
    int lane = (int)threadIdx.x % 32;
    for (int i = (int)threadIdx.x; i < 2 * MAP; i += BLOCK)
        map[i] = maps[i];
    BARRIER();
    for (int b = (int)threadIdx.x / 32; b * QUANT < c.count; b += BLOCK / 32) {
        int i = b * QUANT + lane * 8, n = c.count - i;
        float g[8], x[8], y[8], w[8];
        uint32_t code[2][2];
        load_codes(code[0], m8 + c.state + i, n);
        load_codes(code[1], v8 + c.state + i, n);
        for (int k = 0; k < 8; k += 4) {
            load4(g + k, grad + c.at + i + k, n - k);
            load4(w + k, p + c.at + i + k, n - k);
        }
        float m_top = old_top(m_max + c.block + b, lane), v_top = old_top(v_max + c.block + b, lane);
#pragma unroll
        for (int k = 0; k < 8; k++) {
            float d = mul_rn(g[k], a.scale);
            x[k] = moment(mul_rn(map[code[0][k / 4] >> k % 4 * 8 & 255], m_top), a.beta1, a.keep1, d);
            y[k] = moment(mul_rn(map[MAP + (code[1][k / 4] >> k % 4 * 8 & 255)], v_top), a.beta2, a.keep2, mul_rn(d, d));
            w[k] = adam_value(w[k], x[k], y[k], r, a);
        }
        m_top = quantize(code[0], x, n, map);
        v_top = quantize(code[1], y, n, map + MAP);
        for (int k = 0; k < 8; k += 4)
            store4(p + c.at + i + k, w + k, n - k);
        store_codes(m8 + c.state + i, code[0], n);
        store_codes(v8 + c.state + i, code[1], n);
        if (lane == 0) {
            m_max[c.block + b] = m_top;
            v_max[c.block + b] = v_top;
        }
    }
}

__global__ void k_lion(const KernelChunk *chunk, const KernelRate *rate, float *p, float *m, const float *grad, KernelMoments a)
{
    const KernelChunk c = chunk[blockIdx.x];
    const KernelRate r = rate[c.slot];
    for (int i = (int)threadIdx.x * WIDTH; i < c.count; i += BLOCK * WIDTH) {
        int n = c.count - i;
        float w[4], x[4], g[4];
        load4(g, grad + c.at + i, n);
        load4(x, m + c.state + i, n);
        load4(w, p + c.at + i, n);
        for (int k = 0; k < 4; k++) {
            g[k] = mul_rn(g[k], a.scale);
            float u = moment(x[k], a.beta1, a.keep1, g[k]), sign = (float)((u > 0) - (u < 0));
            w[k] = add_rn(mul_rn(w[k], r.decay), -mul_rn(r.step, sign));
            x[k] = moment(x[k], a.beta2, a.keep2, g[k]);
        }
        store4(m + c.state + i, x, n);
        store4(p + c.at + i, w, n);
    }
}

__global__ void k_schedulefree(const KernelChunk *chunk, const KernelRate *rate, float *p, float *z, float *v, const float *grad,
                               KernelMoments a)
{
    const KernelChunk c = chunk[blockIdx.x];
    const KernelRate r = rate[c.slot];
    for (int i = (int)threadIdx.x * WIDTH; i < c.count; i += BLOCK * WIDTH) {
        int n = c.count - i;
        float y[4], x[4], s[4], g[4];
        load4(g, grad + c.at + i, n);
        load4(x, z + c.state + i, n);
        load4(s, v + c.state + i, n);
        load4(y, p + c.at + i, n);
        for (int k = 0; k < 4; k++) {
            g[k] = mul_rn(g[k], a.scale);
            s[k] = moment(s[k], a.beta2, a.keep2, mul_rn(g[k], g[k]));
            float u = add_rn(g[k] / add_rn(sqrtf(s[k] / a.root), a.eps), mul_rn(r.decay, y[k]));
            float moved = add_rn(y[k], mul_rn(a.weight, add_rn(x[k], -y[k])));
            y[k] = add_rn(moved, mul_rn(r.pull, u));
            x[k] = add_rn(x[k], -mul_rn(r.step, u));
        }
        store4(z + c.state + i, x, n);
        store4(v + c.state + i, s, n);
        store4(p + c.at + i, y, n);
    }
}

__global__ void k_prodigy_moments(float *m, float *v, float *s, const float *grad, int64_t n, KernelProdigy a)
{
    for (int64_t i = grid_first() * WIDTH; i < n; i += grid_step() * WIDTH) {
        int here = n - i < 4 ? (int)(n - i) : 4;
        float g[4], x[4], y[4], z[4];
        load4(g, grad + i, here);
        load4(x, m + i, here);
        load4(y, v + i, here);
        load4(z, s + i, here);
        for (int k = 0; k < 4; k++) {
            g[k] = mul_rn(g[k], a.scale);
            x[k] = moment(x[k], a.beta1, a.moment, g[k]);
            y[k] = moment(y[k], a.beta2, a.square, mul_rn(g[k], g[k]));
            z[k] = moment(z[k], a.beta3, a.weight, g[k]);
        }
        store4(m + i, x, here);
        store4(v + i, y, here);
        store4(s + i, z, here);
    }
}

__global__ void k_prodigy_values(float *p, const float *m, const float *v, int64_t n, KernelProdigy a)
{
    for (int64_t i = grid_first() * WIDTH; i < n; i += grid_step() * WIDTH) {
        int here = n - i < 4 ? (int)(n - i) : 4;
        float w[4], x[4], y[4];
        load4(x, m + i, here);
        load4(y, v + i, here);
        load4(w, p + i, here);
        for (int k = 0; k < 4; k++)
            w[k] = add_rn(mul_rn(w[k], a.decay), -mul_rn(a.lr, x[k] / add_rn(sqrtf(y[k]), a.eps)));
        store4(p + i, w, here);
    }
}

struct Follow {
    float rate;
    __device__ __forceinline__ float operator()(float average, float x) const { return add_rn(average, mul_rn(rate, add_rn(x, -average))); }
};

} // namespace

void kernel_exact_add(const KernelChunk *chunk, int64_t chunks, const float *const *grad, int64_t *sum, int64_t limit, uint64_t *left_out,
                      uint64_t *large, void *stream)
{
    LAUNCH(k_exact_add, (unsigned)chunks, BLOCK, 0, stream, chunk, grad, sum, limit, left_out, large);
}

void kernel_exact_to_float(float *out, const int64_t *sum, int64_t n, double scale, void *stream)
{
    LAUNCH(k_exact_to_float, grid_for(ceil_div(n, WIDTH)), GRID_BLOCK, 0, stream, out, sum, n, scale);
}

void kernel_tile_sums(int what, const float *x, const float *y, int64_t n, double *tile, void *stream)
{
    int64_t tiles = ceil_div(n, KERNEL_TILE);
    unsigned grid = (unsigned)ceil_div(tiles * 4, BLOCK);
    if (what == KERNEL_SUM_SQUARE)
        LAUNCH(k_tile_sums<KERNEL_SUM_SQUARE>, grid, BLOCK, 0, stream, x, y, n, tile, tiles);
    else if (what == KERNEL_SUM_PRODUCT)
        LAUNCH(k_tile_sums<KERNEL_SUM_PRODUCT>, grid, BLOCK, 0, stream, x, y, n, tile, tiles);
    else
        LAUNCH(k_tile_sums<KERNEL_SUM_ABS>, grid, BLOCK, 0, stream, x, y, n, tile, tiles);
}

void kernel_adamw(const KernelChunk *chunk, int64_t chunks, const KernelRate *rate, float *p, float *m, float *v, const float *grad,
                  const KernelMoments *a, void *stream)
{
    KernelMoments by_value = *a;
    LAUNCH(k_adamw, (unsigned)chunks, BLOCK, 0, stream, chunk, rate, p, m, v, grad, by_value);
}

void kernel_adamw8(const KernelChunk *chunk, int64_t chunks, const KernelRate *rate, const float *map, float *p, uint8_t *m8, float *m_max,
                   uint8_t *v8, float *v_max, const float *grad, const KernelMoments *a, void *stream)
{
    KernelMoments by_value = *a;
    LAUNCH(k_adamw8, (unsigned)chunks, BLOCK, 0, stream, chunk, rate, map, p, m8, m_max, v8, v_max, grad, by_value);
}

void kernel_lion(const KernelChunk *chunk, int64_t chunks, const KernelRate *rate, float *p, float *m, const float *grad,
                 const KernelMoments *a, void *stream)
{
    KernelMoments by_value = *a;
    LAUNCH(k_lion, (unsigned)chunks, BLOCK, 0, stream, chunk, rate, p, m, grad, by_value);
}

void kernel_schedulefree(const KernelChunk *chunk, int64_t chunks, const KernelRate *rate, float *p, float *z, float *v, const float *grad,
                         const KernelMoments *a, void *stream)
{
    KernelMoments by_value = *a;
    LAUNCH(k_schedulefree, (unsigned)chunks, BLOCK, 0, stream, chunk, rate, p, z, v, grad, by_value);
}

void kernel_prodigy_moments(float *m, float *v, float *s, const float *grad, int64_t n, const KernelProdigy *a, void *stream)
{
    KernelProdigy by_value = *a;
    LAUNCH(k_prodigy_moments, grid_for(ceil_div(n, WIDTH)), GRID_BLOCK, 0, stream, m, v, s, grad, n, by_value);
}

void kernel_prodigy_values(float *p, const float *m, const float *v, int64_t n, const KernelProdigy *a, void *stream)
{
    KernelProdigy by_value = *a;
    LAUNCH(k_prodigy_values, grid_for(ceil_div(n, WIDTH)), GRID_BLOCK, 0, stream, p, m, v, n, by_value);
}

void kernel_ema(float *average, const float *x, int64_t n, float rate, void *stream)
{
    map2(KERNEL_F32, average, x, average, n, Follow{rate}, stream);
}
