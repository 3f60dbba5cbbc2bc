#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "text/template_impl.h"

typedef struct {
    Arena *a;
    const char *text, *p, *what;
    int depth;
} Parser;

/* Where a text ends: '|' and '}' inside variants, "__" and '(' inside wildcards. */
typedef enum { STOP_END, STOP_VARIANT, STOP_BRACE, STOP_PATH } Stop;

static int parse_list(Parser *s, Stop stop, Ast **out);

static int fail(const Parser *s, const char *expected)
{
    int line = 1;
    const char *start = s->text;
    for (const char *p = s->text; p < s->p; p++)
        if (*p == '\n') {
            line++;
            start = p + 1;
        }
    return err_set(ERR_FORMAT, "%s: line %d, character %d, '%.20s': expected %s", s->what, line, (int)(s->p - start) + 1, s->p, expected);
}

static int new_node(Parser *s, AstKind kind, Ast **out)
{
    *out = arena_alloc(s->a, sizeof **out);
    if (!*out)
        return ERR_NOMEM;
    (*out)->kind = kind;
    return 0;
}

static int add_child(Parser *s, Ast *n, Ast *child)
{
    if (n->count == n->cap) {
        int cap = n->cap ? 2 * n->cap : 4;
        Ast **grown = arena_array(s->a, (size_t)cap, sizeof *grown);
        double *weight = arena_array(s->a, (size_t)cap, sizeof *weight);
        char **name = arena_array(s->a, (size_t)cap, sizeof *name);
        if (!grown || !weight || !name)
            return ERR_NOMEM;
        if (n->count) {
            memcpy(grown, n->child, (size_t)n->count * sizeof *grown);
            memcpy(weight, n->weight, (size_t)n->count * sizeof *weight);
            memcpy(name, n->name, (size_t)n->count * sizeof *name);
        }
        n->child = grown;
        n->weight = weight;
        n->name = name;
        n->cap = cap;
    }
    n->weight[n->count] = 1;
    n->child[n->count++] = child;
    return 0;
}

static int add_text(Parser *s, Ast *list, const StrBuf *b)
{
    Ast *n;
    TRY(str_status(b));
    if (!b->len)
        return 0;
    TRY(new_node(s, AST_TEXT, &n));
    if (!(n->text = arena_text(s->a, b->data, b->len)))
        return ERR_NOMEM;
    return add_child(s, list, n);
}

static void space(Parser *s)
{
    for (;;) {
        while (isspace((unsigned char)*s->p))
            s->p++;
        if (*s->p != '#')
            return;
        s->p += strcspn(s->p, "\n");
    }
}

static int method(Parser *s)
{
    return *s->p == '~' || *s->p == '@' || *s->p == '!' ? *s->p++ : METHOD_NONE;
}

static int read_name(Parser *s, char **out)
{
    size_t n = 0;
    if (isalpha((unsigned char)*s->p) || *s->p == '_' || *s->p == '-')
        while (isalnum((unsigned char)s->p[n]) || s->p[n] == '_' || s->p[n] == '-')
            n++;
    if (!n)
        return fail(s, "the name of a variable");
    *out = arena_text(s->a, s->p, n);
    s->p += n;
    return *out ? 0 : ERR_NOMEM;
}

static int take(Parser *s, const char *sign)
{
    if (strncmp(s->p, sign, strlen(sign)) != 0)
        return 0;
    s->p += strlen(sign);
    return 1;
}

/* ${name=value} ${name?=value} ${name=!value} ${name} ${name:default} */
static int parse_variable(Parser *s, Ast **out)
{
    char *name;
    Ast *value;
    s->p += 2;
    space(s);
    TRY(read_name(s, &name));
    space(s);
    int keep = take(s, "?=");
    if (keep || take(s, "=")) {
        TRY(new_node(s, AST_SET, out));
        (*out)->keep = keep;
        (*out)->immediate = take(s, "!");
    } else {
        TRY(new_node(s, AST_GET, out));
    }
    (*out)->text = name;
    if ((*out)->kind == AST_SET || take(s, ":")) {
        space(s);
        TRY(parse_list(s, STOP_BRACE, &value));
        TRY(add_child(s, *out, value));
    }
    space(s);
    return take(s, "}") ? 0 : fail(s, "'=', ':' or '}'");
}

