#include <stdlib.h>
#include <string.h>

#include "sweep/sheet.h"
#include "sweep/sweep.h"
#include "sweep/work.h"

enum { MAX_KINDS = 64 };

/* Batches that need the same networks. */
typedef struct {
    SweepItem item;
    RenderSetup setup;
    RenderPlan plan;
    int64_t images, batches;
    int rows;   /* largest batch */
} Kind;

typedef struct {
    SweepGrid grid;
    SweepWork work;
    Render *render;
    Kind *kind;
    int nkind;
    int64_t left; /* images of kinds beyond MAX_KINDS */
    double flops;
} Plans;

static int same_kind(const Kind *k, const RenderSetup *s)
{
    if (k->setup.width != s->width || k->setup.height != s->height || k->setup.guided != s->guided || k->setup.nlora != s->nlora ||
        k->setup.sampler.steps != s->sampler.steps || k->setup.sampler.kind != s->sampler.kind)
        return 0;
    for (int i = 0; i < s->nlora; i++)
        if (strcmp(k->setup.lora[i].path, s->lora[i].path) != 0)
            return 0;
    return 1;
}

static int add_batch(Plans *p, const SweepConf *c, int64_t b)
{
    SweepItem it;
    RenderSetup s;
    int n = (int)(p->work.batch[b + 1] - p->work.batch[b]);
    sweep_grid_item(&p->grid, p->work.item[p->work.batch[b]], &it);
    TRY_CTX(sweep_item_setup(&it, c, p->render, &s), "image %lld", (long long)it.index);
    int k = 0;
    while (k < p->nkind && !same_kind(&p->kind[k], &s))
        k++;
    if (k == MAX_KINDS) {
        p->left += n;
        return 0;
    }
    Kind *kind = &p->kind[k];
    if (k == p->nkind) {
        *kind = (Kind){.item = it, .setup = s};
        p->nkind++;
    }
    kind->images += n;
    kind->batches++;
    kind->rows = n > kind->rows ? n : kind->rows;
    return 0;
}

static int make_plans(Plans *p, const SweepConf *c, int threads)
{
    RenderConf conf;
    TRY(sweep_grid_init(&p->grid, c));
    TRY(sweep_sheet_check(&p->grid, &c->sheet));
    sweep_conf_render(c, &conf);
    conf.threads = threads;
    TRY(render_open(&p->render, &conf));
    uint8_t *done = calloc((size_t)p->grid.count + 1, 1);
    p->kind = calloc(MAX_KINDS, sizeof *p->kind);
    int rc = done && p->kind ? sweep_work_init(&p->work, &p->grid, done, c->batch) : err_set(ERR_NOMEM, "out of memory");
    free(done);
    TRY(rc);
    for (int64_t b = 0; b < p->work.nbatch; b++)
        TRY(add_batch(p, c, b));
    for (int i = 0; i < p->nkind; i++) {
        TRY(render_plan(p->render, &p->kind[i].setup, p->kind[i].rows, &p->kind[i].plan));
        p->flops += p->kind[i].plan.flops_image * (double)p->kind[i].images;
    }
    return 0;
}

static void part_line(StrBuf *out, const char *name, const RenderPart *part)
{
    str_add_format(out, "    %-13s %9.1f GFLOP  arena %12zu bytes  weights %12zu bytes  %4d ops\n", name, part->flops * 1e-9, part->arena,
                   part->params, part->nodes);
}

static void kind_text(const Kind *k, StrBuf *out)
{
    str_add_format(out, "%lld images %dx%d, %s %d steps (%d model calls), %s, ", (long long)k->images, k->setup.width, k->setup.height,
                   sampler_kind_name(k->setup.sampler.kind), k->setup.sampler.steps, k->plan.model_calls,
                   k->setup.guided ? "guidance on" : "guidance off");
    if (k->item.nlora)
        sweep_lora_text(k->item.lora, k->item.nlora, out);
    else
        str_add(out, "no LoRA");
    str_add_format(out, ": %lld batches of up to %d\n", (long long)k->batches, k->rows);
    part_line(out, "text encoder", &k->plan.part[PIPELINE_TEXT]);
    part_line(out, "UNet", &k->plan.part[PIPELINE_UNET]);
    part_line(out, "VAE decoder", &k->plan.part[PIPELINE_VAE]);
    str_add_format(out, "    %.1f GFLOP per image; at most %zu bytes (%.1f MiB) of weights and arenas at once\n", k->plan.flops_image * 1e-9,
                   k->plan.peak, (double)k->plan.peak / 1048576);
}

int sweep_plan_text(const SweepConf *c, int threads, StrBuf *out)
{
    Plans p;
    memset(&p, 0, sizeof p);
    int rc = make_plans(&p, c, threads);
    if (rc >= 0) {
        str_add_format(out, "%s: %lld images", c->output, (long long)p.grid.count);
        for (int i = 0; i < p.grid.naxes; i++)
            str_add_format(out, "%s%s %lld", i ? " x " : " = ", p.grid.axis[i].name, (long long)p.grid.axis[i].count);
        str_add_format(out, ", %lld batches\nmodel %s, %s, %s\n\n", (long long)p.work.nbatch, c->model, dtype_name(sweep_conf_dtype(c)),
                       render_backend(p.render));
        for (int i = 0; i < p.nkind; i++)
            kind_text(&p.kind[i], out);
        if (p.left)
            str_add_format(out, "and %lld images of more kinds\n", (long long)p.left);
        size_t peak = 0;
        for (int i = 0; i < p.nkind; i++)
            peak = p.kind[i].plan.peak > peak ? p.kind[i].plan.peak : peak;
        str_add_format(out, "\nin all %.3f TFLOP; peak %zu bytes (%.1f MiB) per rank\n", p.flops * 1e-12, peak, (double)peak / 1048576);
        rc = str_status(out);
    }
    sweep_work_deinit(&p.work);
    render_close(p.render);
    sweep_grid_deinit(&p.grid);
    free(p.kind);
    return rc;
}
