#include "ops/rule.h"

#include <string.h>

enum { UP_MOST = 32768 }; /* products of two sizes fit in 31 bits */

/* Output size along one axis; ERR_SHAPE where the kernel does not fit. */
static int conv_size(OpKind k, const char *axis, int64_t in, int64_t kernel, int64_t pad, int stride, int64_t *out)
{
    if (in + pad < kernel)
        return err_set(ERR_SHAPE, "%s: %s is %lld with %lld of padding, expected at least the kernel's %lld", op_name(k),
                       axis, (long long)in, (long long)pad, (long long)kernel);
    *out = (in + pad - kernel) / stride + 1;
    return 0;
}

/* The meta of y for x and w. */
static int conv_result(OpKind k, const OpAttr *a, const Meta *x, const Meta *w, Meta *y)
{
    static const char *const sides[4] = {"pad top", "pad left", "pad bottom", "pad right"};
    int64_t h = 0, wd = 0;
    TRY(rule_ndim(k, "x", x, 4, 4));
    TRY(rule_ndim(k, "w", w, 4, 4));
    TRY(rule_range(k, "stride", a->stride, 1, 2));
    for (int i = 0; i < 4; i++)
        TRY(rule_range(k, sides[i], a->pad[i], 0, 1 << 20));
    const int64_t *xd = x->shape.dim, *kd = w->shape.dim;
    Meta want = RULE_META(x->dtype, kd[0], xd[3], kd[2], kd[3]);
    TRY(rule_equal(k, "w", w, &want));
    TRY(conv_size(k, "height", xd[1], kd[2], a->pad[0] + a->pad[2], a->stride, &h));
    TRY(conv_size(k, "width", xd[2], kd[3], a->pad[1] + a->pad[3], a->stride, &wd));
    *y = RULE_META(x->dtype, xd[0], h, wd, kd[0]);
    return 0;
}

/* What the kernel passes over: x, or x brought to attr.up. */
static int conv_source(OpKind k, const OpAttr *a, const Meta *x, Meta *out)
{
    *out = *x;
    if (!a->up[0] && !a->up[1])
        return 0;
    TRY(rule_ndim(k, "x", x, 4, 4));
    TRY(rule_range(k, "height to upsample to", a->up[0], 1, UP_MOST));
    TRY(rule_range(k, "width to upsample to", a->up[1], 1, UP_MOST));
    out->shape.dim[1] = a->up[0];
    out->shape.dim[2] = a->up[1];
    return 0;
}

static int conv2d_infer(const OpAttr *a, const Meta *in, int nin, Meta *out, int *nout)
{
    const OpKind k = OP_CONV2D;
    int want, i = 2;
    Meta x;
    TRY(rule_optional(k, a, 2, OP_HAS_BIAS | OP_HAS_RES, &want));
    TRY(rule_inputs(k, in, nin, want));
    TRY(rule_compute(k, "x", &in[0]));
    TRY(conv_source(k, a, &in[0], &x));
    TRY(conv_result(k, a, &x, &in[1], &out[0]));
    Meta bias = RULE_META(dtype_param(in[0].dtype), in[1].shape.dim[0]);
    if (a->has & OP_HAS_BIAS)
        TRY(rule_equal(k, "bias", &in[i++], &bias));
    if (a->has & OP_HAS_RES)
        TRY(rule_equal(k, "res", &in[i], &out[0]));
    *nout = 1;
    return 0;
}

static OpAttr conv_attr(const OpAttr *a, const Meta *result)
{
    OpAttr r = {.stride = a->stride, .meta = *result};
    memcpy(r.pad, a->pad, sizeof r.pad);
    return r;
}

