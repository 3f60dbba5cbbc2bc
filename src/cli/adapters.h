/* Shared by merge, resize and extract. */
#ifndef CLI_ADAPTERS_H
#define CLI_ADAPTERS_H

#include "models/lora_ops.h"

enum { ADAPTERS_MAX = 64 };

/* What follows "FILE[:SCALE]" and the options of saving and of ranks. */
typedef struct {
    const char *command, *model, *out;
    const char *file[ADAPTERS_MAX];
    size_t length[ADAPTERS_MAX]; /* of the file part of file[i] */
    float scale[ADAPTERS_MAX];
    int nfile;
    LoraKeep keep;
    int ranked;                  /* some option of ranks was given */
    LoraFormat format;
    Dtype dtype;
} Adapters;

void adapters_init(Adapters *a, const char *command);
/* Takes argv[*i] when it is one of the shared options; 1 taken, 0 not. */
int adapters_option(Adapters *a, int argc, char **argv, int *i);
int adapters_add(Adapters *a, const char *text);
/* Loads file i; with a model its modules, else those that all files name. *mods: nn_modules_deinit. */
int adapters_modules(const Adapters *a, NnModules *mods);
int adapters_load(const Adapters *a, int i, const NnModules *mods, Lora **out);
/* Saves with the least metadata that readers need. comment: training comment. */
int adapters_save(const Adapters *a, Lora *lo, const char *comment);
#define ADAPTERS_RANK_HELP                                                                                                        \
    "  --rank N            ranks at most N\n"                                                                                      \
    "  --conv-rank N       the same where the kernel is larger than 1x1\n"                                                         \
    "  --ratio X           keep singular values over the largest / X\n"                                                            \
    "  --sum X             keep singular values until their sum is X (0..1) of the whole\n"                                        \
    "  --frobenius X       keep singular values until their norm is X (0..1) of the whole\n"
#define ADAPTERS_SAVE_HELP                                                                                                         \
    "  --format F          kohya (default) or peft (needs a model)\n"                                                              \
    "  --dtype T           f32 (default), f16 or bf16\n"

#endif
