#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "io/file.h"
#include "sweep/picture.h"
#include "sweep/table.h"

static const char usage[] =
    "usage: atelier export run.h5 [FOLDER] [--out FOLDER] [--where CONDITION] [--format png|jpeg|webp] [--quality N] [--lossless]\n"
    "                      [--shard N]\n\n"
    "Writes images of a sweep as FOLDER/NNNN/NUMBER.EXT, each with its record (PNG texts; EXIF in JPEG and WebP). Files that are\n"
    "there are kept.\n\n"
    "  --where     which ones: \"cfg = 7 and lora = 'ink'\", \"seed in (1, 5..9)\", \"prompt like '*fox*' and steps >= 20\".\n"
    "              Names are the columns of `atelier ls run.h5 --columns=?`\n"
    "  --format    png (the same bytes as the sweep's own files), jpeg or webp\n"
    "  --quality   jpeg: 1..100 (92); webp: 0..100 (90)\n"
    "  --lossless  webp without loss\n"
    "  --shard     images per folder NNNN (1000); 0: all of them in FOLDER itself\n";

typedef struct {
    const char *run, *folder, *where;
    PictureStyle style;
    int64_t shard;
} Args;

static int parse_options(Args *a, int argc, char **argv, int *i, int *used)
{
    const char *v;
    *used = 1;
    TRY(cli_option("export", argc, argv, i, "--out", &v));
    if (v) {
        a->folder = v;
        return 0;
    }
    TRY(cli_option("export", argc, argv, i, "--where", &v));
    if (v) {
        a->where = v;
        return 0;
    }
    TRY(cli_option("export", argc, argv, i, "--format", &v));
    if (v)
        return picture_format_parse(&a->style.format, v) < 0 ? cli_usage("export", "--format %s", err_message()) : 0;
    TRY(cli_option("export", argc, argv, i, "--quality", &v));
    if (v) {
        int64_t n;
        TRY(cli_number("export", "--quality", v, 0, 100, &n));
        a->style.quality = (int)n;
        return 0;
    }
    TRY(cli_option("export", argc, argv, i, "--shard", &v));
    if (v)
        return cli_number("export", "--shard", v, 0, 1000000000, &a->shard);
    *used = 0;
    return 0;
}

static int parse(Args *a, int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        int used;
        TRY(parse_options(a, argc, argv, &i, &used));
        if (used)
            continue;
        if (strcmp(argv[i], "--lossless") == 0)
            a->style.lossless = 1;
        else if (argv[i][0] == '-' && argv[i][1])
            return cli_usage("export", "unknown option '%s'", argv[i]);
        else if (!a->run)
            a->run = argv[i];
        else if (!a->folder)
            a->folder = argv[i];
        else
            return cli_usage("export", "unexpected '%s'", argv[i]);
    }
    if (!a->run || !a->folder)
        return cli_usage("export", "a run.h5 and a folder are expected");
    if (a->style.lossless && a->style.format != PICTURE_WEBP)
        return cli_usage("export", "--lossless is for --format webp");
    if (a->style.quality < 0)
        a->style.quality = a->style.format == PICTURE_JPEG ? 92 : 90;
    return 0;
}

static int export_one(SweepRunFile *run, int64_t k, const Args *a, int64_t *written)
{
    char *path = NULL, *dir = NULL;
    IoImage img = {0};
    int rc;
    if (a->shard)
        TRY_GOTO(str_format(&dir, "%s/%04lld", a->folder, (long long)(k / a->shard)));
    else
        TRY_GOTO(str_copy(&dir, a->folder));
    TRY_GOTO(str_format(&path, "%s/%06lld%s", dir, (long long)k, PICTURE_EXTENSION[a->style.format]));
    if (!io_file_exists(path)) {
        TRY_GOTO(io_dir_make(dir));
        TRY_GOTO(sweep_runfile_image(run, k, &img));
        TRY_GOTO(picture_write(path, &img, sweep_runfile_record(run, k), &a->style));
        ++*written;
    }
done:
    io_image_deinit(&img);
    free(path);
    free(dir);
    return rc;
}

static int export(const Args *a)
{
    SweepRunFile run = {0};
    Table t = {0};
    TableRows rows = {0};
    int64_t written = 0;
    int rc;
    TRY_GOTO(sweep_runfile_open(&run, a->run));
    TRY_GOTO(table_init(&t, &run));
    TRY_GOTO(table_select(&t, a->where, &rows));
    TRY_GOTO(io_dir_make(a->folder));
    for (int64_t i = 0; i < rows.n; i++)
        TRY_GOTO(export_one(&run, rows.row[i], a, &written));
    printf("%lld of %lld images chosen, %lld written to %s\n", (long long)rows.n, (long long)run.meta.n, (long long)written, a->folder);
done:
    table_rows_deinit(&rows);
    table_deinit(&t);
    sweep_runfile_close(&run);
    return rc;
}

int cli_export(int argc, char **argv)
{
    if (cli_wants_help(argc, argv))
        return cli_help(usage, NULL);
    Args a = {.style = {PICTURE_PNG, -1, 0}, .shard = 1000};
    int rc = parse(&a, argc, argv);
    return cli_exit(rc < 0 ? rc : export(&a));
}
