#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "io/file.h"
#include "train/dataset_impl.h"

enum { IMAGE_MAX_BYTES = 1 << 29 };

TrainSize train_dataset_resized(const TrainItem *it, int w, int h)
{
    TrainSize to = it->size;
    if (it->bucket >= 0 && w == it->image.w && h == it->image.h)
        return (TrainSize){it->resized.w > to.w ? it->resized.w : to.w, it->resized.h > to.h ? it->resized.h : to.h};
    /* The larger of the two ratios; the other side is rounded and never falls short. */
    int64_t a = (int64_t)to.w * h, b = (int64_t)to.h * w;
    TrainSize r = {a >= b ? to.w : (int)((2 * b + h) / (2 * (int64_t)h)), a >= b ? (int)((2 * a + w) / (2 * (int64_t)w)) : to.h};
    return (TrainSize){r.w < to.w ? to.w : r.w, r.h < to.h ? to.h : r.h};
}

static int read_row(const TrainPack *p, int64_t row, uint8_t *out)
{
    int rc;
#pragma omp critical(train_dataset_pack)
    rc = io_h5_read_rows(p->h5, "images", DTYPE_U8, row, 1, out);
    return rc;
}

static int load_pixels(TrainDataset *d, const TrainItem *it, IoImage *img)
{
    if (it->pack < 0)
        return io_image_load(img, it->path);
    const TrainPack *p = &d->packs[it->pack];
    TRY_CTX(io_image_init(img, (int)p->w, (int)p->h, 3), "%s", it->path);
    size_t size = (size_t)(p->w * p->h * 3);
    if (p->pixels) {
        memcpy(img->data, p->pixels + (size_t)it->row * size, size);
        return 0;
    }
    int rc = read_row(p, it->row, img->data);
    if (rc < 0)
        io_image_deinit(img);
    return rc;
}

/* Enlarged or shrunk to cover the item's size, then cut; after an error *img is empty. */
static int fit(TrainDataset *d, const TrainItem *it, uint64_t seed, int64_t position, int mirror, IoImage *img)
{
    IoImage big = {0}, cut = {0};
    TrainSize to = it->size, via = train_dataset_resized(it, img->w, img->h);
    int rc = 0, random = train_dataset_crop(d, it) == TRAIN_CROP_RANDOM;
    if (img->w != to.w || img->h != to.h) {
        rc = io_image_resize(&big, img, via.w, via.h, IO_FILTER_LANCZOS);
        if (rc >= 0) {
            RngStream r = rng_stream(rng_key(seed, RNG_CROP, (uint64_t)position, 0));
            int x = random ? (int)rng_stream_below(&r, (uint64_t)(via.w - to.w + 1)) : (via.w - to.w) / 2;
            int y = random ? (int)rng_stream_below(&r, (uint64_t)(via.h - to.h + 1)) : (via.h - to.h) / 2;
            rc = io_image_crop(&cut, &big, x, y, to.w, to.h);
        }
        io_image_deinit(&big);
        io_image_deinit(img);
        *img = cut;
    }
    if (rc >= 0 && mirror)
        io_image_flip_h(img);
    if (rc < 0)
        io_image_deinit(img);
    return rc;
}

int train_dataset_pixels(TrainDataset *d, int64_t item, IoImage *img)
{
    return load_pixels(d, &d->items[item], img);
}

int train_dataset_load(TrainDataset *d, int64_t item, uint64_t seed, int64_t position, int mirror, IoImage *out)
{
    IoImage img = {0};
    TRY(load_pixels(d, &d->items[item], &img));
    int rc = io_image_to_rgb(&img, d->background[0], d->background[1], d->background[2]);
    if (rc < 0)
        io_image_deinit(&img);
    else
        rc = fit(d, &d->items[item], seed, position, mirror, &img);
    TRY_CTX(rc, "%s", d->items[item].path);
    *out = img;
    return 0;
}

/* One channel of an image as an image of its own; without such a channel all of it is 255. */
static int one_channel(IoImage *img, int channel)
{
    IoImage out = {0};
    TRY(io_image_init(&out, img->w, img->h, 1));
    for (int64_t i = 0; i < (int64_t)img->w * img->h; i++)
        out.data[i] = channel < img->c ? img->data[i * img->c + channel] : 255;
    io_image_deinit(img);
    *img = out;
    return 0;
}

