#include <stdlib.h>
#include <string.h>

#include "cpu/conv.h"
#include "cpu/gemm.h"
#include "cpu/tile.h"
#include "cpu/widen.h"

/* dw is cut into slices of output channels; each slice is a sum over calls (a band of one image, or a group of small
 * images), the calls in up to PARTS partial sums. All of it follows from the shapes. */
enum { CALL_PIXELS = 4096, GROUP_PIXELS = 1024, PARTS = 8 };

typedef struct {
    ConvShape s;
    GemmOuter gemm;              /* where conv_is_linear */
    int linear;
    int64_t slice, slices, group, groups, parts;
    int nband;
    ConvBand band[CONV_MAX_BANDS];
    const CpuTile *tile[CONV_MAX_BANDS][2][2]; /* [band][last slice][last group] */
    const CpuTile *unpack[2];    /* [last slice] */
    size_t workspace, slice_bytes, thread_bytes, bytes;
} WPlan;

static int64_t slice_channels(const WPlan *p, int last)
{
    return last ? p->s.co - (p->slices - 1) * p->slice : p->slice;
}

static int64_t group_items(const WPlan *p, int last)
{
    return last ? p->s.items - (p->groups - 1) * p->group : p->group;
}

static size_t max_size(size_t a, size_t b)
{
    return a > b ? a : b;
}

static void choose(WPlan *p)
{
    const ConvShape *s = &p->s;
    int64_t pixels = s->oh * s->ow;
    p->slice = s->co >= 640 ? 128 : s->co >= 192 ? 64 : s->co >= 96 ? 32 : s->co;
    p->slices = cpu_ceil_div(s->co, p->slice);
    p->group = pixels >= GROUP_PIXELS ? 1 : GROUP_PIXELS / pixels;
    p->group = p->group > s->items ? s->items : p->group;
    p->groups = cpu_ceil_div(s->items, p->group);
    int64_t h = pixels <= CALL_PIXELS ? s->oh : cpu_ceil_div(CALL_PIXELS, s->ow);
    h = s->oh > h * CONV_MAX_BANDS ? cpu_ceil_div(s->oh, CONV_MAX_BANDS) : h;
    for (int64_t row = 0; row < s->oh; row += h)
        p->band[p->nband++] = conv_band_out(s, row, row + h < s->oh ? h : s->oh - row);
    p->parts = p->slices >= 4 ? 1 : PARTS / p->slices;
    p->parts = p->parts > p->groups * p->nband ? p->groups * p->nband : p->parts;
}

static int get_tiles(Backend *be, WPlan *p, Dtype out)
{
    for (int i = 0; i < p->nband * 4; i++) {
        int band = i / 4, last_slice = i / 2 % 2, last_group = i % 2;
        ConvShape s = p->s;
        s.co = slice_channels(p, last_slice);
        CpuTileKey key = conv_key(&s, CPU_TILE_CONV_BWD_W, &p->band[band], group_items(p, last_group));
        CpuTile *t;
        key.b = DTYPE_F32;
        TRY(cpu_tile_get(be, &key, &t));
        const CpuTile *first = p->tile[0][last_slice][0];
        if (first && !dnnl_memory_desc_equal(&first->weight, &t->weight)) {
            key.format = (intptr_t)first;
            TRY(cpu_tile_get(be, &key, &t));
        }
        p->tile[band][last_slice][last_group] = t;
        p->workspace = max_size(p->workspace, t->workspace);
        p->slice_bytes = max_size(p->slice_bytes, t->weight_bytes);
    }
    for (int last = 0; last < 2; last++) {
        CpuTile *t;
        CpuTileKey key = {.kind = CPU_TILE_REORDER, .a = DTYPE_F32, .c = out, .to_plain = 1, .format = (intptr_t)p->tile[0][last][0]};
        TRY(cpu_tile_get(be, &key, &t));
        p->unpack[last] = t;
        p->workspace = max_size(p->workspace, t->workspace);
    }
    p->slice_bytes = (p->slice_bytes + 63) / 64 * 64;
    return 0;
}

/* The biggest slice of dy that a call reads. */
static size_t dy_bytes(const WPlan *p)
{
    return (size_t)(p->group * p->band[0].rows * p->s.ow * p->slice) * conv_size_of(p->s.type);
}

static int w_plan(Backend *be, const OpAttr *attr, const Meta *in, const Meta *out, WPlan *p)
{
    memset(p, 0, sizeof *p);
    p->s = conv_shape(&in[1].shape, &out[0].shape, &in[0].shape, attr, in[0].dtype);
    p->linear = conv_is_linear(&p->s);
    if (p->linear) {
        GemmShape g = {.type = in[0].dtype, .out = out[0].dtype, .k = p->s.items * p->s.oh * p->s.ow, .m = p->s.co, .n = p->s.ci};
        TRY(cpu_gemm_outer_plan(be, &g, &p->gemm));
        p->bytes = cpu_gemm_outer_scratch(be, &p->gemm);
        return 0;
    }
    TRY(conv_check_padding(OP_CONV2D_BWD_W, &p->s, attr));
    choose(p);
    TRY(get_tiles(be, p, out[0].dtype));
    CpuCarve c = {0};
    cpu_carve(&c, p->workspace);
    cpu_carve(&c, p->slice_bytes);
    if (p->slices > 1)
        cpu_carve(&c, dy_bytes(p));
    p->thread_bytes = c.used;
    p->bytes = (size_t)be->threads * p->thread_bytes + (size_t)(p->parts * p->slices) * p->slice_bytes;
    return 0;
}

static int is_float(Dtype t)
{
    return t == DTYPE_F32 || t == DTYPE_BF16;
}

