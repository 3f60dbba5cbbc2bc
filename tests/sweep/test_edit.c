/* Sources, masks, second passes, tiles, variations, several models: the same bytes in any batch and after any history. Numbers of
 * torch (2.11): tests/peers/make_sweep_vectors.py. Whole pictures against diffusers: tests/peers/check_sweep.py. */
#include "models/fixture.h"

#include <unistd.h>

#include "io/png.h"
#include "sweep/render_impl.h"

#define MODEL "tests/vectors/sd15-tiny"

static char source[] = "/tmp/atelier-source-XXXXXX", mask[] = "/tmp/atelier-mask-XXXXXX", black[] = "/tmp/atelier-black-XXXXXX";

static void picture(char *path, int kind)
{
    IoImage img;
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    OK(io_image_init(&img, 24, 16, 3));
    for (int i = 0; i < 24 * 16 && kind < 2; i++)
        for (int c = 0; c < 3; c++)
            img.data[3 * i + c] = kind == 0 ? (uint8_t)(i * (c + 3) % 256) : i % 24 >= 6 && i % 24 < 16 && i / 24 < 10 ? 255 : 0;
    OK(io_png_write(path, &img, NULL, 0, 1));
    io_image_deinit(&img);
}

static Render *open_model(int64_t keep)
{
    const RenderConf conf = {.model = MODEL, .dtype = DTYPE_F32, .threads = 1, .keep = keep};
    Render *r;
    OK(render_open(&r, &conf));
    return r;
}

static int setup(void **state)
{
    picture(source, 0);
    picture(mask, 1);
    picture(black, 2);
    *state = open_model((int64_t)1 << 30);
    return 0;
}

static int teardown(void **state)
{
    unlink(source);
    unlink(mask);
    unlink(black);
    render_close(*state);
    return 0;
}

/* ---- pieces ---- */

static void test_sweep_edit__resize_of_torch(void **state)
{
    (void)state;
    static const float in[6] = {1, -2, 3, 0.5f, 4, -1};
    static const float want[3][15] = {
        {1, 1, -2, -2, 3, 1, 1, -2, -2, 3, 0.5f, 0.5f, 4, 4, -1},
        {1, -0.2f, -2, 1, 3, 0.75f, 0.85f, 1, 1, 1, 0.5f, 1.9f, 4, 1, -1},
        {1.38557f, -0.762021f, -2.520834f, 0.813793f, 3.910557f, 0.726f, 0.847f, 1, 1.018f, 1, 0.066431f, 2.45602f, 4.520833f, 1.222208f,
         -1.910555f}};
    float out[15];
    for (int m = 0; m < 3; m++) {
        OK(render_latent_resize(out, 5, 3, in, 3, 2, 1, (RenderUpscale)(RENDER_UPSCALE_LATENT_NEAREST + m)));
        for (int i = 0; i < 15; i++)
            assert_true(fabsf(out[i] - want[m][i]) < 5e-6f);
    }
    FAILS(render_latent_resize(out, 5, 3, in, 3, 2, 1, RENDER_UPSCALE_LANCZOS), ERR_UNSUPPORTED, "lanczos");
}

/* ---- independence ---- */

enum { ITEMS = 5 };

static void make_items(RenderItem *items)
{
    static char chunks[200]; /* over 75 tokens */
    static const char *prompts[ITEMS] = {"a red fox", "two (cats:1.4) on a [roof:wall:1]", chunks, "a red fox", "the sea BREAK at night"};
    for (int i = 0; i < 14; i++)
        memcpy(chunks + 14 * i, "a cat, a dog, ", 15);
    for (int i = 0; i < ITEMS; i++)
        items[i] = (RenderItem){.prompt = prompts[i],
                                .negative = i % 2 ? "blurry" : "",
                                .seed = (uint64_t)(100 + i / 2),
                                .guidance = 2 + i,
                                .source = source,
                                .mask = i == 3 ? black : mask,
                                .variation_seed = 9,
                                .variation_strength = i == 4 ? 0.3 : 0,
                                .seed_width = i == 1 ? 16 : 0,
                                .seed_height = i == 1 ? 24 : 0};
}

