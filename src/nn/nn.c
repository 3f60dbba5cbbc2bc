#include "nn/nn.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "nn/param.h"

const NnAttnNames NN_ATTN_DIFFUSERS = {"to_q", "to_k", "to_v", "to_out.0", 0, 1};
const NnAttnNames NN_ATTN_VAE = {"to_q", "to_k", "to_v", "to_out.0", 1, 1};
const NnAttnNames NN_ATTN_CLIP = {"q_proj", "k_proj", "v_proj", "out_proj", 1, 1};

void nn_modules_deinit(NnModules *m)
{
    for (int i = 0; i < m->count; i++)
        free(m->item[i].path);
    free(m->item);
    *m = (NnModules){0};
}

const NnModule *nn_modules_find(const NnModules *m, const char *path)
{
    for (int i = 0; i < m->count; i++)
        if (!strcmp(m->item[i].path, path))
            return &m->item[i];
    return NULL;
}

static int modules_add(NnModules *m, const char *path, Shape weight)
{
    if (nn_modules_find(m, path))
        return 0;
    if (m->count == m->cap) {
        int cap = m->cap ? m->cap * 2 : 128;
        NnModule *p = realloc(m->item, (size_t)cap * sizeof *p);
        if (!p)
            return err_set(ERR_NOMEM, "module list: out of memory");
        m->item = p;
        m->cap = cap;
    }
    char *copy = strdup(path);
    if (!copy)
        return err_set(ERR_NOMEM, "module list: out of memory");
    m->item[m->count++] = (NnModule){copy, weight};
    return 0;
}

void nn_init(NnCtx *nn, Graph *g)
{
    memset(nn, 0, sizeof *nn);
    nn->g = g;
    nn->b = graph_builder(g);
    nn->position = OP_NONE;
}

void nn_deinit(NnCtx *nn)
{
    free(nn->trained);
    nn->trained = NULL;
    nn->ntrained = nn->trained_cap = 0;
}

size_t nn_push(NnCtx *nn, const char *fmt, ...)
{
    size_t mark = nn->len, room = sizeof nn->path - nn->len;
    va_list ap;
    if (nn->len && room > 1) {
        nn->path[nn->len++] = '.';
        room--;
    }
    va_start(ap, fmt);
    int n = vsnprintf(nn->path + nn->len, room, fmt, ap);
    va_end(ap);
    if (n < 0 || (size_t)n >= room) {
        nn->path[mark] = 0;
        nn->len = mark;
        nn->b->fail(nn->b, err_set(ERR_RANGE, "module path under '%s' is longer than %d", nn->path, NN_PATH_MAX - 1));
        return mark;
    }
    nn->len += (size_t)n;
    return mark;
}

void nn_pop(NnCtx *nn, size_t mark)
{
    nn->len = mark;
    nn->path[mark] = 0;
}

OpRef nn_tap(NnCtx *nn, const char *name, OpRef t)
{
    if (!nn->tap || t < 0)
        return t;
    size_t mark = name ? nn_push(nn, "%s", name) : nn->len;
    nn->tap(nn->tap_user, nn->path, t);
    nn_pop(nn, mark);
    return t;
}

OpRef nn_residual(NnCtx *nn, OpRef y, OpRef res)
{
    return res < 0 || y < 0 ? y : op_add(nn->b, y, res);
}

static int is_trained(const NnCtx *nn, const char *name)
{
    for (int i = 0; i < nn->ntrain; i++)
        if (nn_glob(nn->train[i], name))
            return 1;
    return 0;
}

void nn_trained_add(NnCtx *nn, OpRef t)
{
    for (int i = 0; i < nn->ntrained; i++)
        if (nn->trained[i] == t)
            return;
    if (nn->ntrained == nn->trained_cap) {
        int cap = nn->trained_cap ? nn->trained_cap * 2 : 64;
        OpRef *p = realloc(nn->trained, (size_t)cap * sizeof *p);
        if (!p) {
            nn->b->fail(nn->b, err_set(ERR_NOMEM, "trained parameters: out of memory"));
            return;
        }
        nn->trained = p;
        nn->trained_cap = cap;
    }
    nn->trained[nn->ntrained++] = t;
}

