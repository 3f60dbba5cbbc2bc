#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "models/lora_impl.h"

typedef enum { LEAF_DOWN, LEAF_UP, LEAF_ALPHA, LEAF_COUNT } Leaf;

/* What the file says about one module. */
typedef struct {
    const NnModule *module;
    int tensor[LEAF_COUNT]; /* place in the file + 1; 0 absent */
} Found;

typedef struct {
    IoSafetensors *file;
    const NnModules *modules;
    Found *found;
    int nfound;
    json_t *peft;           /* lora_adapter_metadata, or NULL */
} Reader;

static const struct {
    const char *suffix;
    Leaf leaf;
} leaves[] = {
    {".lora_down.weight", LEAF_DOWN},         {".lora_up.weight", LEAF_UP},
    {".lora_A.weight", LEAF_DOWN},            {".lora_B.weight", LEAF_UP},
    {".lora_A.default.weight", LEAF_DOWN},    {".lora_B.default.weight", LEAF_UP},
    {".lora.down.weight", LEAF_DOWN},         {".lora.up.weight", LEAF_UP},
    {".lora_linear_layer.down.weight", LEAF_DOWN}, {".lora_linear_layer.up.weight", LEAF_UP},
    {"_lora.down.weight", LEAF_DOWN},         {"_lora.up.weight", LEAF_UP},
    {".alpha", LEAF_ALPHA},
};

/* Parts of tensor names of other kinds of adapters. */
static const struct {
    const char *mark, *kind;
} others[] = {
    {".hada_", "LoHa"},        {".lokr_", "LoKr"},  {".oft_", "OFT"},       {".dora_scale", "DoRA"},
    {".lora_magnitude_vector", "DoRA"}, {".lora_mid.", "LoCon with Tucker decomposition"},
    {".w_norm", "norm difference"}, {".b_norm", "norm difference"},
    {".a1.", "GLoRA"}, {".b1.", "GLoRA"}, {".on_input", "IA3"},
};

/* Length of the module part of `name`; -1 when it ends like no LoRA tensor. */
static int split_leaf(const char *name, Leaf *leaf)
{
    size_t n = strlen(name);
    for (size_t i = 0; i < sizeof leaves / sizeof *leaves; i++) {
        size_t m = strlen(leaves[i].suffix);
        if (n > m && !strcmp(name + n - m, leaves[i].suffix)) {
            *leaf = leaves[i].leaf;
            return (int)(n - m);
        }
    }
    return -1;
}

static int starts(const char *s, const char *prefix, const char **rest)
{
    size_t n = strlen(prefix);
    if (strncmp(s, prefix, n))
        return 0;
    *rest = s + n;
    return 1;
}

/* Compares a kohya name with a module path, '.' being written '_'. */
static int same_flat(const char *flat, const char *path)
{
    for (; *flat && *path; flat++, path++)
        if (*flat != (*path == '.' ? '_' : *path))
            return 0;
    return !*flat && !*path;
}

static const NnModule *find_flat(const NnModules *mods, const char *root, const char *flat)
{
    const char *rest, *bare;
    for (int i = 0; i < mods->count; i++) {
        if (!starts(mods->item[i].path, root, &rest))
            continue;
        if (same_flat(flat, rest) || (starts(rest, "text_model.", &bare) && same_flat(flat, bare)))
            return &mods->item[i];
    }
    return NULL;
}

/* Replaces `from` at the end of s (or before its end, for a middle part) by `to`. */
static void replace(char *s, size_t size, const char *from, const char *to)
{
    char tail[NN_PATH_MAX];
    char *at = strstr(s, from);
    if (!at)
        return;
    snprintf(tail, sizeof tail, "%s", at + strlen(from));
    snprintf(at, size - (size_t)(at - s), "%s%s", to, tail);
}

static void replace_end(char *s, size_t size, const char *from, const char *to)
{
    size_t n = strlen(s), m = strlen(from);
    if (n >= m && !strcmp(s + n - m, from))
        snprintf(s + n - m, size - (n - m), "%s", to);
}

/* Dotted names: as they are, or as older diffusers versions called the same module. */
static const NnModule *find_dotted(const NnModules *mods, const char *root, const char *rest)
{
    char path[2 * NN_PATH_MAX];
    const char *bare;
    snprintf(path, sizeof path, "%s%s", root, rest);
    const NnModule *m = nn_modules_find(mods, path);
    if (m)
        return m;
    replace(path, sizeof path, ".processor.", ".");
    replace_end(path, sizeof path, ".to_out", ".to_out.0");
    if ((m = nn_modules_find(mods, path)))
        return m;
    if (strcmp(root, "text_encoder."))
        return NULL;
    if (!starts(rest, "text_model.", &bare))
        replace(path, sizeof path, "text_encoder.", "text_encoder.text_model.");
    replace_end(path, sizeof path, ".to_q", ".q_proj");
    replace_end(path, sizeof path, ".to_k", ".k_proj");
    replace_end(path, sizeof path, ".to_v", ".v_proj");
    replace_end(path, sizeof path, ".to_out.0", ".out_proj");
    return nn_modules_find(mods, path);
}

