#include "base/config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/error.h"

typedef struct {
    int32_t rank;
    float alpha;
    ConfStrs targets;
} Lora;
typedef struct {
    char *path;
    double scale;
} Ref;
typedef struct {
    char *model;
    float lr;
    double weight_decay;
    int32_t steps;
    int64_t big;
    uint64_t seed;
    int flip;
    int64_t memory;
    int sampler;
    Lora lora;
    ConfList loras;
    ConfStrs prompts;
    ConfNums betas;
    ConfInts sizes;
    ConfNode *axes;
    char *note;
} Conf;

static const char *const samplers[] = {"ddim", "euler", "dpmpp_2m", NULL};
static const ConfField lora_fields[] = {
    CONF_I32(Lora, rank, "16", 1, 1024, "rank"),
    CONF_F32(Lora, alpha, "16", 0, 4096, "alpha"),
    CONF_STRS(Lora, targets, "[attn, ff]", 1, 8, "layers"),
};
static const ConfTable lora_table = CONF_TABLE(Lora, lora_fields);
static const ConfField ref_fields[] = {
    CONF_STR(Ref, path, NULL, "file"),
    CONF_F64(Ref, scale, "1", -10, 10, "strength"),
};
static const ConfTable ref_table = CONF_TABLE(Ref, ref_fields);
static const ConfField fields[] = {
    CONF_STR(Conf, model, NULL, "folder of the model"),
    CONF_F32(Conf, lr, "1e-4", 1e-8, 1, "learning rate"),
    CONF_F64(Conf, weight_decay, "0.01", 0, 1, "weight decay"),
    CONF_I32(Conf, steps, "1000", 1, 1e9, "steps"),
    CONF_I64(Conf, big, "5", INT64_MIN, INT64_MAX, "big"),
    CONF_U64(Conf, seed, "42", "seed"),
    CONF_BOOL(Conf, flip, "true", "mirror"),
    CONF_SIZE(Conf, memory, "8GiB", 0, 1e15, "memory"),
    CONF_ENUM(Conf, sampler, "euler", samplers, "sampler"),
    CONF_STRUCT(Conf, lora, &lora_table, "adapter"),
    CONF_STRUCTS(Conf, loras, &ref_table, 0, 3, "adapters"),
    CONF_STRS(Conf, prompts, "", 0, 100, "prompts"),
    CONF_NUMS(Conf, betas, "[0.9, 0.999]", 0, 1, "betas"),
    CONF_INTS(Conf, sizes, "", 8, 4096, "sizes"),
    CONF_NODE(Conf, axes, "", "grid"),
    CONF_STR(Conf, note, "a note", "free text"),
};
static const ConfTable table = CONF_TABLE(Conf, fields);

static int load(Conf *c, const char *text)
{
    return config_load_text(&table, c, text, strlen(text), "t.yaml");
}

static void has(const char *part)
{
    if (!strstr(err_message(), part))
        fail_msg("message '%s' lacks '%s'", err_message(), part);
}

static void test_base_config__defaults(void **state)
{
    (void)state;
    Conf c;
    assert_int_equal(config_init(&table, &c), 0);
    assert_string_equal(c.model, "");
    assert_true(c.lr == 1e-4f);
    assert_int_equal(c.steps, 1000);
    assert_int_equal(c.flip, 1);
    assert_true(c.memory == (int64_t)8 << 30);
    assert_int_equal(c.sampler, 1);
    assert_int_equal(c.lora.targets.count, 2);
    assert_string_equal(c.lora.targets.items[1], "ff");
    assert_int_equal(c.betas.count, 2);
    assert_true(c.betas.items[1] == 0.999);
    assert_null(c.axes);
    assert_int_equal(config_check(&table, &c, "t.yaml"), ERR_NOTFOUND);
    has("t.yaml: key 'model' is missing");
    config_deinit(&table, &c);
    config_deinit(&table, &c);
}

static const char FULL[] = "model: models/base\n"
                           "lr: 2e-5\n"
                           "weight_decay: 0.1\n"
                           "big: -9223372036854775808\n"
                           "seed: 18446744073709551615\n"
                           "flip: no\n"
                           "memory: 1.5GiB\n"
                           "sampler: dpmpp_2m\n"
                           "lora:\n"
                           "  rank: 8\n"
                           "  targets: [attn]\n"
                           "loras:\n"
                           "  - path: a.safetensors\n"
                           "    scale: 0.5\n"
                           "  - {path: 'b: c', scale: -1}\n"
                           "prompts:\n"
                           "  - a cat, sitting\n"
                           "  - \"line\\none \\u2028 \\x7f \\\"q\\\" \\\\ \\xe9\"\n"
                           "betas: []\n"
                           "sizes: [64, 512]\n"
                           "axes:\n"
                           "  prompt: [a, 'true', \"x, y\"]\n"
                           "  seed: {range: [1, 8]}\n"
                           "note: ~\n";

