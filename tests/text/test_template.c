#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#include "text/template.h"

#define DIR "tests/vectors/templates/wildcards"

static Wildcards *files;

static Template *make(const char *text, TemplateMode mode)
{
    Template *t;
    if (template_create(&t, text, files, mode) < 0)
        fail_msg("%s: %s", text, err_message());
    return t;
}

static char *expand(const Template *t, uint64_t seed, uint64_t item)
{
    StrBuf b;
    char *text;
    str_init(&b);
    assert_int_equal(template_expand(t, seed, item, &b), 0);
    assert_int_equal(str_take(&text, &b), 0);
    return text;
}

static void expect(const Template *t, uint64_t seed, uint64_t item, const char *want, const char *name)
{
    char *got = expand(t, seed, item);
    if (strcmp(got, want) != 0)
        fail_msg("'%s', expansion %d: got '%s', expected '%s'", name, (int)item, got, want);
    free(got);
}

/* Vectors: dynamicprompts itself (tests/peers/make_templates.py). */
static void test_template__combinatorial_as_dynamicprompts(void **state)
{
    (void)state;
    json_error_t e;
    json_t *all = json_load_file("tests/vectors/templates/expansions.json", 0, &e);
    assert_non_null(all);
    assert_true(json_array_size(all) > 60);
    for (size_t i = 0; i < json_array_size(all); i++) {
        json_t *o = json_array_get(all, i), *list = json_object_get(o, "expansions");
        const char *name = json_string_value(json_object_get(o, "template"));
        Template *t = make(name, TEMPLATE_COMBINATORIAL);
        int finite = json_array_size(list) < 400;
        if (finite && template_count(t) != (int64_t)json_array_size(list))
            fail_msg("'%s': %d expansions, expected %d", name, (int)template_count(t), (int)json_array_size(list));
        for (size_t k = 0; k < json_array_size(list); k++)
            expect(t, 0, k, json_string_value(json_array_get(list, k)), name);
        template_destroy(t);
    }
    json_decref(all);
}

static void test_template__immediate_variables_are_a_choice(void **state)
{
    (void)state;
    Template *t = make("${s=!{summer|autumn}}In ${s}, I wear ${s} {shirts|hats}", TEMPLATE_COMBINATORIAL);
    assert_int_equal(template_count(t), 4);
    expect(t, 0, 1, "In summer, I wear summer hats", "immediate");
    expect(t, 0, 2, "In autumn, I wear autumn shirts", "immediate");
    template_destroy(t);
}

static void test_template__random_is_a_function_of_seed_and_item(void **state)
{
    (void)state;
    Template *t = make("{a|b|c|d} {2$$__flavours__} __season__ ${x=!{1|2|3}}${x}${x}", TEMPLATE_RANDOM);
    assert_int_equal(template_count(t), 0);
    int differ = 0, seeds = 0;
    for (uint64_t i = 0; i < 50; i++) {
        char *one = expand(t, 7, i), *two = expand(t, 7, i), *other = expand(t, 8, i), *next = expand(t, 7, i + 1);
        assert_string_equal(one, two);
        differ += strcmp(one, next) != 0;
        seeds += strcmp(one, other) != 0;
        size_t n = strlen(one);
        assert_int_equal(one[n - 1], one[n - 2]); /* set once, used twice */
        free(one), free(two), free(other), free(next);
    }
    assert_true(differ > 40 && seeds > 40);
    template_destroy(t);
}

