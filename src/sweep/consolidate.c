#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/file.h"
#include "sweep/runfile.h"

enum { SAVE_BYTES = 64 << 20, ROUND_BYTES = 16 << 20 };

/* A set of this name with the chunks of the source's, empty. */
static int make_set(IoH5 *to, IoH5 *from, const char *name)
{
    IoH5Info info;
    TRY(io_h5_info(from, name, &info));
    if (info.ndim != 4 || info.is_string)
        return err_set(ERR_SHAPE, "%s: '%s' has %d dimensions, expected 4", io_h5_path(from), name, info.ndim);
    const IoH5Store store = {.gzip = 4, .shuffle = info.dtype == DTYPE_F32, .checksum = 1, .chunk_rows = 1};
    return io_h5_create_rows(to, name, info.dtype, info.dim[0], 3, info.dim + 1, &store);
}

static int is_pixels(const char *name)
{
    return strncmp(name, "images", 6) == 0 || strncmp(name, "latents", 7) == 0;
}

static int copy_rest(IoH5 *to, IoH5 *from)
{
    char **names;
    int n, rc = 0;
    TRY(io_h5_list(from, "/", &names, &n));
    for (int i = 0; i < n && rc >= 0; i++) {
        if (is_pixels(names[i]))
            rc = make_set(to, from, names[i]);
        else if (strcmp(names[i], "parts") != 0)
            rc = io_h5_copy(to, from, names[i]);
    }
    io_h5_names_free(names, n);
    TRY(rc);
    TRY(io_h5_copy_attrs(to, from, "/"));
    TRY(io_h5_set_attr_str(to, "/", "layout", "contained"));
    if (io_h5_exists(to, "meta/part"))
        TRY(io_h5_delete(to, "meta/part"));
    return io_h5_delete(to, "meta/row");
}

static int set_name(char name[64], IoH5 *f, const char *base, int w, int h)
{
    snprintf(name, 64, "%s", base);
    if (!io_h5_exists(f, name))
        snprintf(name, 64, "%s_%dx%d", base, w, h);
    return io_h5_exists(f, name);
}

typedef struct {
    int w, h;
    int64_t next;
} Place;

/* Rows are given out per size, in the order of the items. */
static int take_row(Place *place, int *n, int w, int h, int64_t *row)
{
    int i = 0;
    while (i < *n && (place[i].w != w || place[i].h != h))
        i++;
    if (i == 256)
        return err_set(ERR_RANGE, "more than 256 image sizes in one run");
    if (i == *n)
        place[(*n)++] = (Place){.w = w, .h = h};
    *row = place[i].next++;
    return 0;
}

static int copy_item(SweepRunFile *run, IoH5 *to, int64_t k, int64_t row, int64_t *bytes)
{
    char name[64];
    IoImage img;
    float *latents;
    int64_t dim[3];
    TRY(sweep_runfile_image(run, k, &img));
    set_name(name, to, "images", img.w, img.h);
    int rc = io_h5_write_rows(to, name, DTYPE_U8, row, 1, img.data);
    *bytes += (int64_t)img.w * img.h * 3;
    int kept = set_name(name, to, "latents", img.w, img.h);
    io_image_deinit(&img);
    TRY(rc);
    if (!kept)
        return 0;
    TRY(sweep_runfile_latents(run, k, &latents, dim));
    rc = io_h5_write_rows(to, name, DTYPE_F32, row, 1, latents);
    *bytes += dim[0] * dim[1] * dim[2] * 4;
    free(latents);
    return rc;
}

/* row[k]: that of item k among those of its size; place[*n]: the sizes, with how many items each has. */
static int find_rows(const SweepRunFile *run, Place place[256], int *n, int64_t *row)
{
    *n = 0;
    for (int64_t k = 0; k < run->meta.n; k++)
        TRY(take_row(place, n, (int)sweep_block_i64(&run->meta, SWEEP_COL_WIDTH, k), (int)sweep_block_i64(&run->meta, SWEEP_COL_HEIGHT, k),
                     &row[k]));
    return 0;
}

