/* Noise, timesteps, targets and weights of the diffusion loss: kohya's trainers' formulas (sd-scripts, library/custom_train_functions.py and
 * train_util.py), per sample. Everything drawn is a function of (seed, position). Latents are [h,w,c], channels last. */
#ifndef TRAIN_NOISE_H
#define TRAIN_NOISE_H

#include "ops/train.h"
#include "sampler/schedule.h"
#include "train/conf.h"

typedef struct {
    const TrainNoiseConf *noise;
    const TrainLossConf *loss;
    const double *alpha_bar;  /* [steps]; not used for flow */
    int steps;
    int flow;                 /* x_t = (1 - s) x_0 + s noise, target noise - x_0, s = time / steps */
    SamplerPredict predict;   /* where not flow */
} TrainNoise;

/* Timestep of a position: uniform over timestep_min..timestep_max-1 (whole numbers), or by distribution and shift; flow: real. */
double train_noise_time(const TrainNoise *t, uint64_t seed, int64_t position);
/* x: scaled x_0 -> x_t. target: what the network is to give. work[n]: scratch. All [h*w*c]. */
void train_noise_apply(const TrainNoise *t, uint64_t seed, int64_t position, double time, float *x, float *target, float *work, int h,
                       int w, int c);
/* Scaled x_0 = scaling (mean + exp(logvar / 2) draw - shift) of a position. moments [h*w][2c]: mean, log-variance; draw[n]: scratch. */
void train_noise_latent(uint64_t seed, int64_t position, const float *moments, float shift, float scaling, float *x, float *draw, int64_t n,
                        int c);
/* Product of the weights: min-SNR, debiased, ..., flow_weighting. */
double train_noise_weight(const TrainNoise *t, double time);
/* c of the Huber losses. */
double train_noise_huber(const TrainNoise *t, double time);

/* ---- the same on a device, for a micro-batch ---- */
typedef struct TrainNoiseDevice TrainNoiseDevice;
/* For up to `items` samples of up to `most` values. NULL where the backend has no such kernel, or for what only the host does:
 * multires noise and the adaptive offset. Borrows t. */
int train_noise_device_create(TrainNoiseDevice **out, Backend *be, const TrainNoise *t, int items, int64_t most);
void train_noise_device_destroy(TrainNoiseDevice *d); /* NULL is fine */
/* train_noise_latent and train_noise_apply of all items into x and target on the device: the same bits. */
typedef struct {
    uint64_t seed;
    const int64_t *position; /* [items] */
    const double *time;      /* [items] */
    const float *moments;    /* [items][count / c][2c], on the host */
    float shift, scaling;
    int items, c;
    int64_t count;
} TrainNoiseBatch;
int train_noise_device_apply(TrainNoiseDevice *d, const TrainNoiseBatch *b, void *x, void *target, Dtype dtype);

/* ---- the parts, with their random numbers given ---- */
/* noise += (strength + adaptive * |mean of x's channel|, at least 0) * normal[channel] */
void train_noise_offset(float *noise, const float *x, const float *normal, double strength, double adaptive, int h, int w, int c);
/* noise += factor * level[lh,lw,c] enlarged bilinearly (torch's Upsample, align_corners=False). */
void train_noise_level(float *noise, int h, int w, int c, const float *level, int lh, int lw, double factor);
/* Divided by its standard deviation (n - 1). */
void train_noise_unit(float *noise, int64_t n);
/* x_0, noise -> x_t, target. extra[n] or NULL: gamma * extra is added to the noise of x_t alone. */
void train_noise_mix(const TrainNoise *t, double time, float *x, float *noise, const float *extra, double gamma, int64_t n);

/* The terms of a sample for a device. */
void train_noise_sample(const TrainNoise *t, uint64_t seed, int64_t position, double time, NoiseSample *out);

#endif
