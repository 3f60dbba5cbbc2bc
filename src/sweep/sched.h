/* Who renders what: hands out ranges of the items (in work order) to ranks that ask. Pure state, no communication, no clock.
 * Each rank works through a stretch of its own from the front, so that it stays with a model and adapters; a rank that has none left takes
 * the back half of the largest stretch, cut where a costly change is if one is near. Ranges shrink with the work that is left, down to one
 * item. A range counts as finished when its images are stored; those of a lost rank are given out again. */
#ifndef SWEEP_SCHED_H
#define SWEEP_SCHED_H

#include <stdint.h>

typedef struct SweepSched SweepSched;
typedef enum {
    SCHED_WORK, /* here is a range */
    SCHED_WAIT, /* nothing now, but what others hold may come back */
    SCHED_END   /* all is stored */
} SweepSchedAnswer;

/* cost[n]: expected work of each item, > 0 (NULL: all alike); change[n]: 1 where an item needs another model or adapters than the one
 * before (NULL: nowhere). Both are copied. unit: items that a rank renders at once; longer ranges are multiples of it. */
int sweep_sched_create(SweepSched **out, int64_t n, int ranks, const double *cost, const uint8_t *change, int unit);
void sweep_sched_destroy(SweepSched *s);
/* Only `rank`'s own first stretch is given out, to it: for ranks that cannot ask each other. */
void sweep_sched_alone(SweepSched *s, int rank);
/* The next range [*begin, *end) of a rank. */
SweepSchedAnswer sweep_sched_next(SweepSched *s, int rank, int64_t *begin, int64_t *end);
/* How many of the items given to the rank are stored so far, in the order in which it got them. */
void sweep_sched_stored(SweepSched *s, int rank, int64_t count);
/* What the rank holds unstored is given to others; it gets nothing any more. */
void sweep_sched_lost(SweepSched *s, int rank);
int64_t sweep_sched_total_stored(const SweepSched *s);

#endif
