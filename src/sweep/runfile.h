/* run.h5: all images of a sweep with their metadata, in the order of the items (docs/formats.md). */
#ifndef SWEEP_RUNFILE_H
#define SWEEP_RUNFILE_H

#include "sweep/store.h"

typedef struct {
    const char *identity, *config; /* config: resolved YAML */
    const char *backend, *dtype, *started;
    int ranks;
} SweepRunInfo;

/* Joins the parts into `path`, atomically. Every image 0..grid->count-1 must be in one of them. */
int sweep_runfile_write(const char *path, const SweepParts *parts, const SweepGrid *grid, const SweepRunInfo *info);

typedef struct {
    IoH5 *f;
    SweepBlock meta;    /* columns, no pixels */
    char *config;
} SweepRunFile;

/* sweep_runfile_close in every case. */
int sweep_runfile_open(SweepRunFile *r, const char *path);
void sweep_runfile_close(SweepRunFile *r);
/* Row of the item with this index: rows are items, so this only checks the bounds. ERR_RANGE. */
int sweep_runfile_image(SweepRunFile *r, int64_t index, IoImage *out);
const char *sweep_runfile_record(const SweepRunFile *r, int64_t index); /* JSON; borrowed */
/* Whether the file is of this run. */
int sweep_runfile_matches(const char *path, const char *identity, int *matches);

#endif
