#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "io/file.h"
#include "sampler/solver.h"
#include "comm/exact.h"
#include "text/clip_bpe.h"
#include "train/adapter.h"
#include "train/diffusion.h"
#include "train/loop.h"
#include "train/noise.h"
#include "train/set.h"

typedef struct {
    int h, w;
    TrainDiffusionGraph in;
} Inputs;

/* Held-out images of one size: draw[from] .. draw[from + n - 1]. */
typedef struct {
    int shape, n;
    int64_t from;
} HeldBatch;

typedef struct {
    Pipeline *pipe;
    SamplerConf scheduler;      /* betas and prediction type of the model */
    double *alpha_bar;
    TrainNoise noise;
    TrainNoiseDevice *noiser;   /* NULL: samples are noised on the host */
    Lora *lora;
    TrainSet *set, *held;
    TrainDataset *held_data;    /* NULL: no validation */
    ClipBpe *bpe;               /* text_encoder=train: captions are encoded in the graph */
    int c, length, width;       /* latent channels and context sizes */
    int h, w;                   /* latent size of the shape in use, below */
    int64_t most;               /* pixels of the largest */
    Inputs *shape;              /* one without buckets; else as in the task: one per bucket, then those of held-out images alone */
    int nshape, *held_shape;    /* shape of each bucket of the held-out images */
    int64_t *draw, ndraw;       /* held-out image * draws + draw, by bucket */
    HeldBatch *held_batch;      /* micro-batches of draw */
    int64_t nheld;
    TrainDiffusionGraph in;     /* of the shape in use */
    StrBuf caption;
    float *moments, *buf_x, *buf_target, *buf_work, *buf_context, *buf_mask;
    int32_t *buf_ids;
} Diffusion;

