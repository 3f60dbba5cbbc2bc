/* What every .cu file is written in: nvcc's CUDA C++, or the emulation of it in tests/emu (same kernels, g++).
 *
 * All inline PTX of the program is in this file, each instruction beside its emulated twin. Kernels use
 *   LAUNCH((kernel<args>), grid, block, shared bytes, stream, arguments...)
 *   SHARED(T, name, n)         static shared memory      SHARED_DYNAMIC(T, name)   the launch's dynamic shared memory
 *   BARRIER()                  __syncthreads             WARP_BARRIER()            __syncwarp of the whole warp
 * Fragment layouts of mma.m16n8k16 and ldmatrix: PTX ISA, "Matrix fragments for mma.m16n8k16" and "ldmatrix".
 */
#ifndef KERNELS_DEVICE_H
#define KERNELS_DEVICE_H

#include <stddef.h>
#include <stdint.h>

typedef struct bf16 {
    uint16_t bits;
} bf16;
typedef struct f16 { /* in casts only */
    uint16_t bits;
} f16;

#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#define LAUNCH(k, grid, block, shared, stream, ...) k<<<grid, block, shared, (cudaStream_t)(stream)>>>(__VA_ARGS__)
#define SHARED(T, name, n) __shared__ T name[n]
#define SHARED_DYNAMIC(T, name)                                  \
    extern __shared__ __align__(128) unsigned char name##_raw[]; \
    T *name = reinterpret_cast<T *>(name##_raw)
#define BARRIER() __syncthreads()
#define WARP_BARRIER() __syncwarp()
#define FULL_WARP 0xffffffffu

__device__ __forceinline__ float bf16_to_f32(bf16 v) { return __uint_as_float((uint32_t)v.bits << 16); }
__device__ __forceinline__ bf16 f32_to_bf16(float v)
{
    bf16 r;
    r.bits = __bfloat16_as_ushort(__float2bfloat16_rn(v));
    return r;
}
__device__ __forceinline__ float f16_to_f32(f16 v) { return __half2float(__ushort_as_half(v.bits)); }
__device__ __forceinline__ f16 f32_to_f16(float v)
{
    f16 r;
    r.bits = __half_as_ushort(__float2half_rn(v));
    return r;
}
/* lo in the low half. */
__device__ __forceinline__ uint32_t pack_bf16(float lo, float hi)
{
    uint32_t r;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(hi), "f"(lo));
    return r;
}
/* Products and sums that are not contracted to a fused multiply-add: the bits of the host code that is compiled without contraction. */
__device__ __forceinline__ float mul_rn(float a, float b) { return __fmul_rn(a, b); }
__device__ __forceinline__ float add_rn(float a, float b) { return __fadd_rn(a, b); }
__device__ __forceinline__ double mul_rn(double a, double b) { return __dmul_rn(a, b); }
__device__ __forceinline__ double add_rn(double a, double b) { return __dadd_rn(a, b); }
/* To the nearest whole number, ties to even; |v| < 2^63. */
__device__ __forceinline__ int64_t round_i64(double v) { return __double2ll_rn(v); }
__device__ __forceinline__ int round_i32(float v) { return __float2int_rn(v); }
__device__ __forceinline__ void count_add(uint64_t *p, uint64_t v) { (void)atomicAdd(reinterpret_cast<unsigned long long *>(p), v); }
template <typename T> __device__ __forceinline__ T warp_xor(T v, int mask) { return __shfl_xor_sync(FULL_WARP, v, mask); }
template <typename T> __device__ __forceinline__ T warp_get(T v, int lane) { return __shfl_sync(FULL_WARP, v, lane); }

