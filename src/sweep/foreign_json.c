#include "sweep/foreign_json.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Length of a word or number at p, outside of strings. */
static size_t token(const char *p)
{
    size_t n = 0;
    while (isalnum((unsigned char)p[n]) || p[n] == '-' || p[n] == '+' || p[n] == '.' || p[n] == '_')
        n++;
    return n;
}

static void add_token(StrBuf *b, const char *p, size_t n)
{
    size_t digits = strspn(p + (*p == '-'), "0123456789") + (*p == '-');
    if ((n == 3 && memcmp(p, "NaN", 3) == 0) || (n == 8 && memcmp(p, "Infinity", 8) == 0) || (n == 9 && memcmp(p, "-Infinity", 9) == 0))
        str_add(b, "null");
    else if (digits == n && n > 18)
        str_add_format(b, "\"%.*s\"", (int)n, p);
    else
        str_add_bytes(b, p, n);
}

int foreign_json_parse(json_t **out, const char *text)
{
    StrBuf b;
    json_error_t e;
    *out = NULL;
    str_init(&b);
    for (const char *p = text; *p;) {
        size_t n = token(p);
        if (*p == '"') {
            const char *end = p + 1;
            while (*end && *end != '"')
                end += end[0] == '\\' && end[1] ? 2 : 1;
            end += *end == '"';
            str_add_bytes(&b, p, (size_t)(end - p));
            p = end;
        } else if (n) {
            add_token(&b, p, n);
            p += n;
        } else {
            str_add_char(&b, *p++);
        }
    }
    int rc = str_status(&b);
    if (rc >= 0 && !(*out = json_loadb(b.data, b.len, 0, &e)))
        rc = err_set(ERR_FORMAT, "no JSON: %s at line %d", e.text, e.line);
    str_deinit(&b);
    return rc;
}

const char *foreign_json_text(const json_t *object, const char *key)
{
    return json_string_value(json_object_get(object, key));
}

int foreign_json_number(const json_t *object, const char *key, double lo, double hi, double *out)
{
    const json_t *v = json_object_get(object, key);
    double x = json_number_value(v);
    if (!json_is_number(v) || !isfinite(x) || x < lo || x > hi)
        return 0;
    *out = x;
    return 1;
}

int foreign_json_int(const json_t *object, const char *key, int64_t lo, int64_t hi, int64_t *out)
{
    double x;
    const json_t *v = json_object_get(object, key);
    int64_t i;
    if (json_is_integer(v))
        i = json_integer_value(v);
    else if (json_is_real(v) && foreign_json_number(object, key, -1e15, 1e15, &x) && floor(x) >= x)
        i = (int64_t)x;
    else
        return 0;
    if (i < lo || i > hi)
        return 0;
    *out = i;
    return 1;
}

int foreign_json_seed(Foreign *f, const json_t *object, const char *key)
{
    const char *text = foreign_json_text(object, key);
    char *end;
    if (!text)
        return foreign_json_int(object, key, 0, INT64_MAX, &f->seed);
    errno = 0;
    unsigned long long v = strtoull(text, &end, 10);
    if (errno || end == text || *end || *text == '-')
        return 0;
    f->seed = (int64_t)(v & INT64_MAX);
    if (v > INT64_MAX)
        foreign_lost(f, "seed %s is over 63 bits: its lower 63 are used, which give the same noise on torch's CPU generator", text);
    return 1;
}
