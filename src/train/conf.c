#include "train/conf.h"

#include <stdlib.h>
#include <string.h>

#include "graph/device.h"
#include "train/dreambooth.h"

static const char *const task_names[] = {"lora", "full", "vae", "clip", "embedding", NULL};
static const char *const form_names[] = {"a1111", "diffusers", NULL};
static const char *const dtype_names[] = {"f32", "bf16", NULL};
static const char *const save_names[] = {"f32", "f16", "bf16", NULL};
static const char *const crop_names[] = {"center", "random", NULL};
static const char *const scope_names[] = {"shared", "node", NULL};
static const char *const sum_names[] = {"auto", "nccl", "mpi", NULL}; /* as CommDeviceHow */
static const char *const text_names[] = {"frozen", "train", NULL};

static const ConfField dreambooth_fields[] = {
    CONF_STR(TrainDreamboothConf, prompt, "", "caption of all images of `datasets`: 'sks stick man' (empty: their own captions)"),
    CONF_STR(TrainDreamboothConf, class_prompt, "", "what the subject is one of: 'a stick man'. Set, it switches prior preservation on"),
    CONF_STR(TrainDreamboothConf, class_images, "",
             "images of the class: a folder, list or pack that is there, or else a folder to generate them in (empty: OUTPUT/class)"),
    CONF_I32(TrainDreamboothConf, count, "100", 1, 10000, "images to generate"),
    CONF_F32(TrainDreamboothConf, weight, "1", 0, 1000, "weight of the class images in the loss"),
    CONF_STR(TrainDreamboothConf, negative, "", "generated: negative prompt"),
    CONF_STR(TrainDreamboothConf, sampler, "", "generated: sampler, one of those of atelier sweep (empty: the model's)"),
    CONF_I32(TrainDreamboothConf, steps, "25", 1, 1000, "generated: denoising steps"),
    CONF_F64(TrainDreamboothConf, guidance, "7.5", 0, 1000, "generated: guidance scale"),
    CONF_I64(TrainDreamboothConf, seed, "1", 0, 9e18, "generated: seed of the first image; the others follow"),
};
static const ConfTable dreambooth_table = CONF_TABLE(TrainDreamboothConf, dreambooth_fields);

static const ConfField samples_fields[] = {
    CONF_STRS(TrainSamplesConf, prompts, "[]", 0, 100,
              "what to render; each may end in options: --w WIDTH --h HEIGHT --d SEED --l GUIDANCE --s STEPS --n NEGATIVE PROMPT"),
    CONF_I32(TrainSamplesConf, every, "100", 1, 100000000, "steps between them; also before the first step and after the last"),
    CONF_STR(TrainSamplesConf, negative, "", "negative prompt where --n gives none"),
    CONF_STR(TrainSamplesConf, sampler, "", "sampler, one of those of atelier sweep (empty: the model's)"),
    CONF_I32(TrainSamplesConf, steps, "20", 1, 1000, "denoising steps where --s gives none"),
    CONF_F64(TrainSamplesConf, guidance, "7.5", 0, 1000, "guidance scale where --l gives none"),
    CONF_I64(TrainSamplesConf, seed, "1", 0, 9e18, "seed where --d gives none"),
};
static const ConfTable samples_table = CONF_TABLE(TrainSamplesConf, samples_fields);

static const ConfField embedding_fields[] = {
    CONF_STR(TrainEmbeddingConf, token, "", "word that the vectors stand for: '<toy>'. Captions must hold it"),
    CONF_I32(TrainEmbeddingConf, vectors, "1", 1, 75, "vectors, one place in a prompt each"),
    CONF_STR(TrainEmbeddingConf, init, "", "words whose embeddings the vectors begin as (too few: the last is repeated), or a .safetensors to go on from; empty: the token's own"),
    CONF_STRS(TrainEmbeddingConf, prompts, "[]", 0, 1000, "captions in place of the images' own, {} standing for the token: 'a photo of {}'; one is drawn per sample"),
    CONF_ENUM(TrainEmbeddingConf, format, "diffusers", form_names, "tensor named by the token (diffusers, A1111 and ComfyUI read it), or emb_params (a1111, kohya)"),
};
static const ConfTable embedding_table = CONF_TABLE(TrainEmbeddingConf, embedding_fields);

