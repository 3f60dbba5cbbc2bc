#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "models/lora_impl.h"

/* What the file says about one module. */
typedef struct {
    const NnModule *module;
    NnAdapterKind kind;
    int tensor[LORA_LEAVES]; /* place in the file + 1; 0 absent */
} Found;

typedef struct {
    IoSafetensors *file;
    const NnModules *modules;
    Found *found;
    int nfound;
    json_t *peft;           /* lora_adapter_metadata, or NULL */
} Reader;

static const char *file_name(const Reader *r)
{
    return io_safetensors_path(r->file);
}

static int place_found(Reader *r, Found *f, int index, int leaf, NnAdapterKind kind)
{
    const char *name = io_safetensors_name(r->file, index);
    if (f->tensor[leaf])
        return err_set(ERR_FORMAT, "%s: tensors '%s' and '%s' are for the same module", file_name(r), name,
                       io_safetensors_name(r->file, f->tensor[leaf] - 1));
    if (kind != NN_ADAPTER_KINDS && f->kind != NN_ADAPTER_KINDS && f->kind != kind)
        return err_set(ERR_FORMAT, "%s: tensor '%s' is of a %s, but module '%s' already has a %s", file_name(r), name,
                       nn_adapter_name(kind), f->module->path, nn_adapter_name(f->kind));
    if (kind != NN_ADAPTER_KINDS)
        f->kind = kind;
    f->tensor[leaf] = index + 1;
    return 0;
}

static int place_tensor(Reader *r, int index)
{
    const char *name = io_safetensors_name(r->file, index);
    char stem[2 * NN_PATH_MAX];
    int leaf;
    NnAdapterKind kind;
    const char *foreign = lora_foreign_kind(name);
    if (foreign)
        return err_set(ERR_UNSUPPORTED, "%s: tensor '%s' belongs to an adapter of kind %s, which is not supported", file_name(r), name,
                       foreign);
    int n = lora_split_name(name, &leaf, &kind);
    if (n < 0 || (size_t)n >= sizeof stem / 2)
        return err_set(ERR_FORMAT, "%s: tensor '%s' is no part of a LoRA", file_name(r), name);
    snprintf(stem, sizeof stem, "%.*s", n, name);
    const NnModule *m = lora_resolve(r->modules, stem);
    if (!m)
        return err_set(ERR_NOTFOUND, "%s: tensor '%s': the model has no such linear layer, convolution or norm", file_name(r), name);
    int i = 0;
    while (i < r->nfound && r->found[i].module != m)
        i++;
    if (i == r->nfound)
        r->found[r->nfound++] = (Found){.module = m, .kind = NN_ADAPTER_KINDS};
    return place_found(r, &r->found[i], index, leaf, kind);
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
    if (!json_is_number(v))
        return 0;
    *alpha = (float)json_number_value(v);
    if (json_is_true(peft_value(r, root, "use_rslora"))) /* factor alpha / sqrt(rank) */
        *alpha *= sqrtf((float)rank);
    return 0;
}

static int one_value(const Reader *r, int index, float *alpha)
{
    IoTensor t;
    float v;
    TRY(io_safetensors_at(r->file, index, &t));
    int64_t n = 1;
    for (int i = 0; i < t.ndim; i++)
        n *= t.dim[i];
    if (n != 1)
        return err_set(ERR_SHAPE, "%s: tensor '%s' has %lld elements, expected one", file_name(r), t.name,
                       (long long)n);
    TRY_CTX(dtype_convert(&v, DTYPE_F32, t.data, t.dtype, 1), "%s: tensor '%s'", file_name(r), t.name);
    if (!isfinite(v))
        return err_set(ERR_RANGE, "%s: tensor '%s' is not a finite number", file_name(r), t.name);
    *alpha = v;
    return 0;
}

/* ---- values ---- */

/* A tensor to be read: shape in the file and values as f32. */
typedef struct {
    IoTensor t;
    Shape shape;
} Value;

static int get_value(const Reader *r, const Found *f, int leaf, Value *v)
{
    Meta m;
    TRY(io_safetensors_at(r->file, f->tensor[leaf] - 1, &v->t));
    TRY_CTX(io_tensor_meta(&v->t, &m), "%s", file_name(r));
    v->shape = m.shape;
    if (shape_count(&m.shape) < 1)
        return err_set(ERR_SHAPE, "%s: tensor '%s' is empty", file_name(r), v->t.name);
    return 0;
}

