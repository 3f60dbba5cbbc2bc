#include "text/expr_impl.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/str.h"

enum { EXPR_MAX_NODES = 4096, EXPR_MAX_DEPTH = 100, EXPR_MAX_BYTES = 16 << 10 };

typedef struct {
    Expr *e;
    const char *text, *p, *what;
    const ExprName *names;
    int nnames, depth;
    size_t pool_len;
} Parser;

static int parse_or(Parser *s);

static int fail(const Parser *s, int code, const char *expected)
{
    return err_set(code, "%s: at character %d, '%.20s': expected %s", s->what, (int)(s->p - s->text) + 1, s->p, expected);
}

static int add(Parser *s, NodeKind kind, int left, int right)
{
    Expr *e = s->e;
    if (left < -1 || right < -1) /* an error below */
        return left < -1 ? left : right;
    if (e->count == EXPR_MAX_NODES)
        return err_set(ERR_RANGE, "%s: the condition has more than %d parts", s->what, (int)EXPR_MAX_NODES) - 1;
    if (e->count == e->cap) {
        int cap = e->cap ? 2 * e->cap : 32;
        Node *grown = realloc(e->node, (size_t)cap * sizeof *grown);
        if (!grown)
            return err_set(ERR_NOMEM, "out of memory") - 1;
        e->node = grown;
        e->cap = cap;
    }
    e->node[e->count] = (Node){.kind = kind, .left = left, .right = right, .to = -1};
    return e->count++;
}

/* Results of the parse functions: a node's number, or an error code less 1 (so that -1 can mean "none"). */
static int bad(const Parser *s, int code, const char *expected)
{
    return fail(s, code, expected) - 1;
}

static void space(Parser *s)
{
    while (isspace((unsigned char)*s->p))
        s->p++;
}

static int name_char(char c)
{
    return isalnum((unsigned char)c) || c == '_' || c == '.';
}

static size_t word_length(const char *p)
{
    size_t n = 0;
    if (isalpha((unsigned char)*p) || *p == '_')
        while (name_char(p[n]))
            n++;
    return n;
}

static int is_word(const char *p, const char *word)
{
    size_t n = word_length(p);
    return n == strlen(word) && strncasecmp(p, word, n) == 0;
}

static int take_word(Parser *s, const char *word)
{
    space(s);
    if (!is_word(s->p, word))
        return 0;
    s->p += strlen(word);
    return 1;
}

static int take(Parser *s, const char *sign)
{
    space(s);
    if (strncmp(s->p, sign, strlen(sign)) != 0)
        return 0;
    s->p += strlen(sign);
    return 1;
}

static int add_text(Parser *s)
{
    char quote = *s->p++, *to = s->e->pool + s->pool_len;
    const char *from = to;
    for (;; s->p++) {
        if (!*s->p)
            return bad(s, ERR_FORMAT, "the closing quote");
        if (*s->p == quote) {
            if (s->p[1] != quote)
                break;
            s->p++;
        }
        *to++ = *s->p;
    }
    s->p++;
    *to++ = 0;
    s->pool_len += (size_t)(to - from);
    int n = add(s, NODE_VALUE, -1, -1);
    if (n >= 0)
        s->e->node[n].value = (ExprValue){.kind = EXPR_TEXT, .text = from};
    return n;
}

size_t expr_number_length(const char *p)
{
    size_t n = 0;
    while (isdigit((unsigned char)p[n]))
        n++;
    if (p[n] == '.' && p[n + 1] != '.')
        for (n++; isdigit((unsigned char)p[n]);)
            n++;
    if ((p[n] == 'e' || p[n] == 'E') && (isdigit((unsigned char)p[n + 1]) || (strchr("+-", p[n + 1]) && isdigit((unsigned char)p[n + 2]))))
        for (n += 2; isdigit((unsigned char)p[n]);)
            n++;
    return n;
}

int expr_number_read(const char *p, size_t n, ExprValue *v)
{
    char text[64], *end;
    if (!n || n >= sizeof text)
        return 0;
    memcpy(text, p, n);
    text[n] = 0;
    errno = 0;
    v->integer = strtoll(text, &end, 10);
    v->kind = *end || errno ? EXPR_NUMBER : EXPR_INTEGER;
    v->number = strtod(text, &end);
    return *end == 0;
}

