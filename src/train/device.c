#include "train/device.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "comm/exact.h"
#include "ops/train.h"

/* Neighbouring slots whose sums over the ranks are one message. */
typedef struct {
    int first, count;   /* slots */
    int64_t at, n;      /* values, with the padding between slots */
    int missing;        /* gradients that the backward pass has not given yet */
} Bucket;

struct TrainDevice {
    Backend *be;
    TrainTask *task;
    TrainState *s;
    OptimTable *all;         /* every slot */
    OptimTable *small, *large; /* adamw8: those with f32 and those with 8-bit moments; both NULL else */
    int nsmall, nlarge;
    int *slot_small, *slot_large;
    OptimRate *rate, *some;  /* [slots]: of each slot; of those of a table */
    int64_t *left_out;       /* [slots] */
    void *param;             /* values of each slot from place[slot] on, in bytes, in its dtype */
    int64_t *place;          /* [slots + 1]: the last is the end */
    char *packed;            /* host: param, where not all slots are f32; else NULL */
    float *grad, *ema;
    int64_t *sum;
    void *array[TRAIN_ARRAYS];
    const float **grads;     /* device: [shapes][slots], addresses of gradients */
    TrainReduce *reduce;
    Bucket *bucket;          /* from the last slots to the first, as the backward pass gives them */
    int nbucket, *bucket_of; /* of each slot */
    int begun;               /* buckets of this step whose sum over the ranks has begun */
    int adopted;             /* slots whose parameter lives here */
    int values_old, rest_old; /* of the host's copies */
};

static size_t flat_bytes(const TrainDevice *d)
{
    return (size_t)d->s->n * sizeof(float);
}

static size_t array_bytes(const TrainArray *a)
{
    return (size_t)a->n * dtype_size(a->dtype);
}

static int allocate(TrainDevice *d, void *out, size_t bytes)
{
    void *p;
    TRY(d->be->alloc(d->be, &p, bytes ? bytes : 64));
    memcpy(out, &p, sizeof p);
    return d->be->train->clear(d->be, p, bytes);
}

/* f32 slots as they lie in TrainState.param. */
static int make_places(TrainDevice *d)
{
    const TrainState *s = d->s;
    int half = 0;
    d->place[0] = 0;
    for (int i = 0; i < s->count; i++) {
        int64_t room = (i + 1 < s->count ? s->slot[i + 1].offset : s->n) - s->slot[i].offset;
        d->place[i + 1] = d->place[i] + room * (int64_t)dtype_size(s->slot[i].dtype);
        half |= s->slot[i].dtype != DTYPE_F32;
    }
    d->packed = half ? calloc(1, (size_t)d->place[s->count] + 1) : NULL;
    return half && !d->packed ? err_set(ERR_NOMEM, "training state: out of memory") : 0;
}

static int make_arrays(TrainDevice *d)
{
    TrainState *s = d->s;
    TRY(make_places(d));
    TRY(allocate(d, &d->param, (size_t)d->place[s->count]));
    TRY(allocate(d, &d->grad, flat_bytes(d)));
    TRY(allocate(d, &d->sum, (size_t)s->n * sizeof *d->sum));
    if (s->ema)
        TRY(allocate(d, &d->ema, flat_bytes(d)));
    for (int k = 0; k < s->narray; k++)
        TRY(allocate(d, &d->array[k], array_bytes(&s->array[k])));
    return 0;
}

/* ---- tables of tensors ---- */

/* which: 0 small, 1 large, -1 all. */
static int make_table(TrainDevice *d, OptimTable **out, int which, int *slot_of, int *count)
{
    const TrainState *s = d->s;
    int n = 0, eight = d->task->conf->optimizer.name == TRAIN_ADAMW8;
    OptimSlot *slot = malloc((size_t)(s->count + 1) * sizeof *slot);
    if (!slot)
        return err_set(ERR_NOMEM, "training state: out of memory");
    for (int i = 0; i < s->count; i++) {
        const TrainSlot *t = &s->slot[i];
        int large = eight && s->array[0].at[i] < 0;
        if (which >= 0 && which != large)
            continue;
        slot[n] = (OptimSlot){t->count, t->offset, t->offset, 0, d->place[i], t->dtype};
        if (which == 0)
            slot[n].state = s->array[0].at[i];
        if (which == 1) {
            slot[n].state = s->array[2].at[i];
            slot[n].block = s->array[3].at[i];
        }
        if (slot_of)
            slot_of[n] = i;
        n++;
    }
    int rc = d->be->train->table_create(d->be, out, slot, n);
    if (count)
        *count = n;
    free(slot);
    return rc;
}

