#include "sweep/part.h"

#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "sweep/record.h"

enum { PART_GZIP = 4, TAIL = 4, MAX_ROWS = 100000000 };

void sweep_row_deinit(SweepRow *row)
{
    io_image_deinit(&row->image);
    free(row->latents);
    free(row->record);
    memset(row, 0, sizeof *row);
}

static int64_t latent_count(const int64_t latent[3])
{
    return latent[0] * latent[1] * latent[2];
}

int64_t sweep_row_bytes(const SweepRow *row)
{
    return (int64_t)row->image.w * row->image.h * 3 + (row->latents ? latent_count(row->latent) * 4 : 0) + 2048;
}

SweepShape sweep_row_shape(const SweepRow *row)
{
    SweepShape s = {.width = row->image.w, .height = row->image.h};
    if (row->latents)
        memcpy(s.latent, row->latent, sizeof s.latent);
    return s;
}

int sweep_shape_equal(const SweepShape *a, const SweepShape *b)
{
    return a->width == b->width && a->height == b->height && memcmp(a->latent, b->latent, sizeof a->latent) == 0;
}

static int create_sets(IoH5 *f, const char *identity, const SweepShape *s)
{
    const IoH5Store pixels = {.gzip = PART_GZIP, .checksum = 1, .chunk_rows = 1}, floats = {.gzip = PART_GZIP, .shuffle = 1, .checksum = 1, .chunk_rows = 1};
    const IoH5Store column = {.chunk_rows = 256};
    TRY(io_h5_set_attr_str(f, "/", "format", "atelier sweep part"));
    TRY(io_h5_set_attr_str(f, "/", "identity", identity));
    TRY(io_h5_create_rows(f, "images", DTYPE_U8, 0, 3, (int64_t[]){s->height, s->width, 3}, &pixels));
    if (latent_count(s->latent))
        TRY(io_h5_create_rows(f, "latents", DTYPE_F32, 0, 3, s->latent, &floats));
    TRY(io_h5_create_rows(f, "meta/index", DTYPE_I64, 0, 0, NULL, &column));
    TRY(io_h5_create_rows(f, "meta/seconds", DTYPE_F64, 0, 0, NULL, &column));
    TRY(io_h5_create_rows(f, "meta/rank", DTYPE_I32, 0, 0, NULL, &column));
    return io_h5_create_strings(f, "meta/record", 0);
}

int sweep_part_create(IoH5 **out, const char *path, const char *identity, const SweepShape *s)
{
    TRY(io_h5_create_safe(out, path));
    int rc = create_sets(*out, identity, s);
    if (rc >= 0)
        rc = io_h5_publish(*out);
    if (rc < 0) {
        io_h5_close(*out);
        *out = NULL;
    }
    return rc;
}

int sweep_part_append(IoH5 *f, const SweepRow *rows, int n)
{
    for (int i = 0; i < n; i++) {
        const SweepRow *r = &rows[i];
        const char *record = r->record;
        int32_t rank = r->rank;
        TRY(io_h5_append(f, "images", DTYPE_U8, 1, r->image.data));
        if (r->latents)
            TRY(io_h5_append(f, "latents", DTYPE_F32, 1, r->latents));
        TRY(io_h5_append(f, "meta/index", DTYPE_I64, 1, &r->index));
        TRY(io_h5_append(f, "meta/seconds", DTYPE_F64, 1, &r->seconds));
        TRY(io_h5_append(f, "meta/rank", DTYPE_I32, 1, &rank));
        TRY(io_h5_append_strings(f, "meta/record", &record, 1));
    }
    return 0;
}

/* ---- reading ---- */

