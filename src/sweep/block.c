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
    [SWEEP_COL_SECONDS] = {"meta/seconds", DTYPE_F64, 0},
    [SWEEP_COL_RANK] = {"meta/rank", DTYPE_I32, 0},
    [SWEEP_COL_PROMPT] = {"meta/prompt", DTYPE_U8, 1},
    [SWEEP_COL_NEGATIVE] = {"meta/negative", DTYPE_U8, 1},
    [SWEEP_COL_SAMPLER] = {"meta/sampler", DTYPE_U8, 1},
    [SWEEP_COL_SPACING] = {"meta/spacing", DTYPE_U8, 1},
    [SWEEP_COL_LORA] = {"meta/lora", DTYPE_U8, 1},
    [SWEEP_COL_LORA_HASH] = {"meta/lora_hash", DTYPE_U8, 1},
    [SWEEP_COL_MODEL_HASH] = {"meta/model_hash", DTYPE_U8, 1},
    [SWEEP_COL_PIXELS] = {"meta/pixels_sha256", DTYPE_U8, 1},
    [SWEEP_COL_RECORD] = {"meta/record", DTYPE_U8, 1},
};

void sweep_block_deinit(SweepBlock *b)
{
    for (int64_t i = 0; i < b->nown; i++)
        free(b->own[i]);
    free(b->own);
    for (int c = 0; c < SWEEP_COLS; c++)
        free(b->col[c]);
    free(b->images);
    free(b->latents);
    memset(b, 0, sizeof *b);
}

static int64_t latent_count(const int64_t latent[3])
{
    return latent[0] * latent[1] * latent[2];
}

static int block_alloc(SweepBlock *b, int64_t n)
{
    int texts = 0;
    for (int c = 0; c < SWEEP_COLS; c++) {
        size_t size = SWEEP_COLUMN[c].text ? sizeof(char *) : dtype_size(SWEEP_COLUMN[c].dtype);
        if (!(b->col[c] = calloc((size_t)n + 1, size)))
            return err_set(ERR_NOMEM, "out of memory");
        texts += SWEEP_COLUMN[c].text;
    }
    b->own = calloc((size_t)(n * texts) + 1, sizeof *b->own);
    b->n = n;
    return b->own ? 0 : err_set(ERR_NOMEM, "out of memory");
}

/* Text becomes the block's own. */
static void set_text(SweepBlock *b, SweepCol c, int64_t i, char *text)
{
    b->own[b->nown++] = text;
    ((char **)b->col[c])[i] = text;
}

static int set_copy(SweepBlock *b, SweepCol c, int64_t i, const char *text)
{
    char *copy;
    TRY(str_copy(&copy, text));
    set_text(b, c, i, copy);
    return 0;
}

static int set_texts(SweepBlock *b, int64_t i, const SweepRecord *rec)
{
    TRY(set_copy(b, SWEEP_COL_PROMPT, i, rec->prompt));
    TRY(set_copy(b, SWEEP_COL_NEGATIVE, i, rec->negative));
    TRY(set_copy(b, SWEEP_COL_SAMPLER, i, rec->sampler_used));
    TRY(set_copy(b, SWEEP_COL_SPACING, i, rec->spacing_used));
    TRY(set_copy(b, SWEEP_COL_MODEL_HASH, i, rec->model_hash));
    TRY(set_copy(b, SWEEP_COL_PIXELS, i, rec->pixels_sha256));
    StrBuf json, lora, hashes;
    str_init(&json);
    str_init(&lora);
    str_init(&hashes);
    sweep_record_json(rec, &json);
    sweep_record_lora(rec, &lora, &hashes);
    char *a = NULL, *l = NULL, *h = NULL;
    int rc = str_take(&a, &json), rc2 = str_take(&l, &lora), rc3 = str_take(&h, &hashes);
    if (rc < 0 || rc2 < 0 || rc3 < 0) {
        free(a);
        free(l);
        free(h);
        return ERR_NOMEM;
    }
    set_text(b, SWEEP_COL_RECORD, i, a);
    set_text(b, SWEEP_COL_LORA, i, l);
    set_text(b, SWEEP_COL_LORA_HASH, i, h);
    return 0;
}

static int set_row(SweepBlock *b, int64_t i, const SweepRow *row)
{
    const SweepRecord *rec = &row->rec;
    ((int64_t *)b->col[SWEEP_COL_INDEX])[i] = rec->index;
    ((int64_t *)b->col[SWEEP_COL_SEED])[i] = rec->seed;
    ((int32_t *)b->col[SWEEP_COL_WIDTH])[i] = row->result.image.w;
    ((int32_t *)b->col[SWEEP_COL_HEIGHT])[i] = row->result.image.h;
    ((int32_t *)b->col[SWEEP_COL_STEPS])[i] = rec->steps;
    ((int32_t *)b->col[SWEEP_COL_CLIP_SKIP])[i] = rec->clip_skip;
    ((double *)b->col[SWEEP_COL_GUIDANCE])[i] = rec->guidance;
    ((double *)b->col[SWEEP_COL_RESCALE])[i] = rec->guidance_rescale;
    ((double *)b->col[SWEEP_COL_ETA])[i] = rec->eta;
    ((double *)b->col[SWEEP_COL_SECONDS])[i] = row->seconds;
    ((int32_t *)b->col[SWEEP_COL_RANK])[i] = row->rank;
    return set_texts(b, i, rec);
}

