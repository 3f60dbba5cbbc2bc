#include "graph/plan.h"

#include <stdlib.h>
#include <string.h>

#include "graph/internal.h"

enum { ALIGN = 64 };

typedef struct {
    int32_t first, last; /* node indices, both inclusive */
    int64_t size, offset;
} Block;

struct Plan {
    const Graph *g;
    Backend *be;
    int32_t *root;       /* per tensor: the tensor whose storage it uses */
    int32_t *block_of;   /* per root tensor: index into blocks, -1 for parameters and unused */
    int32_t *scratch_of; /* per node: index into blocks, -1 none */
    Block *blocks;
    int nblock;
    size_t arena, live, params;
};

typedef struct {
    int32_t *first, *last;  /* per root tensor; last = nnode for outputs, -2 = unused */
    uint8_t *pinned;        /* root holds an output or input: never overwritten */
} Life;

static int32_t find_root(Plan *p, int32_t t)
{
    while (p->root[t] != t)
        t = p->root[t] = p->root[p->root[t]];
    return t;
}

static int64_t tensor_bytes(const GraphTensor *t)
{
    return shape_count(&t->meta.shape) * (int64_t)dtype_size(t->meta.dtype);
}

static int64_t align_up(int64_t n)
{
    return (n + ALIGN - 1) / ALIGN * ALIGN;
}

static void life_views(Plan *p)
{
    for (int i = 0; i < p->g->nnode; i++) {
        const GraphNode *n = &p->g->nodes[i];
        if (!n->dead && n->kind == OP_RESHAPE)
            p->root[n->out[0]] = find_root(p, n->in[0]);
    }
}

static void life_scan(Plan *p, Life *lf)
{
    const Graph *g = p->g;
    for (int t = 0; t < g->ntensor; t++) {
        lf->first[t] = g->tensors[t].kind == TENSOR_ACT ? g->tensors[t].node : 0;
        lf->last[t] = -2;
    }
    for (int i = 0; i < g->nnode; i++) {
        const GraphNode *n = &g->nodes[i];
        for (int j = 0; !n->dead && j < n->nout; j++) {
            int32_t r = find_root(p, n->out[j]);
            if (lf->last[r] < i)
                lf->last[r] = i;
        }
        for (int j = 0; !n->dead && j < n->nin; j++)
            lf->last[find_root(p, n->in[j])] = i;
    }
    for (int t = 0; t < g->ntensor; t++) {
        int32_t r = find_root(p, t);
        int is_input = g->tensors[t].kind == TENSOR_INPUT;
        if (g->tensors[t].output || (is_input && lf->last[r] >= 0))
            lf->last[r] = g->nnode, lf->pinned[r] = 1;
    }
}

static int inplace_input(Plan *p, const Life *lf, int i)
{
    const Graph *g = p->g;
    const GraphNode *n = &g->nodes[i];
    unsigned mask = op_inplace_mask(n->kind, &n->attr);
    for (int j = 0; mask && j < n->nin; j++) {
        int32_t r = find_root(p, n->in[j]);
        if (!(mask >> j & 1) || g->tensors[r].kind != TENSOR_ACT || lf->pinned[r] || lf->last[r] != i)
            continue;
        if (tensor_bytes(&g->tensors[r]) != tensor_bytes(&g->tensors[n->out[0]]))
            continue;
        int twice = 0;
        for (int k = 0; k < n->nin; k++)
            twice += find_root(p, n->in[k]) == r;
        if (twice == 1)
            return j;
    }
    return -1;
}

static void life_inplace(Plan *p, Life *lf)
{
    for (int i = 0; i < p->g->nnode; i++) {
        const GraphNode *n = &p->g->nodes[i];
        if (n->dead || n->kind == OP_RESHAPE)
            continue;
        int j = inplace_input(p, lf, i);
        if (j < 0)
            continue;
        int32_t r = find_root(p, n->in[j]), o = find_root(p, n->out[0]);
        p->root[o] = r;
        lf->last[r] = lf->last[o];
        lf->pinned[r] = lf->pinned[o];
    }
}

