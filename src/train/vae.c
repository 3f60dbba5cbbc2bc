#include <stdlib.h>

#include "base/rng.h"
#include "io/file.h"
#include "models/vae.h"
#include "train/task.h"

/* Reconstruction: squared plus absolute error of decode(sample(encode(image))), plus the KL divergence. */
typedef struct {
    VaeConfig vae;
    OpRef image, noise, one, kl;
    float *buf_image, *buf_noise;
    int64_t pixels, latents; /* per item */
} Vae;

static void vae_close(TrainTask *t)
{
    Vae *v = t->impl;
    free(v->buf_image);
    free(v->buf_noise);
    free(v);
    t->impl = NULL;
}

static int fill(TrainTask *t, int64_t position)
{
    Vae *v = t->impl;
    int n = t->conf->micro_batch;
    float one[256], kl[256];
    TRY(train_task_images(t, position, v->buf_image, NULL));
    for (int j = 0; j < n; j++) {
        RngKey k = rng_key(t->conf->seed, RNG_LATENT, (uint64_t)(position + j), 0);
        rng_normal_fill(v->buf_noise + j * v->latents, v->latents, k, 0);
        one[j] = 1;
        kl[j] = t->conf->loss.kl;
    }
    TRY(exec_write_f32(t->ex, v->image, v->buf_image, n * v->pixels));
    TRY(exec_write_f32(t->ex, v->noise, v->buf_noise, n * v->latents));
    TRY(exec_write_f32(t->ex, v->one, one, n));
    return exec_write_f32(t->ex, v->kl, kl, n);
}

static int build_graph(TrainTask *t, Vae *v)
{
    const TrainConf *c = t->conf;
    NnCtx nn;
    OpBuild *b = graph_builder(t->g);
    Dtype T = graph_dtype(t->g), P = graph_ptype(t->g);
    static const char *const all[] = {"*"};
    int n = c->micro_batch, f = vae_factor(&v->vae), h = c->resolution / f, z = v->vae.latent_channels;
    v->pixels = (int64_t)c->resolution * c->resolution * 3;
    v->latents = (int64_t)h * h * z;
    nn_init(&nn, t->g);
    nn.train = all;
    nn.ntrain = 1;
    v->image = graph_input(t->g, "image", T, SHAPE(n, c->resolution, c->resolution, 3));
    v->noise = graph_input(t->g, "noise", T, SHAPE(n, h, h, z));
    v->one = graph_input(t->g, "weight", P, SHAPE(n));
    v->kl = graph_input(t->g, "kl_weight", P, SHAPE(n));
    size_t mark = nn_push(&nn, "vae");
    OpRef moments = vae_encode(&nn, &v->vae, v->image);
    OpRef y = vae_decode(&nn, &v->vae, op_gauss_sample(b, moments, v->noise));
    nn_pop(&nn, mark);
    OpRef loss = op_add(b, op_mse(b, y, v->image, v->one), op_kl(b, moments, v->kl));
    if (c->loss.l1 > 0)
        loss = op_add(b, loss, op_scale(b, op_l1(b, y, v->image, v->one), c->loss.l1, OP_NONE));
    int rc = train_task_differentiate(t, &nn, loss);
    nn_deinit(&nn);
    return rc;
}

static int save(TrainTask *t, const TrainState *s, const float *values)
{
    return train_task_save_part(t, s, values, "vae", "vae", "diffusion_pytorch_model.safetensors");
}

static int open_config(const TrainConf *c, VaeConfig *vae)
{
    char *path;
    ModelJson *j = NULL;
    TRY(str_format(&path, "%s/vae/config.json", c->model));
    int rc = model_json_open(&j, path);
    if (rc >= 0)
        rc = vae_config(vae, j);
    model_json_close(j);
    free(path);
    return rc;
}

static int load(TrainTask *t)
{
    static const char *const bases[] = {"diffusion_pytorch_model", NULL};
    if (t->conf->init_random)
        return nn_params_init(t->params, t->g, "vae", t->conf->seed, NULL, 0);
    char *dir;
    IoSafetensors *files = NULL;
    TRY(io_path_join(&dir, t->conf->model, "vae"));
    int rc = io_safetensors_open_model(&files, dir, bases, NULL);
    if (rc >= 0)
        rc = nn_params_load(t->params, t->g, "vae", files, vae_names);
    io_safetensors_close(files); /* trained parameters are copies */
    free(dir);
    return rc;
}

int train_vae_open(TrainTask *t, int plan_only)
{
    Vae *v = calloc(1, sizeof *v);
    if (!v)
        return err_set(ERR_NOMEM, "training: out of memory");
    t->impl = v;
    t->fill = fill;
    t->save = save;
    t->close = vae_close;
    size_t n = (size_t)t->conf->micro_batch;
    int rc = n > 256 ? err_set(ERR_RANGE, "micro_batch %zu: at most 256", n) : open_config(t->conf, &v->vae);
    if (rc >= 0)
        rc = build_graph(t, v);
    if (rc >= 0) {
        v->buf_image = malloc(n * (size_t)v->pixels * sizeof(float));
        v->buf_noise = malloc(n * (size_t)v->latents * sizeof(float));
        rc = v->buf_image && v->buf_noise ? 0 : err_set(ERR_NOMEM, "training: out of memory");
    }
    if (rc >= 0 && !plan_only)
        rc = load(t);
    return comm_agree(t->comm, rc);
}