static void test_template__random_frequencies(void **state)
{
    (void)state;
    Template *t = make("{3::a|1::b|0::c}", TEMPLATE_RANDOM);
    int n[3] = {0};
    for (uint64_t i = 0; i < 4000; i++) {
        char *s = expand(t, 1, i);
        n[s[0] - 'a']++;
        free(s);
    }
    assert_true(n[0] > 2880 && n[0] < 3120 && n[2] == 0);
    template_destroy(t);
    t = make("{2$$-$$a|b|c}", TEMPLATE_RANDOM);
    int pair[9] = {0};
    for (uint64_t i = 0; i < 3000; i++) {
        char *s = expand(t, 1, i);
        assert_int_equal(strlen(s), 3);
        assert_int_not_equal(s[0], s[2]);
        pair[3 * (s[0] - 'a') + s[2] - 'a']++;
        free(s);
    }
    for (int i = 0; i < 9; i++)
        assert_true(i % 4 == 0 || (pair[i] > 420 && pair[i] < 580));
    template_destroy(t);
    t = make("__artists/weighted__", TEMPLATE_RANDOM); /* blue 3, green 1, red 2 */
    int blue = 0;
    for (uint64_t i = 0; i < 3000; i++) {
        char *s = expand(t, 1, i);
        blue += s[0] == 'b';
        free(s);
    }
    assert_true(blue > 1400 && blue < 1600);
    template_destroy(t);
    t = make("{1-3$$a|b|c|d}", TEMPLATE_RANDOM);
    int lengths[8] = {0};
    for (uint64_t i = 0; i < 3000; i++) {
        char *s = expand(t, 1, i);
        lengths[strlen(s)]++;
        free(s);
    }
    assert_true(lengths[1] > 900 && lengths[3] > 900 && lengths[5] > 900);
    template_destroy(t);
}

static void test_template__samplers(void **state)
{
    (void)state;
    Template *t = make("A {red|green|blue} {square|circle}", TEMPLATE_CYCLICAL); /* docs/SYNTAX.md */
    expect(t, 0, 0, "A red square", "cyclical");
    expect(t, 0, 1, "A green circle", "cyclical");
    expect(t, 0, 2, "A blue square", "cyclical");
    expect(t, 0, 3, "A red circle", "cyclical");
    template_destroy(t);
    t = make("{@embedding1|embedding2} and {@embedding3|embedding4} {x|y}", TEMPLATE_RANDOM);
    for (uint64_t i = 0; i < 8; i++) {
        char *s = expand(t, 3, i);
        assert_true(str_starts_with(s, i % 2 ? "embedding2 and embedding4" : "embedding1 and embedding3"));
        free(s);
    }
    template_destroy(t);
    t = make("{red|green|blue} {~square|circle}", TEMPLATE_COMBINATORIAL);
    assert_int_equal(template_count(t), 3);
    int circles = 0;
    for (uint64_t i = 0; i < 60; i++) {
        char *s = expand(t, 3, i);
        assert_true(str_starts_with(s, i % 3 == 0 ? "red" : i % 3 == 1 ? "green" : "blue"));
        circles += strstr(s, "circle") != NULL;
        free(s);
    }
    assert_true(circles > 15 && circles < 45);
    template_destroy(t);
    t = make("{red|green} __~season__ __@flavours__", TEMPLATE_COMBINATORIAL);
    assert_int_equal(template_count(t), 2);
    template_destroy(t);
    t = make("{@{a|b}|c}", TEMPLATE_RANDOM); /* what is inside takes turns as well */
    expect(t, 0, 0, "a", "inner"), expect(t, 0, 1, "c", "inner"), expect(t, 0, 2, "b", "inner"), expect(t, 0, 4, "a", "inner");
    template_destroy(t);
    t = make("{~{!a|b}}", TEMPLATE_COMBINATORIAL);
    assert_int_equal(template_count(t), 1);
    template_destroy(t);
}

/* Far beyond what could be listed: still any expansion by its number. */
static void test_template__many(void **state)
{
    (void)state;
    Template *t = make("{0|1|2|3|4|5|6|7|8|9}{0|1|2|3|4|5|6|7|8|9}{0|1|2|3|4|5|6|7|8|9}{0|1|2|3|4|5|6|7|8|9}{0|1|2|3|4|5|6|7|8|9}"
                       "{0|1|2|3|4|5|6|7|8|9}{0|1|2|3|4|5|6|7|8|9}", TEMPLATE_COMBINATORIAL);
    assert_int_equal(template_count(t), 10000000);
    expect(t, 0, 1234567, "1234567", "many");
    expect(t, 0, 10000001, "0000001", "many");
    template_destroy(t);
    t = make("{5$$-$$a|b|c|d|e|f|g|h|i|j|k|l|m|n|o|p|q|r|s|t|u|v|w|x|y|z}", TEMPLATE_COMBINATORIAL);
    assert_int_equal(template_count(t), 26 * 25 * 24 * 23 * 22);
    expect(t, 0, 26 * 25 * 24 * 23 * 22 - 1, "z-y-x-w-v", "many");
    template_destroy(t);
    char text[4000] = "";
    for (int i = 0; i < 70; i++)
        strcat(text, "{a|b|c}");
    t = make(text, TEMPLATE_COMBINATORIAL);
    assert_true(template_count(t) == INT64_MAX);
    char *s = expand(t, 0, 4);
    assert_int_equal(strlen(s), 70);
    assert_string_equal(s + 66, "aabb");
    free(s);
    template_destroy(t);
}

