/* Element-wise activations: one pass, 16 bytes per thread and access. */
#include "device.h"
#include "grid.h"
#include "kernels.h"

namespace {

/* Values of Act in src/ops/op.h. */
enum { NONE, SILU, GELU, GELU_TANH, QUICK_GELU, RELU, SIGMOID, TANH, EXP };

__device__ __forceinline__ float sigmoid(float v) { return 1.0f / (1.0f + expf(-v)); }

template <int F> __device__ __forceinline__ float act(float v)
{
    switch (F) {
    case SILU: return v * sigmoid(v);
    case GELU: return 0.5f * v * (1.0f + erff(v * 0.70710678118654752f));
    case GELU_TANH: return 0.5f * v * (1.0f + tanhf(0.79788456080286536f * (v + 0.044715f * v * v * v)));
    case QUICK_GELU: return v * sigmoid(1.702f * v);
    case RELU: return v > 0 ? v : v < 0 ? 0 : v;
    case SIGMOID: return sigmoid(v);
    case TANH: return tanhf(v);
    case EXP: return expf(v);
    default: return v;
    }
}

template <int F> __device__ __forceinline__ float act_slope(float v)
{
    float s, u;
    switch (F) {
    case SILU: s = sigmoid(v); return s * (1.0f + v * (1.0f - s));
    case GELU: return 0.5f * (1.0f + erff(v * 0.70710678118654752f)) + v * 0.39894228040143268f * expf(-0.5f * v * v);
    case GELU_TANH:
        u = tanhf(0.79788456080286536f * (v + 0.044715f * v * v * v));
        return 0.5f * (1.0f + u) + 0.5f * v * (1.0f - u * u) * 0.79788456080286536f * (1.0f + 3.0f * 0.044715f * v * v);
    case QUICK_GELU: s = sigmoid(1.702f * v); return s * (1.0f + 1.702f * v * (1.0f - s));
    case RELU: return v > 0 ? 1.0f : v <= 0 ? 0.0f : v;
    case SIGMOID: s = sigmoid(v); return s * (1.0f - s);
    case TANH: u = tanhf(v); return 1.0f - u * u;
    case EXP: return expf(v);
    default: return 1.0f;
    }
}

template <int F> struct Forward {
    __device__ __forceinline__ float operator()(float v) const { return act<F>(v); }
};
template <int F> struct Backward {
    __device__ __forceinline__ float operator()(float dy, float v) const { return dy * act_slope<F>(v); }
};

} // namespace

#define EACH_ACT(DO)                                                                                                      \
    switch (f) {                                                                                                          \
    case SILU: DO(SILU); break;                                                                                           \
    case GELU: DO(GELU); break;                                                                                           \
    case GELU_TANH: DO(GELU_TANH); break;                                                                                 \
    case QUICK_GELU: DO(QUICK_GELU); break;                                                                               \
    case RELU: DO(RELU); break;                                                                                           \
    case SIGMOID: DO(SIGMOID); break;                                                                                     \
    case TANH: DO(TANH); break;                                                                                           \
    case EXP: DO(EXP); break;                                                                                             \
    default: DO(NONE); break;                                                                                             \
    }

void kernel_act(int t, const void *x, void *y, int64_t n, int f, void *stream)
{
#define DO(F) map1(t, x, y, n, Forward<F>(), stream)
    EACH_ACT(DO)
#undef DO
}

void kernel_act_bwd(int t, const void *dy, const void *x, void *dx, int64_t n, int f, void *stream)
{
#define DO(F) map2(t, dy, x, dx, n, Backward<F>(), stream)
    EACH_ACT(DO)
#undef DO
}

namespace {

/* N channels of x from c on and their gates, with the bias. */
template <typename T, int N>
__device__ __forceinline__ void load_gated(float a[N], float g[N], const T *row, const float *bias, int64_t width, int64_t c)
{
    load_n<T, N>(a, row + c);
    load_n<T, N>(g, row + width + c);
    if (bias)
        for (int k = 0; k < N; k++) {
            a[k] += bias[c + k];
            g[k] += bias[width + c + k];
        }
}

template <typename T, int N> __global__ void k_geglu(const T *x, const float *bias, T *y, int64_t rows, int64_t width)
{
    int64_t packs = width / N;
    for (int64_t i = grid_first(); i < rows * packs; i += grid_step()) {
        int64_t r = i / packs, c = i % packs * N;
        float a[N], g[N];
        load_gated<T, N>(a, g, x + r * 2 * width, bias, width, c);
        for (int k = 0; k < N; k++)
            a[k] *= act<GELU>(g[k]);
        store_n<T, N>(y + r * width + c, a);
    }
}

template <typename T, int N> __global__ void k_geglu_bwd(const T *dy, const T *x, const float *bias, T *dx, int64_t rows, int64_t width)
{
    int64_t packs = width / N;
    for (int64_t i = grid_first(); i < rows * packs; i += grid_step()) {
        int64_t r = i / packs, c = i % packs * N;
        float a[N], g[N], d[N];
        load_n<T, N>(d, dy + r * width + c);
        load_gated<T, N>(a, g, x + r * 2 * width, bias, width, c);
        for (int k = 0; k < N; k++) {
            float da = d[k] * act<GELU>(g[k]);
            g[k] = d[k] * a[k] * act_slope<GELU>(g[k]);
            a[k] = da;
        }
        store_n<T, N>(dx + r * 2 * width + c, a);
        store_n<T, N>(dx + r * 2 * width + width + c, g);
    }
}

} // namespace

void kernel_geglu(int t, const void *x, const float *bias, void *y, int64_t rows, int64_t width, void *stream)
{
#define DO(T, N) LAUNCH((k_geglu<T, N>), grid_for(rows * (width / N)), GRID_BLOCK, 0, stream, (const T *)x, bias, (T *)y, rows, width)
    EACH_TYPE_PACK(t, width, DO);
#undef DO
}

void kernel_geglu_bwd(int t, const void *dy, const void *x, const float *bias, void *dx, int64_t rows, int64_t width, void *stream)
{
#define DO(T, N) \
    LAUNCH((k_geglu_bwd<T, N>), grid_for(rows * (width / N)), GRID_BLOCK, 0, stream, (const T *)dy, (const T *)x, bias, (T *)dx, rows, width)
    EACH_TYPE_PACK(t, width, DO);
#undef DO
}
