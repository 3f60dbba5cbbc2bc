#include "sweep/conf.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "graph/device.h"

const char *const SWEEP_GPU_NAMES[] = {"any", "h100", "a100", "rtx4090", "rtx3090", NULL};
static const char *const dtypes[] = {"f32", "bf16", NULL};
static const char *const joins[] = {"auto", "copy", "virtual", NULL};

const char *const SWEEP_RULES_NAMES[] = {"auto", "atelier", "a1111", "a1111-no-norm", "comfyui", "diffusers", NULL};

int sweep_conf_rules(int rules, int seed_compat)
{
    return rules > 0 ? rules - 1 : (int)render_seed_rules((SamplerCompat)seed_compat);
}

static const ConfField sheet_fields[] = {
    CONF_BOOL(SweepSheet, enabled, "true", "write sheet.png, a grid of the images with labels"),
    CONF_STRS(SweepSheet, rows, "[]", 0, 16, "axes laid out downwards"),
    CONF_STRS(SweepSheet, columns, "[]", 0, 16, "axes laid out to the right; the last axis when neither is given"),
    CONF_NODE(SweepSheet, where, "", "places in the other axes, {seed: 2}; default: their first value"),
    CONF_I32(SweepSheet, cell, "0", 0, 4096, "longest side of a picture in pixels (grown by whole factors only); 0: as rendered"),
    CONF_STR(SweepSheet, title, "", "line above the grid"),
};
static const ConfTable sheet_table = CONF_TABLE(SweepSheet, sheet_fields);

static const ConfField inpaint_fields[] = {
    CONF_F64(RenderInpaint, blur, "0", 0, 256, "deviation in pixels of a Gaussian blur of the mask"),
    CONF_BOOL(RenderInpaint, invert, "false", "black in the mask is made anew instead of white"),
    CONF_ENUM(RenderInpaint, fill, "original", RENDER_FILL_NAMES, "what lies under the mask before denoising"),
    CONF_BOOL(RenderInpaint, paste, "true", "pixels outside the mask stay the source's own"),
};
static const ConfTable inpaint_table = CONF_TABLE(RenderInpaint, inpaint_fields);

static const ConfField hires_fields[] = {
    CONF_ENUM(RenderHires, upscale, "off", RENDER_UPSCALE_NAMES, "a second pass at a larger size, and how the first result gets there"),
    CONF_F64(RenderHires, scale, "2", 1, 8, "size of the second pass by that of the first"),
    CONF_I32(RenderHires, steps, "0", 0, 1000, "steps of the second pass; 0: as the first"),
    CONF_F64(RenderHires, strength, "0.6", 0, 1, "share of these steps that is run"),
};
static const ConfTable hires_table = CONF_TABLE(RenderHires, hires_fields);

