/* Shape rules, emitters and the form of gradient rules, on a recording stand-in for the graph. */
#include "ops/cases.h"

enum { FAKE_MAX = 64 };

/* Tensors are numbered in order; the last node emitted is kept. */
typedef struct {
    OpBuild build;
    Meta meta[FAKE_MAX];
    int count, nodes;
    OpKind kind;
    OpAttr attr;
    OpRef in[OP_MAX_IN];
    int nin, error;
} Fake;

static int fake_emit(OpBuild *b, OpKind kind, const OpAttr *attr, const OpRef *in, int nin, OpRef *out, int nout)
{
    Fake *f = (Fake *)b;
    Meta m[OP_MAX_IN], r[OP_MAX_OUT];
    int n = 0;
    assert_true(nin <= OP_MAX_IN && f->count + nout <= FAKE_MAX);
    for (int i = 0; i < nin; i++) {
        assert_true(in[i] >= 0 && in[i] < f->count);
        m[i] = f->meta[in[i]];
    }
    for (int i = 0; i < nout; i++)
        out[i] = OP_NONE;
    int rc = op_rule(kind)->infer(attr, m, nin, r, &n);
    if (rc < 0) {
        f->error = rc;
        return rc;
    }
    assert_int_equal(n, nout);
    f->kind = kind;
    f->attr = *attr;
    f->nin = nin;
    f->nodes++;
    for (int i = 0; i < nin; i++)
        f->in[i] = in[i];
    for (int i = 0; i < nout; i++) {
        out[i] = f->count;
        f->meta[f->count++] = r[i];
    }
    return 0;
}

static const Meta *fake_meta(const OpBuild *b, OpRef t)
{
    return &((const Fake *)b)->meta[t];
}

static OpRef fake_fail(OpBuild *b, int code)
{
    ((Fake *)b)->error = code;
    return OP_NONE;
}

static Dtype fake_grad_own(const OpBuild *b, OpRef t)
{
    return fake_meta(b, t)->dtype;
}

static void fake_init(Fake *f)
{
    *f = (Fake){.build = {.emit = fake_emit, .meta = fake_meta, .fail = fake_fail}};
}

static OpRef fake_tensor(Fake *f, Meta m)
{
    assert_true(f->count < FAKE_MAX);
    f->meta[f->count] = m;
    return f->count++;
}

static const char *metas_text(const Meta *m, int n, char *buf, size_t size)
{
    size_t at = 0;
    char t[96];
    buf[0] = 0;
    for (int i = 0; i < n; i++)
        at += (size_t)snprintf(buf + at, size - at, "%s%s%s", i ? " " : "", dtype_name(m[i].dtype),
                               shape_text(&m[i].shape, t, sizeof t));
    return buf;
}

typedef struct {
    OpKind kind;
    const char *in, *out;
    OpAttr attr;
} Good;

