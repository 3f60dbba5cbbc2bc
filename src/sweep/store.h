/* Finished images of a sweep until all are there: part files OUT/parts/rRANK-SEQ.h5, each written under a temporary name, synced and
 * renamed, so that whatever carries its final name is whole. An image is done when it is in such a file.
 * Every rank writes files of its own; small ones are merged as they come, which may leave an image in two files after a kill: the
 * first found counts. */
#ifndef SWEEP_STORE_H
#define SWEEP_STORE_H

#include "sweep/block.h"

typedef struct {
    char *dir;        /* OUT/parts */
    char *identity;   /* hash of what decides the images; kept in every part */
    int rank;
    int64_t seq;      /* of the next file */
    int64_t latent[3]; /* kept latents' shape of the files in `small`; zeros: none */
    char **small;     /* paths of this rank's unmerged files, all of one size */
    int nsmall;
    int width, height;
} SweepStore;

/* seq: larger than that of any file present (sweep_parts_scan). Makes the folder. sweep_store_deinit in every case. */
int sweep_store_init(SweepStore *s, const char *output, const char *identity, int rank, int64_t seq);
void sweep_store_deinit(SweepStore *s);
/* Writes rows (all of one size) durably as a new part. */
int sweep_store_add(SweepStore *s, const SweepRow *rows, int n, int with_latents);

typedef struct {
    char **path;      /* whole part files, sorted by name */
    int count;
    int64_t seq;      /* above every file's */
} SweepParts;

/* Finds the parts of a run; a folder that is not there has none. Leftovers of interrupted writes are removed:
 * nobody may be writing meanwhile. */
int sweep_parts_scan(SweepParts *p, const char *output);
void sweep_parts_deinit(SweepParts *p);
/* Marks the images of all parts in done[count] (1 each) and returns in *n how many there are. Files that are not readable are renamed
 * to *.broken with a warning and leave the list. ERR_BUSY for parts of another run.
 * check (may be NULL) is given the record of every image whose model or adapters differ from the one before. */
typedef int (*SweepPartCheck)(void *ctx, const char *record);
int sweep_parts_read(SweepParts *p, const char *identity, uint8_t *done, int64_t count, int64_t *n, SweepPartCheck check, void *ctx);
/* Removes part files and the folder. */
int sweep_parts_remove(const char *output);

#endif
