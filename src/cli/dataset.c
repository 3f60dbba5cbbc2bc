#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "io/file.h"
#include "train/survey.h"

static const char usage[] =
    "usage: atelier dataset CONFIG.yaml [key=value ...] [--sheet FILE.png] [--no-sheet] [--tiles N] [--show N]\n"
    "       atelier dataset FOLDER [key=value ...] [...]\n\n"
    "Looks at the images of a training configuration, or of a folder or list alone, before anything is trained: images and\n"
    "repeats of every dataset, buckets, captions and their lengths in tokens, equal and nearly equal images, files that cannot be\n"
    "read, and a contact sheet of the pictures as they will be cut, with their captions.\n\n"
    "  --sheet FILE.png   the contact sheet (default: dataset.png in the output folder; of a folder: here)\n"
    "  --no-sheet         none\n"
    "  --tiles N          pictures on it at most (100)\n"
    "  --show N           lines of each list at most (10)\n\n"
    "Nearly equal: at most 3 of 64 bits of a perceptual hash differ, and the mean colours are close. The exit code is 1 where files\n"
    "cannot be read. atelier train --help lists the keys of datasets, bucket and captions.\n";

typedef struct {
    const char *path;
    const char **overrides;
    int count;
    TrainSurveyOptions o;
    int no_sheet;
} Args;

static int parse_option(Args *a, int argc, char **argv, int *i, int *taken)
{
    const char *value;
    int64_t n;
    *taken = 1;
    TRY(cli_option("dataset", argc, argv, i, "--sheet", &value));
    if (value) {
        a->o.sheet = value;
        return 0;
    }
    TRY(cli_option("dataset", argc, argv, i, "--tiles", &value));
    if (value) {
        TRY(cli_number("dataset", "--tiles", value, 1, 1000, &n));
        a->o.tiles = (int)n;
        return 0;
    }
    TRY(cli_option("dataset", argc, argv, i, "--show", &value));
    if (value) {
        TRY(cli_number("dataset", "--show", value, 0, 1000000, &n));
        a->o.show = (int)n;
        return 0;
    }
    *taken = 0;
    return 0;
}

static int parse(Args *a, int argc, char **argv)
{
    a->no_sheet = cli_take_flag(&argc, argv, "--no-sheet");
    a->overrides = calloc((size_t)argc + 4, sizeof *a->overrides);
    if (!a->overrides)
        return err_set(ERR_NOMEM, "out of memory");
    for (int i = 1, taken; i < argc; i++) {
        TRY(parse_option(a, argc, argv, &i, &taken));
        if (taken)
            continue;
        if (config_is_override(argv[i]))
            a->overrides[a->count++] = argv[i];
        else if (argv[i][0] == '-' && argv[i][1])
            return cli_usage("dataset", "unknown option '%s'", argv[i]);
        else if (a->path)
            return cli_usage("dataset", "one configuration or folder expected, got '%s' and '%s'", a->path, argv[i]);
        else
            a->path = argv[i];
    }
    return a->path ? 0 : cli_usage("dataset", "a configuration file or a folder of images is expected");
}

/* A folder or list stands for a configuration with this one dataset. */
static int read_conf(const Args *a, TrainConf *c, int *alone)
{
    const char *ext = io_path_ext(a->path);
    *alone = strcmp(ext, ".yaml") != 0 && strcmp(ext, ".yml") != 0;
    if (!*alone)
        return cli_config_other(train_conf_read(c, a->path, a->overrides, a->count), a->path, 0);
    StrBuf b;
    const char **o = calloc((size_t)a->count + 3, sizeof *o);
    if (!o)
        return err_set(ERR_NOMEM, "out of memory");
    str_init(&b);
    str_add(&b, "datasets=[{path: ");
    config_add_quoted(&b, a->path);
    str_add(&b, "}]");
    int rc = str_status(&b);
    o[0] = "model=-"; /* none: tokens are not counted */
    o[1] = "output=.";
    o[2] = b.data;
    memcpy(o + 3, a->overrides, (size_t)a->count * sizeof *o);
    if (rc >= 0)
        rc = train_conf_read(c, NULL, o, a->count + 3);
    str_deinit(&b);
    free(o);
    return rc;
}

static int survey(Args *a, TrainConf *c)
{
    char *sheet = NULL;
    int alone;
    int64_t bad = 0;
    StrBuf out;
    TRY(read_conf(a, c, &alone));
    cli_threads(NULL, c->threads);
    if (!a->no_sheet && !a->o.sheet) {
        if (!alone)
            TRY(io_dir_make(c->output));
        TRY(io_path_join(&sheet, alone ? "" : c->output, "dataset.png"));
        a->o.sheet = sheet;
    }
    if (a->no_sheet)
        a->o.sheet = NULL;
    str_init(&out);
    int rc = train_survey(c, &a->o, &out, &bad);
    if (rc >= 0) {
        fputs(out.data, stdout);
        if (a->o.sheet)
            printf("contact sheet   %s\n", a->o.sheet);
        if (bad)
            rc = err_set(ERR_FORMAT, "%lld image%s cannot be read", (long long)bad, bad > 1 ? "s" : "");
    }
    str_deinit(&out);
    free(sheet);
    return rc;
}

int cli_dataset(int argc, char **argv)
{
    if (cli_wants_help(argc, argv))
        return cli_help(usage, NULL);
    Args a = {.o = {.tiles = 100, .show = 10}};
    TrainConf c = {0};
    int rc = parse(&a, argc, argv);
    if (rc >= 0)
        rc = survey(&a, &c);
    train_conf_deinit(&c);
    free(a.overrides);
    return cli_exit(rc);
}
