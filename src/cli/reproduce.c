#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/version.h"
#include "cli/cli.h"
#include "sweep/reproduce.h"

static const char usage[] =
    "usage: atelier reproduce FILE.png|run.h5 [--index N] [--model FOLDER] [-o OUT.png]\n\n"
    "Renders an image again from nothing but its own record and compares the pixels: prints `identical` (exit code 0), or\n"
    "`different` with the PSNR (exit code 1). --index picks the image of a run.h5 (0); --model names the model's folder where\n"
    "it has moved; -o keeps the new image.\n";

typedef struct {
    const char *path, *model, *out;
    int64_t index;
} Args;

static int parse(Args *a, int argc, char **argv)
{
    const char *value;
    for (int i = 1; i < argc; i++) {
        TRY(cli_option("reproduce", argc, argv, &i, "--index", &value));
        if (value) {
            char *end;
            errno = 0;
            a->index = strtoll(value, &end, 10);
            if (errno || end == value || *end || a->index < 0)
                return cli_usage("reproduce", "--index: expected a number from 0, got '%s'", value);
            continue;
        }
        TRY(cli_option("reproduce", argc, argv, &i, "--model", &value));
        if (value) {
            a->model = value;
            continue;
        }
        TRY(cli_option("reproduce", argc, argv, &i, "-o", &value));
        if (value)
            a->out = value;
        else if (argv[i][0] == '-')
            return cli_usage("reproduce", "unknown option '%s'", argv[i]);
        else if (a->path)
            return cli_usage("reproduce", "one file expected, got '%s' and '%s'", a->path, argv[i]);
        else
            a->path = argv[i];
    }
    return a->path ? 0 : cli_usage("reproduce", "a PNG or run.h5 is expected");
}

static void print_result(const SweepRecord *rec, const ReproduceResult *r, int have_pixels)
{
    printf("image %lld, seed %lld, %dx%d, '%s'\n", (long long)rec->index, (long long)rec->seed, rec->width, rec->height, rec->prompt);
    printf("recorded %.16s by %s (%s), %s\n", rec->pixels_sha256, rec->version, rec->commit, rec->backend);
    printf("rendered %.16s by %s (%s), %s\n", r->sha256, ATELIER_VERSION, version_commit(), r->backend);
    if (r->identical)
        printf("identical\n");
    else if (have_pixels && isfinite(r->psnr))
        printf("different: PSNR %.2f dB, %lld pixels differ, by at most %d\n", r->psnr, (long long)r->pixels, r->worst);
    else
        printf("different%s\n", have_pixels ? ": the stored pixels are not those of the record" : "");
}

static int reproduce(const Args *a)
{
    ReproduceSource src;
    ReproduceResult r = {0};
    int rc;
    TRY_GOTO(reproduce_source_open(&src, a->path, a->index));
    src.other_model = a->model;
    TRY_GOTO(reproduce_run(&src, cli_threads(NULL, 0), &r));
    print_result(&src.rec, &r, src.image.data != NULL);
    if (a->out)
        TRY_GOTO(sweep_record_png(a->out, &r.image, src.json));
    if (!r.identical)
        rc = err_set(ERR_NUMERIC, "%s: the image came out different", a->path);
done:
    io_image_deinit(&r.image);
    reproduce_source_deinit(&src);
    return rc;
}

int cli_reproduce(int argc, char **argv)
{
    if (cli_wants_help(argc, argv))
        return cli_help(usage, NULL);
    Args a = {0};
    int rc = parse(&a, argc, argv);
    return cli_exit(rc < 0 ? rc : reproduce(&a));
}
