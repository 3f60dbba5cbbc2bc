/* JSON as Python's json.dumps writes it: NaN and Infinity, and integers beyond 64 bits. Internal to this room. */
#ifndef SWEEP_FOREIGN_JSON_H
#define SWEEP_FOREIGN_JSON_H

#include <jansson.h>

#include "sweep/foreign.h"

/* NaN and infinities become null, integers of more than 18 digits strings. *out: json_decref. ERR_FORMAT. */
int foreign_json_parse(json_t **out, const char *text);
/* Borrowed text, or NULL. */
const char *foreign_json_text(const json_t *object, const char *key);
/* 1 and *out, or 0 when the key is not there or not within the bounds. Strings of digits count. */
int foreign_json_int(const json_t *object, const char *key, int64_t lo, int64_t hi, int64_t *out);
int foreign_json_number(const json_t *object, const char *key, double lo, double hi, double *out);
/* A seed of up to 64 bits; those from 2^63 on keep their lower 63, which is noted. 1 or 0. */
int foreign_json_seed(Foreign *f, const json_t *object, const char *key);

#endif
