/* Part files, damage, run.h5 as a copy and of virtual datasets; records and PNG text. */
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
static void make_image(IoImage *img, int64_t index, int w, int h)
{
    OK(io_image_init(img, w, h, 3));
    memset(img->data, (int)(index & 255), (size_t)(w * h * 3));
}

static void make_record(SweepRecord *rec, int64_t index, int w, int h, const char *pixels)
{
    *rec = (SweepRecord){.version = "1",
                             .commit = "c",
                             .backend = "cpu-base",
                             .dtype = "f32",
                             .model = "dir/model",
                             .vae = "",
                             .vae_hash = "",
                             .source = "",
                             .source_hash = "",
                             .mask = "",
                             .mask_hash = "",
                             .variant = "",
                             .model_hash = "0123456789abcdef",
                             .prompt = index % 2 ? "a \"quoted\" prompt, with: commas" : "plain",
                             .negative = index % 3 ? "" : "ugly",
                             .seed_compat = "atelier",
                             .sampler = "",
                             .spacing = "",
                             .sampler_used = "dpmpp_2m",
                             .spacing_used = "karras",
                             .pixels_sha256 = pixels,
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
        rec->nlora = 1;
        rec->lora[0].name = "style";
        rec->lora[0].path = "x/style.safetensors";
        rec->lora[0].hash = "abcdefabcdefabcdef";
        rec->lora[0].scale = 0.8;
    }
}

static void make_row(SweepRow *row, int64_t index, int w, int h)
{
    SweepRecord rec;
    StrBuf json;
    char pixels[HASH_HEX_SIZE];
    memset(row, 0, sizeof *row);
    make_image(&row->image, index, w, h);
    OK(sweep_pixels_hash(pixels, &row->image));
    make_record(&rec, index, w, h, pixels);
    str_init(&json);
    sweep_record_json(&rec, &json);
    OK(str_take(&row->record, &json));
    row->latent[0] = 2;
    row->latent[1] = h / 2;
    row->latent[2] = w / 2;
    int64_t n = 2 * (h / 2) * (w / 2);
    row->latents = malloc((size_t)n * sizeof(float));
    for (int64_t k = 0; k < n; k++)
        row->latents[k] = (float)index;
    row->index = index;
    row->seconds = 1;
}

