#include "graph/graph.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "graph/internal.h"

static int grow(void **array, int *cap, int need, size_t item)
{
    if (need <= *cap)
        return 0;
    int n = *cap ? *cap * 2 : 256;
    while (n < need)
        n *= 2;
    void *p = realloc(*array, (size_t)n * item);
    if (!p)
        return err_set(ERR_NOMEM, "graph: out of memory for %d items", n);
    *array = p;
    *cap = n;
    return 0;
}

static OpRef graph_record(Graph *g, int code)
{
    if (!g->status) {
        g->status = code;
        snprintf(g->message, sizeof g->message, "%s", err_message());
    }
    return OP_NONE;
}

static OpRef build_fail(OpBuild *b, int code)
{
    return graph_record((Graph *)b, code);
}

static const Meta *build_meta(const OpBuild *b, OpRef t)
{
    return graph_meta((const Graph *)b, t);
}

static OpRef add_tensor(Graph *g, const Meta *meta, TensorKind kind, const char *name)
{
    int rc = grow((void **)&g->tensors, &g->tensor_cap, g->ntensor + 1, sizeof *g->tensors);
    if (rc < 0)
        return graph_record(g, rc);
    GraphTensor *t = &g->tensors[g->ntensor];
    memset(t, 0, sizeof *t);
    t->meta = *meta;
    t->kind = kind;
    t->node = -1;
    if (name && !(t->name = strdup(name)))
        return graph_record(g, err_set(ERR_NOMEM, "graph: out of memory"));
    return g->ntensor++;
}

int graph_emit(Graph *g, OpKind kind, const OpAttr *attr, const OpRef *in, int nin, OpRef *out, int nout)
{
    for (int i = 0; i < nout; i++)
        out[i] = OP_NONE;
    if (g->status)
        return g->status;
    Meta min[OP_MAX_IN], mout[OP_MAX_OUT];
    const OpRule *rule = op_rule(kind);
    if (nin > OP_MAX_IN || !rule || !rule->infer)
        return graph_record(g, err_set(ERR_UNSUPPORTED, "op %s: no shape rule", op_name(kind))), g->status;
    for (int i = 0; i < nin; i++) {
        if (in[i] < 0 || in[i] >= g->ntensor)
            return graph_record(g, err_set(ERR_SHAPE, "op %s: input %d is not a tensor", op_name(kind), i)), g->status;
        min[i] = g->tensors[in[i]].meta;
    }
    OpAttr zero;
    memset(&zero, 0, sizeof zero);
    int n = 0;
    int rc = rule->infer(attr ? attr : &zero, min, nin, mout, &n);
    if (rc >= 0)
        rc = grow((void **)&g->nodes, &g->node_cap, g->nnode + 1, sizeof *g->nodes);
    if (rc < 0)
        return graph_record(g, rc), rc;
    GraphNode *node = &g->nodes[g->nnode];
    memset(node, 0, sizeof *node);
    node->kind = kind;
    node->attr = attr ? *attr : zero;
    node->nin = nin;
    node->nout = n;
    node->segment = g->segment;
    if (nin > 0) /* in may be NULL otherwise */
        memcpy(node->in, in, (size_t)nin * sizeof *in);
    for (int i = 0; i < n; i++) {
        OpRef t = add_tensor(g, &mout[i], TENSOR_ACT, NULL);
        if (t < 0)
            return g->status;
        g->tensors[t].node = g->nnode;
        g->tensors[t].slot = i;
        node->out[i] = t;
        if (i < nout)
            out[i] = t;
    }
    g->nnode++;
    return 0;
}

static int build_emit(OpBuild *b, OpKind kind, const OpAttr *attr, const OpRef *in, int nin, OpRef *out, int nout)
{
    return graph_emit((Graph *)b, kind, attr, in, nin, out, nout);
}

static Dtype build_grad_dtype(const OpBuild *b, OpRef t)
{
    const Graph *g = (const Graph *)b;
    OpRef r = t;
    while (g->tensors[r].kind == TENSOR_ACT) {
        const GraphNode *n = &g->nodes[g->tensors[r].node];
        if (n->kind != OP_CAST && n->kind != OP_RESHAPE)
            return g->tensors[t].meta.dtype;
        r = n->in[0];
    }
    return g->tensors[r].kind == TENSOR_PARAM ? graph_ptype(g) : g->tensors[t].meta.dtype;
}

int graph_create(Graph **out, Dtype compute)
{
    if (compute != DTYPE_F32 && compute != DTYPE_BF16 && compute != DTYPE_F64)
        return err_set(ERR_UNSUPPORTED, "graph: compute dtype %s (expected f32, bf16 or f64)", dtype_name(compute));
    Graph *g = calloc(1, sizeof *g);
    if (!g)
        return err_set(ERR_NOMEM, "graph: out of memory");
    g->build = (OpBuild){build_emit, build_meta, build_fail, build_grad_dtype};
    g->compute = compute;
    *out = g;
    return 0;
}

