/* Element-wise kernels and the choice of type and width. Included by the .cu files after device.h. */
#ifndef KERNELS_GRID_H
#define KERNELS_GRID_H

#include "device.h"
#include "kernels.h"

enum { GRID_BLOCK = 256, GRID_MOST = 16384 };

static inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

static inline unsigned grid_for(int64_t threads)
{
    int64_t blocks = ceil_div(threads, GRID_BLOCK);
    return (unsigned)(blocks < 1 ? 1 : blocks > GRID_MOST ? (int64_t)GRID_MOST : blocks);
}
__device__ __forceinline__ int64_t grid_first() { return (int64_t)blockIdx.x * blockDim.x + threadIdx.x; }
__device__ __forceinline__ int64_t grid_step() { return (int64_t)gridDim.x * blockDim.x; }

template <typename T, int N> __device__ __forceinline__ void load_n(float *v, const T *p)
{
    if constexpr (N == 1)
        v[0] = load(p);
    else
        load_pack(v, p);
}
template <typename T, int N> __device__ __forceinline__ void store_n(T *p, const float *v)
{
    if constexpr (N == 1)
        store(p, v[0]);
    else
        store_pack(p, v);
}

/* DO(T, N): N elements make 16 bytes where the row length `c` allows, else 1. */
#define EACH_TYPE_PACK(t, c, DO)                  \
    do {                                          \
        if ((t) == KERNEL_F32 && (c) % 4 == 0)    \
            DO(float, 4);                         \
        else if ((t) == KERNEL_F32)               \
            DO(float, 1);                         \
        else if ((c) % 8 == 0)                    \
            DO(bf16, 8);                          \
        else                                      \
            DO(bf16, 1);                          \
    } while (0)

#define EACH_TYPE(t, DO)           \
    do {                           \
        if ((t) == KERNEL_F32)     \
            DO(float);             \
        else                       \
            DO(bf16);              \
    } while (0)

/* y[i] = f(x[i]); the tail shorter than 16 bytes one by one. x may be y. */
template <typename T, typename F> __global__ void k_map1(const T *x, T *y, int64_t n, F f)
{
    enum { N = Pack<T>::N };
    for (int64_t i = grid_first(); i < (n + N - 1) / N; i += grid_step()) {
        if ((i + 1) * N <= n) {
            float v[N];
            load_pack(v, x + i * N);
            for (int k = 0; k < N; k++)
                v[k] = f(v[k]);
            store_pack(y + i * N, v);
        } else {
            for (int64_t k = i * N; k < n; k++)
                store(y + k, f(load(x + k)));
        }
    }
}

template <typename T, typename F> __global__ void k_map2(const T *a, const T *b, T *y, int64_t n, F f)
{
    enum { N = Pack<T>::N };
    for (int64_t i = grid_first(); i < (n + N - 1) / N; i += grid_step()) {
        if ((i + 1) * N <= n) {
            float v[N], w[N];
            load_pack(v, a + i * N);
            load_pack(w, b + i * N);
            for (int k = 0; k < N; k++)
                v[k] = f(v[k], w[k]);
            store_pack(y + i * N, v);
        } else {
            for (int64_t k = i * N; k < n; k++)
                store(y + k, f(load(a + k), load(b + k)));
        }
    }
}

template <typename F> static void map1(int t, const void *x, void *y, int64_t n, F f, void *stream)
{
#define DO(T) LAUNCH((k_map1<T, F>), grid_for(n / Pack<T>::N + 1), GRID_BLOCK, 0, stream, (const T *)x, (T *)y, n, f)
    EACH_TYPE(t, DO);
#undef DO
}

template <typename F> static void map2(int t, const void *a, const void *b, void *y, int64_t n, F f, void *stream)
{
#define DO(T) \
    LAUNCH((k_map2<T, F>), grid_for(n / Pack<T>::N + 1), GRID_BLOCK, 0, stream, (const T *)a, (const T *)b, (T *)y, n, f)
    EACH_TYPE(t, DO);
#undef DO
}

#endif
