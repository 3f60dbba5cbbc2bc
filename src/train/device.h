/* The training state in a device's memory: between checkpoints nothing of it is on the host. Trained values are where the graph reads them
 * (BackendTrain.adopt), gradients are added and the optimizer runs there. */
#ifndef TRAIN_DEVICE_H
#define TRAIN_DEVICE_H

#include "train/optimizer.h"
#include "train/task.h"

typedef struct TrainDevice TrainDevice;

/* NULL where the backend keeps its state on the host. The task has its executors, the state its values and arrays, nothing has run.
 * All borrowed. */
int train_device_create(TrainDevice **out, TrainTask *t, TrainState *s);
/* The ranks' devices find each other. Collective. */
int train_device_join(TrainDevice *d);
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
/* Runs the task's graph and adds its gradients. last: no other follows on this rank in this step; then with several ranks the sums over
 * them begin while the backward pass goes on. */
int train_device_run(TrainDevice *d, int last);
/* What was left out and what is too large (comm/exact.h), and the first slot with something left out. */
int train_device_counts(TrainDevice *d, int64_t *left_out, int64_t *large, int64_t *first_slot);
/* All sums over the ranks are there; drop: after a step that all ranks give up, what had begun is over. Collective. */
int train_device_sum(TrainDevice *d);
int train_device_drop(TrainDevice *d);
/* Gradients as floats, and their norm. */
int train_device_norm(TrainDevice *d, double *norm);
/* One step of the optimizer with the gradients times grad_scale, then the running average with ema_rate. */
int train_device_step(TrainDevice *d, TrainOptimizer *o, float grad_scale, float ema_rate);

/* ---- the one place where the gradients of all ranks meet ---- */

/* x [n] in the backend's memory is to become the sum over all ranks, part by part. Borrows all. */
typedef struct TrainReduce TrainReduce;
int train_reduce_create(TrainReduce **out, Backend *be, Comm *c, int64_t *x, int64_t n);
void train_reduce_destroy(TrainReduce *r); /* NULL is fine */
/* Before the first step: how sums are made, as comm_device_open says (how: CommDeviceHow). Collective. */
int train_reduce_join(TrainReduce *r, int how);
/* Whether sums begin before train_reduce_end. */
int train_reduce_is_early(const TrainReduce *r);
/* x[first .. first + count) will be this rank's final values once what is enqueued now is done. All ranks name the same parts in the same
 * order, in every step all of x. Waits for nobody. */
int train_reduce_begin(TrainReduce *r, int64_t first, int64_t count);
/* Waits until all of x is summed. Collective. */
int train_reduce_end(TrainReduce *r);

#endif
