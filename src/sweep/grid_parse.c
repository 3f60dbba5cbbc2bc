#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/file.h"
#include "sweep/grid.h"

enum { MAX_VALUES = 1000000 };
#define NAME_CHARS "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-"

static int is_none(const ConfNode *n)
{
    static const char *const words[] = {"none", "null", "~", "off", "false", ""};
    if (n->kind == CONF_NODE_LIST)
        return n->count == 0;
    if (n->kind != CONF_NODE_SCALAR)
        return 0;
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (strcmp(n->text, words[i]) == 0)
            return 1;
    return 0;
}

/* "folder/pictograms.safetensors" -> "pictograms" */
static int name_of(char **out, const char *path)
{
    const char *name = io_path_name(path), *ext = io_path_ext(name);
    return str_format(out, "%.*s", (int)(ext - name), name);
}

static int add_lora(SweepValue *v, const ConfNode *node, const char *what)
{
    static const char *const keys[] = {"path", "scale", "name", "label"};
    if (node->kind != CONF_NODE_MAP)
        return conf_node_expected(node, ERR_FORMAT, what, "none or {path: FILE, scale: NUMBER}");
    for (int i = 0; i < node->count; i++) {
        int known = 0;
        for (size_t k = 0; k < sizeof keys / sizeof *keys; k++)
            known |= strcmp(node->keys[i], keys[k]) == 0;
        if (!known)
            return conf_node_error(node->items[i], ERR_NOTFOUND, what, "unknown key '%s'; expected path, scale, name or label", node->keys[i]);
    }
    const ConfNode *path = conf_node_find(node, "path"), *scale = conf_node_find(node, "scale"), *name = conf_node_find(node, "name");
    const char *text;
    if (!path)
        return conf_node_error(node, ERR_NOTFOUND, what, "'path' is missing");
    SweepLora *grown = realloc(v->lora, (size_t)(v->nlora + 1) * sizeof *grown);
    if (!grown)
        return err_set(ERR_NOMEM, "out of memory");
    v->lora = grown;
    SweepLora *lo = &v->lora[v->nlora++];
    memset(lo, 0, sizeof *lo);
    lo->scale = 1;
    TRY(conf_node_text(path, what, &text));
    TRY(str_copy(&lo->path, text));
    if (scale) {
        TRY(conf_node_f64(scale, what, &lo->scale));
        if (!(lo->scale >= -100 && lo->scale <= 100))
            return conf_node_error(scale, ERR_RANGE, what, "scale: expected -100..100");
    }
    if (!name)
        return name_of(&lo->name, lo->path);
    TRY(conf_node_text(name, what, &text));
    return str_copy(&lo->name, text);
}

int sweep_value_lora(SweepValue *v, const ConfNode *node, const char *what)
{
    if (is_none(node))
        return 0;
    if (node->kind != CONF_NODE_LIST)
        return add_lora(v, node, what);
    if (node->count > RENDER_MAX_LORA)
        return conf_node_error(node, ERR_RANGE, what, "%d LoRAs at once: at most %d", node->count, RENDER_MAX_LORA);
    for (int i = 0; i < node->count; i++)
        TRY(add_lora(v, node->items[i], what));
    return 0;
}

static int read_text(char **out, const ConfNode *n, const char *what)
{
    const char *text;
    TRY(conf_node_text(n, what, &text));
    char *copy;
    TRY(str_copy(&copy, text));
    free(*out);
    *out = copy;
    return 0;
}

static int read_int(int *out, const ConfNode *n, const char *what, int lo, int hi)
{
    int64_t x;
    TRY(conf_node_i64(n, what, &x));
    if (x < lo || x > hi)
        return conf_node_error(n, ERR_RANGE, what, "expected %d..%d, got %lld", lo, hi, (long long)x);
    *out = (int)x;
    return 0;
}

static int read_number(double *out, const ConfNode *n, const char *what, double lo, double hi)
{
    TRY(conf_node_f64(n, what, out));
    return *out >= lo && *out <= hi ? 0 : conf_node_error(n, ERR_RANGE, what, "expected %g..%g, got %g", lo, hi, *out);
}

