/* Finished images of a sweep on disk: part files OUT/parts/rRANK-SEQ.h5, each appended to by one rank. Whatever was saved survives a kill
 * at any moment and a full disk (io/h5.h, io_h5_save). An image is done when it is in a part. */
#ifndef SWEEP_STORE_H
#define SWEEP_STORE_H

#include "sweep/part.h"

enum { SWEEP_PART_ROWS = 50000 };
static const int64_t SWEEP_PART_BYTES = (int64_t)8 << 30; /* a part that is larger is followed by a new one */

typedef struct {
    char *dir;        /* OUT/parts */
    char *identity;   /* hash of what decides the images; kept in every part */
    int rank;
    int64_t seq;      /* of the next file */
    IoH5 *f;          /* the part being appended to; NULL: none yet */
    char *path;
    SweepShape shape;
    int64_t rows, bytes;
    int dirty;        /* rows were added since the last save */
} SweepStore;

/* seq: larger than that of any file present (sweep_parts_scan). Makes the folder. sweep_store_deinit in every case. */
int sweep_store_init(SweepStore *s, const char *output, const char *identity, int rank, int64_t seq);
/* What was not saved is dropped. */
void sweep_store_deinit(SweepStore *s);
/* Adds rows of one shape: to the part in use, to the newest one of this rank if it fits, or to a new one. Safe only after
 * sweep_store_save. ERR_SPACE: nothing was added; the call may be repeated. */
int sweep_store_add(SweepStore *s, const SweepRow *rows, int n);
/* ERR_SPACE: nothing is lost, repeat the call before adding more. */
int sweep_store_save(SweepStore *s);

typedef struct {
    char **path;      /* part files, sorted by name */
    int count;
    int64_t seq;      /* above every file's */
} SweepParts;

/* Finds the parts of a run; a folder that is not there has none. With `repair`, leftovers of interrupted writes are removed and
 * journals replayed: nobody may be writing meanwhile. */
int sweep_parts_scan(SweepParts *p, const char *output, int repair);
void sweep_parts_deinit(SweepParts *p);
/* Marks the images of all parts in done[count] (1 each) and returns in *n how many there are. The last images of every part are checked
 * against their hashes, all of them in a damaged part; those that are not sound do not count. Files that cannot be read at all are
 * renamed to *.broken with a warning and leave the list. ERR_BUSY for parts of another run.
 * check (may be NULL) is given the record of every image whose model or adapters differ from the one before. */
typedef int (*SweepPartCheck)(void *ctx, const char *record);
int sweep_parts_read(SweepParts *p, const char *identity, uint8_t *done, int64_t count, int64_t *n, SweepPartCheck check, void *ctx);
/* Removes part files and the folder. */
int sweep_parts_remove(const char *output);

#endif
