#include "cpu/conv.h"

#include <stdlib.h>
#include <string.h>

#include "cpu/conv_gemm.h"
#include "cpu/conv_winograd.h"
#include "cpu/tile.h"
#include "cpu/widen.h"

/* SMALL_WEIGHT: bytes of a packed weight that may exist in several formats. */
enum { BAND_FLOPS = 10 * 1000 * 1000, BAND_ROWS = 4, BANDS = 32, FORMATS = 3, SMALL_WEIGHT = 2 << 20 };

enum { LINEAR, GEMM, WINOGRAD, BANDS_OF_ROWS };

typedef struct {
    ConvShape s;
    GemmPlan linear;             /* kind LINEAR: conv_is_linear */
    ConvGemm gemm;               /* kind GEMM: cpu_conv_gemm_wanted */
    ConvWinograd winograd;       /* kind WINOGRAD: cpu_conv_winograd_wanted */
    int kind, forward, bias, res;
    int nband, nformat;          /* kind BANDS_OF_ROWS, and all below */
    ConvBand band[BANDS];
    const CpuTile *tile[BANDS];  /* NULL: no output row reaches this band of dx */
    int format[BANDS];           /* which packed weight the tile reads */
    const CpuTile *first[FORMATS]; /* a tile of each format */
    size_t workspace, thread_bytes;
    size_t bytes;                /* of scratch, whatever the kind */
} ConvPlan;

typedef struct {
    ConvPlan p;
    CpuPacked *packed[FORMATS];
} ConvState;

static int is_float(Dtype t)
{
    return t == DTYPE_F32 || t == DTYPE_BF16;
}

/* Cut by the image's shape alone: enough bands for a few threads on one image, each worth the call. */
static int64_t band_count(const ConvShape *s, int64_t rows)
{
    int64_t n = (int64_t)(conv_flops(s) / (double)s->items / BAND_FLOPS), most = rows / BAND_ROWS;
    n = n > most ? most : n;
    return n > BANDS ? BANDS : n < 1 ? 1 : n;
}

static int64_t band_height(const ConvShape *s, int64_t rows, int64_t count)
{
    return cpu_ceil_div(cpu_ceil_div(rows, count), s->stride) * s->stride;
}

/* Rows [row, row + rows) of dx and the rows of dy that reach them; bottom < 0 where the band cannot be cut out. */
static ConvBand band_in(const ConvShape *s, int64_t row, int64_t rows)
{
    int64_t first = row + s->top - s->kh + 1, o0 = first > 0 ? cpu_ceil_div(first, s->stride) : 0;
    int64_t o1 = (row + rows - 1 + s->top) / s->stride + 1;
    o1 = o1 > s->oh ? s->oh : o1;
    ConvBand b = {row, rows, o0, o1 - o0, row + s->top - o0 * s->stride, 0};
    int64_t need = (b.from_rows - 1) * s->stride + s->kh - b.top;
    b.bottom = need > rows ? need - rows : 0;
    if (b.from_rows > 0 && (b.top < 0 || rows + b.top + b.bottom < s->kh ||
                            (rows + b.top + b.bottom - s->kh) / s->stride + 1 != b.from_rows))
        b.bottom = -1;
    return b;
}

static void add_tile(ConvPlan *p, const ConvBand *b, const CpuTile *t)
{
    int f = 0;
    while (t && f < p->nformat && !dnnl_memory_desc_equal(&t->weight, &p->first[f < FORMATS ? f : 0]->weight))
        f++;
    if (f == p->nformat && t) {
        if (f < FORMATS)
            p->first[f] = t;
        p->nformat++;
    }
    p->band[p->nband] = *b;
    p->format[p->nband] = f;
    p->tile[p->nband++] = t;
}

