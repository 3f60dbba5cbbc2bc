#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/version.h"
#include "io/file.h"
#include "train/loop.h"

/* All ss_ keys of kohya's train_network.py with the values that its options would have had, in Python's form, but for those of a day or of its
 * own repository (ss_session_id, ss_training_started_at and ..finished_at, ss_sd_scripts_commit_hash): equal runs give equal files. */
int train_meta_add(TrainMeta *m, const char *key, const char *fmt, ...)
{
    StrBuf b;
    va_list ap;
    if (m->count >= (int)(sizeof m->item / sizeof *m->item))
        return err_set(ERR_RANGE, "metadata: too many keys");
    str_init(&b);
    va_start(ap, fmt);
    str_add_vformat(&b, fmt, ap);
    va_end(ap);
    TRY(str_take(&m->text[m->count], &b));
    m->item[m->count] = (IoMeta){key, m->text[m->count]};
    m->count++;
    return 0;
}

void train_meta_deinit(TrainMeta *m)
{
    for (int i = 0; i < m->count; i++)
        free(m->text[i]);
    m->count = 0;
}

int train_meta_add_number(TrainMeta *m, const char *key, float v)
{
    StrBuf b;
    str_init(&b);
    str_add_number(&b, (double)v, 1);
    if (!strpbrk(b.data, ".en"))
        str_add(&b, ".0");
    int rc = train_meta_add(m, key, "%s", b.data);
    str_deinit(&b);
    return rc;
}

/* Options whose absence is None. */
static int add_or_none(TrainMeta *m, const char *key, float v)
{
    return v > 0 || v < 0 ? train_meta_add_number(m, key, v) : train_meta_add(m, key, "None");
}

static int add_flag(TrainMeta *m, const char *key, int on)
{
    return train_meta_add(m, key, on ? "True" : "False");
}

/* The network as kohya's (plain LoRA) or LyCORIS' (all others) trainer would have been told of it. */
static int network_args(const TrainLoraConf *l, float plus, StrBuf *b)
{
    static const char *const algos[] = {"locon", "loha", "lokr"};
    int lycoris = l->type != TRAIN_TYPE_LORA || l->dora || l->rslora;
    str_add_char(b, '{');
    if (lycoris)
        str_add_format(b, "\"algo\": \"%s\", ", algos[l->type]);
    if (l->conv_rank > 0)
        str_add_format(b, "\"conv_dim\": \"%d\", \"conv_alpha\": \"%g\", ", l->conv_rank,
                       l->conv_alpha > 0 ? (double)l->conv_alpha : (double)l->conv_rank);
    if (l->dora)
        str_add(b, "\"dora_wd\": \"True\", ");
    if (l->rslora)
        str_add(b, "\"rs_lora\": \"True\", ");
    if (l->type == TRAIN_TYPE_LOKR)
        str_add_format(b, "\"factor\": \"%d\", \"decompose_both\": \"%s\", ", l->lokr_factor, l->decompose_both ? "True" : "False");
    if (l->rank_dropout > 0)
        str_add_format(b, "\"rank_dropout\": \"%g\", ", (double)l->rank_dropout);
    if (l->module_dropout > 0)
        str_add_format(b, "\"module_dropout\": \"%g\", ", (double)l->module_dropout);
    if (plus > 0)
        str_add_format(b, "\"loraplus_lr_ratio\": \"%g\", ", (double)plus);
    if (b->len > 1)
        b->len -= 2;
    str_add_char(b, '}');
    return str_status(b);
}

static int add_network(TrainMeta *m, const TrainLoraConf *l, float plus)
{
    StrBuf b;
    str_init(&b);
    int rc = network_args(l, plus, &b);
    if (rc >= 0)
        rc = train_meta_add(m, "ss_network_args", "%s", b.data);
    str_deinit(&b);
    TRY(rc);
    int lycoris = l->type != TRAIN_TYPE_LORA || l->dora || l->rslora;
    TRY(train_meta_add(m, "ss_network_module", "%s", lycoris ? "lycoris.kohya" : "networks.lora"));
    TRY(train_meta_add(m, "ss_network_dim", "%d", l->rank));
    TRY(train_meta_add_number(m, "ss_network_alpha", l->alpha > 0 ? l->alpha : (float)l->rank));
    TRY(add_or_none(m, "ss_network_dropout", l->dropout));
    return add_or_none(m, "ss_scale_weight_norms", l->max_norm);
}

