#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/rng.h"
#include "io/file.h"
#include "sampler/solver.h"
#include "comm/exact.h"
#include "text/clip_bpe.h"
#include "train/adapter.h"
#include "train/cache.h"
#include "train/diffusion.h"
#include "train/encode.h"
#include "train/loop.h"
#include "train/noise.h"

/* Images with what was computed of them before the run. */
typedef struct {
    TrainDataset *data;
    int variants;               /* 2: also mirrored */
    TrainCache *latents, *text;
    int64_t ncaption;           /* rows of the text cache: one per item, then the empty caption */
    float **mask;               /* [count * 2]: made when first asked for */
} Set;

typedef struct {
    Pipeline *pipe;
    SamplerConf scheduler;      /* betas and prediction type of the model */
    double *alpha_bar;
    TrainNoise noise;
    Lora *lora;
    Set set, held;              /* held.data NULL: no validation */
    TrainEncoder *encoder;      /* random crops: latents are made on the fly */
    ClipBpe *bpe;               /* text_encoder=train: captions are encoded in the graph */
    int h, w, c, length, width; /* latent and context sizes */
    TrainDiffusionGraph in;
    float *moments, *buf_x, *buf_target, *buf_work, *buf_context, *buf_mask;
    int32_t *buf_ids;
} Diffusion;

static void close_set(Set *s)
{
    train_cache_close(s->latents);
    train_cache_close(s->text);
    for (int64_t i = 0; s->mask && i < train_dataset_count(s->data) * 2; i++)
        free(s->mask[i]);
    free(s->mask);
}

static void diffusion_close(TrainTask *t)
{
    Diffusion *d = t->impl;
    close_set(&d->set);
    close_set(&d->held);
    train_dataset_close(d->held.data);
    clip_bpe_close(d->bpe);
    train_encoder_destroy(d->encoder);
    lora_destroy(d->lora);
    train_embedding_deinit(&d->in.words);
    pipeline_close(d->pipe);
    free(d->alpha_bar);
    free(d->moments);
    free(d->buf_x);
    free(d->buf_target);
    free(d->buf_work);
    free(d->buf_context);
    free(d->buf_mask);
    free(d->buf_ids);
    free(d);
    t->impl = NULL;
}

/* ---- caches ---- */

typedef struct {
    TrainTask *t;
    const Set *set;
    TrainEncoder *encoder;
    const char **caption;
} Source;

static int encode_latents(void *ctx, const int64_t *which, int n, float *rows)
{
    Source *s = ctx;
    const TrainConf *c = s->t->conf;
    int64_t size = (int64_t)c->resolution * c->resolution * 3;
    float *images = calloc((size_t)(n * size), sizeof *images);
    int rc = images ? 0 : err_set(ERR_NOMEM, "latents: out of memory");
    for (int i = 0; rc >= 0 && i < n; i++) {
        IoImage img = {0};
        int64_t item = which[i] / s->set->variants;
        rc = train_dataset_load(s->set->data, item, c->seed, 0, (int)(which[i] % s->set->variants), &img);
        if (rc >= 0)
            io_image_to_hwc(&img, images + i * size);
        io_image_deinit(&img);
    }
    if (rc >= 0)
        rc = train_encoder_images(s->encoder, images, n, rows);
    free(images);
    return rc;
}

