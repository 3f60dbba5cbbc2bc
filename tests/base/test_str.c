#include "base/str.h"

#include <float.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/arena.h"
#include "base/error.h"

static void test_base_str__grows(void **state)
{
    (void)state;
    StrBuf b;
    char *taken;
    str_init(&b);
    assert_string_equal(b.data, "");
    str_add(&b, "");
    for (int i = 0; i < 1000; i++)
        str_add_format(&b, "%d,", i);
    str_add_bytes(&b, "a\0b", 3);
    assert_int_equal(b.len, 3890 + 3);
    assert_memory_equal(b.data, "0,1,2,", 6);
    assert_memory_equal(b.data + b.len - 3, "a\0b", 4);
    str_clear(&b);
    assert_string_equal(b.data, "");
    str_add(&b, "x");
    assert_int_equal(str_take(&taken, &b), 0);
    assert_string_equal(taken, "x");
    free(taken);
    assert_int_equal(str_take(&taken, &b), 0);
    assert_string_equal(taken, "");
    free(taken);
    str_deinit(&b);
}

static void test_base_str__failure_is_remembered(void **state)
{
    (void)state;
    StrBuf b;
    char *taken = (char *)1;
    str_init(&b);
    str_add(&b, "x");
    b.failed = 1;
    str_add(&b, "y");
    assert_string_equal(b.data, "x");
    assert_int_equal(str_status(&b), ERR_NOMEM);
    assert_int_equal(str_take(&taken, &b), ERR_NOMEM);
    assert_null(taken);
    str_deinit(&b);
}

static void test_base_str__json(void **state)
{
    (void)state;
    StrBuf b;
    str_init(&b);
    str_add_json(&b, "a\"\\/\b\f\n\r\t\x01\x1f\x7f\xc3\xa9", 14);
    assert_string_equal(b.data, "\"a\\\"\\\\/\\b\\f\\n\\r\\t\\u0001\\u001f\x7f\xc3\xa9\"");
    str_deinit(&b);
}

static void test_base_str__numbers_read_back(void **state)
{
    (void)state;
    static const double x[] = {0,       -0.0,    1,           -10,        0.1,     1e-8, 1e15,    123456789.125, 1.0 / 3,
                               DBL_MAX, DBL_MIN, 4.9406e-324, 1000000007, 1e100,   -2.5e-7, 65504,   0.00018215};
    for (size_t i = 0; i < sizeof x / sizeof *x; i++) {
        StrBuf b;
        str_init(&b);
        str_add_number(&b, x[i], 0);
        double y = strtod(b.data, NULL);
        assert_memory_equal(&x[i], &y, sizeof y);
        str_clear(&b);
        if (x[i] < FLT_MAX) {
            float f = (float)x[i], g;
            str_add_number(&b, (double)f, 1);
            g = strtof(b.data, NULL);
            assert_memory_equal(&f, &g, sizeof g);
            assert_true(b.len < 18);
        }
        str_deinit(&b);
    }
    StrBuf b;
    str_init(&b);
    str_add_number(&b, (double)0.1f, 1);
    str_add_char(&b, ' ');
    str_add_number(&b, 1000000, 0);
    str_add_char(&b, ' ');
    str_add_number(&b, 1e-4, 0);
    assert_string_equal(b.data, "0.1 1000000 0.0001");
    str_deinit(&b);
}

static void test_base_str__utf8(void **state)
{
    (void)state;
    static const char *const good[] = {"", "a", "\xc2\x80", "\xdf\xbf", "\xe0\xa0\x80", "\xed\x9f\xbf", "\xef\xbf\xbf", "\xf0\x90\x80\x80", "\xf4\x8f\xbf\xbf"};
    static const char *const bad[] = {"\x80",         "\xc1\xbf",     "\xc2",         "\xc2g",             "\xe0\x9f\xbf", "\xed\xa0\x80",
                                      "\xf0\x8f\xbf\xbf", "\xf4\x90\x80\x80", "\xf5\x80\x80\x80", "\xff", "\xe2\x82",     "a\xf0\x90\x80"};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        assert_true(str_is_utf8(good[i], strlen(good[i])));
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_false(str_is_utf8(bad[i], strlen(bad[i])));
}

static void test_base_str__nearest(void **state)
{
    (void)state;
    static const char *const names[] = {"lr", "rank", "steps", "learning_rate", "batch_size", "targets"};
    static const char *const cases[][2] = {{"rnak", "rank"},        {"step", "steps"},     {"lerning_rate", "learning_rate"},
                                           {"batchsize", "batch_size"}, {"learning", "learning_rate"}, {"Targets", "targets"},
                                           {"l", "lr"},             {"zzz", NULL},         {"optimizer", NULL}, {"", NULL}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *got = str_nearest(cases[i][0], names, 6);
        if (cases[i][1] ? !got || strcmp(got, cases[i][1]) : got != NULL)
            fail_msg("%s: %s", cases[i][0], got ? got : "none");
    }
}

static void test_base_str__affixes(void **state)
{
    (void)state;
    char *s;
    assert_true(str_starts_with("abc", "ab") && str_starts_with("abc", "") && !str_starts_with("a", "ab"));
    assert_true(str_ends_with("abc", "bc") && str_ends_with("abc", "") && !str_ends_with("c", "bc"));
    assert_int_equal(str_format(&s, "%s-%d", "x", 5), 0);
    assert_string_equal(s, "x-5");
    free(s);
}

static void test_base_arena__many_sizes(void **state)
{
    (void)state;
    enum { N = 300 };
    Arena a;
    unsigned char *p[N];
    arena_init(&a, 1000);
    for (int i = 0; i < N; i++) {
        p[i] = arena_alloc(&a, (size_t)i * 7);
        assert_non_null(p[i]);
        assert_int_equal((uintptr_t)p[i] % 16, 0);
        for (int k = 0; k < i * 7; k++)
            assert_int_equal(p[i][k], 0);
        memset(p[i], i, (size_t)i * 7);
    }
    for (int i = 0; i < N; i++)
        for (int k = 0; k < i * 7; k++)
            assert_int_equal(p[i][k], i & 255);
    assert_string_equal(arena_text(&a, "hello", 3), "hel");
    assert_null(arena_array(&a, SIZE_MAX / 4, 8));
    assert_null(arena_alloc(&a, SIZE_MAX - 3));
    assert_string_equal(err_message(), "out of memory");
    arena_deinit(&a);
    arena_deinit(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_base_str__grows),   cmocka_unit_test(test_base_str__failure_is_remembered),
        cmocka_unit_test(test_base_str__json),    cmocka_unit_test(test_base_str__numbers_read_back),
        cmocka_unit_test(test_base_str__utf8),    cmocka_unit_test(test_base_str__nearest),
        cmocka_unit_test(test_base_str__affixes), cmocka_unit_test(test_base_arena__many_sizes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
