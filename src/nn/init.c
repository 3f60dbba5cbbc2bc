#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "nn/param.h"

static RngKey param_key(uint64_t seed, const char *name)
{
    uint64_t h = 0xcbf29ce484222325u;
    for (const char *s = name; *s; s++)
        h = (h ^ (uint8_t)*s) * 0x100000001b3u;
    return rng_key(seed, RNG_INIT, h, 0);
}

static int fill(NnParam *p, uint64_t seed, float scale, int normal)
{
    int64_t n = shape_count(&p->shape);
    RngKey key = param_key(seed, p->name);
    float *v = p->dtype == DTYPE_F32 ? p->data : malloc((size_t)n * sizeof *v + 1);
    int rc = 0;
    if (!v)
        return err_set(ERR_NOMEM, "initialising '%s': out of memory", p->name);
    if (normal) {
        rng_normal_fill(v, n, key, 0);
        for (int64_t i = 0; i < n; i++)
            v[i] *= scale;
    } else {
        rng_range_fill(v, n, key, 0, -scale, scale);
    }
    if (p->dtype != DTYPE_F32) {
        rc = dtype_convert(p->data, p->dtype, v, DTYPE_F32, n);
        free(v);
    }
    nn_param_touch(p);
    return rc;
}

int nn_param_fill_normal(NnParam *p, uint64_t seed, float std)
{
    return fill(p, seed, std, 1);
}

int nn_param_fill_uniform(NnParam *p, uint64_t seed, float bound)
{
    return fill(p, seed, bound, 0);
}

static int fill_constant(NnParam *p, float value)
{
    int64_t n = shape_count(&p->shape);
    for (int64_t i = 0; i < n; i++)
        TRY(dtype_convert((char *)p->data + (size_t)i * dtype_size(p->dtype), p->dtype, &value, DTYPE_F32, 1));
    nn_param_touch(p);
    return 0;
}

static int ends_with(const char *s, const char *tail)
{
    size_t n = strlen(s), m = strlen(tail);
    return n >= m && !strcmp(s + n - m, tail);
}

/* Inputs per output of a linear or conv weight; 0 for others. */
static int64_t fan_in(const Shape *s)
{
    if (s->ndim != 2 && s->ndim != 4)
        return 0;
    return shape_count(s) / s->dim[0];
}

/* The shape of the weight that a bias belongs to; NULL when there is none. */
static const Shape *sibling_weight(const Graph *g, const char *bias)
{
    char name[512];
    size_t n = strlen(bias) - strlen("bias");
    if (n + sizeof "weight" > sizeof name)
        return NULL;
    memcpy(name, bias, n);
    memcpy(name + n, "weight", sizeof "weight");
    OpRef w = graph_find(g, name);
    return w < 0 ? NULL : &graph_meta(g, w)->shape;
}

static int init_one(NnParam *p, const Graph *g, uint64_t seed)
{
    int64_t fan = fan_in(&p->shape);
    if (ends_with(p->name, ".logit_scale"))
        return fill_constant(p, logf(1 / 0.07f));
    if (ends_with(p->name, ".class_embedding"))
        return nn_param_fill_normal(p, seed, 1 / sqrtf((float)shape_count(&p->shape)));
    if (ends_with(p->name, "_embedding.weight") && p->shape.ndim == 2)
        return nn_param_fill_normal(p, seed, 0.02f);
    if (ends_with(p->name, ".bias")) {
        const Shape *w = sibling_weight(g, p->name);
        fan = w ? fan_in(w) : 0;
        return fan ? nn_param_fill_uniform(p, seed, 1 / sqrtf((float)fan)) : fill_constant(p, 0);
    }
    if (fan)
        return nn_param_fill_uniform(p, seed, 1 / sqrtf((float)fan));
    return fill_constant(p, 1); /* gains of norms */
}

int nn_params_init(NnParams *ps, const Graph *g, const char *root, uint64_t seed, const char *const *zero, int nzero)
{
    size_t n = strlen(root);
    for (int i = 0; i < graph_tensor_count(g); i++) {
        const GraphTensor *t = graph_tensor(g, i);
        if (t->kind != TENSOR_PARAM || strncmp(t->name, root, n) || t->name[n] != '.' || nn_params_find(ps, t->name))
            continue;
        NnParam *p;
        int is_zero = 0;
        TRY(nn_params_add(ps, t->name, t->meta.dtype, t->meta.shape, &p));
        for (int k = 0; k < nzero; k++)
            is_zero |= nn_glob(zero[k], t->name);
        if (!is_zero)
            TRY(init_one(p, g, seed));
    }
    return 0;
}
