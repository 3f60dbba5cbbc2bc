#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "cpu/cpu.h"
#include "sweep/score.h"

static const char usage[] =
    "usage: atelier score [--model MODEL] run.h5|FOLDER|PACK.h5\n\n"
    "Measures the images of a sweep (or the PNGs of a folder), per set of LoRAs: the share of pixels near black or white (all three\n"
    "channels <= 40 or >= 215). With --model, a folder with a contrastive pair (MODEL/clip): also the share of images whose own\n"
    "prompt fits them best among all prompts of the run. For an image pack: among its own caption and 15 others.\n";

enum { AMONG = 16 };

static int print_pack(const char *path, const char *model, Backend *be)
{
    int64_t images, fits;
    TRY(score_pack(path, model, be, AMONG, &images, &fits));
    printf("%s: %lld images, own caption fits best among %d: %.1f %% (chance %.1f %%)\n", path, (long long)images, AMONG,
           100.0 * (double)fits / (double)images, 100.0 / AMONG);
    return 0;
}

static void print_scores(const Scores *s)
{
    printf("%-32s %8s  %s", "LoRA", "images", "near black or white");
    if (s->prompts)
        printf("   own prompt fits best among %d (chance %.1f %%)", s->prompts, 100.0 / s->prompts);
    printf("\n");
    for (int i = 0; i < s->count; i++) {
        const ScoreGroup *g = &s->group[i];
        printf("%-32s %8lld  %17.1f %%", g->lora[0] ? g->lora : "off", (long long)g->images, 100 * g->black_white);
        if (s->prompts)
            printf("   %.1f %%", 100.0 * (double)g->fits / (double)g->images);
        printf("\n");
    }
}

static int is_pack(const char *path)
{
    IoH5 *f;
    if (io_h5_open(&f, path) < 0)
        return 0;
    int yes = io_h5_exists(f, "captions") && !io_h5_exists(f, "meta");
    io_h5_close(f);
    return yes;
}

static int score(const char *path, const char *model)
{
    Scores s = {0};
    Backend *be = NULL;
    int rc = 0;
    if (model)
        TRY(cpu_backend_create(&be, cli_threads(NULL, 0), CPU_ISA_AVX512));
    if (model && is_pack(path)) {
        rc = print_pack(path, model, be);
        goto done;
    }
    TRY_GOTO(scores_read(&s, path));
    if (model)
        TRY_GOTO(scores_clip(&s, path, model, be));
    print_scores(&s);
done:
    scores_deinit(&s);
    backend_destroy(be);
    return rc;
}

int cli_score(int argc, char **argv)
{
    const char *model = NULL, *path = NULL;
    if (cli_wants_help(argc, argv))
        return cli_help(usage, NULL);
    for (int i = 1; i < argc; i++) {
        const char *value;
        int rc = cli_option("score", argc, argv, &i, "--model", &value);
        if (rc < 0)
            return cli_exit(rc);
        if (value)
            model = value;
        else if (path)
            return cli_exit(cli_usage("score", "one run.h5 or folder is expected, got '%s' and '%s'", path, argv[i]));
        else
            path = argv[i];
    }
    if (!path)
        return cli_exit(cli_usage("score", "a run.h5 or a folder is expected"));
    return cli_exit(score(path, model));
}
