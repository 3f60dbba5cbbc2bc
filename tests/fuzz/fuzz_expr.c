#include <string.h>

#include "fuzz.h"
#include "text/expr.h"

static const ExprName names[] = {{"a", 0}, {"b", 1}, {"cfg", 2}, {"lora", 3}};

static int get(void *ctx, int id, int k, ExprValue *out)
{
    (void)ctx;
    if (k > id)
        return 0;
    *out = id & 1 ? (ExprValue){.kind = EXPR_TEXT, .text = k ? "12" : "ink"} : (ExprValue){.kind = EXPR_INTEGER, .integer = INT64_MAX - k};
    return 1;
}

/* Any condition that parses is true or false, and its negation the other. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = malloc(size + 8);
    Expr *e;
    int yes = -1, no = -1;
    memcpy(text, data, size);
    text[size] = 0;
    if (expr_parse(&e, text, names, 4, "fuzz") >= 0) {
        FUZZ_REQUIRE(expr_test(e, get, NULL, &yes) == 0 && (yes == 0 || yes == 1));
        expr_destroy(e);
        memmove(text + 5, text, strlen(text) + 1);
        memcpy(text, "not (", 5);
        strcat(text, ")");
        if (expr_parse(&e, text, names, 4, "fuzz") >= 0) {
            FUZZ_REQUIRE(expr_test(e, get, NULL, &no) == 0 && no == !yes);
            expr_destroy(e);
        }
    }
    free(text);
    return 0;
}
