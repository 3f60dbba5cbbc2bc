#include "train/dataset_impl.h"

#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "io/file.h"
#include "train/caption.h"
#include "train/dreambooth.h"

int train_dataset_grow(void **array, int64_t *cap, int64_t need, size_t size)
{
    if (need <= *cap)
        return 0;
    int64_t n = *cap ? *cap * 2 : 1024;
    void *p = realloc(*array, (size_t)n * size);
    if (!p)
        return err_set(ERR_NOMEM, "dataset: out of memory for %lld items", (long long)n);
    *array = p;
    *cap = n;
    return 0;
}

/* What a subset's settings say about its items. */
static int mark_items(TrainDataset *d, const TrainSubset *s)
{
    const TrainDatasetConf *dc = s->conf;
    for (int64_t i = s->first; i < s->first + s->count; i++) {
        TrainItem *it = &d->items[i];
        it->weight = dc->weight * (dc->is_reg ? d->conf->prior_weight : 1);
        it->set = (int32_t)(dc - d->own);
        if (dc->prompt[0]) {
            free(it->caption);
            it->caption = NULL;
            TRY(str_copy(&it->caption, dc->prompt));
        }
        it->size = (TrainSize){d->conf->resolution, d->conf->resolution};
        if (d->conf->loss.mask != TRAIN_MASK_IMAGES)
            continue;
        if (!dc->masks[0] || it->pack >= 0)
            return err_set(ERR_NOTFOUND, "%s: loss.mask=images needs datasets.*.masks, a folder with a mask for every image", dc->path);
        TRY(io_path_join(&it->mask, dc->masks, io_path_name(it->path)));
        if (!io_file_exists(it->mask))
            return err_set(ERR_NOTFOUND, "%s: no such mask (datasets.*.masks, loss.mask=images)", it->mask);
    }
    return 0;
}

static int add_entries(TrainDataset *d, int64_t item, int64_t times)
{
    for (int64_t r = 0; r < times; r++) {
        TRY(train_dataset_grow((void **)&d->entries, &d->entry_cap, d->nentry + 1, sizeof *d->entries));
        d->entries[d->nentry++] = item;
    }
    return 0;
}

/* kohya (DreamBoothDataset): regularisation images fill up to the number of the others, first each with its repeats, then one by one;
 * those beyond that number are not used. */
static int add_regularisation(TrainDataset *d, int64_t *times)
{
    int64_t wanted = d->nentry, n = 0, before = -1;
    for (int round = 0; n < wanted && n != before; round++) {
        before = n;
        for (int s = 0; s < d->nsubset; s++)
            for (int64_t i = 0; d->subset[s].conf->is_reg && i < d->subset[s].count && n < wanted; i++) {
                int64_t k = round ? 1 : d->subset[s].repeats;
                times[d->subset[s].first + i] += k;
                n += k;
            }
    }
    for (int64_t i = 0; i < d->count; i++)
        if (d->subset[d->items[i].subset].conf->is_reg)
            TRY(add_entries(d, i, times[i]));
    return 0;
}

static void count_entries(TrainDataset *d)
{
    for (int i = 0; i < d->nsubset; i++)
        d->subset[i].entries = 0;
    for (int64_t e = 0; e < d->nentry; e++)
        d->subset[d->items[d->entries[e]].subset].entries++;
}

static int make_entries(TrainDataset *d)
{
    for (int64_t i = 0; i < d->count; i++) {
        const TrainSubset *s = &d->subset[d->items[i].subset];
        if (!s->conf->is_reg)
            TRY(add_entries(d, i, s->repeats));
    }
    int64_t *times = calloc((size_t)d->count + 1, sizeof *times);
    int rc = times ? add_regularisation(d, times) : err_set(ERR_NOMEM, "dataset: out of memory");
    free(times);
    TRY(rc);
    return d->nentry ? 0 : err_set(ERR_NOTFOUND, d->count ? "all datasets are regularisation images (is_reg)" : "the datasets hold no images");
}

/* The entries from `first` on and those before it are repeated in turn until there are as many of both. */
static int balance(TrainDataset *d, int64_t first)
{
    int64_t a = first, b = d->nentry - first, n = a > b ? a : b;
    int64_t *entries = malloc((size_t)(2 * n) * sizeof *entries);
    int64_t *order = malloc((size_t)(2 * n) * sizeof *order);
    if (!entries || !order) {
        free(entries);
        free(order);
        return err_set(ERR_NOMEM, "dataset: out of memory");
    }
    for (int64_t i = 0; i < n; i++) {
        entries[i] = d->entries[i % a];
        entries[n + i] = d->entries[first + i % b];
    }
    free(d->entries);
    free(d->order);
    d->entries = entries;
    d->order = order;
    d->nentry = d->entry_cap = 2 * n;
    count_entries(d);
    return 0;
}

int train_dataset_open(TrainDataset **out, const TrainConf *c)
{
    ConfList sets;
    int64_t first = 0;
    int rc = train_dreambooth_sets(c, &sets);
    if (rc >= 0)
        rc = train_dataset_open_list(out, c, &sets);
    if (rc >= 0 && sets.count > c->datasets.count) {
        TrainDataset *d = *out;
        while (first < d->nentry && d->items[d->entries[first]].set < c->datasets.count)
            first++;
        rc = balance(d, first);
        if (rc < 0)
            train_dataset_close(d);
    }
    train_dreambooth_sets_deinit(c, &sets);
    return rc;
}

