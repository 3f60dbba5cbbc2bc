#include <math.h>

#include "train/diffusion.h"

static int make_lora(TrainTask *t, const Pipeline *pipe, NnCtx *nn, Lora **lora, const NnLora **slot)
{
    const TrainLoraConf *lc = &t->conf->lora;
    NnModules mods = {0};
    LoraSpec spec = {.rank = lc->rank,
                     .alpha = lc->alpha,
                     .targets = (const char *const *)lc->targets.items,
                     .ntargets = lc->targets.count,
                     .seed = t->conf->seed};
    int rc = pipeline_modules(pipe, &mods);
    if (rc >= 0)
        rc = lora_create(lora, &spec, &mods);
    nn_modules_deinit(&mods);
    TRY_CTX(rc, "lora.targets");
    if (lora_covers(*lora, "text_encoder"))
        return err_set(ERR_UNSUPPORTED, "lora.targets: text encoder modules; this task trains the UNet only");
    *slot = lora_nn(*lora, 0, 1);
    nn->lora = slot;
    nn->nlora = 1;
    return lora_add_params(*lora, 0, t->params);
}

/* Every pattern of `train` names a parameter. */
static int check_patterns(const TrainTask *t)
{
    const ConfStrs *train = &t->conf->train;
    for (int k = 0; k < train->count; k++) {
        int hits = 0;
        for (int i = 0; i < graph_tensor_count(t->g) && !hits; i++) {
            const GraphTensor *p = graph_tensor(t->g, i);
            hits = p->kind == TENSOR_PARAM && nn_glob(train->items[k], p->name);
        }
        if (!hits)
            return err_set(ERR_NOTFOUND, "train: no parameter of the UNet matches '%s'", train->items[k]);
    }
    return 0;
}

int train_diffusion_graph(TrainTask *t, const Pipeline *pipe, int h, int w, TrainDiffusionGraph *out, Lora **lora)
{
    const TrainConf *c = t->conf;
    const ClipConfig *text = pipeline_text(pipe);
    const NnLora *adapter;
    NnCtx nn;
    Dtype T = graph_dtype(t->g), P = graph_ptype(t->g);
    int n = c->micro_batch, channels = pipeline_vae(pipe)->latent_channels, rc = 0;
    nn_init(&nn, t->g);
    if (c->task == TRAIN_LORA) {
        TRY_GOTO(make_lora(t, pipe, &nn, lora, &adapter));
    } else {
        nn.train = (const char *const *)c->train.items;
        nn.ntrain = c->train.count;
    }
    out->x = graph_input(t->g, "x", T, SHAPE(n, h, w, channels));
    out->time = graph_input(t->g, "timestep", DTYPE_F32, SHAPE(n));
    out->context = graph_input(t->g, "context", T, SHAPE(n, text->positions, text->hidden));
    out->target = graph_input(t->g, "target", T, SHAPE(n, h, w, channels));
    out->weight = graph_input(t->g, "weight", P, SHAPE(n));
    size_t mark = nn_push(&nn, "unet");
    OpRef y = unet_forward(&nn, pipeline_unet(pipe), out->x, out->time, out->context);
    nn_pop(&nn, mark);
    TRY_GOTO(graph_status(t->g));
    if (c->task == TRAIN_FULL)
        TRY_GOTO(check_patterns(t));
    rc = train_task_differentiate(t, &nn, op_mse(graph_builder(t->g), y, out->target, out->weight));
done:
    nn_deinit(&nn);
    return rc;
}

void train_diffusion_noise(float *x, float *noise, int64_t n, double alpha_bar, SamplerPredict predict)
{
    double a = sqrt(alpha_bar), s = sqrt(1 - alpha_bar);
    for (int64_t i = 0; i < n; i++) {
        double x0 = (double)x[i], e = (double)noise[i];
        x[i] = (float)(a * x0 + s * e);
        if (predict == SAMPLER_PREDICT_V)
            noise[i] = (float)(a * e - s * x0);
        else if (predict == SAMPLER_PREDICT_SAMPLE)
            noise[i] = (float)x0;
    }
}
