#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "models/lora_impl.h"
#include "models/lora_ops.h"
#include "models/svd.h"

/* up [m,k] diag(s) down [k,n] of one module, before truncation. */
typedef struct {
    int64_t m, n, k;
    double *u, *s, *vt;
    double squares;     /* of all singular values, also those that were not computed */
} Parts;

static void parts_free(Parts *p)
{
    free(p->u);
    free(p->s);
    free(p->vt);
    memset(p, 0, sizeof *p);
}

static int parts_alloc(Parts *p, int64_t m, int64_t n, int64_t k)
{
    *p = (Parts){m, n, k, calloc((size_t)(m * k), sizeof(double)), calloc((size_t)k, sizeof(double)),
                 calloc((size_t)(k * n), sizeof(double)), 0};
    if (p->u && p->s && p->vt)
        return 0;
    parts_free(p);
    return err_set(ERR_NOMEM, "singular values: out of memory");
}

static int is_conv(const Shape *w)
{
    return w->ndim == 4 && w->dim[2] * w->dim[3] > 1;
}

static void sum_squares(Parts *p)
{
    for (int64_t i = 0; i < p->k; i++)
        p->squares += p->s[i] * p->s[i];
}

/* Largest rank that may stay; 0: any. */
static int64_t limit_of(const LoraKeep *keep, int conv)
{
    return conv && keep->conv_rank > 0 ? keep->conv_rank : keep->rank;
}

/* A few singular values of a large matrix are found without the others, unless the rule asks for the sum of all. */
static int decompose_dense(Parts *p, const float *d, int64_t m, int64_t n, const LoraKeep *keep, int conv)
{
    int64_t least = m < n ? m : n, top = limit_of(keep, conv);
    int few = top > 0 && top < least / 4 && least >= 128 && keep->rule != LORA_KEEP_SUM;
    double *a = malloc((size_t)(m * n) * sizeof *a);
    int rc = a ? parts_alloc(p, m, n, few ? top : least) : err_set(ERR_NOMEM, "singular values: out of memory");
    if (rc >= 0) {
        for (int64_t i = 0; i < m * n; i++)
            a[i] = (double)d[i];
        rc = few ? svd_top(a, m, n, top, p->u, p->s, p->vt, &p->squares) : svd_thin(a, m, n, p->u, p->s, p->vt);
    }
    if (rc >= 0 && !few)
        sum_squares(p);
    free(a);
    return rc;
}

/* out[m,k] = q[m,r] c[r,k] */
static void times(double *out, const double *q, const double *c, int64_t m, int64_t r, int64_t k)
{
    memset(out, 0, (size_t)(m * k) * sizeof *out);
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < r; j++)
            for (int64_t l = 0; l < k; l++)
                out[i * k + l] += q[i * r + j] * c[j * k + l];
}

/* Of a pair with a rank below both sides: QR of both factors, singular values of the small product. up = Qu Ru, down^T = Qd Rd. */
static int decompose_pair(Parts *p, const LoraPart *l, int64_t m, int64_t n, int64_t r)
{
    int rc = ERR_NOMEM;
    double factor = (double)l->alpha / l->rank, *vt = NULL, *core = NULL, *u = NULL, *w = NULL;
    double *qu = malloc((size_t)(m * r) * sizeof *qu), *qd = malloc((size_t)(n * r) * sizeof *qd);
    double *small = calloc((size_t)(5 * r * r), sizeof *small);
    TRY_GOTO(qu && qd && small ? 0 : err_set(ERR_NOMEM, "singular values: out of memory"));
    double *ru = small, *rd = small + r * r;
    core = small + 2 * r * r;
    u = small + 3 * r * r;
    vt = small + 4 * r * r;
    for (int64_t i = 0; i < m * r; i++)
        qu[i] = (double)l->f[NN_UP][i];
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < r; j++)
            qd[i * r + j] = (double)l->f[NN_DOWN][j * n + i];
    TRY_GOTO(svd_qr(qu, m, r, ru));
    TRY_GOTO(svd_qr(qd, n, r, rd));
    for (int64_t i = 0; i < r; i++)
        for (int64_t j = 0; j < r; j++)
            for (int64_t k = 0; k < r; k++)
                core[i * r + j] += factor * ru[i * r + k] * rd[j * r + k];
    TRY_GOTO(parts_alloc(p, m, n, r));
    TRY_GOTO(svd_thin(core, r, r, u, p->s, vt));
    times(p->u, qu, u, m, r, r);
    w = malloc((size_t)(n * r) * sizeof *w);
    TRY_GOTO(w ? 0 : err_set(ERR_NOMEM, "singular values: out of memory"));
    for (int64_t i = 0; i < r; i++)
        for (int64_t j = 0; j < n; j++)
            for (int64_t k = 0; k < r; k++)
                p->vt[i * n + j] += vt[i * r + k] * qd[j * r + k];
    sum_squares(p);
