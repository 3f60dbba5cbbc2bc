/* See wrappers.h. Compiled by nvcc for the GPU and by g++ for the emulated device. */
#include "device.h"
#include "philox.h"
#include "wrappers.h"

namespace {

__device__ uint32_t bits_of(float v) { return v != v ? 0x7fc00000u : __float_as_uint(v); }

__global__ void k_bf16(const uint32_t *in, uint32_t *out)
{
    uint32_t i = threadIdx.x;
    bf16 v = f32_to_bf16(__uint_as_float(in[i]));
    out[2 * i] = v.bits;
    out[2 * i + 1] = __float_as_uint(bf16_to_f32(v));
}

/* The word as a float to f16, its low half as f16 to float. */
__global__ void k_f16(const uint32_t *in, uint32_t *out)
{
    uint32_t i = threadIdx.x;
    f16 low;
    low.bits = (uint16_t)in[i];
    out[2 * i] = f32_to_f16(__uint_as_float(in[i])).bits;
    out[2 * i + 1] = bits_of(f16_to_f32(low));
}

__global__ void k_pack(const uint32_t *in, uint32_t *out)
{
    uint32_t i = threadIdx.x;
    out[i] = pack_bf16(__uint_as_float(in[2 * i]), __uint_as_float(in[2 * i + 1]));
}

/* Two warps: values, then lanes. */
__global__ void k_shuffle(const uint32_t *in, uint32_t *out)
{
    uint32_t i = threadIdx.x;
    float v = __uint_as_float(in[i]);
    for (int k = 0; k < 5; k++)
        out[(uint32_t)k * 64 + i] = __float_as_uint(warp_xor(v, 1 << k));
    out[320 + i] = __float_as_uint(warp_get(v, (int)in[64 + i]));
    out[384 + i] = (uint32_t)warp_get((int)in[i], (int)(in[64 + i] + 7) % 32);
}

/* Fragments in the order of lanes: a 4 words, b 2, c 4. */
__global__ void k_mma(const uint32_t *in, uint32_t *out)
{
    uint32_t l = threadIdx.x, a[4], b[2];
    float d[4];
    for (int k = 0; k < 4; k++) {
        a[k] = in[l * 4 + k];
        d[k] = __uint_as_float(in[192 + l * 4 + k]);
    }
    for (int k = 0; k < 2; k++)
        b[k] = in[128 + l * 2 + k];
    mma_16816(d, a, b);
    for (int k = 0; k < 4; k++)
        out[l * 4 + k] = __float_as_uint(d[k]);
}

/* Rows of 16 elements, 24 apart in shared memory: four matrices side by side and below each other, plain, then transposed. */
__global__ void k_ldmatrix(const uint32_t *in, uint32_t *out)
{
    SHARED(uint4, tile, 64 * 3);
    uint32_t l = threadIdx.x, r[4];
    uint32_t *words = reinterpret_cast<uint32_t *>(tile);
    for (uint32_t i = l; i < 512; i += 32)
        words[i / 8 * 12 + i % 8] = in[i];
    BARRIER();
    const uint32_t *row = words + (l % 16 + 16) * 12 + l / 16 * 4;
    ldmatrix_x4(r, row);
    for (uint32_t k = 0; k < 4; k++)
        out[l * 4 + k] = r[k];
    ldmatrix_x4_trans(r, row);
    for (uint32_t k = 0; k < 4; k++)
        out[128 + l * 4 + k] = r[k];
}

/* Three groups of one copy per thread, of an even number of bytes up to 16; the first two are read while the third is under way. */
__global__ void k_copy_async(const uint32_t *in, uint32_t *out)
{
    SHARED(uint4, to, 96);
    uint32_t l = threadIdx.x;
    const uint32_t *got = reinterpret_cast<const uint32_t *>(to);
    for (uint32_t g = 0; g < 3; g++) {
        copy_async_16(to + g * 32 + l, in + g * 128 + l * 4, (int)((l + g * 3) % 9 * 2));
        copy_commit();
    }
    copy_wait<1>();
    for (uint32_t k = 0; k < 4; k++) {
        out[l * 4 + k] = got[l * 4 + k];
        out[128 + l * 4 + k] = got[128 + l * 4 + k];
    }
    copy_wait<0>();
    BARRIER();
    uint32_t other = (l + 5) % 32; /* what another thread copied */
    for (uint32_t k = 0; k < 4; k++) {
        out[256 + other * 4 + k] = got[256 + other * 4 + k];
        out[384 + l * 4 + k] = got[other * 4 + k];
    }
}

__global__ void k_reduce(const uint32_t *in, uint32_t *out)
{
    SHARED(float, red, 32);
    uint32_t i = threadIdx.x;
    float v = __uint_as_float(in[i]);
    out[i] = __float_as_uint(warp_sum(v));
    out[96 + i] = __float_as_uint(warp_max(v));
    out[192 + i] = __float_as_uint(block_sum(v, red));
}

/* 16 bytes at a time: floats through registers, floats to bf16, bf16 to floats. */
__global__ void k_vectors(const uint32_t *in, uint32_t *out)
{
    uint32_t i = threadIdx.x;
    float v[8];
    load_pack(v, reinterpret_cast<const float *>(in) + i * 8);
    store_pack(reinterpret_cast<float *>(out) + i * 4, v);
    load_pack(v + 4, reinterpret_cast<const float *>(in) + i * 8 + 4);
    store_pack(reinterpret_cast<bf16 *>(out + 128) + i * 8, v);
    load_pack(v, reinterpret_cast<const bf16 *>(in + 128) + i * 8);
    if (i < 16)
        for (uint32_t k = 0; k < 8; k++)
            out[256 + i * 8 + k] = __float_as_uint(v[k]);
}

/* The far end of 96 KiB. */
enum { MUCH = 96 << 10 };
__global__ void k_shared(const uint32_t *in, uint32_t *out)
{
    SHARED_DYNAMIC(uint32_t, mem);
    uint32_t i = threadIdx.x, *end = mem + MUCH / 4 - 128;
    end[i] = in[i];
    mem[i] = 0;
    BARRIER();
    out[i] = end[127 - i];
}

__global__ void k_integers(const uint32_t *in, uint32_t *out)
{
    uint32_t i = threadIdx.x;
    const uint32_t *p = in + i * 4;
    Words w = philox(p[0], p[1], p[2], p[3], in[i], in[i + 1]);
    out[i * 4] = __umulhi(p[0], p[1]);
    out[i * 4 + 1] = w.w[0] ^ w.w[1];
    out[i * 4 + 2] = w.w[2] ^ w.w[3];
    out[i * 4 + 3] = __float_as_uint(word_uniform(w.w[0]));
}

__global__ void k_math(const uint32_t *in, uint32_t *out)
{
    uint32_t i = threadIdx.x;
    float x = __uint_as_float(in[i]), y = __uint_as_float(in[255 - i]), f[MATH_COUNT];
    f[MATH_EXP] = expf(x);
    f[MATH_EXP2] = exp2f(x);
    f[MATH_LOG] = logf(fabsf(x));
    f[MATH_TANH] = tanhf(x);
    f[MATH_ERF] = erff(x);
    f[MATH_EXPM1] = expm1f(x);
    f[MATH_RSQRT] = rsqrtf(fabsf(x));
    f[MATH_SQRT] = sqrtf(fabsf(x));
    f[MATH_SIN] = sinf(x);
    f[MATH_COS] = cosf(x);
    f[MATH_FMA] = fmaf(x, y, 0.75f);
    f[MATH_DIVIDE] = x / y;
    f[MATH_FAST_EXP] = __expf(x);
    f[MATH_FAST_EXP2] = exp2_fast(x);
    f[MATH_FAST_DIVIDE] = __fdividef(x, y);
    f[MATH_MIN_MAX] = min(x, y) + max(x, 2.0f);
    for (uint32_t k = 0; k < MATH_COUNT; k++)
        out[k * 256 + i] = bits_of(f[k]);
}

} // namespace