static void check_full(const Conf *c)
{
    assert_string_equal(c->model, "models/base");
    assert_true(c->lr == 2e-5f);
    assert_true(c->big == INT64_MIN);
    assert_true(c->seed == UINT64_MAX);
    assert_int_equal(c->flip, 0);
    assert_true(c->memory == (int64_t)3 << 29);
    assert_int_equal(c->sampler, 2);
    assert_int_equal(c->lora.rank, 8);
    assert_true(c->lora.alpha == 16.0f);
    assert_int_equal(c->lora.targets.count, 1);
    assert_int_equal(c->loras.count, 2);
    const Ref *r = c->loras.items;
    assert_string_equal(r[1].path, "b: c");
    assert_true(r[1].scale == -1.0);
    assert_int_equal(c->prompts.count, 2);
    assert_string_equal(c->prompts.items[0], "a cat, sitting");
    assert_string_equal(c->prompts.items[1], "line\none \xe2\x80\xa8 \x7f \"q\" \\ \xc3\xa9");
    assert_int_equal(c->betas.count, 0);
    assert_int_equal(c->sizes.items[1], 512);
    assert_string_equal(c->note, "");
    const ConfNode *prompt = conf_node_find(c->axes, "prompt");
    assert_non_null(prompt);
    assert_int_equal(prompt->count, 3);
    assert_int_equal(prompt->items[1]->plain, 0);
    assert_string_equal(prompt->items[2]->text, "x, y");
    int64_t hi;
    const ConfNode *range = conf_node_find(conf_node_find(c->axes, "seed"), "range");
    assert_int_equal(conf_node_i64(range->items[1], "axes.seed", &hi), 0);
    assert_int_equal(hi, 8);
}

static void test_base_config__loads_all_types(void **state)
{
    (void)state;
    Conf c;
    assert_int_equal(config_init(&table, &c), 0);
    if (load(&c, FULL) < 0)
        fail_msg("%s", err_message());
    check_full(&c);
    assert_int_equal(conf_node_find(c.axes, "seed")->line, 23);
    int64_t v;
    assert_int_equal(conf_node_i64(conf_node_find(c.axes, "prompt")->items[0], "axes.prompt", &v), ERR_FORMAT);
    has("t.yaml:22: key 'axes.prompt': expected an integer, got 'a'");
    assert_int_equal(config_check(&table, &c, NULL), 0);
    config_deinit(&table, &c);
}

static void test_base_config__dump_round_trips(void **state)
{
    (void)state;
    Conf c, d, e;
    StrBuf a, b, j;
    str_init(&a);
    str_init(&b);
    str_init(&j);
    assert_int_equal(config_init(&table, &c), 0);
    assert_int_equal(load(&c, FULL), 0);
    assert_int_equal(config_dump(&table, &c, &a), 0);
    assert_int_equal(config_init(&table, &d), 0);
    if (config_load_text(&table, &d, a.data, a.len, "dump") < 0)
        fail_msg("%s\n%s", err_message(), a.data);
    check_full(&d);
    assert_int_equal(config_copy(&table, &e, &d), 0);
    config_deinit(&table, &d);
    check_full(&e);
    assert_int_equal(config_dump(&table, &e, &b), 0);
    assert_string_equal(a.data, b.data);
    /* JSON is YAML's flow form, so the same reader takes it. */
    assert_int_equal(config_dump_json(&table, &c, &j), 0);
    assert_non_null(strstr(j.data, "\"lora\": {\"rank\": 8, "));
    assert_non_null(strstr(j.data, "[\"a\", \"true\", \"x, y\"]"));
    config_deinit(&table, &e);
    config_deinit(&table, &c);
    str_deinit(&a);
    str_deinit(&b);
    str_deinit(&j);
}

