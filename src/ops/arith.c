#include "ops/rule.h"

static int pair_infer(OpKind k, const Meta *in, int nin, Meta *out, int *nout)
{
    TRY(rule_inputs(k, in, nin, 2));
    TRY(rule_compute(k, "x", &in[0]));
    TRY(rule_equal(k, "y", &in[1], &in[0]));
    out[0] = in[0];
    *nout = 1;
    return 0;
}

static int add_infer(const OpAttr *a, const Meta *in, int nin, Meta *out, int *nout)
{
    (void)a;
    return pair_infer(OP_ADD, in, nin, out, nout);
}

static int mul_infer(const OpAttr *a, const Meta *in, int nin, Meta *out, int *nout)
{
    (void)a;
    return pair_infer(OP_MUL, in, nin, out, nout);
}

static int add_grad(OpBuild *b, const OpGrad *g)
{
    (void)b;
    for (int i = 0; i < 2; i++)
        if (g->need[i])
            g->din[i] = g->dout[0];
    return 0;
}

static int mul_grad(OpBuild *b, const OpGrad *g)
{
    if (g->dout[0] == OP_NONE)
        return 0;
    for (int i = 0; i < 2; i++)
        if (g->need[i])
            TRY(RULE_EMIT(b, OP_MUL, &(OpAttr){0}, &g->din[i], 1, g->dout[0], g->in[1 - i]));
    return 0;
}

static int scale_infer(const OpAttr *a, const Meta *in, int nin, Meta *out, int *nout)
{
    const OpKind k = OP_SCALE;
    int want;
    char t[96];
    TRY(rule_optional(k, a, 1, OP_HAS_S, &want));
    TRY(rule_inputs(k, in, nin, want));
    TRY(rule_compute(k, "x", &in[0]));
    TRY(rule_finite(k, "factor", a->scale));
    if (a->has & OP_HAS_S) {
        TRY(rule_dtype(k, "s", &in[1], dtype_param(in[0].dtype)));
        if (shape_count(&in[1].shape) != 1)
            return err_set(ERR_SHAPE, "%s: s is %s, expected one element", op_name(k),
                           shape_text(&in[1].shape, t, sizeof t));
    }
    out[0] = in[0];
    *nout = 1;
    return 0;
}

static int scale_grad(OpBuild *b, const OpGrad *g)
{
    OpAttr a = {.scale = g->attr->scale, .has = g->attr->has};
    OpRef in[2] = {g->dout[0], g->nin > 1 ? g->in[1] : OP_NONE};
    if (g->dout[0] == OP_NONE)
        return 0;
    if (g->nin > 1)
        TRY(rule_no_grad(OP_SCALE, g, 1, "the factor s"));
    return g->need[0] ? rule_emit(b, OP_SCALE, &a, in, g->nin, &g->din[0], 1) : 0;
}

/* The shape of v for x, see Bcast. */
static int bcast_shape(OpKind k, const OpAttr *a, const Meta *x, Shape *v)
{
    int n = x->shape.ndim;
    TRY(rule_range(k, "bcast", a->bcast, BCAST_ITEM, BCAST_CHANNEL));
    TRY(rule_ndim(k, "x", x, a->bcast == BCAST_CHANNEL ? 1 : 2, OP_MAX_DIM));
    if (a->bcast == BCAST_ITEM)
        *v = SHAPE(x->shape.dim[0], x->shape.dim[n - 1]);
    else if (a->bcast == BCAST_ROW)
        *v = shape_make(n - 1, x->shape.dim + 1);
    else
        *v = SHAPE(x->shape.dim[n - 1]);
    return 0;
}

static int bcast_v(OpKind k, const OpAttr *a, const Meta *x, const char *what, const Meta *v)
{
    Meta want = {.dtype = v->dtype};
    TRY(bcast_shape(k, a, x, &want.shape));
    if (v->dtype != x->dtype)
        want.dtype = dtype_param(x->dtype);
    return rule_equal(k, what, v, &want);
}

static int add_bcast_infer(const OpAttr *a, const Meta *in, int nin, Meta *out, int *nout)
{
    TRY(rule_inputs(OP_ADD_BCAST, in, nin, 2));
    TRY(rule_compute(OP_ADD_BCAST, "x", &in[0]));
    TRY(bcast_v(OP_ADD_BCAST, a, &in[0], "v", &in[1]));
    out[0] = in[0];
    *nout = 1;
    return 0;
}

