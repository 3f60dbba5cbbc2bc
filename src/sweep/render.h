/* From prompts to images with one model: text encoder, denoising loop, VAE decoder, each a planned graph on a backend.
 *
 *     Render *r;                             render_open(&r, &conf)
 *     RenderSetup s;                         render_setup_default(r, &s)
 *     TRY(render_run(r, &s, items, n, results, NULL, NULL));
 *
 * An image depends on its own item and on the setup alone: not on n, on the other items, on what was rendered before. */
#ifndef SWEEP_RENDER_H
#define SWEEP_RENDER_H

#include "io/image.h"
#include "ops/backend.h"
#include "models/lora.h"
#include "models/pipeline.h"
#include "sampler/noise.h"
#include "text/prompt.h"

enum { RENDER_MAX_LORA = 8 };

/* The prompt rules of the same program. */
PromptRules render_seed_rules(SamplerCompat s);

typedef struct {
    const char *model;    /* diffusers folder */
    const char *vae;      /* folder of another VAE, or of a model that has it; NULL or "": the model's own */
    const char *variant;  /* "fp16" or NULL */
    Dtype dtype;          /* F32 or BF16: compute dtype of all networks */
    int device;           /* DEVICE_* of graph/device.h */
    int local_rank;       /* of this process on its node: which GPU */
    int threads;          /* <= 0: all cores this process may use */
    const char *const *embeddings; /* files of textual inversions, used where their names stand in prompts */
    int nembeddings;
    int64_t keep;         /* networks (weights and arenas) together up to this many bytes stay in memory between stages */
} RenderConf;

typedef struct {
    const char *path;
    double scale;
} RenderLora;

/* From the first pass's result to the size of a second one. LATENT_*: torch's interpolate on the latents (align_corners false,
 * bicubic a = -0.75). LANCZOS: decoded, resized as Pillow does it, encoded. */
typedef enum {
    RENDER_UPSCALE_OFF,
    RENDER_UPSCALE_LATENT_NEAREST,
    RENDER_UPSCALE_LATENT_BILINEAR,
    RENDER_UPSCALE_LATENT_BICUBIC,
    RENDER_UPSCALE_LANCZOS,
    RENDER_UPSCALE_COUNT
} RenderUpscale;
extern const char *const RENDER_UPSCALE_NAMES[RENDER_UPSCALE_COUNT + 1]; /* off, latent-nearest, ..., lanczos, NULL */

/* Second pass ("hires fix"): img2img from the first pass's result at `scale` times its size. */
typedef struct {
    int upscale;          /* RenderUpscale */
    double scale;         /* sides are rounded down to the VAE's factor */
    int32_t steps;        /* 0: as the first pass */
    double strength;      /* 0..1 */
} RenderHires;

/* What lies under the mask before denoising. */
typedef enum { RENDER_FILL_ORIGINAL, RENDER_FILL_NOISE, RENDER_FILL_ZERO, RENDER_FILL_COUNT } RenderFill;
extern const char *const RENDER_FILL_NAMES[RENDER_FILL_COUNT + 1];

/* White in the mask (128 and more after blurring) is made anew. */
typedef struct {
    double blur;          /* deviation in pixels of a Gaussian blur of the mask, 0: none */
    int invert;           /* black is made anew */
    int fill;             /* RenderFill */
    int paste;            /* pixels outside the mask are the source's own, mixed by the blurred mask */
} RenderInpaint;

/* Latents of the source image: the mean of the VAE's posterior, or a draw from it (diffusers). */
typedef enum { RENDER_ENCODE_SAMPLE, RENDER_ENCODE_MEAN, RENDER_ENCODE_COUNT } RenderEncode;
extern const char *const RENDER_ENCODE_NAMES[RENDER_ENCODE_COUNT + 1];

/* What all items of one call share. */
typedef struct {
    int width, height;    /* of the first pass, pixels, multiples of the VAE's factor */
    int source, mask;     /* whether the items have a source image and a mask */
    double strength;      /* of img2img and inpainting: share of the steps that is run, 0..1 */
    int encode;           /* RenderEncode */
    RenderInpaint inpaint;
    RenderHires hires;
    int vae_tile;         /* side in pixels of the tiles in which the VAE works; 0: whole images */
    int clip_skip;        /* 1: last layer */
    PromptRules rules;    /* what brackets in prompts mean */
    int guided;           /* 0: one network row per item, guidance and negative prompt unused */
    SamplerCompat seed_compat; /* sampler.rules and `rules` follow it */
    int64_t ensd, gpu_threads; /* see SamplerNoiseConf */
    SamplerConf sampler;
    RenderLora lora[RENDER_MAX_LORA]; /* paths borrowed; every file at most once */
    int nlora;
} RenderSetup;

typedef struct {
    const char *prompt, *negative;
    uint64_t seed;
    double guidance, guidance_rescale;
    const char *source, *mask; /* image files, where the setup says so; resized to the setup's size (Lanczos) */
    uint64_t variation_seed;
    double variation_strength; /* 0: none; share of the variation seed's noise in the initial noise (slerp) */
    int batch_index, batch_size; /* place in a batch of ComfyUI's that drew its noise as a whole; size 0: alone */
    int seed_width, seed_height; /* size the initial noise is drawn at, centred in the image's; 0: the image's */
    /* In place of drawn noise (reference data): [C,h,w] unit noise before init_noise_sigma; noise[k], k < nnoise: the k-th draw of
     * the sampler. NULL: drawn. */
    const float *init_latents;
    const float *const *noise;
    int nnoise;
} RenderItem;

