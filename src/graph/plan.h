/* The planner: every activation, and every node's workspace, gets an offset in one arena by lifetime. Exact bytes are known
 * before anything is allocated. */
#ifndef GRAPH_PLAN_H
#define GRAPH_PLAN_H

#include "graph/graph.h"
#include "ops/backend.h"

typedef struct Plan Plan;

/* Borrows g and be, which must outlive the plan. */
int plan_create(Plan **out, const Graph *g, Backend *be);
void plan_destroy(Plan *p);

size_t plan_arena_bytes(const Plan *p);   /* inputs + activations + workspace: the size of the arena */
size_t plan_live_bytes(const Plan *p);    /* largest sum of simultaneously live bytes: the lower bound of any arena */
size_t plan_param_bytes(const Plan *p);   /* sum over the parameters that live nodes use */
int plan_node_count(const Plan *p);       /* nodes that run (views excluded) */
const Graph *plan_graph(const Plan *p);
Backend *plan_backend(const Plan *p);
/* Offset of an activation or input in the arena; -1 for parameters and removed tensors. */
int64_t plan_offset(const Plan *p, OpRef t);
/* The tensor whose storage t shares (views, in-place results); t itself otherwise. */
OpRef plan_storage(const Plan *p, OpRef t);
/* Offset and size of a node's workspace; size 0 when none. */
int64_t plan_scratch(const Plan *p, int node, size_t *bytes);

#endif
