#include "ops/rule.h"

static int act_infer(const OpAttr *a, const Meta *in, int nin, Meta *out, int *nout)
{
    TRY(rule_inputs(OP_ACT, in, nin, 1));
    TRY(rule_compute(OP_ACT, "x", &in[0]));
    TRY(rule_range(OP_ACT, "act", a->act, ACT_NONE, ACT_EXP));
    out[0] = in[0];
    *nout = 1;
    return 0;
}

static int act_grad(OpBuild *b, const OpGrad *g)
{
    if (!g->need[0] || g->dout[0] == OP_NONE)
        return 0;
    return RULE_EMIT(b, OP_ACT_BWD, &(OpAttr){.act = g->attr->act}, &g->din[0], 1, g->dout[0], g->in[0]);
}

static int act_bwd_infer(const OpAttr *a, const Meta *in, int nin, Meta *out, int *nout)
{
    TRY(rule_inputs(OP_ACT_BWD, in, nin, 2));
    TRY(rule_compute(OP_ACT_BWD, "x", &in[1]));
    TRY(rule_range(OP_ACT_BWD, "act", a->act, ACT_NONE, ACT_EXP));
    TRY(rule_equal(OP_ACT_BWD, "dy", &in[0], &in[1]));
    out[0] = in[1];
    *nout = 1;
    return 0;
}

static int geglu_result(OpKind k, const Meta *x, Meta *y)
{
    TRY(rule_compute(k, "x", x));
    TRY(rule_ndim(k, "x", x, 1, OP_MAX_DIM));
    int64_t c = shape_last(&x->shape);
    if (c % 2)
        return err_set(ERR_SHAPE, "%s: x has %lld channels, expected an even number", op_name(k), (long long)c);
    *y = rule_with_last(x, c / 2);
    return 0;
}

/* in[at] is the bias where there is one. */
static int geglu_bias(OpKind k, const OpAttr *a, const Meta *x, const Meta *in, int nin, int at)
{
    int want;
    TRY(rule_optional(k, a, at, OP_HAS_BIAS, &want));
    TRY(rule_inputs(k, in, nin, want));
    Meta bias = RULE_META(dtype_param(x->dtype), shape_last(&x->shape));
    return want > at ? rule_equal(k, "bias", &in[at], &bias) : 0;
}

static int geglu_infer(const OpAttr *a, const Meta *in, int nin, Meta *out, int *nout)
{
    TRY(geglu_bias(OP_GEGLU, a, &in[0], in, nin, 1));
    TRY(geglu_result(OP_GEGLU, &in[0], &out[0]));
    *nout = 1;
    return 0;
}

static int geglu_grad(OpBuild *b, const OpGrad *g)
{
    int bias = g->attr->has & OP_HAS_BIAS;
    OpRef dx;
    if (g->dout[0] == OP_NONE || !(g->need[0] || (bias && g->need[1])))
        return 0;
    const OpRef in[3] = {g->dout[0], g->in[0], bias ? g->in[1] : OP_NONE};
    TRY(rule_emit(b, OP_GEGLU_BWD, &(OpAttr){.has = bias}, in, bias ? 3 : 2, &dx, 1));
    if (g->need[0])
        g->din[0] = dx;
    return bias && g->need[1] ? RULE_EMIT(b, OP_BIAS_GRAD, &(OpAttr){0}, &g->din[1], 1, dx) : 0;
}

static int geglu_bwd_infer(const OpAttr *a, const Meta *in, int nin, Meta *out, int *nout)
{
    Meta dy;
    TRY(geglu_bias(OP_GEGLU_BWD, a, &in[1], in, nin, 2));
    TRY(geglu_result(OP_GEGLU_BWD, &in[1], &dy));
    TRY(rule_equal(OP_GEGLU_BWD, "dy", &in[0], &dy));
    out[0] = in[1];
    *nout = 1;
    return 0;
}

const OpRule op_rule_ACT = {.infer = act_infer, .grad = act_grad, .inplace = 1};
const OpRule op_rule_ACT_BWD = {.infer = act_bwd_infer, .inplace = 3};
const OpRule op_rule_GEGLU = {.infer = geglu_infer, .grad = geglu_grad};
const OpRule op_rule_GEGLU_BWD = {.infer = geglu_bwd_infer};

OpRef op_act(OpBuild *b, OpRef x, Act act)
{
    return RULE_OP(b, OP_ACT, &(OpAttr){.act = (int32_t)act}, 1, x);
}

OpRef op_geglu(OpBuild *b, OpRef x)
{
    return RULE_OP(b, OP_GEGLU, &(OpAttr){0}, 1, x);
}
