/* Part files, their merging, damage, and run.h5; records and PNG text. */
#include "models/fixture.h"

#include <sys/stat.h>
#include <unistd.h>

#include "io/file.h"
#include "io/png.h"
#include "sweep/runfile.h"
#include "sweep/score.h"
#include "text/infotext.h"

typedef struct {
    char dir[64];
} Tmp;

static int make_dir(void **state)
{
    Tmp *t = calloc(1, sizeof *t);
    strcpy(t->dir, "/tmp/atelier-test-XXXXXX");
    assert_non_null(mkdtemp(t->dir));
    *state = t;
    return 0;
}

static void empty_dir(const char *dir)
{
    IoNames names;
    if (io_dir_list(&names, dir, NULL) < 0)
        return;
    for (int i = 0; i < names.count; i++) {
        char path[512];
        snprintf(path, sizeof path, "%s/%s", dir, names.items[i]);
        if (io_file_is_dir(path))
            empty_dir(path);
        else
            unlink(path);
    }
    io_names_deinit(&names);
    rmdir(dir);
}

static int drop_dir(void **state)
{
    empty_dir(((Tmp *)*state)->dir);
    free(*state);
    return 0;
}

/* An image whose pixels and latents tell its number. */
static void make_row(SweepRow *row, int64_t index, int w, int h)
{
    memset(row, 0, sizeof *row);
    row->rec = (SweepRecord){.version = "1",
                             .commit = "c",
                             .backend = "cpu-base",
                             .dtype = "f32",
                             .model = "dir/model",
                             .variant = "",
                             .model_hash = "0123456789abcdef",
                             .prompt = index % 2 ? "a \"quoted\" prompt, with: commas" : "plain",
                             .negative = index % 3 ? "" : "ugly",
                             .seed_compat = "atelier",
                             .sampler = "",
                             .spacing = "",
                             .sampler_used = "dpmpp_2m",
                             .spacing_used = "karras",
                             .pixels_sha256 = "ff00",
                             .index = index,
                             .seed = index * 1000003,
                             .width = w,
                             .height = h,
                             .steps = 20,
                             .clip_skip = 1 + (int)(index % 2),
                             .guidance = 7.5,
                             .guidance_rescale = 0.1,
                             .eta = 0};
    if (index % 2) {
        row->rec.nlora = 1;
        row->rec.lora[0].name = "style";
        row->rec.lora[0].path = "x/style.safetensors";
        row->rec.lora[0].hash = "abcdefabcdefabcdef";
        row->rec.lora[0].scale = 0.8;
    }
    OK(io_image_init(&row->result.image, w, h, 3));
    memset(row->result.image.data, (int)(index & 255), (size_t)(w * h * 3));
    row->latent[0] = 2;
    row->latent[1] = h / 2;
    row->latent[2] = w / 2;
    int64_t n = 2 * (h / 2) * (w / 2);
    row->result.latents = malloc((size_t)n * sizeof(float));
    for (int64_t k = 0; k < n; k++)
        row->result.latents[k] = (float)index;
    row->seconds = 1;
}

static void add_images(SweepStore *s, int64_t begin, int64_t end, int w, int h)
{
    for (int64_t k = begin; k < end; k++) {
        SweepRow row;
        make_row(&row, k, w, h);
        OK(sweep_store_add(s, &row, 1, 1));
        render_result_deinit(&row.result);
    }
}

static void grid_of(SweepGrid *g, SweepConf *c, const char *axes)
{
    OK(config_init(&sweep_conf_table, c));
    OK(config_override(&sweep_conf_table, c, axes));
    OK(sweep_grid_init(g, c));
}

static void check_run(const char *path, int64_t n, int64_t wide_from)
{
    SweepRunFile run;
    OK(sweep_runfile_open(&run, path));
    assert_int_equal(run.meta.n, n);
    for (int64_t k = 0; k < n; k++) {
        IoImage img = {0};
        SweepRecord rec;
        OK(sweep_runfile_image(&run, k, &img));
        assert_int_equal(img.data[0], k & 255);
        assert_int_equal(img.w, k >= wide_from ? 12 : 8);
        assert_int_equal(sweep_block_i64(&run.meta, SWEEP_COL_INDEX, k), k);
        assert_int_equal(sweep_block_i64(&run.meta, SWEEP_COL_SEED, k), k * 1000003);
        OK(sweep_record_parse(&rec, sweep_runfile_record(&run, k), "x"));
        assert_int_equal(rec.index, k);
        assert_int_equal(rec.nlora, k % 2);
        sweep_record_deinit(&rec);
        io_image_deinit(&img);
    }
    IoImage img;
    FAILS(sweep_runfile_image(&run, n, &img), ERR_RANGE, "expected 0..");
    sweep_runfile_close(&run);
}

