#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/hash.h"
#include "base/str.h"
#include "io/file.h"
#include "io/safetensors_impl.h"

typedef int (*Sink)(void *to, const void *data, size_t n);

typedef struct {
    const IoTensor *t;
    const char *dtype;
    int rank;
    size_t bytes;
} Item;

static int by_dtype_and_name(const void *a, const void *b)
{
    const Item *x = a, *y = b;
    return x->rank != y->rank ? (x->rank > y->rank ? -1 : 1) : strcmp(x->t->name, y->t->name);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static int by_key(const void *a, const void *b)
{
    return strcmp(((const IoMeta *)a)->key, ((const IoMeta *)b)->key);
}

static int make_item(Item *out, const IoTensor *t)
{
    int rank = 0;
    const char *dtype = io_dtype_text(t->dtype, &rank);
    size_t bytes = dtype_size(t->dtype);
    if (!str_is_utf8(t->name, strlen(t->name)) || strcmp(t->name, IO_METADATA_KEY) == 0)
        return err_set(ERR_FORMAT, "tensor name '%s' is not allowed", t->name);
    if (t->ndim < 0 || t->ndim > IO_TENSOR_MAX_DIM || !dtype)
        return err_set(ERR_SHAPE, "tensor '%s': %d dimensions or its dtype cannot be written", t->name, t->ndim);
    for (int i = 0; i < t->ndim; i++)
        if (t->dim[i] < 0 || __builtin_mul_overflow(bytes, (size_t)t->dim[i], &bytes))
            return err_set(ERR_SHAPE, "tensor '%s': bad shape", t->name);
    *out = (Item){t, dtype, rank, bytes};
    return 0;
}

static int check_repeats(const Item *item, int count, const IoMeta *meta, int meta_count)
{
    const char **names = calloc((size_t)count + 1, sizeof *names);
    int rc = names ? 0 : err_set(ERR_NOMEM, "out of memory");
    for (int i = 0; rc == 0 && i < count; i++)
        names[i] = item[i].t->name;
    if (rc == 0)
        qsort(names, (size_t)count, sizeof *names, by_name);
    for (int i = 1; rc == 0 && i < count; i++)
        if (strcmp(names[i], names[i - 1]) == 0)
            rc = err_set(ERR_FORMAT, "two tensors are named '%s'", names[i]);
    free(names);
    for (int i = 0; rc == 0 && i < meta_count; i++) {
        const IoMeta *m = &meta[i];
        if (!str_is_utf8(m->key, strlen(m->key)) || !str_is_utf8(m->value, strlen(m->value)))
            rc = err_set(ERR_FORMAT, "metadata '%s' is not UTF-8", m->key);
        else if (i > 0 && strcmp(m->key, meta[i - 1].key) == 0)
            rc = err_set(ERR_FORMAT, "metadata '%s' is given twice", m->key);
    }
    return rc;
}

static void build_header(StrBuf *b, const Item *item, int count, const IoMeta *meta, int meta_count, int always_meta)
{
    size_t at = 0;
    str_add_char(b, '{');
    if (meta_count || always_meta) {
        str_add_format(b, "\"%s\":{", IO_METADATA_KEY);
        for (int i = 0; i < meta_count; i++) {
            str_add(b, i ? "," : "");
            str_add_json(b, meta[i].key, strlen(meta[i].key));
            str_add_char(b, ':');
            str_add_json(b, meta[i].value, strlen(meta[i].value));
        }
        str_add_char(b, '}');
    }
    for (int i = 0; i < count; i++) {
        str_add(b, b->len > 1 ? "," : "");
        str_add_json(b, item[i].t->name, strlen(item[i].t->name));
        str_add_format(b, ":{\"dtype\":\"%s\",\"shape\":[", item[i].dtype);
        for (int k = 0; k < item[i].t->ndim; k++)
            str_add_format(b, "%s%lld", k ? "," : "", (long long)item[i].t->dim[k]);
        str_add_format(b, "],\"data_offsets\":[%zu,%zu]}", at, at + item[i].bytes);
        at += item[i].bytes;
    }
    str_add_char(b, '}');
    while (b->len % 8 && !b->failed)
        str_add_char(b, ' ');
}

static int emit(const Item *item, int count, const StrBuf *header, Sink sink, void *to)
{
    unsigned char size[8];
    TRY(str_status(header));
    if (header->len > IO_HEADER_MAX)
        return err_set(ERR_RANGE, "header of %zu bytes is too large", header->len);
    for (int i = 0; i < 8; i++)
        size[i] = (unsigned char)(header->len >> (8 * i));
    TRY(sink(to, size, sizeof size));
    TRY(sink(to, header->data, header->len));
    for (int i = 0; i < count; i++)
        TRY(sink(to, item[i].t->data, item[i].bytes));
    return 0;
}

/* prefix: keep only metadata whose key begins so (NULL: all). */
static int serialize(const IoTensor *t, int count, const IoMeta *meta, int meta_count, const char *prefix, Sink sink, void *to)
{
    Item *item = calloc((size_t)count + 1, sizeof *item);
    IoMeta *kept = calloc((size_t)meta_count + 1, sizeof *kept);
    int n = 0, rc = item && kept ? 0 : err_set(ERR_NOMEM, "out of memory");
    StrBuf header;
    str_init(&header);
    for (int i = 0; rc == 0 && i < count; i++)
        rc = make_item(&item[i], &t[i]);
    for (int i = 0; rc == 0 && i < meta_count; i++)
        if (!prefix || str_starts_with(meta[i].key, prefix))
            kept[n++] = meta[i];
    if (rc == 0) {
        qsort(item, (size_t)count, sizeof *item, by_dtype_and_name);
        qsort(kept, (size_t)n, sizeof *kept, by_key);
        rc = check_repeats(item, count, kept, n);
    }
    if (rc == 0) {
        build_header(&header, item, count, kept, n, prefix != NULL);
        rc = emit(item, count, &header, sink, to);
    }
    str_deinit(&header);
    free(item);
    free(kept);
    return rc;
}

static int to_file(void *to, const void *data, size_t n)
{
    return io_atomic_write(to, data, n);
}

int io_safetensors_write(const char *path, const IoTensor *t, int count, const IoMeta *meta, int meta_count)
{
    IoAtomic *a;
    TRY(io_atomic_open(&a, path));
    int rc = serialize(t, count, meta, meta_count, NULL, to_file, a);
    if (rc == 0)
        return io_atomic_commit(a);
    io_atomic_abort(a);
    return rc == ERR_IO || rc == ERR_SPACE ? rc : err_context(rc, "%s", path);
}

typedef struct {
    Hash *model, *legacy;
    uint64_t at;          /* bytes seen */
    uint64_t data_begin;  /* known once the first 8 bytes are */
} Hashes;

/* Hashes the part of data[0..n), which lies at `at`, that is within [begin, end). */
static int update_range(Hash *h, const unsigned char *data, size_t n, uint64_t at, uint64_t begin, uint64_t end)
{
    uint64_t lo = at > begin ? at : begin, hi = at + n < end ? at + n : end;
    return lo < hi ? hash_update(h, data + (lo - at), (size_t)(hi - lo)) : 0;
}

static int to_hashes(void *to, const void *data, size_t n)
{
    enum { LEGACY_BEGIN = 0x100000, LEGACY_SIZE = 0x10000 };
    Hashes *h = to;
    if (h->at == 0) {
        const unsigned char *p = data;
        h->data_begin = 8;
        for (int i = 0; i < 8; i++)
            h->data_begin += (uint64_t)p[i] << (8 * i);
    }
    TRY(update_range(h->model, data, n, h->at, h->data_begin, UINT64_MAX));
    TRY(update_range(h->legacy, data, n, h->at, LEGACY_BEGIN, LEGACY_BEGIN + LEGACY_SIZE));
    h->at += n;
    return 0;
}

int io_safetensors_kohya_hashes(char model_hash[65], char legacy_hash[9], const IoTensor *t, int count, const IoMeta *meta,
                                int meta_count)
{
    uint8_t sum[HASH_SIZE];
    Hashes h = {0};
    int rc = hash_create(&h.model);
    if (rc == 0)
        rc = hash_create(&h.legacy);
    if (rc == 0)
        rc = serialize(t, count, meta, meta_count, "ss_", to_hashes, &h);
    if (rc == 0)
        rc = hash_finish(h.model, sum);
    if (rc == 0) {
        hash_hex(model_hash, sum, sizeof sum);
        rc = hash_finish(h.legacy, sum);
    }
    if (rc == 0)
        hash_hex(legacy_hash, sum, 4);
    hash_destroy(h.model);
    hash_destroy(h.legacy);
    return rc;
}