OpRef nn_to_compute(NnCtx *nn, OpRef x)
{
    if (x < 0 || graph_meta(nn->g, x)->dtype == graph_dtype(nn->g))
        return x;
    return op_cast(nn->b, x, graph_dtype(nn->g));
}

OpRef nn_param(NnCtx *nn, const char *name, Shape shape)
{
    char full[NN_PATH_MAX + 64];
    int n = snprintf(full, sizeof full, "%s%s%s", nn->path, nn->len ? "." : "", name);
    if (n < 0 || (size_t)n >= sizeof full)
        return nn->b->fail(nn->b, err_set(ERR_RANGE, "parameter name '%.60s...' is too long", full));
    int trained = is_trained(nn, full), compute = shape.ndim >= 2 && (!trained || nn->train_compute);
    OpRef t = graph_param(nn->g, full, compute ? graph_dtype(nn->g) : graph_ptype(nn->g), shape);
    if (t >= 0 && trained)
        nn_trained_add(nn, t);
    return shape.ndim < 2 ? t : nn_to_compute(nn, t);
}

static void list_module(NnCtx *nn, Shape weight)
{
    if (!nn->modules)
        return;
    int rc = modules_add(nn->modules, nn->path, weight);
    if (rc < 0)
        nn->b->fail(nn->b, rc);
}

OpRef nn_linear(NnCtx *nn, const char *name, OpRef x, int64_t out, int bias, OpRef res)
{
    if (x < 0)
        return OP_NONE;
    size_t mark = nn_push(nn, "%s", name);
    Shape ws = SHAPE(out, shape_last(&graph_meta(nn->g, x)->shape));
    list_module(nn, ws);
    OpRef w = nn_param(nn, "weight", ws);
    OpRef b = bias ? nn_param(nn, "bias", SHAPE(out)) : OP_NONE;
    OpRef y = nn_tap(nn, NULL, nn_adapted(nn, x, w, b, nn->tap ? OP_NONE : res, 0, NULL));
    nn_pop(nn, mark);
    return nn->tap ? nn_residual(nn, y, res) : y;
}

OpRef nn_conv(NnCtx *nn, const char *name, OpRef x, int64_t out, int kernel, int stride, NnPad pad, OpRef res)
{
    if (x < 0)
        return OP_NONE;
    int half = (kernel - 1) / 2;
    int pads[4] = {half, half, half, half};
    if (pad == NN_ASYM)
        pads[0] = pads[1] = 0;
    size_t mark = nn_push(nn, "%s", name);
    Shape ws = SHAPE(out, shape_last(&graph_meta(nn->g, x)->shape), kernel, kernel);
    list_module(nn, ws);
    OpRef w = nn_param(nn, "weight", ws);
    OpRef b = nn_param(nn, "bias", SHAPE(out));
    OpRef y = nn_tap(nn, NULL, nn_adapted(nn, x, w, b, nn->tap ? OP_NONE : res, stride, pads));
    nn_pop(nn, mark);
    return nn->tap ? nn_residual(nn, y, res) : y;
}

OpRef nn_group_norm(NnCtx *nn, const char *name, OpRef x, int groups, float eps, Act act)
{
    if (x < 0)
        return OP_NONE;
    int64_t c = shape_last(&graph_meta(nn->g, x)->shape);
    size_t mark = nn_push(nn, "%s", name);
    list_module(nn, SHAPE(c));
    OpRef gamma = nn_adapted_vector(nn, nn_param(nn, "weight", SHAPE(c)), NN_DIFF);
    OpRef beta = nn_adapted_vector(nn, nn_param(nn, "bias", SHAPE(c)), NN_DIFF_B);
    nn_pop(nn, mark);
    return op_group_norm(nn->b, x, gamma, beta, groups, eps, act);
}

