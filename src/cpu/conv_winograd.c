#include "cpu/conv_winograd.h"

#include <string.h>

enum { OUT = WINOGRAD_OUT, IN = WINOGRAD_IN, POINTS = WINOGRAD_POINTS, BLOCK = WINOGRAD_BLOCK };
/* Cutting, which changes no bit. CHUNK_BYTES: transformed inputs of a chunk, of MIN_CHUNK to MAX_CHUNK tiles; above STREAM_BYTES
 * they are written past the caches. Up to FEW_TILES, and for more than DEEP channels, all products of a part are kept and
 * SHALLOW channels of weights transformed at a time, so that both stay in the second cache; else all channels at once, for
 * GROUP tiles after another. PART: fewest tiles of a part of a chunk. */
enum { CHUNK_BYTES = 32 << 20, MIN_CHUNK = 64, MAX_CHUNK = 512, STREAM_BYTES = 6 << 20 };
enum { FEW_TILES = 128, SHALLOW = 64, DEEP = 1024, GROUP = 48, PART = 96, TASK_TILES = 8 };
/* Below these, and where half of the tiles' results would be thrown away, the direct convolution is as fast. */
enum { MIN_CHANNELS = 32, MIN_TILES = 4 };
/* Rows of a product come in fours; LINE: floats of a cache line. */
enum { ROWS = 4, LINE = 16 };

static int64_t round_up(int64_t x, int64_t to)
{
    return cpu_ceil_div(x, to) * to;
}

