#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "sweep/render_impl.h"

typedef struct {
    const RenderPass *p;
    Cond *const *cond;     /* [n], borrowed */
    int n, rows;           /* items; rows the network was built for */
    int64_t dim[3], count; /* [C,h,w] of an item */
    int64_t area;          /* h w */
    int channels;          /* of the UNet's input: C, or 2C + 1 with mask and masked source (inpainting models) */
    int64_t text;          /* floats of one context row */
    float *x;              /* [n][h,w,C]: the caller's */
    float *in;             /* [rows][h,w,channels] */
    float *out;            /* [rows][h,w,C] */
    float *noise;          /* [n][h,w,C]: of a step */
    float *chw;            /* [C,h,w] */
    float *context, *t;    /* [rows][L,D], [rows] */
    const float **shown;   /* [rows] what context holds */
    float *first;          /* [n][h,w,C]: initial unit noise */
    float *source;         /* [n][h,w,C]: latents to start from, or NULL */
    float *repaint;        /* [n][h,w,C]: 1 is made anew; NULL without masks */
    float *extra;          /* [n][h,w,1+C]: mask and masked source; NULL for other models */
    uint8_t *soft;         /* [H*W] mask of an item */
    RenderNoise *stream;   /* [n] */
    Sampler *sampler;
} Loop;

static void loop_deinit(Loop *l)
{
    sampler_destroy(l->sampler);
    float *const owned[] = {l->in, l->out, l->noise, l->chw, l->context, l->t, l->first, l->source, l->repaint, l->extra};
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++)
        free(owned[i]);
    free(l->shown);
    free(l->soft);
    for (int i = 0; i < l->n && l->stream; i++)
        render_noise_deinit(&l->stream[i]);
    free(l->stream);
}

static float *floats(int64_t rows, int64_t count)
{
    return calloc((size_t)(rows * count) + 1, sizeof(float));
}

/* started: from a source or a first pass. A1111 never starts at more than 0.999. */
static void sampler_conf_of(const RenderSetup *s, int started, SamplerConf *conf)
{
    *conf = s->sampler;
    conf->strength = !started ? 1 : conf->rules == SAMPLER_RULES_A1111 && s->strength > 0.999 ? 0.999 : s->strength;
}

static int loop_init(Loop *l, Render *r, const RenderPass *p, Cond *const *cond, int rows, float *x)
{
    const RenderSetup *s = p->setup;
    l->p = p;
    l->cond = cond;
    l->n = p->n;
    l->rows = rows;
    l->x = x;
    l->count = render_latent_count(r, s, l->dim);
    l->area = l->dim[1] * l->dim[2];
    l->channels = pipeline_unet(r->pipe)->in_channels;
    l->text = (int64_t)cond_chunks(cond[0]) * pipeline_text(r->pipe)->positions * pipeline_text(r->pipe)->hidden;
    l->in = floats(rows, l->area * l->channels);
    l->out = floats(rows, l->count);
    l->noise = floats(l->n, l->count);
    l->chw = floats(1, l->count);
    l->context = floats(rows, l->text);
    l->t = floats(rows, 1);
    l->shown = calloc((size_t)rows, sizeof *l->shown);
    l->first = floats(l->n, l->count);
    l->stream = calloc((size_t)l->n, sizeof *l->stream);
    int ok = l->in && l->out && l->noise && l->chw && l->context && l->t && l->shown && l->first && l->stream;
    if (s->source || p->start)
        ok = ok && (l->source = floats(l->n, l->count)) != NULL;
    if (s->mask) {
        l->repaint = floats(l->n, l->count);
        l->soft = malloc((size_t)s->width * (size_t)s->height);
        ok = ok && l->repaint && l->soft;
    }
    if (l->channels > l->dim[0])
        ok = ok && (l->extra = floats(l->n, l->area * (1 + l->dim[0]))) != NULL;
    if (!ok)
        return err_set(ERR_NOMEM, "out of memory");
    SamplerConf conf;
    sampler_conf_of(s, l->source != NULL, &conf);
    return sampler_create(&l->sampler, &conf, (size_t)(l->n * l->count));
}

