/* The vocabulary of operations shared by the graph, the backends and the autodiff rules.
 *
 * Layouts. Images are NHWC: [N,H,W,C]. Token sequences are [N,L,C]. Every tensor is dense, row-major, C fastest.
 * A [N,H,W,C] image IS the token sequence [N,H*W,C] (a reshape, no copy).
 * Dtypes. A graph has one compute dtype T (F32, BF16 or F64; F64 exists for gradient checks). "x: T" below. Parameters
 * of one dimension (biases, norm gains) are always F32 (F64 in an F64 graph); this is written P. Saved statistics are P.
 * Gradients of activations are T; gradients of parameters are P whatever the parameter's dtype.
 * Accumulation is in float (double for F64).
 * Determinism. The value of every output element is a pure function of the inputs that mathematically reach it: it does
 * not depend on the batch size N (for ops that do not reduce over N), on the number of threads, or on addresses.
 *
 * ops/<family>.c holds, per op: the shape rule, the gradient rule (which emits further ops) and the typed emitter.
 */
#ifndef OPS_OP_H
#define OPS_OP_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

enum { OP_MAX_DIM = 4, OP_MAX_IN = 8, OP_MAX_OUT = 4 };

typedef enum { DTYPE_F32, DTYPE_BF16, DTYPE_F16, DTYPE_F64, DTYPE_I32, DTYPE_I64, DTYPE_U8, DTYPE_COUNT } Dtype;

size_t dtype_size(Dtype t);
const char *dtype_name(Dtype t); /* "f32", "bf16", ... */
/* Element-wise conversion among F32, BF16, F16 and F64 on the host, round to nearest even. Arrays must not overlap. */
int dtype_convert(void *dst, Dtype to, const void *src, Dtype from, int64_t count);
/* P of a compute dtype T: F64 for F64, else F32. */
Dtype dtype_param(Dtype t);

typedef struct {
    int ndim;                   /* 0..4; 0 is a scalar */
    int64_t dim[OP_MAX_DIM];    /* dim[ndim..] are 1 */
} Shape;

Shape shape_make(int ndim, const int64_t *dim);
#define SHAPE(...)                                                               \
    shape_make((int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), (int64_t[]){__VA_ARGS__})
int64_t shape_count(const Shape *s);                  /* INT64_MAX when the product does not fit */
int shape_equal(const Shape *a, const Shape *b);
int64_t shape_last(const Shape *s);                   /* C */
int64_t shape_rows(const Shape *s);                   /* count / C */
/* "[2,64,320]" into buf; returns buf. */
const char *shape_text(const Shape *s, char *buf, size_t size);

typedef struct {
    Dtype dtype;
    Shape shape;
} Meta;

