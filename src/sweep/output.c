#include "sweep/output.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/signal.h"
#include "sweep/sheet.h"
#include "sweep/writer.h"

int sweep_identity(const SweepConf *c, char hex[HASH_HEX_SIZE])
{
    char *text;
    uint8_t sum[HASH_SIZE];
    TRY(sweep_conf_identity(c, &text));
    if (c->wildcards[0]) { /* what the files say decides what the images are */
        SweepGrid g;
        char *more = NULL;
        int made = sweep_grid_init(&g, c);
        if (made >= 0)
            made = str_format(&more, "%s%s\n", text, g.wildcards_hash);
        sweep_grid_deinit(&g);
        free(text);
        TRY(made);
        text = more;
    }
    int rc = hash_bytes(sum, text, strlen(text));
    if (rc >= 0)
        hash_hex(hex, sum, HASH_SIZE);
    free(text);
    return rc;
}

/* First line in which two texts differ. */
static void first_difference(const char *a, const char *b, char line_a[200], char line_b[200])
{
    while (*a && *b) {
        size_t na = strcspn(a, "\n"), nb = strcspn(b, "\n");
        if (na != nb || memcmp(a, b, na) != 0)
            break;
        a += na + (a[na] == '\n');
        b += nb + (b[nb] == '\n');
    }
    snprintf(line_a, 200, "%.*s", (int)strcspn(a, "\n"), a);
    snprintf(line_b, 200, "%.*s", (int)strcspn(b, "\n"), b);
}

static int compare_conf(const SweepConf *c, const char *path, const char *output)
{
    SweepConf old = {0};
    char *a = NULL, *b = NULL, la[200], lb[200];
    int rc;
    TRY_GOTO(sweep_conf_read(&old, path, NULL, 0));
    TRY_GOTO(sweep_conf_identity(&old, &a));
    TRY_GOTO(sweep_conf_identity(c, &b));
    if (strcmp(a, b) != 0) {
        first_difference(a, b, la, lb);
        rc = err_set(ERR_BUSY, "%s holds another sweep ('%s' there, '%s' here); choose another output folder or remove it", output, la, lb);
    }
done:
    config_deinit(&sweep_conf_table, &old);
    free(a);
    free(b);
    return rc;
}

static int check_conf(const SweepConf *c)
{
    char *path;
    TRY(io_path_join(&path, c->output, "sweep.yaml"));
    int rc = io_file_exists(path) ? compare_conf(c, path, c->output) : 0;
    free(path);
    return rc;
}

static int write_conf(const SweepConf *c)
{
    char *path = NULL;
    StrBuf b;
    int rc;
    str_init(&b);
    TRY_GOTO(io_path_join(&path, c->output, "sweep.yaml"));
    TRY_GOTO(config_dump(&sweep_conf_table, c, &b));
    TRY_GOTO(str_status(&b));
    rc = io_file_write(path, b.data, b.len);
done:
    str_deinit(&b);
    free(path);
    return rc;
}

static int find_run(SweepOutput *o, const SweepConf *c, const char *identity)
{
    char *path;
    int same, rc = 0;
    TRY(io_path_join(&path, c->output, "run.h5"));
    if (io_file_exists(path)) {
        rc = sweep_runfile_matches(path, identity, &same);
        if (rc >= 0 && !same)
            rc = err_set(ERR_BUSY, "%s is the result of another sweep; choose another output folder or remove it", path);
        o->complete = rc >= 0;
    }
    free(path);
    return rc;
}

/* The lock, the configuration and the parts of the folder that is written. */
static int open_folder(SweepOutput *o, const SweepConf *c, const SweepShard *shard, const char *identity)
{
    char *folder;
    TRY(io_dir_make(c->output));
    TRY(shard->count ? io_lock_share(&o->lock, c->output) : io_lock_acquire(&o->lock, c->output));
    TRY(check_conf(c));
    TRY(find_run(o, c, identity));
    if (!shard->count && !o->complete)
        TRY(sweep_shards_adopt(c->output));
    TRY(sweep_shard_folder(&folder, c->output, shard));
    int rc = shard->count ? io_dir_make(folder) : 0;
    if (rc >= 0 && shard->count)
        rc = io_lock_acquire(&o->shard_lock, folder);
    if (rc >= 0)
        rc = sweep_parts_scan(&o->parts, folder, 1);
    free(folder);
    TRY(rc);
    TRY(write_conf(c));
    return shard->count ? 0 : io_dir_remove_temps(c->output);
}

int sweep_output_open(SweepOutput *o, const SweepConf *c, const SweepShard *shard, const char *identity, uint8_t *done, int64_t count, int64_t *n,
                      SweepPartCheck check, void *ctx)
{
    char *png = NULL;
    int rc;
    *n = 0;
    TRY(open_folder(o, c, shard, identity));
    if (c->png) {
        TRY_GOTO(io_path_join(&png, c->output, "png"));
        TRY_GOTO(io_dir_make(png));
        TRY_GOTO(shard->count ? 0 : sweep_png_remove_temps(c->output, count));
    }
    if (o->complete) {
        memset(done, 1, (size_t)count);
        *n = count;
        rc = 0;
    } else {
        rc = sweep_parts_read(&o->parts, identity, done, count, n, check, ctx);
    }
done:
    free(png);
    return rc;
}

