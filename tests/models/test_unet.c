#include "models/fixture.h"

typedef struct {
    Fix f;
    UnetConfig c;
    IoSafetensors *weights, *ref;
    OpRef x, t, ctx, out;
} UnetTest;

static void unet_open_threads(UnetTest *u, const char *model, const char *ref, Dtype dtype, int taps, int threads)
{
    char path[256];
    memset(u, 0, sizeof *u);
    snprintf(path, sizeof path, "tests/vectors/%s-tiny/unet/config.json", model);
    read_unet_config(&u->c, path);
    snprintf(path, sizeof path, "tests/vectors/unet/%s.safetensors", ref);
    OK(io_safetensors_open(&u->ref, path));
    fix_open_threads(&u->f, dtype, threads);
    if (taps) {
        u->f.nn.tap = fix_tap;
        u->f.nn.tap_user = &u->f;
    }
    Ref x = ref_get(u->ref, "sample", 1), ctx = ref_get(u->ref, "encoder_hidden_states", 0), t = ref_get(u->ref, "timestep", 0);
    u->x = graph_input(u->f.g, "x", DTYPE_F32, x.shape);
    u->t = graph_input(u->f.g, "t", DTYPE_F32, t.shape);
    u->ctx = graph_input(u->f.g, "ctx", DTYPE_F32, ctx.shape);
    size_t mark = nn_push(&u->f.nn, "unet");
    u->out = unet_forward(&u->f.nn, &u->c, u->x, u->t, u->ctx);
    nn_pop(&u->f.nn, mark);
    OK(graph_status(u->f.g));
    fix_keep(&u->f, u->out);
    for (int i = 0; i < u->f.ntap; i++)
        fix_keep(&u->f, u->f.tap[i].t);
    snprintf(path, sizeof path, "tests/vectors/%s-tiny/unet", model);
    u->weights = fix_load(&u->f, "unet", path, NULL);
    fix_plan(&u->f);
    fix_write(&u->f, u->x, &x);
    fix_write(&u->f, u->t, &t);
    fix_write(&u->f, u->ctx, &ctx);
    OK(exec_run(u->f.ex));
    free(x.v);
    free(ctx.v);
    free(t.v);
}

static void unet_open(UnetTest *u, const char *model, const char *ref, Dtype dtype, int taps)
{
    unet_open_threads(u, model, ref, dtype, taps, 1);
}

static void unet_close(UnetTest *u)
{
    fix_close(&u->f);
    io_safetensors_close(u->weights);
    io_safetensors_close(u->ref);
}

/* Every tap of the reference file, then the output. */
static void check_taps(const char *model)
{
    UnetTest u;
    int seen = 0;
    unet_open(&u, model, model, DTYPE_F32, 1);
    for (int i = 0; i < io_safetensors_count(u.ref); i++) {
        const char *name = io_safetensors_name(u.ref, i);
        if (strncmp(name, "tap.", 4))
            continue;
        int at = -1;
        for (int k = 0; k < u.f.ntap; k++)
            if (!strcmp(u.f.tap[k].path + 5, name + 4))
                at = k;
        if (at < 0) {
            print_error("no tap for %s\n", name);
            fail();
        }
        check_error(name, fix_error(&u.f, u.f.tap[at].t, u.ref, name), REL_F32);
        seen++;
    }
    assert_true(seen >= 20);
    check_error("output", fix_error(&u.f, u.out, u.ref, "output"), REL_F32);
    unet_close(&u);
}

static void check_plain(const char *model, const char *ref)
{
    UnetTest u;
    unet_open(&u, model, ref, DTYPE_F32, 0);
    check_error(ref, fix_error(&u.f, u.out, u.ref, "output"), REL_F32);
    unet_close(&u);
}

static void test_models_unet__sd15_taps(void **state)
{
    (void)state;
    check_taps("sd15");
}

static void test_models_unet__sd21_taps(void **state)
{
    (void)state;
    check_taps("sd21");
}

static void test_models_unet__output_without_taps(void **state)
{
    (void)state;
    check_plain("sd15", "sd15");
    check_plain("sd21", "sd21");
}