typedef enum { KIND_TEXT, KIND_SOURCE, KIND_MASK, KIND_LATENT, KIND_PIXELS, KIND_TILES, KINDS } Kind;

static void make_setup(const Render *r, Kind kind, RenderSetup *s)
{
    render_setup_default(r, s);
    OK(sampler_conf_set_kind(&s->sampler, "euler_a"));
    s->sampler.steps = 3;
    s->width = 24;
    s->height = 16;
    s->source = kind == KIND_SOURCE || kind == KIND_MASK;
    s->mask = kind == KIND_MASK;
    s->strength = 0.7;
    s->hires = (RenderHires){.scale = 1.5, .strength = 0.7, .steps = 2};
    s->inpaint.blur = 1;
    if (kind == KIND_LATENT)
        s->hires.upscale = RENDER_UPSCALE_LATENT_BICUBIC;
    if (kind == KIND_PIXELS)
        s->hires.upscale = RENDER_UPSCALE_LANCZOS;
    if (kind == KIND_TILES) {
        s->width = 72;
        s->height = 64;
        s->sampler.steps = 1;
        s->vae_tile = 64;
    }
}

static void render_all(Render *r, Kind kind, int batch, RenderResult *res)
{
    RenderItem items[ITEMS];
    RenderSetup s;
    make_items(items);
    make_setup(r, kind, &s);
    for (int i = 0; i < ITEMS; i += batch) {
        int n = ITEMS - i < batch ? ITEMS - i : batch;
        OK(render_run(r, &s, items + i, n, res + i, NULL, NULL));
    }
}

static void same_results(const RenderResult *a, const RenderResult *b)
{
    for (int i = 0; i < ITEMS; i++) {
        assert_int_equal(a[i].image.w, b[i].image.w);
        assert_int_equal(a[i].image.h, b[i].image.h);
        size_t pixels = (size_t)a[i].image.w * (size_t)a[i].image.h;
        assert_memory_equal(a[i].image.data, b[i].image.data, pixels * 3);
        assert_memory_equal(a[i].latents, b[i].latents, pixels / 4 * 4 * sizeof(float)); /* factor 2, 4 channels */
    }
}

static void free_results(RenderResult *res)
{
    for (int i = 0; i < ITEMS; i++)
        render_result_deinit(&res[i]);
}

/* One at a time with nothing kept, in twos, all at once, with everything kept. */
static void test_sweep_edit__same_bits_in_any_batch(void **state)
{
    Render *bare = open_model(0);
    for (int kind = 0; kind < KINDS; kind++) {
        RenderResult one[ITEMS], two[ITEMS], all[ITEMS];
        render_all(bare, (Kind)kind, 1, one);
        render_all(*state, (Kind)kind, 2, two);
        render_all(*state, (Kind)kind, ITEMS, all);
        same_results(one, two);
        same_results(one, all);
        free_results(one);
        free_results(two);
        free_results(all);
    }
    render_close(bare);
}

/* ---- meaning ---- */

static void run_one(Render *r, const RenderSetup *s, const RenderItem *item, RenderResult *res)
{
    OK(render_run(r, s, item, 1, res, NULL, NULL));
}

static void test_sweep_edit__strength_0_is_the_source(void **state)
{
    RenderSetup s;
    RenderResult res;
    IoImage want;
    const float *moments;
    float x[8 * 12 * 4];
    const RenderItem item = {.prompt = "x", .negative = "", .guidance = 2, .source = source};
    make_setup(*state, KIND_SOURCE, &s);
    s.strength = 0;
    s.encode = RENDER_ENCODE_MEAN;
    run_one(*state, &s, &item, &res);
    OK(render_source_moments(*state, &s, &item, NULL, &moments));
    render_moments_latent(*state, moments, NULL, 8 * 12, x);
    OK(render_decode(*state, &s, x, 24, 16, &want));
    assert_memory_equal(res.image.data, want.data, 24 * 16 * 3);
    io_image_deinit(&want);
    render_result_deinit(&res);
}