static const Good good[] = {
    {OP_LINEAR, "f32[2,3,4] f32[5,4]", "f32[2,3,5]", {.has = 0}},
    {OP_LINEAR, "bf16[2,4] bf16[5,4] f32[5]", "bf16[2,5]", {.has = OP_HAS_BIAS}},
    {OP_LINEAR, "bf16[2,4] bf16[5,4] bf16[2,5]", "bf16[2,5]", {.has = OP_HAS_RES}},
    {OP_LINEAR, "f64[4] f64[5,4] f64[5] f64[5]", "f64[5]", {.has = OP_HAS_BIAS | OP_HAS_RES}},
    {OP_LINEAR_BWD_X, "f32[2,3,5] f32[5,4]", "f32[2,3,4]", {.has = 0}},
    {OP_LINEAR_BWD_X, "bf16[2,5] bf16[5,4] bf16[2,4]", "bf16[2,4]", {.has = OP_HAS_RES}},
    {OP_LINEAR_BWD_W, "bf16[2,3,5] bf16[2,3,4]", "f32[5,4]", {.meta = M(F32, 5, 4)}},
    {OP_LINEAR_BWD_W, "bf16[2,3,5] bf16[2,3,4]", "bf16[5,4]", {.meta = M(BF16, 5, 4)}},
    {OP_LINEAR_LOW, "bf16[2,3,8] bf16[5,8] bf16[4,8] bf16[5,4]", "bf16[2,3,5] bf16[2,3,4]", {.scale = 1}},
    {OP_LINEAR_LOW, "bf16[2,3,8] bf16[5,8] bf16[4,8] bf16[5,4] f32[5] bf16[2,3,5] f32[1]", "bf16[2,3,5] bf16[2,3,4]",
     {.scale = 1, .has = OP_HAS_BIAS | OP_HAS_RES | OP_HAS_LOW_S}},
    {OP_LINEAR_LOW_BWD_X, "f32[2,3,5] f32[5,8] f32[5,4] f32[4,8] f32[2,3,8]", "f32[2,3,8] f32[2,3,4]", {.scale = 1, .has = OP_HAS_RES}},
    {OP_BIAS_GRAD, "bf16[2,3,5]", "f32[5]", {.has = 0}},
    {OP_CONV2D, "f32[2,7,8,3] f32[5,3,3,3]", "f32[2,7,8,5]", {.stride = 1, .pad = {1, 1, 1, 1}}},
    {OP_CONV2D, "f32[2,7,8,3] f32[5,3,3,3] f32[5]", "f32[2,4,4,5]",
     {.stride = 2, .pad = {1, 1, 1, 1}, .has = OP_HAS_BIAS}},
    {OP_CONV2D, "bf16[2,8,9,3] bf16[5,3,3,3] f32[5] bf16[2,4,4,5]", "bf16[2,4,4,5]",
     {.stride = 2, .pad = {0, 0, 1, 1}, .has = OP_HAS_BIAS | OP_HAS_RES}},
    {OP_CONV2D, "f64[1,2,3,4] f64[6,4,1,1]", "f64[1,2,3,6]", {.stride = 1}},
    {OP_CONV2D, "f32[2,3,4,3] f32[5,3,3,3]", "f32[2,7,8,5]", {.stride = 1, .pad = {1, 1, 1, 1}, .up = {7, 8}}},
    {OP_CONV2D_BWD_W, "bf16[2,7,8,5] bf16[2,3,4,3]", "f32[5,3,3,3]",
     {.stride = 1, .pad = {1, 1, 1, 1}, .up = {7, 8}, .meta = M(F32, 5, 3, 3, 3)}},
    {OP_CONV2D_BWD_X, "f32[2,4,4,5] f32[5,3,3,3]", "f32[2,8,9,3]",
     {.stride = 2, .pad = {0, 0, 1, 1}, .meta = M(F32, 2, 8, 9, 3)}},
    {OP_CONV2D_BWD_W, "bf16[2,4,4,5] bf16[2,8,9,3]", "f32[5,3,3,3]",
     {.stride = 2, .pad = {0, 0, 1, 1}, .meta = M(F32, 5, 3, 3, 3)}},
    {OP_UPSAMPLE_NEAREST, "f32[2,3,4,5]", "f32[2,7,9,5]", {.meta = M(F32, 2, 7, 9, 5)}},
    {OP_UPSAMPLE_NEAREST_BWD, "f32[2,7,9,5]", "f32[2,3,4,5]", {.meta = M(F32, 2, 3, 4, 5)}},
    {OP_GROUP_NORM, "bf16[2,3,4,6] f32[6] f32[6]", "bf16[2,3,4,6] f32[2,3] f32[2,3]",
     {.groups = 3, .eps = 1e-5f, .act = ACT_SILU}},
    {OP_GROUP_NORM, "f64[2,6] f64[6] f64[6]", "f64[2,6] f64[2,2] f64[2,2]", {.groups = 2, .eps = 1e-5f}},
    {OP_GROUP_NORM_BWD, "bf16[2,4,6] bf16[2,4,6] f32[6] f32[6] f32[2,3] f32[2,3]", "bf16[2,4,6] f32[6] f32[6]",
     {.groups = 3, .eps = 1e-5f}},
    {OP_LAYER_NORM, "bf16[2,3,4] f32[4] f32[4]", "bf16[2,3,4] f32[6] f32[6]", {.eps = 1e-5f}},
    {OP_RMS_NORM, "bf16[2,3,4] f32[4]", "bf16[2,3,4] f32[6]", {.eps = 1e-6f}},
    {OP_RMS_NORM_BWD, "bf16[2,3,4] bf16[2,3,4] f32[4] f32[6]", "bf16[2,3,4] f32[4]", {.eps = 1e-6f}},
    {OP_LAYER_NORM_BWD, "bf16[2,3,4] bf16[2,3,4] f32[4] f32[6] f32[6]", "bf16[2,3,4] f32[4] f32[4]", {.eps = 1e-5f}},
    {OP_L2_NORM, "bf16[2,3,4]", "bf16[2,3,4] f32[6]", {.has = 0}},
    {OP_L2_NORM_BWD, "bf16[2,4] bf16[2,4] f32[2]", "bf16[2,4]", {.has = 0}},
    {OP_ATTENTION, "bf16[2,3,8] bf16[2,5,8] bf16[2,5,8]", "bf16[2,3,8] f32[2,4,3]", {.heads = 4, .scale = 0.5f}},
    {OP_ATTENTION, "f32[1,3,8] f32[1,3,8] f32[1,3,8]", "f32[1,3,8] f32[1,1,3]", {.heads = 1, .scale = 1, .causal = 1}},
    {OP_ATTENTION_BWD, "bf16[2,3,8] bf16[2,3,8] bf16[2,5,8] bf16[2,5,8] bf16[2,3,8] f32[2,4,3]",
     "bf16[2,3,8] bf16[2,5,8] bf16[2,5,8]", {.heads = 4, .scale = 0.5f}},
    {OP_ACT, "bf16[2,3]", "bf16[2,3]", {.act = ACT_GELU}},
    {OP_ACT_BWD, "bf16[2,3] bf16[2,3]", "bf16[2,3]", {.act = ACT_GELU}},
    {OP_GEGLU, "f32[2,3,8]", "f32[2,3,4]", {.has = 0}},
    {OP_GEGLU_BWD, "f32[2,3,4] f32[2,3,8]", "f32[2,3,8]", {.has = 0}},
    {OP_GEGLU, "bf16[2,3,8] f32[8]", "bf16[2,3,4]", {.has = OP_HAS_BIAS}},
    {OP_GEGLU_BWD, "bf16[2,3,4] bf16[2,3,8] f32[8]", "bf16[2,3,8]", {.has = OP_HAS_BIAS}},
    {OP_ADD, "bf16[2,3] bf16[2,3]", "bf16[2,3]", {.has = 0}},
    {OP_ADD, "f32[] f32[]", "f32[]", {.has = 0}},
    {OP_MUL, "bf16[2,3] bf16[2,3]", "bf16[2,3]", {.has = 0}},
    {OP_SCALE, "bf16[2,3]", "bf16[2,3]", {.scale = 2}},
    {OP_SCALE, "bf16[2,3] f32[1]", "bf16[2,3]", {.scale = 2, .has = OP_HAS_S}},
    {OP_SCALE, "f32[2,3] f32[]", "f32[2,3]", {.scale = 2, .has = OP_HAS_S}},
    {OP_ADD_BCAST, "bf16[2,3,4,5] bf16[2,5]", "bf16[2,3,4,5]", {.bcast = BCAST_ITEM}},
    {OP_ADD_BCAST, "bf16[2,3,4,5] f32[3,4,5]", "bf16[2,3,4,5]", {.bcast = BCAST_ROW}},
    {OP_ADD_BCAST, "f32[2,4,5] f32[4,5]", "f32[2,4,5]", {.bcast = BCAST_ROW}},
    {OP_ADD_BCAST, "bf16[2,4,5] f32[5]", "bf16[2,4,5]", {.bcast = BCAST_CHANNEL}},
    {OP_SUM_BCAST, "bf16[2,3,5]", "f32[2,5]", {.bcast = BCAST_ITEM, .meta = M(F32, 2, 5)}},
    {OP_SUM_BCAST, "bf16[2,3,5]", "bf16[3,5]", {.bcast = BCAST_ROW, .meta = M(BF16, 3, 5)}},
    {OP_SUM_BCAST, "bf16[2,3,5]", "f32[5]", {.bcast = BCAST_CHANNEL, .meta = M(F32, 5)}},
    {OP_CONCAT, "bf16[2,3,5] bf16[2,3,4]", "bf16[2,3,9]", {.has = 0}},
    {OP_SLICE, "bf16[2,9]", "bf16[2,4]", {.begin = 5, .count = 4}},
    {OP_SLICE_BWD, "bf16[2,4]", "bf16[2,9]", {.begin = 5, .count = 4, .meta = M(BF16, 2, 9)}},
    {OP_CAST, "bf16[2,4]", "f32[2,4]", {.meta = {.dtype = DTYPE_F32}}},
    {OP_CAST, "f16[2,4]", "bf16[2,4]", {.meta = {.dtype = DTYPE_BF16}}},
    {OP_RESHAPE, "bf16[2,3,4]", "bf16[6,4]", {.meta = M(BF16, 6, 4)}},
    {OP_RESHAPE, "i32[1]", "i32[]", {.meta = {.dtype = DTYPE_I32, .shape = {0, {1, 1, 1, 1}}}}},
    {OP_NCHW_TO_NHWC, "f32[2,3,4,5]", "f32[2,4,5,3]", {.has = 0}},
    {OP_NHWC_TO_NCHW, "f32[2,4,5,3]", "f32[2,3,4,5]", {.has = 0}},
    {OP_ZERO, "", "bf16[2,3]", {.meta = M(BF16, 2, 3)}},
    {OP_MUL_BCAST, "bf16[2,3,4,5] bf16[2,5]", "bf16[2,3,4,5]", {.bcast = BCAST_ITEM}},
    {OP_MUL_BCAST, "bf16[2,4,5] f32[5]", "bf16[2,4,5]", {.bcast = BCAST_CHANNEL}},
    {OP_ROW_GAIN, "f32[3] f32[3,4]", "f32[3]", {.has = 0}},
    {OP_ROW_GAIN, "f64[3] f64[3,4,2,2]", "f64[3]", {.has = 0}},
    {OP_DROPOUT, "bf16[2,3,4] i64[2]", "bf16[2,3,4]", {.scale = 0.5f, .bcast = DROP_ITEM}},
    {OP_EMBED, "i32[2,7] bf16[9,4]", "bf16[2,7,4]", {.has = 0}},
    {OP_EMBED_BWD, "bf16[2,7,4] i32[2,7]", "f32[9,4]", {.meta = M(F32, 9, 4)}},
    {OP_GATHER_ROW, "bf16[2,7,4] i32[2]", "bf16[2,4]", {.has = 0}},
    {OP_GATHER_ROW_BWD, "bf16[2,4] i32[2]", "bf16[2,7,4]", {.meta = M(BF16, 2, 7, 4)}},
    {OP_TIME_EMBED, "f32[2]", "bf16[2,8]", {.count = 8, .max_period = 10000, .meta = {.dtype = DTYPE_BF16}}},
    {OP_MSE, "bf16[2,3,4] bf16[2,3,4] f32[2]", "f32[2]", {.has = 0}},
    {OP_MSE_BWD, "f32[2] bf16[2,3,4] bf16[2,3,4] f32[2]", "bf16[2,3,4]", {.has = 0}},
    {OP_L1, "f64[2,3,4] f64[2,3,4] f64[2]", "f64[2]", {.has = 0}},
    {OP_L1_BWD, "f64[2] f64[2,3,4] f64[2,3,4] f64[2]", "f64[2,3,4]", {.has = 0}},
    {OP_XENT, "bf16[2,9] i32[2]", "f32[2]", {.has = 0}},
    {OP_XENT_BWD, "f32[2] bf16[2,9] i32[2]", "bf16[2,9]", {.has = 0}},
    {OP_GAUSS_SAMPLE, "bf16[2,3,8] bf16[2,3,4]", "bf16[2,3,4]", {.has = 0}},
    {OP_GAUSS_SAMPLE_BWD, "bf16[2,3,4] bf16[2,3,8] bf16[2,3,4]", "bf16[2,3,8]", {.has = 0}},
    {OP_PIXEL_LOSS, "bf16[2,3,4] bf16[2,3,4] f32[2] f32[2] f32[2,3]", "f32[2]", {.loss = OP_LOSS_HUBER}},
    {OP_PIXEL_LOSS_BWD, "f32[2] bf16[2,3,4] bf16[2,3,4] f32[2] f32[2] f32[2,3]", "bf16[2,3,4]", {.loss = OP_LOSS_L1}},
    {OP_KL, "bf16[2,3,8] f32[2]", "f32[2]", {.has = 0}},
    {OP_KL_BWD, "f32[2] bf16[2,3,8] f32[2]", "bf16[2,3,8]", {.has = 0}},
};
enum { GOOD_COUNT = sizeof good / sizeof *good };

