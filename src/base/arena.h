/* Many small allocations that end together: parser tables, names. Memory is zeroed. Addresses never move. */
#ifndef BASE_ARENA_H
#define BASE_ARENA_H

#include <stddef.h>

typedef struct ArenaBlock ArenaBlock;
typedef struct {
    ArenaBlock *top;
    size_t block_size;
} Arena;

/* block_size 0: 64 KiB. Allocates nothing yet. */
void arena_init(Arena *a, size_t block_size);
void arena_deinit(Arena *a);
/* 16-byte aligned, zeroed; NULL with the error message set when out of memory. size 0 gives a valid address. */
void *arena_alloc(Arena *a, size_t size);
/* count * size with an overflow check. */
void *arena_array(Arena *a, size_t count, size_t size);
/* A copy of n bytes with a 0 after them. */
char *arena_text(Arena *a, const char *text, size_t n);

#endif
