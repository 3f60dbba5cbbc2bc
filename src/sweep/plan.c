#include <stdlib.h>
#include <string.h>

#include "sweep/plan_rate.h"
#include "sweep/sheet.h"
#include "sweep/sweep.h"

enum { MAX_KINDS = 64, MAX_MEASURED = 20000, SHORT = 75 }; /* SHORT: bytes, so tokens at most, of one chunk */

/* Batches that need the same networks. */
typedef struct {
    SweepItem item;
    Render *render;
    RenderSetup setup;
    RenderPrompt prompt;
    RenderPlan plan;
    int64_t images, batches;
    int rows;   /* largest batch */
} Kind;

typedef struct {
    SweepGrid grid;
    RenderPool *pool;
    Kind *kind;
    int nkind;
    int64_t batches, left; /* left: images of kinds beyond MAX_KINDS */
    int64_t measured;      /* prompts */
    double flops, pixels, latents; /* pixels: bytes of RGB */
} Plans;

static int same_kind(const Kind *k, const RenderSetup *s, const RenderPrompt *prompt)
{
    if (k->prompt.chunks != prompt->chunks || k->prompt.runs != prompt->runs)
        return 0;
    if (k->setup.width != s->width || k->setup.height != s->height || k->setup.guided != s->guided || k->setup.nlora != s->nlora ||
        k->setup.sampler.steps != s->sampler.steps || k->setup.sampler.kind != s->sampler.kind)
        return 0;
    for (int i = 0; i < s->nlora; i++)
        if (strcmp(k->setup.lora[i].path, s->lora[i].path) != 0)
            return 0;
    return 1;
}

typedef struct {
    SweepItem first;
    Render *render;
    RenderSetup setup;
    RenderPrompt prompt; /* the largest */
    int n;
} Batch;

/* The size of an item's prompts, into the batch's largest. Short ones are one chunk, whatever they say, but for inversions of many vectors and
 * BREAK; of others so many are looked at as is no great work. */
static int prompt_size(Plans *p, const SweepConf *c, const SweepItem *it, Batch *b)
{
    RenderItem item;
    RenderPrompt size = {1, 1};
    SweepItem full = {0};
    int templates = 0;
    for (int i = 0; i < p->grid.naxes; i++)
        templates |= p->grid.axis[i].templates != NULL;
    if (!templates && !c->embeddings.count && strlen(it->prompt) <= SHORT && strlen(it->negative) <= SHORT && !strstr(it->prompt, "BREAK") &&
        !strstr(it->negative, "BREAK") && !strstr(it->prompt, "AND"))
        return 0;
    if (p->measured++ >= MAX_MEASURED)
        return 0;
    int rc = sweep_item_load(&p->grid, it->index, &full);
    if (rc >= 0) {
        sweep_item_render(&full, &item);
        rc = render_prompt_size(b->render, &b->setup, &item, &size);
    }
    sweep_item_deinit(&full);
    b->prompt.chunks = size.chunks > b->prompt.chunks ? size.chunks : b->prompt.chunks;
    b->prompt.runs = size.runs > b->prompt.runs ? size.runs : b->prompt.runs;
    return rc;
}

static void add_batch(Plans *p, const SweepConf *c, const Batch *b)
{
    const RenderSetup *s = &b->setup;
    int64_t dim[3];
    int64_t latent = render_latent_count(b->render, s, dim);
    int w, h, n = b->n;
    render_setup_size(b->render, s, &w, &h);
    p->batches++;
    p->pixels += 3.0 * w * h * n;
    p->latents += c->latents ? 4.0 * (double)latent * n : 0;
    int k = 0;
    while (k < p->nkind && (p->kind[k].render != b->render || !same_kind(&p->kind[k], s, &b->prompt)))
        k++;
    if (k == MAX_KINDS) {
        p->left += n;
        return;
    }
    Kind *kind = &p->kind[k];
    if (k == p->nkind) {
        *kind = (Kind){.item = b->first, .render = b->render, .setup = *s, .prompt = b->prompt};
        p->nkind++;
    }
    kind->images += n;
    kind->batches++;
    kind->rows = n > kind->rows ? n : kind->rows;
}