static int encode_text(void *ctx, const int64_t *which, int n, float *rows)
{
    Source *s = ctx;
    const char **text = malloc((size_t)n * sizeof *text);
    if (!text)
        return err_set(ERR_NOMEM, "text embeddings: out of memory");
    for (int i = 0; i < n; i++)
        text[i] = s->caption[which[i]];
    int rc = train_encoder_texts(s->encoder, text, n, rows);
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

static int cache_path(const TrainTask *t, const char *name, char **out)
{
    char *dir = NULL;
    int rc = t->conf->cache[0] ? str_copy(&dir, t->conf->cache) : io_path_join(&dir, t->conf->output, "cache");
    if (rc >= 0)
        rc = io_dir_make(dir);
    if (rc >= 0)
        rc = io_path_join(out, dir, name);
    free(dir);
    return rc;
}

static int open_cache(TrainTask *t, TrainCache **out, const char *name, Source *s, int64_t count, int64_t row, int batch,
                      uint8_t (*keys)[HASH_SIZE], TrainCacheFn fn)
{
    char *path = NULL, *file = NULL;
    int rc = str_format(&file, "%s-%lld.h5", name, (long long)row);
    if (rc >= 0)
        rc = cache_path(t, file, &path);
    TRY_GOTO(comm_agree(t->comm, rc));
    TrainCacheSpec spec = {path, name, count, row, (const uint8_t(*)[HASH_SIZE])keys, batch, fn, s};
    rc = train_cache_open(out, &spec, t->comm);
done:
    free(path);
    free(file);
    return rc;
}

static int latent_keys(const Set *set, const char *vae_hash, uint8_t (*keys)[HASH_SIZE])
{
    uint8_t image[HASH_SIZE];
    for (int64_t i = 0; i < train_dataset_count(set->data); i++)
        for (int v = 0; v < set->variants; v++) {
            TRY(train_dataset_key(set->data, i, v, image));
            TRY(salted_key(keys[i * set->variants + v], vae_hash, image, sizeof image));
        }
    return 0;
}

static int latent_salt(const TrainTask *t, const Diffusion *d, char *salt, size_t size)
{
    const char *hash;
    TRY(pipeline_hash(d->pipe, PIPELINE_VAE, &hash));
    snprintf(salt, size, "%s %s", hash, t->be->name);
    return 0;
}

/* Centred crops are the same every time: their moments are computed once. Random ones are encoded as they come. */
static int cache_latents(TrainTask *t, Diffusion *d, Set *set)
{
    const TrainConf *c = t->conf;
    Source s = {.t = t, .set = set};
    int64_t n = train_dataset_count(set->data) * set->variants;
    int area = c->resolution * c->resolution, batch = 8 * 64 * 64 / area;
    batch = batch < 1 ? 1 : batch > 8 ? 8 : batch;
    char salt[128];
    if (c->crop == TRAIN_CROP_RANDOM)
        return comm_agree(t->comm, d->encoder ? 0 : train_encoder_create_images(&d->encoder, d->pipe, t->be, c->resolution, 1));
    uint8_t(*keys)[HASH_SIZE] = malloc((size_t)n * sizeof *keys);
    int rc = keys ? latent_salt(t, d, salt, sizeof salt) : err_set(ERR_NOMEM, "latents: out of memory");
    if (rc >= 0)
        rc = latent_keys(set, salt, keys);
    if (rc >= 0)
        rc = train_encoder_create_images(&s.encoder, d->pipe, t->be, c->resolution, batch);
    rc = comm_agree(t->comm, rc);
    if (rc >= 0)
        rc = open_cache(t, &set->latents, "latents", &s, n, 2LL * d->h * d->w * d->c, batch, keys, encode_latents);
    train_encoder_destroy(s.encoder);
    free(keys);
    return rc;
}

/* Keyed by token ids: another tokenizer gives other rows. */
static int text_keys(TrainTask *t, Diffusion *d, Source *s, int64_t n, uint8_t (*keys)[HASH_SIZE])
{
    const char *hash;
    char salt[128];
    TRY(pipeline_hash(d->pipe, PIPELINE_TEXT, &hash));
    snprintf(salt, sizeof salt, "%s %s ", hash, t->be->name);
    int32_t *ids = malloc((size_t)d->length * sizeof *ids);
    int rc = ids ? 0 : err_set(ERR_NOMEM, "text: out of memory");
    for (int64_t i = 0; rc >= 0 && i < n; i++) {
        s->caption[i] = i + 1 < n ? train_dataset_item(s->set->data, i)->caption : "";
        rc = train_encoder_tokens(s->encoder, s->caption[i], ids);
        if (rc >= 0)
            rc = salted_key(keys[i], salt, ids, (size_t)d->length * sizeof *ids);
    }
    free(ids);
    return rc;
}

static int cache_text(TrainTask *t, Diffusion *d, Set *set)
{
    Source s = {.t = t, .set = set};
    int64_t n = train_dataset_count(set->data) + 1;
    uint8_t(*keys)[HASH_SIZE] = malloc((size_t)n * sizeof *keys);
    s.caption = malloc((size_t)n * sizeof *s.caption);
    int rc = keys && s.caption ? 0 : err_set(ERR_NOMEM, "text: out of memory");
    if (rc >= 0)
        rc = train_encoder_create_texts(&s.encoder, d->pipe, t->be, 8);
    if (rc >= 0)
        rc = text_keys(t, d, &s, n, keys);
    rc = comm_agree(t->comm, rc);
    if (rc >= 0)
        rc = open_cache(t, &set->text, "text", &s, n, (int64_t)d->length * d->width, 8, keys, encode_text);
    set->ncaption = n;
    train_encoder_destroy(s.encoder);
    free(keys);
    free(s.caption);
    return rc;
}

/* ---- a micro-batch ---- */

static int read_moments(TrainTask *t, Diffusion *d, const Set *set, int64_t item, int mirror, int64_t position)
{
    const TrainConf *c = t->conf;
    if (set->latents)
        return train_cache_read(set->latents, item * set->variants + mirror, d->moments);
    IoImage img = {0};
    int64_t size = (int64_t)c->resolution * c->resolution * 3;
    TRY(train_dataset_load(set->data, item, c->seed, position, mirror, &img));
    float *pixels = malloc((size_t)size * sizeof *pixels);
    int rc = pixels ? 0 : err_set(ERR_NOMEM, "latents: out of memory");
    if (rc >= 0) {
        io_image_to_hwc(&img, pixels);
        rc = train_encoder_images(d->encoder, pixels, 1, d->moments);
    }
    free(pixels);
    io_image_deinit(&img);
    return rc;
}

/* x0 = scaling * (mean + exp(logvar/2) * draw - shift), then noised to the timestep. Channels last: moments are mean|logvar per pixel. */
static void make_sample(TrainTask *t, Diffusion *d, int64_t position, double time, float *x, float *target)
{
    uint64_t seed = t->conf->seed;
    const VaeConfig *v = pipeline_vae(d->pipe);
    int64_t n = (int64_t)d->h * d->w * d->c;
    float *draw = target;
    rng_normal_fill(draw, n, rng_key(seed, RNG_LATENT, (uint64_t)position, 0), 0);
    for (int64_t i = 0; i < n; i++) {
        const float *m = d->moments + i / d->c * 2 * d->c + i % d->c;
        float logvar = fminf(fmaxf(m[d->c], -30.0f), 20.0f);
        x[i] = (m[0] + expf(0.5f * logvar) * draw[i] - v->shift) * v->scaling;
    }
    train_noise_apply(&d->noise, seed, position, time, x, target, d->buf_work, d->h, d->w, d->c);
}

/* Centred crops have the same mask every time. */
static int read_mask(TrainTask *t, Diffusion *d, Set *set, int64_t item, int mirror, int64_t position, float *out)
{
    size_t size = (size_t)d->h * (size_t)d->w;
    if (t->conf->loss.mask == TRAIN_MASK_NONE) {
        for (size_t i = 0; i < size; i++)
            out[i] = 1;
        return 0;
    }
    if (t->conf->crop == TRAIN_CROP_RANDOM)
        return train_dataset_mask(set->data, item, t->conf->seed, position, mirror, d->h, d->w, out);
    if (!set->mask)
        set->mask = calloc((size_t)train_dataset_count(set->data) * 2, sizeof *set->mask);
    float **kept = set->mask ? &set->mask[item * 2 + mirror] : NULL;
    if (kept && !*kept) {
        *kept = malloc(size * sizeof **kept);
        if (*kept)
            TRY(train_dataset_mask(set->data, item, t->conf->seed, position, mirror, d->h, d->w, *kept));
    }
    if (!kept || !*kept)
        return err_set(ERR_NOMEM, "masks: out of memory");
    memcpy(out, *kept, size * sizeof *out);
    return 0;
}

static int read_text(Diffusion *d, const Set *set, int64_t item, const char *caption, int j)
{
    int64_t tokens = (int64_t)d->length * d->width;
    if (d->in.words.length)
        return train_embedding_encode(&d->in.words, d->bpe, caption, j, d->buf_ids + (int64_t)j * d->length);
    if (d->bpe)
        return clip_bpe_encode_padded(d->bpe, caption, d->length, d->buf_ids + (int64_t)j * d->length);
    return train_cache_read(set->text, caption[0] ? item : set->ncaption - 1, d->buf_context + j * tokens);
}

/* The numbers of a micro-batch that are one per sample. */
typedef struct {
    float time[256], weight[256], huber[256];
} Row;

static int fill_one(TrainTask *t, Diffusion *d, Set *set, int64_t item, int mirror, const char *caption, int64_t position, int j, Row *r)
{
    int64_t pixels = (int64_t)d->h * d->w * d->c;
    TRY(read_moments(t, d, set, item, mirror, position));
    double time = train_noise_time(&d->noise, t->conf->seed, position);
    make_sample(t, d, position, time, d->buf_x + j * pixels, d->buf_target + j * pixels);
    r->time[j] = (float)time;
    r->weight[j] = (float)train_noise_weight(&d->noise, time) * train_dataset_item(set->data, item)->weight;
    r->huber[j] = d->in.huber != OP_NONE ? (float)train_noise_huber(&d->noise, time) : 0;
    if (d->in.mask != OP_NONE)
        TRY(read_mask(t, d, set, item, mirror, position, d->buf_mask + (int64_t)j * d->h * d->w));
    return read_text(d, set, item, caption, j);
}

/* With embedding.prompts in place of a caption that was not dropped. */
static int fill_caption(TrainTask *t, Diffusion *d, Set *set, int64_t item, int mirror, const char *caption, int64_t position, int j, Row *r)
{
    char *text;
    if (!d->in.words.length || !caption[0])
        return fill_one(t, d, set, item, mirror, caption, position, j, r);
    TRY(train_embedding_caption(d->in.words.conf, t->conf->seed, position, caption, &text));
    int rc = fill_one(t, d, set, item, mirror, text, position, j, r);
    free(text);
    return rc;
}

static int write_inputs(TrainTask *t, Diffusion *d, const Row *r)
{
    int n = t->conf->micro_batch;
    int64_t pixels = (int64_t)d->h * d->w * d->c, tokens = (int64_t)d->length * d->width;
    TRY(exec_write_f32(t->ex, d->in.x, d->buf_x, n * pixels));
    TRY(exec_write_f32(t->ex, d->in.target, d->buf_target, n * pixels));
    if (d->bpe)
        TRY(exec_write(t->ex, d->in.ids, d->buf_ids, (size_t)n * (size_t)d->length * sizeof *d->buf_ids));
    if (d->in.words.length)
        TRY(train_embedding_write(&d->in.words, t->ex));
    if (!d->bpe)
        TRY(exec_write_f32(t->ex, d->in.context, d->buf_context, n * tokens));
    if (d->in.mask != OP_NONE)
        TRY(exec_write_f32(t->ex, d->in.mask, d->buf_mask, (int64_t)n * d->h * d->w));
    if (d->in.huber != OP_NONE)
        TRY(exec_write_f32(t->ex, d->in.huber, r->huber, n));
    TRY(exec_write_f32(t->ex, d->in.time, r->time, n));
    return exec_write_f32(t->ex, d->in.weight, r->weight, n);
}

static int fill(TrainTask *t, int64_t position)
{
    Diffusion *d = t->impl;
    Row r;
    for (int j = 0; j < t->conf->micro_batch; j++) {
        int64_t item, p = position + j;
        int mirror;
        TRY(train_dataset_at(t->data, t->conf->seed, p, &item, &mirror));
        t->set[j] = train_dataset_item(t->data, item)->set;
        TRY(fill_caption(t, d, &d->set, item, mirror, train_task_caption(t, item, p), p, j, &r));
    }
    TRY(train_adapter_fill(t, d->in.position, position));
    return write_inputs(t, d, &r);
}

/* ---- validation ---- */

/* Sample k of the held-out set has the position -1 - k: no sample of the training has it, and it is the same every time. */
static int validate_part(TrainTask *t, Diffusion *d, int64_t from, int64_t count, int64_t *sum, int64_t *bad)
{
    Row r;
    int n = t->conf->micro_batch;
    float loss[256];
    for (int j = 0; j < n; j++) {
        int64_t k = from + j < count ? from + j : count - 1, item = k / t->conf->validation.draws;
        TRY(fill_caption(t, d, &d->held, item, 0, train_dataset_item(d->held.data, item)->caption, -1 - k, j, &r));
    }
    TRY(train_adapter_fill(t, d->in.position, -1)); /* nothing is dropped */
    TRY(write_inputs(t, d, &r));
    TRY(exec_run_to(t->ex, t->loss));
    TRY(exec_read_f32(t->ex, t->loss, loss, n));
    *bad += exact_add(sum, loss, from + n < count ? n : count - from);
    for (int64_t j = 1; j < n && from + j < count; j++)
        sum[0] += sum[j], sum[j] = 0;
    return 0;
}

static int validate(TrainTask *t, double *loss)
{
    Diffusion *d = t->impl;
    int64_t count = train_dataset_count(d->held.data) * t->conf->validation.draws, n = t->conf->micro_batch, sum[256] = {0}, bad = 0;
    float total;
    int rc = 0;
    for (int64_t from = t->comm->rank * n; rc >= 0 && from < count; from += t->comm->size * n)
        rc = validate_part(t, d, from, count, sum, &bad);
    TRY(comm_agree(t->comm, rc));
    rc = exact_reduce(t->comm, sum, 1, bad);
    *loss = NAN;
    if (rc == ERR_NUMERIC)
        return 0;
    TRY(rc);
    exact_to_float(&total, sum, 1, 1.0 / (double)count);
    *loss = (double)total;
    return 0;
}

static int limit(TrainTask *t, TrainState *s)
{
    return train_adapter_limit(t, ((Diffusion *)t->impl)->lora, s);
}

/* ---- results ---- */

static int save(TrainTask *t, const TrainState *s, const float *values)
{
    Diffusion *d = t->impl;
    const TrainConf *c = t->conf;
    static const Dtype dtypes[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16};
    if (c->task == TRAIN_FULL) {
        if (c->text_encoder)
            TRY(train_task_save_part(t, s, values, "text_encoder", "text_encoder", "model.safetensors"));
        return train_task_save_part(t, s, values, "unet", "unet", "diffusion_pytorch_model.safetensors");
    }
    char *path;
    TRY(train_task_set_values(t, s, values));
    if (d->in.words.length)
        TRY(train_embedding_save(&d->in.words, t));
    if (!d->lora)
        return 0;
    TRY(io_path_join(&path, c->output, "lora.safetensors"));
    TrainMeta meta;
    int rc = train_lora_metadata(&meta, c, t->data, s, d->pipe, d->noise.predict);
    if (rc >= 0)
        rc = lora_save(d->lora, path, c->lora.format == TRAIN_LORA_PEFT ? LORA_PEFT : LORA_KOHYA, dtypes[c->save_dtype], meta.item,
                       meta.count);
    train_meta_deinit(&meta);
    free(path);
    return rc;
}

static int alloc_buffers(TrainTask *t, Diffusion *d)
{
    size_t n = (size_t)t->conf->micro_batch, pixels = (size_t)(d->h * d->w * d->c);
    t->set = calloc(n, sizeof *t->set);
    d->moments = malloc(2 * pixels * sizeof(float));
    d->buf_x = malloc(n * pixels * sizeof(float));
    d->buf_target = malloc(n * pixels * sizeof(float));
    d->buf_work = malloc(pixels * sizeof(float));
    d->buf_context = malloc(n * (size_t)(d->length * d->width) * sizeof(float));
    d->buf_mask = malloc(n * (size_t)(d->h * d->w) * sizeof(float));
    d->buf_ids = malloc(n * (size_t)d->length * sizeof *d->buf_ids);
    return t->set && d->moments && d->buf_x && d->buf_target && d->buf_work && d->buf_context && d->buf_mask && d->buf_ids ? 0 : err_set(ERR_NOMEM, "training: out of memory");
}

static int read_schedule(const TrainConf *c, Diffusion *d)
{
    double betas[SAMPLER_MAX_TRAIN_STEPS];
    SamplerConf *n = &d->scheduler;
    int own = c->noise.predict != TRAIN_PREDICT_MODEL;
    sampler_conf_default(n);
    TRY(sampler_conf_from_json(n, pipeline_scheduler_path(d->pipe)));
    TRY(sampler_betas(n->betas, n->beta_start, n->beta_end, n->train_steps, n->zero_snr || c->noise.zero_snr, betas));
    sampler_alpha_bar(betas, n->train_steps, d->alpha_bar);
    d->noise = (TrainNoise){&c->noise, &c->loss, d->alpha_bar, n->train_steps, c->noise.predict == TRAIN_PREDICT_FLOW, n->predict};
    if (own && !d->noise.flow)
        d->noise.predict = (SamplerPredict)(c->noise.predict - TRAIN_PREDICT_EPSILON);
    if (c->noise.timestep_max > n->train_steps || c->noise.timestep_min >= n->train_steps)
        return err_set(ERR_RANGE, "noise: timestep_min %d, timestep_max %d: this model has %d timesteps", c->noise.timestep_min,
                       c->noise.timestep_max, n->train_steps);
    return 0;
}

static int open_model(TrainTask *t, Diffusion *d)
{
    const TrainConf *c = t->conf;
    if (c->micro_batch > 256)
        return err_set(ERR_RANGE, "micro_batch %d: at most 256", c->micro_batch);
    TRY(pipeline_open_without(&d->pipe, c->model, NULL, c->init_random ? PIPELINE_UNET : PIPELINE_PARTS));
    const VaeConfig *v = pipeline_vae(d->pipe);
    const ClipConfig *text = pipeline_text(d->pipe);
    if (c->resolution % vae_factor(v))
        return err_set(ERR_RANGE, "resolution %d: this model needs a multiple of %d", c->resolution, vae_factor(v));
    d->h = d->w = c->resolution / vae_factor(v);
    d->c = v->latent_channels;
    d->length = text->positions;
    d->width = text->hidden;
    d->alpha_bar = malloc(SAMPLER_MAX_TRAIN_STEPS * sizeof *d->alpha_bar);
    return d->alpha_bar ? read_schedule(c, d) : err_set(ERR_NOMEM, "training: out of memory");
}

/* SHA-256 of what is trained or adapted: the UNet's weight file, with the text encoder's where that is trained too. */
static int find_hash(TrainTask *t, Diffusion *d)
{
    const char *unet, *text;
    char both[2 * HASH_HEX_SIZE];
    uint8_t sum[HASH_SIZE];
    TRY(pipeline_hash(d->pipe, PIPELINE_UNET, &unet));
    snprintf(t->model_hash, sizeof t->model_hash, "%s", unet);
    if (!train_conf_has_text(t->conf))
        return 0;
    TRY(pipeline_hash(d->pipe, PIPELINE_TEXT, &text));
    snprintf(both, sizeof both, "%s %s", unet, text);
    TRY(hash_bytes(sum, both, strlen(both)));
    hash_hex(t->model_hash, sum, HASH_SIZE);
    return 0;
}

static int load(TrainTask *t, Diffusion *d)
{
    static const char *const zero[] = {"*conv_out.weight", "*conv_out.bias"};
    if (d->in.words.length)
        TRY(train_embedding_load(&d->in.words, t, d->pipe, d->bpe));
    if (train_conf_has_text(t->conf))
        TRY(nn_params_load(t->params, t->g, "text_encoder", pipeline_files(d->pipe, PIPELINE_TEXT), clip_names));
    if (t->conf->init_random) {
        TRY(nn_params_init(t->params, t->g, "unet", t->conf->seed, zero, 2));
        return t->conf->text_encoder ? nn_params_set_trainable(t->params, t->g, t->wrt, t->nwrt) : 0;
    }
    if (t->comm->rank == 0)
        TRY(find_hash(t, d));
    TRY(train_task_load(t, "unet", pipeline_files(d->pipe, PIPELINE_UNET), NULL));
    return d->lora ? lora_init_magnitude(d->lora, t->params) : 0;
}

static int open_sets(TrainTask *t, Diffusion *d)
{
    const TrainConf *c = t->conf;
    d->set = (Set){.data = t->data, .variants = c->flip ? 2 : 1};
    d->held.variants = 1;
    if (c->validation.datasets.count)
        TRY(train_dataset_open_list(&d->held.data, c, &c->validation.datasets));
    if (c->embedding.token[0])
        TRY(train_embedding_check(&c->embedding, d->set.data));
    return train_conf_has_text(c) ? clip_bpe_open(&d->bpe, pipeline_tokenizer_dir(d->pipe)) : 0;
}

static int cache_set(TrainTask *t, Diffusion *d, Set *set)
{
    if (!set->data)
        return 0;
    if (!d->bpe)
        TRY(cache_text(t, d, set));
    return cache_latents(t, d, set);
}

int train_diffusion_open(TrainTask *t, int plan_only)
{
    Diffusion *d = calloc(1, sizeof *d);
    if (!d)
        return err_set(ERR_NOMEM, "training: out of memory");
    t->impl = d;
    t->fill = fill;
    t->limit = limit;
    t->save = save;
    t->close = diffusion_close;
    int rc = open_model(t, d);
    if (rc >= 0)
        rc = train_diffusion_graph(t, d->pipe, d->h, d->w, &d->in, &d->lora);
    t->adapter = d->lora;
    if (rc >= 0 && !plan_only)
        rc = train_task_fits(t);
    if (rc >= 0 && !plan_only)
        rc = alloc_buffers(t, d);
    if (rc >= 0)
        rc = open_sets(t, d);
    TRY(comm_agree(t->comm, rc));
    if (plan_only)
        return 0;
    TRY(cache_set(t, d, &d->set));
    TRY(cache_set(t, d, &d->held));
    t->validate = d->held.data ? validate : NULL;
    if (!d->bpe)
        io_safetensors_release(pipeline_files(d->pipe, PIPELINE_TEXT), -1);
    if (!d->encoder)
        io_safetensors_release(pipeline_files(d->pipe, PIPELINE_VAE), -1);
    return comm_agree(t->comm, load(t, d));
}
