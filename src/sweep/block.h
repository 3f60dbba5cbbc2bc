/* Columns of a run file: what each image's record says, one typed column per setting, in the order of the items (docs/formats.md). */
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
    SWEEP_COL_STRENGTH,
    SWEEP_COL_VARIATION_SEED,
    SWEEP_COL_VARIATION_STRENGTH,
    SWEEP_COL_SECONDS,
    SWEEP_COL_RANK,
    SWEEP_COL_PROMPT, /* texts from here */
    SWEEP_COL_TEMPLATE,
    SWEEP_COL_NEGATIVE,
    SWEEP_COL_SAMPLER,
    SWEEP_COL_SPACING,
    SWEEP_COL_LORA,
    SWEEP_COL_LORA_HASH,
    SWEEP_COL_MODEL,
    SWEEP_COL_MODEL_HASH,
    SWEEP_COL_VAE_HASH,
    SWEEP_COL_SOURCE_HASH,
    SWEEP_COL_MASK_HASH,
    SWEEP_COL_SEED_COMPAT,
    SWEEP_COL_BACKEND,
    SWEEP_COL_DTYPE,
    SWEEP_COL_COMMIT,
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

typedef struct SweepTexts SweepTexts;
typedef struct {
    int64_t n;
    void *col[SWEEP_COLS]; /* int32_t, int64_t, double or char * each, [n] */
    SweepTexts *texts;     /* owns the texts, equal ones once; NULL when each column of texts is one block */
} SweepBlock;

/* n rows of zeros and empty texts. sweep_block_deinit in every case. */
int sweep_block_init(SweepBlock *b, int64_t n);
/* Row i as the record says; the text columns are copied. json becomes meta/record and is borrowed until sweep_block_deinit. */
int sweep_block_set(SweepBlock *b, int64_t i, const SweepRecord *rec, const char *json);
/* From a run file of b->n rows; columns that it lacks are zeros and empty texts. ERR_SHAPE when one has another length. */
int sweep_block_read_columns(SweepBlock *b, IoH5 *f);
int sweep_block_write(IoH5 *f, const SweepBlock *b);
void sweep_block_deinit(SweepBlock *b);
static inline int64_t sweep_block_i64(const SweepBlock *b, SweepCol c, int64_t i)
{
    return SWEEP_COLUMN[c].dtype == DTYPE_I64 ? ((const int64_t *)b->col[c])[i] : ((const int32_t *)b->col[c])[i];
}
static inline const char *sweep_block_text(const SweepBlock *b, SweepCol c, int64_t i)
{
    return ((char *const *)b->col[c])[i];
}

#endif
