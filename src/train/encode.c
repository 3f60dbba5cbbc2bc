#include "train/encode.h"

#include <stdlib.h>
#include <string.h>

#include "graph/exec.h"
#include "text/clip_bpe.h"

struct TrainEncoder {
    NnParams *params;
    Graph *g;
    Plan *plan;
    Exec *ex;
    ClipBpe *bpe;
    int batch, length;
    int64_t row_in, row_out;
    OpRef in, out;
    void *stage;        /* one batch of inputs: pixels or token ids */
    float *result;      /* one batch of outputs */
};

void train_encoder_destroy(TrainEncoder *e)
{
    if (!e)
        return;
    exec_destroy(e->ex);
    plan_destroy(e->plan);
    graph_destroy(e->g);
    nn_params_destroy(e->params);
    clip_bpe_close(e->bpe);
    free(e->stage);
    free(e->result);
    free(e);
}

static int begin(TrainEncoder **out, int batch)
{
    TrainEncoder *e = calloc(1, sizeof *e);
    if (!e)
        return err_set(ERR_NOMEM, "encoder: out of memory");
    e->batch = batch;
    *out = e;
    TRY(nn_params_create(&e->params));
    return graph_create(&e->g, DTYPE_F32);
}

static int finish(TrainEncoder *e, Pipeline *pipe, Backend *be, OpRef out)
{
    graph_output(e->g, out, "encoded");
    e->out = out;
    TRY(graph_optimize(e->g, be));
    e->row_out = shape_count(&graph_meta(e->g, out)->shape) / e->batch;
    e->stage = calloc((size_t)(e->batch * e->row_in), 4);
    e->result = malloc((size_t)(e->batch * e->row_out) * sizeof(float));
    if (!e->stage || !e->result)
        return err_set(ERR_NOMEM, "encoder: out of memory");
    TRY(plan_create(&e->plan, e->g, be));
    TRY(exec_create(&e->ex, e->plan));
    TRY(pipeline_load(pipe, e->params, e->g));
    return nn_params_bind(e->params, e->g, e->ex);
}

int train_encoder_create_images(TrainEncoder **out, Pipeline *pipe, Backend *be, int height, int width, int batch)
{
    TrainEncoder *e = NULL;
    NnCtx nn;
    int rc = begin(&e, batch);
    if (rc >= 0) {
        const VaeConfig *c = pipeline_vae(pipe);
        e->row_in = (int64_t)height * width * 3;
        nn_init(&nn, e->g);
        size_t mark = nn_push(&nn, "vae");
        e->in = graph_input(e->g, "image", DTYPE_F32, SHAPE(batch, height, width, 3));
        OpRef moments = vae_encode(&nn, c, e->in);
        nn_pop(&nn, mark);
        nn_deinit(&nn);
        rc = graph_status(e->g);
        if (rc >= 0)
            rc = finish(e, pipe, be, moments);
    }
    if (rc < 0) {
        train_encoder_destroy(e);
        return rc;
    }
    *out = e;
    return 0;
}

int train_encoder_create_texts(TrainEncoder **out, Pipeline *pipe, Backend *be, int batch)
{
    TrainEncoder *e = NULL;
    NnCtx nn;
    ClipText text;
    int rc = begin(&e, batch);
    if (rc >= 0)
        rc = clip_bpe_open(&e->bpe, pipeline_tokenizer_dir(pipe));
    if (rc >= 0) {
        const ClipConfig *c = pipeline_text(pipe);
        e->length = c->positions;
        e->row_in = c->positions;
        nn_init(&nn, e->g);
        size_t mark = nn_push(&nn, "text_encoder");
        e->in = graph_input(e->g, "ids", DTYPE_I32, SHAPE(batch, c->positions));
        rc = clip_text_forward(&nn, c, e->in, OP_NONE, 1, &text);
        nn_pop(&nn, mark);
        nn_deinit(&nn);
        if (rc >= 0)
            rc = graph_status(e->g);
        if (rc >= 0)
            rc = finish(e, pipe, be, text.last);
    }
    if (rc < 0) {
        train_encoder_destroy(e);
        return rc;
    }
    *out = e;
    return 0;
}

static int run(TrainEncoder *e, int n, float *out)
{
    TRY(exec_run(e->ex));
    TRY(exec_read_f32(e->ex, e->out, e->result, e->batch * e->row_out));
    memcpy(out, e->result, (size_t)(n * e->row_out) * sizeof *out);
    return 0;
}

int train_encoder_images(TrainEncoder *e, const uint8_t *images, int n, float *moments)
{
    for (int i = 0; i < n; i += e->batch) {
        int k = n - i < e->batch ? n - i : e->batch;
        memcpy(e->stage, images + i * e->row_in, (size_t)(k * e->row_in));
        TRY(exec_write_pixels(e->ex, e->in, e->stage, e->batch * e->row_in));
        TRY(run(e, k, moments + i * e->row_out));
    }
    return 0;
}

int train_encoder_tokens(TrainEncoder *e, const char *text, int32_t *ids)
{
    return clip_bpe_encode_padded(e->bpe, text, e->length, ids);
}

int train_encoder_texts(TrainEncoder *e, const char *const *text, int n, float *out)
{
    for (int i = 0; i < n; i += e->batch) {
        int k = n - i < e->batch ? n - i : e->batch;
        for (int j = 0; j < k; j++)
            TRY(train_encoder_tokens(e, text[i + j], (int32_t *)e->stage + j * e->length));
        TRY(exec_write(e->ex, e->in, e->stage, (size_t)(e->batch * e->row_in) * sizeof(int32_t)));
        TRY(run(e, k, out + i * e->row_out));
    }
    return 0;
}