static int read_size(int *width, int *height, const ConfNode *n, const char *what)
{
    if (n->kind == CONF_NODE_SCALAR) {
        TRY(read_int(width, n, what, 8, 16384));
        *height = *width;
        return 0;
    }
    if (n->kind != CONF_NODE_LIST || n->count != 2)
        return conf_node_error(n, ERR_FORMAT, what, "expected a number or [width, height]");
    TRY(read_int(width, n->items[0], what, 8, 16384));
    return read_int(height, n->items[1], what, 8, 16384);
}

static int read_seed(int64_t *seed, const ConfNode *n, const char *what)
{
    TRY(conf_node_i64(n, what, seed));
    return *seed >= 0 ? 0 : conf_node_error(n, ERR_RANGE, what, "expected a seed from 0, got %lld", (long long)*seed);
}

/* "none" or an empty text: nothing. */
static int read_file(char **out, const ConfNode *n, const char *what)
{
    if (is_none(n)) {
        free(*out);
        return str_copy(out, "");
    }
    return read_text(out, n, what);
}

static int read_upscale(int *out, const ConfNode *n, const char *what)
{
    const char *text;
    TRY(conf_node_text(n, what, &text));
    for (*out = 0; RENDER_UPSCALE_NAMES[*out]; (*out)++)
        if (strcmp(text, RENDER_UPSCALE_NAMES[*out]) == 0)
            return 0;
    return conf_node_error(n, ERR_RANGE, what, "upscale: expected off, latent-nearest, latent-bilinear, latent-bicubic or lanczos, got '%s'", text);
}

static int read_name(int *out, const ConfNode *n, const char *what, const char *const *names)
{
    const char *text;
    int count = 0;
    TRY(conf_node_text(n, what, &text));
    for (*out = -1; names[count]; count++)
        if (strcmp(text, names[count]) == 0)
            *out = count;
    if (*out >= 0)
        return 0;
    const char *near = str_nearest(text, names, count);
    return conf_node_error(n, ERR_RANGE, what, "'%s' is no choice; did you mean '%s'?", text, near ? near : names[0]);
}

/* "none", or a map as the key hires takes it. */
static int read_hires(RenderHires *h, const ConfNode *n, const char *what)
{
    *h = (RenderHires){.scale = 2, .strength = 0.6};
    if (is_none(n))
        return 0;
    if (n->kind != CONF_NODE_MAP)
        return conf_node_error(n, ERR_FORMAT, what, "expected none or {upscale: latent-bilinear, scale: 2, steps: 0, strength: 0.6}");
    h->upscale = RENDER_UPSCALE_LATENT_BILINEAR;
    for (int i = 0; i < n->count; i++) {
        const char *key = n->keys[i];
        const ConfNode *v = n->items[i];
        if (strcmp(key, "upscale") == 0)
            TRY(read_upscale(&h->upscale, v, what));
        else if (strcmp(key, "scale") == 0)
            TRY(read_number(&h->scale, v, what, 1, 8));
        else if (strcmp(key, "strength") == 0)
            TRY(read_number(&h->strength, v, what, 0, 1));
        else if (strcmp(key, "steps") == 0)
            TRY(read_int(&h->steps, v, what, 0, 1000));
        else if (strcmp(key, "label") != 0)
            return conf_node_error(v, ERR_NOTFOUND, what, "'%s': hires takes upscale, scale, steps and strength", key);
    }
    return 0;
}

static int read_field(SweepValue *v, SweepField f, const ConfNode *n, const char *what)
{
    v->set |= 1u << f;
    switch (f) {
    case SWEEP_LORA: return sweep_value_lora(v, n, what);
    case SWEEP_SIZE: return read_size(&v->width, &v->height, n, what);
    case SWEEP_CLIP_SKIP: return read_int(&v->clip_skip, n, what, 1, 64);
    case SWEEP_STEPS: return read_int(&v->steps, n, what, 1, 1000);
    case SWEEP_SAMPLER: return read_text(&v->sampler, n, what);
    case SWEEP_SPACING: return read_text(&v->spacing, n, what);
    case SWEEP_ETA: return read_number(&v->eta, n, what, 0, 1);
    case SWEEP_PROMPT: return read_text(&v->prompt, n, what);
    case SWEEP_NEGATIVE: return read_text(&v->negative, n, what);
    case SWEEP_GUIDANCE: return read_number(&v->guidance, n, what, 0, 1000);
    case SWEEP_RESCALE: return read_number(&v->rescale, n, what, 0, 1);
    case SWEEP_SEED: return read_seed(&v->seed, n, what);
    case SWEEP_MODEL: return read_text(&v->model, n, what);
    case SWEEP_VAE: return read_file(&v->vae, n, what);
    case SWEEP_HIRES: return read_hires(&v->hires, n, what);
    case SWEEP_STRENGTH: return read_number(&v->strength, n, what, 0, 1);
    case SWEEP_SOURCE: return read_file(&v->source, n, what);
    case SWEEP_MASK: return read_file(&v->mask, n, what);
    case SWEEP_VARIATION_SEED: return read_seed(&v->variation_seed, n, what);
    case SWEEP_VARIATION_STRENGTH: return read_number(&v->variation_strength, n, what, 0, 1);
    case SWEEP_SEED_SIZE: return read_size(&v->seed_width, &v->seed_height, n, what);
    case SWEEP_BATCH_INDEX: return read_int(&v->batch_index, n, what, 0, 4095);
    case SWEEP_SEED_COMPAT: return read_name(&v->seed_compat, n, what, SAMPLER_COMPAT_NAMES);
    case SWEEP_PROMPT_RULES: return read_name(&v->rules, n, what, SWEEP_RULES_NAMES);
    case SWEEP_FIELDS: break;
    }
    return 0;
}

