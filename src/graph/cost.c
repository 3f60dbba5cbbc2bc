#include "graph/internal.h"

static double gemm(const Graph *g, OpRef rows_of, OpRef w)
{
    const Shape *s = &g->tensors[rows_of].meta.shape;
    return 2.0 * (double)shape_rows(s) * (double)shape_count(&g->tensors[w].meta.shape);
}

double graph_node_flops(const Graph *g, int node)
{
    const GraphNode *n = &g->nodes[node];
    if (n->dead)
        return 0;
    switch (n->kind) {
    case OP_LINEAR:
    case OP_LINEAR_BWD_X:
    case OP_CONV2D_BWD_X:
        return gemm(g, n->in[0], n->in[1]);
    case OP_CONV2D:
        return gemm(g, n->out[0], n->in[1]);
    case OP_LINEAR_LOW:
    case OP_LINEAR_LOW_BWD_X:
        return gemm(g, n->in[0], n->in[1]) + gemm(g, n->in[0], n->in[2]) + gemm(g, n->in[0], n->in[3]);
    case OP_LINEAR_BWD_W:
    case OP_CONV2D_BWD_W:
        return gemm(g, n->in[0], n->out[0]);
    case OP_ATTENTION:
    case OP_ATTENTION_BWD: {
        int at = n->kind == OP_ATTENTION_BWD;
        const Shape *q = &g->tensors[n->in[at]].meta.shape, *k = &g->tensors[n->in[at + 1]].meta.shape;
        double f = 4.0 * (double)shape_count(q) * (double)k->dim[1] * (at ? 2.5 : 1.0);
        return n->attr.causal ? f / 2 : f;
    }
    default:
        return 0;
    }
}

double graph_flops(const Graph *g)
{
    double sum = 0;
    for (int i = 0; i < g->nnode; i++)
        sum += graph_node_flops(g, i);
    return sum;
}