/* X(NAME, "text", family) */
#define OP_LIST(X)                                                                                             \
    /* linear.c */                                                                                             \
    X(LINEAR, "linear")                 /* y = x w^T (+ bias) (+ res)                                        */ \
    X(LINEAR_BWD_X, "linear_bwd_x")     /* dx = dy w (+ res)                                                 */ \
    X(LINEAR_BWD_W, "linear_bwd_w")     /* dw = dy^T x                                                       */ \
    X(BIAS_GRAD, "bias_grad")           /* db[c] = sum over rows of dy[.,c]                                  */ \
    X(LINEAR_LOW, "linear_low")         /* y = x w^T (+ bias) (+ res) + u b^T, u = scale (s[0]) x a^T         */ \
    X(LINEAR_LOW_BWD_X, "linear_low_bwd_x") /* dx = dy w (+ res) + u a, u = scale (s[0]) dy b                 */ \
    /* conv.c */                                                                                               \
    X(CONV2D, "conv2d")                 /* y = conv(x, w) (+ bias) (+ res)                                   */ \
    X(CONV2D_BWD_X, "conv2d_bwd_x")                                                                            \
    X(CONV2D_BWD_W, "conv2d_bwd_w")                                                                            \
    X(UPSAMPLE_NEAREST, "upsample_nearest")                                                                    \
    X(UPSAMPLE_NEAREST_BWD, "upsample_nearest_bwd")                                                            \
    /* norm.c */                                                                                               \
    X(GROUP_NORM, "group_norm")         /* fused with SiLU by attr.act                                       */ \
    X(GROUP_NORM_BWD, "group_norm_bwd")                                                                        \
    X(LAYER_NORM, "layer_norm")                                                                                \
    X(LAYER_NORM_BWD, "layer_norm_bwd")                                                                        \
    X(RMS_NORM, "rms_norm")             /* LAYER_NORM without the mean and beta                              */ \
    X(RMS_NORM_BWD, "rms_norm_bwd")                                                                            \
    X(L2_NORM, "l2_norm")               /* rows scaled to unit length                                        */ \
    X(L2_NORM_BWD, "l2_norm_bwd")                                                                              \
    /* attention.c */                                                                                          \
    X(ATTENTION, "attention")                                                                                  \
    X(ATTENTION_BWD, "attention_bwd")                                                                          \
    /* act.c */                                                                                                \
    X(ACT, "act")                                                                                              \
    X(ACT_BWD, "act_bwd")                                                                                      \
    X(GEGLU, "geglu")                                                                                          \
    X(GEGLU_BWD, "geglu_bwd")                                                                                  \
    /* arith.c */                                                                                              \
    X(ADD, "add")                       /* z = x + y, same shape                                             */ \
    X(MUL, "mul")                       /* z = x * y, same shape                                             */ \
    X(SCALE, "scale")                   /* y = attr.scale * x (* s[0])                                       */ \
    X(ADD_BCAST, "add_bcast")           /* y = x + v, v broadcast by attr.bcast                              */ \
    X(SUM_BCAST, "sum_bcast")           /* the adjoint: sums x over the broadcast dims                       */ \
    X(CONCAT, "concat")                 /* along C                                                           */ \
    X(SLICE, "slice")                   /* channels [attr.begin, attr.begin + attr.count)                    */ \
    X(SLICE_BWD, "slice_bwd")           /* dy put back among zeros                                           */ \
    X(CAST, "cast")                                                                                            \
    X(RESHAPE, "reshape")               /* a view: the planner aliases, no backend call                      */ \
    X(NCHW_TO_NHWC, "nchw_to_nhwc")                                                                            \
    X(NHWC_TO_NCHW, "nhwc_to_nchw")                                                                            \
    X(ZERO, "zero")                     /* no input; attr.meta                                               */ \
    /* embed.c */                                                                                              \
    X(EMBED, "embed")                   /* rows of a table by I32 ids                                        */ \
    X(EMBED_BWD, "embed_bwd")                                                                                  \
    X(GATHER_ROW, "gather_row")         /* y[n] = x[n, idx[n]]                                               */ \
    X(GATHER_ROW_BWD, "gather_row_bwd")                                                                        \
    X(TIME_EMBED, "time_embed")         /* sinusoids of a timestep                                           */ \
    /* loss.c */                                                                                               \
    X(MSE, "mse")                       /* per-item mean square error times weight                           */ \
    X(MSE_BWD, "mse_bwd")                                                                                      \
    X(L1, "l1")                                                                                                \
    X(L1_BWD, "l1_bwd")                                                                                        \
    X(PIXEL_LOSS, "pixel_loss")         /* masked loss of other kinds                                        */ \
    X(PIXEL_LOSS_BWD, "pixel_loss_bwd")                                                                        \
    X(XENT, "xent")                     /* softmax cross-entropy of rows                                     */ \
    X(XENT_BWD, "xent_bwd")                                                                                    \
    X(GAUSS_SAMPLE, "gauss_sample")     /* z = mean + exp(logvar/2) * noise                                  */ \
    X(GAUSS_SAMPLE_BWD, "gauss_sample_bwd")                                                                    \
    X(KL, "kl")                         /* of a diagonal Gaussian against N(0,1)                             */ \
    X(KL_BWD, "kl_bwd")                                                                                        \
    /* adapter.c */                                                                                            \
    X(MUL_BCAST, "mul_bcast")           /* y = x * v, v broadcast by attr.bcast                              */ \
    X(ROW_GAIN, "row_gain")             /* g[r] = m[r] / |v[r]|                                              */ \
    X(DROPOUT, "dropout")               /* zeroes by counter-based draws                                     */

