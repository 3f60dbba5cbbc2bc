#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "cli/cli.h"
#include "io/file.h"
#include "sweep/conf.h"
#include "sweep/lock.h"
#include "train/conf.h"
#include "train/dataset.h"

static const char usage[] =
    "usage: atelier lock [--check] CONFIG.yaml [key=value ...]\n\n"
    "Writes CONFIG.yaml.lock: the SHA-256 of everything the configuration of a sweep or a training reads (models, LoRAs, images,\n"
    "data sets, wildcards) and of the resolved configuration itself, as sorted lines for Git. `atelier sweep` and `atelier train`\n"
    "warn when a lock file lies beside their configuration and does not match; with --locked they refuse, also when there is none.\n"
    "  --check   only compares: exit code 1 and a list of what changed when it does not match\n";

enum { MAX_LOCK = 64 << 20 };

int cli_config_resolved(const char *path, const char *const *overrides, int count, StrBuf *out)
{
    int sweep = 0, rc;
    TRY(cli_config_is_sweep(path, &sweep));
    if (sweep) {
        SweepConf c = {0};
        rc = sweep_conf_read(&c, path, overrides, count);
        if (rc >= 0)
            rc = config_dump(&sweep_conf_table, &c, out);
        config_deinit(&sweep_conf_table, &c);
    } else {
        TrainConf c = {0};
        rc = train_conf_read(&c, path, overrides, count);
        if (rc >= 0)
            rc = config_dump(&train_conf_table, &c, out);
        train_conf_deinit(&c);
    }
    return rc < 0 ? rc : str_status(out);
}

typedef struct {
    LockList *list;
    int count;
    TrainConf conf;
    TrainDataset *data[2];
} Listed;

static void listed_deinit(Listed *l)
{
    for (int i = 0; i < l->count; i++)
        free(l->list[i].path);
    free(l->list);
    train_dataset_close(l->data[0]);
    train_dataset_close(l->data[1]);
    train_conf_deinit(&l->conf);
}

/* The images of a data set that is a list; folders and packs hold theirs. */
static int add_listed(Listed *l, const TrainDataset *d, const TrainSubset *s)
{
    if (io_file_is_dir(s->path) || !s->count || train_dataset_item(d, s->first)->pack >= 0)
        return 0;
    LockList *grown = realloc(l->list, (size_t)(l->count + 1) * sizeof *grown);
    if (grown)
        l->list = grown;
    char **path = malloc((size_t)s->count * sizeof *path);
    if (!grown || !path) {
        free(path);
        return err_set(ERR_NOMEM, "out of memory");
    }
    for (int64_t i = 0; i < s->count; i++)
        path[i] = train_dataset_item(d, s->first + i)->path;
    l->list[l->count++] = (LockList){s->path, path, (int)s->count};
    return 0;
}

static int find_listed(Listed *l, const char *path, const char *const *overrides, int count)
{
    int sweep = 0;
    TRY(cli_config_is_sweep(path, &sweep));
    if (sweep)
        return 0;
    TRY(train_conf_read(&l->conf, path, overrides, count));
    const ConfList *lists[2] = {&l->conf.datasets, &l->conf.validation.datasets};
    for (int k = 0; k < 2; k++) {
        if (!lists[k]->count)
            continue;
        TRY(train_dataset_open_list(&l->data[k], &l->conf, lists[k]));
        for (int i = 0; i < train_dataset_subsets(l->data[k]); i++)
            TRY(add_listed(l, l->data[k], train_dataset_subset(l->data[k], i)));
    }
    return 0;
}

/* What the lock of this configuration would be now. */
static int build(const char *path, const char *const *overrides, int count, StrBuf *out)
{
    StrBuf yaml;
    Listed l = {0};
    str_init(&yaml);
    int rc = cli_config_resolved(path, overrides, count, &yaml);
    if (rc >= 0)
        rc = lock_check(yaml.data);
    if (rc >= 0)
        rc = find_listed(&l, path, overrides, count);
    if (rc >= 0)
        rc = lock_build(out, yaml.data, l.list, l.count);
    str_deinit(&yaml);
    listed_deinit(&l);
    return rc;
}

static int compare(const char *lock, const char *path, const char *const *overrides, int count, StrBuf *report, int *n)
{
    char *old = NULL;
    size_t size;
    StrBuf now;
    int rc;
    str_init(&now);
    TRY_GOTO(io_file_read(&old, &size, lock, MAX_LOCK));
    if (!lock_is(old)) {
        rc = err_set(ERR_FORMAT, "%s: no lock file", lock);
        goto done;
    }
    TRY_GOTO(build(path, overrides, count, &now));
    rc = lock_compare(old, now.data, report, n);
done:
    str_deinit(&now);
    free(old);
    return rc;
}

int cli_lock_check(const char *path, const char *const *overrides, int count, int locked)
{
    char *lock;
    StrBuf report;
    int n = 0, rc = 0;
    str_init(&report);
    TRY(str_format(&lock, "%s.lock", path));
    if (!io_file_exists(lock)) {
        if (locked)
            rc = err_set(ERR_NOTFOUND, "--locked: there is no %s; atelier lock %s makes it", lock, path);
        goto done;
    }
    TRY_GOTO(compare(lock, path, overrides, count, &report, &n));
    for (char *p = report.data; n && *p; p++)
        if (*p == '\n')
            *p = p[1] ? ';' : 0;
    if (n && locked)
        rc = err_set(ERR_BUSY, "--locked: %s does not match: %s", lock, report.data);
    else if (n)
        log_warn("%s does not match: %s", lock, report.data);
done:
    str_deinit(&report);
    free(lock);
    return rc;
}

int cli_take_flag(int *argc, char **argv, const char *flag)
{
    int found = 0, n = 0;
    for (int i = 0; i < *argc; i++) {
        if (i && strcmp(argv[i], flag) == 0)
            found = 1;
        else
            argv[n++] = argv[i];
    }
    argv[n] = NULL;
    *argc = n;
    return found;
}

static int lock(const char *path, const char *const *overrides, int count, int check)
{
    char *name;
    StrBuf text;
    int n = 0, rc;
    str_init(&text);
    TRY(str_format(&name, "%s.lock", path));
    if (check) {
        TRY_GOTO(compare(name, path, overrides, count, &text, &n));
        fputs(text.data, stdout);
        rc = n ? err_set(ERR_BUSY, "%s does not match", name) : 0;
        if (!n)
            printf("%s matches\n", name);
    } else {
        TRY_GOTO(build(path, overrides, count, &text));
        TRY_GOTO(io_file_write(name, text.data, text.len));
        printf("%s\n", name);
    }
done:
    str_deinit(&text);
    free(name);
    return rc;
}

int cli_lock(int argc, char **argv)
{
    if (cli_wants_help(argc, argv))
        return cli_help(usage, NULL);
    int check = cli_take_flag(&argc, argv, "--check"), count;
    const char **overrides = calloc((size_t)argc + 1, sizeof *overrides), *path;
    int rc = overrides ? cli_config_args(argc, argv, &path, overrides, &count) : err_set(ERR_NOMEM, "out of memory");
    if (rc >= 0)
        rc = lock(path, overrides, count, check);
    free(overrides);
    return cli_exit(rc);
}
