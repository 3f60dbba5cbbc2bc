#include "train/optimizer.h"

#include <stdlib.h>
#include <string.h>

#include "nn/param.h"
#include "ops/optim.h"
#include "train/adapter.h"

typedef struct {
    const char *group;
    Dtype dtype;
    TrainCover cover;
} Need;

enum { NEEDS = 6 };
/* In the order in which step() below takes them. Adafactor's first moment stays empty with beta1 = 0, see needs(). */
static const Need needs_of[][NEEDS] = {
    [TRAIN_ADAMW] = {{"adam_m", DTYPE_F32, TRAIN_OF_ALL}, {"adam_v", DTYPE_F32, TRAIN_OF_ALL}},
    [TRAIN_ADAMW8] = {{"adam_m", DTYPE_F32, TRAIN_OF_SMALL}, {"adam_v", DTYPE_F32, TRAIN_OF_SMALL},
                      {"adam8_m", DTYPE_U8, TRAIN_OF_LARGE}, {"adam8_m_max", DTYPE_F32, TRAIN_OF_BLOCKS},
                      {"adam8_v", DTYPE_U8, TRAIN_OF_LARGE}, {"adam8_v_max", DTYPE_F32, TRAIN_OF_BLOCKS}},
    [TRAIN_LION] = {{"lion_m", DTYPE_F32, TRAIN_OF_ALL}},
    [TRAIN_ADAFACTOR] = {{"adafactor_row", DTYPE_F32, TRAIN_OF_ROWS}, {"adafactor_col", DTYPE_F32, TRAIN_OF_COLS},
                         {"adafactor_v", DTYPE_F32, TRAIN_OF_VECTORS}, {"adafactor_m", DTYPE_F32, TRAIN_OF_ALL}},
    [TRAIN_PRODIGY] = {{"prodigy_m", DTYPE_F32, TRAIN_OF_ALL}, {"prodigy_v", DTYPE_F32, TRAIN_OF_ALL},
                       {"prodigy_s", DTYPE_F32, TRAIN_OF_ALL}, {"prodigy_p0", DTYPE_F32, TRAIN_OF_ALL}},
    [TRAIN_SCHEDULEFREE] = {{"schedulefree_z", DTYPE_F32, TRAIN_OF_ALL}, {"schedulefree_v", DTYPE_F32, TRAIN_OF_ALL}},
};

static int needs(const TrainConf *c, const Need **out)
{
    int n = 0;
    *out = needs_of[c->optimizer.name];
    while (n < NEEDS && (*out)[n].group)
        n++;
    return c->optimizer.name == TRAIN_ADAFACTOR && !(c->optimizer.beta1 > 0) ? n - 1 : n;
}

double train_optimizer_bytes(const TrainConf *c, const Shape *shape)
{
    const Need *need;
    int n = needs(c, &need);
    TrainSlot t = {NULL, *shape, 0, shape_count(shape), DTYPE_F32};
    double bytes = (double)t.count * (c->optimizer.ema > 0 ? 8 : 4);
    for (int i = 0; i < n; i++) {
        Shape part;
        if (train_array_shape(need[i].cover, &t, &part))
            bytes += (double)shape_count(&part) * (double)dtype_size(need[i].dtype);
    }
    return bytes;
}

int train_optimizer_declare(const TrainConf *c, TrainState *s)
{
    const Need *need;
    int n = needs(c, &need);
    for (int i = 0; i < n; i++)
        TRY(train_state_array(s, need[i].group, need[i].dtype, need[i].cover));
    s->nnumber = c->optimizer.name == TRAIN_PRODIGY ? 3 : c->optimizer.name == TRAIN_SCHEDULEFREE ? 2 : 0;
    return 0;
}

/* ---- rates ---- */

/* text_encoder_lr, then lora.rules, then LoRA+ (the factors that start at zero), then the groups. */
static void rates(const TrainOptimConf *o, const TrainLoraConf *lora, const char *name, double *lr, float *decay)
{
    const TrainGroupConf *g = o->groups.items;
    const char *bare = strncmp(name, "lora.", 5) ? name : strchr(name + 5, '.') + 1; /* "lora.0.text_encoder...." */
    *lr = (double)o->lr;
    *decay = o->weight_decay;
    if (o->text_encoder_lr >= 0 && !strncmp(bare, "text_encoder.", 13))
        *lr = (double)o->text_encoder_lr;
    *lr = train_adapter_lr(lora, name, *lr);
    if (o->lora_plus > 0 && nn_glob("*.lora_B.weight|*.hada_w2_a|*.lokr_w2|*.lokr_w2_b", name))
        *lr *= (double)o->lora_plus;
    for (int k = 0; k < o->groups.count; k++)
        for (int i = 0; i < g[k].match.count; i++) {
            if (!nn_glob(g[k].match.items[i], name))
                continue;
            *lr = g[k].lr >= 0 ? (double)g[k].lr : (double)o->lr * (double)g[k].lr_scale;
            *decay = g[k].weight_decay >= 0 ? g[k].weight_decay : o->weight_decay;
            break;
        }
}

