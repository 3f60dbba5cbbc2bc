#include <ctype.h>
#include <math.h>
#include <string.h>

#include "text/expr_impl.h"

int expr_like(const char *text, const char *pattern)
{
    const char *star = NULL, *back = NULL;
    while (*text) {
        if (*pattern == '*') {
            star = ++pattern;
            back = text;
        } else if (*pattern == '?' || (*pattern && tolower((unsigned char)*pattern) == tolower((unsigned char)*text))) {
            pattern++;
            text++;
        } else if (star) {
            pattern = star;
            text = ++back;
        } else {
            return 0;
        }
    }
    while (*pattern == '*')
        pattern++;
    return !*pattern;
}

typedef struct {
    const Expr *e;
    ExprGet get;
    void *ctx;
    int rc; /* first error of get */
} Eval;

static int truth(Eval *v, int n);

/* Value k of a node; only names have more than one. */
static int value(Eval *v, int n, int k, ExprValue *out);

static int is_number(const ExprValue *a)
{
    return a->kind == EXPR_INTEGER || a->kind == EXPR_NUMBER;
}

static double number(const ExprValue *a)
{
    return a->kind == EXPR_INTEGER ? (double)a->integer : a->number;
}

static void arithmetic(NodeKind kind, const ExprValue *a, const ExprValue *b, ExprValue *out)
{
    int64_t x = a->integer, y = b->integer, z;
    *out = (ExprValue){0};
    if (!is_number(a) || !is_number(b))
        return;
    if (a->kind == EXPR_INTEGER && b->kind == EXPR_INTEGER) {
        int overflow = kind == NODE_ADD   ? __builtin_add_overflow(x, y, &z)
                       : kind == NODE_SUB ? __builtin_sub_overflow(x, y, &z)
                       : kind == NODE_MUL ? __builtin_mul_overflow(x, y, &z)
                                          : 1;
        if (kind == NODE_MOD && y > 0) {
            z = (x % y + y) % y;
            overflow = y > INT64_MAX / 2;
        }
        if (!overflow) {
            *out = (ExprValue){.kind = EXPR_INTEGER, .integer = z, .number = (double)z};
            return;
        }
    }
    double p = number(a), q = number(b), r = kind == NODE_ADD ? p + q : kind == NODE_SUB ? p - q : kind == NODE_MUL ? p * q : p / q;
    if (kind == NODE_MOD)
        r = p - q * floor(p / q);
    if (isfinite(r))
        *out = (ExprValue){.kind = EXPR_NUMBER, .number = r};
}

static int value(Eval *v, int n, int k, ExprValue *out)
{
    const Node *node = &v->e->node[n];
    if (node->kind == NODE_NAME) {
        int got = v->get(v->ctx, node->id, k, out);
        if (got < 0 && v->rc == 0)
            v->rc = got;
        return got > 0;
    }
    if (k > 0)
        return 0;
    if (node->kind == NODE_VALUE) {
        *out = node->value;
    } else if (node->kind >= NODE_ADD) {
        ExprValue a = {0}, b = {0};
        value(v, node->left, 0, &a);
        value(v, node->right, 0, &b);
        arithmetic(node->kind, &a, &b, out);
    } else {
        int t = truth(v, n);
        *out = (ExprValue){.kind = EXPR_INTEGER, .integer = t, .number = t};
    }
    return out->kind != EXPR_NONE;
}

/* A text that is a number counts as one. */
static int to_number(const ExprValue *a, ExprValue *out)
{
    *out = *a;
    if (a->kind != EXPR_TEXT)
        return a->kind != EXPR_NONE;
    int sign = a->text[0] == '-';
    size_t n = expr_number_length(a->text + sign);
    if (!n || a->text[n + (size_t)sign] || !expr_number_read(a->text + sign, n, out))
        return 0;
    if (sign) {
        out->integer = -out->integer;
        out->number = -out->number;
    }
    return 1;
}

/* <0, 0, >0; 2: not comparable. */
static int compare(const ExprValue *a, const ExprValue *b)
{
    ExprValue x, y;
    if (a->kind == EXPR_TEXT && b->kind == EXPR_TEXT) {
        int c = strcmp(a->text, b->text);
        return c < 0 ? -1 : c > 0;
    }
    if (!to_number(a, &x) || !to_number(b, &y))
        return 2;
    if (x.kind == EXPR_INTEGER && y.kind == EXPR_INTEGER)
        return x.integer < y.integer ? -1 : x.integer > y.integer;
    double p = number(&x), q = number(&y);
    return p < q ? -1 : p > q;
}

static int holds(NodeKind kind, const ExprValue *a, const ExprValue *b)
{
    if (kind == NODE_LIKE)
        return a->kind == EXPR_TEXT && b->kind == EXPR_TEXT && expr_like(a->text, b->text);
    int c = compare(a, b);
    if (c == 2)
        return 0;
    switch (kind) {
    case NODE_EQ: return c == 0;
    case NODE_LT: return c < 0;
    case NODE_LE: return c <= 0;
    case NODE_GT: return c > 0;
    default: return c >= 0;
    }
}

/* Some value of l and some value of r; two that have none are equal. */
static int any(Eval *v, NodeKind kind, int l, int r)
{
    ExprValue a, b;
    if (!value(v, l, 0, &a) || !value(v, r, 0, &b))
        return kind == NODE_EQ && !value(v, l, 0, &a) && !value(v, r, 0, &b);
    for (int i = 0; value(v, l, i, &a); i++)
        for (int k = 0; value(v, r, k, &b); k++)
            if (holds(kind, &a, &b))
                return 1;
    return 0;
}

static int in_list(Eval *v, int l, int item)
{
    for (; item >= 0; item = v->e->node[item].right) {
        const Node *n = &v->e->node[item];
        ExprValue a, lo, hi;
        if (n->to < 0) {
            if (any(v, NODE_EQ, l, n->left))
                return 1;
            continue;
        }
        if (!value(v, n->left, 0, &lo) || !value(v, n->to, 0, &hi))
            continue;
        for (int i = 0; value(v, l, i, &a); i++)
            if (holds(NODE_GE, &a, &lo) && holds(NODE_LE, &a, &hi))
                return 1;
    }
    return 0;
}

static int truth(Eval *v, int n)
{
    const Node *node = &v->e->node[n];
    ExprValue a;
    switch (node->kind) {
    case NODE_OR: return truth(v, node->left) || truth(v, node->right);
    case NODE_AND: return truth(v, node->left) && truth(v, node->right);
    case NODE_NOT: return !truth(v, node->left);
    case NODE_NE: return !any(v, NODE_EQ, node->left, node->right);
    case NODE_IN: return in_list(v, node->left, node->right);
    case NODE_EQ:
    case NODE_LT:
    case NODE_LE:
    case NODE_GT:
    case NODE_GE:
    case NODE_LIKE: return any(v, node->kind, node->left, node->right);
    default: break;
    }
    if (!value(v, n, 0, &a))
        return 0;
    return a.kind == EXPR_TEXT ? a.text[0] != 0 : number(&a) < 0 || number(&a) > 0;
}

int expr_test(const Expr *e, ExprGet get, void *ctx, int *out)
{
    Eval v = {.e = e, .get = get, .ctx = ctx};
    *out = truth(&v, e->root);
    return v.rc;
}