/* The field's name or what other programs call it. */
static int field_of(const char *name)
{
    static const struct {
        const char *name;
        SweepField field;
    } alias[] = {{"cfg", SWEEP_GUIDANCE}, {"cfg_scale", SWEEP_GUIDANCE}, {"guidance_scale", SWEEP_GUIDANCE}, {"schedule", SWEEP_SPACING},
                 {"scheduler", SWEEP_SPACING}, {"loras", SWEEP_LORA}, {"negative_prompt", SWEEP_NEGATIVE}, {"denoise", SWEEP_STRENGTH}};
    for (size_t i = 0; i < sizeof alias / sizeof *alias; i++)
        if (strcmp(name, alias[i].name) == 0)
            return (int)alias[i].field;
    for (int f = 0; f < SWEEP_FIELDS; f++)
        if (strcmp(name, SWEEP_FIELD_NAMES[f]) == 0)
            return f;
    return -1;
}

static int unknown_field(const ConfNode *n, const char *what, const char *key)
{
    const char *near = str_nearest(key, SWEEP_FIELD_NAMES, SWEEP_FIELDS);
    return conf_node_error(n, ERR_NOTFOUND, what, "'%s' is nothing that can vary%s%s%s", key, near ? "; did you mean '" : "", near ? near : "",
                           near ? "'?" : "");
}

/* One entry that sets several fields: {prompt: ..., seed: ..., label: ...}. */
static int read_fields(SweepValue *v, const ConfNode *n, const char *what)
{
    if (n->count == 0)
        return conf_node_error(n, ERR_FORMAT, what, "an empty entry");
    for (int i = 0; i < n->count; i++) {
        if (strcmp(n->keys[i], "label") == 0) {
            TRY(read_text(&v->label, n->items[i], what));
            continue;
        }
        int f = field_of(n->keys[i]);
        if (f < 0)
            return unknown_field(n->items[i], what, n->keys[i]);
        TRY(read_field(v, (SweepField)f, n->items[i], what));
    }
    return 0;
}

static int read_value(SweepValue *v, int field, const ConfNode *n, const char *what)
{
    if (field == SWEEP_LORA || field == SWEEP_HIRES) {
        const ConfNode *label = n->kind == CONF_NODE_MAP ? conf_node_find(n, "label") : NULL;
        if (label)
            TRY(read_text(&v->label, label, what));
        return read_field(v, (SweepField)field, n, what);
    }
    if (n->kind == CONF_NODE_MAP)
        return read_fields(v, n, what);
    if (field < 0) {
        const char *name = strrchr(what, '.'), *near = str_nearest(name ? name + 1 : what, SWEEP_FIELD_NAMES, SWEEP_FIELDS);
        return conf_node_error(n, ERR_FORMAT, what, "nothing of this name can vary%s%s%s; an axis with a name of its own takes a list of maps: "
                               "{prompt: ..., steps: ...}", near ? " (did you mean '" : "", near ? near : "", near ? "'?)" : "");
    }
    return read_field(v, (SweepField)field, n, what);
}

static int values_alloc(SweepAxis *a, int64_t count)
{
    a->value = calloc((size_t)count, sizeof *a->value);
    if (!a->value)
        return err_set(ERR_NOMEM, "out of memory");
    a->count = count;
    return 0;
}

