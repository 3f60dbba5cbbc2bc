#include "train/set.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "io/file.h"
#include "train/cache.h"
#include "train/encode.h"

/* The images of one size; one of them without buckets. */
typedef struct {
    TrainSize size;
    TrainCache *latents;
    TrainEncoder *encoder; /* for random crops: made when the first one comes */
} Group;

struct TrainSet {
    TrainTask *t;
    Pipeline *pipe;
    TrainDataset *data;
    Group *group;
    int ngroup, random;      /* random: some images are cropped at random */
    int64_t *row;            /* of the item's latents in its group, the mirrored ones next; -1: none */
    TrainCache *text;
    int64_t *text_row, ntext; /* row of the item's caption, -1: it varies; the last row is the empty caption */
    TrainEncoder *text_encoder;
    float **mask;            /* [count * 2]: made when first asked for */
};

void train_set_close(TrainSet *s)
{
    if (!s)
        return;
    for (int i = 0; i < s->ngroup; i++) {
        train_cache_close(s->group[i].latents);
        train_encoder_destroy(s->group[i].encoder);
    }
    train_cache_close(s->text);
    train_encoder_destroy(s->text_encoder);
    for (int64_t i = 0; s->mask && i < train_dataset_count(s->data) * 2; i++)
        free(s->mask[i]);
    free(s->mask);
    free(s->group);
    free(s->row);
    free(s->text_row);
    free(s);
}

int train_set_needs_vae(const TrainSet *s)
{
    return s && s->random;
}

int train_set_needs_text(const TrainSet *s)
{
    return s && s->text_encoder;
}

static Group *group_of(TrainSet *s, const TrainItem *it)
{
    return &s->group[it->bucket < 0 ? 0 : it->bucket];
}

static int64_t cells(const TrainSet *s, TrainSize size)
{
    int f = vae_factor(pipeline_vae(s->pipe));
    return (int64_t)(size.w / f) * (size.h / f);
}

/* ---- caches ---- */

/* What a cache is computed from: one entry per row. */
typedef struct {
    TrainSet *s;
    TrainEncoder *encoder;
    TrainSize size;
    int64_t *item; /* of each row */
    int8_t *mirror;
    char **caption;
    uint8_t (*key)[HASH_SIZE];
    int64_t count;
} Source;

static int source_init(Source *c, TrainSet *s, int64_t rows)
{
    *c = (Source){.s = s};
    c->item = malloc((size_t)(rows + 1) * sizeof *c->item);
    c->mirror = malloc((size_t)rows + 1);
    c->key = malloc((size_t)(rows + 1) * sizeof *c->key);
    c->caption = calloc((size_t)rows + 1, sizeof *c->caption);
    return c->item && c->mirror && c->key && c->caption ? 0 : err_set(ERR_NOMEM, "training: out of memory");
}

static void source_deinit(Source *c)
{
    train_encoder_destroy(c->encoder);
    for (int64_t i = 0; c->caption && i < c->count; i++)
        free(c->caption[i]);
    free(c->caption);
    free(c->item);
    free(c->mirror);
    free(c->key);
}

static int load_pixels(TrainSet *s, int64_t item, int mirror, int64_t position, uint8_t *out)
{
    IoImage img = {0};
    TRY(train_dataset_load(s->data, item, s->t->conf->seed, position, mirror, &img));
    memcpy(out, img.data, (size_t)img.w * (size_t)img.h * 3);
    io_image_deinit(&img);
    return 0;
}

static int encode_latents(void *ctx, const int64_t *which, int n, float *rows)
{
    Source *c = ctx;
    int64_t size = (int64_t)c->size.w * c->size.h * 3;
    uint8_t *images = calloc((size_t)(n * size), 1);
    int rc = images ? 0 : err_set(ERR_NOMEM, "latents: out of memory");
    for (int i = 0; rc >= 0 && i < n; i++)
        rc = load_pixels(c->s, c->item[which[i]], c->mirror[which[i]], 0, images + i * size);
    if (rc >= 0)
        rc = train_encoder_images(c->encoder, images, n, rows);
    free(images);
    return rc;
}

static int encode_text(void *ctx, const int64_t *which, int n, float *rows)
{
    Source *c = ctx;
    const char **text = malloc((size_t)n * sizeof *text);
    if (!text)
        return err_set(ERR_NOMEM, "text embeddings: out of memory");
    for (int i = 0; i < n; i++)
        text[i] = c->caption[which[i]];
    int rc = train_encoder_texts(c->encoder, text, n, rows);
    free(text);
    return rc;
}

static int salted_key(uint8_t key[HASH_SIZE], const char *salt, const void *data, size_t n)
{
    Hash *h;
    TRY(hash_create(&h));
    int rc = hash_update(h, salt, strlen(salt));
    if (rc >= 0)
        rc = hash_update(h, data, n);
    if (rc >= 0)
        rc = hash_finish(h, key);
    hash_destroy(h);
    return rc;
}

