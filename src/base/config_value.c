#include "base/config_impl.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int conf_parse_bool(const char *s, int *out)
{
    static const char *const names[] = {"false", "true", "no", "yes", "off", "on"};
    for (int i = 0; i < 6; i++) {
        if (strcmp(s, names[i]) == 0) {
            *out = i & 1;
            return 1;
        }
    }
    return 0;
}

static int is_digit(char c)
{
    return c >= '0' && c <= '9';
}

int conf_parse_i64(const char *s, int64_t *out)
{
    char *end;
    if (!is_digit(s[*s == '-' || *s == '+']))
        return 0;
    errno = 0;
    long long v = strtoll(s, &end, 10);
    *out = v;
    return !*end && errno == 0;
}

int conf_parse_u64(const char *s, uint64_t *out)
{
    char *end;
    if (!is_digit(s[*s == '+']))
        return 0;
    errno = 0;
    unsigned long long v = strtoull(s, &end, 10);
    *out = v;
    return !*end && errno == 0;
}

int conf_parse_f64(const char *s, double *out)
{
    char *end;
    if (!*s || s[strspn(s, "0123456789+-.eE")])
        return 0;
    *out = strtod(s, &end);
    return end != s && !*end && isfinite(*out);
}

static const struct {
    const char *name;
    int64_t bytes;
} units[] = {{"TiB", (int64_t)1 << 40}, {"GiB", 1 << 30},      {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"TB", 1000000000000},
             {"GB", 1000000000},        {"MB", 1000000},       {"KB", 1000},     {"kB", 1000},     {"B", 1}};
enum { UNITS = sizeof units / sizeof *units, BINARY_UNITS = 4 };

int conf_parse_size(const char *s, int64_t *out)
{
    size_t n = strspn(s, "0123456789.");
    const char *unit = s + n + strspn(s + n, " ");
    int64_t factor = *unit ? 0 : 1;
    char number[32];
    double v;
    for (int i = 0; i < UNITS; i++)
        if (strcmp(unit, units[i].name) == 0)
            factor = units[i].bytes;
    if (!factor || n == 0 || n >= sizeof number)
        return 0;
    memcpy(number, s, n);
    number[n] = 0;
    if (conf_parse_i64(number, out)) {
        if (*out > INT64_MAX / factor)
            return 0;
        *out *= factor;
        return 1;
    }
    if (!conf_parse_f64(number, &v) || !(v * (double)factor < 0x1p62))
        return 0;
    *out = (int64_t)floor(v * (double)factor + 0.5);
    return 1;
}

void conf_add_size(StrBuf *out, int64_t bytes)
{
    for (int i = 0; i < BINARY_UNITS; i++) {
        if (bytes && bytes % units[i].bytes == 0) {
            str_add_format(out, "%lld%s", (long long)(bytes / units[i].bytes), units[i].name);
            return;
        }
    }
    str_add_format(out, "%lld", (long long)bytes);
}

void conf_add_bound(StrBuf *out, ConfType type, double x)
{
    if (type == CONF_TYPE_SIZE && fabs(x) < 0x1p62)
        conf_add_size(out, (int64_t)x);
    else
        str_add_number(out, x, 0);
}

int conf_is_automatic(const ConfField *f)
{
    return (f->type == CONF_TYPE_F32 || f->type == CONF_TYPE_F64) && f->def && strcmp(f->def, "-1") == 0;
}

static void add_range(StrBuf *out, const ConfField *f)
{
    int low = isfinite(f->min), high = isfinite(f->max);
    int integer = f->type == CONF_TYPE_I32 || f->type == CONF_TYPE_I64 || f->type == CONF_TYPE_INTS;
    if (integer) { /* bounds that are those of the type say nothing */
        low = low && f->min > (f->type == CONF_TYPE_I32 ? INT32_MIN : -0x1p63);
        high = high && f->max < (f->type == CONF_TYPE_I32 ? INT32_MAX : 0x1p63);
    }
    if (low && high) {
        str_add(out, " in ");
        conf_add_bound(out, f->type, f->min);
        str_add(out, "..");
        conf_add_bound(out, f->type, f->max);
    } else if (low) {
        str_add(out, ", at least ");
        conf_add_bound(out, f->type, f->min);
    } else if (high) {
        str_add(out, ", at most ");
        conf_add_bound(out, f->type, f->max);
    }
}

static void add_count(StrBuf *out, const ConfField *f, const char *what)
{
    str_add_format(out, "a list of %.0f..%.0f %s", f->min, f->max, what);
}

