/* How fast this machine works, for estimates of time. Inside the room. */
#ifndef SWEEP_PLAN_RATE_H
#define SWEEP_PLAN_RATE_H

#include "ops/op.h"

/* Operations per second of whole networks: measured on one convolution for a quarter of a second, of which networks reach about 85 %. */
int sweep_rate_measure(double *rate, Dtype dtype, int threads);
/* Mean seconds per image in an earlier run.h5 of this folder; 0 when there is none. */
int sweep_rate_previous(double *seconds, int64_t *images, const char *output);

#endif