void graph_destroy(Graph *g)
{
    if (!g)
        return;
    for (int i = 0; i < g->ntensor; i++)
        free(g->tensors[i].name);
    free(g->tensors);
    free(g->nodes);
    free(g);
}

OpBuild *graph_builder(Graph *g)
{
    return &g->build;
}

Dtype graph_dtype(const Graph *g)
{
    return g->compute;
}

Dtype graph_ptype(const Graph *g)
{
    return g->compute == DTYPE_F64 ? DTYPE_F64 : DTYPE_F32;
}

OpRef graph_find(const Graph *g, const char *name)
{
    for (int i = 0; i < g->ntensor; i++)
        if (g->tensors[i].name && !strcmp(g->tensors[i].name, name))
            return i;
    return OP_NONE;
}

static OpRef add_source(Graph *g, const char *name, Dtype dtype, Shape shape, TensorKind kind)
{
    if (g->status)
        return OP_NONE;
    Meta m = {dtype, shape};
    OpRef old = graph_find(g, name);
    if (old >= 0) {
        const GraphTensor *t = &g->tensors[old];
        if (kind == TENSOR_PARAM && t->kind == kind && t->meta.dtype == dtype && shape_equal(&t->meta.shape, &shape))
            return old;
        return graph_record(g, err_set(ERR_SHAPE, "graph: the name '%s' is used twice", name));
    }
    return add_tensor(g, &m, kind, name);
}

OpRef graph_input(Graph *g, const char *name, Dtype dtype, Shape shape)
{
    return add_source(g, name, dtype, shape, TENSOR_INPUT);
}

OpRef graph_param(Graph *g, const char *name, Dtype dtype, Shape shape)
{
    return add_source(g, name, dtype, shape, TENSOR_PARAM);
}

void graph_label(Graph *g, OpRef t, const char *name)
{
    if (t < 0 || !name || g->tensors[t].kind != TENSOR_ACT)
        return;
    char *copy = strdup(name);
    if (!copy) {
        graph_record(g, err_set(ERR_NOMEM, "graph: out of memory"));
        return;
    }
    free(g->tensors[t].name);
    g->tensors[t].name = copy;
}

void graph_output(Graph *g, OpRef t, const char *name)
{
    if (t < 0)
        return;
    g->tensors[t].output = 1;
    graph_label(g, t, name);
}

void graph_segment_begin(Graph *g)
{
    g->segment = ++g->nsegment;
}

void graph_segment_end(Graph *g)
{
    g->segment = 0;
}

int graph_status(const Graph *g)
{
    return g->status ? err_set(g->status, "%s", g->message) : 0;
}

int graph_tensor_count(const Graph *g)
{
    return g->ntensor;
}

const GraphTensor *graph_tensor(const Graph *g, OpRef t)
{
    return &g->tensors[t];
}

int graph_node_count(const Graph *g)
{
    return g->nnode;
}

const GraphNode *graph_node(const Graph *g, int i)
{
    return &g->nodes[i];
}

const Meta *graph_meta(const Graph *g, OpRef t)
{
    return &g->tensors[t].meta;
}

int graph_segment_count(const Graph *g)
{
    return g->nsegment;
}

int graph_copy(Graph **out, const Graph *g)
{
    Graph *c;
    TRY(graph_status(g));
    TRY(graph_create(&c, g->compute));
    free(c->tensors);
    free(c->nodes);
    c->tensors = malloc(((size_t)g->ntensor + 1) * sizeof *c->tensors);
    c->nodes = malloc(((size_t)g->nnode + 1) * sizeof *c->nodes);
    int ok = c->tensors && c->nodes;
    for (int i = 0; ok && i < g->ntensor; i++) {
        c->tensors[i] = g->tensors[i];
        c->tensors[i].name = NULL;
        c->ntensor = i + 1;
        ok = !g->tensors[i].name || (c->tensors[i].name = strdup(g->tensors[i].name));
    }
    if (!ok) {
        graph_destroy(c);
        return err_set(ERR_NOMEM, "graph: out of memory");
    }
    c->tensor_cap = g->ntensor + 1;
    c->node_cap = g->nnode + 1;
    memcpy(c->nodes, g->nodes, (size_t)g->nnode * sizeof *c->nodes);
    c->nnode = g->nnode;
    c->segment = g->segment;
    c->nsegment = g->nsegment;
    *out = c;
    return 0;
}