static const ConfField fields[] = {
    CONF_STR(SweepConf, model, NULL, "model folder in the diffusers layout"),
    CONF_STR(SweepConf, vae, "", "folder of another VAE (diffusers layout); empty: the model's own"),
    CONF_STR(SweepConf, variant, "", "variant of the weight files to prefer, for instance fp16"),
    CONF_STR(SweepConf, output, NULL, "output folder"),
    CONF_ENUM(SweepConf, dtype, "f32", dtypes, "arithmetic of the networks"),
    CONF_ENUM(SweepConf, device, "auto", DEVICE_NAMES, "where to compute: auto takes the GPU of this rank where there is one"),
    CONF_I32(SweepConf, threads, "0", 0, 4096, "threads per rank; 0: the cores of the node shared among its ranks"),
    CONF_I32(SweepConf, batch, "4", 1, 1024, "most images denoised at once; the images do not depend on it"),
    CONF_I32(SweepConf, vae_tile, "-1", -1, 16384, "side in pixels of the VAE's tiles; 0: never, -1: tiles of 512 for images over 2 megapixels"),
    CONF_SIZE(SweepConf, keep, "1GiB", 0, 0x1p50, "networks that fit together in this much memory stay there between stages"),
    CONF_STR(SweepConf, prompt, "", "prompt, where no axis sets it"),
    CONF_STR(SweepConf, negative, "", "negative prompt"),
    CONF_I64(SweepConf, seed, "0", 0, 9223372036854775807.0, "seed"),
    CONF_ENUM(SweepConf, seed_compat, "atelier", SAMPLER_COMPAT_NAMES, "which program's image a seed gives"),
    CONF_INTS(SweepConf, size, "[]", 8, 16384, "[width, height] in pixels; []: the size the model was trained on"),
    CONF_STR(SweepConf, source, "", "image to start from (img2img, inpainting), resized to the size"),
    CONF_STR(SweepConf, mask, "", "image of the same place: white is made anew, black stays (inpainting)"),
    CONF_F64(SweepConf, strength, "0.75", 0, 1, "share of the steps run from the source; 1: the source is forgotten"),
    CONF_ENUM(SweepConf, encode, "sample", RENDER_ENCODE_NAMES, "latents of the source: a draw from the VAE's distribution, or its mean"),
    CONF_STRUCT(SweepConf, inpaint, &inpaint_table, "use of the mask"),
    CONF_STRUCT(SweepConf, hires, &hires_table, "second pass at a larger size"),
    CONF_I64(SweepConf, variation_seed, "0", 0, 9223372036854775807.0, "seed of the noise that is mixed in"),
    CONF_F64(SweepConf, variation_strength, "0", 0, 1, "share of the variation seed's noise; 0: none"),
    CONF_INTS(SweepConf, seed_size, "[]", 8, 16384, "[width, height] at which the noise is drawn, to keep a composition at another size"),
    CONF_I32(SweepConf, batch_size, "0", 0, 4096, "with seed_compat comfyui: images in the batch that the seed made there (its noise is one draw); 0: one"),
    CONF_I32(SweepConf, batch_index, "0", 0, 4095, "which of them this is, from 0"),
    CONF_I32(SweepConf, steps, "20", 1, 1000, "denoising steps"),
    CONF_I32(SweepConf, clip_skip, "1", 1, 64, "text encoder layer, counted from the last (2: the one before)"),
    CONF_STR(SweepConf, sampler, "", "one of those that atelier help sweep lists; empty: the model's"),
    CONF_STR(SweepConf, spacing, "", "schedule of noise levels, one of those that atelier help sweep lists; empty: the model's"),
    CONF_F64(SweepConf, guidance, "7.5", 0, 1000, "classifier-free guidance scale; 1 or less: no guidance"),
    CONF_F64(SweepConf, guidance_rescale, "0", 0, 1, "share of the guided result rescaled to the plain one's deviation"),
    CONF_F64(SweepConf, rho, "0", 0, 100, "bend of the karras (7) and polyexponential (1) schedules; 0: these"),
    CONF_F64(SweepConf, sigma_min, "0", 0, 1e6, "lowest sigma of a schedule before its end; 0: the model's"),
    CONF_F64(SweepConf, sigma_max, "0", 0, 1e6, "highest sigma of a schedule; 0: the model's"),
    CONF_F64(SweepConf, s_churn, "0", 0, 1e6, "noise added before steps of euler, heun and dpm2 (arXiv:2206.00364, algorithm 2)"),
    CONF_F64(SweepConf, s_tmin, "0", 0, 1e6, "lowest sigma with s_churn"),
    CONF_F64(SweepConf, s_tmax, "0", 0, 1e6, "highest sigma with s_churn; 0: no bound"),
    CONF_F64(SweepConf, s_noise, "1", 0, 10, "factor on the noise that samplers add"),
    CONF_I64(SweepConf, ensd, "0", -9e18, 9e18, "A1111's eta noise seed delta: later noise comes from seed + ensd; 0: it goes on"),
    CONF_ENUM(SweepConf, gpu, "any", SWEEP_GPU_NAMES, "GPU whose random numbers are drawn by the seeds of others (differs for large images)"),
    CONF_F64(SweepConf, eta, "-1", -1, 1, "share of fresh noise of DDIM, ancestral and SDE samplers; -1: the sampler's own (DDIM 0, TCD 0.3, others 1; as diffusers' pipelines, with their seeds, TCD 0)"),
    CONF_NODE(SweepConf, lora, "", "{path, scale, name} or a list of them, where no axis sets it"),
    CONF_ENUM(SweepConf, prompt_rules, "auto", SWEEP_RULES_NAMES, "whose rules for (weights), long prompts and editing hold; auto: those of seed_compat"),
    CONF_STRS(SweepConf, embeddings, "[]", 0, 1000, "textual inversion files; their names (diffusers: their tokens) stand for them in prompts"),
    CONF_STR(SweepConf, loras, "", "folder of the LoRA files that <lora:name:0.8> in prompts names"),
    CONF_STR(SweepConf, wildcards, "", "folder of wildcard files (.txt, .yaml, .json) for prompt templates"),
    CONF_NODE(SweepConf, only, "", "condition or list of conditions that images must meet: \"cfg=7 and lora='ink' or steps>=30\""),
    CONF_NODE(SweepConf, exclude, "", "condition or list of conditions that take images out"),
    CONF_NODE(SweepConf, axes, "", "what varies: name -> list or range; axes multiply, maps inside one go together"),
    CONF_BOOL(SweepConf, png, "true", "write every image as a PNG too"),
    CONF_BOOL(SweepConf, latents, "false", "keep the final latents in run.h5"),
    CONF_ENUM(SweepConf, join, "auto", joins, "run.h5 holds the images itself (copy), or shows those of parts/ beside it (virtual); auto: copy up to 256 MiB"),
    CONF_SIZE(SweepConf, queue, "256MiB", 1, 0x1p50, "finished images of a rank that may wait for the disk"),
    CONF_F64(SweepConf, patience, "60", 1, 1e6, "seconds without a sign of life after which a rank's work goes to the others"),
    CONF_STRUCT(SweepConf, sheet, &sheet_table, "contact sheet"),
};
const ConfTable sweep_conf_table = CONF_TABLE(SweepConf, fields);

