/* Ops of the graph in bf16 at the shapes of SDXL (1024x1024) and SD 1.5 (512x512), guidance on: two items. Bytes: every input read once,
 * every output written once. */
#include "gpu.h"

#include <stdio.h>
#include <string.h>

enum { MOST_SETS = 24 };

typedef struct {
    OpKind kind;
    OpAttr attr;
    Meta in[OP_MAX_IN], out[OP_MAX_OUT];
    int nin, nout;
    double flop;     /* 0: bound by memory */
    double target;
} Row;

/* Row with its buffers. */
typedef struct {
    const Gpu *g;
    const Row *row;
    OpView in[MOST_SETS][OP_MAX_IN], out[MOST_SETS][OP_MAX_OUT];
    void *scratch, *state;
    size_t scratch_bytes;
    int sets;
} Op;

static int op_work(void *ctx, int set)
{
    Op *o = ctx;
    OpCall c = {.kind = o->row->kind, .attr = &o->row->attr, .in = o->in[set], .out = o->out[set], .nin = o->row->nin,
                .nout = o->row->nout, .scratch = o->scratch, .state = o->state};
    return o->g->be->op[c.kind].run(o->g->be, &c);
}

static int op_buffers(Op *o)
{
    const Row *r = o->row;
    for (int s = 0; s < o->sets; s++)
        for (int i = 0; i < r->nin + r->nout; i++) {
            const Meta *m = i < r->nin ? &r->in[i] : &r->out[i - r->nin];
            OpView *v = i < r->nin ? &o->in[s][i] : &o->out[s][i - r->nin];
            *v = (OpView){.dtype = m->dtype, .shape = m->shape};
            TRY(gpu_random(o->g, &v->data, m->dtype, shape_count(&m->shape)));
        }
    return 0;
}

static void op_free(Op *o)
{
    const Row *r = o->row;
    Backend *be = o->g->be;
    for (int s = 0; s < o->sets; s++)
        for (int i = 0; i < r->nin + r->nout; i++) {
            void *p = i < r->nin ? o->in[s][i].data : o->out[s][i - r->nin].data;
            if (p)
                be->free(be, p, 0);
        }
    if (o->scratch)
        be->free(be, o->scratch, o->scratch_bytes);
    if (o->state && be->op[r->kind].release)
        be->op[r->kind].release(be, o->state);
}

static int op_prepare(Op *o)
{
    const Row *r = o->row;
    Backend *be = o->g->be;
    const BackendOp *b = &be->op[r->kind];
    TRY(op_buffers(o));
    o->scratch_bytes = b->scratch ? b->scratch(be, &r->attr, r->in, r->nin, r->out, r->nout) : 0;
    if (o->scratch_bytes)
        TRY(be->alloc(be, &o->scratch, o->scratch_bytes));
    if (!b->prepare || r->kind == OP_CONV2D_BWD_W)
        return 0;
    OpView in[OP_MAX_IN];
    memcpy(in, o->in[0], sizeof in);
    in[1].frozen = 1; /* weights of a base model */
    OpCall c = {.kind = r->kind, .attr = &r->attr, .in = in, .out = o->out[0], .nin = r->nin, .nout = r->nout, .scratch = o->scratch};
    return b->prepare(be, &c, &o->state);
}

static int measure(const Gpu *g, const char *name, Row *r)
{
    double bytes = 0, seconds;
    if (!gpu_wanted(g, name))
        return 0;
    TRY_CTX(op_rule(r->kind)->infer(&r->attr, r->in, r->nin, r->out, &r->nout), "%s", name);
    for (int i = 0; i < r->nin + r->nout; i++) {
        const Meta *m = i < r->nin ? &r->in[i] : &r->out[i - r->nin];
        bytes += (double)shape_count(&m->shape) * (double)dtype_size(m->dtype);
    }
    Op o = {.g = g, .row = r, .sets = gpu_sets(g, bytes)};
    int rc = op_prepare(&o);
    if (rc >= 0)
        rc = gpu_time(g, op_work, &o, o.sets, &seconds);
    op_free(&o);
    TRY_CTX(rc, "%s", name);
    if (r->flop > 0)
        printf("flop\t%s\t%.4g\t%.6g\t%g\n", name, seconds, r->flop, r->target);
    else
        printf("byte\t%s\t%.4g\t%.6g\t%g\n", name, seconds, bytes, r->target);
    fflush(stdout);
    return 0;
}

#define BF(...) ((Meta){DTYPE_BF16, SHAPE(__VA_ARGS__)})
#define FL(...) ((Meta){DTYPE_F32, SHAPE(__VA_ARGS__)})

/* Smaller where only the code is tried. */
static int64_t dim(const Gpu *g, int64_t v, int64_t tiny)
{
    return g->tiny && v > tiny ? tiny : v;
}

