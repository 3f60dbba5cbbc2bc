#include "io/torch_file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/str.h"
#include "io/file.h"
#include "io/pickle.h"

enum { MAX_TENSORS = 10000, MAX_NESTED = 16, MAX_SEEN = 1000000, ZIP_END = 22, ZIP_ENTRY = 46, ZIP_LOCAL = 30 };
static const size_t MAX_FILE = (size_t)1 << 30;

typedef struct {
    const uint8_t *data;
    size_t size;
    const char *name; /* of the file, for messages */
} Zip;

typedef struct {
    char *name;
    Dtype dtype;
    const PickleValue *shape;
    const uint8_t *data;
    size_t bytes;
} Tensor;

typedef struct {
    const Zip *zip;
    Tensor *tensor;
    int count, seen; /* seen: values, for files that name the same ones again and again */
} Found;

static uint32_t get(const uint8_t *p, int n)
{
    uint32_t v = 0;
    for (int i = 0; i < n; i++)
        v |= (uint32_t)p[i] << 8 * i;
    return v;
}

static int damaged(const Zip *z)
{
    return err_set(ERR_FORMAT, "%s: a damaged zip file", z->name);
}

/* The stored entry whose name ends in "/SUFFIX" (APPNOTE.TXT 4.3). */
static int find(const Zip *z, const char *suffix, const uint8_t **out, size_t *size)
{
    size_t end = z->size - ZIP_END, nsuffix = strlen(suffix);
    while (end && get(z->data + end, 4) != 0x06054b50)
        end--;
    if (get(z->data + end, 4) != 0x06054b50)
        return damaged(z);
    size_t at = get(z->data + end + 16, 4), count = get(z->data + end + 10, 2);
    for (size_t i = 0; i < count; i++) {
        if (at > z->size - ZIP_ENTRY || get(z->data + at, 4) != 0x02014b50)
            return damaged(z);
        const uint8_t *e = z->data + at;
        size_t name = get(e + 28, 2), more = (size_t)get(e + 30, 2) + get(e + 32, 2), packed = get(e + 20, 4), local = get(e + 42, 4);
        if (z->size - at - ZIP_ENTRY < name + more)
            return damaged(z);
        at += ZIP_ENTRY + name + more;
        const uint8_t *text = e + ZIP_ENTRY;
        if (name <= nsuffix || memcmp(text + name - nsuffix, suffix, nsuffix) != 0 || text[name - nsuffix - 1] != '/')
            continue;
        if (get(e + 10, 2) != 0 || packed == UINT32_MAX)
            return err_set(ERR_UNSUPPORTED, "%s: '%s' is compressed or over 4 GiB; convert the file to safetensors", z->name, suffix);
        if (local > z->size - ZIP_LOCAL || get(z->data + local, 4) != 0x04034b50)
            return damaged(z);
        size_t from = local + ZIP_LOCAL + get(z->data + local + 26, 2) + get(z->data + local + 28, 2);
        if (from > z->size || packed > z->size - from)
            return damaged(z);
        *out = z->data + from;
        *size = packed;
        return 0;
    }
    return err_set(ERR_FORMAT, "%s: no '%s' in it: not a file of torch.save", z->name, suffix);
}

static int dtype_of(const char *type, Dtype *out)
{
    static const struct {
        const char *name;
        Dtype dtype;
    } known[] = {{"FloatStorage", DTYPE_F32}, {"HalfStorage", DTYPE_F16}, {"BFloat16Storage", DTYPE_BF16}, {"DoubleStorage", DTYPE_F64}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcmp(type, known[i].name) == 0) {
            *out = known[i].dtype;
            return 1;
        }
    return 0;
}

static int add_tensor(Found *f, const char *name, const PickleValue *v)
{
    Dtype dtype;
    char key[64];
    const uint8_t *data;
    size_t size;
    int64_t count = 1;
    if (!dtype_of(v->type, &dtype))
        return 0;
    for (int i = v->ndim - 1; i >= 0; i--) {
        if (v->dim[i] > 1 && v->stride[i] != count)
            return err_set(ERR_UNSUPPORTED, "%s: tensor '%s' is not laid out row by row; save it with .contiguous()", f->zip->name, name);
        if (v->dim[i] > (int64_t)MAX_FILE || (count *= v->dim[i]) > (int64_t)MAX_FILE)
            return err_set(ERR_FORMAT, "%s: tensor '%s' is larger than its file", f->zip->name, name);
    }
    snprintf(key, sizeof key, "data/%.50s", v->text);
    TRY(find(f->zip, key, &data, &size));
    size_t one = dtype_size(dtype), bytes = (size_t)count * one;
    if (v->number < 0 || (uint64_t)v->number > size / one || bytes > size - (size_t)v->number * one)
        return err_set(ERR_FORMAT, "%s: tensor '%s' is larger than its storage", f->zip->name, name);
    if (f->count == MAX_TENSORS)
        return err_set(ERR_RANGE, "%s: over %d tensors", f->zip->name, MAX_TENSORS);
    Tensor *grown = realloc(f->tensor, (size_t)(f->count + 1) * sizeof *grown);
    if (!grown)
        return err_set(ERR_NOMEM, "out of memory");
    f->tensor = grown;
    Tensor *t = &f->tensor[f->count];
    *t = (Tensor){NULL, dtype, v, data + (size_t)v->number * one, bytes};
    TRY(str_copy(&t->name, name));
    f->count++;
    return 0;
}