static int conv2d_grad(OpBuild *b, const OpGrad *g)
{
    OpRef dy = g->dout[0];
    int i = 2;
    if (dy == OP_NONE)
        return 0;
    if (g->need[0]) {
        Meta x;
        TRY(conv_source(OP_CONV2D, g->attr, b->meta(b, g->in[0]), &x));
        OpAttr a = conv_attr(g->attr, &x), small = {.meta = *b->meta(b, g->in[0])};
        TRY(RULE_EMIT(b, OP_CONV2D_BWD_X, &a, &g->din[0], 1, dy, g->in[1]));
        if (g->attr->up[0])
            TRY(RULE_EMIT(b, OP_UPSAMPLE_NEAREST_BWD, &small, &g->din[0], 1, g->din[0]));
    }
    if (g->need[1]) {
        OpAttr a = conv_attr(g->attr, b->meta(b, g->in[1]));
        a.meta.dtype = rule_grad_dtype(b, g->in[1]);
        memcpy(a.up, g->attr->up, sizeof a.up);
        TRY(RULE_EMIT(b, OP_CONV2D_BWD_W, &a, &g->din[1], 1, dy, g->in[0]));
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

static int conv2d_bwd_x_infer(const OpAttr *a, const Meta *in, int nin, Meta *out, int *nout)
{
    const OpKind k = OP_CONV2D_BWD_X;
    int want;
    Meta dy;
    TRY(rule_optional(k, a, 2, OP_HAS_RES, &want));
    TRY(rule_inputs(k, in, nin, want));
    TRY(rule_compute(k, "dy", &in[0]));
    TRY(rule_attr_shape(k, a));
    Meta x = rule_result(in[0].dtype, a);
    TRY(conv_result(k, a, &x, &in[1], &dy));
    TRY(rule_equal(k, "dy", &in[0], &dy));
    out[0] = x;
    if (a->has & OP_HAS_RES)
        TRY(rule_equal(k, "res", &in[2], &x));
    *nout = 1;
    return 0;
}

static int conv2d_bwd_w_infer(const OpAttr *a, const Meta *in, int nin, Meta *out, int *nout)
{
    const OpKind k = OP_CONV2D_BWD_W;
    Meta dy;
    TRY(rule_inputs(k, in, nin, 2));
    TRY(rule_compute(k, "dy", &in[0]));
    TRY(rule_attr_shape(k, a));
    TRY(rule_dtype(k, "x", &in[1], in[0].dtype));
    Meta w = rule_result(in[1].dtype, a), x;
    TRY(conv_source(k, a, &in[1], &x));
    TRY(conv_result(k, a, &x, &w, &dy));
    TRY(rule_equal(k, "dy", &in[0], &dy));
    TRY(rule_wgrad_dtype(k, a, in[0].dtype));
    out[0] = rule_result(a->meta.dtype, a);
    *nout = 1;
    return 0;
}

static int upsample_result(OpKind k, const Meta *x, const Meta *y)
{
    TRY(rule_ndim(k, "x", x, 4, 4));
    Meta want = RULE_META(x->dtype, x->shape.dim[0], y->shape.dim[1], y->shape.dim[2], x->shape.dim[3]);
    TRY(rule_range(k, "height", y->shape.dim[1], 1, UP_MOST));
    TRY(rule_range(k, "width", y->shape.dim[2], 1, UP_MOST));
    return rule_equal(k, "result", y, &want);
}

static int upsample_nearest_infer(const OpAttr *a, const Meta *in, int nin, Meta *out, int *nout)
{
    const OpKind k = OP_UPSAMPLE_NEAREST;
    TRY(rule_inputs(k, in, nin, 1));
    TRY(rule_compute(k, "x", &in[0]));
    TRY(rule_attr_shape(k, a));
    out[0] = rule_result(in[0].dtype, a);
    TRY(upsample_result(k, &in[0], &out[0]));
    *nout = 1;
    return 0;
}

static int upsample_nearest_grad(OpBuild *b, const OpGrad *g)
{
    if (!g->need[0] || g->dout[0] == OP_NONE)
        return 0;
    OpAttr a = {.meta = *b->meta(b, g->in[0])};
    return RULE_EMIT(b, OP_UPSAMPLE_NEAREST_BWD, &a, &g->din[0], 1, g->dout[0]);
}

static int upsample_nearest_bwd_infer(const OpAttr *a, const Meta *in, int nin, Meta *out, int *nout)
{
    const OpKind k = OP_UPSAMPLE_NEAREST_BWD;
    TRY(rule_inputs(k, in, nin, 1));
    TRY(rule_compute(k, "dy", &in[0]));
    TRY(rule_attr_shape(k, a));
    out[0] = rule_result(in[0].dtype, a);
    TRY(upsample_result(k, &out[0], &in[0]));
    *nout = 1;
    return 0;
}

const OpRule op_rule_CONV2D = {.infer = conv2d_infer, .grad = conv2d_grad};
const OpRule op_rule_CONV2D_BWD_X = {.infer = conv2d_bwd_x_infer};
const OpRule op_rule_CONV2D_BWD_W = {.infer = conv2d_bwd_w_infer};
const OpRule op_rule_UPSAMPLE_NEAREST = {.infer = upsample_nearest_infer, .grad = upsample_nearest_grad};
const OpRule op_rule_UPSAMPLE_NEAREST_BWD = {.infer = upsample_nearest_bwd_infer};

OpRef op_conv2d(OpBuild *b, OpRef x, OpRef w, OpRef bias, OpRef res, int stride, const int pad[4])
{
    OpAttr a = {.stride = stride, .pad = {pad[0], pad[1], pad[2], pad[3]}};
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
    return rule_op(b, OP_CONV2D, &a, in, n, 1);
}

OpRef op_upsample_nearest(OpBuild *b, OpRef x, int64_t h, int64_t w)
{
    if (x == OP_NONE)
        return OP_NONE;
    OpAttr a = {.meta = *b->meta(b, x)};
    a.meta.shape.dim[1] = h;
    a.meta.shape.dim[2] = w;
    return RULE_OP(b, OP_UPSAMPLE_NEAREST, &a, 1, x);
}
