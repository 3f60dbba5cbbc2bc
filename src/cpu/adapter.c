#include <math.h>

#include "base/rng.h"
#include "cpu/arith.h"
#include "cpu/half.h"

static double get(const OpView *v, int64_t i)
{
    switch (v->dtype) {
    case DTYPE_F64: return ((const double *)v->data)[i];
    case DTYPE_F32: return (double)((const float *)v->data)[i];
    default: return (double)bf16_to_float(((const uint16_t *)v->data)[i]);
    }
}

static int check_float(const OpCall *c)
{
    Dtype t = c->in[0].dtype;
    return t == DTYPE_F64 || t == DTYPE_F32 || t == DTYPE_BF16 ? 0 : cpu_op_unsupported(c, t);
}

/* y[i] = x[i] * s[i] over n values of a row, in float (double for doubles); x and y may be the same. */
static void mul_row(const OpCall *c, int64_t at, int64_t n, const double *s64, const float *s32)
{
    if (c->in[0].dtype == DTYPE_F64) {
        const double *x = (const double *)c->in[0].data + at;
        double *y = (double *)c->out[0].data + at;
        for (int64_t i = 0; i < n; i++)
            y[i] = x[i] * (s64 ? s64[i] : (double)s32[i]);
    } else if (c->in[0].dtype == DTYPE_F32) {
        const float *x = (const float *)c->in[0].data + at;
        float *y = (float *)c->out[0].data + at;
        for (int64_t i = 0; i < n; i++)
            y[i] = x[i] * s32[i];
    } else {
        const uint16_t *x = (const uint16_t *)c->in[0].data + at;
        uint16_t *y = (uint16_t *)c->out[0].data + at;
        for (int64_t i = 0; i < n; i++)
            y[i] = bf16_from_float(bf16_to_float(x[i]) * s32[i]);
    }
}

/* ---- mul_bcast ---- */

enum { BLOCK = 512 };

static void mul_rows(void *p, int64_t begin, int64_t end)
{
    const OpCall *c = p;
    const OpView *v = &c->in[1];
    ArithBcast g = arith_bcast(&c->in[0].shape, c->attr->bcast);
    double s64[BLOCK];
    float s32[BLOCK];
    for (int64_t at = begin; at < end;) {
        int64_t k = at % g.channels, n = g.channels - k;
        int64_t from = arith_bcast_row(&g, at / g.channels) * g.channels + k;
        n = n < end - at ? n : end - at;
        n = n < BLOCK ? n : BLOCK;
        for (int64_t i = 0; i < n; i++) {
            s64[i] = get(v, from + i);
            s32[i] = (float)s64[i];
        }
        mul_row(c, at, n, s64, s32);
        at += n;
    }
}

static int run_mul_bcast(Backend *be, const OpCall *c)
{
    TRY(check_float(c));
    cpu_parallel_flat(be, shape_count(&c->in[0].shape), 12, mul_rows, (void *)(uintptr_t)c);
    return 0;
}

/* ---- row_gain ---- */

static void gain_row(void *p, int64_t r, int thread)
{
    const OpCall *c = p;
    const OpView *v = &c->in[1];
    int64_t cols = shape_count(&v->shape) / v->shape.dim[0];
    double sum = 0;
    (void)thread;
    for (int64_t i = 0; i < cols; i++) {
        double x = get(v, r * cols + i);
        sum += x * x;
    }
    double g = get(&c->in[0], r) / sqrt(sum);
    if (c->out[0].dtype == DTYPE_F64)
        ((double *)c->out[0].data)[r] = g;
    else
        ((float *)c->out[0].data)[r] = (float)g;
}

static int run_row_gain(Backend *be, const OpCall *c)
{
    Dtype t = c->in[0].dtype;
    if (t != DTYPE_F32 && t != DTYPE_F64)
        return cpu_op_unsupported(c, t);
    cpu_parallel_tasks(be, c->in[0].shape.dim[0], shape_count(&c->in[1].shape) * 4, gain_row, (void *)(uintptr_t)c);
    return 0;
}

/* ---- dropout ---- */

static void drop_part(void *p, int64_t begin, int64_t end)
{
    const OpCall *c = p;
    const OpAttr *a = c->attr;
    const Shape *s = &c->in[0].shape;
    int64_t item = shape_count(s) / s->dim[0], channels = shape_last(s);
    float keep = a->bcast == DROP_ITEM ? 1.0f : 1.0f / (1.0f - a->scale), m[BLOCK];
    for (int64_t at = begin; at < end;) {
        int64_t k = at % item, n = item - k, row = channels - at % channels;
        n = n < end - at ? n : end - at;
        if (a->bcast == DROP_CHANNEL)
            n = n < row ? n : row;
        n = n < BLOCK ? n : BLOCK;
        uint64_t position = (uint64_t)((const int64_t *)c->in[1].data)[at / item];
        RngKey key = rng_key((uint64_t)a->begin, RNG_DROPOUT, position, (uint64_t)a->count);
        if (a->bcast == DROP_ITEM) {
            m[0] = rng_uniform(key, 0);
            for (int64_t i = 1; i < n; i++)
                m[i] = m[0];
        } else {
            rng_uniform_fill(m, n, key, (uint64_t)(a->bcast == DROP_CHANNEL ? k % channels : k));
        }
        for (int64_t i = 0; i < n; i++)
            m[i] = (int64_t)position < 0 ? 1 : m[i] < a->scale ? 0 : keep;
        mul_row(c, at, n, NULL, m);
        at += n;
    }
}

static int run_dropout(Backend *be, const OpCall *c)
{
    TRY(check_float(c));
    cpu_parallel_flat(be, shape_count(&c->in[0].shape), 24, drop_part, (void *)(uintptr_t)c);
    return 0;
}

void cpu_adapter_register(Backend *be)
{
    be->op[OP_MUL_BCAST].run = run_mul_bcast;
    be->op[OP_ROW_GAIN].run = run_row_gain;
    be->op[OP_DROPOUT].run = run_dropout;
}