static int check_groups(const TrainOptimConf *o, const TrainState *s)
{
    const TrainGroupConf *g = o->groups.items;
    for (int k = 0; k < o->groups.count; k++)
        for (int i = 0; i < g[k].match.count; i++) {
            int hits = 0;
            for (int j = 0; j < s->count && !hits; j++)
                hits = nn_glob(g[k].match.items[i], s->slot[j].name);
            if (!hits)
                return err_set(ERR_NOTFOUND, "optimizer.groups.%d.match: '%s' matches none of the %d trained parameters, '%s' being one",
                               k, g[k].match.items[i], s->count, s->count ? s->slot[0].name : "");
        }
    return 0;
}

static int find_runs(TrainOptimizer *o, const TrainState *s)
{
    int each = o->c->optimizer.name == TRAIN_ADAMW8 || o->c->optimizer.name == TRAIN_ADAFACTOR; /* work tensor by tensor */
    o->run = malloc((size_t)(s->count + 1) * sizeof *o->run);
    if (!o->run)
        return err_set(ERR_NOMEM, "optimizer: out of memory");
    for (int i = 0; i < s->count; i++) {
        TrainRun r = {i, 1, 0, 0}, *last = o->nrun ? &o->run[o->nrun - 1] : NULL;
        rates(&o->c->optimizer, &o->c->lora, s->slot[i].name, &r.lr, &r.weight_decay);
        if (last && !each && last->lr == r.lr && last->weight_decay == r.weight_decay)
            last->count++;
        else
            o->run[o->nrun++] = r;
    }
    return 0;
}

int train_optimizer_init(TrainOptimizer *o, const TrainConf *c, TrainState *s)
{
    int64_t largest = 0;
    *o = (TrainOptimizer){.c = c};
    TRY(check_groups(&c->optimizer, s));
    TRY(find_runs(o, s));
    if (c->optimizer.name == TRAIN_PRODIGY) {
        memcpy(s->array[3].data, s->param, (size_t)s->n * sizeof(float));
        s->number[0] = s->number[1] = c->optimizer.prodigy.d0;
    } else if (c->optimizer.name == TRAIN_SCHEDULEFREE) {
        memcpy(s->array[0].data, s->param, (size_t)s->n * sizeof(float));
        s->number[0] = -1;
    } else if (c->optimizer.name == TRAIN_ADAFACTOR) {
        for (int i = 0; i < s->count; i++)
            largest = s->slot[i].count > largest ? s->slot[i].count : largest;
        o->scratch = malloc((size_t)largest * sizeof(float) + 1);
        if (!o->scratch)
            return err_set(ERR_NOMEM, "optimizer: out of memory");
    }
    return 0;
}

void train_optimizer_deinit(TrainOptimizer *o)
{
    free(o->run);
    free(o->scratch);
    o->run = NULL;
    o->scratch = NULL;
}

/* ---- a step ---- */

static void step_adamw8(const TrainState *s, int slot, const float *grad, const OptimAdamw *a)
{
    const TrainSlot *t = &s->slot[slot];
    void *part[NEEDS];
    for (int k = 0; k < NEEDS; k++)
        part[k] = train_array_slot(&s->array[k], slot);
    if (part[0])
        cpu_optim_adamw(s->param + t->offset, part[0], part[1], grad, t->count, a);
    else
        cpu_optim_adamw8(s->param + t->offset, part[2], part[3], part[4], part[5], grad, t->count, a);
}

OptimAdafactor train_optimizer_adafactor(const TrainOptimizer *o, const OptimAdamw *a)
{
    const TrainAdafactorConf *f = &o->c->optimizer.adafactor;
    return (OptimAdafactor){a->lr, a->beta1, f->decay_rate, f->clip_threshold, a->weight_decay, f->scale_parameter, a->step, a->grad_scale};
}

static void step_adafactor(const TrainOptimizer *o, const TrainState *s, int slot, const float *grad, const OptimAdamw *a)
{
    const TrainSlot *t = &s->slot[slot];
    OptimAdafactor x = train_optimizer_adafactor(o, a);
    cpu_optim_adafactor(s->param + t->offset, train_array_slot(&s->array[0], slot), train_array_slot(&s->array[1], slot),
                        train_array_slot(&s->array[2], slot), s->narray > 3 ? train_array_slot(&s->array[3], slot) : NULL, grad,
                        o->scratch, &t->shape, &x);
}

OptimProdigy train_optimizer_prodigy(const TrainOptimizer *o, const TrainState *s)
{
    const TrainProdigyConf *p = &o->c->optimizer.prodigy;
    return (OptimProdigy){s->number[0], s->number[1], s->number[2], p->d0, p->d_coef, p->growth_rate, p->bias_correction, p->safeguard_warmup};
}

void train_optimizer_keep_prodigy(TrainState *s, const OptimProdigy *d)
{
    s->number[0] = d->d;
    s->number[1] = d->d_max;
    s->number[2] = d->numerator;
}

