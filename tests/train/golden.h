/* A training task on the reference batches instead of a dataset: the real graph, step and optimizer of src/train. */
#ifndef TESTS_TRAIN_GOLDEN_H
#define TESTS_TRAIN_GOLDEN_H

#include "models/fixture.h"
#include "sampler/conf.h"
#include "train/diffusion.h"
#include "ops/optim.h"
#include "train/step.h"

#define GOLDEN "tests/vectors/training/"

typedef struct {
    TrainConf c;
    Comm comm;
    TrainTask task;
    TrainState state;
    TrainStep step;
    Backend *be;
    Pipeline *pipe;
    Lora *lora;
    TrainDiffusionGraph in;
    IoSafetensors *batches;
    double alpha_bar[1000];
    SamplerPredict predict;
    double prior;           /* weight of the second half of a batch; 0: plain batches */
} Golden;

typedef struct {
    Ref latents, noise, time, context;
} GoldenBatch;

static inline Ref golden_part(Golden *g, int batch, const char *part, int image)
{
    char name[96];
    snprintf(name, sizeof name, "%sbatch%d.%s", g->prior > 0 ? "prior_" : "", batch, part);
    return ref_get(g->batches, name, image);
}

/* Step s uses batch s % 2. A DreamBooth loss is the mean over the instances plus `prior` times the mean over the class images: with
 * both in one batch each half weighs twice its share of the batch's mean. */
static inline int golden_fill(TrainTask *t, int64_t position)
{
    Golden *g = t->impl;
    int n = t->conf->micro_batch, batch = t->conf->batch, first = (int)(position % batch);
    int b = (int)(position / batch % 2);
    Ref x = golden_part(g, b, "latents", 1), e = golden_part(g, b, "noise", 1), ctx = golden_part(g, b, "encoder_hidden_states", 0);
    Ref time = golden_part(g, b, "timesteps", 0);
    int64_t pixels = x.count / batch, tokens = ctx.count / batch;
    float weight[16];
    for (int j = first; j < first + n; j++) {
        double ab = g->alpha_bar[(int)time.v[j]], gamma = (double)t->conf->loss.min_snr;
        train_diffusion_noise(x.v + j * pixels, e.v + j * pixels, pixels, ab, g->predict);
        weight[j] = gamma > 0 ? (float)sampler_min_snr_weight(ab, gamma, g->predict) : 1.0f;
        if (g->prior > 0)
            weight[j] *= j < batch / 2 ? 2.0f : (float)(2 * g->prior);
    }
    OK(exec_write_f32(t->now.ex, g->in.x, x.v + first * pixels, n * pixels));
    OK(exec_write_f32(t->now.ex, g->in.target, e.v + first * pixels, n * pixels));
    if (g->in.context >= 0)
        OK(exec_write_f32(t->now.ex, g->in.context, ctx.v + first * tokens, n * tokens));
    OK(exec_write_f32(t->now.ex, g->in.time, time.v + first, n));
    OK(exec_write_f32(t->now.ex, g->in.weight, weight + first, n));
    free(x.v);
    free(e.v);
    free(ctx.v);
    free(time.v);
    return 0;
}

static inline void golden_set_factor(float *to, IoSafetensors *s, const char *path, const char *factor)
{
    char name[256];
    snprintf(name, sizeof name, "init.%s.%s.weight", path, factor);
    Ref r = ref_get(s, name, 0);
    memcpy(to, r.v, (size_t)r.count * sizeof *to);
    free(r.v);
}

/* overrides: NULL-terminated, on top of a config that fits the reference runs. */
static inline void golden_open(Golden *g, const char *const *overrides, SamplerPredict predict, double prior)
{
    const char *all[64] = {"model=tests/vectors/sd15-tiny", "output=none", "datasets=[{path: none}]", "batch=2", "micro_batch=2",
                           "lora.rank=4", "lora.alpha=8", "optimizer.lr=1e-3", "optimizer.clip=0"};
    int n = 9;
    for (int i = 0; overrides[i]; i++)
        all[n++] = overrides[i];
    memset(g, 0, sizeof *g);
    OK(train_conf_read(&g->c, NULL, all, n));
    comm_init_self(&g->comm);
    OK(cpu_backend_create(&g->be, 2, CPU_ISA_AVX512));
    OK(pipeline_open(&g->pipe, g->c.model, NULL));
    OK(io_safetensors_open(&g->batches, GOLDEN "batches.safetensors"));
    g->predict = predict;
    g->prior = prior;
    SamplerConf sc;
    double betas[1000];
    sampler_conf_default(&sc);
    OK(sampler_conf_from_json(&sc, pipeline_scheduler_path(g->pipe)));
    OK(sampler_betas(sc.betas, sc.beta_start, sc.beta_end, sc.train_steps, sc.zero_snr, betas));
    sampler_alpha_bar(betas, 1000, g->alpha_bar);
    TrainTask *t = &g->task;
    *t = (TrainTask){.conf = &g->c, .comm = &g->comm, .be = g->be, .fill = golden_fill, .impl = g};
    OK(nn_params_create(&t->params));
    OK(graph_create(&t->now.g, train_conf_dtype(&g->c)));
    OK(train_diffusion_graph(t, g->pipe, 8, 12, &g->in, &g->lora));
    if (train_conf_has_text(&g->c))
        OK(nn_params_load(t->params, t->now.g, "text_encoder", pipeline_files(g->pipe, PIPELINE_TEXT), clip_names));
    if (g->in.words.length)
        OK(nn_params_add(t->params, TRAIN_EMBEDDING_PARAM, DTYPE_F32, SHAPE(g->c.embedding.vectors, g->in.words.width), NULL));
    OK(train_task_load(t, "unet", pipeline_files(g->pipe, PIPELINE_UNET), NULL));
    if (g->lora) {
        IoSafetensors *init;
        char own[64] = GOLDEN "lora_attn.safetensors";
        if (lora_find(g->lora, "unet.mid_block.resnets.0.conv1"))
            strcpy(own, GOLDEN "lora_ffconv.safetensors");
        OK(io_safetensors_open(&init, own));
        for (int i = 0; i < lora_count(g->lora); i++) {
            LoraPart *p = lora_at(g->lora, i);
            golden_set_factor(p->f[NN_DOWN], init, p->path, "lora_A");
            golden_set_factor(p->f[NN_UP], init, p->path, "lora_B");
        }
        io_safetensors_close(init);
    }
    OK(train_step_init(&g->step, t, &g->state));
    OK(train_step_sync(&g->step));
}

static inline void golden_close(Golden *g)
{
    train_step_deinit(&g->step);
    train_embedding_deinit(&g->in.words);
    train_task_close(&g->task);
    train_state_deinit(&g->state);
    lora_destroy(g->lora);
    pipeline_close(g->pipe);
    io_safetensors_close(g->batches);
    backend_destroy(g->be);
    train_conf_deinit(&g->c);
}

#endif
