#include "base/str.h"

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"

void str_init(StrBuf *b)
{
    *b = (StrBuf){(char *)"", 0, 0, 0}; /* never written while cap is 0 */
}

void str_deinit(StrBuf *b)
{
    if (b->cap)
        free(b->data);
    str_init(b);
}

void str_clear(StrBuf *b)
{
    b->len = 0;
    b->failed = 0;
    if (b->cap)
        b->data[0] = 0;
}

static int reserve(StrBuf *b, size_t more)
{
    if (b->failed)
        return 0;
    if (more < b->cap - b->len && b->cap)
        return 1;
    size_t need = b->len + more + 1, cap = b->cap ? b->cap : 64;
    while (cap < need && cap <= SIZE_MAX / 2)
        cap *= 2;
    char *p = need > more && cap >= need ? realloc(b->cap ? b->data : NULL, cap) : NULL;
    if (!p) {
        b->failed = 1;
        return 0;
    }
    if (!b->cap)
        p[0] = 0;
    b->data = p;
    b->cap = cap;
    return 1;
}

void str_add_bytes(StrBuf *b, const void *data, size_t n)
{
    if (!n || !reserve(b, n))
        return;
    memcpy(b->data + b->len, data, n);
    b->len += n;
    b->data[b->len] = 0;
}

void str_add(StrBuf *b, const char *text)
{
    str_add_bytes(b, text, strlen(text));
}

void str_add_char(StrBuf *b, char c)
{
    str_add_bytes(b, &c, 1);
}

void str_add_vformat(StrBuf *b, const char *fmt, va_list ap)
{
    va_list again;
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, again);
    va_end(again);
    if (n < 0)
        b->failed = 1;
    if (n <= 0 || !reserve(b, (size_t)n))
        return;
    vsnprintf(b->data + b->len, (size_t)n + 1, fmt, ap);
    b->len += (size_t)n;
}

void str_add_format(StrBuf *b, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    str_add_vformat(b, fmt, ap);
    va_end(ap);
}

void str_add_json(StrBuf *b, const char *text, size_t n)
{
    str_add_char(b, '"');
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)text[i];
        switch (c) {
        case '"': str_add(b, "\\\""); break;
        case '\\': str_add(b, "\\\\"); break;
        case '\b': str_add(b, "\\b"); break;
        case '\f': str_add(b, "\\f"); break;
        case '\n': str_add(b, "\\n"); break;
        case '\r': str_add(b, "\\r"); break;
        case '\t': str_add(b, "\\t"); break;
        default:
            if (c < 0x20)
                str_add_format(b, "\\u%04x", c);
            else
                str_add_char(b, (char)c);
        }
    }
    str_add_char(b, '"');
}

void str_add_number(StrBuf *b, double x, int single)
{
    char text[40];
    if (fabs(x) < 1e15 && fabs(x - floor(x)) <= 0.0) {
        str_add_format(b, "%.0f", x);
        return;
    }
    for (int digits = 1; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, x);
        double back = strtod(text, NULL);
        if (single ? strtof(text, NULL) == (float)x : back >= x && back <= x)
            break;
    }
    str_add(b, text);
}

int str_status(const StrBuf *b)
{
    return b->failed ? err_set(ERR_NOMEM, "out of memory") : 0;
}

int str_take(char **out, StrBuf *b)
{
    *out = NULL;
    if (!b->cap)
        reserve(b, 0);
    TRY(str_status(b));
    *out = b->data;
    str_init(b);
    return 0;
}

int str_format(char **out, const char *fmt, ...)
{
    StrBuf b;
    str_init(&b);
    va_list ap;
    va_start(ap, fmt);
    str_add_vformat(&b, fmt, ap);
    va_end(ap);
    int rc = str_take(out, &b);
    str_deinit(&b);
    return rc;
}

int str_copy(char **out, const char *text)
{
    *out = strdup(text);
    return *out ? 0 : err_set(ERR_NOMEM, "out of memory");
}

int str_is_utf8(const char *text, size_t n)
{
    const unsigned char *p = (const unsigned char *)text, *end = p + n;
    while (p < end) {
        if (*p < 0x80) {
            p++;
            continue;
        }
        int more = *p >= 0xC2 && *p <= 0xDF ? 1 : (*p & 0xF0) == 0xE0 ? 2 : *p >= 0xF0 && *p <= 0xF4 ? 3 : 0;
        if (!more || end - p <= more)
            return 0;
        for (int i = 1; i <= more; i++)
            if ((p[i] & 0xC0) != 0x80)
                return 0;
        if ((*p == 0xE0 && p[1] < 0xA0) || (*p == 0xED && p[1] > 0x9F) || (*p == 0xF0 && p[1] < 0x90) ||
            (*p == 0xF4 && p[1] > 0x8F))
            return 0;
        p += more + 1;
    }
    return 1;
}

int str_starts_with(const char *text, const char *prefix)
{
    return strncmp(text, prefix, strlen(prefix)) == 0;
}

int str_ends_with(const char *text, const char *suffix)
{
    size_t n = strlen(text), m = strlen(suffix);
    return n >= m && memcmp(text + n - m, suffix, m) == 0;
}

enum { WORD_MAX = 63 };

/* Optimal string alignment distance (swapped neighbours cost 1). */
static int edit_distance(const char *a, size_t n, const char *b, size_t m)
{
    int rows[3][WORD_MAX + 1];
    int *before = rows[0], *last = rows[1], *row = rows[2];
    for (size_t j = 0; j <= m; j++)
        last[j] = before[j] = (int)j;
    for (size_t i = 1; i <= n; i++) {
        row[0] = (int)i;
        for (size_t j = 1; j <= m; j++) {
            int d = last[j - 1] + (a[i - 1] != b[j - 1]);
            if (last[j] + 1 < d)
                d = last[j] + 1;
            if (row[j - 1] + 1 < d)
                d = row[j - 1] + 1;
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] && before[j - 2] + 1 < d)
                d = before[j - 2] + 1;
            row[j] = d;
        }
        int *t = before;
        before = last;
        last = row;
        row = t;
    }
    return last[m];
}

const char *str_nearest(const char *word, const char *const *names, int count)
{
    const char *best = NULL;
    size_t n = strlen(word);
    if (n > WORD_MAX)
        return NULL;
    int limit = n <= 3 ? 1 : n <= 6 ? 2 : 3, best_distance = limit + 1;
    for (int i = 0; i < count; i++) {
        size_t m = strlen(names[i]);
        if (m > WORD_MAX)
            continue;
        int d = edit_distance(word, n, names[i], m);
        /* "learning" for "learning_rate" */
        if (d > limit && n >= 4 && (strncmp(word, names[i], n) == 0 || (m >= 4 && strncmp(word, names[i], m) == 0)))
            d = limit;
        if (d < best_distance && d < (int)(m > n ? m : n)) {
            best = names[i];
            best_distance = d;
        }
    }
    return best;
}
