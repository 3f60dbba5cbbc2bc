/* What is left to do, in work order. Every rank computes the same list. */
#ifndef SWEEP_WORK_H
#define SWEEP_WORK_H

#include "sweep/grid.h"

typedef struct {
    int64_t *item;   /* [count] indices of the pending items */
    int64_t count;
} SweepWork;

/* done[grid->count]: 1 for finished items. sweep_work_deinit in every case. */
int sweep_work_init(SweepWork *w, const SweepGrid *g, const uint8_t *done);
void sweep_work_deinit(SweepWork *w);
/* How many of the items from `place` on, up to `end`, may be rendered in one batch of at most `max`. */
int64_t sweep_work_batch(const SweepWork *w, const SweepGrid *g, int64_t place, int64_t end, int max);
/* What the scheduler wants to know: rough relative costs, and where the model or the adapters change. Arrays of w->count. */
void sweep_work_costs(const SweepWork *w, const SweepGrid *g, double *cost, uint8_t *change);

#endif
