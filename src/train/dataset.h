/* Captioned images: folders, lists and packs as one numbered set. Item numbers do not depend on ranks or on file times.
 *
 * Folder: images (.png .jpg .jpeg .webp) sorted by name, caption in NAME.txt or NAME.caption.
 * .jsonl: one object per line {"file_name" or "image": path, "text" or "caption": string}, paths relative to the list.
 * .csv:   a header with the same column names, RFC 4180 quoting.
 * .h5:    image pack: images uint8 [N,H,W,3], captions strings [N] (docs/formats.md).
 */
#ifndef TRAIN_DATASET_H
#define TRAIN_DATASET_H

#include "base/hash.h"
#include "io/image.h"
#include "train/conf.h"

typedef struct {
    char *path;       /* image file, or the pack */
    char *caption;
    int64_t row;      /* in the pack; -1 for a file */
    int32_t pack;     /* index of the open pack; -1 */
    float weight;     /* in the loss */
    int32_t set;      /* number of its dataset in the list; of class images the one after the last */
    char *mask;       /* image file; NULL without loss.mask=images */
} TrainItem;

typedef struct TrainDataset TrainDataset;

/* conf->datasets, and the class images of dreambooth: as many entries of an epoch as all others together.
 * Reads all lists and captions (not the images). ERR_NOTFOUND / ERR_FORMAT name the file and line. */
int train_dataset_open(TrainDataset **out, const TrainConf *c);
/* The same of another list than conf->datasets. */
int train_dataset_open_list(TrainDataset **out, const TrainConf *c, const ConfList *list);
void train_dataset_close(TrainDataset *d);
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

/* The image as res x res RGB: composited on the background, resized to cover, cropped (random: keyed by seed and
 * position), mirrored. *out: io_image_deinit. Thread-safe. */
int train_dataset_load(TrainDataset *d, int64_t item, uint64_t seed, int64_t position, int mirror, IoImage *out);
/* Weights 0..1 of the cells of that image, averages over res/h x res/w pixels: its mask's red channel, else its alpha channel (1 without
 * one). mask[h*w]. */
int train_dataset_mask(TrainDataset *d, int64_t item, uint64_t seed, int64_t position, int mirror, int h, int w, float *mask);
/* SHA-256 of the stored image's bytes and of all settings that change its pixels. */
int train_dataset_key(TrainDataset *d, int64_t item, int mirror, uint8_t key[HASH_SIZE]);
/* SHA-256 of all stored images, captions and masks in order, with repeats: the same for the same data, wherever it lies. */
int train_dataset_digest(TrainDataset *d, uint8_t out[HASH_SIZE]);

#endif
