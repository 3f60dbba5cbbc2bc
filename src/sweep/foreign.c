#include "sweep/foreign.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/config.h"
#include "sweep/render.h"

void foreign_init(Foreign *f)
{
    memset(f, 0, sizeof *f);
    str_init(&f->lost);
    str_init(&f->numbers);
    f->seed_compat = SAMPLER_COMPAT_NAMES[0];
    f->clip_skip = 1;
    f->guidance = -1;
    f->strength = -1;
}

void foreign_deinit(Foreign *f)
{
    char **const texts[] = {&f->prompt, &f->negative, &f->sampler, &f->spacing, &f->model, &f->model_hash, &f->model_path, &f->vae,
                            &f->source, &f->mask,     &f->hires};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        free(*texts[i]);
    for (int i = 0; i < f->nlora; i++) {
        free(f->lora[i].name);
        free(f->lora[i].hash);
        free(f->lora[i].path);
    }
    str_deinit(&f->lost);
    str_deinit(&f->numbers);
    memset(f, 0, sizeof *f);
}

int foreign_set(char **to, const char *value)
{
    char *copy;
    if (!value)
        return 0;
    TRY(str_copy(&copy, value));
    free(*to);
    *to = copy;
    return 0;
}

void foreign_lost(Foreign *f, const char *fmt, ...)
{
    va_list ap;
    StrBuf line;
    str_init(&line);
    va_start(ap, fmt);
    str_add_vformat(&line, fmt, ap);
    va_end(ap);
    for (size_t i = 0; i < line.len && i < 300; i++) /* one line, whatever a text holds */
        str_add_char(&f->lost, (unsigned char)line.data[i] < 32 ? ' ' : line.data[i]);
    str_add_char(&f->lost, '\n');
    str_deinit(&line);
}

int foreign_add_lora(Foreign *f, const char *name, const char *hash, double scale)
{
    if (f->nlora == FOREIGN_MAX_LORA) {
        foreign_lost(f, "LoRA %s: more than %d", name, FOREIGN_MAX_LORA);
        return 0;
    }
    ForeignLora *l = &f->lora[f->nlora++];
    l->scale = scale;
    TRY(foreign_set(&l->name, name));
    TRY(foreign_set(&l->hash, hash ? hash : ""));
    return foreign_set(&l->path, "");
}

/* ---- names ---- */

static const struct {
    const char *theirs, *ours;
} sampler_names[] = {
    {"euler_ancestral", "euler_a"}, {"dpm_2", "dpm2"},         {"dpm_2_ancestral", "dpm2_a"},      {"kdpm_2", "dpm2"},
    {"kdpm_2_a", "dpm2_a"},         {"dpmpp_2s_ancestral", "dpmpp_2s_a"}, {"dpmpp_2s", "dpmpp_2s_a"}, {"uni_pc", "unipc"},
    {"uni_pc_bh2", "unipc"},        {"dpmpp_2m_sde_gpu", "dpmpp_2m_sde"}, {"dpmpp_3m_sde_gpu", "dpmpp_3m_sde"},
    {"dpmpp_sde_gpu", "dpmpp_sde"}, {"plms", "pndm"},
};

/* "SGM Uniform" -> "sgm_uniform". */
static void snake(char *out, size_t size, const char *in)
{
    size_t n = 0;
    for (; *in && n + 1 < size; in++)
        out[n++] = *in == ' ' || *in == '-' ? '_' : (char)tolower((unsigned char)*in);
    out[n] = 0;
}

static int set_spacing(Foreign *f, const char *schedule)
{
    static const char *const same[][2] = {{"uniform", "normal"}, {"discrete", "normal"}, {"align_your_steps", "ays"}, {"automatic", ""}};
    char name[64];
    SamplerConf c;
    sampler_conf_default(&c);
    if (!schedule || !*schedule)
        return 0;
    snake(name, sizeof name, schedule);
    for (size_t i = 0; i < sizeof same / sizeof *same; i++)
        if (strcmp(name, same[i][0]) == 0)
            snprintf(name, sizeof name, "%s", same[i][1]);
    if (*name && sampler_conf_set_spacing(&c, name) < 0) {
        foreign_lost(f, "schedule '%s' is not available", schedule);
        return 0;
    }
    return foreign_set(&f->spacing, name);
}

