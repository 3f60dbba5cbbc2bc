#include "train/bucket.h"

#include <math.h>
#include <stdlib.h>

int train_size_compare(const void *a, const void *b)
{
    const TrainSize *x = a, *y = b;
    return x->w != y->w ? (x->w < y->w ? -1 : 1) : (x->h > y->h) - (x->h < y->h);
}

static void add(TrainBuckets *b, int w, int h)
{
    for (int i = 0; i < b->count; i++)
        if (b->reso[i].w == w && b->reso[i].h == h)
            return;
    b->reso[b->count++] = (TrainSize){w, h};
}

int train_buckets_init(TrainBuckets *b, const TrainBucketConf *c, int resolution)
{
    *b = (TrainBuckets){.conf = c, .resolution = resolution};
    if (c->no_upscale)
        return 0;
    int64_t area = (int64_t)resolution * resolution;
    b->reso = malloc(((size_t)(c->max - c->min) / (size_t)c->steps + 2) * 2 * sizeof *b->reso);
    if (!b->reso)
        return err_set(ERR_NOMEM, "buckets: out of memory");
    int side = resolution / c->steps * c->steps;
    add(b, side, side);
    for (int w = c->min; w <= c->max; w += c->steps) {
        int64_t h = area / w / c->steps * c->steps;
        h = h < c->max ? h : c->max;
        if (h < c->min)
            continue;
        add(b, w, (int)h);
        add(b, (int)h, w);
    }
    qsort(b->reso, (size_t)b->count, sizeof *b->reso, train_size_compare);
    return 0;
}

void train_buckets_deinit(TrainBuckets *b)
{
    free(b->reso);
    *b = (TrainBuckets){0};
}

static void select_listed(const TrainBuckets *b, int w, int h, TrainSize *bucket, TrainSize *resized)
{
    double ratio = (double)w / h, best = 0;
    int at = -1, same = 0;
    for (int i = 0; i < b->count && !same; i++) {
        double error = fabs((double)b->reso[i].w / b->reso[i].h - ratio);
        same = b->reso[i].w == w && b->reso[i].h == h;
        if (at < 0 || error < best || same)
            at = i, best = error;
    }
    *bucket = b->reso[at];
    double scale = ratio > (double)bucket->w / bucket->h ? (double)bucket->h / h : (double)bucket->w / w;
    *resized = (TrainSize){(int)(w * scale + 0.5), (int)(h * scale + 0.5)};
}

static int round_down(double x, int steps)
{
    int v = (int)(x + 0.5);
    return v - v % steps;
}

/* One side becomes a multiple of steps: the one that changes the ratio less. */
static TrainSize shrink(const TrainBuckets *b, double ratio)
{
    int steps = b->conf->steps;
    double area = (double)b->resolution * b->resolution, width = sqrt(area * ratio), height = area / width;
    int w = round_down(width, steps), h_of_w = round_down(w / ratio, steps);
    int h = round_down(height, steps), w_of_h = round_down(h * ratio, steps);
    double by_w = h_of_w ? fabs((double)w / h_of_w - ratio) : INFINITY, by_h = h ? fabs((double)w_of_h / h - ratio) : INFINITY;
    return by_w < by_h ? (TrainSize){w, (int)(w / ratio + 0.5)} : (TrainSize){(int)(h * ratio + 0.5), h};
}

int train_buckets_select(const TrainBuckets *b, int w, int h, TrainSize *bucket, TrainSize *resized)
{
    if (!b->conf->no_upscale) {
        select_listed(b, w, h, bucket, resized);
        return 0;
    }
    int steps = b->conf->steps;
    *resized = (int64_t)w * h > (int64_t)b->resolution * b->resolution ? shrink(b, (double)w / h) : (TrainSize){w, h};
    *bucket = (TrainSize){resized->w - resized->w % steps, resized->h - resized->h % steps};
    if (bucket->w > 0 && bucket->h > 0)
        return 0;
    return err_set(ERR_RANGE, "image of %d x %d: no bucket can hold it without enlarging (bucket.steps %d, bucket.no_upscale)", w, h, steps);
}
