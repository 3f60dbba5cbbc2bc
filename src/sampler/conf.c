#include "sampler/conf.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sampler/names.h"

typedef enum { F_INT, F_BOOL, F_F64, F_BETAS, F_PREDICT, F_SPACING, F_SOLVER, F_FINAL, F_SIGMAS } FieldType;

/* diffusers' keys. The position is the bit in SamplerConf.given. */
static const struct {
    const char *key;
    FieldType type;
    size_t offset;
} fields[] = {
    {"num_train_timesteps", F_INT, offsetof(SamplerConf, train_steps)},
    {"beta_schedule", F_BETAS, offsetof(SamplerConf, betas)},
    {"beta_start", F_F64, offsetof(SamplerConf, beta_start)},
    {"beta_end", F_F64, offsetof(SamplerConf, beta_end)},
    {"rescale_betas_zero_snr", F_BOOL, offsetof(SamplerConf, zero_snr)},
    {"prediction_type", F_PREDICT, offsetof(SamplerConf, predict)},
    {"timestep_spacing", F_SPACING, offsetof(SamplerConf, spacing)},
    {"steps_offset", F_INT, offsetof(SamplerConf, steps_offset)},
    {"set_alpha_to_one", F_BOOL, offsetof(SamplerConf, set_alpha_to_one)},
    {"clip_sample", F_BOOL, offsetof(SamplerConf, clip_sample)},
    {"clip_sample_range", F_F64, offsetof(SamplerConf, clip_range)},
    {"skip_prk_steps", F_BOOL, offsetof(SamplerConf, skip_prk)},
    {"solver_order", F_INT, offsetof(SamplerConf, order)},
    {"solver_type", F_SOLVER, offsetof(SamplerConf, heun_correction)},
    {"lower_order_final", F_BOOL, offsetof(SamplerConf, lower_order_final)},
    {"euler_at_final", F_BOOL, offsetof(SamplerConf, euler_at_final)},
    {"final_sigmas_type", F_FINAL, offsetof(SamplerConf, final_sigma_min)},
    {"use_karras_sigmas", F_SIGMAS, offsetof(SamplerConf, sigmas)},
    {"use_exponential_sigmas", F_SIGMAS, offsetof(SamplerConf, sigmas)},
    {"use_beta_sigmas", F_SIGMAS, offsetof(SamplerConf, sigmas)},
    {"use_lu_lambdas", F_SIGMAS, offsetof(SamplerConf, sigmas)},
    {"sigma_min", F_F64, offsetof(SamplerConf, sigma_min)},
    {"sigma_max", F_F64, offsetof(SamplerConf, sigma_max)},
    {"original_inference_steps", F_INT, offsetof(SamplerConf, original_steps)},
};
enum { NFIELD = sizeof fields / sizeof *fields };

/* Defaults of the diffusers classes. The last entry serves classes that are not available. */
#define CLASS(schedule, start, end, space)                                                                                  \
    .train_steps = 1000, .betas = SAMPLER_BETAS_##schedule, .beta_start = start, .beta_end = end, .clip_range = 1, .order = 2, \
    .lower_order_final = 1, .original_steps = 50, .spacing = SAMPLER_##space
#define CLASS_LINSPACE {CLASS(LINEAR, 0.0001, 0.02, LINSPACE)}
#define CLASS_SIGMAS {CLASS(LINEAR, 0.00085, 0.012, LINSPACE)}
#define CLASS_DISTILLED {CLASS(SCALED_LINEAR, 0.00085, 0.012, LEADING), .set_alpha_to_one = 1}

