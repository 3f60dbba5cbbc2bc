/* What the files of the renderer share: networks, text embeddings, noise, source images, VAE. Inside the room only. */
#ifndef SWEEP_RENDER_IMPL_H
#define SWEEP_RENDER_IMPL_H

#include "base/rng_torch.h"
#include "graph/exec.h"
#include "models/cond.h"
#include "models/lora.h"
#include "sweep/render.h"
#include "sweep/render_noise.h"

enum { RENDER_MAX_NETS = 12, RENDER_MAX_SOURCES = 16 };

typedef enum { RENDER_NET_TEXT, RENDER_NET_UNET, RENDER_NET_DECODE, RENDER_NET_ENCODE } RenderNetKind;

/* What a network is built for. */
typedef struct {
    RenderNetKind kind;
    const RenderSetup *setup; /* clip skip and adapters */
    int rows;                 /* UNet: batch, twice the items when guided; else 1 */
    int tokens;               /* UNet: rows of the context */
    int vectors;              /* text: vectors may stand in place of tokens */
    int width, height;        /* pixels; of a tile for the VAE */
} RenderNetSpec;

typedef struct {
    Graph *graph;
    Plan *plan;
    Exec *exec;               /* NULL until started */
    OpRef in[3], out;         /* text: ids, keep, vectors. UNet: x, t, context. VAE: z or image */
    char *key;                /* what it was built for */
    RenderNetKind kind;
    size_t bytes;             /* arena and parameters */
    uint64_t used;
} RenderNet;

typedef struct {
    char *path;
    Lora *lora;
    char hash[65];            /* "" until asked for */
    int borrowed;
} RenderAdapter;

typedef struct {
    char *key;
    float *data;              /* [positions, hidden] */
    uint64_t used;
} RenderText;

/* Kept latents of source images. */
typedef struct {
    char *key;
    float *moments;           /* [h,w,2C] of the VAE: mean | logvar */
    uint64_t used;
} RenderMoments;

typedef struct {
    char *path;
    char hex[65];
} RenderFileHash;

struct Render {
    RenderPool *pool;         /* NULL: alone */
    Pipeline *pipe;
    Backend *be;
    int own_backend;
    Dtype dtype;
    int64_t keep;
    char backend[32];
    RenderNet *net[RENDER_MAX_NETS]; /* running networks, NULL where free */
    NnParams *params[PIPELINE_PARTS];
    const NnParams *live;     /* parameters in place of the model's; NULL */
    SamplerConf sampler;      /* the model's own */
    NnModules modules;        /* filled when the first adapter is loaded */
    RenderAdapter *adapter;   /* the id of an adapter is its place here */
    int nadapter;
    InversionSet words;       /* textual inversions */
    RenderText *text;         /* results of the text encoder */
    int ntext;
    RenderMoments moments[RENDER_MAX_SOURCES];
    RenderFileHash **file;    /* hashes of source images and masks */
    int nfile;
    uint64_t clock;
    struct ClipBpe *tok;
    char model_hash[65];
};

/* ---- render.c, render_pool.c ---- */

/* pool and be: NULL, or shared with other models. */
int render_open_shared(Render **out, const RenderConf *conf, RenderPool *pool, Backend *be);
/* The second pass as a setup of its own. */
RenderSetup render_second_setup(const Render *r, const RenderSetup *s);
/* The next time of use, one clock for all models of a pool. */
uint64_t render_tick(Render *r);
/* Drops what is idle, here and in the pool, least recently used first, until `bytes` more fit. */
void render_make_room(Render *r, size_t bytes);

/* ---- render_net.c ---- */

PipelinePart render_net_part(RenderNetKind kind);
/* Place of an adapter in r->adapter, loaded on first use. */
int render_adapter_find(Render *r, const char *path, int *id);
/* Builds (not starts) a network. *net is zero before. */
int render_net_build(Render *r, const RenderNetSpec *spec, RenderNet *net);
/* The running network for this purpose: a present one if its key fits, else a new one, for which others are dropped, least recently
 * used first, where `keep` says so. Borrowed, until the next start. */
