#include "ops/train.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cuda/internal.h"
#include "kernels.h"

struct OptimTable {
    int n;
    int64_t end;           /* of the flat arrays */
    int64_t *first;        /* [n + 1]: first chunk of each tensor */
    KernelChunk *chunk;    /* device, as below */
    KernelRate *rate;      /* [n] */
    KernelRate *rate_host;
    uint64_t *count;       /* [n + 1]: left out, then large */
    uint64_t *count_host;
    double *tile, *tile_host;
    float *map;            /* [512], made when first used */
    float *mean;           /* Adafactor: [mean_room] */
    int64_t mean_room;
    KernelTerms *terms;
};

static int launched(const char *what)
{
    return cuda_check(cudaGetLastError(), what);
}

static int clear(Backend *be, void *p, size_t bytes)
{
    return cuda_check(cudaMemsetAsync(p, 0, bytes, cuda_state(be)->stream), "clearing device memory");
}

static void table_destroy(Backend *be, OptimTable *t)
{
    if (!t)
        return;
    void *device[] = {t->chunk, t->rate, t->count, t->tile, t->map, t->mean, t->terms};
    for (size_t i = 0; i < sizeof device / sizeof *device; i++)
        if (device[i])
            be->free(be, device[i], 0);
    free(t->first);
    free(t->rate_host);
    free(t->count_host);
    free(t->tile_host);
    free(t);
}

static int64_t chunks_of(int64_t count)
{
    return (count + KERNEL_CHUNK - 1) / KERNEL_CHUNK;
}

static int upload_chunks(Backend *be, OptimTable *t, const OptimSlot *slot)
{
    int64_t total = t->first[t->n], k = 0;
    KernelChunk *host = malloc((size_t)(total + 1) * sizeof *host);
    if (!host)
        return err_set(ERR_NOMEM, "training state: out of memory");
    for (int i = 0; i < t->n; i++)
        for (int64_t from = 0; from < slot[i].count; from += KERNEL_CHUNK) {
            int64_t left = slot[i].count - from;
            int half = slot[i].dtype == DTYPE_BF16;
            host[k++] = (KernelChunk){i, (int32_t)(left < KERNEL_CHUNK ? left : KERNEL_CHUNK), from, slot[i].at + from, slot[i].state + from,
                                      slot[i].block + from / OPTIM_BLOCK, slot[i].place + from * (half ? 2 : 4),
                                      half ? KERNEL_BF16 : KERNEL_F32};
        }
    int rc = be->upload(be, t->chunk, host, (size_t)total * sizeof *host);
    free(host);
    return rc;
}

static int device_array(Backend *be, void *out, size_t count, size_t size)
{
    void *p;
    TRY(be->alloc(be, &p, (count + 1) * size));
    memcpy(out, &p, sizeof p);
    return 0;
}

static int table_fill(Backend *be, OptimTable *t, const OptimSlot *slot)
{
    size_t n = (size_t)t->n;
    t->first = malloc((n + 1) * sizeof *t->first);
    t->rate_host = malloc((n + 1) * sizeof *t->rate_host);
    t->count_host = malloc((n + 1) * sizeof *t->count_host);
    if (!t->first || !t->rate_host || !t->count_host)
        return err_set(ERR_NOMEM, "training state: out of memory");
    t->first[0] = 0;
    for (int i = 0; i < t->n; i++) {
        t->first[i + 1] = t->first[i] + chunks_of(slot[i].count);
        t->end = slot[i].at + slot[i].count > t->end ? slot[i].at + slot[i].count : t->end;
    }
    size_t tiles = (size_t)(t->end / KERNEL_TILE + 2); /* the padding after the last tensor may be asked for too */
    t->tile_host = malloc(tiles * sizeof *t->tile_host);
    if (!t->tile_host)
        return err_set(ERR_NOMEM, "training state: out of memory");
    TRY(device_array(be, &t->chunk, (size_t)t->first[t->n], sizeof *t->chunk));
    TRY(device_array(be, &t->rate, n, sizeof *t->rate));
    TRY(device_array(be, &t->count, n, sizeof *t->count));
    TRY(device_array(be, &t->tile, tiles, sizeof *t->tile));
    TRY(clear(be, t->count, (n + 1) * sizeof *t->count));
    return upload_chunks(be, t, slot);
}

static int table_create(Backend *be, OptimTable **out, const OptimSlot *slot, int n)
{
    OptimTable *t = calloc(1, sizeof *t);
    if (!t)
        return err_set(ERR_NOMEM, "training state: out of memory");
    t->n = n;
    int rc = table_fill(be, t, slot);
    if (rc < 0) {
        table_destroy(be, t);
        return rc;
    }
    *out = t;
    return 0;
}