static const SamplerConf class_default[SAMPLER_KINDS + 1] = {
    [SAMPLER_DDIM] = {CLASS(LINEAR, 0.0001, 0.02, LEADING), .clip_sample = 1, .set_alpha_to_one = 1},
    [SAMPLER_PNDM] = {CLASS(LINEAR, 0.0001, 0.02, LEADING)},
    [SAMPLER_EULER] = CLASS_LINSPACE,
    [SAMPLER_EULER_A] = CLASS_LINSPACE,
    [SAMPLER_DPMPP_2M] = CLASS_LINSPACE,
    [SAMPLER_DPMPP_2M_SDE] = CLASS_LINSPACE,
    [SAMPLER_HEUN] = CLASS_SIGMAS,
    [SAMPLER_DPM2] = CLASS_SIGMAS,
    [SAMPLER_DPM2_A] = CLASS_SIGMAS,
    [SAMPLER_LMS] = CLASS_LINSPACE,
    [SAMPLER_DPMPP_2S] = CLASS_LINSPACE,
    [SAMPLER_DPMPP_2S_A] = CLASS_LINSPACE,
    [SAMPLER_DPMPP_SDE] = CLASS_SIGMAS,
    [SAMPLER_DPMPP_3M] = CLASS_LINSPACE,
    [SAMPLER_DPMPP_3M_SDE] = CLASS_LINSPACE,
    [SAMPLER_DPM_2M] = CLASS_LINSPACE,
    [SAMPLER_UNIPC] = CLASS_LINSPACE,
    [SAMPLER_DEIS] = CLASS_LINSPACE,
    [SAMPLER_LCM] = CLASS_DISTILLED,
    [SAMPLER_TCD] = CLASS_DISTILLED,
    [SAMPLER_DDPM] = {CLASS(LINEAR, 0.0001, 0.02, LEADING), .clip_sample = 1},
    [SAMPLER_KINDS] = {CLASS(LINEAR, 0.0001, 0.02, LEADING)},
};

static size_t field_size(FieldType t) { return t == F_F64 ? sizeof(double) : sizeof(int); }

void sampler_conf_apply_class(SamplerConf *conf, SamplerKind kind)
{
    conf->kind = kind;
    for (size_t i = 0; i < NFIELD; i++)
        if (!(conf->given >> i & 1) && fields[i].type != F_SIGMAS && !(fields[i].type == F_SPACING && conf->spaced))
            memcpy((char *)conf + fields[i].offset, (const char *)&class_default[kind] + fields[i].offset,
                   field_size(fields[i].type));
    if (kind == SAMPLER_LMS)
        conf->order = 4; /* no key of its class */
}

void sampler_conf_default(SamplerConf *conf)
{
    *conf = (SamplerConf){.steps = 50, .betas = SAMPLER_BETAS_SCALED_LINEAR, .beta_start = 0.00085, .beta_end = 0.012,
                          .strength = 1, .eta = -1, .original_steps = 50,
                          .train_steps = 1000, .steps_offset = 1, .class_name = "DDIMScheduler"};
    /* As if a Stable Diffusion file had said so: betas, prediction, offset, alpha, clip, PLMS. */
    static const char *const said[] = {"num_train_timesteps", "beta_schedule", "beta_start", "beta_end", "prediction_type",
                                       "steps_offset", "set_alpha_to_one", "clip_sample", "skip_prk_steps"};
    conf->skip_prk = 1;
    for (size_t i = 0; i < NFIELD; i++)
        for (size_t k = 0; k < sizeof said / sizeof *said; k++)
            if (strcmp(fields[i].key, said[k]) == 0)
                conf->given |= 1u << i;
    sampler_conf_apply_class(conf, SAMPLER_DDIM);
}

static int one_of(const char *key, const char *s, const char *const *names, int n, const char *known, int *out)
{
    for (int i = 0; i < n; i++)
        if (strcmp(s, names[i]) == 0) {
            *out = i;
            return 0;
        }
    return err_set(ERR_RANGE, "%s \"%s\": expected %s", key, s, known);
}

static int read_word(SamplerConf *conf, const char *key, FieldType type, const char *s, void *out)
{
    static const char *const solver[] = {"midpoint", "heun", "logrho", "bh1", "bh2"}, *const final[] = {"zero", "sigma_min"},
                            *const spacings[] = {"leading", "trailing", "linspace"};
    if (!s)
        return err_set(ERR_FORMAT, "%s: expected a string", key);
    if (type == F_BETAS)
        return sampler_betas_parse(s, out);
    if (type == F_PREDICT)
        return sampler_predict_parse(s, out);
    int v = 0;
    if (type == F_SPACING)
        TRY(one_of(key, s, spacings, 3, "leading, trailing or linspace", &v));
    else if (type == F_FINAL)
        TRY(one_of(key, s, final, 2, "zero or sigma_min", &v));
    else
        TRY(one_of(key, s, solver, 5, "midpoint, heun, logrho, bh1 or bh2", &v));
    if (type == F_SOLVER) { /* other solvers' types become midpoint, as in diffusers */
        if (v > 2)
            conf->unipc_bh = v - 2;
        v = v == 1;
    }
    memcpy(out, &v, sizeof v);
    return 0;
}

