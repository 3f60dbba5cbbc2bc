/* The grid of a sweep: axes that multiply. Item k is computed from k alone (row-major in the order of the axes in the file, the last
 * one fastest); nothing is stored per item. */
#ifndef SWEEP_GRID_H
#define SWEEP_GRID_H

#include "sweep/conf.h"

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
} SweepValue;

typedef struct {
    char *name;
    unsigned set;        /* of all its values */
    int64_t count;
    SweepValue *value;   /* [count]; NULL for a run of seeds */
    int64_t start, step; /* seeds */
    int cost;            /* work order: axes with small cost numbers vary slowest */
} SweepAxis;

typedef struct {
    SweepValue base;     /* from the keys outside the axes */
    SweepAxis axis[SWEEP_MAX_AXES];
    int naxes;
    int order[SWEEP_MAX_AXES]; /* axes, slowest first, for working */
    int64_t count;       /* items */
} SweepGrid;

/* Everything that makes one image but what the whole sweep shares. Texts and adapters are borrowed from the grid. */
typedef struct {
    int64_t index;
    const SweepLora *lora;
    int nlora;
    int width, height, clip_skip, steps;
    const char *sampler, *spacing, *prompt, *negative;
    const char *model, *vae, *source, *mask;
    RenderHires hires;
    double eta, guidance, rescale, strength, variation_strength;
    int64_t seed, variation_seed;
    int seed_width, seed_height;
} SweepItem;

/* ERR_FORMAT, ERR_RANGE, ERR_NOTFOUND with file, line and key. sweep_grid_deinit in every case. */
int sweep_grid_init(SweepGrid *g, const SweepConf *c);
void sweep_grid_deinit(SweepGrid *g);
/* Axes (free-form subtree) into g->axis; part of sweep_grid_init. */
int sweep_grid_parse(SweepGrid *g, const ConfNode *axes);
/* "none", {path, scale, name} or a list of such maps. */
int sweep_value_lora(SweepValue *v, const ConfNode *node, const char *what);
void sweep_value_deinit(SweepValue *v);

/* index 0..count-1. */
void sweep_grid_item(const SweepGrid *g, int64_t index, SweepItem *out);
/* Item at a place of the work order (0..count-1), in which expensive changes (adapters, size, sampler, prompt) are rare. */
int64_t sweep_grid_at(const SweepGrid *g, int64_t position);
/* Place of the item in each axis, and back. */
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

#endif