int sweep_block_from_rows(SweepBlock *b, const SweepRow *rows, int n, int with_latents)
{
    memset(b, 0, sizeof *b);
    if (n < 1)
        return err_set(ERR_RANGE, "a block without images");
    TRY(block_alloc(b, n));
    b->width = rows[0].result.image.w; /* the record has the first pass's */
    b->height = rows[0].result.image.h;
    size_t image = (size_t)b->width * (size_t)b->height * 3;
    if (!(b->images = malloc((size_t)n * image)))
        return err_set(ERR_NOMEM, "out of memory");
    for (int i = 0; i < n; i++) {
        memcpy(b->images + (size_t)i * image, rows[i].result.image.data, image);
        TRY(set_row(b, i, &rows[i]));
    }
    if (!with_latents)
        return 0;
    memcpy(b->latent, rows[0].latent, sizeof b->latent);
    size_t count = (size_t)latent_count(b->latent);
    if (!(b->latents = malloc((size_t)n * count * sizeof *b->latents)))
        return err_set(ERR_NOMEM, "out of memory");
    for (int i = 0; i < n; i++)
        memcpy(b->latents + (size_t)i * count, rows[i].result.latents, count * sizeof *b->latents);
    return 0;
}

int sweep_block_read_columns(SweepBlock *b, IoH5 *f)
{
    for (int c = 0; c < SWEEP_COLS; c++) {
        const SweepColumn *col = &SWEEP_COLUMN[c];
        int64_t n = b->n;
        if (col->text) {
            char **texts;
            TRY(io_h5_read_strings(f, col->name, &texts, &n));
            b->col[c] = texts;
        } else {
            if (!(b->col[c] = calloc((size_t)n + 1, dtype_size(col->dtype))))
                return err_set(ERR_NOMEM, "out of memory");
            TRY(io_h5_read(f, col->name, col->dtype, b->col[c], n));
        }
        if (n != b->n)
            return err_set(ERR_SHAPE, "%s: %s has %lld rows, expected %lld", io_h5_path(f), col->name, (long long)n, (long long)b->n);
    }
    return 0;
}

int sweep_block_read(SweepBlock *b, IoH5 *f, int pixels)
{
    IoH5Info info;
    memset(b, 0, sizeof *b);
    TRY(io_h5_info(f, "images", &info));
    if (info.ndim != 4 || info.dtype != DTYPE_U8 || info.dim[3] != 3 || info.dim[1] > 16384 || info.dim[2] > 16384 ||
        info.dim[0] > SWEEP_MAX_ITEMS)
        return err_set(ERR_SHAPE, "%s: 'images' is no [n,H,W,3] of bytes", io_h5_path(f));
    b->n = info.dim[0];
    b->height = (int)info.dim[1];
    b->width = (int)info.dim[2];
    TRY(sweep_block_read_columns(b, f));
    int with_latents = io_h5_exists(f, "latents");
    if (with_latents) {
        TRY(io_h5_info(f, "latents", &info));
        if (info.ndim != 4 || info.dtype != DTYPE_F32 || info.dim[0] != b->n)
            return err_set(ERR_SHAPE, "%s: 'latents' is no [n,C,h,w] of floats", io_h5_path(f));
        memcpy(b->latent, info.dim + 1, sizeof b->latent);
    }
    if (!pixels)
        return 0;
    int64_t bytes = b->n * b->width * b->height * 3;
    if (!(b->images = malloc((size_t)bytes + 1)))
        return err_set(ERR_NOMEM, "out of memory");
    TRY(io_h5_read(f, "images", DTYPE_U8, b->images, bytes));
    if (!with_latents)
        return 0;
    int64_t count = b->n * latent_count(b->latent);
    if (!(b->latents = malloc((size_t)count * sizeof *b->latents + 1)))
        return err_set(ERR_NOMEM, "out of memory");
    return io_h5_read(f, "latents", DTYPE_F32, b->latents, count);
}

int sweep_block_create(IoH5 *f, int width, int height, const int64_t latent[3])
{
    const IoH5Store packed = {.gzip = 4, .shuffle = 0, .checksum = 1, .chunk_rows = 1};
    const IoH5Store plain = {.chunk_rows = 32};
    TRY(io_h5_create_rows(f, "images", DTYPE_U8, 0, 3, (int64_t[]){height, width, 3}, &packed));
    if (latent_count(latent))
        TRY(io_h5_create_rows(f, "latents", DTYPE_F32, 0, 3, latent, &packed));
    for (int c = 0; c < SWEEP_COLS; c++) {
        if (SWEEP_COLUMN[c].text)
            TRY(io_h5_create_strings(f, SWEEP_COLUMN[c].name, 0));
        else
            TRY(io_h5_create_rows(f, SWEEP_COLUMN[c].name, SWEEP_COLUMN[c].dtype, 0, 0, NULL, &plain));
    }
    return 0;
}

int sweep_block_append(IoH5 *f, const SweepBlock *b)
{
    TRY(io_h5_append(f, "images", DTYPE_U8, b->n, b->images));
    if (b->latents)
        TRY(io_h5_append(f, "latents", DTYPE_F32, b->n, b->latents));
    for (int c = 0; c < SWEEP_COLS; c++) {
        if (SWEEP_COLUMN[c].text)
            TRY(io_h5_append_strings(f, SWEEP_COLUMN[c].name, b->col[c], b->n));
        else
            TRY(io_h5_append(f, SWEEP_COLUMN[c].name, SWEEP_COLUMN[c].dtype, b->n, b->col[c]));
    }
    return 0;
}