static void test_template__errors(void **state)
{
    static const struct {
        const char *text;
        int code;
        const char *says;
    } bad[] = {{"{a|b", ERR_FORMAT, "'}' of this '{'"}, {"x\n  {a|{b|c}", ERR_FORMAT, "line 2, character 3"}, {"__nope__", ERR_NOTFOUND, "nope"},
               {"__sesaon__", ERR_NOTFOUND, "did you mean __season__"}, {"__season", ERR_FORMAT, "closing '__'"}, {"____", ERR_FORMAT, "name"},
               {"${x}", ERR_NOTFOUND, "variable 'x' is not set"}, {"${=a}", ERR_FORMAT, "name of a variable"}, {"${x=a", ERR_FORMAT, "'}'"},
               {"${x=${x}}${x}", ERR_RANGE, "refers to itself"}, {"{0::a|0::b}", ERR_FORMAT, "weight over 0"}, {"{a$$b|c}", ERR_FORMAT, "number"},
               {"%{a}", ERR_FORMAT, "'$$'"}, {"__season_clothes__", ERR_NOTFOUND, "season"}, {"__../x__", ERR_FORMAT, "outside"},
               {"__season(x)__", ERR_FORMAT, "name=value"}, {"__season(x=1__", ERR_FORMAT, "')'"}, {"{1e::a}", 0, ""},
               {"${t=!{warm|cold}}__colours-${t}__", ERR_UNSUPPORTED, "without '!'"}};
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        Template *t = NULL;
        int rc = template_create(&t, bad[i].text, files, TEMPLATE_COMBINATORIAL);
        if (rc != bad[i].code || (rc < 0 && !strstr(err_message(), bad[i].says)))
            fail_msg("%s: %d %s", bad[i].text, rc, rc < 0 ? err_message() : "");
        template_destroy(t);
    }
    char deep[600];
    memset(deep, '{', sizeof deep - 1);
    deep[sizeof deep - 1] = 0;
    Template *t;
    assert_int_equal(template_create(&t, deep, files, TEMPLATE_RANDOM), ERR_RANGE);
    Wildcards *w;
    assert_int_equal(wildcards_open(&w, "tests/no-such-folder"), ERR_NOTFOUND);
    assert_int_equal(wildcards_open(&w, ""), 0);
    assert_int_equal(template_create(&t, "__season__", w, TEMPLATE_RANDOM), ERR_NOTFOUND);
    assert_non_null(strstr(err_message(), "no folder"));
    wildcards_close(w);
}

static void test_template__hash_of_used_values(void **state)
{
    (void)state;
    char one[65], two[65], other[65];
    const char *const text[] = {"__season__", "__season__ {a|b}", "__flavours__"};
    for (int i = 0; i < 3; i++) {
        Wildcards *w;
        Template *t;
        assert_int_equal(wildcards_open(&w, DIR), 0);
        assert_int_equal(template_create(&t, text[i], w, TEMPLATE_RANDOM), 0);
        assert_int_equal(wildcards_hash(w, i == 0 ? one : i == 1 ? two : other), 0);
        template_destroy(t);
        wildcards_close(w);
    }
    assert_string_equal(one, two);
    assert_string_not_equal(one, other);
}

static int setup(void **state)
{
    (void)state;
    return wildcards_open(&files, DIR);
}

static int teardown(void **state)
{
    (void)state;
    wildcards_close(files);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_template__combinatorial_as_dynamicprompts), cmocka_unit_test(test_template__immediate_variables_are_a_choice),
        cmocka_unit_test(test_template__random_is_a_function_of_seed_and_item), cmocka_unit_test(test_template__random_frequencies),
        cmocka_unit_test(test_template__samplers), cmocka_unit_test(test_template__many), cmocka_unit_test(test_template__errors),
        cmocka_unit_test(test_template__hash_of_used_values)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
