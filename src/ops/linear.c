#include "ops/rule.h"

static int linear_infer(const OpAttr *a, const Meta *in, int nin, Meta *out, int *nout)
{
    const OpKind k = OP_LINEAR;
    int want, i = 2;
    TRY(rule_optional(k, a, 2, OP_HAS_BIAS | OP_HAS_RES, &want));
    TRY(rule_inputs(k, in, nin, want));
    TRY(rule_compute(k, "x", &in[0]));
    TRY(rule_ndim(k, "x", &in[0], 1, OP_MAX_DIM));
    TRY(rule_ndim(k, "w", &in[1], 2, 2));
    int64_t n = in[1].shape.dim[0];
    Meta w = RULE_META(in[0].dtype, n, shape_last(&in[0].shape));
    Meta bias = RULE_META(dtype_param(in[0].dtype), n);
    TRY(rule_equal(k, "w", &in[1], &w));
    out[0] = rule_with_last(&in[0], n);
    if (a->has & OP_HAS_BIAS)
        TRY(rule_equal(k, "bias", &in[i++], &bias));
    if (a->has & OP_HAS_RES)
        TRY(rule_equal(k, "res", &in[i], &out[0]));
    *nout = 1;
    return 0;
}

static int linear_grad(OpBuild *b, const OpGrad *g)
{
    OpRef dy = g->dout[0];
    int i = 2;
    if (dy == OP_NONE)
        return 0;
    if (g->need[0])
        TRY(RULE_EMIT(b, OP_LINEAR_BWD_X, &(OpAttr){0}, &g->din[0], 1, dy, g->in[1]));
    if (g->need[1]) {
        OpAttr a = {.meta = *b->meta(b, g->in[1])};
        a.meta.dtype = rule_grad_dtype(b, g->in[1]);
        TRY(RULE_EMIT(b, OP_LINEAR_BWD_W, &a, &g->din[1], 1, dy, g->in[0]));
    }
    if (g->attr->has & OP_HAS_BIAS) {
        if (g->need[i])
            TRY(RULE_EMIT(b, OP_BIAS_GRAD, &(OpAttr){0}, &g->din[i], 1, dy));
        i++;
    }
    if ((g->attr->has & OP_HAS_RES) && g->need[i])
        g->din[i] = dy;
    return 0;
}

static int linear_bwd_x_infer(const OpAttr *a, const Meta *in, int nin, Meta *out, int *nout)
{
    const OpKind k = OP_LINEAR_BWD_X;
    int want;
    TRY(rule_optional(k, a, 2, OP_HAS_RES, &want));
    TRY(rule_inputs(k, in, nin, want));
    TRY(rule_compute(k, "dy", &in[0]));
    TRY(rule_ndim(k, "dy", &in[0], 1, OP_MAX_DIM));
    TRY(rule_ndim(k, "w", &in[1], 2, 2));
    int64_t cols = in[1].shape.dim[1];
    Meta w = RULE_META(in[0].dtype, shape_last(&in[0].shape), cols);
    TRY(rule_equal(k, "w", &in[1], &w));
    out[0] = rule_with_last(&in[0], cols);
    if (a->has & OP_HAS_RES)
        TRY(rule_equal(k, "res", &in[2], &out[0]));
    *nout = 1;
    return 0;
}

static int linear_bwd_x_grad(OpBuild *b, const OpGrad *g)
{
    OpRef d = g->dout[0];
    if (d == OP_NONE)
        return 0;
    if (g->need[0])
        TRY(RULE_EMIT(b, OP_LINEAR, &(OpAttr){0}, &g->din[0], 1, d, g->in[1]));
    if (g->need[1]) {
        OpAttr a = {.meta = *b->meta(b, g->in[1])};
        a.meta.dtype = rule_grad_dtype(b, g->in[1]);
        TRY(RULE_EMIT(b, OP_LINEAR_BWD_W, &a, &g->din[1], 1, g->in[0], d));
    }
    if ((g->attr->has & OP_HAS_RES) && g->need[2])
        g->din[2] = d;
    return 0;
}

static int linear_bwd_w_infer(const OpAttr *a, const Meta *in, int nin, Meta *out, int *nout)
{
    const OpKind k = OP_LINEAR_BWD_W;
    TRY(rule_inputs(k, in, nin, 2));
    TRY(rule_compute(k, "dy", &in[0]));
    TRY(rule_ndim(k, "dy", &in[0], 1, OP_MAX_DIM));
    TRY(rule_ndim(k, "x", &in[1], 1, OP_MAX_DIM));
    Meta x = rule_with_last(&in[0], shape_last(&in[1].shape));
    TRY(rule_equal(k, "x", &in[1], &x));
    TRY(rule_wgrad_dtype(k, a, in[0].dtype));
    out[0] = RULE_META(a->meta.dtype, shape_last(&in[0].shape), shape_last(&in[1].shape));
    *nout = 1;
    return 0;
}

