#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "models/lora_impl.h"

typedef struct {
    char name[NN_PATH_MAX + 64];
    void *data;
} Slot;

typedef struct {
    IoTensor *t;
    Slot *slot;
    int count;
    Dtype to;
    IoMeta *meta;
    int nmeta;
    char model_hash[65], legacy_hash[9];
    char *peft;
} Writer;

static int push(Writer *w, const char *name, const Shape *shape, const float *values)
{
    Slot *s = &w->slot[w->count];
    IoTensor *t = &w->t[w->count++];
    int64_t n = shape_count(shape);
    snprintf(s->name, sizeof s->name, "%s", name);
    s->data = malloc((size_t)n * dtype_size(w->to) + 1);
    if (!s->data)
        return err_set(ERR_NOMEM, "saving LoRA: out of memory");
    TRY(dtype_convert(s->data, w->to, values, DTYPE_F32, n));
    *t = (IoTensor){.name = s->name, .dtype = w->to, .ndim = shape->ndim, .data = s->data};
    memcpy(t->dim, shape->dim, sizeof shape->dim);
    return 0;
}

/* "unet.a.b" -> "lora_unet_a_b", "text_encoder.a" -> "lora_te_a" ("lora_te1_a" beside a second one). */
static void kohya_stem(char *out, size_t size, const char *path, int many)
{
    static const char *const names[][2] = {{"unet.", "lora_unet_"}, {"text_encoder.", "lora_te_"}, {"text_encoder_2.", "lora_te2_"},
                                           {"text_encoder_3.", "lora_te3_"}, {"transformer.", "lora_transformer_"}, {"other.", ""}};
    const char *prefix = "", *rest = path;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!strncmp(path, names[i][0], strlen(names[i][0]))) {
            prefix = i == 1 && many ? "lora_te1_" : names[i][1];
            rest = path + strlen(names[i][0]);
        }
    snprintf(out, size, "%s%s", prefix, rest);
    for (char *s = out; *s; s++)
        if (*s == '.')
            *s = '_';
}

/* kohya's and LyCORIS' leaf of a factor, where it is not PEFT's. */
static const char *kohya_leaf(const LoraPart *p, NnFactor f)
{
    int norm = p->weight.ndim < 2;
    switch (f) {
    case NN_DOWN: return "lora_down.weight";
    case NN_UP: return "lora_up.weight";
    case NN_DIFF: return norm ? "w_norm" : "diff";
    case NN_DIFF_B: return norm ? "b_norm" : "diff_b";
    case NN_MAGNITUDE: return "dora_scale";
    default: return nn_factor_leaf(p->kind, f);
    }
}

static int push_kohya(Writer *w, const LoraPart *p, int many)
{
    char stem[NN_PATH_MAX + 16], name[NN_PATH_MAX + 64];
    Shape scalar = shape_make(0, NULL);
    kohya_stem(stem, sizeof stem, p->path, many);
    if (p->kind != NN_ADAPTER_FULL) {
        snprintf(name, sizeof name, "%s.alpha", stem);
        TRY(push(w, name, &scalar, &p->alpha));
    }
    for (int k = 0; k < NN_FACTORS; k++) {
        if (!p->f[k])
            continue;
        Shape shape = p->shape[k];
        if (k == NN_MAGNITUDE) /* [out,1] or [out,1,1,1] */
            shape.ndim = p->weight.ndim;
        snprintf(name, sizeof name, "%s.%s", stem, kohya_leaf(p, (NnFactor)k));
        TRY(push(w, name, &shape, p->f[k]));
    }
    return 0;
}

static int push_peft(Writer *w, const LoraPart *p)
{
    char name[NN_PATH_MAX + 64];
    for (int k = 0; k < NN_FACTORS; k++) {
        if (!p->f[k])
            continue;
        Shape shape = p->shape[k];
        if (k == NN_MAGNITUDE && p->weight.ndim == 4)
            shape = SHAPE(1, shape.dim[0], 1, 1);
        snprintf(name, sizeof name, "%s.%s", p->path, nn_factor_leaf(p->kind, (NnFactor)k));
        TRY(push(w, name, &shape, p->f[k]));
    }
    return 0;
}

/* Without a model the names have lost their dots. */
static int has_dots(const Lora *lo)
{
    for (int i = 0; i < lo->count; i++)
        if (strchr(lo->part[i].path, '.') != strrchr(lo->part[i].path, '.'))
            return 1;
    return 0;
}

/* ---- PEFT metadata ---- */

static json_t *number(float v)
{
    return v == floorf(v) && fabsf(v) < 1e9f ? json_integer((json_int_t)v) : json_real((double)v);
}

static void set(json_t *o, const char *root, const char *key, json_t *value)
{
    char full[96];
    snprintf(full, sizeof full, "%.40s.%s", root, key);
    json_object_set_new(o, full, value);
}

