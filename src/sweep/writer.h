/* One thread per rank that brings finished images to the disk (store.h, PNGs) while the next are rendered. The queue is bounded: a renderer
 * that is faster than the disk waits. A full or read-only disk pauses the writer, which says so and tries again until there is room. */
#ifndef SWEEP_WRITER_H
#define SWEEP_WRITER_H

#include "sweep/store.h"

typedef struct SweepWriter SweepWriter;

typedef struct {
    double stalled;   /* seconds that the renderer waited for room in the queue */
    double busy;      /* seconds that the thread wrote */
    double paused;    /* seconds that it waited for a disk with room */
    int64_t stored, saves, bytes;
} SweepWriterStats;

typedef struct {
    const char *output; /* for PNGs */
    int png;
    int64_t count;      /* images of the run: decides how PNGs are put into folders */
    int64_t queue;      /* bytes that may wait, though always one row */
    double retry;       /* seconds between tries on a full disk */
} SweepWriterConf;

/* Takes over *store, also on errors. */
int sweep_writer_start(SweepWriter **out, SweepStore *store, const SweepWriterConf *conf);
/* Takes the rows over in every case. Waits for room. The writer's error, once it has failed; ERR_STOPPED when a signal came while waiting. */
int sweep_writer_put(SweepWriter *w, SweepRow *rows, int n);
/* Waits until all is stored. */
int sweep_writer_flush(SweepWriter *w);
/* Rows stored so far; paused: whether the disk is full. */
int64_t sweep_writer_stored(SweepWriter *w, int *paused);
/* Stores what is queued unless that failed before or the disk is full, and ends. NULL is fine; out may be NULL. The writer's error. */
int sweep_writer_stop(SweepWriter *w, SweepWriterStats *out);

/* "OUT/png/000012.png", or "OUT/png/0000/000012.png" in runs of more than 10,000 images. *path: free(). */
int sweep_png_path(const char *output, int64_t index, int64_t count, char **path);
/* Removes temporary files from the folders of a run of `count` images. Only with the output folder's lock held. */
int sweep_png_remove_temps(const char *output, int64_t count);

#endif