static int plan_forward(Backend *be, ConvPlan *p, int64_t h)
{
    for (int64_t row = 0; row < p->s.oh; row += h) {
        ConvBand b = conv_band_out(&p->s, row, row + h < p->s.oh ? h : p->s.oh - row);
        CpuTileKey key = conv_key(&p->s, CPU_TILE_CONV, &b, 1);
        CpuTile *t;
        key.bias = p->bias;
        key.sum = p->res;
        TRY(cpu_tile_get(be, &key, &t));
        add_tile(p, &b, t);
    }
    return 0;
}

static int plan_bwd_x(Backend *be, ConvPlan *p, int64_t h)
{
    const ConvShape *s = &p->s;
    /* Where a stride skips rows a band may not start on one that is read. */
    for (int64_t row = 0; row < s->ih; row += h)
        if (band_in(s, row, row + h < s->ih ? h : s->ih - row).bottom < 0)
            h = s->ih;
    for (int64_t row = 0; row < s->ih; row += h) {
        ConvBand b = band_in(s, row, row + h < s->ih ? h : s->ih - row);
        CpuTile *t = NULL;
        if (b.from_rows > 0) {
            /* The tile's "output" is dy: read and written sides change places. */
            ConvBand dy = {b.from, b.from_rows, b.row, b.rows, b.top, b.bottom};
            CpuTileKey key = conv_key(s, CPU_TILE_CONV_BWD_X, &dy, 1);
            key.a = p->res ? DTYPE_F32 : s->type;
            TRY(cpu_tile_get(be, &key, &t));
        }
        add_tile(p, &b, t);
    }
    return 0;
}

/* oneDNN's choice of a weight format may differ between the bands at the edges and those inside. Small weights are then
 * packed in each; big ones are cut into fewer bands until all agree. */
static int plan_bands(Backend *be, ConvPlan *p)
{
    int64_t rows = p->forward ? p->s.oh : p->s.ih, n = band_count(&p->s, rows);
    for (;; n = n > 2 ? n * 2 / 3 : 1) {
        int64_t h = band_height(&p->s, rows, n);
        p->nband = p->nformat = 0;
        TRY(p->forward ? plan_forward(be, p, h) : plan_bwd_x(be, p, h));
        if (p->nformat == 0)
            return err_set(ERR_UNSUPPORTED, "conv2d_bwd_x: no output row");
        if (n == 1 || p->nformat == 1 || (p->nformat <= FORMATS && p->first[0]->weight_bytes <= SMALL_WEIGHT))
            return 0;
    }
}

static int plan_linear(Backend *be, ConvPlan *p)
{
    const ConvShape *s = &p->s;
    GemmShape g = {.type = s->type, .out = s->type, .items = s->items, .item_rows = s->oh * s->ow, .forward = p->forward, .bias = p->bias,
                   .res = p->res, .k = p->forward ? s->ci : s->co, .n = p->forward ? s->co : s->ci};
    TRY(cpu_gemm_plan(be, &g, &p->linear));
    p->bytes = cpu_gemm_scratch(be, &p->linear);
    return 0;
}

