#include "sweep/render.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/str.h"
#include "graph/device.h"
#include "io/file.h"
#include "sweep/find.h"
#include "sweep/render_impl.h"
#include "text/clip_bpe.h"

const char *const RENDER_UPSCALE_NAMES[RENDER_UPSCALE_COUNT + 1] = {"off", "latent-nearest", "latent-bilinear", "latent-bicubic", "lanczos", NULL};
const char *const RENDER_FILL_NAMES[RENDER_FILL_COUNT + 1] = {"original", "noise", "zero", NULL};
const char *const RENDER_ENCODE_NAMES[RENDER_ENCODE_COUNT + 1] = {"sample", "mean", NULL};

PromptRules render_seed_rules(SamplerCompat s)
{
    static const PromptRules rules[] = {[SAMPLER_RULES_ATELIER] = PROMPT_ATELIER, [SAMPLER_RULES_DIFFUSERS] = PROMPT_DIFFUSERS,
                                        [SAMPLER_RULES_COMFY] = PROMPT_COMFYUI, [SAMPLER_RULES_A1111] = PROMPT_A1111};
    return rules[sampler_compat_rules(s)];
}

static int check_model(const Render *r, const char *model)
{
    const UnetConfig *u = pipeline_unet(r->pipe);
    const VaeConfig *v = pipeline_vae(r->pipe);
    int c = v->latent_channels;
    if ((u->in_channels != c && u->in_channels != 2 * c + 1) || u->out_channels != c || v->in_channels != 3)
        return err_set(ERR_UNSUPPORTED, "%s: the UNet maps %d to %d channels and the VAE has %d: neither a text-to-image nor an inpainting model",
                       model, u->in_channels, u->out_channels, c);
    if (u->context != pipeline_text(r->pipe)->hidden)
        return err_set(ERR_SHAPE, "%s: the UNet expects text embeddings of width %d, the text encoder gives %d", model, u->context,
                       pipeline_text(r->pipe)->hidden);
    return 0;
}

int render_open_shared(Render **out, const RenderConf *conf, RenderPool *pool, Backend *be)
{
    int rc;
    Render *r = calloc(1, sizeof *r);
    if (!r)
        return err_set(ERR_NOMEM, "out of memory");
    r->dtype = conf->dtype;
    r->keep = conf->keep;
    r->pool = pool;
    TRY_GOTO(pipeline_open_with_vae(&r->pipe, conf->model, conf->variant, conf->vae));
    TRY_GOTO(check_model(r, conf->model));
    sampler_conf_default(&r->sampler);
    TRY_GOTO(sampler_conf_from_json(&r->sampler, pipeline_scheduler_path(r->pipe)));
    r->sampler.steps = 20;
    TRY_GOTO(clip_bpe_open(&r->tok, pipeline_tokenizer_dir(r->pipe)));
    inversion_set_init(&r->words, pipeline_text(r->pipe)->hidden);
    for (int i = 0; i < conf->nembeddings; i++)
        TRY_GOTO(inversion_set_add(&r->words, conf->embeddings[i], NULL));
    r->be = be;
    if (!be) {
        TRY_GOTO(device_create(&r->be, conf->device, conf->local_rank, conf->threads));
        r->own_backend = 1;
    }
    snprintf(r->backend, sizeof r->backend, "%s", r->be->label);
    *out = r;
    return 0;
done:
    render_close(r);
    return rc;
}

int render_open(Render **out, const RenderConf *conf)
{
    return render_open_shared(out, conf, NULL, NULL);
}

int render_open_live(Render **out, const RenderConf *conf, const RenderLive *live)
{
    Render *r;
    int rc = 0;
    TRY(render_open_shared(&r, conf, NULL, live->be));
    r->live = live->weights;
    if (live->word)
        rc = inversion_set_put(&r->words, live->word, live->vectors, live->nvectors);
    if (rc >= 0 && live->adapter) {
        r->adapter = calloc(1, sizeof *r->adapter);
        rc = r->adapter ? str_copy(&r->adapter[0].path, RENDER_LIVE) : err_set(ERR_NOMEM, "out of memory");
        if (rc >= 0) {
            r->adapter[0].lora = live->adapter;
            r->adapter[0].borrowed = 1;
            r->nadapter = 1;
        }
    }
    if (rc < 0) {
        render_close(r);
        return rc;
    }
    *out = r;
    return 0;
}