#define OP_ENUM_ITEM(n, s) OP_##n,
typedef enum { OP_LIST(OP_ENUM_ITEM) OP_COUNT } OpKind;
#undef OP_ENUM_ITEM

const char *op_name(OpKind k);

typedef enum { ACT_NONE, ACT_SILU, ACT_GELU, ACT_GELU_TANH, ACT_QUICK_GELU, ACT_RELU, ACT_SIGMOID, ACT_TANH, ACT_EXP } Act;

/* How v is broadcast against x in ADD_BCAST (and summed in SUM_BCAST):
 * ITEM: v[N,C] over the middle dims of x[N,...,C].  ROW: v[L,C] over N of x[N,L,C] (also v[H,W,C]).  CHANNEL: v[C]. */
typedef enum { BCAST_ITEM, BCAST_ROW, BCAST_CHANNEL } Bcast;

/* Of a difference d with the item's c (pseudo-Huber, as kohya's trainers): L2 d^2, L1 |d|, HUBER 2c(sqrt(d^2 + c^2) - c),
 * SMOOTH_L1 2(sqrt(d^2 + c^2) - c). */
typedef enum { OP_LOSS_L2, OP_LOSS_L1, OP_LOSS_HUBER, OP_LOSS_SMOOTH_L1 } OpLoss;

/* What DROPOUT draws for: every element; every channel of an item; the whole item. */
typedef enum { DROP_ELEMENT, DROP_CHANNEL, DROP_ITEM } Drop;

/* Bits of OpAttr.has. */
enum {
    OP_HAS_BIAS = 1, /* LINEAR, LINEAR_LOW, CONV2D, GEGLU, GEGLU_BWD (of x) */
    OP_HAS_RES = 2,  /* LINEAR, LINEAR_BWD_X, LINEAR_LOW, LINEAR_LOW_BWD_X, CONV2D, CONV2D_BWD_X */
    OP_HAS_S = 1,    /* SCALE */
    OP_HAS_LOW_S = 4 /* LINEAR_LOW, LINEAR_LOW_BWD_X */
};

/* One flat record; each op documents the fields it reads (beside its emitter below). Unused fields are 0. */
typedef struct {
    float scale;      /* ATTENTION: softmax scale. SCALE, LINEAR_LOW*: factor. DROPOUT: probability */
    float eps;        /* norms */
    int32_t act;      /* Act: ACT, GROUP_NORM */
    int32_t groups;   /* GROUP_NORM */
    int32_t heads;    /* ATTENTION */
    int32_t causal;   /* ATTENTION: key j visible to query i iff j <= i */
    int32_t stride;   /* CONV2D*: 1 or 2, both axes */
    int32_t pad[4];   /* CONV2D*: top, left, bottom, right */
    int32_t up[2];    /* CONV2D, CONV2D_BWD_W: height and width that x is brought to first, by nearest neighbour; 0, 0: as it is */
    int32_t bcast;    /* Bcast. DROPOUT: Drop */
    int32_t loss;     /* OpLoss: PIXEL_LOSS* */
    int32_t has;      /* OP_HAS_*: which optional inputs are present; absent inputs take no slot (x,w,res without bias) */
    int64_t begin, count; /* SLICE. TIME_EMBED: count = dim. DROPOUT: the bits of seed and key */
    int32_t flip;     /* TIME_EMBED: 1 = [cos|sin] */
    float shift;      /* TIME_EMBED: downscale_freq_shift */
    float max_period; /* TIME_EMBED */
    Meta meta;        /* CAST, TIME_EMBED (dtype), RESHAPE and ZERO (shape, dtype), UPSAMPLE_NEAREST (shape of the result);
                         *_BWD ops: meta of the result where inputs do not tell */
} OpAttr;

/* A tensor of the graph being built. OP_NONE: absent, or an error happened before (emitters pass it on). */
typedef int32_t OpRef;
enum { OP_NONE = -1 };