static void test_models_unet__odd_sizes(void **state)
{
    (void)state;
    check_plain("sd15", "sd15_odd");
    check_plain("sd21", "sd21_odd");
}

/* SDXL's kind of conditioning, against diffusers (tests/peers/make_sdxl.py). */
static void test_models_unet__sdxl(void **state)
{
    (void)state;
    static const char *const names[] = {"sample", "timestep", "encoder_hidden_states", "text_embeds", "time_ids"};
    UnetConfig c = {.levels = 2, .channels = {8, 16}, .layers = {1, 1}, .heads = {1, 2}, .depth = {1, 2}, .down_cross = {0, 1}, .up_cross = {1, 0},
                    .in_channels = 4, .out_channels = 4, .context = 12, .groups = 4, .eps = 1e-5f, .linear_projection = 1, .flip_sin_to_cos = 1,
                    .conv_in_kernel = 3, .conv_out_kernel = 3, .downsample_padding = 1, .time_dim = 32, .sample_size = 8};
    Fix f;
    IoSafetensors *ref, *weights;
    OpRef in[5];
    fix_open(&f, DTYPE_F32);
    OK(io_safetensors_open(&ref, "tests/vectors/sdxl-tiny/ref.safetensors"));
    for (int i = 0; i < 5; i++) {
        Ref r = ref_get(ref, names[i], i == 0);
        in[i] = graph_input(f.g, names[i], DTYPE_F32, i == 4 ? SHAPE(r.count) : r.shape);
        free(r.v);
    }
    size_t mark = nn_push(&f.nn, "unet");
    OpRef y = unet_forward_added(&f.nn, &c, in[0], in[1], in[2], &(UnetAdded){in[3], in[4], 8});
    nn_pop(&f.nn, mark);
    OK(graph_status(f.g));
    fix_keep(&f, y);
    weights = fix_load(&f, "unet", "tests/vectors/sdxl-tiny", NULL);
    fix_plan(&f);
    for (int i = 0; i < 5; i++) {
        Ref r = ref_get(ref, names[i], i == 0);
        fix_write(&f, in[i], &r);
        free(r.v);
    }
    OK(exec_run(f.ex));
    check_error("output", fix_error(&f, y, ref, "output"), REL_F32);
    fix_close(&f);
    io_safetensors_close(weights);
    io_safetensors_close(ref);
}

static void test_models_unet__bf16(void **state)
{
    (void)state;
    UnetTest u;
    unet_open(&u, "sd15", "sd15", DTYPE_BF16, 0);
    Ref r = ref_get(u.ref, "output", 1);
    float *v = fix_read(&u.f, u.out, r.count);
    check_error("bf16 output (rms)", rms_error(v, r.v, r.count), 2e-2);
    free(v);
    free(r.v);
    unet_close(&u);
}

static void test_models_unet__threads_do_not_matter(void **state)
{
    (void)state;
    UnetTest a, b;
    unet_open_threads(&a, "sd15", "sd15_odd", DTYPE_F32, 0, 1);
    unet_open_threads(&b, "sd15", "sd15_odd", DTYPE_F32, 0, 2);
    int64_t n = shape_count(&graph_meta(a.f.g, a.out)->shape);
    float *x = fix_read(&a.f, a.out, n), *y = fix_read(&b.f, b.out, n);
    assert_memory_equal(x, y, (size_t)n * sizeof *x);
    free(x);
    free(y);
    unet_close(&a);
    unet_close(&b);
}

