#include "sweep/store.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/str.h"
#include "io/file.h"

static int parts_dir(char **out, const char *output)
{
    return io_path_join(out, output, "parts");
}

int sweep_store_init(SweepStore *s, const char *output, const char *identity, int rank, int64_t seq)
{
    memset(s, 0, sizeof *s);
    s->rank = rank;
    s->seq = seq;
    TRY(parts_dir(&s->dir, output));
    TRY(str_copy(&s->identity, identity));
    return io_dir_make(s->dir);
}

static int leave_part(SweepStore *s)
{
    int rc = io_h5_close(s->f);
    free(s->path);
    s->f = NULL;
    s->path = NULL;
    s->rows = s->bytes = 0;
    return rc;
}

void sweep_store_deinit(SweepStore *s)
{
    leave_part(s);
    free(s->dir);
    free(s->identity);
    memset(s, 0, sizeof *s);
}

/* "r0012-00000003.h5" */
static int parse_name(const char *name, int *rank, int64_t *seq)
{
    int used = 0;
    long long n;
    if (sscanf(name, "r%d-%lld.h5%n", rank, &n, &used) != 2 || !used || name[used] || *rank < 0 || n < 0)
        return 0;
    *seq = n;
    return 1;
}

/* This rank's newest part, where it has room and is of this shape: an interrupted run goes on in it. */
static int find_own(SweepStore *s, const SweepShape *shape)
{
    IoNames names;
    SweepPart part = {0};
    char *path = NULL;
    int rank;
    int64_t seq, size;
    TRY(io_dir_list(&names, s->dir, ".h5"));
    for (int i = names.count - 1; i >= 0 && !path; i--)
        if (parse_name(names.items[i], &rank, &seq) && rank == s->rank && seq < s->seq && io_path_join(&path, s->dir, names.items[i]) < 0)
            break;
    io_names_deinit(&names);
    if (!path)
        return 0;
    int rc = sweep_part_open(&part, path, s->identity, 0), fits = 0;
    if (rc >= 0)
        rc = io_file_size(&size, path);
    if (rc >= 0) {
        fits = sweep_shape_equal(&part.shape, shape) && part.n < SWEEP_PART_ROWS && size < SWEEP_PART_BYTES;
        s->rows = part.n;
        s->bytes = size;
    }
    sweep_part_close(&part);
    if (fits && io_h5_open_safe(&s->f, path) >= 0)
        s->path = path;
    else
        free(path);
    return 0; /* a part that cannot be used is left alone */
}

static int take_part(SweepStore *s, const SweepShape *shape)
{
    int first = s->shape.width == 0;
    if (s->f && sweep_shape_equal(&s->shape, shape) && s->rows < SWEEP_PART_ROWS && s->bytes < SWEEP_PART_BYTES)
        return 0;
    if (s->f) {
        TRY(sweep_store_save(s));
        TRY(leave_part(s));
    }
    if (first)
        TRY(find_own(s, shape));
    s->shape = *shape;
    if (s->f)
        return 0;
    s->rows = s->bytes = 0;
    if (!s->path)
        TRY(str_format(&s->path, "%s/r%04d-%08lld.h5", s->dir, s->rank, (long long)s->seq));
    TRY(sweep_part_create(&s->f, s->path, s->identity, shape));
    s->seq++;
    return 0;
}

int sweep_store_add(SweepStore *s, const SweepRow *rows, int n)
{
    SweepShape shape = sweep_row_shape(&rows[0]);
    TRY(take_part(s, &shape));
    TRY(sweep_part_append(s->f, rows, n));
    s->rows += n;
    for (int i = 0; i < n; i++)
        s->bytes += sweep_row_bytes(&rows[i]);
    s->dirty = 1;
    return 0;
}

int sweep_store_save(SweepStore *s)
{
    if (s->f && s->dirty)
        TRY(io_h5_save(s->f));
    s->dirty = 0;
    return 0;
}

/* ---- finding them again ---- */

void sweep_parts_deinit(SweepParts *p)
{
    for (int i = 0; i < p->count; i++)
        free(p->path[i]);
    free(p->path);
    memset(p, 0, sizeof *p);
}

static int add_part(SweepParts *p, const char *dir, const char *name, int repair)
{
    int rank;
    int64_t seq;
    char *path;
    if (!parse_name(name, &rank, &seq))
        return 0;
    TRY(io_path_join(&path, dir, name));
    p->path[p->count++] = path;
    p->seq = seq >= p->seq ? seq + 1 : p->seq;
    return repair ? io_h5_recover(path) : 0;
}

