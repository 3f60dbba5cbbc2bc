#include "io/safetensors.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/str.h"
#include "io/file.h"
#include "io/safetensors_impl.h"

enum { INDEX_MAX = 64 << 20 };

typedef struct {
    const char *file; /* of the index; borrowed from the arena */
    void *map;
    size_t size;
    IoHeader header;
} Shard;

struct IoSafetensors {
    char *path;
    Arena arena;
    Shard *shard;
    int shard_count;
    IoHeader all;     /* of a sharded set: the index's choice; otherwise unused */
    IoHeader *header; /* what lookups use */
    pthread_mutex_t copying;
};

static int create(IoSafetensors **out, const char *path)
{
    *out = NULL;
    IoSafetensors *s = calloc(1, sizeof *s);
    if (!s)
        return err_set(ERR_NOMEM, "out of memory");
    arena_init(&s->arena, 0);
    pthread_mutex_init(&s->copying, NULL);
    s->header = &s->all;
    int rc = str_copy(&s->path, path);
    if (rc < 0)
        io_safetensors_close(s);
    else
        *out = s;
    return rc;
}

void io_safetensors_close(IoSafetensors *s)
{
    if (!s)
        return;
    for (int i = 0; i < s->header->count; i++)
        free(s->header->entry[i].copy);
    for (int i = 0; i < s->shard_count; i++) {
        io_header_deinit(&s->shard[i].header);
        if (s->shard[i].map)
            munmap(s->shard[i].map, s->shard[i].size);
    }
    io_header_deinit(&s->all);
    free(s->shard);
    free(s->path);
    arena_deinit(&s->arena);
    pthread_mutex_destroy(&s->copying);
    free(s);
}

static void release(const Shard *h, const unsigned char *begin, const unsigned char *end)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), a = (uintptr_t)begin, b = (uintptr_t)end;
    a = (a + page - 1) / page * page;
    b = b / page * page;
    if (h->map && a < b)
        (void)madvise((void *)a, b - a, MADV_DONTNEED); /* a clean private mapping: the file has the same bytes */
}

void io_safetensors_release(const IoSafetensors *s, int i)
{
    const IoEntry *e = i < 0 ? NULL : &s->header->entry[i];
    for (int k = 0; k < s->shard_count; k++) {
        const unsigned char *map = s->shard[k].map, *end = map ? map + s->shard[k].size : NULL;
        if (!e)
            release(&s->shard[k], map, end);
        else if (e->data >= map && e->data < end)
            release(&s->shard[k], e->data, e->data + (e->end - e->begin));
    }
}

void io_safetensors_ahead(const IoSafetensors *s)
{
    const size_t piece = (size_t)64 << 20; /* the kernel cuts longer requests off */
    for (int k = 0; k < s->shard_count; k++)
        for (size_t at = 0; s->shard[k].map && at < s->shard[k].size; at += piece) {
            size_t left = s->shard[k].size - at;
            (void)madvise((unsigned char *)s->shard[k].map + at, left < piece ? left : piece, MADV_WILLNEED);
        }
}

static int map_file(Shard *out, const char *path)
{
    struct stat st;
    int rc = 0, fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return err_errno("%s", path);
    if (fstat(fd, &st) < 0)
        rc = err_errno("%s", path);
    else if (!S_ISREG(st.st_mode))
        rc = err_set(ERR_IO, "%s: is not a regular file", path);
    else if (st.st_size < 8)
        rc = err_set(ERR_FORMAT, "%s: has %lld bytes, too short for a safetensors file", path, (long long)st.st_size);
    if (rc == 0) {
        void *map = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (map == MAP_FAILED)
            rc = err_errno("%s: map", path);
        else
            *out = (Shard){.map = map, .size = (size_t)st.st_size};
    }
    close(fd);
    return rc;
}

static int load_shard(IoSafetensors *s, Shard *shard, const char *path)
{
    TRY(map_file(shard, path));
    /* Messages and entries may outlive `path`. */
    const char *name = arena_text(&s->arena, path, strlen(path));
    return name ? io_header_parse(&shard->header, &s->arena, shard->map, shard->size, name) : ERR_NOMEM;
}

static int open_single(IoSafetensors *s)
{
    s->shard = calloc(1, sizeof *s->shard);
    if (!s->shard)
        return err_set(ERR_NOMEM, "out of memory");
    s->shard_count = 1;
    s->header = &s->shard[0].header;
    return load_shard(s, &s->shard[0], s->path);
}

int io_safetensors_open_memory(IoSafetensors **out, const void *data, size_t size, const char *name)
{
    IoSafetensors *s;
    *out = NULL;
    TRY(create(&s, name));
    int rc = io_header_parse(&s->all, &s->arena, data, size, s->path);
    if (rc < 0)
        io_safetensors_close(s);
    else
        *out = s;
    return rc;
}