static int make_tables(TrainDevice *d)
{
    TRY(make_table(d, &d->all, -1, NULL, NULL));
    if (d->task->conf->optimizer.name != TRAIN_ADAMW8)
        return 0;
    TRY(make_table(d, &d->small, 0, d->slot_small, &d->nsmall));
    return make_table(d, &d->large, 1, d->slot_large, &d->nlarge);
}

/* ---- where the graph's tensors are ---- */

static int find_gradients(TrainDevice *d)
{
    TrainTask *t = d->task;
    int shapes = t->nshape ? t->nshape : 1;
    size_t n = (size_t)t->nwrt;
    const float **host = malloc((size_t)shapes * n * sizeof *host + 1);
    if (!host)
        return err_set(ERR_NOMEM, "training state: out of memory");
    for (int k = 0; k < shapes; k++)
        for (size_t i = 0; i < n; i++)
            host[(size_t)k * n + i] = t->nshape ? exec_data(t->shape[k].ex, t->shape[k].grad[i]) : exec_data(t->now.ex, t->now.grad[i]);
    int rc = allocate(d, &d->grads, (size_t)shapes * n * sizeof *host);
    if (rc >= 0)
        rc = d->be->upload(d->be, d->grads, host, (size_t)shapes * n * sizeof *host);
    free(host);
    return rc;
}

/* Parts of conf->sum_bucket bytes and more, at most 64. */
static void make_buckets(TrainDevice *d)
{
    const TrainState *s = d->s;
    const int64_t least = d->task->conf->sum_bucket / (int64_t)sizeof *d->sum, least_here = s->n / 64 > least ? s->n / 64 : least;
    int64_t end = s->n;
    for (int i = s->count - 1, last = i; i >= 0; i--) {
        d->bucket_of[i] = d->nbucket;
        if (end - s->slot[i].offset < least_here && i > 0)
            continue;
        d->bucket[d->nbucket++] = (Bucket){i, last - i + 1, s->slot[i].offset, end - s->slot[i].offset, 0};
        end = s->slot[i].offset;
        last = i - 1;
    }
}

/* With several ranks the executors say when gradients are there. */
static int watch(TrainDevice *d)
{
    TrainTask *t = d->task;
    if (t->comm->size == 1)
        return 0;
    if (!t->nshape)
        return exec_watch(t->now.ex, t->now.grad, t->nwrt);
    for (int k = 0; k < t->nshape; k++)
        TRY(exec_watch(t->shape[k].ex, t->shape[k].grad, t->nwrt));
    return 0;
}

static int view_of(const TrainDevice *d, int i, OpView *v)
{
    const NnParam *p = nn_params_find(d->task->params, d->s->slot[i].name);
    if (!p)
        return err_set(ERR_NOTFOUND, "trained parameter '%s' is missing", d->s->slot[i].name);
    *v = (OpView){p->data, p->dtype, p->shape, p->version, p->frozen};
    return 0;
}

static int adopt(TrainDevice *d)
{
    OpView v;
    for (; d->adopted < d->s->count; d->adopted++) {
        TRY(view_of(d, d->adopted, &v));
        TRY(d->be->train->adopt(d->be, &v, (char *)d->param + d->place[d->adopted]));
    }
    return 0;
}

int train_device_create(TrainDevice **out, TrainTask *t, TrainState *s)
{
    *out = NULL;
    if (!t->be->train)
        return 0;
    TrainDevice *d = calloc(1, sizeof *d);
    if (!d)
        return err_set(ERR_NOMEM, "training state: out of memory");
    *out = d; /* the caller's also after an error */
    size_t n = (size_t)s->count + 1;
    d->be = t->be;
    d->task = t;
    d->s = s;
    d->rate = malloc(n * sizeof *d->rate);
    d->some = malloc(n * sizeof *d->some);
    d->left_out = malloc(n * sizeof *d->left_out);
    d->slot_small = malloc(n * sizeof *d->slot_small);
    d->slot_large = malloc(n * sizeof *d->slot_large);
    d->bucket = malloc(n * sizeof *d->bucket);
    d->bucket_of = malloc(n * sizeof *d->bucket_of);
    d->place = malloc(n * sizeof *d->place);
    if (!d->place || !d->rate || !d->some || !d->left_out || !d->slot_small || !d->slot_large || !d->bucket || !d->bucket_of)
        return err_set(ERR_NOMEM, "training state: out of memory");
    TRY(make_arrays(d));
    TRY(make_tables(d));
    TRY(find_gradients(d));
    make_buckets(d);
    TRY(watch(d));
    TRY(train_reduce_create(&d->reduce, d->be, t->comm, d->sum, s->n));
    TRY(adopt(d));
    return train_device_upload(d);
}

