/* Private to src/graph: the graph's storage. */
#ifndef GRAPH_INTERNAL_H
#define GRAPH_INTERNAL_H

#include "graph/graph.h"

struct Graph {
    OpBuild build; /* first: an OpBuild * of this graph is a Graph * */
    Dtype compute;
    GraphTensor *tensors;
    int ntensor, tensor_cap;
    GraphNode *nodes;
    int nnode, node_cap;
    int segment, nsegment;
    int status;
    char message[1024];
};

int graph_emit(Graph *g, OpKind kind, const OpAttr *attr, const OpRef *in, int nin, OpRef *out, int nout);

#endif
