#include "ops/rule.h"

/* P[N] of an x[N,...]. */
static Meta loss_per_item(const Meta *x)
{
    return RULE_META(dtype_param(x->dtype), x->shape.dim[0]);
}

static int pair_check(OpKind k, const Meta *x, const Meta *y, const Meta *weight)
{
    TRY(rule_compute(k, "x", x));
    TRY(rule_ndim(k, "x", x, 1, OP_MAX_DIM));
    TRY(rule_equal(k, "y", y, x));
    Meta w = loss_per_item(x);
    return rule_equal(k, "weight", weight, &w);
}

static int pair_infer(OpKind k, const Meta *in, int nin, Meta *out, int *nout)
{
    TRY(rule_inputs(k, in, nin, 3));
    TRY(pair_check(k, &in[0], &in[1], &in[2]));
    out[0] = in[2];
    *nout = 1;
    return 0;
}

static int pair_bwd_infer(OpKind k, const Meta *in, int nin, Meta *out, int *nout)
{
    TRY(rule_inputs(k, in, nin, 4));
    TRY(pair_check(k, &in[1], &in[2], &in[3]));
    TRY(rule_equal(k, "dl", &in[0], &in[3]));
    out[0] = in[1];
    *nout = 1;
    return 0;
}

/* Both losses are symmetric: the gradient to y alone is that of the swapped pair, and minus dx where both are needed. */
static int pair_grad(OpBuild *b, const OpGrad *g, OpKind k, OpKind bwd)
{
    OpRef dl = g->dout[0];
    if (dl == OP_NONE)
        return 0;
    TRY(rule_no_grad(k, g, 2, "weight"));
    if (g->need[0])
        TRY(RULE_EMIT(b, bwd, &(OpAttr){0}, &g->din[0], 1, dl, g->in[0], g->in[1], g->in[2]));
    if (!g->need[1])
        return 0;
    if (g->need[0])
        return RULE_EMIT(b, OP_SCALE, &(OpAttr){.scale = -1.0f}, &g->din[1], 1, g->din[0]);
    return RULE_EMIT(b, bwd, &(OpAttr){0}, &g->din[1], 1, dl, g->in[1], g->in[0], g->in[2]);
}

static int mse_infer(const OpAttr *a, const Meta *in, int nin, Meta *out, int *nout)
{
    (void)a;
    return pair_infer(OP_MSE, in, nin, out, nout);
}

static int mse_grad(OpBuild *b, const OpGrad *g)
{
    return pair_grad(b, g, OP_MSE, OP_MSE_BWD);
}

static int mse_bwd_infer(const OpAttr *a, const Meta *in, int nin, Meta *out, int *nout)
{
    (void)a;
    return pair_bwd_infer(OP_MSE_BWD, in, nin, out, nout);
}

static int l1_infer(const OpAttr *a, const Meta *in, int nin, Meta *out, int *nout)
{
    (void)a;
    return pair_infer(OP_L1, in, nin, out, nout);
}

static int l1_grad(OpBuild *b, const OpGrad *g)
{
    return pair_grad(b, g, OP_L1, OP_L1_BWD);
}

static int l1_bwd_infer(const OpAttr *a, const Meta *in, int nin, Meta *out, int *nout)
{
    (void)a;
    return pair_bwd_infer(OP_L1_BWD, in, nin, out, nout);
}

static int pixel_check(OpKind k, const OpAttr *a, const Meta *in)
{
    Meta rows = in[0];
    TRY(rule_range(k, "attr.loss", a->loss, OP_LOSS_L2, OP_LOSS_SMOOTH_L1));
    TRY(rule_compute(k, "x", &in[0]));
    TRY(rule_ndim(k, "x", &in[0], 2, OP_MAX_DIM));
    TRY(rule_equal(k, "y", &in[1], &in[0]));
    Meta item = loss_per_item(&in[0]);
    TRY(rule_equal(k, "weight", &in[2], &item));
    TRY(rule_equal(k, "c", &in[3], &item));
    rows.dtype = dtype_param(in[0].dtype);
    rows.shape.dim[--rows.shape.ndim] = 1;
    return rule_equal(k, "mask", &in[4], &rows);
}

static int pixel_infer(const OpAttr *a, const Meta *in, int nin, Meta *out, int *nout)
{
    TRY(rule_inputs(OP_PIXEL_LOSS, in, nin, 5));
    TRY(pixel_check(OP_PIXEL_LOSS, a, in));
    out[0] = in[2];
    *nout = 1;
    return 0;
}