static int set_sigmas(SamplerConf *conf, const char *key)
{
    SamplerSigmas m = strstr(key, "karras") ? SAMPLER_SIGMAS_KARRAS
                      : strstr(key, "exponential") ? SAMPLER_SIGMAS_EXPONENTIAL
                      : strstr(key, "beta") ? SAMPLER_SIGMAS_BETA : SAMPLER_SIGMAS_LU;
    if (conf->sigmas > SAMPLER_SIGMAS_NORMAL)
        return err_set(ERR_FORMAT, "%s and another schedule of sigmas are both true", key);
    conf->sigmas = m;
    return 0;
}

static int read_field(SamplerConf *conf, size_t i, const json_t *v)
{
    const char *key = fields[i].key;
    void *out = (char *)conf + fields[i].offset;
    switch (fields[i].type) {
    case F_INT:
        if (!json_is_integer(v) || json_integer_value(v) < 0 || json_integer_value(v) > 1000000)
            return err_set(ERR_FORMAT, "%s: expected an integer in 0..1000000", key);
        *(int *)out = (int)json_integer_value(v);
        break;
    case F_BOOL:
        if (!json_is_boolean(v))
            return err_set(ERR_FORMAT, "%s: expected true or false", key);
        *(int *)out = json_is_true(v);
        break;
    case F_F64:
        if (!json_is_number(v))
            return err_set(ERR_FORMAT, "%s: expected a number", key);
        *(double *)out = json_number_value(v);
        break;
    case F_SIGMAS:
        if (!json_is_boolean(v))
            return err_set(ERR_FORMAT, "%s: expected true or false", key);
        if (json_is_true(v))
            TRY(set_sigmas(conf, key));
        break;
    default:
        TRY(read_word(conf, key, fields[i].type, json_string_value(v), out));
    }
    conf->given |= 1u << i;
    return 0;
}

/* Settings that would change the result and that no solver here has. */
static int refuse(const json_t *root)
{
    static const struct {
        const char *key, *harmless; /* a string value that is fine; NULL: only false and null are */
    } rule[] = {{"trained_betas", NULL},       {"thresholding", NULL},       {"use_flow_sigmas", NULL},
                {"timestep_type", "discrete"}, {"lambda_min_clipped", NULL}, {"interpolation_type", "linear"},
                {"solver_p", NULL},            {"use_dynamic_shifting", NULL}};
    for (size_t i = 0; i < sizeof rule / sizeof *rule; i++) {
        const json_t *v = json_object_get(root, rule[i].key);
        const char *s = json_string_value(v);
        if (v && !json_is_null(v) && !json_is_false(v) && !(s && rule[i].harmless && strcmp(s, rule[i].harmless) == 0))
            return err_set(ERR_UNSUPPORTED, "%s is not available", rule[i].key);
    }
    if (json_array_size(json_object_get(root, "disable_corrector")) > 0 || json_is_false(json_object_get(root, "predict_x0")))
        return err_set(ERR_UNSUPPORTED, "disable_corrector and predict_x0 false are not available");
    const char *learned = json_string_value(json_object_get(root, "variance_type"));
    if (learned && strcmp(learned, "fixed_small") != 0 && strcmp(json_string_value(json_object_get(root, "_class_name")), "DDPMScheduler") == 0)
        return err_set(ERR_UNSUPPORTED, "variance_type \"%s\": expected fixed_small", learned);
    if (learned && strncmp(learned, "learned", 7) == 0)
        return err_set(ERR_UNSUPPORTED, "variance_type \"%s\" is not available", learned);
    return 0;
}

static int class_kind(SamplerConf *conf, const json_t *root, SamplerKind *kind)
{
    const char *name = json_string_value(json_object_get(root, "_class_name"));
    const char *algorithm = json_string_value(json_object_get(root, "algorithm_type"));
    if (!name)
        return err_set(ERR_FORMAT, "no _class_name (not a scheduler configuration)");
    if (strncmp(name, "FlowMatch", 9) == 0)
        return err_set(ERR_UNSUPPORTED, "%s is for flow-matching models (SD3, FLUX), which are not available; Stable Diffusion 1.x and 2.x have others, "
                       "as PNDMScheduler", name);
    snprintf(conf->class_name, sizeof conf->class_name, "%s", name);
    *kind = sampler_kind_of_class(name);
    if (!algorithm || strcmp(algorithm, "dpmsolver++") == 0 || (*kind != SAMPLER_DPMPP_2M && *kind != SAMPLER_DPMPP_2S))
        return 0;
    if (*kind == SAMPLER_DPMPP_2M && strcmp(algorithm, "sde-dpmsolver++") == 0)
        *kind = SAMPLER_DPMPP_2M_SDE;
    else if (*kind == SAMPLER_DPMPP_2M && strcmp(algorithm, "dpmsolver") == 0)
        *kind = SAMPLER_DPM_2M;
    else
        return err_set(ERR_UNSUPPORTED, "algorithm_type \"%s\" of %s: expected dpmsolver++%s", algorithm, name,
                       *kind == SAMPLER_DPMPP_2M ? ", sde-dpmsolver++ or dpmsolver" : "");
    return 0;
}

