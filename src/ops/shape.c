#include "ops/rule.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

size_t dtype_size(Dtype t)
{
    static const size_t sizes[DTYPE_COUNT] = {[DTYPE_F32] = 4, [DTYPE_BF16] = 2, [DTYPE_F16] = 2, [DTYPE_F64] = 8,
                                              [DTYPE_I32] = 4, [DTYPE_I64] = 8,  [DTYPE_U8] = 1};
    return (unsigned)t < DTYPE_COUNT ? sizes[t] : 0;
}

const char *dtype_name(Dtype t)
{
    static const char *const names[DTYPE_COUNT] = {[DTYPE_F32] = "f32", [DTYPE_BF16] = "bf16", [DTYPE_F16] = "f16",
                                                   [DTYPE_F64] = "f64", [DTYPE_I32] = "i32",   [DTYPE_I64] = "i64",
                                                   [DTYPE_U8] = "u8"};
    return (unsigned)t < DTYPE_COUNT ? names[t] : "?";
}

Dtype dtype_param(Dtype t)
{
    return t == DTYPE_F64 ? DTYPE_F64 : DTYPE_F32;
}

Shape shape_make(int ndim, const int64_t *dim)
{
    Shape s = {.ndim = ndim < 0 ? 0 : ndim > OP_MAX_DIM ? OP_MAX_DIM : ndim, .dim = {1, 1, 1, 1}};
    for (int i = 0; i < s.ndim; i++)
        s.dim[i] = dim[i];
    return s;
}

int64_t shape_count(const Shape *s)
{
    int64_t n = 1;
    for (int i = 0; i < s->ndim; i++)
        if (__builtin_mul_overflow(n, s->dim[i], &n))
            return INT64_MAX;
    return n;
}

int shape_equal(const Shape *a, const Shape *b)
{
    if (a->ndim != b->ndim)
        return 0;
    for (int i = 0; i < a->ndim; i++)
        if (a->dim[i] != b->dim[i])
            return 0;
    return 1;
}

int64_t shape_last(const Shape *s)
{
    return s->ndim > 0 ? s->dim[s->ndim - 1] : 1;
}

int64_t shape_rows(const Shape *s)
{
    int64_t last = shape_last(s);
    return last > 0 ? shape_count(s) / last : 0;
}

const char *shape_text(const Shape *s, char *buf, size_t size)
{
    size_t n = 0;
    if (size == 0)
        return "";
    buf[0] = 0;
    for (int i = 0; i <= s->ndim && n < size; i++) {
        int m = i < s->ndim ? snprintf(buf + n, size - n, "%s%lld", i ? "," : "[", (long long)s->dim[i])
                            : snprintf(buf + n, size - n, s->ndim ? "]" : "[]");
        if (m < 0)
            break;
        n += (size_t)m;
    }
    return buf;
}

const char *op_name(OpKind k)
{
    static const char *const names[OP_COUNT] = {
#define OP_NAME_ITEM(n, s) [OP_##n] = s,
        OP_LIST(OP_NAME_ITEM)
#undef OP_NAME_ITEM
    };
    return (unsigned)k < OP_COUNT ? names[k] : "unknown op";
}

Meta rule_meta(Dtype t, int ndim, const int64_t *dim)
{
    return (Meta){.dtype = t, .shape = shape_make(ndim, dim)};
}

Meta rule_result(Dtype t, const OpAttr *a)
{
    return rule_meta(t, a->meta.shape.ndim, a->meta.shape.dim);
}

Meta rule_with_last(const Meta *m, int64_t last)
{
    Meta r = *m;
    if (r.shape.ndim > 0)
        r.shape.dim[r.shape.ndim - 1] = last;
    return r;
}

static int shape_positive(const Shape *s)
{
    for (int i = 0; i < s->ndim; i++)
        if (s->dim[i] < 1)
            return 0;
    return s->ndim >= 0 && s->ndim <= OP_MAX_DIM;
}

int rule_inputs(OpKind k, const Meta *in, int nin, int want)
{
    char t[96];
    if (nin != want)
        return err_set(ERR_SHAPE, "%s: %d inputs, expected %d", op_name(k), nin, want);
    for (int i = 0; i < nin; i++)
        if (!shape_positive(&in[i].shape))
            return err_set(ERR_SHAPE, "%s: input %d is %s, expected every dimension at least 1", op_name(k), i,
                           shape_text(&in[i].shape, t, sizeof t));
    return 0;
}

