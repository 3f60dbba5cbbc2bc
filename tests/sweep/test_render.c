/* Rendering end to end against diffusers' pipelines (tests/vectors/e2e, noise given), and independence of an image from its batch. */
#include "models/fixture.h"

#include <unistd.h>

#include "base/rng_torch.h"
#include "sweep/render.h"

static Render *open_model(const char *model, Dtype dtype, int64_t keep)
{
    const RenderConf conf = {.model = model, .dtype = dtype, .threads = 2, .keep = keep};
    Render *r;
    OK(render_open(&r, &conf));
    return r;
}

/* The scheduler of a reference file, by way of a JSON file as diffusers writes it. */
static void read_scheduler(SamplerConf *conf, IoSafetensors *f)
{
    char path[] = "/tmp/atelier-test-XXXXXX", text[4096];
    const char *config = io_safetensors_meta(f, "scheduler_config"), *class = io_safetensors_meta(f, "scheduler");
    int fd = mkstemp(path), n = snprintf(text, sizeof text, "{\"_class_name\": \"%s\", %s", class, config + 1);
    char *inf = strstr(text, "-Infinity"); /* Python's JSON only */
    if (inf)
        memcpy(inf, "null     ", 9);
    assert_true(fd >= 0 && write(fd, text, (size_t)n) == n);
    close(fd);
    sampler_conf_default(conf);
    OK(sampler_conf_from_json(conf, path));
    unlink(path);
}

static double meta_number(IoSafetensors *f, const char *key, double absent)
{
    const char *text = io_safetensors_meta(f, key);
    return text ? atof(text) : absent;
}

static void compare(IoSafetensors *f, const RenderResult *res, int i, int64_t count)
{
    IoTensor lat, img;
    OK(io_safetensors_get(f, "final_latents", &lat));
    OK(io_safetensors_get(f, "image_u8", &img));
    const float *want = (const float *)lat.data + i * count;
    double worst = 0, scale = 0;
    for (int64_t k = 0; k < count; k++) {
        worst = fmax(worst, fabs((double)res->latents[k] - want[k]));
        scale = fmax(scale, fabs((double)want[k]));
    }
    size_t bytes = (size_t)res->image.w * (size_t)res->image.h * 3;
    const uint8_t *pixels = (const uint8_t *)img.data + (size_t)i * bytes;
    int levels = 0;
    for (size_t k = 0; k < bytes; k++)
        levels = abs(res->image.data[k] - pixels[k]) > levels ? abs(res->image.data[k] - pixels[k]) : levels;
    print_message("latents: %.2e of %.3f (limit %.2e), image: %d levels\n", worst, scale, 2e-4 * scale, levels);
    assert_true(worst <= 2e-4 * scale);
    assert_true(levels <= 1);
}

/* items: prompts of the file, or two given ones for the batch. */
static void run_case(Render *r, const char *name, const char *lora)
{
    char path[256];
    static const char *const batch_prompt[2] = {"a photo of an astronaut riding a horse on mars, 4k, highly detailed", "two cats"};
    static const char *const batch_negative[2] = {"blurry, low quality", ""};
    IoSafetensors *f;
    IoTensor init, noise;
    RenderSetup s;
    snprintf(path, sizeof path, "tests/vectors/e2e/%s.safetensors", name);
    OK(io_safetensors_open(&f, path));
    OK(io_safetensors_get(f, "init_latents", &init));
    int n = (int)init.dim[0];
    int64_t count = init.dim[1] * init.dim[2] * init.dim[3];
    render_setup_default(r, &s);
    s.rules = PROMPT_DIFFUSERS;
    read_scheduler(&s.sampler, f);
    s.sampler.steps = (int)meta_number(f, "steps", 8);
    s.width = (int)meta_number(f, "width", 48);
    s.height = (int)meta_number(f, "height", 32);
    double guidance = meta_number(f, "guidance_scale", 7.5);
    s.guided = guidance > 1;
    if (lora)
        s.lora[s.nlora++] = (RenderLora){lora, 0.8};
    const float *draws[16];
    int ndraws = 0;
    for (; ndraws < 16; ndraws++) {
        snprintf(path, sizeof path, "noise.scheduling_euler_ancestral_discrete.%d", ndraws);
        if (io_safetensors_find(f, path) < 0)
            break;
        OK(io_safetensors_get(f, path, &noise));
        draws[ndraws] = noise.data;
    }
    RenderItem items[2];
    RenderResult res[2];
    for (int i = 0; i < n; i++)
        items[i] = (RenderItem){.prompt = n > 1 ? batch_prompt[i] : io_safetensors_meta(f, "prompt"),
                                .negative = n > 1 ? batch_negative[i] : io_safetensors_meta(f, "negative_prompt"),
                                .guidance = guidance,
                                .guidance_rescale = meta_number(f, "guidance_rescale", 0),
                                .init_latents = (const float *)init.data + i * count,
                                .noise = ndraws ? draws : NULL,
                                .nnoise = ndraws};
    OK(render_run(r, &s, items, n, res, NULL, NULL));
    for (int i = 0; i < n; i++) {
        compare(f, &res[i], i, count);
        render_result_deinit(&res[i]);
    }
    io_safetensors_close(f);
}

