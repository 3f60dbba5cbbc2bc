#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sweep/foreign.h"
#include "text/infotext.h"

static int get_int(Foreign *f, const Infotext *t, const char *key, int64_t lo, int64_t hi, int64_t *out)
{
    const char *s = infotext_get(t, key);
    char *end;
    if (!s)
        return 0;
    errno = 0;
    long long v = strtoll(s, &end, 10);
    if (errno || end == s || *end || v < lo || v > hi) {
        foreign_lost(f, "%s: %s", key, s);
        return 0;
    }
    *out = v;
    return 1;
}

static int get_number(Foreign *f, const Infotext *t, const char *key, double lo, double hi, double *out)
{
    const char *s = infotext_get(t, key);
    char *end;
    if (!s)
        return 0;
    double v = strtod(s, &end);
    if (end == s || *end || !isfinite(v) || v < lo || v > hi) {
        foreign_lost(f, "%s: %s", key, s);
        return 0;
    }
    *out = v;
    return 1;
}

static void get_size(Foreign *f, const Infotext *t, const char *key, int *width, int *height)
{
    const char *s = infotext_get(t, key);
    int w, h, used = 0;
    if (!s)
        return;
    if (sscanf(s, "%6dx%6d%n", &w, &h, &used) == 2 && !s[used] && w >= 8 && h >= 8 && w <= 16384 && h <= 16384) {
        *width = w;
        *height = h;
    } else {
        foreign_lost(f, "%s: %s", key, s);
    }
}

/* Hash of a name in "Lora hashes": "a: 0123456789ab, b: ...". */
static void hash_of(const char *list, const char *name, char out[65])
{
    size_t n = strlen(name);
    out[0] = 0;
    for (const char *p = list; p && *p;) {
        while (*p == ' ' || *p == ',')
            p++;
        if (strncmp(p, name, n) == 0 && p[n] == ':') {
            p += n + 1;
            p += strspn(p, " ");
            size_t digits = strspn(p, "0123456789abcdefABCDEF");
            if (digits >= 8 && digits <= 64)
                snprintf(out, 65, "%.*s", (int)digits, p);
            return;
        }
        p = strchr(p, ',');
    }
}

/* One <lora:name:scale> or <lora:name:te:unet>; `end` is its '>'. */
static int take_lora(Foreign *f, const char *body, const char *end, const char *hashes)
{
    char text[512], hash[65], *name = text, *save, *number, *after;
    if ((size_t)(end - body) >= sizeof text)
        return 0;
    snprintf(text, sizeof text, "%.*s", (int)(end - body), body);
    name = strtok_r(text, ":", &save);
    number = strtok_r(NULL, ":", &save);
    char *second = strtok_r(NULL, ":", &save);
    if (!name)
        return 0;
    double scale = number ? strtod(number, &after) : 1;
    if (!isfinite(scale) || (number && after == number))
        scale = 1;
    if (second)
        foreign_lost(f, "LoRA %s: second weight %s (the text encoder's and the UNet's are one here)", name, second);
    hash_of(hashes, name, hash);
    return foreign_add_lora(f, name, hash, scale);
}

/* Tags of adapters leave the prompt; those of other kinds too, as A1111 does before it encodes. */
static int take_tags(Foreign *f, const char *prompt, const char *hashes, char **rest)
{
    StrBuf b;
    int rc = 0;
    str_init(&b);
    while (*prompt && rc >= 0) {
        const char *end = *prompt == '<' ? strpbrk(prompt + 1, "<>") : NULL, *colon = end ? memchr(prompt, ':', (size_t)(end - prompt)) : NULL;
        if (!colon || *end != '>') {
            str_add_char(&b, *prompt++);
            continue;
        }
        if (strncmp(prompt, "<lora:", 6) == 0)
            rc = take_lora(f, prompt + 6, end, hashes);
        else
            foreign_lost(f, "tag %.*s", (int)(end - prompt + 1), prompt);
        prompt = end + 1;
    }
    while (b.len && b.data[b.len - 1] == ' ') /* the blank before a tag at the end */
        b.data[--b.len] = 0;
    if (rc >= 0)
        rc = str_take(rest, &b);
    str_deinit(&b);
    return rc;
}

