#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/str.h"
#include "io/json_scan.h"
#include "io/safetensors_impl.h"

static const IoDtypeName dtypes[] = {
    /* in the library's order (safetensors/src/tensor.rs, enum Dtype), which decides the order in a file */
    {"BOOL", -1, 8},        {"F4", -1, 4},       {"F6_E2M3", -1, 6},    {"F6_E3M2", -1, 6}, {"U8", DTYPE_U8, 8},
    {"I8", -1, 8},          {"F8_E5M2", -1, 8},  {"F8_E4M3", -1, 8},    {"F8_E8M0", -1, 8}, {"I16", -1, 16},
    {"U16", -1, 16},        {"F16", DTYPE_F16, 16}, {"BF16", DTYPE_BF16, 16}, {"I32", DTYPE_I32, 32}, {"U32", -1, 32},
    {"F32", DTYPE_F32, 32}, {"C64", -1, 64},     {"F64", DTYPE_F64, 64}, {"I64", DTYPE_I64, 64}, {"U64", -1, 64},
};
enum { DTYPES = sizeof dtypes / sizeof *dtypes };

const IoDtypeName *io_dtype_named(const char *name, size_t n)
{
    for (int i = 0; i < DTYPES; i++)
        if (strlen(dtypes[i].name) == n && memcmp(dtypes[i].name, name, n) == 0)
            return &dtypes[i];
    return NULL;
}

const char *io_dtype_text(Dtype t, int *rank)
{
    for (int i = 0; i < DTYPES; i++) {
        if (dtypes[i].dtype == (int)t) {
            *rank = i;
            return dtypes[i].name;
        }
    }
    return NULL;
}

/* Grows by doubling, full at powers of two. */
static int push(void **items, int count, size_t size)
{
    size_t n = (size_t)count;
    if (n & (n - 1))
        return 0;
    void *p = realloc(*items, (n ? 2 * n : 1) * size);
    if (!p)
        return err_set(ERR_NOMEM, "out of memory");
    *items = p;
    return 0;
}

static int read_shape(JsonScan *s, IoEntry *e)
{
    int more;
    TRY(json_scan_char(s, '['));
    TRY(json_scan_first(s, ']', &more));
    while (more) {
        uint64_t d;
        if (e->ndim == IO_TENSOR_MAX_DIM)
            return err_set(ERR_UNSUPPORTED, "%s: tensor '%s' has more than %d dimensions", s->file, e->name, IO_TENSOR_MAX_DIM);
        TRY(json_scan_u64(s, &d));
        if (d > INT64_MAX)
            return json_scan_error(s, "a dimension is too large");
        e->dim[e->ndim++] = (int64_t)d;
        TRY(json_scan_next(s, ']', &more));
    }
    return 0;
}

static int read_offsets(JsonScan *s, IoEntry *e)
{
    TRY(json_scan_char(s, '['));
    TRY(json_scan_u64(s, &e->begin));
    TRY(json_scan_char(s, ','));
    TRY(json_scan_u64(s, &e->end));
    return json_scan_char(s, ']');
}

static int read_dtype(JsonScan *s, IoEntry *e, unsigned *bits)
{
    const char *text;
    TRY(json_scan_string(s, &text));
    const IoDtypeName *d = io_dtype_named(text, strlen(text));
    e->dtype_name = d ? d->name : text;
    e->dtype = d ? d->dtype : -1;
    *bits = d ? d->bits : 0;
    return 0;
}

static int check_size(const JsonScan *s, const IoEntry *e, unsigned bits)
{
    uint64_t count = 1, total;
    if (e->begin > e->end)
        return err_set(ERR_FORMAT, "%s: tensor '%s': data ends before it begins", s->file, e->name);
    for (int i = 0; i < e->ndim; i++)
        if (__builtin_mul_overflow(count, (uint64_t)e->dim[i], &count))
            return err_set(ERR_FORMAT, "%s: tensor '%s': shape is too large", s->file, e->name);
    if (!bits)
        return 0;
    if (__builtin_mul_overflow(count, (uint64_t)bits, &total))
        return err_set(ERR_FORMAT, "%s: tensor '%s': shape is too large", s->file, e->name);
    if (total % 8 || total / 8 != e->end - e->begin)
        return err_set(ERR_FORMAT, "%s: tensor '%s': shape and dtype %s need %llu bytes, the header gives it %llu", s->file,
                       e->name, e->dtype_name, (unsigned long long)(total / 8), (unsigned long long)(e->end - e->begin));
    return 0;
}

