#include "train/caption.h"

#include <jansson.h>

#include "train/unit.h"

static TrainDatasetConf conf(const char *separator)
{
    return (TrainDatasetConf){.trigger = "", .prefix = "", .suffix = "", .separator = (char *)separator, .keep_separator = "|||",
                              .secondary_separator = "", .caption_dropout = -1};
}

static void is(const TrainDatasetConf *c, const char *text, const char *want)
{
    StrBuf b;
    str_init(&b);
    OK(train_caption_make(&b, c, text, 1, 2));
    assert_string_equal(b.data, want);
    str_deinit(&b);
}

static const char *make(const TrainDatasetConf *c, const char *text, int64_t position)
{
    static char out[256];
    StrBuf b;
    str_init(&b);
    OK(train_caption_make(&b, c, text, 3, position));
    snprintf(out, sizeof out, "%s", b.data);
    str_deinit(&b);
    return out;
}

static void test_train_caption__plain(void **state)
{
    (void)state;
    TrainDatasetConf c = conf(",");
    is(&c, "a cat,  sitting", "a cat,  sitting");
    is(&c, "first\nsecond", "first");
    is(&c, "{a|b} {{x}}", "{a|b} {{x}}"); /* wildcards are off */
    is(&c, "", "");
    is(&c, "a ||| b, c ||| d", "a, b, c, d");
    c.prefix = "photo of";
    c.suffix = ", best";
    is(&c, "a cat", "photo of a cat , best");
    c.trigger = "sks";
    is(&c, "a cat", "sks, photo of a cat , best");
    is(&c, "a sks cat", "photo of a sks cat , best");
    assert_false(train_caption_varies(&c, "a\n{b|c}"));
    TrainDatasetConf e = conf(",");
    e.trigger = "sks";
    is(&e, "", "sks");
    e.secondary_separator = ";";
    is(&e, "a;b, c;d", "sks, a,b, c,d");
}

static void test_train_caption__wildcards(void **state)
{
    (void)state;
    TrainDatasetConf c = conf(",");
    int count[4] = {0}, lines = 0;
    c.wildcards = 1;
    assert_true(train_caption_varies(&c, "{a|b}"));
    assert_true(train_caption_varies(&c, "a\nb"));
    assert_false(train_caption_varies(&c, "a|b"));
    is(&c, "{{a|b}} {x}", "{a|b} x");
    is(&c, "{} {a", "{} {a");
    is(&c, "{a|b}}", "{a|b}"); /* }} is read first, as kohya does */
    for (int i = 0; i < 3000; i++) {
        const char *s = make(&c, "{red|green||blue} car", i);
        count[0] += !strcmp(s, "red car");
        count[1] += !strcmp(s, "green car");
        count[2] += !strcmp(s, " car");
        count[3] += !strcmp(s, "blue car");
        lines += !strcmp(make(&c, "one\ntwo\nthree", i), "two");
    }
    assert_int_equal(count[0] + count[1] + count[2] + count[3], 3000);
    for (int k = 0; k < 4; k++)
        assert_in_range(count[k], 650, 850);
    assert_in_range(lines, 900, 1100);
}

/* Which of a..d are where: every one of the flexible tags at every place alike often, the kept ones always at theirs. */
static void test_train_caption__shuffle(void **state)
{
    (void)state;
    TrainDatasetConf c = conf(",");
    int at[3][3] = {{0}};
    c.shuffle = 1;
    c.keep_tokens = 1;
    for (int i = 0; i < 6000; i++) {
        const char *s = make(&c, "z,a , b,c", i);
        assert_int_equal(strlen(s), 10);
        assert_true(s[0] == 'z' && s[1] == ',' && s[2] == ' ');
        for (int k = 0; k < 3; k++)
            at[k][s[3 + 3 * k] - 'a']++;
    }
    for (int k = 0; k < 9; k++)
        assert_in_range(at[k / 3][k % 3], 1850, 2150);
    c.keep_tokens = 0;
    for (int i = 0; i < 20; i++) {
        const char *s = make(&c, "x, y ||| a, b, c ||| q", i);
        assert_true(str_starts_with(s, "x, y, ") && str_ends_with(s, ", q"));
        assert_int_equal(strlen(s), 16);
    }
    c.keep_tokens = 9;
    is(&c, "a, b", "a, b");
    char first[256];
    c.keep_tokens = 0;
    snprintf(first, sizeof first, "%s", make(&c, "a, b, c, d, e, f, g", 77));
    make(&c, "other, words", 5);
    assert_string_equal(first, make(&c, "a, b, c, d, e, f, g", 77));
}

