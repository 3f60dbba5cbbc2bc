#include "train/adapter.h"
#include "train/diffusion.h"
#include "train/noise.h"

static int make_lora(TrainTask *t, const Pipeline *pipe, NnCtx *nn, Lora **lora, const NnLora **slot, OpRef *position)
{
    if (!*lora)
        TRY(train_adapter_create(t, pipe, lora));
    if (lora_covers(*lora, "text_encoder") && !t->conf->text_encoder)
        return err_set(ERR_RANGE, "lora.targets: text encoder modules; set text_encoder=train");
    *slot = lora_nn(*lora, 0, 1);
    nn->lora = slot;
    nn->nlora = 1;
    return train_adapter_position(t, nn, position);
}

/* Every pattern of `train` names a parameter. */
static int check_patterns(const TrainTask *t)
{
    const ConfStrs *train = &t->conf->train;
    for (int k = 0; k < train->count; k++) {
        int hits = 0;
        for (int i = 0; i < graph_tensor_count(t->now.g) && !hits; i++) {
            const GraphTensor *p = graph_tensor(t->now.g, i);
            hits = p->kind == TENSOR_PARAM && nn_glob(train->items[k], p->name);
        }
        if (!hits)
            return err_set(ERR_NOTFOUND, "train: no parameter matches '%s'", train->items[k]);
    }
    return 0;
}

/* The embeddings of the captions: an input, or the text encoder on their ids. */
static OpRef text_input(TrainTask *t, NnCtx *nn, const ClipConfig *text, TrainDiffusionGraph *out)
{
    int n = t->conf->micro_batch;
    if (!train_conf_has_text(t->conf))
        return out->context = graph_input(t->now.g, "context", graph_dtype(t->now.g), SHAPE(n, text->positions, text->hidden));
    ClipText clip;
    OpRef vectors = OP_NONE;
    if (t->conf->embedding.token[0])
        vectors = train_embedding_emit(&out->words, nn, &t->conf->embedding, text, n);
    out->ids = graph_input(t->now.g, "ids", DTYPE_I32, SHAPE(n, text->positions));
    size_t mark = nn_push(nn, "text_encoder");
    int rc = clip_text_forward_vectors(nn, text, out->ids, vectors == OP_NONE ? OP_NONE : out->words.keep, vectors, OP_NONE, 1, &clip);
    nn_pop(nn, mark);
    return rc < 0 ? OP_NONE : clip.last;
}

static OpRef loss_of(TrainTask *t, TrainDiffusionGraph *out, OpRef y)
{
    const TrainLossConf *l = &t->conf->loss;
    OpBuild *b = graph_builder(t->now.g);
    if (y == OP_NONE)
        return OP_NONE;
    if (l->type == OP_LOSS_L2 && l->mask == TRAIN_MASK_NONE)
        return op_mse(b, y, out->target, out->weight);
    const Shape *s = &graph_meta(t->now.g, y)->shape;
    out->huber = graph_input(t->now.g, "huber", graph_ptype(t->now.g), SHAPE(s->dim[0]));
    out->mask = graph_input(t->now.g, "mask", graph_ptype(t->now.g), SHAPE(s->dim[0], s->dim[1], s->dim[2]));
    return op_pixel_loss(b, (OpLoss)l->type, y, out->target, out->weight, out->huber, out->mask);
}

int train_diffusion_graph(TrainTask *t, const Pipeline *pipe, int h, int w, TrainDiffusionGraph *out, Lora **lora)
{
    const TrainConf *c = t->conf;
    const ClipConfig *text = pipeline_text(pipe);
    const NnLora *adapter;
    NnCtx nn;
    Dtype T = graph_dtype(t->now.g), P = graph_ptype(t->now.g);
    int n = c->micro_batch, channels = pipeline_vae(pipe)->latent_channels, rc = 0;
    nn_init(&nn, t->now.g);
    static const char *const embedding[] = {TRAIN_EMBEDDING_PARAM};
    out->position = OP_NONE;
    nn.train = embedding;
    nn.ntrain = c->embedding.token[0] != 0;
    if (c->task == TRAIN_LORA) {
        TRY_GOTO(make_lora(t, pipe, &nn, lora, &adapter, &out->position));
    } else if (c->task == TRAIN_FULL) {
        nn.train = (const char *const *)c->train.items;
        nn.ntrain = c->train.count;
        nn.train_compute = c->optimizer.weights;
    }
    out->x = graph_input(t->now.g, "x", T, SHAPE(n, h, w, channels));
    out->time = graph_input(t->now.g, "timestep", DTYPE_F32, SHAPE(n));
    out->context = out->ids = out->huber = out->mask = OP_NONE;
    OpRef context = text_input(t, &nn, text, out);
    out->target = graph_input(t->now.g, "target", T, SHAPE(n, h, w, channels));
    out->weight = graph_input(t->now.g, "weight", P, SHAPE(n));
    size_t mark = nn_push(&nn, "unet");
    OpRef y = unet_forward(&nn, pipeline_unet(pipe), out->x, out->time, context);
    nn_pop(&nn, mark);
    TRY_GOTO(graph_status(t->now.g));
    if (c->task == TRAIN_FULL)
        TRY_GOTO(check_patterns(t));
    rc = train_task_differentiate(t, &nn, loss_of(t, out, y));
done:
    nn_deinit(&nn);
    return rc;
}

void train_diffusion_noise(float *x, float *noise, int64_t n, double alpha_bar, SamplerPredict predict)
{
    TrainNoise t = {.alpha_bar = &alpha_bar, .steps = 1, .predict = predict};
    train_noise_mix(&t, 0, x, noise, NULL, 0, n);
}
