#include "models/lora.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "models/lora_impl.h"

int lora_alloc(Lora **out)
{
    *out = calloc(1, sizeof **out);
    return *out ? 0 : err_set(ERR_NOMEM, "LoRA: out of memory");
}

void lora_destroy(Lora *lo)
{
    if (!lo)
        return;
    for (int i = 0; i < lo->count; i++) {
        free(lo->part[i].path);
        for (int k = 0; k < NN_FACTORS; k++)
            free(lo->part[i].f[k]);
    }
    free(lo->part);
    free(lo->view);
    free(lo);
}

int lora_add(Lora *lo, const NnModule *m, LoraPart **out)
{
    if (lo->count == lo->cap) {
        int cap = lo->cap ? lo->cap * 2 : 64;
        LoraPart *p = realloc(lo->part, (size_t)cap * sizeof *p);
        if (!p)
            return err_set(ERR_NOMEM, "LoRA: out of memory");
        lo->part = p;
        lo->cap = cap;
    }
    LoraPart *p = &lo->part[lo->count];
    memset(p, 0, sizeof *p);
    p->weight = m->weight;
    p->rank = 1;
    p->alpha = 1;
    if (!(p->path = strdup(m->path)))
        return err_set(ERR_NOMEM, "LoRA: out of memory");
    lo->count++;
    *out = p;
    return 0;
}

int lora_set_factor(LoraPart *p, NnFactor f, Shape shape)
{
    size_t bytes = ((size_t)shape_count(&shape) * sizeof(float) + 63) / 64 * 64;
    float *v = aligned_alloc(64, bytes);
    if (!v)
        return err_set(ERR_NOMEM, "LoRA: out of memory for %zu bytes", bytes);
    memset(v, 0, bytes);
    free(p->f[f]);
    p->f[f] = v;
    p->shape[f] = shape;
    return 0;
}

void lora_shapes(const Shape *weight, int rank, Shape *down, Shape *up)
{
    *down = *weight;
    down->dim[0] = rank;
    *up = weight->ndim == 4 ? SHAPE(weight->dim[0], rank, 1, 1) : SHAPE(weight->dim[0], rank);
}

int lora_set_pair(LoraPart *p, int rank)
{
    Shape down, up;
    p->kind = NN_ADAPTER_LORA;
    p->rank = rank;
    lora_shapes(&p->weight, rank, &down, &up);
    TRY(lora_set_factor(p, NN_DOWN, down));
    return lora_set_factor(p, NN_UP, up);
}

static int part_order(const void *a, const void *b)
{
    return strcmp(((const LoraPart *)a)->path, ((const LoraPart *)b)->path);
}

void lora_sort(Lora *lo)
{
    qsort(lo->part, (size_t)lo->count, sizeof *lo->part, part_order);
}

/* ---- access ---- */

int lora_count(const Lora *lo)
{
    return lo->count;
}

LoraPart *lora_at(Lora *lo, int i)
{
    return &lo->part[i];
}

LoraPart *lora_find(Lora *lo, const char *path)
{
    for (int i = 0; i < lo->count; i++)
        if (!strcmp(lo->part[i].path, path))
            return &lo->part[i];
    return NULL;
}

float lora_factor(const LoraPart *p)
{
    return p->alpha / (float)p->rank;
}

int64_t lora_values(const Lora *lo)
{
    int64_t n = 0;
    for (int i = 0; i < lo->count; i++)
        for (int k = 0; k < NN_FACTORS; k++)
            n += lo->part[i].f[k] ? shape_count(&lo->part[i].shape[k]) : 0;
    return n;
}

int lora_covers(const Lora *lo, const char *root)
{
    size_t n = strlen(root);
    for (int i = 0; i < lo->count; i++)
        if (!strncmp(lo->part[i].path, root, n) && lo->part[i].path[n] == '.')
            return 1;
    return 0;
}

/* ---- in the graph ---- */

const NnLora *lora_nn(Lora *lo, int id, int trainable)
{
    if (!lo->view && !(lo->view = calloc((size_t)lo->count + 1, sizeof *lo->view))) {
        err_set(ERR_NOMEM, "LoRA: out of memory");
        return NULL;
    }
    for (int i = 0; i < lo->count; i++) {
        const LoraPart *p = &lo->part[i];
        lo->view[i] = (NnLoraPart){.path = p->path, .kind = p->kind, .factor = lora_factor(p)};
        memcpy(lo->view[i].shape, p->shape, sizeof p->shape);
    }
    lo->nn.id = id;
    lo->nn.part = lo->view;
    lo->nn.count = lo->count;
    lo->nn.trainable = trainable;
    return &lo->nn;
}

int lora_add_params(Lora *lo, int id, NnParams *ps)
{
    char name[NN_PATH_MAX + 64];
    NnParam *scale;
    for (int i = 0; i < lo->count; i++) {
        LoraPart *p = &lo->part[i];
        for (int k = 0; k < NN_FACTORS; k++) {
            if (!p->f[k])
                continue;
            snprintf(name, sizeof name, "lora.%d.%s.%s", id, p->path, nn_factor_leaf(p->kind, (NnFactor)k));
            TRY(nn_params_add_view(ps, name, DTYPE_F32, p->shape[k], p->f[k], NULL));
        }
    }
    snprintf(name, sizeof name, "lora.%d.scale", id);
    TRY(nn_params_add(ps, name, DTYPE_F32, SHAPE(1), &scale));
    *(float *)scale->data = 1;
    return 0;
}

int lora_set_scale(NnParams *ps, int id, float scale)
{
    char name[32];
    snprintf(name, sizeof name, "lora.%d.scale", id);
    NnParam *p = nn_params_find(ps, name);
    if (!p)
        return err_set(ERR_NOTFOUND, "no adapter number %d in this parameter set", id);
    *(float *)p->data = scale;
    nn_param_touch(p);
    return 0;
}

void lora_set_dropout(Lora *lo, float dropout, float rank_dropout, float module_dropout, uint64_t seed)
{
    lo->nn.dropout = dropout;
    lo->nn.rank_dropout = rank_dropout;
    lo->nn.module_dropout = module_dropout;
    lo->nn.seed = seed;
}
