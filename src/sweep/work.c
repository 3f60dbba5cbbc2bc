#include "sweep/work.h"

#include <stdlib.h>
#include <string.h>

void sweep_work_deinit(SweepWork *w)
{
    free(w->item);
    free(w->batch);
    memset(w, 0, sizeof *w);
}

int sweep_work_init(SweepWork *w, const SweepGrid *g, const uint8_t *done, int max)
{
    memset(w, 0, sizeof *w);
    w->item = malloc((size_t)(g->count + 1) * sizeof *w->item);
    w->batch = malloc((size_t)(g->count + 1) * sizeof *w->batch);
    if (!w->item || !w->batch)
        return err_set(ERR_NOMEM, "out of memory");
    SweepItem first = {0};
    for (int64_t p = 0; p < g->count; p++) {
        SweepItem it;
        int64_t k = sweep_grid_at(g, p);
        if (done[k])
            continue;
        sweep_grid_item(g, k, &it);
        if (!w->nbatch || w->count - w->batch[w->nbatch - 1] == max || !sweep_item_compatible(&first, &it)) {
            w->batch[w->nbatch++] = w->count;
            first = it;
        }
        w->item[w->count++] = k;
    }
    w->batch[w->nbatch] = w->count;
    return 0;
}