int foreign_set_sampler(Foreign *f, const char *sampler, const char *schedule)
{
    SamplerConf c;
    char name[64];
    sampler_conf_default(&c);
    if (!sampler || !*sampler)
        return set_spacing(f, schedule);
    snprintf(name, sizeof name, "%s", sampler);
    size_t n = strlen(name);
    if (n > 2 && strcmp(name + n - 2, "_k") == 0) { /* InvokeAI: Karras */
        name[n - 2] = 0;
        schedule = "karras";
    }
    for (size_t i = 0; i < sizeof sampler_names / sizeof *sampler_names; i++)
        if (strcasecmp(name, sampler_names[i].theirs) == 0)
            snprintf(name, sizeof name, "%s", sampler_names[i].ours);
    if (sampler_conf_set_kind(&c, name) < 0) {
        foreign_lost(f, "sampler '%s' is not available", sampler);
    } else {
        TRY(foreign_set(&f->sampler, sampler_kind_name(c.kind)));
        if (!schedule && c.sigmas != SAMPLER_SIGMAS_NORMAL) /* "DPM++ 2M Karras" */
            schedule = sampler_spacing_name(&c);
    }
    return set_spacing(f, schedule);
}

void foreign_set_seed_compat(Foreign *f, const char *wanted)
{
    static const char *const nearest[][2] = {{"a1111-cpu", "diffusers-cpu"},      {"comfyui", "diffusers-cpu"},
                                             {"diffusers-cpu-fp16", "diffusers-cpu"}, {"diffusers-cuda", "a1111-gpu"}};
    const char *use = wanted;
    for (int pass = 0; pass < 2; pass++) {
        for (int i = 0; SAMPLER_COMPAT_NAMES[i]; i++)
            if (strcmp(SAMPLER_COMPAT_NAMES[i], use) == 0) {
                f->seed_compat = SAMPLER_COMPAT_NAMES[i];
                if (pass)
                    foreign_lost(f, "noise as '%s' makes it is not available; '%s' is near", wanted, use);
                return;
            }
        for (size_t i = 0; i < sizeof nearest / sizeof *nearest; i++)
            if (strcmp(nearest[i][0], wanted) == 0)
                use = nearest[i][1];
    }
    foreign_lost(f, "noise as '%s' makes it is not available", wanted);
}

/* ---- choosing the reader ---- */

int foreign_parse(Foreign *f, const IoPngText *text, int ntext, const char *name)
{
    static const struct {
        const char *key;
        int (*read)(Foreign *f, const char *text);
    } readers[] = {{"invokeai_metadata", foreign_invoke}, {"prompt", foreign_comfy}, {"parameters", foreign_a1111}};
    foreign_init(f);
    for (size_t i = 0; i < sizeof readers / sizeof *readers; i++) {
        const char *value = io_png_text_find(text, ntext, readers[i].key);
        if (!value)
            continue;
        TRY_CTX(readers[i].read(f, value), "%s: text '%s'", name, readers[i].key);
        char **const must[] = {&f->prompt, &f->negative, &f->sampler, &f->spacing, &f->model, &f->model_hash, &f->model_path, &f->vae,
                               &f->source, &f->mask,     &f->hires};
        for (size_t k = 0; k < sizeof must / sizeof *must; k++)
            if (!*must[k])
                TRY(foreign_set(must[k], ""));
        TRY(str_status(&f->numbers));
        return str_status(&f->lost);
    }
    return err_set(ERR_NOTFOUND, "%s: no record of an image: none of the texts atelier, parameters (A1111), prompt (ComfyUI) and "
                   "invokeai_metadata (InvokeAI)", name);
}

/* ---- as a configuration ---- */

static void add_text(StrBuf *out, const char *key, const char *value)
{
    str_add_format(out, "%s: ", key);
    config_add_quoted(out, value);
    str_add_char(out, '\n');
}

static void add_number(StrBuf *out, const char *key, double value)
{
    str_add_format(out, "%s: ", key);
    str_add_number(out, value, 0);
    str_add_char(out, '\n');
}

