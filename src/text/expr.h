/* Conditions over named values, as a sweep's `only:` and `exclude:` and `atelier export --where` take them:
 *     cfg = 7 and lora = 'ink' or steps >= 30
 *     not (sampler in ('euler', 'heun')) and prompt like '*red*' and seed % 2 = 0
 * Lowest first: or ||, and &&, not !, comparisons (= == != <> < <= > >=, [not] in (a, b, 3..9), [not] like 'glob'), + -, * / %, unary -.
 * Literals: numbers, 'text' or "text" (a doubled quote is one), true, false, none. Words are case-sensitive names; and, or, not, in,
 * like, true, false and none may be in capitals. like: '*' any characters, '?' one; letters of ASCII regardless of case.
 *
 * A name may have several values (the LoRAs of an image): a comparison holds when it holds for one of them; != and `not in` and
 * `not like` when the opposite holds for none. A name without a value equals none and fails every comparison but those. Integers are
 * compared exactly; a text that reads as a number is compared with a number as one, any other text differs from every number. */
#ifndef TEXT_EXPR_H
#define TEXT_EXPR_H

#include <stdint.h>

#include "base/error.h"

typedef enum { EXPR_NONE, EXPR_INTEGER, EXPR_NUMBER, EXPR_TEXT } ExprKind;

typedef struct {
    ExprKind kind;
    int64_t integer;
    double number;
    const char *text; /* borrowed */
} ExprValue;

/* What a condition may name; several names may share an id ("guidance" and "cfg"). */
typedef struct {
    const char *name;
    int id;
} ExprName;

typedef struct Expr Expr;

/* `what` names the condition in messages ("--where", "only"). names are used while parsing only. *out: expr_destroy.
 * ERR_FORMAT with the place; ERR_NOTFOUND for an unknown name, with the nearest known one. */
int expr_parse(Expr **out, const char *text, const ExprName *names, int count, const char *what);
void expr_destroy(Expr *e); /* NULL is fine */

/* Value k (from 0) of a name: 1 and *out, or 0 when there are not so many; negative: error. */
typedef int (*ExprGet)(void *ctx, int id, int k, ExprValue *out);
/* *truth: 0 or 1. Errors are those of `get` only: arithmetic on texts gives no value, division by zero too. Thread-safe. */
int expr_test(const Expr *e, ExprGet get, void *ctx, int *truth);
/* Whether the condition names this id. */
int expr_uses(const Expr *e, int id);

/* '*' and '?' against a whole text, ASCII letters regardless of case. */
int expr_like(const char *text, const char *pattern);

#endif
