/* The grid of a sweep: axes that multiply, less what conditions take out. Item k is computed from k alone: the items kept are numbered
 * row-major in the order of the axes in the file, the last one fastest. Nothing is stored per item but, where there are conditions, two
 * bits. */
#ifndef SWEEP_GRID_H
#define SWEEP_GRID_H

#include "sweep/conf.h"
#include "text/template.h"

enum { SWEEP_MAX_AXES = 16, SWEEP_MAX_ITEMS = 10000000 };

typedef struct {
    char *name, *path;
    double scale;
} SweepLora;

/* What one value of an axis sets. */
typedef enum {
    SWEEP_MODEL,
    SWEEP_VAE,
    SWEEP_LORA,
    SWEEP_SIZE,
    SWEEP_HIRES,
    SWEEP_CLIP_SKIP,
    SWEEP_STEPS,
    SWEEP_SAMPLER,
    SWEEP_SPACING,
    SWEEP_SEED_COMPAT,
    SWEEP_PROMPT_RULES,
    SWEEP_ETA,
    SWEEP_STRENGTH,
    SWEEP_SOURCE,
    SWEEP_MASK,
    SWEEP_PROMPT,
    SWEEP_NEGATIVE,
    SWEEP_GUIDANCE,
    SWEEP_RESCALE,
    SWEEP_VARIATION_SEED,
    SWEEP_VARIATION_STRENGTH,
    SWEEP_SEED_SIZE,
    SWEEP_BATCH_INDEX,
    SWEEP_SEED,
    SWEEP_FIELDS
} SweepField;
extern const char *const SWEEP_FIELD_NAMES[SWEEP_FIELDS];

typedef struct {
    unsigned set; /* bit per SweepField */
    char *label;  /* for the contact sheet; NULL: made from the value */
    SweepLora *lora;
    int nlora;
    int width, height;   /* 0: the model's */
    int clip_skip, steps;
    char *sampler, *spacing, *prompt, *negative;
    char *model, *vae, *source, *mask; /* "": the base's, the model's own, none, none */
    RenderHires hires;
    double eta, guidance, rescale, strength, variation_strength;
    int64_t seed, variation_seed;
    int seed_width, seed_height; /* 0: the image's */
    int batch_index, batch_size; /* place in a batch of ComfyUI's; size 0: alone */
    int seed_compat, rules;      /* SamplerCompat; place in SWEEP_RULES_NAMES */
} SweepValue;

/* Prompt templates as the values of an axis: value k is an expansion of the template that k falls on. */
typedef struct {
    SweepField field;    /* SWEEP_PROMPT or SWEEP_NEGATIVE */
    Template **item;
    char **text;         /* [count] as typed */
    int64_t *first;      /* [count + 1] place of each one's first expansion */
    int count;
    uint64_t seed;
    int tags;            /* a text holds "<lora:" */
} SweepTemplates;

typedef struct {
    char *name;
    unsigned set;        /* of all its values */
    int64_t count;
    SweepValue *value;   /* [count]; NULL for a run of seeds and for templates */
    SweepTemplates *templates;
    int64_t start, step; /* seeds */
    int cost;            /* work order: axes with small cost numbers vary slowest */
} SweepAxis;

typedef struct {
    SweepValue base;     /* from the keys outside the axes */
    SweepAxis axis[SWEEP_MAX_AXES];
    int naxes;
    int order[SWEEP_MAX_AXES]; /* axes, slowest first, for working */
    int64_t count;       /* items */
    int64_t product;     /* of the axes: count and what the conditions take out */
    struct SweepKeep *keep, *keep_order; /* which of the product are items, in numbering and in work order; NULL: all */
    struct SweepTags *tags;  /* adapters that <lora:name:scale> may name */
    Wildcards *wildcards;
    char wildcards_hash[65]; /* of the values that templates can take; "" without templates */
} SweepGrid;

/* Everything that makes one image but what the whole sweep shares. Texts and adapters are borrowed from the grid, but for `own`. */
typedef struct {
    int64_t index;
    SweepLora lora[RENDER_MAX_LORA]; /* those of the axes, then the prompt's tags; names and paths borrowed */
    int nlora;
    int width, height, clip_skip, steps;
    const char *sampler, *spacing, *prompt, *negative;
    const char *model, *vae, *source, *mask;
    RenderHires hires;
    double eta, guidance, rescale, strength, variation_strength;
    int64_t seed, variation_seed;
    int seed_width, seed_height;
    int batch_index, batch_size;
    int seed_compat;     /* SamplerCompat */
    int rules;           /* PromptRules of this item */
    char *own[2];        /* prompt and negative prompt where sweep_item_load made new texts, else NULL */
    const char *typed, *typed_negative; /* as in the configuration: templates, where those are */
} SweepItem;