void render_close(Render *r)
{
    if (!r)
        return;
    while (render_net_drop(r))
        ;
    for (int i = 0; i < PIPELINE_PARTS; i++)
        nn_params_destroy(r->params[i]);
    for (int i = 0; i < r->nadapter; i++) {
        if (!r->adapter[i].borrowed)
            lora_destroy(r->adapter[i].lora);
        free(r->adapter[i].path);
    }
    free(r->adapter);
    render_text_deinit(r);
    render_source_deinit(r);
    nn_modules_deinit(&r->modules);
    clip_bpe_close(r->tok);
    if (r->own_backend)
        backend_destroy(r->be);
    pipeline_close(r->pipe);
    free(r);
}

Pipeline *render_pipeline(Render *r)
{
    return r->pipe;
}

const char *render_backend(const Render *r)
{
    return r->backend;
}

void render_setup_default(const Render *r, RenderSetup *s)
{
    memset(s, 0, sizeof *s);
    s->sampler = r->sampler;
    s->width = s->height = pipeline_unet(r->pipe)->sample_size * vae_factor(pipeline_vae(r->pipe));
    s->clip_skip = 1;
    s->guided = 1;
    s->strength = 0.75;
    s->inpaint.paste = 1;
    s->hires = (RenderHires){.scale = 2, .strength = 0.6};
}

static int check_source(const Render *r, const RenderSetup *s)
{
    int inpainting = pipeline_unet(r->pipe)->in_channels > pipeline_vae(r->pipe)->latent_channels;
    if (s->mask && !s->source)
        return err_set(ERR_RANGE, "mask without a source: set the image that it belongs to");
    if (inpainting && !s->mask)
        return err_set(ERR_RANGE, "%s is an inpainting model: set source and mask", pipeline_dir(r->pipe));
    if (s->source && !(s->strength >= 0 && s->strength <= 1))
        return err_set(ERR_RANGE, "strength %g: expected 0..1", s->strength);
    if (!(s->inpaint.blur >= 0 && s->inpaint.blur <= 256))
        return err_set(ERR_RANGE, "inpaint.blur %g: expected 0..256", s->inpaint.blur);
    if (s->vae_tile && (s->vae_tile < 64 || s->vae_tile > 16384))
        return err_set(ERR_RANGE, "vae_tile %d: expected 0 or 64..16384", s->vae_tile);
    return 0;
}

static int check_hires(const Render *r, const RenderSetup *s)
{
    int w, h;
    if (!s->hires.upscale)
        return 0;
    if (s->mask)
        return err_set(ERR_UNSUPPORTED, "hires with a mask: inpaint at the full size instead");
    if (!(s->hires.scale >= 1 && s->hires.scale <= 8) || !(s->hires.strength >= 0 && s->hires.strength <= 1))
        return err_set(ERR_RANGE, "hires: scale %g (expected 1..8), strength %g (expected 0..1)", s->hires.scale, s->hires.strength);
    render_setup_size(r, s, &w, &h);
    return w <= 16384 && h <= 16384 ? 0 : err_set(ERR_RANGE, "hires: %dx%d is more than 16384", w, h);
}

int render_setup_check(const Render *r, const RenderSetup *s)
{
    int f = vae_factor(pipeline_vae(r->pipe)), layers = pipeline_text(r->pipe)->layers;
    if (s->width <= 0 || s->height <= 0 || s->width % f || s->height % f || s->width > 16384 || s->height > 16384)
        return err_set(ERR_RANGE, "size %dx%d: both sides must be multiples of %d up to 16384 for this model", s->width, s->height, f);
    if (s->clip_skip < 1 || s->clip_skip > layers)
        return err_set(ERR_RANGE, "clip_skip %d: expected 1..%d for this model", s->clip_skip, layers);
    if ((int)s->rules < 0 || s->rules >= PROMPT_RULES)
        return err_set(ERR_RANGE, "prompt rules %d: expected 0..%d", (int)s->rules, PROMPT_RULES - 1);
    if (s->nlora < 0 || s->nlora > RENDER_MAX_LORA)
        return err_set(ERR_RANGE, "%d LoRAs at once: at most %d", s->nlora, RENDER_MAX_LORA);
    for (int i = 0; i < s->nlora; i++)
        for (int k = 0; k < i; k++)
            if (strcmp(s->lora[i].path, s->lora[k].path) == 0)
                return err_set(ERR_RANGE, "LoRA %s is given twice for one image", s->lora[i].path);
    TRY(check_source(r, s));
    TRY(check_hires(r, s));
    return sampler_conf_check(&s->sampler);
}