typedef struct {
    IoImage image;        /* RGB */
    float *latents;       /* [C,h,w], final, as the UNet sees them (before division by the VAE's scaling) */
} RenderResult;

typedef struct Render Render;
typedef struct RenderPool RenderPool;

/* ERR_* of pipeline_open; ERR_UNSUPPORTED for models that are neither text-to-image nor inpainting (2C + 1 input channels). */
int render_open(Render **out, const RenderConf *conf);
/* What a training has in memory, borrowed for the life of the renderer: its values at the time of the first use count. */
typedef struct {
    Backend *be;
    const NnParams *weights;  /* F32 parameters that stand in place of the model's of the same names; NULL: none */
    Lora *adapter;            /* the LoRA named RENDER_LIVE; NULL: none */
    const char *word;         /* textual inversion; NULL: none */
    const float *vectors;     /* [nvectors][width of the text encoder] */
    int nvectors;
} RenderLive;
#define RENDER_LIVE "(in training)"
int render_open_live(Render **out, const RenderConf *conf, const RenderLive *live);
void render_close(Render *r);
Pipeline *render_pipeline(Render *r);   /* borrowed */
const char *render_backend(const Render *r); /* "cpu-avx512", for records; borrowed */
/* The model's scheduler and native size, 20 steps, clip skip 1, guided, no adapters. */
void render_setup_default(const Render *r, RenderSetup *s);
/* ERR_RANGE, ERR_UNSUPPORTED with the setting's name. */
int render_setup_check(const Render *r, const RenderSetup *s);
/* vae_tile as the configuration has it (-1: tiles of 512 where the final image has over 2 megapixels); after size and hires. It
 * depends on the setup alone, never on the machine, because tiles change the image. */
void render_setup_tile(const Render *r, RenderSetup *s, int tile);
/* Size of the final image: that of the second pass where there is one. */
void render_setup_size(const Render *r, const RenderSetup *s, int *width, int *height);
/* Floats of one item's latents, and its shape [C,h,w]. */
int64_t render_latent_count(const Render *r, const RenderSetup *s, int64_t dim[3]);

/* Called before every model call i of n; a negative result stops the run with this code. */
typedef int (*RenderTick)(void *ctx, int i, int n);

/* Renders n items at once. results[n] are initialised here and the caller's afterwards (render_result_deinit), also on errors.
 * ERR_NUMERIC when an item's latents are not finite. */
int render_run(Render *r, const RenderSetup *s, const RenderItem *items, int n, RenderResult *results, RenderTick tick, void *ctx);
void render_result_deinit(RenderResult *res);

/* Loads an adapter and keeps it; also done on first use. ERR_* of lora_load. */
int render_lora_load(Render *r, const char *path);
/* SHA-256 of a LoRA file's bytes after its header (A1111's "addnet" hash, kohya's sshs_model_hash). Kept after the first call. */
int render_lora_hash(Render *r, const char *path, const char **hex);
/* The i-th textual inversion; 0 when there are fewer. Borrowed. */
typedef struct {
    const char *name, *path, *hash; /* hash: SHA-256 of the file */
} RenderEmbedding;
int render_embedding(const Render *r, int i, RenderEmbedding *out);
/* SHA-256 in hex over the hashes of the three parts' weight files. Kept after the first call, which reads all weights. Borrowed. */
int render_model_hash(Render *r, const char **hex);

/* SHA-256 of a source image or mask. Kept after the first call; borrowed. */
int render_file_hash(Render *r, const char *path, const char **hex);

/* The first three as in PipelinePart. ENCODER and SECOND (the second pass's UNet) have no nodes where they are not used. */
enum { RENDER_PLAN_ENCODER = PIPELINE_PARTS, RENDER_PLAN_SECOND, RENDER_PLAN_PARTS };

typedef struct {
    double flops;         /* of one run */
    size_t arena, params; /* bytes */
    int nodes;
} RenderPart;
/* What a batch of n will take, before anything is allocated. */
typedef struct {
    RenderPart part[RENDER_PLAN_PARTS];
    int model_calls, second_calls; /* runs of the UNets per batch */
    int decodes, encodes; /* runs of the VAE's parts per image: several with tiles */
    size_t peak;          /* bytes of arenas and weights held at once, given conf.keep */
    double flops_image;   /* per image, text encoding left out */
} RenderPlan;
/* What an item's prompts ask of the UNet: rows of its context by the text encoder's length, runs per model call (A1111's AND). */
typedef struct {
    int chunks, runs;
} RenderPrompt;
/* Without encoding. Errors of the prompts' syntax. */
int render_prompt_size(Render *r, const RenderSetup *s, const RenderItem *item, RenderPrompt *out);
/* prompt: NULL for one of usual length. */
int render_plan(Render *r, const RenderSetup *s, int n, const RenderPrompt *prompt, RenderPlan *plan);

/* Several models that share threads and memory: networks of all of them together stay within `keep`, the least recently used go
 * first. */
/* conf->model and vae are not used; `variant` is for all. */
int render_pool_create(RenderPool **out, const RenderConf *conf);
void render_pool_destroy(RenderPool *p);
Backend *render_pool_backend(RenderPool *p); /* borrowed */
/* The model in a folder, with another VAE or its own ("" or NULL), opened on first use. Borrowed for the life of the pool. */
int render_pool_get(RenderPool *p, const char *model, const char *vae, Render **out);
/* Reads a model's weight files into the system's cache in a thread of their own, once per model, while others render. */
int render_pool_ahead(RenderPool *p, const char *model, const char *vae);

#endif