/* "Automatic" is what a sampler's own entry says (modules/sd_samplers_kdiffusion.py). */
static const char *automatic(const char *sampler)
{
    static const char *const karras[] = {"DPM++ 2M", "DPM++ SDE", "DPM++ 2S a", "DPM2", "DPM2 a", "Restart"},
                            *const exponential[] = {"DPM++ 2M SDE", "DPM++ 2M SDE Heun", "DPM++ 3M SDE"};
    for (size_t i = 0; sampler && i < sizeof karras / sizeof *karras; i++)
        if (strcmp(sampler, karras[i]) == 0)
            return "karras";
    for (size_t i = 0; sampler && i < sizeof exponential / sizeof *exponential; i++)
        if (strcmp(sampler, exponential[i]) == 0)
            return "exponential";
    return NULL;
}

static int set_sampler(Foreign *f, const Infotext *t)
{
    const char *sampler = infotext_get(t, "Sampler"), *schedule = infotext_get(t, "Schedule type");
    if (schedule && strcmp(schedule, "Automatic") == 0)
        schedule = automatic(sampler);
    return foreign_set_sampler(f, sampler, schedule);
}

static int set_hires(Foreign *f, const Infotext *t)
{
    static const char *const names[][2] = {{"Latent", "latent-bilinear"}, {"Latent (nearest)", "latent-nearest"},
                                           {"Latent (bicubic)", "latent-bicubic"}, {"Lanczos", "lanczos"}};
    const char *upscaler = infotext_get(t, "Hires upscaler");
    int64_t steps = 0;
    double strength = 0.75;
    int found = get_number(f, t, "Hires upscale", 1, 8, &f->hires_scale);
    get_number(f, t, "Denoising strength", 0, 1, &strength);
    if (!found) {
        if (infotext_get(t, "Denoising strength"))
            foreign_lost(f, "img2img at strength %g: the source image is not in the file", strength);
        if (infotext_get(t, "Hires resize"))
            foreign_lost(f, "second pass at %s", infotext_get(t, "Hires resize"));
        return 0;
    }
    get_int(f, t, "Hires steps", 0, 1000, &steps);
    f->hires_steps = (int)steps;
    f->hires_strength = strength;
    for (size_t i = 0; upscaler && i < sizeof names / sizeof *names; i++)
        if (strcmp(upscaler, names[i][0]) == 0)
            return foreign_set(&f->hires, names[i][1]);
    foreign_lost(f, "second pass x%g by upscaler '%s'", f->hires_scale, upscaler ? upscaler : "");
    return 0;
}

static const struct {
    const char *theirs, *ours;
    double lo, hi; /* of numbers that are not whole */
    int whole;
} numbers[] = {{"Eta", "eta", 0, 1, 0},
               {"Eta DDIM", "eta", 0, 1, 0},
               {"ENSD", "ensd", 0, 0, 1},
               {"Schedule rho", "rho", 0, 100, 0},
               {"Schedule min sigma", "sigma_min", 0, 1e6, 0},
               {"Schedule max sigma", "sigma_max", 0, 1e6, 0},
               {"Sigma churn", "s_churn", 0, 1e6, 0},
               {"Sigma tmin", "s_tmin", 0, 1e6, 0},
               {"Sigma tmax", "s_tmax", 0, 1e6, 0},
               {"Sigma noise", "s_noise", 0, 10, 0}};
enum { NUMBERS = sizeof numbers / sizeof *numbers };