static void test_base_config__overrides(void **state)
{
    (void)state;
    static const char *const set[] = {
        "model=some where: odd", "lr=3e-4",      "lora.rank=4",           "lora={alpha: 2}",        "loras=[{path: x}, {path: y}]",
        "loras.1.scale=0.25",    "prompts=one=two, three", "sizes=[8, 16]", "axes.seed=[1, 2]", "axes.guidance.range=[1, 8]",
        "axes.seed=[3]",         "note=null",    "betas=0.5",
    };
    Conf c;
    assert_int_equal(config_init(&table, &c), 0);
    for (size_t i = 0; i < sizeof set / sizeof *set; i++)
        if (config_override(&table, &c, set[i]) < 0)
            fail_msg("%s: %s", set[i], err_message());
    assert_string_equal(c.model, "some where: odd");
    assert_int_equal(c.lora.rank, 4);
    assert_true(c.lora.alpha == 2.0f);
    const Ref *r = c.loras.items;
    assert_true(r[1].scale == 0.25);
    assert_int_equal(c.prompts.count, 1);
    assert_string_equal(c.prompts.items[0], "one=two, three");
    assert_int_equal(c.sizes.count, 2);
    assert_string_equal(c.note, "null");
    assert_int_equal(c.betas.count, 1);
    assert_int_equal(conf_node_find(c.axes, "seed")->count, 1);
    assert_int_equal(conf_node_find(conf_node_find(c.axes, "guidance"), "range")->count, 2);
    StrBuf b;
    str_init(&b);
    conf_node_dump(c.axes, &b);
    assert_string_equal(b.data, "{seed: [3], guidance: {range: [1, 8]}}");
    str_deinit(&b);
    assert_true(config_is_override("lora.rank=8"));
    assert_false(config_is_override("--lora=8"));
    assert_false(config_is_override("file.yaml"));
    assert_false(config_is_override("/a=b"));
    config_deinit(&table, &c);
}