static int read_tensor(JsonScan *s, IoEntry *e)
{
    static const char *const keys[] = {"dtype", "shape", "data_offsets"};
    int seen[3] = {0}, more;
    unsigned bits = 0;
    TRY(json_scan_char(s, '{'));
    TRY(json_scan_first(s, '}', &more));
    while (more) {
        const char *key;
        int k = 0;
        TRY(json_scan_key(s, &key));
        while (k < 3 && strcmp(key, keys[k]) != 0)
            k++;
        if (k == 3 || seen[k]++)
            return err_set(ERR_FORMAT, "%s: tensor '%s': %s key '%.40s'", s->file, e->name, k == 3 ? "unexpected" : "repeated", key);
        TRY(k == 0 ? read_dtype(s, e, &bits) : k == 1 ? read_shape(s, e) : read_offsets(s, e));
        TRY(json_scan_next(s, '}', &more));
    }
    for (int k = 0; k < 3; k++)
        if (!seen[k])
            return err_set(ERR_FORMAT, "%s: tensor '%s': key '%s' is missing", s->file, e->name, keys[k]);
    return check_size(s, e, bits);
}

static int read_metadata(JsonScan *s, IoHeader *h)
{
    int more;
    TRY(json_scan_char(s, '{'));
    TRY(json_scan_first(s, '}', &more));
    while (more) {
        IoMeta m;
        void *items = h->meta;
        TRY(json_scan_key(s, &m.key));
        TRY(json_scan_string(s, &m.value));
        TRY(push(&items, h->meta_count, sizeof m));
        h->meta = items;
        h->meta[h->meta_count++] = m;
        TRY(json_scan_next(s, '}', &more));
    }
    return 0;
}

static int read_entries(JsonScan *s, IoHeader *h)
{
    int more, metadata = 0;
    if (s->p == s->end || *s->p != '{')
        return json_scan_error(s, "expected '{'");
    TRY(json_scan_char(s, '{'));
    TRY(json_scan_first(s, '}', &more));
    while (more) {
        const char *name;
        TRY(json_scan_key(s, &name));
        if (strcmp(name, IO_METADATA_KEY) == 0) {
            if (metadata++)
                return err_set(ERR_FORMAT, "%s: key '%s' appears twice", s->file, name);
            TRY(read_metadata(s, h));
        } else {
            IoEntry e = {.name = name};
            void *items = h->entry;
            TRY(read_tensor(s, &e));
            TRY(push(&items, h->count, sizeof e));
            h->entry = items;
            h->entry[h->count++] = e;
        }
        TRY(json_scan_next(s, '}', &more));
    }
    return json_scan_end(s);
}

static int by_offset(const void *a, const void *b)
{
    const IoEntry *x = a, *y = b;
    if (x->begin != y->begin)
        return x->begin < y->begin ? -1 : 1;
    return x->end < y->end ? -1 : x->end > y->end;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const IoEntry *)a)->name, ((const IoEntry *)b)->name);
}

static int by_key(const void *a, const void *b)
{
    return strcmp(((const IoMeta *)a)->key, ((const IoMeta *)b)->key);
}

static int check_layout(IoHeader *h, uint64_t size, const char *name)
{
    uint64_t at = 0;
    if (h->count)
        qsort(h->entry, (size_t)h->count, sizeof *h->entry, by_offset);
    for (int i = 0; i < h->count; i++) {
        const IoEntry *e = &h->entry[i];
        if (e->begin != at)
            return err_set(ERR_FORMAT, "%s: tensor '%s' begins at %llu, the data before it ends at %llu (%s)", name, e->name,
                           (unsigned long long)e->begin, (unsigned long long)at, e->begin > at ? "a hole" : "an overlap");
        at = e->end;
        if (at > size)
            return err_set(ERR_FORMAT, "%s: tensor '%s' ends at byte %llu of the data, the file has %llu (truncated?)", name,
                           e->name, (unsigned long long)at, (unsigned long long)size);
    }
    if (at != size)
        return err_set(ERR_FORMAT, "%s: %llu bytes of data belong to no tensor", name, (unsigned long long)(size - at));
    return 0;
}