OpRef nn_layer_norm(NnCtx *nn, const char *name, OpRef x, float eps)
{
    if (x < 0)
        return OP_NONE;
    int64_t c = shape_last(&graph_meta(nn->g, x)->shape);
    size_t mark = nn_push(nn, "%s", name);
    list_module(nn, SHAPE(c));
    OpRef gamma = nn_adapted_vector(nn, nn_param(nn, "weight", SHAPE(c)), NN_DIFF);
    OpRef beta = nn_adapted_vector(nn, nn_param(nn, "bias", SHAPE(c)), NN_DIFF_B);
    nn_pop(nn, mark);
    return op_layer_norm(nn->b, x, gamma, beta, eps);
}

OpRef nn_attention(NnCtx *nn, const NnAttnNames *names, OpRef x, OpRef ctx, int heads, int causal, OpRef res)
{
    if (x < 0)
        return OP_NONE;
    int64_t c = shape_last(&graph_meta(nn->g, x)->shape);
    if (heads < 1 || c % heads)
        return nn->b->fail(nn->b, err_set(ERR_SHAPE, "%s: %lld channels do not divide into %d heads", nn->path,
                                          (long long)c, heads));
    OpRef kv = ctx >= 0 ? ctx : x;
    OpRef q = nn_linear(nn, names->q, x, c, names->qkv_bias, OP_NONE);
    OpRef k = nn_linear(nn, names->k, kv, c, names->qkv_bias, OP_NONE);
    OpRef v = nn_linear(nn, names->v, kv, c, names->qkv_bias, OP_NONE);
    /* the scale as torch computes it: 1/sqrt in double, narrowed */
    OpRef o = op_attention(nn->b, q, k, v, heads, (float)(1.0 / __builtin_sqrt((double)c / heads)), causal);
    return nn_linear(nn, names->o, o, c, names->o_bias, res);
}

OpRef nn_resnet(NnCtx *nn, OpRef x, OpRef emb, int64_t out, int groups, float eps)
{
    if (x < 0)
        return OP_NONE;
    int64_t in = shape_last(&graph_meta(nn->g, x)->shape);
    graph_segment_begin(nn->g);
    OpRef h = nn_group_norm(nn, "norm1", x, groups, eps, ACT_SILU);
    h = nn_conv(nn, "conv1", h, out, 3, 1, NN_SAME, OP_NONE);
    if (emb >= 0)
        h = op_add_bcast(nn->b, h, nn_linear(nn, "time_emb_proj", emb, out, 1, OP_NONE), BCAST_ITEM);
    h = nn_group_norm(nn, "norm2", h, groups, eps, ACT_SILU);
    OpRef skip = in == out ? x : nn_conv(nn, "conv_shortcut", x, out, 1, 1, NN_SAME, OP_NONE);
    OpRef y = nn_conv(nn, "conv2", h, out, 3, 1, NN_SAME, skip);
    graph_segment_end(nn->g);
    return nn_tap(nn, NULL, y);
}

OpRef nn_constant(NnCtx *nn, float value, Shape shape)
{
    Meta m = {graph_dtype(nn->g), shape};
    return op_scale(nn->b, op_act(nn->b, op_zero(nn->b, &m), ACT_EXP), value, OP_NONE);
}

void nn_nhwc_from_nchw(float *dst, const float *src, int64_t n, int64_t c, int64_t h, int64_t w)
{
    for (int64_t i = 0; i < n; i++)
        for (int64_t k = 0; k < c; k++)
            for (int64_t p = 0; p < h * w; p++)
                dst[(i * h * w + p) * c + k] = src[(i * c + k) * h * w + p];
}

void nn_nchw_from_nhwc(float *dst, const float *src, int64_t n, int64_t c, int64_t h, int64_t w)
{
    for (int64_t i = 0; i < n; i++)
        for (int64_t k = 0; k < c; k++)
            for (int64_t p = 0; p < h * w; p++)
                dst[(i * c + k) * h * w + p] = src[(i * h * w + p) * c + k];
}
