#include "train/conf.h"

static const char *const task_names[] = {"lora", "full", "vae", "clip", NULL};
static const char *const dtype_names[] = {"f32", "bf16", NULL};
static const char *const save_names[] = {"f32", "f16", "bf16", NULL};
static const char *const crop_names[] = {"center", "random", NULL};
static const char *const format_names[] = {"kohya", "peft", NULL};

static const ConfField dataset_fields[] = {
    CONF_STR(TrainDatasetConf, path, NULL, "folder of images with NAME.txt captions, a .jsonl or .csv list, or an .h5 image pack"),
    CONF_STR(TrainDatasetConf, caption, "", "caption of images that have none (empty: the file name in words)"),
    CONF_I32(TrainDatasetConf, repeats, "1", 1, 10000, "times each image appears in an epoch"),
};
static const ConfTable dataset_table = CONF_TABLE(TrainDatasetConf, dataset_fields);

static const ConfField lora_fields[] = {
    CONF_I32(TrainLoraConf, rank, "16", 1, 1024, "rank of the factors"),
    CONF_F32(TrainLoraConf, alpha, "0", 0, 4096, "the update is scaled by alpha/rank; 0 means alpha = rank"),
    CONF_STRS(TrainLoraConf, targets, "['attn*.to_q', 'attn*.to_k', 'attn*.to_v', 'attn*.to_out.0']", 1, 100,
              "patterns of the UNet's linear and convolution modules that get factors"),
    CONF_ENUM(TrainLoraConf, format, "kohya", format_names, "naming of the saved .safetensors"),
};
static const ConfTable lora_table = CONF_TABLE(TrainLoraConf, lora_fields);

static const ConfField loss_fields[] = {
    CONF_F32(TrainLossConf, min_snr, "0", 0, 1000, "gamma of min-SNR weighting; 0 off"),
    CONF_F32(TrainLossConf, kl, "1e-4", 0, 10, "vae: weight of the KL divergence"),
    CONF_F32(TrainLossConf, l1, "1.0", 0, 10, "vae: weight of the absolute error beside the squared error"),
};
static const ConfTable loss_table = CONF_TABLE(TrainLossConf, loss_fields);

static const ConfField checkpoint_fields[] = {
    CONF_I32(TrainCheckpointConf, every, "100", 1, 100000000, "steps between checkpoints"),
    CONF_I32(TrainCheckpointConf, keep, "2", 1, 1000, "checkpoints kept"),
};
static const ConfTable checkpoint_table = CONF_TABLE(TrainCheckpointConf, checkpoint_fields);

static const ConfField train_fields[] = {
    CONF_ENUM(TrainConf, task, "lora", task_names, "what is trained: lora, full (the UNet), vae, clip (text encoder and image tower)"),
    CONF_STR(TrainConf, model, NULL, "model folder in the diffusers layout"),
    CONF_STR(TrainConf, output, NULL, "folder of checkpoints and results"),
    CONF_STR(TrainConf, cache, "", "folder of latent and text caches (empty: OUTPUT/cache)"),
    CONF_U64(TrainConf, seed, "42", "all randomness follows from it"),
    CONF_ENUM(TrainConf, dtype, "f32", dtype_names, "weights and activations; factors and optimizer state stay f32"),
    CONF_I32(TrainConf, threads, "0", 0, 4096, "threads per rank; 0: the cores of the node shared among its ranks"),
    CONF_I32(TrainConf, steps, "1000", 1, 100000000, "optimizer steps"),
    CONF_I32(TrainConf, batch, "8", 1, 65536, "images per step over all ranks"),
    CONF_I32(TrainConf, micro_batch, "0", 0, 65536, "images per forward pass (0: the whole batch, at most 8); results depend on it"),
    CONF_I32(TrainConf, resolution, "512", 8, 4096, "side of the square training images, a multiple of 8"),
    CONF_STRUCTS(TrainConf, datasets, &dataset_table, 1, 1000, "where the images are"),
    CONF_ENUM(TrainConf, crop, "center", crop_names, "part of a larger image that is used"),
    CONF_BOOL(TrainConf, flip, "false", "mirror half of the images"),
    CONF_NUMS(TrainConf, background, "[255, 255, 255]", 0, 255, "red, green, blue behind transparent pixels"),
    CONF_F32(TrainConf, caption_dropout, "0.1", 0, 1, "share of captions replaced by the empty one"),
    CONF_STRUCT(TrainConf, lora, &lora_table, "low-rank adapter"),
    CONF_STRS(TrainConf, train, "['*']", 1, 100, "full: patterns of the UNet's parameters that are trained"),
    CONF_STRUCT(TrainConf, optimizer, &train_optim_table, "the optimizer and its learning rate"),
    CONF_STRUCT(TrainConf, loss, &loss_table, "weighting of the loss"),
    CONF_BOOL(TrainConf, gradient_checkpointing, "false", "recompute activations in the backward pass to save memory"),
    CONF_STRUCT(TrainConf, checkpoint, &checkpoint_table, "saving the state of the run"),
    CONF_ENUM(TrainConf, save_dtype, "f32", save_names, "of the saved LoRA or model"),
    CONF_BOOL(TrainConf, init_random, "false", "start what is trained from random weights (full, vae, clip)"),
    CONF_BOOL(TrainConf, resume, "true", "continue from the newest checkpoint in OUTPUT when there is one"),
};
const ConfTable train_conf_table = CONF_TABLE(TrainConf, train_fields);

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
    if (c->task == TRAIN_LORA && c->init_random)
        return err_set(ERR_RANGE, "%s: init_random: a LoRA needs a trained model", path);
    if (c->background.count != 3)
        return err_set(ERR_RANGE, "%s: background: expected three numbers in 0..255", path);
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
