#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "models/lora_impl.h"

static int matches(const char *const *glob, int n, const char *path, uint8_t *hit)
{
    int any = 0;
    for (int k = 0; k < n; k++)
        if (nn_glob(glob[k], path)) {
            any = 1;
            if (hit)
                hit[k] = 1;
        }
    return any;
}

typedef enum { FILL_ZERO, FILL_NORMAL, FILL_KAIMING } Fill;

/* LoRA's factors are keyed by their names of old, "<path>.lora_A.weight". */
static int add_factor(LoraPart *p, const LoraSpec *spec, NnFactor f, Shape shape, Fill fill, float std)
{
    char name[NN_PATH_MAX + 32];
    TRY(lora_set_factor(p, f, shape));
    snprintf(name, sizeof name, "%s.%s", p->path, nn_factor_leaf(p->kind, f));
    NnParam v = {.name = name, .dtype = DTYPE_F32, .shape = shape, .data = p->f[f]};
    if (fill == FILL_NORMAL)
        return nn_param_fill_normal(&v, spec->seed, std);
    if (fill == FILL_KAIMING)
        return nn_param_fill_uniform(&v, spec->seed, 1 / sqrtf((float)(shape_count(&shape) / shape.dim[0])));
    return 0;
}

static int init_lora(LoraPart *p, const LoraSpec *spec)
{
    Shape down, up;
    lora_shapes(&p->weight, p->rank, &down, &up);
    TRY(add_factor(p, spec, NN_DOWN, down, FILL_KAIMING, 0));
    return add_factor(p, spec, NN_UP, up, FILL_ZERO, 0);
}

static int init_loha(LoraPart *p, const LoraSpec *spec)
{
    int64_t out = p->weight.dim[0], k = shape_count(&p->weight) / out, r = p->rank;
    TRY(add_factor(p, spec, NN_W1_A, SHAPE(out, r), FILL_NORMAL, 0.1f));
    TRY(add_factor(p, spec, NN_W1_B, SHAPE(r, k), FILL_NORMAL, 1));
    TRY(add_factor(p, spec, NN_W2_A, SHAPE(out, r), FILL_ZERO, 0));
    return add_factor(p, spec, NN_W2_B, SHAPE(r, k), FILL_NORMAL, 1);
}

/* n = small * large with small <= large, small <= factor, as close as possible: LyCORIS functional/general.py factorization(). */
static void factorize(int64_t n, int64_t factor, int64_t *small, int64_t *large)
{
    int64_t a = 1, limit = factor < 1 ? n : factor;
    if (factor > 0 && n % factor == 0)
        a = factor;
    else
        for (int64_t i = 2; i * i <= n && i <= limit; i++)
            a = n % i == 0 ? i : a;
    *small = a < n / a ? a : n / a;
    *large = n / *small;
}

static int init_lokr(LoraPart *p, const LoraSpec *spec)
{
    int64_t l, k, m, n, r = p->rank, kernel = p->weight.ndim == 4 ? p->weight.dim[2] * p->weight.dim[3] : 1;
    factorize(p->weight.dim[0], spec->lokr_factor, &l, &k);
    factorize(p->weight.dim[1], spec->lokr_factor, &m, &n);
    int64_t first = l > m ? l : m, second = k > n ? k : n;
    if (spec->decompose_both && 2 * r < first) {
        TRY(add_factor(p, spec, NN_W1_A, SHAPE(l, r), FILL_KAIMING, 0));
        TRY(add_factor(p, spec, NN_W1_B, SHAPE(r, m), FILL_KAIMING, 0));
    } else {
        TRY(add_factor(p, spec, NN_W1, SHAPE(l, m), FILL_KAIMING, 0));
    }
    if (2 * r < second) {
        TRY(add_factor(p, spec, NN_W2_A, SHAPE(k, r), FILL_KAIMING, 0));
        return add_factor(p, spec, NN_W2_B, SHAPE(r, n * kernel), FILL_ZERO, 0);
    }
    if (p->f[NN_W1]) /* nothing has a rank: the factor is 1 */
        p->alpha = (float)p->rank;
    Shape w2 = p->weight.ndim == 4 ? SHAPE(k, n, p->weight.dim[2], p->weight.dim[3]) : SHAPE(k, n);
    return add_factor(p, spec, NN_W2, w2, FILL_ZERO, 0);
}

static void settings(LoraPart *p, const LoraSpec *spec, uint8_t *hit)
{
    int kernel = p->weight.ndim == 4 && p->weight.dim[2] * p->weight.dim[3] > 1;
    int own = kernel && spec->conv_rank > 0;
    p->rank = own ? spec->conv_rank : spec->rank;
    p->alpha = own || (kernel && spec->conv_alpha > 0) ? spec->conv_alpha : spec->alpha;
    for (int k = 0; k < spec->nrule; k++) {
        const LoraRule *r = &spec->rule[k];
        if (!nn_glob(r->match, p->path))
            continue;
        hit[k] = 1;
        if (r->rank > 0) {
            p->rank = r->rank;
            p->alpha = 0;
        }
        p->alpha = r->alpha > 0 ? r->alpha : p->alpha;
    }
    p->alpha = p->alpha > 0 ? p->alpha : (float)p->rank;
    if (spec->rslora)
        p->alpha *= sqrtf((float)p->rank);
}

