/* A strict forward-only JSON scanner for large flat documents from untrusted files: no tree, memory only for the strings
 * taken. For small documents use jansson. Errors: ERR_FORMAT "FILE: byte N: ...". */
#ifndef IO_JSON_SCAN_H
#define IO_JSON_SCAN_H

#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"

typedef struct {
    const char *start, *p, *end; /* must be UTF-8 (str_is_utf8) */
    Arena *arena;                /* owns the strings */
    const char *file;            /* for messages */
} JsonScan;

int json_scan_error(const JsonScan *s, const char *what);
/* Skips white space, then takes `c`. */
int json_scan_char(JsonScan *s, char c);
/* After an opening bracket: *more = 0 and takes `close` if the container is empty. */
int json_scan_first(JsonScan *s, char close, int *more);
/* After an entry: takes ',' (*more = 1) or `close` (*more = 0). */
int json_scan_next(JsonScan *s, char close, int *more);
/* A string without 0 characters. */
int json_scan_string(JsonScan *s, const char **out);
/* An object's key and the ':'. Keys with control characters are refused: they appear in messages. */
int json_scan_key(JsonScan *s, const char **out);
/* An integer without sign, fraction or exponent. */
int json_scan_u64(JsonScan *s, uint64_t *out);
/* Any value, at most 64 levels deep. */
int json_scan_skip(JsonScan *s);
/* Only white space is left. */
int json_scan_end(JsonScan *s);

#endif