static int node_scratch(const Plan *p, const GraphNode *n, int64_t *bytes)
{
    Meta in[OP_MAX_IN], out[OP_MAX_OUT];
    const BackendOp *op = &p->be->op[n->kind];
    *bytes = 0;
    if (n->kind == OP_RESHAPE)
        return 0;
    if (!op->run)
        return err_set(ERR_UNSUPPORTED, "backend %s does not implement op %s", p->be->name, op_name(n->kind));
    if (!op->scratch)
        return 0;
    for (int j = 0; j < n->nin; j++)
        in[j] = p->g->tensors[n->in[j]].meta;
    for (int j = 0; j < n->nout; j++)
        out[j] = p->g->tensors[n->out[j]].meta;
    *bytes = (int64_t)op->scratch(p->be, &n->attr, in, n->nin, out, n->nout);
    return 0;
}

static int make_blocks(Plan *p, const Life *lf)
{
    const Graph *g = p->g;
    for (int t = 0; t < g->ntensor; t++) {
        p->block_of[t] = -1;
        if (find_root(p, t) != t || g->tensors[t].kind == TENSOR_PARAM || lf->last[t] < 0)
            continue;
        p->block_of[t] = p->nblock;
        p->blocks[p->nblock++] = (Block){lf->first[t], lf->last[t], align_up(tensor_bytes(&g->tensors[t])), 0};
    }
    for (int i = 0; i < g->nnode; i++) {
        int64_t bytes = 0;
        p->scratch_of[i] = -1;
        if (g->nodes[i].dead)
            continue;
        TRY(node_scratch(p, &g->nodes[i], &bytes));
        if (!bytes)
            continue;
        p->scratch_of[i] = p->nblock;
        p->blocks[p->nblock++] = (Block){i, i, align_up(bytes), 0};
    }
    return 0;
}

typedef struct {
    int64_t size;
    int32_t index;
} Order;

static int by_size(const void *a, const void *b)
{
    const Order *x = a, *y = b;
    if (x->size != y->size)
        return x->size < y->size ? 1 : -1;
    return x->index - y->index;
}

/* Largest first, each at the lowest offset free for its whole life (Pisarchyk & Lee 2020, "greedy by size"). */
static int place_blocks(Plan *p)
{
    Order *order = malloc(((size_t)p->nblock + 1) * sizeof *order);
    int32_t *placed = malloc(((size_t)p->nblock + 1) * sizeof *placed); /* by offset */
    if (!order || !placed) {
        free(order);
        free(placed);
        return err_set(ERR_NOMEM, "plan: out of memory");
    }
    for (int i = 0; i < p->nblock; i++)
        order[i] = (Order){p->blocks[i].size, i};
    qsort(order, (size_t)p->nblock, sizeof *order, by_size);
    int64_t arena = 0;
    for (int n = 0; n < p->nblock; n++) {
        Block *b = &p->blocks[order[n].index];
        int64_t at = 0;
        for (int k = 0; k < n; k++) {
            const Block *q = &p->blocks[placed[k]];
            if (q->last < b->first || q->first > b->last || q->offset + q->size <= at)
                continue;
            if (q->offset >= at + b->size)
                break;
            at = q->offset + q->size;
        }
        b->offset = at;
        int k = n;
        for (; k > 0 && p->blocks[placed[k - 1]].offset > at; k--)
            placed[k] = placed[k - 1];
        placed[k] = order[n].index;
        if (at + b->size > arena)
            arena = at + b->size;
    }
    p->arena = (size_t)arena;
    free(order);
    free(placed);
    return 0;
}

