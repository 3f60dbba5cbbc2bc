/* Rows of images with their metadata, in memory and in HDF5: the layout that part files and run.h5 share (docs/formats.md).
 *     images [n,H,W,3] U8, latents [n,C,h,w] F32 when kept, meta/<column> [n] */
#ifndef SWEEP_BLOCK_H
#define SWEEP_BLOCK_H

#include "io/h5.h"
#include "sweep/record.h"

typedef enum {
    SWEEP_COL_INDEX,
    SWEEP_COL_SEED,
    SWEEP_COL_WIDTH,
    SWEEP_COL_HEIGHT,
    SWEEP_COL_STEPS,
    SWEEP_COL_CLIP_SKIP,
    SWEEP_COL_GUIDANCE,
    SWEEP_COL_RESCALE,
    SWEEP_COL_ETA,
    SWEEP_COL_SECONDS,
    SWEEP_COL_RANK,
    SWEEP_COL_PROMPT, /* texts from here */
    SWEEP_COL_NEGATIVE,
    SWEEP_COL_SAMPLER,
    SWEEP_COL_SPACING,
    SWEEP_COL_LORA,
    SWEEP_COL_LORA_HASH,
    SWEEP_COL_MODEL_HASH,
    SWEEP_COL_PIXELS,
    SWEEP_COL_RECORD,
    SWEEP_COLS
} SweepCol;

typedef struct {
    const char *name; /* "meta/index" */
    Dtype dtype;      /* numbers: I32, I64 or F64 */
    int text;
} SweepColumn;
extern const SweepColumn SWEEP_COLUMN[SWEEP_COLS];

/* One image to be stored. */
typedef struct {
    SweepRecord rec;
    RenderResult result;
    int64_t latent[3]; /* shape of result.latents */
    double seconds;
    int rank;
} SweepRow;

typedef struct {
    int64_t n;
    int width, height;
    int64_t latent[3];    /* [C,h,w]; zeros: not kept */
    void *col[SWEEP_COLS]; /* int32_t, int64_t, double or char * each, [n] */
    char **own;            /* texts to be freed one by one; NULL when col of texts is one block each */
    int64_t nown;
    uint8_t *images;
    float *latents;
} SweepBlock;

/* All rows of one size. Copies what it needs. sweep_block_deinit in every case. */
int sweep_block_from_rows(SweepBlock *b, const SweepRow *rows, int n, int with_latents);
/* Whole part file; `pixels` 0: columns only. */
int sweep_block_read(SweepBlock *b, IoH5 *f, int pixels);
/* The columns alone; b->n is set. ERR_SHAPE when one has another length. */
int sweep_block_read_columns(SweepBlock *b, IoH5 *f);
void sweep_block_deinit(SweepBlock *b);
static inline int64_t sweep_block_i64(const SweepBlock *b, SweepCol c, int64_t i)
{
    return SWEEP_COLUMN[c].dtype == DTYPE_I64 ? ((const int64_t *)b->col[c])[i] : ((const int32_t *)b->col[c])[i];
}
static inline const char *sweep_block_text(const SweepBlock *b, SweepCol c, int64_t i)
{
    return ((char *const *)b->col[c])[i];
}

/* Empty extensible datasets for blocks of this size; then rows. */
int sweep_block_create(IoH5 *f, int width, int height, const int64_t latent[3]);
int sweep_block_append(IoH5 *f, const SweepBlock *b);

#endif
