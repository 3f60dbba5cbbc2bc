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
    free(uses);
    return 0;
}
