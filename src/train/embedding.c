#include "train/embedding.h"

#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "io/file.h"
#include "models/inversion.h"
#include "text/chunk.h"

OpRef train_embedding_emit(TrainEmbedding *e, NnCtx *nn, const TrainEmbeddingConf *conf, const ClipConfig *text, int n)
{
    OpBuild *b = nn->b;
    size_t count = (size_t)n * (size_t)text->positions, wide = count * (size_t)text->hidden;
    *e = (TrainEmbedding){.conf = conf, .n = n, .length = text->positions, .width = text->hidden};
    e->mask = malloc(2 * wide * sizeof *e->mask);
    e->rows = calloc(count, sizeof *e->rows);
    if (!e->mask || !e->rows) {
        b->fail(b, err_set(ERR_NOMEM, "embedding: out of memory"));
        return OP_NONE;
    }
    e->keep = graph_input(nn->g, "embedding_keep", DTYPE_F32, SHAPE(n, e->length, e->width));
    e->take = graph_input(nn->g, "embedding_take", DTYPE_F32, SHAPE(n, e->length, e->width));
    e->row = graph_input(nn->g, "embedding_row", DTYPE_I32, SHAPE(n, e->length));
    size_t mark = nn_push(nn, "embedding");
    OpRef table = nn_param(nn, "vectors", SHAPE(conf->vectors, e->width));
    nn_pop(nn, mark);
    return op_mul(b, op_embed(b, e->row, table), nn_to_compute(nn, e->take));
}

void train_embedding_deinit(TrainEmbedding *e)
{
    free(e->mask);
    free(e->rows);
    *e = (TrainEmbedding){0};
}

static int from_file(const TrainEmbedding *e, float *out)
{
    InversionSet s;
    inversion_set_init(&s, e->width);
    int rc = inversion_set_add(&s, e->conf->init, NULL);
    if (rc >= 0 && s.rows != e->conf->vectors)
        rc = err_set(ERR_RANGE, "%s holds %d vectors, embedding.vectors is %d", e->conf->init, s.rows, e->conf->vectors);
    if (rc >= 0)
        memcpy(out, s.vectors, (size_t)s.rows * (size_t)s.width * sizeof *out);
    inversion_set_deinit(&s);
    return rc;
}

static int from_words(const TrainEmbedding *e, Pipeline *pipe, const ClipBpe *bpe, float *out)
{
    IoSafetensors *f = pipeline_files(pipe, PIPELINE_TEXT);
    const char *words = e->conf->init[0] ? e->conf->init : e->conf->token;
    int32_t ids[75];
    int found, at = io_safetensors_find(f, "text_model.embeddings.token_embedding.weight");
    IoTensor t;
    TRY(clip_bpe_encode(bpe, words, ids, 75, &found));
    if (!found)
        return err_set(ERR_RANGE, "'%s' has no tokens", words);
    if (at < 0)
        at = io_safetensors_find(f, "embeddings.token_embedding.weight");
    if (at < 0)
        return err_set(ERR_NOTFOUND, "%s: no token embeddings", io_safetensors_path(f));
    TRY(io_safetensors_at(f, at, &t));
    for (int i = 0; i < e->conf->vectors; i++) {
        int32_t id = ids[i < found ? i : (found < 75 ? found : 75) - 1];
        if (id >= t.dim[0] || t.dim[1] != e->width)
            return err_set(ERR_SHAPE, "%s: token embeddings are too small", io_safetensors_path(f));
        const char *row = (const char *)t.data + (size_t)id * (size_t)e->width * dtype_size(t.dtype);
        TRY(dtype_convert(out + (size_t)i * (size_t)e->width, DTYPE_F32, row, t.dtype, e->width));
    }
    return 0;
}

