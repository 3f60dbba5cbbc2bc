#include "sampler/names.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

static const struct {
    const char *name, *a1111, *class_name;
    double eta;            /* the sampler's own */
    SamplerSigmas a1111_automatic;
} kinds[SAMPLER_KINDS] = {
    [SAMPLER_DDIM] = {"ddim", "DDIM", "DDIMScheduler", 0, SAMPLER_SIGMAS_NORMAL},
    [SAMPLER_PNDM] = {"pndm", "PLMS", "PNDMScheduler", 0, SAMPLER_SIGMAS_NORMAL},
    [SAMPLER_EULER] = {"euler", "Euler", "EulerDiscreteScheduler", 0, SAMPLER_SIGMAS_NORMAL},
    [SAMPLER_EULER_A] = {"euler_a", "Euler a", "EulerAncestralDiscreteScheduler", 1, SAMPLER_SIGMAS_NORMAL},
    [SAMPLER_DPMPP_2M] = {"dpmpp_2m", "DPM++ 2M", "DPMSolverMultistepScheduler", 0, SAMPLER_SIGMAS_KARRAS},
    [SAMPLER_DPMPP_2M_SDE] = {"dpmpp_2m_sde", "DPM++ 2M SDE", "", 1, SAMPLER_SIGMAS_EXPONENTIAL},
    [SAMPLER_HEUN] = {"heun", "Heun", "HeunDiscreteScheduler", 0, SAMPLER_SIGMAS_NORMAL},
    [SAMPLER_DPM2] = {"dpm2", "DPM2", "KDPM2DiscreteScheduler", 0, SAMPLER_SIGMAS_KARRAS},
    [SAMPLER_DPM2_A] = {"dpm2_a", "DPM2 a", "KDPM2AncestralDiscreteScheduler", 1, SAMPLER_SIGMAS_KARRAS},
    [SAMPLER_LMS] = {"lms", "LMS", "LMSDiscreteScheduler", 0, SAMPLER_SIGMAS_NORMAL},
    [SAMPLER_DPMPP_2S] = {"dpmpp_2s", "DPM++ 2S", "DPMSolverSinglestepScheduler", 0, SAMPLER_SIGMAS_KARRAS},
    [SAMPLER_DPMPP_2S_A] = {"dpmpp_2s_a", "DPM++ 2S a", "", 1, SAMPLER_SIGMAS_KARRAS},
    [SAMPLER_DPMPP_SDE] = {"dpmpp_sde", "DPM++ SDE", "DPMSolverSDEScheduler", 1, SAMPLER_SIGMAS_KARRAS},
    [SAMPLER_DPMPP_3M] = {"dpmpp_3m", "DPM++ 3M", "", 0, SAMPLER_SIGMAS_KARRAS},
    [SAMPLER_DPMPP_3M_SDE] = {"dpmpp_3m_sde", "DPM++ 3M SDE", "", 1, SAMPLER_SIGMAS_EXPONENTIAL},
    [SAMPLER_DPM_2M] = {"dpm_2m", "DPM 2M", "", 0, SAMPLER_SIGMAS_KARRAS},
    [SAMPLER_UNIPC] = {"unipc", "UniPC", "UniPCMultistepScheduler", 0, SAMPLER_SIGMAS_NORMAL},
    [SAMPLER_DEIS] = {"deis", "DEIS", "DEISMultistepScheduler", 0, SAMPLER_SIGMAS_NORMAL},
    [SAMPLER_LCM] = {"lcm", "LCM", "LCMScheduler", 1, SAMPLER_SIGMAS_NORMAL},
    [SAMPLER_TCD] = {"tcd", "TCD", "TCDScheduler", 0.3, SAMPLER_SIGMAS_NORMAL},
    [SAMPLER_DDPM] = {"ddpm", "DDPM", "DDPMScheduler", 1, SAMPLER_SIGMAS_NORMAL},
};

/* Other spellings, after plain_name: ComfyUI's, kohya's, InvokeAI's, older ones. */
static const struct {
    const char *name;
    SamplerKind kind;
} alias[] = {
    {"plms", SAMPLER_PNDM},          {"ipndm", SAMPLER_PNDM},
    {"euler_ancestral", SAMPLER_EULER_A}, {"euler_discrete", SAMPLER_EULER},
    {"dpm_2", SAMPLER_DPM2},         {"dpm_2_ancestral", SAMPLER_DPM2_A},
    {"dpm_2_a", SAMPLER_DPM2_A},     {"dpm2_ancestral", SAMPLER_DPM2_A},
    {"kdpm_2", SAMPLER_DPM2},        {"kdpm_2_a", SAMPLER_DPM2_A},
    {"dpmpp_2s_ancestral", SAMPLER_DPMPP_2S_A}, {"dpmsingle", SAMPLER_DPMPP_2S},
    {"dpmsolverpp", SAMPLER_DPMPP_2M}, {"dpmsolver", SAMPLER_DPM_2M},
    {"uni_pc", SAMPLER_UNIPC},       {"uni_pc_bh1", SAMPLER_UNIPC},
    {"uni_pc_bh2", SAMPLER_UNIPC},   {"unipc_bh1", SAMPLER_UNIPC},
    {"unipc_bh2", SAMPLER_UNIPC},    {"dpmpp_2m_sde_heun", SAMPLER_DPMPP_2M_SDE},
};

