/* What an image says about itself: all that is needed to render it again. Stored as one JSON object (PNG text "atelier", dataset
 * meta/record of run.h5) and as A1111 "parameters" text. docs/formats.md lists the keys. */
#ifndef SWEEP_RECORD_H
#define SWEEP_RECORD_H

#include "base/hash.h"
#include "sweep/grid.h"

/* Keys of the configuration that shape noise and sigmas; 0 (s_noise 1) is their default. */
typedef struct {
    double rho, sigma_min, sigma_max, s_churn, s_tmin, s_tmax, s_noise;
    int64_t ensd;
    int batch_index, batch_size;                    /* ComfyUI's */
    int gpu;                                        /* place in SWEEP_GPU_NAMES */
} SweepRecordNoise;

typedef struct {
    const char *name, *path, *hash;
    double scale;                                   /* of LoRAs */
} SweepRecordFile;

enum { SWEEP_RECORD_MAX_EMBEDDINGS = 32 };

typedef struct {
    const char *version, *commit, *backend, *dtype;
    const char *model, *variant, *model_hash;       /* variant "" when none was asked for */
    const char *prompt, *negative, *seed_compat;
    const char *typed, *typed_negative;             /* as in the configuration (templates, tags); NULL where they are the same */
    const char *rules;                              /* PROMPT_RULES_NAMES; NULL in records that do not say */
    const char *sampler, *spacing;                  /* as asked for: "" is the model's own */
    const char *sampler_used, *spacing_used;
    const char *pixels_sha256;                      /* of H*W*3 bytes */
    int64_t index, seed;
    int width, height, steps, clip_skip;
    double guidance, guidance_rescale, eta;
    int64_t variation_seed;
    double variation_strength;                      /* 0: no variation */
    int seed_width, seed_height;                    /* 0: as the image */
    RenderHires hires;
    int vae_tile;                                   /* in effect; 0: none */
    const char *vae, *vae_hash;                     /* "": the model's own */
    const char *source, *source_hash, *mask, *mask_hash; /* "": none */
    double strength;                                /* with a source: */
    int encode;
    RenderInpaint inpaint;                          /* with a mask */
    SweepRecordNoise noise;
    SweepRecordFile lora[RENDER_MAX_LORA];
    int nlora;
    SweepRecordFile embedding[SWEEP_RECORD_MAX_EMBEDDINGS]; /* textual inversions whose names stand in the prompts */
    int nembedding;
    void *owner; /* of the texts after sweep_record_parse */
} SweepRecord;

/* Borrows from item, conf, setup and render (hashes of the model, adapters and images: computed here when first needed). */
int sweep_record_make(SweepRecord *rec, Render *r, const SweepConf *c, const SweepItem *it, const RenderSetup *s,
                      const char pixels_sha256[HASH_HEX_SIZE]);
/* What the record was made from, with its hashes, is at the end of the text, from `"model": ` on. */
void sweep_record_json(const SweepRecord *rec, StrBuf *out);
/* *text: free(). */
int sweep_record_infotext(const SweepRecord *rec, char **text);
/* `name` is for messages. ERR_FORMAT, ERR_NOTFOUND with the key. sweep_record_deinit in every case. */
int sweep_record_parse(SweepRecord *rec, const char *json, const char *name);
void sweep_record_deinit(SweepRecord *rec);
/* "name:0.8 other:1" and the hashes in the same order; "" without adapters. */
void sweep_record_lora(const SweepRecord *rec, StrBuf *text, StrBuf *hashes);
/* A PNG with both texts. Atomic. */
int sweep_record_png(const char *path, const IoImage *img, const char *json);
int sweep_pixels_hash(char hex[HASH_HEX_SIZE], const IoImage *img);

#endif