done:
    free(w);
    free(qu);
    free(qd);
    free(small);
    return rc;
}

static int64_t kept(const Parts *p, const LoraKeep *keep, int conv)
{
    int64_t cap = limit_of(keep, conv), r = 0;
    double whole = 0, sum = 0;
    cap = cap < 1 || cap > p->k ? p->k : cap;
    int squares = keep->rule == LORA_KEEP_FROBENIUS;
    for (int64_t i = 0; i < p->k; i++)
        whole += p->s[i];
    if (squares)
        whole = p->squares;
    for (; r < cap; r++) {
        if (keep->rule == LORA_KEEP_RATIO && !(p->s[r] > p->s[0] / keep->value))
            break;
        if (squares && sqrt(sum) >= keep->value * sqrt(whole))
            break;
        if (keep->rule == LORA_KEEP_SUM && sum >= keep->value * whole)
            break;
        sum += squares ? p->s[r] * p->s[r] : p->s[r];
    }
    return r < 1 ? 1 : r;
}

/* Factors u sqrt(s) and sqrt(s) vt, balanced so that both fit half precision. */
static int put_pair(LoraPart *to, const Parts *p, int64_t r, double *lost, double *whole)
{
    TRY(lora_set_pair(to, (int)r));
    to->alpha = (float)r;
    for (int64_t i = 0; i < r; i++) {
        double root = sqrt(p->s[i]);
        for (int64_t j = 0; j < p->m; j++)
            to->f[NN_UP][j * r + i] = (float)(p->u[j * p->k + i] * root);
        for (int64_t j = 0; j < p->n; j++)
            to->f[NN_DOWN][i * p->n + j] = (float)(p->vt[i * p->n + j] * root);
    }
    double rest = p->squares;
    for (int64_t i = 0; i < r; i++)
        rest -= p->s[i] * p->s[i];
    *whole += p->squares;
    *lost += rest > 0 ? rest : 0;
    return 0;
}

static int copy_factor(LoraPart *to, const LoraPart *from, NnFactor f)
{
    if (!from->f[f])
        return 0;
    TRY(lora_set_factor(to, f, from->shape[f]));
    memcpy(to->f[f], from->f[f], (size_t)shape_count(&from->shape[f]) * sizeof(float));
    return 0;
}

static int resize_part(LoraPart *to, const LoraPart *from, const LoraKeep *keep, double *lost, double *whole)
{
    Parts p = {0};
    int64_t m = from->weight.dim[0], n = shape_count(&from->weight) / m, r = from->rank;
    int rc = 0;
    TRY(copy_factor(to, from, NN_DIFF_B));
    TRY(copy_factor(to, from, NN_MAGNITUDE));
    to->kind = NN_ADAPTER_FULL;
    if (from->weight.ndim < 2 || (from->kind == NN_ADAPTER_FULL && !from->f[NN_DIFF]))
        return copy_factor(to, from, NN_DIFF);
    if (from->kind == NN_ADAPTER_LORA && r <= m && r <= n) {
        rc = decompose_pair(&p, from, m, n, r);
    } else {
        float *d = malloc((size_t)(m * n) * sizeof *d);
        rc = d ? lora_delta(from, d) : err_set(ERR_NOMEM, "singular values: out of memory");
        if (rc >= 0)
            rc = decompose_dense(&p, d, m, n, keep, is_conv(&from->weight));
        free(d);
    }
    if (rc >= 0)
        rc = put_pair(to, &p, kept(&p, keep, is_conv(&from->weight)), lost, whole);
    parts_free(&p);
    TRY_CTX(rc, "module '%s'", from->path);
    return 0;
}

int lora_resize(Lora **out, Lora *in, const LoraKeep *keep, double *error)
{
    Lora *lo;
    LoraPart *p;
    double lost = 0, whole = 0;
    int rc = 0;
    TRY(lora_alloc(&lo));
    for (int i = 0; i < in->count; i++) {
        const NnModule m = {in->part[i].path, in->part[i].weight};
        TRY_GOTO(lora_add(lo, &m, &p));
        TRY_GOTO(resize_part(p, &in->part[i], keep, &lost, &whole));
    }
    lora_sort(lo);
    if (error)
        *error = whole > 0 ? sqrt(lost / whole) : 0;
    *out = lo;
    lo = NULL;
done:
    lora_destroy(lo);
    return rc;
}

/* ---- extraction ---- */