typedef struct {
    OpKind kind;
    const char *in;
    int code;
    const char *found, *expected; /* both must stand in the message, after the op's name */
    OpAttr attr;
} Bad;

static const Bad bad[] = {
    {OP_LINEAR, "f32[2,4]", ERR_SHAPE, "1 inputs", "expected 2", {.has = 0}},
    {OP_LINEAR, "f32[2,4] f32[5,3]", ERR_SHAPE, "w is f32 [5,3]", "expected f32 [5,4]", {.has = 0}},
    {OP_LINEAR, "f32[2,4] bf16[5,4]", ERR_SHAPE, "w is bf16 [5,4]", "expected f32 [5,4]", {.has = 0}},
    {OP_LINEAR, "f16[2,4] f16[5,4]", ERR_SHAPE, "x is f16", "expected f32, bf16 or f64", {.has = 0}},
    {OP_LINEAR, "f32[] f32[5,4]", ERR_SHAPE, "x is []", "expected 1 to 4 dimensions", {.has = 0}},
    {OP_LINEAR, "f32[2,4] f32[5,4,1]", ERR_SHAPE, "w is [5,4,1]", "expected 2 dimensions", {.has = 0}},
    {OP_LINEAR, "f32[0,4] f32[5,4]", ERR_SHAPE, "input 0 is [0,4]", "every dimension at least 1", {.has = 0}},
    {OP_LINEAR, "bf16[2,4] bf16[5,4] bf16[5]", ERR_SHAPE, "bias is bf16 [5]", "expected f32 [5]", {.has = OP_HAS_BIAS}},
    {OP_LINEAR, "f32[2,4] f32[5,4] f32[5]", ERR_SHAPE, "res is f32 [5]", "expected f32 [2,5]", {.has = OP_HAS_RES}},
    {OP_LINEAR, "f32[2,4] f32[5,4] f32[5]", ERR_SHAPE, "3 inputs", "expected 2", {.has = 0}},
    {OP_LINEAR, "f32[2,4] f32[5,4]", ERR_RANGE, "has is 4", "expected bits of 3 only", {.has = 4}},
    {OP_LINEAR_BWD_X, "f32[2,5] f32[4,5]", ERR_SHAPE, "w is f32 [4,5]", "expected f32 [5,5]", {.has = 0}},
    {OP_LINEAR_BWD_X, "f32[2,5] f32[5,4] f32[2,5]", ERR_SHAPE, "res is f32 [2,5]", "f32 [2,4]", {.has = OP_HAS_RES}},
    {OP_LINEAR_BWD_W, "f32[2,5] f32[3,4]", ERR_SHAPE, "x is f32 [3,4]", "expected f32 [2,4]", {.has = 0}},
    {OP_LINEAR_BWD_W, "f64[2,5] f64[2,4]", ERR_SHAPE, "result is f32", "expected f64", {.has = 0}},
    {OP_LINEAR_LOW, "f32[2,3,8] f32[5,8] f32[4,7] f32[5,4]", ERR_SHAPE, "the first factor is f32 [4,7]", "f32 [4,8]", {.scale = 1}},
    {OP_LINEAR_LOW, "f32[2,3,8] f32[5,8] f32[4,8] f32[5,3]", ERR_SHAPE, "the second factor is f32 [5,3]", "f32 [5,4]", {.scale = 1}},
    {OP_LINEAR_LOW_BWD_X, "f32[2,3,5] f32[5,8] f32[5,4] f32[5,8]", ERR_SHAPE, "the second factor is f32 [5,8]", "f32 [4,8]", {.scale = 1}},
    {OP_BIAS_GRAD, "i32[2,5]", ERR_SHAPE, "dy is i32", "expected f32, bf16 or f64", {.has = 0}},
    {OP_CONV2D, "f32[2,7,3] f32[5,3,3,3]", ERR_SHAPE, "x is [2,7,3]", "expected 4 dimensions", {.stride = 1}},
    {OP_CONV2D, "f32[2,7,8,3] f32[5,4,3,3]", ERR_SHAPE, "w is f32 [5,4,3,3]", "f32 [5,3,3,3]", {.stride = 1}},
    {OP_CONV2D, "f32[2,7,8,3] f32[5,3,3,3]", ERR_RANGE, "stride is 3", "expected 1 to 2", {.stride = 3}},
    {OP_CONV2D, "f32[2,7,8,3] f32[5,3,3,3]", ERR_RANGE, "pad left is -1", "expected 0", {.stride = 1, .pad = {0, -1}}},
    {OP_CONV2D, "f32[2,2,8,3] f32[5,3,3,3]", ERR_SHAPE, "height is 2 with 0", "at least the kernel's 3", {.stride = 1}},
    {OP_CONV2D, "f32[2,8,1,3] f32[5,3,3,3]", ERR_SHAPE, "width is 1 with 1", "at least the kernel's 3",
     {.stride = 1, .pad = {0, 1, 0, 0}}},
    {OP_CONV2D, "f32[2,7,8,3] f32[5,3,3,3] f32[3]", ERR_SHAPE, "bias is f32 [3]", "f32 [5]",
     {.stride = 1, .has = OP_HAS_BIAS}},
    {OP_CONV2D, "f32[2,7,8,3] f32[5,3,3,3] f32[2,7,8,5]", ERR_SHAPE, "res is f32 [2,7,8,5]", "f32 [2,5,6,5]",
     {.stride = 1, .has = OP_HAS_RES}},
    {OP_CONV2D, "f32[2,7,8,3] f32[5,3,3,3]", ERR_RANGE, "width to upsample to is 0", "expected 1 to 32768", {.stride = 1, .up = {7, 0}}},
    {OP_CONV2D_BWD_X, "f32[2,4,4,5] f32[5,3,3,3]", ERR_SHAPE, "dy is f32 [2,4,4,5]", "f32 [2,3,4,5]",
     {.stride = 2, .pad = {0, 0, 1, 1}, .meta = M(F32, 2, 7, 9, 3)}},
    {OP_CONV2D_BWD_W, "f32[2,4,4,5] f32[2,8,9,3]", ERR_SHAPE, "dy is f32 [2,4,4,5]", "f32 [2,4,4,6]",
     {.stride = 2, .pad = {0, 0, 1, 1}, .meta = M(F32, 6, 3, 3, 3)}},
    {OP_UPSAMPLE_NEAREST, "f32[2,3,4,5]", ERR_SHAPE, "result is [2,0,9,5]", "at least 1", {.meta = M(F32, 2, 0, 9, 5)}},
    {OP_UPSAMPLE_NEAREST, "f32[2,3,4,5]", ERR_SHAPE, "result is f32 [2,6,8,4]", "f32 [2,6,8,5]",
     {.meta = M(F32, 2, 6, 8, 4)}},
    {OP_UPSAMPLE_NEAREST_BWD, "f32[2,6,8,5]", ERR_SHAPE, "result is f32 [2,6,8,5]", "f32 [3,6,8,5]",
     {.meta = M(F32, 3, 3, 4, 5)}},
    {OP_GROUP_NORM, "f32[2,6] f32[6] f32[6]", ERR_SHAPE, "4 groups", "divisor of the 6 channels", {.groups = 4}},
    {OP_GROUP_NORM, "f32[2,6] f32[6] f32[6]", ERR_SHAPE, "0 groups", "divisor of the 6 channels", {.has = 0}},
    {OP_GROUP_NORM, "f32[2,6] f32[6] f32[6]", ERR_RANGE, "act is 2", "none or silu", {.groups = 3, .act = ACT_GELU}},
    {OP_GROUP_NORM, "f32[2,6] f32[5] f32[6]", ERR_SHAPE, "gamma is f32 [5]", "f32 [6]", {.groups = 3}},
    {OP_GROUP_NORM, "bf16[2,6] f32[6] bf16[6]", ERR_SHAPE, "beta is bf16 [6]", "f32 [6]", {.groups = 3}},
    {OP_GROUP_NORM, "f32[2,6] f32[6] f32[6]", ERR_RANGE, "eps is -1", "at least 0", {.groups = 3, .eps = -1}},
    {OP_GROUP_NORM_BWD, "f32[2,6] f32[2,6] f32[6] f32[6] f32[2,2] f32[2,3]", ERR_SHAPE, "mean is f32 [2,2]",
     "f32 [2,3]", {.groups = 3}},
    {OP_LAYER_NORM, "f32[2,3,4] f32[4] f32[3]", ERR_SHAPE, "beta is f32 [3]", "f32 [4]", {.has = 0}},
    {OP_LAYER_NORM, "f32[2,3,4] f32[4] f32[4]", ERR_RANGE, "eps is inf", "finite", {.eps = __builtin_inff()}},
    {OP_LAYER_NORM_BWD, "f32[2,4] f32[2,4] f32[4] f32[2] f32[3]", ERR_SHAPE, "rstd is f32 [3]", "f32 [2]", {.has = 0}},
    {OP_RMS_NORM, "f32[2,3,4] f32[3]", ERR_SHAPE, "gamma is f32 [3]", "f32 [4]", {.has = 0}},
    {OP_RMS_NORM_BWD, "f32[2,4] f32[2,4] f32[4] f32[3]", ERR_SHAPE, "rstd is f32 [3]", "f32 [2]", {.has = 0}},
    {OP_L2_NORM, "u8[2,3]", ERR_SHAPE, "x is u8", "expected f32, bf16 or f64", {.has = 0}},
    {OP_L2_NORM_BWD, "f32[2,4] f32[2,4] f32[4]", ERR_SHAPE, "norm is f32 [4]", "f32 [2]", {.has = 0}},
    {OP_ATTENTION, "f32[2,3,8] f32[2,5,8] f32[2,5,8]", ERR_SHAPE, "3 heads", "divisor of the 8 channels", {.heads = 3}},
    {OP_ATTENTION, "f32[2,3,8] f32[2,5,8] f32[2,5,4]", ERR_SHAPE, "v is f32 [2,5,4]", "f32 [2,5,8]", {.heads = 2}},
    {OP_ATTENTION, "f32[2,3,8] f32[1,5,8] f32[1,5,8]", ERR_SHAPE, "k is f32 [1,5,8]", "f32 [2,5,8]", {.heads = 2}},
    {OP_ATTENTION, "f32[2,3,8] f32[2,5,8] f32[2,5,8]", ERR_RANGE, "scale is nan", "finite",
     {.heads = 2, .scale = __builtin_nanf("")}},
    {OP_ATTENTION_BWD, "f32[2,3,8] f32[2,3,8] f32[2,5,8] f32[2,5,8] f32[2,3,8] f32[2,3,2]", ERR_SHAPE,
     "lse is f32 [2,3,2]", "f32 [2,2,3]", {.heads = 2}},
    {OP_ACT, "f32[2,3]", ERR_RANGE, "act is 99", "expected 0 to 8", {.act = 99}},
    {OP_ACT_BWD, "f32[2,3] f32[3,2]", ERR_SHAPE, "dy is f32 [2,3]", "f32 [3,2]", {.act = ACT_SILU}},
    {OP_GEGLU, "f32[2,7]", ERR_SHAPE, "7 channels", "even", {.has = 0}},
    {OP_GEGLU, "f32[2,8] f32[4]", ERR_SHAPE, "bias is f32 [4]", "f32 [8]", {.has = OP_HAS_BIAS}},
    {OP_GEGLU_BWD, "f32[2,8] f32[2,8]", ERR_SHAPE, "dy is f32 [2,8]", "f32 [2,4]", {.has = 0}},
    {OP_ADD, "f32[2,3] f32[3,2]", ERR_SHAPE, "y is f32 [3,2]", "f32 [2,3]", {.has = 0}},
    {OP_ADD, "f32[2,3] f32[3]", ERR_SHAPE, "y is f32 [3]", "f32 [2,3]", {.has = 0}},
    {OP_MUL, "f32[2,3] bf16[2,3]", ERR_SHAPE, "y is bf16 [2,3]", "f32 [2,3]", {.has = 0}},
    {OP_SCALE, "bf16[2,3] bf16[1]", ERR_SHAPE, "s is bf16", "expected f32", {.has = OP_HAS_S}},
    {OP_SCALE, "f32[2,3] f32[2]", ERR_SHAPE, "s is [2]", "one element", {.has = OP_HAS_S}},
    {OP_SCALE, "f32[2,3]", ERR_RANGE, "factor is inf", "finite", {.scale = __builtin_inff()}},
    {OP_ADD_BCAST, "f32[2,3,4] f32[3,4]", ERR_SHAPE, "v is f32 [3,4]", "f32 [2,4]", {.bcast = BCAST_ITEM}},
    {OP_ADD_BCAST, "bf16[2,3,4] f16[3,4]", ERR_SHAPE, "v is f16 [3,4]", "f32 [3,4]", {.bcast = BCAST_ROW}},
    {OP_ADD_BCAST, "f32[4] f32[4]", ERR_SHAPE, "x is [4]", "expected 2 to 4 dimensions", {.bcast = BCAST_ITEM}},
    {OP_ADD_BCAST, "f32[2,4] f32[4]", ERR_RANGE, "bcast is 7", "expected 0 to 2", {.bcast = 7}},
    {OP_SUM_BCAST, "f32[2,3,4]", ERR_SHAPE, "result is f32 [3]", "f32 [4]", {.bcast = BCAST_CHANNEL, .meta = M(F32, 3)}},
    {OP_CONCAT, "f32[2,3,5] f32[2,4,5]", ERR_SHAPE, "y is f32 [2,4,5]", "f32 [2,3,5]", {.has = 0}},
    {OP_SLICE, "f32[2,9]", ERR_SHAPE, "5 channels from 5", "9 channels", {.begin = 5, .count = 5}},
    {OP_SLICE, "f32[2,9]", ERR_SHAPE, "0 channels from 5", "9 channels", {.begin = 5}},
    {OP_SLICE, "f32[2,9]", ERR_SHAPE, "2 channels from -1", "9 channels", {.begin = -1, .count = 2}},
    {OP_SLICE, "f32[2,9]", ERR_SHAPE, "channels from 1", "9 channels", {.begin = 1, .count = INT64_MAX}},
    {OP_SLICE_BWD, "f32[2,4]", ERR_SHAPE, "4 channels from 6", "9 channels", {.begin = 6, .meta = M(F32, 2, 9)}},
    {OP_CAST, "i32[2]", ERR_SHAPE, "x is i32", "expected f32, bf16, f16 or f64", {.has = 0}},
    {OP_CAST, "f32[2]", ERR_SHAPE, "result is u8", "expected f32, bf16, f16 or f64", {.meta = {.dtype = DTYPE_U8}}},
    {OP_RESHAPE, "f32[2,3]", ERR_SHAPE, "x is [2,3]", "result [7]", {.meta = M(F32, 7)}},
    {OP_RESHAPE, "f32[2,3]", ERR_SHAPE, "result is [4294967296,4294967296]", "expected at most",
     {.meta = M(F32, 1LL << 32, 1LL << 32)}},
    {OP_RESHAPE, "f32[2,3]", ERR_SHAPE, "5 dimensions", "expected 0 to 4", {.meta = {.shape = {5, {1, 1, 1, 1}}}}},
    {OP_NCHW_TO_NHWC, "f32[2,3]", ERR_SHAPE, "x is [2,3]", "expected 4 dimensions", {.has = 0}},
    {OP_NHWC_TO_NCHW, "f32[2,3]", ERR_SHAPE, "x is [2,3]", "expected 4 dimensions", {.has = 0}},
    {OP_ZERO, "", ERR_SHAPE, "result is [2,-1]", "at least 1", {.meta = M(F32, 2, -1)}},
    {OP_ZERO, "f32[1]", ERR_SHAPE, "1 inputs", "expected 0", {.meta = M(F32, 2)}},
    {OP_MUL_BCAST, "f32[2,4,5] f32[4]", ERR_SHAPE, "v is f32 [4]", "f32 [5]", {.bcast = BCAST_CHANNEL}},
    {OP_MUL_BCAST, "f32[2,4,5] f32[4,5]", ERR_RANGE, "bcast is 1", "per item or per channel", {.bcast = BCAST_ROW}},
    {OP_ROW_GAIN, "f32[3] f32[4,4]", ERR_SHAPE, "m is f32 [3]", "f32 [4]", {.has = 0}},
    {OP_ROW_GAIN, "f32[3] bf16[3,4]", ERR_SHAPE, "v is bf16", "expected f32", {.has = 0}},
    {OP_DROPOUT, "f32[2,3] i32[2]", ERR_SHAPE, "position is i32 [2]", "i64 [2]", {.scale = 0.5f}},
    {OP_DROPOUT, "f32[2,3] i64[2]", ERR_RANGE, "probability is 1", "less than 1", {.scale = 1}},
    {OP_EMBED, "i64[2,7] f32[9,4]", ERR_SHAPE, "ids is i64", "expected i32", {.has = 0}},
    {OP_EMBED, "i32[7] f32[9,4]", ERR_SHAPE, "ids is [7]", "expected 2 dimensions", {.has = 0}},
    {OP_EMBED_BWD, "f32[2,7,4] i32[2,7]", ERR_SHAPE, "dy is f32 [2,7,4]", "f32 [2,7,5]", {.meta = M(F32, 9, 5)}},
    {OP_EMBED_BWD, "bf16[2,7,4] i32[2,7]", ERR_SHAPE, "result is bf16", "expected f32", {.meta = M(BF16, 9, 4)}},
    {OP_GATHER_ROW, "f32[2,7,4] i32[3]", ERR_SHAPE, "idx is i32 [3]", "i32 [2]", {.has = 0}},
    {OP_GATHER_ROW_BWD, "f32[2,4] i32[2]", ERR_SHAPE, "dy is f32 [2,4]", "f32 [3,4]", {.meta = M(F32, 3, 7, 4)}},
    {OP_TIME_EMBED, "f32[2]", ERR_RANGE, "dim is 7", "even", {.count = 7, .max_period = 1}},
    {OP_TIME_EMBED, "f32[2]", ERR_RANGE, "shift is 1", "less than dim / 2", {.count = 2, .shift = 1, .max_period = 1}},
    {OP_TIME_EMBED, "f32[2]", ERR_RANGE, "max_period is 0", "over 0", {.count = 2}},
    {OP_TIME_EMBED, "i64[2]", ERR_SHAPE, "t is i64", "expected f32", {.count = 2, .max_period = 1}},
    {OP_MSE, "f32[2,3] f32[2,3] f32[3]", ERR_SHAPE, "weight is f32 [3]", "f32 [2]", {.has = 0}},
    {OP_MSE, "f32[2,3] bf16[2,3] f32[2]", ERR_SHAPE, "y is bf16 [2,3]", "f32 [2,3]", {.has = 0}},
    {OP_MSE_BWD, "f32[3] f32[2,3] f32[2,3] f32[2]", ERR_SHAPE, "dl is f32 [3]", "f32 [2]", {.has = 0}},
    {OP_L1, "f32[2,3] f32[2,4] f32[2]", ERR_SHAPE, "y is f32 [2,4]", "f32 [2,3]", {.has = 0}},
    {OP_L1_BWD, "f32[3] f32[2,3] f32[2,3] f32[2]", ERR_SHAPE, "dl is f32 [3]", "f32 [2]", {.has = 0}},
    {OP_XENT, "f32[2,9] i64[2]", ERR_SHAPE, "target is i64 [2]", "i32 [2]", {.has = 0}},
    {OP_XENT_BWD, "f32[9] f32[2,9] i32[2]", ERR_SHAPE, "dl is f32 [9]", "f32 [2]", {.has = 0}},
    {OP_GAUSS_SAMPLE, "f32[2,7] f32[2,3]", ERR_SHAPE, "7 channels", "even", {.has = 0}},
    {OP_GAUSS_SAMPLE, "f32[2,8] f32[2,8]", ERR_SHAPE, "noise is f32 [2,8]", "f32 [2,4]", {.has = 0}},
    {OP_GAUSS_SAMPLE_BWD, "f32[2,3] f32[2,8] f32[2,4]", ERR_SHAPE, "dz is f32 [2,3]", "f32 [2,4]", {.has = 0}},
    {OP_PIXEL_LOSS, "f32[2,3] f32[2,3] f32[2] f32[2] f32[3]", ERR_SHAPE, "mask is f32 [3]", "f32 [2]", {.has = 0}},
    {OP_PIXEL_LOSS, "f32[2,3] f32[2,3] f32[2] f32[1] f32[2]", ERR_SHAPE, "c is f32 [1]", "f32 [2]", {.has = 0}},
    {OP_PIXEL_LOSS_BWD, "f32[3] f32[2,3] f32[2,3] f32[2] f32[2] f32[2]", ERR_SHAPE, "dl is f32 [3]", "f32 [2]", {.has = 0}},
    {OP_KL, "bf16[2,8] bf16[2]", ERR_SHAPE, "weight is bf16 [2]", "f32 [2]", {.has = 0}},
    {OP_KL_BWD, "f32[1] f32[2,8] f32[2]", ERR_SHAPE, "dk is f32 [1]", "f32 [2]", {.has = 0}},
};
enum { BAD_COUNT = sizeof bad / sizeof *bad };