static int same_shape(const Shape *have, const Shape *want)
{
    int a = want->ndim, b = have->ndim;
    while (a > 2 && want->dim[a - 1] == 1)
        a--;
    while (b > 2 && have->dim[b - 1] == 1)
        b--;
    if (a != b)
        return 0;
    for (int i = 0; i < a; i++)
        if (want->dim[i] != have->dim[i])
            return 0;
    return 1;
}

static int check_shape(const Reader *r, const Value *v, const Shape *want)
{
    char a[96], b[96];
    if (same_shape(&v->shape, want))
        return 0;
    return err_set(ERR_SHAPE, "%s: tensor '%s' has shape %s, expected %s", file_name(r), v->t.name,
                   shape_text(&v->shape, a, sizeof a), shape_text(want, b, sizeof b));
}

static int read_values(const Reader *r, const Value *v, float *out)
{
    TRY_CTX(dtype_convert(out, DTYPE_F32, v->t.data, v->t.dtype, shape_count(&v->shape)), "%s: tensor '%s'", file_name(r), v->t.name);
    return 0;
}

/* Reads a tensor of the shape `want` into a factor. Memory only once the shape is known: what a file claims is bounded by what it
 * holds. */
static int read_factor(const Reader *r, const Found *f, LoraPart *p, NnFactor k, Shape want)
{
    Value v;
    TRY(get_value(r, f, (int)k, &v));
    TRY(check_shape(r, &v, &want));
    TRY(lora_set_factor(p, k, want));
    return read_values(r, &v, p->f[k]);
}

static int need(const Reader *r, const Found *f, int leaf, const char *what)
{
    if (f->tensor[leaf])
        return 0;
    return err_set(ERR_NOTFOUND, "%s: module '%s' lacks its %s", file_name(r), f->module->path, what);
}

/* First dimension of a tensor as a rank. */
static int get_rank(const Reader *r, const Found *f, int leaf, int axis, int *rank)
{
    Value v;
    TRY(get_value(r, f, leaf, &v));
    if (v.shape.ndim < 2 || v.shape.dim[axis] < 1 || v.shape.dim[axis] > 65536)
        return err_set(ERR_SHAPE, "%s: tensor '%s': expected [%s, ...]", file_name(r), v.t.name, axis ? "..., rank" : "rank");
    *rank = (int)v.shape.dim[axis];
    return 0;
}

/* core [r,r,kh,kw] times b [r,in] along its second axis: [r, in*kh*kw], the plain form of a Tucker decomposition. */
static int fold(const Reader *r, const Found *f, int core_leaf, const float *b, int64_t in, int rank, float *out)
{
    Value v;
    TRY(get_value(r, f, core_leaf, &v));
    int64_t kernel = v.shape.ndim == 4 ? v.shape.dim[2] * v.shape.dim[3] : 1;
    Shape want = f->module->weight;
    want.dim[0] = want.dim[1] = rank;
    TRY(check_shape(r, &v, &want));
    float *core = malloc((size_t)shape_count(&v.shape) * sizeof *core);
    int rc = core ? read_values(r, &v, core) : err_set(ERR_NOMEM, "%s: out of memory", file_name(r));
    for (int64_t i = 0; rc >= 0 && i < rank; i++)
        for (int64_t c = 0; c < in; c++)
            for (int64_t k = 0; k < kernel; k++) {
                double sum = 0;
                for (int64_t j = 0; j < rank; j++)
                    sum += (double)core[(i * rank + j) * kernel + k] * (double)b[j * in + c];
                out[(i * in + c) * kernel + k] = (float)sum;
            }
    free(core);
    return rc;
}

/* A pair a [rows,r], b [r,cols], or in Tucker form a [r,rows], b [r,in] and a core. */
static int read_pair(const Reader *r, const Found *f, LoraPart *p, NnFactor a, NnFactor b, int core, int64_t rows, int64_t in)
{
    int64_t kernel = p->weight.ndim == 4 ? p->weight.dim[2] * p->weight.dim[3] : 1;
    int rank;
    TRY(need(r, f, (int)a, nn_factor_leaf(f->kind, a)));
    TRY(need(r, f, (int)b, nn_factor_leaf(f->kind, b)));
    TRY(get_rank(r, f, (int)b, 0, &rank));
    p->rank = rank;
    if (core < 0 || !f->tensor[core]) {
        TRY(read_factor(r, f, p, a, SHAPE(rows, rank)));
        return read_factor(r, f, p, b, SHAPE(rank, in * kernel));
    }
    TRY(read_factor(r, f, p, a, SHAPE(rank, rows)));
    TRY(read_factor(r, f, p, b, SHAPE(rank, in)));
    float *ta = p->f[a], *tb = p->f[b];
    p->f[a] = p->f[b] = NULL;
    int rc = lora_set_factor(p, a, SHAPE(rows, rank));
    if (rc >= 0)
        rc = lora_set_factor(p, b, SHAPE(rank, in * kernel));
    for (int64_t i = 0; rc >= 0 && i < rows; i++)
        for (int64_t j = 0; j < rank; j++)
            p->f[a][i * rank + j] = ta[j * rows + i];
    if (rc >= 0)
        rc = fold(r, f, core, tb, in, rank, p->f[b]);
    free(ta);
    free(tb);
    return rc;
}