static int add_number(Parser *s)
{
    ExprValue v = {0};
    size_t n = expr_number_length(s->p);
    if (!expr_number_read(s->p, n, &v))
        return bad(s, ERR_FORMAT, "a number");
    s->p += n;
    if (name_char(*s->p) && *s->p != '.')
        return bad(s, ERR_FORMAT, "an operator after the number");
    int k = add(s, NODE_VALUE, -1, -1);
    if (k >= 0)
        s->e->node[k].value = v;
    return k;
}

static int unknown(Parser *s, size_t n)
{
    char word[64];
    snprintf(word, sizeof word, "%.*s", (int)n, s->p);
    const char *list[256];
    int count = s->nnames < 256 ? s->nnames : 256;
    for (int i = 0; i < count; i++)
        list[i] = s->names[i].name;
    const char *near = str_nearest(word, list, count);
    return err_set(ERR_NOTFOUND, "%s: at character %d: '%s' is no known name%s%s%s", s->what, (int)(s->p - s->text) + 1, word,
                   near ? "; did you mean '" : " (a text needs quotes: '", near ? near : word, near ? "'?" : "')") - 1;
}

static int add_name(Parser *s)
{
    size_t n = word_length(s->p);
    ExprValue v = {0};
    if (is_word(s->p, "true") || is_word(s->p, "false"))
        v = (ExprValue){.kind = EXPR_INTEGER, .integer = is_word(s->p, "true"), .number = is_word(s->p, "true")};
    else if (!is_word(s->p, "none") && !is_word(s->p, "null")) {
        for (int i = 0; i < s->nnames; i++)
            if (strlen(s->names[i].name) == n && strncmp(s->names[i].name, s->p, n) == 0) {
                int k = add(s, NODE_NAME, -1, -1);
                if (k >= 0)
                    s->e->node[k].id = s->names[i].id;
                s->p += n;
                return k;
            }
        return unknown(s, n);
    }
    s->p += n;
    int k = add(s, NODE_VALUE, -1, -1);
    if (k >= 0)
        s->e->node[k].value = v;
    return k;
}

static int parse_primary(Parser *s)
{
    space(s);
    if (take(s, "(")) {
        int n = parse_or(s);
        if (n >= 0 && !take(s, ")"))
            return bad(s, ERR_FORMAT, "')'");
        return n;
    }
    if (*s->p == '\'' || *s->p == '"')
        return add_text(s);
    if (isdigit((unsigned char)*s->p) || (*s->p == '.' && isdigit((unsigned char)s->p[1])))
        return add_number(s);
    if (word_length(s->p) && !is_word(s->p, "and") && !is_word(s->p, "or") && !is_word(s->p, "in") && !is_word(s->p, "like"))
        return add_name(s);
    return bad(s, ERR_FORMAT, "a name, a number, a quoted text or '('");
}

static int parse_unary(Parser *s)
{
    if (!take(s, "-"))
        return parse_primary(s);
    if (++s->depth > EXPR_MAX_DEPTH)
        return bad(s, ERR_RANGE, "fewer nested parts");
    int n = parse_unary(s), zero = n < 0 ? n : add(s, NODE_VALUE, -1, -1);
    s->depth--;
    if (zero >= 0)
        s->e->node[zero].value = (ExprValue){.kind = EXPR_INTEGER};
    return zero < 0 ? zero : add(s, NODE_SUB, zero, n);
}

static int parse_product(Parser *s)
{
    int n = parse_unary(s);
    while (n >= 0) {
        NodeKind kind = take(s, "*") ? NODE_MUL : take(s, "/") ? NODE_DIV : take(s, "%") ? NODE_MOD : NODE_VALUE;
        if (kind == NODE_VALUE)
            break;
        n = add(s, kind, n, parse_unary(s));
    }
    return n;
}

static int parse_sum(Parser *s)
{
    int n = parse_product(s);
    while (n >= 0) {
        NodeKind kind = take(s, "+") ? NODE_ADD : take(s, "-") ? NODE_SUB : NODE_VALUE;
        if (kind == NODE_VALUE)
            break;
        n = add(s, kind, n, parse_product(s));
    }
    return n;
}

