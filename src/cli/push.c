#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "base/error.h"
#include "base/log.h"
#include "base/signal.h"
#include "cli/cli.h"
#include "io/file.h"
#include "io/s3.h"

static const char usage[] =
    "usage: atelier push [--follow PID] [--every SECONDS] [--all] FOLDER s3://BUCKET/PREFIX\n\n"
    "Copies a folder to S3-compatible storage. Only what is not there yet with the same size and SHA-256 is sent, in parts where it is large;\n"
    "every file is compared afterwards with what the server has. Nothing is ever removed, here or there.\n"
    "  --follow PID   goes on beside the process PID (mpirun, srun or atelier) and sends what it finishes; when it has ended, everything is\n"
    "                 looked at once more. Exit code 0 only when all of it is safe.\n"
    "  --every        seconds between two looks (10)\n"
    "  --all          caches of training too (OUTPUT/cache), which can be made anew\n"
    "Files that are being written are left for a later look: a part of a sweep goes when it is whole (docs/cluster.md).\n"
    "Storage and keys: AWS_ENDPOINT_URL_S3, AWS_REGION, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN.\n";

typedef struct {
    char *path;      /* below the folder */
    int64_t size;
    struct timespec time;
} Sent;

typedef struct {
    IoS3 s3;
    const char *folder;
    char *bucket, *prefix;
    int all, last;   /* last: nobody writes any more */
    Sent *sent;
    int count;
    int64_t files, bytes; /* sent by this process */
    int failed;      /* in this look */
} Push;

static Sent *find_sent(Push *p, const char *path)
{
    for (int i = 0; i < p->count; i++)
        if (strcmp(p->sent[i].path, path) == 0)
            return &p->sent[i];
    return NULL;
}

static int remember(Push *p, const char *path, const struct stat *st)
{
    Sent *s = find_sent(p, path);
    if (!s) {
        Sent *more = realloc(p->sent, (size_t)(p->count + 1) * sizeof *more);
        if (!more)
            return err_set(ERR_NOMEM, "out of memory");
        p->sent = more;
        s = &p->sent[p->count];
        TRY(str_copy(&s->path, path));
        p->count++;
    }
    s->size = st->st_size;
    s->time = st->st_mtim;
    return 0;
}

/* A save of a part is under way: what the file holds now means nothing without its journal. */
static int in_the_middle(const char *full)
{
    char *journal;
    int64_t size = 0;
    if (str_format(&journal, "%s.journal", full) < 0)
        return 1;
    int busy = io_file_exists(journal) && (io_file_size(&size, journal) < 0 || size > 0);
    free(journal);
    return busy;
}

static int send_file(Push *p, const char *path, const char *full, const struct stat *st)
{
    char *name;
    const Sent *s = find_sent(p, path);
    if (s && s->size == st->st_size && s->time.tv_sec == st->st_mtim.tv_sec && s->time.tv_nsec == st->st_mtim.tv_nsec)
        return 0;
    if (!p->last && in_the_middle(full))
        return 0;
    TRY(str_format(&name, "%s%s%s", p->prefix, p->prefix[0] ? "/" : "", path));
    int rc = io_s3_same(&p->s3, p->bucket, name, full), there = rc;
    if (rc == 0)
        rc = io_s3_put(&p->s3, p->bucket, name, full);
    free(name);
    struct stat now;
    if (rc >= 0 && !p->last && (in_the_middle(full) || stat(full, &now) < 0 || now.st_mtim.tv_nsec != st->st_mtim.tv_nsec || now.st_size != st->st_size))
        return 0; /* it was written to meanwhile: once more at the next look */
    if (rc < 0 && !p->last && (rc == ERR_BUSY || rc == ERR_NOTFOUND))
        return 0;
    TRY(rc);
    if (!there) {
        p->files++;
        p->bytes += st->st_size;
    }
    return remember(p, path, st);
}

static int walk(Push *p, const char *below);

