/* Computed rows keyed by content: latents of images, embeddings of captions. A row whose key is there is not computed again; an edited
 * image or another encoder changes exactly the keys of its rows.
 *
 * Files PATH.rRANK-NUMBER.h5 (and any other PATH.*.h5): HDF5 with `key` uint8 [n,32] and `row` float32 [n,row]. Each rank appends the
 * rows it computes to a file of its own and all ranks read all files, so nothing passes from rank to rank. */
#ifndef TRAIN_CACHE_H
#define TRAIN_CACHE_H

#include "base/hash.h"
#include "comm/comm.h"

typedef struct TrainCache TrainCache;

/* rows[n][row] <- the rows of which[0..n). n <= the batch given to train_cache_open. */
typedef int (*TrainCacheFn)(void *ctx, const int64_t *which, int n, float *rows);

typedef struct {
    const char *path, *label;        /* of the files, without what follows; label of the progress line: "latents" */
    int64_t count, row;              /* rows wanted; floats per row */
    const uint8_t (*key)[HASH_SIZE]; /* [count] */
    int batch;                       /* rows per call of compute */
    int per_node;                    /* each node has a folder of its own, filled by the ranks there; else all ranks see the same */
    TrainCacheFn compute;
    void *ctx;
} TrainCacheSpec;

/* Collective: the missing rows are shared among the ranks, with the folder's lock (waits for another run that has it). Keeps all wanted
 * rows in memory up to 2 GiB, else reads them from the files on demand. ERR_STOPPED after a signal; the rows computed so far are in the
 * files then, and those up to the last save (10 s, 64 MiB) after a kill. Errors of compute, and agreed ones. */
int train_cache_open(TrainCache **out, const TrainCacheSpec *spec, Comm *comm);
void train_cache_close(TrainCache *c);
/* Row of entry i into out[row]. */
int train_cache_read(TrainCache *c, int64_t i, float *out);

#endif
