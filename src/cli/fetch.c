#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "cli/cli.h"
#include "io/file.h"
#include "io/s3.h"

static const char usage[] =
    "usage: atelier fetch s3://BUCKET/PREFIX FOLDER\n\n"
    "Copies what `atelier push` stored back into a folder, so that a run goes on there. Files that are there with the same size and SHA-256\n"
    "stay; a file takes its name when it is whole and has its SHA-256. Nothing is removed. An empty prefix in the storage is fine.\n"
    "Storage and keys: as for `atelier push`.\n";

typedef struct {
    IoS3 s3;
    char *bucket, *prefix, **names;
    int count;
    int64_t fetched;
} Fetch;

static int fetch_one(Fetch *f, const char *name, const char *folder)
{
    char *path = NULL, *dir = NULL;
    const char *below = name + strlen(f->prefix);
    below += f->prefix[0] && *below == '/';
    if (!io_path_is_inside(below)) /* what a bucket holds is not to be trusted */
        return err_set(ERR_FORMAT, "%s: '%s' would not lie in the folder", f->bucket, name);
    int rc;
    TRY_GOTO(io_path_join(&path, folder, below));
    TRY_GOTO(io_path_dir(&dir, path));
    TRY_GOTO(io_dir_make(dir));
    TRY_GOTO(io_file_exists(path) ? io_s3_same(&f->s3, f->bucket, name, path) : 0);
    if (rc == 0) {
        TRY_GOTO(io_s3_get(&f->s3, f->bucket, name, path));
        f->fetched++;
    }
done:
    free(path);
    free(dir);
    return rc < 0 ? rc : 0;
}

static int fetch(int argc, char **argv, Fetch *f)
{
    char *start = NULL;
    if (argc != 3)
        return cli_usage("fetch", "s3://BUCKET/PREFIX and a folder are expected");
    TRY(io_s3_url(argv[1], &f->bucket, &f->prefix));
    TRY(io_s3_init(&f->s3));
    TRY(str_format(&start, "%s%s", f->prefix, f->prefix[0] ? "/" : ""));
    int rc = io_s3_list(&f->s3, f->bucket, start, &f->names, &f->count);
    free(start);
    TRY(rc);
    TRY(io_dir_make(argv[2]));
    for (int i = 0; i < f->count; i++)
        if (!str_ends_with(f->names[i], "/"))
            TRY(fetch_one(f, f->names[i], argv[2]));
    printf("%s: %d files, %lld of them fetched now\n", argv[2], f->count, (long long)f->fetched);
    return 0;
}

int cli_fetch(int argc, char **argv)
{
    if (cli_wants_help(argc, argv))
        return cli_help(usage, NULL);
    Fetch f = {0};
    int rc = fetch(argc, argv, &f);
    free(f.bucket);
    free(f.prefix);
    io_s3_names_free(f.names, f.count);
    io_s3_deinit(&f.s3);
    return cli_exit(rc);
}