static int pixel_bwd_infer(const OpAttr *a, const Meta *in, int nin, Meta *out, int *nout)
{
    TRY(rule_inputs(OP_PIXEL_LOSS_BWD, in, nin, 6));
    TRY(pixel_check(OP_PIXEL_LOSS_BWD, a, in + 1));
    TRY(rule_equal(OP_PIXEL_LOSS_BWD, "dl", &in[0], &in[3]));
    out[0] = in[1];
    *nout = 1;
    return 0;
}

static int pixel_grad(OpBuild *b, const OpGrad *g)
{
    static const char *const names[] = {"x", "y", "weight", "c", "mask"};
    OpRef dl = g->dout[0], x = g->in[0], y = g->in[1];
    if (dl == OP_NONE)
        return 0;
    for (int i = 2; i < 5; i++)
        TRY(rule_no_grad(OP_PIXEL_LOSS, g, i, names[i]));
    for (int i = 0; i < 2; i++)
        if (g->need[i])
            TRY(RULE_EMIT(b, OP_PIXEL_LOSS_BWD, g->attr, &g->din[i], 1, dl, i ? y : x, i ? x : y, g->in[2], g->in[3], g->in[4]));
    return 0;
}

static int xent_check(OpKind k, const Meta *x, const Meta *target)
{
    TRY(rule_compute(k, "x", x));
    TRY(rule_ndim(k, "x", x, 2, 2));
    Meta want = RULE_META(DTYPE_I32, x->shape.dim[0]);
    return rule_equal(k, "target", target, &want);
}

static int xent_infer(const OpAttr *a, const Meta *in, int nin, Meta *out, int *nout)
{
    (void)a;
    TRY(rule_inputs(OP_XENT, in, nin, 2));
    TRY(xent_check(OP_XENT, &in[0], &in[1]));
    out[0] = loss_per_item(&in[0]);
    *nout = 1;
    return 0;
}

static int xent_grad(OpBuild *b, const OpGrad *g)
{
    if (!g->need[0] || g->dout[0] == OP_NONE)
        return 0;
    return RULE_EMIT(b, OP_XENT_BWD, &(OpAttr){0}, &g->din[0], 1, g->dout[0], g->in[0], g->in[1]);
}

static int xent_bwd_infer(const OpAttr *a, const Meta *in, int nin, Meta *out, int *nout)
{
    (void)a;
    TRY(rule_inputs(OP_XENT_BWD, in, nin, 3));
    TRY(xent_check(OP_XENT_BWD, &in[1], &in[2]));
    Meta dl = loss_per_item(&in[1]);
    TRY(rule_equal(OP_XENT_BWD, "dl", &in[0], &dl));
    out[0] = in[1];
    *nout = 1;
    return 0;
}

/* The meta of the latent that `moments` describes. */
static int moments_latent(OpKind k, const Meta *moments, Meta *z)
{
    TRY(rule_compute(k, "moments", moments));
    TRY(rule_ndim(k, "moments", moments, 2, OP_MAX_DIM));
    int64_t c = shape_last(&moments->shape);
    if (c % 2)
        return err_set(ERR_SHAPE, "%s: moments has %lld channels, expected an even number", op_name(k), (long long)c);
    *z = rule_with_last(moments, c / 2);
    return 0;
}

static int gauss_sample_infer(const OpAttr *a, const Meta *in, int nin, Meta *out, int *nout)
{
    (void)a;
    TRY(rule_inputs(OP_GAUSS_SAMPLE, in, nin, 2));
    TRY(moments_latent(OP_GAUSS_SAMPLE, &in[0], &out[0]));
    TRY(rule_equal(OP_GAUSS_SAMPLE, "noise", &in[1], &out[0]));
    *nout = 1;
    return 0;
}

static int gauss_sample_grad(OpBuild *b, const OpGrad *g)
{
    if (g->dout[0] == OP_NONE)
        return 0;
    TRY(rule_no_grad(OP_GAUSS_SAMPLE, g, 1, "noise"));
    if (!g->need[0])
        return 0;
    return RULE_EMIT(b, OP_GAUSS_SAMPLE_BWD, &(OpAttr){0}, &g->din[0], 1, g->dout[0], g->in[0], g->in[1]);
}