void train_device_destroy(TrainDevice *d)
{
    OpView v;
    if (!d)
        return;
    train_reduce_destroy(d->reduce); /* first: an abandoned sum keeps the device busy */
    while (d->adopted > 0)
        if (view_of(d, --d->adopted, &v) >= 0)
            d->be->drop(d->be, &v);
    OptimTable *table[] = {d->all, d->small, d->large};
    for (int i = 0; i < 3; i++)
        d->be->train->table_destroy(d->be, table[i]);
    void *device[] = {d->param, d->grad, d->sum, d->ema, d->grads};
    for (size_t i = 0; i < sizeof device / sizeof *device; i++)
        if (device[i])
            d->be->free(d->be, device[i], 0);
    for (int k = 0; k < TRAIN_ARRAYS; k++)
        if (d->array[k])
            d->be->free(d->be, d->array[k], 0);
    free(d->place);
    free(d->packed);
    free(d->rate);
    free(d->some);
    free(d->left_out);
    free(d->slot_small);
    free(d->slot_large);
    free(d->bucket);
    free(d->bucket_of);
    free(d);
}

/* ---- copies ---- */

int train_device_show(TrainDevice *d, const float *values)
{
    const TrainState *s = d->s;
    for (int i = 0; d->packed && i < s->count; i++)
        TRY(dtype_convert(d->packed + d->place[i], s->slot[i].dtype, values + s->slot[i].offset, DTYPE_F32, s->slot[i].count));
    return d->be->upload(d->be, d->param, d->packed ? (const void *)d->packed : values, (size_t)d->place[s->count]);
}

int train_device_upload(TrainDevice *d)
{
    TrainState *s = d->s;
    TRY(train_device_show(d, s->param));
    if (d->ema)
        TRY(d->be->upload(d->be, d->ema, s->ema, flat_bytes(d)));
    for (int k = 0; k < s->narray; k++)
        TRY(d->be->upload(d->be, d->array[k], s->array[k].data, array_bytes(&s->array[k])));
    d->values_old = d->rest_old = 0;
    return 0;
}

int train_device_fetch_values(TrainDevice *d)
{
    TrainState *s = d->s;
    if (!d->values_old)
        return 0;
    TRY(d->be->download(d->be, d->packed ? (void *)d->packed : s->param, d->param, (size_t)d->place[s->count]));
    for (int i = 0; d->packed && i < s->count; i++)
        TRY(dtype_convert(s->param + s->slot[i].offset, DTYPE_F32, d->packed + d->place[i], s->slot[i].dtype, s->slot[i].count));
    d->values_old = 0;
    return 0;
}

int train_device_fetch(TrainDevice *d)
{
    TrainState *s = d->s;
    TRY(train_device_fetch_values(d));
    if (!d->rest_old)
        return 0;
    if (d->ema)
        TRY(d->be->download(d->be, s->ema, d->ema, flat_bytes(d)));
    for (int k = 0; k < s->narray; k++)
        TRY(d->be->download(d->be, s->array[k].data, d->array[k], array_bytes(&s->array[k])));
    d->rest_old = 0;
    return 0;
}

/* ---- a step ---- */

int train_device_join(TrainDevice *d)
{
    return train_reduce_join(d->reduce, d->task->conf->sum_by);
}

int train_device_begin(TrainDevice *d)
{
    d->begun = 0;
    for (int i = 0; i < d->nbucket; i++)
        d->bucket[i].missing = d->bucket[i].count;
    return d->be->train->clear(d->be, d->sum, (size_t)d->s->n * sizeof *d->sum);
}

static int add(TrainDevice *d, int first, int count, int64_t limit)
{
    const TrainTask *t = d->task;
    const float *const *grads = d->grads + (t->nshape ? (size_t)t->at * (size_t)t->nwrt : 0);
    return d->be->train->exact_add(d->be, d->all, first, count, grads, d->sum, limit);
}

/* A gradient of the last micro-batch is there. Sums over the ranks begin in the order of the buckets, whatever that of the gradients. */
static int gradient_done(void *ctx, int slot)
{
    TrainDevice *d = ctx;
    d->bucket[d->bucket_of[slot]].missing--;
    for (; d->begun < d->nbucket && !d->bucket[d->begun].missing; d->begun++) {
        const Bucket *b = &d->bucket[d->begun];
        TRY(add(d, b->first, b->count, exact_limit(d->task->comm)));
        TRY(train_reduce_begin(d->reduce, b->at, b->n));
    }
    return 0;
}

int train_device_run(TrainDevice *d, int last)
{
    TrainTask *t = d->task;
    if (last && t->comm->size > 1)
        return exec_run_watched(t->now.ex, gradient_done, d);
    TRY(exec_run(t->now.ex));
    return add(d, 0, d->s->count, last ? exact_limit(t->comm) : INT64_MAX);
}

