#include "nn/adapter.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "nn/nn.h"

const char *nn_adapter_name(NnAdapterKind kind)
{
    static const char *const names[NN_ADAPTER_KINDS] = {"LoRA", "LoHa", "LoKr", "full"};
    return names[kind];
}

const char *nn_factor_leaf(NnAdapterKind kind, NnFactor f)
{
    static const char *const hada[] = {"hada_w1", "hada_w1_a", "hada_w1_b", "hada_w2", "hada_w2_a", "hada_w2_b"};
    static const char *const leaf[NN_FACTORS] = {
        "lora_A.weight", "lora_B.weight", "lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b",
        "diff", "diff_b", "lora_magnitude_vector"};
    return kind == NN_ADAPTER_LOHA && f >= NN_W1 && f <= NN_W2_B ? hada[f - NN_W1] : leaf[f];
}

/* One module with one adapter. */
typedef struct {
    NnCtx *nn;
    const NnLora *lora;
    const NnLoraPart *part;
    OpRef scale;       /* [1] P */
    OpRef x, w;
    int stride;
    const int *pad;    /* NULL: linear */
} Site;

static int part_compare(const void *key, const void *item)
{
    return strcmp((const char *)key, ((const NnLoraPart *)item)->path);
}

static int site_find(Site *s, int i)
{
    char name[32];
    NnCtx *nn = s->nn;
    s->lora = nn->lora[i];
    s->part = bsearch(nn->path, s->lora->part, (size_t)s->lora->count, sizeof *s->lora->part, part_compare);
    if (!s->part)
        return 0;
    snprintf(name, sizeof name, "lora.%d.scale", s->lora->id);
    s->scale = graph_param(nn->g, name, graph_ptype(nn->g), SHAPE(1));
    return 1;
}

static int has(const Site *s, NnFactor f)
{
    return s->part->shape[f].ndim > 0;
}

/* P */
static OpRef factor(Site *s, NnFactor f)
{
    char name[NN_PATH_MAX + 64];
    NnCtx *nn = s->nn;
    int n = snprintf(name, sizeof name, "lora.%d.%s.%s", s->lora->id, s->part->path, nn_factor_leaf(s->part->kind, f));
    if (n < 0 || (size_t)n >= sizeof name)
        return nn->b->fail(nn->b, err_set(ERR_RANGE, "parameter name '%.60s...' is too long", name));
    OpRef t = graph_param(nn->g, name, graph_ptype(nn->g), s->part->shape[f]);
    if (s->lora->trainable && t >= 0)
        nn_trained_add(nn, t);
    return t;
}

/* t as a matrix. */
static OpRef flat(Site *s, OpRef t, int64_t rows)
{
    if (t < 0)
        return OP_NONE;
    return op_reshape(s->nn->b, t, SHAPE(rows, shape_count(&graph_meta(s->nn->g, t)->shape) / rows));
}

static OpRef apply(Site *s, OpRef x, OpRef w, OpRef res)
{
    OpBuild *b = s->nn->b;
    return s->pad ? op_conv2d(b, x, w, OP_NONE, res, s->stride, s->pad) : op_linear(b, x, w, OP_NONE, res);
}

/* ---- dropout ---- */

static uint64_t hash_name(const char *path, const char *what)
{
    uint64_t h = 0xcbf29ce484222325u; /* FNV-1a */
    for (const char *c = path; *c; c++)
        h = (h ^ (uint8_t)*c) * 0x100000001b3u;
    for (const char *c = what; *c; c++)
        h = (h ^ (uint8_t)*c) * 0x100000001b3u;
    return h;
}

static OpRef drop(Site *s, OpRef h, float p, Drop what, const char *name)
{
    if (!s->lora->trainable || s->nn->position < 0 || !(p > 0))
        return h;
    return op_dropout(s->nn->b, h, s->nn->position, p, what, s->lora->seed, hash_name(s->part->path, name));
}

static OpRef dropouts(Site *s, OpRef h)
{
    h = drop(s, h, s->lora->dropout, DROP_ELEMENT, ".dropout");
    h = drop(s, h, s->lora->rank_dropout, DROP_CHANNEL, ".rank_dropout");
    return drop(s, h, s->lora->module_dropout, DROP_ITEM, ".module_dropout");
}

static int drops(const Site *s)
{
    const NnLora *l = s->lora;
    return l->trainable && s->nn->position >= 0 && (l->dropout > 0 || l->rank_dropout > 0 || l->module_dropout > 0);
}

/* ---- D, [out,K] P ---- */

static OpRef product(Site *s, NnFactor whole, NnFactor a, NnFactor b)
{
    return has(s, whole) ? flat(s, factor(s, whole), s->part->shape[whole].dim[0])
                         : op_matmul(s->nn->b, factor(s, a), factor(s, b));
}

/* w1 [a,b], w2 [c,d] -> [a*c, b*d]: the outer product [a,b,c,d] with its middle dimensions exchanged, in two moves. */
static OpRef kronecker(Site *s)
{
    OpBuild *ob = s->nn->b;
    OpRef w1 = product(s, NN_W1, NN_W1_A, NN_W1_B), w2 = product(s, NN_W2, NN_W2_A, NN_W2_B);
    if (w1 < 0 || w2 < 0)
        return OP_NONE;
    Shape p = graph_meta(s->nn->g, w1)->shape, q = graph_meta(s->nn->g, w2)->shape;
    int64_t a = p.dim[0], b = p.dim[1], c = q.dim[0], d = q.dim[1];
    OpRef t = op_matmul(ob, op_reshape(ob, w1, SHAPE(a * b, 1)), op_reshape(ob, w2, SHAPE(1, c * d)));
    t = op_nchw_to_nhwc(ob, op_reshape(ob, t, SHAPE(a, b, c, d)));          /* [a,c,d,b] */
    t = op_nchw_to_nhwc(ob, op_reshape(ob, t, SHAPE(a * c, d, 1, b)));      /* [ac,1,b,d] */
    return op_reshape(ob, t, SHAPE(a * c, b * d));
}