/* CHW noise to the place of item i. */
static void put(const Loop *l, float *to, int i, const float *chw)
{
    nn_nhwc_from_nchw(to + i * l->count, chw, 1, l->dim[0], l->dim[1], l->dim[2]);
}

/* Draw k of the VAE's posterior for item i, in NHWC; NULL where the mean is taken. */
static int latent_noise(Loop *l, int i, int k, const float **out)
{
    *out = NULL;
    if (l->p->setup->encode == RENDER_ENCODE_MEAN)
        return 0;
    TRY(render_noise_latent(&l->stream[i], k, l->chw, l->count));
    put(l, l->noise, 0, l->chw);
    *out = l->noise;
    return 0;
}

static int read_source(Loop *l, Render *r, int i)
{
    const float *moments, *noise;
    TRY(render_source_moments(r, l->p->setup, &l->p->items[i], NULL, &moments));
    TRY(latent_noise(l, i, 0, &noise));
    render_moments_latent(r, moments, noise, l->area, l->source + i * l->count);
    return 0;
}

static int read_mask(Loop *l, Render *r, int i)
{
    const RenderSetup *s = l->p->setup;
    TRY_CTX(render_mask_load(s, l->p->items[i].mask, l->soft), "mask");
    float *mask = l->chw; /* [h*w] fits */
    TRY(render_mask_latent(r, s, l->soft, mask));
    for (int64_t k = 0; k < l->count; k++)
        l->repaint[i * l->count + k] = mask[k / l->dim[0]];
    return 0;
}

/* Mask and masked source beside the latents, as inpainting models were trained. */
static int read_extra(Loop *l, Render *r, int i)
{
    const float *moments, *noise;
    int64_t c = l->dim[0];
    TRY(render_source_moments(r, l->p->setup, &l->p->items[i], l->soft, &moments));
    TRY(latent_noise(l, i, 1, &noise));
    if (!l->extra)
        return 0;
    float *masked = l->out; /* room for one item's latents */
    render_moments_latent(r, moments, noise, l->area, masked);
    for (int64_t k = 0; k < l->area; k++) {
        float *to = l->extra + (i * l->area + k) * (1 + c);
        to[0] = l->repaint[i * l->count + k * c];
        memcpy(to + 1, masked + k * c, (size_t)c * sizeof *to);
    }
    return 0;
}

static void fill(Loop *l, int i)
{
    int how = l->p->setup->inpaint.fill;
    for (int64_t k = i * l->count; how && k < (i + 1) * l->count; k++)
        if (l->repaint[k] > 0)
            l->source[k] = how == RENDER_FILL_NOISE ? l->first[k] : 0;
}

/* The order of the draws is that of diffusers' img2img and inpainting pipelines. */
static int start_item(Loop *l, Render *r, int i)
{
    const RenderPass *p = l->p;
    const RenderSetup *s = p->setup;
    int strongest = s->mask && s->strength >= 1; /* pure noise; inpainting models then never look at the source itself */
    render_noise_init(&l->stream[i], s, &p->items[i], p->pass);
    if (s->source && !(strongest && l->extra))
        TRY(read_source(l, r, i));
    if (p->items[i].init_latents && !p->pass) {
        put(l, l->first, i, p->items[i].init_latents);
    } else {
        TRY(render_noise_first(&l->stream[i], l->dim, vae_factor(pipeline_vae(r->pipe)), l->chw));
        put(l, l->first, i, l->chw);
    }
    if (s->mask) {
        TRY(read_mask(l, r, i));
        TRY(read_extra(l, r, i));
        fill(l, i);
    }
    return 0;
}

static int loop_start(Loop *l, Render *r)
{
    const RenderSetup *s = l->p->setup;
    size_t all = (size_t)(l->n * l->count);
    if (l->p->start)
        memcpy(l->source, l->p->start, all * sizeof *l->source);
    for (int i = 0; i < l->n; i++)
        TRY(start_item(l, r, i));
    int pure = l->source && s->mask && s->strength >= 1 && s->sampler.rules <= SAMPLER_RULES_DIFFUSERS;
    sampler_start(l->sampler, l->x, l->first, pure ? NULL : l->source, all);
    if (l->repaint && !l->extra)
        sampler_inpaint(l->sampler, &(SamplerInpaint){l->repaint, l->source, l->first});
    return 0;
}

