#include "train/conf.h"

static const char *const crop_names[] = {"run", "center", "random", NULL};
static const char *const flip_names[] = {"run", "false", "true", NULL};

static const ConfField dataset_fields[] = {
    CONF_STR(TrainDatasetConf, path, NULL,
             "folder of images with NAME.txt captions, a folder of such folders named N_token class, a .jsonl, .json (kohya) or .csv list, or an .h5 image pack"),
    CONF_STR(TrainDatasetConf, caption, "", "caption of images that have none: class tokens (empty: those of the folder's name, else the file name in words)"),
    CONF_STR(TrainDatasetConf, prompt, "", "caption of all images, whatever their files say"),
    CONF_I32(TrainDatasetConf, repeats, "0", 0, 10000, "times each image appears in an epoch (0: the N of a folder named N_token class, else 1)"),
    CONF_F32(TrainDatasetConf, weight, "1", 0, 1000, "weight of these images in the loss"),
    CONF_STR(TrainDatasetConf, masks, "", "loss.mask=images: folder with a mask of the same name for every image"),
    CONF_STR(TrainDatasetConf, images, "", "folder that a list's paths are relative to (empty: the list's own)"),
    CONF_BOOL(TrainDatasetConf, is_reg, "false", "regularisation images: as many as the others in an epoch, weighted by prior_weight"),
    CONF_STR(TrainDatasetConf, extension, "", "of the caption files (empty: .txt, then .caption)"),
    CONF_STR(TrainDatasetConf, trigger, "", "words put in front of every caption that does not have them; never shuffled or dropped alone"),
    CONF_STR(TrainDatasetConf, prefix, "", "put before every caption, with a space"),
    CONF_STR(TrainDatasetConf, suffix, "", "put after every caption, with a space"),
    CONF_BOOL(TrainDatasetConf, shuffle, "false", "shuffle the tags of a caption every time it is shown"),
    CONF_I32(TrainDatasetConf, keep_tokens, "0", 0, 1000, "leading tags that are not shuffled or dropped"),
    CONF_STR(TrainDatasetConf, separator, ",", "between tags"),
    CONF_STR(TrainDatasetConf, keep_separator, "|||", "tags before it stay, as do those behind a second one (in place of keep_tokens)"),
    CONF_STR(TrainDatasetConf, secondary_separator, "", "joins tags that stay together; becomes the separator in the end"),
    CONF_BOOL(TrainDatasetConf, wildcards, "false", "choose among the lines of a caption and in {a|b}, every time it is shown"),
    CONF_F32(TrainDatasetConf, caption_dropout, "-1", -1, 1, "share of captions replaced by the empty one (-1: the run's caption_dropout)"),
    CONF_I32(TrainDatasetConf, caption_dropout_every, "0", 0, 1000000, "no captions in every so manieth epoch; 0: off"),
    CONF_F32(TrainDatasetConf, tag_dropout, "0", 0, 1, "share of tags left out of a caption"),
    CONF_ENUM(TrainDatasetConf, flip, "run", flip_names, "mirror half of the images"),
    CONF_ENUM(TrainDatasetConf, crop, "run", crop_names, "part of a larger image that is used"),
};
const ConfTable train_dataset_table = CONF_TABLE(TrainDatasetConf, dataset_fields);

static const ConfField bucket_fields[] = {
    CONF_BOOL(TrainBucketConf, enabled, "false", "keep each image's aspect ratio as far as a bucket allows, by kohya's rules"),
    CONF_I32(TrainBucketConf, min, "256", 8, 16384, "shortest side of a bucket"),
    CONF_I32(TrainBucketConf, max, "1024", 8, 16384, "longest side of a bucket"),
    CONF_I32(TrainBucketConf, steps, "64", 8, 1024, "sides are multiples of this, itself a multiple of 8"),
    CONF_BOOL(TrainBucketConf, no_upscale, "false", "images are never enlarged: buckets follow from their sizes; min and max do not count"),
};
const ConfTable train_bucket_table = CONF_TABLE(TrainBucketConf, bucket_fields);

static int check_dataset(const TrainDatasetConf *d, const char *path, const char *list, int i)
{
    if (!d->separator[0])
        return err_set(ERR_RANGE, "%s: %s.%d.separator must not be empty", path, list, i);
    return 0;
}

int train_data_check(TrainConf *c, const char *path)
{
    TrainBucketConf *b = &c->bucket;
    const TrainDatasetConf *d = c->datasets.items, *v = c->validation.datasets.items;
    for (int i = 0; i < c->datasets.count; i++)
        TRY(check_dataset(&d[i], path, "datasets", i));
    for (int i = 0; i < c->validation.datasets.count; i++)
        TRY(check_dataset(&v[i], path, "validation.datasets", i));
    for (int i = 0; i < c->datasets.count; i++)
        if (d[i].is_reg && c->dreambooth.class_prompt[0])
            return err_set(ERR_RANGE, "%s: datasets.%d.is_reg and dreambooth.class_prompt: one of the two", path, i);
    if (!b->enabled)
        return 0;
    if (!train_conf_is_diffusion(c))
        return err_set(ERR_RANGE, "%s: bucket.enabled is for the tasks lora, full and embedding", path);
    if (b->steps % 8)
        return err_set(ERR_RANGE, "%s: bucket.steps %d is not a multiple of 8", path, b->steps);
    b->min -= b->min % b->steps;
    b->max += (b->steps - b->max % b->steps) % b->steps;
    if (!b->no_upscale && (c->resolution < b->min || c->resolution > b->max || b->min == 0))
        return err_set(ERR_RANGE, "%s: resolution %d is not between bucket.min %d and bucket.max %d", path, c->resolution, b->min, b->max);
    return 0;
}
