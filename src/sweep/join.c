#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/version.h"
#include "io/file.h"
#include "sweep/runfile.h"

enum { MAX_SIZES = 256, SAVE_BYTES = 64 << 20 };
static const IoH5Store PIXELS = {.gzip = 4, .checksum = 1, .chunk_rows = 1}, FLOATS = {.gzip = 4, .shuffle = 1, .checksum = 1, .chunk_rows = 1};

typedef struct {
    SweepShape shape;
    int64_t rows;
    IoH5Piece *piece; /* virtual: rows of the parts in their order */
    int pieces, room;
} Size;

typedef struct {
    const SweepParts *parts;
    int64_t count;
    SweepBlock all;    /* columns of all items */
    char ***record;    /* [parts] texts that `all` borrows */
    int64_t *row;      /* [count] row in the images of its size */
    int32_t *from;     /* [count] part number, -1: not found yet */
    int *size_of;      /* [parts] number of the part's size */
    Size size[MAX_SIZES];
    int nsize;
} Join;

static void join_deinit(Join *j)
{
    sweep_block_deinit(&j->all);
    for (int i = 0; j->record && i < j->parts->count; i++)
        free(j->record[i]);
    for (int i = 0; i < j->nsize; i++)
        free(j->size[i].piece);
    free(j->record);
    free(j->row);
    free(j->from);
    free(j->size_of);
}

static int join_init(Join *j, const SweepParts *parts, int64_t count)
{
    memset(j, 0, sizeof *j);
    j->parts = parts;
    j->count = count;
    TRY(sweep_block_init(&j->all, count));
    j->record = calloc((size_t)parts->count + 1, sizeof *j->record);
    j->size_of = calloc((size_t)parts->count + 1, sizeof *j->size_of);
    j->row = calloc((size_t)count + 1, sizeof *j->row);
    j->from = malloc(((size_t)count + 1) * sizeof *j->from);
    if (!j->record || !j->size_of || !j->row || !j->from)
        return err_set(ERR_NOMEM, "out of memory");
    for (int64_t k = 0; k < count; k++)
        j->from[k] = -1;
    return 0;
}

static int find_size(Join *j, const SweepShape *shape, int *out)
{
    for (*out = 0; *out < j->nsize; ++*out)
        if (sweep_shape_equal(&j->size[*out].shape, shape))
            return 0;
    if (j->nsize == MAX_SIZES)
        return err_set(ERR_RANGE, "more than %d image sizes in one run", (int)MAX_SIZES);
    j->size[j->nsize++] = (Size){.shape = *shape};
    return 0;
}

/* "images", or "images_512x768" where a run has several sizes. */
static const char *size_name(char buf[64], const char *base, const Join *j, const Size *s)
{
    if (j->nsize == 1)
        snprintf(buf, 64, "%s", base);
    else
        snprintf(buf, 64, "%s_%dx%d", base, s->shape.width, s->shape.height);
    return buf;
}

/* One more row of the part belongs to the virtual datasets. */
static int add_piece(Size *s, const char *path, int64_t i)
{
    IoH5Piece *last = s->pieces ? &s->piece[s->pieces - 1] : NULL;
    if (last && last->file == path && last->from + last->rows == i) {
        last->rows++;
        return 0;
    }
    if (s->pieces == s->room) {
        int room = 2 * s->room + 16;
        IoH5Piece *more = realloc(s->piece, (size_t)room * sizeof *more);
        if (!more)
            return err_set(ERR_NOMEM, "out of memory");
        s->piece = more;
        s->room = room;
    }
    s->piece[s->pieces++] = (IoH5Piece){path, i, 1};
    return 0;
}

static int join_row(Join *j, int p, const SweepPart *part, int64_t i, int64_t k)
{
    SweepRecord rec;
    Size *s = &j->size[j->size_of[p]];
    int rc = sweep_record_parse(&rec, j->record[p][i], j->parts->path[p]);
    if (rc >= 0)
        rc = sweep_block_set(&j->all, k, &rec, j->record[p][i]);
    sweep_record_deinit(&rec);
    TRY(rc);
    ((int64_t *)j->all.col[SWEEP_COL_INDEX])[k] = k;
    ((int32_t *)j->all.col[SWEEP_COL_WIDTH])[k] = part->shape.width;
    ((int32_t *)j->all.col[SWEEP_COL_HEIGHT])[k] = part->shape.height;
    ((double *)j->all.col[SWEEP_COL_SECONDS])[k] = part->seconds[i];
    ((int32_t *)j->all.col[SWEEP_COL_RANK])[k] = part->rank[i];
    j->from[k] = p;
    j->row[k] = s->rows++;
    return add_piece(s, j->parts->path[p], i);
}