static int conv_plan(Backend *be, OpKind kind, const OpAttr *attr, const Shape *in0, const Shape *w, const Shape *out, Dtype type,
                     ConvPlan *p)
{
    memset(p, 0, sizeof *p);
    p->forward = kind == OP_CONV2D;
    p->s = p->forward ? conv_shape(in0, w, out, attr, type) : conv_shape(out, w, in0, attr, type);
    p->bias = p->forward && (attr->has & OP_HAS_BIAS);
    p->res = (attr->has & OP_HAS_RES) != 0;
    p->kind = conv_is_linear(&p->s)               ? LINEAR
              : cpu_conv_winograd_wanted(be, &p->s) ? WINOGRAD
              : cpu_conv_gemm_wanted(&p->s)         ? GEMM
                                                    : BANDS_OF_ROWS;
    if (p->kind == LINEAR)
        return plan_linear(be, p);
    if (p->kind == WINOGRAD) {
        cpu_conv_winograd_plan(be, &p->s, p->forward, p->bias, p->res, &p->winograd);
        p->bytes = p->winograd.bytes;
        return 0;
    }
    if (p->kind == GEMM) {
        TRY(cpu_conv_gemm_plan(be, &p->s, p->forward, p->bias, p->res, &p->gemm));
        p->bytes = cpu_conv_gemm_scratch(be, &p->gemm);
        return 0;
    }
    TRY(conv_check_padding(kind, &p->s, attr));
    TRY(plan_bands(be, p));
    for (int i = 0; i < p->nband; i++)
        if (p->tile[i] && p->tile[i]->workspace > p->workspace)
            p->workspace = p->tile[i]->workspace;
    CpuCarve c = {0};
    cpu_carve(&c, p->workspace);
    if (!p->forward && p->res)
        cpu_carve(&c, (size_t)(p->band[0].rows * p->s.iw * p->s.ci) * sizeof(float));
    p->thread_bytes = c.used;
    p->bytes = (size_t)be->threads * c.used;
    return 0;
}

static size_t scratch_of(Backend *be, OpKind kind, const OpAttr *attr, const Meta *in, const Meta *out)
{
    ConvPlan p;
    if (!is_float(in[0].dtype) || conv_plan(be, kind, attr, &in[0].shape, &in[1].shape, &out[0].shape, in[0].dtype, &p) < 0)
        return 0;
    return p.bytes;
}

static size_t conv_scratch(Backend *be, const OpAttr *attr, const Meta *in, int nin, const Meta *out, int nout)
{
    (void)nin, (void)nout;
    return scratch_of(be, OP_CONV2D, attr, in, out);
}

static size_t conv_bwd_x_scratch(Backend *be, const OpAttr *attr, const Meta *in, int nin, const Meta *out, int nout)
{
    (void)nin, (void)nout;
    return scratch_of(be, OP_CONV2D_BWD_X, attr, in, out);
}

static void conv_release(Backend *be, void *state)
{
    ConvState *st = state;
    if (!st)
        return;
    for (int i = 0; i < FORMATS; i++)
        cpu_packed_put(be, st->packed[i]);
    free(st);
}

static int conv_prepare(Backend *be, const OpCall *c, void **state)
{
    int rc;
    if (!is_float(c->in[0].dtype))
        return 0;
    ConvState *st = calloc(1, sizeof *st);
    if (!st)
        return err_set(ERR_NOMEM, "out of memory: node state");
    TRY_GOTO(conv_plan(be, c->kind, c->attr, &c->in[0].shape, &c->in[1].shape, &c->out[0].shape, c->in[0].dtype, &st->p));
    for (int i = 0; i < st->p.nformat; i++)
        TRY_GOTO(cpu_packed_get(be, st->p.first[i], &c->in[1], &st->packed[i]));
    *state = st;
    st = NULL;
done:
    conv_release(be, st);
    return rc;
}

typedef struct {
    const ConvPlan *p;
    const CpuTileOps *ops;
    const char *from, *res;
    char *to;
    CpuPacked *const *packed;
    const float *bias;
    char *scratch;
} Run;

static int forward_task(void *ctx, int64_t task, int thread)
{
    const Run *r = ctx;
    const ConvPlan *p = r->p;
    const ConvShape *s = &p->s;
    int64_t item = task / p->nband, i = task % p->nband;
    const ConvBand *b = &p->band[i];
    size_t es = conv_size_of(s->type), at = (size_t)((item * s->oh + b->row) * s->ow * s->co) * es;
    if (r->res && r->res != r->to)
        memcpy(r->to + at, r->res + at, (size_t)(b->rows * s->ow * s->co) * es);
    return cpu_tile_run(p->tile[i], thread, r->from + (size_t)((item * s->ih + b->from) * s->iw * s->ci) * es, r->packed[p->format[i]]->data,
                        r->to + at, r->bias, r->scratch + (size_t)thread * p->thread_bytes);
}