/* ERR_FORMAT, ERR_RANGE, ERR_NOTFOUND with file, line and key. sweep_grid_deinit in every case. */
int sweep_grid_init(SweepGrid *g, const SweepConf *c);
void sweep_grid_deinit(SweepGrid *g);
/* Axes (free-form subtree) into g->axis; part of sweep_grid_init. */
int sweep_grid_parse(SweepGrid *g, const ConfNode *axes);
/* "none", {path, scale, name} or a list of such maps. */
int sweep_value_lora(SweepValue *v, const ConfNode *node, const char *what);
/* {template: TEXT or list, mode: random, count: N, seed: S} into a->templates. */
int sweep_axis_templates(SweepGrid *g, SweepAxis *a, SweepField field, const ConfNode *n, const char *what);
/* Conditions `only` and `exclude` into g->keep; part of sweep_grid_init. */
int sweep_grid_keep(SweepGrid *g, const ConfNode *only, const ConfNode *exclude);
void sweep_value_deinit(SweepValue *v);

/* index 0..count-1. Where a template makes a prompt, it stands there unexpanded: enough for planning and for batches. The adapters of
 * its tags are there. */
void sweep_grid_item(const SweepGrid *g, int64_t index, SweepItem *out);
/* The same with its prompts expanded and without tags: what rendering and records need. sweep_item_deinit in every case. ERR_NOTFOUND for a tag without a file. */
int sweep_item_load(const SweepGrid *g, int64_t index, SweepItem *out);
void sweep_item_deinit(SweepItem *it);
/* Item at a place of the work order (0..count-1), in which expensive changes (adapters, size, sampler, prompt) are rare. */
int64_t sweep_grid_at(const SweepGrid *g, int64_t position);
/* Place of the item in each axis, and back; -1: the conditions take it out. */
void sweep_grid_coords(const SweepGrid *g, int64_t index, int64_t coord[SWEEP_MAX_AXES]);
int64_t sweep_grid_index(const SweepGrid *g, const int64_t coord[SWEEP_MAX_AXES]);
/* Whether two items may be rendered in one batch. */
int sweep_item_compatible(const SweepItem *a, const SweepItem *b);
/* Axis by name, or -1. */
int sweep_grid_axis(const SweepGrid *g, const char *name);
/* Short text of a value, for labels. */
void sweep_grid_label(const SweepGrid *g, int axis, int64_t place, StrBuf *out);
/* Adds "name:0.8 other:1", or "" without adapters. */
void sweep_lora_text(const SweepLora *lora, int n, StrBuf *out);

/* The setup of an item on this model. Borrows the item's texts. ERR_RANGE, ERR_UNSUPPORTED. */
int sweep_item_setup(const SweepItem *it, const SweepConf *c, const Render *r, RenderSetup *s);
void sweep_item_render(const SweepItem *it, RenderItem *out);

/* Inside the room: the item at a place of the product; whatever conditions say. */
void sweep_grid_at_product(const SweepGrid *g, const int64_t coord[SWEEP_MAX_AXES], SweepItem *out);
/* Expansion `place` of an axis of templates. */
int sweep_templates_expand(const SweepTemplates *t, int64_t place, StrBuf *out);
void sweep_templates_destroy(SweepTemplates *t);
/* Adapters in a folder by name, and the tags of a text: added to the item's, or to the scale of one that it has already. */
int sweep_tags_open(struct SweepTags **out, const char *folder);
void sweep_tags_close(struct SweepTags *t);
int sweep_tags_add(const struct SweepTags *t, const char *text, SweepItem *it);
/* Which of the product are items; place of the k-th, how many before a place. */
int64_t sweep_keep_place(const struct SweepKeep *k, int64_t number);
int64_t sweep_keep_number(const struct SweepKeep *k, int64_t place); /* -1: not kept */
void sweep_keep_destroy(struct SweepKeep *k);

#endif
