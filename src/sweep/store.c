#include "sweep/store.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "io/file.h"

enum { MERGE = 64 };

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
    if (!(s->small = calloc(MERGE, sizeof *s->small)))
        return err_set(ERR_NOMEM, "out of memory");
    return io_dir_make(s->dir);
}

static void forget_small(SweepStore *s)
{
    for (int i = 0; i < s->nsmall; i++)
        free(s->small[i]);
    s->nsmall = 0;
}

void sweep_store_deinit(SweepStore *s)
{
    if (s->small)
        forget_small(s);
    free(s->small);
    free(s->dir);
    free(s->identity);
    memset(s, 0, sizeof *s);
}

static int next_path(SweepStore *s, char **out)
{
    return str_format(out, "%s/r%04d-%08lld.h5", s->dir, s->rank, (long long)s->seq++);
}

static int part_begin(IoH5 **f, const SweepStore *s, const char *path, int width, int height, const int64_t latent[3])
{
    TRY(io_h5_create(f, path));
    TRY(io_h5_set_attr_str(*f, "/", "format", "atelier sweep part"));
    TRY(io_h5_set_attr_str(*f, "/", "identity", s->identity));
    return sweep_block_create(*f, width, height, latent);
}

static int append_file(IoH5 *to, const char *path)
{
    IoH5 *f = NULL;
    SweepBlock b = {0};
    int rc;
    TRY_GOTO(io_h5_open(&f, path));
    TRY_GOTO(sweep_block_read(&b, f, 1));
    rc = sweep_block_append(to, &b);
done:
    sweep_block_deinit(&b);
    io_h5_close(f);
    return rc;
}

/* One file in place of many; the many go only after the one is safe. */
static int merge_small(SweepStore *s)
{
    IoH5 *f = NULL;
    char *path = NULL;
    int rc;
    TRY_GOTO(next_path(s, &path));
    TRY_GOTO(part_begin(&f, s, path, s->width, s->height, s->latent));
    for (int i = 0; i < s->nsmall; i++)
        TRY_GOTO(append_file(f, s->small[i]));
    TRY_GOTO(io_h5_commit(&f));
    for (int i = 0; i < s->nsmall; i++)
        TRY_GOTO(io_file_remove(s->small[i]));
done:
    io_h5_close(f);
    free(path);
    forget_small(s);
    return rc;
}

int sweep_store_add(SweepStore *s, const SweepRow *rows, int n, int with_latents)
{
    IoH5 *f = NULL;
    char *path = NULL;
    SweepBlock b = {0};
    int rc;
    TRY_GOTO(sweep_block_from_rows(&b, rows, n, with_latents));
    if (b.width != s->width || b.height != s->height)
        forget_small(s);
    s->width = b.width;
    s->height = b.height;
    memcpy(s->latent, b.latent, sizeof s->latent);
    TRY_GOTO(next_path(s, &path));
    TRY_GOTO(part_begin(&f, s, path, b.width, b.height, b.latent));
    TRY_GOTO(sweep_block_append(f, &b));
    TRY_GOTO(io_h5_commit(&f));
    s->small[s->nsmall++] = path;
    path = NULL;
    if (s->nsmall == MERGE)
        rc = merge_small(s);
done:
    sweep_block_deinit(&b);
    io_h5_close(f);
    free(path);
    return rc;
}

/* ---- finding them again ---- */

void sweep_parts_deinit(SweepParts *p)
{
    for (int i = 0; i < p->count; i++)
        free(p->path[i]);
    free(p->path);
    memset(p, 0, sizeof *p);
}

int sweep_parts_scan(SweepParts *p, const char *output)
{
    char *dir;
    IoNames names = {0};
    int rc = 0;
    memset(p, 0, sizeof *p);
    TRY(parts_dir(&dir, output));
    if (!io_file_is_dir(dir))
        goto done;
    TRY_GOTO(io_dir_remove_temps(dir));
    TRY_GOTO(io_dir_list(&names, dir, NULL));
    if (!(p->path = calloc((size_t)names.count + 1, sizeof *p->path))) {
        rc = err_set(ERR_NOMEM, "out of memory");
        goto done;
    }
    for (int i = 0; i < names.count; i++) {
        int rank, used = 0;
        long long seq;
        char *path;
        TRY_GOTO(io_path_join(&path, dir, names.items[i]));
        if (sscanf(names.items[i], "r%d-%lld.h5%n", &rank, &seq, &used) == 2 && used > 0 && !names.items[i][used]) {
            p->path[p->count++] = path;
            p->seq = seq >= p->seq ? seq + 1 : p->seq;
            continue;
        }
        free(path);
    }
done:
    io_names_deinit(&names);
    free(dir);
    return rc;
}