static int read_lora(const Reader *r, const Found *f, LoraPart *p)
{
    Shape down, up, outer;
    int rank;
    TRY(need(r, f, NN_DOWN, "down (lora_A) matrix"));
    TRY(need(r, f, NN_UP, "up (lora_B) matrix"));
    TRY(get_rank(r, f, NN_DOWN, 0, &rank));
    p->rank = rank;
    lora_shapes(&p->weight, rank, &down, &up);
    TRY(read_factor(r, f, p, NN_UP, up));
    if (!f->tensor[LORA_LEAF_MID])
        return read_factor(r, f, p, NN_DOWN, down);
    outer = SHAPE(rank, p->weight.dim[1]);
    TRY(read_factor(r, f, p, NN_DOWN, outer));
    float *tight = p->f[NN_DOWN];
    p->f[NN_DOWN] = NULL;
    int rc = lora_set_factor(p, NN_DOWN, down);
    if (rc >= 0)
        rc = fold(r, f, LORA_LEAF_MID, tight, p->weight.dim[1], rank, p->f[NN_DOWN]);
    free(tight);
    return rc;
}

static int read_loha(const Reader *r, const Found *f, LoraPart *p)
{
    int rank;
    TRY(read_pair(r, f, p, NN_W1_A, NN_W1_B, LORA_LEAF_T1, p->weight.dim[0], p->weight.dim[1]));
    rank = p->rank;
    TRY(read_pair(r, f, p, NN_W2_A, NN_W2_B, LORA_LEAF_T2, p->weight.dim[0], p->weight.dim[1]));
    if (rank != p->rank)
        return err_set(ERR_SHAPE, "%s: module '%s': the pairs of a LoHa have ranks %d and %d", file_name(r), p->path, rank, p->rank);
    return 0;
}

static int kron_size(const Reader *r, const Found *f, const LoraPart *p, int64_t *a, int64_t *b)
{
    Value v;
    int whole = f->tensor[NN_W1] != 0;
    TRY(need(r, f, whole ? NN_W1 : NN_W1_A, "lokr_w1"));
    TRY(get_value(r, f, whole ? NN_W1 : NN_W1_A, &v));
    *a = v.shape.dim[0];
    if (!whole) {
        TRY(need(r, f, NN_W1_B, "lokr_w1_b"));
        TRY(get_value(r, f, NN_W1_B, &v));
    }
    *b = v.shape.dim[1];
    if (*a < 1 || *b < 1 || p->weight.dim[0] % *a || p->weight.dim[1] % *b)
        return err_set(ERR_SHAPE, "%s: module '%s': lokr_w1 is [%lld,%lld], which does not divide the weight's [%lld,%lld]",
                       file_name(r), p->path, (long long)*a, (long long)*b, (long long)p->weight.dim[0],
                       (long long)p->weight.dim[1]);
    return 0;
}

static int read_lokr(const Reader *r, const Found *f, LoraPart *p)
{
    int64_t a, b;
    int ranked = 0;
    TRY(kron_size(r, f, p, &a, &b));
    int64_t c = p->weight.dim[0] / a, d = p->weight.dim[1] / b;
    if (f->tensor[NN_W1]) {
        TRY(read_factor(r, f, p, NN_W1, SHAPE(a, b)));
    } else {
        int rank;
        ranked = 1;
        TRY(get_rank(r, f, NN_W1_B, 0, &rank));
        TRY(read_factor(r, f, p, NN_W1_A, SHAPE(a, rank)));
        TRY(read_factor(r, f, p, NN_W1_B, SHAPE(rank, b)));
        p->rank = rank;
    }
    if (f->tensor[NN_W2]) {
        Shape w2 = p->weight.ndim == 4 ? SHAPE(c, d, p->weight.dim[2], p->weight.dim[3]) : SHAPE(c, d);
        TRY(read_factor(r, f, p, NN_W2, w2));
    } else {
        ranked = 1;
        TRY(read_pair(r, f, p, NN_W2_A, NN_W2_B, LORA_LEAF_T2, c, d));
    }
    return ranked;
}

