/* The tree of a condition. Internal to expr.c (parsing) and expr_eval.c. */
#ifndef TEXT_EXPR_IMPL_H
#define TEXT_EXPR_IMPL_H

#include <stddef.h>

#include "text/expr.h"

typedef enum {
    NODE_VALUE,
    NODE_NAME,
    NODE_OR,
    NODE_AND,
    NODE_NOT,
    NODE_EQ,
    NODE_NE,
    NODE_LT,
    NODE_LE,
    NODE_GT,
    NODE_GE,
    NODE_LIKE,
    NODE_IN,    /* left in the chain of NODE_ITEM at right */
    NODE_ITEM,  /* left (to the value at `to`, when it is there), next item at right */
    NODE_ADD,
    NODE_SUB,
    NODE_MUL,
    NODE_DIV,
    NODE_MOD
} NodeKind;

typedef struct {
    NodeKind kind;
    int left, right, to; /* -1: none */
    int id;
    ExprValue value;
} Node;

struct Expr {
    Node *node;
    int count, cap, root;
    char *pool; /* texts of literals, one after the other */
};

/* Length of the number at p, 0 when there is none: "3..9" is a range, not "3." */
size_t expr_number_length(const char *p);
/* The n characters at p, a number as a whole: 1 and its value, else 0. */
int expr_number_read(const char *p, size_t n, ExprValue *v);

#endif