static int setup_sd15(void **state)
{
    *state = open_model("tests/vectors/sd15-tiny", DTYPE_F32, (int64_t)1 << 30);
    return 0;
}

static int teardown(void **state)
{
    render_close(*state);
    return 0;
}

#define GOLDEN(test, file, lora)                 \
    static void test(void **state)               \
    {                                            \
        run_case(*state, file, lora);            \
    }
GOLDEN(test_sweep_render__ddim, "sd15_ddim", NULL)
GOLDEN(test_sweep_render__pndm, "sd15_pndm", NULL)
GOLDEN(test_sweep_render__euler, "sd15_euler", NULL)
GOLDEN(test_sweep_render__euler_ancestral, "sd15_euler_a", NULL)
GOLDEN(test_sweep_render__dpmpp_2m_karras, "sd15_dpmpp2m_karras", NULL)
GOLDEN(test_sweep_render__guidance_off, "sd15_ddim_cfg1", NULL)
GOLDEN(test_sweep_render__guidance_rescale, "sd15_ddim_rescale", NULL)
GOLDEN(test_sweep_render__batch_of_two, "sd15_ddim_batch2", NULL)
GOLDEN(test_sweep_render__lora_text_and_unet, "sd15_lora_attn_te_scale0.8", "tests/vectors/lora/lora_attn_te.kohya.safetensors")
GOLDEN(test_sweep_render__lora_convolutions, "sd15_lora_ffconv_scale0.8", "tests/vectors/lora/lora_ffconv.diffusers.safetensors")

static void test_sweep_render__v_prediction(void **state)
{
    (void)state;
    Render *r = open_model("tests/vectors/sd21-tiny", DTYPE_F32, 0);
    run_case(r, "sd21_ddim", NULL);
    render_close(r);
}

/* ---- an image depends on nothing but itself ---- */

enum { ITEMS = 5 };

static void make_items(RenderItem *items)
{
    static const char *const prompts[ITEMS] = {"a red fox", "two cats", "", "a red fox", "the sea at night"};
    for (int i = 0; i < ITEMS; i++)
        items[i] = (RenderItem){.prompt = prompts[i],
                                .negative = i % 2 ? "blurry" : "",
                                .seed = (uint64_t)(100 + i / 2),
                                .guidance = 2 + i,
                                .guidance_rescale = i == 4 ? 0.5 : 0};
}

static void small_setup(const Render *r, RenderSetup *s)
{
    render_setup_default(r, s);
    OK(sampler_conf_set_kind(&s->sampler, "euler_a"));
    s->sampler.steps = 3;
    s->width = 24;
    s->height = 16;
}

static void render_in_batches(Render *r, const RenderSetup *s, const RenderItem *items, int batch, RenderResult *res)
{
    for (int i = 0; i < ITEMS; i += batch) {
        int n = ITEMS - i < batch ? ITEMS - i : batch;
        OK(render_run(r, s, items + i, n, res + i, NULL, NULL));
    }
}

static void same_results(const RenderResult *a, const RenderResult *b, int64_t count)
{
    for (int i = 0; i < ITEMS; i++) {
        assert_memory_equal(a[i].latents, b[i].latents, (size_t)count * sizeof(float));
        assert_memory_equal(a[i].image.data, b[i].image.data, (size_t)a[i].image.w * (size_t)a[i].image.h * 3);
    }
}

static void free_results(RenderResult *res)
{
    for (int i = 0; i < ITEMS; i++)
        render_result_deinit(&res[i]);
}

