#include "train/csv.h"

#include "train/unit.h"

typedef struct {
    char *text;
    TrainCsv c;
} Csv;

static void open(Csv *t, const char *text)
{
    t->text = strdup(text);
    train_csv_init(&t->c, t->text, "a.csv");
}

static void close_csv(Csv *t)
{
    train_csv_deinit(&t->c);
    free(t->text);
}

static void record(Csv *t, int line, int count, const char *const *field)
{
    assert_int_equal(train_csv_next(&t->c), 1);
    assert_int_equal(t->c.count, count);
    assert_int_equal(t->c.line, line);
    for (int i = 0; i < count; i++)
        assert_string_equal(t->c.field[i], field[i]);
}
#define RECORD(t, line, ...)                                                                \
    record(t, line, (int)(sizeof((const char *[]){__VA_ARGS__}) / sizeof(char *)), (const char *[]){__VA_ARGS__})

static void test_train_csv__plain(void **state)
{
    (void)state;
    Csv t;
    open(&t, "file_name,text\na.png,one\nb.png,two words\n");
    RECORD(&t, 1, "file_name", "text");
    RECORD(&t, 2, "a.png", "one");
    RECORD(&t, 3, "b.png", "two words");
    assert_int_equal(train_csv_next(&t.c), 0);
    assert_int_equal(train_csv_next(&t.c), 0);
    close_csv(&t);
}

static void test_train_csv__quotes(void **state)
{
    (void)state;
    Csv t;
    open(&t, "\"a,b\",\"say \"\"hi\"\"\",\"\"\n\"two\nlines\",x\ny,\"\"\"\"\n");
    RECORD(&t, 1, "a,b", "say \"hi\"", "");
    RECORD(&t, 2, "two\nlines", "x");
    RECORD(&t, 4, "y", "\"");
    assert_int_equal(train_csv_next(&t.c), 0);
    close_csv(&t);
}

static void test_train_csv__line_ends(void **state)
{
    (void)state;
    Csv t;
    open(&t, "\xef\xbb\xbf"
             "a,b\r\n\r\n\nc,\"d\"\r\ne,f");
    RECORD(&t, 1, "a", "b");
    RECORD(&t, 4, "c", "d");
    RECORD(&t, 5, "e", "f");
    assert_int_equal(train_csv_next(&t.c), 0);
    close_csv(&t);
}

static void test_train_csv__empty_fields(void **state)
{
    (void)state;
    Csv t;
    open(&t, ",\n,,a\nb,");
    RECORD(&t, 1, "", "");
    RECORD(&t, 2, "", "", "a");
    RECORD(&t, 3, "b", "");
    assert_int_equal(train_csv_next(&t.c), 0);
    close_csv(&t);
    open(&t, "");
    assert_int_equal(train_csv_next(&t.c), 0);
    close_csv(&t);
}

static void test_train_csv__many_fields(void **state)
{
    (void)state;
    char text[4000] = "0";
    Csv t;
    for (int i = 1; i < 500; i++)
        sprintf(text + strlen(text), ",%d", i);
    open(&t, text);
    assert_int_equal(train_csv_next(&t.c), 1);
    assert_int_equal(t.c.count, 500);
    assert_string_equal(t.c.field[499], "499");
    close_csv(&t);
}

static void test_train_csv__bad_quotes(void **state)
{
    (void)state;
    Csv t;
    open(&t, "a,b\nc,\"d\ne,f\n");
    RECORD(&t, 1, "a", "b");
    FAILS(train_csv_next(&t.c), ERR_FORMAT, "a.csv:2: a quoted field does not end");
    close_csv(&t);
    open(&t, "a,\"b\"c\n");
    FAILS(train_csv_next(&t.c), ERR_FORMAT, "a.csv:1: text after a closing quote");
    close_csv(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_train_csv__plain),        cmocka_unit_test(test_train_csv__quotes),
        cmocka_unit_test(test_train_csv__line_ends),    cmocka_unit_test(test_train_csv__empty_fields),
        cmocka_unit_test(test_train_csv__many_fields),  cmocka_unit_test(test_train_csv__bad_quotes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
