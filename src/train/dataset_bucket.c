#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "train/dataset_impl.h"

/* ---- one pass over all images, shared among the ranks ---- */

typedef struct {
    uint8_t hash[HASH_SIZE];
    int32_t w, h;
} Scanned;

/* Items rank, rank + size, ... of this rank; the first that fails is tried again for its message. */
static int scan_own(TrainDataset *d, int rank, int size)
{
    int64_t bad = INT64_MAX;
#pragma omp parallel for schedule(dynamic, 16) reduction(min : bad)
    for (int64_t i = rank; i < d->count; i += size)
        if (train_dataset_scan_item(d, i) < 0 && i < bad)
            bad = i;
    return bad == INT64_MAX ? 0 : train_dataset_scan_item(d, bad);
}

static int share(TrainDataset *d, Comm *comm)
{
    int64_t each = (d->count + comm->size - 1) / comm->size;
    Scanned *mine = calloc((size_t)each + 1, sizeof *mine), *all = calloc((size_t)(each * comm->size) + 1, sizeof *all);
    int rc = mine && all ? 0 : err_set(ERR_NOMEM, "dataset: out of memory");
    for (int64_t i = comm->rank, k = 0; rc >= 0 && i < d->count; i += comm->size, k++) {
        memcpy(mine[k].hash, d->content[i], HASH_SIZE);
        mine[k].w = d->items[i].image.w;
        mine[k].h = d->items[i].image.h;
    }
    rc = comm_agree(comm, rc);
    if (rc >= 0)
        rc = comm_allgather(comm, mine, each * (int64_t)sizeof *mine, all);
    for (int64_t i = 0; rc >= 0 && i < d->count; i++) {
        const Scanned *s = &all[i % comm->size * each + i / comm->size];
        memcpy(d->content[i], s->hash, HASH_SIZE);
        d->items[i].image = (TrainSize){s->w, s->h};
        d->hashed[i] = 1;
    }
    free(mine);
    free(all);
    return rc;
}

/* ---- buckets ---- */

static int choose_sizes(TrainDataset *d)
{
    TrainBuckets b;
    int rc = train_buckets_init(&b, &d->conf->bucket, d->conf->resolution);
    for (int64_t i = 0; rc >= 0 && i < d->count; i++) {
        TrainItem *it = &d->items[i];
        rc = train_buckets_select(&b, it->image.w, it->image.h, &it->size, &it->resized);
        if (rc < 0)
            rc = err_context(rc, "%s", it->path);
    }
    train_buckets_deinit(&b);
    return rc;
}

/* The sizes in use, sorted; every item learns the place of its own. */
static int make_buckets(TrainDataset *d)
{
    TrainSize *size = malloc((size_t)d->count * sizeof *size);
    int n = 0;
    if (!size)
        return err_set(ERR_NOMEM, "buckets: out of memory");
    for (int64_t i = 0; i < d->count; i++)
        size[i] = d->items[i].size;
    qsort(size, (size_t)d->count, sizeof *size, train_size_compare);
    for (int64_t i = 0; i < d->count; i++)
        if (!n || train_size_compare(&size[i], &size[n - 1]))
            size[n++] = size[i];
    d->bucket = calloc((size_t)n, sizeof *d->bucket);
    d->nbucket = d->bucket ? n : 0;
    for (int b = 0; b < d->nbucket; b++)
        d->bucket[b] = (TrainBucket){.size = size[b], .epoch = {-1, -1}};
    for (int64_t i = 0; d->bucket && i < d->count; i++) {
        const TrainSize *at = bsearch(&d->items[i].size, size, (size_t)n, sizeof *size, train_size_compare);
        d->items[i].bucket = (int32_t)(at - size);
    }
    free(size);
    return d->bucket ? 0 : err_set(ERR_NOMEM, "buckets: out of memory");
}

static int fill_buckets(TrainDataset *d)
{
    for (int64_t e = 0; e < d->nentry; e++)
        d->bucket[d->items[d->entries[e]].bucket].n++;
    for (int k = 0; k < d->nbucket; k++) {
        TrainBucket *b = &d->bucket[k];
        size_t bytes = (size_t)(b->n + 1) * sizeof(int64_t);
        b->entry = malloc(bytes);
        b->order[0] = malloc(bytes);
        b->order[1] = malloc(bytes);
        if (!b->entry || !b->order[0] || !b->order[1])
            return err_set(ERR_NOMEM, "buckets: out of memory");
        b->n = 0;
    }
    for (int64_t e = 0; e < d->nentry; e++) {
        TrainBucket *b = &d->bucket[d->items[d->entries[e]].bucket];
        b->entry[b->n++] = e;
    }
    return 0;
}