/* %{wrapper ... end$$inner} */
static int parse_wrap(Parser *s, Ast **out)
{
    Ast *part;
    TRY(new_node(s, AST_WRAP, out));
    s->p += 2;
    space(s);
    TRY(parse_list(s, STOP_BRACE, &part));
    TRY(add_child(s, *out, part));
    if (!take(s, "$$"))
        return fail(s, "'$$' and what to wrap");
    space(s);
    TRY(parse_list(s, STOP_BRACE, &part));
    TRY(add_child(s, *out, part));
    return take(s, "}") ? 0 : fail(s, "'}'");
}

static int read_count(const char **p, int *out)
{
    char *end;
    if (!isdigit((unsigned char)**p))
        return 0;
    long n = strtol(*p, &end, 10);
    *out = n > 1000000 ? 1000000 : (int)n;
    *p = end;
    return 1;
}

/* "2$$", "1-2$$", "-2$$", "1-$$", each with a separator and another "$$" after it if there is one before the end. */
static int parse_bounds(Parser *s, Ast *v)
{
    const char *p = s->p;
    int low = 1, high = -1, first = read_count(&p, &low), dash = *p == '-';
    p += dash;
    int second = dash && read_count(&p, &high);
    if ((!first && !second) || strncmp(p, "$$", 2) != 0)
        return 0;
    s->p = p + 2;
    v->min = low;
    v->max = dash ? high : low;
    size_t n = strcspn(s->p, "${}");
    if (strncmp(s->p + n, "$$", 2) == 0) {
        if (!(v->text = arena_text(s->a, s->p, n)))
            return ERR_NOMEM;
        s->p += n + 2;
    }
    return 0;
}

/* "0.5::" */
static int parse_weight(Parser *s, double *w)
{
    size_t n = strspn(s->p, "0123456789.");
    char *end;
    *w = 1;
    if (!n || strncmp(s->p + n, "::", 2) != 0)
        return 0;
    double x = strtod(s->p, &end);
    if (end != s->p + n || !(x >= 0 && x <= 1e9))
        return fail(s, "a weight from 0 to 1e9");
    *w = x;
    s->p += n + 2;
    return 0;
}

static int parse_variant(Parser *s, Ast **out)
{
    TRY(new_node(s, AST_VARIANT, out));
    Ast *v = *out;
    const char *open = s->p;
    double sum = 0;
    s->p++;
    space(s);
    v->method = method(s);
    v->min = v->max = 1;
    if (!(v->text = arena_text(s->a, ",", 1)))
        return ERR_NOMEM;
    TRY(parse_bounds(s, v));
    do {
        Ast *option;
        double w;
        space(s);
        TRY(parse_weight(s, &w));
        TRY(parse_list(s, STOP_VARIANT, &option));
        TRY(add_child(s, v, option));
        v->weight[v->count - 1] = w;
        sum += w;
    } while (take(s, "|"));
    if (!take(s, "}")) {
        if (!*s->p)
            s->p = open;
        return fail(s, *s->p == '$' ? "'|' or '}': only a number may stand before '$$'" : "'|' or the '}' of this '{'");
    }
    return sum > 0 ? 0 : fail(s, "a weight over 0 in the variants before");
}

