/* Reading config.json files: typed values with defaults; errors name the file and the key. */
#ifndef MODELS_MODEL_JSON_H
#define MODELS_MODEL_JSON_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

typedef struct ModelJson ModelJson;

/* ERR_NOTFOUND, ERR_FORMAT "FILE:LINE: what". The document must be an object. */
int model_json_open(ModelJson **out, const char *path);
/* From memory; `name` stands for the file in messages. */
int model_json_parse(ModelJson **out, const char *text, size_t size, const char *name);
void model_json_close(ModelJson *j);
const char *model_json_path(const ModelJson *j);
/* 1 when the key is there and not null. */
int model_json_has(const ModelJson *j, const char *key);
/* Absent or null gives the default; another type is ERR_FORMAT, out of lo..hi ERR_RANGE. */
int model_json_int(const ModelJson *j, const char *key, int64_t def, int64_t lo, int64_t hi, int *out);
int model_json_float(const ModelJson *j, const char *key, double def, float *out);
int model_json_bool(const ModelJson *j, const char *key, int def, int *out);
/* Borrowed until close; def may be NULL. */
int model_json_text(const ModelJson *j, const char *key, const char *def, const char **out);
/* Length of the list under key; ERR_NOTFOUND when absent, ERR_FORMAT when no list, ERR_RANGE when not in 1..max. */
int model_json_length(const ModelJson *j, const char *key, int max, int *n);
/* n integers from a list of n, or one integer repeated; absent or null gives `def` everywhere. ERR_SHAPE for another length. */
int model_json_ints(const ModelJson *j, const char *key, int64_t def, int64_t lo, int64_t hi, int n, int *out);
int model_json_bools(const ModelJson *j, const char *key, int def, int n, int *out);
/* A list of n texts (required); borrowed until close. */
int model_json_texts(const ModelJson *j, const char *key, int n, const char **out);
/* The object under `key` as a document of its own; *out must be closed before j. */
int model_json_sub(const ModelJson *j, const char *key, ModelJson **out);
/* The key must be absent, null or equal to `value` (compact JSON text: "1", "\"default\"", "false"); otherwise
 * ERR_UNSUPPORTED "FILE: key 'k' is V; only W is supported". */
int model_json_only(const ModelJson *j, const char *key, const char *value);
/* err_set(code, "FILE: key 'k': ..."). */
int model_json_error(const ModelJson *j, int code, const char *key, const char *fmt, ...) __attribute__((format(printf, 4, 5)));

#endif
