/* Axes: numbering, work order, batches; bad configurations. */
#include "models/fixture.h"

#include <malloc.h>

#include "sweep/grid.h"
#include "sweep/sheet.h"
#include "sweep/work.h"

static int load(SweepConf *c, const char *text)
{
    char *full;
    OK(str_format(&full, "model: m\noutput: o\n%s", text));
    OK(config_init(&sweep_conf_table, c));
    int rc = config_load_text(&sweep_conf_table, c, full, strlen(full), "test.yaml");
    free(full);
    return rc;
}

static void grid_of(SweepGrid *g, SweepConf *c, const char *text)
{
    OK(load(c, text));
    OK(sweep_grid_init(g, c));
}

static void grid_end(SweepGrid *g, SweepConf *c)
{
    sweep_grid_deinit(g);
    config_deinit(&sweep_conf_table, c);
}

static const char full_grid[] = "negative: ugly\n"
                                "guidance: 3\n"
                                "axes:\n"
                                "  prompt: [a, b, c]\n"
                                "  seed: {count: 4, start: 10}\n"
                                "  lora: [none, {path: x/y.safetensors, scale: 0.5}, [{path: p, name: one}, {path: q, name: two, scale: 2}]]\n"
                                "  look:\n"
                                "    - {sampler: euler, steps: 4, label: quick}\n"
                                "    - {sampler: ddim, steps: 9}\n";

static void test_sweep_grid__numbers_items_row_major(void **state)
{
    (void)state;
    SweepConf c;
    SweepGrid g;
    SweepItem it;
    grid_of(&g, &c, full_grid);
    assert_int_equal(g.count, 3 * 4 * 3 * 2);
    sweep_grid_item(&g, 0, &it);
    assert_string_equal(it.prompt, "a");
    assert_string_equal(it.negative, "ugly");
    assert_int_equal(it.seed, 10);
    assert_int_equal(it.nlora, 0);
    assert_int_equal(it.steps, 4);
    assert_true(it.guidance == 3);
    int64_t coord[SWEEP_MAX_AXES] = {2, 3, 2, 1};
    int64_t k = sweep_grid_index(&g, coord);
    assert_int_equal(k, g.count - 1);
    sweep_grid_item(&g, k, &it);
    assert_string_equal(it.prompt, "c");
    assert_int_equal(it.seed, 13);
    assert_int_equal(it.nlora, 2);
    assert_string_equal(it.lora[1].name, "two");
    assert_true(it.lora[0].scale == 1 && it.lora[1].scale == 2);
    assert_string_equal(it.sampler, "ddim");
    sweep_grid_item(&g, 2, &it);
    assert_string_equal(it.lora[0].name, "y");
    for (k = 0; k < g.count; k++) {
        sweep_grid_coords(&g, k, coord);
        assert_int_equal(sweep_grid_index(&g, coord), k);
    }
    grid_end(&g, &c);
}

static void test_sweep_grid__work_order_visits_all_with_few_changes(void **state)
{
    (void)state;
    SweepConf c;
    SweepGrid g;
    SweepItem it, before = {0};
    grid_of(&g, &c, full_grid);
    uint8_t *seen = calloc((size_t)g.count, 1);
    int loras = 0, looks = 0, prompts = 0;
    for (int64_t p = 0; p < g.count; p++) {
        int64_t k = sweep_grid_at(&g, p);
        assert_true(k >= 0 && k < g.count && !seen[k]);
        seen[k] = 1;
        sweep_grid_item(&g, k, &it);
        loras += p && (it.nlora != before.nlora || (it.nlora && it.lora[0].path != before.lora[0].path));
        looks += p && it.steps != before.steps;
        prompts += p && it.prompt != before.prompt;
        before = it;
    }
    assert_int_equal(loras, 2);
    assert_int_equal(looks, 3 * 2 - 1);
    assert_int_equal(prompts, 3 * 2 * 3 - 1);
    free(seen);
    grid_end(&g, &c);
}

static int check_batches(const SweepGrid *g, const SweepWork *w, const uint8_t *done, int max)
{
    uint8_t *seen = calloc((size_t)g->count, 1);
    int batches = 0;
    for (int64_t k = 0; k < g->count; k++)
        seen[k] = done[k];
    for (int64_t at = 0, n; at < w->count; at += n, batches++) {
        SweepItem first, it;
        n = sweep_work_batch(w, g, at, w->count, max);
        assert_true(n >= 1 && n <= max);
        sweep_grid_item(g, w->item[at], &first);
        for (int64_t i = at; i < at + n; i++) {
            sweep_grid_item(g, w->item[i], &it);
            assert_true(sweep_item_compatible(&first, &it));
            assert_false(seen[w->item[i]]);
            seen[w->item[i]] = 1;
        }
    }
    for (int64_t k = 0; k < g->count; k++)
        assert_true(seen[k]);
    free(seen);
    return batches;
}