static int open_shape(SweepPart *p)
{
    IoH5Info info;
    TRY(io_h5_info(p->f, "images", &info));
    if (info.ndim != 4 || info.dtype != DTYPE_U8 || info.is_string || info.dim[3] != 3 || info.dim[1] < 1 || info.dim[1] > 16384 ||
        info.dim[2] < 1 || info.dim[2] > 16384 || info.dim[0] > MAX_ROWS)
        return err_set(ERR_SHAPE, "%s: 'images' is no [n,H,W,3] of bytes", io_h5_path(p->f));
    p->n = info.dim[0];
    p->shape.height = (int)info.dim[1];
    p->shape.width = (int)info.dim[2];
    if (!io_h5_exists(p->f, "latents"))
        return 0;
    TRY(io_h5_info(p->f, "latents", &info));
    if (info.ndim != 4 || info.dtype != DTYPE_F32 || info.is_string || info.dim[0] != p->n)
        return err_set(ERR_SHAPE, "%s: 'latents' is no [n,C,h,w] of floats", io_h5_path(p->f));
    memcpy(p->shape.latent, info.dim + 1, sizeof p->shape.latent);
    return 0;
}

static int read_column(SweepPart *p, const char *name, Dtype t, void *to)
{
    void **out = to;
    if (!(*out = calloc((size_t)p->n + 1, dtype_size(t))))
        return err_set(ERR_NOMEM, "out of memory");
    return io_h5_read(p->f, name, t, *out, p->n);
}

static int check_identity(IoH5 *f, const char *identity)
{
    char *text;
    TRY(io_h5_attr_str(f, "/", "identity", &text));
    int same = strcmp(text, identity) == 0;
    free(text);
    return same ? 0 : err_set(ERR_BUSY, "%s: holds images of another configuration", io_h5_path(f));
}

int sweep_part_open(SweepPart *p, const char *path, const char *identity, int records)
{
    memset(p, 0, sizeof *p);
    TRY(io_h5_open(&p->f, path));
    if (identity)
        TRY(check_identity(p->f, identity));
    TRY(open_shape(p));
    TRY(read_column(p, "meta/index", DTYPE_I64, &p->index));
    TRY(read_column(p, "meta/seconds", DTYPE_F64, &p->seconds));
    TRY(read_column(p, "meta/rank", DTYPE_I32, &p->rank));
    if (!records)
        return 0;
    int64_t n;
    TRY(io_h5_read_strings(p->f, "meta/record", &p->record, &n));
    return n == p->n ? 0 : err_set(ERR_SHAPE, "%s: %lld records of %lld images", path, (long long)n, (long long)p->n);
}

void sweep_part_close(SweepPart *p)
{
    io_h5_close(p->f);
    free(p->index);
    free(p->seconds);
    free(p->rank);
    free(p->record);
    memset(p, 0, sizeof *p);
}

int sweep_part_row_is_sound(SweepPart *p, int64_t i)
{
    SweepRecord rec;
    IoImage img = {0};
    char hex[HASH_HEX_SIZE];
    int rc = sweep_record_parse(&rec, p->record[i], "record"), sound = 0;
    if (rc >= 0 && rec.width == p->shape.width && rec.height == p->shape.height &&
        io_image_init(&img, p->shape.width, p->shape.height, 3) >= 0 && io_h5_read_rows(p->f, "images", DTYPE_U8, i, 1, img.data) >= 0 &&
        sweep_pixels_hash(hex, &img) >= 0)
        sound = strcmp(hex, rec.pixels_sha256) == 0;
    io_image_deinit(&img);
    sweep_record_deinit(&rec);
    return sound;
}

static int write_index(const char *path, const int64_t *index, int64_t n)
{
    IoH5 *f;
    TRY(io_h5_open_safe(&f, path));
    int rc = io_h5_write_rows(f, "meta/index", DTYPE_I64, 0, n, index);
    if (rc >= 0)
        rc = io_h5_save(f);
    int closed = io_h5_close(f);
    return rc < 0 ? rc : closed;
}

int sweep_part_check(SweepPart *p, const char *path, int all, int64_t *bad)
{
    *bad = 0;
    for (int64_t i = all || p->n < TAIL ? 0 : p->n - TAIL; i < p->n; i++)
        if (p->index[i] >= 0 && !sweep_part_row_is_sound(p, i)) {
            p->index[i] = -1;
            ++*bad;
        }
    if (!*bad)
        return 0;
    TRY(io_h5_close(p->f));
    p->f = NULL;
    TRY(write_index(path, p->index, p->n));
    return io_h5_open(&p->f, path);
}
