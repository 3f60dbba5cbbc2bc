/* Training state on the device: exact sums of gradients, optimizers, running average. Element-wise over chunks of all tensors at once, or
 * sums in the host code's fixed order; nothing is contracted, so the bits are those of src/comm/exact.c and src/cpu/optim*.c. */
#include "device.h"
#include "grid.h"
#include "kernels.h"
#include "philox.h"

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

/* Values as they are kept: f32, or bf16. */
__device__ __forceinline__ void load_values(float v[4], const void *p, const KernelChunk &c, int i, int n)
{
    const char *first = static_cast<const char *>(p) + c.place;
    if (c.type == KERNEL_F32) {
        load4(v, reinterpret_cast<const float *>(first) + i, n);
        return;
    }
    const bf16 *q = reinterpret_cast<const bf16 *>(first) + i;
    if (n >= 4) {
        uint2 u = *reinterpret_cast<const uint2 *>(q);
        v[0] = __uint_as_float(u.x << 16), v[1] = __uint_as_float(u.x & 0xffff0000u);
        v[2] = __uint_as_float(u.y << 16), v[3] = __uint_as_float(u.y & 0xffff0000u);
    } else {
        for (int k = 0; k < 4; k++)
            v[k] = k < n ? bf16_to_f32(q[k]) : 0.0f;
    }
}

/* cpu_optim_round_bf16's upper halves. */
__device__ __forceinline__ uint32_t round_by_chance(float v, uint32_t word)
{
    uint32_t bits = __float_as_uint(v);
    return (bits & 0x7f800000u) == 0x7f800000u ? f32_to_bf16(v).bits : (bits + (word & 0xffff)) >> 16;
}
__device__ __forceinline__ void store_values(void *p, const float v[4], const KernelChunk &c, const KernelRate &r, int i, int n)
{
    char *first = static_cast<char *>(p) + c.place;
    if (c.type == KERNEL_F32) {
        store4(reinterpret_cast<float *>(first) + i, v, n);
        return;
    }
    bf16 *q = reinterpret_cast<bf16 *>(first) + i;
    Words w = stream_block(Stream{{r.round.key[0], r.round.key[1]}, {r.round.step[0], r.round.step[1]}}, (uint64_t)(c.from + i) / 4);
    uint32_t h[4];
    for (int k = 0; k < 4; k++)
        h[k] = round_by_chance(v[k], w.w[k]);
    if (n >= 4) {
        uint2 u;
        u.x = h[0] | h[1] << 16, u.y = h[2] | h[3] << 16;
        *reinterpret_cast<uint2 *>(q) = u;
    } else {
        for (int k = 0; k < 4; k++)
            if (k < n)
                q[k].bits = (uint16_t)h[k];
    }
}

__device__ __forceinline__ float moment(float old, float beta, float keep, float x) { return add_rn(mul_rn(old, beta), mul_rn(x, keep)); }

__device__ __forceinline__ float adam_value(float p, float m, float v, const KernelRate &r, const KernelMoments &a)
{
    float change = m / add_rn(sqrtf(v) / a.root, a.eps);
    return add_rn(mul_rn(p, r.decay), -mul_rn(r.step, change));
}

/* What a step makes of a value w with gradient g and the optimizer's x (and y). */
struct Adamw {
    enum { ARRAYS = 2 };
    __device__ __forceinline__ static void step(float &w, float &x, float &y, float g, const KernelRate &r, const KernelMoments &a)
    {
        x = moment(x, a.beta1, a.keep1, g);
        y = moment(y, a.beta2, a.keep2, mul_rn(g, g));
        w = adam_value(w, x, y, r, a);
    }
};
struct Lion {
    enum { ARRAYS = 1 };
    __device__ __forceinline__ static void step(float &w, float &x, float &, float g, const KernelRate &r, const KernelMoments &a)
    {
        float u = moment(x, a.beta1, a.keep1, g), sign = (float)((u > 0) - (u < 0));
        w = add_rn(mul_rn(w, r.decay), -mul_rn(r.step, sign));
        x = moment(x, a.beta2, a.keep2, g);
    }
};
struct ScheduleFree {
    enum { ARRAYS = 2 };
    __device__ __forceinline__ static void step(float &w, float &x, float &y, float g, const KernelRate &r, const KernelMoments &a)
    {
        y = moment(y, a.beta2, a.keep2, mul_rn(g, g));
        float u = add_rn(g / add_rn(sqrtf(y / a.root), a.eps), mul_rn(r.decay, w));
        float moved = add_rn(w, mul_rn(a.weight, add_rn(x, -w)));
        w = add_rn(moved, mul_rn(r.pull, u));
        x = add_rn(x, -mul_rn(r.step, u));
    }
};

