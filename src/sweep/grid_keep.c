#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/file.h"
#include "sweep/grid.h"
#include "text/expr.h"

enum { BLOCK = 4096, MAX_CONDITIONS = 64 };

/* Bits with the number of ones before each block. */
struct SweepKeep {
    uint64_t *bit;
    int64_t *before; /* [blocks + 1] */
    int64_t places;
};

void sweep_keep_destroy(struct SweepKeep *k)
{
    if (!k)
        return;
    free(k->bit);
    free(k->before);
    free(k);
}

static struct SweepKeep *keep_create(int64_t places)
{
    struct SweepKeep *k = calloc(1, sizeof *k);
    int64_t blocks = (places + BLOCK - 1) / BLOCK;
    if (!k)
        return NULL;
    k->places = places;
    k->bit = calloc((size_t)(blocks + 1) * (BLOCK / 64), sizeof *k->bit);
    k->before = calloc((size_t)blocks + 2, sizeof *k->before);
    if (k->bit && k->before)
        return k;
    sweep_keep_destroy(k);
    return NULL;
}

static int64_t keep_count(struct SweepKeep *k)
{
    int64_t blocks = (k->places + BLOCK - 1) / BLOCK;
    for (int64_t b = 0; b < blocks; b++) {
        k->before[b + 1] = k->before[b];
        for (int i = 0; i < BLOCK / 64; i++)
            k->before[b + 1] += __builtin_popcountll(k->bit[b * (BLOCK / 64) + i]);
    }
    return k->before[blocks];
}

int64_t sweep_keep_place(const struct SweepKeep *k, int64_t number)
{
    int64_t lo = 0, hi = (k->places + BLOCK - 1) / BLOCK; /* before[lo] <= number < before[hi] */
    while (hi - lo > 1) {
        int64_t mid = (lo + hi) / 2;
        if (k->before[mid] <= number)
            lo = mid;
        else
            hi = mid;
    }
    number -= k->before[lo];
    for (int64_t w = lo * (BLOCK / 64);; w++) {
        int n = __builtin_popcountll(k->bit[w]);
        if (number >= n) {
            number -= n;
            continue;
        }
        uint64_t bits = k->bit[w];
        while (number--)
            bits &= bits - 1;
        return w * 64 + __builtin_ctzll(bits);
    }
}

int64_t sweep_keep_number(const struct SweepKeep *k, int64_t place)
{
    int64_t w = place / 64, b = place / BLOCK, n = k->before[b];
    if (!(k->bit[w] >> place % 64 & 1))
        return -1;
    for (int64_t i = b * (BLOCK / 64); i < w; i++)
        n += __builtin_popcountll(k->bit[i]);
    return n + __builtin_popcountll(k->bit[w] & (((uint64_t)1 << place % 64) - 1));
}

/* ---- what conditions may name ---- */

enum { NAME_WIDTH = SWEEP_FIELDS, NAME_HEIGHT, NAME_LORA_SCALE, NAME_AXIS };

typedef struct {
    const SweepGrid *g;
    const SweepItem *it;
    const int64_t *coord;
    StrBuf text; /* of the value asked for last */
} Lookup;

static void set_integer(ExprValue *v, int64_t x)
{
    *v = (ExprValue){.kind = EXPR_INTEGER, .integer = x, .number = (double)x};
}

static void set_number(ExprValue *v, double x)
{
    *v = (ExprValue){.kind = EXPR_NUMBER, .number = x};
}

static int set_text(ExprValue *v, const char *text)
{
    *v = (ExprValue){.kind = EXPR_TEXT, .text = text};
    return text && *text;
}

/* A file by its path, then by its name and by its name without extension. */
static int path_value(Lookup *l, const char *path, int k, ExprValue *out)
{
    const char *name = io_path_name(path);
    if (!*path || k > 2)
        return 0;
    if (k == 2) {
        str_clear(&l->text);
        str_add_bytes(&l->text, name, (size_t)(io_path_ext(name) - name));
        name = l->text.data;
    }
    return set_text(out, k ? name : path);
}