int sweep_conf_read(SweepConf *c, const char *path, const char *const *overrides, int count)
{
    int rc = config_read(&sweep_conf_table, c, path, overrides, count);
    if (rc < 0) {
        char why[1024];
        snprintf(why, sizeof why, "%s", err_message());
        return str_ends_with(why, ", got a list") ? err_set(rc, "%s; what varies goes under axes", why) : rc;
    }
    if (c->seed_size.count > 2)
        return err_set(ERR_RANGE, "%s: key 'seed_size': expected [width, height], got %d numbers", path, c->seed_size.count);
    if (c->size.count > 2)
        return err_set(ERR_RANGE, "%s: key 'size': expected [width, height], got %d numbers", path, c->size.count);
    return 0;
}

void sweep_conf_noise(const SweepConf *c, RenderSetup *s)
{
    static const int64_t threads[] = {0, RNG_TORCH_THREADS_H100, RNG_TORCH_THREADS_A100, RNG_TORCH_THREADS_RTX4090, RNG_TORCH_THREADS_RTX3090};
    SamplerConf *k = &s->sampler;
    s->ensd = c->ensd;
    s->gpu_threads = threads[c->gpu];
    k->rho = c->rho;
    if (c->sigma_min > 0)
        k->sigma_min = c->sigma_min;
    if (c->sigma_max > 0)
        k->sigma_max = c->sigma_max;
    k->s_churn = c->s_churn;
    k->s_tmin = c->s_tmin;
    k->s_tmax = c->s_tmax;
    k->s_noise = c->s_noise;
}

Dtype sweep_conf_dtype(const SweepConf *c)
{
    return c->dtype ? DTYPE_BF16 : DTYPE_F32;
}

void sweep_conf_render(const SweepConf *c, RenderConf *out)
{
    *out = (RenderConf){.model = c->model,
                        .vae = c->vae,
                        .variant = c->variant[0] ? c->variant : NULL,
                        .dtype = sweep_conf_dtype(c),
                        .threads = c->threads,
                        .embeddings = (const char *const *)c->embeddings.items,
                        .nembeddings = c->embeddings.count,
                        .device = c->device,
                        .keep = c->keep};
}

int sweep_conf_identity(const SweepConf *c, char **text)
{
    static const char *const neutral[] = {"output=.", "device=auto", "threads=0", "batch=1", "keep=1GiB", "png=true", "join=auto", "queue=256MiB", "patience=60"};
    SweepConf plain = {0};
    StrBuf b;
    int rc;
    str_init(&b);
    TRY_GOTO(config_copy(&sweep_conf_table, &plain, c));
    for (size_t i = 0; i < sizeof neutral / sizeof *neutral; i++)
        TRY_GOTO(config_override(&sweep_conf_table, &plain, neutral[i]));
    config_deinit(&sheet_table, &plain.sheet);
    TRY_GOTO(config_init(&sheet_table, &plain.sheet));
    TRY_GOTO(config_dump(&sweep_conf_table, &plain, &b));
    rc = str_take(text, &b);
done:
    config_deinit(&sweep_conf_table, &plain);
    str_deinit(&b);
    return rc;
}