/* A new file with all but the pixels. */
static int begin(IoH5 **to, SweepRunFile *run, const char *path, const int64_t *row)
{
    TRY(io_h5_create_safe(to, path));
    TRY(copy_rest(*to, run->f));
    return io_h5_write(*to, "meta/row", DTYPE_I64, 1, &run->meta.n, row, NULL);
}

static int copy_items(SweepRunFile *run, const char *path, const int64_t *row)
{
    IoH5 *to = NULL;
    int64_t unsaved = 0;
    int rc;
    TRY_GOTO(begin(&to, run, path, row));
    for (int64_t k = 0; k < run->meta.n; k++) {
        TRY_GOTO(copy_item(run, to, k, row[k], &unsaved));
        if (unsaved > SAVE_BYTES)
            TRY_GOTO(io_h5_save(to));
        unsaved = unsaved > SAVE_BYTES ? 0 : unsaved;
    }
    rc = io_h5_commit(&to);
done:
    io_h5_close(to);
    return rc;
}

/* ---- by all ranks, through MPI-IO ---- */

/* What this rank writes of one size. */
typedef struct {
    int64_t first, end;  /* rows */
    int64_t item;        /* the next one to be looked at */
    int64_t per_round;   /* rows */
    uint8_t *pixels;
    float *latents;      /* NULL: not kept */
} Share;

static int read_item(SweepRunFile *run, Share *s, int64_t k, int64_t at)
{
    IoImage img;
    float *latents;
    int64_t dim[3], bytes;
    TRY(sweep_runfile_image(run, k, &img));
    bytes = (int64_t)img.w * img.h * 3;
    memcpy(s->pixels + at * bytes, img.data, (size_t)bytes);
    io_image_deinit(&img);
    if (!s->latents)
        return 0;
    TRY(sweep_runfile_latents(run, k, &latents, dim));
    int64_t n = dim[0] * dim[1] * dim[2];
    memcpy(s->latents + at * n, latents, (size_t)n * sizeof *latents);
    free(latents);
    return 0;
}

/* The next rows of this rank into memory. */
static int read_round(SweepRunFile *run, Share *s, const Place *p, const int64_t *row, int64_t rows)
{
    for (int64_t got = 0; got < rows; s->item++) {
        if (sweep_block_i64(&run->meta, SWEEP_COL_WIDTH, s->item) != p->w || sweep_block_i64(&run->meta, SWEEP_COL_HEIGHT, s->item) != p->h ||
            row[s->item] < s->first)
            continue;
        TRY(read_item(run, s, s->item, got++));
    }
    return 0;
}

/* Memory of a rank for one write. Tests make it small. */
static int64_t round_bytes(void)
{
    const char *text = getenv("ATELIER_H5_ROUND");
    int64_t n = text ? atoll(text) : 0;
    return n > 0 ? n : ROUND_BYTES;
}

static int share_init(Share *s, const Place *p, IoH5 *to, Comm *comm, const char *latents)
{
    int64_t bytes = (int64_t)p->w * p->h * 3;
    IoH5Info info;
    *s = (Share){.first = p->next * comm->rank / comm->size, .end = p->next * (comm->rank + 1) / comm->size, .per_round = round_bytes() / bytes + 1};
    s->pixels = malloc((size_t)(s->per_round * bytes));
    if (!s->pixels)
        return err_set(ERR_NOMEM, "out of memory");
    if (!io_h5_exists(to, latents))
        return 0;
    TRY(io_h5_info(to, latents, &info));
    s->latents = malloc((size_t)(s->per_round * info.dim[1] * info.dim[2] * info.dim[3]) * sizeof *s->latents);
    return s->latents ? 0 : err_set(ERR_NOMEM, "out of memory");
}

