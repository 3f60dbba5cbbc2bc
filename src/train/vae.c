#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "io/file.h"
#include "models/vae.h"
#include "train/task.h"

enum { SCALING_IMAGES = 512 };

/* Reconstruction: squared plus absolute error of decode(sample(encode(image))), plus the KL divergence. */
typedef struct {
    VaeConfig vae;
    OpRef image, noise, one, kl, moments;
    uint8_t *buf_image;
    float *buf_noise;
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
    TRY(exec_write_pixels(t->now.ex, v->image, v->buf_image, n * v->pixels));
    TRY(exec_write_f32(t->now.ex, v->noise, v->buf_noise, n * v->latents));
    TRY(exec_write_f32(t->now.ex, v->one, one, n));
    return exec_write_f32(t->now.ex, v->kl, kl, n);
}

static int build_graph(TrainTask *t, Vae *v)
{
    const TrainConf *c = t->conf;
    NnCtx nn;
    OpBuild *b = graph_builder(t->now.g);
    Dtype T = graph_dtype(t->now.g), P = graph_ptype(t->now.g);
    static const char *const all[] = {"*"};
    int n = c->micro_batch, f = vae_factor(&v->vae), h = c->resolution / f, z = v->vae.latent_channels;
    v->pixels = (int64_t)c->resolution * c->resolution * 3;
    v->latents = (int64_t)h * h * z;
    nn_init(&nn, t->now.g);
    nn.train = all;
    nn.ntrain = 1;
    nn.train_compute = c->optimizer.weights;
    v->image = graph_input(t->now.g, "image", T, SHAPE(n, c->resolution, c->resolution, 3));
    v->noise = graph_input(t->now.g, "noise", T, SHAPE(n, h, h, z));
    v->one = graph_input(t->now.g, "weight", P, SHAPE(n));
    v->kl = graph_input(t->now.g, "kl_weight", P, SHAPE(n));
    size_t mark = nn_push(&nn, "vae");
    OpRef moments = vae_encode(&nn, &v->vae, v->image);
    OpRef y = vae_decode(&nn, &v->vae, op_gauss_sample(b, moments, v->noise));
    nn_pop(&nn, mark);
    OpRef loss = op_add(b, op_mse(b, y, v->image, v->one), op_kl(b, moments, v->kl));
    if (c->loss.l1 > 0)
        loss = op_add(b, loss, op_scale(b, op_l1(b, y, v->image, v->one), c->loss.l1, OP_NONE));
    v->moments = moments;
    graph_output(t->now.g, moments, "moments");
    int rc = train_task_differentiate(t, &nn, loss);
    nn_deinit(&nn);
    return rc;
}

/* 1 / standard deviation of the latents of the first images: the factor that gives latents of unit variance. */
static int measure_scaling(TrainTask *t, double *scaling)
{
    Vae *v = t->impl;
    int n = t->conf->micro_batch, c = v->vae.latent_channels;
    int64_t count = n * v->latents * 2;
    double sum = 0, square = 0, total = 0;
    float *moments = malloc((size_t)count * sizeof *moments);
    int rc = moments ? nn_params_bind(t->params, t->now.g, t->now.ex) : err_set(ERR_NOMEM, "training: out of memory");
    for (int64_t at = 0; rc >= 0 && at < SCALING_IMAGES && at + n <= train_dataset_epoch(t->data); at += n) {
        TRY_GOTO(fill(t, at));
        TRY_GOTO(exec_run(t->now.ex));
        TRY_GOTO(exec_read_f32(t->now.ex, v->moments, moments, count));
        for (int64_t i = 0; i < count; i++) {
            if (i / c % 2) /* a log-variance */
                continue;
            sum += (double)moments[i];
            square += (double)moments[i] * (double)moments[i];
            total++;
        }
    }
    double var = total > 0 ? square / total - sum / total * (sum / total) : 1;
    *scaling = var > 0 ? 1 / sqrt(var) : 1;
done:
    free(moments);
    return rc;
}

static int write_scaling(const TrainConf *c, double scaling)
{
    char *path, *text;
    json_error_t e;
    TRY(str_format(&path, "%s/vae/config.json", c->output));
    json_t *config = json_load_file(path, 0, &e);
    int rc = config ? 0 : err_set(ERR_FORMAT, "%s: %s", path, e.text);
    if (rc >= 0) {
        json_object_set_new(config, "scaling_factor", json_real(round(scaling * 1e5) * 1e-5));
        text = json_dumps(config, JSON_INDENT(2) | JSON_REAL_PRECISION(8));
        rc = text ? io_file_write(path, text, strlen(text)) : err_set(ERR_NOMEM, "training: out of memory");
        free(text);
    }
    json_decref(config);
    free(path);
    return rc;
}

static int save(TrainTask *t, const TrainState *s, const float *values, const TrainPlace *to)
{
    double scaling;
    TRY(train_task_save_part(t, s, values, to, "vae", "vae", "diffusion_pytorch_model.safetensors"));
    if (!t->conf->init_random)
        return 0;
    TRY(measure_scaling(t, &scaling)); /* a new VAE has latents of its own scale */
    return write_scaling(t->conf, scaling);
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
        return nn_params_init(t->params, t->now.g, "vae", t->conf->seed, NULL, 0);
    char *dir;
    IoSafetensors *files = NULL;
    TRY(io_path_join(&dir, t->conf->model, "vae"));
    int rc = io_safetensors_open_model(&files, dir, bases, NULL);
    if (rc >= 0)
        rc = train_task_load(t, "vae", files, vae_names);
    if (rc >= 0 && t->comm->rank == 0)
        rc = hash_file_hex(t->model_hash, io_safetensors_path(files));
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
    if (rc >= 0 && !plan_only)
        rc = train_task_fits(t);
    if (rc >= 0 && !plan_only) {
        v->buf_image = malloc(n * (size_t)v->pixels);
        v->buf_noise = malloc(n * (size_t)v->latents * sizeof(float));
        rc = v->buf_image && v->buf_noise ? 0 : err_set(ERR_NOMEM, "training: out of memory");
    }
    if (rc >= 0 && !plan_only)
        rc = load(t);
    return comm_agree(t->comm, rc);
}