static void test_train_caption__tag_dropout(void **state)
{
    (void)state;
    TrainDatasetConf c = conf(",");
    int kept[4] = {0};
    c.tag_dropout = 0.25f;
    c.keep_tokens = 1;
    c.trigger = "sks";
    for (int i = 0; i < 4000; i++) {
        const char *s = make(&c, "z,a,b,c", i);
        assert_true(str_starts_with(s, "sks, z"));
        for (int k = 0; k < 3; k++)
            kept[k] += strchr(s + 6, 'a' + k) != NULL;
    }
    for (int k = 0; k < 3; k++)
        assert_in_range(kept[k], 2880, 3120);
    c.tag_dropout = 1;
    is(&c, "z,a,b,c", "sks, z");
}

enum { WORDS = 5, OUTCOMES = 32, DRAWS = 4000 };

/* JSON strings of a line, separated by spaces. */
static int words(const char *line, char out[][256])
{
    int n = 0;
    for (json_error_t e; *line; n++) {
        json_t *j = json_loads(line, JSON_DECODE_ANY | JSON_DISABLE_EOF_CHECK, &e);
        assert_non_null(j);
        snprintf(out[n], sizeof out[n], "%s", json_string_value(j));
        json_decref(j);
        line += e.position;
        line += strspn(line, " \n");
    }
    return n;
}

/* What 4,000 positions make of text is what kohya's function makes of it, nothing more and nothing less. */
static void check_outcomes(const TrainDatasetConf *c, const char *text, char want[][256], int n)
{
    int seen[OUTCOMES] = {0};
    for (int i = 0; i < DRAWS; i++) {
        const char *got = make(c, text, i);
        int k = 0;
        while (k < n && strcmp(got, want[k]))
            k++;
        if (k == n)
            fail_msg("'%s' became '%s', which kohya's trainer never makes of it", text, got);
        seen[k] = 1;
    }
    for (int k = 0; k < n; k++)
        if (!seen[k])
            fail_msg("'%s' never became '%s'", text, want[k]);
}

static void test_train_caption__as_kohya(void **state)
{
    (void)state;
    static char w[WORDS][256], text[WORDS][256], want[OUTCOMES][256];
    char line[4096];
    TrainDatasetConf c = conf(",");
    int n = 0, texts = 0;
    FILE *f = fopen("tests/vectors/captions/kohya.txt", "r");
    assert_non_null(f);
    for (int more = 1; more;) {
        more = fgets(line, sizeof line, f) != NULL;
        if (more && str_starts_with(line, "is ")) {
            assert_in_range(n, 0, OUTCOMES - 1);
            words(line + 3, &want[n++]);
            continue;
        }
        if (n)
            check_outcomes(&c, text[0], want, n);
        n = 0;
        if (more && str_starts_with(line, "text ")) {
            words(line + 5, text);
            texts++;
        } else if (more) {
            int at = 0;
            assert_int_equal(sscanf(line, "conf %d %d %d %f %n", &c.shuffle, &c.keep_tokens, &c.wildcards, &c.tag_dropout, &at), 4);
            assert_int_equal(words(line + at, w), 4);
            c.keep_separator = w[0];
            c.secondary_separator = w[1];
            c.prefix = w[2];
            c.suffix = w[3];
        }
    }
    fclose(f);
    assert_in_range(texts, 35, 1000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_train_caption__plain),
        cmocka_unit_test(test_train_caption__wildcards),
        cmocka_unit_test(test_train_caption__shuffle),
        cmocka_unit_test(test_train_caption__tag_dropout),
        cmocka_unit_test(test_train_caption__as_kohya),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