static int64_t min64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t max64(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static int is_possible(const ConvShape *s)
{
    return s->kh == 3 && s->kw == 3 && s->stride == 1 && s->top == 1 && s->left == 1 && s->oh == s->ih && s->ow == s->iw;
}

int cpu_conv_winograd_wanted(const Backend *be, const ConvShape *s)
{
    const CpuState *st = be->impl;
    if (!is_possible(s) || st->winograd == CPU_WINOGRAD_OFF)
        return 0;
    if (st->winograd == CPU_WINOGRAD_ALL)
        return 1;
    if (s->type == DTYPE_BF16 && st->amx)
        return 0;
    int64_t tiles = cpu_ceil_div(s->oh, OUT) * cpu_ceil_div(s->ow, OUT), least = min64(s->ci, s->co);
    return tiles >= MIN_TILES && least >= MIN_CHANNELS && 2 * s->oh * s->ow >= tiles * OUT * OUT;
}

/* Distances that are odd multiples of a cache line keep the 36 planes, and the rows, from sharing sets. */
static int64_t spread(int64_t floats)
{
    return round_up(floats, LINE) | LINE;
}

static int64_t part_rows(const ConvWinograd *p)
{
    return round_up(cpu_ceil_div(p->chunk, p->parts), ROWS);
}

static int64_t input_plane(const ConvWinograd *p)
{
    return spread(p->chunk * p->ld);
}

static int64_t weight_plane(const ConvWinograd *p)
{
    return spread(p->depth * BLOCK);
}

static int64_t product_plane(const ConvWinograd *p)
{
    return spread(p->products * BLOCK);
}

typedef struct {
    void *zeros;
    float *inputs;
    char *threads;
} Shared;

static Shared shared_scratch(const Backend *be, const ConvWinograd *p, CpuCarve *c)
{
    Shared s;
    s.zeros = cpu_carve(c, (size_t)p->k * conv_size_of(p->s.type));
    s.inputs = cpu_carve(c, (size_t)(POINTS * input_plane(p)) * sizeof(float));
    s.threads = cpu_carve(c, (size_t)be->threads * p->thread_bytes);
    return s;
}

void cpu_conv_winograd_plan(const Backend *be, const ConvShape *s, int forward, int bias, int res, ConvWinograd *p)
{
    *p = (ConvWinograd){.s = *s, .forward = forward, .bias = bias, .res = res};
    p->k = forward ? s->ci : s->co;
    p->n = forward ? s->co : s->ci;
    p->down = cpu_ceil_div(s->oh, OUT);
    p->across = cpu_ceil_div(s->ow, OUT);
    p->tiles = s->items * p->down * p->across;
    p->ld = spread(p->k);
    int64_t most = CHUNK_BYTES / (POINTS * p->ld * (int64_t)sizeof(float));
    most = min64(max64(most, MIN_CHUNK), MAX_CHUNK);
    p->chunks = cpu_ceil_div(p->tiles, most);
    p->chunk = round_up(cpu_ceil_div(p->tiles, p->chunks), ROWS);
    p->chunks = cpu_ceil_div(p->tiles, p->chunk);
    p->blocks = cpu_ceil_div(p->n, BLOCK);
    for (p->parts = 1; p->blocks * p->parts < 4 * be->threads && p->chunk / (p->parts + 1) >= PART; p->parts++)
        ;
    int64_t rows = part_rows(p);
    p->depth = rows <= FEW_TILES || p->k > DEEP ? min64(SHALLOW, p->k) : p->k;
    p->group = p->depth < p->k ? rows : min64(GROUP, rows);
    p->products = p->depth < p->k ? rows : p->group;
    p->stream = POINTS * input_plane(p) * (int64_t)sizeof(float) > STREAM_BYTES;
    CpuCarve c = {0};
    cpu_carve(&c, (size_t)(POINTS * weight_plane(p)) * sizeof(float));
    cpu_carve(&c, (size_t)(POINTS * product_plane(p)) * sizeof(float));
    p->thread_bytes = c.used;
    CpuCarve all = {0};
    shared_scratch(be, p, &all);
    p->bytes = all.used;
}

typedef struct {
    const ConvWinograd *p;
    const CpuWinogradOps *ops;
    const char *from, *w, *res;
    const float *bias;
    char *to;
    Shared room;
    int64_t first, tiles;        /* of the chunk */
} Run;

/* The upper left result of tile `tile` of all images. */
static void tile_place(const ConvWinograd *p, int64_t tile, int64_t *item, int64_t *y, int64_t *x)
{
    *item = tile / (p->down * p->across);
    *y = tile / p->across % p->down * OUT;
    *x = tile % p->across * OUT;
}

static void input_task(void *ctx, int64_t task, int thread)
{
    (void)thread;
    const Run *r = ctx;
    const ConvWinograd *p = r->p;
    const ConvShape *s = &p->s;
    int64_t plane = input_plane(p), end = min64((task + 1) * TASK_TILES, round_up(r->tiles, ROWS));
    size_t pixel = (size_t)p->k * conv_size_of(s->type);
    for (int64_t t = task * TASK_TILES; t < end; t++) {
        float *to = r->room.inputs + t * p->ld;
        int64_t item, y, x;
        if (t >= r->tiles) {
            for (int i = 0; i < POINTS; i++)
                memset(to + i * plane, 0, (size_t)p->k * sizeof *to);
            continue;
        }
        const void *from[POINTS];
        tile_place(p, r->first + t, &item, &y, &x);
        for (int i = 0; i < POINTS; i++) {
            int64_t iy = y - 1 + i / IN, ix = x - 1 + i % IN;
            int inside = iy >= 0 && iy < s->ih && ix >= 0 && ix < s->iw;
            from[i] = inside ? r->from + (size_t)((item * s->ih + iy) * s->iw + ix) * pixel : r->room.zeros;
        }
        r->ops->input(from, p->k, to, plane, p->stream, s->type == DTYPE_BF16);
    }
}

/* Asks for the lines that the results of a tile go to; past the end of the image it asks for others, which does no harm. */
static void prefetch_tile(const Run *r, int64_t item, int64_t y, int64_t x, int64_t channel)
{
    const ConvWinograd *p = r->p;
    size_t es = conv_size_of(p->s.type);
    for (int i = 0; i < OUT * OUT; i++) {
        const char *at = r->to + (size_t)(((item * p->s.oh + y + i / OUT) * p->s.ow + x + i % OUT) * p->n + channel) * es;
        for (size_t line = 0; line < BLOCK * es; line += 64)
            __builtin_prefetch(at + line, 1);
    }
}

static void output_rows(const Run *r, const float *products, int64_t begin, int64_t end, int64_t channel, int64_t lanes)
{
    const ConvWinograd *p = r->p;
    const ConvShape *s = &p->s;
    size_t es = conv_size_of(s->type);
    end = min64(end, r->tiles);
    for (int64_t t = begin; t < end; t++) {
        int64_t item, y, x;
        tile_place(p, r->first + t + 1, &item, &y, &x);
        prefetch_tile(r, item, y, x, channel);
        tile_place(p, r->first + t, &item, &y, &x);
        size_t at = (size_t)(((item * s->oh + y) * s->ow + x) * p->n + channel) * es;
        r->ops->output(products + (t - begin) * BLOCK, product_plane(p), r->bias ? r->bias + channel : NULL,
                       r->res ? r->res + at : NULL, r->to + at, s->ow * p->n, p->n, (int)min64(OUT, s->oh - y),
                       (int)min64(OUT, s->ow - x), lanes, s->type == DTYPE_BF16);
    }
}

/* One block of channels of one part of the chunk. */
static void product_task(void *ctx, int64_t task, int thread)
{
    const Run *r = ctx;
    const ConvWinograd *p = r->p;
    const ConvShape *s = &p->s;
    int64_t part = task / p->blocks, channel = task % p->blocks * BLOCK, lanes = min64(BLOCK, p->n - channel);
    int64_t rows = round_up(r->tiles, ROWS), begin = part * part_rows(p), end = min64(begin + part_rows(p), rows);
    int64_t taps = s->kh * s->kw, lane = p->forward ? s->ci * taps : taps, step = p->forward ? taps : s->ci * taps;
    int64_t in = input_plane(p), we = weight_plane(p), out = product_plane(p);
    CpuCarve c = {r->room.threads + (size_t)thread * p->thread_bytes, 0};
    float *weights = cpu_carve(&c, (size_t)(POINTS * we) * sizeof(float));
    float *products = cpu_carve(&c, (size_t)(POINTS * out) * sizeof(float));
    for (int64_t k = 0; k < p->k && begin < end; k += p->depth) {
        int64_t depth = min64(p->depth, p->k - k);
        const char *w = r->w + (size_t)(channel * lane + k * step) * conv_size_of(s->type);
        r->ops->weights(w, lane, step, lanes, depth, !p->forward, weights, we, s->type == DTYPE_BF16);
        for (int64_t t = begin; t < end; t += p->group) {
            int64_t n = min64(p->group, end - t);
            for (int i = 0; i < POINTS; i++) {
                const float *a = r->room.inputs + i * in + t * p->ld + k, *b = weights + i * we;
                int last = i == POINTS - 1;
                CpuWinogradProduct q = {a, p->ld, b, products + i * out, n, depth, lanes, k > 0,
                                        last ? a - i * in + p->group * p->ld : a + in, last ? weights : b + we};
                r->ops->product(&q);
            }
            if (k + depth == p->k)
                output_rows(r, products, t, t + n, channel, lanes);
        }
    }
}

void cpu_conv_winograd_run(const Backend *be, const ConvWinograd *p, const void *from, const void *w, const float *bias,
                           const void *res, void *to, void *scratch)
{
    CpuCarve c = {scratch, 0};
    Run r = {p, CPU_PICK(((const CpuState *)be->impl)->isa, &cpu_winograd_ops), from, w, res, bias, to, shared_scratch(be, p, &c), 0, 0};
    memset(r.room.zeros, 0, (size_t)p->k * conv_size_of(p->s.type));
    for (int64_t i = 0; i < p->chunks; i++) {
        r.first = i * p->chunk;
        r.tiles = min64(p->chunk, p->tiles - r.first);
        int64_t work = r.tiles * POINTS * p->k;
        cpu_parallel_tasks(be, cpu_ceil_div(round_up(r.tiles, ROWS), TASK_TILES), work * (int64_t)sizeof(float), input_task, &r);
        cpu_parallel_tasks(be, p->blocks * p->parts, work * p->n / 2, product_task, &r);
    }
}
