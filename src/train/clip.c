#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "io/file.h"
#include "models/clip_vision.h"
#include "text/clip_bpe.h"
#include "train/task.h"

/* Contrastive pair of text encoder and image tower (a transformers CLIPModel in MODEL/clip, tokenizer in MODEL/tokenizer). */
typedef struct {
    ClipConfig text, vision;
    ClipBpe *bpe;
    OpRef ids, pool, pixels, target;
    int32_t *buf_ids, *buf_pool, *buf_target;
    uint8_t *buf_pixels;
    int64_t *items;
    StrBuf caption;
} Clip;

static void clip_close(TrainTask *t)
{
    Clip *c = t->impl;
    clip_bpe_close(c->bpe);
    free(c->buf_ids);
    free(c->buf_pool);
    free(c->buf_target);
    free(c->buf_pixels);
    free(c->items);
    str_deinit(&c->caption);
    free(c);
    t->impl = NULL;
}

static int fill(TrainTask *t, int64_t position)
{
    Clip *c = t->impl;
    int n = t->conf->micro_batch, length = c->text.positions;
    TRY(train_task_images(t, position, c->buf_pixels, c->items));
    for (int j = 0; j < n; j++) {
        TRY(train_dataset_caption(t->data, c->items[j], t->conf->seed, -1 - position - j, &c->caption));
        TRY(clip_bpe_encode_padded(c->bpe, c->caption.data, length, c->buf_ids + j * length));
        c->buf_target[j] = j;
    }
    clip_text_pool_index(&c->text, c->buf_ids, n, length, c->buf_pool);
    size_t pixels = (size_t)n * (size_t)(t->conf->resolution * t->conf->resolution * 3);
    TRY(exec_write_pixels(t->now.ex, c->pixels, c->buf_pixels, (int64_t)pixels));
    TRY(exec_write(t->now.ex, c->ids, c->buf_ids, (size_t)(n * length) * sizeof(int32_t)));
    TRY(exec_write(t->now.ex, c->pool, c->buf_pool, (size_t)n * sizeof(int32_t)));
    return exec_write(t->now.ex, c->target, c->buf_target, (size_t)n * sizeof(int32_t));
}

static int build_graph(TrainTask *t, Clip *c)
{
    const TrainConf *conf = t->conf;
    static const char *const all[] = {"*"};
    int n = conf->micro_batch;
    ClipText text;
    NnCtx nn;
    nn_init(&nn, t->now.g);
    nn.train = all;
    nn.ntrain = 1;
    nn.train_compute = conf->optimizer.weights;
    c->pixels = graph_input(t->now.g, "pixels", graph_dtype(t->now.g), SHAPE(n, conf->resolution, conf->resolution, 3));
    c->ids = graph_input(t->now.g, "ids", DTYPE_I32, SHAPE(n, c->text.positions));
    c->pool = graph_input(t->now.g, "pool", DTYPE_I32, SHAPE(n));
    c->target = graph_input(t->now.g, "target", DTYPE_I32, SHAPE(n));
    size_t mark = nn_push(&nn, "clip");
    int rc = clip_text_forward(&nn, &c->text, c->ids, c->pool, 1, &text);
    OpRef image = clip_vision_forward(&nn, &c->vision, c->pixels);
    OpRef loss = clip_contrastive_loss(&nn, image, text.embeds, c->target, NULL);
    nn_pop(&nn, mark);
    if (rc >= 0)
        rc = train_task_differentiate(t, &nn, loss);
    nn_deinit(&nn);
    return rc;
}

/* nn_params_save has removed the root "clip.text_model"; a CLIPTextModel file has "text_model." in front. */
static int text_name(const char *name, int k, char *buf, size_t size)
{
    if (k)
        return 0;
    snprintf(buf, size, "text_model.%s", name);
    return 1;
}

/* The pair, and the text encoder once more on its own, as a diffusers pipeline wants it. */
static int save(TrainTask *t, const TrainState *s, const float *values, const TrainPlace *to)
{
    static const Dtype dtypes[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16};
    const IoMeta meta = {"format", "pt"};
    char *path;
    TRY(train_task_save_part(t, s, values, to, "clip", "clip", "model.safetensors"));
    TRY(str_format(&path, "%s/text_encoder", t->conf->output));
    int rc = io_dir_make(path);
    free(path);
    TRY(rc);
    TRY(str_format(&path, "%s/text_encoder/model.safetensors", t->conf->output));
    rc = nn_params_save(t->params, "clip.text_model", path, dtypes[t->conf->save_dtype], text_name, &meta, 1);
    free(path);
    return rc;
}

static int open_config(const TrainConf *conf, Clip *c)
{
    char *path = NULL, *tokenizer = NULL;
    ModelJson *j = NULL;
    int rc;
    TRY_GOTO(str_format(&path, "%s/clip/config.json", conf->model));
    TRY_GOTO(model_json_open(&j, path));
    TRY_GOTO(clip_pair_config(&c->text, &c->vision, j));
    if (c->vision.image != conf->resolution)
        rc = err_set(ERR_RANGE, "resolution %d: the image tower of %s takes %d", conf->resolution, path, c->vision.image);
    if (rc < 0)
        goto done;
    TRY_GOTO(io_path_join(&tokenizer, conf->model, "tokenizer"));
    rc = clip_bpe_open(&c->bpe, tokenizer);
done:
    model_json_close(j);
    free(path);
    free(tokenizer);
    return rc;
}

static int load(TrainTask *t)
{
    static const char *const bases[] = {"model", NULL};
    if (t->conf->init_random)
        return nn_params_init(t->params, t->now.g, "clip", t->conf->seed, NULL, 0);
    char *dir;
    IoSafetensors *files = NULL;
    TRY(io_path_join(&dir, t->conf->model, "clip"));
    int rc = io_safetensors_open_model(&files, dir, bases, NULL);
    if (rc >= 0)
        rc = train_task_load(t, "clip", files, clip_names);
    if (rc >= 0 && t->comm->rank == 0)
        rc = hash_file_hex(t->model_hash, io_safetensors_path(files));
    io_safetensors_close(files); /* trained parameters are copies */
    free(dir);
    return rc;
}

int train_clip_open(TrainTask *t, int plan_only)
{
    Clip *c = calloc(1, sizeof *c);
    if (!c)
        return err_set(ERR_NOMEM, "training: out of memory");
    str_init(&c->caption);
    t->impl = c;
    t->fill = fill;
    t->save = save;
    t->close = clip_close;
    int rc = open_config(t->conf, c);
    if (rc >= 0)
        rc = build_graph(t, c);
    if (rc >= 0 && !plan_only)
        rc = train_task_fits(t);
    if (rc >= 0 && !plan_only) {
        size_t n = (size_t)t->conf->micro_batch, side = (size_t)t->conf->resolution;
        c->buf_ids = malloc(n * (size_t)c->text.positions * sizeof(int32_t));
        c->buf_pool = malloc(n * sizeof(int32_t));
        c->buf_target = malloc(n * sizeof(int32_t));
        c->buf_pixels = malloc(n * side * side * 3);
        c->items = malloc(n * sizeof(int64_t));
        if (!c->buf_ids || !c->buf_pool || !c->buf_target || !c->buf_pixels || !c->items)
            rc = err_set(ERR_NOMEM, "training: out of memory");
    }
    if (rc >= 0 && !plan_only)
        rc = load(t);
    return comm_agree(t->comm, rc);
}