/* What a gradient rule and an emitter need from the graph; implemented by graph/. */
typedef struct OpBuild OpBuild;
struct OpBuild {
    /* Appends a node; out[] receives its tensors. On error records it (first one wins) and sets out[] to OP_NONE. */
    int (*emit)(OpBuild *b, OpKind kind, const OpAttr *attr, const OpRef *in, int nin, OpRef *out, int nout);
    const Meta *(*meta)(const OpBuild *b, OpRef t); /* borrowed */
    /* Records an error from outside emit (message already set by err_set); returns OP_NONE. */
    OpRef (*fail)(OpBuild *b, int code);
    /* The dtype in which the gradient of t is wanted: P for a parameter and for a CAST or RESHAPE of one, else t's own
     * dtype. NULL: always P. (Read for weights only; they may be activations.) */
    Dtype (*grad_dtype)(const OpBuild *b, OpRef t);
};

/* Shape rule: from the inputs' metas to the outputs'. Errors name the op, the dimension and what was expected. */
typedef int (*OpInferFn)(const OpAttr *attr, const Meta *in, int nin, Meta *out, int *nout);

/* Gradient rule. `dout[i]` is OP_NONE where no gradient reaches output i. For every input i with need[i], emits ops that
 * give its gradient and stores it in din[i] (leave OP_NONE where it is zero). Inputs that are integers are never needed. */
typedef struct {
    const OpAttr *attr;
    const OpRef *in, *out, *dout;
    int nin, nout;
    const uint8_t *need;
    OpRef *din;
} OpGrad;
typedef int (*OpGradFn)(OpBuild *b, const OpGrad *g);

typedef struct {
    OpInferFn infer;
    OpGradFn grad;    /* NULL: not differentiable (or itself part of a backward pass) */
    uint8_t inplace;  /* bit i: output 0 may share storage with input i when that input dies here (element-wise ops) */
} OpRule;
/* From the registry in ops/registry.c. */
const OpRule *op_rule(OpKind k);
/* OpRule.inplace, plus the slot of `res` where the op has one (it moves with `has`). What the planner asks. */
uint8_t op_inplace_mask(OpKind k, const OpAttr *attr);

/* ---- typed emitters. All return OP_NONE after an error; the graph keeps the first error. ---- */

/* y[...,N] = x[...,K] w[N,K]^T + bias[N] + res[...,N].  x,w,res: T; bias: P. bias, res may be OP_NONE. */
OpRef op_linear(OpBuild *b, OpRef x, OpRef w, OpRef bias, OpRef res);
/* y[...,K] = x[...,N] w[N,K]: the product without the transpose (a LINEAR_BWD_X node, which has a gradient too). */
OpRef op_matmul(OpBuild *b, OpRef x, OpRef w);
/* x[N,H,W,Ci]: T, w[Co,Ci,kh,kw]: T (the file's OIHW), bias[Co]: P, res [N,Ho,Wo,Co]: T. stride 1|2; pad = {top,left,bottom,right}. */
OpRef op_conv2d(OpBuild *b, OpRef x, OpRef w, OpRef bias, OpRef res, int stride, const int pad[4]);
/* Nearest neighbour to exactly h x w, at most 32768 each; source index = floor(dst * in / out) (torch F.interpolate mode=nearest). */
OpRef op_upsample_nearest(OpBuild *b, OpRef x, int64_t h, int64_t w);
/* y = act((x - mean_g) * rstd_g * gamma + beta), statistics per item and group of C/groups channels over all middle dims.
 * x[N,...,C]; gamma,beta [C]: P. act: ACT_NONE or ACT_SILU. Node outputs: y, mean[N,G]: P, rstd[N,G]: P. */
OpRef op_group_norm(OpBuild *b, OpRef x, OpRef gamma, OpRef beta, int groups, float eps, Act act);
/* Over the last dim. Node outputs: y, mean[rows]: P, rstd[rows]: P. */
OpRef op_layer_norm(OpBuild *b, OpRef x, OpRef gamma, OpRef beta, float eps);
/* y = x / sqrt(mean(x^2) + eps) * gamma over the last dim (Zhang & Sennrich, arXiv:1910.07467). Node outputs: y, rstd[rows]: P. */
OpRef op_rms_norm(OpBuild *b, OpRef x, OpRef gamma, float eps);
/* y = x / max(|x|, 1e-12) per row. Node outputs: y, norm[rows]: P. */
OpRef op_l2_norm(OpBuild *b, OpRef x);
/* softmax(q k^T * scale) v per head. q[N,Lq,H*D], k,v[N,Lk,H*D] -> [N,Lq,H*D]; head h owns channels [h*D,(h+1)*D).
 * Node outputs: o, lse[N,H,Lq]: P (log of the softmax denominator, natural log, of the scaled scores). */
