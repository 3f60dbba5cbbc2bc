/* A template with everything filled in: wildcards and variables are replaced by what they stand for. A directed acyclic graph in one
 * arena, immutable once made. Internal to template.c and template_expand.c. */
#ifndef TEXT_TEMPLATE_TREE_H
#define TEXT_TEMPLATE_TREE_H

#include "text/template_impl.h"

/* SEQ: parts one after the other. PICK: some of the children. LET: evaluates its child into a slot and writes nothing. SLOT: writes
 * that text. WRAP: child 1 in the place of the dots of child 0. */
typedef enum { TREE_TEXT, TREE_SEQ, TREE_PICK, TREE_LET, TREE_SLOT, TREE_WRAP } TreeKind;

typedef struct Tree Tree;
struct Tree {
    TreeKind kind;
    int method;
    const char *text;    /* TEXT, PICK: separator */
    Tree **child;
    int n;
    const double *weight; /* PICK [n], for random draws */
    int32_t *list;       /* PICK [nlist]: children in the order of combinations, by weight of wildcards repeated */
    int nlist;
    int min, max;        /* PICK: how many, <= nlist */
    int slot;            /* LET, SLOT */
    int64_t count;       /* expansions in combinatorial mode; TREE_MANY: too many */
    int64_t each;        /* PICK: count of every child where they are equal, else 0 */
    int32_t *unique;     /* PICK: expansions that differ, where not all do; NULL: all */
};

static const int64_t TREE_MANY = INT64_MAX;
enum { TREE_MAX_SLOTS = 256, TREE_MAX_ENUMERATED = 1 << 16 };

struct Template {
    Arena arena;
    TemplateMode mode;
    Tree *root;
    int nslots;
};

/* k * l, TREE_MANY from 2^62. */
int64_t tree_multiply(int64_t k, int64_t l);
/* Ordered choices of b out of n: n (n-1) ... */
int64_t tree_arrangements(int n, int b);
/* The children of expansion k of a PICK, in combinatorial order: *b places in list[], and each one's own expansion. */
int tree_unrank(const Tree *t, int64_t k, int *b, int32_t *place, int64_t *sub);
/* Texts of the chosen children of expansion k, with a 0 after each (what makes two results the same); *same: two are equal. */
int tree_key(const Template *t, const Tree *pick, int64_t k, StrBuf *out, int *same);

#endif
