#include <math.h>
#include <string.h>

#include "cpu/half.h"
#include "cpu/kernel.h"

static int check_ids(const OpCall *c, const OpView *ids, int64_t limit, const char *what)
{
    if (ids->dtype != DTYPE_I32)
        return err_set(ERR_SHAPE, "%s: %s are %s, expected i32", op_name(c->kind), what, dtype_name(ids->dtype));
    const int32_t *id = ids->data;
    int64_t n = shape_count(&ids->shape);
    for (int64_t i = 0; i < n; i++)
        if (id[i] < 0 || id[i] >= limit)
            return err_set(ERR_RANGE, "%s: %s[%lld] is %d, expected 0..%lld", op_name(c->kind), what, (long long)i,
                           (int)id[i], (long long)limit - 1);
    return 0;
}

static int run_embed(Backend *be, const OpCall *c)
{
    (void)be;
    const OpView *table = &c->in[1];
    TRY(check_ids(c, &c->in[0], table->shape.dim[0], "ids"));
    const int32_t *id = c->in[0].data;
    int64_t n = shape_count(&c->in[0].shape);
    size_t width = (size_t)shape_last(&table->shape) * dtype_size(table->dtype);
    for (int64_t i = 0; i < n; i++)
        memcpy((char *)c->out[0].data + (size_t)i * width, (const char *)table->data + (size_t)id[i] * width, width);
    return 0;
}

static int f64_embed_bwd(Backend *be, const OpCall *c)
{
    (void)be;
    const double *dy = c->in[0].data;
    const int32_t *id = c->in[1].data;
    double *dt = c->out[0].data;
    int64_t n = shape_count(&c->in[1].shape), ch = shape_last(&c->out[0].shape);
    TRY(check_ids(c, &c->in[1], c->out[0].shape.dim[0], "ids"));
    memset(dt, 0, (size_t)shape_count(&c->out[0].shape) * sizeof *dt);
    for (int64_t i = 0; i < n; i++)
        for (int64_t k = 0; k < ch; k++)
            dt[id[i] * ch + k] += dy[i * ch + k];
    return 0;
}

CPU_DECLARE(cpu_embed_bwd);

static int run_embed_bwd(Backend *be, const OpCall *c)
{
    Dtype t = c->in[0].dtype;
    if (t == DTYPE_F64)
        return f64_embed_bwd(be, c);
    if (t != DTYPE_F32 && t != DTYPE_BF16)
        return cpu_op_unsupported(c, t);
    TRY(check_ids(c, &c->in[1], c->out[0].shape.dim[0], "ids"));
    return CPU_PICK(((const CpuState *)be->impl)->isa, cpu_embed_bwd)(be, c);
}

static int run_gather_row(Backend *be, const OpCall *c)
{
    (void)be;
    const Shape *s = &c->in[0].shape;
    TRY(check_ids(c, &c->in[1], s->dim[1], "indices"));
    const int32_t *id = c->in[1].data;
    size_t width = (size_t)s->dim[2] * dtype_size(c->in[0].dtype);
    for (int64_t i = 0; i < s->dim[0]; i++)
        memcpy((char *)c->out[0].data + (size_t)i * width,
               (const char *)c->in[0].data + (size_t)(i * s->dim[1] + id[i]) * width, width);
    return 0;
}

static int run_gather_row_bwd(Backend *be, const OpCall *c)
{
    (void)be;
    const Shape *s = &c->out[0].shape;
    TRY(check_ids(c, &c->in[1], s->dim[1], "indices"));
    const int32_t *id = c->in[1].data;
    size_t width = (size_t)s->dim[2] * dtype_size(c->in[0].dtype);
    memset(c->out[0].data, 0, (size_t)(s->dim[0] * s->dim[1]) * width);
    for (int64_t i = 0; i < s->dim[0]; i++)
        memcpy((char *)c->out[0].data + (size_t)(i * s->dim[1] + id[i]) * width,
               (const char *)c->in[0].data + (size_t)i * width, width);
    return 0;
}

static void put(const OpView *out, int64_t i, double v)
{
    if (out->dtype == DTYPE_F64)
        ((double *)out->data)[i] = v;
    else if (out->dtype == DTYPE_F32)
        ((float *)out->data)[i] = (float)v;
    else
        ((uint16_t *)out->data)[i] = bf16_from_float((float)v);
}

/* In float, every step is rounded as the reference function rounds it: arguments reach 1000, where one ulp shows. */
static int run_time_embed(Backend *be, const OpCall *c)
{
    (void)be;
    const OpAttr *a = c->attr;
    const OpView *t = &c->in[0], *out = &c->out[0];
    if (out->dtype != DTYPE_F64 && out->dtype != DTYPE_F32 && out->dtype != DTYPE_BF16)
        return cpu_op_unsupported(c, out->dtype);
    int64_t n = shape_count(&t->shape), dim = shape_last(&out->shape), half = dim / 2;
    int64_t at_sin = a->flip ? half : 0, at_cos = a->flip ? 0 : half;
    for (int64_t r = 0; r < n; r++)
        for (int64_t i = 0; i < half; i++) {
            double s, co;
            if (out->dtype == DTYPE_F64) {
                double time = t->dtype == DTYPE_F64 ? ((const double *)t->data)[r] : (double)((const float *)t->data)[r];
                double x = time * exp(-log((double)a->max_period) * (double)i / ((double)half - (double)a->shift));
                s = sin(x);
                co = cos(x);
            } else {
                float e = (float)-log((double)a->max_period) * (float)i / ((float)half - a->shift);
                float x = ((const float *)t->data)[r] * expf(e);
                s = (double)sinf(x);
                co = (double)cosf(x);
            }
            put(out, r * dim + at_sin + i, s);
            put(out, r * dim + at_cos + i, co);
        }
    return 0;
}

void cpu_embed_register(Backend *be)
{
    be->op[OP_EMBED].run = run_embed;
    be->op[OP_EMBED_BWD].run = run_embed_bwd;
    be->op[OP_GATHER_ROW].run = run_gather_row;
    be->op[OP_GATHER_ROW_BWD].run = run_gather_row_bwd;
    be->op[OP_TIME_EMBED].run = run_time_embed;
}