/* An image that is in two parts counts once, in the first. */
static int join_part(Join *j, int p)
{
    SweepPart part;
    int rc;
    TRY_GOTO(sweep_part_open(&part, j->parts->path[p], NULL, 1));
    TRY_GOTO(find_size(j, &part.shape, &j->size_of[p]));
    j->record[p] = part.record;
    part.record = NULL;
    for (int64_t i = 0; i < part.n; i++)
        if (part.index[i] >= 0 && part.index[i] < j->count && j->from[part.index[i]] < 0)
            TRY_GOTO(join_row(j, p, &part, i, part.index[i]));
done:
    sweep_part_close(&part);
    return rc;
}

static int join_all(Join *j)
{
    for (int p = 0; p < j->parts->count; p++)
        TRY(join_part(j, p));
    for (int64_t k = 0; k < j->count; k++)
        if (j->from[k] < 0)
            return err_set(ERR_NOTFOUND, "image %lld is in no part file", (long long)k);
    return 0;
}

/* ---- pixels ---- */

/* Item k becomes row k among those of its size. */
static void rows_in_order(Join *j)
{
    int64_t next[MAX_SIZES] = {0};
    for (int64_t k = 0; k < j->count; k++)
        j->row[k] = next[j->size_of[j->from[k]]]++;
}

static int create_copies(Join *j, IoH5 *to)
{
    char name[64];
    for (int i = 0; i < j->nsize; i++) {
        const Size *s = &j->size[i];
        if (!s->rows)
            continue;
        TRY(io_h5_create_rows(to, size_name(name, "images", j, s), DTYPE_U8, s->rows, 3, (int64_t[]){s->shape.height, s->shape.width, 3},
                              &PIXELS));
        if (s->shape.latent[0])
            TRY(io_h5_create_rows(to, size_name(name, "latents", j, s), DTYPE_F32, s->rows, 3, s->shape.latent, &FLOATS));
    }
    return 0;
}

static int copy_row(Join *j, IoH5 *to, const SweepPart *part, const Size *s, int64_t i, int64_t row, void *buf)
{
    char name[64];
    TRY(io_h5_read_rows(part->f, "images", DTYPE_U8, i, 1, buf));
    TRY(io_h5_write_rows(to, size_name(name, "images", j, s), DTYPE_U8, row, 1, buf));
    if (!s->shape.latent[0])
        return 0;
    TRY(io_h5_read_rows(part->f, "latents", DTYPE_F32, i, 1, buf));
    return io_h5_write_rows(to, size_name(name, "latents", j, s), DTYPE_F32, row, 1, buf);
}

static int copy_part(Join *j, IoH5 *to, int p, uint8_t *taken, int64_t *unsaved)
{
    SweepPart part;
    const Size *s = &j->size[j->size_of[p]];
    int64_t pixels = (int64_t)s->shape.width * s->shape.height * 3, floats = s->shape.latent[0] * s->shape.latent[1] * s->shape.latent[2] * 4;
    void *buf = malloc((size_t)(pixels > floats ? pixels : floats));
    int rc = sweep_part_open(&part, j->parts->path[p], NULL, 0);
    if (rc >= 0 && !buf)
        rc = err_set(ERR_NOMEM, "out of memory");
    for (int64_t i = 0; i < part.n && rc >= 0; i++) {
        int64_t k = part.index[i];
        if (k < 0 || k >= j->count || j->from[k] != p || taken[k])
            continue;
        taken[k] = 1;
        rc = copy_row(j, to, &part, s, i, j->row[k], buf);
        *unsaved += pixels + floats;
        if (rc >= 0 && *unsaved > SAVE_BYTES) {
            rc = io_h5_save(to);
            *unsaved = 0;
        }
    }
    sweep_part_close(&part);
    free(buf);
    return rc;
}

static int copy_pixels(Join *j, IoH5 *to)
{
    int64_t unsaved = 0;
    uint8_t *taken = calloc((size_t)j->count + 1, 1);
    if (!taken)
        return err_set(ERR_NOMEM, "out of memory");
    rows_in_order(j);
    int rc = create_copies(j, to);
    for (int p = 0; p < j->parts->count && rc >= 0; p++)
        rc = copy_part(j, to, p, taken, &unsaved);
    free(taken);
    return rc;
}

static int link_pixels(Join *j, IoH5 *to)
{
    char name[64];
    for (int i = 0; i < j->nsize; i++) {
        const Size *s = &j->size[i];
        if (!s->rows)
            continue;
        TRY(io_h5_join(to, size_name(name, "images", j, s), "images", s->piece, s->pieces));
        if (s->shape.latent[0])
            TRY(io_h5_join(to, size_name(name, "latents", j, s), "latents", s->piece, s->pieces));
    }
    return 0;
}

