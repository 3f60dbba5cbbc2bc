#include "sweep/runfile.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/version.h"

enum { MAX_SIZES = 256 };

typedef struct {
    int width, height;
    int64_t rows;
    int64_t latent[3];
} Size;

typedef struct {
    SweepBlock *block;   /* one per part, columns only */
    int nblock;
    SweepBlock all;      /* columns of all items; texts borrowed from the blocks */
    int64_t *row;        /* [count] row in the images of its size */
    int64_t *from;       /* [count] part number, -1: not found yet */
    Size size[MAX_SIZES];
    int nsize;
} Join;

static void join_deinit(Join *j)
{
    for (int i = 0; i < j->nblock; i++)
        sweep_block_deinit(&j->block[i]);
    free(j->block);
    sweep_block_deinit(&j->all);
    free(j->row);
    free(j->from);
}

static Size *find_size(Join *j, int width, int height)
{
    for (int i = 0; i < j->nsize; i++)
        if (j->size[i].width == width && j->size[i].height == height)
            return &j->size[i];
    if (j->nsize == MAX_SIZES)
        return NULL;
    j->size[j->nsize] = (Size){.width = width, .height = height};
    return &j->size[j->nsize++];
}

/* "images", or "images_512x768" where a run has several sizes. */
static const char *size_name(char *buf, size_t n, const char *base, const Size *s, int sizes)
{
    if (sizes == 1)
        snprintf(buf, n, "%s", base);
    else
        snprintf(buf, n, "%s_%dx%d", base, s->width, s->height);
    return buf;
}

static void copy_columns(SweepBlock *to, int64_t at, const SweepBlock *from, int64_t i)
{
    for (int c = 0; c < SWEEP_COLS; c++) {
        size_t size = SWEEP_COLUMN[c].text ? sizeof(char *) : dtype_size(SWEEP_COLUMN[c].dtype);
        memcpy((char *)to->col[c] + (size_t)at * size, (const char *)from->col[c] + (size_t)i * size, size);
    }
}

static int join_alloc(Join *j, int parts, int64_t count)
{
    int bad = 0;
    for (int c = 0; c < SWEEP_COLS; c++)
        bad |= !(j->all.col[c] = calloc((size_t)count + 1, sizeof(int64_t)));
    j->all.n = count;
    j->block = calloc((size_t)parts + 1, sizeof *j->block);
    j->row = calloc((size_t)count + 1, sizeof *j->row);
    j->from = malloc(((size_t)count + 1) * sizeof *j->from);
    if (bad || !j->block || !j->row || !j->from)
        return err_set(ERR_NOMEM, "out of memory");
    for (int64_t k = 0; k < count; k++)
        j->from[k] = -1;
    return 0;
}

static int join_columns(Join *j, const SweepParts *parts, int64_t count)
{
    TRY(join_alloc(j, parts->count, count));
    for (int p = 0; p < parts->count; p++) {
        IoH5 *f;
        TRY(io_h5_open(&f, parts->path[p]));
        SweepBlock *b = &j->block[j->nblock++];
        int rc = sweep_block_read(b, f, 0);
        io_h5_close(f);
        TRY(rc);
        for (int64_t i = 0; i < b->n; i++) {
            int64_t k = sweep_block_i64(b, SWEEP_COL_INDEX, i);
            if (k < 0 || k >= count || j->from[k] >= 0)
                continue;
            j->from[k] = p;
            copy_columns(&j->all, k, b, i);
        }
    }
    for (int64_t k = 0; k < count; k++) {
        if (j->from[k] < 0)
            return err_set(ERR_NOTFOUND, "image %lld is in no part file", (long long)k);
        const SweepBlock *b = &j->block[j->from[k]];
        Size *s = find_size(j, b->width, b->height);
        if (!s)
            return err_set(ERR_RANGE, "more than %d image sizes in one run", MAX_SIZES);
        memcpy(s->latent, b->latent, sizeof s->latent);
        j->row[k] = s->rows++;
    }
    return 0;
}

