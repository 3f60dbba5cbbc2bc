/* Captioned images: folders, lists and packs as one numbered set. Item numbers do not depend on ranks or on file times.
 *
 * Folder: images (.png .jpg .jpeg .webp) sorted by name, caption in NAME.txt or NAME.caption.
 * Folder without images: its folders named "N_class tokens", as kohya's trainers want them, each a subset.
 * .jsonl: one object per line {"file_name", "image" or "image_path": path, "text" or "caption": string, "tags": string}, paths relative
 *         to the list.
 * .json:  kohya's metadata: {"path or name of an image": {"caption": string, "tags": string}}.
 * .csv:   a header with the same column names, RFC 4180 quoting.
 * .h5:    image pack: images uint8 [N,H,W,3], captions strings [N] (docs/formats.md).
 *
 * Without buckets every image gets the size resolution x resolution. With them (train_dataset_make_buckets) each has its bucket's size, and
 * a micro-batch has images of one bucket. Bucket b is an endless sequence of its entries, a permutation of them per epoch, cut into
 * micro-batches of m; those that end in epoch e (floor((e+1) n_b / m) - floor(e n_b / m) of bucket b) are shown in it, in an order
 * keyed by (seed, e). So every entry is shown once per epoch of its bucket, no micro-batch is short, and which one has number k is a
 * function of (seed, k): any rank may compute it, and the exact sums of gradients do not care that sizes differ within a step. */
#ifndef TRAIN_DATASET_H
#define TRAIN_DATASET_H

#include "base/hash.h"
#include "comm/comm.h"
#include "io/image.h"
#include "train/bucket.h"
#include "train/conf.h"

typedef struct {
    char *path;       /* image file, or the pack */
    char *caption;    /* as stored: lines, alternatives and all */
    int64_t row;      /* in the pack; -1 for a file */
    int32_t pack;     /* index of the open pack; -1 */
    float weight;     /* in the loss */
    int32_t set;      /* number of its dataset in the list; of class images the one after the last */
    char *mask;       /* image file; NULL without loss.mask=images */
    int32_t subset;
    int32_t named;    /* the caption is not the image's own, but from settings, the folder's or the file's name */
    int32_t bucket;   /* -1 without buckets */
    TrainSize image;  /* stored size; 0 before train_dataset_scan */
    TrainSize size;   /* as it is trained on */
    TrainSize resized; /* before it is cut to that; with buckets only */
} TrainItem;

/* A folder, list or pack. */
typedef struct {
    char *path;
    const TrainDatasetConf *conf; /* borrowed from the dataset */
    int repeats;
    int64_t first, count; /* items */
    int64_t entries;      /* of an epoch */
} TrainSubset;

typedef struct TrainDataset TrainDataset;

/* conf->datasets, and the class images of dreambooth: as many entries of an epoch as all others together.
 * Reads all lists and captions (not the images); borrows c. ERR_NOTFOUND / ERR_FORMAT name the file and line. */
int train_dataset_open(TrainDataset **out, const TrainConf *c);
/* The same of another list than conf->datasets. */
int train_dataset_open_list(TrainDataset **out, const TrainConf *c, const ConfList *list);
void train_dataset_close(TrainDataset *d);
/* Hashes all images and reads their sizes, shared among the ranks. Collective. */
int train_dataset_scan(TrainDataset *d, Comm *comm);
/* After it, once: the buckets, where the settings ask for them. ERR_RANGE names an image that none can hold. */
int train_dataset_make_buckets(TrainDataset *d);
/* Number of buckets in use, 0 without; size of one and its entries in an epoch (NULL: not wanted). Sorted by size. */
int train_dataset_buckets(const TrainDataset *d);
TrainSize train_dataset_bucket(const TrainDataset *d, int b, int64_t *entries);
int train_dataset_subsets(const TrainDataset *d);
const TrainSubset *train_dataset_subset(const TrainDataset *d, int i); /* borrowed */
/* Settings of an item's dataset, else the run's. */
TrainCrop train_dataset_crop(const TrainDataset *d, const TrainItem *it);
int train_dataset_flips(const TrainDataset *d, const TrainItem *it);
/* Distinct items. */
int64_t train_dataset_count(const TrainDataset *d);
/* Borrowed. */
const TrainItem *train_dataset_item(const TrainDataset *d, int64_t i);
/* Entries of an epoch (items times repeats), and the item of entry e in 0..epoch-1. */
int64_t train_dataset_epoch(const TrainDataset *d);
int64_t train_dataset_entry(const TrainDataset *d, int64_t e);

/* Item shown at global position p = step * batch + j: the epoch's entries in an order keyed by (seed, epoch).
 * *mirror: whether it is mirrored there. Keeps the current epoch's permutation: positions of one epoch are cheap. */
int train_dataset_at(TrainDataset *d, uint64_t seed, int64_t position, int64_t *item, int *mirror);

/* With buckets: bucket and item at a position (NULL: not wanted). Positions k m .. k m + m - 1 are of one bucket. */
int train_dataset_bucket_at(TrainDataset *d, uint64_t seed, int64_t position, int *bucket, int64_t *item);
/* Replaces *out by the caption of an item at a position: empty for the dropped share; nothing is dropped at negative positions. */
int train_dataset_caption(const TrainDataset *d, int64_t item, uint64_t seed, int64_t position, StrBuf *out);
/* Whether it depends on the position, apart from being dropped. */
int train_dataset_caption_varies(const TrainDataset *d, int64_t item);

/* The image as RGB of its size: composited on the background, resized to cover, cropped (random: keyed by seed and
 * position), mirrored. *out: io_image_deinit. Thread-safe. */
int train_dataset_load(TrainDataset *d, int64_t item, uint64_t seed, int64_t position, int mirror, IoImage *out);
/* Weights 0..1 of the cells of that image, averages over blocks of pixels: its mask's red channel, else its alpha channel (1 without
 * one). mask[h*w]. */
int train_dataset_mask(TrainDataset *d, int64_t item, uint64_t seed, int64_t position, int mirror, int h, int w, float *mask);
/* The size to which an image of w x h is resized before it is cut. */
TrainSize train_dataset_resized(const TrainItem *it, int w, int h);
/* SHA-256 of the stored image's bytes. Borrowed. */
int train_dataset_content(TrainDataset *d, int64_t item, const uint8_t **hash);
/* SHA-256 of the stored image's bytes and of all settings that change its pixels. */
int train_dataset_key(TrainDataset *d, int64_t item, int mirror, uint8_t key[HASH_SIZE]);
/* SHA-256 of all stored images, captions and masks in order, with repeats: the same for the same data, wherever it lies. */
int train_dataset_digest(TrainDataset *d, uint8_t out[HASH_SIZE]);

#endif