static int lora_value(Lookup *l, int k, ExprValue *out)
{
    if (k >= 2 * l->it->nlora)
        return 0;
    const SweepLora *x = &l->it->lora[k / 2];
    if (k % 2 == 0)
        return set_text(out, x->name);
    str_clear(&l->text);
    str_add_format(&l->text, "%s:%g", x->name, x->scale);
    return set_text(out, l->text.data);
}

/* Templates expand here only where a condition asks for the prompt. */
static int prompt_value(Lookup *l, SweepField f, ExprValue *out)
{
    for (int i = 0; i < l->g->naxes; i++) {
        const SweepTemplates *t = l->g->axis[i].templates;
        if (!t || t->field != f)
            continue;
        str_clear(&l->text);
        TRY(sweep_templates_expand(t, l->coord[i], &l->text));
        return set_text(out, l->text.data);
    }
    return set_text(out, f == SWEEP_PROMPT ? l->it->prompt : l->it->negative);
}

static int axis_value(Lookup *l, int axis, ExprValue *out)
{
    str_clear(&l->text);
    sweep_grid_label(l->g, axis, l->coord[axis], &l->text);
    TRY(str_status(&l->text));
    return set_text(out, l->text.data);
}

static int size_value(Lookup *l, int w, int h, ExprValue *out)
{
    if (!w)
        return 0;
    str_clear(&l->text);
    str_add_format(&l->text, "%dx%d", w, h);
    return set_text(out, l->text.data);
}

static int get_value(void *ctx, int id, int k, ExprValue *out)
{
    Lookup *l = ctx;
    const SweepItem *it = l->it;
    switch (id) {
    case SWEEP_LORA: return lora_value(l, k, out);
    case SWEEP_MODEL: return path_value(l, it->model, k, out);
    case SWEEP_VAE: return path_value(l, it->vae, k, out);
    case SWEEP_SOURCE: return path_value(l, it->source, k, out);
    case SWEEP_MASK: return path_value(l, it->mask, k, out);
    case NAME_LORA_SCALE:
        if (k < it->nlora)
            set_number(out, it->lora[k].scale);
        return k < it->nlora;
    default: break;
    }
    if (k > 0)
        return 0;
    switch (id) {
    case SWEEP_SIZE: return size_value(l, it->width, it->height, out);
    case SWEEP_SEED_SIZE: return size_value(l, it->seed_width, it->seed_height, out);
    case SWEEP_PROMPT:
    case SWEEP_NEGATIVE: return prompt_value(l, (SweepField)id, out);
    case SWEEP_SAMPLER: return set_text(out, it->sampler);
    case SWEEP_SPACING: return set_text(out, it->spacing);
    case SWEEP_SEED_COMPAT: return set_text(out, SAMPLER_COMPAT_NAMES[it->seed_compat]);
    case SWEEP_PROMPT_RULES: return set_text(out, PROMPT_RULES_NAMES[it->rules]);
    case SWEEP_HIRES: set_number(out, it->hires.upscale ? it->hires.scale : 0); return 1;
    case SWEEP_CLIP_SKIP: set_integer(out, it->clip_skip); return 1;
    case SWEEP_STEPS: set_integer(out, it->steps); return 1;
    case SWEEP_ETA: set_number(out, it->eta); return 1;
    case SWEEP_STRENGTH: set_number(out, it->strength); return 1;
    case SWEEP_GUIDANCE: set_number(out, it->guidance); return 1;
    case SWEEP_RESCALE: set_number(out, it->rescale); return 1;
    case SWEEP_BATCH_INDEX: set_integer(out, it->batch_index); return 1;
    case SWEEP_VARIATION_SEED: set_integer(out, it->variation_seed); return 1;
    case SWEEP_VARIATION_STRENGTH: set_number(out, it->variation_strength); return 1;
    case SWEEP_SEED: set_integer(out, it->seed); return 1;
    case NAME_WIDTH: set_integer(out, it->width); return it->width > 0;
    case NAME_HEIGHT: set_integer(out, it->height); return it->height > 0;
    default: return id >= NAME_AXIS ? axis_value(l, id - NAME_AXIS, out) : 0;
    }
}