static int parse_list(Parser *s)
{
    int first = -1, last = -1;
    if (!take(s, "("))
        return bad(s, ERR_FORMAT, "'(' and a list of values");
    do {
        int n = add(s, NODE_ITEM, parse_sum(s), -1);
        if (n < 0)
            return n;
        if (take(s, "..")) {
            int to = parse_sum(s);
            if (to < 0)
                return to;
            s->e->node[n].to = to;
        }
        if (last >= 0)
            s->e->node[last].right = n;
        first = first < 0 ? n : first;
        last = n;
    } while (take(s, ","));
    return take(s, ")") ? first : bad(s, ERR_FORMAT, "',' or ')'");
}

static int parse_compare(Parser *s)
{
    static const struct {
        const char *sign;
        NodeKind kind;
    } signs[] = {{"==", NODE_EQ}, {"=", NODE_EQ}, {"!=", NODE_NE}, {"<>", NODE_NE}, {"<=", NODE_LE}, {"<", NODE_LT}, {">=", NODE_GE}, {">", NODE_GT}};
    int n = parse_sum(s);
    if (n < 0)
        return n;
    for (size_t i = 0; i < sizeof signs / sizeof *signs; i++)
        if (take(s, signs[i].sign))
            return add(s, signs[i].kind, n, parse_sum(s));
    const char *before = s->p;
    int negate = take_word(s, "not");
    if (take_word(s, "in"))
        n = add(s, NODE_IN, n, parse_list(s));
    else if (take_word(s, "like"))
        n = add(s, NODE_LIKE, n, parse_sum(s));
    else {
        s->p = before;
        return n;
    }
    return negate && n >= 0 ? add(s, NODE_NOT, n, -1) : n;
}

static int parse_not(Parser *s)
{
    space(s);
    int sign = *s->p == '!' && s->p[1] != '=' && take(s, "!");
    if (!sign && !take_word(s, "not"))
        return parse_compare(s);
    if (++s->depth > EXPR_MAX_DEPTH)
        return bad(s, ERR_RANGE, "fewer nested parts");
    int n = parse_not(s);
    s->depth--;
    return n < 0 ? n : add(s, NODE_NOT, n, -1);
}

static int parse_and(Parser *s)
{
    int n = parse_not(s);
    while (n >= 0 && (take_word(s, "and") || take(s, "&&")))
        n = add(s, NODE_AND, n, parse_not(s));
    return n;
}

static int parse_or(Parser *s)
{
    if (++s->depth > EXPR_MAX_DEPTH)
        return bad(s, ERR_RANGE, "fewer nested parts");
    int n = parse_and(s);
    while (n >= 0 && (take_word(s, "or") || take(s, "||")))
        n = add(s, NODE_OR, n, parse_and(s));
    s->depth--;
    return n;
}

int expr_parse(Expr **out, const char *text, const ExprName *names, int count, const char *what)
{
    size_t len = strlen(text);
    if (len > EXPR_MAX_BYTES)
        return err_set(ERR_RANGE, "%s: a condition of %zu bytes: at most %d", what, len, (int)EXPR_MAX_BYTES);
    Expr *e = calloc(1, sizeof *e);
    if (!e || !(e->pool = malloc(len + 1))) {
        free(e);
        return err_set(ERR_NOMEM, "out of memory");
    }
    Parser s = {.e = e, .text = text, .p = text, .what = what, .names = names, .nnames = count};
    e->root = parse_or(&s);
    space(&s);
    int rc = e->root < 0 ? e->root + 1 : *s.p ? fail(&s, ERR_FORMAT, "an operator or the end") : 0;
    if (rc < 0) {
        expr_destroy(e);
        return rc;
    }
    *out = e;
    return 0;
}

void expr_destroy(Expr *e)
{
    if (!e)
        return;
    free(e->node);
    free(e->pool);
    free(e);
}

int expr_uses(const Expr *e, int id)
{
    for (int i = 0; i < e->count; i++)
        if (e->node[i].kind == NODE_NAME && e->node[i].id == id)
            return 1;
    return 0;
}