static int add_bcast_grad(OpBuild *b, const OpGrad *g)
{
    if (g->dout[0] == OP_NONE)
        return 0;
    if (g->need[0])
        g->din[0] = g->dout[0];
    if (!g->need[1])
        return 0;
    OpAttr a = {.bcast = g->attr->bcast, .meta = *b->meta(b, g->in[1])};
    a.meta.dtype = rule_grad_dtype(b, g->in[1]);
    return RULE_EMIT(b, OP_SUM_BCAST, &a, &g->din[1], 1, g->dout[0]);
}

static int sum_bcast_infer(const OpAttr *a, const Meta *in, int nin, Meta *out, int *nout)
{
    TRY(rule_inputs(OP_SUM_BCAST, in, nin, 1));
    TRY(rule_compute(OP_SUM_BCAST, "x", &in[0]));
    TRY(rule_attr_shape(OP_SUM_BCAST, a));
    TRY(bcast_v(OP_SUM_BCAST, a, &in[0], "result", &a->meta));
    out[0] = rule_result(a->meta.dtype, a);
    *nout = 1;
    return 0;
}

static int sum_bcast_grad(OpBuild *b, const OpGrad *g)
{
    OpRef zero;
    if (!g->need[0] || g->dout[0] == OP_NONE)
        return 0;
    TRY(rule_emit(b, OP_ZERO, &(OpAttr){.meta = *b->meta(b, g->in[0])}, NULL, 0, &zero, 1));
    return RULE_EMIT(b, OP_ADD_BCAST, &(OpAttr){.bcast = g->attr->bcast}, &g->din[0], 1, zero, g->dout[0]);
}

static int concat_infer(const OpAttr *a, const Meta *in, int nin, Meta *out, int *nout)
{
    (void)a;
    TRY(rule_inputs(OP_CONCAT, in, nin, 2));
    TRY(rule_compute(OP_CONCAT, "x", &in[0]));
    TRY(rule_ndim(OP_CONCAT, "x", &in[0], 1, OP_MAX_DIM));
    int64_t cx = shape_last(&in[0].shape), cy = shape_last(&in[1].shape);
    Meta y = rule_with_last(&in[0], cy);
    TRY(rule_equal(OP_CONCAT, "y", &in[1], &y));
    out[0] = rule_with_last(&in[0], cx + cy);
    *nout = 1;
    return 0;
}

static int concat_grad(OpBuild *b, const OpGrad *g)
{
    int64_t begin = 0;
    if (g->dout[0] == OP_NONE)
        return 0;
    for (int i = 0; i < 2; i++) {
        int64_t count = shape_last(&b->meta(b, g->in[i])->shape);
        if (g->need[i])
            TRY(RULE_EMIT(b, OP_SLICE, &((OpAttr){.begin = begin, .count = count}), &g->din[i], 1, g->dout[0]));
        begin += count;
    }
    return 0;
}

static int slice_check(OpKind k, int64_t begin, int64_t count, int64_t c)
{
    if (begin < 0 || count < 1 || begin > c || count > c - begin)
        return err_set(ERR_SHAPE, "%s: %lld channels from %lld, expected a part of the %lld channels", op_name(k),
                       (long long)count, (long long)begin, (long long)c);
    return 0;
}

static int slice_infer(const OpAttr *a, const Meta *in, int nin, Meta *out, int *nout)
{
    TRY(rule_inputs(OP_SLICE, in, nin, 1));
    TRY(rule_compute(OP_SLICE, "x", &in[0]));
    TRY(rule_ndim(OP_SLICE, "x", &in[0], 1, OP_MAX_DIM));
    TRY(slice_check(OP_SLICE, a->begin, a->count, shape_last(&in[0].shape)));
    out[0] = rule_with_last(&in[0], a->count);
    *nout = 1;
    return 0;
}

static int slice_grad(OpBuild *b, const OpGrad *g)
{
    if (!g->need[0] || g->dout[0] == OP_NONE)
        return 0;
    OpAttr a = {.begin = g->attr->begin, .count = g->attr->count, .meta = *b->meta(b, g->in[0])};
    return RULE_EMIT(b, OP_SLICE_BWD, &a, &g->din[0], 1, g->dout[0]);
}

static int slice_bwd_infer(const OpAttr *a, const Meta *in, int nin, Meta *out, int *nout)
{
    const OpKind k = OP_SLICE_BWD;
    TRY(rule_inputs(k, in, nin, 1));
    TRY(rule_compute(k, "dy", &in[0]));
    TRY(rule_attr_shape(k, a));
    Meta x = rule_result(in[0].dtype, a);
    int64_t count = shape_last(&in[0].shape);
    TRY(rule_ndim(k, "result", &x, 1, OP_MAX_DIM));
    TRY(slice_check(k, a->begin, count, shape_last(&x.shape)));
    Meta dy = rule_with_last(&x, count);
    TRY(rule_equal(k, "dy", &in[0], &dy));
    out[0] = x;
    *nout = 1;
    return 0;
}

