#include "train/dataset.h"

#include <ctype.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "io/file.h"
#include "io/h5.h"
#include "train/csv.h"
#include "train/dreambooth.h"

enum { LIST_MAX_BYTES = 1 << 30, CAPTION_MAX_BYTES = 1 << 16, IMAGE_MAX_BYTES = 1 << 29 };

#define PACK_MEMORY_MAX ((int64_t)1 << 30)

typedef struct {
    IoH5 *h5;
    int64_t n, h, w;
    uint8_t *pixels; /* all images of a pack of up to PACK_MEMORY_MAX bytes: single rows of compressed chunks are slow to read */
} Pack;

struct TrainDataset {
    TrainItem *items;
    int64_t count, cap;
    int64_t *entries;
    int64_t nentry, entry_cap;
    Pack *packs;
    int npack;
    int resolution, crop, flip;
    uint8_t background[3];
    int64_t *order;      /* permutation of `epoch` under `seed` */
    int64_t epoch;
    uint64_t seed;
    uint8_t (*content)[HASH_SIZE]; /* of the stored images hashed so far */
    uint8_t *hashed;
};

static int grow(void **array, int64_t *cap, int64_t need, size_t size)
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

static int add_item(TrainDataset *d, const char *path, const char *caption, int32_t pack, int64_t row, int repeats)
{
    TRY(grow((void **)&d->items, &d->cap, d->count + 1, sizeof *d->items));
    TrainItem *it = &d->items[d->count];
    *it = (TrainItem){.path = strdup(path), .caption = strdup(caption), .row = row, .pack = pack, .weight = 1};
    d->count++;
    if (!it->path || !it->caption)
        return err_set(ERR_NOMEM, "dataset: out of memory");
    for (int r = 0; r < repeats; r++) {
        TRY(grow((void **)&d->entries, &d->entry_cap, d->nentry + 1, sizeof *d->entries));
        d->entries[d->nentry++] = d->count - 1;
    }
    return 0;
}

static int is_image(const char *name)
{
    static const char *const ext[] = {".png", ".jpg", ".jpeg", ".webp"};
    for (size_t i = 0; i < sizeof ext / sizeof *ext; i++)
        if (!strcasecmp(io_path_ext(name), ext[i]))
            return 1;
    return 0;
}

static void trim(char *s)
{
    size_t n = strlen(s), k = 0;
    while (n && isspace((unsigned char)s[n - 1]))
        s[--n] = 0;
    while (isspace((unsigned char)s[k]))
        k++;
    memmove(s, s + k, n - k + 1);
}

/* NAME.txt, NAME.caption, the configured caption, or the file name in words. */
static int find_caption(char **out, const char *path, const TrainDatasetConf *dc)
{
    static const char *const ext[] = {".txt", ".caption"};
    int stem = (int)(strlen(path) - strlen(io_path_ext(path)));
    for (int i = 0; i < 2; i++) {
        char *file;
        size_t size;
        TRY(str_format(&file, "%.*s%s", stem, path, ext[i]));
        int found = io_file_exists(file);
        int rc = found ? io_file_read(out, &size, file, CAPTION_MAX_BYTES) : 0;
        if (found && rc >= 0 && !str_is_utf8(*out, size)) {
            free(*out);
            *out = NULL;
            rc = err_set(ERR_FORMAT, "%s: caption is not UTF-8", file);
        }
        free(file);
        if (found) {
            if (rc >= 0)
                trim(*out);
            return rc;
        }
    }
    if (dc->caption[0])
        return str_copy(out, dc->caption);
    const char *name = io_path_name(path);
    TRY(str_format(out, "%.*s", (int)(strlen(name) - strlen(io_path_ext(name))), name));
    for (char *p = *out; *p; p++)
        if (*p == '_' || *p == '-')
            *p = ' ';
    return 0;
}

static int open_folder(TrainDataset *d, const TrainDatasetConf *dc)
{
    IoNames names = {0};
    int rc = io_dir_list(&names, dc->path, NULL);
    int64_t before = d->count;
    for (int i = 0; rc >= 0 && i < names.count; i++) {
        char *path = NULL, *caption = NULL;
        if (!is_image(names.items[i]))
            continue;
        rc = io_path_join(&path, dc->path, names.items[i]);
        if (rc >= 0)
            rc = find_caption(&caption, path, dc);
        if (rc >= 0)
            rc = add_item(d, path, caption, -1, -1, dc->repeats);
        free(path);
        free(caption);
    }
    io_names_deinit(&names);
    if (rc >= 0 && d->count == before)
        return err_set(ERR_NOTFOUND, "%s: no images (.png, .jpg, .jpeg, .webp) in this folder", dc->path);
    return rc;
}