int train_dataset_mask(TrainDataset *d, int64_t item, uint64_t seed, int64_t position, int mirror, int h, int w, float *mask)
{
    const TrainItem *it = &d->items[item];
    IoImage img = {0};
    TRY(it->mask ? io_image_load(&img, it->mask) : load_pixels(d, it, &img));
    int rc = one_channel(&img, it->mask ? 0 : img.c == 2 ? 1 : 3);
    if (rc < 0)
        io_image_deinit(&img);
    else
        rc = fit(d, &d->items[item], seed, position, mirror, &img);
    TRY_CTX(rc, "%s", it->mask ? it->mask : it->path);
    int bh = img.h / h, bw = img.w / w;
    for (int y = 0; y < h; y++)
        for (int x = 0; x < w; x++) {
            int64_t sum = 0;
            for (int j = 0; j < bh * bw; j++)
                sum += img.data[(int64_t)(y * bh + j / bw) * img.w + x * bw + j % bw];
            mask[y * w + x] = (float)((double)sum / (255.0 * bh * bw));
        }
    io_image_deinit(&img);
    return 0;
}

static int scan_file(const TrainItem *it, uint8_t *hash, int *w, int *h)
{
    char *data = NULL;
    size_t size = 0;
    TRY(io_file_read(&data, &size, it->path, IMAGE_MAX_BYTES));
    int rc = hash_bytes(hash, data, size);
    if (rc >= 0 && w)
        rc = io_image_decode_size((const uint8_t *)data, size, it->path, w, h);
    free(data);
    return rc;
}

static int hash_row(TrainDataset *d, const TrainItem *it, uint8_t *hash)
{
    IoImage img = {0};
    int rc = load_pixels(d, it, &img);
    if (rc >= 0)
        rc = hash_bytes(hash, img.data, (size_t)img.w * (size_t)img.h * 3);
    io_image_deinit(&img);
    return rc;
}

int train_dataset_scan_item(TrainDataset *d, int64_t item)
{
    TrainItem *it = &d->items[item];
    if (it->pack < 0) {
        TRY(scan_file(it, d->content[item], &it->image.w, &it->image.h));
    } else {
        TRY(hash_row(d, it, d->content[item]));
        it->image = (TrainSize){(int)d->packs[it->pack].w, (int)d->packs[it->pack].h};
    }
    d->hashed[item] = 1;
    return 0;
}

static int hash_content(TrainDataset *d, int64_t item)
{
    const TrainItem *it = &d->items[item];
    if (d->hashed[item])
        return 0;
    TRY(it->pack < 0 ? scan_file(it, d->content[item], NULL, NULL) : hash_row(d, it, d->content[item]));
    d->hashed[item] = 1;
    return 0;
}

int train_dataset_content(TrainDataset *d, int64_t item, const uint8_t **hash)
{
    TRY(hash_content(d, item));
    *hash = d->content[item];
    return 0;
}

int train_dataset_key(TrainDataset *d, int64_t item, int mirror, uint8_t key[HASH_SIZE])
{
    const TrainItem *it = &d->items[item];
    int32_t how[10] = {d->conf->resolution, train_dataset_crop(d, it), mirror, d->background[0], d->background[1], d->background[2],
                       it->size.w, it->size.h, it->resized.w, it->resized.h};
    size_t used = it->bucket < 0 ? 6 : 10;
    Hash *h;
    TRY(hash_content(d, item));
    TRY(hash_create(&h));
    int rc = hash_update(h, d->content[item], HASH_SIZE);
    if (rc >= 0)
        rc = hash_update(h, how, used * sizeof *how);
    if (rc >= 0)
        rc = hash_finish(h, key);
    hash_destroy(h);
    return rc;
}

static int hash_mask(Hash *h, const char *path)
{
    uint8_t sum[HASH_SIZE];
    TRY(hash_file(sum, path));
    return hash_update(h, sum, sizeof sum);
}

int train_dataset_digest(TrainDataset *d, uint8_t out[HASH_SIZE])
{
    Hash *h;
    TRY(hash_create(&h));
    int rc = 0;
    for (int64_t i = 0; rc >= 0 && i < d->count; i++) {
        rc = hash_content(d, i);
        if (rc >= 0)
            rc = hash_update(h, d->content[i], HASH_SIZE);
        if (rc >= 0)
            rc = hash_update(h, d->items[i].caption, strlen(d->items[i].caption) + 1);
        if (rc >= 0 && d->items[i].mask)
            rc = hash_mask(h, d->items[i].mask);
    }
    if (rc >= 0)
        rc = hash_update(h, d->entries, (size_t)d->nentry * sizeof *d->entries);
    if (rc >= 0)
        rc = hash_finish(h, out);
    hash_destroy(h);
    return rc;
}
