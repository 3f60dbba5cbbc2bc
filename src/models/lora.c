#include "models/lora.h"

#include <math.h>
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
        free(lo->part[i].a);
        free(lo->part[i].b);
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
    if (!(p->path = strdup(m->path)))
        return err_set(ERR_NOMEM, "LoRA: out of memory");
    lo->count++;
    *out = p;
    return 0;
}

static float *factor_alloc(const Shape *s)
{
    size_t bytes = ((size_t)shape_count(s) * sizeof(float) + 63) / 64 * 64;
    float *p = aligned_alloc(64, bytes);
    if (p)
        memset(p, 0, bytes);
    else
        err_set(ERR_NOMEM, "LoRA: out of memory for %zu bytes", bytes);
    return p;
}

void lora_shapes(const Shape *weight, int rank, Shape *down, Shape *up)
{
    *down = *weight;
    down->dim[0] = rank;
    *up = weight->ndim == 4 ? SHAPE(weight->dim[0], rank, 1, 1) : SHAPE(weight->dim[0], rank);
}

int lora_set_shapes(LoraPart *p, const Shape *weight, int rank)
{
    p->rank = rank;
    lora_shapes(weight, rank, &p->down, &p->up);
    p->a = factor_alloc(&p->down);
    p->b = factor_alloc(&p->up);
    return p->a && p->b ? 0 : ERR_NOMEM;
}

static int part_order(const void *a, const void *b)
{
    return strcmp(((const LoraPart *)a)->path, ((const LoraPart *)b)->path);
}

void lora_sort(Lora *lo)
{
    qsort(lo->part, (size_t)lo->count, sizeof *lo->part, part_order);
}

/* ---- fresh adapters ---- */

static int is_target(const LoraSpec *spec, const char *path, uint8_t *hit)
{
    int any = 0;
    for (int k = 0; k < spec->ntargets; k++)
        if (nn_glob(spec->targets[k], path))
            any = hit[k] = 1;
    return any;
}

static int init_part(LoraPart *p, const LoraSpec *spec, const Shape *weight)
{
    char name[NN_PATH_MAX + 32];
    int kernel = weight->ndim == 4 && weight->dim[2] * weight->dim[3] > 1;
    int own = kernel && spec->conv_rank > 0;
    int rank = own ? spec->conv_rank : spec->rank;
    float alpha = own || (kernel && spec->conv_alpha > 0) ? spec->conv_alpha : spec->alpha;
    TRY(lora_set_shapes(p, weight, rank));
    p->alpha = alpha > 0 ? alpha : (float)rank;
    snprintf(name, sizeof name, "%s.lora_A.weight", p->path);
    NnParam down = {.name = name, .dtype = DTYPE_F32, .shape = p->down, .data = p->a};
    return nn_param_fill_uniform(&down, spec->seed, 1 / sqrtf((float)(shape_count(&p->down) / rank)));
}

static int check_spec(const LoraSpec *spec)
{
    if (spec->rank < 1 || spec->rank > 4096)
        return err_set(ERR_RANGE, "LoRA rank is %d, expected 1..4096", spec->rank);
    if (spec->conv_rank < 0 || spec->conv_rank > 4096)
        return err_set(ERR_RANGE, "LoRA conv_rank is %d, expected 0..4096", spec->conv_rank);
    if (!isfinite(spec->alpha) || !isfinite(spec->conv_alpha))
        return err_set(ERR_RANGE, "LoRA alpha is not a number");
    if (spec->ntargets < 1)
        return err_set(ERR_RANGE, "LoRA has no targets");
    return 0;
}

