/* Growing text. Adding never fails on the spot: running out of memory is remembered and reported by str_status, so that
 * a long text is built without a check per line. data is always 0-terminated (a constant "" before the first add). */
#ifndef BASE_STR_H
#define BASE_STR_H

#include <stdarg.h>
#include <stddef.h>

typedef struct {
    char *data;
    size_t len;    /* without the 0 */
    size_t cap;
    int failed;
} StrBuf;

void str_init(StrBuf *b);
void str_deinit(StrBuf *b);
void str_clear(StrBuf *b);
void str_add(StrBuf *b, const char *text);
void str_add_bytes(StrBuf *b, const void *data, size_t n);
void str_add_char(StrBuf *b, char c);
void str_add_format(StrBuf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void str_add_vformat(StrBuf *b, const char *fmt, va_list ap);
/* A JSON string with its quotes; escapes as serde_json does (\" \\ \b \f \n \r \t, other controls \u00xx, the rest raw). */
void str_add_json(StrBuf *b, const char *text, size_t n);
/* The shortest decimal that reads back as x (as float when single). x must be finite. */
void str_add_number(StrBuf *b, double x, int single);
/* 0 or ERR_NOMEM with the message set. */
int str_status(const StrBuf *b);
/* The text becomes the caller's (free()); the buffer is empty again. ERR_NOMEM if anything failed before. */
int str_take(char **out, StrBuf *b);

/* Formatted heap string. *out is the caller's. */
int str_format(char **out, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
int str_copy(char **out, const char *text);
/* Whether n bytes are well-formed UTF-8 (no overlong forms, no surrogates, at most U+10FFFF). */
int str_is_utf8(const char *text, size_t n);
int str_starts_with(const char *text, const char *prefix);
int str_ends_with(const char *text, const char *suffix);
/* The nearest of `names` by edit distance, or NULL if none is near enough to be a likely slip. Borrowed. */
const char *str_nearest(const char *word, const char *const *names, int count);

#endif