static const char *schedule_name(const TrainOptimConf *o)
{
    const char *own = train_schedule_name(o->schedule);
    if (o->warmup && !o->schedule)
        return "constant_with_warmup";
    return !strcmp(own, "cosine_restarts") ? "cosine_with_restarts" : !strcmp(own, "wsd") ? "warmup_stable_decay" : own;
}

static int add_optimizer(TrainMeta *m, const TrainConf *c)
{
    static const char *const optimizers[] = {"AdamW", "AdamW8bit", "Lion", "Adafactor", "Prodigy", "AdamWScheduleFree"};
    const TrainOptimConf *o = &c->optimizer;
    float text = o->text_encoder_lr >= 0 ? o->text_encoder_lr : o->lr;
    TRY(train_meta_add_number(m, "ss_learning_rate", o->lr));
    TRY(train_meta_add_number(m, "ss_unet_lr", o->lr));
    TRY(c->text_encoder ? train_meta_add_number(m, "ss_text_encoder_lr", text) : train_meta_add(m, "ss_text_encoder_lr", "None"));
    TRY(train_meta_add(m, "ss_lr_scheduler", "%s", schedule_name(o)));
    TRY(train_meta_add(m, "ss_lr_warmup_steps", "%d", o->warmup));
    TRY(train_meta_add(m, "ss_optimizer", "atelier.%s(weight_decay=%g,betas=(%g, %g),eps=%g)", optimizers[o->name], (double)o->weight_decay,
            (double)o->beta1, (double)o->beta2, (double)o->eps));
    return train_meta_add_number(m, "ss_max_grad_norm", o->clip);
}

static int add_steps(TrainMeta *m, const TrainConf *c, const TrainDataset *d, const TrainState *s)
{
    int64_t n = train_dataset_epoch(d), per_epoch = (n + c->batch - 1) / c->batch;
    TRY(train_meta_add(m, "ss_num_batches_per_epoch", "%lld", (long long)((n + c->micro_batch - 1) / c->micro_batch)));
    TRY(train_meta_add(m, "ss_num_epochs", "%lld", (long long)((c->steps + per_epoch - 1) / per_epoch)));
    TRY(train_meta_add(m, "ss_epoch", "%lld", (long long)((s->step + per_epoch - 1) / per_epoch)));
    TRY(train_meta_add(m, "ss_max_train_steps", "%d", c->steps));
    TRY(train_meta_add(m, "ss_steps", "%lld", (long long)s->step));
    TRY(train_meta_add(m, "ss_batch_size_per_device", "%d", c->micro_batch));
    TRY(train_meta_add(m, "ss_total_batch_size", "%d", c->batch));
    TRY(train_meta_add(m, "ss_gradient_accumulation_steps", "%d", c->batch / c->micro_batch));
    TRY(add_flag(m, "ss_gradient_checkpointing", c->gradient_checkpointing));
    return train_meta_add(m, "ss_seed", "%llu", (unsigned long long)c->seed);
}