static void check_batches(Dtype dtype, int guided, const char *lora)
{
    static const int sizes[] = {2, 5, 3};
    RenderItem items[ITEMS];
    RenderResult one[ITEMS], many[ITEMS];
    RenderSetup s;
    int64_t dim[3];
    make_items(items);
    Render *r = open_model("tests/vectors/sd15-tiny", dtype, 0);
    small_setup(r, &s);
    s.guided = guided;
    if (lora)
        s.lora[s.nlora++] = (RenderLora){lora, 0.7};
    render_in_batches(r, &s, items, 1, one);
    render_close(r);
    for (int i = 0; i < 3; i++) {
        r = open_model("tests/vectors/sd15-tiny", dtype, (int64_t)1 << 30);
        render_in_batches(r, &s, items, sizes[i], many);
        same_results(one, many, render_latent_count(r, &s, dim));
        free_results(many);
        render_close(r);
    }
    free_results(one);
}

static void test_sweep_render__same_bits_in_any_batch(void **state)
{
    (void)state;
    check_batches(DTYPE_F32, 1, NULL);
}

static void test_sweep_render__same_bits_unguided(void **state)
{
    (void)state;
    check_batches(DTYPE_F32, 0, NULL);
}

static void test_sweep_render__same_bits_bf16_lora(void **state)
{
    (void)state;
    check_batches(DTYPE_BF16, 1, "tests/vectors/lora/lora_attn_te.kohya.safetensors");
}

/* Going back and forth between adapters, sizes and scales leaves no trace. */
static void test_sweep_render__history_leaves_no_trace(void **state)
{
    Render *r = *state;
    RenderItem items[ITEMS];
    RenderResult first[ITEMS], later[ITEMS], other[ITEMS];
    RenderSetup s, with, large;
    int64_t dim[3];
    make_items(items);
    small_setup(r, &s);
    with = large = s;
    with.lora[with.nlora++] = (RenderLora){"tests/vectors/lora/lora_attn_te.kohya.safetensors", 1};
    large.width = 32;
    render_in_batches(r, &s, items, 2, first);
    render_in_batches(r, &with, items, 2, other);
    int64_t count = render_latent_count(r, &s, dim);
    assert_memory_not_equal(first[0].latents, other[0].latents, (size_t)count * sizeof(float));
    free_results(other);
    render_in_batches(r, &large, items, 2, other);
    free_results(other);
    with.lora[0].scale = 0.5;
    render_in_batches(r, &with, items, 2, other);
    free_results(other);
    render_in_batches(r, &s, items, 2, later);
    same_results(first, later, count);
    free_results(first);
    free_results(later);
}

/* ---- noise of other tools ---- */

static void test_sweep_render__noise_of_torch(void **state)
{
    /* torch.randn((1, 4, 16, 24), generator=torch.Generator("cpu").manual_seed(42)): its first numbers (torch 2.11) */
    static const float want[4] = {1.9269153f, 1.4872841f, 0.9007172f, -2.1055210f};
    Render *r = *state;
    RenderSetup s;
    RenderResult a, b;
    render_setup_default(r, &s);
    OK(sampler_conf_set_kind(&s.sampler, "ddim"));
    s.sampler.steps = 1;
    s.width = 48;
    s.height = 32;
    s.guided = 0;
    s.seed_compat = SAMPLER_COMPAT_DIFFUSERS_CPU;
    RenderItem it = {.prompt = "x", .negative = "", .seed = 42, .guidance = 1};
    OK(render_run(r, &s, &it, 1, &a, NULL, NULL));
    float given[4 * 16 * 24];
    RngTorch g;
    rng_torch_init(&g, 42);
    rng_torch_normal_f32(&g, given, 4 * 16 * 24);
    for (int i = 0; i < 4; i++)
        assert_true(fabsf(given[i] - want[i]) < 1e-6f);
    it.init_latents = given;
    OK(render_run(r, &s, &it, 1, &b, NULL, NULL));
    assert_memory_equal(a.latents, b.latents, sizeof given);
    render_result_deinit(&a);
    render_result_deinit(&b);
    s.seed_compat = SAMPLER_COMPAT_A1111_GPU;
    it.init_latents = NULL;
    OK(render_run(r, &s, &it, 1, &b, NULL, NULL));
    render_result_deinit(&b);
}

/* ---- refusals and plan ---- */

