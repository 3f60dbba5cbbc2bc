#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "models/lora_impl.h"

/* A module as its tensors describe it. */
typedef struct {
    char path[2 * NN_PATH_MAX];
    NnAdapterKind kind;
    Shape shape[LORA_LEAVES]; /* ndim 0: absent */
} Probe;

static Shape last_of(const Probe *p, int whole, int part)
{
    return p->shape[whole].ndim ? p->shape[whole] : p->shape[part];
}

static Shape with_kernel(int64_t out, int64_t in, const Shape *kernel)
{
    return kernel->ndim == 4 ? SHAPE(out, in, kernel->dim[2], kernel->dim[3]) : SHAPE(out, in);
}

/* The shape of the weight, so far as the factors tell: kernels that are flattened into a factor stay so. */
static Shape weight_of(const Probe *p)
{
    const Shape *s = p->shape;
    Shape w1, w2;
    switch (p->kind) {
    case NN_ADAPTER_LORA:
        return with_kernel(s[NN_UP].dim[0], s[NN_DOWN].dim[1], s[LORA_LEAF_MID].ndim ? &s[LORA_LEAF_MID] : &s[NN_DOWN]);
    case NN_ADAPTER_LOHA:
        return with_kernel(s[NN_W1_A].dim[s[LORA_LEAF_T1].ndim ? 1 : 0], s[NN_W1_B].dim[1], &s[LORA_LEAF_T1]);
    case NN_ADAPTER_LOKR:
        w1 = SHAPE(last_of(p, NN_W1, NN_W1_A).dim[0], last_of(p, NN_W1, NN_W1_B).dim[1]);
        w2 = SHAPE(last_of(p, NN_W2, NN_W2_A).dim[s[LORA_LEAF_T2].ndim && !s[NN_W2].ndim ? 1 : 0], last_of(p, NN_W2, NN_W2_B).dim[1]);
        return with_kernel(w1.dim[0] * w2.dim[0], w1.dim[1] * w2.dim[1], s[NN_W2].ndim ? &s[NN_W2] : &s[LORA_LEAF_T2]);
    default:
        return s[NN_DIFF].ndim ? s[NN_DIFF] : s[NN_DIFF_B];
    }
}

/* LyCORIS keeps 1x1 kernels; loading treats [n,m,1,1] and [n,m] alike. */
static int add_module(NnModules *mods, const Probe *p)
{
    Shape w = weight_of(p);
    for (int i = 0; i < mods->count; i++)
        if (!strcmp(mods->item[i].path, p->path)) {
            Shape *old = &mods->item[i].weight;
            if (old->ndim < w.ndim && shape_count(old) == shape_count(&w)) /* another file knows the kernel */
                *old = w;
            return 0;
        }
    if (mods->count == mods->cap) {
        int cap = mods->cap ? mods->cap * 2 : 128;
        NnModule *m = realloc(mods->item, (size_t)cap * sizeof *m);
        if (!m)
            return err_set(ERR_NOMEM, "module list: out of memory");
        mods->item = m;
        mods->cap = cap;
    }
    char *copy = strdup(p->path);
    if (!copy)
        return err_set(ERR_NOMEM, "module list: out of memory");
    for (int i = 0; i < w.ndim; i++)
        w.dim[i] = w.dim[i] < 1 ? 1 : w.dim[i]; /* a factor is missing: loading says which */
    mods->item[mods->count++] = (NnModule){copy, w.ndim ? w : SHAPE(1)};
    return 0;
}

static int probe_tensor(IoSafetensors *f, int index, Probe *list, int *count)
{
    char stem[2 * NN_PATH_MAX], path[2 * NN_PATH_MAX];
    const char *name = io_safetensors_name(f, index);
    int leaf, i = 0;
    NnAdapterKind kind;
    IoTensor t;
    Meta m;
    int n = lora_split_name(name, &leaf, &kind);
    if (n < 0 || n >= NN_PATH_MAX - 16)
        return 0; /* loading names it */
    snprintf(stem, sizeof stem, "%.*s", n, name);
    lora_stem_path(path, sizeof path, stem);
    while (i < *count && strcmp(list[i].path, path))
        i++;
    if (i == *count) {
        memset(&list[i], 0, sizeof list[i]);
        snprintf(list[i].path, sizeof list[i].path, "%s", path);
        list[i].kind = NN_ADAPTER_FULL;
        (*count)++;
    }
    TRY(io_safetensors_at(f, index, &t));
    TRY_CTX(io_tensor_meta(&t, &m), "%s", io_safetensors_path(f));
    list[i].shape[leaf] = m.shape;
    if (kind != NN_ADAPTER_KINDS)
        list[i].kind = kind;
    return 0;
}

int lora_file_modules(NnModules *mods, const char *path)
{
    IoSafetensors *f;
    int rc = 0, count = 0;
    TRY(io_safetensors_open(&f, path));
    int n = io_safetensors_count(f);
    Probe *list = malloc(((size_t)n + 1) * sizeof *list);
    if (!list)
        rc = err_set(ERR_NOMEM, "%s: out of memory", path);
    for (int i = 0; rc >= 0 && i < n; i++)
        rc = probe_tensor(f, i, list, &count);
    for (int i = 0; rc >= 0 && i < count; i++)
        rc = add_module(mods, &list[i]);
    free(list);
    io_safetensors_close(f);
    return rc;
}
