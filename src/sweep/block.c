#include "sweep/block.h"

#include <stdlib.h>
#include <string.h>

const SweepColumn SWEEP_COLUMN[SWEEP_COLS] = {
    [SWEEP_COL_INDEX] = {"meta/index", DTYPE_I64, 0},
    [SWEEP_COL_SEED] = {"meta/seed", DTYPE_I64, 0},
    [SWEEP_COL_WIDTH] = {"meta/width", DTYPE_I32, 0},
    [SWEEP_COL_HEIGHT] = {"meta/height", DTYPE_I32, 0},
    [SWEEP_COL_STEPS] = {"meta/steps", DTYPE_I32, 0},
    [SWEEP_COL_CLIP_SKIP] = {"meta/clip_skip", DTYPE_I32, 0},
    [SWEEP_COL_GUIDANCE] = {"meta/guidance", DTYPE_F64, 0},
    [SWEEP_COL_RESCALE] = {"meta/guidance_rescale", DTYPE_F64, 0},
    [SWEEP_COL_ETA] = {"meta/eta", DTYPE_F64, 0},
    [SWEEP_COL_STRENGTH] = {"meta/strength", DTYPE_F64, 0},
    [SWEEP_COL_VARIATION_SEED] = {"meta/variation_seed", DTYPE_I64, 0},
    [SWEEP_COL_VARIATION_STRENGTH] = {"meta/variation_strength", DTYPE_F64, 0},
    [SWEEP_COL_SECONDS] = {"meta/seconds", DTYPE_F64, 0},
    [SWEEP_COL_RANK] = {"meta/rank", DTYPE_I32, 0},
    [SWEEP_COL_PROMPT] = {"meta/prompt", DTYPE_U8, 1},
    [SWEEP_COL_TEMPLATE] = {"meta/template", DTYPE_U8, 1},
    [SWEEP_COL_NEGATIVE] = {"meta/negative", DTYPE_U8, 1},
    [SWEEP_COL_SAMPLER] = {"meta/sampler", DTYPE_U8, 1},
    [SWEEP_COL_SPACING] = {"meta/spacing", DTYPE_U8, 1},
    [SWEEP_COL_LORA] = {"meta/lora", DTYPE_U8, 1},
    [SWEEP_COL_LORA_HASH] = {"meta/lora_hash", DTYPE_U8, 1},
    [SWEEP_COL_MODEL] = {"meta/model", DTYPE_U8, 1},
    [SWEEP_COL_MODEL_HASH] = {"meta/model_hash", DTYPE_U8, 1},
    [SWEEP_COL_VAE_HASH] = {"meta/vae_hash", DTYPE_U8, 1},
    [SWEEP_COL_SOURCE_HASH] = {"meta/source_hash", DTYPE_U8, 1},
    [SWEEP_COL_MASK_HASH] = {"meta/mask_hash", DTYPE_U8, 1},
    [SWEEP_COL_SEED_COMPAT] = {"meta/seed_compat", DTYPE_U8, 1},
    [SWEEP_COL_BACKEND] = {"meta/backend", DTYPE_U8, 1},
    [SWEEP_COL_DTYPE] = {"meta/dtype", DTYPE_U8, 1},
    [SWEEP_COL_COMMIT] = {"meta/commit", DTYPE_U8, 1},
    [SWEEP_COL_PIXELS] = {"meta/pixels_sha256", DTYPE_U8, 1},
    [SWEEP_COL_RECORD] = {"meta/record", DTYPE_U8, 1},
};

/* ---- texts: most are the same in many images ---- */

struct SweepTexts {
    char **slot; /* hash table, power of two */
    size_t cap, count;
};

static size_t find_slot(const SweepTexts *t, const char *text)
{
    uint64_t h = 14695981039346656037u; /* FNV-1a */
    for (const char *p = text; *p; p++)
        h = (h ^ (unsigned char)*p) * 1099511628211u;
    size_t i = (size_t)(h ^ h >> 32) & (t->cap - 1);
    while (t->slot[i] && strcmp(t->slot[i], text) != 0)
        i = (i + 1) & (t->cap - 1);
    return i;
}

