#include <stdio.h>

#include "cli/adapters.h"
#include "cli/cli.h"

static const char usage[] =
    "usage: atelier resize FILE -o OUT.safetensors [--model DIR] [options]\n\n"
    "Writes an adapter with other ranks, nearest to the old one in every module (truncated singular value decomposition). LoHa, LoKr and\n"
    "full differences become LoRA. Prints what share of the change was lost.\n\n"
    ADAPTERS_RANK_HELP ADAPTERS_SAVE_HELP;

static int resize(const Adapters *a)
{
    NnModules mods;
    Lora *in = NULL, *out = NULL;
    double error;
    int rc, low = 0, high = 0;
    TRY_GOTO(adapters_modules(a, &mods));
    TRY_GOTO(adapters_load(a, 0, &mods, &in));
    TRY_GOTO(lora_resize(&out, in, &a->keep, &error));
    TRY_GOTO(adapters_save(a, out, "atelier resize"));
    for (int i = 0; i < lora_count(out); i++) {
        int r = lora_at(out, i)->kind == NN_ADAPTER_LORA ? lora_at(out, i)->rank : 0;
        low = r && (!low || r < low) ? r : low;
        high = r > high ? r : high;
    }
    printf("%s: %d modules, ranks %d..%d, %.2f%% of the change lost\n", a->out, lora_count(out), low, high, 100 * error);
done:
    lora_destroy(in);
    lora_destroy(out);
    nn_modules_deinit(&mods);
    return rc;
}

int cli_resize(int argc, char **argv)
{
    Adapters a;
    int rc = 0;
    if (cli_wants_help(argc, argv))
        return cli_help(usage, NULL);
    adapters_init(&a, "resize");
    for (int i = 1; rc >= 0 && i < argc; i++) {
        rc = adapters_option(&a, argc, argv, &i);
        if (rc == 0)
            rc = argv[i][0] == '-' ? cli_usage("resize", "unknown option '%s'", argv[i]) : adapters_add(&a, argv[i]);
    }
    if (rc >= 0 && (a.nfile != 1 || !a.out || !a.ranked))
        rc = cli_usage("resize", "a file, -o and at least one of --rank, --ratio, --sum, --frobenius are expected");
    if (rc >= 0 && a.scale[0] != 1)
        rc = cli_usage("resize", "a scale is not for resize; see merge");
    return cli_exit(rc < 0 ? rc : resize(&a));
}
