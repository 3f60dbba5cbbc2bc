/* Graph of ops: built once by a model definition, differentiated (graph to graph), simplified, planned, then run many times.
 *
 *     Graph *g;                                   graph_create(&g, DTYPE_F32)
 *     OpBuild *b = graph_builder(g);
 *     OpRef x = graph_input(g, "x", DTYPE_F32, SHAPE(2, 64, 64, 4));
 *     OpRef w = graph_param(g, "w", DTYPE_F32, SHAPE(8, 4));
 *     OpRef y = op_linear(b, x, w, OP_NONE, OP_NONE);
 *     graph_output(g, y, "y");
 *     TRY(graph_status(g));                       // the first error of any emitter
 *     TRY(graph_optimize(g, backend));            // dead nodes out, adds fused
 *     TRY(plan_create(&plan, g, backend));        // graph/plan.h: exact bytes, before anything is allocated
 *     TRY(exec_create(&ex, plan));                // graph/exec.h
 *
 * Nodes run in the order of emission. Not thread-safe while building.
 */
#ifndef GRAPH_GRAPH_H
#define GRAPH_GRAPH_H

#include "ops/backend.h"

typedef enum {
    TENSOR_INPUT, /* written by the caller before a run; keeps its value between runs */
    TENSOR_PARAM, /* memory owned by the caller, bound to the executor */
    TENSOR_ACT    /* made by a node; lives in the arena */
} TensorKind;

typedef struct {
    Meta meta;
    TensorKind kind;
    int32_t node;      /* producer, -1 for inputs and parameters */
    int32_t slot;      /* which output of the producer */
    uint8_t output;    /* kept to the end of the run */
    char *name;        /* owned; NULL for unnamed activations */
} GraphTensor;

typedef struct {
    OpKind kind;
    OpAttr attr;
    int nin, nout;
    OpRef in[OP_MAX_IN], out[OP_MAX_OUT];
    int32_t segment;   /* recomputation segment, 0 = none */
    uint8_t dead;      /* removed by graph_optimize */
} GraphNode;

typedef struct Graph Graph;

/* compute: the dtype T of op.h (F32, BF16 or F64). */
int graph_create(Graph **out, Dtype compute);
void graph_destroy(Graph *g);
OpBuild *graph_builder(Graph *g);
Dtype graph_dtype(const Graph *g);   /* T */
Dtype graph_ptype(const Graph *g);   /* P: F64 in an F64 graph, else F32 */

/* Names must be unique among inputs and parameters (an existing parameter of the same meta is returned again). Copied. */
OpRef graph_input(Graph *g, const char *name, Dtype dtype, Shape shape);
OpRef graph_param(Graph *g, const char *name, Dtype dtype, Shape shape);
/* Keeps t to the end of a run, readable as `name`. An input or parameter may be an output too. */
void graph_output(Graph *g, OpRef t, const char *name);
/* Names an activation (debug dumps, taps) without keeping it. */
void graph_label(Graph *g, OpRef t, const char *name);
/* By name among inputs, parameters, outputs and labels; OP_NONE when there is none. */
OpRef graph_find(const Graph *g, const char *name);

/* Nodes emitted between begin and end form a segment whose inner activations are not kept for the backward pass but
 * computed again (gradient checkpointing). Segments do not nest. No effect unless graph_backward runs with `recompute`. */
void graph_segment_begin(Graph *g);
void graph_segment_end(Graph *g);

/* 0 or the first error recorded while building (its message is set again). */
int graph_status(const Graph *g);

int graph_tensor_count(const Graph *g);
const GraphTensor *graph_tensor(const Graph *g, OpRef t);
int graph_node_count(const Graph *g);
const GraphNode *graph_node(const Graph *g, int i);
const Meta *graph_meta(const Graph *g, OpRef t);

/* Reverse-mode differentiation: appends the backward pass of `y` seeded with `seed` (same shape as y; for a loss [N]: d total / d
 * loss[n]). grads[i] receives the gradient of wrt[i] (OP_NONE where y does not depend on it). wrt may be inputs, parameters or
 * activations. recompute: honour segments. Reference: Griewank & Walther, Evaluating Derivatives, ch. 3. */
int graph_backward(Graph *g, OpRef y, OpRef seed, const OpRef *wrt, int n, OpRef *grads, int recompute);
/* The same where only the segments k with recompute[k - 1] are honoured, k = 1..graph_segment_count; NULL: none. */
int graph_backward_some(Graph *g, OpRef y, OpRef seed, const OpRef *wrt, int n, OpRef *grads, const uint8_t *recompute);
/* Segments are numbered from 1 in the order of their begin. */
int graph_segment_count(const Graph *g);
/* A copy with the same OpRefs, to be differentiated in another way. *out is the caller's. */
int graph_copy(Graph **out, const Graph *g);

/* Removes nodes that no output needs; fuses additions into the residual input of linear and conv nodes, and what `be` asks for
 * (Backend.fuses; NULL: nothing more). Call once, last. */
int graph_optimize(Graph *g, const Backend *be);

/* Multiply-adds count twice. Forward and backward GEMM-like nodes and attention; element-wise work is not counted. */
double graph_flops(const Graph *g);
double graph_node_flops(const Graph *g, int node);

#endif
