#include "train/task.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "io/file.h"
#include "train/optimizer.h"

int train_task_open(TrainTask *t, int plan_only)
{
    int rc = train_dataset_open(&t->data, t->conf);
    rc = comm_agree(t->comm, rc);
    if (rc >= 0 && (!plan_only || t->conf->bucket.enabled))
        rc = train_dataset_scan(t->data, t->comm);
    if (rc >= 0)
        rc = train_dataset_make_buckets(t->data);
    if (rc >= 0)
        rc = nn_params_create(&t->params);
    if (rc >= 0)
        rc = graph_create(&t->now.g, train_conf_dtype(t->conf));
    TRY(comm_agree(t->comm, rc));
    switch (t->conf->task) {
    case TRAIN_VAE:
        return train_vae_open(t, plan_only);
    case TRAIN_CLIP:
        return train_clip_open(t, plan_only);
    default:
        return train_diffusion_open(t, plan_only);
    }
}

static void shape_free(TrainShape *s)
{
    exec_destroy(s->ex);
    plan_destroy(s->plan);
    graph_destroy(s->g);
    free(s->wrt);
    free(s->grad);
}

void train_task_close(TrainTask *t)
{
    for (int k = 0; k < t->nshape; k++)
        if (t->shape[k].g != t->now.g)
            shape_free(&t->shape[k]);
    shape_free(&t->now);
    free(t->shape);
    t->shape = NULL;
    t->nshape = 0;
    nn_params_destroy(t->params);
    if (t->close)
        t->close(t);
    train_dataset_close(t->data);
    free(t->recomputed);
    t->recomputed = NULL;
    free(t->set);
    t->set = NULL;
    t->now = (TrainShape){.g = NULL};
    t->params = NULL;
    t->data = NULL;
}

int train_task_keep_shape(TrainTask *t, int *k)
{
    TrainShape *s = realloc(t->shape, (size_t)(t->nshape + 1) * sizeof *s);
    if (!s)
        return err_set(ERR_NOMEM, "training: out of memory");
    t->shape = s;
    *k = t->nshape++;
    s[*k] = t->now;
    t->now = (TrainShape){.g = NULL};
    t->at = -1;
    return graph_create(&t->now.g, train_conf_dtype(t->conf));
}

/* The one with the largest arena owns it. */
int train_task_executors(TrainTask *t)
{
    int big = 0;
    if (!t->nshape)
        return exec_create(&t->now.ex, t->now.plan);
    for (int k = 1; k < t->nshape; k++)
        if (plan_arena_bytes(t->shape[k].plan) > plan_arena_bytes(t->shape[big].plan))
            big = k;
    /* The owner goes last in train_task_close: shapes that borrow its arena do not touch it while they are destroyed. */
    TRY(exec_create(&t->shape[big].ex, t->shape[big].plan));
    for (int k = 0; k < t->nshape; k++)
        if (k != big)
            TRY(exec_create_within(&t->shape[k].ex, t->shape[k].plan, t->shape[big].ex));
    t->now = t->shape[t->at];
    return 0;
}

int train_task_bind(TrainTask *t)
{
    if (!t->nshape)
        return nn_params_bind(t->params, t->now.g, t->now.ex);
    for (int k = 0; k < t->nshape; k++)
        TRY(nn_params_bind(t->params, t->shape[k].g, t->shape[k].ex));
    return 0;
}

int train_task_use(TrainTask *t, int k)
{
    float seed[256];
    if (t->nshape) {
        t->now = t->shape[k];
        t->at = k;
    }
    if (!t->now.ex)
        return 0;
    for (int j = 0; j < t->conf->micro_batch; j++)
        seed[j] = 1.0f / (float)t->conf->batch;
    return exec_write_f32(t->now.ex, t->now.seed, seed, t->conf->micro_batch);
}

