/* Numbers about the images of a sweep, per set of adapters. */
#ifndef SWEEP_SCORE_H
#define SWEEP_SCORE_H

#include "ops/backend.h"
#include "sweep/runfile.h"

/* Pixels whose three channels are all <= 40 or all >= 215: what pictograms are made of. 0..1. */
double score_black_white(const IoImage *img);

typedef struct {
    char *lora;        /* "name:0.8 ..."; "" without adapters */
    int64_t images;
    double black_white; /* mean over the images */
    int64_t fits;       /* images whose own prompt fits best among all prompts of the run (scores_clip) */
} ScoreGroup;
typedef struct {
    ScoreGroup *group; /* sorted by lora, so that "" is first */
    int count;
    int prompts;        /* distinct prompts compared by scores_clip; 0 when it did not run */
} Scores;

/* Of a run.h5, or of all PNGs in a folder (those without a record are a group "(no record)"). scores_deinit in every case. */
int scores_read(Scores *s, const char *path);
/* Contrastive accuracy: for each image of a run.h5, whether its own prompt is the one that fits it best among the run's distinct
 * prompts, by the pair in model/clip. Chance is 1/prompts. After scores_read of the same file. */
int scores_clip(Scores *s, const char *path, const char *model, Backend *be);
/* The same for an image pack (docs/formats.md): images whose own caption fits best among `among` captions (its own and the next
 * ones of the pack). */
int score_pack(const char *path, const char *model, Backend *be, int among, int64_t *images, int64_t *fits);
void scores_deinit(Scores *s);

#endif