int lora_create(Lora **out, const LoraSpec *spec, const NnModules *modules)
{
    Lora *lo = NULL;
    LoraPart *p;
    TRY(check_spec(spec));
    uint8_t *hit = calloc((size_t)spec->ntargets, 1);
    int rc = hit ? lora_alloc(&lo) : err_set(ERR_NOMEM, "LoRA: out of memory");
    if (rc < 0)
        goto done;
    for (int i = 0; i < modules->count; i++) {
        if (!is_target(spec, modules->item[i].path, hit))
            continue;
        TRY_GOTO(lora_add(lo, &modules->item[i], &p));
        TRY_GOTO(init_part(p, spec, &modules->item[i].weight));
    }
    for (int k = 0; k < spec->ntargets; k++)
        if (!hit[k]) {
            rc = err_set(ERR_NOTFOUND, "LoRA target '%s' matches no linear layer or convolution of the model", spec->targets[k]);
            goto done;
        }
    lora_sort(lo);
    *out = lo;
    lo = NULL;
done:
    free(hit);
    lora_destroy(lo);
    return rc;
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

int64_t lora_values(const Lora *lo)
{
    int64_t n = 0;
    for (int i = 0; i < lo->count; i++)
        n += shape_count(&lo->part[i].down) + shape_count(&lo->part[i].up);
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

const NnLora *lora_nn(Lora *lo, int id, int trainable)
{
    if (!lo->view && !(lo->view = calloc((size_t)lo->count + 1, sizeof *lo->view))) {
        err_set(ERR_NOMEM, "LoRA: out of memory");
        return NULL;
    }
    for (int i = 0; i < lo->count; i++) {
        const LoraPart *p = &lo->part[i];
        lo->view[i] = (NnLoraPart){p->path, p->down, p->up, p->alpha / (float)p->rank};
    }
    lo->nn = (NnLora){.id = id, .part = lo->view, .count = lo->count, .trainable = trainable};
    return &lo->nn;
}

int lora_add_params(Lora *lo, int id, NnParams *ps)
{
    char name[NN_PATH_MAX + 64];
    NnParam *scale;
    for (int i = 0; i < lo->count; i++) {
        LoraPart *p = &lo->part[i];
        snprintf(name, sizeof name, "lora.%d.%s.lora_A.weight", id, p->path);
        TRY(nn_params_add_view(ps, name, DTYPE_F32, p->down, p->a, NULL));
        snprintf(name, sizeof name, "lora.%d.%s.lora_B.weight", id, p->path);
        TRY(nn_params_add_view(ps, name, DTYPE_F32, p->up, p->b, NULL));
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

/* ---- merging ---- */

static int merge_row(void *row, Dtype dtype, float *tmp, const float *a, const float *b, int64_t cols, int rank, double factor)
{
    TRY(dtype_convert(tmp, DTYPE_F32, row, dtype, cols));
    for (int64_t j = 0; j < cols; j++) {
        double sum = 0;
        for (int r = 0; r < rank; r++)
            sum += (double)b[r] * (double)a[(int64_t)r * cols + j];
        tmp[j] = (float)((double)tmp[j] + factor * sum);
    }
    return dtype_convert(row, dtype, tmp, DTYPE_F32, cols);
}

static int merge_part(const LoraPart *p, NnParam *w, double factor)
{
    int64_t rows = p->up.dim[0], cols = shape_count(&p->down) / p->rank;
    int rc = 0;
    if (shape_count(&w->shape) != rows * cols)
        return err_set(ERR_SHAPE, "LoRA module '%s' does not fit the weight", p->path);
#pragma omp parallel reduction(min : rc) if (rows * cols * p->rank > 1 << 22)
    {
        float *tmp = malloc((size_t)cols * sizeof *tmp);
#pragma omp for schedule(static)
        for (int64_t i = 0; i < rows; i++) {
            char *row = (char *)w->data + (size_t)(i * cols) * dtype_size(w->dtype);
            int r = tmp ? merge_row(row, w->dtype, tmp, p->a, p->b + i * p->rank, cols, p->rank, factor) : ERR_NOMEM;
            rc = r < rc ? r : rc;
        }
        free(tmp);
    }
    nn_param_touch(w);
    return rc < 0 ? err_set(rc, "merging LoRA module '%s' failed", p->path) : 0;
}

int lora_merge(Lora *lo, NnParams *ps, float scale)
{
    char name[NN_PATH_MAX + 16];
    for (int i = 0; i < lo->count; i++) {
        const LoraPart *p = &lo->part[i];
        snprintf(name, sizeof name, "%s.weight", p->path);
        NnParam *w = nn_params_find(ps, name);
        if (!w)
            continue;
        TRY(nn_param_own(w));
        TRY(merge_part(p, w, (double)scale * (double)p->alpha / p->rank));
    }
    return 0;
}