int train_task_differentiate(TrainTask *t, NnCtx *nn, OpRef loss)
{
    Dtype p = graph_ptype(t->now.g);
    TRY(graph_status(t->now.g));
    if (nn->ntrained == 0)
        return err_set(ERR_NOTFOUND, "no parameter matches the patterns of what is to be trained");
    t->now.loss = loss;
    t->now.seed = graph_input(t->now.g, "loss_seed", p, SHAPE(t->conf->micro_batch));
    t->nwrt = nn->ntrained;
    t->now.wrt = malloc((size_t)t->nwrt * sizeof *t->now.wrt);
    t->now.grad = malloc((size_t)t->nwrt * sizeof *t->now.grad);
    if (!t->now.wrt || !t->now.grad)
        return err_set(ERR_NOMEM, "training graph: out of memory");
    memcpy(t->now.wrt, nn->trained, (size_t)t->nwrt * sizeof *t->now.wrt);
    return train_task_make_plan(t);
}

void train_task_bytes(const TrainTask *t, double *arena, double *params, double *state)
{
    *arena = (double)plan_arena_bytes(t->now.plan);
    for (int k = 0; k < t->nshape; k++)
        *arena = fmax(*arena, (double)plan_arena_bytes(t->shape[k].plan));
    *params = (double)plan_param_bytes(t->now.plan);
    *state = 0;
    for (int i = 0; i < t->nwrt; i++) {
        const Shape *shape = &graph_meta(t->now.g, t->now.wrt[i])->shape;
        *state += train_optimizer_bytes(t->conf, shape) + (double)shape_count(shape) * (8 + 4); /* sum, gradient */
    }
}

static double memory(void)
{
    return (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGE_SIZE);
}

int train_task_spare(const TrainTask *t)
{
    double arena, params, state;
    int ranks = t->comm->local_size > 0 ? t->comm->local_size : 1;
    train_task_bytes(t, &arena, &params, &state);
    if (t->be->memory)
        arena = 0; /* the device's */
    return (arena + state) * ranks + state <= memory();
}

static const char *settings(const TrainTask *t, char *buf, size_t size)
{
    snprintf(buf, size, "lower micro_batch or resolution%s%s", t->conf->gradient_checkpointing ? "" : ", set gradient_checkpointing=true",
             t->conf->dtype ? "" : ", or dtype=bf16");
    return buf;
}

/* All of a rank's training is in the memory of its device; trained parameters are there once: those of 4 bytes that the state counts are not. */
static int fits_device(const TrainTask *t, double arena, double params, double state)
{
    size_t free_now, total;
    double mib = 1 << 20, trained = 0;
    char what[160];
    TRY(t->be->memory(t->be, &free_now, &total));
    for (int i = 0; i < t->nwrt; i++)
        trained += (double)shape_count(&graph_meta(t->now.g, t->now.wrt[i])->shape) * 4;
    double need = arena + params + state - trained;
    if (need <= (double)free_now)
        return 0;
    return err_set(ERR_RANGE, "%.0f MiB (activations %.0f, parameters %.0f, optimizer %.0f) do not fit into the %.0f MiB of the device that are "
                   "free, of %.0f: %s", need / mib, arena / mib, (params - trained) / mib, state / mib, (double)free_now / mib,
                   (double)total / mib, settings(t, what, sizeof what));
}

/* Mapped weights are not counted: the system may drop and read them again. */
int train_task_fits(const TrainTask *t)
{
    double have = memory(), arena, params, state, mib = 1 << 20;
    int ranks = t->comm->local_size > 0 ? t->comm->local_size : 1;
    char what[160];
    train_task_bytes(t, &arena, &params, &state);
    if (t->be->memory) {
        TRY(fits_device(t, arena, params, state));
        arena = 0;
    }
    if ((arena + state) * ranks <= have)
        return 0;
    return err_set(ERR_RANGE, "%d x %.0f MiB (activations %.0f, optimizer %.0f) do not fit into this machine's %.0f MiB: %s%s", ranks,
                   (arena + state) / mib, arena / mib, state / mib, have / mib, ranks > 1 ? "start fewer ranks on it, " : "",
                   settings(t, what, sizeof what));
}

int train_task_load(TrainTask *t, const char *root, IoSafetensors *files, NnNameFn names)
{
    TRY(nn_params_load(t->params, t->now.g, root, files, names));
    return nn_params_set_trainable(t->params, t->now.g, t->now.wrt, t->nwrt);
}