static int read_conf(SamplerConf *conf, const json_t *root)
{
    SamplerKind kind = SAMPLER_KINDS;
    if (!json_is_object(root))
        return err_set(ERR_FORMAT, "expected a JSON object");
    TRY(class_kind(conf, root, &kind));
    TRY(refuse(root));
    for (size_t i = 0; i < NFIELD; i++) {
        const json_t *v = json_object_get(root, fields[i].key);
        if (v && !json_is_null(v))
            TRY(read_field(conf, i, v));
    }
    sampler_conf_apply_class(conf, kind);
    if (conf->order == 3 && (kind == SAMPLER_DPMPP_2M || kind == SAMPLER_DPMPP_2M_SDE))
        conf->kind = kind == SAMPLER_DPMPP_2M ? SAMPLER_DPMPP_3M : SAMPLER_DPMPP_3M_SDE;
    return 0;
}

/* Python writes -Infinity, Infinity and NaN, which are not JSON; "lambda_min_clipped": -Infinity is the usual default.
 * Overwrites them by null in place. */
static void blank_non_json(char *s)
{
    static const char *const word[] = {"-Infinity", "Infinity", "NaN"};
    int quoted = 0;
    for (; *s; s++) {
        if (quoted && *s == '\\' && s[1])
            s++;
        else if (*s == '"')
            quoted = !quoted;
        for (size_t k = 0; !quoted && k < 3; k++) {
            size_t n = strlen(word[k]);
            if (strncmp(s, word[k], n) == 0)
                memcpy(s, k == 2 ? "0  " : "null     ", n);
        }
    }
}

static int read_text(char **out, const char *path)
{
    enum { MAX = 1 << 20 };
    FILE *f = fopen(path, "rb");
    if (!f)
        return err_errno("%s", path);
    char *s = malloc(MAX + 1);
    size_t n = s ? fread(s, 1, MAX, f) : 0;
    int bad = ferror(f);
    fclose(f);
    if (!s)
        return err_set(ERR_NOMEM, "%s: out of memory", path);
    if (bad) {
        free(s);
        return err_set(ERR_IO, "%s: cannot read", path);
    }
    s[n] = 0;
    *out = s;
    return 0;
}

int sampler_conf_from_text(SamplerConf *conf, const char *text, const char *name)
{
    json_error_t e;
    char *copy = strdup(text);
    if (!copy)
        return err_set(ERR_NOMEM, "%s: out of memory", name);
    blank_non_json(copy);
    json_t *root = json_loads(copy, 0, &e);
    free(copy);
    if (!root)
        return err_set(ERR_FORMAT, "%s: line %d: %s", name, e.line, e.text);
    SamplerConf c = {.steps = 50, .strength = 1, .eta = -1};
    int rc = read_conf(&c, root);
    json_decref(root);
    TRY_CTX(rc, "%s", name);
    *conf = c;
    return 0;
}

int sampler_conf_from_json(SamplerConf *conf, const char *path)
{
    char *text = NULL;
    TRY(read_text(&text, path));
    int rc = sampler_conf_from_text(conf, text, path);
    free(text);
    return rc;
}