static int cast_dtype(const char *what, Dtype t)
{
    if (t != DTYPE_F32 && t != DTYPE_BF16 && t != DTYPE_F16 && t != DTYPE_F64)
        return err_set(ERR_SHAPE, "%s: %s is %s, expected f32, bf16, f16 or f64", op_name(OP_CAST), what, dtype_name(t));
    return 0;
}

static int cast_infer(const OpAttr *a, const Meta *in, int nin, Meta *out, int *nout)
{
    TRY(rule_inputs(OP_CAST, in, nin, 1));
    TRY(cast_dtype("x", in[0].dtype));
    TRY(cast_dtype("result", a->meta.dtype));
    out[0] = (Meta){a->meta.dtype, in[0].shape};
    *nout = 1;
    return 0;
}

static int cast_grad(OpBuild *b, const OpGrad *g)
{
    if (!g->need[0] || g->dout[0] == OP_NONE)
        return 0;
    Dtype to = rule_grad_dtype(b, g->in[0]);
    if (!b->grad_dtype) /* nothing says that x is a parameter */
        to = b->meta(b, g->in[0])->dtype;
    if (b->meta(b, g->dout[0])->dtype == to) {
        g->din[0] = g->dout[0];
        return 0;
    }
    return RULE_EMIT(b, OP_CAST, &(OpAttr){.meta = {.dtype = to}}, &g->din[0], 1, g->dout[0]);
}

static int reshape_infer(const OpAttr *a, const Meta *in, int nin, Meta *out, int *nout)
{
    char t[96], u[96];
    TRY(rule_inputs(OP_RESHAPE, in, nin, 1));
    TRY(rule_attr_shape(OP_RESHAPE, a));
    if (shape_count(&a->meta.shape) != shape_count(&in[0].shape))
        return err_set(ERR_SHAPE, "%s: x is %s, expected as many elements as the result %s", op_name(OP_RESHAPE),
                       shape_text(&in[0].shape, t, sizeof t), shape_text(&a->meta.shape, u, sizeof u));
    out[0] = rule_result(in[0].dtype, a);
    *nout = 1;
    return 0;
}

static int reshape_grad(OpBuild *b, const OpGrad *g)
{
    if (!g->need[0] || g->dout[0] == OP_NONE)
        return 0;
    OpAttr a = {.meta = {b->meta(b, g->dout[0])->dtype, b->meta(b, g->in[0])->shape}};
    return RULE_EMIT(b, OP_RESHAPE, &a, &g->din[0], 1, g->dout[0]);
}

static int permute_infer(OpKind k, const Meta *in, int nin, Meta *out, int *nout, const int order[4])
{
    TRY(rule_inputs(k, in, nin, 1));
    TRY(rule_compute(k, "x", &in[0]));
    TRY(rule_ndim(k, "x", &in[0], 4, 4));
    for (int i = 0; i < 4; i++)
        out[0].shape.dim[i] = in[0].shape.dim[order[i]];
    out[0].shape.ndim = 4;
    out[0].dtype = in[0].dtype;
    *nout = 1;
    return 0;
}

static int nchw_to_nhwc_infer(const OpAttr *a, const Meta *in, int nin, Meta *out, int *nout)
{
    (void)a;
    return permute_infer(OP_NCHW_TO_NHWC, in, nin, out, nout, (const int[]){0, 2, 3, 1});
}

static int nhwc_to_nchw_infer(const OpAttr *a, const Meta *in, int nin, Meta *out, int *nout)
{
    (void)a;
    return permute_infer(OP_NHWC_TO_NCHW, in, nin, out, nout, (const int[]){0, 3, 1, 2});
}

static int permute_grad(OpBuild *b, const OpGrad *g, OpKind back)
{
    if (!g->need[0] || g->dout[0] == OP_NONE)
        return 0;
    return RULE_EMIT(b, back, &(OpAttr){0}, &g->din[0], 1, g->dout[0]);
}

static int nchw_to_nhwc_grad(OpBuild *b, const OpGrad *g)
{
    return permute_grad(b, g, OP_NHWC_TO_NCHW);
}

static int nhwc_to_nchw_grad(OpBuild *b, const OpGrad *g)
{
    return permute_grad(b, g, OP_NCHW_TO_NHWC);
}

