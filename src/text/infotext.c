#define PCRE2_CODE_UNIT_WIDTH 8
#include "text/infotext.h"

#include <ctype.h>
#include <jansson.h>
#include <pcre2.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "base/str.h"
#include "text/unicode.h"

/* A1111's re_param. */
static const char param_pattern[] = "\\s*(\\w[\\w \\-/]+):\\s*(\"(?:\\\\.|[^\\\\\"])+\"|[^,]*)(?:,|$)";
static const char negative_mark[] = "Negative prompt:";
enum { NEGATIVE_LEN = sizeof negative_mark - 1, MIN_FIELDS = 3 };

void infotext_init(Infotext *t) { *t = (Infotext){0}; }

void infotext_deinit(Infotext *t)
{
    for (int i = 0; i < t->nfield; i++) {
        free(t->field[i].key);
        free(t->field[i].value);
    }
    free(t->field);
    free(t->prompt);
    free(t->negative);
    *t = (Infotext){0};
}

int infotext_set_prompt(Infotext *t, const char *prompt, const char *negative)
{
    char *p = NULL, *n = NULL;
    TRY(str_copy(&p, prompt ? prompt : ""));
    int rc = str_copy(&n, negative ? negative : "");
    if (rc < 0) {
        free(p);
        return rc;
    }
    free(t->prompt);
    free(t->negative);
    t->prompt = p;
    t->negative = n;
    return 0;
}

static int check_key(const char *key)
{
    int ok = (isalnum((unsigned char)key[0]) || key[0] == '_') && key[1];
    for (const char *p = key; ok && *p; p++)
        ok = isalnum((unsigned char)*p) || strchr("_ -/", *p) != NULL;
    return ok ? 0 : err_set(ERR_RANGE, "parameter name \"%s\": expected letters, digits, space, _ - or /", key);
}

/* Takes both strings over in every case. */
static int append(Infotext *t, char *key, char *value)
{
    InfotextField *f = realloc(t->field, ((size_t)t->nfield + 1) * sizeof *f);
    if (!f) {
        free(key);
        free(value);
        return err_set(ERR_NOMEM, "out of memory: parameters");
    }
    t->field = f;
    f[t->nfield++] = (InfotextField){key, value};
    return 0;
}

int infotext_add(Infotext *t, const char *key, const char *value)
{
    char *k = NULL, *v = NULL;
    TRY(check_key(key));
    TRY(str_copy(&k, key));
    int rc = str_copy(&v, value);
    if (rc < 0) {
        free(k);
        return rc;
    }
    return append(t, k, v);
}

int infotext_addf(Infotext *t, const char *key, const char *fmt, ...)
{
    StrBuf b;
    va_list ap;
    str_init(&b);
    va_start(ap, fmt);
    str_add_vformat(&b, fmt, ap);
    va_end(ap);
    int rc = str_status(&b);
    if (rc == 0)
        rc = infotext_add(t, key, b.data);
    str_deinit(&b);
    return rc;
}

const char *infotext_get(const Infotext *t, const char *key)
{
    for (int i = 0; i < t->nfield; i++)
        if (strcmp(t->field[i].key, key) == 0)
            return t->field[i].value;
    return NULL;
}

/* A1111 quotes for , : and newline; what would not come back as it was (leading or trailing white space, a leading quote,
 * control characters) is quoted too. */
static int needs_quotes(const char *v)
{
    size_t n = strlen(v), used;
    if (!n)
        return 0;
    int32_t first = text_utf8_decode(v, n, &used);
    if (strpbrk(v, ",:") || first == '"' || first == 0x180E || text_is_space(first) || isspace((unsigned char)v[n - 1]))
        return 1;
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)v[i] < 0x20)
            return 1;
    return 0;
}

int infotext_build(char **text, const Infotext *t)
{
    StrBuf b;
    *text = NULL;
    str_init(&b);
    str_add(&b, t->prompt ? t->prompt : "");
    if (t->negative && *t->negative) {
        str_add_char(&b, '\n');
        str_add(&b, negative_mark);
        str_add_char(&b, ' ');
        str_add(&b, t->negative);
    }
    for (int i = 0; i < t->nfield; i++) {
        str_add(&b, i ? ", " : "\n");
        str_add(&b, t->field[i].key);
        str_add(&b, ": ");
        if (needs_quotes(t->field[i].value))
            str_add_json(&b, t->field[i].value, strlen(t->field[i].value));
        else
            str_add(&b, t->field[i].value);
    }
    int rc = str_take(text, &b);
    str_deinit(&b);
    return rc;
}