static int init_part(LoraPart *p, const LoraSpec *spec, uint8_t *rule_hit)
{
    p->kind = spec->kind;
    settings(p, spec, rule_hit);
    TRY(p->kind == NN_ADAPTER_LORA ? init_lora(p, spec) : p->kind == NN_ADAPTER_LOHA ? init_loha(p, spec) : init_lokr(p, spec));
    p->fresh = spec->dora != 0;
    return spec->dora ? lora_set_factor(p, NN_MAGNITUDE, SHAPE(p->weight.dim[0])) : 0;
}

static int check_spec(const LoraSpec *spec)
{
    if (spec->kind != NN_ADAPTER_LORA && spec->kind != NN_ADAPTER_LOHA && spec->kind != NN_ADAPTER_LOKR)
        return err_set(ERR_RANGE, "a fresh adapter is LoRA, LoHa or LoKr");
    if (spec->rank < 1 || spec->rank > 4096)
        return err_set(ERR_RANGE, "LoRA rank is %d, expected 1..4096", spec->rank);
    if (spec->conv_rank < 0 || spec->conv_rank > 4096)
        return err_set(ERR_RANGE, "LoRA conv_rank is %d, expected 0..4096", spec->conv_rank);
    if (!isfinite(spec->alpha) || !isfinite(spec->conv_alpha))
        return err_set(ERR_RANGE, "LoRA alpha is not a number");
    if (spec->ntargets < 1)
        return err_set(ERR_RANGE, "LoRA has no targets");
    return 0;
}

static int check_hits(const LoraSpec *spec, const uint8_t *target, const uint8_t *rule, const uint8_t *exclude)
{
    for (int k = 0; k < spec->ntargets; k++)
        if (!target[k])
            return err_set(ERR_NOTFOUND, "lora.targets: '%s' matches no linear layer or convolution of the model", spec->targets[k]);
    for (int k = 0; k < spec->nrule; k++)
        if (!rule[k])
            return err_set(ERR_NOTFOUND, "lora.rules: '%s' matches none of the targets", spec->rule[k].match);
    for (int k = 0; k < spec->nexclude; k++)
        if (!exclude[k])
            return err_set(ERR_NOTFOUND, "lora.exclude: '%s' matches none of the targets", spec->exclude[k]);
    return 0;
}

int lora_create(Lora **out, const LoraSpec *spec, const NnModules *modules)
{
    Lora *lo = NULL;
    LoraPart *p;
    TRY(check_spec(spec));
    uint8_t *hit = calloc((size_t)(spec->ntargets + spec->nrule + spec->nexclude) + 1, 1);
    int rc = hit ? lora_alloc(&lo) : err_set(ERR_NOMEM, "LoRA: out of memory");
    if (rc < 0)
        goto done;
    for (int i = 0; i < modules->count; i++) {
        const NnModule *m = &modules->item[i];
        if (m->weight.ndim < 2 || !matches(spec->targets, spec->ntargets, m->path, hit) ||
            matches(spec->exclude, spec->nexclude, m->path, hit + spec->ntargets + spec->nrule))
            continue;
        TRY_GOTO(lora_add(lo, m, &p));
        TRY_GOTO(init_part(p, spec, hit + spec->ntargets));
    }
    TRY_GOTO(check_hits(spec, hit, hit + spec->ntargets, hit + spec->ntargets + spec->nrule));
    if (!lo->count) {
        rc = err_set(ERR_NOTFOUND, "lora.exclude: leaves none of the targets");
        goto done;
    }
    lora_sort(lo);
    *out = lo;
    lo = NULL;
done:
    free(hit);
    lora_destroy(lo);
    return rc;
}

static int row_norms(LoraPart *p, const NnParam *w)
{
    int64_t out = p->weight.dim[0], k = shape_count(&p->weight) / out;
    float *d = malloc((size_t)(out * k) * sizeof *d), *row = malloc((size_t)k * sizeof *row);
    int rc = d && row ? lora_delta(p, d) : err_set(ERR_NOMEM, "LoRA: out of memory");
    for (int64_t i = 0; rc >= 0 && i < out; i++) {
        double sum = 0;
        rc = dtype_convert(row, DTYPE_F32, (const char *)w->data + (size_t)(i * k) * dtype_size(w->dtype), w->dtype, k);
        for (int64_t j = 0; j < k; j++)
            sum += ((double)row[j] + (double)d[i * k + j]) * ((double)row[j] + (double)d[i * k + j]);
        p->f[NN_MAGNITUDE][i] = (float)sqrt(sum);
    }
    free(d);
    free(row);
    return rc;
}

int lora_init_magnitude(Lora *lo, const NnParams *ps)
{
    char name[NN_PATH_MAX + 16];
    for (int i = 0; i < lo->count; i++) {
        LoraPart *p = &lo->part[i];
        snprintf(name, sizeof name, "%s.weight", p->path);
        const NnParam *w = p->fresh ? nn_params_find(ps, name) : NULL;
        if (!w)
            continue;
        if (shape_count(&w->shape) != shape_count(&p->weight))
            return err_set(ERR_SHAPE, "LoRA module '%s' does not fit the weight", p->path);
        TRY(row_norms(p, w));
        p->fresh = 0;
    }
    return 0;
}