static int join_pixels(Join *j, IoH5 *to, const SweepParts *parts)
{
    const IoH5Store packed = {.gzip = 4, .checksum = 1, .chunk_rows = 1};
    char name[64];
    for (int i = 0; i < j->nsize; i++) {
        Size *s = &j->size[i];
        TRY(io_h5_create_rows(to, size_name(name, sizeof name, "images", s, j->nsize), DTYPE_U8, s->rows, 3,
                              (int64_t[]){s->height, s->width, 3}, &packed));
        if (s->latent[0])
            TRY(io_h5_create_rows(to, size_name(name, sizeof name, "latents", s, j->nsize), DTYPE_F32, s->rows, 3, s->latent, &packed));
    }
    for (int p = 0; p < parts->count; p++) {
        IoH5 *f;
        SweepBlock b = {0};
        TRY(io_h5_open(&f, parts->path[p]));
        int rc = sweep_block_read(&b, f, 1);
        io_h5_close(f);
        const Size *s = find_size(j, b.width, b.height);
        size_t pixels = (size_t)b.width * (size_t)b.height * 3, latent = (size_t)(b.latent[0] * b.latent[1] * b.latent[2]);
        for (int64_t i = 0; i < b.n && rc >= 0; i++) {
            int64_t k = sweep_block_i64(&b, SWEEP_COL_INDEX, i);
            if (k < 0 || k >= j->all.n || j->from[k] != p)
                continue;
            rc = io_h5_write_rows(to, size_name(name, sizeof name, "images", s, j->nsize), DTYPE_U8, j->row[k], 1,
                                  b.images + (size_t)i * pixels);
            if (rc >= 0 && b.latents)
                rc = io_h5_write_rows(to, size_name(name, sizeof name, "latents", s, j->nsize), DTYPE_F32, j->row[k], 1,
                                      b.latents + (size_t)i * latent);
        }
        sweep_block_deinit(&b);
        TRY(rc);
    }
    return 0;
}

static int write_columns(IoH5 *f, const Join *j)
{
    int64_t n = j->all.n;
    for (int c = 0; c < SWEEP_COLS; c++) {
        const SweepColumn *col = &SWEEP_COLUMN[c];
        if (col->text)
            TRY(io_h5_write_strings(f, col->name, j->all.col[c], n));
        else
            TRY(io_h5_write(f, col->name, col->dtype, 1, &n, j->all.col[c], NULL));
    }
    return io_h5_write(f, "meta/row", DTYPE_I64, 1, &n, j->row, NULL);
}

/* What the axes were, so that f["images"][:].reshape(f["grid/shape"]) can be read. */
static int write_grid(IoH5 *f, const SweepGrid *g)
{
    int64_t shape[SWEEP_MAX_AXES], n = g->naxes;
    const char *names[SWEEP_MAX_AXES];
    char path[256];
    for (int i = 0; i < g->naxes; i++) {
        const SweepAxis *a = &g->axis[i];
        shape[i] = a->count;
        names[i] = a->name;
        StrBuf b;
        int rc = 0;
        snprintf(path, sizeof path, "grid/labels/%.200s", a->name);
        TRY(io_h5_create_strings(f, path, 0));
        for (int64_t k = 0; k < a->count && rc >= 0; k++) {
            str_init(&b);
            sweep_grid_label(g, i, k, &b);
            const char *text = b.data;
            rc = str_status(&b);
            if (rc >= 0)
                rc = io_h5_append_strings(f, path, &text, 1);
            str_deinit(&b);
        }
        TRY(rc);
    }
    if (!n || g->keep)
        return 0;
    TRY(io_h5_write(f, "grid/shape", DTYPE_I64, 1, &n, shape, NULL));
    return io_h5_write_strings(f, "grid/axes", names, n);
}

static int write_head(IoH5 *f, const SweepGrid *g, const SweepRunInfo *info, const char *model_hash)
{
    char now[CLOCK_UTC_SIZE], host[128] = "";
    clock_utc_text(now);
    gethostname(host, sizeof host - 1);
    TRY(io_h5_set_attr_str(f, "/", "format", "atelier sweep"));
    TRY(io_h5_set_attr_i64(f, "/", "format_version", 1));
    TRY(io_h5_set_attr_str(f, "/", "version", ATELIER_VERSION));
    TRY(io_h5_set_attr_str(f, "/", "commit", version_commit()));
    TRY(io_h5_set_attr_str(f, "/", "backend", info->backend));
    TRY(io_h5_set_attr_str(f, "/", "dtype", info->dtype));
    TRY(io_h5_set_attr_str(f, "/", "host", host));
    TRY(io_h5_set_attr_i64(f, "/", "ranks", info->ranks));
    TRY(io_h5_set_attr_str(f, "/", "identity", info->identity));
    TRY(io_h5_set_attr_str(f, "/", "model_hash", model_hash));
    TRY(io_h5_set_attr_str(f, "/", "started", info->started));
    TRY(io_h5_set_attr_str(f, "/", "finished", now));
    TRY(io_h5_set_attr_i64(f, "/", "total", g->count));
    TRY(io_h5_set_attr_i64(f, "/", "done", g->count));
    return io_h5_write_string(f, "config", info->config);
}