/* m [out] as [out], [out,1,..] or PEFT's [1,out,1,1]. */
static int read_magnitude(const Reader *r, const Found *f, LoraPart *p)
{
    char text[96];
    Value v;
    int64_t out = p->weight.dim[0];
    TRY(get_value(r, f, NN_MAGNITUDE, &v));
    const char *dot = strrchr(v.t.name, '.');
    int inputs = v.shape.ndim > 1 && v.shape.dim[0] == 1 && dot && !strcmp(dot, ".dora_scale") && v.shape.dim[1] > 1;
    if (inputs)
        return err_set(ERR_UNSUPPORTED, "%s: tensor '%s' has shape %s: magnitudes of inputs (wd_on_output=False) are not supported",
                       file_name(r), v.t.name, shape_text(&v.shape, text, sizeof text));
    if (shape_count(&v.shape) != out || p->weight.ndim < 2)
        return err_set(ERR_SHAPE, "%s: tensor '%s' has shape %s, expected one value for each of the %lld outputs", file_name(r),
                       v.t.name, shape_text(&v.shape, text, sizeof text), (long long)out);
    TRY(lora_set_factor(p, NN_MAGNITUDE, SHAPE(out)));
    return read_values(r, &v, p->f[NN_MAGNITUDE]);
}

static int read_full(const Reader *r, const Found *f, LoraPart *p)
{
    if (f->tensor[NN_DIFF])
        TRY(read_factor(r, f, p, NN_DIFF, p->weight));
    if (!f->tensor[NN_DIFF] && !f->tensor[NN_DIFF_B])
        return err_set(ERR_NOTFOUND, "%s: module '%s' has an alpha or a magnitude and nothing else", file_name(r), p->path);
    return 0;
}

/* LyCORIS' trained factor of the whole change. */
static int fold_scalar(const Reader *r, const Found *f, LoraPart *p)
{
    float s;
    static const NnFactor first[NN_ADAPTER_KINDS] = {NN_UP, NN_W1_A, NN_W1, NN_DIFF};
    if (!f->tensor[LORA_LEAF_SCALAR])
        return 0;
    TRY(one_value(r, f->tensor[LORA_LEAF_SCALAR] - 1, &s));
    NnFactor k = p->f[first[p->kind]] ? first[p->kind] : NN_W1_A;
    for (int64_t i = 0; p->f[k] && i < shape_count(&p->shape[k]); i++)
        p->f[k][i] *= s;
    return 0;
}

static int read_part(const Reader *r, const Found *f, Lora *lo)
{
    LoraPart *p;
    float alpha = 0;
    int rc, ranked = 1;
    TRY(lora_add(lo, f->module, &p));
    p->kind = f->kind == NN_ADAPTER_KINDS ? NN_ADAPTER_FULL : f->kind;
    if (p->weight.ndim < 2 && p->kind != NN_ADAPTER_FULL)
        return err_set(ERR_SHAPE, "%s: module '%s' is a norm and cannot have a %s", file_name(r), p->path, nn_adapter_name(p->kind));
    switch (p->kind) {
    case NN_ADAPTER_LORA: rc = read_lora(r, f, p); break;
    case NN_ADAPTER_LOHA: rc = read_loha(r, f, p); break;
    case NN_ADAPTER_LOKR: rc = ranked = read_lokr(r, f, p); break;
    default: rc = read_full(r, f, p); ranked = 0; break;
    }
    TRY(rc);
    if (f->tensor[NN_DIFF_B])
        TRY(read_factor(r, f, p, NN_DIFF_B, SHAPE(p->weight.dim[0])));
    if (f->tensor[NN_MAGNITUDE])
        TRY(read_magnitude(r, f, p));
    TRY(fold_scalar(r, f, p));
    if (f->tensor[LORA_LEAF_ALPHA])
        TRY(one_value(r, f->tensor[LORA_LEAF_ALPHA] - 1, &alpha));
    else
        TRY(alpha_from_peft(r, p->path, p->rank, &alpha));
    p->alpha = alpha == 0 || !ranked ? (float)p->rank : alpha; /* absent or 0, or without a rank: the factor is 1 */
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
        return err_set(ERR_FORMAT, "%s: metadata 'lora_adapter_metadata' is not a JSON object: %s", file_name(r),
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