/* kv: keys and values; 0: as many as queries. */
static int attention(const Gpu *g, const char *name, int64_t tokens, int64_t kv, int64_t heads, int64_t d)
{
    char text[96];
    int64_t lq = dim(g, tokens, 16), lk = dim(g, kv ? kv : tokens, 16), h = dim(g, heads, 1), n = 2, w = h * d;
    Meta q = BF(n, lq, w), k = BF(n, lk, w);
    double flop = 4.0 * (double)(n * lq * lk * w);
    OpAttr attr = {.heads = (int32_t)h, .scale = 0.125f};
    snprintf(text, sizeof text, "attention %s", name);
    TRY(measure(g, text, &(Row){.kind = OP_ATTENTION, .attr = attr, .in = {q, k, k}, .nin = 3, .flop = flop, .target = 0.6}));
    snprintf(text, sizeof text, "attention gradient %s", name);
    return measure(g, text, &(Row){.kind = OP_ATTENTION_BWD, .attr = attr, .in = {q, q, k, k, q, FL(n, h, lq)}, .nin = 6, .flop = 2.5 * flop,
                                   .target = 0.6});
}

static int conv(const Gpu *g, const char *name, int64_t side, int64_t ci, int64_t co, int64_t kernel, int stride, int gradients)
{
    char text[96];
    int64_t n = 2, s = dim(g, side, 4), o = s / stride, i = dim(g, ci, 16), c = dim(g, co, 16);
    int pad = kernel == 3;
    OpAttr attr = {.stride = stride, .pad = {pad, pad, pad, pad}};
    Meta x = BF(n, s, s, i), w = BF(c, i, kernel, kernel), y = BF(n, o, o, c);
    double flop = 2.0 * (double)(n * o * o * c * i * kernel * kernel);
    snprintf(text, sizeof text, "conv %s", name);
    attr.has = OP_HAS_BIAS;
    TRY(measure(g, text, &(Row){.kind = OP_CONV2D, .attr = attr, .in = {x, w, FL(c)}, .nin = 3, .flop = flop, .target = 0.55}));
    if (!gradients)
        return 0;
    attr.has = 0;
    attr.meta = x;
    snprintf(text, sizeof text, "conv data gradient %s", name);
    TRY(measure(g, text, &(Row){.kind = OP_CONV2D_BWD_X, .attr = attr, .in = {y, w}, .nin = 2, .flop = flop, .target = 0.55}));
    attr.meta = FL(c, i, kernel, kernel);
    snprintf(text, sizeof text, "conv weight gradient %s", name);
    return measure(g, text, &(Row){.kind = OP_CONV2D_BWD_W, .attr = attr, .in = {y, x}, .nin = 2, .flop = flop, .target = 0.55});
}

static int linear(const Gpu *g, const char *name, int64_t tokens, int64_t in, int64_t out)
{
    char text[96];
    int64_t n = 2, l = dim(g, tokens, 8), k = dim(g, in, 16), c = dim(g, out, 16);
    double flop = 2.0 * (double)(n * l * k * c);
    snprintf(text, sizeof text, "linear %s", name);
    TRY(measure(g, text, &(Row){.kind = OP_LINEAR, .in = {BF(n, l, k), BF(c, k)}, .nin = 2, .flop = flop}));
    snprintf(text, sizeof text, "linear data gradient %s", name);
    return measure(g, text, &(Row){.kind = OP_LINEAR_BWD_X, .in = {BF(n, l, c), BF(c, k)}, .nin = 2, .flop = flop});
}

/* A linear layer and its LoRA in one op. */
static int low_rank(const Gpu *g, const char *name, int64_t tokens, int64_t channels, int64_t rank)
{
    char text[96];
    int64_t n = 2, l = dim(g, tokens, 8), c = dim(g, channels, 16);
    OpAttr attr = {.scale = 1};
    double flop = 2.0 * (double)(n * l * c * (c + 2 * rank));
    snprintf(text, sizeof text, "linear + LoRA %s", name);
    return measure(g, text, &(Row){.kind = OP_LINEAR_LOW, .attr = attr, .in = {BF(n, l, c), BF(c, c), BF(rank, c), BF(c, rank)}, .nin = 4, .flop = flop});
}

static int group_norm(const Gpu *g, const char *name, int64_t side, int64_t channels)
{
    char text[96];
    int64_t n = 2, s = dim(g, side, 4), c = dim(g, channels, 64);
    OpAttr attr = {.groups = 32, .eps = 1e-5f, .act = ACT_SILU};
    Meta x = BF(n, s, s, c);
    snprintf(text, sizeof text, "group norm + silu %s", name);
    TRY(measure(g, text, &(Row){.kind = OP_GROUP_NORM, .attr = attr, .in = {x, FL(c), FL(c)}, .nin = 3, .target = 0.85}));
    snprintf(text, sizeof text, "group norm + silu gradient %s", name);
    return measure(g, text, &(Row){.kind = OP_GROUP_NORM_BWD, .attr = attr, .in = {x, x, FL(c), FL(c), FL(n, 32), FL(n, 32)}, .nin = 6,
                                   .target = 0.85});
}

