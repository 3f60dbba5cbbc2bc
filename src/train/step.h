/* One step of the optimizer: forward and backward over this rank's micro-batches, exact sum over all, clipping, the
 * optimizer.
 *
 * Step s trains on global positions s*batch .. s*batch + batch - 1, cut into batch/micro_batch micro-batches; rank r computes
 * those whose number modulo the ranks is r. Gradients and losses are added as integers (comm/exact.h), so neither ranks nor
 * order change a bit of the sum; the optimizer then runs alike on every rank. */
#ifndef TRAIN_STEP_H
#define TRAIN_STEP_H

#include "comm/guard.h"
#include "train/device.h"
#include "train/optimizer.h"
#include "train/state.h"
#include "train/task.h"

typedef enum { TRAIN_PHASE_DATA, TRAIN_PHASE_COMPUTE, TRAIN_PHASE_COMM, TRAIN_PHASE_UPDATE, TRAIN_PHASES } TrainPhase;

/* What the ranks of a run can be about, for comm/guard.h. */
enum { TRAIN_AT_START, TRAIN_AT_JOIN, TRAIN_AT_MICRO, TRAIN_AT_SUM, TRAIN_AT_LOOK, TRAIN_AT_END_OF_STEP, TRAIN_AT_CHECKPOINT, TRAIN_AT_END, TRAIN_PLACES };
extern const CommPlace train_places[TRAIN_PLACES];

typedef struct {
    TrainTask *task;   /* borrowed, as is the state */
    TrainState *state;
    TrainOptimizer optimizer;
    TrainDevice *device; /* where the state lives while steps are made; NULL: in `state` itself */
    int64_t *sum;      /* [n]: gradients; NULL with a device */
    int64_t *tail;     /* [1 + 2*nset], after sum: the loss, the losses of each dataset, its samples */
    float *grad;       /* [n]: of the last step, before clipping; with a device: scratch */
    float *loss;       /* [micro_batch] */
    double norm;       /* of grad */
    int64_t bad_slot;  /* first slot with a gradient that is not finite, on this rank; count: none */
    int nset;          /* datasets, class images last */
    float *set_loss;   /* [nset]: of the last step, each over its own samples; NaN without any */
    double seconds[TRAIN_PHASES]; /* this rank's, since the start */
    int skips;         /* steps in a row without a finite gradient */
} TrainStep;

/* Makes the task's executor and the state: one slot per trained parameter, with its present values. The task is open and has its
 * parameters. Call train_step_deinit in every case. */
int train_step_init(TrainStep *p, TrainTask *task, TrainState *state);
void train_step_deinit(TrainStep *p);
/* Of what the ranks need to add their gradients. Collective. */
int train_step_join(TrainStep *p);
/* Takes the state's values into the model: before the first step, and after they were changed from outside (resume). */
int train_step_sync(TrainStep *p);
/* The state on the host as it is after the last step. */
int train_step_fetch(TrainStep *p);
/* Puts other values [n], or the state's own, into the model, on the host and where it runs. The state is fetched. */
int train_step_show(TrainStep *p, const float *values);
/* Collective. Appends the step's loss to the state (NaN for a skipped step). ERR_NUMERIC after
 * optimizer.max_skips skipped steps in a row. */
int train_step_run(TrainStep *p);

#endif