static int read_list(SweepAxis *a, int field, const ConfNode *n, const char *what)
{
    if (n->count == 0)
        return conf_node_error(n, ERR_RANGE, what, "an axis without values");
    TRY(values_alloc(a, n->count));
    for (int i = 0; i < n->count; i++) {
        TRY(read_value(&a->value[i], field, n->items[i], what));
        a->set |= a->value[i].set;
    }
    return 0;
}

static int read_seed_run(SweepAxis *a, const ConfNode *n, const char *what, const ConfNode *range)
{
    const ConfNode *count = conf_node_find(n, "count"), *start = conf_node_find(n, "start");
    int64_t last = 0;
    a->set = 1u << SWEEP_SEED;
    a->step = 1;
    if (range) {
        TRY(conf_node_i64(range->items[0], what, &a->start));
        TRY(conf_node_i64(range->items[1], what, &last));
        if (range->count == 3)
            TRY(conf_node_i64(range->items[2], what, &a->step));
        if (a->start < 0 || last < a->start || a->step < 1)
            return conf_node_error(range, ERR_RANGE, what, "expected [first, last] or [first, last, step] with 0 <= first <= last");
        a->count = (last - a->start) / a->step + 1;
    } else {
        TRY(conf_node_i64(count, what, &a->count));
        if (start)
            TRY(conf_node_i64(start, what, &a->start));
        if (a->count < 1 || a->start < 0 || a->start > INT64_MAX - SWEEP_MAX_ITEMS)
            return conf_node_error(n, ERR_RANGE, what, "expected {count: 1 or more, start: 0 or more}");
    }
    if (a->count > SWEEP_MAX_ITEMS)
        return conf_node_error(n, ERR_RANGE, what, "%lld values: at most %d", (long long)a->count, SWEEP_MAX_ITEMS);
    return 0;
}

static int set_number(SweepValue *v, int field, double x)
{
    v->set = 1u << field;
    switch (field) {
    case SWEEP_GUIDANCE: v->guidance = x; return x >= 0 && x <= 1000;
    case SWEEP_RESCALE: v->rescale = x; return x >= 0 && x <= 1;
    case SWEEP_ETA: v->eta = x; return x >= 0 && x <= 1;
    case SWEEP_STRENGTH: v->strength = x; return x >= 0 && x <= 1;
    case SWEEP_VARIATION_STRENGTH: v->variation_strength = x; return x >= 0 && x <= 1;
    case SWEEP_STEPS: v->steps = (int)x; return x >= 1 && x <= 1000;
    default: v->clip_skip = (int)x; return x >= 1 && x <= 64;
    }
}

static int read_number_run(SweepAxis *a, int field, const ConfNode *range, const char *what)
{
    double x[3] = {0, 0, 1};
    for (int i = 0; i < range->count; i++)
        TRY(conf_node_f64(range->items[i], what, &x[i]));
    double n = floor((x[1] - x[0]) / x[2] + 1e-9) + 1;
    if (!(x[2] > 0) || !(n >= 1))
        return conf_node_error(range, ERR_RANGE, what, "expected [first, last, step] with first <= last and step over 0");
    if (n > MAX_VALUES)
        return conf_node_error(range, ERR_RANGE, what, "%.0f values: at most %d", n, (int)MAX_VALUES);
    TRY(values_alloc(a, (int64_t)n));
    for (int64_t i = 0; i < a->count; i++)
        if (!set_number(&a->value[i], field, x[0] + (double)i * x[2]))
            return conf_node_error(range, ERR_RANGE, what, "%g is out of range", x[0] + (double)i * x[2]);
    a->set = 1u << field;
    return 0;
}

static int read_run(SweepAxis *a, int field, const ConfNode *n, const char *what)
{
    const ConfNode *range = conf_node_find(n, "range");
    int known = 0;
    for (int i = 0; i < n->count; i++)
        known += strcmp(n->keys[i], "range") == 0 || (!range && (strcmp(n->keys[i], "count") == 0 || strcmp(n->keys[i], "start") == 0));
    if (known != n->count || (!range && !conf_node_find(n, "count")))
        return conf_node_error(n, ERR_FORMAT, what, "expected a list, {range: [first, last, step]} or, for seeds, {count: N, start: S}");
    if (range && (range->kind != CONF_NODE_LIST || range->count < 2 || range->count > 3))
        return conf_node_error(range, ERR_FORMAT, what, "range: expected [first, last] or [first, last, step]");
    if (field == SWEEP_SEED)
        return read_seed_run(a, n, what, range);
    int number = field == SWEEP_GUIDANCE || field == SWEEP_RESCALE || field == SWEEP_ETA || field == SWEEP_STEPS || field == SWEEP_CLIP_SKIP ||
                 field == SWEEP_STRENGTH || field == SWEEP_VARIATION_STRENGTH;
    if (!range || !number)
        return conf_node_error(n, ERR_FORMAT, what, "expected a list");
    return read_number_run(a, field, range, what);
}

