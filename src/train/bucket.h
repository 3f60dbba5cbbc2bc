/* Aspect-ratio buckets: sizes of about the same area that images are resized to cover and then cut to. The numbers are those of kohya's
 * sd-scripts: library/model_util.py make_bucket_resolutions, library/train_util.py BucketManager.select_bucket (doubles, as there). */
#ifndef TRAIN_BUCKET_H
#define TRAIN_BUCKET_H

#include "train/conf.h"

typedef struct {
    int w, h;
} TrainSize;

typedef struct {
    const TrainBucketConf *conf; /* borrowed */
    int resolution;
    TrainSize *reso;             /* sorted by w, then h; none with no_upscale */
    int count;
} TrainBuckets;

/* min and max must be multiples of steps (train_conf_check). */
int train_buckets_init(TrainBuckets *b, const TrainBucketConf *c, int resolution);
void train_buckets_deinit(TrainBuckets *b);
/* The bucket of an image of w x h and the size that it is resized to, which covers the bucket. ERR_RANGE for an image that no bucket
 * can hold (no_upscale, a side below steps). */
int train_buckets_select(const TrainBuckets *b, int w, int h, TrainSize *bucket, TrainSize *resized);
int train_size_compare(const void *a, const void *b); /* TrainSize: by w, then h */

#endif
