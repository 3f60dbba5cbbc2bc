/* Configuration of a sweep; configs/demo-sweep.yaml is a commented example. */
#ifndef SWEEP_CONF_H
#define SWEEP_CONF_H

#include "base/config.h"
#include "sweep/render.h"
#include "text/prompt.h"

typedef struct {
    ConfStrs rows, columns; /* axis names; both empty: the last axis makes columns, the others rows */
    ConfNode *where;        /* axis name: place in its list (from 0) for axes that are neither; default 0 */
    int cell;               /* longest side of a cell in pixels; 0: as rendered */
    char *title;
    int enabled;
} SweepSheet;

typedef enum { SWEEP_JOIN_AUTO, SWEEP_JOIN_COPY, SWEEP_JOIN_VIRTUAL } SweepJoin;
static const int64_t SWEEP_COPY_BYTES = (int64_t)256 << 20;

typedef struct {
    char *model, *variant, *output;
    int dtype;              /* place in {f32, bf16} */
    int device;             /* DEVICE_* */
    int threads, batch;
    int64_t keep;
    char *prompt, *negative;
    int64_t seed;
    int seed_compat;        /* SamplerCompat */
    char *vae;              /* folder; "": the model's own */
    char *source, *mask;    /* image files; "": none */
    double strength;
    int encode;             /* RenderEncode */
    RenderInpaint inpaint;
    RenderHires hires;
    int64_t variation_seed;
    double variation_strength;
    ConfInts seed_size;     /* [] the image's, [n] or [width, height] */
    int32_t batch_index, batch_size; /* place in a batch of ComfyUI's; size 0: alone */
    int32_t vae_tile;       /* -1: where the image is large */
    ConfInts size;          /* [] native, [n] or [width, height] */
    int32_t steps, clip_skip;
    char *sampler, *spacing; /* "": the model's own */
    double guidance, guidance_rescale, eta;
    double rho, sigma_min, sigma_max, s_churn, s_tmin, s_tmax, s_noise;
    int64_t ensd;           /* A1111's eta noise seed delta */
    int gpu;                /* place in {any, h100, a100, rtx4090, rtx3090} */
    ConfNode *lora;
    ConfNode *axes;
    ConfNode *only, *exclude;
    char *wildcards, *loras; /* folders */
    ConfStrs embeddings;     /* textual inversion files */
    int prompt_rules;        /* place in SWEEP_RULES_NAMES */
    int png, latents;
    int join;               /* SweepJoin */
    int64_t queue;
    double patience;
    SweepSheet sheet;
} SweepConf;

extern const ConfTable sweep_conf_table;
extern const char *const SWEEP_GPU_NAMES[]; /* any, h100, a100, rtx4090, rtx3090, NULL */

/* "auto" (what belongs to seed_compat), then PROMPT_RULES_NAMES. */
extern const char *const SWEEP_RULES_NAMES[];
/* PromptRules for a place in SWEEP_RULES_NAMES. */
int sweep_conf_rules(int rules, int seed_compat);

/* Reads, overrides and checks. config_deinit(&sweep_conf_table, c) in every case. */
int sweep_conf_read(SweepConf *c, const char *path, const char *const *overrides, int count);
/* Noise and sigma keys of the sampler into a setup. */
void sweep_conf_noise(const SweepConf *c, RenderSetup *s);
Dtype sweep_conf_dtype(const SweepConf *c);
void sweep_conf_render(const SweepConf *c, RenderConf *out);
/* YAML of all keys that decide what the images are; batch, threads, output and the like are at their defaults. *text: free(). */
int sweep_conf_identity(const SweepConf *c, char **text);

#endif