static int bwd_x_task(void *ctx, int64_t task, int thread)
{
    const Run *r = ctx;
    const ConvPlan *p = r->p;
    const ConvShape *s = &p->s;
    int64_t item = task / p->nband, i = task % p->nband;
    const ConvBand *b = &p->band[i];
    int64_t row = s->iw * s->ci;
    size_t es = conv_size_of(s->type), at = (size_t)((item * s->ih + b->row) * row) * es;
    const char *dy = r->from + (size_t)((item * s->oh + b->from) * s->ow * s->co) * es;
    const void *weight = p->tile[i] ? r->packed[p->format[i]]->data : NULL;
    CpuCarve c = {r->scratch + (size_t)thread * p->thread_bytes, 0};
    void *work = cpu_carve(&c, p->workspace);
    if (!r->res) {
        if (p->tile[i])
            return cpu_tile_run(p->tile[i], thread, dy, weight, r->to + at, NULL, work);
        memset(r->to + at, 0, (size_t)(b->rows * row) * es);
        return 0;
    }
    float *acc = cpu_carve(&c, (size_t)(b->rows * row) * sizeof *acc);
    if (p->tile[i])
        TRY(cpu_tile_run(p->tile[i], thread, dy, weight, acc, NULL, work));
    else
        memset(acc, 0, (size_t)(b->rows * row) * sizeof *acc);
    r->ops->store(acc, row, NULL, r->res + at, r->to + at, row, b->rows, row, s->type == DTYPE_BF16);
    return 0;
}

static int conv_run(Backend *be, const OpCall *c)
{
    if (c->in[0].dtype == DTYPE_F64) {
        (c->kind == OP_CONV2D ? cpu_conv_f64 : cpu_conv_bwd_x_f64)(c);
        return 0;
    }
    if (!is_float(c->in[0].dtype))
        return cpu_op_unsupported(c, c->in[0].dtype);
    ConvState *st = c->state;
    const ConvPlan *p = &st->p;
    const void *bias = p->bias ? c->in[2].data : NULL, *res = p->res ? c->in[2 + p->bias].data : NULL;
    if (p->kind == LINEAR)
        return cpu_gemm_run(be, &p->linear, c->in[0].data, c->in[1].data, bias, res, c->out[0].data, c->scratch);
    if (p->kind == WINOGRAD) {
        cpu_conv_winograd_run(be, &p->winograd, c->in[0].data, c->in[1].data, bias, res, c->out[0].data, c->scratch);
        return 0;
    }
    if (p->kind == GEMM)
        return cpu_conv_gemm_run(be, &p->gemm, c->in[0].data, c->in[1].data, bias, res, c->out[0].data, c->scratch);
    for (int i = 0; i < p->nformat; i++)
        TRY(cpu_packed_refresh(be, st->packed[i], &c->in[1]));
    Run r = {p, CPU_TILE_OPS(((const CpuState *)be->impl)->isa), c->in[0].data, res, c->out[0].data, st->packed, bias,
             c->scratch};
    return cpu_tile_loop(be, p->s.items * p->nband, conv_flops(&p->s), p->forward ? forward_task : bwd_x_task, &r);
}

static const BackendOp conv2d = {conv_scratch, conv_prepare, conv_run, conv_release};
static const BackendOp conv2d_bwd_x = {conv_bwd_x_scratch, conv_prepare, conv_run, conv_release};
CPU_WIDENED(conv2d);
CPU_WIDENED(conv2d_bwd_x);
CPU_ENLARGED(conv2d_any, 0);

int cpu_conv_register(Backend *be)
{
    be->op[OP_CONV2D] = conv2d_any_up;
    be->op[OP_CONV2D_BWD_X] = conv2d_bwd_x_any;
    cpu_conv_w_register(be);
    cpu_upsample_register(be);
    return 0;
}