static int check_identity(IoH5 *f, const char *identity)
{
    char *text;
    TRY(io_h5_attr_str(f, "/", "identity", &text));
    int same = strcmp(text, identity) == 0;
    free(text);
    return same ? 0 : err_set(ERR_BUSY, "%s: holds images of another configuration", io_h5_path(f));
}

typedef struct {
    uint8_t *done;
    int64_t count, n;
    SweepPartCheck check;
    void *ctx;
    char last[2][512]; /* model and adapters of the image before */
} ReadState;

static int read_part(const char *path, const char *identity, ReadState *st)
{
    IoH5 *f = NULL;
    SweepBlock b = {0};
    int rc;
    TRY_GOTO(io_h5_open(&f, path));
    TRY_GOTO(check_identity(f, identity));
    TRY_GOTO(sweep_block_read(&b, f, 0));
    for (int64_t i = 0; i < b.n; i++) {
        int64_t k = sweep_block_i64(&b, SWEEP_COL_INDEX, i);
        if (k < 0 || k >= st->count) {
            rc = err_set(ERR_RANGE, "%s: image number %lld of %lld", path, (long long)k, (long long)st->count);
            goto done;
        }
        const char *model = sweep_block_text(&b, SWEEP_COL_MODEL_HASH, i), *lora = sweep_block_text(&b, SWEEP_COL_LORA_HASH, i);
        if (st->check && (strncmp(model, st->last[0], 511) != 0 || strncmp(lora, st->last[1], 511) != 0)) {
            int bad = st->check(st->ctx, sweep_block_text(&b, SWEEP_COL_RECORD, i));
            if (bad < 0) {
                rc = err_set(ERR_BUSY, "%s", err_message());
                goto done;
            }
            snprintf(st->last[0], sizeof st->last[0], "%s", model);
            snprintf(st->last[1], sizeof st->last[1], "%s", lora);
        }
        st->n += !st->done[k];
        st->done[k] = 1;
    }
done:
    sweep_block_deinit(&b);
    io_h5_close(f);
    return rc;
}

int sweep_parts_read(SweepParts *p, const char *identity, uint8_t *done, int64_t count, int64_t *n, SweepPartCheck check, void *ctx)
{
    ReadState st = {.done = done, .count = count, .check = check, .ctx = ctx};
    int kept = 0;
    for (int i = 0; i < p->count; i++) {
        int rc = read_part(p->path[i], identity, &st);
        if (rc >= 0) {
            p->path[kept++] = p->path[i];
            continue;
        }
        char *aside = NULL;
        if (rc != ERR_BUSY && rc != ERR_NOMEM && str_format(&aside, "%s.broken", p->path[i]) >= 0) {
            log_warn("%s; its images are rendered again", err_message());
            rc = rename(p->path[i], aside) == 0 ? 0 : err_errno("%s", aside);
        }
        free(aside);
        if (rc < 0) {
            while (i < p->count)
                p->path[kept++] = p->path[i++];
            p->count = kept;
            return rc;
        }
        free(p->path[i]);
    }
    p->count = kept;
    *n = st.n;
    return 0;
}

int sweep_parts_remove(const char *output)
{
    SweepParts p;
    char *dir;
    int rc = sweep_parts_scan(&p, output);
    for (int i = 0; i < p.count && rc >= 0; i++)
        rc = io_file_remove(p.path[i]);
    sweep_parts_deinit(&p);
    TRY(rc);
    TRY(parts_dir(&dir, output));
    rmdir(dir); /* stays when it holds something else, such as *.broken */
    free(dir);
    return 0;
}