int train_dataset_scan(TrainDataset *d, Comm *comm)
{
    TRY(comm_agree(comm, scan_own(d, comm->rank, comm->size)));
    return share(d, comm);
}

int train_dataset_make_buckets(TrainDataset *d)
{
    if (!d->conf->bucket.enabled)
        return 0;
    TRY(choose_sizes(d));
    TRY(make_buckets(d));
    return fill_buckets(d);
}

int train_dataset_buckets(const TrainDataset *d)
{
    return d->nbucket;
}

TrainSize train_dataset_bucket(const TrainDataset *d, int b, int64_t *entries)
{
    if (entries)
        *entries = d->bucket[b].n;
    return d->bucket[b].size;
}

/* ---- order ---- */

/* Micro-batches before epoch e: bucket b has given away floor(e n_b / m) of its own. */
static int64_t micro_before(const TrainDataset *d, int64_t e)
{
    int64_t sum = 0;
    for (int b = 0; b < d->nbucket; b++)
        sum += (int64_t)((__int128)e * d->bucket[b].n / d->conf->micro_batch);
    return sum;
}

static int64_t epoch_of(const TrainDataset *d, int64_t micro)
{
    int64_t lo = 0, hi = 1;
    while (micro_before(d, hi) <= micro)
        hi *= 2;
    while (hi - lo > 1) { /* before(lo) <= micro < before(hi) */
        int64_t mid = lo + (hi - lo) / 2;
        *(micro_before(d, mid) <= micro ? &lo : &hi) = mid;
    }
    return lo;
}

/* The micro-batches that end in this epoch, in an order of their own. */
static int list_epoch(TrainDataset *d, uint64_t seed, int64_t epoch)
{
    int64_t n = micro_before(d, epoch + 1) - micro_before(d, epoch), k = 0, m = d->conf->micro_batch;
    int64_t *order = malloc((size_t)(n + 1) * sizeof *order);
    int rc = order ? 0 : err_set(ERR_NOMEM, "buckets: out of memory");
    if (rc >= 0 && 2 * n > d->micro_cap) {
        int64_t *p = realloc(d->micro, (size_t)(2 * n) * sizeof *p);
        rc = p ? 0 : err_set(ERR_NOMEM, "buckets: out of memory");
        if (p)
            d->micro = p, d->micro_cap = 2 * n;
    }
    if (rc >= 0)
        rng_permutation(order, n, rng_key(seed, RNG_BUCKET, 0, (uint64_t)epoch));
    for (int b = 0; rc >= 0 && b < d->nbucket; b++) {
        int64_t from = (int64_t)((__int128)epoch * d->bucket[b].n / m), to = (int64_t)((__int128)(epoch + 1) * d->bucket[b].n / m);
        for (int64_t i = from; i < to; i++, k++) {
            d->micro[2 * order[k]] = b;
            d->micro[2 * order[k] + 1] = i;
        }
    }
    free(order);
    d->micro_epoch = rc < 0 ? -1 : epoch;
    d->seed = seed;
    return rc;
}

/* Entry s of the endless sequence of a bucket: its entries once in every epoch, in the order of that epoch. */
static int64_t entry_at(const TrainDataset *d, int k, uint64_t seed, int64_t s)
{
    TrainBucket *b = &d->bucket[k];
    int64_t epoch = s / b->n;
    int slot = (int)(epoch & 1);
    if (b->epoch[slot] != epoch) {
        rng_permutation(b->order[slot], b->n, rng_key(seed, RNG_SHUFFLE, (uint64_t)k + 1, (uint64_t)epoch));
        b->epoch[slot] = epoch;
    }
    return b->entry[b->order[slot][s % b->n]];
}

int train_dataset_bucket_at(TrainDataset *d, uint64_t seed, int64_t position, int *bucket, int64_t *item)
{
    int64_t m = d->conf->micro_batch, micro = position / m, epoch = epoch_of(d, micro);
    if (seed != d->seed)
        for (int b = 0; b < d->nbucket; b++)
            d->bucket[b].epoch[0] = d->bucket[b].epoch[1] = -1;
    if (epoch != d->micro_epoch || seed != d->seed)
        TRY(list_epoch(d, seed, epoch));
    const int64_t *at = &d->micro[2 * (micro - micro_before(d, epoch))];
    if (bucket)
        *bucket = (int)at[0];
    if (item)
        *item = d->entries[entry_at(d, (int)at[0], seed, at[1] * m + position % m)];
    return 0;
}
