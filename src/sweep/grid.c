#include "sweep/grid.h"

#include <stdlib.h>
#include <string.h>

#include "io/file.h"

const char *const SWEEP_FIELD_NAMES[SWEEP_FIELDS] = {
    "model",  "vae",    "lora",     "size",     "hires",            "clip_skip",      "steps",              "sampler",   "spacing", "seed_compat", "prompt_rules", "eta", "strength",
    "source", "mask",   "prompt",   "negative", "guidance", "guidance_rescale", "variation_seed", "variation_strength", "seed_size",
    "batch_index", "seed"};

void sweep_value_deinit(SweepValue *v)
{
    for (int i = 0; i < v->nlora; i++) {
        free(v->lora[i].name);
        free(v->lora[i].path);
    }
    free(v->lora);
    free(v->label);
    free(v->sampler);
    free(v->spacing);
    free(v->prompt);
    free(v->negative);
    free(v->model);
    free(v->vae);
    free(v->source);
    free(v->mask);
    memset(v, 0, sizeof *v);
}

void sweep_grid_deinit(SweepGrid *g)
{
    sweep_value_deinit(&g->base);
    for (int i = 0; i < g->naxes; i++) {
        SweepAxis *a = &g->axis[i];
        for (int64_t k = 0; a->value && k < a->count; k++)
            sweep_value_deinit(&a->value[k]);
        free(a->value);
        free(a->name);
        sweep_templates_destroy(a->templates);
    }
    sweep_keep_destroy(g->keep);
    sweep_keep_destroy(g->keep_order);
    sweep_tags_close(g->tags);
    wildcards_close(g->wildcards);
    memset(g, 0, sizeof *g);
}

static int base_value(SweepValue *v, const SweepConf *c)
{
    v->width = c->size.count > 0 ? (int)c->size.items[0] : 0;
    v->height = c->size.count > 1 ? (int)c->size.items[1] : v->width;
    v->clip_skip = c->clip_skip;
    v->steps = c->steps;
    v->eta = c->eta;
    v->guidance = c->guidance;
    v->rescale = c->guidance_rescale;
    v->seed = c->seed;
    v->strength = c->strength;
    v->hires = c->hires;
    v->variation_seed = c->variation_seed;
    v->variation_strength = c->variation_strength;
    v->seed_width = c->seed_size.count > 0 ? (int)c->seed_size.items[0] : 0;
    v->seed_height = c->seed_size.count > 1 ? (int)c->seed_size.items[1] : v->seed_width;
    v->batch_index = c->batch_index;
    v->batch_size = c->batch_size;
    v->seed_compat = c->seed_compat;
    v->rules = c->prompt_rules;
    TRY(str_copy(&v->model, c->model ? c->model : ""));
    TRY(str_copy(&v->vae, c->vae));
    TRY(str_copy(&v->source, c->source));
    TRY(str_copy(&v->mask, c->mask));
    TRY(str_copy(&v->sampler, c->sampler));
    TRY(str_copy(&v->spacing, c->spacing));
    TRY(str_copy(&v->prompt, c->prompt));
    TRY(str_copy(&v->negative, c->negative));
    return c->lora ? sweep_value_lora(v, c->lora, "lora") : 0;
}

/* How dear a change of this axis is: the smallest field number it sets. A guidance axis that switches guidance off and on changes
 * the network's batch, so it goes before the prompts. */
static int axis_cost(const SweepAxis *a, double guidance)
{
    int cost = 0;
    while (cost < SWEEP_FIELDS && !(a->set & 1u << cost))
        cost++;
    if (!(a->set & 1u << SWEEP_GUIDANCE) || !a->value)
        return cost;
    int on = 0, off = 0;
    for (int64_t k = 0; k < a->count; k++)
        *((a->value[k].set & 1u << SWEEP_GUIDANCE ? a->value[k].guidance : guidance) > 1 ? &on : &off) = 1;
    return on && off && cost > SWEEP_ETA ? SWEEP_ETA : cost;
}

static int check_batch_index(const SweepGrid *g)
{
    int most = g->base.batch_index, size = g->base.batch_size;
    for (int i = 0; i < g->naxes; i++)
        for (int64_t k = 0; g->axis[i].value && g->axis[i].set & 1u << SWEEP_BATCH_INDEX && k < g->axis[i].count; k++)
            most = g->axis[i].value[k].batch_index > most ? g->axis[i].value[k].batch_index : most;
    return most == 0 || most < size ? 0
                                    : err_set(ERR_RANGE, "batch_index %d: expected 0..batch_size - 1, and batch_size is %d", most, size);
}

