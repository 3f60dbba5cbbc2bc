/* The watchdog of a job on many ranks: finds out which rank did not come to which collective operation, and lets the others out of it.
 *
 * Every rank counts the collectives it enters; a thread of its own tells rank 0 once a second how far it is, by messages beside the
 * collectives. Rank 0 compares, and its verdict goes to all; when rank 0 itself is gone every rank judges alone. From then on the job is
 * lost: every collective returns ERR_PEER at once with the verdict as its message, also those in which ranks already wait. At fault is
 *  - a rank whose process has ended (the ranks of its host see that within a second);
 *  - a rank of which nothing was heard for `patience` seconds, or a minute if that is less: it is stopped, or its node or the network is down;
 *  - a rank for which others wait for `patience` seconds times the place's own factor;
 *  - a rank that says so itself (comm_guard_fail);
 *  - all, when all are there and the operation does not end in that time;
 *  - all, when none waits and none has come to another place, or again to its own (comm_place), in three times that time.
 * Time in which a process was itself stopped does not count (a suspended job goes on afterwards).
 * Where MPI was started without MPI_THREAD_MULTIPLE only ended processes of the own host are noticed. */
#ifndef COMM_GUARD_H
#define COMM_GUARD_H

#include "comm/comm.h"

/* What ranks can be about. */
typedef struct {
    const char *name; /* "the sum of gradients" */
    int times;        /* others wait here for so many times the patience; 0: as long as it takes */
} CommPlace;

typedef struct {
    double patience;        /* seconds; 0: none is too long, only ended processes count */
    const CommPlace *places;
    int nplaces;
    /* Last resort, on the watchdog's thread: this rank's main thread does not come back. Must end the process. why: the verdict. */
    void (*stuck)(void *ctx, const char *why);
    void *ctx;
} CommGuardConf;

/* Puts a watchdog on c, until comm_deinit; does nothing for a lone rank. conf->places is borrowed. Collective. */
int comm_guard_create(Comm *c, const CommGuardConf *conf);
/* No verdicts while paused: for phases that get over the loss of a rank by themselves. Collective in spirit: call it on every rank. */
void comm_guard_pause(Comm *c, int paused);
/* What the next collectives of this rank are: a place, a step (counted from 1; 0: none) and a part of it (from 1; 0: none). A sign of life of the
 * main thread too: call it before every piece of work.
 * All these do nothing without a watchdog. */
void comm_place(Comm *c, int place, int64_t step, int part);
void comm_place_part(Comm *c, int part);
/* This rank cannot take part any more, for a reason that it has told itself: the job is lost. */
void comm_guard_fail(Comm *c);
/* ERR_PEER with the verdict as message when the job is lost, else 0. */
int comm_guard_check(Comm *c);
/* Around an operation in which ranks wait for each other. Those of comm.h do it themselves. enter: this rank is there; comm_guard_check while it waits. */
int comm_guard_enter(Comm *c);
void comm_guard_leave(Comm *c);

/* After the job was lost. Whether this rank should save what all have alike: rank 0, or where it is at fault the first rank of every host
 * that is still there. */
int comm_lost(const Comm *c);
int comm_lost_is_saver(const Comm *c);
/* The saver has saved, the others have been told; the others: wait for that, at most two minutes. Before they leave. */
void comm_lost_wait(Comm *c, int saved);

/* For comm_deinit and comm_give_up. lost or abandon: nobody else is asked. */
void comm_guard_destroy(Comm *c, int abandon);

#endif
