#include "models/clip_pair.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/str.h"
#include "graph/exec.h"
#include "text/clip_bpe.h"

enum { BATCH = 8 };

typedef struct {
    Graph *g;
    Plan *plan;
    Exec *ex;
    OpRef in, pool, out;
} Tower;

struct ClipPair {
    ClipConfig text, vision;
    IoSafetensors *files;
    NnParams *params;
    ClipBpe *bpe;
    Tower tower[2]; /* text, vision */
};

static int open_files(ClipPair *p, const char *model)
{
    static const char *const bases[] = {"model", NULL};
    char *dir = NULL, *config = NULL, *tokenizer = NULL;
    ModelJson *j = NULL;
    int rc;
    TRY_GOTO(str_format(&dir, "%s/clip", model));
    TRY_GOTO(str_format(&config, "%s/config.json", dir));
    TRY_GOTO(str_format(&tokenizer, "%s/tokenizer", model));
    TRY_GOTO(model_json_open(&j, config));
    TRY_GOTO(clip_pair_config(&p->text, &p->vision, j));
    TRY_GOTO(io_safetensors_open_model(&p->files, dir, bases, NULL));
    rc = clip_bpe_open(&p->bpe, tokenizer);
done:
    model_json_close(j);
    free(dir);
    free(config);
    free(tokenizer);
    return rc;
}

static int build_tower(ClipPair *p, int vision, Backend *be)
{
    Tower *t = &p->tower[vision];
    ClipText text;
    NnCtx nn;
    OpRef embeds;
    TRY(graph_create(&t->g, DTYPE_F32));
    nn_init(&nn, t->g);
    size_t mark = nn_push(&nn, "clip");
    int rc = 0;
    if (vision) {
        t->in = graph_input(t->g, "pixels", DTYPE_F32, SHAPE(BATCH, p->vision.image, p->vision.image, 3));
        embeds = clip_vision_forward(&nn, &p->vision, t->in);
    } else {
        t->in = graph_input(t->g, "ids", DTYPE_I32, SHAPE(BATCH, p->text.positions));
        t->pool = graph_input(t->g, "pool", DTYPE_I32, SHAPE(BATCH));
        rc = clip_text_forward(&nn, &p->text, t->in, t->pool, 1, &text);
        embeds = text.embeds;
    }
    t->out = op_l2_norm(graph_builder(t->g), embeds);
    nn_pop(&nn, mark);
    nn_deinit(&nn);
    TRY(rc);
    graph_output(t->g, t->out, "vectors");
    TRY(graph_optimize(t->g, be));
    TRY(plan_create(&t->plan, t->g, be));
    TRY(exec_create(&t->ex, t->plan));
    TRY(nn_params_load(p->params, t->g, "clip", p->files, clip_names));
    return nn_params_bind(p->params, t->g, t->ex);
}

int clip_pair_open(ClipPair **out, const char *model, Backend *be)
{
    ClipPair *p = calloc(1, sizeof *p);
    if (!p)
        return err_set(ERR_NOMEM, "%s: out of memory", model);
    int rc = open_files(p, model);
    if (rc >= 0)
        rc = nn_params_create(&p->params);
    for (int i = 0; rc >= 0 && i < 2; i++)
        rc = build_tower(p, i, be);
    if (rc < 0) {
        clip_pair_close(p);
        return rc;
    }
    *out = p;
    return 0;
}

void clip_pair_close(ClipPair *p)
{
    if (!p)
        return;
    for (int i = 0; i < 2; i++) {
        exec_destroy(p->tower[i].ex);
        plan_destroy(p->tower[i].plan);
        graph_destroy(p->tower[i].g);
    }
    nn_params_destroy(p->params);
    io_safetensors_close(p->files);
    clip_bpe_close(p->bpe);
    free(p);
}

int clip_pair_width(const ClipPair *p)
{
    return p->text.projection;
}

int clip_pair_side(const ClipPair *p)
{
    return p->vision.image;
}

static int run(ClipPair *p, int vision, int n, float *out)
{
    Tower *t = &p->tower[vision];
    float vectors[BATCH * 2048];
    int width = clip_pair_width(p);
    if (width > 2048)
        return err_set(ERR_UNSUPPORTED, "clip: projection_dim %d is larger than 2048", width);
    TRY(exec_run(t->ex));
    TRY(exec_read_f32(t->ex, t->out, vectors, (int64_t)BATCH * width));
    memcpy(out, vectors, (size_t)(n * width) * sizeof *out);
    return 0;
}

int clip_pair_texts(ClipPair *p, const char *const *text, int n, float *out)
{
    int length = p->text.positions, rc = 0;
    int32_t pool[BATCH], *ids = calloc((size_t)(BATCH * length), sizeof *ids);
    if (!ids)
        return err_set(ERR_NOMEM, "clip: out of memory");
    for (int i = 0; rc >= 0 && i < n; i += BATCH) {
        int k = n - i < BATCH ? n - i : BATCH;
        for (int j = 0; rc >= 0 && j < k; j++)
            rc = clip_bpe_encode_padded(p->bpe, text[i + j], length, ids + j * length);
        clip_text_pool_index(&p->text, ids, BATCH, length, pool);
        if (rc >= 0)
            rc = exec_write(p->tower[0].ex, p->tower[0].in, ids, (size_t)(BATCH * length) * sizeof *ids);
        if (rc >= 0)
            rc = exec_write(p->tower[0].ex, p->tower[0].pool, pool, sizeof pool);
        if (rc >= 0)
            rc = run(p, 0, k, out + (int64_t)i * clip_pair_width(p));
    }
    free(ids);
    return rc;
}

int clip_pair_images(ClipPair *p, const float *images, int n, float *out)
{
    int64_t size = (int64_t)p->vision.image * p->vision.image * 3;
    float *stage = calloc((size_t)(BATCH * size), sizeof *stage);
    int rc = stage ? 0 : err_set(ERR_NOMEM, "clip: out of memory");
    for (int i = 0; rc >= 0 && i < n; i += BATCH) {
        int k = n - i < BATCH ? n - i : BATCH;
        memcpy(stage, images + i * size, (size_t)(k * size) * sizeof *stage);
        rc = exec_write_f32(p->tower[1].ex, p->tower[1].in, stage, BATCH * size);
        if (rc >= 0)
            rc = run(p, 1, k, out + (int64_t)i * clip_pair_width(p));
    }
    free(stage);
    return rc;
}