static int slice(char **out, const char *s, size_t n)
{
    if (!(*out = strndup(s, n)))
        return err_set(ERR_NOMEM, "out of memory: parameters");
    return 0;
}

/* A JSON string becomes its content; anything else stays. */
static int unquote(char **value)
{
    size_t n = strlen(*value);
    if (n < 2 || (*value)[0] != '"' || (*value)[n - 1] != '"')
        return 0;
    json_t *j = json_loadb(*value, n, JSON_DECODE_ANY, NULL);
    char *plain = json_is_string(j) ? strdup(json_string_value(j)) : NULL;
    int lost = json_is_string(j) && !plain;
    json_decref(j);
    if (lost)
        return err_set(ERR_NOMEM, "out of memory: parameters");
    if (plain) {
        free(*value);
        *value = plain;
    }
    return 0;
}

static int add_match(Infotext *t, const char *line, const PCRE2_SIZE *span)
{
    char *key = NULL, *value = NULL;
    TRY(slice(&key, line + span[2], span[3] - span[2]));
    int rc = slice(&value, line + span[4], span[5] - span[4]);
    if (rc == 0)
        rc = unquote(&value);
    if (rc < 0) {
        free(key);
        free(value);
        return rc;
    }
    return append(t, key, value);
}

/* All "Key: value" of a line into t->field. */
static int parse_fields(Infotext *t, const char *line, size_t len)
{
    int code, rc = 0;
    PCRE2_SIZE at = 0, where;
    pcre2_code *re = pcre2_compile((PCRE2_SPTR)param_pattern, PCRE2_ZERO_TERMINATED,
                                   PCRE2_UTF | PCRE2_UCP | PCRE2_MATCH_INVALID_UTF, &code, &where, NULL);
    pcre2_match_data *m = re ? pcre2_match_data_create(3, NULL) : NULL;
    if (!m)
        rc = err_set(ERR_NOMEM, "out of memory: parameters");
    while (rc == 0 && at < len) {
        int found = pcre2_match(re, (PCRE2_SPTR)line, len, at, 0, m, NULL);
        if (found < 0)
            break; /* no more, or a line too wild for the matcher: what came before counts */
        const PCRE2_SIZE *span = pcre2_get_ovector_pointer(m);
        rc = add_match(t, line, span);
        at = span[1];
    }
    pcre2_match_data_free(m);
    pcre2_code_free(re);
    return rc;
}

static void trim(const char **s, size_t *n)
{
    while (*n && isspace((unsigned char)**s)) {
        ++*s;
        --*n;
    }
    while (*n && isspace((unsigned char)(*s)[*n - 1]))
        --*n;
}

static void add_line(StrBuf *b, const char *s, size_t n)
{
    if (b->len)
        str_add_char(b, '\n');
    str_add_bytes(b, s, n);
}

static void parse_prompts(const char *s, size_t len, StrBuf *prompt, StrBuf *negative)
{
    int in_negative = 0;
    for (const char *end = s + len; s <= end;) {
        const char *nl = memchr(s, '\n', (size_t)(end - s)), *line = s;
        size_t n = (size_t)((nl ? nl : end) - s);
        trim(&line, &n);
        if (n >= NEGATIVE_LEN && memcmp(line, negative_mark, NEGATIVE_LEN) == 0) {
            in_negative = 1;
            line += NEGATIVE_LEN;
            n -= NEGATIVE_LEN;
            trim(&line, &n);
        }
        add_line(in_negative ? negative : prompt, line, n);
        if (!nl)
            break;
        s = nl + 1;
    }
}

static void drop_fields(Infotext *t)
{
    for (int i = 0; i < t->nfield; i++) {
        free(t->field[i].key);
        free(t->field[i].value);
    }
    t->nfield = 0;
}

int infotext_parse(Infotext *t, const char *text)
{
    StrBuf prompt, negative;
    size_t len = strlen(text);
    infotext_init(t);
    trim(&text, &len);
    size_t last = len;
    while (last > 0 && text[last - 1] != '\n')
        last--;
    str_init(&prompt);
    str_init(&negative);
    int rc = parse_fields(t, text + last, len - last);
    if (t->nfield < MIN_FIELDS) {
        drop_fields(t);
        last = len;
    } else if (last > 0) {
        last--; /* the newline */
    }
    if (rc == 0 && last > 0)
        parse_prompts(text, last, &prompt, &negative);
    if (rc == 0 && (rc = str_take(&t->prompt, &prompt)) == 0)
        rc = str_take(&t->negative, &negative);
    str_deinit(&prompt);
    str_deinit(&negative);
    if (rc < 0)
        infotext_deinit(t);
    return rc;
}
