/* Optimizer steps over flat host arrays: not graph ops, since they change parameters in place.
 * Implemented by cpu/optim*.c; on a device (ops/train.h) by kernels/optim.cu. Arrays are F32 unless said otherwise; grad_scale multiplies the gradient
 * first (clipping). Element-wise, or with sums in a fixed order: no result depends on threads. */
#ifndef OPS_OPTIM_H
#define OPS_OPTIM_H

#include <stdint.h>

#include "base/rng.h"
#include "ops/op.h"

typedef struct {
    float lr, beta1, beta2, eps, weight_decay;
    int64_t step;      /* 1 for the first step: bias correction */
    float grad_scale;  /* gradients are multiplied by this first (clipping) */
} OptimAdamw;

/* Decoupled weight decay as torch.optim.AdamW: p *= 1 - lr*wd; m,v moments; p -= lr/(1-b1^t) * m / (sqrt(v/(1-b2^t)) + eps).
 * p, m, v: F32 [n]; grad F32 [n]. Element-wise, so the result does not depend on threads. */
void cpu_optim_adamw(float *p, float *m, float *v, const float *grad, int64_t n, const OptimAdamw *o);
/* Each of p[n] becomes one of the two bf16 values around it (it stays where it is one), by chance in proportion to how near each is, so that
 * the mean is p: the low half of word i of the stream k is added to the bits of value i before they are cut. Infinities and NaNs stay.
 * (Stochastic rounding: Gupta et al., arXiv:1502.02551.) */
void cpu_optim_round_bf16(float *p, int64_t n, RngKey k);
/* Sum of squares in double, fixed tiles of 4096 elements summed in order. */
double cpu_optim_sumsq(const float *x, int64_t n);
/* Sum of x y and of |x| in double, in the same tiles and order. */
double cpu_optim_dot(const float *x, const float *y, int64_t n);
double cpu_optim_sumabs(const float *x, int64_t n);

/* ---- AdamW with 8-bit moments (Dettmers et al., arXiv:2110.02861; bitsandbytes' blockwise AdamW8bit) ---- */
enum { OPTIM_BLOCK = 256 };
static inline int64_t optim_blocks(int64_t n) { return (n + OPTIM_BLOCK - 1) / OPTIM_BLOCK; }
/* bitsandbytes.functional.create_dynamic_map: 256 rising values in -1..1 (is_signed) or 0..1. */
void optim_dynamic_map(float map[256], int is_signed);
/* One tensor. m8, v8 [n]: index of the nearest value of the signed and the unsigned map to moment / block maximum; m_max, v_max
 * [optim_blocks(n)]. All zero at the start. The moments of a step are used before they are rounded. */
void cpu_optim_adamw8(float *p, uint8_t *m8, float *m_max, uint8_t *v8, float *v_max, const float *grad, int64_t n, const OptimAdamw *o);

/* ---- Lion (Chen et al., arXiv:2302.06675, algorithm 2) ----
 * p *= 1 - lr*wd; p -= lr * sign(b1 m + (1-b1) g); m = b2 m + (1-b2) g. eps and step are not used. */
void cpu_optim_lion(float *p, float *m, const float *grad, int64_t n, const OptimAdamw *o);

/* ---- Adafactor (Shazeer and Stern, arXiv:1804.04235; transformers.optimization.Adafactor) ---- */
typedef struct {
    float lr;              /* alpha_t before scaling by the parameter's RMS */
    float beta1;           /* 0: no first moment */
    float decay_rate;      /* beta2_t = 1 - t^decay_rate, negative */
    float clip_threshold;
    float weight_decay;
    int scale_parameter;   /* lr *= max(1e-3, RMS(p)) */
    int64_t step;
    float grad_scale;
} OptimAdafactor;
/* One tensor of `shape`. At least two dimensions: row [all but the last], col [all but the last but one], v unused; else v [n], row and
 * col unused. m [n] or NULL (beta1 0). update [n]: scratch. */
void cpu_optim_adafactor(float *p, float *row, float *col, float *v, float *m, const float *grad, float *update, const Shape *shape,
                         const OptimAdafactor *o);

/* ---- Prodigy (Mishchenko and Defazio, arXiv:2306.06101, algorithm 4; prodigyopt.Prodigy) ---- */
typedef struct {
    double d, d_max, numerator; /* state: D-adaptation estimate; d = d_max = d0, numerator = 0 at the start */
    double d0, d_coef, growth;  /* growth 0: unlimited */
    int bias_correction, safeguard_warmup;
} OptimProdigy;
/* All tensors at once, as one flat array: p, p0 (initial values), s, m, v, grad [n]. While all of s is zero (no
 * gradient yet), p and d stay. */
void cpu_optim_prodigy(float *p, const float *p0, float *s, float *m, float *v, const float *grad, int64_t n, const OptimAdamw *o,
                       OptimProdigy *d);

/* Its parts, for a device: before the moments change, with grad.p0 and grad.p; before p changes, with the sum of |s|. adapt returns 0 when p
 * and d stay. m = m beta1 + moment g; v = v beta2 + square g^2; s = s beta3 + weight g; p = p decay - lr m / (sqrt(v) + eps). */
typedef struct {
    float scale, beta1, beta2, beta3, moment, square, weight; /* g = grad * scale */
    float lr, decay, eps;
    double numerator, rate;
} OptimProdigyStep;
void optim_prodigy_begin(OptimProdigyStep *s, const OptimAdamw *o, const OptimProdigy *d, double dot_p0, double dot_p);
int optim_prodigy_adapt(OptimProdigyStep *s, const OptimAdamw *o, OptimProdigy *d, double sumabs);

/* ---- Schedule-free AdamW (Defazio et al., arXiv:2405.15682, algorithm 1; schedulefree.AdamWScheduleFree) ----
 * p holds y while training. weight: c_{t+1}, see optim_schedulefree_weight. z starts as a copy of p, v as zero. */
void cpu_optim_schedulefree(float *p, float *z, float *v, const float *grad, int64_t n, const OptimAdamw *o, float weight);
/* Updates lr_max (-1 at the start) and weight_sum (0); returns c_{t+1} of step 1, 2, ... with this learning rate. */
double optim_schedulefree_weight(double lr, int64_t step, double r, double power, double *lr_max, double *weight_sum);
/* out[n] = x, the averaged weights: y + (1 - 1/beta1)(z - y). */
void cpu_optim_schedulefree_average(float *out, const float *y, const float *z, int64_t n, float beta1);

#endif