/* Unit noise of all items for model call i, or for the churn before it. */
static int loop_noise(Loop *l, int step, int churn)
{
    for (int i = 0; i < l->n; i++) {
        const RenderItem *it = &l->p->items[i];
        const float *from = l->chw;
        int k = l->stream[i].draws++;
        if (it->noise) {
            if (k >= it->nnoise)
                return err_set(ERR_RANGE, "item %d: draw %d of the sampler, but only %d were given", i, k, it->nnoise);
            from = it->noise[k];
        } else if (churn) {
            TRY(sampler_noise_churn(&l->stream[i].stream, l->sampler, step, l->chw, l->count));
        } else {
            TRY(sampler_noise_step(&l->stream[i].stream, l->sampler, step, l->chw, l->count));
        }
        put(l, l->noise, i, from);
    }
    return 0;
}

static void fill_input(Loop *l, int step)
{
    int guided = l->p->setup->guided, half = guided ? l->rows / 2 : 0;
    int64_t c = l->dim[0], row = l->area * l->channels;
    sampler_input(l->sampler, step, l->noise, l->x, (size_t)(l->n * l->count));
    for (int i = 0; i < l->n; i++) {
        float *to = l->in + (half + i) * row;
        const float *x = l->noise + i * l->count;
        for (int64_t k = 0; k < l->area; k++) {
            memcpy(to + k * l->channels, x + k * c, (size_t)c * sizeof *to);
            if (l->extra)
                memcpy(to + k * l->channels + c, l->extra + (i * l->area + k) * (1 + c), (size_t)(1 + c) * sizeof *to);
        }
        if (guided)
            memcpy(l->in + i * row, to, (size_t)row * sizeof *to);
    }
    for (int i = 0; i < l->rows; i++)
        l->t[i] = (float)sampler_timestep(l->sampler, step);
}

static void show(Loop *l, int row, const float *embedding, int *changed)
{
    if (l->shown[row] == embedding)
        return;
    memcpy(l->context + row * l->text, embedding, (size_t)l->text * sizeof *embedding);
    l->shown[row] = embedding;
    *changed = 1;
}

/* The prompts of the k-th call of this run. Rows 0..half-1: without, half..rows-1: with the prompt. Where the prompt has several parts,
 * round j has parts 2j-1 and 2j instead, as far as there are any. */
static int write_context(Loop *l, RenderNet *net, int k, int round)
{
    int guided = l->p->setup->guided, half = guided ? l->rows / 2 : 0, changed = 0;
    for (int i = 0; i < l->n; i++) {
        const Cond *c = l->cond[i];
        if (round) {
            show(l, i, cond_part_get(c, k, 2 * round - 1), &changed);
            if (2 * round < cond_parts(c))
                show(l, half + i, cond_part_get(c, k, 2 * round), &changed);
            continue;
        }
        if (guided)
            show(l, i, cond_get(c, k, COND_NEGATIVE), &changed);
        show(l, half + i, cond_get(c, k, COND_PROMPT), &changed);
    }
    return changed ? exec_write_f32(net->exec, net->in[2], l->context, l->rows * l->text) : 0;
}

static int run_network(Loop *l, RenderNet *net, int k, int round)
{
    TRY(write_context(l, net, k, round));
    TRY(exec_run(net->exec));
    return exec_read_f32(net->exec, net->out, l->out, l->rows * l->count);
}

/* Guided predictions to out[0..n-1]. */
static void guide(Loop *l)
{
    const size_t row = (size_t)l->count;
    for (int i = 0; i < l->n; i++) {
        float *eps = l->out + i * l->count;
        const float *cond = l->out + (l->rows / 2 + i) * l->count;
        const RenderItem *it = &l->p->items[i];
        sampler_guide(eps, eps, cond, it->guidance, row);
        if (it->guidance_rescale > 0)
            sampler_guide_rescale(eps, cond, it->guidance_rescale, row);
    }
}