static void test_sweep_grid__batches_cover_what_is_left(void **state)
{
    (void)state;
    SweepConf c;
    SweepGrid g;
    SweepWork w;
    grid_of(&g, &c, full_grid);
    uint8_t *done = calloc((size_t)g.count, 1);
    OK(sweep_work_init(&w, &g, done));
    assert_int_equal(w.count, g.count);
    assert_int_equal(check_batches(&g, &w, done, 5), 6 * 3); /* 12 images of each kind, 5 at once */
    sweep_work_deinit(&w);
    for (int64_t k = 0; k < g.count; k += 3)
        done[k] = 1;
    OK(sweep_work_init(&w, &g, done));
    assert_int_equal(w.count, g.count - 24);
    check_batches(&g, &w, done, 4);
    sweep_work_deinit(&w);
    free(done);
    grid_end(&g, &c);
}

static void test_sweep_grid__guidance_off_goes_apart(void **state)
{
    (void)state;
    SweepConf c;
    SweepGrid g;
    SweepWork w;
    uint8_t done[40] = {0};
    grid_of(&g, &c, "axes: {prompt: [a, b], seed: {range: [1, 5]}, guidance: [1, 2, 4.5]}\n");
    OK(sweep_work_init(&w, &g, done));
    assert_int_equal(check_batches(&g, &w, done, 10), 3); /* 10 without, 20 with guidance of mixed scales */
    sweep_work_deinit(&w);
    grid_end(&g, &c);
}

static void test_sweep_grid__ranges(void **state)
{
    (void)state;
    SweepConf c;
    SweepGrid g;
    SweepItem it;
    grid_of(&g, &c, "axes: {guidance: {range: [1, 3, 0.5]}, seed: {range: [0, 1000000, 500000]}, steps: {range: [2, 3]}}\n");
    assert_int_equal(g.count, 5 * 3 * 2);
    sweep_grid_item(&g, g.count - 1, &it);
    assert_true(fabs(it.guidance - 3) < 1e-12);
    assert_int_equal(it.seed, 1000000);
    assert_int_equal(it.steps, 3);
    grid_end(&g, &c);
    grid_of(&g, &c, "axes: {size: [64, [96, 32]]}\n");
    sweep_grid_item(&g, 1, &it);
    assert_true(it.width == 96 && it.height == 32);
    grid_end(&g, &c);
    grid_of(&g, &c, "prompt: alone\n");
    assert_int_equal(g.count, 1);
    grid_end(&g, &c);
}

static void test_sweep_grid__labels(void **state)
{
    (void)state;
    SweepConf c;
    SweepGrid g;
    StrBuf b;
    grid_of(&g, &c, full_grid);
    str_init(&b);
    for (int i = 0; i < g.naxes; i++) {
        sweep_grid_label(&g, i, 0, &b);
        str_add_char(&b, '|');
        sweep_grid_label(&g, i, 1, &b);
        str_add_char(&b, '|');
    }
    assert_string_equal(b.data, "a|b|seed 10|seed 11|no LoRA|y:0.5|quick|9 steps, ddim|");
    str_deinit(&b);
    grid_end(&g, &c);
}

typedef struct {
    const char *text;
    int code;
    const char *part;
} Bad;

static void test_sweep_grid__keys_left_out_are_as_outside(void **state)
{
    (void)state;
    SweepConf c;
    SweepGrid g;
    SweepItem it;
    StrBuf label;
    grid_of(&g, &c, "steps: 7\naxes: {how: [{label: plain}, {steps: 3}, {strength: 0.5, sampler: ddim}]}\n");
    sweep_grid_item(&g, 0, &it);
    assert_int_equal(it.steps, 7);
    sweep_grid_item(&g, 1, &it);
    assert_int_equal(it.steps, 3);
    sweep_grid_item(&g, 2, &it);
    assert_true(it.steps == 7 && it.strength == 0.5);
    assert_string_equal(it.sampler, "ddim");
    str_init(&label);
    sweep_grid_label(&g, 0, 1, &label);
    assert_string_equal(label.data, "3 steps");
    str_deinit(&label);
    grid_end(&g, &c);
}

