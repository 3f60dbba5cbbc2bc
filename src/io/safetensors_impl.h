/* Shared by safetensors*.c only. */
#ifndef IO_SAFETENSORS_IMPL_H
#define IO_SAFETENSORS_IMPL_H

#include "base/arena.h"
#include "io/safetensors.h"

enum { IO_HEADER_MAX = 100000000 };
static const char IO_METADATA_KEY[] = "__metadata__";

/* dtype < 0: not one of ours. bits 0: not known at all, so sizes cannot be checked. */
typedef struct {
    const char *name;
    int dtype;
    unsigned bits;
} IoDtypeName;
/* NULL for an unknown name. */
const IoDtypeName *io_dtype_named(const char *name, size_t n);
/* Name of one of our dtypes and its place in the library's order of dtypes; NULL where the format has none. */
const char *io_dtype_text(Dtype t, int *rank);

typedef struct {
    const char *name;
    const char *dtype_name;
    int dtype;                      /* Dtype or -1 */
    int ndim;
    int64_t dim[IO_TENSOR_MAX_DIM];
    uint64_t begin, end;            /* from the start of the data */
    const unsigned char *data;
    void *copy;                     /* aligned copy, made when first asked for */
} IoEntry;

typedef struct {
    IoEntry *entry; /* sorted by name */
    int count;
    IoMeta *meta;   /* sorted by key */
    int meta_count;
} IoHeader;

/* Parses and checks one file's bytes. All memory is from the arena but entry[] and meta[], which are the caller's
 * (io_header_deinit, also after an error). */
int io_header_parse(IoHeader *out, Arena *arena, const unsigned char *file, size_t size, const char *name);
void io_header_deinit(IoHeader *h);

/* The "weight_map" of an index: names and their files, in file order. items is the caller's (free). */
typedef struct {
    const char *tensor, *file;
} IoIndexItem;
int io_index_parse(IoIndexItem **items, int *count, Arena *arena, const char *text, size_t size, const char *name);

#endif
