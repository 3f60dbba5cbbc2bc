/* Optimizer steps over flat host arrays: not graph ops, since they change parameters in place.
 * Implemented by cpu/optim.simd.c (cpu_optim_adamw) and later by kernels/optim.cu. */
#ifndef OPS_OPTIM_H
#define OPS_OPTIM_H

#include <stdint.h>

typedef struct {
    float lr, beta1, beta2, eps, weight_decay;
    int64_t step;      /* 1 for the first step: bias correction */
    float grad_scale;  /* gradients are multiplied by this first (clipping) */
} OptimAdamw;

/* Decoupled weight decay as torch.optim.AdamW: p *= 1 - lr*wd; m,v moments; p -= lr/(1-b1^t) * m / (sqrt(v/(1-b2^t)) + eps).
 * p, m, v: F32 [n]; grad F32 [n]. Element-wise, so the result does not depend on threads. */
void cpu_optim_adamw(float *p, float *m, float *v, const float *grad, int64_t n, const OptimAdamw *o);
/* Sum of squares in double, fixed tiles of 4096 elements summed in order. */
double cpu_optim_sumsq(const float *x, int64_t n);

#endif