/* The same for prompts of several parts. A1111: modules/sd_samplers_cfg_denoiser.py, combine_denoised. */
static int guide_parts(Loop *l, RenderNet *net, int k)
{
    const size_t all = (size_t)(l->n * l->count);
    const float *second = l->out + l->rows / 2 * l->count;
    int parts = cond_parts(l->cond[0]);
    float *plain = malloc(all * sizeof *plain), *sum = malloc(all * sizeof *sum);
    int rc = plain && sum ? 0 : err_set(ERR_NOMEM, "out of memory");
    if (rc >= 0) {
        memcpy(plain, l->out, all * sizeof *plain);
        memcpy(sum, plain, all * sizeof *sum);
    }
    for (int part = 0; rc >= 0 && part < parts; part++) {
        if (part % 2)
            rc = run_network(l, net, k, (part + 1) / 2);
        const float *out = part % 2 ? l->out : second;
        for (size_t e = 0; rc >= 0 && e < all; e++) {
            size_t i = e / (size_t)l->count;
            sum[e] += (out[e] - plain[e]) * (float)(cond_part_weight(l->cond[i], part) * l->p->items[i].guidance);
        }
    }
    if (rc >= 0)
        memcpy(l->out, sum, all * sizeof *sum);
    free(plain);
    free(sum);
    return rc;
}

static int loop_step(Loop *l, RenderNet *net, int step)
{
    size_t row = (size_t)l->count;
    int k = step - sampler_begin(l->sampler);
    if (sampler_needs_churn(l->sampler, step)) {
        TRY(loop_noise(l, step, 1));
        sampler_churn(l->sampler, step, l->x, l->noise, row * (size_t)l->n);
    }
    fill_input(l, step);
    TRY(exec_write_f32(net->exec, net->in[0], l->in, l->rows * l->area * l->channels));
    TRY(exec_write_f32(net->exec, net->in[1], l->t, l->rows));
    TRY(run_network(l, net, k, 0));
    if (cond_parts(l->cond[0]) > 1)
        TRY(guide_parts(l, net, k));
    else if (l->p->setup->guided)
        guide(l);
    int noisy = sampler_needs_noise(l->sampler, step);
    if (noisy)
        TRY(loop_noise(l, step, 0));
    return sampler_step(l->sampler, step, l->x, l->out, noisy ? l->noise : NULL, row * (size_t)l->n);
}

static int check_finite(const Loop *l)
{
    for (int64_t k = 0; k < l->n * l->count; k++)
        if (!isfinite(l->x[k])) {
            const RenderItem *it = &l->p->items[k / l->count];
            return err_set(ERR_NUMERIC, "seed %llu, prompt '%.60s': the latents are not finite", (unsigned long long)it->seed, it->prompt);
        }
    return 0;
}

static int loop_run(Loop *l, Render *r, const RenderNetSpec *spec)
{
    const RenderPass *p = l->p;
    RenderNet *net;
    TRY(loop_start(l, r));
    int n = sampler_count(l->sampler), i = sampler_begin(l->sampler);
    if (i < n)
        TRY(render_net_start(r, spec, &net));
    for (int k = 0; i < n; i++, k++) {
        if (p->tick)
            TRY(p->tick(p->ctx, p->done + k, p->total));
        TRY(loop_step(l, net, i));
    }
    return check_finite(l);
}

static int run_group(Render *r, const RenderPass *p, Cond *const *cond, float *out)
{
    Loop l = {0};
    const RenderSetup *s = p->setup;
    RenderNetSpec spec = {.kind = RENDER_NET_UNET, .setup = s, .width = s->width, .height = s->height,
                          .tokens = cond_chunks(cond[0]) * pipeline_text(r->pipe)->positions};
    int rc;
    TRY_GOTO(render_net_rows(r, &spec, p->n));
    TRY_GOTO(loop_init(&l, r, p, cond, spec.rows, out));
    rc = loop_run(&l, r, &spec);
done:
    loop_deinit(&l);
    return rc;
}

