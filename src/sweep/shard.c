#include "sweep/shard.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "io/file.h"
#include "sweep/store.h"

int sweep_shard_parse(SweepShard *s, const char *text)
{
    int used = 0;
    if (sscanf(text, "%d/%d%n", &s->index, &s->count, &used) != 2 || text[used] || s->count < 1 || s->count > SWEEP_MAX_SHARDS ||
        s->index < 0 || s->index >= s->count)
        return err_set(ERR_USAGE, "--shard: expected I/N with 0 <= I < N <= %d, got '%s'", (int)SWEEP_MAX_SHARDS, text);
    return 0;
}

int sweep_shard_folder(char **out, const char *output, const SweepShard *s)
{
    if (!s->count)
        return str_copy(out, output);
    return str_format(out, "%s/shards/%04d-of-%04d", output, s->index, s->count);
}

int64_t sweep_shard_mark(const SweepShard *s, const SweepGrid *g, uint8_t *done)
{
    if (!s->count)
        return g->count;
    int64_t begin = g->count * s->index / s->count, end = g->count * (s->index + 1) / s->count;
    for (int64_t p = 0; p < g->count; p++)
        done[sweep_grid_at(g, p)] = p < begin || p >= end;
    return end - begin;
}

/* The parts of one shard get the next free numbers. */
static int adopt_one(const char *to, const char *folder, int64_t *seq)
{
    SweepParts p;
    char *path = NULL;
    int rc = sweep_parts_scan(&p, folder, 1);
    for (int i = 0; i < p.count && rc >= 0; i++) {
        rc = str_format(&path, "%s/r0000-%08lld.h5", to, (long long)(*seq)++);
        if (rc >= 0 && rename(p.path[i], path) < 0)
            rc = err_errno("%s: rename to %s", p.path[i], path);
        free(path);
        path = NULL;
    }
    sweep_parts_deinit(&p);
    return rc >= 0 ? sweep_parts_remove(folder) : rc;
}

static int adopt_all(const char *output, const char *shards, const char *parts, int64_t seq)
{
    IoNames names;
    TRY(io_dir_list(&names, shards, NULL));
    int rc = 0;
    for (int i = 0; i < names.count && rc >= 0; i++) {
        char *folder = NULL, *lock = NULL;
        rc = io_path_join(&folder, shards, names.items[i]);
        if (rc >= 0 && io_file_is_dir(folder))
            rc = adopt_one(parts, folder, &seq);
        if (rc >= 0)
            rc = io_path_join(&lock, folder, ".atelier.lock");
        if (rc >= 0)
            rc = io_file_remove(lock);
        if (rc >= 0)
            rmdir(folder); /* stays when it holds something else, such as *.broken */
        free(folder);
        free(lock);
    }
    io_names_deinit(&names);
    rmdir(shards);
    return rc >= 0 ? io_dir_sync(output) : rc;
}

int sweep_shards_adopt(const char *output)
{
    char *shards = NULL, *parts = NULL;
    SweepParts p = {0};
    int rc;
    TRY_GOTO(io_path_join(&shards, output, "shards"));
    if (!io_file_is_dir(shards))
        goto done;
    TRY_GOTO(io_path_join(&parts, output, "parts"));
    TRY_GOTO(io_dir_make(parts));
    TRY_GOTO(sweep_parts_scan(&p, output, 0));
    rc = adopt_all(output, shards, parts, p.seq);
done:
    sweep_parts_deinit(&p);
    free(shards);
    free(parts);
    return rc;
}
