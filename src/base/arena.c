#include "base/arena.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"

enum { ALIGN = 16, DEFAULT_BLOCK = 64 * 1024 };

struct ArenaBlock {
    ArenaBlock *below;
    size_t used, cap;
    _Alignas(ALIGN) unsigned char data[];
};

void arena_init(Arena *a, size_t block_size)
{
    *a = (Arena){NULL, block_size ? block_size : DEFAULT_BLOCK};
}

void arena_deinit(Arena *a)
{
    for (ArenaBlock *b = a->top; b;) {
        ArenaBlock *below = b->below;
        free(b);
        b = below;
    }
    a->top = NULL;
}

void *arena_alloc(Arena *a, size_t size)
{
    ArenaBlock *b = a->top;
    if (size > SIZE_MAX / 2)
        goto nomem;
    size = (size + (ALIGN - 1)) / ALIGN * ALIGN;
    if (!b || b->cap - b->used < size) {
        size_t cap = size > a->block_size ? size : a->block_size;
        b = calloc(1, sizeof *b + cap);
        if (!b)
            goto nomem;
        b->cap = cap;
        b->below = a->top;
        a->top = b;
    }
    void *p = b->data + b->used;
    b->used += size;
    return p;
nomem:
    err_set(ERR_NOMEM, "out of memory");
    return NULL;
}

void *arena_array(Arena *a, size_t count, size_t size)
{
    return arena_alloc(a, size && count > SIZE_MAX / size ? SIZE_MAX : count * size);
}

char *arena_text(Arena *a, const char *text, size_t n)
{
    char *p = n == SIZE_MAX ? arena_alloc(a, n) : arena_alloc(a, n + 1);
    if (p && n)
        memcpy(p, text, n);
    return p;
}