static const struct {
    SamplerSigmas sigmas;
    const char *name, *a1111;
} schedules[] = {
    {SAMPLER_SIGMAS_AUTOMATIC, "automatic", "Automatic"},
    {SAMPLER_SIGMAS_NORMAL, "normal", "Normal"},
    {SAMPLER_SIGMAS_KARRAS, "karras", "Karras"},
    {SAMPLER_SIGMAS_EXPONENTIAL, "exponential", "Exponential"},
    {SAMPLER_SIGMAS_POLYEXPONENTIAL, "polyexponential", "Polyexponential"},
    {SAMPLER_SIGMAS_SGM_UNIFORM, "sgm_uniform", "SGM Uniform"},
    {SAMPLER_SIGMAS_SIMPLE, "simple", "Simple"},
    {SAMPLER_SIGMAS_DDIM_UNIFORM, "ddim_uniform", "DDIM"},
    {SAMPLER_SIGMAS_BETA, "beta", "Beta"},
    {SAMPLER_SIGMAS_KL_OPTIMAL, "kl_optimal", "KL Optimal"},
    {SAMPLER_SIGMAS_AYS, "ays", "Align Your Steps"},
    {SAMPLER_SIGMAS_AYS_SDXL, "ays_sdxl", "Align Your Steps"},
    {SAMPLER_SIGMAS_LU, "lu", "Lu"},
    {SAMPLER_SIGMAS_NORMAL, "uniform", "Uniform"},
    {SAMPLER_SIGMAS_SGM_UNIFORM, "sgmuniform", ""},
    {SAMPLER_SIGMAS_DDIM_UNIFORM, "ddim", ""},
    {SAMPLER_SIGMAS_AYS, "align_your_steps", ""},
    {SAMPLER_SIGMAS_KARRAS, "k", ""}, /* InvokeAI's dpmpp_2m_k */
};
enum { NKIND_ALIAS = sizeof alias / sizeof *alias, NSCHEDULE = sizeof schedules / sizeof *schedules };

static const char *const spacing_names[] = {"leading", "trailing", "linspace"};

const char *sampler_kind_name(SamplerKind kind) { return kind < SAMPLER_KINDS ? kinds[kind].name : "unavailable"; }
const char *sampler_kind_a1111_name(SamplerKind kind) { return kind < SAMPLER_KINDS ? kinds[kind].a1111 : "unavailable"; }

SamplerKind sampler_kind_of_class(const char *class_name)
{
    for (int k = 0; k < SAMPLER_KINDS; k++)
        if (kinds[k].class_name[0] && strcmp(kinds[k].class_name, class_name) == 0)
            return (SamplerKind)k;
    return SAMPLER_KINDS;
}

double sampler_conf_eta(const SamplerConf *c) { return c->eta >= 0 || c->kind >= SAMPLER_KINDS ? c->eta : kinds[c->kind].eta; }

SamplerSigmas sampler_conf_sigmas(const SamplerConf *c)
{
    if (c->rules <= SAMPLER_RULES_DIFFUSERS)
        return c->sigmas == SAMPLER_SIGMAS_AUTOMATIC ? SAMPLER_SIGMAS_NORMAL : c->sigmas;
    if (c->named && c->sigmas != SAMPLER_SIGMAS_AUTOMATIC)
        return c->sigmas;
    return c->rules == SAMPLER_RULES_A1111 && c->kind < SAMPLER_KINDS ? kinds[c->kind].a1111_automatic : SAMPLER_SIGMAS_NORMAL;
}

const char *sampler_spacing_name(const SamplerConf *c)
{
    SamplerSigmas m = sampler_conf_sigmas(c);
    return m > SAMPLER_SIGMAS_NORMAL                               ? schedules[m].name
           : c->rules <= SAMPLER_RULES_DIFFUSERS || c->spaced      ? spacing_names[c->spacing]
                                                                   : "normal";
}

const char *sampler_spacing_a1111_name(const SamplerConf *c)
{
    SamplerSigmas m = sampler_conf_sigmas(c);
    return m > SAMPLER_SIGMAS_NORMAL ? schedules[m].a1111 : sampler_spacing_name(c);
}

