#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "text/infotext.h"

static json_t *expected(const char *image)
{
    json_error_t e;
    json_t *root = json_load_file("tests/vectors/png/expected.json", 0, &e);
    assert_non_null(root);
    json_t *j = json_incref(json_object_get(root, image));
    json_decref(root);
    return j;
}

static void test_text_infotext__parses_reference(void **state)
{
    (void)state;
    json_t *j = expected("a1111_text"), *v;
    const char *key;
    Infotext t;
    int fields = 0;
    assert_int_equal(infotext_parse(&t, json_string_value(json_object_get(j, "parameters"))), 0);
    json_object_foreach(json_object_get(j, "parsed"), key, v)
    {
        if (strcmp(key, "prompt") == 0) {
            assert_string_equal(t.prompt, json_string_value(v));
        } else if (strcmp(key, "negative_prompt") == 0) {
            assert_string_equal(t.negative, json_string_value(v));
        } else {
            assert_non_null(infotext_get(&t, key));
            assert_string_equal(infotext_get(&t, key), json_string_value(v));
            fields++;
        }
    }
    assert_int_equal(t.nfield, fields);
    infotext_deinit(&t);
    json_decref(j);
}

/* What was parsed is built again to the same bytes. */
static void test_text_infotext__builds_reference(void **state)
{
    (void)state;
    const char *const images[] = {"a1111_text", "a1111_itxt"};
    for (int i = 0; i < 2; i++) {
        json_t *j = expected(images[i]);
        const char *text = json_string_value(json_object_get(j, "parameters"));
        Infotext t;
        char *again = NULL;
        assert_int_equal(infotext_parse(&t, text), 0);
        assert_int_equal(infotext_build(&again, &t), 0);
        assert_string_equal(again, text);
        free(again);
        infotext_deinit(&t);
        json_decref(j);
    }
}

static void test_text_infotext__round_trip_of_awkward_values(void **state)
{
    (void)state;
    static const char *const value[] = {"plain",      "with, comma", "a: b",         "line\nbreak", "say \"hi\"",   "\"quoted\"",
                                        "back\\slash", " padded ",    "tab\tinside", "",            "caf\xC3\xA9, \xE7\x8C\xAB", "\"",
                                        "\\\"",       "a\",b",        "Steps: 20, Sampler: x, CFG: 1"};
    enum { N = sizeof value / sizeof *value };
    Infotext a, b;
    char *text = NULL;
    infotext_init(&a);
    assert_int_equal(infotext_set_prompt(&a, "a cat,\nsitting: (on:1.2) \"it\"", "dog\nbird"), 0);
    for (int i = 0; i < N; i++)
        assert_int_equal(infotext_addf(&a, "Key", "%s", value[i]), 0);
    assert_int_equal(infotext_build(&text, &a), 0);
    assert_int_equal(infotext_parse(&b, text), 0);
    assert_string_equal(b.prompt, a.prompt);
    assert_string_equal(b.negative, a.negative);
    assert_int_equal(b.nfield, N);
    for (int i = 0; i < N; i++)
        assert_string_equal(b.field[i].value, value[i]);
    free(text);
    infotext_deinit(&a);
    infotext_deinit(&b);
}

static void test_text_infotext__few_fields_are_prompt(void **state)
{
    (void)state;
    Infotext t;
    assert_int_equal(infotext_parse(&t, "style: oil, size: big"), 0);
    assert_string_equal(t.prompt, "style: oil, size: big");
    assert_string_equal(t.negative, "");
    assert_int_equal(t.nfield, 0);
    infotext_deinit(&t);
    assert_int_equal(infotext_parse(&t, ""), 0);
    assert_string_equal(t.prompt, "");
    infotext_deinit(&t);
    assert_int_equal(infotext_parse(&t, "Negative prompt: x\ny\nSteps: 1, Seed: 2, Size: 3x4"), 0);
    assert_string_equal(t.prompt, "");
    assert_string_equal(t.negative, "x\ny");
    assert_string_equal(infotext_get(&t, "Size"), "3x4");
    assert_null(infotext_get(&t, "Sampler"));
    infotext_deinit(&t);
    assert_int_equal(infotext_parse(&t, "Steps: 1, Seed: 2, Bad\xFF: 3, Size: 3x4"), 0); /* not UTF-8: no crash */
    infotext_deinit(&t);
}

static void test_text_infotext__rejects_bad_names(void **state)
{
    (void)state;
    Infotext t;
    infotext_init(&t);
    assert_int_equal(infotext_add(&t, "", "x"), ERR_RANGE);
    assert_int_equal(infotext_add(&t, "a", "x"), ERR_RANGE);
    assert_int_equal(infotext_add(&t, "a:b", "x"), ERR_RANGE);
    assert_int_equal(infotext_add(&t, " ab", "x"), ERR_RANGE);
    assert_int_equal(t.nfield, 0);
    infotext_deinit(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_text_infotext__parses_reference),
        cmocka_unit_test(test_text_infotext__builds_reference),
        cmocka_unit_test(test_text_infotext__round_trip_of_awkward_values),
        cmocka_unit_test(test_text_infotext__few_fields_are_prompt),
        cmocka_unit_test(test_text_infotext__rejects_bad_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
