/* Distribution of the pending items of a sweep over the ranks (sched.h), with what every rank is doing. Rank 0 answers; a rank that is
 * killed or silent is given up and its work goes to the others, where the launcher lets them live. */
#ifndef SWEEP_DISPATCH_H
#define SWEEP_DISPATCH_H

#include "comm/comm.h"
#include "sweep/sched.h"

typedef enum { RANK_STARTING, RANK_RENDERING, RANK_WRITING, RANK_FULL, RANK_WAITING, RANK_DONE, RANK_LOST, RANK_STATES } SweepRankState;

typedef struct {
    SweepRankState state;
    int64_t item;       /* place in the work order of the first item being rendered */
    int32_t step, steps;
    int64_t stored;     /* images of this rank that are on disk */
} SweepRankStatus;

typedef struct {
    int64_t n;            /* pending items */
    const double *cost;   /* [n] as for sweep_sched_create; rank 0 */
    const uint8_t *change;
    int unit;
    double patience;      /* seconds without a sign after which a rank counts as lost */
    int64_t before, total; /* images found finished, images of the run: for the display */
    /* What an item is, in a few words for the display. May be NULL. */
    void (*describe)(void *ctx, int64_t item, char *out, int64_t size);
    void *ctx;
} SweepDispatchConf;

typedef struct SweepDispatch SweepDispatch;
/* Collective. */
int sweep_dispatch_create(SweepDispatch **out, Comm *c, const SweepDispatchConf *conf);
/* 1 and a range of items, 0 at the end of all work, 2: nothing at the moment (store what is rendered, wait, ask again); ERR_PEER: rank 0 is
 * gone. Not collective. */
int sweep_dispatch_next(SweepDispatch *d, int64_t *begin, int64_t *end);
/* What this rank is doing; cheap. A thread tells rank 0 once a second. */
void sweep_dispatch_status(SweepDispatch *d, const SweepRankStatus *s);
/* This rank has failed or was told to stop: no rank gets work any more. */
void sweep_dispatch_stop(SweepDispatch *d);
/* At the end of this rank's work: sums over all ranks. *lost: how many ranks were given up. Where there are some, c is given up
 * (comm_give_up) on every rank, and rank 0 returns when all others have left. Collective. */
int sweep_dispatch_end(SweepDispatch *d, int64_t *stored, int *lost);
/* NULL is fine. */
void sweep_dispatch_destroy(SweepDispatch *d);

#endif