static int add(Backend *be, OptimTable *t, int first, int count, const float *const *grads, int64_t *sum, int64_t limit)
{
    int64_t from = t->first[first], n = t->first[first + count] - from;
    if (!n)
        return 0;
    kernel_exact_add(t->chunk + from, n, grads, sum, limit, t->count, t->count + t->n, cuda_state(be)->stream);
    return launched("sums of gradients");
}

static int counts(Backend *be, OptimTable *t, int64_t *left_out, int64_t *large)
{
    size_t bytes = ((size_t)t->n + 1) * sizeof *t->count;
    TRY(be->download(be, t->count_host, t->count, bytes));
    for (int i = 0; i < t->n; i++)
        left_out[i] = (int64_t)t->count_host[i];
    *large = (int64_t)t->count_host[t->n];
    return clear(be, t->count, bytes);
}

static int to_float(Backend *be, float *out, const int64_t *sum, int64_t n, double scale)
{
    if (!n)
        return 0;
    kernel_exact_to_float(out, sum, n, scale, cuda_state(be)->stream);
    return launched("sums of gradients");
}

/* The tiles are added on the host: in order, as there. */
static int tile_sums(Backend *be, OptimTable *t, int what, const float *x, const float *y, int64_t n, double *out)
{
    int64_t tiles = (n + KERNEL_TILE - 1) / KERNEL_TILE;
    *out = 0;
    if (!n)
        return 0;
    if (n > t->end + KERNEL_TILE)
        return err_set(ERR_RANGE, "sums of %lld values: the tensors have %lld", (long long)n, (long long)t->end);
    kernel_tile_sums(what, x, y, n, t->tile, cuda_state(be)->stream);
    TRY(launched("sums of tiles"));
    TRY(be->download(be, t->tile_host, t->tile, (size_t)tiles * sizeof *t->tile));
    for (int64_t i = 0; i < tiles; i++)
        *out += t->tile_host[i];
    return 0;
}

static int sumsq(Backend *be, OptimTable *t, const float *x, int64_t n, double *out)
{
    return tile_sums(be, t, KERNEL_SUM_SQUARE, x, NULL, n, out);
}

static int mean_room(Backend *be, OptimTable *t, int64_t outer)
{
    if (!t->terms)
        TRY(device_array(be, &t->terms, 1, sizeof *t->terms));
    if (outer <= t->mean_room)
        return 0;
    if (t->mean)
        be->free(be, t->mean, 0);
    t->mean = NULL;
    t->mean_room = 0;
    TRY(device_array(be, &t->mean, (size_t)outer, sizeof *t->mean));
    t->mean_room = outer;
    return 0;
}

static int adafactor(Backend *be, OptimTable *t, float *p, float *row, float *col, float *v, float *m, float *grad, const Shape *shape,
                     const OptimAdafactor *o)
{
    int64_t n = shape_count(shape), rows = 0, cols = 0, outer = 0;
    double beta2 = 1 - pow((double)o->step, (double)o->decay_rate);
    if (n == 0)
        return 0;
    KernelAdafactor a = {(double)o->lr, (double)o->weight_decay, (double)o->clip_threshold, o->beta1, (float)beta2, (float)(1 - beta2),
                         o->grad_scale, o->scale_parameter};
    if (shape->ndim >= 2) {
        cols = shape_last(shape);
        rows = shape->dim[shape->ndim - 2];
        outer = n / (rows * cols);
    }
    TRY(mean_room(be, t, outer));
    kernel_adafactor(p, row, col, v, m, grad, n, outer, rows, cols, &a, t->tile, t->mean, t->terms, cuda_state(be)->stream);
    return launched("optimizer");
}

static int prodigy(Backend *be, OptimTable *t, const OptimFlat *f, int64_t n, const OptimAdamw *o, OptimProdigy *d)
{
    OptimProdigyStep s;
    double dot_p0, dot_p, sumabs;
    void *stream = cuda_state(be)->stream;
    TRY(tile_sums(be, t, KERNEL_SUM_PRODUCT, f->grad, f->p0, n, &dot_p0));
    TRY(tile_sums(be, t, KERNEL_SUM_PRODUCT, f->grad, f->p, n, &dot_p));
    optim_prodigy_begin(&s, o, d, dot_p0, dot_p);
    KernelProdigy k = {s.scale, s.beta1, s.beta2, s.beta3, s.moment, s.square, s.weight, 0, 0, 0};
    kernel_prodigy_moments(f->m, f->v, f->s, f->grad, n, &k, stream);
    TRY(launched("optimizer"));
    TRY(tile_sums(be, t, KERNEL_SUM_ABS, f->s, NULL, n, &sumabs));
    if (!optim_prodigy_adapt(&s, o, d, sumabs))
        return 0;
    k.lr = s.lr;
    k.decay = s.decay;
    k.eps = s.eps;
    kernel_prodigy_values(f->p, f->m, f->v, n, &k, stream);
    return launched("optimizer");
}

