#include "sampler/conf.h"

#include <ctype.h>
#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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
};
enum { NFIELD = sizeof fields / sizeof *fields, BIT_SPACING = 1u << 6, BIT_SIGMAS = 1u << 17 };

#define CLASS_BASE                                                                                                    \
    .train_steps = 1000, .betas = SAMPLER_BETAS_LINEAR, .beta_start = 0.0001, .beta_end = 0.02, .clip_range = 1, \
    .order = 2, .lower_order_final = 1

/* Defaults of the diffusers classes. The last entry serves classes that are not available. */
static const SamplerConf class_default[SAMPLER_KINDS + 1] = {
    [SAMPLER_DDIM] = {CLASS_BASE, .spacing = SAMPLER_LEADING, .clip_sample = 1, .set_alpha_to_one = 1},
    [SAMPLER_PNDM] = {CLASS_BASE, .spacing = SAMPLER_LEADING},
    [SAMPLER_EULER] = {CLASS_BASE, .spacing = SAMPLER_LINSPACE},
    [SAMPLER_EULER_A] = {CLASS_BASE, .spacing = SAMPLER_LINSPACE},
    [SAMPLER_DPMPP_2M] = {CLASS_BASE, .spacing = SAMPLER_LINSPACE},
    [SAMPLER_DPMPP_2M_SDE] = {CLASS_BASE, .spacing = SAMPLER_LINSPACE},
    [SAMPLER_HEUN] = {.train_steps = 1000, .betas = SAMPLER_BETAS_LINEAR, .beta_start = 0.00085, .beta_end = 0.012,
                      .clip_range = 1, .order = 2, .lower_order_final = 1, .spacing = SAMPLER_LINSPACE},
    [SAMPLER_KINDS] = {CLASS_BASE, .spacing = SAMPLER_LEADING},
};

static const struct {
    SamplerKind kind;
    const char *name, *a1111, *class_name;
} kinds[] = {
    {SAMPLER_DDIM, "ddim", "DDIM", "DDIMScheduler"},
    {SAMPLER_PNDM, "pndm", "PLMS", "PNDMScheduler"},
    {SAMPLER_EULER, "euler", "Euler", "EulerDiscreteScheduler"},
    {SAMPLER_EULER_A, "euler_a", "Euler a", "EulerAncestralDiscreteScheduler"},
    {SAMPLER_DPMPP_2M, "dpmpp_2m", "DPM++ 2M", "DPMSolverMultistepScheduler"},
    {SAMPLER_DPMPP_2M_SDE, "dpmpp_2m_sde", "DPM++ 2M SDE", ""},
    {SAMPLER_HEUN, "heun", "Heun", "HeunDiscreteScheduler"},
};

static const char *const spacing_names[] = {"leading", "trailing", "linspace"};

const char *sampler_kind_name(SamplerKind kind) { return kind < SAMPLER_KINDS ? kinds[kind].name : "unavailable"; }
const char *sampler_kind_a1111_name(SamplerKind kind) { return kind < SAMPLER_KINDS ? kinds[kind].a1111 : "unavailable"; }

const char *sampler_spacing_name(const SamplerConf *conf)
{
    return conf->sigmas == SAMPLER_SIGMAS_KARRAS        ? "karras"
           : conf->sigmas == SAMPLER_SIGMAS_EXPONENTIAL ? "exponential"
                                                        : spacing_names[conf->spacing];
}

static size_t field_size(FieldType t) { return t == F_F64 ? sizeof(double) : sizeof(int); }

/* Fields that nobody gave follow the class. */
static void apply_class(SamplerConf *conf, SamplerKind kind)
{
    conf->kind = kind;
    for (size_t i = 0; i < NFIELD; i++)
        if (!(conf->given >> i & 1))
            memcpy((char *)conf + fields[i].offset, (const char *)&class_default[kind] + fields[i].offset,
                   field_size(fields[i].type));
}

void sampler_conf_default(SamplerConf *conf)
{
    *conf = (SamplerConf){.steps = 50, .betas = SAMPLER_BETAS_SCALED_LINEAR, .beta_start = 0.00085, .beta_end = 0.012,
                          .train_steps = 1000, .steps_offset = 1, .class_name = "DDIMScheduler"};
    /* As if a Stable Diffusion file had said so: betas, prediction, offset, alpha, clip, PLMS. */
    static const char *const said[] = {"num_train_timesteps", "beta_schedule", "beta_start", "beta_end", "prediction_type",
                                       "steps_offset", "set_alpha_to_one", "clip_sample", "skip_prk_steps"};
    conf->skip_prk = 1;
    for (size_t i = 0; i < NFIELD; i++)
        for (size_t k = 0; k < sizeof said / sizeof *said; k++)
            if (strcmp(fields[i].key, said[k]) == 0)
                conf->given |= 1u << i;
    apply_class(conf, SAMPLER_DDIM);
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

static int read_word(const char *key, FieldType type, const char *s, void *out)
{
    static const char *const solver[] = {"midpoint", "heun", "logrho", "bh1", "bh2"}, *const final[] = {"zero", "sigma_min"};
    if (!s)
        return err_set(ERR_FORMAT, "%s: expected a string", key);
    if (type == F_BETAS)
        return sampler_betas_parse(s, out);
    if (type == F_PREDICT)
        return sampler_predict_parse(s, out);
    int v = 0;
    if (type == F_SPACING)
        TRY(one_of(key, s, spacing_names, 3, "leading, trailing or linspace", &v));
    else if (type == F_FINAL)
        TRY(one_of(key, s, final, 2, "zero or sigma_min", &v));
    else
        TRY(one_of(key, s, solver, 5, "midpoint or heun", &v));
    if (type == F_SOLVER && v > 1)
        v = 0; /* other solvers' types become midpoint, as in diffusers */
    memcpy(out, &v, sizeof v);
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
        if (!json_is_true(v))
            return 0;
        conf->sigmas = SAMPLER_SIGMAS_KARRAS;
        break;
    default:
        TRY(read_word(key, fields[i].type, json_string_value(v), out));
    }
    conf->given |= 1u << i;
    return 0;
}