int rule_optional(OpKind k, const OpAttr *a, int fixed, int allowed, int *want)
{
    if (a->has & ~allowed)
        return err_set(ERR_RANGE, "%s: has is %d, expected bits of %d only", op_name(k), a->has, allowed);
    *want = fixed + __builtin_popcount((unsigned)a->has);
    return 0;
}

int rule_compute(OpKind k, const char *what, const Meta *m)
{
    if (m->dtype != DTYPE_F32 && m->dtype != DTYPE_BF16 && m->dtype != DTYPE_F64)
        return err_set(ERR_SHAPE, "%s: %s is %s, expected f32, bf16 or f64", op_name(k), what, dtype_name(m->dtype));
    return 0;
}

int rule_dtype(OpKind k, const char *what, const Meta *m, Dtype want)
{
    if (m->dtype != want)
        return err_set(ERR_SHAPE, "%s: %s is %s, expected %s", op_name(k), what, dtype_name(m->dtype), dtype_name(want));
    return 0;
}

int rule_ndim(OpKind k, const char *what, const Meta *m, int lo, int hi)
{
    char t[96];
    int n = m->shape.ndim;
    if (n >= lo && n <= hi)
        return 0;
    if (lo == hi)
        return err_set(ERR_SHAPE, "%s: %s is %s, expected %d dimensions", op_name(k), what,
                       shape_text(&m->shape, t, sizeof t), lo);
    return err_set(ERR_SHAPE, "%s: %s is %s, expected %d to %d dimensions", op_name(k), what,
                   shape_text(&m->shape, t, sizeof t), lo, hi);
}

int rule_equal(OpKind k, const char *what, const Meta *m, const Meta *want)
{
    char t[96], u[96];
    if (m->dtype == want->dtype && shape_equal(&m->shape, &want->shape))
        return 0;
    return err_set(ERR_SHAPE, "%s: %s is %s %s, expected %s %s", op_name(k), what, dtype_name(m->dtype),
                   shape_text(&m->shape, t, sizeof t), dtype_name(want->dtype), shape_text(&want->shape, u, sizeof u));
}

int rule_wgrad_dtype(OpKind k, const OpAttr *a, Dtype t)
{
    Dtype d = a->meta.dtype;
    if (d != t && d != dtype_param(t))
        return err_set(ERR_SHAPE, "%s: result is %s, expected %s or %s", op_name(k), dtype_name(d), dtype_name(t),
                       dtype_name(dtype_param(t)));
    return 0;
}

int rule_attr_shape(OpKind k, const OpAttr *a)
{
    char t[96];
    const Shape *s = &a->meta.shape;
    if (s->ndim < 0 || s->ndim > OP_MAX_DIM)
        return err_set(ERR_SHAPE, "%s: %d dimensions, expected 0 to %d", op_name(k), s->ndim, OP_MAX_DIM);
    if (!shape_positive(s))
        return err_set(ERR_SHAPE, "%s: result is %s, expected every dimension at least 1", op_name(k),
                       shape_text(s, t, sizeof t));
    if (shape_count(s) > INT64_MAX / 8)
        return err_set(ERR_SHAPE, "%s: result is %s, expected at most 2^60 elements", op_name(k),
                       shape_text(s, t, sizeof t));
    return 0;
}

int rule_range(OpKind k, const char *what, int64_t v, int64_t lo, int64_t hi)
{
    if (v < lo || v > hi)
        return err_set(ERR_RANGE, "%s: %s is %lld, expected %lld to %lld", op_name(k), what, (long long)v, (long long)lo,
                       (long long)hi);
    return 0;
}

int rule_eps(OpKind k, float eps)
{
    if (!(eps >= 0.0f) || isinf(eps))
        return err_set(ERR_RANGE, "%s: eps is %g, expected a finite number of at least 0", op_name(k), (double)eps);
    return 0;
}

int rule_finite(OpKind k, const char *what, float v)
{
    if (!isfinite(v))
        return err_set(ERR_RANGE, "%s: %s is %g, expected a finite number", op_name(k), what, (double)v);
    return 0;
}
