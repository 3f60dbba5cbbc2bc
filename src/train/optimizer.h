/* The optimizer of a run: which arrays it keeps in the state, the rates of each slot, one step. Runs alike on every rank. */
#ifndef TRAIN_OPTIMIZER_H
#define TRAIN_OPTIMIZER_H

#include "ops/train.h"
#include "train/state.h"

/* Neighbouring slots with the same rates. */
typedef struct {
    int first, count;    /* slots */
    double lr;           /* peak */
    float weight_decay;
} TrainRun;

typedef struct {
    const TrainConf *c;  /* borrowed */
    TrainRun *run;
    int nrun;
    float *scratch;      /* adafactor: [largest slot] */
} TrainOptimizer;

/* Bytes of the optimizer's arrays for a tensor, with its values and the running average. */
double train_optimizer_bytes(const TrainConf *c, const Shape *shape);
/* Declares the arrays (between train_state_add and train_state_alloc). */
int train_optimizer_declare(const TrainConf *c, TrainState *s);
/* After the state has its values: initial values of the arrays, rates by group. ERR_NOTFOUND names a pattern of optimizer.groups that
 * matches nothing; ERR_RANGE. Call train_optimizer_deinit in every case. */
int train_optimizer_init(TrainOptimizer *o, const TrainConf *c, TrainState *s);
void train_optimizer_deinit(TrainOptimizer *o);
/* The step number s->step + 1 (skipped ones do not count): changes param and the arrays, not ema. */
void train_optimizer_step(TrainOptimizer *o, TrainState *s, const float *grad, float grad_scale);
/* Of that step: what all slots share (weight: schedulefree's; changes its numbers, so once per step; lr and weight_decay: Prodigy's), and
 * the rates of each. */
void train_optimizer_terms(const TrainOptimizer *o, TrainState *s, float grad_scale, OptimAdamw *a, float *weight);
/* Adafactor's step of a slot with the rates of a. */
OptimAdafactor train_optimizer_adafactor(const TrainOptimizer *o, const OptimAdamw *a);
/* Prodigy's estimates, from the state's numbers and back. */
OptimProdigy train_optimizer_prodigy(const TrainOptimizer *o, const TrainState *s);
void train_optimizer_keep_prodigy(TrainState *s, const OptimProdigy *d);
void train_optimizer_rates(const TrainOptimizer *o, const TrainState *s, OptimRate *rate);
/* ema += rate (param - ema), where there is one. */
void train_optimizer_average(TrainState *s, float rate);
/* Whether the values that stand for the run are others than those that are trained. */
int train_optimizer_averages(const TrainState *s, const TrainConf *c);
/* The values that stand for the run: the running average, schedulefree's average (computed into buffer[n]) or the weights. Borrowed. */
const float *train_optimizer_values(const TrainState *s, const TrainConf *c, float *buffer);

#endif
