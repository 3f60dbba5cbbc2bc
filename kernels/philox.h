/* The counter-based numbers of src/base/rng.h (Philox4x32-10, Salmon et al., SC11) on the device: the same words and uniforms. */
#ifndef KERNELS_PHILOX_H
#define KERNELS_PHILOX_H

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

#endif