/* Nodes that see one folder after all fill folders of their own in it: two of them waiting for one lock would wait for ever. */
static int node_folder(char **dir)
{
    char host[256] = "", *sub;
    const char *name = getenv("SLURMD_NODENAME");
    if (!name && gethostname(host, sizeof host - 1) == 0)
        name = host;
    TRY(io_path_join(&sub, *dir, name && name[0] ? name : "node"));
    free(*dir);
    *dir = sub;
    return 0;
}

static int cache_path(const TrainTask *t, const char *name, char **out)
{
    char *dir = NULL;
    int rc = t->conf->cache[0] ? str_copy(&dir, t->conf->cache) : io_path_join(&dir, t->conf->output, "cache");
    if (rc >= 0)
        rc = io_dir_make(dir);
    if (rc >= 0 && t->conf->cache_scope)
        rc = node_folder(&dir);
    if (rc >= 0)
        rc = io_dir_make(dir);
    if (rc >= 0)
        rc = io_path_join(out, dir, name);
    free(dir);
    return rc;
}

static int open_cache(Source *c, TrainCache **out, const char *name, int64_t row, int batch, TrainCacheFn fn)
{
    TrainTask *t = c->s->t;
    char *path = NULL, *file = NULL;
    int rc = str_format(&file, "%s-%lld", name, (long long)row);
    if (rc >= 0)
        rc = cache_path(t, file, &path);
    TRY_GOTO(comm_agree(t->comm, rc));
    TrainCacheSpec spec = {path, name, c->count, row, (const uint8_t(*)[HASH_SIZE])c->key, batch, t->conf->cache_scope, fn, c};
    rc = train_cache_open(out, &spec, t->comm);
done:
    free(path);
    free(file);
    return rc;
}

/* Rows of the images of a group that look the same every time. */
static int list_latents(TrainSet *s, int g, const char *salt, Source *c)
{
    uint8_t image[HASH_SIZE];
    for (int64_t i = 0; i < train_dataset_count(s->data); i++) {
        const TrainItem *it = train_dataset_item(s->data, i);
        if (group_of(s, it) != &s->group[g])
            continue;
        s->row[i] = -1;
        if (train_dataset_crop(s->data, it) == TRAIN_CROP_RANDOM) {
            s->random = 1;
            continue;
        }
        s->row[i] = c->count;
        for (int v = 0; v <= train_dataset_flips(s->data, it); v++) {
            TRY(train_dataset_key(s->data, i, v, image));
            TRY(salted_key(c->key[c->count], salt, image, sizeof image));
            c->item[c->count] = i;
            c->mirror[c->count++] = (int8_t)v;
        }
    }
    return 0;
}

static int cache_group(TrainSet *s, int g)
{
    Group *group = &s->group[g];
    TrainTask *t = s->t;
    const char *hash;
    char salt[128];
    Source c;
    int64_t area = (int64_t)group->size.w * group->size.h, batch = 8 * 64 * 64 / area;
    batch = batch < 1 ? 1 : batch > 8 ? 8 : batch;
    int rc = source_init(&c, s, 2 * train_dataset_count(s->data));
    if (rc >= 0)
        rc = pipeline_hash(s->pipe, PIPELINE_VAE, &hash);
    if (rc >= 0) {
        snprintf(salt, sizeof salt, "%s %s", hash, t->be->name);
        rc = list_latents(s, g, salt, &c);
    }
    c.size = group->size;
    if (rc >= 0 && c.count)
        rc = train_encoder_create_images(&c.encoder, s->pipe, t->be, group->size.h, group->size.w, (int)batch);
    rc = comm_agree(t->comm, rc);
    if (rc >= 0 && c.count)
        rc = open_cache(&c, &group->latents, "latents", 2 * cells(s, group->size) * pipeline_vae(s->pipe)->latent_channels, (int)batch,
                        encode_latents);
    source_deinit(&c);
    return rc;
}

/* Captions that are the same every time, then the empty one. Keyed by token ids: another tokenizer gives other rows. */
static int list_texts(TrainSet *s, Source *c)
{
    const char *hash;
    char salt[128];
    StrBuf text;
    int64_t n = train_dataset_count(s->data);
    int length = pipeline_text(s->pipe)->positions;
    TRY(pipeline_hash(s->pipe, PIPELINE_TEXT, &hash));
    snprintf(salt, sizeof salt, "%s %s ", hash, s->t->be->name);
    int32_t *ids = malloc((size_t)length * sizeof *ids);
    int rc = ids ? 0 : err_set(ERR_NOMEM, "text: out of memory");
    str_init(&text);
    for (int64_t i = 0; rc >= 0 && i <= n; i++) {
        if (i < n && train_dataset_caption_varies(s->data, i)) {
            s->text_row[i] = -1;
            continue;
        }
        rc = i < n ? train_dataset_caption(s->data, i, 0, -1, &text) : 0;
        if (rc >= 0)
            rc = str_copy(&c->caption[c->count], i < n ? text.data : "");
        s->text_row[i] = c->count++;
        if (rc >= 0)
            rc = train_encoder_tokens(c->encoder, c->caption[s->text_row[i]], ids);
        if (rc >= 0)
            rc = salted_key(c->key[s->text_row[i]], salt, ids, (size_t)length * sizeof *ids);
    }
    s->ntext = c->count;
    str_deinit(&text);
    free(ids);
    return rc;
}