int sweep_parts_scan(SweepParts *p, const char *output, int repair)
{
    char *dir;
    IoNames names = {0};
    int rc = 0;
    memset(p, 0, sizeof *p);
    TRY(parts_dir(&dir, output));
    if (!io_file_is_dir(dir))
        goto done;
    if (repair)
        TRY_GOTO(io_dir_remove_temps(dir));
    TRY_GOTO(io_dir_list(&names, dir, NULL));
    if (!(p->path = calloc((size_t)names.count + 1, sizeof *p->path))) {
        rc = err_set(ERR_NOMEM, "out of memory");
        goto done;
    }
    for (int i = 0; i < names.count; i++)
        TRY_GOTO(add_part(p, dir, names.items[i], repair));
done:
    io_names_deinit(&names);
    free(dir);
    return rc;
}

typedef struct {
    uint8_t *done;
    int64_t count, n;
    SweepPartCheck check;
    void *ctx;
    char *last; /* inputs of the image before */
} ReadState;

/* Records end with what they were made from (record.h), so equal ends need no second look. */
static int check_inputs(ReadState *st, const char *record)
{
    const char *inputs = strstr(record, "\"model\": ");
    if (!st->check || (st->last && inputs && strcmp(inputs, st->last) == 0))
        return 0;
    free(st->last);
    st->last = NULL;
    TRY(str_copy(&st->last, inputs ? inputs : ""));
    return st->check(st->ctx, record) < 0 ? err_set(ERR_BUSY, "%s", err_message()) : 0;
}

static int mark_rows(const SweepPart *p, const char *path, ReadState *st)
{
    for (int64_t i = 0; i < p->n; i++) {
        int64_t k = p->index[i];
        if (k < 0)
            continue;
        if (k >= st->count)
            return err_set(ERR_RANGE, "%s: image number %lld of %lld", path, (long long)k, (long long)st->count);
        TRY(check_inputs(st, p->record[i]));
        st->n += !st->done[k];
        st->done[k] = 1;
    }
    return 0;
}

static int read_part(const char *path, const char *identity, ReadState *st)
{
    SweepPart p;
    int64_t bad = 0;
    int rc = sweep_part_open(&p, path, identity, 1), damaged;
    if (rc >= 0)
        rc = sweep_part_check(&p, path, 0, &bad);
    damaged = bad > 0;
    if (rc >= 0 && damaged)
        rc = sweep_part_check(&p, path, 1, &bad);
    if (rc >= 0 && damaged)
        log_warn("%s is damaged; images that cannot be read are rendered again", path);
    if (rc >= 0)
        rc = mark_rows(&p, path, st);
    sweep_part_close(&p);
    return rc;
}

static int set_aside(const char *path)
{
    char *aside;
    log_warn("%s; its images are rendered again", err_message());
    TRY(str_format(&aside, "%s.broken", path));
    int rc = rename(path, aside) == 0 ? 0 : err_errno("%s", aside);
    free(aside);
    return rc;
}

int sweep_parts_read(SweepParts *p, const char *identity, uint8_t *done, int64_t count, int64_t *n, SweepPartCheck check, void *ctx)
{
    ReadState st = {.done = done, .count = count, .check = check, .ctx = ctx};
    int kept = 0, rc = 0;
    for (int i = 0; i < p->count; i++) {
        int bad = rc < 0 ? 0 : read_part(p->path[i], identity, &st);
        if (bad < 0 && (bad == ERR_BUSY || bad == ERR_NOMEM || bad == ERR_SPACE)) {
            rc = bad;
        } else if (bad < 0) {
            rc = set_aside(p->path[i]);
            if (rc >= 0) {
                free(p->path[i]);
                continue;
            }
        }
        p->path[kept++] = p->path[i];
    }
    p->count = kept;
    *n = st.n;
    free(st.last);
    return rc;
}

int sweep_parts_remove(const char *output)
{
    SweepParts p;
    char *dir;
    int rc = sweep_parts_scan(&p, output, 1);
    for (int i = 0; i < p.count && rc >= 0; i++)
        rc = io_file_remove(p.path[i]);
    sweep_parts_deinit(&p);
    TRY(rc);
    TRY(parts_dir(&dir, output));
    rmdir(dir); /* stays when it holds something else, such as *.broken */
    free(dir);
    return 0;
}
