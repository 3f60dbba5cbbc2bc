#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/version.h"
#include "io/file.h"
#include "train/loop.h"

/* Values that a run cannot know are left out rather than guessed; kohya's readers treat all keys as optional. Times are left out so
 * that equal runs give equal files. */
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

static int add_or_none(TrainMeta *m, const char *key, double v)
{
    return v > 0 ? train_meta_add(m, key, "%g", v) : train_meta_add(m, key, "None");
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
    TRY(train_meta_add(m, "ss_network_alpha", "%g", l->alpha > 0 ? (double)l->alpha : (double)l->rank));
    TRY(add_or_none(m, "ss_network_dropout", (double)l->dropout));
    return add_or_none(m, "ss_scale_weight_norms", (double)l->max_norm);
}

static int add_training(TrainMeta *m, const TrainConf *c, const TrainDataset *d, const TrainState *s)
{
    static const char *const optimizers[] = {"AdamW", "AdamW8bit", "Lion", "Adafactor", "Prodigy", "AdamWScheduleFree"};
    const TrainOptimConf *o = &c->optimizer;
    int64_t per_epoch = (train_dataset_epoch(d) + c->batch - 1) / c->batch;
    TRY(train_meta_add(m, "ss_learning_rate", "%g", (double)o->lr));
    TRY(train_meta_add(m, "ss_unet_lr", "%g", (double)o->lr));
    TRY(train_meta_add(m, "ss_lr_scheduler", o->warmup && !o->schedule ? "constant_with_warmup" : "%s", train_schedule_name(o->schedule)));
    TRY(train_meta_add(m, "ss_lr_warmup_steps", "%d", o->warmup));
    TRY(train_meta_add(m, "ss_optimizer", "atelier.%s(weight_decay=%g,betas=(%g, %g),eps=%g)", optimizers[o->name], (double)o->weight_decay,
            (double)o->beta1, (double)o->beta2, (double)o->eps));
    TRY(train_meta_add(m, "ss_max_grad_norm", "%g", (double)o->clip));
    TRY(train_meta_add(m, "ss_num_batches_per_epoch", "%lld", (long long)per_epoch));
    TRY(train_meta_add(m, "ss_num_epochs", "%lld", (long long)((c->steps + per_epoch - 1) / per_epoch)));
    TRY(train_meta_add(m, "ss_max_train_steps", "%d", c->steps));
    TRY(train_meta_add(m, "ss_steps", "%lld", (long long)s->step));
    TRY(train_meta_add(m, "ss_batch_size_per_device", "%d", c->micro_batch));
    TRY(train_meta_add(m, "ss_total_batch_size", "%d", c->batch));
    TRY(train_meta_add(m, "ss_gradient_checkpointing", "%s", c->gradient_checkpointing ? "True" : "False"));
    TRY(train_meta_add(m, "ss_resolution", "(%d, %d)", c->resolution, c->resolution));
    TRY(train_meta_add(m, "ss_caption_dropout_rate", "%g", (double)c->caption_dropout));
    if (c->loss.min_snr > 0)
        TRY(train_meta_add(m, "ss_min_snr_gamma", "%g", (double)c->loss.min_snr));
    TRY(train_meta_add(m, "ss_gradient_accumulation_steps", "%d", c->batch / c->micro_batch));
    TRY(train_meta_add(m, "ss_cache_latents", "%s", c->crop == TRAIN_CROP_RANDOM ? "False" : "True"));
    TRY(train_meta_add(m, "ss_flip_aug", "%s", c->flip ? "True" : "False"));
    TRY(train_meta_add(m, "ss_random_crop", "%s", c->crop == TRAIN_CROP_RANDOM ? "True" : "False"));
    TRY(train_meta_add(m, "ss_clip_skip", "None"));
    TRY(train_meta_add(m, "ss_max_token_length", "None"));
    TRY(train_meta_add(m, "ss_lowram", "False"));
    TRY(train_meta_add(m, "ss_full_fp16", "False"));
    return train_meta_add(m, "ss_seed", "%llu", (unsigned long long)c->seed);
}

static int add_model(TrainMeta *m, const TrainConf *c, Pipeline *pipe, SamplerPredict predict)
{
    const char *hash;
    int sd1 = pipeline_unet(pipe)->context == 768;
    TRY(pipeline_hash(pipe, PIPELINE_UNET, &hash));
    TRY(train_meta_add(m, "ss_v2", "%s", pipeline_unet(pipe)->context == 1024 ? "True" : "False"));
    TRY(train_meta_add(m, "ss_base_model_version", "%s", sd1 ? "sd_v1" : pipeline_unet(pipe)->context == 1024 ? "sd_v2" : "atelier_base"));
    TRY(train_meta_add(m, "ss_sd_model_name", "%s", io_path_name(c->model)));
    TRY(train_meta_add(m, "ss_new_sd_model_hash", "%s", hash));
    TRY(train_meta_add(m, "ss_sd_model_hash", "%.10s", hash));
    TRY(train_meta_add(m, "modelspec.sai_model_spec", "1.0.1"));
    TRY(train_meta_add(m, "modelspec.architecture", "%s/lora", sd1 ? "stable-diffusion-v1" : "atelier-base"));
    TRY(train_meta_add(m, "modelspec.implementation", "atelier"));
    TRY(train_meta_add(m, "modelspec.title", "%s", io_path_name(c->output)));
    TRY(train_meta_add(m, "modelspec.prediction_type", "%s", predict == SAMPLER_PREDICT_V ? "v" : sampler_predict_name(predict)));
    return train_meta_add(m, "modelspec.resolution", "%dx%d", c->resolution, c->resolution);
}

int train_lora_metadata(TrainMeta *m, const TrainConf *c, const TrainDataset *d, const TrainState *s, Pipeline *pipe,
                        SamplerPredict predict)
{
    memset(m, 0, sizeof *m);
    TRY(train_meta_add_data(m, c, d));
    TRY(add_network(m, &c->lora, c->optimizer.lora_plus));
    TRY(train_meta_add(m, "ss_output_name", "%s", io_path_name(c->output)));
    TRY(train_meta_add(m, "ss_mixed_precision", "%s", c->dtype ? "bf16" : "no"));
    TRY(train_meta_add(m, "ss_training_comment", "atelier %s", ATELIER_VERSION));
    TRY(add_training(m, c, d, s));
    return add_model(m, c, pipe, predict);
}