static int write_parts(const Join *j, IoH5 *f, const char *path)
{
    const char *slash = strrchr(path, '/');
    size_t n = slash ? (size_t)(slash - path) + 1 : 0;
    const char **names = calloc((size_t)j->parts->count + 1, sizeof *names);
    if (!names)
        return err_set(ERR_NOMEM, "out of memory");
    for (int p = 0; p < j->parts->count; p++)
        names[p] = j->parts->path[p] + (strncmp(j->parts->path[p], path, n) == 0 ? n : 0);
    int rc = io_h5_write_strings(f, "parts", names, j->parts->count);
    free(names);
    TRY(rc);
    return io_h5_write(f, "meta/part", DTYPE_I32, 1, &j->count, j->from, NULL);
}

/* ---- the rest ---- */

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

static void cpu_name(char *out, size_t n)
{
    char line[512];
    FILE *f = fopen("/proc/cpuinfo", "r");
    snprintf(out, n, "unknown");
    while (f && fgets(line, sizeof line, f)) {
        const char *colon = strchr(line, ':');
        if (strncmp(line, "model name", 10) == 0 && colon) {
            snprintf(out, n, "%.*s", (int)strcspn(colon + 2, "\n"), colon + 2);
            break;
        }
    }
    if (f)
        fclose(f);
}

static int write_environment(IoH5 *f, const SweepRunInfo *info)
{
    struct utsname u;
    char text[512];
    const char *job = getenv("SLURM_JOB_ID");
    TRY(io_h5_group(f, "environment"));
    cpu_name(text, sizeof text);
    TRY(io_h5_set_attr_str(f, "environment", "processor", text));
    if (uname(&u) == 0) {
        snprintf(text, sizeof text, "%s %s %s", u.sysname, u.release, u.machine);
        TRY(io_h5_set_attr_str(f, "environment", "system", text));
        TRY(io_h5_set_attr_str(f, "environment", "host", u.nodename));
    }
    TRY(io_h5_set_attr_i64(f, "environment", "ranks", info->ranks));
    TRY(io_h5_set_attr_i64(f, "environment", "threads", info->threads));
    return job ? io_h5_set_attr_str(f, "environment", "slurm_job", job) : 0;
}

static int write_head(IoH5 *f, const SweepGrid *g, const SweepRunInfo *info, const char *model_hash, int copy)
{
    char now[CLOCK_UTC_SIZE];
    clock_utc_text(now);
    const struct {
        const char *key, *text;
    } texts[] = {{"format", "atelier sweep"},    {"layout", copy ? "contained" : "virtual"}, {"version", ATELIER_VERSION},
                 {"commit", version_commit()},   {"backend", info->backend},                 {"dtype", info->dtype},
                 {"identity", info->identity},   {"model_hash", model_hash},                 {"started", info->started},
                 {"finished", now}};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        TRY(io_h5_set_attr_str(f, "/", texts[i].key, texts[i].text));
    TRY(io_h5_set_attr_i64(f, "/", "format_version", 2));
    TRY(io_h5_set_attr_i64(f, "/", "ranks", info->ranks));
    TRY(io_h5_set_attr_i64(f, "/", "total", g->count));
    TRY(io_h5_set_attr_i64(f, "/", "done", g->count));
    TRY(write_environment(f, info));
    return io_h5_write_string(f, "config", info->config);
}

int sweep_runfile_write(const char *path, const SweepParts *parts, const SweepGrid *grid, const SweepRunInfo *info, int copy)
{
    Join j;
    IoH5 *f = NULL;
    int rc;
    TRY_GOTO(join_init(&j, parts, grid->count));
    TRY_GOTO(join_all(&j));
    TRY_GOTO(io_h5_create_safe(&f, path));
    TRY_GOTO(write_head(f, grid, info, grid->count ? sweep_block_text(&j.all, SWEEP_COL_MODEL_HASH, 0) : "", copy));
    TRY_GOTO(write_grid(f, grid));
    TRY_GOTO(copy ? copy_pixels(&j, f) : link_pixels(&j, f));
    if (!copy)
        TRY_GOTO(write_parts(&j, f, path));
    TRY_GOTO(sweep_block_write(f, &j.all));
    TRY_GOTO(io_h5_write(f, "meta/row", DTYPE_I64, 1, &grid->count, j.row, NULL));
    rc = io_h5_commit(&f);
done:
    io_h5_close(f);
    join_deinit(&j);
    return rc;
}
