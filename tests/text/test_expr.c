#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "text/expr.h"

enum { CFG, STEPS, LORA, SEED, PROMPT, SAMPLER, MASK, HALF };
static const ExprName names[] = {{"cfg", CFG}, {"guidance", CFG}, {"steps", STEPS}, {"lora", LORA}, {"seed", SEED}, {"prompt", PROMPT},
                                 {"sampler", SAMPLER}, {"mask", MASK}, {"meta.half", HALF}};
enum { NAMES = sizeof names / sizeof *names };

/* An image with cfg 7, 30 steps, LoRAs ink and wash, a seed that no double holds. */
static int get(void *ctx, int id, int k, ExprValue *out)
{
    static const char *const lora[] = {"ink", "wash"};
    (void)ctx;
    if (id == MASK || k > (id == LORA))
        return 0;
    switch (id) {
    case CFG: *out = (ExprValue){.kind = EXPR_NUMBER, .number = 7}; break;
    case HALF: *out = (ExprValue){.kind = EXPR_NUMBER, .number = 0.5}; break;
    case STEPS: *out = (ExprValue){.kind = EXPR_INTEGER, .integer = 30}; break;
    case SEED: *out = (ExprValue){.kind = EXPR_INTEGER, .integer = 9007199254740993}; break;
    case LORA: *out = (ExprValue){.kind = EXPR_TEXT, .text = lora[k]}; break;
    case PROMPT: *out = (ExprValue){.kind = EXPR_TEXT, .text = "a Red apple, it's 12"}; break;
    default: *out = (ExprValue){.kind = EXPR_TEXT, .text = "2"}; break;
    }
    return 1;
}

static const char *const yes[] = {
    "cfg=7 and lora='ink' or steps>=99", "cfg = 1 and lora='x' or steps >= 30", "guidance == 7.0", "cfg=7", "cfg>6.9 && cfg<=7",
    "lora='ink'", "lora=\"wash\"", "lora != 'none'", "not lora = 'oil'", "! (lora='oil')", "lora IN ('oil', 'ink')",
    "steps in (1, 20..30)", "steps not in (31..40, 29)", "prompt like '*red APPLE*'", "prompt not like 'red*'", "prompt like 'a ?ed*'",
    "prompt like '*it''s*'", "seed = 9007199254740993", "seed != 9007199254740992", "seed % 2 = 1", "steps * 2 - 10 = 50",
    "steps / 4 = 7.5", "-steps < 0", "- -steps = 30", "1 + 2 * 3 = 7", "(1 + 2) * 3 = 9", "mask = none", "NOT mask", "mask != 'x'",
    "lora != none", "sampler = 2", "sampler < 10", "true", "not false", "meta.half = .5", "cfg in (7)", "-7 % 5 = 3",
    "steps >= 30 AND cfg <> 8", "1e1 = 10", "steps = '30'", "lora"};
static const char *const no[] = {
    "cfg=7 and lora='oil'", "lora='oil'", "lora != 'ink'", "lora not in ('ink')", "prompt = 'a'", "seed = 9007199254740992",
    "mask = 'x'", "mask < 1", "mask >= 1", "steps / 0 = 1", "steps / 0 > 1", "prompt > 3", "prompt + 1 = 1", "false", "none", "mask",
    "not lora", "steps in (31..40)", "cfg < 7 or cfg > 7", "prompt like 'a red'", "sampler = 'two'"};

static int eval(const char *text)
{
    Expr *e;
    int truth = -1;
    if (expr_parse(&e, text, names, NAMES, "test") < 0)
        fail_msg("%s: %s", text, err_message());
    assert_int_equal(expr_test(e, get, NULL, &truth), 0);
    expr_destroy(e);
    return truth;
}

static void test_expr__truth(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof yes / sizeof *yes; i++)
        if (eval(yes[i]) != 1)
            fail_msg("expected true: %s", yes[i]);
    for (size_t i = 0; i < sizeof no / sizeof *no; i++)
        if (eval(no[i]) != 0)
            fail_msg("expected false: %s", no[i]);
}

static void test_expr__errors(void **state)
{
    static const struct {
        const char *text;
        int code;
        const char *says;
    } bad[] = {{"", ERR_FORMAT, "expected a name"}, {"cfg =", ERR_FORMAT, "expected a name"}, {"cfg = 7 7", ERR_FORMAT, "character 9"},
               {"(cfg = 7", ERR_FORMAT, "')'"}, {"lora = 'ink", ERR_FORMAT, "closing quote"}, {"lora = ink", ERR_NOTFOUND, "'ink'"},
               {"step > 3", ERR_NOTFOUND, "did you mean 'steps'"}, {"cfg in 3", ERR_FORMAT, "'('"}, {"cfg in (3", ERR_FORMAT, "')'"},
               {"3x = 1", ERR_FORMAT, "operator after"}, {"cfg = 7 and", ERR_FORMAT, "expected a name"}, {"and", ERR_FORMAT, "expected a name"},
               {"cfg in (1, nope)", ERR_NOTFOUND, "nope"}, {"cfg in (1..nope)", ERR_NOTFOUND, "nope"}, {"cfg = - nope", ERR_NOTFOUND, "nope"}};
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        Expr *e;
        int rc = expr_parse(&e, bad[i].text, names, NAMES, "--where");
        if (rc != bad[i].code || !strstr(err_message(), bad[i].says) || !strstr(err_message(), "--where"))
            fail_msg("%s: %d %s", bad[i].text, rc, err_message());
    }
}

static void test_expr__depth_and_size(void **state)
{
    static char text[20000];
    Expr *e;
    (void)state;
    memset(text, '(', 10000);
    assert_int_equal(expr_parse(&e, text, names, NAMES, "t"), ERR_RANGE);
    memset(text, '-', 10000);
    assert_int_equal(expr_parse(&e, text, names, NAMES, "t"), ERR_RANGE);
    memset(text, '!', 10000);
    assert_int_equal(expr_parse(&e, text, names, NAMES, "t"), ERR_RANGE);
    memset(text, 'x', sizeof text - 1);
    assert_int_equal(expr_parse(&e, text, names, NAMES, "t"), ERR_RANGE);
    char *p = text;
    for (int i = 0; i < 1000; i++)
        p = stpcpy(p, "cfg=7 and ");
    strcpy(p, "1");
    assert_int_equal(eval(text), 1);
}

static int failing(void *ctx, int id, int k, ExprValue *out)
{
    (void)ctx, (void)id, (void)k, (void)out;
    return ERR_IO;
}

static void test_expr__get_errors_and_uses(void **state)
{
    Expr *e;
    int truth;
    (void)state;
    assert_int_equal(expr_parse(&e, "cfg = 7 or steps in (1, 2)", names, NAMES, "t"), 0);
    assert_int_equal(expr_test(e, failing, NULL, &truth), ERR_IO);
    assert_int_equal(expr_uses(e, CFG), 1);
    assert_int_equal(expr_uses(e, STEPS), 1);
    assert_int_equal(expr_uses(e, LORA), 0);
    expr_destroy(e);
    expr_destroy(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_expr__truth), cmocka_unit_test(test_expr__errors),
                                       cmocka_unit_test(test_expr__depth_and_size), cmocka_unit_test(test_expr__get_errors_and_uses)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
