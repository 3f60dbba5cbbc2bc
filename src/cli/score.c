#include <stdio.h>

#include "cli/cli.h"
#include "sweep/score.h"

static const char usage[] =
    "usage: atelier score run.h5|FOLDER\n\n"
    "Measures the images of a sweep (or the PNGs of a folder), per set of LoRAs: the share of pixels near black or white (all three\n"
    "channels <= 40 or >= 215).\n";

int cli_score(int argc, char **argv)
{
    if (cli_wants_help(argc, argv))
        return cli_help(usage, NULL);
    if (argc != 2)
        return cli_exit(cli_usage("score", "a run.h5 or a folder is expected"));
    Scores s;
    int rc = scores_read(&s, argv[1]);
    if (rc >= 0)
        printf("%-32s %8s  %s\n", "LoRA", "images", "near black or white");
    for (int i = 0; i < s.count && rc >= 0; i++)
        printf("%-32s %8lld  %5.1f %%\n", s.group[i].lora[0] ? s.group[i].lora : "off", (long long)s.group[i].images,
               100 * s.group[i].black_white);
    scores_deinit(&s);
    return cli_exit(rc);
}
