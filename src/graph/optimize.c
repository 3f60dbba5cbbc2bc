#include <stdlib.h>

#include "graph/internal.h"

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

int graph_optimize(Graph *g)
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
    free(uses);
    return 0;
}