static int entry(Push *p, const char *below, const char *name)
{
    char *path = NULL, *full = NULL;
    struct stat st;
    int rc;
    TRY_GOTO(io_path_join(&path, below, name));
    TRY_GOTO(io_path_join(&full, p->folder, path));
    if (lstat(full, &st) < 0)
        goto done; /* removed meanwhile */
    if (S_ISDIR(st.st_mode) && (p->all || strcmp(path, "cache") != 0))
        rc = walk(p, path);
    else if (S_ISREG(st.st_mode) && (p->last || !str_ends_with(name, ".journal")))
        rc = send_file(p, path, full, &st);
    if (rc < 0 && rc != ERR_NOMEM) { /* the others go on */
        log_warn("%s: %s", path, err_message());
        p->failed++;
        rc = 0;
    }
done:
    free(path);
    free(full);
    return rc;
}

static int walk(Push *p, const char *below)
{
    char *dir;
    IoNames names;
    TRY(io_path_join(&dir, p->folder, below));
    int rc = io_dir_list(&names, dir, NULL); /* leaves out what begins with a dot: temporary files and locks */
    free(dir);
    if (rc < 0)
        return rc == ERR_NOTFOUND ? 0 : rc;
    for (int i = 0; i < names.count && rc >= 0; i++)
        rc = entry(p, below, names.items[i]);
    io_names_deinit(&names);
    return rc;
}

static int alive(int64_t pid)
{
    return kill((pid_t)pid, 0) == 0 || errno == EPERM;
}

static int follow(Push *p, int64_t pid, int64_t every)
{
    while (alive(pid)) {
        p->failed = 0;
        TRY(walk(p, ""));
        for (int64_t i = 0; i < every * 10 && alive(pid); i++)
            nanosleep(&(struct timespec){0, 100000000}, NULL);
    }
    return 0;
}

static int push(int argc, char **argv, Push *p)
{
    int64_t pid = 0, every = 10;
    const char *value, *arg[2] = {NULL, NULL};
    int n = 0;
    p->all = cli_take_flag(&argc, argv, "--all");
    for (int i = 1; i < argc; i++) {
        TRY(cli_option("push", argc, argv, &i, "--follow", &value));
        if (value) {
            TRY(cli_number("push", "--follow", value, 1, INT32_MAX, &pid));
            continue;
        }
        TRY(cli_option("push", argc, argv, &i, "--every", &value));
        if (value)
            TRY(cli_number("push", "--every", value, 1, 86400, &every));
        else if (argv[i][0] == '-' || n == 2)
            return cli_usage("push", "unknown argument '%s'", argv[i]);
        else
            arg[n++] = argv[i];
    }
    if (n != 2)
        return cli_usage("push", "a folder and s3://BUCKET/PREFIX are expected");
    p->folder = arg[0];
    TRY(io_s3_url(arg[1], &p->bucket, &p->prefix));
    TRY(io_s3_init(&p->s3));
    TRY(signal_install()); /* a signal must not cut the last look short: it is the run that stops */
    if (!pid && !io_file_is_dir(p->folder))
        return err_set(ERR_NOTFOUND, "%s: no folder", p->folder);
    if (pid)
        TRY(follow(p, pid, every));
    p->last = 1;
    p->failed = 0;
    TRY(walk(p, ""));
    if (p->failed)
        return err_set(ERR_IO, "%d files of %s are not safe in %s: run the same command again", p->failed, p->folder, arg[1]);
    printf("%s: %d files are in %s, %lld of them sent now (%.1f MiB)\n", p->folder, p->count, arg[1], (long long)p->files,
           (double)p->bytes / 1048576);
    return 0;
}

int cli_push(int argc, char **argv)
{
    if (cli_wants_help(argc, argv))
        return cli_help(usage, NULL);
    Push p = {0};
    int rc = push(argc, argv, &p);
    for (int i = 0; i < p.count; i++)
        free(p.sent[i].path);
    free(p.sent);
    free(p.bucket);
    free(p.prefix);
    io_s3_deinit(&p.s3);
    return cli_exit(rc);
}
