/* The training state in a device's memory: between checkpoints nothing of it is on the host. Trained values are where the graph reads them
 * (BackendTrain.adopt), gradients are added and the optimizer runs there. Adafactor and Prodigy run on the host: their gradients come
 * down and the new values go up in every step. */
#ifndef TRAIN_DEVICE_H
#define TRAIN_DEVICE_H

#include "train/optimizer.h"
#include "train/task.h"

typedef struct TrainDevice TrainDevice;

/* NULL where the backend keeps its state on the host. The task has its executors, the state its values and arrays, nothing has run.
 * All borrowed. */
int train_device_create(TrainDevice **out, TrainTask *t, TrainState *s);
/* While the task's executors are there still. NULL is fine. */
void train_device_destroy(TrainDevice *d);
/* The host's state is the newer one: up with all of it. */
int train_device_upload(TrainDevice *d);
/* Other values for the graph: [n], from the host. */
int train_device_show(TrainDevice *d, const float *values);
/* The state on the host as it is on the device: values alone, or everything. Copies only what is older. */
int train_device_fetch_values(TrainDevice *d);
int train_device_fetch(TrainDevice *d);

/* ---- a step ---- */
int train_device_begin(TrainDevice *d);
/* The gradients of the run that was made last. last: no other follows on this rank. */
int train_device_add(TrainDevice *d, int last);
/* What was left out and what is too large (comm/exact.h), and the first slot with something left out. */
int train_device_counts(TrainDevice *d, int64_t *left_out, int64_t *large, int64_t *first_slot);
/* Sums over all ranks. Collective. */
int train_device_sum(TrainDevice *d);
/* Gradients as floats, and their norm. */
int train_device_norm(TrainDevice *d, double *norm);
/* One step of the optimizer with the gradients times grad_scale, then the running average with ema_rate. grad[n]: scratch on the host. */
int train_device_step(TrainDevice *d, TrainOptimizer *o, float *grad, float grad_scale, float ema_rate);

/* The one place where the gradients of all ranks meet. In place; x [n] is in the backend's memory; stage [TRAIN_STAGE]: the caller's, on the
 * host. Collective. */
enum { TRAIN_STAGE = 1 << 20 };
int train_device_reduce(Backend *be, Comm *c, int64_t *x, int64_t n, int64_t *stage);

#endif