static void diffusion_close(TrainTask *t)
{
    Diffusion *d = t->impl;
    train_noise_device_destroy(d->noiser);
    train_set_close(d->set);
    train_set_close(d->held);
    train_dataset_close(d->held_data);
    str_deinit(&d->caption);
    clip_bpe_close(d->bpe);
    for (int i = 0; i < d->nshape; i++)
        train_embedding_deinit(&d->shape[i].in.words);
    free(d->shape);
    free(d->held_shape);
    free(d->draw);
    free(d->held_batch);
    lora_destroy(d->lora);
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

/* ---- a micro-batch ---- */

static int read_text(Diffusion *d, TrainSet *set, int64_t item, int j)
{
    int64_t tokens = (int64_t)d->length * d->width;
    if (d->in.words.length)
        return train_embedding_encode(&d->in.words, d->bpe, d->caption.data, j, d->buf_ids + (int64_t)j * d->length);
    if (d->bpe)
        return clip_bpe_encode_padded(d->bpe, d->caption.data, d->length, d->buf_ids + (int64_t)j * d->length);
    return train_set_text(set, item, d->caption.data, d->buf_context + j * tokens);
}

/* The shape of the next micro-batch. */
static int use_shape(TrainTask *t, Diffusion *d, int k)
{
    d->h = d->shape[k].h;
    d->w = d->shape[k].w;
    d->in = d->shape[k].in;
    return train_task_use(t, k);
}

/* The numbers of a micro-batch that are one per sample. */
typedef struct {
    int64_t position[256];
    double when[256];
    float time[256], weight[256], huber[256];
} Row;

/* x and target of a sample from its moments. */
static void make_sample(TrainTask *t, Diffusion *d, int64_t position, double time, float *x, float *target)
{
    const VaeConfig *v = pipeline_vae(d->pipe);
    train_noise_latent(t->conf->seed, position, d->moments, v->shift, v->scaling, x, target, (int64_t)d->h * d->w * d->c, d->c);
    train_noise_apply(&d->noise, t->conf->seed, position, time, x, target, d->buf_work, d->h, d->w, d->c);
}

static int fill_one(TrainTask *t, Diffusion *d, TrainSet *set, const TrainItem *it, int64_t item, int mirror, int64_t position, int j, Row *r)
{
    int64_t pixels = (int64_t)d->h * d->w * d->c;
    TRY(train_set_moments(set, item, mirror, position, d->moments + (d->noiser ? j * 2 * pixels : 0)));
    double time = train_noise_time(&d->noise, t->conf->seed, position);
    if (!d->noiser)
        make_sample(t, d, position, time, d->buf_x + j * pixels, d->buf_target + j * pixels);
    r->position[j] = position;
    r->when[j] = time;
    r->time[j] = (float)time;
    r->weight[j] = (float)train_noise_weight(&d->noise, time) * it->weight;
    r->huber[j] = d->in.huber != OP_NONE ? (float)train_noise_huber(&d->noise, time) : 0;
    if (d->in.mask != OP_NONE)
        TRY(train_set_mask(set, item, mirror, position, d->buf_mask + (int64_t)j * d->h * d->w));
    return read_text(d, set, item, j);
}

/* With embedding.prompts in place of a caption that was not dropped. */
static int fill_caption(TrainTask *t, Diffusion *d, TrainSet *set, const TrainItem *it, int64_t item, int mirror, int64_t position, int j, Row *r)
{
    char *text;
    if (d->in.words.length && d->caption.len) {
        TRY(train_embedding_caption(d->in.words.conf, t->conf->seed, position, d->caption.data, &text));
        str_clear(&d->caption);
        str_add(&d->caption, text);
        free(text);
        TRY(str_status(&d->caption));
    }
    return fill_one(t, d, set, it, item, mirror, position, j, r);
}

static int write_samples(TrainTask *t, Diffusion *d, const Row *r)
{
    const VaeConfig *v = pipeline_vae(d->pipe);
    int n = t->conf->micro_batch;
    int64_t pixels = (int64_t)d->h * d->w * d->c;
    if (d->noiser) {
        const TrainNoiseBatch b = {t->conf->seed, r->position, r->when, d->moments, v->shift, v->scaling, n, d->c, pixels};
        return train_noise_device_apply(d->noiser, &b, exec_data(t->now.ex, d->in.x), exec_data(t->now.ex, d->in.target), graph_dtype(t->now.g));
    }
    TRY(exec_write_f32(t->now.ex, d->in.x, d->buf_x, n * pixels));
    return exec_write_f32(t->now.ex, d->in.target, d->buf_target, n * pixels);
}

static int write_inputs(TrainTask *t, Diffusion *d, const Row *r)
{
    int n = t->conf->micro_batch;
    int64_t tokens = (int64_t)d->length * d->width;
    TRY(write_samples(t, d, r));
    if (d->bpe)
        TRY(exec_write(t->now.ex, d->in.ids, d->buf_ids, (size_t)n * (size_t)d->length * sizeof *d->buf_ids));
    if (d->in.words.length)
        TRY(train_embedding_write(&d->in.words, t->now.ex));
    if (!d->bpe)
        TRY(exec_write_f32(t->now.ex, d->in.context, d->buf_context, n * tokens));
    if (d->in.mask != OP_NONE)
        TRY(exec_write_f32(t->now.ex, d->in.mask, d->buf_mask, (int64_t)n * d->h * d->w));
    if (d->in.huber != OP_NONE)
        TRY(exec_write_f32(t->now.ex, d->in.huber, r->huber, n));
    TRY(exec_write_f32(t->now.ex, d->in.time, r->time, n));
    return exec_write_f32(t->now.ex, d->in.weight, r->weight, n);
}

static int fill(TrainTask *t, int64_t position)
{
    Diffusion *d = t->impl;
    Row r;
    int bucket = 0;
    if (train_dataset_buckets(t->data)) {
        TRY(train_dataset_bucket_at(t->data, t->conf->seed, position, &bucket, NULL));
        TRY(use_shape(t, d, bucket));
    }
    for (int j = 0; j < t->conf->micro_batch; j++) {
        int64_t item, p = position + j;
        int mirror;
        TRY(train_dataset_at(t->data, t->conf->seed, p, &item, &mirror));
        t->set[j] = train_dataset_item(t->data, item)->set;
        TRY(train_dataset_caption(t->data, item, t->conf->seed, p, &d->caption));
        TRY(fill_caption(t, d, d->set, train_dataset_item(t->data, item), item, mirror, p, j, &r));
    }
    TRY(train_adapter_fill(t, d->in.position, position));
    return write_inputs(t, d, &r);
}

/* ---- validation ---- */

/* Sample k of the held-out set has the position -1 - k: no sample of the training has it, and it is the same every time. A batch that is not
 * full repeats its last one, whose loss does not count again. */
static int validate_batch(TrainTask *t, Diffusion *d, const HeldBatch *b, int64_t *sum, int64_t *bad)
{
    Row r;
    int n = t->conf->micro_batch;
    float loss[256];
    TRY(use_shape(t, d, b->shape));
    for (int j = 0; j < n; j++) {
        int64_t k = d->draw[b->from + (j < b->n ? j : b->n - 1)], item = k / t->conf->validation.draws;
        TRY(train_dataset_caption(d->held_data, item, t->conf->seed, -1 - k, &d->caption));
        TRY(fill_caption(t, d, d->held, train_dataset_item(d->held_data, item), item, 0, -1 - k, j, &r));
    }
    TRY(train_adapter_fill(t, d->in.position, -1)); /* nothing is dropped */
    TRY(write_inputs(t, d, &r));
    TRY(exec_run_to(t->now.ex, t->now.loss));
    TRY(exec_read_f32(t->now.ex, t->now.loss, loss, n));
    for (int j = 0; j < b->n; j++)
        *bad += exact_add(sum, &loss[j], 1);
    return 0;
}

static int validate(TrainTask *t, double *loss)
{
    Diffusion *d = t->impl;
    int64_t sum = 0, bad = 0;
    int rc = 0;
    float total;
    for (int64_t i = t->comm->rank; rc >= 0 && i < d->nheld; i += t->comm->size)
        rc = validate_batch(t, d, &d->held_batch[i], &sum, &bad);
    TRY(comm_agree(t->comm, rc));
    rc = exact_reduce(t->comm, &sum, 1, bad);
    *loss = NAN;
    if (rc == ERR_NUMERIC)
        return 0;
    TRY(rc);
    exact_to_float(&total, &sum, 1, 1.0 / (double)d->ndraw);
    *loss = (double)total;
    return 0;
}

static int limit(TrainTask *t, TrainState *s)
{
    return train_adapter_limit(t, ((Diffusion *)t->impl)->lora, s);
}

/* ---- results ---- */

static int save(TrainTask *t, const TrainState *s, const float *values, const TrainPlace *to)
{
    Diffusion *d = t->impl;
    const TrainConf *c = t->conf;
    static const Dtype dtypes[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16};
    if (c->task == TRAIN_FULL) {
        if (c->text_encoder)
            TRY(train_task_save_part(t, s, values, to, "text_encoder", "text_encoder", "model.safetensors"));
        TRY(train_task_save_part(t, s, values, to, "unet", "unet", "diffusion_pytorch_model.safetensors"));
        return train_task_save_rest(t, to);
    }
    char *path;
    TRY(train_task_set_values(t, s, values));
    if (d->in.words.length)
        TRY(train_embedding_save(&d->in.words, t, to));
    if (!d->lora)
        return 0;
    TRY(train_place_file(&path, to, "lora"));
    TrainMeta meta;
    int rc = train_lora_metadata(&meta, c, t->data, d->held_data, s, d->pipe, d->noise.predict);
    if (rc >= 0)
        rc = lora_save(d->lora, path, c->lora.format == TRAIN_LORA_PEFT ? LORA_PEFT : LORA_KOHYA, dtypes[c->save_dtype], meta.item,
                       meta.count);
    train_meta_deinit(&meta);
    free(path);
    return rc;
}

static int alloc_buffers(TrainTask *t, Diffusion *d)
{
    size_t n = (size_t)t->conf->micro_batch, pixels = (size_t)(d->most * d->c);
    t->set = calloc(n, sizeof *t->set);
    TRY(train_noise_device_create(&d->noiser, t->be, &d->noise, t->conf->micro_batch, d->most * d->c));
    d->moments = malloc((d->noiser ? n : 1) * 2 * pixels * sizeof(float));
    d->buf_x = malloc(n * pixels * sizeof(float));
    d->buf_target = malloc(n * pixels * sizeof(float));
    d->buf_work = malloc(pixels * sizeof(float));
    d->buf_context = malloc(n * (size_t)(d->length * d->width) * sizeof(float));
    d->buf_mask = malloc(n * (size_t)d->most * sizeof(float));
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
    if (c->loss.scale_v_pred_loss_like_noise_pred && d->noise.predict != SAMPLER_PREDICT_V)
        return err_set(ERR_RANGE, "loss.scale_v_pred_loss_like_noise_pred is for v_prediction, which this model and noise.predict do not have");
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
        TRY(nn_params_load(t->params, t->now.g, "text_encoder", pipeline_files(d->pipe, PIPELINE_TEXT), clip_names));
    if (t->conf->init_random) {
        TRY(nn_params_init(t->params, t->now.g, "unet", t->conf->seed, zero, 2));
        return t->conf->text_encoder ? nn_params_set_trainable(t->params, t->now.g, t->now.wrt, t->nwrt) : 0;
    }
    if (t->comm->rank == 0)
        TRY(find_hash(t, d));
    TRY(train_task_load(t, "unet", pipeline_files(d->pipe, PIPELINE_UNET), NULL));
    return d->lora ? lora_init_magnitude(d->lora, t->params) : 0;
}

/* Held-out images have the buckets' rules of the training, but sizes of their own. */
static int open_held(TrainTask *t, Diffusion *d)
{
    const TrainConf *c = t->conf;
    int rc = c->validation.datasets.count ? train_dataset_open_list(&d->held_data, c, &c->validation.datasets) : 0;
    TRY(comm_agree(t->comm, rc));
    if (d->held_data && c->bucket.enabled) {
        TRY(train_dataset_scan(d->held_data, t->comm));
        TRY(train_dataset_make_buckets(d->held_data));
    }
    if (c->embedding.token[0])
        TRY(train_embedding_check(&c->embedding, t->data));
    return train_conf_has_text(c) ? clip_bpe_open(&d->bpe, pipeline_tokenizer_dir(d->pipe)) : 0;
}

/* The micro-batches of a validation, by bucket. */
static int list_held(const TrainTask *t, Diffusion *d)
{
    int64_t items = train_dataset_count(d->held_data), draws = t->conf->validation.draws, n = 0;
    int buckets = train_dataset_buckets(d->held_data), m = t->conf->micro_batch;
    d->draw = malloc((size_t)(items * draws) * sizeof *d->draw);
    d->held_batch = malloc((size_t)(items * draws / m + (buckets ? buckets : 1)) * sizeof *d->held_batch);
    if (!d->draw || !d->held_batch)
        return err_set(ERR_NOMEM, "validation: out of memory");
    for (int b = buckets ? 0 : -1; b < buckets; b++) {
        int64_t from = n;
        for (int64_t k = 0; k < items * draws; k++)
            if (train_dataset_item(d->held_data, k / draws)->bucket == b)
                d->draw[n++] = k;
        for (; from < n; from += m)
            d->held_batch[d->nheld++] = (HeldBatch){b < 0 ? 0 : d->held_shape[b], (int)(n - from < m ? n - from : m), from};
    }
    d->ndraw = n;
    return 0;
}

static int add_shape(TrainTask *t, Diffusion *d, TrainSize size)
{
    int f = vae_factor(pipeline_vae(d->pipe)), k;
    if (size.w % f || size.h % f)
        return err_set(ERR_RANGE, "bucket %d x %d: this model needs multiples of %d (bucket.steps)", size.w, size.h, f);
    Inputs *s = &d->shape[d->nshape++];
    s->w = size.w / f;
    s->h = size.h / f;
    d->most = d->most > (int64_t)s->w * s->h ? d->most : (int64_t)s->w * s->h;
    TRY_CTX(train_diffusion_graph(t, d->pipe, s->h, s->w, &s->in, &d->lora), "images of %d x %d", size.w, size.h);
    return t->conf->bucket.enabled ? train_task_keep_shape(t, &k) : 0;
}

/* The shape of a held-out bucket: one of the training's where it has that size. */
static int held_shape(TrainTask *t, Diffusion *d, int b)
{
    TrainSize size = train_dataset_bucket(d->held_data, b, NULL);
    for (int k = 0; k < train_dataset_buckets(t->data); k++) {
        TrainSize have = train_dataset_bucket(t->data, k, NULL);
        if (!train_size_compare(&have, &size)) {
            d->held_shape[b] = k;
            return 0;
        }
    }
    d->held_shape[b] = d->nshape;
    return add_shape(t, d, size);
}

/* One graph per size of images. */
static int make_shapes(TrainTask *t, Diffusion *d)
{
    int buckets = train_dataset_buckets(t->data), held = d->held_data ? train_dataset_buckets(d->held_data) : 0;
    d->shape = calloc((size_t)(buckets + held) + 1, sizeof *d->shape);
    d->held_shape = calloc((size_t)held + 1, sizeof *d->held_shape);
    if (!d->shape || !d->held_shape)
        return err_set(ERR_NOMEM, "training: out of memory");
    if (!buckets)
        TRY(add_shape(t, d, (TrainSize){t->conf->resolution, t->conf->resolution}));
    for (int b = 0; b < buckets; b++)
        TRY(add_shape(t, d, train_dataset_bucket(t->data, b, NULL)));
    for (int b = 0; b < held; b++)
        TRY(held_shape(t, d, b));
    if (buckets) {
        graph_destroy(t->now.g);
        t->now.g = NULL;
    }
    if (d->held_data)
        TRY(list_held(t, d));
    return use_shape(t, d, 0);
}

int train_diffusion_open(TrainTask *t, int plan_only)
{
    Diffusion *d = calloc(1, sizeof *d);
    if (!d)
        return err_set(ERR_NOMEM, "training: out of memory");
    str_init(&d->caption);
    t->impl = d;
    t->fill = fill;
    t->limit = t->conf->lora.max_norm > 0 ? limit : NULL;
    t->save = save;
    t->close = diffusion_close;
    TRY(comm_agree(t->comm, open_model(t, d)));
    int rc = open_held(t, d);
    if (rc >= 0)
        rc = make_shapes(t, d);
    t->adapter = d->lora;
    if (rc >= 0 && !plan_only)
        rc = train_task_fits(t);
    if (rc >= 0 && !plan_only)
        rc = alloc_buffers(t, d);
    TRY(comm_agree(t->comm, rc));
    if (plan_only)
        return 0;
    if (d->held_data && !t->conf->bucket.enabled)
        TRY(train_dataset_scan(d->held_data, t->comm));
    TRY(train_set_open(&d->set, t, d->pipe, t->data, !d->bpe));
    if (d->held_data)
        TRY(train_set_open(&d->held, t, d->pipe, d->held_data, !d->bpe));
    t->validate = d->held_data ? validate : NULL;
    if (!d->bpe && !train_set_needs_text(d->set) && !train_set_needs_text(d->held))
        io_safetensors_release(pipeline_files(d->pipe, PIPELINE_TEXT), -1);
    if (!train_set_needs_vae(d->set) && !train_set_needs_vae(d->held))
        io_safetensors_release(pipeline_files(d->pipe, PIPELINE_VAE), -1);
    return comm_agree(t->comm, load(t, d));
}
