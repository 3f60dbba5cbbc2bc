#include <stdio.h>
#include <stdlib.h>

#include "cli/adapters.h"
#include "cli/cli.h"
#include "models/pipeline.h"

static const char usage[] =
    "usage: atelier extract BASE TUNED -o OUT.safetensors [options]\n\n"
    "Writes the difference of two models of one architecture as a LoRA, by singular value decomposition of every module's difference.\n"
    "BASE and TUNED are model folders; the UNet and the text encoder are compared. Prints what share of the difference was lost.\n\n"
    ADAPTERS_RANK_HELP
    "  --min-diff X        leave out modules that differ by less than X everywhere (0)\n"
    "  --clamp X           clamp the factors to the quantile X of their magnitudes (1: not)\n"
    "  --target GLOB       only these modules; may be repeated\n"
    ADAPTERS_SAVE_HELP;

typedef struct {
    Adapters a;
    LoraExtract how;
    const char *target[ADAPTERS_MAX];
} Args;

static int own_option(Args *x, int argc, char **argv, int *i)
{
    const char *value;
    char *end;
    TRY(cli_option("extract", argc, argv, i, "--target", &value));
    if (value) {
        if (x->how.ntargets == ADAPTERS_MAX)
            return cli_usage("extract", "at most %d targets", ADAPTERS_MAX);
        x->target[x->how.ntargets++] = value;
        return 1;
    }
    TRY(cli_option("extract", argc, argv, i, "--min-diff", &value));
    if (value) {
        x->how.min_diff = strtod(value, &end);
        return *end || x->how.min_diff < 0 ? cli_usage("extract", "--min-diff: expected a number of at least 0, got '%s'", value) : 1;
    }
    TRY(cli_option("extract", argc, argv, i, "--clamp", &value));
    if (!value)
        return 0;
    x->how.clamp = strtod(value, &end);
    return *end || !(x->how.clamp > 0 && x->how.clamp <= 1) ? cli_usage("extract", "--clamp: expected a number in 0..1, got '%s'", value)
                                                             : 1;
}

static int extract(Args *x)
{
    static const PipelinePart parts[] = {PIPELINE_UNET, PIPELINE_TEXT};
    Pipeline *base = NULL, *tuned = NULL;
    NnModules mods = {0};
    Lora *lo = NULL;
    int rc;
    x->how.keep = x->a.keep;
    x->how.targets = x->target;
    TRY_GOTO(pipeline_open(&base, x->a.file[0], NULL));
    TRY_GOTO(pipeline_open(&tuned, x->a.file[1], NULL));
    TRY_GOTO(pipeline_modules(base, &mods));
    for (int k = 0; k < 2; k++) {
        double error = 0;
        int before = lo ? lora_count(lo) : 0;
        TRY_GOTO(lora_extract(&lo, pipeline_files(base, parts[k]), pipeline_files(tuned, parts[k]), pipeline_root(parts[k]), &mods,
                              k ? clip_names : NULL, &x->how, &error));
        printf("%s: %d modules differ, %.2f%% of the difference lost\n", pipeline_root(parts[k]), lora_count(lo) - before, 100 * error);
    }
    if (!lora_count(lo)) {
        rc = err_set(ERR_NOTFOUND, "%s and %s do not differ in any linear layer or convolution that was asked for", x->a.file[0],
                     x->a.file[1]);
        goto done;
    }
    rc = adapters_save(&x->a, lo, "atelier extract");
    if (rc >= 0)
        printf("%s\n", x->a.out);
done:
    lora_destroy(lo);
    nn_modules_deinit(&mods);
    pipeline_close(tuned);
    pipeline_close(base);
    return rc;
}

int cli_extract(int argc, char **argv)
{
    Args x = {.how.clamp = 1};
    int rc = 0;
    if (cli_wants_help(argc, argv))
        return cli_help(usage, NULL);
    adapters_init(&x.a, "extract");
    for (int i = 1; rc >= 0 && i < argc; i++) {
        rc = own_option(&x, argc, argv, &i);
        if (rc == 0)
            rc = adapters_option(&x.a, argc, argv, &i);
        if (rc == 0)
            rc = argv[i][0] == '-' ? cli_usage("extract", "unknown option '%s'", argv[i]) : adapters_add(&x.a, argv[i]);
    }
    if (rc >= 0 && (x.a.nfile != 2 || !x.a.out || !x.a.ranked))
        rc = cli_usage("extract", "two model folders, -o and at least one of --rank, --ratio, --sum, --frobenius are expected");
    return cli_exit(rc < 0 ? rc : extract(&x));
}
