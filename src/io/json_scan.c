#include "io/json_scan.h"

#include <string.h>

#include "base/error.h"

enum { MAX_DEPTH = 64 };

int json_scan_error(const JsonScan *s, const char *what)
{
    return err_set(ERR_FORMAT, "%s: not valid JSON at byte %zu: %s", s->file, (size_t)(s->p - s->start), what);
}

static void skip_space(JsonScan *s)
{
    while (s->p < s->end && (*s->p == ' ' || *s->p == '\n' || *s->p == '\t' || *s->p == '\r'))
        s->p++;
}

int json_scan_char(JsonScan *s, char c)
{
    char what[] = "expected 'x'";
    what[10] = c;
    skip_space(s);
    if (s->p == s->end || *s->p != c)
        return json_scan_error(s, what);
    s->p++;
    return 0;
}

int json_scan_first(JsonScan *s, char close, int *more)
{
    skip_space(s);
    *more = !(s->p < s->end && *s->p == close);
    s->p += !*more;
    return 0;
}

int json_scan_next(JsonScan *s, char close, int *more)
{
    skip_space(s);
    if (s->p == s->end || (*s->p != ',' && *s->p != close))
        return json_scan_error(s, close == ']' ? "expected ',' or ']'" : "expected ',' or '}'");
    *more = *s->p++ == ',';
    return 0;
}

static int read_hex4(JsonScan *s, unsigned *out)
{
    *out = 0;
    for (int i = 0; i < 4; i++) {
        char c = s->p < s->end ? *s->p : 0;
        unsigned d = c >= '0' && c <= '9'   ? (unsigned)(c - '0')
                     : c >= 'a' && c <= 'f' ? (unsigned)(c - 'a') + 10
                     : c >= 'A' && c <= 'F' ? (unsigned)(c - 'A') + 10
                                            : 16;
        if (d == 16)
            return json_scan_error(s, "expected four hexadecimal digits");
        *out = *out << 4 | d;
        s->p++;
    }
    return 0;
}

static char *put_utf8(char *out, unsigned c)
{
    if (c < 0x80) {
        *out++ = (char)c;
        return out;
    }
    if (c < 0x800) {
        *out++ = (char)(0xC0 | c >> 6);
    } else {
        if (c < 0x10000) {
            *out++ = (char)(0xE0 | c >> 12);
        } else {
            *out++ = (char)(0xF0 | c >> 18);
            *out++ = (char)(0x80 | (c >> 12 & 0x3F));
        }
        *out++ = (char)(0x80 | (c >> 6 & 0x3F));
    }
    *out++ = (char)(0x80 | (c & 0x3F));
    return out;
}

static int read_unicode(JsonScan *s, char **out)
{
    unsigned c, low;
    TRY(read_hex4(s, &c));
    if (c == 0)
        return json_scan_error(s, "a 0 character in text");
    if (c >= 0xDC00 && c <= 0xDFFF)
        return json_scan_error(s, "half a surrogate pair");
    if (c >= 0xD800 && c <= 0xDBFF) {
        if (s->end - s->p < 2 || s->p[0] != '\\' || s->p[1] != 'u')
            return json_scan_error(s, "half a surrogate pair");
        s->p += 2;
        TRY(read_hex4(s, &low));
        if (low < 0xDC00 || low > 0xDFFF)
            return json_scan_error(s, "half a surrogate pair");
        c = 0x10000 + ((c - 0xD800) << 10) + (low - 0xDC00);
    }
    *out = put_utf8(*out, c);
    return 0;
}

/* Past the closing quote, without taking the text. */
static const char *find_quote(const JsonScan *s)
{
    const char *p = s->p;
    while (p < s->end && *p != '"')
        p += *p == '\\' && s->end - p > 1 ? 2 : 1;
    return p;
}

int json_scan_string(JsonScan *s, const char **out)
{
    static const char escapes[] = "\"\\/bfnrt", meanings[] = "\"\\/\b\f\n\r\t";
    TRY(json_scan_char(s, '"'));
    const char *close = find_quote(s);
    if (close == s->end)
        return json_scan_error(s, "text without a closing quote");
    char *text = arena_alloc(s->arena, (size_t)(close - s->p) + 1), *to = text;
    if (!text)
        return ERR_NOMEM;
    while (s->p < close) {
        char c = *s->p;
        if ((unsigned char)c < 0x20)
            return json_scan_error(s, "a control character in text");
        s->p++;
        if (c != '\\') {
            *to++ = c;
            continue;
        }
        c = *s->p++;
        const char *e = c ? strchr(escapes, c) : NULL;
        if (c == 'u')
            TRY(read_unicode(s, &to));
        else if (e)
            *to++ = meanings[e - escapes];
        else
            return json_scan_error(s, "unknown escape");
    }
    s->p = close + 1;
    *to = 0;
    *out = text;
    return 0;
}

int json_scan_key(JsonScan *s, const char **out)
{
    TRY(json_scan_string(s, out));
    for (const char *p = *out; *p; p++)
        if ((unsigned char)*p < 0x20 || *p == 0x7F)
            return json_scan_error(s, "a control character in a key");
    return json_scan_char(s, ':');
}

int json_scan_u64(JsonScan *s, uint64_t *out)
{
    skip_space(s);
    uint64_t v = 0;
    const char *first = s->p;
    for (; s->p < s->end && *s->p >= '0' && *s->p <= '9'; s->p++)
        if (__builtin_mul_overflow(v, 10u, &v) || __builtin_add_overflow(v, (uint64_t)(*s->p - '0'), &v))
            return json_scan_error(s, "number too large");
    if (s->p == first || (*first == '0' && s->p - first > 1))
        return json_scan_error(s, "expected an integer, 0 or more");
    if (s->p < s->end && (*s->p == '.' || *s->p == 'e' || *s->p == 'E'))
        return json_scan_error(s, "expected an integer");
    *out = v;
    return 0;
}

static int skip_word(JsonScan *s)
{
    /* Numbers are not checked to the letter: nothing depends on them. */
    const char *first = s->p;
    while (s->p < s->end && *s->p && strchr("+-.0123456789abcdefghijklmnopqrstuvwxyzE", *s->p))
        s->p++;
    return s->p == first ? json_scan_error(s, "expected a value") : 0;
}

static int skip_value(JsonScan *s, int depth)
{
    const char *text;
    int more;
    skip_space(s);
    char open = s->p < s->end ? *s->p : 0;
    if (open == '"')
        return json_scan_string(s, &text);
    if (open != '{' && open != '[')
        return skip_word(s);
    if (depth == MAX_DEPTH)
        return json_scan_error(s, "nested too deeply");
    s->p++;
    char close = open == '{' ? '}' : ']';
    TRY(json_scan_first(s, close, &more));
    while (more) {
        if (open == '{')
            TRY(json_scan_key(s, &text));
        TRY(skip_value(s, depth + 1));
        TRY(json_scan_next(s, close, &more));
    }
    return 0;
}

int json_scan_skip(JsonScan *s)
{
    return skip_value(s, 0);
}

int json_scan_end(JsonScan *s)
{
    skip_space(s);
    return s->p == s->end ? 0 : json_scan_error(s, "text after the end");
}
