#include <stdlib.h>
#include <string.h>

#include "cpu/dnnl.h"
#include "cpu/gemm.h"
#include "cpu/widen.h"

/* x [..., K] as `items` items of `rows` rows each. */
static void item_rows(const Shape *s, int64_t *items, int64_t *rows)
{
    *items = s->ndim > 1 ? s->dim[0] : 1;
    *rows = cpu_middle(s);
}

static int state_make(void **state, const void *plan, size_t bytes)
{
    *state = malloc(bytes);
    if (!*state)
        return err_set(ERR_NOMEM, "out of memory: node state");
    memcpy(*state, plan, bytes);
    return 0;
}

static void state_free(Backend *be, void *state)
{
    (void)be;
    free(state);
}

static int is_float(Dtype t)
{
    return t == DTYPE_F32 || t == DTYPE_BF16;
}

/* ---- y = x w^T (+ bias) (+ res) and dx = dy w (+ res) ---- */

static GemmShape rows_shape(OpKind kind, const OpAttr *attr, const Meta *in)
{
    GemmShape s = {.type = in[0].dtype, .out = in[0].dtype, .forward = kind == OP_LINEAR};
    item_rows(&in[0].shape, &s.items, &s.item_rows);
    s.k = in[1].shape.dim[s.forward ? 1 : 0];
    s.n = in[1].shape.dim[s.forward ? 0 : 1];
    s.bias = s.forward && (attr->has & OP_HAS_BIAS);
    s.res = (attr->has & OP_HAS_RES) != 0;
    return s;
}

static size_t rows_scratch(Backend *be, OpKind kind, const OpAttr *attr, const Meta *in)
{
    GemmPlan p;
    GemmShape s = rows_shape(kind, attr, in);
    if (!is_float(s.type) || cpu_gemm_plan(be, &s, &p) < 0)
        return 0;
    return cpu_gemm_scratch(be, &p);
}

static size_t linear_scratch(Backend *be, const OpAttr *attr, const Meta *in, int nin, const Meta *out, int nout)
{
    (void)nin, (void)out, (void)nout;
    return rows_scratch(be, OP_LINEAR, attr, in);
}

static size_t linear_bwd_x_scratch(Backend *be, const OpAttr *attr, const Meta *in, int nin, const Meta *out, int nout)
{
    (void)nin, (void)out, (void)nout;
    return rows_scratch(be, OP_LINEAR_BWD_X, attr, in);
}

static int rows_prepare(Backend *be, const OpCall *c, void **state)
{
    GemmPlan p;
    Meta in[2] = {{c->in[0].dtype, c->in[0].shape}, {c->in[1].dtype, c->in[1].shape}};
    GemmShape s = rows_shape(c->kind, c->attr, in);
    if (!is_float(s.type))
        return 0;
    TRY(cpu_gemm_plan(be, &s, &p));
    return state_make(state, &p, sizeof p);
}

/* F64 exists for gradient checks: clarity over speed. y[r,i] = sum_j x[r,j] w(i,j), w(i,j) = w[i*si + j*sj]. */
static void f64_rows(const OpCall *c)
{
    const GemmShape s = rows_shape(c->kind, c->attr, (Meta[]){{c->in[0].dtype, c->in[0].shape}, {c->in[1].dtype, c->in[1].shape}});
    const double *x = c->in[0].data, *w = c->in[1].data, *bias = s.bias ? c->in[2].data : NULL;
    const double *res = s.res ? c->in[2 + s.bias].data : NULL;
    double *y = c->out[0].data;
    int64_t si = s.forward ? s.k : 1, sj = s.forward ? 1 : s.n;
    for (int64_t r = 0; r < s.items * s.item_rows; r++)
        for (int64_t i = 0; i < s.n; i++) {
            double sum = 0;
            for (int64_t j = 0; j < s.k; j++)
                sum += x[r * s.k + j] * w[i * si + j * sj];
            y[r * s.n + i] = sum + (bias ? bias[i] : 0) + (res ? res[r * s.n + i] : 0);
        }
}

static int rows_run(Backend *be, const OpCall *c)
{
    if (c->in[0].dtype == DTYPE_F64) {
        f64_rows(c);
        return 0;
    }
    if (!is_float(c->in[0].dtype))
        return cpu_op_unsupported(c, c->in[0].dtype);
    const GemmPlan *p = c->state;
    int bias = p->s.bias, res = p->s.res;
    return cpu_gemm_run(be, p, c->in[0].data, c->in[1].data, bias ? c->in[2].data : NULL, res ? c->in[2 + bias].data : NULL,
                        c->out[0].data, c->scratch);
}

/* ---- a low-rank path beside it: only to compare with, this backend does not ask for the rewrite ---- */