static int zero_infer(const OpAttr *a, const Meta *in, int nin, Meta *out, int *nout)
{
    TRY(rule_inputs(OP_ZERO, in, nin, 0));
    TRY(rule_attr_shape(OP_ZERO, a));
    TRY(rule_compute(OP_ZERO, "result", &a->meta));
    out[0] = rule_result(a->meta.dtype, a);
    *nout = 1;
    return 0;
}

const OpRule op_rule_ADD = {.infer = add_infer, .grad = add_grad, .inplace = 3};
const OpRule op_rule_MUL = {.infer = mul_infer, .grad = mul_grad, .inplace = 3};
const OpRule op_rule_SCALE = {.infer = scale_infer, .grad = scale_grad, .inplace = 1};
const OpRule op_rule_ADD_BCAST = {.infer = add_bcast_infer, .grad = add_bcast_grad, .inplace = 1};
const OpRule op_rule_SUM_BCAST = {.infer = sum_bcast_infer, .grad = sum_bcast_grad};
const OpRule op_rule_CONCAT = {.infer = concat_infer, .grad = concat_grad};
const OpRule op_rule_SLICE = {.infer = slice_infer, .grad = slice_grad};
const OpRule op_rule_SLICE_BWD = {.infer = slice_bwd_infer};
const OpRule op_rule_CAST = {.infer = cast_infer, .grad = cast_grad};
const OpRule op_rule_RESHAPE = {.infer = reshape_infer, .grad = reshape_grad};
const OpRule op_rule_NCHW_TO_NHWC = {.infer = nchw_to_nhwc_infer, .grad = nchw_to_nhwc_grad};
const OpRule op_rule_NHWC_TO_NCHW = {.infer = nhwc_to_nchw_infer, .grad = nhwc_to_nchw_grad};
const OpRule op_rule_ZERO = {.infer = zero_infer};

OpRef op_add(OpBuild *b, OpRef x, OpRef y)
{
    return RULE_OP(b, OP_ADD, &(OpAttr){0}, 1, x, y);
}

OpRef op_mul(OpBuild *b, OpRef x, OpRef y)
{
    return RULE_OP(b, OP_MUL, &(OpAttr){0}, 1, x, y);
}

OpRef op_scale(OpBuild *b, OpRef x, float factor, OpRef s)
{
    OpAttr a = {.scale = factor, .has = s == OP_NONE ? 0 : OP_HAS_S};
    return rule_op(b, OP_SCALE, &a, (const OpRef[]){x, s}, s == OP_NONE ? 1 : 2, 1);
}

OpRef op_add_bcast(OpBuild *b, OpRef x, OpRef v, Bcast how)
{
    return RULE_OP(b, OP_ADD_BCAST, &(OpAttr){.bcast = (int32_t)how}, 1, x, v);
}

OpRef op_sum_bcast(OpBuild *b, OpRef x, Bcast how, const Meta *meta)
{
    return RULE_OP(b, OP_SUM_BCAST, &((OpAttr){.bcast = (int32_t)how, .meta = *meta}), 1, x);
}

OpRef op_concat(OpBuild *b, OpRef x, OpRef y)
{
    return RULE_OP(b, OP_CONCAT, &(OpAttr){0}, 1, x, y);
}

OpRef op_slice(OpBuild *b, OpRef x, int64_t begin, int64_t count)
{
    return RULE_OP(b, OP_SLICE, &((OpAttr){.begin = begin, .count = count}), 1, x);
}

OpRef op_cast(OpBuild *b, OpRef x, Dtype to)
{
    return RULE_OP(b, OP_CAST, &(OpAttr){.meta = {.dtype = to}}, 1, x);
}

OpRef op_reshape(OpBuild *b, OpRef x, Shape to)
{
    if (x == OP_NONE)
        return OP_NONE;
    OpAttr a = {.meta = {b->meta(b, x)->dtype, to}};
    return RULE_OP(b, OP_RESHAPE, &a, 1, x);
}

OpRef op_nchw_to_nhwc(OpBuild *b, OpRef x)
{
    return RULE_OP(b, OP_NCHW_TO_NHWC, &(OpAttr){0}, 1, x);
}

OpRef op_nhwc_to_nchw(OpBuild *b, OpRef x)
{
    return RULE_OP(b, OP_NHWC_TO_NCHW, &(OpAttr){0}, 1, x);
}

OpRef op_zero(OpBuild *b, const Meta *meta)
{
    return rule_op(b, OP_ZERO, &(OpAttr){.meta = *meta}, NULL, 0, 1);
}
