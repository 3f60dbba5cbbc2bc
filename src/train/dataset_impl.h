/* The inside of a TrainDataset: dataset.c, dataset_read.c (lists), dataset_pixels.c (images, hashes). */
#ifndef TRAIN_DATASET_IMPL_H
#define TRAIN_DATASET_IMPL_H

#include "io/h5.h"
#include "train/dataset.h"

typedef struct {
    IoH5 *h5;
    int64_t n, h, w;
    uint8_t *pixels; /* all images of a pack that fits into memory: single rows of compressed chunks are slow to read */
} TrainPack;

/* What a bucket holds, and the orders that its entries have in two epochs next to each other. */
typedef struct {
    TrainSize size;
    int64_t *entry, n;
    int64_t *order[2], epoch[2]; /* of even and odd epochs */
} TrainBucket;

struct TrainDataset {
    const TrainConf *conf;
    TrainDatasetConf *own; /* copies of the settings that it was opened with */
    int nown;
    TrainSubset *subset;
    int nsubset;
    TrainItem *items;
    int64_t count, cap;
    int64_t *entries;
    int64_t nentry, entry_cap;
    TrainPack *packs;
    int npack;
    uint8_t background[3];
    uint64_t seed;         /* of the orders below */
    int64_t *order;        /* permutation of `epoch` */
    int64_t epoch;
    TrainBucket *bucket;
    int nbucket;
    int64_t *micro, nmicro, micro_cap, micro_epoch; /* micro-batches of an epoch: bucket and number, two for each, in their order */
    uint8_t (*content)[HASH_SIZE]; /* of the stored images hashed so far */
    uint8_t *hashed;
};

int train_dataset_read(TrainDataset *d, const TrainDatasetConf *dc);
/* SHA-256 of the stored image and its size. Thread-safe for different items. */
int train_dataset_scan_item(TrainDataset *d, int64_t item);
/* The stored image. Thread-safe. */
int train_dataset_pixels(TrainDataset *d, int64_t item, IoImage *img);
int train_dataset_grow(void **array, int64_t *cap, int64_t need, size_t size);

#endif