/* "(season=winter, x={a|b})" after the path of a wildcard */
static int parse_parameters(Parser *s, Ast *w)
{
    const char *end = strchr(++s->p, ')');
    if (!end)
        return fail(s, "')'");
    while (s->p < end) {
        char *name, *value;
        Ast *tree;
        size_t n = strcspn(s->p, ",)");
        const char *equal = memchr(s->p, '=', n), *stop = s->p + n;
        space(s);
        TRY(read_name(s, &name));
        space(s);
        if (!equal || s->p != equal)
            return fail(s, "name=value");
        s->p++;
        space(s);
        while (stop > s->p && isspace((unsigned char)stop[-1]))
            stop--;
        n = stop > s->p ? (size_t)(stop - s->p) : 0;
        if (!(value = arena_text(s->a, s->p, n)))
            return ERR_NOMEM;
        Parser inner = {.a = s->a, .text = value, .p = value, .what = s->what, .depth = s->depth + 1};
        TRY(parse_list(&inner, STOP_END, &tree));
        TRY(add_child(s, w, tree));
        w->name[w->count - 1] = name;
        s->p += n;
        s->p += strcspn(s->p, ",)");
        s->p += *s->p == ',';
    }
    s->p = end + 1;
    return 0;
}

static int parse_wildcard(Parser *s, Ast **out)
{
    Ast *path;
    const char *open = s->p;
    TRY(new_node(s, AST_WILD, out));
    s->p += 2;
    (*out)->method = method(s);
    TRY(parse_list(s, STOP_PATH, &path));
    TRY(add_child(s, *out, path));
    if (*s->p == '(')
        TRY(parse_parameters(s, *out));
    if (!take(s, "__") || path->count == 0) {
        s->p = open;
        return fail(s, "the name and the closing '__' of a wildcard");
    }
    return 0;
}

static int at_stop(const Parser *s, Stop stop)
{
    switch (stop) {
    case STOP_VARIANT: return *s->p == '|' || *s->p == '}' || strncmp(s->p, "$$", 2) == 0;
    case STOP_BRACE: return *s->p == '}' || strncmp(s->p, "$$", 2) == 0;
    case STOP_PATH: return *s->p == '(' || strncmp(s->p, "__", 2) == 0;
    default: return 0;
    }
}

static int parse_special(Parser *s, Stop stop, Ast **out)
{
    *out = NULL;
    if (strncmp(s->p, "${", 2) == 0)
        return parse_variable(s, out);
    if (strncmp(s->p, "%{", 2) == 0)
        return parse_wrap(s, out);
    if (*s->p == '{')
        return parse_variant(s, out);
    if (stop != STOP_PATH && strncmp(s->p, "__", 2) == 0)
        return parse_wildcard(s, out);
    return 0;
}

/* A comment inside a text leaves a space, as in dynamicprompts. */
static void skip_comment(Parser *s, StrBuf *b, Stop stop)
{
    s->p += strcspn(s->p, "\n");
    if (b->len && *s->p && !at_stop(s, stop))
        str_add_char(b, ' ');
}

static int parse_parts(Parser *s, Stop stop, Ast *list, StrBuf *b)
{
    while (*s->p && !at_stop(s, stop)) {
        Ast *part;
        if (*s->p == '#') {
            skip_comment(s, b, stop);
            continue;
        }
        const char *before = s->p;
        TRY(parse_special(s, stop, &part));
        if (part) {
            TRY(add_text(s, list, b));
            str_clear(b);
            TRY(add_child(s, list, part));
        } else {
            str_add_char(b, *before);
            s->p++;
        }
    }
    return add_text(s, list, b);
}

static int parse_list(Parser *s, Stop stop, Ast **out)
{
    StrBuf b;
    if (++s->depth > TEMPLATE_MAX_DEPTH)
        return err_set(ERR_RANGE, "%s: more than %d brackets inside each other", s->what, (int)TEMPLATE_MAX_DEPTH);
    TRY(new_node(s, AST_LIST, out));
    str_init(&b);
    int rc = parse_parts(s, stop, *out, &b);
    str_deinit(&b);
    s->depth--;
    return rc;
}

int template_parse(Ast **out, Arena *a, const char *text, const char *what)
{
    Parser s = {.a = a, .text = text, .p = text, .what = what};
    if (strlen(text) > TEMPLATE_MAX_BYTES)
        return err_set(ERR_RANGE, "%s: a template of more than %d bytes", what, (int)TEMPLATE_MAX_BYTES);
    return parse_list(&s, STOP_END, out);
}
