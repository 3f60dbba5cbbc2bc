#include "cpu/gemm.h"

#include <string.h>

#include "cpu/tile.h"

enum { SMALL_WEIGHTS = 128 * 1024, MANY_ROWS = 1024, MAX_HEIGHT = 256, CHUNK = 1984, MAX_PARTS = 8 };

static int64_t round_up(int64_t x, int64_t to)
{
    return cpu_ceil_div(x, to) * to;
}

static int64_t clamp(int64_t x, int64_t lo, int64_t hi)
{
    return x < lo ? lo : x > hi ? hi : x;
}

static int64_t min64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static size_t size_of(Dtype t)
{
    return t == DTYPE_BF16 ? 2 : 4;
}

static const CpuTileOps *tile_ops(const Backend *be)
{
    return CPU_TILE_OPS(((const CpuState *)be->impl)->isa);
}

/* ---- rows ---- */

static int is_direct(const GemmPlan *p)
{
    return p->slabs == 1;
}

static void choose_slabs(GemmPlan *p)
{
    const GemmShape *s = &p->s;
    p->slab = s->n;
    /* [k,n] weights are read in place, and a column slab of them is not dense. */
    if (s->forward && s->item_rows < MANY_ROWS && s->n * s->k > SMALL_WEIGHTS && s->n >= 128)
        p->slab = s->n >= 4096 ? 256 : s->n >= 1024 ? 128 : 64;
    p->slabs = cpu_ceil_div(s->n, p->slab);
}

/* `merged`: rows of several items may share a tile. */
static void choose_bands(GemmPlan *p, int merged)
{
    const GemmShape *s = &p->s;
    p->groups = merged ? 1 : s->items;
    p->group_rows = merged ? s->items * s->item_rows : s->item_rows;
    /* Eight bands when the weights are small; half as many where each band has to read many of them. */
    int64_t want = !s->forward && s->n * s->k > 1024 * 1024 ? 4 : 8;
    if (merged && is_direct(p))
        p->height = clamp(round_up(cpu_ceil_div(p->group_rows, want), 16), s->forward ? 64 : 32, MAX_HEIGHT);
    else
        p->height = cpu_ceil_div(p->group_rows, cpu_ceil_div(p->group_rows, MAX_HEIGHT));
    p->height = min64(p->height, p->group_rows);
    p->bands = cpu_ceil_div(p->group_rows, p->height);
}

static int64_t band_rows(const GemmPlan *p, int last)
{
    return last ? p->group_rows - (p->bands - 1) * p->height : p->height;
}

static int64_t slab_cols(const GemmPlan *p, int last)
{
    return last ? p->s.n - (p->slabs - 1) * p->slab : p->slab;
}

static int get_tiles(Backend *be, GemmPlan *p)
{
    const GemmShape *s = &p->s;
    p->row_free = 1;
    p->workspace = 0;
    for (int i = 0; i < 4; i++) {
        int last_band = i / 2, last_slab = i % 2, direct = is_direct(p);
        CpuTileKey key = {.kind = CPU_TILE_MATMUL, .a = s->type, .b = s->type, .c = direct ? s->out : DTYPE_F32,
                          .bias = direct && s->bias, .sum = direct && s->res, .m = band_rows(p, last_band), .k = s->k,
                          .n = slab_cols(p, last_slab), .trans_b = s->forward};
        CpuTile *t;
        TRY(cpu_tile_get(be, &key, &t));
        p->tile[last_band][last_slab] = t;
        p->row_free &= t->row_free;
        p->workspace = t->workspace > p->workspace ? t->workspace : p->workspace;
    }
    return 0;
}

int cpu_gemm_plan(Backend *be, const GemmShape *s, GemmPlan *p)
{
    memset(p, 0, sizeof *p);
    p->s = *s;
    choose_slabs(p);
    choose_bands(p, 1);
    TRY(get_tiles(be, p));
    if (p->row_free)
        return 0;
    choose_bands(p, 0);
    return get_tiles(be, p);
}

