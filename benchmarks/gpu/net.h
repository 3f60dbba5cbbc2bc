/* UNets of the real sizes with random weights, planned on the GPU. */
#ifndef BENCHMARKS_GPU_NET_H
#define BENCHMARKS_GPU_NET_H

#include "gpu.h"
#include "graph/exec.h"
#include "models/lora.h"
#include "models/unet.h"

typedef struct {
    const Gpu *g;
    Graph *graph;
    NnCtx nn;
    NnParams *params;
    Plan *plan;
    Exec *ex;
    OpRef x, time, context, text, sizes, out; /* text, sizes: SDXL's; OP_NONE */
    int64_t items, side, channels, length, width;
} Net;

void net_sd15(const Gpu *g, UnetConfig *c);
void net_sdxl(const Gpu *g, UnetConfig *c);

/* Emits the network over `items` latents of side x side; sdxl: with the pooled text embedding (1280 values) and the six sizes (256 each) that are
 * added to the time embedding. Then net_plan, after what else is added to the graph. net_close in every case. */
int net_build(Net *n, const Gpu *g, const UnetConfig *c, int64_t items, int64_t side, int sdxl, const NnLora *const *lora, NnModules *modules);
/* Random values for every parameter of the graph that the set lacks. */
int net_fill(Net *n);
int net_plan(Net *n);
/* Inputs from `seed`. */
int net_write(Net *n, uint32_t seed);
void net_close(Net *n);

#endif