/* As in cpu/optim*.c, where each is used. */
static KernelMoments moments(const OptimStep *s)
{
    const OptimAdamw *a = &s->a;
    double rest = 1 - pow((double)a->beta2, (double)a->step);
    float root = s->kind == OPTIM_SCHEDULEFREE ? (float)rest : (float)sqrt(rest);
    return (KernelMoments){a->beta1, a->beta2, 1 - a->beta1, 1 - a->beta2, a->eps, a->grad_scale, root, s->weight};
}

static KernelStream stream_of(const RngKey *k)
{
    return (KernelStream){{k->key[0], k->key[1]}, {k->step[0], k->step[1]}};
}

static KernelRate rate_of(const OptimStep *s, const OptimRate *r)
{
    double lr = (double)r->lr, wd = (double)r->weight_decay, beta1 = (double)s->a.beta1;
    KernelRate k = {(float)(1 - lr * wd), r->lr, 0, 0, stream_of(&r->round)};
    if (s->kind == OPTIM_ADAMW || s->kind == OPTIM_ADAMW8)
        k.step = (float)(lr / (1 - pow(beta1, (double)s->a.step)));
    if (s->kind == OPTIM_SCHEDULEFREE) {
        k.decay = r->weight_decay;
        k.pull = (float)(lr * (beta1 * (1 - (double)s->weight) - 1));
    }
    return k;
}

static int make_map(Backend *be, OptimTable *t)
{
    float map[512];
    if (t->map)
        return 0;
    optim_dynamic_map(map, 1);
    optim_dynamic_map(map + 256, 0);
    TRY(device_array(be, &t->map, 512, sizeof *t->map));
    return be->upload(be, t->map, map, sizeof map);
}

static int step(Backend *be, OptimTable *t, const OptimStep *s)
{
    static const int kernels[] = {[OPTIM_ADAMW] = KERNEL_ADAMW, [OPTIM_LION] = KERNEL_LION, [OPTIM_SCHEDULEFREE] = KERNEL_SCHEDULEFREE};
    KernelMoments m = moments(s);
    int64_t n = t->first[t->n];
    void *const *x = s->array, *stream = cuda_state(be)->stream;
    if (!n)
        return 0;
    for (int i = 0; i < t->n; i++)
        t->rate_host[i] = rate_of(s, &s->rate[i]);
    TRY(be->upload(be, t->rate, t->rate_host, (size_t)t->n * sizeof *t->rate));
    if (s->kind == OPTIM_ADAMW8) {
        TRY(make_map(be, t));
        kernel_adamw8(t->chunk, n, t->rate, t->map, s->p, x[0], x[1], x[2], x[3], s->grad, &m, stream);
    } else {
        kernel_optim(kernels[s->kind], t->chunk, n, t->rate, s->p, x[0], x[1], s->grad, &m, stream);
    }
    return launched("optimizer");
}

static int ema(Backend *be, OptimTable *t, float *average, const void *p, float rate)
{
    if (!t->first[t->n])
        return 0;
    kernel_ema(t->chunk, t->first[t->n], average, p, rate, cuda_state(be)->stream);
    return launched("running average");
}

static int noise(Backend *be, const NoiseStep *n)
{
    static const int kinds[] = {[NOISE_TARGET_NOISE] = KERNEL_TARGET_NOISE, [NOISE_TARGET_V] = KERNEL_TARGET_V,
                                [NOISE_TARGET_SAMPLE] = KERNEL_TARGET_SAMPLE, [NOISE_TARGET_FLOW] = KERNEL_TARGET_FLOW};
    KernelSample sample[NOISE_SAMPLES];
    _Static_assert(sizeof(KernelSample) <= sizeof(NoiseSample), "NoiseStep.room");
    if (n->dtype != DTYPE_F32 && n->dtype != DTYPE_BF16)
        return err_set(ERR_UNSUPPORTED, "noise in %s", dtype_name(n->dtype));
    if (n->items > NOISE_SAMPLES)
        return err_set(ERR_RANGE, "noise of %lld samples at once: at most %d", (long long)n->items, NOISE_SAMPLES);
    for (int64_t i = 0; i < n->items; i++) {
        const NoiseSample *s = &n->sample[i];
        sample[i] = (KernelSample){stream_of(&s->latent), stream_of(&s->noise), stream_of(&s->offset), stream_of(&s->extra), s->a, s->s,
                                   s->strength, s->gamma};
    }
    TRY(be->upload(be, n->room, sample, (size_t)n->items * sizeof *sample));
    kernel_noise(n->dtype == DTYPE_F32 ? KERNEL_F32 : KERNEL_BF16, n->moments, n->room, n->x, n->target, n->items, n->count, n->c, n->shift,
                 n->scaling, kinds[n->kind], cuda_state(be)->stream);
    return launched("noise");
}

void cuda_train_register(Backend *be)
{
    static const BackendTrain train = {cuda_mirror_adopt, clear, table_create, table_destroy, add, counts, to_float, sumsq, step, adafactor, prodigy, ema, noise};
    be->train = &train;
}