/* The config of one root. Ranks and alphas that differ from the first module's go to patterns. */
static void peft_root(json_t *o, const Lora *lo, const char *root)
{
    const LoraPart *first = NULL;
    json_t *targets = json_array(), *ranks = json_object(), *alphas = json_object();
    size_t n = strlen(root);
    for (int i = 0; i < lo->count; i++) {
        const LoraPart *p = &lo->part[i];
        if (strncmp(p->path, root, n) || p->path[n] != '.' || p->kind != NN_ADAPTER_LORA)
            continue;
        first = first ? first : p;
        const char *rest = p->path + n + 1;
        /* newer transformers have no text_model level; PEFT matches names by their end */
        if (!strncmp(rest, "text_model.", 11))
            rest += 11;
        json_array_append_new(targets, json_string(rest));
        if (p->rank != first->rank)
            json_object_set_new(ranks, rest, json_integer(p->rank));
        if (p->alpha != first->alpha)
            json_object_set_new(alphas, rest, number(p->alpha));
    }
    if (first) {
        set(o, root, "peft_type", json_string("LORA"));
        set(o, root, "r", json_integer(first->rank));
        set(o, root, "lora_alpha", number(first->alpha));
        set(o, root, "lora_dropout", json_real(0));
        set(o, root, "bias", json_string("none"));
        set(o, root, "use_dora", json_boolean(first->f[NN_MAGNITUDE] != NULL));
        set(o, root, "use_rslora", json_false());
        set(o, root, "target_modules", json_incref(targets));
        if (json_object_size(ranks))
            set(o, root, "rank_pattern", json_incref(ranks));
        if (json_object_size(alphas))
            set(o, root, "alpha_pattern", json_incref(alphas));
    }
    json_decref(targets);
    json_decref(ranks);
    json_decref(alphas);
}

static int peft_metadata(Writer *w, const Lora *lo)
{
    json_t *o = json_object();
    peft_root(o, lo, "unet");
    peft_root(o, lo, "text_encoder");
    w->peft = json_dumps(o, JSON_INDENT(2) | JSON_SORT_KEYS);
    json_decref(o);
    if (!w->peft)
        return err_set(ERR_NOMEM, "saving LoRA: out of memory");
    w->meta[w->nmeta++] = (IoMeta){"lora_adapter_metadata", w->peft};
    w->meta[w->nmeta++] = (IoMeta){"format", "pt"};
    return 0;
}

/* ---- */

static int has_key(const IoMeta *meta, int n, const char *key)
{
    for (int i = 0; i < n; i++)
        if (!strcmp(meta[i].key, key))
            return 1;
    return 0;
}

/* Copies the caller's metadata without the keys that are computed here. */
static void copy_meta(Writer *w, const IoMeta *meta, int nmeta)
{
    static const IoMeta own[] = {
        {"sshs_model_hash", ""}, {"sshs_legacy_hash", ""}, {"lora_adapter_metadata", ""}, {"format", ""}};
    for (int i = 0; i < nmeta; i++)
        if (!has_key(own, 4, meta[i].key))
            w->meta[w->nmeta++] = meta[i];
}

int lora_save(Lora *lo, const char *path, LoraFormat format, Dtype to, const IoMeta *meta, int nmeta)
{
    Writer w = {.to = to};
    size_t n = (size_t)lo->count * (NN_FACTORS + 1) + 1;
    int rc = ERR_NOMEM, many = lora_covers(lo, "text_encoder_2");
    w.t = calloc(n, sizeof *w.t);
    w.slot = calloc(n, sizeof *w.slot);
    w.meta = calloc((size_t)nmeta + 4, sizeof *w.meta);
    if (!w.t || !w.slot || !w.meta) {
        err_set(rc, "%s: out of memory", path);
        goto done;
    }
    if (format == LORA_PEFT && !has_dots(lo)) {
        rc = err_set(ERR_UNSUPPORTED, "%s: PEFT's names need the model that the adapter is for", path);
        goto done;
    }
    for (int i = 0; i < lo->count; i++)
        TRY_GOTO(format == LORA_PEFT ? push_peft(&w, &lo->part[i]) : push_kohya(&w, &lo->part[i], many));
    copy_meta(&w, meta, nmeta);
    if (format == LORA_PEFT) {
        TRY_GOTO(peft_metadata(&w, lo));
    } else {
        TRY_GOTO(io_safetensors_kohya_hashes(w.model_hash, w.legacy_hash, w.t, w.count, w.meta, w.nmeta));
        w.meta[w.nmeta++] = (IoMeta){"sshs_model_hash", w.model_hash};
        w.meta[w.nmeta++] = (IoMeta){"sshs_legacy_hash", w.legacy_hash};
    }
    rc = io_safetensors_write(path, w.t, w.count, w.meta, w.nmeta);
done:
    for (int i = 0; w.slot && i < w.count; i++)
        free(w.slot[i].data);
    free(w.peft);
    free(w.meta);
    free(w.slot);
    free(w.t);
    return rc;
}