int train_dataset_open_list(TrainDataset **out, const TrainConf *c, const ConfList *list)
{
    TrainDataset *d = calloc(1, sizeof *d);
    if (!d)
        return err_set(ERR_NOMEM, "dataset: out of memory");
    d->conf = c;
    d->epoch = d->micro_epoch = -1;
    for (int i = 0; i < 3; i++)
        d->background[i] = (uint8_t)c->background.items[i];
    int rc = 0;
    const TrainDatasetConf *dc = list->items;
    if (list->count && !(d->own = calloc((size_t)list->count, sizeof *d->own)))
        rc = err_set(ERR_NOMEM, "dataset: out of memory");
    for (int i = 0; rc >= 0 && i < list->count; i++) {
        int first = d->nsubset;
        rc = config_copy(&train_dataset_table, &d->own[d->nown++], &dc[i]);
        if (rc >= 0)
            rc = train_dataset_read(d, &d->own[i]);
        for (; rc >= 0 && first < d->nsubset; first++)
            rc = mark_items(d, &d->subset[first]);
    }
    if (rc >= 0)
        rc = make_entries(d);
    if (rc >= 0)
        count_entries(d);
    if (rc >= 0) {
        d->order = malloc((size_t)d->nentry * sizeof *d->order);
        d->content = malloc((size_t)d->count * sizeof *d->content);
        d->hashed = calloc((size_t)d->count, 1);
        rc = d->order && d->content && d->hashed ? 0 : err_set(ERR_NOMEM, "dataset: out of memory");
    }
    if (rc < 0) {
        train_dataset_close(d);
        return rc;
    }
    *out = d;
    return 0;
}

void train_dataset_close(TrainDataset *d)
{
    if (!d)
        return;
    for (int64_t i = 0; i < d->count; i++) {
        free(d->items[i].path);
        free(d->items[i].caption);
        free(d->items[i].mask);
    }
    for (int i = 0; i < d->npack; i++) {
        io_h5_close(d->packs[i].h5);
        free(d->packs[i].pixels);
    }
    for (int i = 0; i < d->nsubset; i++)
        free(d->subset[i].path);
    for (int i = 0; i < d->nown; i++)
        config_deinit(&train_dataset_table, &d->own[i]);
    free(d->own);
    for (int i = 0; i < d->nbucket; i++) {
        free(d->bucket[i].entry);
        free(d->bucket[i].order[0]);
        free(d->bucket[i].order[1]);
    }
    free(d->bucket);
    free(d->micro);
    free(d->subset);
    free(d->items);
    free(d->entries);
    free(d->packs);
    free(d->order);
    free(d->content);
    free(d->hashed);
    free(d);
}

int64_t train_dataset_count(const TrainDataset *d)
{
    return d->count;
}

const TrainItem *train_dataset_item(const TrainDataset *d, int64_t i)
{
    return &d->items[i];
}

int train_dataset_subsets(const TrainDataset *d)
{
    return d->nsubset;
}

const TrainSubset *train_dataset_subset(const TrainDataset *d, int i)
{
    return &d->subset[i];
}

int64_t train_dataset_epoch(const TrainDataset *d)
{
    return d->nentry;
}

int64_t train_dataset_entry(const TrainDataset *d, int64_t e)
{
    return d->entries[e];
}

TrainCrop train_dataset_crop(const TrainDataset *d, const TrainItem *it)
{
    int own = d->subset[it->subset].conf->crop;
    return (TrainCrop)(own ? own - 1 : d->conf->crop);
}

int train_dataset_flips(const TrainDataset *d, const TrainItem *it)
{
    int own = d->subset[it->subset].conf->flip;
    return own ? own - 1 : d->conf->flip;
}

int train_dataset_at(TrainDataset *d, uint64_t seed, int64_t position, int64_t *item, int *mirror)
{
    if (d->nbucket) {
        TRY(train_dataset_bucket_at(d, seed, position, NULL, item));
    } else {
        int64_t epoch = position / d->nentry;
        if (epoch != d->epoch || seed != d->seed) {
            rng_permutation(d->order, d->nentry, rng_key(seed, RNG_SHUFFLE, 0, (uint64_t)epoch));
            d->epoch = epoch;
            d->seed = seed;
        }
        *item = d->entries[d->order[position % d->nentry]];
    }
    int flips = train_dataset_flips(d, &d->items[*item]);
    *mirror = flips && (rng_u32(rng_key(seed, RNG_FLIP, (uint64_t)position, 0), 0) & 1);
    return 0;
}

int train_dataset_caption_varies(const TrainDataset *d, int64_t item)
{
    return train_caption_varies(d->subset[d->items[item].subset].conf, d->items[item].caption);
}

static int is_dropped(const TrainDataset *d, const TrainDatasetConf *c, uint64_t seed, int64_t position)
{
    float rate = c->caption_dropout < 0 ? d->conf->caption_dropout : c->caption_dropout;
    int64_t epoch = 1 + position / d->nentry;
    return rng_uniform(rng_key(seed, RNG_CAPTION, (uint64_t)position, 0), 0) < rate ||
           (c->caption_dropout_every && epoch % c->caption_dropout_every == 0);
}

int train_dataset_caption(const TrainDataset *d, int64_t item, uint64_t seed, int64_t position, StrBuf *out)
{
    const TrainDatasetConf *c = d->subset[d->items[item].subset].conf;
    str_clear(out);
    if (position >= 0 && is_dropped(d, c, seed, position))
        return 0;
    return train_caption_make(out, c, d->items[item].caption, seed, position);
}