static void test_ops_rules__tables_cover_every_op(void **state)
{
    (void)state;
    for (int k = 0; k < OP_COUNT; k++) {
        int g = 0, b = 0;
        for (int i = 0; i < GOOD_COUNT; i++)
            g += good[i].kind == (OpKind)k;
        for (int i = 0; i < BAD_COUNT; i++)
            b += bad[i].kind == (OpKind)k;
        if (!g || !b)
            fail_msg("%s: %d good and %d bad cases, expected at least one of each", op_name((OpKind)k), g, b);
        assert_non_null(op_rule((OpKind)k));
        assert_non_null(op_rule((OpKind)k)->infer);
    }
    assert_null(op_rule(OP_COUNT));
    assert_string_equal(op_name(OP_COUNT), "unknown op");
}

static void test_ops_rules__good_shapes(void **state)
{
    (void)state;
    for (int i = 0; i < GOOD_COUNT; i++) {
        Meta in[OP_MAX_IN], out[OP_MAX_OUT];
        char text[512];
        int nout = 0, nin = parse_metas(good[i].in, in);
        int rc = op_rule(good[i].kind)->infer(&good[i].attr, in, nin, out, &nout);
        if (rc < 0)
            fail_msg("case %d: %s", i, err_message());
        if (strcmp(metas_text(out, nout, text, sizeof text), good[i].out))
            fail_msg("case %d, %s: %s, expected %s", i, op_name(good[i].kind), text, good[i].out);
        for (int o = 0; o < nout; o++)
            for (int d = out[o].shape.ndim; d < OP_MAX_DIM; d++)
                assert_int_equal(out[o].shape.dim[d], 1);
    }
}