static int order_axes(SweepGrid *g)
{
    TRY(check_batch_index(g));
    g->product = 1;
    for (int i = 0; i < g->naxes; i++) {
        SweepAxis *a = &g->axis[i];
        if (a->count > SWEEP_MAX_ITEMS / g->product)
            return err_set(ERR_RANGE, "the axes make more than %d images", SWEEP_MAX_ITEMS);
        g->product *= a->count;
        a->cost = axis_cost(a, g->base.guidance);
        int k = i;
        for (; k > 0 && g->axis[g->order[k - 1]].cost > a->cost; k--)
            g->order[k] = g->order[k - 1];
        g->order[k] = i;
    }
    g->count = g->product;
    return 0;
}

/* Tags of prompts that stand in the configuration; those of templates show when they are expanded. */
static int check_tags(const SweepGrid *g)
{
    SweepItem it = {.rules = sweep_conf_rules(g->base.rules, g->base.seed_compat)};
    TRY_CTX(sweep_tags_add(g->tags, g->base.prompt, &it), "prompt");
    for (int i = 0; i < g->naxes; i++)
        for (int64_t k = 0; g->axis[i].value && k < g->axis[i].count; k++) {
            it.nlora = 0;
            if (g->axis[i].value[k].prompt)
                TRY_CTX(sweep_tags_add(g->tags, g->axis[i].value[k].prompt, &it), "axes.%s", g->axis[i].name);
        }
    return 0;
}

int sweep_grid_init(SweepGrid *g, const SweepConf *c)
{
    memset(g, 0, sizeof *g);
    TRY(base_value(&g->base, c));
    TRY(sweep_tags_open(&g->tags, c->loras));
    TRY(wildcards_open(&g->wildcards, c->wildcards));
    if (c->axes)
        TRY(sweep_grid_parse(g, c->axes));
    TRY(order_axes(g));
    TRY(check_tags(g));
    for (int i = 0; i < g->naxes; i++)
        if (g->axis[i].templates)
            TRY(wildcards_hash(g->wildcards, g->wildcards_hash));
    return sweep_grid_keep(g, c->only, c->exclude);
}

static void apply(SweepItem *it, const SweepValue *v, unsigned set)
{
    if (set & 1u << SWEEP_LORA)
        for (it->nlora = 0; it->nlora < v->nlora; it->nlora++)
            it->lora[it->nlora] = v->lora[it->nlora];
    if (set & 1u << SWEEP_SIZE)
        it->width = v->width, it->height = v->height;
    if (set & 1u << SWEEP_CLIP_SKIP)
        it->clip_skip = v->clip_skip;
    if (set & 1u << SWEEP_STEPS)
        it->steps = v->steps;
    if (set & 1u << SWEEP_SAMPLER)
        it->sampler = v->sampler;
    if (set & 1u << SWEEP_SPACING)
        it->spacing = v->spacing;
    if (set & 1u << SWEEP_ETA)
        it->eta = v->eta;
    if (set & 1u << SWEEP_PROMPT)
        it->prompt = v->prompt;
    if (set & 1u << SWEEP_NEGATIVE)
        it->negative = v->negative;
    if (set & 1u << SWEEP_GUIDANCE)
        it->guidance = v->guidance;
    if (set & 1u << SWEEP_RESCALE)
        it->rescale = v->rescale;
    if (set & 1u << SWEEP_SEED_COMPAT)
        it->seed_compat = v->seed_compat;
    if (set & 1u << SWEEP_PROMPT_RULES)
        it->rules = v->rules;
    if (set & 1u << SWEEP_MODEL)
        it->model = v->model;
    if (set & 1u << SWEEP_VAE)
        it->vae = v->vae;
    if (set & 1u << SWEEP_HIRES)
        it->hires = v->hires;
    if (set & 1u << SWEEP_STRENGTH)
        it->strength = v->strength;
    if (set & 1u << SWEEP_SOURCE)
        it->source = v->source;
    if (set & 1u << SWEEP_MASK)
        it->mask = v->mask;
    if (set & 1u << SWEEP_VARIATION_SEED)
        it->variation_seed = v->variation_seed;
    if (set & 1u << SWEEP_VARIATION_STRENGTH)
        it->variation_strength = v->variation_strength;
    if (set & 1u << SWEEP_SEED_SIZE)
        it->seed_width = v->seed_width, it->seed_height = v->seed_height;
    if (set & 1u << SWEEP_BATCH_INDEX)
        it->batch_index = v->batch_index;
    if (set & 1u << SWEEP_SEED)
        it->seed = v->seed;
}