static int layer_norm(const Gpu *g, const char *name, int64_t tokens, int64_t channels)
{
    char text[96];
    int64_t n = 2, l = dim(g, tokens, 8), c = dim(g, channels, 64);
    OpAttr attr = {.eps = 1e-5f};
    Meta x = BF(n, l, c);
    snprintf(text, sizeof text, "layer norm %s", name);
    TRY(measure(g, text, &(Row){.kind = OP_LAYER_NORM, .attr = attr, .in = {x, FL(c), FL(c)}, .nin = 3, .target = 0.85}));
    snprintf(text, sizeof text, "layer norm gradient %s", name);
    return measure(g, text, &(Row){.kind = OP_LAYER_NORM_BWD, .attr = attr, .in = {x, x, FL(c), FL(n * l), FL(n * l)}, .nin = 5, .target = 0.85});
}

static int elementwise(const Gpu *g)
{
    int64_t l = dim(g, 4096, 8), c = dim(g, 2560, 32), s = dim(g, 128, 4), k = dim(g, 320, 16), h = s / 2;
    Meta x = BF(2, l, c), wide = BF(2, l, 2 * c), image = BF(2, s, s, k);
    OpAttr silu = {.act = ACT_SILU}, up = {.meta = image}, none = {.act = 0};
    TRY(measure(g, "geglu 4096x2560", &(Row){.kind = OP_GEGLU, .attr = none, .in = {wide}, .nin = 1, .target = 0.85}));
    TRY(measure(g, "geglu gradient 4096x2560", &(Row){.kind = OP_GEGLU_BWD, .attr = none, .in = {x, wide}, .nin = 2, .target = 0.85}));
    TRY(measure(g, "silu 4096x2560", &(Row){.kind = OP_ACT, .attr = silu, .in = {x}, .nin = 1, .target = 0.85}));
    TRY(measure(g, "silu gradient 4096x2560", &(Row){.kind = OP_ACT_BWD, .attr = silu, .in = {x, x}, .nin = 2, .target = 0.85}));
    TRY(measure(g, "add 4096x2560", &(Row){.kind = OP_ADD, .attr = none, .in = {x, x}, .nin = 2, .target = 0.85}));
    TRY(measure(g, "concat 128x128x320+320", &(Row){.kind = OP_CONCAT, .attr = none, .in = {image, image}, .nin = 2, .target = 0.85}));
    return measure(g, "upsample 64x64x320", &(Row){.kind = OP_UPSAMPLE_NEAREST, .attr = up, .in = {BF(2, h, h, k)}, .nin = 1, .target = 0.85});
}

int gpu_kernels(const Gpu *g)
{
    TRY(attention(g, "SDXL 4096, 10 heads of 64", 4096, 0, 10, 64));
    TRY(attention(g, "SDXL 1024, 20 heads of 64", 1024, 0, 20, 64));
    TRY(attention(g, "SDXL 4096 over 77, 10 heads of 64", 4096, 77, 10, 64));
    TRY(attention(g, "SD1.5 4096, 8 heads of 40", 4096, 0, 8, 40));
    TRY(attention(g, "SD1.5 1024, 8 heads of 80", 1024, 0, 8, 80));
    TRY(conv(g, "3x3 128x128 320", 128, 320, 320, 3, 1, 1));
    TRY(conv(g, "3x3 64x64 640", 64, 640, 640, 3, 1, 1));
    TRY(conv(g, "3x3 32x32 1280", 32, 1280, 1280, 3, 1, 1));
    TRY(conv(g, "3x3 32x32 2560 to 1280", 32, 2560, 1280, 3, 1, 0));
    TRY(conv(g, "3x3 128x128 960 to 320", 128, 960, 320, 3, 1, 0));
    TRY(conv(g, "3x3 stride 2 128x128 320", 128, 320, 320, 3, 2, 0));
    TRY(conv(g, "1x1 64x64 1280 to 640", 64, 1280, 640, 1, 1, 1));
    TRY(linear(g, "4096 640 to 5120", 4096, 640, 5120));
    TRY(linear(g, "4096 2560 to 640", 4096, 2560, 640));
    TRY(linear(g, "1024 1280 to 10240", 1024, 1280, 10240));
    TRY(linear(g, "1024 1280 to 1280", 1024, 1280, 1280));
    TRY(low_rank(g, "4096 640, rank 16", 4096, 640, 16));
    TRY(low_rank(g, "1024 1280, rank 16", 1024, 1280, 16));
    TRY(group_norm(g, "128x128x320", 128, 320));
    TRY(group_norm(g, "64x64x640", 64, 640));
    TRY(group_norm(g, "32x32x1280", 32, 1280));
    TRY(layer_norm(g, "4096x640", 4096, 640));
    TRY(layer_norm(g, "1024x1280", 1024, 1280));
    return elementwise(g);
}