static int texts_grow(SweepTexts *t)
{
    if (2 * (t->count + 1) <= t->cap)
        return 0;
    SweepTexts more = {.cap = t->cap ? 2 * t->cap : 256, .count = t->count};
    if (!(more.slot = calloc(more.cap, sizeof *more.slot)))
        return err_set(ERR_NOMEM, "out of memory");
    for (size_t i = 0; i < t->cap; i++)
        if (t->slot[i])
            more.slot[find_slot(&more, t->slot[i])] = t->slot[i];
    free(t->slot);
    *t = more;
    return 0;
}

static int keep_text(SweepTexts *t, const char *text, char **out)
{
    text = text ? text : "";
    TRY(texts_grow(t));
    size_t i = find_slot(t, text);
    if (!t->slot[i]) {
        TRY(str_copy(&t->slot[i], text));
        t->count++;
    }
    *out = t->slot[i];
    return 0;
}

static void texts_destroy(SweepTexts *t)
{
    for (size_t i = 0; t && i < t->cap; i++)
        free(t->slot[i]);
    if (t)
        free(t->slot);
    free(t);
}

/* ---- rows ---- */

void sweep_block_deinit(SweepBlock *b)
{
    for (int c = 0; c < SWEEP_COLS; c++)
        free(b->col[c]);
    texts_destroy(b->texts);
    memset(b, 0, sizeof *b);
}

int sweep_block_init(SweepBlock *b, int64_t n)
{
    static char empty[1];
    memset(b, 0, sizeof *b);
    b->n = n;
    if (!(b->texts = calloc(1, sizeof *b->texts)))
        return err_set(ERR_NOMEM, "out of memory");
    for (int c = 0; c < SWEEP_COLS; c++) {
        size_t size = SWEEP_COLUMN[c].text ? sizeof(char *) : dtype_size(SWEEP_COLUMN[c].dtype);
        if (!(b->col[c] = calloc((size_t)n + 1, size)))
            return err_set(ERR_NOMEM, "out of memory");
        for (int64_t i = 0; SWEEP_COLUMN[c].text && i < n; i++)
            ((char **)b->col[c])[i] = empty;
    }
    return 0;
}

static void set_numbers(SweepBlock *b, int64_t i, const SweepRecord *rec)
{
    ((int64_t *)b->col[SWEEP_COL_INDEX])[i] = rec->index;
    ((int64_t *)b->col[SWEEP_COL_SEED])[i] = rec->seed;
    ((int64_t *)b->col[SWEEP_COL_VARIATION_SEED])[i] = rec->variation_seed;
    ((int32_t *)b->col[SWEEP_COL_WIDTH])[i] = rec->width;
    ((int32_t *)b->col[SWEEP_COL_HEIGHT])[i] = rec->height;
    ((int32_t *)b->col[SWEEP_COL_STEPS])[i] = rec->steps;
    ((int32_t *)b->col[SWEEP_COL_CLIP_SKIP])[i] = rec->clip_skip;
    ((double *)b->col[SWEEP_COL_GUIDANCE])[i] = rec->guidance;
    ((double *)b->col[SWEEP_COL_RESCALE])[i] = rec->guidance_rescale;
    ((double *)b->col[SWEEP_COL_ETA])[i] = rec->eta;
    ((double *)b->col[SWEEP_COL_STRENGTH])[i] = rec->source && rec->source[0] ? rec->strength : 1;
    ((double *)b->col[SWEEP_COL_VARIATION_STRENGTH])[i] = rec->variation_strength;
}