void sweep_grid_coords(const SweepGrid *g, int64_t index, int64_t coord[SWEEP_MAX_AXES])
{
    if (g->keep)
        index = sweep_keep_place(g->keep, index);
    for (int i = g->naxes - 1; i >= 0; i--) {
        coord[i] = index % g->axis[i].count;
        index /= g->axis[i].count;
    }
}

int64_t sweep_grid_index(const SweepGrid *g, const int64_t coord[SWEEP_MAX_AXES])
{
    int64_t index = 0;
    for (int i = 0; i < g->naxes; i++)
        index = index * g->axis[i].count + coord[i];
    return g->keep ? sweep_keep_number(g->keep, index) : index;
}

int64_t sweep_grid_at(const SweepGrid *g, int64_t position)
{
    int64_t coord[SWEEP_MAX_AXES];
    if (g->keep_order)
        position = sweep_keep_place(g->keep_order, position);
    for (int i = g->naxes - 1; i >= 0; i--) {
        const SweepAxis *a = &g->axis[g->order[i]];
        coord[g->order[i]] = position % a->count;
        position /= a->count;
    }
    return sweep_grid_index(g, coord);
}

static void apply_template(SweepItem *it, const SweepTemplates *t, int64_t place)
{
    int i = 0;
    while (i + 1 < t->count && place >= t->first[i + 1])
        i++;
    *(t->field == SWEEP_PROMPT ? &it->prompt : &it->negative) = t->text[i];
}

void sweep_grid_at_product(const SweepGrid *g, const int64_t coord[SWEEP_MAX_AXES], SweepItem *out)
{
    memset(out, 0, sizeof *out);
    apply(out, &g->base, ~0u);
    for (int i = 0; i < g->naxes; i++) {
        const SweepAxis *a = &g->axis[i];
        if (a->value)
            apply(out, &a->value[coord[i]], a->value[coord[i]].set);
        else if (a->templates)
            apply_template(out, a->templates, coord[i]);
        else
            out->seed = a->start + coord[i] * a->step;
    }
    out->batch_size = g->base.batch_size;
    out->typed = out->prompt;
    out->typed_negative = out->negative;
    out->rules = sweep_conf_rules(out->rules, out->seed_compat);
}

/* Tags of a template's expansion belong to the item although its text does not; what is not found, sweep_item_load reports. */
static void add_tags(const SweepGrid *g, const int64_t coord[SWEEP_MAX_AXES], SweepItem *it)
{
    for (int i = 0; i < g->naxes; i++) {
        const SweepTemplates *t = g->axis[i].templates;
        if (!t || t->field != SWEEP_PROMPT)
            continue;
        StrBuf b;
        str_init(&b);
        if (t->tags && sweep_templates_expand(t, coord[i], &b) >= 0)
            sweep_tags_add(g->tags, b.data, it);
        str_deinit(&b);
        return;
    }
    sweep_tags_add(g->tags, it->prompt, it);
}

void sweep_grid_item(const SweepGrid *g, int64_t index, SweepItem *out)
{
    int64_t coord[SWEEP_MAX_AXES];
    sweep_grid_coords(g, index, coord);
    sweep_grid_at_product(g, coord, out);
    out->index = index;
    add_tags(g, coord, out);
}

/* The expansion, where a template makes it; without its tags, which become adapters. */
static int load_text(const SweepGrid *g, const int64_t *coord, SweepField field, SweepItem *it)
{
    int side = field == SWEEP_NEGATIVE, rc = 0;
    const char **text = side ? &it->negative : &it->prompt;
    for (int i = 0; i < g->naxes; i++) {
        const SweepTemplates *t = g->axis[i].templates;
        if (!t || t->field != field)
            continue;
        StrBuf b;
        str_init(&b);
        rc = sweep_templates_expand(t, coord[i], &b);
        if (rc >= 0)
            rc = str_take(&it->own[side], &b);
        str_deinit(&b);
        TRY(rc);
        *text = it->own[side];
    }
    if (side || !strstr(*text, "<lora:"))
        return 0;
    TRY(sweep_tags_add(g->tags, *text, it));
    Prompt p;
    char *rest;
    TRY(prompt_take_loras(&p, &rest, *text, (PromptRules)it->rules));
    prompt_deinit(&p);
    free(it->own[side]);
    *text = it->own[side] = rest;
    return 0;
}