/* Items go together whose prompts have equally many chunks and parts. */
static int shape_of(const Cond *c)
{
    return cond_chunks(c) * (COND_MAX_PARTS + 1) + cond_parts(c);
}

typedef struct {
    RenderItem *items;
    Cond **cond;
    int *index;
    float *start, *out;
    int64_t count;
    int n;
} Group;

static void group_deinit(Group *g)
{
    free(g->items);
    free(g->cond);
    free(g->index);
    free(g->start);
    free(g->out);
}

static int group_init(Group *g, const RenderPass *p, int64_t count)
{
    size_t n = (size_t)p->n;
    g->count = count;
    g->items = calloc(n, sizeof *g->items);
    g->cond = calloc(n, sizeof *g->cond);
    g->index = calloc(n, sizeof *g->index);
    g->start = floats(p->n, count);
    g->out = floats(p->n, count);
    return g->items && g->cond && g->index && g->start && g->out ? 0 : err_set(ERR_NOMEM, "out of memory");
}

static void group_take(Group *g, const RenderPass *p, Cond *const *cond, int shape)
{
    size_t bytes = (size_t)g->count * sizeof *g->start;
    g->n = 0;
    for (int i = 0; i < p->n; i++) {
        if (shape_of(cond[i]) != shape)
            continue;
        g->items[g->n] = p->items[i];
        g->cond[g->n] = cond[i];
        g->index[g->n] = i;
        if (p->start)
            memcpy(g->start + g->n * g->count, p->start + i * g->count, bytes);
        g->n++;
    }
}

static int run_groups(Render *r, const RenderPass *p, Cond *const *cond, int64_t count, float *out)
{
    Group g = {0};
    int rc = group_init(&g, p, count);
    for (int done = 0, least = 0; rc >= 0 && done < p->n; done += g.n) {
        int shape = INT_MAX;
        for (int i = 0; i < p->n; i++) {
            int k = shape_of(cond[i]);
            shape = k > least && k < shape ? k : shape;
        }
        least = shape;
        group_take(&g, p, cond, shape);
        RenderPass part = *p;
        part.items = g.items;
        part.n = g.n;
        part.start = p->start ? g.start : NULL;
        rc = run_group(r, &part, g.cond, g.out);
        for (int i = 0; rc >= 0 && i < g.n; i++)
            memcpy(out + g.index[i] * count, g.out + i * count, (size_t)count * sizeof *out);
    }
    group_deinit(&g);
    return rc;
}

int render_pass_run(Render *r, const RenderPass *p, float *out)
{
    int64_t dim[3], count = render_latent_count(r, p->setup, dim);
    int calls, same = 1, rc = 0;
    TRY(render_pass_calls(p->setup, p->setup->source || p->start, &calls));
    Cond **cond = calloc((size_t)p->n + 1, sizeof *cond);
    if (!cond)
        return err_set(ERR_NOMEM, "out of memory");
    for (int i = 0; rc >= 0 && i < p->n; i++) {
        rc = render_cond(r, p->setup, &p->items[i], calls > 0 ? calls : 1, &cond[i]);
        if (rc >= 0 && cond_parts(cond[i]) > 1 && p->items[i].guidance_rescale > 0)
            rc = err_set(ERR_UNSUPPORTED, "prompt '%.60s': AND goes without guidance_rescale", p->items[i].prompt);
        same = same && rc >= 0 && shape_of(cond[i]) == shape_of(cond[0]);
    }
    if (rc >= 0)
        rc = same ? run_group(r, p, cond, out) : run_groups(r, p, cond, count, out);
    for (int i = 0; i < p->n; i++)
        cond_destroy(cond[i]);
    free(cond);
    return rc;
}

int render_pass_calls(const RenderSetup *s, int started, int *calls)
{
    Sampler *sampler;
    SamplerConf conf;
    sampler_conf_of(s, started, &conf);
    TRY(sampler_create(&sampler, &conf, 1));
    *calls = sampler_count(sampler) - sampler_begin(sampler);
    sampler_destroy(sampler);
    return 0;
}