static int gauss_sample_bwd_infer(const OpAttr *a, const Meta *in, int nin, Meta *out, int *nout)
{
    const OpKind k = OP_GAUSS_SAMPLE_BWD;
    Meta z;
    (void)a;
    TRY(rule_inputs(k, in, nin, 3));
    TRY(moments_latent(k, &in[1], &z));
    TRY(rule_equal(k, "dz", &in[0], &z));
    TRY(rule_equal(k, "noise", &in[2], &z));
    out[0] = in[1];
    *nout = 1;
    return 0;
}

static int kl_infer(const OpAttr *a, const Meta *in, int nin, Meta *out, int *nout)
{
    Meta z;
    (void)a;
    TRY(rule_inputs(OP_KL, in, nin, 2));
    TRY(moments_latent(OP_KL, &in[0], &z));
    Meta w = loss_per_item(&in[0]);
    TRY(rule_equal(OP_KL, "weight", &in[1], &w));
    out[0] = w;
    *nout = 1;
    return 0;
}

static int kl_grad(OpBuild *b, const OpGrad *g)
{
    if (g->dout[0] == OP_NONE)
        return 0;
    TRY(rule_no_grad(OP_KL, g, 1, "weight"));
    if (!g->need[0])
        return 0;
    return RULE_EMIT(b, OP_KL_BWD, &(OpAttr){0}, &g->din[0], 1, g->dout[0], g->in[0], g->in[1]);
}

static int kl_bwd_infer(const OpAttr *a, const Meta *in, int nin, Meta *out, int *nout)
{
    Meta z;
    (void)a;
    TRY(rule_inputs(OP_KL_BWD, in, nin, 3));
    TRY(moments_latent(OP_KL_BWD, &in[1], &z));
    Meta w = loss_per_item(&in[1]);
    TRY(rule_equal(OP_KL_BWD, "dk", &in[0], &w));
    TRY(rule_equal(OP_KL_BWD, "weight", &in[2], &w));
    out[0] = in[1];
    *nout = 1;
    return 0;
}

const OpRule op_rule_MSE = {.infer = mse_infer, .grad = mse_grad};
const OpRule op_rule_MSE_BWD = {.infer = mse_bwd_infer};
const OpRule op_rule_L1 = {.infer = l1_infer, .grad = l1_grad};
const OpRule op_rule_L1_BWD = {.infer = l1_bwd_infer};
const OpRule op_rule_PIXEL_LOSS = {.infer = pixel_infer, .grad = pixel_grad};
const OpRule op_rule_PIXEL_LOSS_BWD = {.infer = pixel_bwd_infer};
const OpRule op_rule_XENT = {.infer = xent_infer, .grad = xent_grad};
const OpRule op_rule_XENT_BWD = {.infer = xent_bwd_infer};
const OpRule op_rule_GAUSS_SAMPLE = {.infer = gauss_sample_infer, .grad = gauss_sample_grad};
const OpRule op_rule_GAUSS_SAMPLE_BWD = {.infer = gauss_sample_bwd_infer};
const OpRule op_rule_KL = {.infer = kl_infer, .grad = kl_grad};
const OpRule op_rule_KL_BWD = {.infer = kl_bwd_infer};

OpRef op_mse(OpBuild *b, OpRef x, OpRef y, OpRef weight)
{
    return RULE_OP(b, OP_MSE, &(OpAttr){0}, 1, x, y, weight);
}

OpRef op_l1(OpBuild *b, OpRef x, OpRef y, OpRef weight)
{
    return RULE_OP(b, OP_L1, &(OpAttr){0}, 1, x, y, weight);
}

OpRef op_pixel_loss(OpBuild *b, OpLoss kind, OpRef x, OpRef y, OpRef weight, OpRef c, OpRef mask)
{
    return RULE_OP(b, OP_PIXEL_LOSS, &(OpAttr){.loss = kind}, 1, x, y, weight, c, mask);
}

OpRef op_xent(OpBuild *b, OpRef x, OpRef target)
{
    return RULE_OP(b, OP_XENT, &(OpAttr){0}, 1, x, target);
}

OpRef op_gauss_sample(OpBuild *b, OpRef moments, OpRef noise)
{
    return RULE_OP(b, OP_GAUSS_SAMPLE, &(OpAttr){0}, 1, moments, noise);
}

OpRef op_kl(OpBuild *b, OpRef moments, OpRef weight)
{
    return RULE_OP(b, OP_KL, &(OpAttr){0}, 1, moments, weight);
}