/* d += a b: a 16x16 row-major, b 16x8 column-major, bf16; d f32. */
__device__ __forceinline__ void mma_16816(float d[4], const uint32_t a[4], const uint32_t b[2])
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
/* Four 8x8 matrices of 16-bit elements; lane l gives the address (16-byte aligned) of row l%8 of matrix l/8. */
__device__ __forceinline__ void ldmatrix_x4(uint32_t r[4], const void *row)
{
    uint32_t at = (uint32_t)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at) : "memory");
}
__device__ __forceinline__ void ldmatrix_x4_trans(uint32_t r[4], const void *row)
{
    uint32_t at = (uint32_t)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at) : "memory");
}
/* 16 bytes to shared memory in the background; only the first `bytes` (0..16, even) are read, the rest becomes 0. */
__device__ __forceinline__ void copy_async_16(void *shared, const void *global, int bytes)
{
    uint32_t at = (uint32_t)__cvta_generic_to_shared(shared);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(at), "l"(global), "r"(bytes) : "memory");
}
/* 2^v, within two units in the last place; 0 below 2^-126. */
__device__ __forceinline__ float exp2_fast(float v)
{
    float r;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(v));
    return r;
}
__device__ __forceinline__ void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
/* Until at most N committed groups of this thread are under way. A barrier must follow before other threads read. */
template <int N> __device__ __forceinline__ void copy_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory"); }

#else /* the emulated device */

#include <cmath>
#include <cstring>
#include <tuple>

#include "emu.h"

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __restrict__ __restrict
#define LAUNCH(k, grid, block, shared, stream, ...) \
    emu::launch(#k, (const void *)(k), grid, block, shared, stream, [args = std::make_tuple(__VA_ARGS__)] { /* values as of now */ \
        std::apply([](auto... a) { k(a...); }, args); \
    })