static void test_ops_rules__bad_inputs_name_op_found_expected(void **state)
{
    (void)state;
    for (int i = 0; i < BAD_COUNT; i++) {
        Meta in[OP_MAX_IN], out[OP_MAX_OUT];
        char start[64];
        int nout = 0, nin = parse_metas(bad[i].in, in);
        err_set(0, "nothing");
        int rc = op_rule(bad[i].kind)->infer(&bad[i].attr, in, nin, out, &nout);
        const char *m = err_message();
        snprintf(start, sizeof start, "%s: ", op_name(bad[i].kind));
        if (rc != bad[i].code || strncmp(m, start, strlen(start)) || !strstr(m, bad[i].found) ||
            !strstr(m, bad[i].expected))
            fail_msg("case %d: code %d \"%s\", expected %d \"%s...%s...%s\"", i, rc, m, bad[i].code, start,
                     bad[i].found, bad[i].expected);
    }
}

static void check_gradient(const Good *c, unsigned mask, int own)
{
    Fake f;
    Meta in[OP_MAX_IN], out[OP_MAX_OUT];
    OpRef ri[OP_MAX_IN], ro[OP_MAX_OUT], dout[OP_MAX_OUT], din[OP_MAX_IN];
    uint8_t need[OP_MAX_IN] = {0};
    int nin = parse_metas(c->in, in), nout = 0, refuse = 0;
    fake_init(&f);
    if (own)
        f.build.grad_dtype = fake_grad_own;
    assert_int_equal(op_rule(c->kind)->infer(&c->attr, in, nin, out, &nout), 0);
    for (int i = 0; i < nin; i++) {
        ri[i] = fake_tensor(&f, in[i]);
        need[i] = (mask >> i & 1) && is_float(in[i].dtype) && !is_constant(c->kind, i);
        refuse |= need[i] && no_gradient(c->kind, i);
        din[i] = OP_NONE;
    }
    for (int i = 0; i < nout; i++) {
        ro[i] = fake_tensor(&f, out[i]);
        dout[i] = OP_NONE;
    }
    dout[0] = fake_tensor(&f, out[0]);
    OpGrad g = {.attr = &c->attr, .in = ri, .out = ro, .dout = dout, .nin = nin, .nout = nout, .need = need, .din = din};
    int rc = op_rule(c->kind)->grad(&f.build, &g);
    if (refuse) {
        assert_int_equal(rc, ERR_UNSUPPORTED);
        return;
    }
    if (rc < 0)
        fail_msg("%s: %s", op_name(c->kind), err_message());
    for (int i = 0; i < nin; i++) {
        assert_int_equal(din[i] != OP_NONE, need[i]);
        if (!need[i])
            continue;
        const Meta *d = &f.meta[din[i]];
        Dtype p = dtype_param(in[i].dtype);
        if (!shape_equal(&d->shape, &in[i].shape) || (d->dtype != in[i].dtype && ((own && c->kind != OP_EMBED) || d->dtype != p)))
            fail_msg("%s: gradient of input %d of %s has another meta", op_name(c->kind), i, c->in);
    }
}