static void step_prodigy(const TrainOptimizer *o, TrainState *s, const float *grad, const OptimAdamw *a)
{
    OptimProdigy d = train_optimizer_prodigy(o, s);
    cpu_optim_prodigy(s->param, s->array[3].data, s->array[2].data, s->array[0].data, s->array[1].data, grad, s->n, a, &d);
    train_optimizer_keep_prodigy(s, &d);
}

/* One average for all: its weights follow from the main rate. */
static float free_weight(const TrainOptimizer *o, TrainState *s, int64_t step)
{
    const TrainScheduleFreeConf *f = &o->c->optimizer.schedulefree;
    return (float)optim_schedulefree_weight((double)train_conf_lr(o->c, s->step), step, f->r, f->weight_lr_power, &s->number[0],
                                            &s->number[1]);
}

static void step_run(const TrainOptimizer *o, TrainState *s, const TrainRun *r, const float *grad, const OptimAdamw *a, float weight)
{
    const TrainSlot *from = &s->slot[r->first], *last = &s->slot[r->first + r->count - 1];
    int64_t at = from->offset, n = last->offset + last->count - at;
    float *p = s->param + at, *x = train_array_slot(&s->array[0], r->first);
    float *y = s->narray > 1 ? train_array_slot(&s->array[1], r->first) : NULL;
    switch (o->c->optimizer.name) {
    case TRAIN_ADAMW8:
        step_adamw8(s, r->first, grad + at, a);
        break;
    case TRAIN_ADAFACTOR:
        step_adafactor(o, s, r->first, grad + at, a);
        break;
    case TRAIN_LION:
        cpu_optim_lion(p, x, grad + at, n, a);
        break;
    case TRAIN_SCHEDULEFREE:
        cpu_optim_schedulefree(p, x, y, grad + at, n, a, weight);
        break;
    default:
        cpu_optim_adamw(p, x, y, grad + at, n, a);
    }
}

void train_optimizer_terms(const TrainOptimizer *o, TrainState *s, float grad_scale, OptimAdamw *a, float *weight)
{
    const TrainOptimConf *c = &o->c->optimizer;
    *a = (OptimAdamw){.beta1 = c->beta1, .beta2 = c->beta2, .eps = c->eps, .step = s->step + 1 - s->skipped, .grad_scale = grad_scale};
    *weight = c->name == TRAIN_SCHEDULEFREE ? free_weight(o, s, a->step) : 0;
    if (c->name == TRAIN_PRODIGY) { /* one rate for all */
        a->lr = train_conf_lr(o->c, s->step);
        a->weight_decay = c->weight_decay;
    }
}

static RngKey round_key(const TrainOptimizer *o, const TrainState *s, int slot)
{
    return rng_key(o->c->seed, RNG_ROUND, (uint64_t)slot, (uint64_t)s->step);
}

void train_optimizer_rates(const TrainOptimizer *o, const TrainState *s, OptimRate *rate)
{
    for (int i = 0; i < o->nrun; i++) {
        const TrainRun *r = &o->run[i];
        float lr = train_conf_lr_of(o->c, r->lr, s->step);
        for (int k = r->first; k < r->first + r->count; k++)
            rate[k] = (OptimRate){lr, r->weight_decay, round_key(o, s, k)};
    }
}

void train_optimizer_step(TrainOptimizer *o, TrainState *s, const float *grad, float grad_scale)
{
    OptimAdamw a;
    float weight;
    train_optimizer_terms(o, s, grad_scale, &a, &weight);
    if (o->c->optimizer.name == TRAIN_PRODIGY) {
        step_prodigy(o, s, grad, &a);
        return;
    }
    for (int i = 0; i < o->nrun; i++) {
        a.lr = train_conf_lr_of(o->c, o->run[i].lr, s->step);
        a.weight_decay = o->run[i].weight_decay;
        step_run(o, s, &o->run[i], grad, &a, weight);
    }
    for (int i = 0; i < s->count; i++)
        if (s->slot[i].dtype == DTYPE_BF16)
            cpu_optim_round_bf16(s->param + s->slot[i].offset, s->slot[i].count, round_key(o, s, i));
}

void train_optimizer_average(TrainState *s, float rate)
{
    for (int64_t i = 0; s->ema && i < s->n; i++)
        s->ema[i] += rate * (s->param[i] - s->ema[i]);
}

int train_optimizer_averages(const TrainState *s, const TrainConf *c)
{
    return s->ema || c->optimizer.name == TRAIN_SCHEDULEFREE;
}

const float *train_optimizer_values(const TrainState *s, const TrainConf *c, float *buffer)
{
    if (c->optimizer.name == TRAIN_SCHEDULEFREE) {
        cpu_optim_schedulefree_average(buffer, s->param, s->array[0].data, s->n, c->optimizer.beta1);
        return buffer;
    }
    return s->ema ? s->ema : s->param;
}
