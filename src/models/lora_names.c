#include <stdio.h>
#include <string.h>

#include "models/lora_impl.h"

static const struct {
    const char *suffix;
    int leaf;
    NnAdapterKind kind; /* NN_ADAPTER_KINDS: any */
} leaves[] = {
    {".lora_down.weight", NN_DOWN, NN_ADAPTER_LORA},
    {".lora_up.weight", NN_UP, NN_ADAPTER_LORA},
    {".lora_mid.weight", LORA_LEAF_MID, NN_ADAPTER_LORA},
    {".lora_A.weight", NN_DOWN, NN_ADAPTER_LORA},
    {".lora_B.weight", NN_UP, NN_ADAPTER_LORA},
    {".lora_A.default.weight", NN_DOWN, NN_ADAPTER_LORA},
    {".lora_B.default.weight", NN_UP, NN_ADAPTER_LORA},
    {".lora.down.weight", NN_DOWN, NN_ADAPTER_LORA},
    {".lora.up.weight", NN_UP, NN_ADAPTER_LORA},
    {".lora_linear_layer.down.weight", NN_DOWN, NN_ADAPTER_LORA},
    {".lora_linear_layer.up.weight", NN_UP, NN_ADAPTER_LORA},
    {"_lora.down.weight", NN_DOWN, NN_ADAPTER_LORA},
    {"_lora.up.weight", NN_UP, NN_ADAPTER_LORA},
    {".hada_w1_a", NN_W1_A, NN_ADAPTER_LOHA},
    {".hada_w1_b", NN_W1_B, NN_ADAPTER_LOHA},
    {".hada_w2_a", NN_W2_A, NN_ADAPTER_LOHA},
    {".hada_w2_b", NN_W2_B, NN_ADAPTER_LOHA},
    {".hada_t1", LORA_LEAF_T1, NN_ADAPTER_LOHA},
    {".hada_t2", LORA_LEAF_T2, NN_ADAPTER_LOHA},
    {".lokr_w1", NN_W1, NN_ADAPTER_LOKR},
    {".lokr_w1_a", NN_W1_A, NN_ADAPTER_LOKR},
    {".lokr_w1_b", NN_W1_B, NN_ADAPTER_LOKR},
    {".lokr_w2", NN_W2, NN_ADAPTER_LOKR},
    {".lokr_w2_a", NN_W2_A, NN_ADAPTER_LOKR},
    {".lokr_w2_b", NN_W2_B, NN_ADAPTER_LOKR},
    {".lokr_t2", LORA_LEAF_T2, NN_ADAPTER_LOKR},
    {".diff", NN_DIFF, NN_ADAPTER_FULL},
    {".w_norm", NN_DIFF, NN_ADAPTER_FULL},
    {".diff_b", NN_DIFF_B, NN_ADAPTER_KINDS},
    {".b_norm", NN_DIFF_B, NN_ADAPTER_KINDS},
    {".dora_scale", NN_MAGNITUDE, NN_ADAPTER_KINDS},
    {".lora_magnitude_vector", NN_MAGNITUDE, NN_ADAPTER_KINDS},
    {".lora_magnitude_vector.weight", NN_MAGNITUDE, NN_ADAPTER_KINDS},
    {".lora_magnitude_vector.default.weight", NN_MAGNITUDE, NN_ADAPTER_KINDS},
    {".alpha", LORA_LEAF_ALPHA, NN_ADAPTER_KINDS},
    {".scalar", LORA_LEAF_SCALAR, NN_ADAPTER_KINDS},
};

int lora_split_name(const char *name, int *leaf, NnAdapterKind *kind)
{
    size_t n = strlen(name);
    for (size_t i = 0; i < sizeof leaves / sizeof *leaves; i++) {
        size_t m = strlen(leaves[i].suffix);
        if (n > m && !strcmp(name + n - m, leaves[i].suffix)) {
            *leaf = leaves[i].leaf;
            *kind = leaves[i].kind;
            return (int)(n - m);
        }
    }
    return -1;
}

const char *lora_foreign_kind(const char *name)
{
    static const struct {
        const char *mark, *kind;
    } others[] = {{".oft_", "OFT"}, {".a1.", "GLoRA"}, {".a2.", "GLoRA"}, {".b1.", "GLoRA"}, {".b2.", "GLoRA"},
                  {".on_input", "IA3"}, {".lokr_t1", "LoKr with a Tucker core in w1"}, {".vera_lambda", "VeRA"},
                  {".lora_embedding_", "embedding LoRA"}, {".boft_", "BOFT"}};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (strstr(name, others[i].mark))
            return others[i].kind;
    return NULL;
}