int sweep_runfile_write(const char *path, const SweepParts *parts, const SweepGrid *grid, const SweepRunInfo *info)
{
    Join j;
    IoH5 *f = NULL;
    int rc;
    memset(&j, 0, sizeof j);
    TRY_GOTO(join_columns(&j, parts, grid->count));
    TRY_GOTO(io_h5_create(&f, path));
    TRY_GOTO(write_head(f, grid, info, grid->count ? sweep_block_text(&j.all, SWEEP_COL_MODEL_HASH, 0) : ""));
    TRY_GOTO(write_grid(f, grid));
    TRY_GOTO(join_pixels(&j, f, parts));
    TRY_GOTO(write_columns(f, &j));
    rc = io_h5_commit(&f);
done:
    io_h5_close(f);
    join_deinit(&j);
    return rc;
}

/* ---- reading ---- */

static int read_meta(SweepRunFile *r)
{
    SweepBlock *b = &r->meta;
    IoH5Info info;
    TRY(io_h5_info(r->f, "meta/index", &info));
    if (info.ndim != 1 || info.dim[0] < 0 || info.dim[0] > SWEEP_MAX_ITEMS)
        return err_set(ERR_SHAPE, "%s: 'meta/index' is no column", io_h5_path(r->f));
    b->n = info.dim[0];
    return sweep_block_read_columns(b, r->f);
}

int sweep_runfile_open(SweepRunFile *r, const char *path)
{
    char *format;
    memset(r, 0, sizeof *r);
    TRY(io_h5_open(&r->f, path));
    TRY_CTX(io_h5_attr_str(r->f, "/", "format", &format), "%s: not the run file of a sweep", path);
    int ok = strcmp(format, "atelier sweep") == 0;
    free(format);
    if (!ok)
        return err_set(ERR_FORMAT, "%s: not the run file of a sweep", path);
    TRY(io_h5_read_string(r->f, "config", &r->config));
    return read_meta(r);
}

void sweep_runfile_close(SweepRunFile *r)
{
    sweep_block_deinit(&r->meta);
    io_h5_close(r->f);
    free(r->config);
    memset(r, 0, sizeof *r);
}

const char *sweep_runfile_record(const SweepRunFile *r, int64_t index)
{
    return sweep_block_text(&r->meta, SWEEP_COL_RECORD, index);
}

int sweep_runfile_image(SweepRunFile *r, int64_t index, IoImage *out)
{
    if (index < 0 || index >= r->meta.n)
        return err_set(ERR_RANGE, "%s: image %lld: expected 0..%lld", io_h5_path(r->f), (long long)index, (long long)r->meta.n - 1);
    int64_t row;
    char name[64] = "images";
    int w = (int)sweep_block_i64(&r->meta, SWEEP_COL_WIDTH, index), h = (int)sweep_block_i64(&r->meta, SWEEP_COL_HEIGHT, index);
    TRY(io_h5_read_rows(r->f, "meta/row", DTYPE_I64, index, 1, &row));
    if (!io_h5_exists(r->f, name))
        snprintf(name, sizeof name, "images_%dx%d", w, h);
    IoH5Info info;
    TRY(io_h5_info(r->f, name, &info));
    if (info.ndim != 4 || info.dtype != DTYPE_U8 || info.dim[1] != h || info.dim[2] != w || info.dim[3] != 3)
        return err_set(ERR_SHAPE, "%s: '%s' is no [n,%d,%d,3] of bytes", io_h5_path(r->f), name, h, w);
    TRY(io_image_init(out, w, h, 3));
    int rc = io_h5_read_rows(r->f, name, DTYPE_U8, row, 1, out->data);
    if (rc < 0)
        io_image_deinit(out);
    return rc;
}

int sweep_runfile_matches(const char *path, const char *identity, int *matches)
{
    IoH5 *f;
    char *text = NULL;
    *matches = 0;
    TRY(io_h5_open(&f, path));
    int rc = io_h5_attr_str(f, "/", "identity", &text);
    if (rc >= 0)
        *matches = strcmp(text, identity) == 0;
    free(text);
    io_h5_close(f);
    return rc;
}