int render_net_start(Render *r, const RenderNetSpec *spec, RenderNet **out);
/* Rows of the UNet for n items. A running network with up to twice the rows serves a smaller batch as it is: computing some rows
 * for nothing is cheaper than packing all weights again. spec->rows is set. */
int render_net_rows(Render *r, RenderNetSpec *spec, int n);
void render_net_deinit(RenderNet *net);
/* Drops the least recently used network of r, and its weights with the last one that uses them. Returns 0 when there is none. */
int render_net_drop(Render *r);
/* Its time of use; UINT64_MAX without networks. */
uint64_t render_net_oldest(const Render *r);
size_t render_net_bytes(const Render *r);
/* ---- render_text.c ---- */

/* What the UNet's attention sees for an item's prompts, over `calls` runs of the UNet. */
int render_cond(Render *r, const RenderSetup *s, const RenderItem *item, int calls, Cond **out);
void render_text_deinit(Render *r);

/* ---- render_vae.c: values are NHWC ---- */

/* x[h,w,C], latents as the UNet sees them, to an RGB image. */
int render_decode(Render *r, const RenderSetup *s, const float *x, int width, int height, IoImage *out);
/* Image in -1..1, [H,W,3], to moments [h,w,2C]. */
int render_encode(Render *r, const RenderSetup *s, const float *image, int width, int height, float *moments);
/* The spec of the VAE's network for an image of this size. */
RenderNetSpec render_vae_spec(const Render *r, const RenderSetup *s, RenderNetKind kind, int width, int height);

/* Its runs for one image. */
int render_vae_runs(const Render *r, const RenderSetup *s, int width, int height);

/* ---- render_source.c ---- */

/* An image file as RGB of the given size. */
int render_image_load(const char *path, int width, int height, IoImage *out);
/* The mask of an item: soft[H*W] after blur and inversion, 0..255. */
int render_mask_load(const RenderSetup *s, const char *path, uint8_t *soft);
/* mask[h*w] of 0 and 1 on the latents. */
int render_mask_latent(const Render *r, const RenderSetup *s, const uint8_t *soft, float *mask);
/* Moments of an item's source, kept for the next item; soft: NULL, or the mask under which it is made grey first. *out is borrowed
 * until the next call. */
int render_source_moments(Render *r, const RenderSetup *s, const RenderItem *item, const uint8_t *soft, const float **out);
/* x[h,w,C]: latents as the UNet sees them, from moments and noise (NULL: the mean). */
void render_moments_latent(const Render *r, const float *moments, const float *noise, int64_t pixels, float *x);
/* Outside the mask the source's own pixels. */
int render_paste(const RenderSetup *s, const RenderItem *item, IoImage *image);
void render_source_deinit(Render *r);

/* ---- render_loop.c ---- */

/* One pass of denoising for n items. */
typedef struct {
    const RenderSetup *setup; /* its width, height, sampler, strength are this pass's */
    int pass;                 /* 0, 1 */
    const RenderItem *items;
    int n;
    const float *start;       /* second pass: [n][h,w,C] latents to start from; NULL: pure noise or the items' sources */
    RenderTick tick;
    void *ctx;
    int done, total;          /* model calls before this pass and in all, for tick */
} RenderPass;
/* out[n][h,w,C] */
int render_pass_run(Render *r, const RenderPass *p, float *out);
/* Model calls of a pass. */
int render_pass_calls(const RenderSetup *s, int started, int *calls);

/* ---- render_scale.c ---- */

/* Latents [h,w,C] to [H,W,C] as torch.nn.functional.interpolate(size=...) does it: align_corners false, no antialiasing. */
int render_latent_resize(float *out, int W, int H, const float *in, int w, int h, int channels, RenderUpscale how);

#endif
