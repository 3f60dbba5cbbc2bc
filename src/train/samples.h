/* Images rendered while a run trains, by the renderer of sweeps from the weights in memory. They take nothing from the training's random
 * numbers and change nothing of its state.
 *     OUT/samples/step-00000100-01.png   prompt 1 after 100 steps      OUT/samples.png   all that are kept: prompts down, steps across
 * A prompt may end in options as kohya's trainers have them: --w, --h (size), --d (seed), --l (guidance), --s (steps), --n (negative). */
#ifndef TRAIN_SAMPLES_H
#define TRAIN_SAMPLES_H

#include "train/state.h"
#include "train/task.h"

typedef struct {
    char *text, *negative; /* owned */
    int width, height, steps;
    double guidance;
    int64_t seed;
} TrainSample;

/* One entry of samples.prompts. ERR_FORMAT names the option. train_sample_deinit in every case. */
int train_sample_parse(TrainSample *s, const TrainConf *c, const char *line);
void train_sample_deinit(TrainSample *s);
/* ERR_*: a prompt that cannot be parsed, or whose size or sampler the model does not take. Before any work. */
int train_samples_check(const TrainConf *c);
/* 1 when samples are due after so many steps and not there yet (rank 0's view of the folder). */
int train_samples_due(const TrainConf *c, int64_t step);
/* Removes the samples of later steps: they are of a run that was given up. Rank 0. */
int train_samples_forget(const TrainConf *c, int64_t after);
/* Called on rank 0 with every finished image as a PNG. */
typedef void (*TrainSampleFn)(void *ctx, int index, const uint8_t *png, size_t size, int w, int h);
/* Renders all prompts from the values bound in t, shared among the ranks; rank 0 writes. Collective. */
int train_samples_run(TrainTask *t, int64_t step, TrainSampleFn fn, void *ctx);
#endif
