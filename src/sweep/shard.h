/* A sweep cut into shards that run as jobs of their own, at any time and on any machine that sees the output folder.
 *     OUT/shards/0003-of-0016/parts/   finished images of shard 3; OUT/png and OUT/sweep.yaml are shared
 * A shard locks OUT together with other shards and its own folder alone. An ordinary sweep of the same configuration locks OUT alone,
 * takes the shards' parts over into OUT/parts and goes on from there: with all shards done it only writes run.h5. */
#ifndef SWEEP_SHARD_H
#define SWEEP_SHARD_H

#include "sweep/grid.h"

/* Shard `index` (from 0) of `count`; count 0: the whole sweep. */
typedef struct {
    int index, count;
} SweepShard;

enum { SWEEP_MAX_SHARDS = 100000 };

/* "3/16". ERR_USAGE. */
int sweep_shard_parse(SweepShard *s, const char *text);
/* The shard's folder, OUT itself for the whole sweep. *out is the caller's. */
int sweep_shard_folder(char **out, const char *output, const SweepShard *s);
/* Marks what other shards do in done[g->count] and returns how many images are left for this one: a stretch of the order of work, so that
 * a shard changes weights rarely. */
int64_t sweep_shard_mark(const SweepShard *s, const SweepGrid *g, uint8_t *done);
/* Moves the parts of all shards to OUT/parts and removes the shards' folders. OUT is locked. */
int sweep_shards_adopt(const char *output);

#endif
