#include <math.h>

#include "train/conf.h"

static const char *const optim_names[] = {"adamw", "adamw8bit", "lion", "adafactor", "prodigy", "schedulefree", NULL};
static const char *const schedule_names[] = {"constant",   "linear",       "cosine", "cosine_restarts",
                                             "polynomial", "inverse_sqrt", "wsd",    "rex", NULL};
static const char *const weight_names[] = {"f32", "bf16", NULL};
static const char *const decay_names[] = {"cosine", "linear", "sqrt", NULL};

static const ConfField group_fields[] = {
    CONF_STRS(TrainGroupConf, match, NULL, 1, 1000, "patterns of trained parameters: '*down_blocks.0.*', 'lora*text_encoder*', '*.lora_B.weight'"),
    CONF_F32(TrainGroupConf, lr, "-1", -1, 10, "their peak learning rate (-1: lr_scale times optimizer.lr; 0: they stay)"),
    CONF_F32(TrainGroupConf, lr_scale, "1", 0, 1e6, "their learning rate as a multiple of optimizer.lr"),
    CONF_F32(TrainGroupConf, weight_decay, "-1", -1, 1, "their weight decay (-1: optimizer.weight_decay)"),
};
static const ConfTable group_table = CONF_TABLE(TrainGroupConf, group_fields);

static const ConfField adafactor_fields[] = {
    CONF_BOOL(TrainAdafactorConf, relative_step, "true", "the learning rate follows from the step: min(1e-2, 1/sqrt(step)); lr is not used"),
    CONF_BOOL(TrainAdafactorConf, scale_parameter, "true", "the learning rate is scaled by each tensor's root mean square"),
    CONF_BOOL(TrainAdafactorConf, warmup_init, "false", "relative_step begins as 1e-6 * step"),
    CONF_F32(TrainAdafactorConf, clip_threshold, "1", 1e-6, 1e6, "largest root mean square of an update"),
    CONF_F32(TrainAdafactorConf, decay_rate, "-0.8", -1, 0, "decay of the second moment is 1 - step^decay_rate"),
};
static const ConfTable adafactor_table = CONF_TABLE(TrainAdafactorConf, adafactor_fields);

static const ConfField prodigy_fields[] = {
    CONF_F64(TrainProdigyConf, d0, "1e-6", 1e-30, 1, "first estimate of the distance to the solution"),
    CONF_F64(TrainProdigyConf, d_coef, "1", 1e-6, 1e6, "factor on the estimate: smaller learns more slowly"),
    CONF_F64(TrainProdigyConf, growth_rate, "0", 0, 1e9, "the estimate grows at most by this factor per step; 0: no limit"),
    CONF_BOOL(TrainProdigyConf, bias_correction, "false", "Adam's bias correction"),
    CONF_BOOL(TrainProdigyConf, safeguard_warmup, "false", "keeps the estimate from growing through a warm-up of lr"),
};
static const ConfTable prodigy_table = CONF_TABLE(TrainProdigyConf, prodigy_fields);

static const ConfField schedulefree_fields[] = {
    CONF_F64(TrainScheduleFreeConf, r, "0", 0, 100, "weight of step k in the average: k^r lr^weight_lr_power"),
    CONF_F64(TrainScheduleFreeConf, weight_lr_power, "2", 0, 100, "see r"),
};
static const ConfTable schedulefree_table = CONF_TABLE(TrainScheduleFreeConf, schedulefree_fields);

