#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/rng.h"
#include "io/file.h"
#include "sampler/solver.h"
#include "train/cache.h"
#include "train/diffusion.h"
#include "train/encode.h"
#include "train/loop.h"

typedef struct {
    Pipeline *pipe;
    SamplerConf noise;          /* betas and prediction type of the model */
    double *alpha_bar;
    Lora *lora;
    TrainCache *latents, *text;
    TrainEncoder *encoder;      /* random crops: latents are made on the fly */
    int64_t ncaption;           /* rows of the text cache: one per item, then the empty caption */
    int h, w, c, length, width; /* latent and context sizes */
    TrainDiffusionGraph in;
    float *moments, *buf_x, *buf_target, *buf_context;
} Diffusion;

static void diffusion_close(TrainTask *t)
{
    Diffusion *d = t->impl;
    train_cache_close(d->latents);
    train_cache_close(d->text);
    train_encoder_destroy(d->encoder);
    lora_destroy(d->lora);
    pipeline_close(d->pipe);
    free(d->alpha_bar);
    free(d->moments);
    free(d->buf_x);
    free(d->buf_target);
    free(d->buf_context);
    free(d);
    t->impl = NULL;
}

/* ---- caches ---- */

typedef struct {
    TrainTask *t;
    TrainEncoder *encoder;
    int variants;
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
        int64_t item = which[i] / s->variants;
        rc = train_dataset_load(s->t->data, item, c->seed, 0, (int)(which[i] % s->variants), &img);
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

static int latent_keys(TrainTask *t, const char *vae_hash, int variants, uint8_t (*keys)[HASH_SIZE])
{
    uint8_t image[HASH_SIZE];
    for (int64_t i = 0; i < train_dataset_count(t->data); i++)
        for (int v = 0; v < variants; v++) {
            TRY(train_dataset_key(t->data, i, v, image));
            TRY(salted_key(keys[i * variants + v], vae_hash, image, sizeof image));
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
static int cache_latents(TrainTask *t, Diffusion *d)
{
    const TrainConf *c = t->conf;
    Source s = {.t = t, .variants = c->flip ? 2 : 1};
    int64_t n = train_dataset_count(t->data) * s.variants;
    int area = c->resolution * c->resolution, batch = 8 * 64 * 64 / area;
    batch = batch < 1 ? 1 : batch > 8 ? 8 : batch;
    char salt[128];
    if (c->crop == TRAIN_CROP_RANDOM)
        return comm_agree(t->comm, train_encoder_create_images(&d->encoder, d->pipe, t->be, c->resolution, 1));
    uint8_t(*keys)[HASH_SIZE] = malloc((size_t)n * sizeof *keys);
    int rc = keys ? latent_salt(t, d, salt, sizeof salt) : err_set(ERR_NOMEM, "latents: out of memory");
    if (rc >= 0)
        rc = latent_keys(t, salt, s.variants, keys);
    if (rc >= 0)
        rc = train_encoder_create_images(&s.encoder, d->pipe, t->be, c->resolution, batch);
    rc = comm_agree(t->comm, rc);
    if (rc >= 0)
        rc = open_cache(t, &d->latents, "latents", &s, n, 2LL * d->h * d->w * d->c, batch, keys, encode_latents);
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
        s->caption[i] = i + 1 < n ? train_dataset_item(t->data, i)->caption : "";
        rc = train_encoder_tokens(s->encoder, s->caption[i], ids);
        if (rc >= 0)
            rc = salted_key(keys[i], salt, ids, (size_t)d->length * sizeof *ids);
    }
    free(ids);
    return rc;
}

static int cache_text(TrainTask *t, Diffusion *d)
{
    Source s = {.t = t};
    int64_t n = train_dataset_count(t->data) + 1;
    uint8_t(*keys)[HASH_SIZE] = malloc((size_t)n * sizeof *keys);
    s.caption = malloc((size_t)n * sizeof *s.caption);
    int rc = keys && s.caption ? 0 : err_set(ERR_NOMEM, "text: out of memory");
    if (rc >= 0)
        rc = train_encoder_create_texts(&s.encoder, d->pipe, t->be, 8);
    if (rc >= 0)
        rc = text_keys(t, d, &s, n, keys);
    rc = comm_agree(t->comm, rc);
    if (rc >= 0)
        rc = open_cache(t, &d->text, "text", &s, n, (int64_t)d->length * d->width, 8, keys, encode_text);
    d->ncaption = n;
    train_encoder_destroy(s.encoder);
    free(keys);
    free(s.caption);
    return rc;
}

/* ---- a micro-batch ---- */

static int read_moments(TrainTask *t, Diffusion *d, int64_t item, int mirror, int64_t position)
{
    const TrainConf *c = t->conf;
    if (d->latents)
        return train_cache_read(d->latents, c->flip ? item * 2 + mirror : item, d->moments);
    IoImage img = {0};
    int64_t size = (int64_t)c->resolution * c->resolution * 3;
    TRY(train_dataset_load(t->data, item, c->seed, position, mirror, &img));
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

/* x0 = scaling * (mean + exp(logvar/2) * draw - shift), then noised to timestep. Channels last: moments are mean|logvar per pixel. */
static void make_sample(TrainTask *t, Diffusion *d, int64_t position, int timestep, float *x, float *target)
{
    uint64_t seed = t->conf->seed;
    const VaeConfig *v = pipeline_vae(d->pipe);
    int64_t n = (int64_t)d->h * d->w * d->c;
    double ab = d->alpha_bar[timestep];
    float *draw = target;
    rng_normal_fill(draw, n, rng_key(seed, RNG_LATENT, (uint64_t)position, 0), 0);
    for (int64_t i = 0; i < n; i++) {
        const float *m = d->moments + i / d->c * 2 * d->c + i % d->c;
        float logvar = fminf(fmaxf(m[d->c], -30.0f), 20.0f);
        x[i] = (m[0] + expf(0.5f * logvar) * draw[i] - v->shift) * v->scaling;
    }
    rng_normal_fill(target, n, rng_key(seed, RNG_NOISE, (uint64_t)position, 0), 0);
    train_diffusion_noise(x, target, n, ab, d->noise.predict);
}

static int fill(TrainTask *t, int64_t position)
{
    Diffusion *d = t->impl;
    const TrainConf *c = t->conf;
    int n = c->micro_batch;
    int64_t pixels = (int64_t)d->h * d->w * d->c, tokens = (int64_t)d->length * d->width;
    float time[256], weight[256];
    for (int j = 0; j < n; j++) {
        int64_t item, p = position + j;
        int mirror;
        TRY(train_dataset_at(t->data, c->seed, p, &item, &mirror));
        TRY(read_moments(t, d, item, mirror, p));
        int step = (int)rng_below(rng_key(c->seed, RNG_TIMESTEP, (uint64_t)p, 0), (uint64_t)d->noise.train_steps);
        make_sample(t, d, p, step, d->buf_x + j * pixels, d->buf_target + j * pixels);
        time[j] = (float)step;
        weight[j] = c->loss.min_snr > 0 ? (float)sampler_min_snr_weight(d->alpha_bar[step], (double)c->loss.min_snr, d->noise.predict)
                                        : 1.0f;
        int dropped = !train_task_caption(t, item, p)[0];
        TRY(train_cache_read(d->text, dropped ? d->ncaption - 1 : item, d->buf_context + j * tokens));
    }
    TRY(exec_write_f32(t->ex, d->in.x, d->buf_x, n * pixels));
    TRY(exec_write_f32(t->ex, d->in.target, d->buf_target, n * pixels));
    TRY(exec_write_f32(t->ex, d->in.context, d->buf_context, n * tokens));
    TRY(exec_write_f32(t->ex, d->in.time, time, n));
    return exec_write_f32(t->ex, d->in.weight, weight, n);
}

/* ---- results ---- */

static int save(TrainTask *t, const TrainState *s, const float *values)
{
    Diffusion *d = t->impl;
    const TrainConf *c = t->conf;
    static const Dtype dtypes[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16};
    if (c->task == TRAIN_FULL)
        return train_task_save_part(t, s, values, "unet", "unet", "diffusion_pytorch_model.safetensors");
    char *path;
    TRY(train_task_set_values(t, s, values));
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
    d->moments = malloc(2 * pixels * sizeof(float));
    d->buf_x = malloc(n * pixels * sizeof(float));
    d->buf_target = malloc(n * pixels * sizeof(float));
    d->buf_context = malloc(n * (size_t)(d->length * d->width) * sizeof(float));
    return d->moments && d->buf_x && d->buf_target && d->buf_context ? 0 : err_set(ERR_NOMEM, "training: out of memory");
}

static int read_schedule(Diffusion *d)
{
    double betas[SAMPLER_MAX_TRAIN_STEPS];
    SamplerConf *n = &d->noise;
    sampler_conf_default(n);
    TRY(sampler_conf_from_json(n, pipeline_scheduler_path(d->pipe)));
    TRY(sampler_betas(n->betas, n->beta_start, n->beta_end, n->train_steps, n->zero_snr, betas));
    sampler_alpha_bar(betas, n->train_steps, d->alpha_bar);
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
    return d->alpha_bar ? read_schedule(d) : err_set(ERR_NOMEM, "training: out of memory");
}

static int load(TrainTask *t, Diffusion *d)
{
    static const char *const zero[] = {"*conv_out.weight", "*conv_out.bias"};
    const char *hash = "";
    if (t->conf->init_random)
        return nn_params_init(t->params, t->g, "unet", t->conf->seed, zero, 2);
    if (t->comm->rank == 0)
        TRY(pipeline_hash(d->pipe, PIPELINE_UNET, &hash));
    snprintf(t->model_hash, sizeof t->model_hash, "%s", hash);
    return train_task_load(t, "unet", pipeline_files(d->pipe, PIPELINE_UNET), NULL);
}

int train_diffusion_open(TrainTask *t, int plan_only)
{
    Diffusion *d = calloc(1, sizeof *d);
    if (!d)
        return err_set(ERR_NOMEM, "training: out of memory");
    t->impl = d;
    t->fill = fill;
    t->save = save;
    t->close = diffusion_close;
    int rc = open_model(t, d);
    if (rc >= 0)
        rc = train_diffusion_graph(t, d->pipe, d->h, d->w, &d->in, &d->lora);
    if (rc >= 0 && !plan_only)
        rc = train_task_fits(t);
    if (rc >= 0 && !plan_only)
        rc = alloc_buffers(t, d);
    TRY(comm_agree(t->comm, rc));
    if (plan_only)
        return 0;
    TRY(cache_text(t, d));
    TRY(cache_latents(t, d));
    io_safetensors_release(pipeline_files(d->pipe, PIPELINE_TEXT), -1);
    if (!d->encoder)
        io_safetensors_release(pipeline_files(d->pipe, PIPELINE_VAE), -1);
    return comm_agree(t->comm, load(t, d));
}
