/* CLIP byte-level BPE tokenizer, equal to transformers' CLIPTokenizer (not to OpenAI's, which also runs ftfy and
 * html.unescape): NFC, runs of white space to one space, lower case, words by
 *     's|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+
 * and BPE over the UTF-8 bytes with "</w>" on the last symbol of a word. Special tokens (bos, eos, unk and pad of
 * special_tokens_map.json / tokenizer_config.json, or the special added_tokens of tokenizer.json) are cut out of the
 * text; SD 2.x and SDXL's tokenizer_2 thus turn every "!" into the pad id.
 * Text is UTF-8; bytes that are not become U+FFFD. A ClipBpe is immutable once open: any number of threads may use it. */
#ifndef TEXT_CLIP_BPE_H
#define TEXT_CLIP_BPE_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

enum { CLIP_BPE_LENGTH = 77 }; /* context length of every published CLIP */

typedef struct ClipBpe ClipBpe;

/* Opens a tokenizer folder: vocab.json + merges.txt, or tokenizer.json where those are absent. Any vocabulary size.
 * ERR_NOTFOUND, ERR_FORMAT with file and key. */
int clip_bpe_open(ClipBpe **out, const char *dir);
void clip_bpe_close(ClipBpe *tok); /* NULL is fine */

/* Ids of `text` without bos and eos. *n: how many there are; only the first `max` are stored (ids may be NULL if max is 0).
 * ERR_NOMEM. */
int clip_bpe_encode(const ClipBpe *tok, const char *text, int32_t *ids, int max, int *n);
/* The same for `len` bytes that may hold NUL. */
int clip_bpe_encode_bytes(const ClipBpe *tok, const char *text, size_t len, int32_t *ids, int max, int *n);
/* out[length] = bos, ids cut to length - 2, eos, pad... . length >= 2 (ERR_RANGE). */
int clip_bpe_encode_padded(const ClipBpe *tok, const char *text, int length, int32_t *out);
int clip_bpe_encode_padded_bytes(const ClipBpe *tok, const char *text, size_t len, int length, int32_t *out);

int32_t clip_bpe_bos(const ClipBpe *tok);
int32_t clip_bpe_eos(const ClipBpe *tok);
int32_t clip_bpe_pad(const ClipBpe *tok);
int32_t clip_bpe_vocab_size(const ClipBpe *tok); /* highest id + 1 */
int clip_bpe_max_length(const ClipBpe *tok);     /* model_max_length of tokenizer_config.json; 77 where absent */

#endif
