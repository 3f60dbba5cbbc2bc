/* The output folder of a sweep as rank 0 keeps it: lock, configuration, what is finished, and the final files. */
#ifndef SWEEP_OUTPUT_H
#define SWEEP_OUTPUT_H

#include "io/file.h"
#include "sweep/runfile.h"
#include "sweep/shard.h"

typedef struct {
    IoLock *lock, *shard_lock; /* a shard shares the first */
    SweepParts parts;
    int complete;      /* run.h5 is there */
    int late_copy;     /* the ranks move the images into run.h5 afterwards (set by the caller) */
    int linked;        /* after sweep_output_finish: run.h5 shows the images of the parts */
} SweepOutput;

/* SHA-256 in hex of sweep_conf_identity. */
int sweep_identity(const SweepConf *c, char hex[HASH_HEX_SIZE]);
/* Makes and locks the folder, takes over what shards left (shard.h; a shard opens its own folder in it), compares or writes sweep.yaml, and marks finished images in done[count]; *n: how many.
 * check: see sweep_parts_read. sweep_output_close in every case. */
int sweep_output_open(SweepOutput *o, const SweepConf *c, const SweepShard *shard, const char *identity, uint8_t *done, int64_t count, int64_t *n,
                      SweepPartCheck check, void *ctx);
/* Once more after parts were added to `folder`: marks their images too. */
int sweep_output_reread(SweepOutput *o, const char *folder, const char *identity, uint8_t *done, int64_t count, int64_t *n);
void sweep_output_close(SweepOutput *o);
/* All images are done: run.h5 (info->config is filled in here), missing PNGs, contact sheet; then the parts go where run.h5 holds the
 * images itself. Waits while the disk is full. */
int sweep_output_finish(SweepOutput *o, const SweepConf *c, const SweepGrid *grid, const SweepRunInfo *info);
/* join: copy with a parallel HDF5: rank 0 alone would move images for long while the others wait. So run.h5 shows those of the parts at
 * first (late_copy), and all ranks move them together afterwards; where that fails it stays as it is, with a warning. Collective. */
int sweep_output_copies_late(const SweepConf *c, const Comm *comm);
int sweep_output_copy(SweepOutput *o, const SweepConf *c, Comm *comm);
#endif