int train_device_counts(TrainDevice *d, int64_t *left_out, int64_t *large, int64_t *first_slot)
{
    TRY(d->be->train->exact_counts(d->be, d->all, d->left_out, large));
    *left_out = 0;
    *first_slot = d->s->count;
    for (int i = d->s->count - 1; i >= 0; i--) {
        *left_out += d->left_out[i];
        *first_slot = d->left_out[i] ? i : *first_slot;
    }
    return 0;
}

int train_device_sum(TrainDevice *d)
{
    for (; d->begun < d->nbucket; d->begun++) /* a rank without a micro-batch */
        TRY(train_reduce_begin(d->reduce, d->bucket[d->begun].at, d->bucket[d->begun].n));
    return train_reduce_end(d->reduce);
}

int train_device_drop(TrainDevice *d)
{
    return train_reduce_is_early(d->reduce) ? train_device_sum(d) : 0;
}

int train_device_norm(TrainDevice *d, double *norm)
{
    TRY(d->be->train->exact_to_float(d->be, d->grad, d->sum, d->s->n, 1.0));
    TRY(d->be->train->sumsq(d->be, d->all, d->grad, d->s->n, norm));
    *norm = sqrt(*norm);
    return 0;
}

static int step_part(TrainDevice *d, OptimTable *table, OptimStep *step, const int *slot_of, int n, int first_array)
{
    for (int i = 0; i < n; i++)
        d->some[i] = d->rate[slot_of ? slot_of[i] : i];
    step->rate = d->some;
    step->p = d->param;
    step->grad = d->grad;
    for (int k = 0; k < 4; k++)
        step->array[k] = d->array[first_array + k];
    return d->be->train->step(d->be, table, step);
}

static int step_prodigy(TrainDevice *d, TrainOptimizer *o, const OptimAdamw *a)
{
    OptimProdigy estimate = train_optimizer_prodigy(o, d->s);
    const OptimFlat f = {d->param, d->array[2], d->array[0], d->array[1], d->array[3], d->grad};
    TRY(d->be->train->prodigy(d->be, d->all, &f, d->s->n, a, &estimate));
    train_optimizer_keep_prodigy(d->s, &estimate);
    return 0;
}

static float *part(const TrainDevice *d, int k, int slot)
{
    const TrainArray *a = &d->s->array[k];
    return k >= d->s->narray || a->at[slot] < 0 ? NULL : (float *)d->array[k] + a->at[slot];
}

static int step_adafactor(TrainDevice *d, TrainOptimizer *o, const OptimAdamw *a)
{
    for (int i = 0; i < d->s->count; i++) {
        const TrainSlot *t = &d->s->slot[i];
        OptimAdamw own = *a;
        own.lr = d->rate[i].lr;
        own.weight_decay = d->rate[i].weight_decay;
        OptimAdafactor x = train_optimizer_adafactor(o, &own);
        TRY(d->be->train->adafactor(d->be, d->all, (float *)d->param + t->offset, part(d, 0, i), part(d, 1, i), part(d, 2, i), part(d, 3, i),
                                    d->grad + t->offset, &t->shape, &x));
    }
    return 0;
}

static int step_here(TrainDevice *d, TrainOptimizer *o, float grad_scale)
{
    OptimStep step = {.kind = OPTIM_ADAMW};
    train_optimizer_terms(o, d->s, grad_scale, &step.a, &step.weight);
    if (d->task->conf->optimizer.name == TRAIN_PRODIGY)
        return step_prodigy(d, o, &step.a);
    train_optimizer_rates(o, d->s, d->rate);
    if (d->task->conf->optimizer.name == TRAIN_ADAFACTOR)
        return step_adafactor(d, o, &step.a);
    if (d->small) {
        TRY(step_part(d, d->small, &step, d->slot_small, d->nsmall, 0));
        step.kind = OPTIM_ADAMW8;
        return step_part(d, d->large, &step, d->slot_large, d->nlarge, 2);
    }
    if (d->task->conf->optimizer.name == TRAIN_LION)
        step.kind = OPTIM_LION;
    if (d->task->conf->optimizer.name == TRAIN_SCHEDULEFREE)
        step.kind = OPTIM_SCHEDULEFREE;
    return step_part(d, d->all, &step, NULL, d->s->count, 0);
}

int train_device_step(TrainDevice *d, TrainOptimizer *o, float grad_scale, float ema_rate)
{
    TRY(step_here(d, o, grad_scale));
    d->values_old = d->rest_old = 1;
    return d->ema ? d->be->train->ema(d->be, d->all, d->ema, d->param, ema_rate) : 0;
}
