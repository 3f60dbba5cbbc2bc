#include <stdio.h>
#include <stdlib.h>

#include "cli/cli.h"
#include "io/file.h"
#include "sweep/runfile.h"

static const char usage[] =
    "usage: atelier export run.h5 FOLDER\n\n"
    "Writes every image of a sweep as FOLDER/NUMBER.png, with its record. Files that are there are kept.\n";

static int export_one(SweepRunFile *run, int64_t k, const char *folder, int64_t *written)
{
    char *path;
    IoImage img = {0};
    TRY(str_format(&path, "%s/%06lld.png", folder, (long long)k));
    int rc = 0;
    if (!io_file_exists(path)) {
        rc = sweep_runfile_image(run, k, &img);
        if (rc >= 0)
            rc = sweep_record_png(path, &img, sweep_runfile_record(run, k));
        *written += rc >= 0;
    }
    io_image_deinit(&img);
    free(path);
    return rc;
}

int cli_export(int argc, char **argv)
{
    if (cli_wants_help(argc, argv))
        return cli_help(usage, NULL);
    if (argc != 3)
        return cli_exit(cli_usage("export", "a run.h5 and a folder are expected"));
    SweepRunFile run = {0};
    int64_t written = 0;
    int rc;
    TRY_GOTO(sweep_runfile_open(&run, argv[1]));
    TRY_GOTO(io_dir_make(argv[2]));
    for (int64_t k = 0; k < run.meta.n; k++)
        TRY_GOTO(export_one(&run, k, argv[2], &written));
    printf("%lld images written to %s\n", (long long)written, argv[2]);
done:
    sweep_runfile_close(&run);
    return cli_exit(rc);
}