static size_t w_scratch(Backend *be, const OpAttr *attr, const Meta *in, int nin, const Meta *out, int nout)
{
    (void)nin, (void)nout;
    WPlan p;
    return is_float(in[0].dtype) && w_plan(be, attr, in, out, &p) >= 0 ? p.bytes : 0;
}

static int w_prepare(Backend *be, const OpCall *c, void **state)
{
    if (!is_float(c->in[0].dtype))
        return 0;
    Meta in[2] = {{c->in[0].dtype, c->in[0].shape}, {c->in[1].dtype, c->in[1].shape}}, out = {c->out[0].dtype, c->out[0].shape};
    WPlan *p = malloc(sizeof *p);
    int rc = p ? w_plan(be, c->attr, in, &out, p) : err_set(ERR_NOMEM, "out of memory: node state");
    if (rc < 0)
        free(p);
    else
        *state = p;
    return rc;
}

static void w_release(Backend *be, void *state)
{
    (void)be;
    free(state);
}

typedef struct {
    const WPlan *p;
    const CpuTileOps *ops;
    const char *dy, *x;
    char *dw, *scratch, *sums;   /* sums: [parts][slices] packed slices */
    size_t out_size;
} Run;

static const void *slice_dy(const Run *r, const char *dy, int64_t pixels, int64_t first, int64_t channels, void *to)
{
    size_t es = conv_size_of(r->p->s.type);
    if (r->p->slices == 1)
        return dy;
    for (int64_t i = 0; i < pixels; i++)
        memcpy((char *)to + (size_t)(i * channels) * es, dy + (size_t)(i * r->p->s.co + first) * es, (size_t)channels * es);
    return to;
}

static int sum_task(void *ctx, int64_t task, int thread)
{
    const Run *r = ctx;
    const WPlan *p = r->p;
    const ConvShape *s = &p->s;
    int64_t slice = task % p->slices, part = task / p->slices, calls = p->groups * p->nband;
    int64_t begin = part * calls / p->parts, end = (part + 1) * calls / p->parts;
    int last_slice = slice == p->slices - 1;
    size_t es = conv_size_of(s->type);
    CpuCarve c = {r->scratch + (size_t)thread * p->thread_bytes, 0};
    void *work = cpu_carve(&c, p->workspace);
    float *one = cpu_carve(&c, p->slice_bytes);
    void *room = p->slices > 1 ? cpu_carve(&c, dy_bytes(p)) : NULL;
    float *sum = (float *)(void *)(r->sums + (size_t)(part * p->slices + slice) * p->slice_bytes);
    for (int64_t i = begin; i < end; i++) {
        int64_t group = i / p->nband, item = group * p->group;
        int last_group = group == p->groups - 1;
        const ConvBand *b = &p->band[i % p->nband];
        const CpuTile *t = p->tile[i % p->nband][last_slice][last_group];
        const char *dy = r->dy + (size_t)((item * s->oh + b->row) * s->ow * s->co) * es;
        const char *x = r->x + (size_t)((item * s->ih + b->from) * s->iw * s->ci) * es;
        const void *part_dy = slice_dy(r, dy, group_items(p, last_group) * b->rows * s->ow, slice * p->slice,
                                       slice_channels(p, last_slice), room);
        TRY(cpu_tile_run(t, thread, x, part_dy, i == begin ? sum : one, NULL, work));
        if (i > begin)
            r->ops->add(sum, one, (int64_t)(t->weight_bytes / sizeof(float)));
    }
    return 0;
}

static int unpack_task(void *ctx, int64_t slice, int thread)
{
    const Run *r = ctx;
    const WPlan *p = r->p;
    int last = slice == p->slices - 1;
    float *sum = (float *)(void *)(r->sums + (size_t)slice * p->slice_bytes);
    int64_t n = (int64_t)(p->tile[0][last][0]->weight_bytes / sizeof(float));
    if (p->parts > 1)
        r->ops->sum(sum, (int64_t)(p->slice_bytes / sizeof(float)) * p->slices, p->parts, sum, n, 0);
    return cpu_tile_run(p->unpack[last], thread, sum, NULL,
                        r->dw + (size_t)(slice * p->slice * p->s.ci * p->s.kh * p->s.kw) * r->out_size, NULL,
                        r->scratch + (size_t)thread * p->thread_bytes);
}

static int w_run(Backend *be, const OpCall *c)
{
    if (c->in[0].dtype == DTYPE_F64) {
        cpu_conv_bwd_w_f64(c);
        return 0;
    }
    if (!is_float(c->in[0].dtype))
        return cpu_op_unsupported(c, c->in[0].dtype);
    const WPlan *p = c->state;
    if (p->linear)
        return cpu_gemm_outer_run(be, &p->gemm, c->in[0].data, c->in[1].data, c->out[0].data, c->scratch);
    char *scratch = c->scratch;
    Run r = {p, CPU_TILE_OPS(((const CpuState *)be->impl)->isa), c->in[0].data, c->in[1].data, c->out[0].data, scratch,
             scratch + (size_t)be->threads * p->thread_bytes, conv_size_of(c->out[0].dtype)};
    TRY(cpu_tile_loop(be, p->parts * p->slices, conv_flops(&p->s), sum_task, &r));
    return cpu_tile_loop(be, p->slices, 8.0 * (double)(p->parts * p->slices) * (double)p->slice_bytes, unpack_task, &r);
}

static const BackendOp conv2d_bwd_w = {w_scratch, w_prepare, w_run, w_release};
CPU_WIDENED(conv2d_bwd_w);
CPU_ENLARGED(conv2d_bwd_w_any, 1);

void cpu_conv_w_register(Backend *be)
{
    be->op[OP_CONV2D_BWD_W] = conv2d_bwd_w_any_up;
}