int sweep_item_load(const SweepGrid *g, int64_t index, SweepItem *out)
{
    int64_t coord[SWEEP_MAX_AXES];
    sweep_grid_coords(g, index, coord);
    sweep_grid_at_product(g, coord, out);
    out->index = index;
    TRY_CTX(load_text(g, coord, SWEEP_PROMPT, out), "image %lld", (long long)index);
    TRY_CTX(load_text(g, coord, SWEEP_NEGATIVE, out), "image %lld", (long long)index);
    return 0;
}

void sweep_item_deinit(SweepItem *it)
{
    free(it->own[0]);
    free(it->own[1]);
    memset(it, 0, sizeof *it);
}

static int same_hires(const RenderHires *a, const RenderHires *b)
{
    if (!a->upscale && !b->upscale)
        return 1;
    return a->upscale == b->upscale && !(a->scale < b->scale || a->scale > b->scale) && a->steps == b->steps &&
           !(a->strength < b->strength || a->strength > b->strength);
}

int sweep_item_compatible(const SweepItem *a, const SweepItem *b)
{
    if (a->seed_compat != b->seed_compat || a->rules != b->rules || a->nlora != b->nlora || a->width != b->width || a->height != b->height || a->clip_skip != b->clip_skip || a->steps != b->steps ||
        a->eta < b->eta || a->eta > b->eta || (a->guidance > 1) != (b->guidance > 1) || strcmp(a->sampler, b->sampler) != 0 ||
        strcmp(a->spacing, b->spacing) != 0 || strcmp(a->model, b->model) != 0 || strcmp(a->vae, b->vae) != 0 || !a->source[0] != !b->source[0] ||
        !a->mask[0] != !b->mask[0] || (a->source[0] && (a->strength < b->strength || a->strength > b->strength)) ||
        !same_hires(&a->hires, &b->hires))
        return 0;
    for (int i = 0; i < a->nlora; i++)
        if (strcmp(a->lora[i].path, b->lora[i].path) != 0 || a->lora[i].scale < b->lora[i].scale || a->lora[i].scale > b->lora[i].scale)
            return 0;
    return 1;
}

int sweep_grid_axis(const SweepGrid *g, const char *name)
{
    for (int i = 0; i < g->naxes; i++)
        if (strcmp(g->axis[i].name, name) == 0)
            return i;
    return -1;
}

void sweep_lora_text(const SweepLora *lora, int n, StrBuf *out)
{
    for (int i = 0; i < n; i++)
        str_add_format(out, "%s%s:%g", i ? " " : "", lora[i].name, lora[i].scale);
}

static void label_field(const SweepValue *v, SweepField f, StrBuf *out)
{
    switch (f) {
    case SWEEP_LORA:
        if (v->nlora)
            sweep_lora_text(v->lora, v->nlora, out);
        else
            str_add(out, "no LoRA");
        break;
    case SWEEP_SIZE: str_add_format(out, "%dx%d", v->width, v->height); break;
    case SWEEP_CLIP_SKIP: str_add_format(out, "clip skip %d", v->clip_skip); break;
    case SWEEP_STEPS: str_add_format(out, "%d steps", v->steps); break;
    case SWEEP_SAMPLER: str_add(out, v->sampler); break;
    case SWEEP_SPACING: str_add(out, v->spacing); break;
    case SWEEP_ETA: str_add_format(out, "eta %g", v->eta); break;
    case SWEEP_PROMPT: str_add(out, v->prompt[0] ? v->prompt : "(empty)"); break;
    case SWEEP_NEGATIVE: str_add_format(out, "not: %s", v->negative); break;
    case SWEEP_GUIDANCE: str_add_format(out, "guidance %g", v->guidance); break;
    case SWEEP_RESCALE: str_add_format(out, "rescale %g", v->rescale); break;
    case SWEEP_SEED: str_add_format(out, "seed %lld", (long long)v->seed); break;
    case SWEEP_MODEL: str_add(out, io_path_name(v->model)); break;
    case SWEEP_VAE: str_add_format(out, "VAE %s", v->vae[0] ? io_path_name(v->vae) : "of the model"); break;
    case SWEEP_HIRES:
        if (v->hires.upscale)
            str_add_format(out, "%s x%g", RENDER_UPSCALE_NAMES[v->hires.upscale], v->hires.scale);
        else
            str_add(out, "one pass");
        break;
    case SWEEP_STRENGTH: str_add_format(out, "strength %g", v->strength); break;
    case SWEEP_SOURCE: str_add(out, v->source[0] ? io_path_name(v->source) : "no source"); break;
    case SWEEP_MASK: str_add(out, v->mask[0] ? io_path_name(v->mask) : "no mask"); break;
    case SWEEP_VARIATION_SEED: str_add_format(out, "variation %lld", (long long)v->variation_seed); break;
    case SWEEP_VARIATION_STRENGTH: str_add_format(out, "variation of %g", v->variation_strength); break;
    case SWEEP_SEED_SIZE: str_add_format(out, "noise of %dx%d", v->seed_width, v->seed_height); break;
    case SWEEP_BATCH_INDEX: str_add_format(out, "image %d of the batch", v->batch_index); break;
    case SWEEP_SEED_COMPAT: str_add(out, SAMPLER_COMPAT_NAMES[v->seed_compat]); break;
    case SWEEP_PROMPT_RULES: str_add_format(out, "prompts as %s", SWEEP_RULES_NAMES[v->rules]); break;
    case SWEEP_FIELDS: break;
    }
}