static int compare_texts(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* One Shard per different file name, sorted by name. */
static int list_shards(IoSafetensors *s, const IoIndexItem *item, int count)
{
    const char **file = calloc((size_t)count + 1, sizeof *file);
    s->shard = calloc((size_t)count + 1, sizeof *s->shard);
    int rc = file && s->shard ? 0 : err_set(ERR_NOMEM, "out of memory");
    for (int i = 0; rc == 0 && i < count; i++) {
        file[i] = item[i].file;
        if (!io_path_is_inside(file[i]))
            rc = err_set(ERR_FORMAT, "%s: tensor '%s': file '%.200s' is outside the folder", s->path, item[i].tensor, file[i]);
    }
    if (rc == 0)
        qsort(file, (size_t)count, sizeof *file, compare_texts);
    for (int i = 0; rc == 0 && i < count; i++)
        if (i == 0 || strcmp(file[i], file[i - 1]) != 0)
            s->shard[s->shard_count++].file = file[i];
    free(file);
    return rc;
}

static int load_shards(IoSafetensors *s)
{
    char *dir, *path = NULL;
    TRY(io_path_dir(&dir, s->path));
    int rc = 0;
    for (int i = 0; rc == 0 && i < s->shard_count; i++) {
        const char *file = s->shard[i].file;
        rc = io_path_join(&path, dir, file);
        if (rc == 0)
            rc = load_shard(s, &s->shard[i], path);
        s->shard[i].file = file;
        if (rc == ERR_NOTFOUND)
            err_context(rc, "%s: a shard is missing", s->path);
        free(path);
        path = NULL;
    }
    free(dir);
    return rc;
}

static int compare_entry(const void *key, const void *e)
{
    return strcmp(key, ((const IoEntry *)e)->name);
}

static const IoEntry *find_entry(const IoHeader *h, const char *name)
{
    return h->count ? bsearch(name, h->entry, (size_t)h->count, sizeof *h->entry, compare_entry) : NULL;
}

static int compare_shard(const void *key, const void *shard)
{
    return strcmp(key, ((const Shard *)shard)->file);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const IoEntry *)a)->name, ((const IoEntry *)b)->name);
}

static int join_shards(IoSafetensors *s, const IoIndexItem *item, int count)
{
    IoHeader *all = &s->all;
    all->entry = calloc((size_t)count + 1, sizeof *all->entry);
    if (!all->entry)
        return err_set(ERR_NOMEM, "out of memory");
    for (int i = 0; i < count; i++) {
        const Shard *shard =
            bsearch(item[i].file, s->shard, (size_t)s->shard_count, sizeof *s->shard, compare_shard);
        const IoEntry *e = find_entry(&shard->header, item[i].tensor);
        if (!e)
            return err_set(ERR_NOTFOUND, "%s: tensor '%s' is not in %s", s->path, item[i].tensor, item[i].file);
        all->entry[all->count++] = *e;
    }
    qsort(all->entry, (size_t)count, sizeof *all->entry, by_name);
    for (int i = 1; i < count; i++)
        if (strcmp(all->entry[i].name, all->entry[i - 1].name) == 0)
            return err_set(ERR_FORMAT, "%s: tensor '%s' appears twice", s->path, all->entry[i].name);
    if (!s->shard_count || !s->shard[0].header.meta_count)
        return 0;
    size_t bytes = (size_t)s->shard[0].header.meta_count * sizeof(IoMeta);
    all->meta = malloc(bytes);
    if (!all->meta)
        return err_set(ERR_NOMEM, "out of memory");
    memcpy(all->meta, s->shard[0].header.meta, bytes);
    all->meta_count = s->shard[0].header.meta_count;
    return 0;
}

static int open_index(IoSafetensors *s)
{
    char *text;
    size_t size;
    IoIndexItem *item = NULL;
    int count = 0;
    TRY(io_file_read(&text, &size, s->path, INDEX_MAX));
    int rc = io_index_parse(&item, &count, &s->arena, text, size, s->path);
    free(text);
    if (rc == 0)
        rc = list_shards(s, item, count);
    if (rc == 0)
        rc = load_shards(s);
    if (rc == 0)
        rc = join_shards(s, item, count);
    free(item);
    return rc;
}

int io_safetensors_open(IoSafetensors **out, const char *path)
{
    IoSafetensors *s;
    *out = NULL;
    TRY(create(&s, path));
    int rc = str_ends_with(path, ".json") ? open_index(s) : open_single(s);
    if (rc < 0)
        io_safetensors_close(s);
    else
        *out = s;
    return rc;
}

/* Where a model's weights may be: %s is the base, %v ".fp16" or nothing. */
static int candidate(char **out, const char *dir, const char *base, const char *variant, int form)
{
    const char *dot = *variant ? "." : "";
    char *name;
    if (form == 0)
        TRY(str_format(&name, "%s%s%s.safetensors", base, dot, variant));
    else if (form == 1) /* transformers and diffusers have used all three of these for variants */
        TRY(str_format(&name, "%s.safetensors.index%s%s.json", base, dot, variant));
    else if (form == 2)
        TRY(str_format(&name, "%s%s%s.safetensors.index.json", base, dot, variant));
    else
        TRY(str_format(&name, "%s.safetensors%s%s.index.json", base, dot, variant));
    int rc = io_path_join(out, dir, name);
    free(name);
    return rc;
}

