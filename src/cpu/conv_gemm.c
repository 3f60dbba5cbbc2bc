#include "cpu/conv_gemm.h"

#include <string.h>

#include "cpu/tile.h"

enum { MIN_WEIGHTS = 2 << 20, MAX_PIXELS = 256, MAX_TAPS = CPU_TILE_TAPS, BLOCK = 32 };

int cpu_conv_gemm_wanted(const ConvShape *s)
{
    int64_t taps = s->kh * s->kw;
    return s->oh * s->ow <= MAX_PIXELS && taps <= MAX_TAPS && s->co * s->ci * taps >= MIN_WEIGHTS;
}

static int64_t group_items(const ConvGemm *g, int last)
{
    return last ? g->s.items - (g->groups - 1) * g->group : g->group;
}

static int64_t block_channels(const ConvGemm *g, int last)
{
    return last ? g->s.ci - (g->blocks - 1) * g->block : g->block;
}

static int64_t group_rows(const ConvGemm *g, int last)
{
    return group_items(g, last) * g->s.oh * g->s.ow;
}

static int plan_forward(Backend *be, ConvGemm *g, int *row_free)
{
    const ConvShape *s = &g->s;
    for (int last = 0; last < 2; last++) {
        GemmShape p = {.type = s->type, .out = s->type, .items = group_items(g, last), .item_rows = s->oh * s->ow,
                       .k = s->ci * s->kh * s->kw, .n = s->co, .forward = 1, .bias = g->bias, .res = g->res};
        TRY(cpu_gemm_plan(be, &p, &g->plan[last]));
        *row_free &= g->plan[last].row_free;
    }
    return 0;
}

static int plan_backward(Backend *be, ConvGemm *g, int *row_free)
{
    const ConvShape *s = &g->s;
    for (int i = 0; i < 4; i++) {
        CpuTileKey key = {.kind = CPU_TILE_MATMUL, .a = s->type, .b = s->type, .c = DTYPE_F32, .m = group_rows(g, i / 2),
                          .k = s->co, .n = block_channels(g, i % 2) * s->kh * s->kw};
        CpuTile *t;
        TRY(cpu_tile_get(be, &key, &t));
        g->tile[i / 2][i % 2] = t;
        g->workspace = t->workspace > g->workspace ? t->workspace : g->workspace;
        *row_free &= t->row_free;
    }
    return 0;
}

static int plan_groups(Backend *be, ConvGemm *g, int64_t group, int *row_free)
{
    const ConvShape *s = &g->s;
    *row_free = 1;
    g->group = group < s->items ? group : s->items;
    g->groups = cpu_ceil_div(s->items, g->group);
    g->block = s->ci < BLOCK ? s->ci : BLOCK;
    g->blocks = cpu_ceil_div(s->ci, g->block);
    return g->forward ? plan_forward(be, g, row_free) : plan_backward(be, g, row_free);
}

int cpu_conv_gemm_plan(Backend *be, const ConvShape *s, int forward, int bias, int res, ConvGemm *g)
{
    int row_free;
    *g = (ConvGemm){.s = *s, .forward = forward, .bias = bias, .res = res};
    TRY(plan_groups(be, g, MAX_PIXELS / (s->oh * s->ow), &row_free));
    return row_free ? 0 : plan_groups(be, g, 1, &row_free);
}

/* ---- forward: gather, multiply ---- */

typedef struct {
    const ConvGemm *g;
    const CpuTileOps *ops;
    const char *x, *zeros;
    char *columns;
} Gather;

/* Columns of one output row: column c * taps + tap of pixel (oy, ox) is channel c of the input under that tap. */
static int gather_task(void *ctx, int64_t task, int thread)
{
    (void)thread;
    const Gather *r = ctx;
    const ConvShape *s = &r->g->s;
    int64_t item = task / s->oh, oy = task % s->oh, taps = s->kh * s->kw;
    size_t pixel = (size_t)s->ci * conv_size_of(s->type);
    for (int64_t ox = 0; ox < s->ow; ox++) {
        const void *tap[MAX_TAPS];
        for (int64_t t = 0; t < taps; t++) {
            int64_t iy = oy * s->stride - s->top + t / s->kw, ix = ox * s->stride - s->left + t % s->kw;
            int inside = iy >= 0 && iy < s->ih && ix >= 0 && ix < s->iw;
            tap[t] = inside ? r->x + (size_t)((item * s->ih + iy) * s->iw + ix) * pixel : r->zeros;
        }
        r->ops->interleave(tap, (int)taps, r->columns + (size_t)((task * s->ow + ox) * taps) * pixel, s->ci, s->type == DTYPE_BF16);
    }
    return 0;
}

typedef struct {
    char *columns, *zeros, *product;
    size_t bytes;
} ForwardScratch;

static ForwardScratch forward_scratch(const Backend *be, const ConvGemm *g, void *base)
{
    const ConvShape *s = &g->s;
    size_t es = conv_size_of(s->type), a = cpu_gemm_scratch(be, &g->plan[0]), b = cpu_gemm_scratch(be, &g->plan[1]);
    CpuCarve c = {base, 0};
    ForwardScratch f;
    f.columns = cpu_carve(&c, (size_t)(group_rows(g, 0) * s->ci * s->kh * s->kw) * es);
    f.zeros = cpu_carve(&c, (size_t)s->ci * es);
    f.product = cpu_carve(&c, a > b ? a : b);
    f.bytes = c.used;
    return f;
}