void sweep_grid_label(const SweepGrid *g, int axis, int64_t place, StrBuf *out)
{
    const SweepAxis *a = &g->axis[axis];
    if (a->templates) {
        if (sweep_templates_expand(a->templates, place, out) < 0)
            out->failed = 1;
        return;
    }
    if (!a->value) {
        str_add_format(out, "seed %lld", (long long)(a->start + place * a->step));
        return;
    }
    const SweepValue *v = &a->value[place];
    if (v->label) {
        str_add(out, v->label);
        return;
    }
    int n = 0;
    for (int f = 0; f < SWEEP_FIELDS; f++)
        if (v->set & 1u << f) {
            if (n++)
                str_add(out, ", ");
            label_field(v, (SweepField)f, out);
        }
}

int sweep_item_setup(const SweepItem *it, const SweepConf *c, const Render *r, RenderSetup *s)
{
    render_setup_default(r, s);
    if (it->width) {
        s->width = it->width;
        s->height = it->height;
    }
    if (it->sampler[0])
        TRY(sampler_conf_set_kind(&s->sampler, it->sampler));
    if (it->spacing[0])
        TRY(sampler_conf_set_spacing(&s->sampler, it->spacing));
    s->sampler.steps = it->steps;
    s->sampler.eta = it->eta;
    s->clip_skip = it->clip_skip;
    s->guided = it->guidance > 1;
    s->seed_compat = (SamplerCompat)it->seed_compat;
    s->sampler.rules = sampler_compat_rules(s->seed_compat);
    if (it->eta < 0 && s->sampler.kind == SAMPLER_TCD && s->sampler.rules == SAMPLER_RULES_DIFFUSERS)
        s->sampler.eta = 0; /* its pipelines pass it, whatever the scheduler's own is */
    sweep_conf_noise(c, s);
    s->rules = (PromptRules)it->rules;
    s->source = it->source[0] != 0;
    s->mask = it->mask[0] != 0;
    s->strength = it->strength;
    s->encode = c->encode;
    s->inpaint = c->inpaint;
    s->hires = it->hires;
    render_setup_tile(r, s, c->vae_tile);
    if (it->batch_size && it->seed_compat != SAMPLER_COMPAT_COMFYUI)
        return err_set(ERR_UNSUPPORTED, "batch_size: only ComfyUI draws the noise of a batch as a whole (seed_compat: comfyui)");
    if (it->nlora > RENDER_MAX_LORA)
        return err_set(ERR_RANGE, "%d LoRAs at once: at most %d", it->nlora, RENDER_MAX_LORA);
    for (int i = 0; i < it->nlora; i++) /* scale 0 is the plain network, to the bit */
        if (it->lora[i].scale < 0 || it->lora[i].scale > 0)
            s->lora[s->nlora++] = (RenderLora){it->lora[i].path, it->lora[i].scale};
    return render_setup_check(r, s);
}

void sweep_item_render(const SweepItem *it, RenderItem *out)
{
    *out = (RenderItem){.prompt = it->prompt,
                        .negative = it->negative,
                        .seed = (uint64_t)it->seed,
                        .guidance = it->guidance,
                        .guidance_rescale = it->rescale,
                        .source = it->source[0] ? it->source : NULL,
                        .mask = it->mask[0] ? it->mask : NULL,
                        .variation_seed = (uint64_t)it->variation_seed,
                        .variation_strength = it->variation_strength,
                        .seed_width = it->seed_width,
                        .seed_height = it->seed_height,
                        .batch_index = it->batch_index,
                        .batch_size = it->batch_size};
}
