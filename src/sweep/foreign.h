/* What other programs' images say about themselves, as an Atelier configuration.
 *     A1111     "parameters" (PNG text, EXIF UserComment); also Forge, sd.cpp and all who write that text. modules/infotext_utils.py
 *     ComfyUI   "prompt": the executed graph as JSON (nodes.py, execution.py)
 *     InvokeAI  "invokeai_metadata": JSON (invokeai/app/invocations/metadata.py)
 * What has no counterpart here is named in `lost`. */
#ifndef SWEEP_FOREIGN_H
#define SWEEP_FOREIGN_H

#include "base/str.h"
#include "io/png.h"

enum { FOREIGN_MAX_LORA = 16 };

typedef struct {
    char *name, *hash, *path; /* hash: first digits of the SHA-256, or ""; path: "" until found */
    double scale;
} ForeignLora;

typedef struct {
    const char *tool;                 /* "A1111", "ComfyUI", "InvokeAI" */
    char *prompt, *negative;
    char *sampler, *spacing;          /* our names; "": the model's own */
    char *model, *model_hash, *model_path; /* name; first digits of the file's SHA-256; "" until found */
    char *vae, *source, *mask;        /* names of files; "" */
    const char *seed_compat;
    int64_t seed, variation_seed;
    int steps, width, height, clip_skip, hires_steps, seed_width, seed_height; /* 0: not said (clip_skip 1) */
    double guidance, guidance_rescale, strength, variation_strength, hires_scale, hires_strength; /* guidance < 0: not said */
    char *hires;                      /* RENDER_UPSCALE_NAMES; "" */
    ForeignLora lora[FOREIGN_MAX_LORA];
    int nlora;
    StrBuf numbers;                   /* "key: value\n" of settings that are plain numbers: eta, ensd, s_churn, ... */
    StrBuf lost;                      /* a line each, with its newline */
} Foreign;

/* ERR_NOTFOUND when none of the texts is of a known program, ERR_FORMAT when it is damaged; `name` is for messages. foreign_deinit in
 * every case. */
int foreign_parse(Foreign *f, const IoPngText *text, int ntext, const char *name);
void foreign_deinit(Foreign *f);
/* A configuration for `atelier sweep` or `atelier reproduce`, with what was lost as comments. */
void foreign_yaml(const Foreign *f, const char *name, const char *output, StrBuf *out);

/* The readers of each, on an initialised f. */
void foreign_init(Foreign *f);
int foreign_a1111(Foreign *f, const char *text);
int foreign_comfy(Foreign *f, const char *json);
int foreign_invoke(Foreign *f, const char *json);

/* For these readers. Replaces *to; NULL value: nothing. */
int foreign_set(char **to, const char *value);
void foreign_lost(Foreign *f, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
int foreign_add_lora(Foreign *f, const char *name, const char *hash, double scale);
/* Their names of a sampler and a schedule (NULL: not said) into ours; what is not available is lost. */
int foreign_set_sampler(Foreign *f, const char *sampler, const char *schedule);
/* The wanted name where this program has it, else the nearest one it has, which is noted. */
void foreign_set_seed_compat(Foreign *f, const char *wanted);

#endif