/* All images of one size. Every rank takes part in every write, since places in the file are given out together. */
static int copy_size(SweepRunFile *run, IoH5 *to, Comm *comm, const Place *p, const int64_t *row)
{
    char images[64], latents[64];
    Share s;
    int64_t rounds;
    set_name(images, to, "images", p->w, p->h);
    set_name(latents, to, "latents", p->w, p->h);
    int rc = comm_agree(comm, share_init(&s, p, to, comm, latents));
    rounds = (s.end - s.first + s.per_round - 1) / s.per_round;
    if (rc >= 0)
        rc = comm_max_i64(comm, &rounds, 1);
    for (int64_t i = 0; i < rounds && rc >= 0; i++) {
        int64_t rows = s.end - s.first < s.per_round ? s.end - s.first : s.per_round;
        rc = comm_agree(comm, read_round(run, &s, p, row, rows));
        if (rc >= 0)
            rc = comm_agree(comm, io_h5_write_rows_shared(to, images, DTYPE_U8, s.first, rows, s.pixels));
        if (rc >= 0 && s.latents)
            rc = comm_agree(comm, io_h5_write_rows_shared(to, latents, DTYPE_F32, s.first, rows, s.latents));
        s.first += rows;
    }
    free(s.pixels);
    free(s.latents);
    return rc;
}

static int move_to(const char *temp, const char *out)
{
    if (rename(temp, out) < 0)
        return err_errno("%s: rename to %s", temp, out);
    return io_dir_sync(out);
}

static int copy_shared(SweepRunFile *run, Comm *comm, const Place *place, int n, const char *temp, const int64_t *row)
{
    IoH5 *to = NULL;
    int rc = comm->rank == 0 ? begin(&to, run, temp, row) : 0;
    if (rc >= 0 && to)
        rc = io_h5_commit(&to);
    io_h5_close(to);
    to = NULL;
    TRY(comm_agree(comm, rc));
    TRY(comm_agree(comm, io_h5_open_shared(&to, temp, comm_mpi(comm))));
    for (int i = 0; i < n && rc >= 0; i++)
        rc = copy_size(run, to, comm, &place[i], row);
    if (rc >= 0)
        rc = io_h5_flush(to);
    int closed = io_h5_close(to);
    return comm_agree(comm, rc < 0 ? rc : closed);
}

static int consolidate_shared(SweepRunFile *run, Comm *comm, const Place *place, int n, const char *out, const int64_t *row)
{
    char *dir = NULL, *temp = NULL;
    int rc = io_path_dir(&dir, out);
    if (rc >= 0)
        rc = str_format(&temp, "%s/.%s.tmp-shared", dir, io_path_name(out));
    rc = comm_agree(comm, rc);
    if (rc >= 0) {
        rc = copy_shared(run, comm, place, n, temp, row);
        if (comm->rank == 0)
            rc = rc >= 0 ? move_to(temp, out) : (io_file_remove(temp), rc);
        rc = comm_agree(comm, rc);
    }
    free(dir);
    free(temp);
    return rc;
}

int sweep_runfile_consolidate(const char *path, const char *out, Comm *comm)
{
    SweepRunFile run;
    Place place[256];
    int n = 0, shared = io_h5_is_parallel() && comm->size > 1 && comm_mpi(comm);
    int64_t *row = NULL;
    int rc = shared || comm->rank == 0 ? sweep_runfile_open(&run, path) : (memset(&run, 0, sizeof run), 0);
    if (rc >= 0 && run.f)
        rc = sweep_runfile_check(&run);
    if (rc >= 0 && !(row = malloc(((size_t)run.meta.n + 1) * sizeof *row)))
        rc = err_set(ERR_NOMEM, "out of memory");
    if (rc >= 0 && run.f)
        rc = find_rows(&run, place, &n, row);
    rc = comm_agree(comm, rc);
    if (rc >= 0 && shared)
        rc = consolidate_shared(&run, comm, place, n, out, row);
    else if (rc >= 0)
        rc = comm_agree(comm, comm->rank ? 0 : copy_items(&run, out, row));
    free(row);
    sweep_runfile_close(&run);
    return rc;
}