static int run_forward(const Backend *be, const ConvGemm *g, const char *x, const void *w, const float *bias, const char *res,
                       char *y, void *scratch)
{
    const ConvShape *s = &g->s;
    ForwardScratch f = forward_scratch(be, g, scratch);
    size_t es = conv_size_of(s->type), x_item = (size_t)(s->ih * s->iw * s->ci) * es, y_item = (size_t)(s->oh * s->ow * s->co) * es;
    memset(f.zeros, 0, (size_t)s->ci * es);
    for (int64_t i = 0; i < g->groups; i++) {
        const GemmPlan *p = &g->plan[i == g->groups - 1];
        size_t item = (size_t)(i * g->group);
        Gather r = {g, CPU_TILE_OPS(((const CpuState *)be->impl)->isa), x + item * x_item, f.zeros, f.columns};
        TRY(cpu_tile_loop(be, p->s.items * s->oh, 16.0 * (double)(p->s.items * p->s.item_rows * p->s.k), gather_task, &r));
        TRY(cpu_gemm_run(be, p, f.columns, w, bias, res ? res + item * y_item : NULL, y + item * y_item, f.product));
    }
    return 0;
}

/* ---- dx: multiply by a block of columns, add up ---- */

typedef struct {
    const ConvGemm *g;
    const CpuTileOps *ops;
    const char *dy, *w, *res;
    char *dx, *scratch;
    int last_group;
} Backward;

typedef struct {
    char *work, *w;
    float *columns, *row;
    size_t bytes;
} BackwardScratch;

static BackwardScratch backward_scratch(const ConvGemm *g, void *base)
{
    const ConvShape *s = &g->s;
    int64_t wide = g->block * s->kh * s->kw;
    CpuCarve c = {base, 0};
    BackwardScratch b;
    b.work = cpu_carve(&c, g->workspace);
    b.w = cpu_carve(&c, (size_t)(s->co * wide) * conv_size_of(s->type));
    b.columns = cpu_carve(&c, (size_t)(group_rows(g, 0) * wide) * sizeof(float));
    b.row = cpu_carve(&c, (size_t)g->block * sizeof(float));
    b.bytes = c.used;
    return b;
}

/* Channels [first, first + channels) of one pixel of dx: its taps in order. */
static void add_pixel(const Backward *r, const BackwardScratch *b, int64_t item, int64_t iy, int64_t ix, int64_t first, int64_t channels)
{
    const ConvShape *s = &r->g->s;
    int64_t taps = s->kh * s->kw;
    const float *tap[MAX_TAPS];
    int n = 0;
    for (int64_t t = 0; t < taps; t++) {
        int64_t y = iy + s->top - t / s->kw, x = ix + s->left - t % s->kw, oy = y / s->stride, ox = x / s->stride;
        if (y >= 0 && x >= 0 && y % s->stride == 0 && x % s->stride == 0 && oy < s->oh && ox < s->ow)
            tap[n++] = b->columns + ((item * s->oh + oy) * s->ow + ox) * channels * taps + t;
    }
    r->ops->add_taps(tap, n, taps, b->row, channels);
    size_t at = (size_t)(((item * s->ih + iy) * s->iw + ix) * s->ci + first) * conv_size_of(s->type);
    r->ops->store(b->row, channels, NULL, r->res ? r->res + at : NULL, r->dx + at, channels, 1, channels, s->type == DTYPE_BF16);
}

static int backward_task(void *ctx, int64_t block, int thread)
{
    const Backward *r = ctx;
    const ConvGemm *g = r->g;
    const ConvShape *s = &g->s;
    int last = block == g->blocks - 1;
    int64_t taps = s->kh * s->kw, first = block * g->block, channels = block_channels(g, last);
    size_t es = conv_size_of(s->type), row = (size_t)(channels * taps) * es;
    BackwardScratch b = backward_scratch(g, r->scratch + (size_t)thread * backward_scratch(g, NULL).bytes);
    for (int64_t o = 0; o < s->co; o++)
        memcpy(b.w + (size_t)o * row, r->w + (size_t)((o * s->ci + first) * taps) * es, row);
    TRY(cpu_tile_run(g->tile[r->last_group][last], thread, r->dy, b.w, b.columns, NULL, b.work));
    for (int64_t item = 0; item < group_items(g, r->last_group); item++)
        for (int64_t iy = 0; iy < s->ih; iy++)
            for (int64_t ix = 0; ix < s->iw; ix++)
                add_pixel(r, &b, item, iy, ix, first, channels);
    return 0;
}

static int run_backward(const Backend *be, const ConvGemm *g, const char *dy, const void *w, const char *res, char *dx, void *scratch)
{
    const ConvShape *s = &g->s;
    size_t es = conv_size_of(s->type), x_item = (size_t)(s->ih * s->iw * s->ci) * es, y_item = (size_t)(s->oh * s->ow * s->co) * es;
    for (int64_t i = 0; i < g->groups; i++) {
        int last = i == g->groups - 1;
        size_t item = (size_t)(i * g->group);
        Backward r = {g, CPU_TILE_OPS(((const CpuState *)be->impl)->isa), dy + item * y_item, w, res ? res + item * x_item : NULL,
                      dx + item * x_item, scratch, last};
        TRY(cpu_tile_loop(be, g->blocks, conv_flops(s) / (double)g->groups, backward_task, &r));
    }
    return 0;
}

size_t cpu_conv_gemm_scratch(const Backend *be, const ConvGemm *g)
{
    return g->forward ? forward_scratch(be, g, NULL).bytes : (size_t)be->threads * backward_scratch(g, NULL).bytes;
}

int cpu_conv_gemm_run(const Backend *be, const ConvGemm *g, const void *from, const void *w, const float *bias, const void *res,
                      void *to, void *scratch)
{
    return g->forward ? run_forward(be, g, from, w, bias, res, to, scratch) : run_backward(be, g, from, w, res, to, scratch);
}