static int add_listed(TrainDataset *d, const TrainDatasetConf *dc, int line, const char *file, const char *caption)
{
    char *dir = NULL, *path = NULL, *found = NULL;
    int rc = 0;
    if (!file)
        return err_set(ERR_FORMAT, "%s:%d: no file_name or image", dc->path, line);
    TRY_GOTO(io_path_dir(&dir, dc->path));
    TRY_GOTO(io_path_join(&path, dir, file));
    if (!io_file_exists(path)) {
        rc = err_set(ERR_NOTFOUND, "%s:%d: no such image: %s", dc->path, line, path);
        goto done;
    }
    if (!caption)
        TRY_GOTO(find_caption(&found, path, dc));
    rc = add_item(d, path, caption ? caption : found, -1, -1, dc->repeats);
done:
    free(dir);
    free(path);
    free(found);
    return rc;
}

/* The string under either key; *out = NULL when both are absent. */
static int json_text(const json_t *o, const char *a, const char *b, const char **out)
{
    const json_t *v = json_object_get(o, a);
    const char *key = v ? a : b;
    if (!v)
        v = json_object_get(o, b);
    *out = json_string_value(v);
    return v && !*out ? err_set(ERR_FORMAT, "key '%s': expected a string", key) : 0;
}

static int add_json(TrainDataset *d, const TrainDatasetConf *dc, int line, const json_t *o)
{
    const char *file, *caption;
    int rc = json_text(o, "file_name", "image", &file);
    if (rc >= 0)
        rc = json_text(o, "text", "caption", &caption);
    TRY_CTX(rc, "%s:%d", dc->path, line);
    return add_listed(d, dc, line, file, caption);
}

static int open_jsonl(TrainDataset *d, const TrainDatasetConf *dc)
{
    char *text;
    size_t size;
    TRY(io_file_read(&text, &size, dc->path, LIST_MAX_BYTES));
    int rc = 0, line = 0;
    for (char *p = text, *end; rc >= 0 && p < text + size; p = end + 1) {
        end = memchr(p, '\n', (size_t)(text + size - p));
        if (!end)
            end = text + size;
        line++;
        json_error_t je;
        size_t n = (size_t)(end - p);
        while (n && isspace((unsigned char)p[n - 1]))
            n--;
        if (!n)
            continue;
        json_t *o = json_loadb(p, n, JSON_REJECT_DUPLICATES, &je);
        if (!o || !json_is_object(o))
            rc = err_set(ERR_FORMAT, "%s:%d: expected a JSON object: %s", dc->path, line, o ? "another value" : je.text);
        else
            rc = add_json(d, dc, line, o);
        json_decref(o);
    }
    free(text);
    return rc;
}

static int open_csv(TrainDataset *d, const TrainDatasetConf *dc)
{
    char *text;
    size_t size;
    TRY(io_file_read(&text, &size, dc->path, LIST_MAX_BYTES));
    TrainCsv csv;
    if (strlen(text) != size || !str_is_utf8(text, size)) {
        free(text);
        return err_set(ERR_FORMAT, "%s: is not UTF-8 text", dc->path);
    }
    train_csv_init(&csv, text, dc->path);
    int rc = train_csv_next(&csv), file_col = -1, text_col = -1;
    for (int i = 0; rc > 0 && i < csv.count; i++) {
        const char *h = csv.field[i];
        if (!strcmp(h, "file_name") || !strcmp(h, "image"))
            file_col = i;
        if (!strcmp(h, "text") || !strcmp(h, "caption"))
            text_col = i;
    }
    if (rc >= 0 && file_col < 0)
        rc = err_set(ERR_FORMAT, "%s:1: expected a header with a column file_name or image", dc->path);
    while (rc >= 0 && (rc = train_csv_next(&csv)) > 0) {
        if (csv.count <= file_col || csv.count <= text_col)
            rc = err_set(ERR_FORMAT, "%s:%d: %d fields, fewer than the header", dc->path, csv.line, csv.count);
        else
            rc = add_listed(d, dc, csv.line, csv.field[file_col], text_col < 0 ? NULL : csv.field[text_col]);
    }
    train_csv_deinit(&csv);
    free(text);
    return rc;
}

static int load_pack(Pack *p)
{
    int64_t bytes = p->n * p->h * p->w * 3;
    if (bytes > PACK_MEMORY_MAX || !(p->pixels = malloc((size_t)bytes + 1)))
        return 0;
    return io_h5_read(p->h5, "images", DTYPE_U8, p->pixels, bytes);
}