static int make_names(const SweepGrid *g, ExprName *name)
{
    static const ExprName more[] = {{"cfg", SWEEP_GUIDANCE}, {"guidance_scale", SWEEP_GUIDANCE}, {"schedule", SWEEP_SPACING},
                                    {"width", NAME_WIDTH}, {"height", NAME_HEIGHT}, {"lora_scale", NAME_LORA_SCALE}};
    int n = 0;
    for (int f = 0; f < SWEEP_FIELDS; f++)
        name[n++] = (ExprName){SWEEP_FIELD_NAMES[f], f};
    for (size_t i = 0; i < sizeof more / sizeof *more; i++)
        name[n++] = more[i];
    for (int i = 0; i < g->naxes; i++)
        name[n++] = (ExprName){g->axis[i].name, NAME_AXIS + i};
    return n;
}

/* ---- conditions ---- */

typedef struct {
    Expr *e[MAX_CONDITIONS];
    int n, nonly; /* the first `nonly` must hold, the others must not */
} Conditions;

static int add_conditions(Conditions *c, const SweepGrid *g, const ConfNode *n, const char *what)
{
    ExprName name[SWEEP_FIELDS + 8 + SWEEP_MAX_AXES];
    char place[200];
    const char *text;
    if (!n || conf_node_is_null(n))
        return 0;
    int list = n->kind == CONF_NODE_LIST, count = list ? n->count : 1;
    for (int i = 0; i < count; i++) {
        const ConfNode *x = list ? n->items[i] : n;
        TRY(conf_node_text(x, what, &text));
        if (c->n == MAX_CONDITIONS)
            return conf_node_error(x, ERR_RANGE, what, "more than %d conditions", (int)MAX_CONDITIONS);
        conf_node_place(x, what, place, sizeof place);
        TRY(expr_parse(&c->e[c->n], text, name, make_names(g, name), place));
        c->n++;
    }
    return 0;
}

static int holds(const Conditions *c, Lookup *l, int *yes)
{
    *yes = 1;
    for (int i = 0; i < c->n && *yes; i++) {
        int truth;
        TRY(expr_test(c->e[i], get_value, l, &truth));
        *yes = truth == (i < c->nonly);
    }
    return 0;
}

static int64_t place_in(const SweepGrid *g, const int64_t *coord, int by_order)
{
    int64_t place = 0;
    for (int i = 0; i < g->naxes; i++) {
        int a = by_order ? g->order[i] : i;
        place = place * g->axis[a].count + coord[a];
    }
    return place;
}

static int fill(SweepGrid *g, const Conditions *c)
{
    int64_t coord[SWEEP_MAX_AXES] = {0};
    SweepItem it;
    Lookup l = {.g = g, .it = &it, .coord = coord};
    int rc = 0, yes;
    str_init(&l.text);
    for (int64_t p = 0; p < g->product && rc >= 0; p++) {
        sweep_grid_at_product(g, coord, &it);
        sweep_tags_add(g->tags, it.prompt, &it);
        rc = holds(c, &l, &yes);
        if (rc >= 0 && yes) {
            int64_t q = place_in(g, coord, 1);
            g->keep->bit[p / 64] |= (uint64_t)1 << p % 64;
            g->keep_order->bit[q / 64] |= (uint64_t)1 << q % 64;
        }
        for (int i = g->naxes - 1; i >= 0; i--) {
            if (++coord[i] < g->axis[i].count)
                break;
            coord[i] = 0;
        }
    }
    str_deinit(&l.text);
    return rc;
}

int sweep_grid_keep(SweepGrid *g, const ConfNode *only, const ConfNode *exclude)
{
    Conditions c = {.n = 0};
    int rc = add_conditions(&c, g, only, "only");
    c.nonly = c.n;
    if (rc >= 0)
        rc = add_conditions(&c, g, exclude, "exclude");
    if (rc >= 0 && c.n) {
        g->keep = keep_create(g->product);
        g->keep_order = keep_create(g->product);
        rc = g->keep && g->keep_order ? fill(g, &c) : err_set(ERR_NOMEM, "out of memory");
    }
    if (rc >= 0 && c.n) {
        g->count = keep_count(g->keep);
        keep_count(g->keep_order);
        if (!g->count)
            rc = err_set(ERR_RANGE, "only, exclude: the conditions take out all %lld images", (long long)g->product);
    }
    for (int i = 0; i < c.n; i++)
        expr_destroy(c.e[i]);
    return rc;
}