void render_setup_size(const Render *r, const RenderSetup *s, int *width, int *height)
{
    int f = vae_factor(pipeline_vae(r->pipe));
    double scale = s->hires.upscale ? s->hires.scale : 1;
    *width = (int)floor(s->width * scale / f + 1e-9) * f;
    *height = (int)floor(s->height * scale / f + 1e-9) * f;
}

void render_setup_tile(const Render *r, RenderSetup *s, int tile)
{
    int w, h;
    render_setup_size(r, s, &w, &h);
    s->vae_tile = tile >= 0 ? tile : (int64_t)w * h > (int64_t)2 << 20 ? 512 : 0;
}

int64_t render_latent_count(const Render *r, const RenderSetup *s, int64_t dim[3])
{
    int f = vae_factor(pipeline_vae(r->pipe)), w, h;
    render_setup_size(r, s, &w, &h);
    dim[0] = pipeline_vae(r->pipe)->latent_channels;
    dim[1] = h / f;
    dim[2] = w / f;
    return dim[0] * dim[1] * dim[2];
}

void render_result_deinit(RenderResult *res)
{
    io_image_deinit(&res->image);
    free(res->latents);
    res->latents = NULL;
}

/* ---- rendering ---- */

/* The second pass is img2img at the larger size. */
RenderSetup render_second_setup(const Render *r, const RenderSetup *s)
{
    RenderSetup t = *s;
    render_setup_size(r, s, &t.width, &t.height);
    t.hires.upscale = RENDER_UPSCALE_OFF;
    t.source = t.mask = 0;
    t.strength = s->hires.strength;
    if (s->hires.steps)
        t.sampler.steps = s->hires.steps;
    return t;
}

static RenderSetup first_setup(const RenderSetup *s)
{
    RenderSetup t = *s;
    t.hires.upscale = RENDER_UPSCALE_OFF;
    return t;
}

/* Latents of one image to the larger size, by way of pixels. */
static int upscale_pixels(Render *r, const RenderSetup *from, const RenderSetup *to, const float *x, float *out)
{
    const VaeConfig *v = pipeline_vae(r->pipe);
    int f = vae_factor(v);
    int64_t area = (int64_t)(to->width / f) * (to->height / f);
    IoImage small = {0}, large = {0};
    float *pixels = malloc((size_t)to->width * (size_t)to->height * 3 * sizeof *pixels);
    float *moments = malloc((size_t)area * 2 * (size_t)v->latent_channels * sizeof *moments);
    int rc = pixels && moments ? 0 : err_set(ERR_NOMEM, "out of memory");
    if (rc >= 0)
        rc = render_decode(r, from, x, from->width, from->height, &small);
    if (rc >= 0)
        rc = io_image_resize(&large, &small, to->width, to->height, IO_FILTER_LANCZOS);
    if (rc >= 0) {
        io_image_to_hwc(&large, pixels);
        rc = render_encode(r, to, pixels, to->width, to->height, moments);
    }
    if (rc >= 0)
        render_moments_latent(r, moments, NULL, area, out);
    io_image_deinit(&small);
    io_image_deinit(&large);
    free(pixels);
    free(moments);
    return rc;
}

static int upscale(Render *r, const RenderSetup *from, const RenderSetup *to, RenderUpscale how, const float *x, int n, float *out)
{
    int64_t d[3], e[3], nx = render_latent_count(r, from, d), ny = render_latent_count(r, to, e);
    for (int i = 0; i < n; i++) {
        if (how == RENDER_UPSCALE_LANCZOS)
            TRY(upscale_pixels(r, from, to, x + i * nx, out + i * ny));
        else
            TRY(render_latent_resize(out + i * ny, (int)e[2], (int)e[1], x + i * nx, (int)d[2], (int)d[1], (int)d[0], how));
    }
    return 0;
}

