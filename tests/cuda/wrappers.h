/* Each piece of PTX in kernels/device.h, and what kernels use beside it, alone in a kernel of one block (wrappers.cu). */
#ifndef TESTS_CUDA_WRAPPERS_H
#define TESTS_CUDA_WRAPPERS_H

/* X(name, words of input, words of output): words are 32 bits. */
#define WRAPPERS(X)                 \
    X(BF16, 256, 512)               \
    X(F16, 256, 512)                \
    X(PACK, 256, 128)               \
    X(SHUFFLE, 128, 448)            \
    X(MMA, 320, 128)                \
    X(LDMATRIX, 512, 256)           \
    X(COPY_ASYNC, 384, 512)         \
    X(REDUCE, 96, 288)              \
    X(VECTORS, 256, 384)            \
    X(SHARED, 128, 128)             \
    X(INTEGERS, 256, 256)           \
    X(MATH, 256, 4096)

enum { WRAPPER_MOST_IN = 512, WRAPPER_MOST_OUT = 4096 };

#define WRAPPER_ENUM(name, in, out) WRAPPER_##name,
typedef enum { WRAPPERS(WRAPPER_ENUM) WRAPPER_COUNT } Wrapper;
#undef WRAPPER_ENUM

/* Functions of MATH: out[f * 256 + i] = f(in[i]). */
enum { MATH_EXP, MATH_EXP2, MATH_LOG, MATH_TANH, MATH_ERF, MATH_EXPM1, MATH_RSQRT, MATH_SQRT, MATH_SIN, MATH_COS, MATH_FMA, MATH_DIVIDE,
       MATH_FAST_EXP, MATH_FAST_EXP2, MATH_FAST_DIVIDE, MATH_MIN_MAX, MATH_COUNT };

#ifdef __cplusplus
extern "C"
#endif
void wrapper_run(int which, const void *in, void *out, void *stream); /* device memory; enqueued */

#endif
