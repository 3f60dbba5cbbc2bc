/* What is left to do, cut into batches that the ranks take from one counter. Every rank computes the same list. */
#ifndef SWEEP_WORK_H
#define SWEEP_WORK_H

#include "sweep/grid.h"

typedef struct {
    int64_t *item;   /* indices of the pending items in work order */
    int64_t count;
    int64_t *batch;  /* [nbatch + 1] first entry of each batch in `item` */
    int64_t nbatch;
} SweepWork;

/* done[grid->count]: 1 for finished items. A batch holds up to `max` compatible items. sweep_work_deinit in every case. */
int sweep_work_init(SweepWork *w, const SweepGrid *g, const uint8_t *done, int max);
void sweep_work_deinit(SweepWork *w);

#endif