/* Pasted, every pixel under black is the source's byte; the part under white is new. Nothing under a mask that is black all over. */
static void test_sweep_edit__black_stays(void **state)
{
    RenderSetup s;
    RenderResult res;
    IoImage want;
    RenderItem item = {.prompt = "x", .negative = "", .seed = 3, .guidance = 2, .source = source, .mask = mask};
    make_setup(*state, KIND_MASK, &s);
    s.inpaint.blur = 0;
    s.inpaint.paste = 1;
    OK(io_image_load(&want, source));
    run_one(*state, &s, &item, &res);
    int changed = 0;
    for (int i = 0; i < 24 * 16; i++)
        if (i % 24 >= 6 && i % 24 < 16 && i / 24 < 10)
            changed += memcmp(res.image.data + 3 * i, want.data + 3 * i, 3) != 0;
        else
            assert_memory_equal(res.image.data + 3 * i, want.data + 3 * i, 3);
    assert_true(changed > 50);
    render_result_deinit(&res);
    item.mask = black;
    run_one(*state, &s, &item, &res);
    assert_memory_equal(res.image.data, want.data, 24 * 16 * 3);
    render_result_deinit(&res);
    s.inpaint.invert = 1; /* all is new */
    run_one(*state, &s, &item, &res);
    assert_memory_not_equal(res.image.data, want.data, 24 * 16 * 3);
    render_result_deinit(&res);
    io_image_deinit(&want);
}

static void test_sweep_edit__a_tile_as_large_as_the_image_changes_nothing(void **state)
{
    RenderSetup s;
    RenderResult a, b, c;
    const RenderItem item = {.prompt = "x", .negative = "", .guidance = 2};
    make_setup(*state, KIND_TILES, &s);
    s.vae_tile = 0;
    run_one(*state, &s, &item, &a);
    s.vae_tile = 72;
    run_one(*state, &s, &item, &b);
    assert_memory_equal(a.image.data, b.image.data, 72 * 64 * 3);
    s.vae_tile = 64;
    run_one(*state, &s, &item, &c);
    assert_memory_not_equal(a.image.data, c.image.data, 72 * 64 * 3);
    assert_memory_equal(a.latents, c.latents, 36 * 32 * 4 * sizeof(float));
    render_result_deinit(&a);
    render_result_deinit(&b);
    render_result_deinit(&c);
}

static void test_sweep_edit__automatic_tiles_follow_the_size_alone(void **state)
{
    RenderSetup s;
    make_setup(*state, KIND_TEXT, &s);
    render_setup_tile(*state, &s, -1);
    assert_int_equal(s.vae_tile, 0);
    s.width = s.height = 1024;
    s.hires.upscale = RENDER_UPSCALE_LATENT_NEAREST;
    render_setup_tile(*state, &s, -1);
    assert_int_equal(s.vae_tile, 512);
    render_setup_tile(*state, &s, 0);
    assert_int_equal(s.vae_tile, 0);
}

static void test_sweep_edit__plan_counts_both_passes(void **state)
{
    RenderSetup s;
    RenderPlan p;
    make_setup(*state, KIND_PIXELS, &s);
    OK(sampler_conf_set_kind(&s.sampler, "ddim"));
    s.sampler.steps = 6;
    s.hires.steps = 4;
    s.hires.strength = 0.5;
    OK(render_plan(*state, &s, 2, NULL, &p));
    assert_int_equal(p.model_calls, 6);
    assert_int_equal(p.second_calls, 2);
    assert_int_equal(p.decodes, 2);
    assert_int_equal(p.encodes, 1);
    assert_true(p.part[RENDER_PLAN_SECOND].arena > p.part[PIPELINE_UNET].arena);
    make_setup(*state, KIND_TILES, &s);
    OK(render_plan(*state, &s, 1, NULL, &p));
    assert_int_equal(p.decodes, 2);
    assert_int_equal(p.part[RENDER_PLAN_SECOND].nodes, 0);
}