static int decode_all(Render *r, const RenderSetup *s, const RenderItem *items, int n, const float *x, RenderResult *results)
{
    int64_t dim[3], count = render_latent_count(r, s, dim);
    for (int i = 0; i < n; i++) {
        TRY(render_decode(r, s, x + i * count, s->width, s->height, &results[i].image));
        if (s->mask && s->inpaint.paste)
            TRY(render_paste(s, &items[i], &results[i].image));
        results[i].latents = malloc((size_t)count * sizeof *results[i].latents);
        if (!results[i].latents)
            return err_set(ERR_NOMEM, "out of memory");
        nn_nchw_from_nhwc(results[i].latents, x + i * count, 1, dim[0], dim[1], dim[2]);
    }
    return 0;
}

int render_run(Render *r, const RenderSetup *s, const RenderItem *items, int n, RenderResult *results, RenderTick tick, void *ctx)
{
    memset(results, 0, (size_t)n * sizeof *results);
    TRY(render_setup_check(r, s));
    RenderSetup one = first_setup(s), two = render_second_setup(r, s);
    const RenderSetup *last = s->hires.upscale ? &two : &one;
    int64_t dim[3];
    int calls = 0, more = 0, rc;
    float *x = NULL, *y = NULL, *z = NULL;
    TRY(render_pass_calls(&one, one.source, &calls));
    if (s->hires.upscale)
        TRY(render_pass_calls(&two, 1, &more));
    RenderPass p = {.setup = &one, .items = items, .n = n, .tick = tick, .ctx = ctx, .total = calls + more};
    if (!(x = malloc((size_t)(n * render_latent_count(r, &one, dim)) * sizeof *x)))
        return err_set(ERR_NOMEM, "out of memory");
    TRY_GOTO(render_pass_run(r, &p, x));
    if (s->hires.upscale) {
        size_t bytes = (size_t)(n * render_latent_count(r, &two, dim)) * sizeof *y;
        y = malloc(bytes);
        z = malloc(bytes);
        rc = y && z ? upscale(r, &one, &two, (RenderUpscale)s->hires.upscale, x, n, y) : err_set(ERR_NOMEM, "out of memory");
        p.setup = &two;
        p.pass = 1;
        p.start = y;
        p.done = calls;
        if (rc < 0 || (rc = render_pass_run(r, &p, z)) < 0)
            goto done;
    }
    rc = decode_all(r, last, items, n, z ? z : x, results);
done:
    free(x);
    free(y);
    free(z);
    return rc;
}

/* ---- records ---- */

int render_lora_load(Render *r, const char *path)
{
    int id;
    return render_adapter_find(r, path, &id);
}

int render_embedding(const Render *r, int i, RenderEmbedding *out)
{
    if (i >= r->words.count)
        return 0;
    *out = (RenderEmbedding){r->words.word[i].name, r->words.path[i], r->words.hash[i]};
    return 1;
}

int render_lora_hash(Render *r, const char *path, const char **hex)
{
    int id;
    TRY(render_adapter_find(r, path, &id));
    RenderAdapter *a = &r->adapter[id];
    if (!a->hash[0])
        TRY(find_lora_hash(path, a->hash));
    *hex = a->hash;
    return 0;
}

int render_model_hash(Render *r, const char **hex)
{
    if (!r->model_hash[0]) {
        StrBuf b;
        str_init(&b);
        for (int i = 0; i < PIPELINE_PARTS; i++) {
            const char *part;
            int rc = pipeline_hash(r->pipe, (PipelinePart)i, &part);
            if (rc < 0) {
                str_deinit(&b);
                return rc;
            }
            str_add_format(&b, "%s %s\n", pipeline_root((PipelinePart)i), part);
        }
        uint8_t sum[HASH_SIZE];
        int rc = str_status(&b);
        if (rc >= 0 && (rc = hash_bytes(sum, b.data, b.len)) >= 0)
            hash_hex(r->model_hash, sum, HASH_SIZE);
        str_deinit(&b);
        TRY(rc);
    }
    *hex = r->model_hash;
    return 0;
}
