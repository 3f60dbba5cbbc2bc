#include "sweep/work.h"

#include <stdlib.h>
#include <string.h>

void sweep_work_deinit(SweepWork *w)
{
    free(w->item);
    memset(w, 0, sizeof *w);
}

int sweep_work_init(SweepWork *w, const SweepGrid *g, const uint8_t *done)
{
    memset(w, 0, sizeof *w);
    if (!(w->item = malloc((size_t)(g->count + 1) * sizeof *w->item)))
        return err_set(ERR_NOMEM, "out of memory");
    for (int64_t p = 0; p < g->count; p++) {
        int64_t k = sweep_grid_at(g, p);
        if (!done[k])
            w->item[w->count++] = k;
    }
    return 0;
}

int64_t sweep_work_batch(const SweepWork *w, const SweepGrid *g, int64_t place, int64_t end, int max)
{
    SweepItem first, it;
    int64_t n = 1;
    sweep_grid_item(g, w->item[place], &first);
    while (n < max && place + n < end) {
        sweep_grid_item(g, w->item[place + n], &it);
        if (!sweep_item_compatible(&first, &it))
            break;
        n++;
    }
    return n;
}

/* Calls of the UNet times its rows and pixels; a model's own size counts as 512 x 512. */
static double item_cost(const SweepItem *it)
{
    double size = it->width ? (double)it->width * it->height : 262144, passes = it->steps;
    if (it->source[0])
        passes *= it->strength > 0.05 ? it->strength : 0.05;
    if (it->hires.upscale)
        passes += (it->hires.steps ? it->hires.steps : it->steps) * it->hires.strength * it->hires.scale * it->hires.scale;
    return size * (passes + 1) * (it->guidance > 1 ? 2 : 1);
}

static int same_weights(const SweepItem *a, const SweepItem *b)
{
    if (a->nlora != b->nlora || strcmp(a->model, b->model) != 0 || strcmp(a->vae, b->vae) != 0)
        return 0;
    for (int i = 0; i < a->nlora; i++)
        if (strcmp(a->lora[i].path, b->lora[i].path) != 0)
            return 0;
    return 1;
}

void sweep_work_costs(const SweepWork *w, const SweepGrid *g, double *cost, uint8_t *change)
{
    SweepItem before, it;
    for (int64_t i = 0; i < w->count; i++) {
        sweep_grid_item(g, w->item[i], &it);
        cost[i] = item_cost(&it);
        change[i] = i && !same_weights(&before, &it);
        before = it;
    }
}