/* Both ways: the two factors follow the path of x, from the first to the second. */
static int low_infer(OpKind k, int forward, const OpAttr *a, const Meta *in, int nin, Meta *out, int *nout)
{
    int want, i = 4, from = forward ? 1 : 0; /* the dimension of w that x has */
    TRY(rule_optional(k, a, 4, (forward ? OP_HAS_BIAS : 0) | OP_HAS_RES | OP_HAS_LOW_S, &want));
    TRY(rule_inputs(k, in, nin, want));
    TRY(rule_compute(k, "x", &in[0]));
    TRY(rule_finite(k, "scale", a->scale));
    TRY(rule_ndim(k, "x", &in[0], 1, OP_MAX_DIM));
    TRY(rule_ndim(k, "w", &in[1], 2, 2));
    TRY(rule_ndim(k, "the first factor", &in[2], 2, 2));
    TRY(rule_ndim(k, "the second factor", &in[3], 2, 2));
    int64_t x = shape_last(&in[0].shape), y = in[1].shape.dim[1 - from], r = in[2].shape.dim[1 - from];
    Dtype t = in[0].dtype;
    Meta w = forward ? RULE_META(t, y, x) : RULE_META(t, x, y), first = forward ? RULE_META(t, r, x) : RULE_META(t, x, r);
    Meta second = forward ? RULE_META(t, y, r) : RULE_META(t, r, y), bias = RULE_META(dtype_param(t), y), s = RULE_META(dtype_param(t), 1);
    TRY(rule_equal(k, "w", &in[1], &w));
    TRY(rule_equal(k, "the first factor", &in[2], &first));
    TRY(rule_equal(k, "the second factor", &in[3], &second));
    out[0] = rule_with_last(&in[0], y);
    out[1] = rule_with_last(&in[0], r);
    if (a->has & OP_HAS_BIAS)
        TRY(rule_equal(k, "bias", &in[i++], &bias));
    if (a->has & OP_HAS_RES)
        TRY(rule_equal(k, "res", &in[i++], &out[0]));
    if (a->has & OP_HAS_LOW_S)
        TRY(rule_equal(k, "s", &in[i], &s));
    *nout = 2;
    return 0;
}

static int linear_low_infer(const OpAttr *a, const Meta *in, int nin, Meta *out, int *nout)
{
    return low_infer(OP_LINEAR_LOW, 1, a, in, nin, out, nout);
}

static int linear_low_bwd_x_infer(const OpAttr *a, const Meta *in, int nin, Meta *out, int *nout)
{
    return low_infer(OP_LINEAR_LOW_BWD_X, 0, a, in, nin, out, nout);
}

static int bias_grad_infer(const OpAttr *a, const Meta *in, int nin, Meta *out, int *nout)
{
    (void)a;
    TRY(rule_inputs(OP_BIAS_GRAD, in, nin, 1));
    TRY(rule_compute(OP_BIAS_GRAD, "dy", &in[0]));
    TRY(rule_ndim(OP_BIAS_GRAD, "dy", &in[0], 1, OP_MAX_DIM));
    out[0] = RULE_META(dtype_param(in[0].dtype), shape_last(&in[0].shape));
    *nout = 1;
    return 0;
}

const OpRule op_rule_LINEAR = {.infer = linear_infer, .grad = linear_grad};
const OpRule op_rule_LINEAR_BWD_X = {.infer = linear_bwd_x_infer, .grad = linear_bwd_x_grad};
const OpRule op_rule_LINEAR_BWD_W = {.infer = linear_bwd_w_infer};
const OpRule op_rule_LINEAR_LOW = {.infer = linear_low_infer};
const OpRule op_rule_LINEAR_LOW_BWD_X = {.infer = linear_low_bwd_x_infer};
const OpRule op_rule_BIAS_GRAD = {.infer = bias_grad_infer};

OpRef op_linear(OpBuild *b, OpRef x, OpRef w, OpRef bias, OpRef res)
{
    OpAttr a = {0};
    OpRef in[4] = {x, w};
    int n = 2;
    if (bias != OP_NONE) {
        a.has |= OP_HAS_BIAS;
        in[n++] = bias;
    }
    if (res != OP_NONE) {
        a.has |= OP_HAS_RES;
        in[n++] = res;
    }
    return rule_op(b, OP_LINEAR, &a, in, n, 1);
}

OpRef op_matmul(OpBuild *b, OpRef x, OpRef w)
{
    return RULE_OP(b, OP_LINEAR_BWD_X, &(OpAttr){0}, 1, x, w);
}
