#include <stdlib.h>

#include "graph/internal.h"
#include "ops/backend.h"

static int takes_res(OpKind k)
{
    return k == OP_LINEAR || k == OP_CONV2D || k == OP_LINEAR_BWD_X || k == OP_CONV2D_BWD_X;
}

static void count_uses(const Graph *g, int *uses)
{
    for (int i = 0; i < g->ntensor; i++)
        uses[i] = g->tensors[i].output;
    for (int i = 0; i < g->nnode; i++)
        for (int j = 0; !g->nodes[i].dead && j < g->nodes[i].nin; j++)
            uses[g->nodes[i].in[j]]++;
}

static void remove_dead(Graph *g, int *uses)
{
    for (int i = g->nnode - 1; i >= 0; i--) {
        GraphNode *n = &g->nodes[i];
        int used = 0;
        for (int j = 0; j < n->nout; j++)
            used |= uses[n->out[j]] > 0;
        if (used || n->dead)
            continue;
        n->dead = 1;
        for (int j = 0; j < n->nin; j++)
            uses[n->in[j]]--;
    }
}

/* z = add(y, r) where y = linear/conv without a residual and used only here: the node moves down to the addition, which
 * it replaces, with r as its residual input. */
static int fuse_add(Graph *g, int i, int side, const int *uses)
{
    GraphNode *add = &g->nodes[i];
    OpRef y = add->in[side], r = add->in[1 - side];
    int p = g->tensors[y].node;
    if (p < 0 || uses[y] != 1 || y == r)
        return 0;
    GraphNode *prod = &g->nodes[p];
    if (!takes_res(prod->kind) || (prod->attr.has & OP_HAS_RES) || prod->nin >= OP_MAX_IN || prod->segment != add->segment)
        return 0;
    if (g->tensors[r].meta.dtype != g->tensors[y].meta.dtype)
        return 0;
    OpRef z = add->out[0];
    *add = *prod;
    add->in[add->nin++] = r; /* the residual is the last optional input of all four ops */
    add->attr.has |= OP_HAS_RES;
    add->out[0] = z;
    prod->dead = 1;
    return 1;
}

/* Which input of a convolution or of its weight gradient is y; -1: none. */
static int image_input(const GraphNode *n, OpRef y)
{
    int at = n->kind == OP_CONV2D_BWD_W;
    return !n->dead && (n->kind == OP_CONV2D || at) && n->in[at] == y ? at : -1;
}

/* y = upsample(x) that only convolutions and their weight gradients read: they read x instead. */
static void fuse_upsample(Graph *g, int i, const int *uses)
{
    GraphNode *up = &g->nodes[i];
    OpRef y = up->out[0];
    int readers = 0;
    for (int k = i + 1; k < g->nnode; k++)
        readers += image_input(&g->nodes[k], y) >= 0;
    if (readers != uses[y])
        return;
    for (int k = i + 1; k < g->nnode; k++) {
        GraphNode *c = &g->nodes[k];
        int at = image_input(c, y);
        if (at < 0)
            continue;
        c->in[at] = up->in[0];
        for (int d = 0; d < 2; d++)
            c->attr.up[d] = (int32_t)up->attr.meta.shape.dim[1 + d];
    }
    up->dead = 1;
}

/* y = linear(x) + bias that only GEGLU and its gradient read: they add the bias. */
static void fuse_bias(Graph *g, int i, const int *uses)
{
    GraphNode *n = &g->nodes[i];
    OpRef y = n->out[0], bias = n->in[2];
    for (int apply = 0, readers = 0; apply < 2; apply++) {
        for (int k = i + 1; k < g->nnode; k++) {
            GraphNode *r = &g->nodes[k];
            int at = r->kind == OP_GEGLU_BWD;
            if (r->dead || (r->kind != OP_GEGLU && !at) || r->attr.has || r->in[at] != y)
                continue;
            readers++;
            if (!apply)
                continue;
            r->attr.has = OP_HAS_BIAS;
            r->in[r->nin++] = bias;
        }
        if (!apply && readers != uses[y])
            return;
    }
    n->attr.has = 0;
    n->nin = 2;
}

/* ---- low-rank paths ---- */

/* The five nodes of y = base(x) (+ res) + up(scale(down(x))): outer is the one of base and up that adds the other's result. */
typedef struct {
    GraphNode *base, *down, *scale, *up, *outer;
    OpRef res; /* OP_NONE: none */
} LowRank;

static GraphNode *producer(Graph *g, OpRef t, OpKind k, const int *uses, int once)
{
    int i = g->tensors[t].node;
    return i >= 0 && !g->nodes[i].dead && g->nodes[i].kind == k && (!once || uses[t] == 1) ? &g->nodes[i] : NULL;
}

static OpRef res_of(const GraphNode *n)
{
    return n->attr.has & OP_HAS_RES ? n->in[n->nin - 1] : OP_NONE;
}

