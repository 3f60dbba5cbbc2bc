#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/str.h"
#include "cli/adapters.h"
#include "cli/cli.h"
#include "io/file.h"
#include "models/pipeline.h"

static const char usage[] =
    "usage: atelier merge MODEL FILE[:SCALE]... -o FOLDER\n"
    "       atelier merge FILE[:SCALE] FILE[:SCALE]... -o OUT.safetensors [options]\n\n"
    "Into a model: writes a new model folder with the adapters in its weights, each tensor in its own dtype; the other parts are linked or copied.\n"
    "Several adapters into one file: exactly, the ranks adding up (LoHa, LoKr and full differences become full differences), or with an\n"
    "option of ranks as the nearest LoRA of such ranks. DoRA can only be merged into a model.\n\n"
    ADAPTERS_RANK_HELP
    "  --model DIR         the model that names the modules; without it kohya's names are kept\n"
    ADAPTERS_SAVE_HELP;

static int load_all(const Adapters *a, int first, const NnModules *mods, Lora **lora)
{
    for (int i = first; i < a->nfile; i++)
        TRY(adapters_load(a, i, mods, &lora[i]));
    return 0;
}

static int merge_files(const Adapters *a)
{
    NnModules mods;
    Lora *lora[ADAPTERS_MAX] = {0}, *sum = NULL, *small = NULL;
    double error = 0;
    int rc;
    TRY_GOTO(adapters_modules(a, &mods));
    TRY_GOTO(load_all(a, 0, &mods, lora));
    TRY_GOTO(lora_combine(&sum, lora, a->scale, a->nfile));
    if (a->ranked)
        TRY_GOTO(lora_resize(&small, sum, &a->keep, &error));
    TRY_GOTO(adapters_save(a, small ? small : sum, "atelier merge"));
    if (a->ranked)
        printf("%s: %d modules, %.2f%% of the change lost\n", a->out, lora_count(sum), 100 * error);
    else
        printf("%s: %d modules, exact\n", a->out, lora_count(sum));
done:
    lora_destroy(small);
    lora_destroy(sum);
    for (int i = 0; i < a->nfile; i++)
        lora_destroy(lora[i]);
    nn_modules_deinit(&mods);
    return rc;
}

/* ---- into a model ---- */

/* Weight files of the parts that are merged anew: not copied. */
static int is_weights(const char *dir, const char *name)
{
    int merged = !strcmp(dir, "unet") || !strcmp(dir, "text_encoder");
    return merged && (str_ends_with(name, ".safetensors") || str_ends_with(name, ".safetensors.index.json") ||
                      str_ends_with(name, ".bin"));
}

static int merge_part(const Adapters *a, Pipeline *p, PipelinePart part, Lora *const *lora)
{
    char *dir = NULL, *path = NULL;
    int rc, merged;
    TRY_GOTO(io_path_join(&dir, a->out, pipeline_root(part)));
    TRY_GOTO(io_dir_make(dir));
    TRY_GOTO(io_path_join(&path, dir, part == PIPELINE_UNET ? "diffusion_pytorch_model.safetensors" : "model.safetensors"));
    TRY_GOTO(lora_merge_file(lora + 1, a->scale + 1, a->nfile - 1, pipeline_files(p, part), pipeline_root(part), path, &merged));
    printf("%s: %d tensors changed\n", pipeline_root(part), merged);
done:
    free(dir);
    free(path);
    return rc;
}

static int merge_model(Adapters *a)
{
    NnModules mods = {0};
    Lora *lora[ADAPTERS_MAX] = {0};
    Pipeline *p = NULL;
    int rc;
    if (io_file_exists(a->out))
        return err_set(ERR_RANGE, "%s exists; -o must name a new folder", a->out);
    a->model = a->file[0];
    TRY_GOTO(pipeline_open(&p, a->model, NULL));
    TRY_GOTO(adapters_modules(a, &mods));
    TRY_GOTO(load_all(a, 1, &mods, lora));
    TRY_GOTO(io_dir_copy(a->model, a->out, 4, is_weights));
    TRY_GOTO(merge_part(a, p, PIPELINE_UNET, lora));
    TRY_GOTO(merge_part(a, p, PIPELINE_TEXT, lora));
    printf("%s\n", a->out);
done:
    for (int i = 0; i < a->nfile; i++)
        lora_destroy(lora[i]);
    nn_modules_deinit(&mods);
    pipeline_close(p);
    return rc;
}

int cli_merge(int argc, char **argv)
{
    Adapters a;
    int rc = 0;
    if (cli_wants_help(argc, argv))
        return cli_help(usage, NULL);
    adapters_init(&a, "merge");
    for (int i = 1; rc >= 0 && i < argc; i++) {
        rc = adapters_option(&a, argc, argv, &i);
        if (rc == 0)
            rc = argv[i][0] == '-' ? cli_usage("merge", "unknown option '%s'", argv[i]) : adapters_add(&a, argv[i]);
    }
    if (rc >= 0 && (a.nfile < 1 || !a.out))
        rc = cli_usage("merge", "adapters and -o are expected");
    int model = rc >= 0 && io_file_is_dir(a.file[0]);
    if (model && (a.nfile < 2 || a.ranked || a.model))
        rc = cli_usage("merge", "into a model: MODEL FILE[:SCALE]... -o FOLDER, without other options");
    return cli_exit(rc < 0 ? rc : model ? merge_model(&a) : merge_files(&a));
}