static int check_timesteps(const SamplerConf *c)
{
    int dpm = c->kind == SAMPLER_DPMPP_2M || c->kind == SAMPLER_DPMPP_2M_SDE || c->kind == SAMPLER_DPMPP_3M || c->kind == SAMPLER_DPMPP_3M_SDE ||
              c->kind == SAMPLER_DPM_2M || c->kind == SAMPLER_UNIPC || c->kind == SAMPLER_DEIS || c->kind == SAMPLER_DPMPP_2S;
    int most = dpm ? c->train_steps - 1 : c->train_steps, lcm = c->kind == SAMPLER_LCM || c->kind == SAMPLER_TCD;
    if (c->train_steps < 2 || c->train_steps > SAMPLER_MAX_TRAIN_STEPS)
        return err_set(ERR_RANGE, "num_train_timesteps %d: expected 2..%d", c->train_steps, (int)SAMPLER_MAX_TRAIN_STEPS);
    if (c->steps < 1 || c->steps > most)
        return err_set(ERR_RANGE, "steps %d: expected 1..%d", c->steps, most);
    if (c->original_steps < 1 || c->original_steps > c->train_steps)
        return err_set(ERR_RANGE, "original_inference_steps %d: expected 1..%d", c->original_steps, c->train_steps);
    if (c->rules > SAMPLER_RULES_DIFFUSERS)
        return 0;
    if (lcm && !c->spaced && c->steps > c->original_steps)
        return err_set(ERR_RANGE, "steps %d: %s runs at most original_inference_steps, %d", c->steps, sampler_kind_name(c->kind),
                       c->original_steps);
    int ratio = c->train_steps / (dpm ? c->steps + 1 : c->steps);
    int last = (dpm ? c->steps : c->steps - 1) * ratio + c->steps_offset;
    if (c->spacing == SAMPLER_LEADING && !(lcm && !c->spaced) && last >= c->train_steps)
        return err_set(ERR_RANGE, "steps %d with steps_offset %d go beyond the %d training timesteps", c->steps,
                       c->steps_offset, c->train_steps);
    return 0;
}

static int check_numbers(const SamplerConf *c)
{
    if (!(c->eta <= 1))
        return err_set(ERR_RANGE, "eta %g: expected 0..1, or -1 for the sampler's own", c->eta);
    if (!(c->strength >= 0 && c->strength <= 1))
        return err_set(ERR_RANGE, "strength %g: expected 0..1", c->strength);
    if (!(c->clip_range > 0))
        return err_set(ERR_RANGE, "clip_sample_range %g: expected more than 0", c->clip_range);
    if (!(c->rho >= 0 && c->rho <= 100))
        return err_set(ERR_RANGE, "rho %g: expected 0..100 (0: the schedule's own)", c->rho);
    if (!(c->sigma_min >= 0 && c->sigma_max >= 0 && c->sigma_min <= 1e6 && c->sigma_max <= 1e6) ||
        (c->sigma_min > 0 && c->sigma_max > 0 && c->sigma_min >= c->sigma_max))
        return err_set(ERR_RANGE, "sigma_min %g, sigma_max %g: expected 0 <= sigma_min < sigma_max (0: the model's)", c->sigma_min, c->sigma_max);
    if (!(c->s_churn >= 0 && c->s_tmin >= 0 && c->s_tmax >= 0 && c->s_noise >= 0) || !isfinite(c->s_churn) || !isfinite(c->s_noise))
        return err_set(ERR_RANGE, "s_churn, s_tmin, s_tmax and s_noise: expected numbers of 0 or more");
    if (c->order < 0 || c->order > (c->kind == SAMPLER_LMS ? 4 : 3))
        return err_set(ERR_UNSUPPORTED, "solver_order %d: expected 1 to 3", c->order);
    return 0;
}

int sampler_conf_check(const SamplerConf *c)
{
    if (c->kind >= SAMPLER_KINDS)
        return err_set(ERR_UNSUPPORTED, "scheduler %s is not available: set a sampler (%s)", c->class_name, SAMPLER_KNOWN_KINDS);
    TRY(check_timesteps(c));
    TRY(check_numbers(c));
    if (c->kind == SAMPLER_PNDM && c->predict == SAMPLER_PREDICT_SAMPLE)
        return err_set(ERR_UNSUPPORTED, "pndm with prediction_type sample");
    if (c->rules > SAMPLER_RULES_DIFFUSERS)
        return 0;
    if (c->kind == SAMPLER_PNDM && !c->skip_prk && c->steps < 4)
        return err_set(ERR_RANGE, "pndm with skip_prk_steps false needs at least 4 steps, not %d", c->steps);
    if (c->kind == SAMPLER_PNDM && !c->skip_prk && sampler_conf_sigmas(c) > SAMPLER_SIGMAS_NORMAL)
        return err_set(ERR_UNSUPPORTED, "pndm with skip_prk_steps false has no %s schedule", sampler_spacing_name(c));
    int by_index = c->kind == SAMPLER_DDIM || c->kind == SAMPLER_DDPM || c->kind == SAMPLER_LCM || c->kind == SAMPLER_TCD;
    if (by_index && c->zero_snr && c->predict == SAMPLER_PREDICT_EPSILON)
        return err_set(ERR_UNSUPPORTED, "%s with rescale_betas_zero_snr needs v_prediction or sample, not epsilon", sampler_kind_name(c->kind));
    return 0;
}