/* Settings that would change the result and that no solver here has. */
static int refuse(const json_t *root)
{
    static const struct {
        const char *key, *harmless; /* a string value that is fine; NULL: only false and null are */
    } rule[] = {{"trained_betas", NULL},       {"thresholding", NULL},          {"use_beta_sigmas", NULL},
                {"use_lu_lambdas", NULL},      {"use_flow_sigmas", NULL},       {"interpolation_type", "linear"},
                {"timestep_type", "discrete"}, {"lambda_min_clipped", NULL},    {"sigma_min", NULL},
                {"sigma_max", NULL},           {"use_dynamic_shifting", NULL}};
    for (size_t i = 0; i < sizeof rule / sizeof *rule; i++) {
        const json_t *v = json_object_get(root, rule[i].key);
        const char *s = json_string_value(v);
        if (v && !json_is_null(v) && !json_is_false(v) && !(s && rule[i].harmless && strcmp(s, rule[i].harmless) == 0))
            return err_set(ERR_UNSUPPORTED, "%s is not available", rule[i].key);
    }
    const char *learned = json_string_value(json_object_get(root, "variance_type"));
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
        return err_set(ERR_UNSUPPORTED, "%s (a flow-matching model) is not available", name);
    snprintf(conf->class_name, sizeof conf->class_name, "%s", name);
    *kind = SAMPLER_KINDS;
    for (size_t i = 0; i < SAMPLER_KINDS; i++)
        if (strcmp(kinds[i].class_name, name) == 0)
            *kind = kinds[i].kind;
    if (*kind == SAMPLER_DPMPP_2M && algorithm && strcmp(algorithm, "dpmsolver++") != 0) {
        if (strcmp(algorithm, "sde-dpmsolver++") != 0)
            return err_set(ERR_UNSUPPORTED, "algorithm_type \"%s\": expected dpmsolver++ or sde-dpmsolver++", algorithm);
        *kind = SAMPLER_DPMPP_2M_SDE;
    }
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
    if (json_is_true(json_object_get(root, "use_exponential_sigmas"))) {
        if (conf->sigmas == SAMPLER_SIGMAS_KARRAS)
            return err_set(ERR_FORMAT, "use_karras_sigmas and use_exponential_sigmas are both true");
        conf->sigmas = SAMPLER_SIGMAS_EXPONENTIAL;
        conf->given |= BIT_SIGMAS;
    }
    apply_class(conf, kind);
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
    SamplerConf c = {.steps = 50};
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

int sampler_conf_set_spacing(SamplerConf *conf, const char *name)
{
    if (strcmp(name, "normal") == 0) {
        conf->sigmas = SAMPLER_SIGMAS_NORMAL;
    } else if (strcmp(name, "karras") == 0) {
        conf->sigmas = SAMPLER_SIGMAS_KARRAS;
    } else if (strcmp(name, "exponential") == 0) {
        conf->sigmas = SAMPLER_SIGMAS_EXPONENTIAL;
    } else {
        for (int i = 0; i < 3; i++)
            if (strcmp(name, spacing_names[i]) == 0) {
                conf->spacing = (SamplerSpacing)i;
                conf->sigmas = SAMPLER_SIGMAS_NORMAL;
                conf->given |= BIT_SPACING | BIT_SIGMAS;
                return 0;
            }
        return err_set(ERR_RANGE, "spacing \"%s\": expected normal, karras, exponential, leading, trailing or linspace", name);
    }
    conf->given |= BIT_SIGMAS;
    return 0;
}

/* "DPM++ 2M Karras" -> "dpmpp_2m_karras". */
static void plain_name(const char *name, char *out, size_t size)
{
    size_t n = 0;
    for (; *name && n + 2 < size; name++)
        out[n++] = *name == ' ' || *name == '-' ? '_' : *name == '+' ? 'p' : (char)tolower((unsigned char)*name);
    out[n] = 0;
}

int sampler_conf_set_kind(SamplerConf *conf, const char *name)
{
    static const struct {
        const char *name;
        SamplerKind kind;
    } alias[] = {{"plms", SAMPLER_PNDM}, {"euler_ancestral", SAMPLER_EULER_A}, {"euler_discrete", SAMPLER_EULER}};
    static const char *const suffix[] = {"_karras", "_exponential", "_leading", "_trailing", "_linspace", "_normal"};
    char text[64], *tail = NULL;
    plain_name(name, text, sizeof text);
    for (size_t i = 0; i < sizeof suffix / sizeof *suffix; i++) {
        size_t n = strlen(text), m = strlen(suffix[i]);
        if (n > m && strcmp(text + n - m, suffix[i]) == 0) {
            tail = text + n - m;
            *tail++ = 0;
            break;
        }
    }
    SamplerKind kind = SAMPLER_KINDS;
    for (size_t i = 0; i < SAMPLER_KINDS; i++)
        if (strcmp(text, kinds[i].name) == 0)
            kind = kinds[i].kind;
    for (size_t i = 0; i < sizeof alias / sizeof *alias; i++)
        if (strcmp(text, alias[i].name) == 0)
            kind = alias[i].kind;
    if (kind == SAMPLER_KINDS)
        return err_set(ERR_RANGE, "sampler \"%s\": expected ddim, pndm, euler, euler_a, dpmpp_2m, dpmpp_2m_sde or heun, "
                       "perhaps with _karras, _exponential, _leading, _trailing or _linspace", name);
    /* These classes have no sigma spacing of their own: diffusers drops what another class's file said. */
    if (kind == SAMPLER_DDIM || kind == SAMPLER_PNDM || kind == SAMPLER_EULER_A)
        conf->sigmas = SAMPLER_SIGMAS_NORMAL;
    apply_class(conf, kind);
    return tail ? sampler_conf_set_spacing(conf, tail) : 0;
}

static int check_timesteps(const SamplerConf *c)
{
    int dpm = c->kind == SAMPLER_DPMPP_2M || c->kind == SAMPLER_DPMPP_2M_SDE;
    int most = dpm ? c->train_steps - 1 : c->train_steps;
    if (c->train_steps < 2 || c->train_steps > SAMPLER_MAX_TRAIN_STEPS)
        return err_set(ERR_RANGE, "num_train_timesteps %d: expected 2..%d", c->train_steps, (int)SAMPLER_MAX_TRAIN_STEPS);
    if (c->steps < 1 || c->steps > most)
        return err_set(ERR_RANGE, "steps %d: expected 1..%d", c->steps, most);
    int ratio = c->train_steps / (dpm ? c->steps + 1 : c->steps);
    int last = (dpm ? c->steps : c->steps - 1) * ratio + c->steps_offset;
    if (c->spacing == SAMPLER_LEADING && last >= c->train_steps)
        return err_set(ERR_RANGE, "steps %d with steps_offset %d go beyond the %d training timesteps", c->steps,
                       c->steps_offset, c->train_steps);
    return 0;
}

int sampler_conf_check(const SamplerConf *c)
{
    if (c->kind >= SAMPLER_KINDS)
        return err_set(ERR_UNSUPPORTED, "scheduler %s is not available: set a sampler (ddim, pndm, euler, euler_a, dpmpp_2m, "
                       "dpmpp_2m_sde or heun)", c->class_name);
    TRY(check_timesteps(c));
    if (!(c->eta >= 0 && c->eta <= 1))
        return err_set(ERR_RANGE, "eta %g: expected 0..1", c->eta);
    if (!(c->clip_range > 0))
        return err_set(ERR_RANGE, "clip_sample_range %g: expected more than 0", c->clip_range);
    if (c->kind == SAMPLER_DPMPP_2M || c->kind == SAMPLER_DPMPP_2M_SDE) {
        if (c->order < 1 || c->order > 2)
            return err_set(ERR_UNSUPPORTED, "solver_order %d: expected 1 or 2", c->order);
    } else if (c->sigmas != SAMPLER_SIGMAS_NORMAL && (c->kind == SAMPLER_DDIM || c->kind == SAMPLER_PNDM)) {
        return err_set(ERR_UNSUPPORTED, "%s spacing needs euler, euler_a, heun, dpmpp_2m or dpmpp_2m_sde, not %s",
                       sampler_spacing_name(c), sampler_kind_name(c->kind));
    }
    if (c->kind == SAMPLER_PNDM && c->predict == SAMPLER_PREDICT_SAMPLE)
        return err_set(ERR_UNSUPPORTED, "pndm with prediction_type sample");
    if (c->kind == SAMPLER_PNDM && !c->skip_prk && c->steps < 4)
        return err_set(ERR_RANGE, "pndm with skip_prk_steps false needs at least 4 steps, not %d", c->steps);
    if (c->kind == SAMPLER_DDIM && c->zero_snr && c->predict == SAMPLER_PREDICT_EPSILON)
        return err_set(ERR_UNSUPPORTED, "ddim with rescale_betas_zero_snr needs v_prediction or sample, not epsilon");
    return 0;
}