static int check_names(IoHeader *h, const char *name)
{
    if (h->count)
        qsort(h->entry, (size_t)h->count, sizeof *h->entry, by_name);
    for (int i = 1; i < h->count; i++)
        if (strcmp(h->entry[i].name, h->entry[i - 1].name) == 0)
            return err_set(ERR_FORMAT, "%s: tensor '%s' appears twice", name, h->entry[i].name);
    if (h->meta_count)
        qsort(h->meta, (size_t)h->meta_count, sizeof *h->meta, by_key);
    for (int i = 1; i < h->meta_count; i++)
        if (strcmp(h->meta[i].key, h->meta[i - 1].key) == 0)
            return err_set(ERR_FORMAT, "%s: metadata key '%s' appears twice", name, h->meta[i].key);
    return 0;
}

void io_header_deinit(IoHeader *h)
{
    free(h->entry);
    free(h->meta);
    *h = (IoHeader){0};
}

int io_header_parse(IoHeader *out, Arena *arena, const unsigned char *file, size_t size, const char *name)
{
    *out = (IoHeader){0};
    if (size < 8)
        return err_set(ERR_FORMAT, "%s: has %zu bytes, too short for a safetensors file", name, size);
    uint64_t n = 0;
    for (int i = 7; i >= 0; i--)
        n = n << 8 | file[i];
    if (n > IO_HEADER_MAX)
        return err_set(ERR_FORMAT, "%s: header of %llu bytes, at most %d are allowed (not a safetensors file?)", name,
                       (unsigned long long)n, IO_HEADER_MAX);
    if (n > size - 8)
        return err_set(ERR_FORMAT, "%s: header of %llu bytes in a file of %zu (truncated?)", name, (unsigned long long)n, size);
    const char *text = (const char *)file + 8;
    if (!str_is_utf8(text, (size_t)n))
        return err_set(ERR_FORMAT, "%s: header is not UTF-8", name);
    JsonScan s = {text, text, text + n, arena, name};
    TRY(read_entries(&s, out));
    TRY(check_layout(out, size - 8 - n, name));
    for (int i = 0; i < out->count; i++)
        out->entry[i].data = file + 8 + n + out->entry[i].begin;
    return check_names(out, name);
}

int io_index_parse(IoIndexItem **items, int *count, Arena *arena, const char *text, size_t size, const char *name)
{
    JsonScan s = {text, text, text + size, arena, name};
    int more, inner, seen = 0;
    if (!str_is_utf8(text, size))
        return err_set(ERR_FORMAT, "%s: not UTF-8", name);
    TRY(json_scan_char(&s, '{'));
    TRY(json_scan_first(&s, '}', &more));
    while (more) {
        const char *key;
        TRY(json_scan_key(&s, &key));
        if (strcmp(key, "weight_map") != 0) {
            TRY(json_scan_skip(&s));
        } else {
            if (seen++)
                return err_set(ERR_FORMAT, "%s: key 'weight_map' appears twice", name);
            TRY(json_scan_char(&s, '{'));
            TRY(json_scan_first(&s, '}', &inner));
            while (inner) {
                IoIndexItem item;
                void *grown = *items;
                TRY(json_scan_key(&s, &item.tensor));
                TRY(json_scan_string(&s, &item.file));
                TRY(push(&grown, *count, sizeof item));
                *items = grown;
                (*items)[(*count)++] = item;
                TRY(json_scan_next(&s, '}', &inner));
            }
        }
        TRY(json_scan_next(&s, '}', &more));
    }
    if (!seen)
        return err_set(ERR_FORMAT, "%s: key 'weight_map' is missing", name);
    return json_scan_end(&s);
}
