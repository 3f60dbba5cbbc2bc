/* What the benchmarks share: a clock, the machine's measured FMA and copy rates, one op run on random tensors. */
#ifndef BENCH_H
#define BENCH_H

#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cpu/cpu.h"
#include "cpu/half.h"

/* -DBENCH_CLOCK=CLOCK_THREAD_CPUTIME_ID times one thread on a busy machine. */
#ifndef BENCH_CLOCK
#define BENCH_CLOCK CLOCK_MONOTONIC
#endif

static inline double bench_now(void)
{
    struct timespec t;
    clock_gettime(BENCH_CLOCK, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

#if defined(__x86_64__)
#include <immintrin.h>
__attribute__((target("avx512f"))) static float bench_fma_avx512(int64_t n)
{
    __m512 a[16], x = _mm512_set1_ps(0.999f), y = _mm512_set1_ps(0.001f);
    for (int i = 0; i < 16; i++)
        a[i] = _mm512_set1_ps((float)i);
    for (int64_t k = 0; k < n; k++)
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++)
            a[i] = _mm512_fmadd_ps(a[i], x, y);
    float s = 0;
    for (int i = 0; i < 16; i++)
        s += _mm512_reduce_add_ps(a[i]);
    return s;
}

__attribute__((target("avx2,fma"))) static float bench_fma_avx2(int64_t n)
{
    __m256 a[12], x = _mm256_set1_ps(0.999f), y = _mm256_set1_ps(0.001f);
    float s = 0, t[8];
    for (int i = 0; i < 12; i++)
        a[i] = _mm256_set1_ps((float)i);
    for (int64_t k = 0; k < n; k++)
#pragma GCC unroll 12
        for (int i = 0; i < 12; i++)
            a[i] = _mm256_fmadd_ps(a[i], x, y);
    for (int i = 0; i < 12; i++) {
        _mm256_storeu_ps(t, a[i]);
        s += t[0] + t[7];
    }
    return s;
}
#endif

/* fp32 multiply-adds of independent chains on `threads` threads, GFLOP/s; 0 where the set is base. */
static inline double bench_peak(int threads, int isa)
{
    const int64_t n = 4000000;
    double best = 0;
    volatile float sink = 0;
    for (int rep = 0; rep < 3; rep++) {
        double t = bench_now();
#pragma omp parallel num_threads(threads)
        {
#if defined(__x86_64__)
            float s = isa == CPU_ISA_AVX512 ? bench_fma_avx512(n) : isa == CPU_ISA_AVX2 ? bench_fma_avx2(n) : 0;
#else
            float s = 0;
#endif
#pragma omp critical
            sink = sink + s;
        }
        t = bench_now() - t;
        double flop = 2.0 * (double)n * (isa == CPU_ISA_AVX512 ? 16 * 16 : isa == CPU_ISA_AVX2 ? 12 * 8 : 0) * threads;
        best = flop / t * 1e-9 > best ? flop / t * 1e-9 : best;
    }
    return best;
}

/* Read + write bytes of a parallel copy of 128 MiB, GB/s. */
static inline double bench_copy(Backend *be)
{
    const size_t n = 128u << 20;
    void *a = NULL, *b = NULL;
    if (be->alloc(be, &a, n) < 0 || be->alloc(be, &b, n) < 0)
        return 0;
    memset(a, 1, n);
    memset(b, 2, n);
    double best = 0;
    for (int rep = 0; rep < 4; rep++) {
        double t = bench_now();
#pragma omp parallel for num_threads(be->threads)
        for (int64_t i = 0; i < 128; i++)
            memcpy((char *)b + (i << 20), (char *)a + (i << 20), 1u << 20);
        t = 2 * (double)n / (bench_now() - t) * 1e-9;
        best = t > best ? t : best;
    }
    be->free(be, a, n);
    be->free(be, b, n);
    return best;
}

/* A tensor of values in [-1, 1). */
static inline OpView bench_tensor(Backend *be, Dtype t, Shape s)
{
    OpView v = {.dtype = t, .shape = s};
    int64_t n = shape_count(&s);
    if (be->alloc(be, &v.data, (size_t)n * dtype_size(t)) < 0) {
        fprintf(stderr, "%s\n", err_message());
        exit(1);
    }
    uint32_t x = 12345;
    for (int64_t i = 0; i < n; i++) {
        x = x * 1664525u + 1013904223u;
        float f = (float)(x >> 8) * 0x1p-23f - 1.0f;
        if (t == DTYPE_F32)
            ((float *)v.data)[i] = f;
        else if (t == DTYPE_BF16)
            ((uint16_t *)v.data)[i] = bf16_from_float(f);
        else
            memset((char *)v.data + (size_t)i * dtype_size(t), 0, dtype_size(t));
    }
    return v;
}

static inline void bench_free(Backend *be, OpView *v)
{
    be->free(be, v->data, (size_t)shape_count(&v->shape) * dtype_size(v->dtype));
}

/* Seconds of the fastest of `reps` runs, after one to warm up. */
static inline double bench_op(Backend *be, OpKind kind, const OpAttr *attr, const OpView *in, int nin, OpView *out, int nout,
                              int reps)
{
    Meta mi[OP_MAX_IN], mo[OP_MAX_OUT];
    for (int i = 0; i < nin; i++)
        mi[i] = (Meta){in[i].dtype, in[i].shape};
    for (int i = 0; i < nout; i++)
        mo[i] = (Meta){out[i].dtype, out[i].shape};
    const BackendOp *op = &be->op[kind];
    size_t bytes = op->scratch ? op->scratch(be, attr, mi, nin, mo, nout) : 0;
    void *scratch = NULL;
    double best = 1e30;
    if (bytes && be->alloc(be, &scratch, bytes) < 0)
        return 0;
    OpCall c = {.kind = kind, .attr = attr, .in = in, .out = out, .nin = nin, .nout = nout, .scratch = scratch};
    if (op->prepare && op->prepare(be, &c, &c.state) < 0) {
        fprintf(stderr, "%s: %s\n", op_name(kind), err_message());
        exit(1);
    }
    for (int r = 0; r <= reps; r++) {
        double t = bench_now();
        if (op->run(be, &c) < 0) {
            fprintf(stderr, "%s: %s\n", op_name(kind), err_message());
            exit(1);
        }
        t = bench_now() - t;
        if (r > 0 && t < best)
            best = t;
    }
    if (op->release)
        op->release(be, c.state);
    if (scratch)
        be->free(be, scratch, bytes);
    return best;
}

#endif
