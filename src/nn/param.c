#include "nn/param.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CONVERT_CHUNK = 1 << 18 };

struct NnParams {
    NnParam **item;     /* separately allocated: addresses stay */
    int count, cap;
    int *table;         /* open addressing over names: index + 1, 0 empty */
    int slots;          /* power of two, at least twice count */
};

static uint64_t name_hash(const char *s, size_t n)
{
    uint64_t h = 0xcbf29ce484222325u; /* FNV-1a */
    for (size_t i = 0; i < n; i++)
        h = (h ^ (uint8_t)s[i]) * 0x100000001b3u;
    return h;
}

int nn_params_create(NnParams **out)
{
    *out = calloc(1, sizeof **out);
    return *out ? 0 : err_set(ERR_NOMEM, "parameters: out of memory");
}

static void param_destroy(NnParam *p)
{
    if (p && p->owned)
        free(p->data);
    if (p)
        free(p->name);
    free(p);
}

void nn_params_destroy(NnParams *ps)
{
    if (!ps)
        return;
    for (int i = 0; i < ps->count; i++)
        param_destroy(ps->item[i]);
    free(ps->item);
    free(ps->table);
    free(ps);
}

int nn_params_count(const NnParams *ps)
{
    return ps->count;
}

NnParam *nn_params_at(const NnParams *ps, int i)
{
    return ps->item[i];
}

static int *find_slot(const NnParams *ps, const char *name)
{
    uint64_t mask = (uint64_t)ps->slots - 1;
    uint64_t at = name_hash(name, strlen(name)) & mask;
    while (ps->table[at] && strcmp(ps->item[ps->table[at] - 1]->name, name))
        at = (at + 1) & mask;
    return &ps->table[at];
}

NnParam *nn_params_find(const NnParams *ps, const char *name)
{
    if (!ps->slots)
        return NULL;
    int i = *find_slot(ps, name);
    return i ? ps->item[i - 1] : NULL;
}

static size_t param_bytes(const NnParam *p)
{
    return (size_t)shape_count(&p->shape) * dtype_size(p->dtype);
}

size_t nn_params_owned_bytes(const NnParams *ps)
{
    size_t n = 0;
    for (int i = 0; i < ps->count; i++)
        if (ps->item[i]->owned)
            n += param_bytes(ps->item[i]);
    return n;
}

static int grow(NnParams *ps)
{
    if (ps->count == ps->cap) {
        int cap = ps->cap ? ps->cap * 2 : 256;
        NnParam **p = realloc(ps->item, (size_t)cap * sizeof *p);
        if (!p)
            return err_set(ERR_NOMEM, "parameters: out of memory");
        ps->item = p;
        ps->cap = cap;
    }
    if ((ps->count + 1) * 2 <= ps->slots)
        return 0;
    int slots = ps->slots ? ps->slots * 2 : 512;
    int *table = calloc((size_t)slots, sizeof *table);
    if (!table)
        return err_set(ERR_NOMEM, "parameters: out of memory");
    free(ps->table);
    ps->table = table;
    ps->slots = slots;
    for (int i = 0; i < ps->count; i++)
        *find_slot(ps, ps->item[i]->name) = i + 1;
    return 0;
}

/* 64-byte aligned, zeroed when asked. */
static void *param_alloc(size_t bytes, int zero)
{
    size_t size = (bytes + 63) / 64 * 64;
    void *p = aligned_alloc(64, size ? size : 64);
    if (!p)
        err_set(ERR_NOMEM, "out of memory for a parameter of %zu bytes", bytes);
    else if (zero)
        memset(p, 0, bytes);
    return p;
}

static int add(NnParams *ps, const NnParam *proto, const char *name, NnParam **out)
{
    if (nn_params_find(ps, name))
        return err_set(ERR_BUSY, "parameter '%s' exists already", name);
    TRY(grow(ps));
    NnParam *p = malloc(sizeof *p);
    char *copy = strdup(name);
    if (!p || !copy) {
        free(p);
        free(copy);
        return err_set(ERR_NOMEM, "parameters: out of memory");
    }
    *p = *proto;
    p->name = copy;
    p->version = 1;
    ps->item[ps->count++] = p;
    *find_slot(ps, name) = ps->count;
    if (out)
        *out = p;
    return 0;
}

static int add_owned(NnParams *ps, const char *name, Dtype dtype, Shape shape, int zero, NnParam **out)
{
    NnParam p = {.dtype = dtype, .shape = shape, .owned = 1};
    if (!(p.data = param_alloc(param_bytes(&p), zero)))
        return err_context(ERR_NOMEM, "parameter '%s'", name);
    int rc = add(ps, &p, name, out);
    if (rc < 0)
        free(p.data);
    return rc;
}

int nn_params_add(NnParams *ps, const char *name, Dtype dtype, Shape shape, NnParam **out)
{
    return add_owned(ps, name, dtype, shape, 1, out);
}

