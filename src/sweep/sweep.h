/* A whole sweep: from its configuration to run.h5, PNGs and the contact sheet.
 *     OUT/sweep.yaml   resolved configuration      OUT/run.h5        everything, in the order of the items
 *     OUT/png/N.png    one per item                OUT/sheet.png     contact sheet
 *     OUT/parts/       finished images of each rank; they stay where run.h5 is made of virtual datasets */
#ifndef SWEEP_SWEEP_H
#define SWEEP_SWEEP_H

#include "comm/comm.h"
#include "sweep/grid.h"
#include "sweep/shard.h"

typedef struct {
    int64_t total, before, rendered; /* images of the run or shard, found finished, rendered now */
    double seconds;
    int lost;           /* ranks that died on the way */
} SweepReport;

/* Runs or continues a sweep; a finished one is left as it is but for the contact sheet and missing PNGs. threads: of this rank.
 * Collective; every rank returns an error when one fails. ERR_BUSY: output in use, or holding another sweep. ERR_STOPPED: a signal
 * (base/signal.h) came; finished images are safe. A shard (shard.h) ends with its images in parts. */
int sweep_run(const SweepConf *c, const SweepShard *shard, Comm *comm, int threads, SweepReport *report);
/* What sweep_run would need: images, batches, work and memory, as text for people. */
int sweep_plan_text(const SweepConf *c, int threads, StrBuf *out);
/* The same as numbers: peak bytes of a rank, operations and images of the whole sweep. */
typedef struct {
    int64_t images;
    double peak, flops;
} SweepNeed;
int sweep_plan_need(const SweepConf *c, int threads, SweepNeed *out);

#endif