static void test_sweep_grid__bad_configurations(void **state)
{
    (void)state;
    static const Bad bad[] = {
        {"axes: [1]\n", ERR_FORMAT, "expected a map"},
        {"axes: {promt: [a]}\n", ERR_FORMAT, "promt"},
        {"axes: {prompt: []}\n", ERR_RANGE, "without values"},
        {"axes: {prompt: {range: [1, 2]}}\n", ERR_FORMAT, "expected a list"},
        {"axes: {seed: [-1]}\n", ERR_RANGE, "seed"},
        {"axes: {seed: [x]}\n", ERR_FORMAT, "test.yaml:3"},
        {"axes: {seed: {count: 0}}\n", ERR_RANGE, "count"},
        {"axes: {seed: {range: [5, 1]}}\n", ERR_RANGE, "first <= last"},
        {"axes: {seed: {range: 5}}\n", ERR_FORMAT, "range"},
        {"axes: {seed: {number: 5}}\n", ERR_FORMAT, "seed"},
        {"axes: {seed: {count: 4000}, guidance: {range: [1, 900, 0.1]}}\n", ERR_RANGE, "more than"},
        {"axes: {guidance: [2000]}\n", ERR_RANGE, "axes.guidance"},
        {"axes: {guidance: {range: [1, 2, 0]}}\n", ERR_RANGE, "step"},
        {"axes: {steps: [0]}\n", ERR_RANGE, "axes.steps"},
        {"axes: {steps: [1.5]}\n", ERR_FORMAT, "axes.steps"},
        {"axes: {size: [[64]]}\n", ERR_FORMAT, "width, height"},
        {"axes: {lora: [{scale: 1}]}\n", ERR_NOTFOUND, "path"},
        {"axes: {lora: [{path: x, sacle: 1}]}\n", ERR_NOTFOUND, "sacle"},
        {"axes: {lora: [x.safetensors]}\n", ERR_FORMAT, "axes.lora"},
        {"axes: {look: [{sampler: ddim, stepz: 3}]}\n", ERR_NOTFOUND, "did you mean 'steps'"},
        {"axes: {look: [{sampler: ddim}, {}]}\n", ERR_FORMAT, "empty entry"},
        {"axes: {look: [euler]}\n", ERR_FORMAT, "maps"},
        {"axes: {steps: [3], look: [{steps: 4}]}\n", ERR_FORMAT, "two axes"},
        {"axes: {'a/b': [{steps: 4}]}\n", ERR_FORMAT, "a/b"},
        {"lora: 5\n", ERR_FORMAT, "lora"},
        {"axes: {prompt: [a, [b]]}\n", ERR_FORMAT, "prompt"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        SweepConf c;
        SweepGrid g = {0};
        OK(load(&c, bad[i].text));
        int rc = sweep_grid_init(&g, &c);
        if (rc != bad[i].code || !strstr(err_message(), bad[i].part))
            fail_msg("%s gave %d '%s'", bad[i].text, rc, rc < 0 ? err_message() : "");
        grid_end(&g, &c);
    }
    static const Bad keys[] = {
        {"stepss: 3\n", ERR_NOTFOUND, "steps"},  {"steps: many\n", ERR_FORMAT, "steps"},     {"steps: 0\n", ERR_RANGE, "steps"},
        {"dtype: f8\n", ERR_RANGE, "dtype"},     {"batch: 0\n", ERR_RANGE, "batch"},         {"guidance: -1\n", ERR_RANGE, "guidance"},
        {"seed: -5\n", ERR_RANGE, "seed"},       {"seed_compat: x\n", ERR_RANGE, "seed_com"}, {"sheet: {row: [a]}\n", ERR_NOTFOUND, "rows"},
    };
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        SweepConf c;
        int rc = load(&c, keys[i].text);
        if (rc >= 0 || !strstr(err_message(), keys[i].part))
            fail_msg("%s gave %d '%s'", keys[i].text, rc, rc < 0 ? err_message() : "");
        config_deinit(&sweep_conf_table, &c);
    }
}