void wrapper_run(int which, const void *in, void *out, void *stream)
{
    const uint32_t *x = (const uint32_t *)in;
    uint32_t *y = (uint32_t *)out;
    switch (which) {
    case WRAPPER_BF16: LAUNCH(k_bf16, 1, 256, 0, stream, x, y); break;
    case WRAPPER_F16: LAUNCH(k_f16, 1, 256, 0, stream, x, y); break;
    case WRAPPER_PACK: LAUNCH(k_pack, 1, 128, 0, stream, x, y); break;
    case WRAPPER_SHUFFLE: LAUNCH(k_shuffle, 1, 64, 0, stream, x, y); break;
    case WRAPPER_MMA: LAUNCH(k_mma, 1, 32, 0, stream, x, y); break;
    case WRAPPER_LDMATRIX: LAUNCH(k_ldmatrix, 1, 32, 0, stream, x, y); break;
    case WRAPPER_COPY_ASYNC: LAUNCH(k_copy_async, 1, 32, 0, stream, x, y); break;
    case WRAPPER_REDUCE: LAUNCH(k_reduce, 1, 96, 0, stream, x, y); break;
    case WRAPPER_VECTORS: LAUNCH(k_vectors, 1, 32, 0, stream, x, y); break;
    case WRAPPER_SHARED:
        allow_shared((const void *)(k_shared), MUCH);
        LAUNCH(k_shared, 1, 128, MUCH, stream, x, y);
        break;
    case WRAPPER_INTEGERS: LAUNCH(k_integers, 1, 63, 0, stream, x, y); break;
    default: LAUNCH(k_math, 1, 256, 0, stream, x, y); break;
    }
}