static int open_pack(TrainDataset *d, const TrainDatasetConf *dc)
{
    Pack p = {0};
    IoH5Info info;
    char **captions = NULL;
    int64_t n = 0;
    int rc;
    TRY(io_h5_open(&p.h5, dc->path));
    TRY_GOTO(io_h5_info(p.h5, "images", &info));
    if (info.dtype != DTYPE_U8 || info.ndim != 4 || info.dim[3] != 3) {
        rc = err_set(ERR_FORMAT, "%s: images: expected uint8 [N,H,W,3]", dc->path);
        goto done;
    }
    p.n = info.dim[0], p.h = info.dim[1], p.w = info.dim[2];
    TRY_GOTO(io_h5_read_strings(p.h5, "captions", &captions, &n));
    if (n != p.n) {
        rc = err_set(ERR_FORMAT, "%s: %lld captions for %lld images", dc->path, (long long)n, (long long)p.n);
        goto done;
    }
    TRY_GOTO(load_pack(&p));
    Pack *packs = realloc(d->packs, (size_t)(d->npack + 1) * sizeof *packs);
    if (!packs) {
        rc = err_set(ERR_NOMEM, "dataset: out of memory");
        goto done;
    }
    d->packs = packs;
    for (int64_t i = 0; rc >= 0 && i < n; i++)
        rc = add_item(d, dc->path, captions[i], d->npack, i, dc->repeats);
    d->packs[d->npack++] = p;
    p = (Pack){0};
done:
    free(captions);
    free(p.pixels);
    if (p.h5)
        io_h5_close(p.h5);
    return rc;
}

static int open_one(TrainDataset *d, const TrainDatasetConf *dc)
{
    const char *ext = io_path_ext(dc->path);
    if (io_file_is_dir(dc->path))
        return open_folder(d, dc);
    if (!strcmp(ext, ".jsonl"))
        return open_jsonl(d, dc);
    if (!strcmp(ext, ".csv"))
        return open_csv(d, dc);
    if (!strcmp(ext, ".h5"))
        return open_pack(d, dc);
    if (!io_file_exists(dc->path))
        return err_set(ERR_NOTFOUND, "%s: no such dataset (datasets.path)", dc->path);
    return err_set(ERR_FORMAT, "%s: expected a folder, .jsonl, .csv or .h5 (datasets.path)", dc->path);
}