/* Of a batch of two different items each has the bits that it has alone. */
static void test_models_unet__items_do_not_matter(void **state)
{
    (void)state;
    enum { L = 7, N = 6 * 5 * 4, C = L * 32 };
    static float x[2 * N], context[2 * C], got[3][2 * N];
    static const float time[2] = {10, 700};
    UnetConfig c;
    read_unet_config(&c, "tests/vectors/sd15-tiny/unet/config.json");
    for (int i = 0; i < 2 * N; i++)
        x[i] = sinf(1.7f * (float)i);
    for (int i = 0; i < 2 * C; i++)
        context[i] = cosf(0.3f * (float)i);
    for (Dtype t = DTYPE_F32; t <= DTYPE_BF16; t++) {
        for (int k = 0; k < 3; k++) { /* both, the first, the second */
            Fix f;
            int n = k ? 1 : 2, at = k == 2;
            fix_open(&f, t);
            OpRef in = graph_input(f.g, "x", DTYPE_F32, SHAPE(n, 6, 5, 4)), when = graph_input(f.g, "t", DTYPE_F32, SHAPE(n));
            OpRef ctx = graph_input(f.g, "ctx", DTYPE_F32, SHAPE(n, L, 32));
            size_t mark = nn_push(&f.nn, "unet");
            OpRef y = unet_forward(&f.nn, &c, in, when, ctx);
            nn_pop(&f.nn, mark);
            fix_keep(&f, y);
            IoSafetensors *s = fix_load(&f, "unet", "tests/vectors/sd15-tiny/unet", NULL);
            fix_plan(&f);
            OK(exec_write_f32(f.ex, in, x + at * N, n * N));
            OK(exec_write_f32(f.ex, when, time + at, n));
            OK(exec_write_f32(f.ex, ctx, context + at * C, n * C));
            OK(exec_run(f.ex));
            OK(exec_read_f32(f.ex, y, got[k] + at * N, n * N));
            fix_close(&f);
            io_safetensors_close(s);
        }
        assert_memory_equal(got[0], got[1], N * sizeof(float));
        assert_memory_equal(got[0] + N, got[2] + N, N * sizeof(float));
    }
}

/* An epsilon of 1e-5 or 1e-6 is below the tolerances at these variances: the attributes themselves are looked at. */
static void test_models_unet__epsilons(void **state)
{
    (void)state;
    UnetTest u;
    int resnet = 0, transformer = 0, layer = 0;
    unet_open(&u, "sd15", "sd15", DTYPE_F32, 0);
    for (int i = 0; i < graph_node_count(u.f.g); i++) {
        const GraphNode *n = graph_node(u.f.g, i);
        if (n->kind == OP_GROUP_NORM && n->attr.act == ACT_SILU)
            resnet += n->attr.eps == 1e-5f;
        else if (n->kind == OP_GROUP_NORM)
            transformer += n->attr.eps == 1e-6f;
        else if (n->kind == OP_LAYER_NORM)
            layer += n->attr.eps == 1e-5f;
    }
    assert_int_equal(resnet, 2 * 22 + 1);
    assert_int_equal(transformer, 16);
    assert_int_equal(layer, 3 * 16);
    unet_close(&u);
}

/* The weights of the file are used in place: all are fp32 and aligned. */
static void test_models_unet__weights_are_mapped(void **state)
{
    (void)state;
    UnetTest u;
    unet_open(&u, "sd15", "sd15", DTYPE_F32, 0);
    assert_int_equal(nn_params_owned_bytes(u.f.ps), 0);
    assert_int_equal(nn_params_count(u.f.ps), io_safetensors_count(u.weights));
    unet_close(&u);
}

static void test_models_unet__wrong_inputs(void **state)
{
    (void)state;
    UnetConfig c;
    Fix f;
    read_unet_config(&c, "tests/vectors/sd15-tiny/unet/config.json");
    fix_open(&f, DTYPE_F32);
    OpRef x = graph_input(f.g, "x", DTYPE_F32, SHAPE(1, 8, 8, 3)), t = graph_input(f.g, "t", DTYPE_F32, SHAPE(1));
    OpRef ctx = graph_input(f.g, "ctx", DTYPE_F32, SHAPE(1, 77, 32));
    assert_int_equal(unet_forward(&f.nn, &c, x, t, ctx), OP_NONE);
    FAILS(graph_status(f.g), ERR_SHAPE, "unet: sample is [1,8,8,3], expected [N,H,W,4]");
    fix_close(&f);
}