static void test_base_config__bad_overrides(void **state)
{
    (void)state;
    static const struct {
        const char *set;
        int code;
        const char *part;
    } cases[] = {
        {"lora.rnak=8", ERR_NOTFOUND, "command line: key 'lora.rnak': unknown key (did you mean 'rank'?)"},
        {"lora.rank=0", ERR_RANGE, "command line: key 'lora.rank': expected an integer in 1..1024, got '0'"},
        {"lr.x=1", ERR_NOTFOUND, "no keys below"},
        {"loras.0.scale=1", ERR_NOTFOUND, "no such entry"},
        {"loras.x.scale=1", ERR_NOTFOUND, "number of a list entry"},
        {"loras=[{path: x, scal: 1}]", ERR_NOTFOUND, "'loras.0.scal': unknown key (did you mean 'scale'?)"},
        {"loras=[", ERR_FORMAT, "not valid YAML"},
        {"prompts=[a, &x b]", ERR_FORMAT, "anchors"},
        {"=5", ERR_FORMAT, "key=value"},
        {"lr", ERR_FORMAT, "key=value"},
        {"zzz=1", ERR_NOTFOUND, "known: model, lr"},
        {"model=\xff", ERR_FORMAT, "UTF-8"},
        {"seed=-1", ERR_FORMAT, "0..18446744073709551615"},
        {"axes..x=1", ERR_NOTFOUND, "empty part"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Conf c;
        assert_int_equal(config_init(&table, &c), 0);
        int rc = config_override(&table, &c, cases[i].set);
        if (rc != cases[i].code)
            fail_msg("%s: got %d: %s", cases[i].set, rc, err_message());
        has(cases[i].part);
        config_deinit(&table, &c);
    }
}

static void test_base_config__bad_files(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int code;
        const char *part;
    } cases[] = {
        {"lr: abc", ERR_FORMAT, "t.yaml:1: key 'lr': expected a number in 1e-08..1, got 'abc'"},
        {"\n\nlr: 2", ERR_RANGE, "t.yaml:3: key 'lr': expected a number in 1e-08..1, got '2'"},
        {"lr: nan", ERR_FORMAT, "got 'nan'"},
        {"lr: 0x1p-5", ERR_FORMAT, "got '0x1p-5'"},
        {"lr: 1e999", ERR_FORMAT, "1e999"},
        {"lr: '0.1'", ERR_FORMAT, "expected a number"},
        {"lr:", ERR_FORMAT, "got nothing"},
        {"lr: [1]", ERR_FORMAT, "got a list"},
        {"steps: 1.5", ERR_FORMAT, "expected an integer"},
        {"steps: 99999999999", ERR_RANGE, "expected an integer in 1..1000000000"},
        {"big: 9223372036854775808", ERR_FORMAT, "an integer, got"},
        {"flip: maybe", ERR_FORMAT, "true or false"},
        {"flip: 'true'", ERR_FORMAT, "true or false"},
        {"memory: 8 GuB", ERR_FORMAT, "a size like"},
        {"memory: 99999999TiB", ERR_FORMAT, "a size like"},
        {"memory: -5", ERR_FORMAT, "a size like"},
        {"sampler: heun", ERR_FORMAT, "one of ddim, euler, dpmpp_2m, got 'heun'"},
        {"lora: 5", ERR_FORMAT, "key 'lora': expected a map of keys, got '5'"},
        {"lora: {ranks: 8}", ERR_NOTFOUND, "key 'lora.ranks': unknown key (did you mean 'rank'?)"},
        {"learning: 8", ERR_NOTFOUND, "known:"},
        {"lora: {targets: []}", ERR_RANGE, "expected 1..8 entries, got 0"},
        {"lora: {targets: attn}", ERR_FORMAT, "a list of 1..8 texts"},
        {"loras: [{}, {}, {}, {}]", ERR_RANGE, "0..3 entries, got 4"},
        {"loras: [{scale: 11}]", ERR_RANGE, "key 'loras.0.scale'"},
        {"loras: [x]", ERR_FORMAT, "key 'loras.0': expected a map"},
        {"prompts: [[a]]", ERR_FORMAT, "key 'prompts'"},
        {"betas: [0.1, x]", ERR_FORMAT, "a list of numbers in 0..1, got 'x'"},
        {"betas: [0.1, 1.5]", ERR_RANGE, "got '1.5'"},
        {"sizes: [8, 5]", ERR_RANGE, "in 8..4096"},
        {"model: [x]", ERR_FORMAT, "expected text"},
        {"lr: 0.1\nlr: 0.2", ERR_FORMAT, "t.yaml:2: key 'lr' appears twice (first on line 1)"},
        {"model: &a x", ERR_FORMAT, "anchors"},
        {"a: &x [1]\nb: *x", ERR_FORMAT, "t.yaml:1: anchors"},
        {"prompts: [*x]", ERR_FORMAT, "aliases"},
        {"*x : 1", ERR_FORMAT, "aliases"},
        {"model: !!str x", ERR_FORMAT, "tags"},
        {"lr: 0.1\n---\nlr: 0.2", ERR_FORMAT, "only one document"},
        {"lr: 0.1\n  x: 3", ERR_FORMAT, "t.yaml:2: not valid YAML"},
        {"{", ERR_FORMAT, "not valid YAML"},
        {"[1, 2]", ERR_FORMAT, "t.yaml:1: expected a map of keys, got a list"},
        {"hello", ERR_FORMAT, "expected a map of keys, got 'hello'"},
        {"? [a, b]\n: 1", ERR_FORMAT, "a key must be plain text"},
        {"model: \"a\\0b\"", ERR_FORMAT, "0 character"},
        {"model: \xff", ERR_FORMAT, "not valid YAML: byte"},
        {"\"\": 1", ERR_FORMAT, "a key must have"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Conf c;
        assert_int_equal(config_init(&table, &c), 0);
        int rc = load(&c, cases[i].text);
        if (rc != cases[i].code)
            fail_msg("%s: got %d: %s", cases[i].text, rc, err_message());
        has(cases[i].part);
        config_deinit(&table, &c);
    }
}

static void test_base_config__deep_nesting(void **state)
{
    (void)state;
    enum { N = 100000 };
    char *text = malloc(N + 8);
    memcpy(text, "axes: ", 6);
    memset(text + 6, '[', N);
    text[N + 6] = 0;
    Conf c;
    assert_int_equal(config_init(&table, &c), 0);
    assert_int_equal(load(&c, text), ERR_FORMAT);
    has("nested deeper than 64");
    free(text);
    config_deinit(&table, &c);
}

static void test_base_config__empty_file(void **state)
{
    (void)state;
    Conf c;
    assert_int_equal(config_init(&table, &c), 0);
    assert_int_equal(load(&c, ""), 0);
    assert_int_equal(load(&c, "# only a comment\n"), 0);
    assert_int_equal(load(&c, "---\n"), 0);
    assert_int_equal(load(&c, "lora:\nloras:\naxes:\n"), 0);
    assert_int_equal(c.steps, 1000);
    config_deinit(&table, &c);
    assert_int_equal(config_read(&table, &c, "/nowhere/x.yaml", NULL, 0), ERR_NOTFOUND);
    has("/nowhere/x.yaml");
    config_deinit(&table, &c);
}

static void test_base_config__help(void **state)
{
    (void)state;
    StrBuf b;
    str_init(&b);
    config_help(&table, &b);
    assert_int_equal(str_status(&b), 0);
    assert_non_null(strstr(b.data, "lora.rank"));
    assert_non_null(strstr(b.data, "rank; an integer in 1..1024; default 16\n"));
    assert_non_null(strstr(b.data, "loras[].path"));
    assert_non_null(strstr(b.data, "folder of the model; text; required\n"));
    if (getenv("SHOW"))
        puts(b.data);
    str_deinit(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_base_config__defaults),         cmocka_unit_test(test_base_config__loads_all_types),
        cmocka_unit_test(test_base_config__dump_round_trips), cmocka_unit_test(test_base_config__overrides),
        cmocka_unit_test(test_base_config__bad_overrides),    cmocka_unit_test(test_base_config__bad_files),
        cmocka_unit_test(test_base_config__deep_nesting),     cmocka_unit_test(test_base_config__empty_file),
        cmocka_unit_test(test_base_config__help),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
