#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "io/file.h"
#include "train/loop.h"

/* As kohya's train_network.py writes them (keys and nesting), with json.dumps' form: ASCII, ", " and ": ". */
static int add_json(TrainMeta *m, const char *key, json_t *j)
{
    char *text = j ? json_dumps(j, JSON_ENSURE_ASCII | JSON_ENCODE_ANY | JSON_REAL_PRECISION(16)) : NULL;
    json_decref(j);
    if (!text)
        return err_set(ERR_NOMEM, "metadata: out of memory");
    int rc = train_meta_add(m, key, "%s", text);
    free(text);
    return rc;
}

static const char *name_of(const TrainSubset *s)
{
    return io_path_name(s->path);
}

/* Tags in lower case with the number of captions that have them, in the order of their first appearance. */
static int count_tag(json_t *tags, const char *at, size_t n)
{
    while (n && (*at == ' ' || *at == '\n'))
        at++, n--;
    while (n && (at[n - 1] == ' ' || at[n - 1] == '\n'))
        n--;
    char *tag = n ? calloc(4 * n + 1, 1) : NULL; /* lower case may be longer */
    if (!tag)
        return n ? err_set(ERR_NOMEM, "metadata: out of memory") : 0;
    size_t k = 0;
    for (size_t i = 0; i < n;) {
        utf8proc_int32_t c;
        utf8proc_ssize_t used = utf8proc_iterate((const utf8proc_uint8_t *)at + i, (utf8proc_ssize_t)(n - i), &c);
        if (used <= 0)
            break;
        k += (size_t)utf8proc_encode_char(utf8proc_tolower(c), (utf8proc_uint8_t *)tag + k);
        i += (size_t)used;
    }
    json_int_t before = json_integer_value(json_object_get(tags, tag));
    int rc = json_object_set_new(tags, tag, json_integer(before + 1)) ? err_set(ERR_NOMEM, "metadata: out of memory") : 0;
    free(tag);
    return rc;
}

static int count_tags(const TrainDataset *d, const TrainSubset *s, json_t *tags)
{
    for (int64_t i = s->first; i < s->first + s->count; i++)
        for (const char *p = train_dataset_item(d, i)->caption, *end; *p; p = *end ? end + 1 : end) {
            end = p + strcspn(p, ",");
            TRY(count_tag(tags, p, (size_t)(end - p)));
        }
    return 0;
}

static int tag_frequency(const TrainDataset *d, json_t *out)
{
    for (int i = 0; i < train_dataset_subsets(d); i++) {
        const TrainSubset *s = train_dataset_subset(d, i);
        json_t *tags = json_object_get(out, name_of(s));
        if (!tags && json_object_set_new(out, name_of(s), tags = json_object()))
            return err_set(ERR_NOMEM, "metadata: out of memory");
        TRY(count_tags(d, s, tags));
    }
    return 0;
}

/* Folders of the same name get " (2)" and so on. */
static int add_dir(json_t *out, const TrainSubset *s)
{
    char *name;
    TRY(str_copy(&name, name_of(s)));
    for (int k = 2; json_object_get(out, name); k++) {
        free(name);
        TRY(str_format(&name, "%s (%d)", name_of(s), k));
    }
    int bad = json_object_set_new(out, name, json_pack("{s:i, s:I}", "n_repeats", s->repeats, "img_count", (json_int_t)s->count));
    free(name);
    return bad ? err_set(ERR_NOMEM, "metadata: out of memory") : 0;
}

static json_t *bucket_info(const TrainDataset *d)
{
    json_t *buckets = json_object();
    int64_t n, count = train_dataset_count(d);
    double error = 0;
    if (!train_dataset_buckets(d)) {
        json_decref(buckets);
        return json_null();
    }
    for (int b = 0; b < train_dataset_buckets(d); b++) {
        char key[16];
        TrainSize size = train_dataset_bucket(d, b, &n);
        snprintf(key, sizeof key, "%d", b);
        if (n)
            json_object_set_new(buckets, key, json_pack("{s:[i,i], s:I}", "resolution", size.w, size.h, "count", (json_int_t)n));
    }
    for (int64_t i = 0; i < count; i++) {
        const TrainItem *it = train_dataset_item(d, i);
        double e = (double)it->size.w / it->size.h - (double)it->image.w / it->image.h;
        error += e < 0 ? -e : e;
    }
    return json_pack("{s:o, s:f}", "buckets", buckets, "mean_img_ar_error", error / (double)count);
}

/* Words that were not given: None. */
static json_t *word_or_null(const char *word)
{
    return word[0] ? json_string(word) : json_null();
}

static json_t *subset_info(const TrainDataset *d, const TrainSubset *s)
{
    const TrainDatasetConf *c = s->conf;
    const TrainItem *first = train_dataset_item(d, s->first);
    return json_pack("{s:I, s:i, s:b, s:b, s:b, s:b, s:i, s:s, s:o, s:b, s:o, s:o, s:s, s:s, s:o, s:b}", "img_count", (json_int_t)s->count,
                     "num_repeats", s->repeats, "color_aug", 0, "flip_aug", train_dataset_flips(d, first), "random_crop",
                     train_dataset_crop(d, first) == TRAIN_CROP_RANDOM, "shuffle_caption", c->shuffle, "keep_tokens", c->keep_tokens,
                     "keep_tokens_separator", c->keep_separator, "secondary_separator", word_or_null(c->secondary_separator),
                     "enable_wildcard", c->wildcards, "caption_prefix", word_or_null(c->prefix), "caption_suffix", word_or_null(c->suffix),
                     "resize_interpolation", TRAIN_RESIZE, "image_dir", name_of(s), "class_tokens", word_or_null(c->caption), "is_reg",
                     c->is_reg);
}

