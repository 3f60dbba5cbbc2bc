/* What people look at while and after a run trains: TensorBoard's event files, OUT/loss.png, OUT/report.html. For rank 0. Nothing here can
 * stop a training: what cannot be written is a warning. */
#ifndef TRAIN_WATCH_H
#define TRAIN_WATCH_H

#include "train/step.h"

typedef struct TrainWatch TrainWatch;

/* NULL where neither tensorboard nor report is wanted; all functions take NULL. Borrows c and config (the resolved YAML). */
TrainWatch *train_watch_create(const TrainConf *c, const char *config, int64_t step);
void train_watch_destroy(TrainWatch *w);
/* After a step. rate: images per second. */
void train_watch_step(TrainWatch *w, const TrainStep *p, double rate);
void train_watch_validation(TrainWatch *w, int64_t step, double loss);
/* A TrainSampleFn; ctx is the TrainWatch. */
void train_watch_sample(void *w, int index, const uint8_t *png, size_t size, int width, int height);
/* The step that train_watch_sample counts for. */
void train_watch_at(TrainWatch *w, int64_t step);
/* At the end. seconds: wall time since create; ranks. */
void train_watch_report(TrainWatch *w, const TrainStep *p, const TrainTask *t, double seconds);

/* ---- report.c ---- */
int train_report_write(const TrainConf *c, const char *config, const TrainStep *p, const TrainTask *t, int64_t first, double seconds);

#endif
