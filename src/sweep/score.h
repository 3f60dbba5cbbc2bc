/* Numbers about the images of a sweep, per set of adapters. */
#ifndef SWEEP_SCORE_H
#define SWEEP_SCORE_H

#include "sweep/runfile.h"

/* Pixels whose three channels are all <= 40 or all >= 215: what pictograms are made of. 0..1. */
double score_black_white(const IoImage *img);

typedef struct {
    char *lora;        /* "name:0.8 ..."; "" without adapters */
    int64_t images;
    double black_white; /* mean over the images */
} ScoreGroup;
typedef struct {
    ScoreGroup *group; /* sorted by lora, so that "" is first */
    int count;
} Scores;

/* Of a run.h5, or of all PNGs in a folder (those without a record are a group "(no record)"). scores_deinit in every case. */
int scores_read(Scores *s, const char *path);
void scores_deinit(Scores *s);

#endif