static const ConfField optim_fields[] = {
    CONF_ENUM(TrainOptimConf, name, "adamw", optim_names,
              "adamw, adamw8bit (moments in 8 bits), lion, adafactor, prodigy (finds the learning rate), schedulefree (AdamW)"),
    CONF_F32(TrainOptimConf, lr, "-1", -1, 10, "peak learning rate (-1: 1e-4; prodigy: 1)"),
    CONF_F32(TrainOptimConf, text_encoder_lr, "-1", -1, 10, "of the text encoder's parameters and factors (-1: lr)"),
    CONF_F32(TrainOptimConf, lora_plus, "0", 0, 1000, "LoRA+: learning rate of the up factors as a multiple of that of the down factors; 0 off"),
    CONF_F32(TrainOptimConf, beta1, "-1", -1, 0.9999, "decay of the first moment (-1: 0.9; adafactor 0, without it)"),
    CONF_F32(TrainOptimConf, beta2, "-1", -1, 0.99999, "decay of the second moment (-1: 0.999; lion 0.99)"),
    CONF_F32(TrainOptimConf, eps, "1e-8", 0, 1, "added to the root of the second moment"),
    CONF_F32(TrainOptimConf, weight_decay, "0.01", 0, 1, "decoupled weight decay"),
    CONF_ENUM(TrainOptimConf, schedule, "constant", schedule_names, "learning rate after the warm-up; wsd: stays, then decays"),
    CONF_I32(TrainOptimConf, schedule_steps, "0", 0, 100000000, "steps over which the schedule runs, for a run that ends before it does (0: steps)"),
    CONF_I32(TrainOptimConf, warmup, "0", 0, 1000000, "steps of linear warm-up"),
    CONF_I32(TrainOptimConf, cycles, "1", 1, 10000, "cosine_restarts: number of cycles"),
    CONF_F32(TrainOptimConf, power, "1", 0.01, 100, "polynomial: exponent"),
    CONF_I32(TrainOptimConf, timescale, "0", 0, 100000000, "inverse_sqrt: steps until it begins to fall (0: warmup, or 10000)"),
    CONF_I32(TrainOptimConf, decay, "0", 0, 100000000, "wsd: length of the decay (0: a tenth of schedule_steps)"),
    CONF_ENUM(TrainOptimConf, decay_shape, "cosine", decay_names, "wsd: cosine, linear or 1 - sqrt"),
    CONF_F32(TrainOptimConf, min_lr, "0", 0, 1, "what a falling schedule ends at, as a fraction of lr"),
    CONF_F32(TrainOptimConf, clip, "1.0", 0, 1e6, "largest gradient norm; 0 switches clipping off"),
    CONF_ENUM(TrainOptimConf, weights, "f32", weight_names,
              "what trained values are kept as; bf16: matrices and kernels, rounded stochastically, without an f32 copy (full, vae, clip)"),
    CONF_F32(TrainOptimConf, ema, "0", 0, 0.99999, "decay of the running average of weights that is saved; 0 saves the weights"),
    CONF_I32(TrainOptimConf, max_skips, "10", 1, 1000000, "steps in a row without a finite gradient after which the run stops"),
    CONF_STRUCTS(TrainOptimConf, groups, &group_table, 0, 1000, "other rates for some parameters; the last group that matches counts"),
    CONF_STRUCT(TrainOptimConf, adafactor, &adafactor_table, "settings of adafactor"),
    CONF_STRUCT(TrainOptimConf, prodigy, &prodigy_table, "settings of prodigy"),
    CONF_STRUCT(TrainOptimConf, schedulefree, &schedulefree_table, "settings of schedulefree"),
};
const ConfTable train_optim_table = CONF_TABLE(TrainOptimConf, optim_fields);

const char *train_schedule_name(int kind)
{
    return schedule_names[kind];
}

int train_optim_check(TrainOptimConf *o, int32_t steps, const char *path)
{
    int has_beta1 = o->name != TRAIN_ADAFACTOR;
    if (o->lr < 0)
        o->lr = o->name == TRAIN_PRODIGY ? 1.0f : 1e-4f;
    if (o->beta1 < 0)
        o->beta1 = has_beta1 ? 0.9f : 0;
    if (o->beta2 < 0)
        o->beta2 = o->name == TRAIN_LION ? 0.99f : 0.999f;
    int own_rate = o->name == TRAIN_PRODIGY || (o->name == TRAIN_ADAFACTOR && o->adafactor.relative_step);
    if (own_rate && (o->groups.count || o->text_encoder_lr >= 0 || o->lora_plus > 0))
        return err_set(ERR_RANGE, "%s: optimizer: %s finds one learning rate for everything: leave out groups, text_encoder_lr and lora_plus%s",
                       path, optim_names[o->name], o->name == TRAIN_ADAFACTOR ? ", or set adafactor.relative_step=false" : "");
    if (o->name == TRAIN_ADAFACTOR && o->adafactor.warmup_init && !o->adafactor.relative_step)
        return err_set(ERR_RANGE, "%s: optimizer.adafactor: warmup_init needs relative_step", path);
    if (o->name == TRAIN_ADAFACTOR && o->adafactor.relative_step && (o->schedule != TRAIN_SCHEDULE_CONSTANT || o->warmup))
        return err_set(ERR_RANGE, "%s: optimizer: relative_step makes its own schedule: leave out schedule and warmup, or set "
                       "adafactor.relative_step=false and lr", path);
    if (o->name == TRAIN_SCHEDULEFREE && o->schedule != TRAIN_SCHEDULE_CONSTANT)
        return err_set(ERR_RANGE, "%s: optimizer: schedulefree takes schedule=constant (a warmup is fine)", path);
    if (o->name == TRAIN_SCHEDULEFREE && o->ema > 0)
        return err_set(ERR_RANGE, "%s: optimizer: schedulefree saves its own average of the weights; set ema=0", path);
    if (o->name == TRAIN_SCHEDULEFREE && !(o->beta1 > 0))
        return err_set(ERR_RANGE, "%s: optimizer.beta1: schedulefree needs more than 0", path);
    if (o->weights && o->name != TRAIN_ADAMW && o->name != TRAIN_ADAMW8 && o->name != TRAIN_LION)
        return err_set(ERR_RANGE, "%s: optimizer.weights: bf16 is for adamw, adamw8bit and lion, not %s", path, optim_names[o->name]);
    int32_t whole = o->schedule_steps ? o->schedule_steps : steps;
    if (o->schedule == TRAIN_SCHEDULE_WSD && o->decay == 0)
        o->decay = whole / 10;
    if (o->schedule == TRAIN_SCHEDULE_WSD && (int64_t)o->decay + o->warmup > whole)
        return err_set(ERR_RANGE, "%s: optimizer: warmup %d and decay %d are longer than the %d steps of the schedule", path, o->warmup,
                       o->decay, whole);
    const TrainGroupConf *g = o->groups.items;
    for (int i = 0; i < o->groups.count; i++)
        if (g[i].lr >= 0 && g[i].lr_scale != 1)
            return err_set(ERR_RANGE, "%s: optimizer.groups.%d: lr and lr_scale exclude each other", path, i);
    return 0;
}