static int low_run(Backend *be, const OpCall *c)
{
    (void)be;
    if (c->in[0].dtype != DTYPE_F64)
        return cpu_op_unsupported(c, c->in[0].dtype);
    const OpKind kind = c->kind == OP_LINEAR_LOW ? OP_LINEAR : OP_LINEAR_BWD_X;
    int has = c->attr->has, i = 4;
    OpView base[4] = {c->in[0], c->in[1]};
    for (int bit = OP_HAS_BIAS, n = 2; bit <= OP_HAS_RES; bit <<= 1)
        if (has & bit)
            base[n++] = c->in[i++];
    double *u = c->out[1].data, scale = (double)c->attr->scale * (has & OP_HAS_LOW_S ? *(const double *)c->in[i].data : 1);
    f64_rows(&(OpCall){.kind = kind, .attr = &(OpAttr){0}, .in = (OpView[]){c->in[0], c->in[2]}, .out = &c->out[1]});
    for (int64_t k = 0; k < shape_count(&c->out[1].shape); k++)
        u[k] *= scale;
    f64_rows(&(OpCall){.kind = kind, .attr = &(OpAttr){.has = has & (OP_HAS_BIAS | OP_HAS_RES)}, .in = base, .out = &c->out[0]});
    f64_rows(&(OpCall){.kind = kind, .attr = &(OpAttr){.has = OP_HAS_RES}, .in = (OpView[]){c->out[1], c->in[3], c->out[0]}, .out = &c->out[0]});
    return 0;
}

/* ---- dw = dy^T x ---- */

static GemmShape weight_shape(const Meta *in, Dtype out)
{
    int64_t items, rows;
    item_rows(&in[0].shape, &items, &rows);
    return (GemmShape){.type = in[0].dtype, .out = out, .k = items * rows, .m = shape_last(&in[0].shape), .n = shape_last(&in[1].shape)};
}

static size_t linear_bwd_w_scratch(Backend *be, const OpAttr *attr, const Meta *in, int nin, const Meta *out, int nout)
{
    (void)attr, (void)nin, (void)nout;
    GemmShape s = weight_shape(in, out[0].dtype);
    GemmOuter p;
    return is_float(s.type) && cpu_gemm_outer_plan(be, &s, &p) >= 0 ? cpu_gemm_outer_scratch(be, &p) : 0;
}

static int linear_bwd_w_prepare(Backend *be, const OpCall *c, void **state)
{
    Meta in[2] = {{c->in[0].dtype, c->in[0].shape}, {c->in[1].dtype, c->in[1].shape}};
    GemmShape s = weight_shape(in, c->out[0].dtype);
    GemmOuter p;
    if (!is_float(s.type))
        return 0;
    TRY(cpu_gemm_outer_plan(be, &s, &p));
    return state_make(state, &p, sizeof p);
}

static int linear_bwd_w_run(Backend *be, const OpCall *c)
{
    if (c->in[0].dtype == DTYPE_F64) {
        int64_t n = shape_last(&c->in[0].shape), k = shape_last(&c->in[1].shape), rows = shape_rows(&c->in[0].shape);
        const double *dy = c->in[0].data, *x = c->in[1].data;
        double *dw = c->out[0].data;
        memset(dw, 0, (size_t)(n * k) * sizeof *dw);
        for (int64_t r = 0; r < rows; r++)
            for (int64_t i = 0; i < n; i++)
                for (int64_t j = 0; j < k; j++)
                    dw[i * k + j] += dy[r * n + i] * x[r * k + j];
        return 0;
    }
    if (!is_float(c->in[0].dtype))
        return cpu_op_unsupported(c, c->in[0].dtype);
    return cpu_gemm_outer_run(be, c->state, c->in[0].data, c->in[1].data, c->out[0].data, c->scratch);
}

/* ---- bias: the same sum as SUM_BCAST over channels ---- */

static size_t bias_grad_scratch(Backend *be, const OpAttr *attr, const Meta *in, int nin, const Meta *out, int nout)
{
    (void)attr;
    const BackendOp *sum = &be->op[OP_SUM_BCAST];
    return sum->scratch ? sum->scratch(be, &(OpAttr){.bcast = BCAST_CHANNEL}, in, nin, out, nout) : 0;
}

static int bias_grad_run(Backend *be, const OpCall *c)
{
    OpCall sum = *c;
    sum.kind = OP_SUM_BCAST;
    sum.attr = &(OpAttr){.bcast = BCAST_CHANNEL};
    return be->op[OP_SUM_BCAST].run(be, &sum);
}

static const BackendOp linear = {linear_scratch, rows_prepare, rows_run, state_free};
static const BackendOp linear_bwd_x = {linear_bwd_x_scratch, rows_prepare, rows_run, state_free};
static const BackendOp linear_bwd_w = {linear_bwd_w_scratch, linear_bwd_w_prepare, linear_bwd_w_run, state_free};
CPU_WIDENED(linear);
CPU_WIDENED(linear_bwd_x);
CPU_WIDENED(linear_bwd_w);

int cpu_linear_register(Backend *be)
{
    be->op[OP_LINEAR] = linear_any;
    be->op[OP_LINEAR_BWD_X] = linear_bwd_x_any;
    be->op[OP_LINEAR_BWD_W] = linear_bwd_w_any;
    be->op[OP_LINEAR_LOW].run = be->op[OP_LINEAR_LOW_BWD_X].run = low_run;
    be->op[OP_BIAS_GRAD] = (BackendOp){bias_grad_scratch, NULL, bias_grad_run, NULL};
    return 0;
}
