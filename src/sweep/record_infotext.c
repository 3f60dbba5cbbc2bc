#include <stddef.h>
#include <string.h>

#include "io/file.h"
#include "sweep/record_impl.h"
#include "text/infotext.h"

const SweepNoiseNumber SWEEP_NOISE_NUMBERS[SWEEP_NOISE_COUNT] = {
    {"rho", "Schedule rho", offsetof(SweepRecordNoise, rho), 0},
    {"sigma_min", "Schedule min sigma", offsetof(SweepRecordNoise, sigma_min), 0},
    {"sigma_max", "Schedule max sigma", offsetof(SweepRecordNoise, sigma_max), 0},
    {"s_churn", "Sigma churn", offsetof(SweepRecordNoise, s_churn), 0},
    {"s_tmin", "Sigma tmin", offsetof(SweepRecordNoise, s_tmin), 0},
    {"s_tmax", "Sigma tmax", offsetof(SweepRecordNoise, s_tmax), 0},
    {"s_noise", "Sigma noise", offsetof(SweepRecordNoise, s_noise), 1},
};

double sweep_noise_number(const SweepRecordNoise *z, int i)
{
    double v;
    memcpy(&v, (const char *)z + SWEEP_NOISE_NUMBERS[i].at, sizeof v);
    return v;
}

int sweep_noise_is_usual(const SweepRecordNoise *z, int i)
{
    double v = sweep_noise_number(z, i), usual = SWEEP_NOISE_NUMBERS[i].usual;
    return !(v < usual || v > usual);
}

/* A1111's names of what is the same there. */
static const char *upscaler_name(int upscale)
{
    switch (upscale) {
    case RENDER_UPSCALE_LATENT_NEAREST: return "Latent (nearest)";
    case RENDER_UPSCALE_LATENT_BILINEAR: return "Latent";
    case RENDER_UPSCALE_LATENT_BICUBIC: return "Latent (bicubic)";
    default: return "Lanczos";
    }
}

/* "name: 0123456789ab, other: ..." */
static int add_hashes(Infotext *t, const char *key, const SweepRecordFile *file, int n)
{
    StrBuf b;
    str_init(&b);
    for (int i = 0; i < n; i++)
        str_add_format(&b, "%s%s: %.12s", i ? ", " : "", file[i].name, file[i].hash);
    int rc = str_status(&b);
    if (rc >= 0 && n)
        rc = infotext_add(t, key, b.data);
    str_deinit(&b);
    return rc;
}

/* A1111's names: modules/sd_samplers_common.py, sd_samplers_kdiffusion.py, processing.py. */
static int add_noise_info(Infotext *t, const SweepRecord *rec, SamplerKind kind)
{
    const SweepRecordNoise *z = &rec->noise;
    if (rec->eta >= 0)
        TRY(infotext_addf(t, kind == SAMPLER_DDIM ? "Eta DDIM" : "Eta", "%g", rec->eta));
    if (z->ensd)
        TRY(infotext_addf(t, "ENSD", "%lld", (long long)z->ensd));
    for (int i = 0; i < SWEEP_NOISE_COUNT; i++)
        if (!sweep_noise_is_usual(z, i))
            TRY(infotext_addf(t, SWEEP_NOISE_NUMBERS[i].a1111, "%.9g", sweep_noise_number(z, i)));
    return 0;
}

static int fill_infotext(Infotext *t, const SweepRecord *rec)
{
    SamplerConf conf;
    sampler_conf_default(&conf);
    TRY(infotext_set_prompt(t, rec->prompt, rec->negative));
    TRY(infotext_addf(t, "Steps", "%d", rec->steps));
    TRY(sampler_conf_set_kind(&conf, rec->sampler_used));
    TRY(infotext_add(t, "Sampler", sampler_kind_a1111_name(conf.kind)));
    for (int i = 0; i < SAMPLER_COMPAT_COUNT; i++)
        if (strcmp(rec->seed_compat, SAMPLER_COMPAT_NAMES[i]) == 0)
            conf.rules = sampler_compat_rules((SamplerCompat)i);
    TRY(sampler_conf_set_spacing(&conf, rec->spacing_used));
    TRY(infotext_add(t, "Schedule type", sampler_spacing_a1111_name(&conf)));
    TRY(infotext_addf(t, "CFG scale", "%g", rec->guidance));
    TRY(infotext_addf(t, "Seed", "%lld", (long long)rec->seed));
    TRY(infotext_addf(t, "Size", "%dx%d", rec->width, rec->height));
    TRY(infotext_addf(t, "Model hash", "%.10s", rec->model_hash));
    TRY(infotext_add(t, "Model", io_path_name(rec->model)));
    if (in_use(rec->vae)) {
        TRY(infotext_addf(t, "VAE hash", "%.10s", rec->vae_hash));
        TRY(infotext_add(t, "VAE", io_path_name(rec->vae)));
    }
    if (rec->variation_strength > 0) {
        TRY(infotext_addf(t, "Variation seed", "%lld", (long long)rec->variation_seed));
        TRY(infotext_addf(t, "Variation seed strength", "%g", rec->variation_strength));
    }
    if (rec->seed_width)
        TRY(infotext_addf(t, "Seed resize from", "%dx%d", rec->seed_width, rec->seed_height));
    if (in_use(rec->source))
        TRY(infotext_addf(t, "Denoising strength", "%g", rec->strength));
    else if (rec->hires.upscale)
        TRY(infotext_addf(t, "Denoising strength", "%g", rec->hires.strength));
    if (rec->clip_skip > 1)
        TRY(infotext_addf(t, "Clip skip", "%d", rec->clip_skip));
    if (strcmp(rec->seed_compat, "a1111-gpu") != 0)
        TRY(infotext_add(t, "RNG", strcmp(rec->seed_compat, "atelier") == 0 ? "Atelier" : "CPU"));
    TRY(add_noise_info(t, rec, conf.kind));
    TRY(add_hashes(t, "Lora hashes", rec->lora, rec->nlora));
    TRY(add_hashes(t, "TI hashes", rec->embedding, rec->nembedding));
    if (in_use(rec->mask) && rec->inpaint.blur > 0)
        TRY(infotext_addf(t, "Mask blur", "%g", rec->inpaint.blur));
    if (rec->hires.upscale) {
        TRY(infotext_addf(t, "Hires upscale", "%g", rec->hires.scale));
        if (rec->hires.steps)
            TRY(infotext_addf(t, "Hires steps", "%d", rec->hires.steps));
        TRY(infotext_add(t, "Hires upscaler", upscaler_name(rec->hires.upscale)));
    }
    return infotext_addf(t, "Version", "atelier %s", rec->version);
}

/* A1111 reads adapters from tags in the prompt; they are added there and nowhere else. */
int sweep_record_infotext(const SweepRecord *rec, char **text)
{
    Infotext t;
    StrBuf b;
    SweepRecord tagged = *rec;
    infotext_init(&t);
    str_init(&b);
    str_add(&b, rec->prompt);
    for (int i = 0; i < rec->nlora; i++)
        str_add_format(&b, " <lora:%s:%g>", rec->lora[i].name, rec->lora[i].scale);
    int rc = str_status(&b);
    if (rc >= 0) {
        tagged.prompt = b.data;
        rc = fill_infotext(&t, &tagged);
    }
    if (rc >= 0)
        rc = infotext_build(text, &t);
    str_deinit(&b);
    infotext_deinit(&t);
    return rc;
}
