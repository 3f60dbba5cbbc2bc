/* Optimizers whose steps are plain loops: they take a small share of a step, so one portable form serves every CPU. */
#include <math.h>
#include <omp.h>

#include "cpu/parallel.h"
#include "ops/optim.h"

static Backend team(void)
{
    return (Backend){.threads = omp_get_max_threads()};
}

/* ---- Lion ---- */

typedef struct {
    float *p, *m, *z, *v, *out;
    const float *grad, *y, *end;
    float beta1, beta2, eps, scale, decay, lr;
    float denominator, weight, pull;
} Flat;

static void lion_flat(void *ctx, int64_t begin, int64_t end)
{
    const Flat *a = ctx;
    for (int64_t i = begin; i < end; i++) {
        float g = a->grad[i] * a->scale, u = a->beta1 * a->m[i] + (1 - a->beta1) * g;
        float sign = (float)((u > 0) - (u < 0));
        a->p[i] = a->p[i] * a->decay - a->lr * sign;
        a->m[i] = a->m[i] * a->beta2 + (1 - a->beta2) * g;
    }
}

void cpu_optim_lion(float *p, float *m, const float *grad, int64_t n, const OptimAdamw *o)
{
    Flat a = {.p = p, .m = m, .grad = grad, .beta1 = o->beta1, .beta2 = o->beta2, .scale = o->grad_scale, .lr = o->lr};
    a.decay = (float)(1 - (double)o->lr * (double)o->weight_decay);
    Backend be = team();
    cpu_parallel_flat(&be, n, 20, lion_flat, &a);
}

/* ---- Prodigy ---- */

void optim_prodigy_begin(OptimProdigyStep *s, const OptimAdamw *o, const OptimProdigy *d, double dot_p0, double dot_p)
{
    double b1 = (double)o->beta1, b2 = (double)o->beta2, b3 = sqrt(b2), t = (double)o->step;
    double correction = d->bias_correction ? sqrt(1 - pow(b2, t)) / (1 - pow(b1, t)) : 1;
    double dlr = d->d * (double)o->lr * correction, pull = d->d / d->d0 * dlr;
    *s = (OptimProdigyStep){.scale = o->grad_scale, .beta1 = o->beta1, .beta2 = o->beta2, .beta3 = (float)b3, .rate = dlr};
    s->numerator = d->numerator * b3 + pull * ((double)o->grad_scale * (dot_p0 - dot_p));
    s->moment = (float)(d->d * (1 - b1));
    s->square = (float)(d->d * d->d * (1 - b2));
    s->weight = (float)(d->safeguard_warmup ? d->d / d->d0 * d->d : pull);
}

int optim_prodigy_adapt(OptimProdigyStep *s, const OptimAdamw *o, OptimProdigy *d, double sumabs)
{
    if (!(sumabs > 0))
        return 0;
    if (o->lr > 0) {
        double hat = d->d_coef * s->numerator / sumabs;
        if (d->d == d->d0 && hat > d->d)
            d->d = hat;
        if (hat > d->d_max)
            d->d_max = hat;
        d->d = d->growth > 0 && d->d * d->growth < d->d_max ? d->d * d->growth : d->d_max;
    }
    d->numerator = s->numerator;
    s->lr = (float)s->rate;
    s->decay = (float)(1 - (double)o->weight_decay * s->rate);
    s->eps = (float)(d->d * (double)o->eps);
    return 1;
}

typedef struct {
    float *p, *m, *v, *s;
    const float *grad;
    OptimProdigyStep step;
} Prodigy;

static void prodigy_moments(void *ctx, int64_t begin, int64_t end)
{
    const Prodigy *a = ctx;
    const OptimProdigyStep *k = &a->step;
    for (int64_t i = begin; i < end; i++) {
        float g = a->grad[i] * k->scale;
        a->m[i] = a->m[i] * k->beta1 + k->moment * g;
        a->v[i] = a->v[i] * k->beta2 + k->square * (g * g);
        a->s[i] = a->s[i] * k->beta3 + k->weight * g;
    }
}

static void prodigy_update(void *ctx, int64_t begin, int64_t end)
{
    const Prodigy *a = ctx;
    for (int64_t i = begin; i < end; i++)
        a->p[i] = a->p[i] * a->step.decay - a->step.lr * (a->m[i] / (sqrtf(a->v[i]) + a->step.eps));
}

void cpu_optim_prodigy(float *p, const float *p0, float *s, float *m, float *v, const float *grad, int64_t n, const OptimAdamw *o,
                       OptimProdigy *d)
{
    Prodigy a = {.p = p, .m = m, .v = v, .s = s, .grad = grad};
    Backend be = team();
    optim_prodigy_begin(&a.step, o, d, cpu_optim_dot(grad, p0, n), cpu_optim_dot(grad, p, n));
    cpu_parallel_flat(&be, n, 28, prodigy_moments, &a);
    if (optim_prodigy_adapt(&a.step, o, d, cpu_optim_sumabs(s, n)))
        cpu_parallel_flat(&be, n, 16, prodigy_update, &a);
}

/* ---- schedule-free ---- */

double optim_schedulefree_weight(double lr, int64_t step, double r, double power, double *lr_max, double *weight_sum)
{
    *lr_max = lr > *lr_max ? lr : *lr_max;
    double weight = pow((double)step, r) * pow(*lr_max, power);
    *weight_sum += weight;
    return *weight_sum > 0 ? weight / *weight_sum : 0;
}

static void free_flat(void *ctx, int64_t begin, int64_t end)
{
    const Flat *a = ctx;
    for (int64_t i = begin; i < end; i++) {
        float g = a->grad[i] * a->scale, y = a->p[i], z = a->z[i];
        a->v[i] = a->v[i] * a->beta2 + (1 - a->beta2) * (g * g);
        float u = g / (sqrtf(a->v[i] / a->denominator) + a->eps) + a->decay * y;
        a->p[i] = y + a->weight * (z - y) + a->pull * u;
        a->z[i] = z - a->lr * u;
    }
}

void cpu_optim_schedulefree(float *p, float *z, float *v, const float *grad, int64_t n, const OptimAdamw *o, float weight)
{
    Flat a = {.p = p, .z = z, .v = v, .grad = grad, .beta2 = o->beta2, .eps = o->eps, .scale = o->grad_scale, .lr = o->lr};
    a.decay = o->weight_decay;
    a.weight = weight;
    a.pull = (float)((double)o->lr * ((double)o->beta1 * (1 - (double)weight) - 1));
    a.denominator = (float)(1 - pow((double)o->beta2, (double)o->step));
    Backend be = team();
    cpu_parallel_flat(&be, n, 28, free_flat, &a);
}

static void average_flat(void *ctx, int64_t begin, int64_t end)
{
    const Flat *a = ctx;
    for (int64_t i = begin; i < end; i++)
        a->out[i] = a->y[i] + a->weight * (a->end[i] - a->y[i]);
}

void cpu_optim_schedulefree_average(float *out, const float *y, const float *z, int64_t n, float beta1)
{
    Flat a = {.out = out, .y = y, .end = z, .weight = (float)(1 - 1 / (double)beta1)};
    Backend be = team();
    cpu_parallel_flat(&be, n, 12, average_flat, &a);
}