static int starts(const char *s, const char *prefix, const char **rest)
{
    size_t n = strlen(prefix);
    if (strncmp(s, prefix, n))
        return 0;
    *rest = s + n;
    return 1;
}

/* Compares a name with a module path, '.' and '_' being the same. */
static int same_flat(const char *flat, const char *path)
{
    for (; *flat && *path; flat++, path++)
        if ((*flat == '.' ? '_' : *flat) != (*path == '.' ? '_' : *path))
            return 0;
    return !*flat && !*path;
}

static const NnModule *find_flat(const NnModules *mods, const char *root, const char *flat)
{
    const char *rest, *bare;
    for (int i = 0; i < mods->count; i++) {
        if (!starts(mods->item[i].path, root, &rest))
            continue;
        if (same_flat(flat, rest) || (starts(rest, "text_model.", &bare) && same_flat(flat, bare)))
            return &mods->item[i];
    }
    return NULL;
}

/* Replaces `from` at the end of s (or before its end, for a middle part) by `to`. */
static void replace(char *s, size_t size, const char *from, const char *to)
{
    char tail[NN_PATH_MAX];
    char *at = strstr(s, from);
    if (!at)
        return;
    snprintf(tail, sizeof tail, "%s", at + strlen(from));
    snprintf(at, size - (size_t)(at - s), "%s%s", to, tail);
}

static void replace_end(char *s, size_t size, const char *from, const char *to)
{
    size_t n = strlen(s), m = strlen(from);
    if (n >= m && !strcmp(s + n - m, from))
        snprintf(s + n - m, size - (n - m), "%s", to);
}

/* Dotted names: as they are, or as older diffusers versions called the same module. */
static const NnModule *find_dotted(const NnModules *mods, const char *root, const char *rest)
{
    char path[2 * NN_PATH_MAX];
    const char *bare;
    snprintf(path, sizeof path, "%s%s", root, rest);
    const NnModule *m = nn_modules_find(mods, path);
    if (m)
        return m;
    replace(path, sizeof path, ".processor.", ".");
    replace_end(path, sizeof path, ".to_out", ".to_out.0");
    if ((m = nn_modules_find(mods, path)))
        return m;
    if (strcmp(root, "text_encoder."))
        return find_flat(mods, root, rest);
    if (!starts(rest, "text_model.", &bare))
        replace(path, sizeof path, "text_encoder.", "text_encoder.text_model.");
    replace_end(path, sizeof path, ".to_q", ".q_proj");
    replace_end(path, sizeof path, ".to_k", ".k_proj");
    replace_end(path, sizeof path, ".to_v", ".v_proj");
    replace_end(path, sizeof path, ".to_out.0", ".out_proj");
    m = nn_modules_find(mods, path);
    return m ? m : find_flat(mods, root, rest);
}

/* Prefixes of names and the roots they stand for; kohya's before PEFT's. */
static const struct {
    const char *prefix, *root;
    int flat;
} roots[] = {
    {"lora_unet_", "unet.", 1},           {"lora_te_", "text_encoder.", 1},     {"lora_te1_", "text_encoder.", 1},
    {"lora_te2_", "text_encoder_2.", 1},  {"lora_te3_", "text_encoder_3.", 1},  {"lycoris_", "unet.", 1},
    {"unet.", "unet.", 0},                {"text_encoder.", "text_encoder.", 0}, {"text_encoder_2.", "text_encoder_2.", 0},
    {"text_encoder_3.", "text_encoder_3.", 0}, {"transformer.", "transformer.", 0}, {"lora_transformer_", "transformer.", 1},
};

const NnModule *lora_resolve(const NnModules *mods, const char *stem)
{
    const char *rest;
    if (starts(stem, "base_model.model.", &rest))
        stem = rest;
    for (size_t i = 0; i < sizeof roots / sizeof *roots; i++)
        if (starts(stem, roots[i].prefix, &rest))
            return roots[i].flat ? find_flat(mods, roots[i].root, rest) : find_dotted(mods, roots[i].root, rest);
    const NnModule *m = find_dotted(mods, "unet.", stem);
    m = m ? m : find_dotted(mods, "text_encoder.", stem);
    return m ? m : find_flat(mods, "other.", stem);
}

void lora_stem_path(char *out, size_t size, const char *stem)
{
    const char *rest, *root = "other.";
    if (starts(stem, "base_model.model.", &rest))
        stem = rest;
    rest = stem;
    for (size_t i = 0; i < sizeof roots / sizeof *roots; i++)
        if (starts(stem, roots[i].prefix, &rest)) {
            root = roots[i].root;
            break;
        }
    snprintf(out, size, "%s%s", root, rest);
    for (char *c = strlen(out) > strlen(root) ? out + strlen(root) : out; *c; c++)
        if (*c == '.')
            *c = '_';
}
