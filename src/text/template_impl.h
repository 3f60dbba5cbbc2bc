/* Syntax tree of a template, and the wildcards' values. Internal to the template_*.c files. */
#ifndef TEXT_TEMPLATE_IMPL_H
#define TEXT_TEMPLATE_IMPL_H

#include <stddef.h>

#include "base/arena.h"
#include "text/template.h"

enum { TEMPLATE_MAX_DEPTH = 60, TEMPLATE_MAX_BYTES = 1 << 20 };

typedef enum { AST_TEXT, AST_LIST, AST_VARIANT, AST_WILD, AST_GET, AST_SET, AST_WRAP } AstKind;
enum { METHOD_NONE = 0, METHOD_RANDOM = '~', METHOD_CYCLICAL = '@', METHOD_COMBINATORIAL = '!' };

typedef struct Ast Ast;
struct Ast {
    AstKind kind;
    int method;
    char *text;          /* TEXT: it. GET, SET: name. VARIANT: separator */
    Ast **child;         /* LIST, VARIANT: all. WILD: path, then values of the parameters. GET: default or none. SET: value. WRAP: 2 */
    int count, cap;
    double *weight;      /* VARIANT [count] */
    char **name;         /* WILD: of the parameters, [count]; the first is NULL */
    int min, max;        /* VARIANT; max -1: all */
    int immediate, keep; /* SET */
};

/* Everything is allocated in the arena. `what` names the text in messages. */
int template_parse(Ast **out, Arena *a, const char *text, const char *what);

typedef struct {
    char *text;
    double weight;
} WildcardValue;
/* Values of all collections whose name matches the pattern (fnmatch; else the same below any folder): sorted, once each. Borrowed.
 * ERR_NOTFOUND when there are none. */
int wildcards_get(Wildcards *w, const char *pattern, const WildcardValue **values, int *count);

#endif
