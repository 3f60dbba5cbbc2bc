#include "sweep/render.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/rng.h"
#include "base/rng_torch.h"
#include "base/str.h"
#include "cpu/cpu.h"
#include "io/file.h"
#include "sweep/render_net.h"
#include "text/clip_bpe.h"

enum { TEXT_CACHE = 256 };

const char *const RENDER_SEED_NAMES[RENDER_SEED_COUNT + 1] = {"atelier", "diffusers-cpu", "a1111-gpu", NULL};
const char *const RENDER_UPSCALE_NAMES[RENDER_UPSCALE_COUNT + 1] = {"off", "latent-nearest", "latent-bilinear", "latent-bicubic", "lanczos", NULL};
const char *const RENDER_FILL_NAMES[RENDER_FILL_COUNT + 1] = {"original", "noise", "zero", NULL};
const char *const RENDER_ENCODE_NAMES[RENDER_ENCODE_COUNT + 1] = {"sample", "mean", NULL};

int render_open(Render **out, const RenderConf *conf)
{
    static const char *const isa[] = {"base", "avx2", "avx512"};
    int rc;
    Render *r = calloc(1, sizeof *r);
    if (!r)
        return err_set(ERR_NOMEM, "out of memory");
    r->dtype = conf->dtype;
    r->keep = conf->keep;
    TRY_GOTO(pipeline_open(&r->pipe, conf->model, conf->variant));
    const UnetConfig *u = pipeline_unet(r->pipe);
    const VaeConfig *v = pipeline_vae(r->pipe);
    if (u->in_channels != v->latent_channels || u->out_channels != v->latent_channels) {
        rc = err_set(ERR_UNSUPPORTED, "%s: the UNet maps %d to %d channels and the VAE has %d: not a text-to-image model", conf->model,
                     u->in_channels, u->out_channels, v->latent_channels);
        goto done;
    }
    if (u->context != pipeline_text(r->pipe)->hidden) {
        rc = err_set(ERR_SHAPE, "%s: the UNet expects text embeddings of width %d, the text encoder gives %d", conf->model, u->context,
                     pipeline_text(r->pipe)->hidden);
        goto done;
    }
    sampler_conf_default(&r->sampler);
    TRY_GOTO(sampler_conf_from_json(&r->sampler, pipeline_scheduler_path(r->pipe)));
    r->sampler.steps = 20;
    TRY_GOTO(clip_bpe_open(&r->tok, pipeline_tokenizer_dir(r->pipe)));
    TRY_GOTO(cpu_backend_create(&r->be, conf->threads, CPU_ISA_AVX512));
    snprintf(r->backend, sizeof r->backend, "%s-%s", r->be->name, isa[((CpuState *)r->be->impl)->isa]);
    *out = r;
    return 0;
done:
    render_close(r);
    return rc;
}