static int add_images(TrainMeta *m, const TrainConf *c, const TrainDataset *held)
{
    TRY(train_meta_add(m, "ss_resolution", "(%d, %d)", c->resolution, c->resolution));
    TRY(add_flag(m, "ss_cache_latents", c->crop != TRAIN_CROP_RANDOM));
    TRY(add_flag(m, "ss_flip_aug", c->flip));
    TRY(add_flag(m, "ss_color_aug", 0));
    TRY(add_flag(m, "ss_random_crop", c->crop == TRAIN_CROP_RANDOM));
    TRY(train_meta_add(m, "ss_face_crop_aug_range", "None"));
    TRY(train_meta_add(m, "ss_resize_interpolation", TRAIN_RESIZE));
    TRY(train_meta_add_number(m, "ss_caption_dropout_rate", c->caption_dropout));
    TRY(train_meta_add(m, "ss_num_validation_images", "%lld", held ? (long long)train_dataset_count(held) : 0));
    TRY(train_meta_add(m, "ss_validation_split", "0.0")); /* images of their own */
    TRY(train_meta_add(m, "ss_validation_seed", "None"));
    TRY(train_meta_add(m, "ss_max_validation_steps", "None"));
    TRY(train_meta_add(m, "ss_validate_every_n_epochs", "None"));
    return held ? train_meta_add(m, "ss_validate_every_n_steps", "%d", c->validation.every) : train_meta_add(m, "ss_validate_every_n_steps", "None");
}

static int add_noise(TrainMeta *m, const TrainNoiseConf *n)
{
    TRY(add_or_none(m, "ss_noise_offset", n->offset));
    TRY(add_flag(m, "ss_noise_offset_random_strength", n->offset_random));
    TRY(add_or_none(m, "ss_adaptive_noise_scale", n->offset_adaptive));
    TRY(n->multires_iterations ? train_meta_add(m, "ss_multires_noise_iterations", "%d", n->multires_iterations)
                               : train_meta_add(m, "ss_multires_noise_iterations", "None"));
    TRY(train_meta_add_number(m, "ss_multires_noise_discount", n->multires_discount));
    TRY(add_or_none(m, "ss_ip_noise_gamma", n->perturbation));
    TRY(add_flag(m, "ss_ip_noise_gamma_random_strength", n->perturbation_random));
    return add_flag(m, "ss_zero_terminal_snr", n->zero_snr);
}

static int add_loss(TrainMeta *m, const TrainLossConf *l)
{
    TRY(train_meta_add(m, "ss_loss_type", "%s", train_loss_name(l->type)));
    TRY(train_meta_add(m, "ss_huber_schedule", "%s", train_huber_name(l->huber_schedule)));
    TRY(train_meta_add_number(m, "ss_huber_scale", l->huber_scale));
    TRY(train_meta_add_number(m, "ss_huber_c", l->huber_c));
    TRY(add_or_none(m, "ss_min_snr_gamma", l->min_snr));
    return add_flag(m, "ss_debiased_estimation", l->debiased);
}

/* Options of kohya's trainer for which Atelier has no other choice. */
static int add_fixed(TrainMeta *m, const TrainConf *c)
{
    TRY(train_meta_add(m, "ss_mixed_precision", "%s", c->dtype ? "bf16" : "no"));
    TRY(add_flag(m, "ss_full_fp16", 0));
    TRY(add_flag(m, "ss_fp8_base", 0));
    TRY(add_flag(m, "ss_fp8_base_unet", 0));
    TRY(add_flag(m, "ss_lowram", 0));
    TRY(train_meta_add(m, "ss_clip_skip", "None"));
    return train_meta_add(m, "ss_max_token_length", "None");
}

/* Words of the data sets and the embedding that call up what was learned, each once. */
static int trigger_words(const TrainConf *c, StrBuf *b)
{
    const TrainDatasetConf *d = c->datasets.items;
    str_add(b, c->embedding.token);
    for (int i = 0; i < c->datasets.count; i++)
        if (d[i].trigger[0] && (!b->len || !strstr(b->data, d[i].trigger)))
            str_add_format(b, "%s%s", b->len ? ", " : "", d[i].trigger);
    return str_status(b);
}

static int add_text(TrainMeta *m, const char *key, const char *text)
{
    return text[0] ? train_meta_add(m, key, "%s", text) : 0;
}