static void test_sweep_render__refuses(void **state)
{
    Render *r = *state;
    RenderSetup s;
    RenderResult res;
    const RenderItem it = {.prompt = "x", .negative = "", .guidance = 2};
    render_setup_default(r, &s);
    s.width = 33;
    FAILS(render_run(r, &s, &it, 1, &res, NULL, NULL), ERR_RANGE, "multiples of 2");
    render_setup_default(r, &s);
    s.clip_skip = 99;
    FAILS(render_run(r, &s, &it, 1, &res, NULL, NULL), ERR_RANGE, "clip_skip");
    render_setup_default(r, &s);
    s.sampler.steps = 0;
    assert_true(render_run(r, &s, &it, 1, &res, NULL, NULL) < 0);
    small_setup(r, &s);
    s.lora[0] = s.lora[1] = (RenderLora){"tests/vectors/lora/lora_attn_te.kohya.safetensors", 1};
    s.nlora = 2;
    FAILS(render_run(r, &s, &it, 1, &res, NULL, NULL), ERR_RANGE, "twice");
    s.nlora = 1;
    s.lora[0].path = "tests/vectors/none.safetensors";
    FAILS(render_run(r, &s, &it, 1, &res, NULL, NULL), ERR_NOTFOUND, "none.safetensors");
    const RenderConf conf = {.model = "tests/vectors/nowhere", .dtype = DTYPE_F32};
    Render *other;
    FAILS(render_open(&other, &conf), ERR_NOTFOUND, "nowhere");
}

static int stop_at(void *ctx, int i, int n)
{
    (void)n;
    return i == *(int *)ctx ? err_set(ERR_STOPPED, "enough") : 0;
}

static void test_sweep_render__stops_when_told(void **state)
{
    RenderSetup s;
    RenderResult res;
    int at = 2;
    const RenderItem it = {.prompt = "x", .negative = "", .guidance = 2};
    small_setup(*state, &s);
    FAILS(render_run(*state, &s, &it, 1, &res, stop_at, &at), ERR_STOPPED, "enough");
    assert_null(res.image.data);
}

static void test_sweep_render__plan_is_exact(void **state)
{
    RenderSetup s;
    RenderPlan p, q;
    small_setup(*state, &s);
    OK(render_plan(*state, &s, 1, NULL, &p));
    OK(render_plan(*state, &s, 3, NULL, &q));
    assert_int_equal(p.model_calls, 3);
    assert_true(q.part[PIPELINE_UNET].flops > 2.9 * p.part[PIPELINE_UNET].flops);
    assert_true(q.part[PIPELINE_UNET].arena > p.part[PIPELINE_UNET].arena);
    assert_int_equal(q.part[PIPELINE_UNET].params, p.part[PIPELINE_UNET].params);
    size_t sum = 0;
    for (int i = 0; i < PIPELINE_PARTS; i++)
        sum += p.part[i].arena + p.part[i].params;
    assert_int_equal(p.peak, sum);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sweep_render__ddim),
        cmocka_unit_test(test_sweep_render__pndm),
        cmocka_unit_test(test_sweep_render__euler),
        cmocka_unit_test(test_sweep_render__euler_ancestral),
        cmocka_unit_test(test_sweep_render__dpmpp_2m_karras),
        cmocka_unit_test(test_sweep_render__guidance_off),
        cmocka_unit_test(test_sweep_render__guidance_rescale),
        cmocka_unit_test(test_sweep_render__batch_of_two),
        cmocka_unit_test(test_sweep_render__lora_text_and_unet),
        cmocka_unit_test(test_sweep_render__lora_convolutions),
        cmocka_unit_test(test_sweep_render__v_prediction),
        cmocka_unit_test(test_sweep_render__same_bits_in_any_batch),
        cmocka_unit_test(test_sweep_render__same_bits_unguided),
        cmocka_unit_test(test_sweep_render__same_bits_bf16_lora),
        cmocka_unit_test(test_sweep_render__history_leaves_no_trace),
        cmocka_unit_test(test_sweep_render__noise_of_torch),
        cmocka_unit_test(test_sweep_render__refuses),
        cmocka_unit_test(test_sweep_render__stops_when_told),
        cmocka_unit_test(test_sweep_render__plan_is_exact),
    };
    return cmocka_run_group_tests(tests, setup_sd15, teardown);
}
