/* The three networks of a Render: graph, plan and executor of each, weights, adapters. Inside the room only. */
#ifndef SWEEP_RENDER_NET_H
#define SWEEP_RENDER_NET_H

#include "graph/exec.h"
#include "models/lora.h"
#include "sweep/render.h"

typedef struct {
    Graph *graph;
    Plan *plan;
    Exec *exec;             /* NULL until started */
    OpRef in[3], out;       /* text: ids. UNet: x, t, context. VAE: z */
    char *key;              /* what it was built for */
    size_t bytes;           /* arena and parameters */
} RenderNet;

typedef struct {
    char *path;
    Lora *lora;
    char hash[65];          /* "" until asked for */
} RenderAdapter;

typedef struct {
    char *key;
    float *data;
    uint64_t used;
} RenderText;

struct Render {
    Pipeline *pipe;
    Backend *be;
    Dtype dtype;
    int64_t keep;
    char backend[32];
    RenderNet net[PIPELINE_PARTS];
    NnParams *params[PIPELINE_PARTS];
    SamplerConf sampler;    /* the model's own */
    NnModules modules;      /* filled when the first adapter is loaded */
    RenderAdapter *adapter; /* the id of an adapter is its place here */
    int nadapter;
    RenderText *text;       /* embeddings of prompts */
    int ntext;
    uint64_t clock;
    struct ClipBpe *tok;
    char model_hash[65];
};

/* Place of an adapter in r->adapter, loaded on first use. */
int render_adapter_find(Render *r, const char *path, int *id);
/* Builds (not starts) a network. rows: batch of the UNet (twice the items when guided); 1 for text and VAE. *net is zero before. */
int render_net_build(Render *r, PipelinePart part, const RenderSetup *s, int rows, RenderNet *net);
/* The running network for this setup: the present one if its key fits, else a new one. Others are dropped where `keep` says so. */
int render_net_start(Render *r, PipelinePart part, const RenderSetup *s, int rows, RenderNet **out);
/* Rows of the UNet for n items. A running network with up to twice the rows serves a smaller batch as it is: computing some rows
 * for nothing is cheaper than packing all weights again. */
int render_net_rows(Render *r, const RenderSetup *s, int n, int *rows);
void render_net_deinit(RenderNet *net);
/* Drops network, executor and weights of a part. */
void render_part_drop(Render *r, PipelinePart part);
/* "skip|path:scale|..." for the text encoder's cache: adapters that do not touch it are left out. */
int render_text_key(Render *r, const RenderSetup *s, const char *prompt, char **out);
size_t render_net_bytes(const RenderNet *net);

#endif