int train_optim_needs_steps(const TrainOptimConf *o)
{
    return !o->schedule_steps && o->schedule != TRAIN_SCHEDULE_CONSTANT && o->schedule != TRAIN_SCHEDULE_INVERSE_SQRT;
}

/* t: share of the steps after the warm-up that are done. */
static double fall(const TrainOptimConf *o, double t)
{
    static const double pi = 3.14159265358979323846;
    switch (o->schedule) {
    case TRAIN_SCHEDULE_LINEAR:
        return t < 1 ? 1 - t : 0;
    case TRAIN_SCHEDULE_COSINE:
        return 0.5 * (1 + cos(pi * t));
    case TRAIN_SCHEDULE_RESTARTS:
        return t < 1 ? 0.5 * (1 + cos(pi * fmod(o->cycles * t, 1))) : 0;
    case TRAIN_SCHEDULE_POLYNOMIAL:
        return t < 1 ? pow(1 - t, (double)o->power) : 0;
    default: /* REX */
        return t < 1 ? (1 - t) / (0.5 + 0.5 * (1 - t)) : 0;
    }
}

static double stable_decay(const TrainOptimConf *o, double s, double n)
{
    double t = (s - (n - o->decay)) / (o->decay > 0 ? o->decay : 1);
    if (t < 0)
        return 1;
    if (t >= 1)
        return 0;
    return o->decay_shape == TRAIN_DECAY_LINEAR ? 1 - t
         : o->decay_shape == TRAIN_DECAY_SQRT   ? 1 - sqrt(t)
                                                : 0.5 * (1 + cos(3.14159265358979323846 * t));
}

float train_conf_lr_of(const TrainConf *c, double lr, int64_t step)
{
    const TrainOptimConf *o = &c->optimizer;
    double s = (double)step, w = (double)o->warmup, n = (double)(o->schedule_steps ? o->schedule_steps : c->steps), f;
    if (o->name == TRAIN_ADAFACTOR && o->adafactor.relative_step)
        return (float)fmin(o->adafactor.warmup_init ? 1e-6 * (s + 1) : 1e-2, 1 / sqrt(s + 1));
    if (o->name == TRAIN_SCHEDULEFREE)
        return (float)(step < o->warmup ? lr * (s + 1) / w : lr);
    if (step < o->warmup)
        return (float)(lr * s / w);
    double t = n > w ? (s - w) / (n - w) : 1.0;
    if (o->schedule == TRAIN_SCHEDULE_CONSTANT)
        return (float)lr;
    if (o->schedule == TRAIN_SCHEDULE_INVERSE_SQRT) {
        double scale = o->timescale ? o->timescale : o->warmup ? o->warmup : 10000;
        return (float)(lr / sqrt((s + scale - w) / scale));
    }
    f = o->schedule == TRAIN_SCHEDULE_WSD ? stable_decay(o, s, n) : fall(o, t);
    if (o->min_lr > 0)
        f = f * (1 - (double)o->min_lr) + (double)o->min_lr;
    return (float)(lr * f);
}

float train_conf_lr(const TrainConf *c, int64_t step)
{
    return train_conf_lr_of(c, (double)c->optimizer.lr, step);
}