static const ConfField checkpoint_fields[] = {
    CONF_I32(TrainCheckpointConf, every, "100", 1, 100000000, "steps between checkpoints"),
    CONF_I32(TrainCheckpointConf, keep, "2", 1, 1000, "newest checkpoints kept"),
    CONF_I32(TrainCheckpointConf, milestone, "0", 0, 100000000, "checkpoints of every so many steps stay for good; 0: none. A multiple of every"),
    CONF_BOOL(TrainCheckpointConf, background, "true", "write them beside the training, from a copy of the state, where memory allows"),
};
static const ConfTable checkpoint_table = CONF_TABLE(TrainCheckpointConf, checkpoint_fields);

static const ConfField validation_fields[] = {
    CONF_STRUCTS(TrainValidationConf, datasets, &train_dataset_table, 0, 1000, "held-out images (lora, full); none: no validation"),
    CONF_I32(TrainValidationConf, every, "100", 1, 100000000, "steps between validations; also before the first and after the last"),
    CONF_I32(TrainValidationConf, draws, "1", 1, 1000, "noise and timestep draws per image, the same every time"),
};
static const ConfTable validation_table = CONF_TABLE(TrainValidationConf, validation_fields);

static const ConfField metadata_fields[] = {
    CONF_STR(TrainMetadataConf, title, "", "empty: the name of the output folder"),
    CONF_STR(TrainMetadataConf, author, "", "who made it"),
    CONF_STR(TrainMetadataConf, description, "", "what it is"),
    CONF_STR(TrainMetadataConf, license, "", "terms of use"),
    CONF_STR(TrainMetadataConf, tags, "", "words to find it by, separated by commas"),
    CONF_STR(TrainMetadataConf, trigger_phrase, "", "words that call it up (empty: datasets.*.trigger and embedding.token)"),
    CONF_STR(TrainMetadataConf, usage_hint, "", "how to use it"),
};
static const ConfTable metadata_table = CONF_TABLE(TrainMetadataConf, metadata_fields);