/* Whether `up` and `base` share their input by way of a scale and a product. */
static int low_rank_between(Graph *g, LowRank *l, const int *uses)
{
    const OpKind k = l->base->kind;
    if (!(l->scale = producer(g, l->up->in[0], OP_SCALE, uses, 0)) || !(l->down = producer(g, l->scale->in[0], k, uses, 1)))
        return 0;
    int segment = l->base->segment;
    return l->down->in[0] == l->base->in[0] && !l->down->attr.has && !(l->up->attr.has & OP_HAS_BIAS) && l->down->segment == segment &&
           l->scale->segment == segment && l->up->segment == segment;
}

static int find_low_rank(Graph *g, int i, const int *uses, LowRank *l)
{
    GraphNode *outer = &g->nodes[i];
    OpRef y = res_of(outer);
    GraphNode *inner = y < 0 ? NULL : producer(g, y, outer->kind, uses, 1);
    if (!inner)
        return 0;
    *l = (LowRank){.base = inner, .up = outer, .outer = outer, .res = res_of(inner)};
    if (low_rank_between(g, l, uses))
        return 1;
    l->base = outer;
    l->up = inner;
    return low_rank_between(g, l, uses);
}

/* Whether a node in slot `at` finds its inputs made and nobody has read u before. */
static int may_stand(const Graph *g, const GraphNode *n, int at, const LowRank *l)
{
    for (int j = 0; j < n->nin; j++)
        if (g->tensors[n->in[j]].node >= at)
            return 0;
    for (int i = 0; i < at; i++)
        for (int j = 0; j < g->nodes[i].nin; j++)
            if (!g->nodes[i].dead && &g->nodes[i] != l->up && g->nodes[i].in[j] == n->out[1])
                return 0;
    return 1;
}

/* y = base(x) + up(u), u = scale(down(x)): one node in the slot of the scale, or of the last of them where an input is made later. */
static void fuse_low_rank(Graph *g, int i, const int *uses)
{
    LowRank l;
    OpKind k = g->nodes[i].kind;
    if (!find_low_rank(g, i, uses, &l))
        return;
    GraphNode n = {.kind = k == OP_LINEAR ? OP_LINEAR_LOW : OP_LINEAR_LOW_BWD_X, .attr = {.scale = l.scale->attr.scale}, .nin = 4, .nout = 2,
                   .in = {l.base->in[0], l.base->in[1], l.down->in[1], l.up->in[1]}, .out = {l.outer->out[0], l.scale->out[0]},
                   .segment = l.base->segment};
    if (l.base->attr.has & OP_HAS_BIAS) {
        n.in[n.nin++] = l.base->in[2];
        n.attr.has |= OP_HAS_BIAS;
    }
    if (l.res >= 0) {
        n.in[n.nin++] = l.res;
        n.attr.has |= OP_HAS_RES;
    }
    if (l.scale->nin > 1) {
        n.in[n.nin++] = l.scale->in[1];
        n.attr.has |= OP_HAS_LOW_S;
    }
    int at = (int)(l.scale - g->nodes);
    if (!may_stand(g, &n, at, &l) && !may_stand(g, &n, at = i, &l))
        return;
    l.base->dead = l.up->dead = l.down->dead = l.scale->dead = 1;
    g->nodes[at] = n;
    for (int j = 0; j < 2; j++) {
        g->tensors[n.out[j]].node = at;
        g->tensors[n.out[j]].slot = j;
    }
}

int graph_optimize(Graph *g, const Backend *be)
{
    TRY(graph_status(g));
    int *uses = malloc(((size_t)g->ntensor + 1) * sizeof *uses);
    if (!uses)
        return err_set(ERR_NOMEM, "graph: out of memory");
    count_uses(g, uses);
    remove_dead(g, uses);
    for (int i = 0; i < g->nnode; i++)
        if (!g->nodes[i].dead && g->nodes[i].kind == OP_ADD && !fuse_add(g, i, 0, uses))
            fuse_add(g, i, 1, uses);
    for (int i = 0; be && be->fuses & BACKEND_FUSE_UPSAMPLE && i < g->nnode; i++)
        if (!g->nodes[i].dead && g->nodes[i].kind == OP_UPSAMPLE_NEAREST)
            fuse_upsample(g, i, uses);
    for (int i = 0; be && be->fuses & BACKEND_FUSE_LOW_RANK && i < g->nnode; i++)
        if (!g->nodes[i].dead && (g->nodes[i].kind == OP_LINEAR || g->nodes[i].kind == OP_LINEAR_BWD_X))
            fuse_low_rank(g, i, uses);
    for (int i = 0; be && be->fuses & BACKEND_FUSE_BIAS && i < g->nnode; i++)
        if (!g->nodes[i].dead && g->nodes[i].kind == OP_LINEAR && g->nodes[i].attr.has == OP_HAS_BIAS)
            fuse_bias(g, i, uses);
    free(uses);
    return 0;
}