static int measure(Plan *p)
{
    const Graph *g = p->g;
    int64_t *delta = calloc((size_t)g->nnode + 2, sizeof *delta), live = 0;
    uint8_t *used = calloc((size_t)g->ntensor + 1, 1);
    if (!delta || !used) {
        free(delta);
        free(used);
        return err_set(ERR_NOMEM, "plan: out of memory");
    }
    for (int i = 0; i < p->nblock; i++) {
        delta[p->blocks[i].first] += p->blocks[i].size;
        delta[p->blocks[i].last + 1] -= p->blocks[i].size;
    }
    for (int i = 0; i <= g->nnode; i++) {
        live += delta[i];
        if ((size_t)live > p->live)
            p->live = (size_t)live;
    }
    for (int i = 0; i < g->nnode; i++)
        for (int j = 0; !g->nodes[i].dead && j < g->nodes[i].nin; j++)
            used[g->nodes[i].in[j]] = 1;
    for (int t = 0; t < g->ntensor; t++)
        if (g->tensors[t].kind == TENSOR_PARAM && used[t])
            p->params += (size_t)tensor_bytes(&g->tensors[t]);
    free(delta);
    free(used);
    return 0;
}

int plan_create(Plan **out, const Graph *g, Backend *be)
{
    TRY(graph_status(g));
    size_t nt = (size_t)g->ntensor + 1, nn = (size_t)g->nnode + 1;
    int rc = ERR_NOMEM;
    Life lf = {malloc(nt * sizeof(int32_t)), malloc(nt * sizeof(int32_t)), calloc(nt, 1)};
    Plan *p = calloc(1, sizeof *p);
    if (p) {
        p->g = g;
        p->be = be;
        p->root = malloc(nt * sizeof *p->root);
        p->block_of = malloc(nt * sizeof *p->block_of);
        p->scratch_of = malloc(nn * sizeof *p->scratch_of);
        p->blocks = malloc((nt + nn) * sizeof *p->blocks);
    }
    if (!p || !p->root || !p->block_of || !p->scratch_of || !p->blocks || !lf.first || !lf.last || !lf.pinned) {
        err_set(rc, "plan: out of memory");
        goto done;
    }
    for (int t = 0; t < g->ntensor; t++)
        p->root[t] = t;
    life_views(p);
    life_scan(p, &lf);
    life_inplace(p, &lf);
    TRY_GOTO(make_blocks(p, &lf));
    TRY_GOTO(place_blocks(p));
    TRY_GOTO(measure(p));
    for (int t = 0; t < g->ntensor; t++)
        p->root[t] = find_root(p, t);
    *out = p;
    p = NULL;
    rc = 0;
done:
    free(lf.first);
    free(lf.last);
    free(lf.pinned);
    plan_destroy(p);
    return rc;
}

void plan_destroy(Plan *p)
{
    if (!p)
        return;
    free(p->root);
    free(p->block_of);
    free(p->scratch_of);
    free(p->blocks);
    free(p);
}

size_t plan_arena_bytes(const Plan *p)
{
    return p->arena;
}

size_t plan_live_bytes(const Plan *p)
{
    return p->live;
}

size_t plan_param_bytes(const Plan *p)
{
    return p->params;
}

int plan_node_count(const Plan *p)
{
    int n = 0;
    for (int i = 0; i < p->g->nnode; i++)
        n += !p->g->nodes[i].dead && p->g->nodes[i].kind != OP_RESHAPE;
    return n;
}

const Graph *plan_graph(const Plan *p)
{
    return p->g;
}

Backend *plan_backend(const Plan *p)
{
    return p->be;
}

OpRef plan_storage(const Plan *p, OpRef t)
{
    return p->root[t];
}

int64_t plan_offset(const Plan *p, OpRef t)
{
    int32_t b = p->block_of[p->root[t]];
    return b < 0 ? -1 : p->blocks[b].offset;
}

int64_t plan_scratch(const Plan *p, int node, size_t *bytes)
{
    int32_t b = p->scratch_of[node];
    *bytes = b < 0 ? 0 : (size_t)p->blocks[b].size;
    return b < 0 ? -1 : p->blocks[b].offset;
}