/* "DPM++ 2M Karras" -> "dpmpp_2m_karras". */
static void plain_name(const char *name, char *out, size_t size)
{
    size_t n = 0;
    for (; *name && n + 2 < size; name++)
        out[n++] = *name == ' ' || *name == '-' ? '_' : *name == '+' ? 'p' : (char)tolower((unsigned char)*name);
    out[n] = 0;
}

static int set_schedule(SamplerConf *conf, const char *plain)
{
    for (int i = 0; i < NSCHEDULE; i++)
        if (strcmp(plain, schedules[i].name) == 0) {
            conf->sigmas = schedules[i].sigmas;
            conf->named = 1;
            return 1;
        }
    for (int i = 0; i < 3; i++)
        if (strcmp(plain, spacing_names[i]) == 0) {
            conf->spacing = (SamplerSpacing)i;
            conf->sigmas = SAMPLER_SIGMAS_NORMAL;
            conf->named = conf->spaced = 1;
            return 1;
        }
    return 0;
}

int sampler_conf_set_spacing(SamplerConf *conf, const char *name)
{
    char text[64];
    plain_name(name, text, sizeof text);
    return set_schedule(conf, text) ? 0 : err_set(ERR_RANGE, "spacing \"%s\": expected %s", name, SAMPLER_KNOWN_SPACINGS);
}

static SamplerKind find_kind(const char *text)
{
    for (int k = 0; k < SAMPLER_KINDS; k++)
        if (strcmp(text, kinds[k].name) == 0)
            return (SamplerKind)k;
    for (int i = 0; i < NKIND_ALIAS; i++)
        if (strcmp(text, alias[i].name) == 0)
            return alias[i].kind;
    return SAMPLER_KINDS;
}

/* Splits "kind_schedule" at the first underscore where both sides are known. */
static SamplerKind split_name(char *text, const char **schedule)
{
    SamplerConf scratch = {0};
    SamplerKind kind = find_kind(text);
    *schedule = NULL;
    for (char *at = strchr(text, '_'); kind == SAMPLER_KINDS && at; at = strchr(at + 1, '_')) {
        *at = 0;
        kind = find_kind(text);
        if (kind < SAMPLER_KINDS && set_schedule(&scratch, at + 1)) {
            *schedule = at + 1;
            return kind;
        }
        kind = SAMPLER_KINDS;
        *at = '_';
    }
    return kind;
}

/* diffusers' classes without a schedule of sigmas: what another class's file said is dropped. */
static int without_sigmas(SamplerKind k)
{
    return k == SAMPLER_DDIM || k == SAMPLER_PNDM || k == SAMPLER_EULER_A || k == SAMPLER_DDPM || k == SAMPLER_LCM || k == SAMPLER_TCD;
}

static void cut_gpu(SamplerConf *conf, char *text)
{
    char *gpu = strstr(text, "_gpu");
    conf->sde_gpu = gpu != NULL;
    if (gpu)
        memmove(gpu, gpu + 4, strlen(gpu + 4) + 1);
}

int sampler_conf_set_kind(SamplerConf *conf, const char *name)
{
    char text[64];
    const char *schedule = NULL;
    SamplerKind kind = sampler_kind_of_class(name);
    SamplerConf c = *conf;
    plain_name(name, text, sizeof text);
    if (kind == SAMPLER_KINDS) {
        cut_gpu(&c, text);
        kind = split_name(strncmp(text, "k_", 2) == 0 ? text + 2 : text, &schedule);
    }
    if (kind == SAMPLER_KINDS)
        return err_set(ERR_RANGE, "sampler \"%s\": expected %s, perhaps with a schedule as in dpmpp_2m_karras", name, SAMPLER_KNOWN_KINDS);
    if (without_sigmas(kind) && !c.named)
        c.sigmas = SAMPLER_SIGMAS_AUTOMATIC;
    sampler_conf_apply_class(&c, kind);
    if (kind == SAMPLER_DPMPP_3M || kind == SAMPLER_DPMPP_3M_SDE)
        c.order = 3;
    else if ((kind == SAMPLER_DPMPP_2M || kind == SAMPLER_DPMPP_2M_SDE) && c.order > 2)
        c.order = 2;
    if (strstr(text, "sde_heun"))
        c.heun_correction = 1;
    if (kind == SAMPLER_UNIPC && (strstr(text, "uni_pc") || strstr(text, "bh1") || strstr(text, "bh2")))
        c.unipc_bh = strstr(text, "bh2") ? 2 : 1;
    if (schedule)
        set_schedule(&c, schedule);
    *conf = c;
    return 0;
}
