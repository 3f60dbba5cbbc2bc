/* Inside of the optimizer steps, between optim.c and the vector code. */
#ifndef CPU_OPTIM_H
#define CPU_OPTIM_H

#include <stdint.h>

/* decay = 1 - lr*wd; step_size = lr / (1 - beta1^t); root_v = sqrt(1 - beta2^t). */
typedef struct {
    float *p, *m, *v;
    const float *grad;
    float beta1, beta2, eps, grad_scale, decay, step_size, root_v;
} OptimArg;

#define OPTIM_DECLARE(isa)                                                        \
    void cpu_optim_adamw_flat_##isa(void *p, int64_t begin, int64_t end);         \
    double cpu_optim_sumsq_tile_##isa(const float *x, int64_t n)
OPTIM_DECLARE(base);
OPTIM_DECLARE(avx2);
OPTIM_DECLARE(avx512);

#endif