int train_embedding_load(TrainEmbedding *e, TrainTask *t, Pipeline *pipe, const ClipBpe *bpe)
{
    NnParam *p;
    TRY(nn_params_add(t->params, TRAIN_EMBEDDING_PARAM, DTYPE_F32, SHAPE(e->conf->vectors, e->width), &p));
    p->trainable = 1;
    int rc = str_ends_with(e->conf->init, ".safetensors") ? from_file(e, p->data) : from_words(e, pipe, bpe, p->data);
    TRY_CTX(rc, "embedding.init");
    return 0;
}

int train_embedding_encode(TrainEmbedding *e, const ClipBpe *bpe, const char *caption, int j, int32_t *ids)
{
    const ChunkWord word = {e->conf->token, 0, e->conf->vectors};
    size_t width = (size_t)e->width, all = (size_t)e->n * (size_t)e->length * width;
    Prompt p;
    Chunks c = {0};
    TRY(prompt_parse(&p, caption, PROMPT_DIFFUSERS));
    int rc = chunks_make(&c, &p, bpe, e->length, &word, 1, PROMPT_DIFFUSERS);
    for (int k = 0; rc >= 0 && k < e->length; k++) {
        size_t place = (size_t)j * (size_t)e->length + (size_t)k;
        int row = c.row[k];
        ids[k] = row < 0 ? c.ids[k] : 0;
        e->rows[place] = row < 0 ? 0 : row;
        for (size_t i = 0; i < width; i++) {
            e->mask[place * width + i] = row < 0;
            e->mask[all + place * width + i] = row >= 0;
        }
    }
    chunks_deinit(&c);
    prompt_deinit(&p);
    return rc;
}

int train_embedding_write(const TrainEmbedding *e, Exec *ex)
{
    int64_t count = (int64_t)e->n * e->length, all = count * e->width;
    TRY(exec_write_f32(ex, e->keep, e->mask, all));
    TRY(exec_write_f32(ex, e->take, e->mask + all, all));
    return exec_write(ex, e->row, e->rows, (size_t)count * sizeof *e->rows);
}

int train_embedding_caption(const TrainEmbeddingConf *conf, uint64_t seed, int64_t position, const char *own, char **out)
{
    if (!conf->prompts.count)
        return str_copy(out, own);
    RngStream r = rng_stream(rng_key(seed, RNG_CAPTION, (uint64_t)position, 1));
    const char *text = conf->prompts.items[rng_stream_below(&r, (uint64_t)conf->prompts.count)], *at = strstr(text, "{}");
    return at ? str_format(out, "%.*s%s%s", (int)(at - text), text, conf->token, at + 2) : str_copy(out, text);
}

int train_embedding_check(const TrainEmbeddingConf *conf, const TrainDataset *data)
{
    for (int i = 0; i < conf->prompts.count; i++)
        if (!strstr(conf->prompts.items[i], "{}") && !strstr(conf->prompts.items[i], conf->token))
            return err_set(ERR_NOTFOUND, "embedding.prompts: '%s' has no {} for the token", conf->prompts.items[i]);
    for (int64_t i = 0; !conf->prompts.count && i < train_dataset_count(data); i++)
        if (!strstr(train_dataset_item(data, i)->caption, conf->token))
            return err_set(ERR_NOTFOUND, "%s: the caption '%.80s' does not hold embedding.token '%s'; set embedding.prompts, such as 'a photo of {}'",
                           train_dataset_item(data, i)->path, train_dataset_item(data, i)->caption, conf->token);
    return 0;
}

int train_embedding_save(const TrainEmbedding *e, const TrainTask *t, const TrainPlace *to)
{
    static const Dtype dtypes[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16};
    const NnParam *p = nn_params_find(t->params, TRAIN_EMBEDDING_PARAM);
    const IoMeta meta = {"format", "pt"};
    char *path;
    TRY(train_place_file(&path, to, "embedding"));
    int rc = inversion_save(path, (InversionForm)e->conf->format, e->conf->token, p->data, e->conf->vectors, e->width,
                            dtypes[t->conf->save_dtype], &meta, 1);
    free(path);
    return rc;
}
