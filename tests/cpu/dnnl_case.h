/* Runs one op on a CPU backend by hand and compares it with the plain double loops. */
#ifndef TEST_CPU_DNNL_CASE_H
#define TEST_CPU_DNNL_CASE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cpu/cpu.h"
#include "cpu/half.h"

#define CHECK(e)                                             \
    do {                                                     \
        if ((e) < 0)                                         \
            fail_msg("%s: %s", #e, err_message());           \
    } while (0)

enum { CASE_MAX_IN = 4 };

static inline void *case_alloc(size_t bytes)
{
    void *p = aligned_alloc(64, (bytes + 127) / 64 * 64);
    assert_non_null(p);
    return p;
}

/* Values in [-1, 1), multiples of 1/128, so that bf16 holds them. */
static inline OpView case_random(Dtype t, Shape s, uint32_t seed)
{
    int64_t n = shape_count(&s);
    OpView v = {case_alloc((size_t)n * dtype_size(t)), t, s, 0, 0};
    for (int64_t i = 0; i < n; i++) {
        seed = seed * 1664525u + 1013904223u;
        float f = (float)((int)(seed >> 24) - 128) / 128.0f;
        if (t == DTYPE_F64)
            ((double *)v.data)[i] = f;
        else if (t == DTYPE_BF16)
            ((uint16_t *)v.data)[i] = bf16_from_float(f);
        else
            ((float *)v.data)[i] = f;
    }
    return v;
}

/* Replaces the values by ones whose sums round, so that another order of additions gives other bits. */
static inline void case_roughen(OpView *v, int n)
{
    uint32_t seed = 77;
    for (int k = 0; k < n; k++)
        for (int64_t i = 0; i < shape_count(&v[k].shape); i++) {
            seed = seed * 1664525u + 1013904223u;
            float f = (float)(int32_t)seed * 0x1p-31f;
            f *= f * f;
            if (v[k].dtype == DTYPE_BF16)
                ((uint16_t *)v[k].data)[i] = bf16_from_float(f);
            else
                ((float *)v[k].data)[i] = f;
        }
}

static inline OpView case_empty(Dtype t, Shape s)
{
    OpView v = {case_alloc((size_t)shape_count(&s) * dtype_size(t)), t, s, 0, 0};
    memset(v.data, 0xff, (size_t)shape_count(&s) * dtype_size(t));
    return v;
}

static inline double case_get(const OpView *v, int64_t i)
{
    return v->dtype == DTYPE_F64    ? ((const double *)v->data)[i]
           : v->dtype == DTYPE_BF16 ? (double)bf16_to_float(((const uint16_t *)v->data)[i])
                                    : (double)((const float *)v->data)[i];
}

static inline OpView case_to_f64(const OpView *v)
{
    OpView d = case_empty(DTYPE_F64, v->shape);
    for (int64_t i = 0; i < shape_count(&v->shape); i++)
        ((double *)d.data)[i] = case_get(v, i);
    return d;
}

/* weight: index of the input that is a parameter, or -1. */
static inline void case_run(Backend *be, OpKind kind, const OpAttr *attr, const OpView *in, int nin, OpView *out, int weight)
{
    const BackendOp *op = &be->op[kind];
    Meta mi[CASE_MAX_IN], mo = {out->dtype, out->shape};
    OpView known[CASE_MAX_IN];
    for (int i = 0; i < nin; i++) {
        mi[i] = (Meta){in[i].dtype, in[i].shape};
        known[i] = in[i];
        if (i != weight)
            known[i].data = NULL;
    }
    size_t bytes = op->scratch ? op->scratch(be, attr, mi, nin, &mo, 1) : 0;
    OpCall c = {kind, attr, known, out, nin, 1, case_alloc(bytes), NULL};
    memset(c.scratch, 0xff, bytes);
    if (op->prepare)
        CHECK(op->prepare(be, &c, &c.state));
    c.in = in;
    CHECK(op->run(be, &c));
    if (op->release)
        op->release(be, c.state);
    free(c.scratch);
}

/* Largest difference over the largest magnitude of `want`. */
static inline double case_error(const OpView *got, const OpView *want)
{
    double err = 0, top = 1e-30;
    for (int64_t i = 0; i < shape_count(&got->shape); i++) {
        double g = case_get(got, i), w = case_get(want, i), d = g > w ? g - w : w - g, m = w > 0 ? w : -w;
        err = d > err || d != d ? d : err;
        top = m > top ? m : top;
    }
    return err / top;
}

/* The op in double on the values of `in`; the caller frees data. */
static inline OpView case_f64(Backend *be, OpKind kind, const OpAttr *attr, const OpView *in, int nin, Shape result, int weight)
{
    OpView wide[CASE_MAX_IN], want = case_empty(DTYPE_F64, result);
    OpAttr a = *attr;
    a.meta.dtype = DTYPE_F64;
    for (int i = 0; i < nin; i++)
        wide[i] = case_to_f64(&in[i]);
    case_run(be, kind, &a, wide, nin, &want, weight);
    for (int i = 0; i < nin; i++)
        free(wide[i].data);
    return want;
}

/* F32: rounding of sums of a few thousand products. BF16: one rounding of the result, 2^-9, and a little. */
static inline double case_tolerance(Dtype out)
{
    return out == DTYPE_BF16 ? 4e-3 : 1e-5;
}

static inline void case_free(OpView *v, int n)
{
    for (int i = 0; i < n; i++)
        free(v[i].data);
}

static inline OpView case_slice(const OpView *v, int64_t items)
{
    OpView s = *v;
    s.shape.dim[0] = items;
    return s;
}

static inline size_t case_bytes(const OpView *v)
{
    return (size_t)shape_count(&v->shape) * dtype_size(v->dtype);
}

static inline Backend *case_backend_of(int threads, int isa)
{
    Backend *be = NULL;
    CHECK(cpu_backend_create(&be, threads, isa));
    return be;
}

static inline Backend *case_backend(int threads)
{
    return case_backend_of(threads, CPU_ISA_AVX512);
}

#endif