OpRef op_attention(OpBuild *b, OpRef q, OpRef k, OpRef v, int heads, float scale, int causal);
OpRef op_act(OpBuild *b, OpRef x, Act act);
/* x[...,2F] -> x[..., :F] * gelu(x[..., F:])   (erf gelu; diffusers GEGLU). A node may have bias[2F]: P, which is added to x first. */
OpRef op_geglu(OpBuild *b, OpRef x);
OpRef op_add(OpBuild *b, OpRef x, OpRef y);
OpRef op_mul(OpBuild *b, OpRef x, OpRef y);
/* y = factor * x (* s[0]); s: a one-element P tensor or OP_NONE (LoRA scales; no gradient to s). */
OpRef op_scale(OpBuild *b, OpRef x, float factor, OpRef s);
/* v is T or P. */
OpRef op_add_bcast(OpBuild *b, OpRef x, OpRef v, Bcast how);
/* Sums x down to `meta` (shape by `how`, dtype of the result P or T). */
OpRef op_sum_bcast(OpBuild *b, OpRef x, Bcast how, const Meta *meta);
OpRef op_concat(OpBuild *b, OpRef x, OpRef y);
OpRef op_slice(OpBuild *b, OpRef x, int64_t begin, int64_t count);
OpRef op_cast(OpBuild *b, OpRef x, Dtype to);
OpRef op_reshape(OpBuild *b, OpRef x, Shape to);
OpRef op_nchw_to_nhwc(OpBuild *b, OpRef x); /* [N,C,H,W] -> [N,H,W,C] */
OpRef op_nhwc_to_nchw(OpBuild *b, OpRef x);
OpRef op_zero(OpBuild *b, const Meta *meta);
/* ids[N,L]: I32, table[V,C]: T -> [N,L,C] of the table's dtype. */
OpRef op_embed(OpBuild *b, OpRef ids, OpRef table);
/* y[n,:] = x[n, idx[n], :]; x[N,L,C], idx[N]: I32 */
OpRef op_gather_row(OpBuild *b, OpRef x, OpRef idx);
/* t[N]: F32 -> [N,dim] of dtype `to`: freq_i = max_period^(-i/(half - shift)); sin|cos, or cos|sin when flip.
 * Computed in float (double in F64). diffusers get_timestep_embedding. dim even. */
OpRef op_time_embed(OpBuild *b, OpRef t, int64_t dim, int flip, float shift, float max_period, Dtype to);
/* loss[n] = weight[n] * mean over the rest of (x - y)^2; x,y[N,...]: T, weight[N]: P -> [N]: P. No gradient to y's side
 * unless needed; both sides are supported. */
OpRef op_mse(OpBuild *b, OpRef x, OpRef y, OpRef weight);
OpRef op_l1(OpBuild *b, OpRef x, OpRef y, OpRef weight);
/* loss[n] = weight[n] * mean over the rest of mask * f(x - y, c[n]); x,y[N,...,C]: T, weight,c[N]: P, mask[N,...]: P without C -> [N]: P.
 * The mean is over all elements, whatever the mask. c is used by HUBER and SMOOTH_L1 (> 0). */
OpRef op_pixel_loss(OpBuild *b, OpLoss kind, OpRef x, OpRef y, OpRef weight, OpRef c, OpRef mask);
/* loss[r] = logsumexp(x[r,:]) - x[r,target[r]]; x[R,C]: T, target[R]: I32 -> [R]: P */
OpRef op_xent(OpBuild *b, OpRef x, OpRef target);
/* moments[N,...,2C] = mean|logvar (logvar clamped to [-30,20]), noise[N,...,C]: T -> [N,...,C] */
OpRef op_gauss_sample(OpBuild *b, OpRef moments, OpRef noise);
/* kl[n] = weight[n] * 0.5 * mean over elements of (mean^2 + exp(logvar) - 1 - logvar) -> [N]: P */
OpRef op_kl(OpBuild *b, OpRef moments, OpRef weight);

