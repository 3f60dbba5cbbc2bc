/* From a prompt to what the UNet's cross-attention sees: parse, cut into chunks, encode each, weigh, join.
 *
 *     CondEncoder e = {.tok = tok, .length = 77, .width = 768, .rules = PROMPT_ATELIER, .encode = run_text_encoder, .ctx = ...};
 *     Cond *c;
 *     TRY(cond_create(&c, &e, prompt, guided ? negative : NULL, model_calls));
 *     for call i of the UNet:  cond_get(c, i, COND_PROMPT), cond_get(c, i, COND_NEGATIVE)    [chunks * length, width] each
 *
 * Weights per token, w != 1 only (z: hidden states of a chunk [length,width]):
 *     PROMPT_A1111          z *= w for every token, then z *= mean(z before) / mean(z after)   (sd_emphasis.EmphasisOriginal)
 *     PROMPT_A1111_NO_NORM  z *= w
 *     PROMPT_COMFYUI        z = (z - e) * w + e, e: hidden states of the empty prompt (ClipTokenWeightEncoder)
 *     PROMPT_ATELIER        A1111's syntax with ComfyUI's weights: they change nothing but their own tokens, and w = 1 is exact
 *     PROMPT_DIFFUSERS      none
 * Lengths: all embeddings of one Cond have the same number of chunks. The stages of an edited prompt are filled up with empty chunks
 * to the longest (as A1111 does); then prompt and negative prompt are each repeated whole up to their least common multiple, which
 * leaves attention's result what it is without repetition, as A1111 (pad_cond_uncond off) and ComfyUI have it. Above
 * COND_MAX_REPEAT chunks the shorter one is filled up with empty chunks instead.
 * The number of chunks is a property of the image: items of one batch that differ in it must run through different UNet calls, so that
 * no image depends on its batch. Values depend on the texts, rules, `calls` and the encoder alone. */
#ifndef MODELS_COND_H
#define MODELS_COND_H

#include "models/inversion.h"
#include "text/chunk.h"

enum { COND_MAX_REPEAT = 24, COND_MAX_PARTS = 16 };

/* A row of the chunk that is not a token but a vector. */
typedef struct {
    int at;               /* 1..length-2 */
    const float *vector;  /* [width of the token embeddings] */
} CondVector;

typedef struct {
    const ClipBpe *tok;
    int length, width;          /* tokens per chunk; width of the result */
    int pool;                   /* width of the pooled vector; 0: none */
    PromptRules rules;
    const InversionSet *words;  /* NULL: none */
    /* One run of the text encoder: ids[length] (with `vectors` in place of some: models/clip_text.h clip_text_forward_vectors) to
     * hidden[length * width], after clip skip and final norm, and pooled[pool] unless pool is 0. Clip skip and adapters are the
     * caller's. Called once per chunk, and once for the empty prompt where needed; worth caching by ids. */
    int (*encode)(void *ctx, const int32_t *ids, const CondVector *vectors, int nvectors, float *hidden, float *pooled);
    void *ctx;
} CondEncoder;

typedef enum { COND_PROMPT, COND_NEGATIVE } CondSide;
typedef struct Cond Cond;

/* calls: how often the UNet will run (prompt editing). negative NULL: no guidance. *out: cond_destroy.
 * <lora:...> tags are skipped: the caller took them before (prompt_take_loras). Under A1111's rules "a AND b :0.5" has two parts, of
 * weights 1 and 0.5: the guided prediction is negative + sum of guidance * weight * (part - negative). ERR_UNSUPPORTED for that without
 * a negative prompt. */
int cond_create(Cond **out, const CondEncoder *e, const char *prompt, const char *negative, int calls);
void cond_destroy(Cond *c);
int cond_chunks(const Cond *c);
/* Embedding for call i, [chunks * length, width]; pooled vector of the first chunk, NULL without. Borrowed. The same pointer comes
 * back as long as nothing changes. */
const float *cond_get(const Cond *c, int call, CondSide side);
const float *cond_pooled(const Cond *c, int call, CondSide side);

/* Parts joined by AND, 1 without; cond_get's prompt is part 0. */
int cond_parts(const Cond *c);
double cond_part_weight(const Cond *c, int part);
const float *cond_part_get(const Cond *c, int call, int part);

/* The numbers of chunks and parts that cond_create would give, without encoding: for planning. */
int cond_count(const CondEncoder *e, const char *prompt, const char *negative, int calls, int *chunks, int *parts);

/* ---- pieces, for tests ---- */
/* z[length * width] weighed in place; empty: hidden states of the empty prompt (atelier, comfyui) or NULL. */
void cond_weigh(float *z, const double *weight, int length, int width, const float *empty, PromptRules rules);

#endif