int sweep_output_reread(SweepOutput *o, const char *folder, const char *identity, uint8_t *done, int64_t count, int64_t *n)
{
    int64_t before = *n, all = 0;
    if (o->complete)
        return 0;
    sweep_parts_deinit(&o->parts);
    TRY(sweep_parts_scan(&o->parts, folder, 1));
    TRY(sweep_parts_read(&o->parts, identity, done, count, &all, NULL, NULL));
    *n = before + all; /* of those that were not marked yet */
    return 0;
}

void sweep_output_close(SweepOutput *o)
{
    sweep_parts_deinit(&o->parts);
    io_lock_release(o->shard_lock);
    io_lock_release(o->lock);
    o->lock = o->shard_lock = NULL;
}

/* Whether run.h5 is to hold the pixels itself: `join` says so, or all parts together are small. */
static int wants_copy(const SweepOutput *o, const SweepConf *c)
{
    const SweepParts *p = &o->parts;
    int64_t sum = 0, size;
    if (o->late_copy)
        return 0;
    for (int i = 0; i < p->count; i++)
        if (io_file_size(&size, p->path[i]) >= 0)
            sum += size;
    return c->join == SWEEP_JOIN_AUTO ? sum <= SWEEP_COPY_BYTES : c->join == SWEEP_JOIN_COPY;
}

static int write_run(const char *path, SweepOutput *o, const SweepConf *c, const SweepGrid *grid, const SweepRunInfo *info)
{
    SweepRunInfo full = *info;
    StrBuf b;
    int rc;
    str_init(&b);
    TRY_GOTO(config_dump(&sweep_conf_table, c, &b));
    TRY_GOTO(str_status(&b));
    full.config = b.data;
    sweep_parts_deinit(&o->parts);
    TRY_GOTO(sweep_parts_scan(&o->parts, c->output, 0));
    rc = sweep_runfile_write(path, &o->parts, grid, &full, wants_copy(o, c));
done:
    str_deinit(&b);
    return rc;
}

/* A kill may have come between an image's part and its PNG. */
static int missing_pngs(SweepRunFile *run, const char *output)
{
    char *dir = NULL;

    for (int64_t k = 0; k < run->meta.n; k++) {
        char *path;
        IoImage img = {0};
        TRY(sweep_png_path(output, k, run->meta.n, &path));
        int rc = 0;
        if (!io_file_exists(path)) {
            rc = io_path_dir(&dir, path);
            if (rc >= 0)
                rc = io_dir_make(dir);
            free(dir);
            dir = NULL;
            if (rc >= 0)
                rc = sweep_runfile_image(run, k, &img);
            if (rc >= 0)
                rc = sweep_record_png(path, &img, sweep_runfile_record(run, k));
            io_image_deinit(&img);
        }
        free(path);
        TRY(rc);
    }
    return 0;
}

static int finish(SweepOutput *o, const SweepConf *c, const SweepGrid *grid, const SweepRunInfo *info)
{
    char *path = NULL, *sheet = NULL;
    SweepRunFile run = {0};
    int rc;
    TRY_GOTO(io_path_join(&path, c->output, "run.h5"));
    TRY_GOTO(io_path_join(&sheet, c->output, "sheet.png"));
    if (!o->complete)
        TRY_GOTO(write_run(path, o, c, grid, info));
    o->complete = 1;
    TRY_GOTO(sweep_runfile_open(&run, path));
    TRY_GOTO(sweep_runfile_check(&run));
    if (c->png)
        TRY_GOTO(missing_pngs(&run, c->output));
    if (c->sheet.enabled)
        TRY_GOTO(sweep_sheet_write(sheet, &run, grid, &c->sheet));
    /* Those of writes that failed, and could not be removed at that time either. */
    TRY_GOTO(io_dir_remove_temps(c->output));
    if (c->png)
        TRY_GOTO(sweep_png_remove_temps(c->output, run.meta.n));
    o->linked = run.nparts > 0;
    if (!run.nparts)
        rc = sweep_parts_remove(c->output);
done:
    sweep_runfile_close(&run);
    free(path);
    free(sheet);
    return rc;
}

int sweep_output_finish(SweepOutput *o, const SweepConf *c, const SweepGrid *grid, const SweepRunInfo *info)
{
    for (int tries = 0;; tries++) {
        int rc = finish(o, c, grid, info);
        if (rc != ERR_SPACE)
            return rc;
        if (tries % 30 == 0)
            log_warn("%s: all images are safe; the sweep waits for room to finish (SIGTERM stops it)", err_message());
        sleep(2); /* cut short by a signal */
        if (signal_stop())
            return err_set(ERR_STOPPED, "stopped by %s; all images are done: run the same command again to finish", signal_name(signal_stop()));
    }
}

int sweep_output_copies_late(const SweepConf *c, const Comm *comm)
{
    return io_h5_is_parallel() && c->join == SWEEP_JOIN_COPY && comm->size > 1 && comm_mpi(comm);
}

int sweep_output_copy(SweepOutput *o, const SweepConf *c, Comm *comm)
{
    char *path;
    int linked = o->linked;
    if (!o->late_copy)
        return 0;
    TRY(comm_bcast(comm, &linked, sizeof linked, 0));
    if (!linked)
        return 0;
    TRY(comm_agree(comm, io_path_join(&path, c->output, "run.h5")));
    int rc = sweep_runfile_consolidate(path, path, comm);
    free(path);
    if (rc < 0 && comm->rank == 0)
        log_warn("the images stay in %s/parts, shown by run.h5: %s", c->output, err_message());
    return comm_agree(comm, rc >= 0 && comm->rank == 0 ? sweep_parts_remove(c->output) : 0);
}