static const NnModule *resolve(const NnModules *mods, const char *stem)
{
    const char *rest;
    if (starts(stem, "lora_unet_", &rest))
        return find_flat(mods, "unet.", rest);
    if (starts(stem, "lora_te_", &rest) || starts(stem, "lora_te1_", &rest))
        return find_flat(mods, "text_encoder.", rest);
    if (starts(stem, "base_model.model.", &rest))
        stem = rest;
    if (starts(stem, "unet.", &rest))
        return find_dotted(mods, "unet.", rest);
    if (starts(stem, "text_encoder.", &rest))
        return find_dotted(mods, "text_encoder.", rest);
    const NnModule *m = find_dotted(mods, "unet.", stem);
    return m ? m : find_dotted(mods, "text_encoder.", stem);
}

static int place_tensor(Reader *r, int index)
{
    const char *name = io_safetensors_name(r->file, index), *path = io_safetensors_path(r->file);
    char stem[2 * NN_PATH_MAX];
    Leaf leaf;
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (strstr(name, others[i].mark))
            return err_set(ERR_UNSUPPORTED, "%s: tensor '%s' belongs to a %s adapter; only LoRA is supported", path, name,
                           others[i].kind);
    const char *dot = strrchr(name, '.');
    if (dot && (!strcmp(dot, ".diff") || !strcmp(dot, ".diff_b")))
        return err_set(ERR_UNSUPPORTED, "%s: tensor '%s' is a full difference; only LoRA is supported", path, name);
    int n = split_leaf(name, &leaf);
    if (n < 0 || (size_t)n >= sizeof stem / 2)
        return err_set(ERR_FORMAT, "%s: tensor '%s' is no part of a LoRA", path, name);
    snprintf(stem, sizeof stem, "%.*s", n, name);
    const NnModule *m = resolve(r->modules, stem);
    if (!m)
        return err_set(ERR_NOTFOUND, "%s: tensor '%s': the model has no such linear layer or convolution", path, name);
    int i = 0;
    while (i < r->nfound && r->found[i].module != m)
        i++;
    if (i == r->nfound)
        r->found[r->nfound++] = (Found){.module = m};
    if (r->found[i].tensor[leaf])
        return err_set(ERR_FORMAT, "%s: tensors '%s' and '%s' are for the same module", path, name,
                       io_safetensors_name(r->file, r->found[i].tensor[leaf] - 1));
    r->found[i].tensor[leaf] = index + 1;
    return 0;
}

/* ---- alpha ---- */

static const json_t *peft_value(const Reader *r, const char *root, const char *key)
{
    char full[96];
    snprintf(full, sizeof full, "%.40s.%s", root, key);
    const json_t *v = json_object_get(r->peft, full);
    return v ? v : json_object_get(r->peft, key);
}

/* alpha_pattern: { "to_q": 4, ... }, a key standing for modules that end with it after a '.'. */
static const json_t *peft_pattern(const json_t *pattern, const char *path)
{
    const char *key;
    json_t *value;
    size_t n = strlen(path);
    json_object_foreach((json_t *)(uintptr_t)pattern, key, value) {
        size_t m = strlen(key);
        if (m < n && path[n - m - 1] == '.' && !strcmp(path + n - m, key))
            return value;
    }
    return NULL;
}

static int alpha_from_peft(const Reader *r, const char *path, int rank, float *alpha)
{
    const char *root = strncmp(path, "unet.", 5) ? "text_encoder" : "unet";
    const json_t *v = peft_pattern(peft_value(r, root, "alpha_pattern"), path);
    v = v ? v : peft_value(r, root, "lora_alpha");
    if (json_is_true(peft_value(r, root, "use_dora")))
        return err_set(ERR_UNSUPPORTED, "%s: use_dora is set in lora_adapter_metadata; only LoRA is supported",
                       io_safetensors_path(r->file));
    if (!json_is_number(v))
        return 0;
    *alpha = (float)json_number_value(v);
    if (json_is_true(peft_value(r, root, "use_rslora"))) /* factor alpha / sqrt(rank) */
        *alpha *= sqrtf((float)rank);
    return 0;
}

static int alpha_from_tensor(const Reader *r, int index, float *alpha)
{
    IoTensor t;
    float v;
    TRY(io_safetensors_at(r->file, index, &t));
    int64_t n = 1;
    for (int i = 0; i < t.ndim; i++)
        n *= t.dim[i];
    if (n != 1)
        return err_set(ERR_SHAPE, "%s: tensor '%s' has %lld elements, expected one", io_safetensors_path(r->file), t.name,
                       (long long)n);
    TRY_CTX(dtype_convert(&v, DTYPE_F32, t.data, t.dtype, 1), "%s: tensor '%s'", io_safetensors_path(r->file), t.name);
    if (!isfinite(v))
        return err_set(ERR_RANGE, "%s: tensor '%s' is not a finite number", io_safetensors_path(r->file), t.name);
    *alpha = v;
    return 0;
}

/* ---- values ---- */

