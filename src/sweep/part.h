/* One part file of a sweep (docs/formats.md): finished images of one size with their records, appended by one rank.
 *     images [n,H,W,3] U8, latents [n,C,h,w] F32 when kept, meta/index, meta/seconds, meta/rank, meta/record [n] */
#ifndef SWEEP_PART_H
#define SWEEP_PART_H

#include "io/h5.h"
#include "io/image.h"

/* One finished image on its way to the disk; owns what it holds. */
typedef struct {
    int64_t index;
    IoImage image;
    float *latents;    /* [latent], or NULL */
    int64_t latent[3];
    char *record;      /* JSON */
    double seconds;
    int rank;
} SweepRow;
void sweep_row_deinit(SweepRow *row);
/* About what it takes in memory. */
int64_t sweep_row_bytes(const SweepRow *row);

typedef struct {
    int width, height;
    int64_t latent[3]; /* zeros: not kept */
} SweepShape;
SweepShape sweep_row_shape(const SweepRow *row);
int sweep_shape_equal(const SweepShape *a, const SweepShape *b);

/* An empty part under its final name. ERR_SPACE: nothing happened, try again later. */
int sweep_part_create(IoH5 **out, const char *path, const char *identity, const SweepShape *s);
/* Takes effect with io_h5_save. All rows have the part's shape. */
int sweep_part_append(IoH5 *f, const SweepRow *rows, int n);

typedef struct {
    IoH5 *f;
    int64_t n;
    SweepShape shape;
    int64_t *index;    /* [n]; -1: this row does not count */
    char **record;     /* [n]; free() once, or NULL */
    double *seconds;
    int32_t *rank;
} SweepPart;
/* records: 0 leaves them out. ERR_BUSY when the part is of another identity (NULL: not checked). sweep_part_close in every case. */
int sweep_part_open(SweepPart *p, const char *path, const char *identity, int records);
void sweep_part_close(SweepPart *p);
/* Whether the pixels of row i can be read and have the hash that the record names. */
int sweep_part_row_is_sound(SweepPart *p, int64_t i);
/* Marks rows that are not sound, so that they do not count: all, or the last few. *bad: how many. Needs records. */
int sweep_part_check(SweepPart *p, const char *path, int all, int64_t *bad);

#endif