static int walk(Found *f, const PickleValue *v, const char *name, int depth)
{
    if (++f->seen > MAX_SEEN)
        return err_set(ERR_RANGE, "%s: over %d values", f->zip->name, MAX_SEEN);
    if (v->kind == PICKLE_TENSOR)
        return add_tensor(f, *name ? name : "tensor", v);
    if (v->kind != PICKLE_DICT || depth == MAX_NESTED)
        return 0;
    for (size_t i = 0; i + 1 < v->count; i += 2) {
        char *inner;
        if (v->item[i]->kind != PICKLE_TEXT)
            continue;
        TRY(str_format(&inner, "%s%s%s", name, *name ? "." : "", v->item[i]->text));
        int rc = walk(f, v->item[i + 1], inner, depth + 1);
        free(inner);
        TRY(rc);
    }
    return 0;
}

static void add_head(StrBuf *b, const Found *f)
{
    static const char *const names[DTYPE_COUNT] = {[DTYPE_F32] = "F32", [DTYPE_F16] = "F16", [DTYPE_BF16] = "BF16", [DTYPE_F64] = "F64"};
    size_t at = 0;
    str_add_char(b, '{');
    for (int i = 0; i < f->count; i++) {
        const Tensor *t = &f->tensor[i];
        str_add(b, i ? ", " : "");
        str_add_json(b, t->name, strlen(t->name));
        str_add_format(b, ": {\"dtype\": \"%s\", \"shape\": [", names[t->dtype]);
        for (int k = 0; k < t->shape->ndim; k++)
            str_add_format(b, "%s%lld", k ? ", " : "", (long long)t->shape->dim[k]);
        str_add_format(b, "], \"data_offsets\": [%zu, %zu]}", at, at + t->bytes);
        at += t->bytes;
    }
    str_add_char(b, '}');
    while (b->len % 8)
        str_add_char(b, ' ');
}

static int pack(const Found *f, void **out, size_t *size)
{
    StrBuf b;
    size_t bytes = 0;
    str_init(&b);
    add_head(&b, f);
    int rc = str_status(&b);
    for (int i = 0; i < f->count; i++)
        bytes += f->tensor[i].bytes;
    uint8_t *p = rc < 0 ? NULL : malloc(8 + b.len + bytes);
    if (rc >= 0 && !p)
        rc = err_set(ERR_NOMEM, "out of memory");
    if (rc >= 0) {
        *out = p;
        *size = 8 + b.len + bytes;
        for (int i = 0; i < 8; i++)
            *p++ = (uint8_t)((uint64_t)b.len >> 8 * i);
        memcpy(p, b.data, b.len);
        p += b.len;
        for (int i = 0; i < f->count; p += f->tensor[i++].bytes)
            if (f->tensor[i].bytes)
                memcpy(p, f->tensor[i].data, f->tensor[i].bytes);
    }
    str_deinit(&b);
    return rc;
}

int io_torch_convert(void **out, size_t *size, const void *data, size_t n, const char *name)
{
    const Zip z = {data, n, name};
    Found f = {.zip = &z};
    Arena arena;
    PickleValue *root;
    const uint8_t *p;
    size_t np;
    int rc;
    *out = NULL;
    arena_init(&arena, 1 << 16);
    if (n < ZIP_ENTRY || memcmp(data, "PK\3\4", 4) != 0) {
        rc = err_set(ERR_UNSUPPORTED, "%s: not a zip file as torch.save writes since version 1.6; load it with torch and save it again, or as safetensors", name);
        goto done;
    }
    TRY_GOTO(find(&z, "data.pkl", &p, &np));
    TRY_GOTO(io_pickle_read(&root, &arena, p, np, name));
    TRY_GOTO(walk(&f, root, "", 0));
    rc = f.count ? pack(&f, out, size) : err_set(ERR_FORMAT, "%s: no tensors in it", name);
done:
    for (int i = 0; i < f.count; i++)
        free(f.tensor[i].name);
    free(f.tensor);
    arena_deinit(&arena);
    return rc;
}

int io_torch_is(const char *path)
{
    uint8_t head[4] = {0};
    FILE *f = fopen(path, "rb");
    size_t n = f ? fread(head, 1, 4, f) : 0;
    if (f)
        fclose(f);
    return n == 4 && (memcmp(head, "PK\3\4", 4) == 0 || (head[0] == 0x80 && head[1] >= 2 && head[1] <= 5));
}

int io_torch_open(IoSafetensors **out, void **memory, const char *path)
{
    char *data;
    size_t size, n;
    *memory = NULL;
    TRY(io_file_read(&data, &n, path, MAX_FILE));
    int rc = io_torch_convert(memory, &size, data, n, path);
    free(data);
    TRY(rc);
    rc = io_safetensors_open_memory(out, *memory, size, path);
    if (rc < 0) {
        free(*memory);
        *memory = NULL;
    }
    return rc;
}