static const ConfField train_fields[] = {
    CONF_ENUM(TrainConf, task, "lora", task_names, "what is trained: lora, full (the UNet), embedding (textual inversion), vae, clip (text encoder and image tower)"),
    CONF_STR(TrainConf, model, NULL, "model folder in the diffusers layout"),
    CONF_STR(TrainConf, output, NULL, "folder of checkpoints and results"),
    CONF_STR(TrainConf, cache, "", "folder of latent and text caches (empty: OUTPUT/cache)"),
    CONF_U64(TrainConf, seed, "42", "all randomness follows from it"),
    CONF_ENUM(TrainConf, dtype, "f32", dtype_names, "weights and activations; factors and optimizer state stay f32"),
    CONF_ENUM(TrainConf, device, "auto", DEVICE_NAMES, "where to compute: auto takes the GPU of this rank where there is one"),
    CONF_I32(TrainConf, threads, "0", 0, 4096, "threads per rank; 0: the cores of the node shared among its ranks"),
    CONF_ENUM(TrainConf, sum_by, "auto", sum_names, "who adds the gradients of ranks on GPUs: nccl, from GPU to GPU while the backward pass goes on; mpi, through host memory; auto: NCCL where every rank has a GPU and the library is there"),
    CONF_SIZE(TrainConf, sum_bucket, "8MiB", 8, 1e12, "NCCL: least size of the parts in which they set out; there are 64 at most"),
    CONF_F64(TrainConf, patience, "600", 0, 1e6,
             "seconds that ranks wait for one that does not come, before the run ends and names it (ten times that where files are written); 0: for ever. A rank whose process has ended is named at once, one of which nothing is heard after a minute at most"),
    CONF_I32(TrainConf, steps, "1000", 1, 100000000, "optimizer steps"),
    CONF_I32(TrainConf, batch, "8", 1, 65536, "images per step over all ranks"),
    CONF_I32(TrainConf, micro_batch, "0", 0, 65536, "images per forward pass (0: the whole batch, at most 8); results depend on it"),
    CONF_I32(TrainConf, resolution, "512", 8, 4096, "side of the square training images, a multiple of 8"),
    CONF_STRUCTS(TrainConf, datasets, &train_dataset_table, 1, 1000, "where the images are"),
    CONF_STRUCT(TrainConf, dreambooth, &dreambooth_table, "a subject of its own, with prior preservation (lora, full)"),
    CONF_ENUM(TrainConf, crop, "center", crop_names, "part of a larger image that is used"),
    CONF_BOOL(TrainConf, flip, "false", "mirror half of the images"),
    CONF_STRUCT(TrainConf, bucket, &train_bucket_table, "training at several aspect ratios (lora, full)"),
    CONF_F32(TrainConf, prior_weight, "1", 0, 1000, "weight of regularisation images (datasets.*.is_reg) in the loss"),
    CONF_ENUM(TrainConf, cache_scope, "shared", scope_names, "shared: all ranks see the folder of caches; node: each node has its own there"),
    CONF_NUMS(TrainConf, background, "[255, 255, 255]", 0, 255, "red, green, blue behind transparent pixels"),
    CONF_F32(TrainConf, caption_dropout, "0.1", 0, 1, "share of captions replaced by the empty one"),
    CONF_ENUM(TrainConf, text_encoder, "frozen", text_names, "lora, full: train it together with the UNet (optimizer.text_encoder_lr)"),
    CONF_STRUCT(TrainConf, lora, &train_lora_table, "low-rank adapter"),
    CONF_STRUCT(TrainConf, embedding, &embedding_table, "textual inversion: vectors for a new word (embedding; lora: beside the adapter)"),
    CONF_STRS(TrainConf, train, "['*']", 1, 100, "full: patterns of the parameters that are trained, of the UNet and, where it is trained, the text encoder"),
    CONF_STRUCT(TrainConf, optimizer, &train_optim_table, "the optimizer and its learning rate"),
    CONF_STRUCT(TrainConf, loss, &train_loss_table, "kind and weighting of the loss"),
    CONF_STRUCT(TrainConf, noise, &train_noise_table, "noise and timesteps (lora, full)"),
    CONF_BOOL(TrainConf, gradient_checkpointing, "false", "recompute activations in the backward pass to save memory"),
    CONF_SIZE(TrainConf, memory, "0", 0, 0x1p50, "what a rank may take ('8GiB'): only as many activations are recomputed as it needs; 0: as gradient_checkpointing says"),
    CONF_STRUCT(TrainConf, samples, &samples_table, "images rendered while training, in OUTPUT/samples and on the sheet OUTPUT/samples.png"),
    CONF_BOOL(TrainConf, tensorboard, "true", "write event files for TensorBoard into OUTPUT/tensorboard"),
    CONF_BOOL(TrainConf, report, "true", "write OUTPUT/loss.png and OUTPUT/report.html at the end"),
    CONF_STRUCT(TrainConf, checkpoint, &checkpoint_table, "saving the state of the run"),
    CONF_I32(TrainConf, save_every, "0", 0, 100000000, "steps between LoRAs, embeddings or models that stay in OUTPUT/saves, to choose among; 0: only the last one"),
    CONF_ENUM(TrainConf, save_dtype, "f32", save_names, "of the saved LoRA or model"),
    CONF_STRUCT(TrainConf, metadata, &metadata_table, "words about the LoRA for its file (modelspec.*); SOURCE_DATE_EPOCH in the environment adds the day"),
    CONF_STRUCT(TrainConf, validation, &validation_table, "loss on held-out images"),
    CONF_BOOL(TrainConf, init_random, "false", "start what is trained from random weights (full, vae, clip)"),
    CONF_BOOL(TrainConf, resume, "true", "continue from the newest checkpoint in OUTPUT when there is one"),
};
const ConfTable train_conf_table = CONF_TABLE(TrainConf, train_fields);

int train_conf_has_text(const TrainConf *c)
{
    return c->text_encoder || c->embedding.token[0];
}

int train_conf_is_diffusion(const TrainConf *c)
{
    return c->task == TRAIN_LORA || c->task == TRAIN_FULL || c->task == TRAIN_EMBEDDING;
}

