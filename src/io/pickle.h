/* The part of Python's pickle format (Lib/pickletools.py; protocols 2 to 5) that torch.save writes for dictionaries of tensors. Nothing
 * is ever called: the few constructors of tensors are known by name, any other is an error that names it. */
#ifndef IO_PICKLE_H
#define IO_PICKLE_H

#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"

enum { PICKLE_MAX_DIM = 8 };

typedef enum {
    PICKLE_OTHER, /* None, numbers other than integers, bytes */
    PICKLE_INT,
    PICKLE_TEXT,
    PICKLE_TUPLE, /* also lists */
    PICKLE_DICT,  /* item: key, value, key, value, ... */
    PICKLE_NAME,  /* text: "module name" */
    PICKLE_STORAGE,
    PICKLE_TENSOR,
    PICKLE_MARK
} PickleKind;

typedef struct PickleValue PickleValue;
struct PickleValue {
    PickleKind kind;
    int64_t number;          /* INT; TENSOR: first element in its storage */
    const char *text;        /* TEXT, NAME; STORAGE, TENSOR: key of the storage */
    const char *type;        /* STORAGE, TENSOR: "FloatStorage", ... */
    PickleValue **item;      /* TUPLE, DICT */
    size_t count, room;
    int64_t dim[PICKLE_MAX_DIM], stride[PICKLE_MAX_DIM];
    int ndim;
};

/* *out lives in the arena. ERR_FORMAT, ERR_UNSUPPORTED; `name` is for messages. */
int io_pickle_read(PickleValue **out, Arena *arena, const uint8_t *data, size_t size, const char *name);

#endif