/* In a comment nothing can be escaped: what YAML takes for the end of a line becomes \uXXXX as plain text. */
static void add_comment(StrBuf *out, const char *text, size_t n)
{
    StrBuf quoted;
    char *line = strndup(text, n);
    str_init(&quoted);
    config_add_quoted(&quoted, line ? line : "");
    str_add_bytes(out, quoted.data + 1, quoted.len > 2 ? quoted.len - 2 : 0);
    out->failed |= quoted.failed | !line;
    str_deinit(&quoted);
    free(line);
}

static void add_comment_lines(StrBuf *out, const char *lines)
{
    for (const char *p = lines; *p; p += *p == '\n') {
        size_t n = strcspn(p, "\n");
        str_add(out, "#   ");
        add_comment(out, p, n);
        str_add_char(out, '\n');
        p += n;
    }
}

static void add_lora(const Foreign *f, StrBuf *out)
{
    if (!f->nlora)
        return;
    str_add(out, "lora:\n");
    for (int i = 0; i < f->nlora; i++) {
        const ForeignLora *l = &f->lora[i];
        str_add(out, "  - {name: ");
        config_add_quoted(out, l->name);
        str_add(out, ", path: ");
        StrBuf path;
        str_init(&path);
        str_add_format(&path, "%s%s", l->path[0] ? l->path : l->name, l->path[0] || str_ends_with(l->name, ".safetensors") ? "" : ".safetensors");
        config_add_quoted(out, path.data);
        str_deinit(&path);
        str_add(out, ", scale: ");
        str_add_number(out, l->scale, 0);
        str_add_char(out, '}');
        if (l->hash[0]) {
            str_add(out, "  # SHA-256 ");
            add_comment(out, l->hash, strlen(l->hash));
        }
        str_add_char(out, '\n');
    }
}

static void add_more(const Foreign *f, StrBuf *out)
{
    if (f->vae[0])
        add_text(out, "vae", f->vae);
    if (f->source[0])
        add_text(out, "source", f->source);
    if (f->mask[0])
        add_text(out, "mask", f->mask);
    if (f->source[0] && f->strength >= 0)
        add_number(out, "strength", f->strength);
    if (f->variation_strength > 0) {
        str_add_format(out, "variation_seed: %lld\n", (long long)f->variation_seed);
        add_number(out, "variation_strength", f->variation_strength);
    }
    if (f->seed_width)
        str_add_format(out, "seed_size: [%d, %d]\n", f->seed_width, f->seed_height);
    if (f->hires[0]) {
        str_add_format(out, "hires: {upscale: %s, scale: ", f->hires);
        str_add_number(out, f->hires_scale, 0);
        str_add_format(out, ", steps: %d, strength: ", f->hires_steps);
        str_add_number(out, f->hires_strength, 0);
        str_add(out, "}\n");
    }
}

void foreign_yaml(const Foreign *f, const char *name, const char *output, StrBuf *out)
{
    str_add(out, "# From ");
    add_comment(out, name, strlen(name));
    str_add_format(out, ", by %s.\n", f->tool);
    if (f->lost.len) {
        str_add(out, "# Not carried over:\n");
        add_comment_lines(out, f->lost.data);
    }
    add_text(out, "model", f->model_path[0] ? f->model_path : f->model);
    if (f->model_hash[0] && !f->model_path[0]) {
        str_add(out, "#   a model folder belongs here; the file's SHA-256 began with ");
        add_comment(out, f->model_hash, strlen(f->model_hash));
        str_add_char(out, '\n');
    }
    add_text(out, "output", output);
    add_text(out, "prompt", f->prompt);
    add_text(out, "negative", f->negative);
    str_add_format(out, "seed: %lld\nseed_compat: %s\n", (long long)f->seed, f->seed_compat);
    if (f->width && f->height)
        str_add_format(out, "size: [%d, %d]\n", f->width, f->height);
    if (f->steps)
        str_add_format(out, "steps: %d\n", f->steps);
    if (f->sampler[0])
        add_text(out, "sampler", f->sampler);
    if (f->spacing[0])
        add_text(out, "spacing", f->spacing);
    if (f->guidance >= 0)
        add_number(out, "guidance", f->guidance);
    if (f->guidance_rescale > 0)
        add_number(out, "guidance_rescale", f->guidance_rescale);
    if (f->clip_skip > 1)
        str_add_format(out, "clip_skip: %d\n", f->clip_skip);
    if (f->numbers.len)
        str_add(out, f->numbers.data);
    add_lora(f, out);
    add_more(f, out);
}