static void test_sweep_grid__sheet_axes_are_checked(void **state)
{
    (void)state;
    static const Bad bad[] = {
        {"{rows: [promt]}", ERR_NOTFOUND, "promt"},
        {"{rows: [prompt], columns: [prompt]}", ERR_FORMAT, "twice"},
        {"{rows: [prompt], where: {seed: 9}}", ERR_RANGE, "0..1"},
        {"{rows: [prompt], where: {prompt: 0}}", ERR_FORMAT, "rows or columns"},
        {"{rows: [prompt], where: [1]}", ERR_FORMAT, "map"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char text[256];
        SweepConf c;
        SweepGrid g;
        snprintf(text, sizeof text, "axes: {prompt: [a, b], seed: [1, 2]}\nsheet: %s\n", bad[i].text);
        grid_of(&g, &c, text);
        FAILS(sweep_sheet_check(&g, &c.sheet), bad[i].code, bad[i].part);
        grid_end(&g, &c);
    }
}

static void test_sweep_conf__identity_ignores_what_changes_no_image(void **state)
{
    (void)state;
    SweepConf a, b;
    char *x, *y;
    OK(load(&a, "axes: {prompt: [a, b]}\n"));
    OK(load(&b, "batch: 7\nthreads: 3\npng: false\nkeep: 5GiB\nsheet: {title: t}\naxes: {prompt: [a, b]}\n"));
    OK(config_override(&sweep_conf_table, &b, "output=elsewhere"));
    OK(sweep_conf_identity(&a, &x));
    OK(sweep_conf_identity(&b, &y));
    assert_string_equal(x, y);
    free(y);
    OK(config_override(&sweep_conf_table, &b, "steps=21"));
    OK(sweep_conf_identity(&b, &y));
    assert_string_not_equal(x, y);
    free(x);
    free(y);
    config_deinit(&sweep_conf_table, &a);
    config_deinit(&sweep_conf_table, &b);
}

static void expect_prompt(const SweepGrid *g, int64_t index, const char *want)
{
    SweepItem it;
    OK(sweep_item_load(g, index, &it));
    assert_string_equal(it.prompt, want);
    sweep_item_deinit(&it);
}

static void test_sweep_grid__templates(void **state)
{
    (void)state;
    SweepConf c;
    SweepGrid g;
    SweepItem it;
    grid_of(&g, &c, "wildcards: tests/vectors/templates/wildcards\naxes:\n"
                    "  prompt: {template: ['a {red|green} __season__', 'x'], mode: combinatorial}\n  seed: [1, 2]\n");
    assert_int_equal(g.count, (8 + 1) * 2);
    expect_prompt(&g, 0, "a red autumn");
    expect_prompt(&g, 15, "a green winter");
    expect_prompt(&g, 17, "x");
    sweep_grid_item(&g, 0, &it);
    assert_string_equal(it.prompt, "a {red|green} __season__");
    assert_int_equal(strlen(g.wildcards_hash), 64);
    grid_end(&g, &c);
    grid_of(&g, &c, "axes:\n  prompt: {template: '{a|b|c|d|e|f|g|h} {a|b|c|d|e|f|g|h}', count: 100, seed: 3}\n  cfg: [1, 2]\n");
    assert_int_equal(g.count, 200);
    int differ = 0;
    for (int64_t k = 0; k < 198; k += 2) { /* one draw for all values of the other axes */
        SweepItem a, b, d;
        OK(sweep_item_load(&g, k, &a));
        OK(sweep_item_load(&g, k + 1, &b));
        OK(sweep_item_load(&g, k + 2, &d));
        assert_string_equal(a.prompt, b.prompt);
        differ += strcmp(a.prompt, d.prompt) != 0;
        sweep_item_deinit(&a), sweep_item_deinit(&b), sweep_item_deinit(&d);
    }
    assert_true(differ > 80);
    grid_end(&g, &c);
}

static void test_sweep_grid__conditions(void **state)
{
    (void)state;
    SweepConf c;
    SweepGrid g;
    SweepItem it;
    int64_t coord[SWEEP_MAX_AXES];
    grid_of(&g, &c, "only: \"cfg=7 and lora='ink' or steps>=30\"\nexclude: [\"seed in (5, 7..8)\", \"look='slow' and cfg=3\"]\naxes:\n"
                    "  cfg: [3, 7]\n  lora: [none, {path: x/ink.safetensors, scale: 0.5}]\n  seed: {count: 10}\n"
                    "  look: [{steps: 10, label: quick}, {steps: 30, label: slow}]\n");
    assert_int_equal(g.product, 80);
    int64_t n = 0;
    uint8_t *seen = calloc(80, 1);
    for (int64_t p = 0; p < g.count; p++) {
        sweep_grid_item(&g, p, &it);
        int ink = it.nlora == 1;
        assert_true((it.guidance == 7 && ink) || it.steps >= 30);
        assert_true(it.seed != 5 && it.seed != 7 && it.seed != 8 && !(it.steps == 30 && it.guidance == 3));
        sweep_grid_coords(&g, p, coord);
        assert_int_equal(sweep_grid_index(&g, coord), p);
        int64_t k = sweep_grid_at(&g, p);
        assert_true(k >= 0 && k < g.count && !seen[k]);
        seen[k] = 1;
        n++;
    }
    assert_int_equal(n, 7 * 3); /* seeds x (7: ink quick, ink slow, none slow) */
    const int64_t out[SWEEP_MAX_AXES] = {0, 0, 0, 0};
    assert_int_equal(sweep_grid_index(&g, out), -1);
    free(seen);
    grid_end(&g, &c);
}

static void test_sweep_grid__zip_tags_and_names(void **state)
{
    (void)state;
    SweepConf c;
    SweepGrid g;
    SweepItem it;
    char dir[] = "/tmp/test_grid_XXXXXX", path[64], text[600];
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/ink.safetensors", dir);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fclose(f);
    snprintf(text, sizeof text,
             "loras: %s\naxes:\n  pair: {prompt: ['a <lora:ink:0.5> b', '<lora:ink>c<lora:ink:0.25>'], seed: [1, 2], label: [one, two]}\n"
             "  seed_compat: [atelier, diffusers-cpu, a1111-gpu]\n  schedule: [karras]\n", dir);
    grid_of(&g, &c, text);
    assert_int_equal(g.count, 6);
    OK(sweep_item_load(&g, 5, &it));
    assert_string_equal(it.prompt, "c");
    assert_string_equal(it.typed, "<lora:ink>c<lora:ink:0.25>");
    assert_string_equal(it.spacing, "karras");
    assert_true(it.nlora == 1 && it.lora[0].scale == 1.25 && it.seed == 2 && it.rules == PROMPT_A1111);
    assert_string_equal(it.lora[0].path, path);
    sweep_item_deinit(&it);
    OK(sweep_item_load(&g, 4, &it)); /* diffusers: as typed */
    assert_true(it.nlora == 0 && it.rules == PROMPT_DIFFUSERS);
    assert_string_equal(it.prompt, "<lora:ink>c<lora:ink:0.25>");
    sweep_item_deinit(&it);
    grid_end(&g, &c);
    remove(path);
    remove(dir);
}

/* A million combinations: nothing grows with their number. */
static void test_sweep_grid__a_million_in_constant_memory(void **state)
{
    (void)state;
    SweepConf c;
    SweepGrid g;
    SweepItem it;
    struct mallinfo2 before = mallinfo2();
    grid_of(&g, &c, "axes:\n  prompt: {template: '{a|b|c|d|e|f|g|h|i|j} {a|b|c|d|e|f|g|h|i|j}', mode: combinatorial}\n"
                    "  seed: {count: 1000}\n  cfg: {range: [1, 10]}\n");
    assert_int_equal(g.count, 1000000);
    size_t most = 0;
    for (int64_t p = 0; p < g.count; p += 101) {
        sweep_grid_item(&g, sweep_grid_at(&g, p), &it);
        OK(sweep_item_load(&g, it.index, &it));
        if (p % 101 == 0) {
            size_t now = mallinfo2().uordblks;
            most = now > most ? now : most;
        }
        sweep_item_deinit(&it);
    }
    assert_true(most < before.uordblks + 500000);
    grid_end(&g, &c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sweep_grid__numbers_items_row_major),
        cmocka_unit_test(test_sweep_grid__work_order_visits_all_with_few_changes),
        cmocka_unit_test(test_sweep_grid__batches_cover_what_is_left),
        cmocka_unit_test(test_sweep_grid__guidance_off_goes_apart),
        cmocka_unit_test(test_sweep_grid__ranges),
        cmocka_unit_test(test_sweep_grid__labels),
        cmocka_unit_test(test_sweep_grid__keys_left_out_are_as_outside),
        cmocka_unit_test(test_sweep_grid__bad_configurations),
        cmocka_unit_test(test_sweep_grid__sheet_axes_are_checked),
        cmocka_unit_test(test_sweep_grid__templates),
        cmocka_unit_test(test_sweep_grid__conditions),
        cmocka_unit_test(test_sweep_grid__zip_tags_and_names),
        cmocka_unit_test(test_sweep_grid__a_million_in_constant_memory),
        cmocka_unit_test(test_sweep_conf__identity_ignores_what_changes_no_image),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