static void test_ops_rules__gradients_have_the_inputs_shape(void **state)
{
    (void)state;
    for (int i = 0; i < GOOD_COUNT; i++) {
        Meta in[OP_MAX_IN];
        if (!op_rule(good[i].kind)->grad)
            continue;
        int nin = parse_metas(good[i].in, in);
        for (unsigned mask = 0; mask < 1u << nin; mask++)
            for (int own = 0; own < 2; own++)
                check_gradient(&good[i], mask, own);
    }
}

static void test_ops_rules__weight_gradient_is_wide_for_parameters(void **state)
{
    (void)state;
    for (int own = 0; own < 2; own++) {
        Fake f;
        fake_init(&f);
        if (own)
            f.build.grad_dtype = fake_grad_own;
        Meta mx = {DTYPE_BF16, SHAPE(2, 4)}, mw = {DTYPE_BF16, SHAPE(5, 4)}, my = {DTYPE_BF16, SHAPE(2, 5)};
        OpRef in[2] = {fake_tensor(&f, mx), fake_tensor(&f, mw)}, out = fake_tensor(&f, my), dy = fake_tensor(&f, my);
        OpRef din[2] = {OP_NONE, OP_NONE};
        OpGrad g = {.attr = &(OpAttr){0}, .in = in, .out = &out, .dout = &dy, .nin = 2, .nout = 1,
                    .need = (const uint8_t[]){0, 1}, .din = din};
        assert_int_equal(op_rule(OP_LINEAR)->grad(&f.build, &g), 0);
        assert_int_equal(f.meta[din[1]].dtype, own ? DTYPE_BF16 : DTYPE_F32);
    }
}