/* y = x * v. v is T or P; ITEM and CHANNEL. */
OpRef op_mul_bcast(OpBuild *b, OpRef x, OpRef v, Bcast how);
/* g[r] = m[r] / |v[r]| with the Euclidean norm over all but the first dim. m[R], v[R,...]: P. v counts as constant: no gradient
 * reaches it (DoRA, Liu et al. 2024, section 4.3; peft tuners/lora/dora.py). */
OpRef op_row_gain(OpBuild *b, OpRef m, OpRef v);
/* Zeroes what is drawn with probability p (0 <= p < 1) and scales the rest by 1/(1-p); whole items are not scaled. Draw i of the
 * item with the number position[n] (I64 [N]) is rng_uniform(rng_key(seed, RNG_DROPOUT, position[n], key), i) < p; i counts
 * elements or channels. Of items with a negative number nothing is dropped. */
OpRef op_dropout(OpBuild *b, OpRef x, OpRef position, float p, Drop what, uint64_t seed, uint64_t key);

/* ---- inputs of the backward ops (emitted by gradient rules only) ----
 * LINEAR_BWD_X   dy[...,N], w[N,K] (, res[...,K])                      -> dx[...,K]: T
 * LINEAR_BWD_W   dy[...,N], x[...,K]                                   -> dw[N,K]: attr.meta.dtype, P or T
 * LINEAR_LOW     x[...,K], w[N,K], a[R,K], b[N,R] (, bias[N]: P) (, res[...,N]) (, s[1]: P) -> y[...,N]: T, u[...,R]: T; made by
 *                graph_optimize only
 * LINEAR_LOW_BWD_X dy[...,N], w[N,K], b[N,R], a[R,K] (, res[...,K]) (, s[1]: P) -> dx[...,K]: T, u[...,R]: T; likewise
 * BIAS_GRAD      dy[...,C]                                             -> [C]: P
 * CONV2D_BWD_X   dy[N,Ho,Wo,Co], w (, res); attr stride, pad, meta.shape = x's  -> dx
 * CONV2D_BWD_W   dy, x; attr stride, pad, up, meta.shape = w's           -> dw[Co,Ci,kh,kw]: P (or T: meta.dtype)
 * UPSAMPLE_NEAREST_BWD dy; attr.meta.shape = x's                       -> dx
 * GROUP_NORM_BWD dy, x, gamma, beta, mean, rstd                        -> dx: T, dgamma: P, dbeta: P
 * LAYER_NORM_BWD dy, x, gamma, mean, rstd                              -> dx: T, dgamma: P, dbeta: P
 * RMS_NORM_BWD   dy, x, gamma, rstd                                    -> dx: T, dgamma: P
 * L2_NORM_BWD    dy, y, norm                                           -> dx
 * ATTENTION_BWD  do, q, k, v, o, lse                                   -> dq, dk, dv: T
 * ACT_BWD        dy, x                                                 -> dx
 * GEGLU_BWD      dy[...,F], x[...,2F] (, bias[2F]: P)                  -> dx[...,2F]
 * SLICE_BWD      dy; attr begin, meta.shape = x's                      -> dx
 * EMBED_BWD      dy[N,L,C], ids; attr.meta.shape = table's             -> dtable: P (rows summed in index order)
 * GATHER_ROW_BWD dy[N,C], idx; attr.meta.shape = x's                   -> dx
 * MSE_BWD, L1_BWD dl[N], x, y, weight                                  -> dx  (dy is SCALE(dx,-1))
 * PIXEL_LOSS_BWD dl[N], x, y, weight, c, mask; attr.loss               -> dx
 * XENT_BWD       dl[R], x, target                                      -> dx
 * GAUSS_SAMPLE_BWD dz, moments, noise                                  -> dmoments
 * KL_BWD         dk[N], moments, weight                                -> dmoments
 */

#endif
