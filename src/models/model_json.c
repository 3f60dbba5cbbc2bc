#include "models/model_json.h"

#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/file.h"

struct ModelJson {
    json_t *root;
    char *path;
    char prefix[64]; /* "text_config." in a part of a document */
};

enum { JSON_MAX = 16 << 20 };

int model_json_error(const ModelJson *j, int code, const char *key, const char *fmt, ...)
{
    char text[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    return err_set(code, "%s: key '%s%s' %s", j->path, j->prefix, key, text);
}

int model_json_parse(ModelJson **out, const char *text, size_t size, const char *name)
{
    json_error_t e;
    ModelJson *j = calloc(1, sizeof *j);
    int rc = ERR_NOMEM;
    if (!j || !(j->path = strdup(name))) {
        err_set(rc, "%s: out of memory", name);
        goto done;
    }
    j->root = json_loadb(text, size, JSON_REJECT_DUPLICATES, &e);
    rc = ERR_FORMAT;
    if (!j->root) {
        err_set(rc, "%s:%d: %s", name, e.line, e.text);
        goto done;
    }
    if (!json_is_object(j->root)) {
        err_set(rc, "%s: expected a JSON object", name);
        goto done;
    }
    *out = j;
    j = NULL;
    rc = 0;
done:
    model_json_close(j);
    return rc;
}

int model_json_open(ModelJson **out, const char *path)
{
    char *text = NULL;
    size_t size = 0;
    TRY(io_file_read(&text, &size, path, JSON_MAX));
    int rc = model_json_parse(out, text, size, path);
    free(text);
    return rc;
}

void model_json_close(ModelJson *j)
{
    if (!j)
        return;
    json_decref(j->root);
    free(j->path);
    free(j);
}

const char *model_json_path(const ModelJson *j)
{
    return j->path;
}

static json_t *find(const ModelJson *j, const char *key)
{
    json_t *v = json_object_get(j->root, key);
    return json_is_null(v) ? NULL : v;
}

int model_json_has(const ModelJson *j, const char *key)
{
    return find(j, key) != NULL;
}

/* The value as compact JSON for messages, cut to size. */
static const char *value_text(json_t *v, char *buf, size_t size)
{
    char *s = json_dumps(v, JSON_ENCODE_ANY | JSON_COMPACT);
    snprintf(buf, size, "%s", s ? s : "?");
    free(s);
    return buf;
}

static int to_int(const ModelJson *j, const char *key, json_t *v, int64_t lo, int64_t hi, int *out)
{
    char t[80];
    int whole = json_is_integer(v) || (json_is_real(v) && json_real_value(v) >= -1e9 && json_real_value(v) <= 1e9 &&
                                       json_real_value(v) == (double)(int64_t)json_real_value(v));
    if (!whole)
        return model_json_error(j, ERR_FORMAT, key, "is %s, expected an integer", value_text(v, t, sizeof t));
    int64_t n = json_is_integer(v) ? json_integer_value(v) : (int64_t)json_real_value(v);
    if (n < lo || n > hi)
        return model_json_error(j, ERR_RANGE, key, "is %lld, expected %lld..%lld", (long long)n, (long long)lo, (long long)hi);
    *out = (int)n;
    return 0;
}

int model_json_int(const ModelJson *j, const char *key, int64_t def, int64_t lo, int64_t hi, int *out)
{
    json_t *v = find(j, key);
    if (v)
        return to_int(j, key, v, lo, hi, out);
    if (def < lo)
        return model_json_error(j, ERR_NOTFOUND, key, "is missing");
    *out = (int)def;
    return 0;
}

int model_json_float(const ModelJson *j, const char *key, double def, float *out)
{
    char t[80];
    json_t *v = find(j, key);
    if (v && !json_is_number(v))
        return model_json_error(j, ERR_FORMAT, key, "is %s, expected a number", value_text(v, t, sizeof t));
    *out = (float)(v ? json_number_value(v) : def);
    return 0;
}

static int to_bool(const ModelJson *j, const char *key, json_t *v, int *out)
{
    char t[80];
    if (!json_is_boolean(v))
        return model_json_error(j, ERR_FORMAT, key, "is %s, expected true or false", value_text(v, t, sizeof t));
    *out = json_is_true(v);
    return 0;
}

int model_json_bool(const ModelJson *j, const char *key, int def, int *out)
{
    json_t *v = find(j, key);
    *out = def;
    return v ? to_bool(j, key, v, out) : 0;
}

int model_json_text(const ModelJson *j, const char *key, const char *def, const char **out)
{
    char t[80];
    json_t *v = find(j, key);
    if (v && !json_is_string(v))
        return model_json_error(j, ERR_FORMAT, key, "is %s, expected a text", value_text(v, t, sizeof t));
    *out = v ? json_string_value(v) : def;
    return 0;
}

int model_json_length(const ModelJson *j, const char *key, int max, int *n)
{
    json_t *v = find(j, key);
    if (!v)
        return model_json_error(j, ERR_NOTFOUND, key, "is missing");
    if (!json_is_array(v))
        return model_json_error(j, ERR_FORMAT, key, "is not a list");
    size_t len = json_array_size(v);
    if (len < 1 || len > (size_t)max)
        return model_json_error(j, ERR_RANGE, key, "has %zu entries, expected 1..%d", len, max);
    *n = (int)len;
    return 0;
}

/* The i-th of n values: of a list with n entries, or one value for all. */
static int pick(const ModelJson *j, const char *key, json_t *v, int n, int i, json_t **out)
{
    *out = v;
    if (!json_is_array(v))
        return 0;
    if (json_array_size(v) != (size_t)n)
        return model_json_error(j, ERR_SHAPE, key, "has %zu entries, expected %d", json_array_size(v), n);
    *out = json_array_get(v, (size_t)i);
    return 0;
}

int model_json_ints(const ModelJson *j, const char *key, int64_t def, int64_t lo, int64_t hi, int n, int *out)
{
    json_t *v = find(j, key), *item;
    for (int i = 0; i < n; i++) {
        if (!v) {
            TRY(model_json_int(j, key, def, lo, hi, &out[i]));
            continue;
        }
        TRY(pick(j, key, v, n, i, &item));
        TRY(to_int(j, key, item, lo, hi, &out[i]));
    }
    return 0;
}

int model_json_bools(const ModelJson *j, const char *key, int def, int n, int *out)
{
    json_t *v = find(j, key), *item;
    for (int i = 0; i < n; i++) {
        out[i] = def;
        if (!v)
            continue;
        TRY(pick(j, key, v, n, i, &item));
        TRY(to_bool(j, key, item, &out[i]));
    }
    return 0;
}

int model_json_texts(const ModelJson *j, const char *key, int n, const char **out)
{
    int len;
    TRY(model_json_length(j, key, n, &len));
    json_t *v = find(j, key);
    if (len != n)
        return model_json_error(j, ERR_SHAPE, key, "has %d entries, expected %d", len, n);
    for (int i = 0; i < n; i++)
        if (!(out[i] = json_string_value(json_array_get(v, (size_t)i))))
            return model_json_error(j, ERR_FORMAT, key, "must be a list of texts");
    return 0;
}

int model_json_sub(const ModelJson *j, const char *key, ModelJson **out)
{
    json_t *v = find(j, key);
    if (!v)
        return model_json_error(j, ERR_NOTFOUND, key, "is missing");
    if (!json_is_object(v))
        return model_json_error(j, ERR_FORMAT, key, "is not an object");
    ModelJson *s = calloc(1, sizeof *s);
    if (!s || !(s->path = strdup(j->path))) {
        free(s);
        return err_set(ERR_NOMEM, "%s: out of memory", j->path);
    }
    s->root = json_incref(v);
    snprintf(s->prefix, sizeof s->prefix, "%.20s%.40s.", j->prefix, key);
    *out = s;
    return 0;
}

int model_json_only(const ModelJson *j, const char *key, const char *value)
{
    char t[120];
    json_t *v = find(j, key);
    if (!v)
        return 0;
    json_error_t e;
    json_t *want = json_loads(value, JSON_DECODE_ANY, &e);
    int same = json_equal(v, want) ||
               (json_is_number(v) && json_is_number(want) && json_number_value(v) == json_number_value(want));
    json_decref(want);
    if (same)
        return 0;
    return model_json_error(j, ERR_UNSUPPORTED, key, "is %s; only %s is supported", value_text(v, t, sizeof t), value);
}