static void test_sweep_store__merges_parts_and_joins_them(void **state)
{
    enum { N = 80, WIDE = 70 };
    const char *dir = ((Tmp *)*state)->dir;
    char path[128];
    SweepStore s;
    SweepParts p;
    SweepGrid g;
    SweepConf c;
    uint8_t done[N] = {0};
    int64_t n;
    OK(sweep_store_init(&s, dir, "me", 3, 7));
    add_images(&s, 0, WIDE, 8, 4);
    add_images(&s, WIDE, N, 12, 6);
    SweepRow again; /* an image in two files: the first found counts */
    make_row(&again, 20, 8, 4);
    memset(again.result.image.data, 99, 8 * 4 * 3);
    OK(sweep_store_add(&s, &again, 1, 1));
    render_result_deinit(&again.result);
    sweep_store_deinit(&s);
    OK(sweep_parts_scan(&p, dir));
    assert_true(p.count < 20);
    assert_true(p.seq > 7 + N);
    OK(sweep_parts_read(&p, "me", done, N, &n, NULL, NULL));
    assert_int_equal(n, N);
    grid_of(&g, &c, "axes={seed: {count: 80}}");
    const SweepRunInfo info = {.identity = "me", .config = "a: b\n", .backend = "cpu", .dtype = "f32", .started = "now", .ranks = 1};
    snprintf(path, sizeof path, "%s/run.h5", dir);
    OK(sweep_runfile_write(path, &p, &g, &info));
    check_run(path, N, WIDE);
    int same;
    OK(sweep_runfile_matches(path, "me", &same));
    assert_true(same);
    OK(sweep_runfile_matches(path, "you", &same));
    assert_false(same);
    OK(sweep_parts_remove(dir));
    sweep_parts_deinit(&p);
    OK(sweep_parts_scan(&p, dir));
    assert_int_equal(p.count, 0);
    sweep_parts_deinit(&p);
    sweep_grid_deinit(&g);
    config_deinit(&sweep_conf_table, &c);
}

static void test_sweep_store__missing_image_is_an_error(void **state)
{
    const char *dir = ((Tmp *)*state)->dir;
    char path[128];
    SweepStore s;
    SweepParts p;
    SweepGrid g;
    SweepConf c;
    OK(sweep_store_init(&s, dir, "me", 0, 0));
    add_images(&s, 0, 3, 8, 4);
    sweep_store_deinit(&s);
    OK(sweep_parts_scan(&p, dir));
    grid_of(&g, &c, "axes={seed: {count: 4}}");
    const SweepRunInfo info = {.identity = "me", .config = "", .backend = "", .dtype = "", .started = "", .ranks = 1};
    snprintf(path, sizeof path, "%s/run.h5", dir);
    FAILS(sweep_runfile_write(path, &p, &g, &info), ERR_NOTFOUND, "image 3");
    assert_false(io_file_exists(path));
    sweep_parts_deinit(&p);
    sweep_grid_deinit(&g);
    config_deinit(&sweep_conf_table, &c);
}

static int check_never(void *ctx, const char *record)
{
    (void)record;
    ++*(int *)ctx;
    return err_set(ERR_FORMAT, "another model");
}

static void test_sweep_store__damage_and_strangers(void **state)
{
    const char *dir = ((Tmp *)*state)->dir;
    SweepStore s;
    SweepParts p;
    uint8_t done[8] = {0};
    int64_t n;
    int calls = 0;
    OK(sweep_store_init(&s, dir, "me", 0, 0));
    add_images(&s, 0, 3, 8, 4);
    sweep_store_deinit(&s);
    OK(sweep_parts_scan(&p, dir));
    FAILS(sweep_parts_read(&p, "you", done, 8, &n, NULL, NULL), ERR_BUSY, "another configuration");
    FAILS(sweep_parts_read(&p, "me", done, 8, &n, check_never, &calls), ERR_BUSY, "another model");
    assert_int_equal(calls, 1);
    assert_int_equal(p.count, 3);
    assert_int_equal(truncate(p.path[1], 500), 0);
    memset(done, 0, sizeof done);
    OK(sweep_parts_read(&p, "me", done, 8, &n, NULL, NULL));
    assert_int_equal(n, 2);
    assert_int_equal(p.count, 2);
    assert_true(done[0] && !done[1] && done[2]);
    sweep_parts_deinit(&p);
    OK(sweep_parts_scan(&p, dir));
    assert_int_equal(p.count, 2);
    sweep_parts_deinit(&p);
}

