#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "models/lora_impl.h"
#include "models/lora_ops.h"

/* ---- several into one ---- */

typedef struct {
    Lora *const *in;
    const float *scale;
    int n;
} Sum;

static int check_parts(const Sum *s, const LoraPart *p, int *pairs, int *rank)
{
    *pairs = 1;
    *rank = 0;
    for (int i = 0; i < s->n; i++) {
        const LoraPart *q = lora_find(s->in[i], p->path);
        if (!q)
            continue;
        if (q->f[NN_MAGNITUDE])
            return err_set(ERR_UNSUPPORTED, "module '%s' is DoRA, whose change depends on the model: merge it into the model instead",
                           p->path);
        if (shape_count(&q->weight) != shape_count(&p->weight) || q->weight.dim[0] != p->weight.dim[0])
            return err_set(ERR_SHAPE, "module '%s' has different shapes in the adapters", p->path);
        *pairs &= q->kind == NN_ADAPTER_LORA;
        *rank += q->rank;
    }
    return 0;
}

static void stack(LoraPart *to, const LoraPart *q, double factor, int64_t *at)
{
    int64_t r = q->rank, cols = shape_count(&q->shape[NN_DOWN]) / r, rows = q->weight.dim[0];
    memcpy(to->f[NN_DOWN] + *at * cols, q->f[NN_DOWN], (size_t)(r * cols) * sizeof(float));
    for (int64_t i = 0; i < rows; i++)
        for (int64_t k = 0; k < r; k++)
            to->f[NN_UP][i * to->rank + *at + k] = (float)(factor * (double)q->f[NN_UP][i * r + k]);
    *at += r;
}

static int add_dense(const Sum *s, LoraPart *to)
{
    int64_t n = shape_count(&to->weight);
    float *d = malloc((size_t)n * sizeof *d);
    int rc = d ? lora_set_factor(to, NN_DIFF, to->weight) : err_set(ERR_NOMEM, "LoRA: out of memory");
    for (int i = 0; rc >= 0 && i < s->n; i++) {
        const LoraPart *q = lora_find(s->in[i], to->path);
        if (!q)
            continue;
        rc = lora_delta(q, d);
        for (int64_t k = 0; rc >= 0 && k < n; k++)
            to->f[NN_DIFF][k] += s->scale[i] * d[k];
    }
    to->kind = NN_ADAPTER_FULL;
    free(d);
    return rc;
}

static int add_biases(const Sum *s, LoraPart *to)
{
    for (int i = 0; i < s->n; i++) {
        const LoraPart *q = lora_find(s->in[i], to->path);
        if (!q || !q->f[NN_DIFF_B])
            continue;
        if (!to->f[NN_DIFF_B])
            TRY(lora_set_factor(to, NN_DIFF_B, q->shape[NN_DIFF_B]));
        for (int64_t k = 0; k < shape_count(&q->shape[NN_DIFF_B]); k++)
            to->f[NN_DIFF_B][k] += s->scale[i] * q->f[NN_DIFF_B][k];
    }
    return 0;
}

static int combine_module(const Sum *s, Lora *lo, const LoraPart *p)
{
    const NnModule m = {p->path, p->weight};
    LoraPart *to;
    int pairs, rank;
    int64_t at = 0;
    TRY(check_parts(s, p, &pairs, &rank));
    TRY(lora_add(lo, &m, &to));
    if (!pairs) {
        TRY(add_dense(s, to));
        return add_biases(s, to);
    }
    TRY(lora_set_pair(to, rank));
    to->alpha = (float)rank;
    for (int i = 0; i < s->n; i++) {
        const LoraPart *q = lora_find(s->in[i], p->path);
        if (q)
            stack(to, q, (double)s->scale[i] * (double)q->alpha / q->rank, &at);
    }
    return add_biases(s, to);
}

int lora_combine(Lora **out, Lora *const *in, const float *scale, int n)
{
    const Sum s = {in, scale, n};
    Lora *lo;
    int rc = 0;
    TRY(lora_alloc(&lo));
    for (int i = 0; i < n; i++)
        for (int k = 0; k < in[i]->count; k++)
            if (!lora_find(lo, in[i]->part[k].path))
                TRY_GOTO(combine_module(&s, lo, &in[i]->part[k]));
    lora_sort(lo);
    *out = lo;
    lo = NULL;
done:
    lora_destroy(lo);
    return rc;
}

/* ---- into a model's file ---- */

/* The file's tensors under module names: "text_model." is put back where the file leaves it out. */
static int add_tensors(NnParams *ps, IoSafetensors *f, const char *root, IoTensor *t, const char **name, char *text)
{
    for (int i = 0; i < io_safetensors_count(f); i++) {
        NnParam *p;
        Meta m;
        char *to = text + (size_t)i * (2 * NN_PATH_MAX);
        TRY(io_safetensors_at(f, i, &t[i]));
        TRY_CTX(io_tensor_meta(&t[i], &m), "%s", io_safetensors_path(f));
        int bare = !strcmp(root, "text_encoder") && strncmp(t[i].name, "text_model.", 11) && strncmp(t[i].name, "text_projection", 15);
        snprintf(to, 2 * NN_PATH_MAX, "%s.%s%s", root, bare ? "text_model." : "", t[i].name);
        name[i] = to;
        TRY(nn_params_add_view(ps, to, m.dtype, m.shape, (void *)(uintptr_t)t[i].data, &p));
        p->frozen = 1;
    }
    return 0;
}

int lora_merge_file(Lora *const *lora, const float *scale, int n, IoSafetensors *file, const char *root, const char *path, int *merged)
{
    int rc, count = io_safetensors_count(file), nmeta = io_safetensors_meta_count(file);
    NnParams *ps = NULL;
    IoTensor *t = calloc((size_t)count + 1, sizeof *t);
    IoMeta *meta = calloc((size_t)nmeta + 1, sizeof *meta);
    const char **name = calloc((size_t)count + 1, sizeof *name);
    char *text = calloc((size_t)count + 1, 2 * NN_PATH_MAX);
    *merged = 0;
    TRY_GOTO(t && meta && name && text ? 0 : err_set(ERR_NOMEM, "%s: out of memory", path));
    TRY_GOTO(nn_params_create(&ps));
    TRY_GOTO(add_tensors(ps, file, root, t, name, text));
    for (int i = 0; i < n; i++)
        TRY_GOTO(lora_merge(lora[i], ps, scale[i]));
    for (int i = 0; i < count; i++) {
        const NnParam *p = nn_params_find(ps, name[i]);
        *merged += p->data != t[i].data;
        t[i].data = p->data;
    }
    for (int i = 0; i < nmeta; i++)
        meta[i] = io_safetensors_meta_at(file, i);
    rc = io_safetensors_write(path, t, count, meta, nmeta);
done:
    nn_params_destroy(ps);
    free(text);
    free(name);
    free(meta);
    free(t);
    return rc;
}
