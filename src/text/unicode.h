/* Unicode helpers of the tokenizers. Strings are UTF-8 with explicit length and may hold NUL. */
#ifndef TEXT_UNICODE_H
#define TEXT_UNICODE_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

enum { TEXT_MAX_BYTES = 1 << 20 }; /* longest text that is normalised */

/* Reads one code point of s[len], len > 0; ill-formed bytes give U+FFFD, one per maximal ill-formed part (Unicode 3.9,
 * practice of substitution). *used: 1..4 bytes. */
int32_t text_utf8_decode(const char *s, size_t len, size_t *used);
/* Writes 1..4 bytes; cp must be a scalar value. Returns how many. */
size_t text_utf8_encode(int32_t cp, char *out);
/* 1 if all of s[len] is well-formed. */
int text_utf8_valid(const char *s, size_t len);
/* The White_Space property. */
int text_is_space(int32_t cp);

/* CLIP's normaliser: NFC, each run of white space to one space, lower case one character at a time (no final-sigma rule).
 * *out: NUL-terminated, free(). ERR_RANGE over TEXT_MAX_BYTES, ERR_NOMEM. */
int text_clip_normalize(const char *s, size_t len, char **out, size_t *out_len);

#endif
