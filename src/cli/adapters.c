#include "cli/adapters.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/str.h"
#include "base/version.h"
#include "cli/cli.h"
#include "io/file.h"
#include "models/pipeline.h"

void adapters_init(Adapters *a, const char *command)
{
    memset(a, 0, sizeof *a);
    a->command = command;
    a->format = LORA_KOHYA;
    a->dtype = DTYPE_F32;
}

static int number(const Adapters *a, const char *name, const char *text, double lo, double hi, double *out)
{
    char *end;
    *out = strtod(text, &end);
    if (end == text || *end || !(*out >= lo && *out <= hi))
        return cli_usage(a->command, "%s: expected a number in %g..%g, got '%s'", name, lo, hi, text);
    return 0;
}

static int set_rank(Adapters *a, const char *name, const char *value)
{
    static const struct {
        const char *name;
        LoraKeepRule rule;
        double lo, hi;
    } rules[] = {{"--ratio", LORA_KEEP_RATIO, 1, 1e12}, {"--sum", LORA_KEEP_SUM, 0, 1}, {"--frobenius", LORA_KEEP_FROBENIUS, 0, 1}};
    double x;
    a->ranked = 1;
    if (!strcmp(name, "--rank") || !strcmp(name, "--conv-rank")) {
        TRY(number(a, name, value, 1, 4096, &x));
        if (x != floor(x))
            return cli_usage(a->command, "%s: expected a whole number, got '%s'", name, value);
        *(strcmp(name, "--rank") ? &a->keep.conv_rank : &a->keep.rank) = (int)x;
        return 1;
    }
    for (int k = 0; k < 3; k++)
        if (!strcmp(name, rules[k].name)) {
            if (a->keep.rule != LORA_KEEP_FIXED)
                return cli_usage(a->command, "only one of --ratio, --sum and --frobenius");
            TRY(number(a, name, value, rules[k].lo, rules[k].hi, &a->keep.value));
            a->keep.rule = rules[k].rule;
        }
    return 1;
}

static int set_text(Adapters *a, const char *name, const char *value)
{
    static const struct {
        const char *name;
        Dtype dtype;
    } dtypes[] = {{"f32", DTYPE_F32}, {"f16", DTYPE_F16}, {"bf16", DTYPE_BF16}};
    if (!strcmp(name, "-o"))
        a->out = value;
    if (!strcmp(name, "--model"))
        a->model = value;
    if (!strcmp(name, "--format")) {
        if (strcmp(value, "kohya") && strcmp(value, "peft"))
            return cli_usage(a->command, "--format: expected kohya or peft, got '%s'", value);
        a->format = strcmp(value, "peft") ? LORA_KOHYA : LORA_PEFT;
    }
    if (!strcmp(name, "--dtype")) {
        int k = 0;
        while (k < 3 && strcmp(value, dtypes[k].name))
            k++;
        if (k == 3)
            return cli_usage(a->command, "--dtype: expected f32, f16 or bf16, got '%s'", value);
        a->dtype = dtypes[k].dtype;
    }
    return 1;
}

int adapters_option(Adapters *a, int argc, char **argv, int *i)
{
    static const char *const ranks[] = {"--rank", "--conv-rank", "--ratio", "--sum", "--frobenius"};
    static const char *const texts[] = {"-o", "--model", "--format", "--dtype"};
    const char *value;
    for (int k = 0; k < 5; k++) {
        TRY(cli_option(a->command, argc, argv, i, ranks[k], &value));
        if (value)
            return set_rank(a, ranks[k], value);
    }
    for (int k = 0; k < 4; k++) {
        TRY(cli_option(a->command, argc, argv, i, texts[k], &value));
        if (value)
            return set_text(a, texts[k], value);
    }
    return 0;
}

int adapters_add(Adapters *a, const char *text)
{
    double scale;
    if (a->nfile == ADAPTERS_MAX)
        return cli_usage(a->command, "at most %d adapters", ADAPTERS_MAX);
    TRY(cli_file_scale(a->command, text, &a->length[a->nfile], &scale));
    a->file[a->nfile] = text;
    a->scale[a->nfile] = (float)scale;
    a->nfile++;
    return 0;
}

int adapters_modules(const Adapters *a, NnModules *mods)
{
    Pipeline *p;
    *mods = (NnModules){0};
    if (a->model) {
        TRY(pipeline_open(&p, a->model, NULL));
        int rc = pipeline_modules(p, mods);
        pipeline_close(p);
        return rc;
    }
    for (int i = 0; i < a->nfile; i++) {
        char *path;
        TRY(str_format(&path, "%.*s", (int)a->length[i], a->file[i]));
        int rc = lora_file_modules(mods, path);
        free(path);
        TRY(rc);
    }
    return 0;
}

int adapters_load(const Adapters *a, int i, const NnModules *mods, Lora **out)
{
    char *path;
    TRY(str_format(&path, "%.*s", (int)a->length[i], a->file[i]));
    int rc = lora_load(out, path, mods);
    free(path);
    return rc;
}

int adapters_save(const Adapters *a, Lora *lo, const char *comment)
{
    char dim[16], alpha[24], title[128];
    int rank = 0, lycoris = 0;
    float scale = 0;
    for (int i = 0; i < lora_count(lo); i++) {
        const LoraPart *p = lora_at(lo, i);
        lycoris |= p->kind != NN_ADAPTER_LORA || p->f[NN_MAGNITUDE];
        if (p->kind != NN_ADAPTER_FULL && p->rank > rank) {
            rank = p->rank;
            scale = p->alpha;
        }
    }
    snprintf(dim, sizeof dim, "%d", rank);
    snprintf(alpha, sizeof alpha, "%g", (double)scale);
    snprintf(title, sizeof title, "%.*s", (int)(io_path_ext(io_path_name(a->out)) - io_path_name(a->out)), io_path_name(a->out));
    const IoMeta meta[] = {{"ss_network_module", lycoris ? "lycoris.kohya" : "networks.lora"},
                           {"ss_network_dim", dim},
                           {"ss_network_alpha", alpha},
                           {"ss_network_args", lycoris ? "{\"algo\": \"full\"}" : "{}"},
                           {"ss_output_name", title},
                           {"ss_training_comment", comment},
                           {"modelspec.sai_model_spec", "1.0.1"},
                           {"modelspec.implementation", "atelier " ATELIER_VERSION},
                           {"modelspec.title", title}};
    return lora_save(lo, a->out, a->format, a->dtype, meta, (int)(sizeof meta / sizeof *meta));
}