int sweep_block_set(SweepBlock *b, int64_t i, const SweepRecord *rec, const char *json)
{
    const struct {
        SweepCol c;
        const char *text;
    } texts[] = {{SWEEP_COL_PROMPT, rec->prompt},           {SWEEP_COL_TEMPLATE, rec->typed},
                 {SWEEP_COL_NEGATIVE, rec->negative},       {SWEEP_COL_SAMPLER, rec->sampler_used},
                 {SWEEP_COL_SPACING, rec->spacing_used},    {SWEEP_COL_MODEL, rec->model},
                 {SWEEP_COL_MODEL_HASH, rec->model_hash},   {SWEEP_COL_VAE_HASH, rec->vae_hash},
                 {SWEEP_COL_SOURCE_HASH, rec->source_hash}, {SWEEP_COL_MASK_HASH, rec->mask_hash},
                 {SWEEP_COL_SEED_COMPAT, rec->seed_compat}, {SWEEP_COL_BACKEND, rec->backend},
                 {SWEEP_COL_DTYPE, rec->dtype},             {SWEEP_COL_COMMIT, rec->commit},
                 {SWEEP_COL_PIXELS, rec->pixels_sha256}};
    StrBuf lora, hashes;
    int rc;
    str_init(&lora);
    str_init(&hashes);
    set_numbers(b, i, rec);
    for (size_t k = 0; k < sizeof texts / sizeof *texts; k++)
        TRY_GOTO(keep_text(b->texts, texts[k].text, &((char **)b->col[texts[k].c])[i]));
    sweep_record_lora(rec, &lora, &hashes);
    TRY_GOTO(str_status(&lora));
    TRY_GOTO(str_status(&hashes));
    TRY_GOTO(keep_text(b->texts, lora.data, &((char **)b->col[SWEEP_COL_LORA])[i]));
    TRY_GOTO(keep_text(b->texts, hashes.data, &((char **)b->col[SWEEP_COL_LORA_HASH])[i]));
    ((const char **)b->col[SWEEP_COL_RECORD])[i] = json;
done:
    str_deinit(&lora);
    str_deinit(&hashes);
    return rc;
}

static int read_texts(SweepBlock *b, IoH5 *f, int c)
{
    static char empty[1];
    int64_t n = b->n;
    char **texts;
    if (io_h5_exists(f, SWEEP_COLUMN[c].name)) {
        TRY(io_h5_read_strings(f, SWEEP_COLUMN[c].name, &texts, &n));
    } else {
        if (!(texts = calloc((size_t)n + 1, sizeof *texts)))
            return err_set(ERR_NOMEM, "out of memory");
        for (int64_t i = 0; i < n; i++)
            texts[i] = empty;
    }
    b->col[c] = texts;
    return n == b->n ? 0
                     : err_set(ERR_SHAPE, "%s: %s has %lld rows, expected %lld", io_h5_path(f), SWEEP_COLUMN[c].name, (long long)n,
                               (long long)b->n);
}

int sweep_block_read_columns(SweepBlock *b, IoH5 *f)
{
    for (int c = 0; c < SWEEP_COLS; c++) {
        const SweepColumn *col = &SWEEP_COLUMN[c];
        if (col->text) {
            TRY(read_texts(b, f, c));
            continue;
        }
        if (!(b->col[c] = calloc((size_t)b->n + 1, dtype_size(col->dtype))))
            return err_set(ERR_NOMEM, "out of memory");
        if (io_h5_exists(f, col->name))
            TRY(io_h5_read(f, col->name, col->dtype, b->col[c], b->n));
    }
    return 0;
}

int sweep_block_write(IoH5 *f, const SweepBlock *b)
{
    const IoH5Store packed = {.gzip = 4, .shuffle = 1, .checksum = 1}, text = {.gzip = 4, .checksum = 1};
    for (int c = 0; c < SWEEP_COLS; c++) {
        const SweepColumn *col = &SWEEP_COLUMN[c];
        if (col->text)
            TRY(io_h5_write_strings_packed(f, col->name, b->col[c], b->n, &text));
        else
            TRY(io_h5_write(f, col->name, col->dtype, 1, &b->n, b->col[c], b->n > 1000 ? &packed : NULL));
    }
    return 0;
}
