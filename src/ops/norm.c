#include "ops/rule.h"

static int group_stats(OpKind k, const OpAttr *a, const Meta *x, Meta *stat)
{
    int64_t c = shape_last(&x->shape);
    TRY(rule_ndim(k, "x", x, 2, OP_MAX_DIM));
    TRY(rule_eps(k, a->eps));
    if (a->act != ACT_NONE && a->act != ACT_SILU)
        return err_set(ERR_RANGE, "%s: act is %d, expected none or silu", op_name(k), a->act);
    if (a->groups < 1 || c % a->groups)
        return err_set(ERR_SHAPE, "%s: %d groups, expected a divisor of the %lld channels", op_name(k), a->groups,
                       (long long)c);
    *stat = RULE_META(dtype_param(x->dtype), x->shape.dim[0], a->groups);
    return 0;
}

static int group_norm_infer(const OpAttr *a, const Meta *in, int nin, Meta *out, int *nout)
{
    const OpKind k = OP_GROUP_NORM;
    TRY(rule_inputs(k, in, nin, 3));
    TRY(rule_compute(k, "x", &in[0]));
    TRY(group_stats(k, a, &in[0], &out[1]));
    Meta gain = RULE_META(dtype_param(in[0].dtype), shape_last(&in[0].shape));
    TRY(rule_equal(k, "gamma", &in[1], &gain));
    TRY(rule_equal(k, "beta", &in[2], &gain));
    out[0] = in[0];
    out[2] = out[1];
    *nout = 3;
    return 0;
}

static void norm_take(const OpGrad *g, const OpRef *d, int n)
{
    for (int i = 0; i < n; i++)
        if (g->need[i])
            g->din[i] = d[i];
}

static int group_norm_grad(OpBuild *b, const OpGrad *g)
{
    OpRef d[3];
    OpAttr a = {.eps = g->attr->eps, .act = g->attr->act, .groups = g->attr->groups};
    TRY(rule_only_first(OP_GROUP_NORM, g));
    if (g->dout[0] == OP_NONE || !(g->need[0] || g->need[1] || g->need[2]))
        return 0;
    TRY(RULE_EMIT(b, OP_GROUP_NORM_BWD, &a, d, 3, g->dout[0], g->in[0], g->in[1], g->in[2], g->out[1], g->out[2]));
    norm_take(g, d, 3);
    return 0;
}

static int group_norm_bwd_infer(const OpAttr *a, const Meta *in, int nin, Meta *out, int *nout)
{
    const OpKind k = OP_GROUP_NORM_BWD;
    Meta stat;
    TRY(rule_inputs(k, in, nin, 6));
    TRY(rule_compute(k, "x", &in[1]));
    TRY(group_stats(k, a, &in[1], &stat));
    Meta gain = RULE_META(dtype_param(in[1].dtype), shape_last(&in[1].shape));
    TRY(rule_equal(k, "dy", &in[0], &in[1]));
    TRY(rule_equal(k, "gamma", &in[2], &gain));
    TRY(rule_equal(k, "beta", &in[3], &gain));
    TRY(rule_equal(k, "mean", &in[4], &stat));
    TRY(rule_equal(k, "rstd", &in[5], &stat));
    out[0] = in[1];
    out[1] = out[2] = gain;
    *nout = 3;
    return 0;
}

static int layer_norm_infer(const OpAttr *a, const Meta *in, int nin, Meta *out, int *nout)
{
    const OpKind k = OP_LAYER_NORM;
    TRY(rule_inputs(k, in, nin, 3));
    TRY(rule_compute(k, "x", &in[0]));
    TRY(rule_ndim(k, "x", &in[0], 1, OP_MAX_DIM));
    TRY(rule_eps(k, a->eps));
    Meta gain = RULE_META(dtype_param(in[0].dtype), shape_last(&in[0].shape));
    TRY(rule_equal(k, "gamma", &in[1], &gain));
    TRY(rule_equal(k, "beta", &in[2], &gain));
    out[0] = in[0];
    out[1] = out[2] = RULE_META(gain.dtype, shape_rows(&in[0].shape));
    *nout = 3;
    return 0;
}

static int layer_norm_grad(OpBuild *b, const OpGrad *g)
{
    OpRef d[3];
    OpAttr a = {.eps = g->attr->eps};
    TRY(rule_only_first(OP_LAYER_NORM, g));
    if (g->dout[0] == OP_NONE || !(g->need[0] || g->need[1] || g->need[2]))
        return 0;
    TRY(RULE_EMIT(b, OP_LAYER_NORM_BWD, &a, d, 3, g->dout[0], g->in[0], g->in[1], g->out[1], g->out[2]));
    norm_take(g, d, 3);
    return 0;
}

static int layer_norm_bwd_infer(const OpAttr *a, const Meta *in, int nin, Meta *out, int *nout)
{
    const OpKind k = OP_LAYER_NORM_BWD;
    (void)a;
    TRY(rule_inputs(k, in, nin, 5));
    TRY(rule_compute(k, "x", &in[1]));
    TRY(rule_ndim(k, "x", &in[1], 1, OP_MAX_DIM));
    Meta gain = RULE_META(dtype_param(in[1].dtype), shape_last(&in[1].shape));
    Meta stat = RULE_META(gain.dtype, shape_rows(&in[1].shape));
    TRY(rule_equal(k, "dy", &in[0], &in[1]));
    TRY(rule_equal(k, "gamma", &in[2], &gain));
    TRY(rule_equal(k, "mean", &in[3], &stat));
    TRY(rule_equal(k, "rstd", &in[4], &stat));
    out[0] = in[1];
    out[1] = out[2] = gain;
    *nout = 3;
    return 0;
}