static const NnModule *wanted(const NnModule *m, const char *root, const LoraExtract *how)
{
    size_t n = strlen(root);
    if (m->weight.ndim < 2 || strncmp(m->path, root, n) || m->path[n] != '.')
        return NULL;
    for (int k = 0; k < how->ntargets; k++)
        if (nn_glob(how->targets[k], m->path))
            return m;
    return how->ntargets ? NULL : m;
}

static int get_weight(IoSafetensors *f, const NnModule *m, const char *root, NnNameFn names, float *out)
{
    char name[NN_PATH_MAX + 16], other[NN_PATH_MAX + 32];
    IoTensor t;
    snprintf(name, sizeof name, "%s.weight", m->path + strlen(root) + 1);
    int at = io_safetensors_find(f, name);
    for (int k = 0; at < 0 && names && names(name, k, other, sizeof other); k++)
        at = io_safetensors_find(f, other);
    if (at < 0)
        return err_set(ERR_NOTFOUND, "%s: tensor '%s' is missing", io_safetensors_path(f), name);
    TRY(io_safetensors_at(f, at, &t));
    Meta meta;
    TRY(io_tensor_meta(&t, &meta));
    if (shape_count(&meta.shape) != shape_count(&m->weight))
        return err_set(ERR_SHAPE, "%s: tensor '%s' does not have the model's shape", io_safetensors_path(f), name);
    TRY_CTX(dtype_convert(out, DTYPE_F32, t.data, t.dtype, shape_count(&m->weight)), "%s: tensor '%s'", io_safetensors_path(f), name);
    io_safetensors_release(f, at);
    return 0;
}

static int value_order(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return x < y ? -1 : x > y;
}

/* Clamps both factors to a quantile of their joint magnitudes. */
static int clamp_pair(LoraPart *p, double quantile)
{
    int64_t a = shape_count(&p->shape[NN_DOWN]), b = shape_count(&p->shape[NN_UP]);
    float *v = malloc((size_t)(a + b) * sizeof *v);
    if (!v)
        return err_set(ERR_NOMEM, "extraction: out of memory");
    for (int64_t i = 0; i < a + b; i++)
        v[i] = fabsf(i < a ? p->f[NN_DOWN][i] : p->f[NN_UP][i - a]);
    qsort(v, (size_t)(a + b), sizeof *v, value_order);
    float top = v[(int64_t)(quantile * (double)(a + b - 1))];
    free(v);
    for (int64_t i = 0; i < a + b; i++) {
        float *x = i < a ? &p->f[NN_DOWN][i] : &p->f[NN_UP][i - a];
        *x = *x > top ? top : *x < -top ? -top : *x;
    }
    return 0;
}

static int extract_module(Lora *lo, const NnModule *m, float *a, const float *b, const LoraExtract *how, double *lost, double *whole)
{
    int64_t n = shape_count(&m->weight), rows = m->weight.dim[0];
    float top = 0;
    LoraPart *p;
    Parts parts = {0};
    for (int64_t i = 0; i < n; i++) {
        a[i] -= b[i];
        top = fabsf(a[i]) > top ? fabsf(a[i]) : top;
    }
    if (top == 0 || (double)top < how->min_diff)
        return 0;
    TRY(lora_add(lo, m, &p));
    int rc = decompose_dense(&parts, a, rows, n / rows, &how->keep, is_conv(&m->weight));
    if (rc >= 0)
        rc = put_pair(p, &parts, kept(&parts, &how->keep, is_conv(&m->weight)), lost, whole);
    if (rc >= 0 && how->clamp < 1)
        rc = clamp_pair(p, how->clamp);
    parts_free(&parts);
    TRY_CTX(rc, "module '%s'", m->path);
    return 0;
}

int lora_extract(Lora **out, IoSafetensors *base, IoSafetensors *tuned, const char *root, const NnModules *mods, NnNameFn names,
                 const LoraExtract *how, double *error)
{
    double lost = 0, whole = 0;
    int rc = 0;
    if (!*out)
        TRY(lora_alloc(out));
    for (int i = 0; rc >= 0 && i < mods->count; i++) {
        const NnModule *m = wanted(&mods->item[i], root, how);
        if (!m)
            continue;
        size_t bytes = (size_t)shape_count(&m->weight) * sizeof(float);
        float *a = malloc(bytes), *b = malloc(bytes);
        rc = a && b ? get_weight(tuned, m, root, names, a) : err_set(ERR_NOMEM, "extraction: out of memory");
        if (rc >= 0)
            rc = get_weight(base, m, root, names, b);
        if (rc >= 0)
            rc = extract_module(*out, m, a, b, how, &lost, &whole);
        free(a);
        free(b);
    }
    TRY(rc);
    lora_sort(*out);
    *error = whole > 0 ? sqrt(lost / whole) : 0;
    return 0;
}