static void count_images(const TrainDataset *d, int64_t *train, int64_t *reg)
{
    *train = *reg = 0;
    for (int i = 0; i < train_dataset_subsets(d); i++) {
        const TrainSubset *s = train_dataset_subset(d, i);
        *(s->conf->is_reg ? reg : train) += s->conf->is_reg ? s->count * s->repeats : s->entries;
    }
}

static json_t *datasets(const TrainConf *c, const TrainDataset *d, json_t *tags)
{
    int64_t train, reg;
    json_t *subsets = json_array();
    count_images(d, &train, &reg);
    for (int i = 0; i < train_dataset_subsets(d); i++)
        json_array_append_new(subsets, subset_info(d, train_dataset_subset(d, i)));
    json_t *set = json_pack("{s:b, s:i, s:I, s:I, s:[i,i], s:b, s:o, s:o, s:O, s:o, s:s, s:o}", "is_dreambooth", 1, "batch_size_per_device",
                            c->micro_batch, "num_train_images", (json_int_t)train, "num_reg_images", (json_int_t)reg, "resolution",
                            c->resolution, c->resolution, "enable_bucket", c->bucket.enabled, "min_bucket_reso",
                            c->bucket.enabled ? json_integer(c->bucket.min) : json_null(), "max_bucket_reso",
                            c->bucket.enabled ? json_integer(c->bucket.max) : json_null(), "tag_frequency", tags, "bucket_info",
                            bucket_info(d), "resize_interpolation", TRAIN_RESIZE, "subsets", subsets);
    return set ? json_pack("[o]", set) : NULL;
}

static int add_dirs(TrainMeta *m, const TrainDataset *d)
{
    json_t *dirs = json_object(), *reg = json_object();
    int rc = dirs && reg ? 0 : err_set(ERR_NOMEM, "metadata: out of memory");
    for (int i = 0; rc >= 0 && i < train_dataset_subsets(d); i++) {
        const TrainSubset *s = train_dataset_subset(d, i);
        rc = add_dir(s->conf->is_reg ? reg : dirs, s);
    }
    if (rc < 0) {
        json_decref(dirs);
        json_decref(reg);
        return rc;
    }
    rc = add_json(m, "ss_dataset_dirs", dirs);
    int second = add_json(m, "ss_reg_dataset_dirs", reg);
    return rc < 0 ? rc : second;
}

static int add_buckets(TrainMeta *m, const TrainConf *c, const TrainDataset *d)
{
    const TrainBucketConf *b = &c->bucket;
    TRY(train_meta_add(m, "ss_enable_bucket", "%s", b->enabled ? "True" : "False"));
    TRY(train_meta_add(m, "ss_bucket_no_upscale", "%s", b->enabled && b->no_upscale ? "True" : "False"));
    TRY(add_json(m, "ss_bucket_info", bucket_info(d)));
    if (b->enabled) {
        TRY(train_meta_add(m, "ss_min_bucket_reso", "%d", b->min));
        return train_meta_add(m, "ss_max_bucket_reso", "%d", b->max);
    }
    TRY(train_meta_add(m, "ss_min_bucket_reso", "None"));
    return train_meta_add(m, "ss_max_bucket_reso", "None");
}

/* Keys that kohya has once for a whole run: where all datasets agree. */
static int add_captions(TrainMeta *m, const TrainConf *c)
{
    const TrainDatasetConf *d = c->datasets.items;
    int shuffle = 1, keep = 1, drop = 1;
    for (int i = 1; i < c->datasets.count; i++) {
        shuffle &= d[i].shuffle == d[0].shuffle;
        keep &= d[i].keep_tokens == d[0].keep_tokens;
        drop &= d[i].tag_dropout == d[0].tag_dropout && d[i].caption_dropout_every == d[0].caption_dropout_every;
    }
    if (shuffle)
        TRY(train_meta_add(m, "ss_shuffle_caption", "%s", d[0].shuffle ? "True" : "False"));
    if (keep)
        TRY(train_meta_add(m, "ss_keep_tokens", "%d", d[0].keep_tokens));
    if (!drop)
        return 0;
    TRY(train_meta_add_number(m, "ss_caption_tag_dropout_rate", d[0].tag_dropout));
    return train_meta_add(m, "ss_caption_dropout_every_n_epochs", "%d", d[0].caption_dropout_every);
}

int train_meta_add_data(TrainMeta *m, const TrainConf *c, const TrainDataset *d)
{
    int64_t train, reg;
    json_t *tags = json_object();
    count_images(d, &train, &reg);
    int rc = tags ? tag_frequency(d, tags) : err_set(ERR_NOMEM, "metadata: out of memory");
    if (rc >= 0)
        rc = add_json(m, "ss_datasets", datasets(c, d, tags));
    if (rc >= 0)
        rc = add_json(m, "ss_tag_frequency", json_incref(tags));
    json_decref(tags);
    TRY(rc);
    TRY(add_dirs(m, d));
    TRY(train_meta_add(m, "ss_num_train_images", "%lld", (long long)train));
    TRY(train_meta_add(m, "ss_num_reg_images", "%lld", (long long)reg));
    TRY(train_meta_add_number(m, "ss_prior_loss_weight", c->prior_weight));
    TRY(add_captions(m, c));
    return add_buckets(m, c, d);
}