static size_t thread_bytes(const GemmPlan *p)
{
    CpuCarve c = {0};
    cpu_carve(&c, p->workspace);
    if (!is_direct(p))
        cpu_carve(&c, (size_t)(p->height * p->slab) * sizeof(float));
    return c.used;
}

size_t cpu_gemm_scratch(const Backend *be, const GemmPlan *p)
{
    return (size_t)be->threads * thread_bytes(p);
}

typedef struct {
    const GemmPlan *p;
    const CpuTileOps *ops;
    const char *x, *w, *res;
    char *out;
    const float *bias;
    char *scratch;
    size_t thread_bytes;
} Rows;

static int rows_task(void *ctx, int64_t task, int thread)
{
    const Rows *r = ctx;
    const GemmPlan *p = r->p;
    const GemmShape *s = &p->s;
    int64_t slab = task / (p->groups * p->bands), band = task % p->bands, group = task / p->bands % p->groups;
    int last_band = band == p->bands - 1, last_slab = slab == p->slabs - 1;
    int64_t row = group * p->group_rows + band * p->height, rows = band_rows(p, last_band), col = slab * p->slab;
    size_t es = size_of(s->type), to = size_of(s->out), at = (size_t)(row * s->n + col) * to;
    const CpuTile *t = p->tile[last_band][last_slab];
    CpuCarve c = {r->scratch + (size_t)thread * r->thread_bytes, 0};
    void *work = cpu_carve(&c, p->workspace);
    const char *x = r->x + (size_t)(row * s->k) * es, *w = r->w + (size_t)(s->forward ? col * s->k : 0) * es;
    if (is_direct(p)) {
        if (r->res && r->res != r->out)
            memcpy(r->out + at, r->res + at, (size_t)(rows * s->n) * to);
        return cpu_tile_run(t, thread, x, w, r->out + at, r->bias, work);
    }
    float *acc = cpu_carve(&c, (size_t)(p->height * p->slab) * sizeof *acc);
    TRY(cpu_tile_run(t, thread, x, w, acc, NULL, work));
    int64_t cols = slab_cols(p, last_slab);
    r->ops->store(acc, cols, r->bias ? r->bias + col : NULL, r->res ? r->res + at : NULL, r->out + at, s->n, rows, cols,
                  s->out == DTYPE_BF16);
    return 0;
}

int cpu_gemm_run(const Backend *be, const GemmPlan *p, const void *x, const void *w, const float *bias, const void *res,
                 void *out, void *scratch)
{
    Rows r = {p, tile_ops(be), x, w, res, out, bias, scratch, thread_bytes(p)};
    const GemmShape *s = &p->s;
    double flops = 2.0 * (double)(s->items * s->item_rows) * (double)s->k * (double)s->n;
    return cpu_tile_loop(be, p->groups * p->bands * p->slabs, flops, rows_task, &r);
}

/* ---- outer products ---- */

static int64_t outer_rows(const GemmOuter *p, int last)
{
    return last ? p->s.m - (p->slabs - 1) * p->slab : p->slab;
}

static int64_t outer_chunk(const GemmOuter *p, int last)
{
    return last ? p->s.k - (p->chunks - 1) * p->chunk : p->chunk;
}

int cpu_gemm_outer_plan(Backend *be, const GemmShape *s, GemmOuter *p)
{
    memset(p, 0, sizeof *p);
    p->s = *s;
    p->slab = min64(s->m >= 512 ? 128 : 64, s->m);
    p->slabs = cpu_ceil_div(s->m, p->slab);
    p->chunk = CHUNK;
    p->parts = 1;
    if (p->slabs < 4 && s->m * s->n <= 64 * 1024) {
        p->chunk = clamp(round_up(cpu_ceil_div(s->k, MAX_PARTS), 16), 128, CHUNK);
        p->parts = MAX_PARTS;
    }
    p->chunk = min64(p->chunk, s->k);
    p->chunks = cpu_ceil_div(s->k, p->chunk);
    p->parts = min64(p->parts, p->chunks);
    for (int i = 0; i < 8; i++) {
        int last_slab = i / 4, last_chunk = i / 2 % 2, sum = i % 2;
        CpuTileKey key = {.kind = CPU_TILE_MATMUL, .a = s->type, .b = s->type, .c = DTYPE_F32, .sum = sum,
                          .m = outer_rows(p, last_slab), .k = outer_chunk(p, last_chunk), .n = s->n};
        CpuTile *t;
        TRY(cpu_tile_get(be, &key, &t));
        p->tile[last_slab][last_chunk][sum] = t;
        p->workspace = t->workspace > p->workspace ? t->workspace : p->workspace;
    }
    return 0;
}