static int rms_norm_infer(const OpAttr *a, const Meta *in, int nin, Meta *out, int *nout)
{
    const OpKind k = OP_RMS_NORM;
    TRY(rule_inputs(k, in, nin, 2));
    TRY(rule_compute(k, "x", &in[0]));
    TRY(rule_ndim(k, "x", &in[0], 1, OP_MAX_DIM));
    TRY(rule_eps(k, a->eps));
    Meta gain = RULE_META(dtype_param(in[0].dtype), shape_last(&in[0].shape));
    TRY(rule_equal(k, "gamma", &in[1], &gain));
    out[0] = in[0];
    out[1] = RULE_META(gain.dtype, shape_rows(&in[0].shape));
    *nout = 2;
    return 0;
}

static int rms_norm_grad(OpBuild *b, const OpGrad *g)
{
    OpRef d[2];
    TRY(rule_only_first(OP_RMS_NORM, g));
    if (g->dout[0] == OP_NONE || !(g->need[0] || g->need[1]))
        return 0;
    TRY(RULE_EMIT(b, OP_RMS_NORM_BWD, &(OpAttr){.eps = g->attr->eps}, d, 2, g->dout[0], g->in[0], g->in[1], g->out[1]));
    norm_take(g, d, 2);
    return 0;
}

static int rms_norm_bwd_infer(const OpAttr *a, const Meta *in, int nin, Meta *out, int *nout)
{
    const OpKind k = OP_RMS_NORM_BWD;
    (void)a;
    TRY(rule_inputs(k, in, nin, 4));
    TRY(rule_compute(k, "x", &in[1]));
    TRY(rule_ndim(k, "x", &in[1], 1, OP_MAX_DIM));
    Meta gain = RULE_META(dtype_param(in[1].dtype), shape_last(&in[1].shape));
    Meta stat = RULE_META(gain.dtype, shape_rows(&in[1].shape));
    TRY(rule_equal(k, "dy", &in[0], &in[1]));
    TRY(rule_equal(k, "gamma", &in[2], &gain));
    TRY(rule_equal(k, "rstd", &in[3], &stat));
    out[0] = in[1];
    out[1] = gain;
    *nout = 2;
    return 0;
}

static int l2_norm_infer(const OpAttr *a, const Meta *in, int nin, Meta *out, int *nout)
{
    (void)a;
    TRY(rule_inputs(OP_L2_NORM, in, nin, 1));
    TRY(rule_compute(OP_L2_NORM, "x", &in[0]));
    TRY(rule_ndim(OP_L2_NORM, "x", &in[0], 1, OP_MAX_DIM));
    out[0] = in[0];
    out[1] = RULE_META(dtype_param(in[0].dtype), shape_rows(&in[0].shape));
    *nout = 2;
    return 0;
}

static int l2_norm_grad(OpBuild *b, const OpGrad *g)
{
    TRY(rule_only_first(OP_L2_NORM, g));
    if (g->dout[0] == OP_NONE || !g->need[0])
        return 0;
    return RULE_EMIT(b, OP_L2_NORM_BWD, &(OpAttr){0}, &g->din[0], 1, g->dout[0], g->out[0], g->out[1]);
}

static int l2_norm_bwd_infer(const OpAttr *a, const Meta *in, int nin, Meta *out, int *nout)
{
    const OpKind k = OP_L2_NORM_BWD;
    (void)a;
    TRY(rule_inputs(k, in, nin, 3));
    TRY(rule_compute(k, "y", &in[1]));
    TRY(rule_ndim(k, "y", &in[1], 1, OP_MAX_DIM));
    Meta stat = RULE_META(dtype_param(in[1].dtype), shape_rows(&in[1].shape));
    TRY(rule_equal(k, "dy", &in[0], &in[1]));
    TRY(rule_equal(k, "norm", &in[2], &stat));
    out[0] = in[1];
    *nout = 1;
    return 0;
}

const OpRule op_rule_GROUP_NORM = {.infer = group_norm_infer, .grad = group_norm_grad, .inplace = 1};
const OpRule op_rule_GROUP_NORM_BWD = {.infer = group_norm_bwd_infer};
const OpRule op_rule_LAYER_NORM = {.infer = layer_norm_infer, .grad = layer_norm_grad, .inplace = 1};
const OpRule op_rule_LAYER_NORM_BWD = {.infer = layer_norm_bwd_infer};
const OpRule op_rule_RMS_NORM = {.infer = rms_norm_infer, .grad = rms_norm_grad, .inplace = 1};
const OpRule op_rule_RMS_NORM_BWD = {.infer = rms_norm_bwd_infer};
const OpRule op_rule_L2_NORM = {.infer = l2_norm_infer, .grad = l2_norm_grad};
const OpRule op_rule_L2_NORM_BWD = {.infer = l2_norm_bwd_infer};

OpRef op_group_norm(OpBuild *b, OpRef x, OpRef gamma, OpRef beta, int groups, float eps, Act act)
{
    OpAttr a = {.groups = groups, .eps = eps, .act = (int32_t)act};
    return RULE_OP(b, OP_GROUP_NORM, &a, 3, x, gamma, beta);
}

OpRef op_layer_norm(OpBuild *b, OpRef x, OpRef gamma, OpRef beta, float eps)
{
    return RULE_OP(b, OP_LAYER_NORM, &(OpAttr){.eps = eps}, 3, x, gamma, beta);
}

OpRef op_rms_norm(OpBuild *b, OpRef x, OpRef gamma, float eps)
{
    return RULE_OP(b, OP_RMS_NORM, &(OpAttr){.eps = eps}, 2, x, gamma);
}

OpRef op_l2_norm(OpBuild *b, OpRef x)
{
    return RULE_OP(b, OP_L2_NORM, &(OpAttr){0}, 2, x);
}