void render_close(Render *r)
{
    if (!r)
        return;
    for (int i = 0; i < PIPELINE_PARTS; i++)
        render_part_drop(r, (PipelinePart)i);
    for (int i = 0; i < r->nadapter; i++) {
        lora_destroy(r->adapter[i].lora);
        free(r->adapter[i].path);
    }
    free(r->adapter);
    for (int i = 0; i < r->ntext; i++) {
        free(r->text[i].key);
        free(r->text[i].data);
    }
    free(r->text);
    nn_modules_deinit(&r->modules);
    clip_bpe_close(r->tok);
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

int render_setup_check(const Render *r, const RenderSetup *s)
{
    int f = vae_factor(pipeline_vae(r->pipe)), layers = pipeline_text(r->pipe)->layers;
    if (s->width <= 0 || s->height <= 0 || s->width % f || s->height % f || s->width > 16384 || s->height > 16384)
        return err_set(ERR_RANGE, "size %dx%d: both sides must be multiples of %d up to 16384 for this model", s->width, s->height, f);
    if (s->clip_skip < 1 || s->clip_skip > layers)
        return err_set(ERR_RANGE, "clip_skip %d: expected 1..%d for this model", s->clip_skip, layers);
    if (s->nlora < 0 || s->nlora > RENDER_MAX_LORA)
        return err_set(ERR_RANGE, "%d LoRAs at once: at most %d", s->nlora, RENDER_MAX_LORA);
    for (int i = 0; i < s->nlora; i++)
        for (int k = 0; k < i; k++)
            if (strcmp(s->lora[i].path, s->lora[k].path) == 0)
                return err_set(ERR_RANGE, "LoRA %s is given twice for one image", s->lora[i].path);
    if (s->source || s->mask || s->hires.upscale)
        return err_set(ERR_UNSUPPORTED, "source, mask and hires are not available yet");
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
    int f = vae_factor(pipeline_vae(r->pipe));
    dim[0] = pipeline_vae(r->pipe)->latent_channels;
    dim[1] = s->height / f;
    dim[2] = s->width / f;
    return dim[0] * dim[1] * dim[2];
}

void render_result_deinit(RenderResult *res)
{
    io_image_deinit(&res->image);
    free(res->latents);
    res->latents = NULL;
}

/* ---- text ---- */

static int encode_prompt(Render *r, const RenderSetup *s, const char *prompt, float *dst, int64_t count)
{
    RenderNet *net;
    int length = pipeline_text(r->pipe)->positions;
    TRY(render_net_start(r, PIPELINE_TEXT, s, 1, &net));
    int32_t *ids = malloc((size_t)length * sizeof *ids);
    if (!ids)
        return err_set(ERR_NOMEM, "out of memory");
    int rc;
    TRY_GOTO(clip_bpe_encode_padded(r->tok, prompt, length, ids));
    TRY_GOTO(exec_write(net->exec, net->in[0], ids, (size_t)length * sizeof *ids));
    TRY_GOTO(exec_run(net->exec));
    rc = exec_read_f32(net->exec, net->out, dst, count);
done:
    free(ids);
    return rc;
}

static RenderText *text_slot(Render *r)
{
    if (r->ntext < TEXT_CACHE) {
        RenderText *grown = realloc(r->text, (size_t)(r->ntext + 1) * sizeof *grown);
        if (!grown)
            return NULL;
        r->text = grown;
        memset(&r->text[r->ntext], 0, sizeof *grown);
        return &r->text[r->ntext++];
    }
    RenderText *oldest = r->text;
    for (int i = 1; i < r->ntext; i++)
        if (r->text[i].used < oldest->used)
            oldest = &r->text[i];
    return oldest;
}

static int text_embedding(Render *r, const RenderSetup *s, const char *prompt, float *dst, int64_t count)
{
    char *key;
    TRY(render_text_key(r, s, prompt, &key));
    for (int i = 0; i < r->ntext; i++)
        if (r->text[i].key && strcmp(r->text[i].key, key) == 0) {
            r->text[i].used = ++r->clock;
            memcpy(dst, r->text[i].data, (size_t)count * sizeof *dst);
            free(key);
            return 0;
        }
    int rc = encode_prompt(r, s, prompt, dst, count);
    RenderText *t = rc < 0 ? NULL : text_slot(r);
    float *data = t ? malloc((size_t)count * sizeof *data) : NULL;
    if (!data) {
        free(key);
        return rc < 0 ? err_context(rc, "text encoder") : err_set(ERR_NOMEM, "out of memory");
    }
    memcpy(data, dst, (size_t)count * sizeof *data);
    free(t->key);
    free(t->data);
    *t = (RenderText){.key = key, .data = data, .used = ++r->clock};
    return 0;
}

/* ---- noise ---- */

typedef struct {
    RenderSeed kind;
    const RenderItem *item;
    int draws;             /* of the sampler, so far */
    RngTorch cpu;
    RngTorchCuda gpu;
} Noise;

static void noise_init(Noise *z, RenderSeed kind, const RenderItem *item)
{
    z->kind = kind;
    z->item = item;
    z->draws = 0;
    if (kind == RENDER_SEED_DIFFUSERS_CPU)
        rng_torch_init(&z->cpu, item->seed);
    else if (kind == RENDER_SEED_A1111_GPU)
        rng_torch_cuda_init(&z->gpu, item->seed, 0);
}

static void noise_draw(Noise *z, RngPurpose purpose, int step, float *out, int64_t n)
{
    if (z->kind == RENDER_SEED_DIFFUSERS_CPU)
        rng_torch_normal_f32(&z->cpu, out, n);
    else if (z->kind == RENDER_SEED_A1111_GPU)
        rng_torch_cuda_normal(&z->gpu, out, n);
    else
        rng_normal_fill(out, n, rng_key(z->item->seed, purpose, 0, (uint64_t)step), 0);
}

/* ---- denoising ---- */

typedef struct {
    int n, rows;           /* items; rows the network was built for */
    int64_t dim[3], count; /* [C,h,w] of an item */
    int64_t text;          /* floats of one context row */
    float *x;              /* [n][h,w,C] */
    float *in, *out;       /* [rows][h,w,C] */
    float *noise;          /* [n][h,w,C] */
    float *chw;            /* [C,h,w] */
    float *context, *t;    /* [rows][L,D], [rows] */
    Noise *source;         /* [n] */
    Sampler *sampler;
} Loop;

static void loop_deinit(Loop *l)
{
    sampler_destroy(l->sampler);
    free(l->x);
    free(l->in);
    free(l->out);
    free(l->noise);
    free(l->chw);
    free(l->context);
    free(l->t);
    free(l->source);
}

static float *floats(int64_t rows, int64_t count)
{
    return calloc((size_t)(rows * count), sizeof(float));
}

static int loop_init(Loop *l, Render *r, const RenderSetup *s, int n, int rows)
{
    const ClipConfig *c = pipeline_text(r->pipe);
    memset(l, 0, sizeof *l);
    l->n = n;
    l->rows = rows;
    l->count = render_latent_count(r, s, l->dim);
    l->text = (int64_t)c->positions * c->hidden;
    l->x = floats(n, l->count);
    l->in = floats(rows, l->count);
    l->out = floats(rows, l->count);
    l->noise = floats(n, l->count);
    l->chw = floats(1, l->count);
    l->context = floats(rows, l->text);
    l->t = floats(rows, 1);
    l->source = calloc((size_t)n, sizeof *l->source);
    if (!l->x || !l->in || !l->out || !l->noise || !l->chw || !l->context || !l->t || !l->source)
        return err_set(ERR_NOMEM, "out of memory");
    return sampler_create(&l->sampler, &s->sampler, (size_t)(n * l->count));
}

static int loop_start(Loop *l, Render *r, const RenderSetup *s, const RenderItem *items)
{
    int half = s->guided ? l->rows / 2 : 0; /* rows 0..half-1: without, half..rows-1: with the prompt */
    for (int i = 0; i < l->n; i++) {
        if (s->guided)
            TRY(text_embedding(r, s, items[i].negative, l->context + i * l->text, l->text));
        TRY(text_embedding(r, s, items[i].prompt, l->context + (half + i) * l->text, l->text));
    }
    double sigma = sampler_init_noise_sigma(l->sampler);
    for (int i = 0; i < l->n; i++) {
        const float *from = items[i].init_latents;
        float *x = l->x + i * l->count;
        noise_init(&l->source[i], s->seed_compat, &items[i]);
        if (!from) {
            noise_draw(&l->source[i], RNG_SAMPLE, 0, l->chw, l->count);
            from = l->chw;
        }
        nn_nhwc_from_nchw(x, from, 1, l->dim[0], l->dim[1], l->dim[2]);
        for (int64_t k = 0; k < l->count; k++)
            x[k] = (float)(x[k] * sigma);
    }
    return 0;
}

/* Unit noise of all items for model call i. */
static int loop_noise(Loop *l, int step, const RenderItem *items)
{
    for (int i = 0; i < l->n; i++) {
        const float *from = l->chw;
        int k = l->source[i].draws++;
        if (items[i].noise) {
            if (k >= items[i].nnoise)
                return err_set(ERR_RANGE, "item %d: draw %d of the sampler, but only %d were given", i, k, items[i].nnoise);
            from = items[i].noise[k];
        } else {
            noise_draw(&l->source[i], RNG_ANCESTRAL, step, l->chw, l->count);
        }
        nn_nhwc_from_nchw(l->noise + i * l->count, from, 1, l->dim[0], l->dim[1], l->dim[2]);
    }
    return 0;
}

static int loop_step(Loop *l, RenderNet *net, const RenderSetup *s, const RenderItem *items, int step)
{
    int half = s->guided ? l->rows / 2 : 0;
    double scale = sampler_scale_input(l->sampler, step);
    size_t row = (size_t)l->count;
    for (int i = 0; i < l->n; i++) {
        float *to = l->in + (half + i) * l->count;
        const float *x = l->x + i * l->count;
        for (int64_t k = 0; k < l->count; k++)
            to[k] = (float)(x[k] * scale);
        if (s->guided)
            memcpy(l->in + i * l->count, to, row * sizeof *to);
    }
    for (int i = 0; i < l->rows; i++)
        l->t[i] = (float)sampler_timestep(l->sampler, step);
    TRY(exec_write_f32(net->exec, net->in[0], l->in, l->rows * l->count));
    TRY(exec_write_f32(net->exec, net->in[1], l->t, l->rows));
    TRY(exec_run(net->exec));
    TRY(exec_read_f32(net->exec, net->out, l->out, l->rows * l->count));
    for (int i = 0; i < l->n && s->guided; i++) {
        float *eps = l->out + i * l->count;
        const float *cond = l->out + (half + i) * l->count;
        sampler_guide(eps, eps, cond, items[i].guidance, row);
        if (items[i].guidance_rescale > 0)
            sampler_guide_rescale(eps, cond, items[i].guidance_rescale, row);
    }
    int noisy = sampler_needs_noise(l->sampler, step);
    if (noisy)
        TRY(loop_noise(l, step, items));
    return sampler_step(l->sampler, step, l->x, l->out, noisy ? l->noise : NULL, row * (size_t)l->n);
}

static int loop_run(Loop *l, Render *r, const RenderSetup *s, const RenderItem *items, RenderTick tick, void *ctx)
{
    RenderNet *net;
    TRY(loop_start(l, r, s, items));
    TRY(render_net_start(r, PIPELINE_UNET, s, l->rows, &net));
    TRY(exec_write_f32(net->exec, net->in[2], l->context, l->rows * l->text));
    int n = sampler_count(l->sampler);
    for (int i = 0; i < n; i++) {
        if (tick)
            TRY(tick(ctx, i, n));
        TRY(loop_step(l, net, s, items, i));
    }
    for (int64_t k = 0; k < l->n * l->count; k++)
        if (!isfinite(l->x[k])) {
            const RenderItem *it = &items[k / l->count];
            return err_set(ERR_NUMERIC, "seed %llu, prompt '%.60s': the latents are not finite", (unsigned long long)it->seed, it->prompt);
        }
    return 0;
}

/* ---- decoding ---- */

static int decode(Render *r, const RenderSetup *s, const float *x, int64_t count, float *pixels, IoImage *out)
{
    const VaeConfig *v = pipeline_vae(r->pipe);
    RenderNet *net;
    TRY(render_net_start(r, PIPELINE_VAE, s, 1, &net));
    float *z = malloc((size_t)count * sizeof *z);
    if (!z)
        return err_set(ERR_NOMEM, "out of memory");
    for (int64_t k = 0; k < count; k++)
        z[k] = x[k] / v->scaling + v->shift;
    int rc;
    TRY_GOTO(exec_write_f32(net->exec, net->in[0], z, count));
    TRY_GOTO(exec_run(net->exec));
    TRY_GOTO(exec_read_f32(net->exec, net->out, pixels, (int64_t)s->width * s->height * v->out_channels));
    TRY_GOTO(io_image_from_hwc(out, pixels, s->height, s->width, v->out_channels));
    rc = io_image_to_rgb(out, 255, 255, 255);
done:
    free(z);
    return rc;
}

static int decode_all(Loop *l, Render *r, const RenderSetup *s, RenderResult *results)
{
    float *pixels = floats((int64_t)s->width * s->height, pipeline_vae(r->pipe)->out_channels);
    if (!pixels)
        return err_set(ERR_NOMEM, "out of memory");
    int rc = 0;
    for (int i = 0; i < l->n && rc >= 0; i++) {
        rc = decode(r, s, l->x + i * l->count, l->count, pixels, &results[i].image);
        if (rc < 0)
            break;
        results[i].latents = floats(1, l->count);
        if (!results[i].latents)
            rc = err_set(ERR_NOMEM, "out of memory");
        else
            nn_nchw_from_nhwc(results[i].latents, l->x + i * l->count, 1, l->dim[0], l->dim[1], l->dim[2]);
    }
    free(pixels);
    return rc;
}

int render_run(Render *r, const RenderSetup *s, const RenderItem *items, int n, RenderResult *results, RenderTick tick, void *ctx)
{
    memset(results, 0, (size_t)n * sizeof *results);
    TRY(render_setup_check(r, s));
    Loop l = {0};
    int rc, rows;
    TRY_GOTO(render_net_rows(r, s, n, &rows));
    TRY_GOTO(loop_init(&l, r, s, n, rows));
    TRY_GOTO(loop_run(&l, r, s, items, tick, ctx));
    rc = decode_all(&l, r, s, results);
done:
    loop_deinit(&l);
    return rc;
}

/* ---- records ---- */

int render_lora_load(Render *r, const char *path)
{
    int id;
    return render_adapter_find(r, path, &id);
}

int render_lora_hash(Render *r, const char *path, const char **hex)
{
    int id;
    TRY(render_adapter_find(r, path, &id));
    RenderAdapter *a = &r->adapter[id];
    if (!a->hash[0]) {
        uint8_t n[8], sum[HASH_SIZE];
        FILE *f = fopen(path, "rb");
        if (!f)
            return err_errno("%s", path);
        size_t got = fread(n, 1, 8, f);
        fclose(f);
        if (got != 8)
            return err_set(ERR_FORMAT, "%s: too short for a safetensors file", path);
        int64_t header = 0;
        for (int i = 7; i >= 0; i--)
            header = header * 256 + n[i];
        TRY(hash_file_range(sum, path, 8 + header, -1));
        hash_hex(a->hash, sum, HASH_SIZE);
    }
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

int render_plan(Render *r, const RenderSetup *s, int n, RenderPlan *plan)
{
    memset(plan, 0, sizeof *plan);
    TRY(render_setup_check(r, s));
    size_t all = 0, most = 0;
    for (int i = 0; i < PIPELINE_PARTS; i++) {
        RenderNet net = {0};
        TRY(render_net_build(r, (PipelinePart)i, s, i == PIPELINE_UNET ? (s->guided ? 2 : 1) * n : 1, &net));
        plan->part[i] = (RenderPart){.flops = graph_flops(net.graph),
                                     .arena = plan_arena_bytes(net.plan),
                                     .params = plan_param_bytes(net.plan),
                                     .nodes = plan_node_count(net.plan)};
        all += net.bytes;
        most = net.bytes > most ? net.bytes : most;
        render_net_deinit(&net);
    }
    plan->peak = all <= (size_t)r->keep ? all : most > (size_t)r->keep ? most : (size_t)r->keep;
    Sampler *sampler;
    TRY(sampler_create(&sampler, &s->sampler, 1));
    plan->model_calls = sampler_count(sampler);
    sampler_destroy(sampler);
    plan->flops_image = plan->part[PIPELINE_UNET].flops * plan->model_calls / n + plan->part[PIPELINE_VAE].flops;
    return 0;
}