#define SHARED(T, name, n)         \
    static const char name##_key = 0; \
    T *name = static_cast<T *>(emu::shared_static(&name##_key, sizeof(T) * (n), alignof(T)))
#define SHARED_DYNAMIC(T, name) T *name = static_cast<T *>(emu::shared_dynamic(EMU_HERE))
#define BARRIER() emu::barrier(EMU_HERE)
#define WARP_BARRIER() emu::warp_meet(EMU_HERE, FULL_WARP, nullptr, nullptr, nullptr, true)
#define FULL_WARP 0xffffffffu
#define threadIdx (emu::self->thread)
#define blockIdx (emu::self->block)
#define blockDim (emu::self->block_dim)
#define gridDim (emu::self->grid_dim)

struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(8) uint2 { uint32_t x, y; };
struct alignas(16) uint4 { uint32_t x, y, z, w; };

static inline float bf16_to_f32(bf16 v)
{
    uint32_t u = (uint32_t)v.bits << 16;
    float f;
    memcpy(&f, &u, 4);
    return f;
}
static inline bf16 f32_to_bf16(float v)
{
    uint32_t u;
    memcpy(&u, &v, 4);
    bf16 r;
    r.bits = v != v ? 0x7fff : (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
    return r;
}
static inline float f16_to_f32(f16 v)
{
    int e = v.bits >> 10 & 31, m = v.bits & 1023;
    float f = e == 31 ? (m ? NAN : INFINITY) : ldexpf((float)(e ? m | 1024 : m), (e ? e : 1) - 25);
    return v.bits & 0x8000 ? -f : f;
}
static inline f16 f32_to_f16(float v)
{
    f16 r;
    int e;
    float a = fabsf(v);
    uint16_t sign = std::signbit(v) ? 0x8000 : 0;
    if (v != v)
        r.bits = 0x7fff;
    else if (a >= 65520.0f)
        r.bits = sign | 0x7c00;
    else { /* frexp: a = m 2^e, 0.5 <= m < 1; the last place is 2^(e-11), or 2^-24 */
        frexpf(a, &e);
        int last = a > 0 && e - 11 > -24 ? e - 11 : -24;
        int q = (int)nearbyintf(ldexpf(a, -last));
        r.bits = sign | (uint16_t)((last + 24) * 1024 + q);
    }
    return r;
}
static inline uint32_t pack_bf16(float lo, float hi) { return f32_to_bf16(lo).bits | (uint32_t)f32_to_bf16(hi).bits << 16; }
static inline uint32_t __float_as_uint(float v)
{
    uint32_t u;
    memcpy(&u, &v, 4);
    return u;
}
static inline float __uint_as_float(uint32_t u)
{
    float f;
    memcpy(&f, &u, 4);
    return f;
}
static inline float mul_rn(float a, float b) { return a * b; }
static inline float add_rn(float a, float b) { return a + b; }
static inline double mul_rn(double a, double b) { return a * b; }
static inline double add_rn(double a, double b) { return a + b; }
static inline int64_t round_i64(double v) { return (int64_t)rint(v); }
static inline int round_i32(float v) { return (int)nearbyintf(v); }
static inline void count_add(uint64_t *p, uint64_t v) { __atomic_fetch_add(p, v, __ATOMIC_RELAXED); }
static inline uint32_t __umulhi(uint32_t a, uint32_t b) { return (uint32_t)((uint64_t)a * b >> 32); }
static inline float rsqrtf(float v) { return 1.0f / sqrtf(v); }
static inline float exp2_fast(float v) { return v < -126 ? 0.0f : exp2f(v); }
static inline float __expf_(float v) { return expf(v); }
#define __expf __expf_
#define __fdividef(a, b) ((a) / (b))
template <typename T> static inline T min(T a, T b) { return a < b ? a : b; }
template <typename T> static inline T max(T a, T b) { return a > b ? a : b; }

template <typename T> static inline void emu_shuffle(emu::Operand op[32])
{
    T in[32];
    for (int l = 0; l < 32; l++)
        in[l] = *static_cast<T *>(op[l].data);
    for (int l = 0; l < 32; l++)
        *static_cast<T *>(op[l].data) = in[*static_cast<const int *>(op[l].arg) & 31];
}
template <typename T> static inline T emu_warp_get(T v, int lane, emu::Site at)
{
    emu::warp_meet(at, FULL_WARP, emu_shuffle<T>, &v, &lane);
    return v;
}
#define warp_get(v, lane) emu_warp_get(v, lane, EMU_HERE)
#define warp_xor(v, mask) emu_warp_get(v, emu::self->lane ^ (mask), EMU_HERE)

struct EmuMma {
    float *d;
    const uint32_t *a, *b;
};
inline float emu_half(uint32_t v, int high) { return __uint_as_float(high ? v & 0xffff0000u : v << 16); }
static inline void emu_mma_fn(emu::Operand op[32])
{
    float a[16][16], b[16][8];
    for (int l = 0; l < 32; l++) {
        const EmuMma *m = static_cast<const EmuMma *>(op[l].arg);
        int g = l / 4, t = l % 4;
        for (int i = 0; i < 8; i++)
            a[g + (i / 2 % 2) * 8][t * 2 + i % 2 + (i / 4) * 8] = emu_half(m->a[i / 2], i % 2);
        for (int i = 0; i < 4; i++)
            b[t * 2 + i % 2 + (i / 2) * 8][g] = emu_half(m->b[i / 2], i % 2);
    }
    for (int l = 0; l < 32; l++) {
        const EmuMma *m = static_cast<const EmuMma *>(op[l].arg);
        for (int i = 0; i < 4; i++) {
            int row = l / 4 + i / 2 * 8, col = l % 4 * 2 + i % 2;
            float sum = m->d[i];
            for (int k = 0; k < 16; k++)
                sum += a[row][k] * b[k][col];
            m->d[i] = sum;
        }
    }
}
static inline void emu_mma(float d[4], const uint32_t a[4], const uint32_t b[2], emu::Site at)
{
    EmuMma m = {d, a, b};
    emu::warp_meet(at, FULL_WARP, emu_mma_fn, nullptr, &m);
}
#define mma_16816(d, a, b) emu_mma(d, a, b, EMU_HERE)

template <bool TRANS> static inline void emu_ldmatrix_fn(emu::Operand op[32])
{
    for (int l = 0; l < 32; l++)
        for (int m = 0; m < 4; m++) {
            uint32_t v = 0;
            for (int h = 0; h < 2; h++) {
                int row = TRANS ? l % 4 * 2 + h : l / 4, col = TRANS ? l / 4 : l % 4 * 2 + h;
                uint16_t e;
                memcpy(&e, static_cast<const char *>(op[m * 8 + row].arg) + col * 2, 2);
                v |= (uint32_t)e << (16 * h);
            }
            static_cast<uint32_t *>(op[l].data)[m] = v;
        }
}
/* The reads are made by this lane first, so that TSan sees them. */
static inline void emu_ldmatrix(uint32_t r[4], const void *row, bool trans, emu::Site at)
{
    emu::shared_check(at, row, 16, 16);
    volatile const uint32_t *p = static_cast<const uint32_t *>(row);
    for (int i = 0; i < 4; i++)
        r[i] = p[i];
    emu::warp_meet(at, FULL_WARP, trans ? emu_ldmatrix_fn<true> : emu_ldmatrix_fn<false>, r, row);
}
#define ldmatrix_x4(r, row) emu_ldmatrix(r, row, false, EMU_HERE)
#define ldmatrix_x4_trans(r, row) emu_ldmatrix(r, row, true, EMU_HERE)
#define copy_async_16(shared, global, bytes) emu::copy_async(EMU_HERE, shared, global, 16, (size_t)(bytes))
#define copy_commit() emu::copy_commit()
template <int N> static inline void copy_wait() { emu::copy_wait(EMU_HERE, N); }
#endif

/* ---- the same on both ---- */

#ifndef __CUDACC__
extern "C" void emu_shared_limit(const void *kernel, size_t bytes);
#endif
/* Lets a kernel use more than 48 KiB of dynamic shared memory. */
static inline void allow_shared(const void *kernel, size_t bytes)
{
#ifdef __CUDACC__
    (void)cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
#else
    emu_shared_limit(kernel, bytes);
#endif
}

__device__ __forceinline__ float load(const float *p) { return *p; }
__device__ __forceinline__ float load(const bf16 *p) { return bf16_to_f32(*p); }
__device__ __forceinline__ float load(const f16 *p) { return f16_to_f32(*p); }
__device__ __forceinline__ void store(f16 *p, float v) { *p = f32_to_f16(v); }
__device__ __forceinline__ void store(float *p, float v) { *p = v; }
__device__ __forceinline__ void store(bf16 *p, float v) { *p = f32_to_bf16(v); }

/* 16 bytes of T as floats. */
template <typename T> struct Pack;
template <> struct Pack<float> {
    enum { N = 4 };
};
template <> struct Pack<bf16> {
    enum { N = 8 };
};
__device__ __forceinline__ void load_pack(float v[4], const float *p)
{
    float4 q = *reinterpret_cast<const float4 *>(p);
    v[0] = q.x, v[1] = q.y, v[2] = q.z, v[3] = q.w;
}
__device__ __forceinline__ void load_pack(float v[8], const bf16 *p)
{
    uint4 q = *reinterpret_cast<const uint4 *>(p);
    const uint32_t w[4] = {q.x, q.y, q.z, q.w};
    for (int i = 0; i < 4; i++) {
        v[2 * i] = __uint_as_float(w[i] << 16);
        v[2 * i + 1] = __uint_as_float(w[i] & 0xffff0000u);
    }
}
__device__ __forceinline__ void store_pack(float *p, const float v[4])
{
    float4 q;
    q.x = v[0], q.y = v[1], q.z = v[2], q.w = v[3];
    *reinterpret_cast<float4 *>(p) = q;
}
__device__ __forceinline__ void store_pack(bf16 *p, const float v[8])
{
    uint4 q;
    q.x = pack_bf16(v[0], v[1]), q.y = pack_bf16(v[2], v[3]), q.z = pack_bf16(v[4], v[5]), q.w = pack_bf16(v[6], v[7]);
    *reinterpret_cast<uint4 *>(p) = q;
}

struct alignas(16) Pair64 {
    int64_t x, y;
};

/* Sum over the warp in a fixed tree; the same in every lane. */
__device__ __forceinline__ float warp_sum(float v)
{
    for (int m = 16; m; m >>= 1)
        v += warp_xor(v, m);
    return v;
}
__device__ __forceinline__ float warp_max(float v)
{
    for (int m = 16; m; m >>= 1)
        v = max(v, warp_xor(v, m));
    return v;
}
/* Sum over the block, the same in every thread. red: 32 floats of shared memory; two barriers. */
__device__ __forceinline__ float block_sum(float v, float *red)
{
    int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32, warps = (int)(blockDim.x + 31) / 32;
    v = warp_sum(v);
    if (lane == 0)
        red[warp] = v;
    BARRIER();
    float s = 0;
    for (int w = 0; w < warps; w++)
        s += red[w];
    BARRIER();
    return s;
}

#endif
