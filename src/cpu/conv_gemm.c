#include "cpu/conv_gemm.h"

#include <string.h>

#include "cpu/tile.h"

enum { MIN_WEIGHTS = 2 << 20, MAX_PIXELS = 256, MAX_TAPS = CPU_TILE_TAPS };

int cpu_conv_gemm_wanted(const ConvShape *s)
{
    int64_t taps = s->kh * s->kw;
    return s->oh * s->ow <= MAX_PIXELS && taps <= MAX_TAPS && s->co * s->ci * taps >= MIN_WEIGHTS;
}

static int64_t group_items(const ConvGemm *g, int last)
{
    return last ? g->s.items - (g->groups - 1) * g->group : g->group;
}

static int plan_groups(Backend *be, ConvGemm *g, int64_t group)
{
    const ConvShape *s = &g->s;
    int64_t wide = s->ci * s->kh * s->kw;
    g->group = group < s->items ? group : s->items;
    g->groups = cpu_ceil_div(s->items, g->group);
    for (int last = 0; last < 2; last++) {
        GemmShape p = {.type = s->type, .out = g->forward ? s->type : DTYPE_F32, .items = group_items(g, last),
                       .item_rows = s->oh * s->ow, .k = g->forward ? wide : s->co, .n = g->forward ? s->co : wide,
                       .forward = g->forward, .bias = g->forward && g->bias, .res = g->forward && g->res};
        TRY(cpu_gemm_plan(be, &p, &g->plan[last]));
    }
    return 0;
}

int cpu_conv_gemm_plan(Backend *be, const ConvShape *s, int forward, int bias, int res, ConvGemm *g)
{
    *g = (ConvGemm){.s = *s, .forward = forward, .bias = bias, .res = res};
    TRY(plan_groups(be, g, MAX_PIXELS / (s->oh * s->ow)));
    return g->plan[0].row_free && g->plan[1].row_free ? 0 : plan_groups(be, g, 1);
}

/* Rows of the product, gathered from x or to be added up to dx. */
static size_t column_bytes(const ConvGemm *g)
{
    const ConvShape *s = &g->s;
    size_t es = g->forward ? conv_size_of(s->type) : sizeof(float);
    return (size_t)(g->group * s->oh * s->ow * s->ci * s->kh * s->kw) * es;
}

static size_t product_bytes(const Backend *be, const ConvGemm *g)
{
    size_t a = cpu_gemm_scratch(be, &g->plan[0]), b = cpu_gemm_scratch(be, &g->plan[1]);
    return a > b ? a : b;
}

typedef struct {
    const ConvGemm *g;
    const CpuTileOps *ops;
    const char *x, *res;
    char *to;
    void *columns;
    float *row;                  /* [threads][ci]; forward: one row of zeros */
} Run;

/* Columns of one output row: column c * taps + tap of pixel (oy, ox) is channel c of the input under that tap. */
static int gather_task(void *ctx, int64_t task, int thread)
{
    (void)thread;
    const Run *r = ctx;
    const ConvShape *s = &r->g->s;
    int64_t item = task / s->oh, oy = task % s->oh, taps = s->kh * s->kw;
    size_t pixel = (size_t)s->ci * conv_size_of(s->type);
    for (int64_t ox = 0; ox < s->ow; ox++) {
        const void *tap[MAX_TAPS];
        for (int64_t t = 0; t < taps; t++) {
            int64_t iy = oy * s->stride - s->top + t / s->kw, ix = ox * s->stride - s->left + t % s->kw;
            int inside = iy >= 0 && iy < s->ih && ix >= 0 && ix < s->iw;
            tap[t] = inside ? r->x + (size_t)((item * s->ih + iy) * s->iw + ix) * pixel : (const char *)r->row;
        }
        char *to = (char *)r->columns + (size_t)((task * s->ow + ox) * taps) * pixel;
        r->ops->interleave(tap, (int)taps, to, s->ci, s->type == DTYPE_BF16);
    }
    return 0;
}

/* dx of one input row: each pixel adds its taps in order. */
static int add_task(void *ctx, int64_t task, int thread)
{
    const Run *r = ctx;
    const ConvShape *s = &r->g->s;
    int64_t item = task / s->ih, iy = task % s->ih, taps = s->kh * s->kw, wide = taps * s->ci;
    float *row = r->row + thread * s->ci;
    for (int64_t ix = 0; ix < s->iw; ix++) {
        const float *tap[MAX_TAPS];
        int n = 0;
        for (int64_t t = 0; t < taps; t++) {
            int64_t y = iy + s->top - t / s->kw, x = ix + s->left - t % s->kw;
            int64_t oy = y / s->stride, ox = x / s->stride;
            if (y >= 0 && x >= 0 && y % s->stride == 0 && x % s->stride == 0 && oy < s->oh && ox < s->ow)
                tap[n++] = (const float *)r->columns + ((item * s->oh + oy) * s->ow + ox) * wide + t;
        }
        r->ops->add_taps(tap, n, taps, row, s->ci);
        size_t at = (size_t)((task * s->iw + ix) * s->ci) * conv_size_of(s->type);
        r->ops->store(row, s->ci, NULL, r->res ? r->res + at : NULL, r->to + at, s->ci, 1, s->ci, s->type == DTYPE_BF16);
    }
    return 0;
}

size_t cpu_conv_gemm_scratch(const Backend *be, const ConvGemm *g)
{
    CpuCarve c = {0};
    cpu_carve(&c, column_bytes(g));
    cpu_carve(&c, (size_t)(be->threads * g->s.ci) * sizeof(float));
    cpu_carve(&c, product_bytes(be, g));
    return c.used;
}

int cpu_conv_gemm_run(const Backend *be, const ConvGemm *g, const void *from, const void *w, const float *bias, const void *res,
                      void *to, void *scratch)
{
    const ConvShape *s = &g->s;
    CpuCarve c = {scratch, 0};
    void *columns = cpu_carve(&c, column_bytes(g));
    float *row = cpu_carve(&c, (size_t)(be->threads * s->ci) * sizeof *row);
    void *work = cpu_carve(&c, product_bytes(be, g));
    size_t es = conv_size_of(s->type), x_item = (size_t)(s->ih * s->iw * s->ci) * es, y_item = (size_t)(s->oh * s->ow * s->co) * es;
    memset(row, 0, (size_t)s->ci * sizeof *row);
    for (int64_t i = 0; i < g->groups; i++) {
        const GemmPlan *p = &g->plan[i == g->groups - 1];
        size_t item = (size_t)(i * g->group);
        double moved = (double)(p->s.items * p->s.item_rows * (g->forward ? p->s.k : p->s.n)) * 16;
        if (g->forward) {
            Run r = {g, CPU_TILE_OPS(((const CpuState *)be->impl)->isa), (const char *)from + item * x_item, NULL, NULL, columns, row};
            TRY(cpu_tile_loop(be, p->s.items * s->oh, moved, gather_task, &r));
            TRY(cpu_gemm_run(be, p, columns, w, bias, res ? (const char *)res + item * y_item : NULL, (char *)to + item * y_item, work));
        } else {
            Run r = {g, CPU_TILE_OPS(((const CpuState *)be->impl)->isa), NULL, res ? (const char *)res + item * x_item : NULL,
                     (char *)to + item * x_item, columns, row};
            TRY(cpu_gemm_run(be, p, (const char *)from + item * y_item, w, NULL, NULL, columns, work));
            TRY(cpu_tile_loop(be, p->s.items * s->ih, moved, add_task, &r));
        }
    }
    return 0;
}