/* What a folder's settings say about its items, from the first one on. */
static int mark_items(TrainDataset *d, int64_t first, const TrainDatasetConf *dc, int32_t set, int masks)
{
    for (int64_t i = first; i < d->count; i++) {
        TrainItem *it = &d->items[i];
        it->weight = dc->weight;
        it->set = set;
        if (dc->prompt && dc->prompt[0]) {
            free(it->caption);
            it->caption = NULL;
            TRY(str_copy(&it->caption, dc->prompt));
        }
        if (!masks)
            continue;
        if (!dc->masks[0] || it->pack >= 0)
            return err_set(ERR_NOTFOUND, "%s: loss.mask=images needs datasets.*.masks, a folder with a mask for every image", dc->path);
        TRY(io_path_join(&it->mask, dc->masks, io_path_name(it->path)));
        if (!io_file_exists(it->mask))
            return err_set(ERR_NOTFOUND, "%s: no such mask (datasets.*.masks, loss.mask=images)", it->mask);
    }
    return 0;
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
    d->resolution = c->resolution;
    d->crop = c->crop;
    d->flip = c->flip;
    d->epoch = -1;
    for (int i = 0; i < 3; i++)
        d->background[i] = (uint8_t)c->background.items[i];
    int rc = 0;
    const TrainDatasetConf *dc = list->items;
    for (int i = 0; rc >= 0 && i < list->count; i++) {
        int64_t first = d->count;
        rc = open_one(d, &dc[i]);
        if (rc >= 0)
            rc = mark_items(d, first, &dc[i], i, c->loss.mask == TRAIN_MASK_IMAGES);
    }
    if (rc >= 0 && d->nentry == 0)
        rc = err_set(ERR_NOTFOUND, "the datasets hold no images");
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

int64_t train_dataset_epoch(const TrainDataset *d)
{
    return d->nentry;
}

int64_t train_dataset_entry(const TrainDataset *d, int64_t e)
{
    return d->entries[e];
}

int train_dataset_at(TrainDataset *d, uint64_t seed, int64_t position, int64_t *item, int *mirror)
{
    int64_t epoch = position / d->nentry;
    if (epoch != d->epoch || seed != d->seed) {
        rng_permutation(d->order, d->nentry, rng_key(seed, RNG_SHUFFLE, 0, (uint64_t)epoch));
        d->epoch = epoch;
        d->seed = seed;
    }
    *item = d->entries[d->order[position % d->nentry]];
    *mirror = d->flip && (rng_u32(rng_key(seed, RNG_FLIP, (uint64_t)position, 0), 0) & 1);
    return 0;
}

static int load_pixels(TrainDataset *d, const TrainItem *it, IoImage *img)
{
    if (it->pack < 0)
        return io_image_load(img, it->path);
    const Pack *p = &d->packs[it->pack];
    TRY_CTX(io_image_init(img, (int)p->w, (int)p->h, 3), "%s", it->path);
    size_t size = (size_t)(p->w * p->h * 3);
    if (p->pixels) {
        memcpy(img->data, p->pixels + (size_t)it->row * size, size);
        return 0;
    }
    int rc = io_h5_read_rows(p->h5, "images", DTYPE_U8, it->row, 1, img->data);
    if (rc < 0)
        io_image_deinit(img);
    return rc;
}

static int random_crop(TrainDataset *d, uint64_t seed, int64_t position, IoImage *img)
{
    int res = d->resolution;
    double s = (double)res / (img->w < img->h ? img->w : img->h);
    int w = (int)(img->w * s + 0.5), h = (int)(img->h * s + 0.5);
    IoImage big = {0}, cut = {0};
    int rc = io_image_resize(&big, img, w < res ? res : w, h < res ? res : h, IO_FILTER_LANCZOS);
    RngStream r = rng_stream(rng_key(seed, RNG_CROP, (uint64_t)position, 0));
    if (rc >= 0) {
        int x = (int)rng_stream_below(&r, (uint64_t)(big.w - res + 1));
        int y = (int)rng_stream_below(&r, (uint64_t)(big.h - res + 1));
        rc = io_image_crop(&cut, &big, x, y, res, res);
    }
    io_image_deinit(&big);
    io_image_deinit(img);
    *img = cut;
    return rc;
}

/* Resized, cropped and mirrored as the settings say. After an error *img is empty. */
static int fit(TrainDataset *d, uint64_t seed, int64_t position, int mirror, IoImage *img)
{
    int rc = 0;
    if (img->w != d->resolution || img->h != d->resolution) {
        if (d->crop == TRAIN_CROP_RANDOM) {
            rc = random_crop(d, seed, position, img);
        } else {
            IoImage cut = {0};
            rc = io_image_cover(&cut, img, d->resolution, d->resolution, IO_FILTER_LANCZOS);
            io_image_deinit(img);
            *img = cut;
        }
    }
    if (rc >= 0 && mirror)
        io_image_flip_h(img);
    if (rc < 0)
        io_image_deinit(img);
    return rc;
}

int train_dataset_load(TrainDataset *d, int64_t item, uint64_t seed, int64_t position, int mirror, IoImage *out)
{
    IoImage img = {0};
    TRY(load_pixels(d, &d->items[item], &img));
    int rc = io_image_to_rgb(&img, d->background[0], d->background[1], d->background[2]);
    if (rc < 0)
        io_image_deinit(&img);
    else
        rc = fit(d, seed, position, mirror, &img);
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
        rc = fit(d, seed, position, mirror, &img);
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

static int hash_content(TrainDataset *d, int64_t item)
{
    const TrainItem *it = &d->items[item];
    uint8_t *out = d->content[item];
    if (d->hashed[item])
        return 0;
    if (it->pack < 0) {
        TRY(hash_file(out, it->path));
    } else {
        IoImage img = {0};
        int rc = load_pixels(d, it, &img);
        if (rc >= 0)
            rc = hash_bytes(out, img.data, (size_t)img.w * (size_t)img.h * 3);
        io_image_deinit(&img);
        TRY(rc);
    }
    d->hashed[item] = 1;
    return 0;
}

int train_dataset_key(TrainDataset *d, int64_t item, int mirror, uint8_t key[HASH_SIZE])
{
    int32_t how[6] = {d->resolution, d->crop, mirror, d->background[0], d->background[1], d->background[2]};
    Hash *h;
    TRY(hash_content(d, item));
    TRY(hash_create(&h));
    int rc = hash_update(h, d->content[item], HASH_SIZE);
    if (rc >= 0)
        rc = hash_update(h, how, sizeof how);
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