/* ---- several models ---- */

static void test_sweep_edit__pool_gives_what_one_model_gives(void **state)
{
    static const int64_t keeps[] = {0, (int64_t)1 << 30};
    const RenderItem item = {.prompt = "x", .negative = "", .guidance = 2};
    RenderSetup s;
    RenderResult want, got;
    make_setup(*state, KIND_TEXT, &s);
    run_one(*state, &s, &item, &want);
    for (int k = 0; k < 2; k++) {
        const RenderConf conf = {.dtype = DTYPE_F32, .threads = 1, .keep = keeps[k]};
        RenderPool *pool;
        Render *a, *b, *again;
        OK(render_pool_create(&pool, &conf));
        OK(render_pool_ahead(pool, MODEL, ""));
        for (int i = 0; i < 2; i++) {
            OK(render_pool_get(pool, MODEL, NULL, &a));
            run_one(a, &s, &item, &got);
            assert_memory_equal(got.image.data, want.image.data, 24 * 16 * 3);
            render_result_deinit(&got);
            OK(render_pool_get(pool, MODEL, MODEL "/vae", &b)); /* another model to the pool */
            run_one(b, &s, &item, &got);
            assert_memory_equal(got.image.data, want.image.data, 24 * 16 * 3);
            render_result_deinit(&got);
        }
        OK(render_pool_get(pool, MODEL, "", &again));
        assert_ptr_equal(a, again);
        assert_ptr_not_equal(a, b);
        FAILS(render_pool_get(pool, MODEL, "tests/vectors/nowhere", &b), ERR_NOTFOUND, "nowhere");
        render_pool_destroy(pool);
    }
    render_result_deinit(&want);
}

static void test_sweep_edit__refuses(void **state)
{
    RenderSetup s;
    RenderResult res;
    RenderItem item = {.prompt = "x", .negative = "", .guidance = 2, .source = source, .mask = mask};
    make_setup(*state, KIND_MASK, &s);
    s.source = 0;
    FAILS(render_run(*state, &s, &item, 1, &res, NULL, NULL), ERR_RANGE, "mask without a source");
    make_setup(*state, KIND_MASK, &s);
    s.hires.upscale = RENDER_UPSCALE_LATENT_NEAREST;
    FAILS(render_run(*state, &s, &item, 1, &res, NULL, NULL), ERR_UNSUPPORTED, "hires with a mask");
    make_setup(*state, KIND_SOURCE, &s);
    s.strength = 1.5;
    FAILS(render_run(*state, &s, &item, 1, &res, NULL, NULL), ERR_RANGE, "strength");
    make_setup(*state, KIND_SOURCE, &s);
    item.source = "tests/vectors/none.png";
    FAILS(render_run(*state, &s, &item, 1, &res, NULL, NULL), ERR_NOTFOUND, "none.png");
    item.source = source;
    item.mask = "Makefile";
    make_setup(*state, KIND_MASK, &s);
    assert_true(render_run(*state, &s, &item, 1, &res, NULL, NULL) < 0);
    assert_non_null(strstr(err_message(), "Makefile"));
    make_setup(*state, KIND_TILES, &s);
    s.vae_tile = 16;
    FAILS(render_run(*state, &s, &item, 1, &res, NULL, NULL), ERR_RANGE, "vae_tile");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sweep_edit__resize_of_torch),
        cmocka_unit_test(test_sweep_edit__same_bits_in_any_batch),
        cmocka_unit_test(test_sweep_edit__strength_0_is_the_source),
        cmocka_unit_test(test_sweep_edit__black_stays),
        cmocka_unit_test(test_sweep_edit__a_tile_as_large_as_the_image_changes_nothing),
        cmocka_unit_test(test_sweep_edit__automatic_tiles_follow_the_size_alone),
        cmocka_unit_test(test_sweep_edit__plan_counts_both_passes),
        cmocka_unit_test(test_sweep_edit__pool_gives_what_one_model_gives),
        cmocka_unit_test(test_sweep_edit__refuses),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