static void add_images(SweepStore *s, int64_t begin, int64_t end, int w, int h)
{
    for (int64_t k = begin; k < end; k++) {
        SweepRow row;
        make_row(&row, k, w, h);
        OK(sweep_store_add(s, &row, 1));
        OK(sweep_store_save(s));
        sweep_row_deinit(&row);
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

static void check_latents(const char *path, int64_t n)
{
    SweepRunFile run;
    OK(sweep_runfile_open(&run, path));
    for (int64_t k = 0; k < n; k++) {
        float *x;
        int64_t dim[3];
        OK(sweep_runfile_latents(&run, k, &x, dim));
        assert_int_equal(dim[0], 2);
        assert_true(x[0] > (float)k - 0.5f && x[0] < (float)k + 0.5f);
        free(x);
    }
    sweep_runfile_close(&run);
}

static void test_sweep_store__joins_parts(void **state)
{
    enum { N = 80, WIDE = 70 };
    const char *dir = ((Tmp *)*state)->dir;
    char copy[128], links[128], whole[128];
    SweepStore s;
    SweepParts p;
    SweepGrid g;
    SweepConf c;
    uint8_t done[N] = {0};
    int64_t n;
    OK(sweep_store_init(&s, dir, "me", 3, 7));
    add_images(&s, 40, WIDE, 8, 4);
    add_images(&s, WIDE, N, 12, 6);
    SweepRow again; /* an image in two files: the first found counts */
    make_row(&again, 50, 8, 4);
    memset(again.image.data, 99, 8 * 4 * 3);
    sweep_store_deinit(&s);
    OK(sweep_store_init(&s, dir, "me", 4, 9));
    add_images(&s, 0, 30, 8, 4);
    OK(sweep_store_add(&s, &again, 1));
    sweep_row_deinit(&again);
    add_images(&s, 30, 40, 8, 4);
    sweep_store_deinit(&s);
    OK(sweep_parts_scan(&p, dir, 1));
    assert_int_equal(p.count, 3);
    assert_int_equal(p.seq, 10);
    OK(sweep_parts_read(&p, "me", done, N, &n, NULL, NULL));
    assert_int_equal(n, N);
    grid_of(&g, &c, "axes={seed: {count: 80}}");
    const SweepRunInfo info = {.identity = "me", .config = "a: b\n", .backend = "cpu", .dtype = "f32", .started = "now", .ranks = 1};
    snprintf(copy, sizeof copy, "%s/copy.h5", dir);
    snprintf(links, sizeof links, "%s/run.h5", dir);
    snprintf(whole, sizeof whole, "%s/whole.h5", dir);
    OK(sweep_runfile_write(copy, &p, &g, &info, 1));
    OK(sweep_runfile_write(links, &p, &g, &info, 0));
    Comm self;
    comm_init_self(&self);
    OK(sweep_runfile_consolidate(links, whole, &self));
    comm_deinit(&self);
    const char *const path[3] = {copy, links, whole};
    for (int i = 0; i < 3; i++) {
        check_run(path[i], N, WIDE);
        check_latents(path[i], N);
    }
    int same;
    OK(sweep_runfile_matches(links, "me", &same));
    assert_true(same);
    OK(sweep_runfile_matches(links, "you", &same));
    assert_false(same);
    OK(sweep_parts_remove(dir));
    sweep_parts_deinit(&p);
    OK(sweep_parts_scan(&p, dir, 1));
    assert_int_equal(p.count, 0);
    sweep_parts_deinit(&p);
    check_run(whole, N, WIDE); /* needs no parts */
    SweepRunFile run;
    IoImage img;
    OK(sweep_runfile_open(&run, links));
    FAILS(sweep_runfile_image(&run, 3, &img), ERR_NOTFOUND, "belongs beside it");
    FAILS(sweep_runfile_check(&run), ERR_NOTFOUND, "parts/r000");
    sweep_runfile_close(&run);
    sweep_grid_deinit(&g);
    config_deinit(&sweep_conf_table, &c);
}

/* The next run of the same rank goes on in its newest part. */
static void test_sweep_store__goes_on_in_its_part(void **state)
{
    const char *dir = ((Tmp *)*state)->dir;
    SweepStore s;
    SweepParts p;
    for (int i = 0; i < 5; i++) {
        OK(sweep_parts_scan(&p, dir, 1));
        OK(sweep_store_init(&s, dir, "me", 1, p.seq));
        add_images(&s, i, i + 1, i < 4 ? 8 : 12, 4);
        sweep_store_deinit(&s);
        sweep_parts_deinit(&p);
    }
    OK(sweep_parts_scan(&p, dir, 1));
    assert_int_equal(p.count, 2);
    sweep_parts_deinit(&p);
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
    OK(sweep_parts_scan(&p, dir, 1));
    grid_of(&g, &c, "axes={seed: {count: 4}}");
    const SweepRunInfo info = {.identity = "me", .config = "", .backend = "", .dtype = "", .started = "", .ranks = 1};
    snprintf(path, sizeof path, "%s/run.h5", dir);
    FAILS(sweep_runfile_write(path, &p, &g, &info, 1), ERR_NOTFOUND, "image 3");
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

static void test_sweep_store__strangers(void **state)
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
    OK(sweep_parts_scan(&p, dir, 1));
    FAILS(sweep_parts_read(&p, "you", done, 8, &n, NULL, NULL), ERR_BUSY, "another configuration");
    FAILS(sweep_parts_read(&p, "me", done, 8, &n, check_never, &calls), ERR_BUSY, "another model");
    assert_int_equal(calls, 1);
    assert_int_equal(p.count, 1);
    sweep_parts_deinit(&p);
}

/* A part with damage here and there, or that lost its end: it is noticed at once, or the images before it are kept. */
static void test_sweep_store__damage(void **state)
{
    enum { N = 12 };
    const char *dir = ((Tmp *)*state)->dir;
    SweepStore s;
    SweepParts p;
    uint8_t done[N];
    int64_t n, most = 0;
    char *whole;
    size_t bytes;
    OK(sweep_store_init(&s, dir, "me", 0, 0));
    add_images(&s, 0, N, 48, 40);
    sweep_store_deinit(&s);
    OK(sweep_parts_scan(&p, dir, 1));
    char path[128];
    snprintf(path, sizeof path, "%s", p.path[0]);
    sweep_parts_deinit(&p);
    OK(io_file_read(&whole, &bytes, path, 1 << 24));
    for (int round = 0; round < 24; round++) {
        size_t at = bytes / 25 * (size_t)(round + 1), length = round < 20 ? bytes : at;
        char old = whole[at];
        whole[at] = (char)(old ^ 0x55);
        OK(io_file_write(path, whole, length));
        whole[at] = old;
        memset(done, 0, sizeof done);
        OK(sweep_parts_scan(&p, dir, 1));
        int rc = sweep_parts_read(&p, "me", done, N, &n, NULL, NULL);
        if (rc < 0)
            assert_int_equal(rc, ERR_BUSY); /* the identity itself was hit */
        most = rc >= 0 && n > most && n < N ? n : most;
        assert_true(round < 20 || n == 0);
        sweep_parts_deinit(&p);
        char aside[140];
        snprintf(aside, sizeof aside, "%s.broken", path);
        unlink(aside);
    }
    /* The last images are looked at in any case; damage there has the whole part looked at. */
    for (int k = 0; k < 2; k++) {
        IoH5 *f;
        uint8_t px[48 * 40 * 3] = {77};
        OK(io_file_write(path, whole, bytes));
        OK(io_h5_open_safe(&f, path));
        OK(io_h5_write_rows(f, "images", DTYPE_U8, 2, 1, px));
        OK(io_h5_write_rows(f, "images", DTYPE_U8, N - 2, 1, px));
        OK(io_h5_commit(&f));
        memset(done, 0, sizeof done);
        OK(sweep_parts_scan(&p, dir, 1));
        OK(sweep_parts_read(&p, "me", done, N, &most, NULL, NULL));
        assert_int_equal(most, N - 2);
        assert_false(done[2] || done[N - 2]);
        memset(done, 0, sizeof done); /* and it stays so */
        OK(sweep_parts_read(&p, "me", done, N, &n, NULL, NULL));
        assert_int_equal(n, N - 2);
        sweep_parts_deinit(&p);
    }
    free(whole);
}

static void test_sweep_record__round_trip_and_a1111_text(void **state)
{
    (void)state;
    SweepRecord rec, back;
    StrBuf a, b;
    char *info;
    Infotext t;
    make_record(&rec, 5, 8, 4, "ff00");
    rec.seed = INT64_MAX;
    rec.guidance = 0.1 + 0.2;
    rec.typed = "a {quoted|plain} prompt";
    rec.vae = "dir/other";
    rec.vae_hash = "1111222233334444";
    rec.source = "in.png";
    rec.source_hash = "5555";
    rec.mask = "mask.png";
    rec.mask_hash = "6666";
    rec.strength = 0.7;
    rec.encode = RENDER_ENCODE_MEAN;
    rec.inpaint = (RenderInpaint){.blur = 4, .invert = 1, .fill = RENDER_FILL_NOISE, .paste = 1};
    rec.hires = (RenderHires){.upscale = RENDER_UPSCALE_LATENT_BICUBIC, .scale = 1.5, .steps = 7, .strength = 0.4};
    rec.variation_seed = 17;
    rec.variation_strength = 0.25;
    rec.seed_width = 64;
    rec.seed_height = 32;
    rec.vae_tile = 512;
    str_init(&a);
    str_init(&b);
    sweep_record_json(&rec, &a);
    OK(sweep_record_parse(&back, a.data, "x"));
    sweep_record_json(&back, &b);
    assert_string_equal(a.data, b.data);
    assert_true(back.guidance == 0.1 + 0.2 && back.seed == INT64_MAX && back.hires.steps == 7 && back.inpaint.invert && back.strength == 0.7);
    assert_string_equal(back.typed, "a {quoted|plain} prompt");
    assert_string_equal(back.mask_hash, "6666");
    sweep_record_deinit(&back);
    OK(sweep_record_infotext(&rec, &info));
    infotext_init(&t);
    OK(infotext_parse(&t, info));
    assert_string_equal(t.prompt, "a \"quoted\" prompt, with: commas <lora:style:0.8>");
    assert_string_equal(infotext_get(&t, "Steps"), "20");
    assert_string_equal(infotext_get(&t, "Sampler"), "DPM++ 2M");
    assert_string_equal(infotext_get(&t, "Size"), "8x4");
    assert_string_equal(infotext_get(&t, "Model hash"), "0123456789");
    assert_string_equal(infotext_get(&t, "Clip skip"), "2");
    assert_string_equal(infotext_get(&t, "Lora hashes"), "style: abcdefabcdef");
    assert_string_equal(infotext_get(&t, "VAE hash"), "1111222233");
    assert_string_equal(infotext_get(&t, "Variation seed"), "17");
    assert_string_equal(infotext_get(&t, "Variation seed strength"), "0.25");
    assert_string_equal(infotext_get(&t, "Seed resize from"), "64x32");
    assert_string_equal(infotext_get(&t, "Denoising strength"), "0.7");
    assert_string_equal(infotext_get(&t, "Mask blur"), "4");
    assert_string_equal(infotext_get(&t, "Hires upscaler"), "Latent (bicubic)");
    infotext_deinit(&t);
    free(info);
    str_deinit(&a);
    str_deinit(&b);
    static const char *const bad[] = {"", "[]", "{", "{\"version\": 3}", "{\"version\": \"1\", \"version\": \"2\"}"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_true(sweep_record_parse(&back, bad[i], "bad record") < 0);
        sweep_record_deinit(&back);
    }
}

static void test_sweep_record__png_holds_both_texts(void **state)
{
    char path[128];
    SweepRecord made;
    IoImage img;
    IoPngText *text;
    int n;
    make_image(&img, 6, 8, 4);
    make_record(&made, 6, 8, 4, "ff00");
    made.prompt = "Füchse und 雪";
    snprintf(path, sizeof path, "%s/x.png", ((Tmp *)*state)->dir);
    StrBuf json;
    str_init(&json);
    sweep_record_json(&made, &json);
    OK(sweep_record_png(path, &img, json.data));
    str_deinit(&json);
    OK(io_png_read_text(&text, &n, path));
    assert_non_null(strstr(io_png_text_find(text, n, "parameters"), "Füchse und 雪\nNegative prompt: ugly\n"));
    SweepRecord rec;
    OK(sweep_record_parse(&rec, io_png_text_find(text, n, "atelier"), path));
    assert_string_equal(rec.prompt, "Füchse und 雪");
    sweep_record_deinit(&rec);
    io_png_text_free(text, n);
    io_image_deinit(&img);
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
        cmocka_unit_test_setup_teardown(test_sweep_store__joins_parts, make_dir, drop_dir),
        cmocka_unit_test_setup_teardown(test_sweep_store__goes_on_in_its_part, make_dir, drop_dir),
        cmocka_unit_test_setup_teardown(test_sweep_store__missing_image_is_an_error, make_dir, drop_dir),
        cmocka_unit_test_setup_teardown(test_sweep_store__strangers, make_dir, drop_dir),
        cmocka_unit_test_setup_teardown(test_sweep_store__damage, make_dir, drop_dir),
        cmocka_unit_test(test_sweep_record__round_trip_and_a1111_text),
        cmocka_unit_test_setup_teardown(test_sweep_record__png_holds_both_texts, make_dir, drop_dir),
        cmocka_unit_test(test_sweep_score__counts_black_and_white),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