static void test_sweep_record__round_trip_and_a1111_text(void **state)
{
    (void)state;
    SweepRow row;
    SweepRecord back;
    StrBuf a, b;
    char *info;
    Infotext t;
    make_row(&row, 5, 8, 4);
    row.rec.seed = INT64_MAX;
    row.rec.guidance = 0.1 + 0.2;
    str_init(&a);
    str_init(&b);
    sweep_record_json(&row.rec, &a);
    OK(sweep_record_parse(&back, a.data, "x"));
    sweep_record_json(&back, &b);
    assert_string_equal(a.data, b.data);
    assert_true(back.guidance == 0.1 + 0.2 && back.seed == INT64_MAX);
    sweep_record_deinit(&back);
    OK(sweep_record_infotext(&row.rec, &info));
    infotext_init(&t);
    OK(infotext_parse(&t, info));
    assert_string_equal(t.prompt, "a \"quoted\" prompt, with: commas <lora:style:0.8>");
    assert_string_equal(infotext_get(&t, "Steps"), "20");
    assert_string_equal(infotext_get(&t, "Sampler"), "DPM++ 2M");
    assert_string_equal(infotext_get(&t, "Size"), "8x4");
    assert_string_equal(infotext_get(&t, "Model hash"), "0123456789");
    assert_string_equal(infotext_get(&t, "Clip skip"), "2");
    assert_string_equal(infotext_get(&t, "Lora hashes"), "style: abcdefabcdef");
    infotext_deinit(&t);
    free(info);
    str_deinit(&a);
    str_deinit(&b);
    render_result_deinit(&row.result);
    static const char *const bad[] = {"", "[]", "{", "{\"version\": 3}", "{\"version\": \"1\", \"version\": \"2\"}"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_true(sweep_record_parse(&back, bad[i], "bad record") < 0);
        sweep_record_deinit(&back);
    }
}

static void test_sweep_record__png_holds_both_texts(void **state)
{
    char path[128];
    SweepRow row;
    IoPngText *text;
    int n;
    make_row(&row, 6, 8, 4);
    row.rec.prompt = "Füchse und 雪";
    snprintf(path, sizeof path, "%s/x.png", ((Tmp *)*state)->dir);
    OK(sweep_record_save(&row.rec, path, &row.result.image));
    OK(io_png_read_text(&text, &n, path));
    assert_non_null(strstr(io_png_text_find(text, n, "parameters"), "Füchse und 雪\nNegative prompt: ugly\n"));
    SweepRecord rec;
    OK(sweep_record_parse(&rec, io_png_text_find(text, n, "atelier"), path));
    assert_string_equal(rec.prompt, "Füchse und 雪");
    sweep_record_deinit(&rec);
    io_png_text_free(text, n);
    render_result_deinit(&row.result);
}

static void test_sweep_score__counts_black_and_white(void **state)
{
    (void)state;
    uint8_t px[4 * 3] = {0, 40, 12, 215, 255, 220, 41, 0, 0, 0, 255, 0};
    const IoImage img = {.w = 4, .h = 1, .c = 3, .data = px};
    assert_true(fabs(score_black_white(&img) - 0.5) < 1e-12);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_sweep_store__merges_parts_and_joins_them, make_dir, drop_dir),
        cmocka_unit_test_setup_teardown(test_sweep_store__missing_image_is_an_error, make_dir, drop_dir),
        cmocka_unit_test_setup_teardown(test_sweep_store__damage_and_strangers, make_dir, drop_dir),
        cmocka_unit_test(test_sweep_record__round_trip_and_a1111_text),
        cmocka_unit_test_setup_teardown(test_sweep_record__png_holds_both_texts, make_dir, drop_dir),
        cmocka_unit_test(test_sweep_score__counts_black_and_white),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