int nn_params_add_view(NnParams *ps, const char *name, Dtype dtype, Shape shape, void *data, NnParam **out)
{
    NnParam p = {.dtype = dtype, .shape = shape, .data = data};
    return add(ps, &p, name, out);
}

int nn_param_own(NnParam *p)
{
    if (!p->frozen)
        return 0;
    if (!p->owned) {
        size_t bytes = param_bytes(p);
        void *data = param_alloc(bytes, 0);
        if (!data)
            return err_context(ERR_NOMEM, "parameter '%s'", p->name);
        memcpy(data, p->data, bytes);
        p->data = data;
        p->owned = 1;
    }
    p->frozen = 0;
    p->version++;
    return 0;
}

void nn_param_touch(NnParam *p)
{
    p->version++;
}

/* ---- loading ---- */

static const char *under_root(const char *name, const char *root)
{
    size_t n = strlen(root);
    return name && !strncmp(name, root, n) && name[n] == '.' ? name + n + 1 : NULL;
}

static int find_in_model(const IoSafetensors *model, const char *name, NnNameFn names)
{
    char buf[512];
    if (!names)
        return io_safetensors_find(model, name);
    for (int k = 0; names(name, k, buf, sizeof buf); k++) {
        int i = io_safetensors_find(model, buf);
        if (i >= 0)
            return i;
    }
    return -1;
}

static int same_but_ones(const Shape *want, const IoTensor *t)
{
    int a = want->ndim, b = t->ndim;
    while (a > 0 && want->dim[a - 1] == 1)
        a--;
    while (b > 0 && t->dim[b - 1] == 1)
        b--;
    if (a != b)
        return 0;
    for (int i = 0; i < a; i++)
        if (want->dim[i] != t->dim[i])
            return 0;
    return 1;
}

static int shape_error(const char *root, const char *path, const IoTensor *t, const Shape *want)
{
    char got[256] = "[", buf[96];
    size_t n = 1;
    for (int i = 0; i < t->ndim && n < sizeof got; i++)
        n += (size_t)snprintf(got + n, sizeof got - n, "%s%lld", i ? "," : "", (long long)t->dim[i]);
    return err_set(ERR_SHAPE, "%s: %s: tensor '%s' has shape %s], expected %s", root, path, t->name, got,
                   shape_text(want, buf, sizeof buf));
}

static int convert(void *dst, Dtype to, const void *src, Dtype from, int64_t n)
{
    int rc = 0;
    int64_t chunks = (n + CONVERT_CHUNK - 1) / CONVERT_CHUNK;
#pragma omp parallel for schedule(static) if (chunks > 1) reduction(min : rc)
    for (int64_t c = 0; c < chunks; c++) {
        int64_t at = c * CONVERT_CHUNK, count = n - at < CONVERT_CHUNK ? n - at : CONVERT_CHUNK;
        int r = dtype_convert((char *)dst + (size_t)at * dtype_size(to), to,
                              (const char *)src + (size_t)at * dtype_size(from), from, count);
        rc = r < rc ? r : rc;
    }
    return rc;
}

static int is_float(Dtype t)
{
    return t == DTYPE_F32 || t == DTYPE_F16 || t == DTYPE_BF16 || t == DTYPE_F64;
}

static int load_one(NnParams *ps, const GraphTensor *want, const char *root, IoSafetensors *model, int i)
{
    IoTensor t;
    TRY_CTX(io_safetensors_at(model, i, &t), "%s", root);
    const Meta *m = &want->meta;
    if (!same_but_ones(&m->shape, &t))
        return shape_error(root, io_safetensors_path(model), &t, &m->shape);
    if (!is_float(t.dtype))
        return err_set(ERR_SHAPE, "%s: %s: tensor '%s' is %s, expected a floating-point type", root,
                       io_safetensors_path(model), t.name, dtype_name(t.dtype));
    if (t.dtype == m->dtype && (uintptr_t)t.data % dtype_size(t.dtype) == 0) {
        NnParam p = {.dtype = m->dtype, .shape = m->shape, .frozen = 1};
        memcpy(&p.data, &t.data, sizeof p.data); /* frozen: nobody writes through it */
        return add(ps, &p, want->name, NULL);
    }
    NnParam *p;
    TRY(add_owned(ps, want->name, m->dtype, m->shape, 0, &p));
    p->frozen = 1;
    TRY_CTX(convert(p->data, m->dtype, t.data, t.dtype, shape_count(&m->shape)), "%s: tensor '%s'", root, t.name);
    io_safetensors_release(model, i);
    return 0;
}

static int check_present(const NnParam *p, const Meta *m)
{
    char a[96], b[96];
    if (p->dtype == m->dtype && shape_equal(&p->shape, &m->shape))
        return 0;
    return err_set(ERR_SHAPE, "parameter '%s' is %s %s, expected %s %s", p->name, dtype_name(p->dtype),
                   shape_text(&p->shape, a, sizeof a), dtype_name(m->dtype), shape_text(&m->shape, b, sizeof b));
}