/* {prompt: [a, b], seed: [1, 2]}: the lists go together. */
static int read_zip(SweepAxis *a, const ConfNode *n, const char *what)
{
    int count = -1;
    for (int i = 0; i < n->count; i++) {
        const ConfNode *list = n->items[i];
        if (list->kind != CONF_NODE_LIST || list->count == 0)
            return conf_node_error(list, ERR_FORMAT, what, "expected a list of maps, or a map of lists: {prompt: [a, b], seed: [1, 2]}");
        if (count >= 0 && list->count != count)
            return conf_node_error(list, ERR_RANGE, what, "lists that go together have one length: '%s' has %d entries, '%s' %d", n->keys[i],
                                   list->count, n->keys[0], count);
        count = list->count;
    }
    if (count < 0)
        return conf_node_error(n, ERR_FORMAT, what, "an empty entry");
    TRY(values_alloc(a, count));
    for (int i = 0; i < n->count; i++) {
        int f = field_of(n->keys[i]), label = strcmp(n->keys[i], "label") == 0;
        if (f < 0 && !label)
            return unknown_field(n->items[i], what, n->keys[i]);
        for (int k = 0; k < count; k++)
            TRY(label ? read_text(&a->value[k].label, n->items[i]->items[k], what)
                      : read_field(&a->value[k], (SweepField)f, n->items[i]->items[k], what));
    }
    a->set = a->value[0].set;
    return 0;
}

static int read_axis(SweepGrid *g, SweepAxis *a, const char *name, const ConfNode *n)
{
    char what[128];
    int field = field_of(name);
    snprintf(what, sizeof what, "axes.%s", name);
    if (!*name || strlen(name) > 60 || strspn(name, NAME_CHARS) != strlen(name))
        return conf_node_error(n, ERR_FORMAT, "axes", "'%s': a name is up to 60 letters, digits, '_' and '-'", name);
    TRY(str_copy(&a->name, name));
    if (n->kind == CONF_NODE_LIST)
        return read_list(a, field, n, what);
    if (n->kind == CONF_NODE_MAP && (field == SWEEP_PROMPT || field == SWEEP_NEGATIVE) && conf_node_find(n, "template"))
        return sweep_axis_templates(g, a, (SweepField)field, n, what);
    if (n->kind == CONF_NODE_MAP && field < 0)
        return read_zip(a, n, what);
    if (n->kind == CONF_NODE_MAP && (field >= 0 && field != SWEEP_LORA && field != SWEEP_HIRES))
        return read_run(a, field, n, what);
    if (field < 0)
        return conf_node_error(n, ERR_FORMAT, what, "expected a list of maps");
    TRY(values_alloc(a, 1));
    TRY(read_value(&a->value[0], field, n, what));
    a->set = a->value[0].set;
    return 0;
}

int sweep_grid_parse(SweepGrid *g, const ConfNode *axes)
{
    unsigned set = 0;
    if (axes->kind != CONF_NODE_MAP)
        return conf_node_error(axes, ERR_FORMAT, "axes", "expected a map: name -> list or range");
    if (axes->count > SWEEP_MAX_AXES)
        return conf_node_error(axes, ERR_RANGE, "axes", "%d axes: at most %d", axes->count, SWEEP_MAX_AXES);
    for (int i = 0; i < axes->count; i++) {
        SweepAxis *a = &g->axis[g->naxes++];
        TRY(read_axis(g, a, axes->keys[i], axes->items[i]));
        for (int f = 0; f < SWEEP_FIELDS; f++)
            if (set & a->set & 1u << f)
                return conf_node_error(axes->items[i], ERR_FORMAT, "axes", "'%s' is set by two axes", SWEEP_FIELD_NAMES[f]);
        set |= a->set;
    }
    return 0;
}
