/* The counter-based numbers of src/base/rng.h (Philox4x32-10, Salmon et al., SC11) on the device: the same words and uniforms. */
#ifndef KERNELS_PHILOX_H
#define KERNELS_PHILOX_H

#include <string.h>

#include "device.h"

struct Words {
    uint32_t w[4];
};

__device__ __forceinline__ Words philox(uint32_t x0, uint32_t x1, uint32_t x2, uint32_t x3, uint32_t k0, uint32_t k1)
{
    for (int round = 0; round < 10; round++) {
        uint32_t h0 = __umulhi(0xD2511F53u, x0), l0 = 0xD2511F53u * x0, h1 = __umulhi(0xCD9E8D57u, x2), l1 = 0xCD9E8D57u * x2;
        x0 = h1 ^ x1 ^ k0;
        x1 = l1;
        x2 = h0 ^ x3 ^ k1;
        x3 = l0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return Words{{x0, x1, x2, x3}};
}

/* rng_key and rng_block. */
struct Stream {
    uint32_t key[2], step[2];
};
__device__ __forceinline__ Stream stream_of(uint64_t seed, uint32_t purpose, uint64_t item, uint64_t step)
{
    Words s = philox(purpose, 0x41746c72u, (uint32_t)item, (uint32_t)(item >> 32), (uint32_t)seed, (uint32_t)(seed >> 32));
    return Stream{{s.w[0], s.w[1]}, {(uint32_t)step, (uint32_t)(step >> 32)}};
}
__device__ __forceinline__ Words stream_block(const Stream &s, uint64_t block)
{
    return philox((uint32_t)block, (uint32_t)(block >> 32), s.step[0], s.step[1], s.key[0], s.key[1]);
}
__device__ __forceinline__ float word_uniform(uint32_t w) { return (float)(w >> 8) * 0x1p-24f; }

/* rng_log, rng_sincos_turns and the pairs of rng_normal: the same operations in the same order, none contracted, so the same bits. */
__device__ __forceinline__ double exact_log(double x)
{
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    int e = (int)(bits >> 52) - 1023;
    bits = (bits & 0x000FFFFFFFFFFFFFull) | 0x3FF0000000000000ull;
    double m;
    memcpy(&m, &bits, sizeof m);
    if (m > 1.4142135623730951) {
        m *= 0.5;
        e++;
    }
    double f = m - 1.0, s = f / (2.0 + f), z = mul_rn(s, s), p = 1.0 / 23.0;
#pragma unroll
    for (int n = 21; n >= 3; n -= 2)
        p = add_rn(mul_rn(p, z), 1.0 / n);
    double hi = add_rn(f, -mul_rn(s, f));
    return add_rn(mul_rn((double)e, 0.6931471805599453), add_rn(hi, mul_rn(mul_rn(2.0 * s, z), p)));
}

__device__ __forceinline__ void exact_sincos(double turns, double *sine, double *cosine)
{
    double quarters = turns * 4.0;
    int q = (int)(quarters + 0.5);
    double x = mul_rn(quarters - (double)q, 1.5707963267948966), z = mul_rn(x, x);
    const double sines[] = {1.0 / 6227020800.0, -1.0 / 39916800.0, 1.0 / 362880.0, -1.0 / 5040.0, 1.0 / 120.0, -1.0 / 6.0};
    const double cosines[] = {-1.0 / 87178291200.0, 1.0 / 479001600.0, -1.0 / 3628800.0, 1.0 / 40320.0, -1.0 / 720.0, 1.0 / 24.0};
    double s = -1.0 / 1307674368000.0, c = 1.0 / 20922789888000.0;
#pragma unroll
    for (int i = 0; i < 6; i++) {
        s = add_rn(mul_rn(s, z), sines[i]);
        c = add_rn(mul_rn(c, z), cosines[i]);
    }
    s = add_rn(x, mul_rn(mul_rn(x, z), s));
    c = add_rn(1.0 - z * 0.5, mul_rn(mul_rn(z, z), c));
    *sine = (q & 1) == 0 ? ((q & 2) == 0 ? s : -s) : ((q & 2) == 0 ? c : -c);
    *cosine = (q & 1) == 0 ? ((q & 2) == 0 ? c : -c) : ((q & 2) == 0 ? -s : s);
}

__device__ __forceinline__ void normal_pair(float v[2], uint32_t a, uint32_t b)
{
    double r = sqrt(-2.0 * exact_log(((double)a + 0.5) * 0x1p-32)), s, c;
    exact_sincos((double)b * 0x1p-32, &s, &c);
    v[0] = (float)mul_rn(r, c);
    v[1] = (float)mul_rn(r, s);
}
/* Elements 4 block .. 4 block + 3 of a stream of normals. */
__device__ __forceinline__ void normal_block(float v[4], const Stream &s, uint64_t block)
{
    Words w = stream_block(s, block);
    normal_pair(v, w.w[0], w.w[1]);
    normal_pair(v + 2, w.w[2], w.w[3]);
}

#endif
