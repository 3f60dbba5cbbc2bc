#include "ops/rule.h"

#include <math.h>

static int embed_infer(const OpAttr *a, const Meta *in, int nin, Meta *out, int *nout)
{
    (void)a;
    TRY(rule_inputs(OP_EMBED, in, nin, 2));
    TRY(rule_dtype(OP_EMBED, "ids", &in[0], DTYPE_I32));
    TRY(rule_ndim(OP_EMBED, "ids", &in[0], 2, 2));
    TRY(rule_compute(OP_EMBED, "table", &in[1]));
    TRY(rule_ndim(OP_EMBED, "table", &in[1], 2, 2));
    out[0] = RULE_META(in[1].dtype, in[0].shape.dim[0], in[0].shape.dim[1], in[1].shape.dim[1]);
    *nout = 1;
    return 0;
}

static int embed_grad(OpBuild *b, const OpGrad *g)
{
    if (!g->need[1] || g->dout[0] == OP_NONE)
        return 0;
    OpAttr a = {.meta = *b->meta(b, g->in[1])};
    a.meta.dtype = dtype_param(a.meta.dtype);
    return RULE_EMIT(b, OP_EMBED_BWD, &a, &g->din[1], 1, g->dout[0], g->in[0]);
}

static int embed_bwd_infer(const OpAttr *a, const Meta *in, int nin, Meta *out, int *nout)
{
    const OpKind k = OP_EMBED_BWD;
    TRY(rule_inputs(k, in, nin, 2));
    TRY(rule_compute(k, "dy", &in[0]));
    TRY(rule_dtype(k, "ids", &in[1], DTYPE_I32));
    TRY(rule_ndim(k, "ids", &in[1], 2, 2));
    TRY(rule_attr_shape(k, a));
    TRY(rule_ndim(k, "result", &a->meta, 2, 2));
    TRY(rule_dtype(k, "result", &a->meta, dtype_param(in[0].dtype)));
    Meta dy = RULE_META(in[0].dtype, in[1].shape.dim[0], in[1].shape.dim[1], a->meta.shape.dim[1]);
    TRY(rule_equal(k, "dy", &in[0], &dy));
    out[0] = rule_result(a->meta.dtype, a);
    *nout = 1;
    return 0;
}

static int gather_row_infer(const OpAttr *a, const Meta *in, int nin, Meta *out, int *nout)
{
    (void)a;
    TRY(rule_inputs(OP_GATHER_ROW, in, nin, 2));
    TRY(rule_compute(OP_GATHER_ROW, "x", &in[0]));
    TRY(rule_ndim(OP_GATHER_ROW, "x", &in[0], 3, 3));
    Meta idx = RULE_META(DTYPE_I32, in[0].shape.dim[0]);
    TRY(rule_equal(OP_GATHER_ROW, "idx", &in[1], &idx));
    out[0] = RULE_META(in[0].dtype, in[0].shape.dim[0], in[0].shape.dim[2]);
    *nout = 1;
    return 0;
}

static int gather_row_grad(OpBuild *b, const OpGrad *g)
{
    if (!g->need[0] || g->dout[0] == OP_NONE)
        return 0;
    OpAttr a = {.meta = *b->meta(b, g->in[0])};
    return RULE_EMIT(b, OP_GATHER_ROW_BWD, &a, &g->din[0], 1, g->dout[0], g->in[1]);
}

static int gather_row_bwd_infer(const OpAttr *a, const Meta *in, int nin, Meta *out, int *nout)
{
    const OpKind k = OP_GATHER_ROW_BWD;
    TRY(rule_inputs(k, in, nin, 2));
    TRY(rule_compute(k, "dy", &in[0]));
    TRY(rule_attr_shape(k, a));
    Meta x = rule_result(in[0].dtype, a);
    TRY(rule_ndim(k, "result", &x, 3, 3));
    Meta dy = RULE_META(x.dtype, x.shape.dim[0], x.shape.dim[2]);
    Meta idx = RULE_META(DTYPE_I32, x.shape.dim[0]);
    TRY(rule_equal(k, "dy", &in[0], &dy));
    TRY(rule_equal(k, "idx", &in[1], &idx));
    out[0] = x;
    *nout = 1;
    return 0;
}

static int time_embed_infer(const OpAttr *a, const Meta *in, int nin, Meta *out, int *nout)
{
    const OpKind k = OP_TIME_EMBED;
    TRY(rule_inputs(k, in, nin, 1));
    TRY(rule_dtype(k, "t", &in[0], DTYPE_F32));
    TRY(rule_ndim(k, "t", &in[0], 1, 1));
    TRY(rule_compute(k, "result", &a->meta));
    if (a->count < 2 || a->count % 2)
        return err_set(ERR_RANGE, "%s: dim is %lld, expected an even number of at least 2", op_name(k),
                       (long long)a->count);
    if (!isfinite(a->shift) || !((double)a->shift < (double)(a->count / 2)))
        return err_set(ERR_RANGE, "%s: shift is %g, expected less than dim / 2 = %lld", op_name(k), (double)a->shift,
                       (long long)(a->count / 2));
    if (!isfinite(a->max_period) || !(a->max_period > 0.0f))
        return err_set(ERR_RANGE, "%s: max_period is %g, expected a finite number over 0", op_name(k),
                       (double)a->max_period);
    out[0] = RULE_META(a->meta.dtype, in[0].shape.dim[0], a->count);
    *nout = 1;
    return 0;
}

const OpRule op_rule_EMBED = {.infer = embed_infer, .grad = embed_grad};
const OpRule op_rule_EMBED_BWD = {.infer = embed_bwd_infer};
const OpRule op_rule_GATHER_ROW = {.infer = gather_row_infer, .grad = gather_row_grad};
const OpRule op_rule_GATHER_ROW_BWD = {.infer = gather_row_bwd_infer};
const OpRule op_rule_TIME_EMBED = {.infer = time_embed_infer};

OpRef op_embed(OpBuild *b, OpRef ids, OpRef table)
{
    return RULE_OP(b, OP_EMBED, &(OpAttr){0}, 1, ids, table);
}

OpRef op_gather_row(OpBuild *b, OpRef x, OpRef idx)
{
    return RULE_OP(b, OP_GATHER_ROW, &(OpAttr){0}, 1, x, idx);
}

OpRef op_time_embed(OpBuild *b, OpRef t, int64_t dim, int flip, float shift, float max_period, Dtype to)
{
    OpAttr a = {.count = dim, .flip = flip ? 1 : 0, .shift = shift, .max_period = max_period, .meta = {.dtype = to}};
    return RULE_OP(b, OP_TIME_EMBED, &a, 1, t);
}