static int fits(const IoTensor *t, const Shape *want)
{
    int a = want->ndim, b = t->ndim;
    while (a > 2 && want->dim[a - 1] == 1)
        a--;
    while (b > 2 && t->dim[b - 1] == 1)
        b--;
    if (a != b)
        return 0;
    for (int i = 0; i < a; i++)
        if (want->dim[i] != t->dim[i])
            return 0;
    return 1;
}

static int get_factor(const Reader *r, int index, const Shape *want, IoTensor *t)
{
    char a[96], b[96];
    const char *path = io_safetensors_path(r->file);
    Meta m;
    TRY(io_safetensors_at(r->file, index, t));
    TRY_CTX(io_tensor_meta(t, &m), "%s", path);
    if (!fits(t, want))
        return err_set(ERR_SHAPE, "%s: tensor '%s' has shape %s, expected %s", path, t->name, shape_text(&m.shape, a, sizeof a),
                       shape_text(want, b, sizeof b));
    return 0;
}

static int read_values(const Reader *r, const IoTensor *t, int64_t n, float *out)
{
    TRY_CTX(dtype_convert(out, DTYPE_F32, t->data, t->dtype, n), "%s: tensor '%s'", io_safetensors_path(r->file), t->name);
    return 0;
}

static int read_part(const Reader *r, const Found *f, Lora *lo)
{
    const char *path = io_safetensors_path(r->file);
    LoraPart *p;
    IoTensor t, u;
    Shape down, up;
    if (!f->tensor[LEAF_DOWN] || !f->tensor[LEAF_UP])
        return err_set(ERR_NOTFOUND, "%s: module '%s' lacks its %s matrix", path, f->module->path,
                       f->tensor[LEAF_DOWN] ? "up (lora_B)" : "down (lora_A)");
    TRY(io_safetensors_at(r->file, f->tensor[LEAF_DOWN] - 1, &t));
    if (t.ndim < 2 || t.dim[0] < 1 || t.dim[0] > 65536)
        return err_set(ERR_SHAPE, "%s: tensor '%s': expected [rank, ...]", path, t.name);
    lora_shapes(&f->module->weight, (int)t.dim[0], &down, &up);
    TRY(get_factor(r, f->tensor[LEAF_DOWN] - 1, &down, &t));
    TRY(get_factor(r, f->tensor[LEAF_UP] - 1, &up, &u));
    TRY(lora_add(lo, f->module, &p)); /* memory only now: what a file claims is bounded by what it holds */
    TRY(lora_set_shapes(p, &f->module->weight, (int)down.dim[0]));
    TRY(read_values(r, &t, shape_count(&down), p->a));
    TRY(read_values(r, &u, shape_count(&up), p->b));
    p->alpha = 0;
    if (f->tensor[LEAF_ALPHA])
        TRY(alpha_from_tensor(r, f->tensor[LEAF_ALPHA] - 1, &p->alpha));
    else
        TRY(alpha_from_peft(r, p->path, p->rank, &p->alpha));
    if (p->alpha == 0) /* absent or 0: the factor is 1 */
        p->alpha = (float)p->rank;
    return 0;
}

static int read_metadata(Reader *r)
{
    json_error_t e;
    const char *text = io_safetensors_meta(r->file, "lora_adapter_metadata");
    if (!text)
        return 0;
    r->peft = json_loads(text, 0, &e);
    if (!json_is_object(r->peft))
        return err_set(ERR_FORMAT, "%s: metadata 'lora_adapter_metadata' is not a JSON object: %s", io_safetensors_path(r->file),
                       r->peft ? "another type" : e.text);
    return 0;
}

/* Closes the file. */
static int read_all(Lora **out, IoSafetensors *file, const NnModules *modules)
{
    Reader r = {.file = file, .modules = modules};
    Lora *lo = NULL;
    int rc, n = io_safetensors_count(file);
    TRY_GOTO(read_metadata(&r));
    if (!(r.found = calloc((size_t)n + 1, sizeof *r.found))) {
        rc = err_set(ERR_NOMEM, "%s: out of memory", io_safetensors_path(file));
        goto done;
    }
    for (int i = 0; i < n; i++)
        TRY_GOTO(place_tensor(&r, i));
    if (!r.nfound) {
        rc = err_set(ERR_FORMAT, "%s: holds no LoRA", io_safetensors_path(file));
        goto done;
    }
    TRY_GOTO(lora_alloc(&lo));
    for (int i = 0; i < r.nfound; i++)
        TRY_GOTO(read_part(&r, &r.found[i], lo));
    lora_sort(lo);
    *out = lo;
    lo = NULL;
done:
    lora_destroy(lo);
    free(r.found);
    json_decref(r.peft);
    io_safetensors_close(file);
    return rc;
}

int lora_load(Lora **out, const char *path, const NnModules *modules)
{
    IoSafetensors *file;
    TRY(io_safetensors_open(&file, path));
    return read_all(out, file, modules);
}

int lora_load_memory(Lora **out, const void *data, size_t size, const char *name, const NnModules *modules)
{
    IoSafetensors *file;
    TRY(io_safetensors_open_memory(&file, data, size, name));
    return read_all(out, file, modules);
}
