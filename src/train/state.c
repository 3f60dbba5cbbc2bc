#include "train/state.h"

#include <stdlib.h>
#include <string.h>

enum { SLOT_ALIGN = 16 }; /* floats */

int train_state_add(TrainState *s, const char *name, Shape shape)
{
    TrainSlot *p = realloc(s->slot, (size_t)(s->count + 1) * sizeof *p);
    if (!p)
        return err_set(ERR_NOMEM, "training state: out of memory");
    s->slot = p;
    TrainSlot *t = &p[s->count];
    *t = (TrainSlot){strdup(name), shape, s->n, shape_count(&shape)};
    if (!t->name)
        return err_set(ERR_NOMEM, "training state: out of memory");
    s->count++;
    s->n += (t->count + SLOT_ALIGN - 1) / SLOT_ALIGN * SLOT_ALIGN;
    return 0;
}

static float *zeros(int64_t n)
{
    size_t bytes = (size_t)n * sizeof(float);
    float *p = aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (p)
        memset(p, 0, bytes);
    return p;
}

int train_state_alloc(TrainState *s, int ema)
{
    s->param = zeros(s->n);
    s->m = zeros(s->n);
    s->v = zeros(s->n);
    s->ema = ema ? zeros(s->n) : NULL;
    if (!s->param || !s->m || !s->v || (ema && !s->ema))
        return err_set(ERR_NOMEM, "training state: out of memory for %lld values", (long long)s->n);
    return 0;
}

void train_state_deinit(TrainState *s)
{
    for (int i = 0; i < s->count; i++)
        free(s->slot[i].name);
    free(s->slot);
    free(s->param);
    free(s->m);
    free(s->v);
    free(s->ema);
    free(s->loss);
    memset(s, 0, sizeof *s);
}

int train_state_push_loss(TrainState *s, float loss)
{
    if (s->step >= s->loss_cap) {
        int64_t n = s->loss_cap ? s->loss_cap * 2 : 1024;
        while (n <= s->step)
            n *= 2;
        float *p = realloc(s->loss, (size_t)n * sizeof *p);
        if (!p)
            return err_set(ERR_NOMEM, "training state: out of memory");
        s->loss = p;
        s->loss_cap = n;
    }
    s->loss[s->step++] = loss;
    return 0;
}