/* center_input_sample: 2x - 1 before the first convolution. */
static void test_models_unet__center_input(void **state)
{
    (void)state;
    UnetConfig c;
    float out[2][4 * 4 * 4];
    read_unet_config(&c, "tests/vectors/sd15-tiny/unet/config.json");
    for (int k = 0; k < 2; k++) {
        Fix f;
        fix_open(&f, DTYPE_F32);
        c.center_input = k;
        OpRef x = graph_input(f.g, "x", DTYPE_F32, SHAPE(1, 4, 4, 4)), t = graph_input(f.g, "t", DTYPE_F32, SHAPE(1));
        OpRef ctx = graph_input(f.g, "ctx", DTYPE_F32, SHAPE(1, 3, 32));
        size_t mark = nn_push(&f.nn, "unet");
        OpRef y = unet_forward(&f.nn, &c, x, t, ctx);
        nn_pop(&f.nn, mark);
        fix_keep(&f, y);
        IoSafetensors *s = fix_load(&f, "unet", "tests/vectors/sd15-tiny/unet", NULL);
        fix_plan(&f);
        float v[64], time = 10, context[96] = {0};
        for (int i = 0; i < 64; i++)
            v[i] = k ? (sinf((float)i) + 1) / 2 : sinf((float)i);
        OK(exec_write_f32(f.ex, x, v, 64));
        OK(exec_write_f32(f.ex, t, &time, 1));
        OK(exec_write_f32(f.ex, ctx, context, 96));
        OK(exec_run(f.ex));
        OK(exec_read_f32(f.ex, y, out[k], 64));
        fix_close(&f);
        io_safetensors_close(s);
    }
    check_error("centred", max_error(out[1], out[0], 64), 1e-5);
}

static void config_fails(const char *key, const char *value, int code, const char *part)
{
    char text[2048];
    ModelJson *j;
    UnetConfig c;
    snprintf(text, sizeof text,
             "{\"block_out_channels\": [32, 64], \"norm_num_groups\": 8, \"down_block_types\": [\"CrossAttnDownBlock2D\", "
             "\"DownBlock2D\"], \"up_block_types\": [\"UpBlock2D\", \"CrossAttnUpBlock2D\"], \"%s\": %s}", key, value);
    OK(model_json_parse(&j, text, strlen(text), "config.json"));
    FAILS(unet_config(&c, j), code, part);
    model_json_close(j);
}

static void test_models_unet__config_errors(void **state)
{
    (void)state;
    config_fails("addition_embed_type", "\"text_time\"", ERR_UNSUPPORTED, "config.json: key 'addition_embed_type' is \"text_time\"");
    config_fails("mid_block_type", "\"UNetMidBlock2DSimpleCrossAttn\"", ERR_UNSUPPORTED, "mid_block_type");
    config_fails("attention_head_dim", "[8]", ERR_SHAPE, "key 'attention_head_dim' has 1 entries, expected 2");
    config_fails("attention_head_dim", "7", ERR_SHAPE, "7 heads, which do not divide the 32 channels");
    config_fails("layers_per_block", "0", ERR_RANGE, "key 'layers_per_block' is 0, expected 1..64");
    config_fails("layers_per_block", "\"two\"", ERR_FORMAT, "key 'layers_per_block' is \"two\", expected an integer");
    config_fails("act_fn", "\"mish\"", ERR_UNSUPPORTED, "act_fn");
    config_fails("use_linear_projection", "1", ERR_FORMAT, "expected true or false");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_models_unet__sd15_taps),
        cmocka_unit_test(test_models_unet__sd21_taps),
        cmocka_unit_test(test_models_unet__output_without_taps),
        cmocka_unit_test(test_models_unet__odd_sizes),
        cmocka_unit_test(test_models_unet__sdxl),
        cmocka_unit_test(test_models_unet__bf16),
        cmocka_unit_test(test_models_unet__threads_do_not_matter),
        cmocka_unit_test(test_models_unet__items_do_not_matter),
        cmocka_unit_test(test_models_unet__epsilons),
        cmocka_unit_test(test_models_unet__weights_are_mapped),
        cmocka_unit_test(test_models_unet__wrong_inputs),
        cmocka_unit_test(test_models_unet__center_input),
        cmocka_unit_test(test_models_unet__config_errors),
    };
    return fix_run(tests, sizeof tests / sizeof *tests);
}