static int cache_text(TrainSet *s)
{
    const ClipConfig *text = pipeline_text(s->pipe);
    int64_t n = train_dataset_count(s->data) + 1;
    Source c;
    int rc = source_init(&c, s, n);
    s->text_row = malloc((size_t)n * sizeof *s->text_row);
    if (rc >= 0 && !s->text_row)
        rc = err_set(ERR_NOMEM, "text: out of memory");
    if (rc >= 0)
        rc = train_encoder_create_texts(&c.encoder, s->pipe, s->t->be, 8);
    if (rc >= 0)
        rc = list_texts(s, &c);
    if (rc >= 0 && s->ntext < n)
        rc = train_encoder_create_texts(&s->text_encoder, s->pipe, s->t->be, 1);
    rc = comm_agree(s->t->comm, rc);
    if (rc >= 0)
        rc = open_cache(&c, &s->text, "text", (int64_t)text->positions * text->hidden, 8, encode_text);
    source_deinit(&c);
    return rc;
}

static int make_groups(TrainSet *s)
{
    int n = train_dataset_buckets(s->data), res = s->t->conf->resolution;
    s->group = calloc((size_t)n + 1, sizeof *s->group);
    s->row = malloc((size_t)(train_dataset_count(s->data) + 1) * sizeof *s->row);
    if (!s->group || !s->row)
        return err_set(ERR_NOMEM, "training: out of memory");
    s->ngroup = n ? n : 1;
    for (int i = 0; i < s->ngroup; i++)
        s->group[i].size = n ? train_dataset_bucket(s->data, i, NULL) : (TrainSize){res, res};
    return 0;
}

int train_set_open(TrainSet **out, TrainTask *t, Pipeline *pipe, TrainDataset *data, int text)
{
    TrainSet *s = calloc(1, sizeof *s);
    if (s)
        *s = (TrainSet){.t = t, .pipe = pipe, .data = data};
    int rc = comm_agree(t->comm, s ? make_groups(s) : err_set(ERR_NOMEM, "training: out of memory"));
    if (rc >= 0 && text)
        rc = cache_text(s);
    for (int g = 0; rc >= 0 && g < s->ngroup; g++)
        rc = cache_group(s, g);
    if (rc < 0) {
        train_set_close(s);
        return rc;
    }
    *out = s;
    return 0;
}

/* ---- samples ---- */

int train_set_moments(TrainSet *s, int64_t item, int mirror, int64_t position, float *moments)
{
    Group *g = group_of(s, train_dataset_item(s->data, item));
    if (s->row[item] >= 0)
        return train_cache_read(g->latents, s->row[item] + mirror, moments);
    if (!g->encoder)
        TRY(train_encoder_create_images(&g->encoder, s->pipe, s->t->be, g->size.h, g->size.w, 1));
    uint8_t *pixels = malloc((size_t)g->size.w * (size_t)g->size.h * 3);
    int rc = pixels ? load_pixels(s, item, mirror, position, pixels) : err_set(ERR_NOMEM, "latents: out of memory");
    if (rc >= 0)
        rc = train_encoder_images(g->encoder, pixels, 1, moments);
    free(pixels);
    return rc;
}

static int make_mask(TrainSet *s, int64_t item, int mirror, int64_t position, float *out)
{
    TrainSize size = train_dataset_item(s->data, item)->size;
    int f = vae_factor(pipeline_vae(s->pipe));
    return train_dataset_mask(s->data, item, s->t->conf->seed, position, mirror, size.h / f, size.w / f, out);
}

/* Centred crops have the same mask every time. */
int train_set_mask(TrainSet *s, int64_t item, int mirror, int64_t position, float *out)
{
    const TrainItem *it = train_dataset_item(s->data, item);
    size_t n = (size_t)cells(s, it->size);
    if (s->t->conf->loss.mask == TRAIN_MASK_NONE) {
        for (size_t i = 0; i < n; i++)
            out[i] = 1;
        return 0;
    }
    if (train_dataset_crop(s->data, it) == TRAIN_CROP_RANDOM)
        return make_mask(s, item, mirror, position, out);
    if (!s->mask)
        s->mask = calloc((size_t)train_dataset_count(s->data) * 2, sizeof *s->mask);
    float **kept = s->mask ? &s->mask[item * 2 + mirror] : NULL;
    if (kept && !*kept) {
        *kept = malloc(n * sizeof **kept);
        if (*kept)
            TRY(make_mask(s, item, mirror, position, *kept));
    }
    if (!kept || !*kept)
        return err_set(ERR_NOMEM, "masks: out of memory");
    memcpy(out, *kept, n * sizeof *out);
    return 0;
}

int train_set_text(TrainSet *s, int64_t item, const char *caption, float *out)
{
    int64_t row = caption[0] ? s->text_row[item] : s->ntext - 1;
    return row >= 0 ? train_cache_read(s->text, row, out) : train_encoder_texts(s->text_encoder, &caption, 1, out);
}
