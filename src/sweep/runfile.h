/* run.h5: all images of a sweep with their metadata, in the order of the items (docs/formats.md). */
#ifndef SWEEP_RUNFILE_H
#define SWEEP_RUNFILE_H

#include "comm/comm.h"
#include "sweep/block.h"
#include "sweep/store.h"

typedef struct {
    const char *identity, *config; /* config: resolved YAML */
    const char *backend, *dtype, *started;
    int ranks, threads;
} SweepRunInfo;

/* Joins the parts into `path`, atomically. Every image 0..grid->count-1 must be in one of them. copy: the pixels move in, image k is row k
 * of its size; otherwise virtual datasets show those of the parts, in the order of the parts, and nothing is copied.
 * ERR_SPACE: nothing happened. */
int sweep_runfile_write(const char *path, const SweepParts *parts, const SweepGrid *grid, const SweepRunInfo *info, int copy);

typedef struct {
    IoH5 *f;
    SweepBlock meta;    /* columns, no pixels */
    char *config;
    char **part;        /* files that hold the pixels; none: they are in this one */
    int nparts;
    int32_t *part_of;   /* [meta.n] */
} SweepRunFile;

/* sweep_runfile_close in every case. */
int sweep_runfile_open(SweepRunFile *r, const char *path);
void sweep_runfile_close(SweepRunFile *r);
/* ERR_NOTFOUND when a part is missing. */
int sweep_runfile_check(const SweepRunFile *r);
/* Final latents [C,h,w] of an image. *out: free(). ERR_NOTFOUND where they were not kept. */
int sweep_runfile_latents(SweepRunFile *r, int64_t index, float **out, int64_t dim[3]);
/* Pixels of image `index`. ERR_RANGE, ERR_NOTFOUND. */
int sweep_runfile_image(SweepRunFile *r, int64_t index, IoImage *out);
const char *sweep_runfile_record(const SweepRunFile *r, int64_t index); /* JSON; borrowed */
/* Whether the file is of this run. */
int sweep_runfile_matches(const char *path, const char *identity, int *matches);

/* A copy of a run file at `out`, atomically, that holds the pixels itself, image k in row k of its size. Collective: by all ranks
 * together, which must see the files, where the program is built with a parallel HDF5, else by rank 0. */
int sweep_runfile_consolidate(const char *path, const char *out, Comm *comm);

#endif
