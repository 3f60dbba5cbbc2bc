#include <stdlib.h>
#include <string.h>

#include "graph/internal.h"

/* State of one differentiation. `map` sends a forward tensor to the tensor that holds its value during the backward pass:
 * itself, or its recomputed twin while its segment is being differentiated. */
typedef struct {
    Graph *g;
    int nforward;       /* nodes before the backward pass */
    int ntensor;        /* tensors before the backward pass */
    uint8_t *need;      /* depends on one of wrt */
    OpRef *grad;        /* accumulated gradient of each forward tensor */
    OpRef *map;
    const uint8_t *recompute; /* by segment - 1; NULL: none */
} Diff;

static int diff_accumulate(Diff *d, OpRef t, OpRef grad)
{
    OpBuild *b = &d->g->build;
    if (grad < 0)
        return 0;
    Dtype want = b->grad_dtype(b, t); /* a parameter may be read as an activation, whose rule gives T */
    if (graph_meta(d->g, grad)->dtype != want)
        grad = op_cast(b, grad, want);
    d->grad[t] = d->grad[t] < 0 ? grad : op_add(b, d->grad[t], grad);
    return d->g->status;
}

static void diff_mark(Diff *d, const OpRef *wrt, int n)
{
    for (int i = 0; i < n; i++)
        if (wrt[i] >= 0)
            d->need[wrt[i]] = 1;
    for (int i = 0; i < d->nforward; i++) {
        const GraphNode *node = &d->g->nodes[i];
        uint8_t any = 0;
        for (int j = 0; j < node->nin; j++)
            any |= d->need[node->in[j]];
        for (int j = 0; any && j < node->nout; j++)
            d->need[node->out[j]] = 1;
    }
}

/* Emits the nodes of a segment again and maps their results to the twins. Inputs from outside are the stored ones. */
static int diff_clone(Diff *d, int first, int last)
{
    for (int i = first; i <= last; i++) {
        GraphNode node = d->g->nodes[i]; /* a copy: emitting may move the array */
        OpRef in[OP_MAX_IN], out[OP_MAX_OUT];
        for (int j = 0; j < node.nin; j++)
            in[j] = d->map[node.in[j]];
        TRY(graph_emit(d->g, node.kind, &node.attr, in, node.nin, out, node.nout));
        for (int j = 0; j < node.nout; j++)
            d->map[node.out[j]] = out[j];
    }
    return 0;
}

static int segment_needed(const Diff *d, int first, int last)
{
    for (int i = first; i <= last; i++)
        for (int j = 0; j < d->g->nodes[i].nout; j++)
            if (d->grad[d->g->nodes[i].out[j]] >= 0)
                return 1;
    return 0;
}

static int diff_node(Diff *d, int i)
{
    GraphNode node = d->g->nodes[i];
    OpRef in[OP_MAX_IN], out[OP_MAX_OUT], dout[OP_MAX_OUT], din[OP_MAX_IN];
    uint8_t need[OP_MAX_IN], any = 0, reached = 0;
    for (int j = 0; j < node.nout; j++) {
        out[j] = d->map[node.out[j]];
        dout[j] = d->grad[node.out[j]];
        reached |= dout[j] >= 0;
    }
    for (int j = 0; j < node.nin; j++) {
        in[j] = d->map[node.in[j]];
        need[j] = d->need[node.in[j]];
        any |= need[j];
        din[j] = OP_NONE;
    }
    if (!reached || !any)
        return 0;
    const OpRule *rule = op_rule(node.kind);
    if (!rule->grad)
        return err_set(ERR_UNSUPPORTED, "op %s: no gradient rule", op_name(node.kind));
    OpGrad og = {&node.attr, in, out, dout, node.nin, node.nout, need, din};
    TRY(rule->grad(&d->g->build, &og));
    TRY(d->g->status);
    for (int j = 0; j < node.nin; j++)
        if (need[j])
            TRY(diff_accumulate(d, node.in[j], din[j]));
    return 0;
}

static int diff_run(Diff *d)
{
    for (int i = d->nforward - 1; i >= 0; i--) {
        int seg = d->g->nodes[i].segment;
        if (!seg || !d->recompute || !d->recompute[seg - 1]) {
            TRY(diff_node(d, i));
            continue;
        }
        int first = i;
        while (first > 0 && d->g->nodes[first - 1].segment == seg)
            first--;
        if (segment_needed(d, first, i)) {
            TRY(diff_clone(d, first, i));
            for (int k = i; k >= first; k--)
                TRY(diff_node(d, k));
        }
        i = first;
    }
    return 0;
}

int graph_backward(Graph *g, OpRef y, OpRef seed, const OpRef *wrt, int n, OpRef *grads, int recompute)
{
    size_t count = (size_t)graph_segment_count(g) + 1;
    uint8_t *all = recompute ? malloc(count) : NULL;
    if (recompute && !all)
        return err_set(ERR_NOMEM, "graph: out of memory");
    if (all)
        memset(all, 1, count);
    int rc = graph_backward_some(g, y, seed, wrt, n, grads, all);
    free(all);
    return rc;
}

int graph_backward_some(Graph *g, OpRef y, OpRef seed, const OpRef *wrt, int n, OpRef *grads, const uint8_t *recompute)
{
    for (int i = 0; i < n; i++)
        grads[i] = OP_NONE;
    TRY(graph_status(g));
    if (y < 0 || seed < 0 || !shape_equal(&g->tensors[y].meta.shape, &g->tensors[seed].meta.shape))
        return err_set(ERR_SHAPE, "graph: the seed of the backward pass must have the shape of the result");
    int rc = ERR_NOMEM, segment = g->segment;
    size_t nt = (size_t)g->ntensor;
    Diff d = {.g = g, .nforward = g->nnode, .ntensor = g->ntensor, .recompute = recompute};
    d.need = calloc(nt, 1);
    d.grad = malloc(nt * sizeof *d.grad);
    d.map = malloc(nt * sizeof *d.map);
    if (!d.need || !d.grad || !d.map) {
        err_set(rc, "graph: out of memory");
        goto done;
    }
    for (int i = 0; i < g->ntensor; i++) {
        d.grad[i] = OP_NONE;
        d.map[i] = i;
    }
    g->segment = 0;
    diff_mark(&d, wrt, n);
    d.grad[y] = seed;
    TRY_GOTO(diff_run(&d));
    for (int i = 0; i < n; i++)
        grads[i] = wrt[i] >= 0 && wrt[i] < d.ntensor ? d.grad[wrt[i]] : OP_NONE;
    rc = graph_status(g);
done:
    if (rc < 0)
        g->build.fail(&g->build, rc);
    g->segment = segment;
    free(d.need);
    free(d.grad);
    free(d.map);
    return rc;
}