static int has_partials(const GemmOuter *p)
{
    return p->parts > 1 || p->s.out != DTYPE_F32;
}

static size_t outer_thread_bytes(const GemmOuter *p)
{
    CpuCarve c = {0};
    cpu_carve(&c, p->workspace);
    cpu_carve(&c, (size_t)(p->slab * p->chunk) * size_of(p->s.type));
    return c.used;
}

size_t cpu_gemm_outer_scratch(const Backend *be, const GemmOuter *p)
{
    CpuCarve c = {0};
    cpu_carve(&c, (size_t)be->threads * outer_thread_bytes(p));
    if (has_partials(p))
        cpu_carve(&c, (size_t)(p->parts * p->s.m * p->s.n) * sizeof(float));
    return c.used;
}

typedef struct {
    const GemmOuter *p;
    const CpuTileOps *ops;
    const char *a, *b;
    float *sums;                 /* [parts][m][n] */
    void *out;
    char *scratch;
    size_t thread_bytes;
} Outer;

static int outer_task(void *ctx, int64_t task, int thread)
{
    const Outer *o = ctx;
    const GemmOuter *p = o->p;
    const GemmShape *s = &p->s;
    int64_t slab = task % p->slabs, part = task / p->slabs;
    int last_slab = slab == p->slabs - 1;
    int64_t cols = outer_rows(p, last_slab), begin = part * p->chunks / p->parts, end = (part + 1) * p->chunks / p->parts;
    size_t es = size_of(s->type);
    CpuCarve c = {o->scratch + (size_t)thread * o->thread_bytes, 0};
    void *work = cpu_carve(&c, p->workspace);
    void *at = cpu_carve(&c, (size_t)(p->slab * p->chunk) * es);
    float *sum = o->sums + part * s->m * s->n + slab * p->slab * s->n;
    for (int64_t i = begin; i < end; i++) {
        int last = i == p->chunks - 1;
        int64_t row = i * p->chunk;
        o->ops->transpose(o->a + (size_t)(row * s->m + slab * p->slab) * es, s->m, at, outer_chunk(p, last), cols,
                          s->type == DTYPE_BF16);
        TRY(cpu_tile_run(p->tile[last_slab][last][i > begin], thread, at, o->b + (size_t)(row * s->n) * es, sum, NULL, work));
    }
    return 0;
}

static void outer_sum(void *ctx, int64_t begin, int64_t end)
{
    const Outer *o = ctx;
    const GemmShape *s = &o->p->s;
    int bf = s->out == DTYPE_BF16;
    o->ops->sum(o->sums + begin, s->m * s->n, o->p->parts, (char *)o->out + (size_t)begin * size_of(s->out), end - begin, bf);
}

int cpu_gemm_outer_run(const Backend *be, const GemmOuter *p, const void *a, const void *b, void *out, void *scratch)
{
    const GemmShape *s = &p->s;
    CpuCarve c = {scratch, 0};
    Outer o = {p, tile_ops(be), a, b, out, out, cpu_carve(&c, (size_t)be->threads * outer_thread_bytes(p)), outer_thread_bytes(p)};
    if (has_partials(p))
        o.sums = cpu_carve(&c, (size_t)(p->parts * s->m * s->n) * sizeof(float));
    TRY(cpu_tile_loop(be, p->slabs * p->parts, 2.0 * (double)s->m * (double)s->n * (double)s->k, outer_task, &o));
    if (has_partials(p))
        cpu_parallel_flat(be, s->m * s->n, 4 * (p->parts + 1), outer_sum, &o);
    return 0;
}