int nn_params_load(NnParams *ps, const Graph *g, const char *root, IoSafetensors *model, NnNameFn names)
{
    int missing = 0, wanted = 0;
    const char *first = NULL;
    for (int i = 0; i < graph_tensor_count(g); i++) {
        const GraphTensor *t = graph_tensor(g, i);
        const char *name = t->kind == TENSOR_PARAM ? under_root(t->name, root) : NULL;
        if (!name)
            continue;
        wanted++;
        const NnParam *have = nn_params_find(ps, t->name);
        if (have) {
            TRY(check_present(have, &t->meta));
            continue;
        }
        int at = find_in_model(model, name, names);
        if (at < 0) {
            first = first ? first : name;
            missing++;
        } else if (!missing) {
            TRY(load_one(ps, t, root, model, at));
        }
    }
    if (missing)
        return err_set(ERR_NOTFOUND, "%s: %s: tensor '%s' is missing (%d of %d are)", root, io_safetensors_path(model), first,
                       missing, wanted);
    return 0;
}

/* ---- saving, training, binding ---- */

static int save_names(const NnParams *ps, const char *root, Dtype to, NnNameFn rename, IoTensor *t, char (*name)[512],
                      void **data, int *count)
{
    for (int i = 0; i < ps->count; i++) {
        const NnParam *p = ps->item[i];
        const char *rest = under_root(p->name, root);
        if (!rest)
            continue;
        int k = (*count)++;
        if (!rename || !rename(rest, 0, name[k], sizeof name[k]))
            snprintf(name[k], sizeof name[k], "%s", rest);
        t[k] = (IoTensor){.name = name[k], .dtype = to, .ndim = p->shape.ndim, .data = p->data};
        memcpy(t[k].dim, p->shape.dim, sizeof p->shape.dim);
        if (p->dtype == to)
            continue;
        int64_t n = shape_count(&p->shape);
        if (!(data[k] = malloc((size_t)n * dtype_size(to) + 1)))
            return err_set(ERR_NOMEM, "saving '%s': out of memory", p->name);
        TRY(convert(data[k], to, p->data, p->dtype, n));
        t[k].data = data[k];
    }
    return 0;
}

int nn_params_save(const NnParams *ps, const char *root, const char *path, Dtype to, NnNameFn rename, const IoMeta *meta, int nmeta)
{
    int rc = ERR_NOMEM, count = 0;
    size_t n = (size_t)ps->count + 1;
    IoTensor *t = calloc(n, sizeof *t);
    char(*name)[512] = calloc(n, sizeof *name);
    void **data = calloc(n, sizeof *data);
    if (!t || !name || !data) {
        err_set(rc, "%s: out of memory", path);
        goto done;
    }
    TRY_GOTO(save_names(ps, root, to, rename, t, name, data, &count));
    if (!count)
        rc = err_set(ERR_NOTFOUND, "%s: no parameter under '%s' to save", path, root);
    else
        rc = io_safetensors_write(path, t, count, meta, nmeta);
done:
    for (int i = 0; data && i < count; i++)
        free(data[i]);
    free(data);
    free(name);
    free(t);
    return rc;
}

int nn_params_set_trainable(NnParams *ps, const Graph *g, const OpRef *trained, int n)
{
    for (int i = 0; i < n; i++) {
        const GraphTensor *t = graph_tensor(g, trained[i]);
        NnParam *p = nn_params_find(ps, t->name);
        if (!p)
            return err_set(ERR_NOTFOUND, "trained parameter '%s' has no values", t->name);
        TRY(check_present(p, &t->meta));
        TRY(nn_param_own(p));
        p->trainable = 1;
    }
    return 0;
}

int nn_params_bind(const NnParams *ps, const Graph *g, Exec *e)
{
    uint8_t *used = calloc((size_t)graph_tensor_count(g) + 1, 1);
    int rc = 0;
    if (!used)
        return err_set(ERR_NOMEM, "parameters: out of memory");
    for (int i = 0; i < graph_node_count(g); i++) {
        const GraphNode *node = graph_node(g, i);
        for (int j = 0; !node->dead && j < node->nin; j++)
            used[node->in[j]] = 1;
    }
    for (int i = 0; i < graph_tensor_count(g); i++) {
        const GraphTensor *t = graph_tensor(g, i);
        if (t->kind != TENSOR_PARAM || !used[i])
            continue;
        const NnParam *p = nn_params_find(ps, t->name);
        if (!p) {
            rc = err_set(ERR_NOTFOUND, "parameter '%s' has no values", t->name);
            goto done;
        }
        OpView v = {.data = p->data, .dtype = p->dtype, .shape = p->shape, .version = p->version, .frozen = p->frozen};
        TRY_GOTO(exec_bind(e, i, &v));
    }
done:
    free(used);
    return rc;
}