static int find_model(char **out, const char *dir, const char *const *bases, const char *variant)
{
    for (int b = 0; bases[b]; b++) {
        for (int form = 0; form < (*variant ? 4 : 2); form++) {
            TRY(candidate(out, dir, bases[b], variant, form));
            if (io_file_exists(*out))
                return 1;
            free(*out);
            *out = NULL;
        }
    }
    return 0;
}

int io_safetensors_open_model(IoSafetensors **out, const char *dir, const char *const *bases, const char *variant)
{
    const char *const order[] = {variant ? variant : "", "", "fp16", "bf16"};
    char *path = NULL;
    int rc = 0;
    *out = NULL;
    for (int i = 0; rc == 0 && i < 4; i++)
        rc = find_model(&path, dir, bases, order[i]);
    if (rc > 0)
        rc = io_safetensors_open(out, path);
    else if (rc == 0) {
        StrBuf b;
        str_init(&b);
        for (int i = 0; bases[i]; i++)
            str_add_format(&b, "%s%s.safetensors", i ? " or " : "", bases[i]);
        rc = err_set(ERR_NOTFOUND, "%s: no weights found: expected %s, its .index.json, or their fp16 or bf16 variant", dir, b.data);
        str_deinit(&b);
    }
    free(path);
    return rc;
}

int io_safetensors_count(const IoSafetensors *s)
{
    return s->header->count;
}

const char *io_safetensors_name(const IoSafetensors *s, int i)
{
    return s->header->entry[i].name;
}

const char *io_safetensors_dtype(const IoSafetensors *s, int i)
{
    return s->header->entry[i].dtype_name;
}

const char *io_safetensors_path(const IoSafetensors *s)
{
    return s->path;
}

int io_safetensors_find(const IoSafetensors *s, const char *name)
{
    const IoEntry *e = find_entry(s->header, name);
    return e ? (int)(e - s->header->entry) : -1;
}

static int align(IoSafetensors *s, IoEntry *e, size_t bytes, const void **data)
{
    int rc = 0;
    pthread_mutex_lock(&s->copying);
    if (!e->copy) {
        e->copy = aligned_alloc(64, (bytes + 63) / 64 * 64);
        if (e->copy)
            memcpy(e->copy, e->data, bytes);
        else
            rc = err_set(ERR_NOMEM, "%s: tensor '%s': out of memory", s->path, e->name);
    }
    *data = e->copy;
    pthread_mutex_unlock(&s->copying);
    return rc;
}

int io_safetensors_at(IoSafetensors *s, int i, IoTensor *out)
{
    IoEntry *e = &s->header->entry[i];
    if (e->dtype < 0)
        return err_set(ERR_UNSUPPORTED, "%s: tensor '%s': dtype %.20s is not supported", s->path, e->name, e->dtype_name);
    *out = (IoTensor){.name = e->name, .dtype = (Dtype)e->dtype, .ndim = e->ndim, .data = e->data, .bytes = e->end - e->begin};
    for (int k = 0; k < IO_TENSOR_MAX_DIM; k++)
        out->dim[k] = k < e->ndim ? e->dim[k] : 1;
    if (out->bytes && (uintptr_t)e->data % dtype_size(out->dtype) != 0)
        return align(s, e, out->bytes, &out->data);
    return 0;
}

int io_safetensors_get(IoSafetensors *s, const char *name, IoTensor *out)
{
    int i = io_safetensors_find(s, name);
    if (i < 0)
        return err_set(ERR_NOTFOUND, "%s: tensor '%s' is missing", s->path, name);
    return io_safetensors_at(s, i, out);
}

const char *io_safetensors_meta(const IoSafetensors *s, const char *key)
{
    for (int i = 0; i < s->header->meta_count; i++)
        if (strcmp(s->header->meta[i].key, key) == 0)
            return s->header->meta[i].value;
    return NULL;
}

int io_safetensors_meta_count(const IoSafetensors *s)
{
    return s->header->meta_count;
}

IoMeta io_safetensors_meta_at(const IoSafetensors *s, int i)
{
    return s->header->meta[i];
}

int64_t io_safetensors_bytes(const IoSafetensors *s)
{
    int64_t sum = 0;
    for (int i = 0; i < s->header->count; i++)
        sum += (int64_t)(s->header->entry[i].end - s->header->entry[i].begin);
    return sum;
}

int io_tensor_meta(const IoTensor *t, Meta *out)
{
    if (t->ndim > OP_MAX_DIM)
        return err_set(ERR_SHAPE, "tensor '%s' has %d dimensions, expected at most %d", t->name, t->ndim, OP_MAX_DIM);
    *out = (Meta){t->dtype, {t->ndim, {1, 1, 1, 1}}};
    for (int i = 0; i < t->ndim; i++)
        out->shape.dim[i] = t->dim[i];
    return 0;
}