/* Item by item in work order: nothing is kept but one line per kind of batch. */
static int add_batches(Plans *p, const SweepConf *c)
{
    Batch b = {0};
    SweepItem it;
    for (int64_t k = 0; k < p->grid.count; k++) {
        sweep_grid_item(&p->grid, sweep_grid_at(&p->grid, k), &it);
        if (b.n && (b.n == c->batch || !sweep_item_compatible(&b.first, &it))) {
            add_batch(p, c, &b);
            b.n = 0;
        }
        if (!b.n++) {
            b.first = it;
            b.prompt = (RenderPrompt){1, 1};
            TRY(render_pool_get(p->pool, it.model[0] ? it.model : c->model, it.vae, &b.render));
            TRY_CTX(sweep_item_setup(&it, c, b.render, &b.setup), "image %lld", (long long)it.index);
        }
        TRY_CTX(prompt_size(p, c, &it, &b), "image %lld", (long long)it.index);
    }
    if (b.n)
        add_batch(p, c, &b);
    return 0;
}

static void plans_deinit(Plans *p)
{
    render_pool_destroy(p->pool);
    sweep_grid_deinit(&p->grid);
    free(p->kind);
}

static size_t peak_bytes(const Plans *p)
{
    size_t peak = 0;
    for (int i = 0; i < p->nkind; i++)
        peak = p->kind[i].plan.peak > peak ? p->kind[i].plan.peak : peak;
    return peak;
}

/* plans_deinit in every case. */
static int make_plans(Plans *p, const SweepConf *c, int threads)
{
    RenderConf conf;
    memset(p, 0, sizeof *p);
    TRY(sweep_grid_init(&p->grid, c));
    TRY(sweep_sheet_check(&p->grid, &c->sheet));
    sweep_conf_render(c, &conf);
    conf.threads = threads;
    TRY(render_pool_create(&p->pool, &conf));
    if (!(p->kind = calloc(MAX_KINDS, sizeof *p->kind)))
        return err_set(ERR_NOMEM, "out of memory");
    TRY(add_batches(p, c));
    for (int i = 0; i < p->nkind; i++) {
        TRY(render_plan(p->kind[i].render, &p->kind[i].setup, p->kind[i].rows, &p->kind[i].prompt, &p->kind[i].plan));
        p->flops += p->kind[i].plan.flops_image * (double)p->kind[i].images;
    }
    if (p->left) /* as the others on average */
        p->flops *= (double)p->grid.count / (double)(p->grid.count - p->left);
    return 0;
}

static void add_bytes(StrBuf *out, double n)
{
    static const char *const unit[] = {"bytes", "KiB", "MiB", "GiB", "TiB"};
    int i = 0;
    for (; n >= 1024 && i < 4; i++)
        n /= 1024;
    str_add_format(out, i ? "%.1f %s" : "%.0f %s", n, unit[i]);
}

static void add_time(StrBuf *out, double s)
{
    if (s < 120)
        str_add_format(out, "%.0f s", s);
    else if (s < 7200)
        str_add_format(out, "%.0f min", s / 60);
    else if (s < 48 * 3600)
        str_add_format(out, "%.1f h", s / 3600);
    else
        str_add_format(out, "%.1f days", s / 86400);
}

/* Rendered art compresses to about two thirds in run.h5 and as PNG. */
static const double SHARE = 0.65;

static int add_estimates(const Plans *p, const SweepConf *c, int threads, StrBuf *out)
{
    double seconds, rate;
    int64_t before;
    str_add(out, "on disk about ");
    add_bytes(out, SHARE * p->pixels + p->latents + 2048.0 * (double)p->grid.count);
    str_add(out, ": images ");
    add_bytes(out, SHARE * p->pixels);
    str_add(out, " (uncompressed ");
    add_bytes(out, p->pixels);
    str_add(out, ")");
    if (c->latents) {
        str_add(out, ", latents ");
        add_bytes(out, p->latents);
    }
    if (c->png) {
        str_add(out, "; PNG files ");
        add_bytes(out, SHARE * p->pixels);
        str_add(out, " more");
    }
    TRY(sweep_rate_previous(&seconds, &before, c->output));
    str_add(out, "\ntime about ");
    if (before) {
        add_time(out, seconds * (double)p->grid.count);
        str_add_format(out, " on one rank (%.2f s per image in the run of %lld images that is there)", seconds, (long long)before);
    } else {
        TRY(sweep_rate_measure(&rate, sweep_conf_dtype(c), threads));
        add_time(out, p->flops / rate);
        str_add_format(out, " on one rank like this machine with %d thread%s (%.0f GFLOP/s measured; small images take longer)", threads,
                       threads > 1 ? "s" : "", rate * 1e-9);
    }
    str_add(out, "; n ranks divide it by n\n");
    return 0;
}

