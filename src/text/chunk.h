/* A prompt as the token sequences that a CLIP text encoder takes: chunks of `length` (77) ids, each bos, up to length - 2 tokens, eos,
 * padding, with one weight per token.
 * A1111 and Atelier (sd_hijack_clip.tokenize_line): chunks of 75 tokens; where a chunk is full and its last comma is at most 20 tokens
 * back, what follows the comma moves to the next chunk; BREAK fills the chunk up. ComfyUI (SDTokenizer.tokenize_with_weights): words of
 * under 8 tokens are never split between chunks. diffusers: one chunk, cut at its end. Padding: the tokenizer's pad id. */
#ifndef TEXT_CHUNK_H
#define TEXT_CHUNK_H

#include "text/clip_bpe.h"
#include "text/prompt.h"

enum { CHUNK_COMMA_BACK = 20, CHUNK_MAX = 256 };

/* A textual inversion: where the word stands in a prompt, `count` vectors stand for it: rows first..first+count-1 of the caller's
 * table. A1111, Atelier: the name as tokens; ComfyUI: "embedding:NAME"; diffusers: wherever the name stands (as an added token). */
typedef struct {
    const char *name;
    int first, count; /* count <= length - 2 */
} ChunkWord;

typedef struct {
    int count, length;
    int32_t *ids;   /* [count][length] */
    int32_t *row;   /* [count][length]: row of the table of inversions that replaces the id; -1: none */
    double *weight; /* [count][length]; 1 for bos, eos and padding */
    int weighted;   /* some weight is not 1 */
} Chunks;

/* At least one chunk. ERR_RANGE for more than CHUNK_MAX. */
int chunks_make(Chunks *c, const Prompt *p, const ClipBpe *tok, int length, const ChunkWord *words, int nwords, PromptRules rules);
/* The chunk of an empty prompt: bos, eos, padding. ids[length]. */
void chunks_empty(const ClipBpe *tok, int length, int32_t *ids);
void chunks_deinit(Chunks *c);

#endif
