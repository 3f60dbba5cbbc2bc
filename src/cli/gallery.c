#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/progress.h"
#include "cli/cli.h"
#include "io/file.h"
#include "sweep/gallery.h"

static const char usage[] =
    "usage: atelier gallery run.h5 --out FOLDER [--where CONDITION] [--format png|jpeg|webp] [--quality N] [--lossless] [--thumb PIXELS]\n"
    "                       [--title TEXT]\n\n"
    "Makes FOLDER/index.html and what belongs to it: small pictures, filters by everything that varies, search, full records, two images\n"
    "side by side with their differences. It opens from disk in a browser and loads nothing from anywhere else; copy the folder to\n"
    "share it. Links to it may end in #i=12 (image 12), #c=3,7 (two images) or #f=lora=ink:0.8 (a filter).\n"
    "  --thumb   side of the small pictures, 16..512 (128)\n"
    "  --format, --quality, --lossless, --where   as for `atelier export`\n";

typedef struct {
    const char *run, *out, *where, *title, *format, *quality, *thumb;
    int lossless;
} Args;

static int parse(Args *a, int argc, char **argv)
{
    const struct {
        const char *name;
        const char **to;
    } options[] = {{"--out", &a->out},     {"-o", &a->out},           {"--where", &a->where}, {"--title", &a->title},
                   {"--format", &a->format}, {"--quality", &a->quality}, {"--thumb", &a->thumb}};
    for (int i = 1; i < argc; i++) {
        const char *v = NULL;
        for (size_t k = 0; k < sizeof options / sizeof *options && !v; k++) {
            TRY(cli_option("gallery", argc, argv, &i, options[k].name, &v));
            if (v)
                *options[k].to = v;
        }
        if (v)
            continue;
        if (strcmp(argv[i], "--lossless") == 0)
            a->lossless = 1;
        else if (argv[i][0] == '-' && argv[i][1])
            return cli_usage("gallery", "unknown option '%s'", argv[i]);
        else if (a->run)
            return cli_usage("gallery", "one run.h5 expected, got '%s' and '%s'", a->run, argv[i]);
        else
            a->run = argv[i];
    }
    return a->run && a->out ? 0 : cli_usage("gallery", "a run.h5 and --out FOLDER are expected");
}

static int options_of(const Args *a, GalleryOptions *o)
{
    int64_t n;
    if (picture_format_parse(&o->style.format, a->format) < 0)
        return cli_usage("gallery", "--format %s", err_message());
    TRY(cli_number("gallery", "--quality", a->quality ? a->quality : o->style.format == PICTURE_JPEG ? "92" : "90", 0, 100, &n));
    o->style.quality = (int)n;
    TRY(cli_number("gallery", "--thumb", a->thumb, 16, 512, &n));
    o->thumb = (int)n;
    o->style.lossless = a->lossless;
    return 0;
}

static void tick(void *ctx, int64_t done) { progress_update(ctx, done, "written"); }

/* The run's folder says more than "run.h5". */
static int name_of(const char *path, char **out)
{
    char *dir;
    TRY(io_path_dir(&dir, path));
    const char *name = io_path_name(dir);
    int rc = str_copy(out, strcmp(io_path_name(path), "run.h5") == 0 && *name && *name != '.' ? name : io_path_name(path));
    free(dir);
    return rc;
}

static int gallery(const Args *a, GalleryOptions *o)
{
    SweepRunFile run = {0};
    Table t = {0};
    TableRows rows = {0};
    Progress p;
    char *name = NULL;
    int rc;
    TRY_GOTO(sweep_runfile_open(&run, a->run));
    TRY_GOTO(table_init(&t, &run));
    TRY_GOTO(table_select(&t, a->where, &rows));
    TRY_GOTO(name_of(a->run, &name));
    o->name = a->title ? a->title : name;
    o->tick = tick;
    o->ctx = &p;
    progress_init(&p, "image", 0, rows.n, 1);
    rc = gallery_write(a->out, &t, &rows, o);
    progress_break(&p);
    if (rc >= 0)
        printf("%s/index.html: %lld images\n", a->out, (long long)rows.n);
done:
    free(name);
    table_rows_deinit(&rows);
    table_deinit(&t);
    sweep_runfile_close(&run);
    return rc;
}

int cli_gallery(int argc, char **argv)
{
    if (cli_wants_help(argc, argv))
        return cli_help(usage, NULL);
    Args a = {.format = "png", .thumb = "128"};
    GalleryOptions o = {0};
    int rc = parse(&a, argc, argv);
    if (rc >= 0)
        rc = options_of(&a, &o);
    return cli_exit(rc < 0 ? rc : gallery(&a, &o));
}
