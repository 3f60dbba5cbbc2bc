#include "cpu/arith.h"

#include <string.h>

#include "cpu/half.h"

static int f64_add(Backend *be, const OpCall *c)
{
    (void)be;
    const double *x = c->in[0].data, *y = c->in[1].data;
    double *z = c->out[0].data;
    int64_t n = shape_count(&c->in[0].shape);
    for (int64_t i = 0; i < n; i++)
        z[i] = x[i] + y[i];
    return 0;
}

static int f64_mul(Backend *be, const OpCall *c)
{
    (void)be;
    const double *x = c->in[0].data, *y = c->in[1].data;
    double *z = c->out[0].data;
    int64_t n = shape_count(&c->in[0].shape);
    for (int64_t i = 0; i < n; i++)
        z[i] = x[i] * y[i];
    return 0;
}

static int f64_scale(Backend *be, const OpCall *c)
{
    (void)be;
    const double *x = c->in[0].data;
    double *y = c->out[0].data, s = (double)c->attr->scale;
    if (c->nin > 1)
        s *= c->in[1].dtype == DTYPE_F64 ? *(const double *)c->in[1].data : (double)*(const float *)c->in[1].data;
    int64_t n = shape_count(&c->in[0].shape);
    for (int64_t i = 0; i < n; i++)
        y[i] = s * x[i];
    return 0;
}

static int f64_add_bcast(Backend *be, const OpCall *c)
{
    (void)be;
    const double *x = c->in[0].data, *v = c->in[1].data;
    double *y = c->out[0].data;
    ArithBcast g = arith_bcast(&c->in[0].shape, c->attr->bcast);
    for (int64_t r = 0; r < g.items * g.middle; r++)
        for (int64_t i = 0; i < g.channels; i++)
            y[r * g.channels + i] = x[r * g.channels + i] + v[arith_bcast_row(&g, r) * g.channels + i];
    return 0;
}

static int f64_sum_bcast(Backend *be, const OpCall *c)
{
    (void)be;
    const double *x = c->in[0].data;
    double *v = c->out[0].data;
    ArithBcast g = arith_bcast(&c->in[0].shape, c->attr->bcast);
    memset(v, 0, (size_t)shape_count(&c->out[0].shape) * sizeof *v);
    for (int64_t r = 0; r < g.items * g.middle; r++)
        for (int64_t i = 0; i < g.channels; i++)
            v[arith_bcast_row(&g, r) * g.channels + i] += x[r * g.channels + i];
    return 0;
}

static size_t scratch_sum_bcast(Backend *be, const OpAttr *attr, const Meta *in, int nin, const Meta *out, int nout)
{
    (void)be;
    (void)nin;
    (void)out;
    (void)nout;
    if (in[0].dtype == DTYPE_F64 || attr->bcast == BCAST_ROW)
        return 0;
    ArithSum s = arith_sum(&in[0].shape, attr->bcast);
    return (size_t)(s.items * s.chunks * s.channels) * sizeof(float);
}

CPU_OP(add, in[0])
CPU_OP(mul, in[0])
CPU_OP(scale, in[0])
CPU_OP(add_bcast, in[0])
CPU_OP(sum_bcast, in[0])

typedef struct {
    const void *x;
    void *out;
    Dtype from, to;
} CastArg;

static double cast_read(const void *p, int64_t i, Dtype t)
{
    switch (t) {
    case DTYPE_F32: return (double)((const float *)p)[i];
    case DTYPE_BF16: return (double)bf16_to_float(((const uint16_t *)p)[i]);
    case DTYPE_F16: return (double)f16_to_float(((const uint16_t *)p)[i]);
    case DTYPE_F64: return ((const double *)p)[i];
    case DTYPE_I32: return (double)((const int32_t *)p)[i];
    case DTYPE_I64: return (double)((const int64_t *)p)[i];
    case DTYPE_U8: return (double)((const uint8_t *)p)[i];
    default: return 0;
    }
}

static void cast_write(void *p, int64_t i, double v, Dtype t)
{
    switch (t) {
    case DTYPE_F32: ((float *)p)[i] = (float)v; break;
    case DTYPE_BF16: ((uint16_t *)p)[i] = bf16_from_float((float)v); break;
    case DTYPE_F16: ((uint16_t *)p)[i] = f16_from_float((float)v); break;
    case DTYPE_F64: ((double *)p)[i] = v; break;
    default: break;
    }
}

static void cast_any(void *p, int64_t begin, int64_t end)
{
    const CastArg *a = p;
    for (int64_t i = begin; i < end; i++)
        cast_write(a->out, i, cast_read(a->x, i, a->from), a->to);
}

CPU_DECLARE(cpu_cast);

static int is_small_float(Dtype t)
{
    return t == DTYPE_F32 || t == DTYPE_BF16 || t == DTYPE_F16;
}

static int run_cast(Backend *be, const OpCall *c)
{
    CastArg a = {c->in[0].data, c->out[0].data, c->in[0].dtype, c->out[0].dtype};
    if (a.from == a.to) {
        if (a.out != a.x)
            memcpy(a.out, a.x, (size_t)shape_count(&c->in[0].shape) * dtype_size(a.to));
        return 0;
    }
    if (!is_small_float(a.to) && a.to != DTYPE_F64)
        return cpu_op_unsupported(c, a.to);
    if (is_small_float(a.from) && is_small_float(a.to))
        return CPU_PICK(((const CpuState *)be->impl)->isa, cpu_cast)(be, c);
    cpu_parallel_flat(be, shape_count(&c->in[0].shape), 12, cast_any, &a);
    return 0;
}

void cpu_arith_register(Backend *be)
{
    be->op[OP_ADD].run = run_add;
    be->op[OP_MUL].run = run_mul;
    be->op[OP_SCALE].run = run_scale;
    be->op[OP_ADD_BCAST].run = run_add_bcast;
    be->op[OP_SUM_BCAST].run = run_sum_bcast;
    be->op[OP_SUM_BCAST].scratch = scratch_sum_bcast;
    be->op[OP_CAST].run = run_cast;
    cpu_move_register(be);
}