static OpRef delta(Site *s)
{
    OpBuild *b = s->nn->b;
    int64_t out = graph_meta(s->nn->g, s->w)->shape.dim[0];
    switch (s->part->kind) {
    case NN_ADAPTER_LORA:
        return op_matmul(b, flat(s, factor(s, NN_UP), out), flat(s, factor(s, NN_DOWN), s->part->shape[NN_DOWN].dim[0]));
    case NN_ADAPTER_LOHA:
        return op_mul(b, op_matmul(b, factor(s, NN_W1_A), factor(s, NN_W1_B)), op_matmul(b, factor(s, NN_W2_A), factor(s, NN_W2_B)));
    case NN_ADAPTER_LOKR:
        return kronecker(s);
    default:
        return flat(s, factor(s, NN_DIFF), out);
    }
}

/* ---- D x ---- */

/* res + scale * factor * D x; `scaled`: whether the scale is applied. */
static OpRef low_rank(Site *s, OpRef res, int scaled)
{
    static const int no_pad[4] = {0, 0, 0, 0};
    OpBuild *b = s->nn->b;
    OpRef down = nn_to_compute(s->nn, factor(s, NN_DOWN)), up = nn_to_compute(s->nn, factor(s, NN_UP));
    OpRef h = dropouts(s, apply(s, s->x, down, OP_NONE));
    h = op_scale(b, h, s->part->factor, scaled ? s->scale : OP_NONE);
    return s->pad ? op_conv2d(b, h, up, OP_NONE, res, 1, no_pad) : op_linear(b, h, up, OP_NONE, res);
}

static OpRef dense(Site *s, OpRef res, int scaled)
{
    OpBuild *b = s->nn->b;
    OpRef d = op_scale(b, delta(s), s->part->factor, scaled ? s->scale : OP_NONE);
    d = nn_to_compute(s->nn, op_reshape(b, d, graph_meta(s->nn->g, s->w)->shape));
    return drops(s) ? nn_residual(s->nn, dropouts(s, apply(s, s->x, d, OP_NONE)), res) : apply(s, s->x, d, res);
}

static OpRef change(Site *s, OpRef res, int scaled)
{
    if (s->part->kind == NN_ADAPTER_LORA)
        return low_rank(s, res, scaled);
    return has(s, NN_DIFF) || s->part->kind != NN_ADAPTER_FULL ? dense(s, res, scaled) : res;
}

/* y + scale * (gain * (z + factor D x) - z), z = W x. */
static OpRef decomposed(Site *s, OpRef z, OpRef y)
{
    OpBuild *b = s->nn->b;
    Dtype p = graph_ptype(s->nn->g);
    if (z < 0)
        return OP_NONE;
    int64_t out = graph_meta(s->nn->g, s->w)->shape.dim[0];
    OpRef w = flat(s, graph_meta(s->nn->g, s->w)->dtype == p ? s->w : op_cast(b, s->w, p), out);
    OpRef v = op_add(b, w, op_scale(b, delta(s), s->part->factor, OP_NONE));
    OpRef gain = op_row_gain(b, factor(s, NN_MAGNITUDE), v);
    OpRef u = op_mul_bcast(b, change(s, z, 0), gain, BCAST_CHANNEL);
    OpRef step = op_add(b, u, op_scale(b, z, -1, OP_NONE));
    return op_add(b, y, op_scale(b, step, 1, s->scale));
}

static OpRef bias_change(Site *s, OpRef y)
{
    OpBuild *b = s->nn->b;
    return has(s, NN_DIFF_B) ? op_add_bcast(b, y, op_scale(b, factor(s, NN_DIFF_B), 1, s->scale), BCAST_CHANNEL) : y;
}

OpRef nn_adapted(NnCtx *nn, OpRef x, OpRef w, OpRef bias, OpRef res, int stride, const int *pad)
{
    OpBuild *b = nn->b;
    OpRef y = OP_NONE, z = OP_NONE;
    Site s = {.nn = nn, .x = x, .w = w, .stride = stride, .pad = pad};
    int dora = 0;
    if (x < 0 || w < 0)
        return OP_NONE;
    for (int i = 0; i < nn->nlora; i++)
        dora |= site_find(&s, i) && has(&s, NN_MAGNITUDE);
    if (dora) {
        z = apply(&s, x, w, OP_NONE);
        y = nn_residual(nn, bias >= 0 ? op_add_bcast(b, z, bias, BCAST_CHANNEL) : z, res);
    } else {
        y = pad ? op_conv2d(b, x, w, bias, res, stride, pad) : op_linear(b, x, w, bias, res);
    }
    for (int i = 0; i < nn->nlora; i++) {
        if (!site_find(&s, i))
            continue;
        y = has(&s, NN_MAGNITUDE) ? decomposed(&s, z, y) : change(&s, y, 1);
        y = bias_change(&s, y);
    }
    return y;
}

OpRef nn_adapted_vector(NnCtx *nn, OpRef v, NnFactor f)
{
    Site s = {.nn = nn};
    for (int i = 0; v >= 0 && i < nn->nlora; i++)
        if (site_find(&s, i) && has(&s, f))
            v = op_add(nn->b, v, op_scale(nn->b, factor(&s, f), 1, s.scale));
    return v;
}