static void part_line(StrBuf *out, const char *name, const RenderPart *part)
{
    str_add_format(out, "    %-13s %9.1f GFLOP  arena %12zu bytes  weights %12zu bytes  %4d ops\n", name, part->flops * 1e-9, part->arena,
                   part->params, part->nodes);
}

static void kind_text(const Kind *k, const SweepConf *c, StrBuf *out)
{
    if (k->item.model[0] && strcmp(k->item.model, c->model) != 0)
        str_add_format(out, "%s: ", k->item.model);
    str_add_format(out, "%lld images %dx%d, %s %d steps (%d model calls), %s, ", (long long)k->images, k->setup.width, k->setup.height,
                   sampler_kind_name(k->setup.sampler.kind), k->setup.sampler.steps, k->plan.model_calls,
                   k->setup.guided ? "guidance on" : "guidance off");
    if (k->item.nlora)
        sweep_lora_text(k->item.lora, k->item.nlora, out);
    else
        str_add(out, "no LoRA");
    if (k->prompt.chunks > 1)
        str_add_format(out, ", prompts of %d chunks", k->prompt.chunks);
    if (k->prompt.runs > 1)
        str_add_format(out, ", AND: %d runs per call", k->prompt.runs);
    str_add_format(out, ": %lld batches of up to %d\n", (long long)k->batches, k->rows);
    part_line(out, "text encoder", &k->plan.part[PIPELINE_TEXT]);
    part_line(out, "UNet", &k->plan.part[PIPELINE_UNET]);
    part_line(out, "VAE decoder", &k->plan.part[PIPELINE_VAE]);
    str_add_format(out, "    %.1f GFLOP per image; at most %zu bytes (%.1f MiB) of weights and arenas at once\n", k->plan.flops_image * 1e-9,
                   k->plan.peak, (double)k->plan.peak / 1048576);
}

static int plan_text(const Plans *p, const SweepConf *c, int threads, StrBuf *out)
{
    size_t peak = peak_bytes(p);
    str_add_format(out, "%s: %lld images", c->output, (long long)p->grid.count);
    for (int i = 0; i < p->grid.naxes; i++)
        str_add_format(out, "%s%s %lld", i ? " x " : " = ", p->grid.axis[i].name, (long long)p->grid.axis[i].count);
    if (p->grid.count < p->grid.product)
        str_add_format(out, ", less %lld that the conditions take out", (long long)(p->grid.product - p->grid.count));
    str_add_format(out, ", %lld batches\nmodel %s, %s, %s\n\n", (long long)p->batches, c->model, dtype_name(sweep_conf_dtype(c)),
                   p->nkind ? render_backend(p->kind[0].render) : "");
    for (int i = 0; i < p->nkind; i++)
        kind_text(&p->kind[i], c, out);
    if (p->left)
        str_add_format(out, "and %lld images of more kinds\n", (long long)p->left);
    str_add_format(out, "\nin all %.3f TFLOP; peak %zu bytes (%.1f MiB) per rank\n", p->flops * 1e-12, peak, (double)peak / 1048576);
    TRY(add_estimates(p, c, threads, out));
    return str_status(out);
}

int sweep_plan_text(const SweepConf *c, int threads, StrBuf *out)
{
    Plans p;
    int rc = make_plans(&p, c, threads);
    if (rc >= 0)
        rc = plan_text(&p, c, threads, out);
    plans_deinit(&p);
    return rc;
}

int sweep_plan_need(const SweepConf *c, int threads, SweepNeed *out)
{
    Plans p;
    int rc = make_plans(&p, c, threads);
    *out = (SweepNeed){.images = p.grid.count, .peak = (double)peak_bytes(&p), .flops = p.flops};
    plans_deinit(&p);
    return rc;
}