int train_task_set_values(TrainTask *t, const TrainState *s, const float *values)
{
    for (int i = 0; i < s->count; i++) {
        NnParam *p = nn_params_find(t->params, s->slot[i].name);
        if (!p)
            return err_set(ERR_NOTFOUND, "trained parameter '%s' is missing", s->slot[i].name);
        TRY(dtype_convert(p->data, p->dtype, values + s->slot[i].offset, DTYPE_F32, s->slot[i].count));
        nn_param_touch(p);
    }
    return 0;
}

int train_task_images(TrainTask *t, int64_t position, uint8_t *nhwc, int64_t *items)
{
    int64_t size = (int64_t)t->conf->resolution * t->conf->resolution * 3;
    for (int j = 0; j < t->conf->micro_batch; j++) {
        int64_t item;
        int mirror;
        IoImage img = {0};
        TRY(train_dataset_at(t->data, t->conf->seed, position + j, &item, &mirror));
        TRY(train_dataset_load(t->data, item, t->conf->seed, position + j, mirror, &img));
        memcpy(nhwc + j * size, img.data, (size_t)size);
        io_image_deinit(&img);
        if (items)
            items[j] = item;
    }
    return 0;
}

int train_place_file(char **path, const TrainPlace *to, const char *name)
{
    TRY(io_dir_make(to->folder));
    return str_format(path, "%s/%s%s.safetensors", to->folder, name, to->mark);
}

/* FOLDER/part, or FOLDER/step-00000200/part. part "": the folder of the model. */
static int model_folder(char **path, const TrainPlace *to, const char *part)
{
    return str_format(path, "%s%s%s%s%s", to->folder, to->mark[0] ? "/step" : "", to->mark, part[0] ? "/" : "", part);
}

static int save_other_part(const TrainTask *t, const TrainPlace *to, const char *part)
{
    char *from = NULL, *dir = NULL;
    int rc, trained = !strcmp(part, "unet") || (t->conf->text_encoder && !strcmp(part, "text_encoder"));
    if (trained)
        return 0;
    TRY_GOTO(io_path_join(&from, t->conf->model, part));
    TRY_GOTO(model_folder(&dir, to, part));
    if (io_file_is_dir(from))
        rc = io_dir_copy(from, dir, 0, NULL);
done:
    free(from);
    free(dir);
    return rc;
}

int train_task_save_rest(const TrainTask *t, const TrainPlace *to)
{
    char *index = NULL, *path = NULL, *dir = NULL;
    json_t *parts = NULL, *value;
    const char *part;
    int rc;
    TRY_GOTO(io_path_join(&index, t->conf->model, "model_index.json"));
    TRY_GOTO(model_folder(&dir, to, ""));
    TRY_GOTO(io_path_join(&path, dir, "model_index.json"));
    parts = json_load_file(index, 0, NULL);
    json_object_foreach(parts, part, value)
        if (json_is_array(value) && rc >= 0)
            rc = save_other_part(t, to, part);
    if (parts && rc >= 0)
        rc = io_file_copy(index, path, 0);
done:
    json_decref(parts);
    free(index);
    free(path);
    free(dir);
    return rc;
}

int train_task_save_part(TrainTask *t, const TrainState *s, const float *values, const TrainPlace *to, const char *root, const char *part,
                         const char *file)
{
    char *from = NULL, *dir = NULL, *path = NULL, *config = NULL;
    static const Dtype dtypes[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16};
    const IoMeta meta = {"format", "pt"};
    int rc;
    TRY_GOTO(str_format(&from, "%s/%s/config.json", t->conf->model, part));
    TRY_GOTO(model_folder(&dir, to, part));
    TRY_GOTO(io_dir_make(dir));
    TRY_GOTO(io_path_join(&config, dir, "config.json"));
    TRY_GOTO(io_file_copy(from, config, 0));
    TRY_GOTO(train_task_set_values(t, s, values));
    TRY_GOTO(io_path_join(&path, dir, file));
    TRY_GOTO(nn_params_save(t->params, root, path, dtypes[t->conf->save_dtype], NULL, &meta, 1));
done:
    free(from);
    free(dir);
    free(path);
    free(config);
    return rc;
}
