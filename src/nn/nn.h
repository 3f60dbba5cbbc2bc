/* Blocks of networks: emit ops and declare parameters under the names that diffusers and transformers give them.
 *
 * An NnCtx carries the graph, the module path so far and what applies to all modules: adapters, what is trained, segments.
 *
 *     NnCtx nn;
 *     nn_init(&nn, g);
 *     nn.lora = adapters; nn.nlora = 2;
 *     size_t mark = nn_push(&nn, "unet");            // names below: "unet.conv_in.weight"
 *     OpRef y = nn_conv(&nn, "conv_in", x, 320, 3, 1, NN_SAME, OP_NONE);
 *     nn_pop(&nn, mark);
 *
 * All functions return OP_NONE after an error or for an OP_NONE input; graph_status reports the error. Tensors are T, NHWC or
 * [N,L,C] (ops/op.h).
 */
#ifndef NN_NN_H
#define NN_NN_H

#include "graph/graph.h"
#include "nn/adapter.h"

/* A linear layer, convolution or norm, the possible target of an adapter. */
typedef struct {
    char *path;     /* "unet.down_blocks.0.attentions.0.proj_in" */
    Shape weight;   /* [out,in], [out,in,kh,kw]; [C] of a norm */
} NnModule;

typedef struct {
    NnModule *item;
    int count, cap;
} NnModules;

void nn_modules_deinit(NnModules *m);
const NnModule *nn_modules_find(const NnModules *m, const char *path); /* NULL when absent */

/* path: full module path, "unet.down_blocks.0.attentions.0". */
typedef void (*NnTapFn)(void *user, const char *path, OpRef t);

typedef struct NnCtx {
    Graph *g;
    OpBuild *b;
    char path[NN_PATH_MAX];
    size_t len;
    const NnLora *const *lora;     /* adapters in the order of application; may be NULL */
    int nlora;
    const char *const *train;      /* globs over full parameter names (nn_glob) of what is trained; may be NULL */
    int ntrain;
    int train_compute;             /* trained parameters are T like the others, not P */
    NnTapFn tap;                   /* when set, told the output of every module (debug dumps, tests) */
    void *tap_user;
    NnModules *modules;            /* when set, every linear layer, convolution and norm is listed here */
    OpRef position;                /* I64 [N]: numbers of the items of the batch, for dropout; OP_NONE: no dropout */
    OpRef *trained;                /* parameters in the graph that are trained (base ones by `train`, adapters), P; heap */
    int ntrained, trained_cap;
} NnCtx;

void nn_init(NnCtx *nn, Graph *g);
void nn_deinit(NnCtx *nn); /* frees `trained` */

/* Extends the path by ".name"; returns the mark for nn_pop. name may be a format. */
size_t nn_push(NnCtx *nn, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void nn_pop(NnCtx *nn, size_t mark);
/* Tells the tap the output of module `name` (NULL: of the module of the current path); returns t. */
OpRef nn_tap(NnCtx *nn, const char *name, OpRef t);
/* y + res where res is given. Without a tap, callers pass res on to the module instead (one fused op). */
OpRef nn_residual(NnCtx *nn, OpRef y, OpRef res);

/* Declares "<path>.<name>" as T, or as P where one-dimensional. A trained one is declared P and returned cast to T, but with
 * train_compute. */
OpRef nn_param(NnCtx *nn, const char *name, Shape shape);
/* Lists t among the trained parameters. */
void nn_trained_add(NnCtx *nn, OpRef t);
/* x cast to T; x itself where it is T. */
OpRef nn_to_compute(NnCtx *nn, OpRef x);
/* x[...,in] -> [...,out] (+ res); name.weight, name.bias where bias. */
OpRef nn_linear(NnCtx *nn, const char *name, OpRef x, int64_t out, int bias, OpRef res);

typedef enum {
    NN_SAME,  /* (kernel - 1) / 2 on all sides */
    NN_ASYM   /* 0,0 before, 1,1 after: Downsample2D with padding 0 (VAE encoder) */
} NnPad;
/* x[N,H,W,Ci] -> [N,Ho,Wo,out] (+ res); name.weight, name.bias. stride 1 or 2. */
OpRef nn_conv(NnCtx *nn, const char *name, OpRef x, int64_t out, int kernel, int stride, NnPad pad, OpRef res);
OpRef nn_group_norm(NnCtx *nn, const char *name, OpRef x, int groups, float eps, Act act);
OpRef nn_layer_norm(NnCtx *nn, const char *name, OpRef x, float eps);

/* Names of the four projections of an attention module, biases of q,k,v, and whether the output has one. */
typedef struct {
    const char *q, *k, *v, *o;
    int qkv_bias, o_bias;
} NnAttnNames;
extern const NnAttnNames NN_ATTN_DIFFUSERS; /* to_q to_k to_v to_out.0; qkv without bias */
extern const NnAttnNames NN_ATTN_VAE;       /* the same with biases */
extern const NnAttnNames NN_ATTN_CLIP;      /* q_proj k_proj v_proj out_proj, with biases */
/* Multi-head attention of x[N,L,C] over ctx[N,M,D] (OP_NONE: x itself), inner width C, scale 1/sqrt(C/heads), plus res. */
OpRef nn_attention(NnCtx *nn, const NnAttnNames *names, OpRef x, OpRef ctx, int heads, int causal, OpRef res);

/* diffusers ResnetBlock2D: norm1+SiLU, conv1, + time_emb_proj(emb) (emb: SiLU already applied, [N,E]; OP_NONE: none), norm2+SiLU,
 * conv2, + x (through conv_shortcut when channels differ). One recomputation segment. */
OpRef nn_resnet(NnCtx *nn, OpRef x, OpRef emb, int64_t out, int groups, float eps);

/* A constant filled with `value`, of dtype T. */
OpRef nn_constant(NnCtx *nn, float value, Shape shape);

/* Host layouts: dst and src do not overlap. */
void nn_nhwc_from_nchw(float *dst, const float *src, int64_t n, int64_t c, int64_t h, int64_t w);
void nn_nchw_from_nhwc(float *dst, const float *src, int64_t n, int64_t c, int64_t h, int64_t w);

#endif