void conf_field_expect(const ConfField *f, StrBuf *out)
{
    switch (f->type) {
    case CONF_TYPE_BOOL: str_add(out, "true or false"); return;
    case CONF_TYPE_I32:
    case CONF_TYPE_I64: str_add(out, "an integer"); break;
    case CONF_TYPE_U64: str_add(out, "an integer in 0..18446744073709551615"); return;
    case CONF_TYPE_F32:
    case CONF_TYPE_F64:
        str_add(out, "a number");
        if (!conf_is_automatic(f))
            break;
        str_add(out, " in 0..");
        conf_add_bound(out, f->type, f->max);
        str_add(out, ", or -1");
        return;
    case CONF_TYPE_SIZE: str_add(out, "a size like 512MiB or 8GiB"); break;
    case CONF_TYPE_STR: str_add(out, "text"); return;
    case CONF_TYPE_ENUM:
        str_add(out, "one of");
        for (int i = 0; f->names[i]; i++)
            str_add_format(out, "%s %s", i ? "," : "", f->names[i]);
        return;
    case CONF_TYPE_STRS: add_count(out, f, "texts"); return;
    case CONF_TYPE_NUMS: str_add(out, "a list of numbers"); break;
    case CONF_TYPE_INTS: str_add(out, "a list of integers"); break;
    case CONF_TYPE_STRUCT: str_add(out, "a map of keys"); return;
    case CONF_TYPE_STRUCTS: add_count(out, f, "maps"); return;
    case CONF_TYPE_NODE: str_add(out, "a list or map"); return;
    }
    add_range(out, f);
}

/* Safe without quotes in flow and block context, and not to be taken for null. */
static int is_plain(const char *s)
{
    static const char safe[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./+-";
    size_t n = strlen(s);
    if (!n || n > 200 || strcmp(s, "-") == 0 || strncmp(s, "---", 3) == 0 || strncmp(s, "...", 3) == 0)
        return 0;
    if (strcmp(s, "null") == 0 || strcmp(s, "Null") == 0 || strcmp(s, "NULL") == 0)
        return 0;
    for (size_t i = 0; i < n; i++)
        if (!strchr(safe, s[i]) && !(s[i] == ' ' && i > 0 && i + 1 < n && s[i - 1] != ' ' && s[i - 1] != '-'))
            return 0;
    return 1;
}

static unsigned decode(const unsigned char *p, int *length)
{
    if (p[0] < 0x80)
        return *length = 1, p[0];
    if (p[0] < 0xE0)
        return *length = 2, (p[0] & 0x1Fu) << 6 | (p[1] & 0x3Fu);
    if (p[0] < 0xF0)
        return *length = 3, (p[0] & 0x0Fu) << 12 | (p[1] & 0x3Fu) << 6 | (p[2] & 0x3Fu);
    return *length = 4, (p[0] & 0x07u) << 18 | (p[1] & 0x3Fu) << 12 | (p[2] & 0x3Fu) << 6 | (p[3] & 0x3Fu);
}

void conf_add_text(StrBuf *out, const char *text, int may_be_plain)
{
    if (may_be_plain && is_plain(text)) {
        str_add(out, text);
        return;
    }
    str_add_char(out, '"');
    for (const unsigned char *p = (const unsigned char *)text; *p;) {
        int n;
        unsigned c = decode(p, &n);
        if (c == '"' || c == '\\')
            str_add_format(out, "\\%c", (char)c);
        else if (c == '\n')
            str_add(out, "\\n");
        else if (c == '\t')
            str_add(out, "\\t");
        else if (c < 0x20 || (c >= 0x7F && c < 0xA0))
            str_add_format(out, "\\x%02X", c);
        else if (c == 0x2028 || c == 0x2029 || c == 0xFEFF || c == 0xFFFE || c == 0xFFFF)
            str_add_format(out, "\\u%04X", c); /* line breaks to YAML, or not allowed as they are */
        else
            str_add_bytes(out, p, (size_t)n);
        p += n;
    }
    str_add_char(out, '"');
}

void config_add_quoted(StrBuf *out, const char *text)
{
    StrBuf ascii;
    if (str_is_utf8(text, strlen(text))) {
        conf_add_text(out, text, 0);
        return;
    }
    str_init(&ascii);
    for (; *text; text++)
        str_add_char(&ascii, (unsigned char)*text < 0x80 ? *text : '?');
    conf_add_text(out, ascii.data, 0);
    out->failed |= ascii.failed;
    str_deinit(&ascii);
}
