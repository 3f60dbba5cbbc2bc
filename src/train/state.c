#include "train/state.h"

#include <stdlib.h>
#include <string.h>

#include "ops/optim.h"

enum { SLOT_ALIGN = 16 }; /* floats */

static int64_t padded(int64_t n)
{
    return (n + SLOT_ALIGN - 1) / SLOT_ALIGN * SLOT_ALIGN;
}

int train_state_add(TrainState *s, const char *name, Dtype dtype, Shape shape)
{
    TrainSlot *p = realloc(s->slot, (size_t)(s->count + 1) * sizeof *p);
    if (!p)
        return err_set(ERR_NOMEM, "training state: out of memory");
    s->slot = p;
    TrainSlot *t = &p[s->count];
    *t = (TrainSlot){strdup(name), shape, s->n, shape_count(&shape), dtype};
    if (!t->name)
        return err_set(ERR_NOMEM, "training state: out of memory");
    s->count++;
    s->n += padded(t->count);
    return 0;
}

static Shape without(const Shape *s, int dim)
{
    Shape r = {s->ndim - 1, {1, 1, 1, 1}};
    for (int i = 0, k = 0; i < s->ndim; i++)
        if (i != dim)
            r.dim[k++] = s->dim[i];
    return r;
}

int train_array_shape(TrainCover cover, const TrainSlot *t, Shape *out)
{
    int ndim = t->shape.ndim, large = t->count >= TRAIN_LARGE;
    *out = t->shape;
    switch (cover) {
    case TRAIN_OF_ALL:
        return 1;
    case TRAIN_OF_SMALL:
        return !large;
    case TRAIN_OF_LARGE:
        return large;
    case TRAIN_OF_BLOCKS:
        *out = SHAPE(optim_blocks(t->count));
        return large;
    case TRAIN_OF_ROWS:
        if (ndim >= 2)
            *out = without(&t->shape, ndim - 1);
        return ndim >= 2;
    case TRAIN_OF_COLS:
        if (ndim >= 2)
            *out = without(&t->shape, ndim - 2);
        return ndim >= 2;
    default:
        return ndim < 2;
    }
}

int train_state_array(TrainState *s, const char *group, Dtype dtype, TrainCover cover)
{
    TrainArray *a = &s->array[s->narray++];
    *a = (TrainArray){group, dtype, cover, NULL, 0, malloc((size_t)(s->count + 1) * sizeof(int64_t))};
    if (!a->at)
        return err_set(ERR_NOMEM, "training state: out of memory");
    for (int i = 0; i < s->count; i++) {
        Shape shape;
        int there = train_array_shape(cover, &s->slot[i], &shape);
        a->at[i] = there ? a->n : -1;
        a->n += there ? padded(shape_count(&shape)) : 0;
    }
    return 0;
}

void *train_array_slot(const TrainArray *a, int slot)
{
    return a->at[slot] < 0 ? NULL : (char *)a->data + a->at[slot] * (int64_t)dtype_size(a->dtype);
}

static void *zeros(int64_t n, size_t size)
{
    size_t bytes = ((size_t)n * size + 63) / 64 * 64 + 64;
    void *p = aligned_alloc(64, bytes);
    if (p)
        memset(p, 0, bytes);
    return p;
}

int train_state_alloc(TrainState *s, int ema)
{
    s->param = zeros(s->n, sizeof(float));
    s->ema = ema ? zeros(s->n, sizeof(float)) : NULL;
    int ok = s->param && (!ema || s->ema);
    for (int i = 0; i < s->narray; i++) {
        TrainArray *a = &s->array[i];
        a->data = zeros(a->n, dtype_size(a->dtype));
        ok = ok && a->data;
    }
    return ok ? 0 : err_set(ERR_NOMEM, "training state: out of memory for %lld values", (long long)s->n);
}

void train_state_deinit(TrainState *s)
{
    for (int i = 0; i < s->count; i++)
        free(s->slot[i].name);
    free(s->slot);
    free(s->param);
    for (int i = 0; i < s->narray; i++) {
        free(s->array[i].data);
        free(s->array[i].at);
    }
    free(s->ema);
    free(s->loss);
    free(s->norm);
    free(s->valid_step);
    free(s->valid_loss);
    memset(s, 0, sizeof *s);
}

int train_state_push_step(TrainState *s, float loss, float norm)
{
    if (s->step >= s->loss_cap) {
        int64_t n = s->loss_cap ? s->loss_cap * 2 : 1024;
        while (n <= s->step)
            n *= 2;
        float *p = realloc(s->loss, (size_t)n * sizeof *p);
        s->loss = p ? p : s->loss;
        float *q = realloc(s->norm, (size_t)n * sizeof *q);
        s->norm = q ? q : s->norm;
        if (!p || !q)
            return err_set(ERR_NOMEM, "training state: out of memory");
        s->loss_cap = n;
    }
    s->norm[s->step] = norm;
    s->loss[s->step++] = loss;
    return 0;
}

int train_state_push_validation(TrainState *s, int64_t step, float loss)
{
    size_t n = (size_t)s->nvalid + 1;
    int64_t *steps = realloc(s->valid_step, n * sizeof *steps);
    if (steps)
        s->valid_step = steps;
    float *losses = realloc(s->valid_loss, n * sizeof *losses);
    if (losses)
        s->valid_loss = losses;
    if (!steps || !losses)
        return err_set(ERR_NOMEM, "training state: out of memory");
    s->valid_step[s->nvalid] = step;
    s->valid_loss[s->nvalid++] = loss;
    return 0;
}

int train_state_copy(TrainState *out, const TrainState *s)
{
    *out = (TrainState){0};
    for (int i = 0; i < s->count; i++)
        TRY(train_state_add(out, s->slot[i].name, s->slot[i].dtype, s->slot[i].shape));
    for (int k = 0; k < s->narray; k++)
        TRY(train_state_array(out, s->array[k].group, s->array[k].dtype, s->array[k].cover));
    TRY(train_state_alloc(out, s->ema != NULL));
    memcpy(out->param, s->param, (size_t)s->n * sizeof(float));
    for (int k = 0; k < s->narray; k++)
        memcpy(out->array[k].data, s->array[k].data, (size_t)s->array[k].n * dtype_size(s->array[k].dtype));
    if (s->ema)
        memcpy(out->ema, s->ema, (size_t)s->n * sizeof(float));
    for (int64_t i = 0; i < s->step; i++)
        TRY(train_state_push_step(out, s->loss[i], s->norm[i]));
    for (int64_t i = 0; i < s->nvalid; i++)
        TRY(train_state_push_validation(out, s->valid_step[i], s->valid_loss[i]));
    memcpy(out->number, s->number, sizeof out->number);
    out->nnumber = s->nnumber;
    out->skipped = s->skipped;
    return 0;
}