template <typename Rule>
__global__ void k_optim(const KernelChunk *chunk, const KernelRate *rate, void *p, float *x, float *y, const float *grad, KernelMoments a)
{
    const KernelChunk c = chunk[blockIdx.x];
    const KernelRate r = rate[c.slot];
    for (int i = (int)threadIdx.x * WIDTH; i < c.count; i += BLOCK * WIDTH) {
        int n = c.count - i;
        float w[4], g[4], u[4], v[4];
        load4(g, grad + c.at + i, n);
        load4(u, x + c.state + i, n);
        if constexpr (Rule::ARRAYS > 1)
            load4(v, y + c.state + i, n);
        load_values(w, p, c, i, n);
        for (int k = 0; k < 4; k++)
            Rule::step(w[k], u[k], v[k], mul_rn(g[k], a.scale), r, a);
        store4(x + c.state + i, u, n);
        if constexpr (Rule::ARRAYS > 1)
            store4(y + c.state + i, v, n);
        store_values(p, w, c, r, i, n);
    }
}

__global__ void k_ema(const KernelChunk *chunk, float *average, const void *p, float rate)
{
    const KernelChunk c = chunk[blockIdx.x];
    for (int i = (int)threadIdx.x * WIDTH; i < c.count; i += BLOCK * WIDTH) {
        int n = c.count - i;
        float v[4], w[4];
        load4(v, average + c.at + i, n);
        load_values(w, p, c, i, n);
        for (int k = 0; k < 4; k++)
            v[k] = add_rn(v[k], mul_rn(rate, add_rn(w[k], -v[k])));
        store4(average + c.at + i, v, n);
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
__global__ void k_adamw8(const KernelChunk *chunk, const KernelRate *rate, const float *maps, void *p, uint8_t *m8, float *m_max,
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
            load_values(w + k, p, c, i + k, n - k);
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
            store_values(p, w + k, c, r, i + k, n - k);
        store_codes(m8 + c.state + i, code[0], n);
        store_codes(v8 + c.state + i, code[1], n);
        if (lane == 0) {
            m_max[c.block + b] = m_top;
            v_max[c.block + b] = v_top;
        }
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

void kernel_optim(int kind, const KernelChunk *chunk, int64_t chunks, const KernelRate *rate, void *p, float *x, float *y, const float *grad,
                  const KernelMoments *a, void *stream)
{
    KernelMoments by_value = *a;
    if (kind == KERNEL_LION)
        LAUNCH(k_optim<Lion>, (unsigned)chunks, BLOCK, 0, stream, chunk, rate, p, x, y, grad, by_value);
    else if (kind == KERNEL_SCHEDULEFREE)
        LAUNCH(k_optim<ScheduleFree>, (unsigned)chunks, BLOCK, 0, stream, chunk, rate, p, x, y, grad, by_value);
    else
        LAUNCH(k_optim<Adamw>, (unsigned)chunks, BLOCK, 0, stream, chunk, rate, p, x, y, grad, by_value);
}

void kernel_adamw8(const KernelChunk *chunk, int64_t chunks, const KernelRate *rate, const float *map, void *p, uint8_t *m8, float *m_max,
                   uint8_t *v8, float *v_max, const float *grad, const KernelMoments *a, void *stream)
{
    KernelMoments by_value = *a;
    LAUNCH(k_adamw8, (unsigned)chunks, BLOCK, 0, stream, chunk, rate, map, p, m8, m_max, v8, v_max, grad, by_value);
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

void kernel_ema(const KernelChunk *chunk, int64_t chunks, float *average, const void *p, float rate, void *stream)
{
    LAUNCH(k_ema, (unsigned)chunks, BLOCK, 0, stream, chunk, average, p, rate);
}
