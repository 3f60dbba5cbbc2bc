#include "ops/rule.h"

static int mul_bcast_infer(const OpAttr *a, const Meta *in, int nin, Meta *out, int *nout)
{
    const OpKind k = OP_MUL_BCAST;
    TRY(rule_inputs(k, in, nin, 2));
    TRY(rule_compute(k, "x", &in[0]));
    if (a->bcast != BCAST_ITEM && a->bcast != BCAST_CHANNEL)
        return err_set(ERR_RANGE, "%s: bcast is %d, expected per item or per channel", op_name(k), a->bcast);
    TRY(rule_ndim(k, "x", &in[0], a->bcast == BCAST_ITEM ? 2 : 1, OP_MAX_DIM));
    int64_t c = shape_last(&in[0].shape);
    Dtype t = in[1].dtype == in[0].dtype ? in[0].dtype : dtype_param(in[0].dtype);
    Meta v = a->bcast == BCAST_ITEM ? RULE_META(t, in[0].shape.dim[0], c) : RULE_META(t, c);
    TRY(rule_equal(k, "v", &in[1], &v));
    out[0] = in[0];
    *nout = 1;
    return 0;
}

static int mul_bcast_grad(OpBuild *b, const OpGrad *g)
{
    OpRef d = g->dout[0], product;
    if (d == OP_NONE)
        return 0;
    if (g->need[0])
        TRY(RULE_EMIT(b, OP_MUL_BCAST, &(OpAttr){.bcast = g->attr->bcast}, &g->din[0], 1, d, g->in[1]));
    if (!g->need[1])
        return 0;
    OpAttr a = {.bcast = g->attr->bcast, .meta = *b->meta(b, g->in[1])};
    a.meta.dtype = rule_grad_dtype(b, g->in[1]);
    TRY(RULE_EMIT(b, OP_MUL, &(OpAttr){0}, &product, 1, d, g->in[0]));
    return RULE_EMIT(b, OP_SUM_BCAST, &a, &g->din[1], 1, product);
}

static int row_gain_infer(const OpAttr *a, const Meta *in, int nin, Meta *out, int *nout)
{
    const OpKind k = OP_ROW_GAIN;
    (void)a;
    TRY(rule_inputs(k, in, nin, 2));
    TRY(rule_compute(k, "m", &in[0]));
    TRY(rule_dtype(k, "m", &in[0], dtype_param(in[0].dtype)));
    TRY(rule_ndim(k, "v", &in[1], 2, OP_MAX_DIM));
    TRY(rule_dtype(k, "v", &in[1], in[0].dtype));
    Meta m = RULE_META(in[0].dtype, in[1].shape.dim[0]);
    TRY(rule_equal(k, "m", &in[0], &m));
    out[0] = in[0];
    *nout = 1;
    return 0;
}

static int row_gain_grad(OpBuild *b, const OpGrad *g)
{
    if (!g->need[0] || g->dout[0] == OP_NONE)
        return 0;
    return RULE_EMIT(b, OP_ROW_GAIN, &(OpAttr){0}, &g->din[0], 1, g->dout[0], g->in[1]);
}

static int dropout_infer(const OpAttr *a, const Meta *in, int nin, Meta *out, int *nout)
{
    const OpKind k = OP_DROPOUT;
    TRY(rule_inputs(k, in, nin, 2));
    TRY(rule_compute(k, "x", &in[0]));
    TRY(rule_ndim(k, "x", &in[0], 2, OP_MAX_DIM));
    TRY(rule_range(k, "what", a->bcast, DROP_ELEMENT, DROP_ITEM));
    if (!(a->scale >= 0 && a->scale < 1))
        return err_set(ERR_RANGE, "%s: probability is %g, expected at least 0 and less than 1", op_name(k), (double)a->scale);
    Meta position = RULE_META(DTYPE_I64, in[0].shape.dim[0]);
    TRY(rule_equal(k, "position", &in[1], &position));
    out[0] = in[0];
    *nout = 1;
    return 0;
}

static int dropout_grad(OpBuild *b, const OpGrad *g)
{
    if (!g->need[0] || g->dout[0] == OP_NONE)
        return 0;
    return RULE_EMIT(b, OP_DROPOUT, g->attr, &g->din[0], 1, g->dout[0], g->in[1]);
}

const OpRule op_rule_MUL_BCAST = {.infer = mul_bcast_infer, .grad = mul_bcast_grad, .inplace = 1};
const OpRule op_rule_ROW_GAIN = {.infer = row_gain_infer, .grad = row_gain_grad, .inplace = 1};
const OpRule op_rule_DROPOUT = {.infer = dropout_infer, .grad = dropout_grad, .inplace = 1};

OpRef op_mul_bcast(OpBuild *b, OpRef x, OpRef v, Bcast how)
{
    return RULE_OP(b, OP_MUL_BCAST, &(OpAttr){.bcast = (int32_t)how}, 1, x, v);
}

OpRef op_row_gain(OpBuild *b, OpRef m, OpRef v)
{
    return RULE_OP(b, OP_ROW_GAIN, &(OpAttr){0}, 1, m, v);
}

OpRef op_dropout(OpBuild *b, OpRef x, OpRef position, float p, Drop what, uint64_t seed, uint64_t key)
{
    OpAttr a = {.scale = p, .bcast = (int32_t)what, .begin = (int64_t)seed, .count = (int64_t)key};
    return RULE_OP(b, OP_DROPOUT, &a, 1, x, position);
}