static void test_ops_rules__only_output_0_is_differentiable(void **state)
{
    (void)state;
    static const OpKind kinds[] = {OP_GROUP_NORM, OP_LAYER_NORM, OP_RMS_NORM, OP_L2_NORM, OP_ATTENTION};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        Fake f;
        fake_init(&f);
        OpRef t = fake_tensor(&f, (Meta){DTYPE_F32, SHAPE(2, 4)}), in[3] = {t, t, t}, din[3];
        OpGrad g = {.attr = &(OpAttr){0}, .in = in, .out = in, .dout = in, .nin = 3, .nout = 2,
                    .need = (const uint8_t[]){1, 1, 1}, .din = din};
        assert_int_equal(op_rule(kinds[i])->grad(&f.build, &g), ERR_UNSUPPORTED);
        assert_non_null(strstr(err_message(), "output 1 is not differentiable"));
    }
}

static void expect_node(const Fake *f, OpKind k, int has, int nin, const OpRef *in)
{
    assert_int_equal(f->kind, k);
    assert_int_equal(f->attr.has, has);
    assert_int_equal(f->nin, nin);
    for (int i = 0; i < nin; i++)
        assert_int_equal(f->in[i], in[i]);
}

static void test_ops_rules__absent_inputs_take_no_slot(void **state)
{
    (void)state;
    Fake f;
    fake_init(&f);
    OpBuild *b = &f.build;
    OpRef x = fake_tensor(&f, (Meta){DTYPE_F32, SHAPE(1, 3, 3, 4)}), w = fake_tensor(&f, (Meta){DTYPE_F32, SHAPE(5, 4)});
    OpRef bias = fake_tensor(&f, (Meta){DTYPE_F32, SHAPE(5)}), res = fake_tensor(&f, (Meta){DTYPE_F32, SHAPE(1, 3, 3, 5)});
    OpRef cw = fake_tensor(&f, (Meta){DTYPE_F32, SHAPE(5, 4, 1, 1)}), s = fake_tensor(&f, (Meta){DTYPE_F32, SHAPE(1)});
    const int pad[4] = {0};
    assert_true(op_linear(b, x, w, OP_NONE, OP_NONE) >= 0);
    expect_node(&f, OP_LINEAR, 0, 2, (OpRef[]){x, w});
    assert_true(op_linear(b, x, w, bias, res) >= 0);
    expect_node(&f, OP_LINEAR, OP_HAS_BIAS | OP_HAS_RES, 4, (OpRef[]){x, w, bias, res});
    assert_true(op_linear(b, x, w, OP_NONE, res) >= 0);
    expect_node(&f, OP_LINEAR, OP_HAS_RES, 3, (OpRef[]){x, w, res});
    assert_true(op_conv2d(b, x, cw, bias, OP_NONE, 1, pad) >= 0);
    expect_node(&f, OP_CONV2D, OP_HAS_BIAS, 3, (OpRef[]){x, cw, bias});
    assert_true(op_conv2d(b, x, cw, OP_NONE, res, 1, pad) >= 0);
    expect_node(&f, OP_CONV2D, OP_HAS_RES, 3, (OpRef[]){x, cw, res});
    assert_true(op_scale(b, x, 2.0f, OP_NONE) >= 0);
    expect_node(&f, OP_SCALE, 0, 1, (OpRef[]){x});
    assert_true(op_scale(b, x, 2.0f, s) >= 0);
    expect_node(&f, OP_SCALE, OP_HAS_S, 2, (OpRef[]){x, s});
    assert_int_equal(f.error, 0);
}