/* What nobody but the user knows; the day only where the environment fixes it (reproducible-builds.org's SOURCE_DATE_EPOCH). */
static int add_user(TrainMeta *m, const TrainConf *c)
{
    const TrainMetadataConf *u = &c->metadata;
    const char *epoch = getenv("SOURCE_DATE_EPOCH");
    char day[32];
    StrBuf b;
    TRY(train_meta_add(m, "modelspec.title", "%s", u->title[0] ? u->title : io_path_name(c->output)));
    TRY(add_text(m, "modelspec.author", u->author));
    TRY(add_text(m, "modelspec.description", u->description));
    TRY(add_text(m, "modelspec.license", u->license));
    TRY(add_text(m, "modelspec.tags", u->tags));
    TRY(add_text(m, "modelspec.usage_hint", u->usage_hint));
    str_init(&b);
    int rc = u->trigger_phrase[0] ? 0 : trigger_words(c, &b);
    if (rc >= 0)
        rc = add_text(m, "modelspec.trigger_phrase", u->trigger_phrase[0] ? u->trigger_phrase : b.len ? b.data : "");
    str_deinit(&b);
    TRY(rc);
    if (!epoch || !epoch[0])
        return 0;
    time_t t = (time_t)strtoll(epoch, NULL, 10);
    struct tm utc;
    strftime(day, sizeof day, "%Y-%m-%dT%H:%M:%S", gmtime_r(&t, &utc));
    return train_meta_add(m, "modelspec.date", "%s", day);
}

static int add_model(TrainMeta *m, const TrainConf *c, Pipeline *pipe, SamplerPredict predict)
{
    const TrainNoiseConf *n = &c->noise;
    const char *hash;
    int width = pipeline_unet(pipe)->context, v = predict == SAMPLER_PREDICT_V;
    const char *version = width == 768 ? "sd_v1" : width == 1024 ? (v ? "sd_v2_v" : "sd_v2") : "atelier_base";
    const char *kind = width == 768 ? "stable-diffusion-v1" : width == 1024 ? (v ? "stable-diffusion-v2-768-v" : "stable-diffusion-v2-512") : "atelier-base";
    TRY(pipeline_hash(pipe, PIPELINE_UNET, &hash));
    TRY(add_flag(m, "ss_v2", width == 1024));
    TRY(train_meta_add(m, "ss_base_model_version", "%s", version));
    TRY(train_meta_add(m, "ss_sd_model_name", "%s", io_path_name(c->model)));
    TRY(train_meta_add(m, "ss_new_sd_model_hash", "%s", hash));
    TRY(train_meta_add(m, "ss_sd_model_hash", "%.10s", hash));
    TRY(train_meta_add(m, "modelspec.sai_model_spec", "1.0.1"));
    TRY(train_meta_add(m, "modelspec.architecture", "%s/lora", kind));
    TRY(train_meta_add(m, "modelspec.implementation", "diffusers")); /* as kohya for LoRA of these models */
    TRY(train_meta_add(m, "modelspec.implementation_version", "atelier/%s", ATELIER_VERSION));
    TRY(train_meta_add(m, "modelspec.prediction_type", "%s", v ? "v" : sampler_predict_name(predict)));
    if (n->timestep_min || n->timestep_max)
        TRY(train_meta_add(m, "modelspec.timestep_range", "%d,%d", n->timestep_min, n->timestep_max ? n->timestep_max : 1000));
    return train_meta_add(m, "modelspec.resolution", "%dx%d", c->resolution, c->resolution);
}

int train_lora_metadata(TrainMeta *m, const TrainConf *c, const TrainDataset *d, const TrainDataset *held, const TrainState *s, Pipeline *pipe,
                        SamplerPredict predict)
{
    memset(m, 0, sizeof *m);
    TRY(train_meta_add_data(m, c, d));
    TRY(add_network(m, &c->lora, c->optimizer.lora_plus));
    TRY(train_meta_add(m, "ss_output_name", "%s", io_path_name(c->output)));
    TRY(train_meta_add(m, "ss_training_comment", "atelier %s", ATELIER_VERSION));
    TRY(add_optimizer(m, c));
    TRY(add_steps(m, c, d, s));
    TRY(add_images(m, c, held));
    TRY(add_noise(m, &c->noise));
    TRY(add_loss(m, &c->loss));
    TRY(add_fixed(m, c));
    TRY(add_model(m, c, pipe, predict));
    return add_user(m, c);
}
