#include <stdlib.h>
#include <string.h>

#include "train/noise.h"

struct TrainNoiseDevice {
    Backend *be;
    const TrainNoise *t;
    float *moments;       /* [items][2 most] */
    void *room;
    NoiseSample *sample;  /* [items] */
};

int train_noise_device_create(TrainNoiseDevice **out, Backend *be, const TrainNoise *t, int items, int64_t most)
{
    const TrainNoiseConf *n = t->noise;
    void *p;
    *out = NULL;
    if (!be->train || n->multires_iterations || (n->offset > 0 && n->offset_adaptive != 0) || items > NOISE_SAMPLES)
        return 0;
    TrainNoiseDevice *d = calloc(1, sizeof *d);
    if (!d)
        return err_set(ERR_NOMEM, "noise: out of memory");
    d->be = be;
    d->t = t;
    d->sample = malloc((size_t)items * sizeof *d->sample);
    int rc = d->sample ? be->alloc(be, &p, (size_t)(2 * most * items) * sizeof(float)) : err_set(ERR_NOMEM, "noise: out of memory");
    if (rc >= 0) {
        d->moments = p;
        rc = be->alloc(be, &d->room, (size_t)items * sizeof *d->sample);
    }
    if (rc < 0) {
        train_noise_device_destroy(d);
        return rc;
    }
    *out = d;
    return 0;
}

void train_noise_device_destroy(TrainNoiseDevice *d)
{
    if (!d)
        return;
    if (d->moments)
        d->be->free(d->be, d->moments, 0);
    if (d->room)
        d->be->free(d->be, d->room, 0);
    free(d->sample);
    free(d);
}

int train_noise_device_apply(TrainNoiseDevice *d, const TrainNoiseBatch *b, void *x, void *target, Dtype dtype)
{
    static const NoiseTarget kinds[] = {[SAMPLER_PREDICT_EPSILON] = NOISE_TARGET_NOISE, [SAMPLER_PREDICT_V] = NOISE_TARGET_V,
                                        [SAMPLER_PREDICT_SAMPLE] = NOISE_TARGET_SAMPLE};
    NoiseStep s = {.sample = d->sample, .moments = d->moments, .room = d->room, .x = x, .target = target, .dtype = dtype};
    for (int j = 0; j < b->items; j++)
        train_noise_sample(d->t, b->seed, b->position[j], b->time[j], &d->sample[j]);
    TRY(d->be->upload(d->be, d->moments, b->moments, (size_t)(2 * b->count * b->items) * sizeof(float)));
    s.items = b->items;
    s.count = b->count;
    s.c = b->c;
    s.shift = b->shift;
    s.scaling = b->scaling;
    s.kind = d->t->flow ? NOISE_TARGET_FLOW : kinds[d->t->predict];
    return d->be->train->noise(d->be, &s);
}