static void test_ops_rules__emitters_pass_none_on(void **state)
{
    (void)state;
    Fake f;
    fake_init(&f);
    OpBuild *b = &f.build;
    Meta m = {DTYPE_F32, SHAPE(2, 4)};
    OpRef x = fake_tensor(&f, m), no = OP_NONE;
    const int pad[4] = {0};
    const OpRef r[] = {
        op_linear(b, no, x, no, no), op_linear(b, x, no, no, x), op_conv2d(b, no, x, no, no, 1, pad),
        op_conv2d(b, x, no, no, no, 1, pad), op_upsample_nearest(b, no, 2, 2), op_group_norm(b, no, x, x, 1, 0, ACT_NONE),
        op_group_norm(b, x, no, x, 1, 0, ACT_NONE), op_layer_norm(b, x, x, no, 0), op_rms_norm(b, x, no, 0), op_l2_norm(b, no),
        op_attention(b, x, no, x, 1, 1, 0), op_act(b, no, ACT_SILU), op_geglu(b, no), op_add(b, x, no), op_mul(b, no, x),
        op_scale(b, no, 1, no), op_scale(b, no, 1, x), op_add_bcast(b, x, no, BCAST_ROW),
        op_sum_bcast(b, no, BCAST_ROW, &m), op_concat(b, x, no), op_slice(b, no, 0, 1), op_cast(b, no, DTYPE_F32),
        op_reshape(b, no, SHAPE(8)), op_nchw_to_nhwc(b, no), op_nhwc_to_nchw(b, no), op_embed(b, x, no),
        op_gather_row(b, no, x), op_time_embed(b, no, 2, 0, 0, 1, DTYPE_F32), op_mse(b, x, x, no), op_l1(b, no, x, x),
        op_xent(b, x, no), op_gauss_sample(b, no, x), op_kl(b, x, no)};
    for (size_t i = 0; i < sizeof r / sizeof *r; i++)
        assert_int_equal(r[i], OP_NONE);
    assert_int_equal(f.nodes, 0);
    assert_int_equal(f.error, 0);
}

static void test_ops_rules__emitter_error_is_none(void **state)
{
    (void)state;
    Fake f;
    fake_init(&f);
    OpRef x = fake_tensor(&f, (Meta){DTYPE_F32, SHAPE(2, 4)}), y = fake_tensor(&f, (Meta){DTYPE_F32, SHAPE(4, 2)});
    assert_int_equal(op_add(&f.build, x, y), OP_NONE);
    assert_int_equal(f.error, ERR_SHAPE);
    f.error = 0;
    assert_int_equal(op_upsample_nearest(&f.build, x, 4, 4), OP_NONE); /* x has 2 dimensions */
    assert_int_equal(f.error, ERR_SHAPE);
}

static void test_ops_rules__inplace_masks(void **state)
{
    (void)state;
    const OpAttr none = {0}, bias = {.has = OP_HAS_BIAS}, res = {.has = OP_HAS_RES};
    const OpAttr both = {.has = OP_HAS_BIAS | OP_HAS_RES};
    assert_int_equal(op_inplace_mask(OP_ADD, &none), 3);
    assert_int_equal(op_inplace_mask(OP_ACT_BWD, &none), 3);
    assert_int_equal(op_inplace_mask(OP_SCALE, &bias), 1);
    assert_int_equal(op_inplace_mask(OP_CAST, &none), 0);
    assert_int_equal(op_inplace_mask(OP_RESHAPE, &none), 0);
    for (int i = 0; i < 2; i++) {
        OpKind k = i ? OP_CONV2D : OP_LINEAR, d = i ? OP_CONV2D_BWD_X : OP_LINEAR_BWD_X;
        assert_int_equal(op_inplace_mask(k, &none), 0);
        assert_int_equal(op_inplace_mask(k, &bias), 0);
        assert_int_equal(op_inplace_mask(k, &res), 1 << 2);
        assert_int_equal(op_inplace_mask(k, &both), 1 << 3);
        assert_int_equal(op_inplace_mask(d, &none), 0);
        assert_int_equal(op_inplace_mask(d, &res), 1 << 2);
    }
    /* An in-place input must have the storage size of output 0. */
    for (int i = 0; i < GOOD_COUNT; i++) {
        Meta in[OP_MAX_IN], out[OP_MAX_OUT];
        int nin = parse_metas(good[i].in, in);
        parse_metas(good[i].out, out);
        uint8_t mask = op_inplace_mask(good[i].kind, &good[i].attr);
        assert_int_equal(mask >> nin, 0);
        for (int j = 0; j < nin; j++)
            if (mask >> j & 1)
                assert_true(in[j].dtype == out[0].dtype && shape_equal(&in[j].shape, &out[0].shape));
    }
}

static void test_ops_rules__shape_helpers(void **state)
{
    (void)state;
    char t[64], tiny[5];
    Shape s = SHAPE(2, 64, 320), e = shape_make(0, NULL), huge = SHAPE(1LL << 40, 1LL << 40);
    assert_string_equal(shape_text(&s, t, sizeof t), "[2,64,320]");
    assert_string_equal(shape_text(&e, t, sizeof t), "[]");
    assert_string_equal(shape_text(&s, tiny, sizeof tiny), "[2,6");
    assert_int_equal(shape_count(&s), 2 * 64 * 320);
    assert_int_equal(shape_rows(&s), 128);
    assert_int_equal(shape_last(&s), 320);
    assert_int_equal(shape_count(&e), 1);
    assert_int_equal(shape_last(&e), 1);
    assert_true(shape_count(&huge) == INT64_MAX);
    assert_int_equal(dtype_size(DTYPE_BF16), 2);
    assert_int_equal(dtype_size(DTYPE_F64), 8);
    assert_int_equal(dtype_size(DTYPE_COUNT), 0);
    assert_string_equal(dtype_name(DTYPE_COUNT), "?");
    assert_int_equal(dtype_param(DTYPE_BF16), DTYPE_F32);
    assert_int_equal(dtype_param(DTYPE_F64), DTYPE_F64);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ops_rules__tables_cover_every_op),
        cmocka_unit_test(test_ops_rules__good_shapes),
        cmocka_unit_test(test_ops_rules__bad_inputs_name_op_found_expected),
        cmocka_unit_test(test_ops_rules__gradients_have_the_inputs_shape),
        cmocka_unit_test(test_ops_rules__weight_gradient_is_wide_for_parameters),
        cmocka_unit_test(test_ops_rules__only_output_0_is_differentiable),
        cmocka_unit_test(test_ops_rules__absent_inputs_take_no_slot),
        cmocka_unit_test(test_ops_rules__emitters_pass_none_on),
        cmocka_unit_test(test_ops_rules__emitter_error_is_none),
        cmocka_unit_test(test_ops_rules__inplace_masks),
        cmocka_unit_test(test_ops_rules__shape_helpers),
    };
    return cmocka_run_group_tests_name("ops/rules", tests, NULL, NULL);
}