static void set_numbers(Foreign *f, const Infotext *t)
{
    int eta = 0;
    for (int i = 0; i < NUMBERS; i++) {
        double v;
        int64_t n;
        if (numbers[i].whole ? !get_int(f, t, numbers[i].theirs, -9000000000000000000, 9000000000000000000, &n)
                             : !get_number(f, t, numbers[i].theirs, numbers[i].lo, numbers[i].hi, &v))
            continue;
        if (strcmp(numbers[i].ours, "eta") == 0 && eta++)
            continue;
        str_add_format(&f->numbers, "%s: ", numbers[i].ours);
        if (numbers[i].whole)
            str_add_format(&f->numbers, "%lld", (long long)n);
        else
            str_add_number(&f->numbers, v, 0);
        str_add_char(&f->numbers, '\n');
    }
}

static int is_number(const char *key)
{
    for (int i = 0; i < NUMBERS; i++)
        if (strcmp(numbers[i].theirs, key) == 0)
            return 1;
    return 0;
}

static int set_rest(Foreign *f, const Infotext *t)
{
    static const char *const known[] = {"Steps", "Sampler", "Schedule type", "CFG scale", "Seed", "Size", "Model hash", "Model", "VAE",
                                        "Clip skip", "RNG", "Lora hashes", "Version", "Denoising strength", "Hires upscale", "Hires steps",
                                        "Hires upscaler", "Hires resize", "Variation seed", "Variation seed strength", "Seed resize from",
                                        "VAE hash", "CFG Rescale", "User"};
    for (int i = 0; i < t->nfield; i++) {
        int is_known = is_number(t->field[i].key);
        for (size_t k = 0; k < sizeof known / sizeof *known; k++)
            is_known |= strcmp(t->field[i].key, known[k]) == 0;
        if (!is_known)
            foreign_lost(f, "%s: %s", t->field[i].key, t->field[i].value);
    }
    const char *vae = infotext_get(t, "VAE"), *rng = infotext_get(t, "RNG");
    if (vae)
        foreign_lost(f, "VAE %s (hash %s): name a folder with the key vae", vae, infotext_get(t, "VAE hash") ? infotext_get(t, "VAE hash") : "unknown");
    foreign_set_seed_compat(f, rng && strcmp(rng, "CPU") == 0 ? "a1111-cpu" : "a1111-gpu");
    if (rng && strcmp(rng, "CPU") != 0 && strcmp(rng, "NV") != 0 && strcmp(rng, "GPU") != 0)
        foreign_lost(f, "RNG: %s", rng);
    return 0;
}

static int convert(Foreign *f, const Infotext *t)
{
    int64_t steps = 0, skip = 1;
    const char *hashes = infotext_get(t, "Lora hashes");
    if (!infotext_get(t, "Steps"))
        return err_set(ERR_FORMAT, "no line of settings (Steps: ...) at its end");
    TRY(take_tags(f, t->prompt, hashes, &f->prompt));
    TRY(foreign_set(&f->negative, t->negative));
    get_int(f, t, "Steps", 1, 1000, &steps);
    get_int(f, t, "Clip skip", 1, 64, &skip);
    get_int(f, t, "Seed", 0, INT64_MAX, &f->seed);
    get_int(f, t, "Variation seed", 0, INT64_MAX, &f->variation_seed);
    get_number(f, t, "Variation seed strength", 0, 1, &f->variation_strength);
    get_number(f, t, "CFG scale", 0, 1000, &f->guidance);
    get_number(f, t, "CFG Rescale", 0, 1, &f->guidance_rescale);
    f->steps = (int)steps;
    f->clip_skip = (int)skip;
    get_size(f, t, "Size", &f->width, &f->height);
    get_size(f, t, "Seed resize from", &f->seed_width, &f->seed_height);
    TRY(foreign_set(&f->model, infotext_get(t, "Model")));
    TRY(foreign_set(&f->model_hash, infotext_get(t, "Model hash")));
    TRY(set_sampler(f, t));
    set_numbers(f, t);
    TRY(set_hires(f, t));
    return set_rest(f, t);
}

int foreign_a1111(Foreign *f, const char *text)
{
    Infotext t;
    f->tool = "A1111";
    TRY(infotext_parse(&t, text));
    int rc = convert(f, &t);
    infotext_deinit(&t);
    return rc;
}
