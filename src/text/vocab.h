/* What clip_bpe.c needs of a tokenizer folder: token ids, merges, special tokens. Internal to this room. */
#ifndef TEXT_VOCAB_H
#define TEXT_VOCAB_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

/* String -> int32, open addressing. Keys are copied into one block. */
typedef struct {
    size_t off, len; /* key; len is SIZE_MAX in empty slots */
    int32_t value;
} VocabSlot;
typedef struct {
    VocabSlot *slot;
    size_t cap, count; /* cap is a power of two */
    char *pool;
    size_t pool_len, pool_cap;
} VocabMap;

/* Merge of two ids: rank (lower goes first) and the id of the result; key = left << 32 | right. */
typedef struct {
    uint64_t key; /* UINT64_MAX in empty slots */
    int32_t rank, id;
} VocabMerge;

typedef struct {
    char *content;  /* normalised when `normalized` */
    size_t len;
    int32_t id;
    int normalized; /* looked for after normalisation (else in the raw text) */
} VocabSpecial;

typedef struct {
    VocabMap map;
    VocabMerge *merge;
    size_t merge_cap;
    VocabSpecial *special;
    int nspecial;
    int32_t byte_id[256], byte_end_id[256]; /* one byte, inside and at the end of a word; -1 where the vocabulary lacks it */
    int32_t bos, eos, pad, unk;
    int32_t size;   /* highest id + 1 */
    int max_length;
} Vocab;

int vocab_load(Vocab *v, const char *dir);
void vocab_deinit(Vocab *v);
/* -1 when absent. */
int32_t vocab_find(const Vocab *v, const char *token, size_t len);
/* NULL when the two do not merge. */
const VocabMerge *vocab_find_merge(const Vocab *v, int32_t left, int32_t right);

#endif