/* Attention and MLP of the text encoder, as kohya's trainers choose them, unless targets already name some of it. */
static int add_text_targets(ConfStrs *s)
{
    static const char *const more[] = {"q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"};
    for (int i = 0; i < s->count; i++)
        if (!strncmp(s->items[i], "text_encoder", 12))
            return 0;
    for (int i = 0; i < 6; i++) {
        char **items = realloc(s->items, (size_t)(s->count + 1) * sizeof *items);
        if (!items)
            return err_set(ERR_NOMEM, "out of memory");
        s->items = items;
        TRY(str_format(&items[s->count], "text_encoder*.%s", more[i]));
        s->count++;
    }
    return 0;
}

int train_conf_check(TrainConf *c, const char *path)
{
    if (c->micro_batch == 0) {
        c->micro_batch = c->batch < 8 ? c->batch : 8;
        while (c->batch % c->micro_batch)
            c->micro_batch--;
        if (c->task == TRAIN_CLIP)
            c->micro_batch = c->batch;
    }
    if (c->batch % c->micro_batch)
        return err_set(ERR_RANGE, "%s: batch %d is not a multiple of micro_batch %d", path, c->batch, c->micro_batch);
    if (c->task == TRAIN_CLIP && c->batch != c->micro_batch)
        return err_set(ERR_RANGE, "%s: task clip compares all images of a batch: micro_batch must equal batch", path);
    if (c->resolution % 8)
        return err_set(ERR_RANGE, "%s: resolution %d is not a multiple of 8", path, c->resolution);
    if ((c->task == TRAIN_LORA || c->task == TRAIN_EMBEDDING) && c->init_random)
        return err_set(ERR_RANGE, "%s: init_random: %s needs a trained model", path, c->task == TRAIN_LORA ? "a LoRA" : "an embedding");
    TRY(train_dreambooth_check(c, path));
    if (c->background.count != 3)
        return err_set(ERR_RANGE, "%s: background: expected three numbers in 0..255", path);
    if (c->task == TRAIN_EMBEDDING && !c->embedding.token[0])
        return err_set(ERR_RANGE, "%s: task embedding needs embedding.token, the new word", path);
    if (c->embedding.token[0] && c->task != TRAIN_EMBEDDING && c->task != TRAIN_LORA)
        return err_set(ERR_RANGE, "%s: embedding is for the tasks embedding and lora", path);
    if (strpbrk(c->embedding.token, " \t\r\n"))
        return err_set(ERR_RANGE, "%s: embedding.token '%s': one word without spaces", path, c->embedding.token);
    if (c->samples.prompts.count && !train_conf_is_diffusion(c))
        return err_set(ERR_RANGE, "%s: samples are for the tasks lora, full and embedding", path);
    if (c->text_encoder && c->task != TRAIN_LORA && c->task != TRAIN_FULL)
        return err_set(ERR_RANGE, "%s: text_encoder=train is for the tasks lora and full", path);
    if (c->save_every && !train_conf_is_diffusion(c))
        return err_set(ERR_RANGE, "%s: save_every is for the tasks lora, full and embedding", path);
    if (c->validation.datasets.count && !train_conf_is_diffusion(c))
        return err_set(ERR_RANGE, "%s: validation is for the tasks lora, full and embedding", path);
    if (c->checkpoint.milestone % c->checkpoint.every)
        return err_set(ERR_RANGE, "%s: checkpoint.milestone %d is not a multiple of checkpoint.every %d", path, c->checkpoint.milestone,
                       c->checkpoint.every);
    if (c->text_encoder && c->task == TRAIN_LORA)
        TRY(add_text_targets(&c->lora.targets));
    if (c->optimizer.weights && (!c->dtype || c->task == TRAIN_LORA || c->task == TRAIN_EMBEDDING))
        return err_set(ERR_RANGE, "%s: optimizer.weights: bf16 is for the tasks full, vae and clip with dtype bf16", path);
    TRY(train_data_check(c, path));
    TRY(train_loss_check(&c->loss, &c->noise, path));
    return train_optim_check(&c->optimizer, c->steps, path);
}

int train_conf_read(TrainConf *c, const char *path, const char *const *overrides, int count)
{
    TRY(config_read(&train_conf_table, c, path, overrides, count));
    return train_conf_check(c, path ? path : "command line");
}

void train_conf_deinit(TrainConf *c)
{
    config_deinit(&train_conf_table, c);
}

Dtype train_conf_dtype(const TrainConf *c)
{
    return c->dtype ? DTYPE_BF16 : DTYPE_F32;
}
