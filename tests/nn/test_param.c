#include "models/fixture.h"

#define TMP "build/test_nn_param.safetensors"

static NnParams *new_set(void)
{
    NnParams *ps;
    OK(nn_params_create(&ps));
    return ps;
}

static Graph *new_graph(Dtype t)
{
    Graph *g;
    OK(graph_create(&g, t));
    return g;
}

static IoSafetensors *file_with(const IoTensor *t, int n)
{
    IoSafetensors *s;
    OK(io_safetensors_write(TMP, t, n, NULL, 0));
    OK(io_safetensors_open(&s, TMP));
    return s;
}

static const float VALUES[8] = {1, -2, 3.5f, 0.25f, 1e-3f, 100, -0.0f, 7};

static void test_nn_param__add_and_find(void **state)
{
    (void)state;
    NnParams *ps = new_set();
    char name[32];
    for (int i = 0; i < 2000; i++) { /* the table grows several times */
        snprintf(name, sizeof name, "p.%d", i);
        OK(nn_params_add(ps, name, DTYPE_F32, SHAPE(3), NULL));
    }
    assert_int_equal(nn_params_count(ps), 2000);
    assert_int_equal(nn_params_owned_bytes(ps), 2000 * 12);
    for (int i = 0; i < 2000; i++) {
        snprintf(name, sizeof name, "p.%d", i);
        NnParam *p = nn_params_find(ps, name);
        assert_ptr_equal(p, nn_params_at(ps, i));
        assert_int_equal((uintptr_t)p->data % 64, 0);
        assert_float_equal((double)((float *)p->data)[2], 0, 0);
    }
    assert_null(nn_params_find(ps, "p.2000"));
    FAILS(nn_params_add(ps, "p.7", DTYPE_F32, SHAPE(3), NULL), ERR_BUSY, "'p.7' exists already");
    nn_params_destroy(ps);
    nn_params_destroy(NULL);
}

/* Same dtype: mapped; other dtype: converted; one-dimensional parameters are F32 in a BF16 graph. */
static void test_nn_param__load(void **state)
{
    (void)state;
    static const uint16_t half[4] = {0x3c00, 0xc000, 0x4300, 0x3400};      /* f16 1 -2 3.5 0.25 */
    static const uint16_t brain[4] = {0x3f80, 0xc000, 0x4060, 0x3e80};     /* bf16 of the same */
    const IoTensor t[] = {
        {.name = "w32", .dtype = DTYPE_F32, .ndim = 2, .dim = {2, 2}, .data = VALUES},
        {.name = "w16", .dtype = DTYPE_F16, .ndim = 2, .dim = {2, 2}, .data = half},
        {.name = "wb", .dtype = DTYPE_BF16, .ndim = 2, .dim = {2, 2}, .data = brain},
        {.name = "b32", .dtype = DTYPE_F32, .ndim = 1, .dim = {4}, .data = VALUES},
        {.name = "b16", .dtype = DTYPE_F16, .ndim = 1, .dim = {4}, .data = half},
    };
    static const char *const names[] = {"w32", "w16", "wb", "b32", "b16"};
    for (int bf = 0; bf < 2; bf++) {
        Dtype dt = bf ? DTYPE_BF16 : DTYPE_F32;
        Graph *g = new_graph(dt);
        NnParams *ps = new_set();
        IoSafetensors *s = file_with(t, 5);
        for (int i = 0; i < 5; i++) {
            char full[32];
            snprintf(full, sizeof full, "m.%s", names[i]);
            graph_param(g, full, i < 3 ? dt : DTYPE_F32, i < 3 ? SHAPE(2, 2) : SHAPE(4));
        }
        graph_param(g, "other.x", DTYPE_F32, SHAPE(1)); /* not under the root */
        OK(nn_params_load(ps, g, "m", s, NULL));
        assert_int_equal(nn_params_count(ps), 5);
        for (int i = 0; i < 5; i++) {
            const NnParam *p = nn_params_at(ps, i);
            float v[4];
            int mapped = i == 3 || (i < 3 && (bf ? i == 2 : i == 0));
            assert_int_equal(p->owned, !mapped);
            assert_int_equal(p->frozen, 1);
            OK(dtype_convert(v, DTYPE_F32, p->data, p->dtype, 4));
            assert_memory_equal(v, VALUES, sizeof v);
        }
        NnParam *p = nn_params_find(ps, "m.b32");
        uint64_t version = p->version;
        const void *mapped = p->data;
        OK(nn_param_own(p));
        assert_ptr_not_equal(p->data, mapped);
        assert_true(p->owned && !p->frozen && p->version > version);
        assert_memory_equal(p->data, VALUES, 16);
        nn_params_destroy(ps);
        graph_destroy(g);
        io_safetensors_close(s);
    }
    remove(TMP);
}

static int two_names(const char *name, int k, char *buf, size_t size)
{
    snprintf(buf, size, "%s%s", k ? "old_" : "", name);
    return k < 2;
}

static void test_nn_param__load_names_and_ones(void **state)
{
    (void)state;
    const IoTensor t[] = {{.name = "old_a", .dtype = DTYPE_F32, .ndim = 4, .dim = {2, 2, 1, 1}, .data = VALUES},
                          {.name = "b", .dtype = DTYPE_F32, .ndim = 2, .dim = {2, 2}, .data = VALUES}};
    Graph *g = new_graph(DTYPE_F32);
    NnParams *ps = new_set();
    IoSafetensors *s = file_with(t, 2);
    graph_param(g, "m.a", DTYPE_F32, SHAPE(2, 2));
    graph_param(g, "m.b", DTYPE_F32, SHAPE(2, 2, 1, 1));
    OK(nn_params_load(ps, g, "m", s, two_names));
    assert_memory_equal(nn_params_find(ps, "m.a")->data, VALUES, 16);
    assert_int_equal(nn_params_find(ps, "m.b")->shape.ndim, 4);
    nn_params_destroy(ps);
    graph_destroy(g);
    io_safetensors_close(s);
    remove(TMP);
}

static void test_nn_param__load_errors(void **state)
{
    (void)state;
    static const int64_t ids[4] = {1, 2, 3, 4};
    const IoTensor t[] = {{.name = "a", .dtype = DTYPE_F32, .ndim = 2, .dim = {2, 4}, .data = VALUES},
                          {.name = "ids", .dtype = DTYPE_I64, .ndim = 1, .dim = {4}, .data = ids}};
    IoSafetensors *s = file_with(t, 2);
    NnParams *ps = new_set();
    Graph *g = new_graph(DTYPE_F32);
    graph_param(g, "m.a", DTYPE_F32, SHAPE(4, 2));
    FAILS(nn_params_load(ps, g, "m", s, NULL), ERR_SHAPE, "m: " TMP ": tensor 'a' has shape [2,4], expected [4,2]");
    graph_destroy(g);
    g = new_graph(DTYPE_F32);
    graph_param(g, "m.ids", DTYPE_F32, SHAPE(4));
    FAILS(nn_params_load(ps, g, "m", s, NULL), ERR_SHAPE, "tensor 'ids' is i64, expected a floating-point type");
    graph_destroy(g);
    g = new_graph(DTYPE_F32);
    graph_param(g, "m.x", DTYPE_F32, SHAPE(4));
    graph_param(g, "m.a", DTYPE_F32, SHAPE(2, 4));
    graph_param(g, "m.y", DTYPE_F32, SHAPE(4));
    FAILS(nn_params_load(ps, g, "m", s, NULL), ERR_NOTFOUND, "m: " TMP ": tensor 'x' is missing (2 of 3 are)");
    graph_destroy(g);
    g = new_graph(DTYPE_F32);
    graph_param(g, "m.a", DTYPE_F32, SHAPE(2, 4));
    OK(nn_params_load(ps, g, "m", s, NULL));
    graph_destroy(g);
    g = new_graph(DTYPE_BF16);
    graph_param(g, "m.a", DTYPE_BF16, SHAPE(2, 4));
    FAILS(nn_params_load(ps, g, "m", s, NULL), ERR_SHAPE, "parameter 'm.a' is f32 [2,4], expected bf16 [2,4]");
    graph_destroy(g);
    nn_params_destroy(ps);
    io_safetensors_close(s);
    remove(TMP);
}

static void test_nn_param__save(void **state)
{
    (void)state;
    static const Dtype to[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16};
    static const IoMeta meta[] = {{"format", "pt"}};
    NnParams *ps = new_set();
    NnParam *p;
    OK(nn_params_add(ps, "m.w", DTYPE_F32, SHAPE(2, 2), &p));
    memcpy(p->data, VALUES, 16);
    OK(nn_params_add(ps, "mother.w", DTYPE_F32, SHAPE(2), NULL)); /* "m" is not its root */
    for (int i = 0; i < 3; i++) {
        IoSafetensors *s;
        IoTensor t;
        float v[4];
        OK(nn_params_save(ps, "m", TMP, to[i], NULL, meta, 1));
        OK(io_safetensors_open(&s, TMP));
        assert_int_equal(io_safetensors_count(s), 1);
        assert_string_equal(io_safetensors_meta(s, "format"), "pt");
        OK(io_safetensors_get(s, "w", &t));
        assert_int_equal(t.dtype, to[i]);
        OK(dtype_convert(v, DTYPE_F32, t.data, t.dtype, 4));
        assert_memory_equal(v, VALUES, sizeof v);
        io_safetensors_close(s);
    }
    FAILS(nn_params_save(ps, "x", TMP, DTYPE_F32, NULL, NULL, 0), ERR_NOTFOUND, "no parameter under 'x'");
    remove(TMP);
    nn_params_destroy(ps);
}

static double moment(const NnParam *p, double *top)
{
    int64_t n = shape_count(&p->shape);
    double sum = 0;
    *top = 0;
    for (int64_t i = 0; i < n; i++) {
        double v = (double)((const float *)p->data)[i];
        sum += v * v;
        *top = fmax(*top, fabs(v));
    }
    return sum / (double)n;
}

static void declare_init(Graph *g, int extra)
{
    if (extra)
        graph_param(g, "m.aaa.weight", DTYPE_F32, SHAPE(5, 5));
    graph_param(g, "m.lin.weight", DTYPE_F32, SHAPE(64, 100));
    graph_param(g, "m.lin.bias", DTYPE_F32, SHAPE(64));
    graph_param(g, "m.conv.weight", DTYPE_F32, SHAPE(16, 8, 3, 3));
    graph_param(g, "m.conv.bias", DTYPE_F32, SHAPE(16));
    graph_param(g, "m.norm.weight", DTYPE_F32, SHAPE(9));
    graph_param(g, "m.norm.bias", DTYPE_F32, SHAPE(9));
    graph_param(g, "m.token_embedding.weight", DTYPE_F32, SHAPE(100, 20));
    graph_param(g, "m.logit_scale", DTYPE_F32, shape_make(0, NULL));
    graph_param(g, "m.out.weight", DTYPE_F32, SHAPE(4, 4));
}

static void test_nn_param__init(void **state)
{
    (void)state;
    static const char *const zero[] = {"out.*"};
    Graph *g = new_graph(DTYPE_F32), *g2 = new_graph(DTYPE_F32);
    NnParams *a = new_set(), *b = new_set();
    double top;
    declare_init(g, 0);
    declare_init(g2, 1);
    OK(nn_params_init(a, g, "m", 3, zero, 1));
    OK(nn_params_init(b, g2, "m", 3, zero, 1));
    /* U(-b, b), b = 1/sqrt(fan_in): variance b^2 / 3 */
    assert_float_equal(moment(nn_params_find(a, "m.lin.weight"), &top) * 3 * 100, 1, 0.05);
    assert_true(top <= 0.1 && top > 0.099);
    assert_float_equal(moment(nn_params_find(a, "m.lin.bias"), &top) * 3 * 100, 1, 0.4);
    assert_float_equal(moment(nn_params_find(a, "m.conv.weight"), &top) * 3 * 72, 1, 0.1);
    moment(nn_params_find(a, "m.conv.bias"), &top);
    assert_true(top <= 1 / sqrt(72) && top > 0);
    assert_float_equal(sqrt(moment(nn_params_find(a, "m.token_embedding.weight"), &top)), 0.02, 0.001);
    assert_float_equal(moment(nn_params_find(a, "m.norm.weight"), &top), 1, 0);
    assert_float_equal(moment(nn_params_find(a, "m.norm.bias"), &top), 0, 0);
    assert_float_equal(moment(nn_params_find(a, "m.out.weight"), &top), 0, 0);
    assert_float_equal((double)*(float *)nn_params_find(a, "m.logit_scale")->data, 2.659260, 1e-5);
    for (int i = 0; i < nn_params_count(a); i++) { /* other parameters do not matter */
        const NnParam *p = nn_params_at(a, i), *q = nn_params_find(b, p->name);
        assert_memory_equal(p->data, q->data, (size_t)shape_count(&p->shape) * 4);
    }
    nn_params_destroy(a);
    nn_params_destroy(b);
    graph_destroy(g);
    graph_destroy(g2);
}

/* A changed parameter takes effect after touch and bind, although backends may have packed it. */
static void test_nn_param__bind_versions(void **state)
{
    (void)state;
    Fix f;
    NnParam *w;
    float x[64], y[64];
    fix_open(&f, DTYPE_F32);
    OpRef in = graph_input(f.g, "x", DTYPE_F32, SHAPE(1, 64));
    size_t mark = nn_push(&f.nn, "m");
    OpRef out = nn_linear(&f.nn, "lin", in, 64, 0, OP_NONE);
    graph_param(f.g, "m.unused", DTYPE_F32, SHAPE(3)); /* needs no values */
    nn_pop(&f.nn, mark);
    fix_keep(&f, out);
    OK(graph_optimize(f.g, f.be));
    OK(plan_create(&f.plan, f.g, f.be));
    OK(exec_create(&f.ex, f.plan));
    FAILS(nn_params_bind(f.ps, f.g, f.ex), ERR_NOTFOUND, "parameter 'm.lin.weight' has no values");
    OK(nn_params_add(f.ps, "m.lin.weight", DTYPE_F32, SHAPE(64, 64), &w));
    for (int step = 1; step < 4; step++) {
        for (int i = 0; i < 64; i++) {
            x[i] = (float)i;
            ((float *)w->data)[i * 65] = (float)step;
        }
        nn_param_touch(w);
        OK(nn_params_bind(f.ps, f.g, f.ex));
        OK(exec_write_f32(f.ex, in, x, 64));
        OK(exec_run(f.ex));
        OK(exec_read_f32(f.ex, out, y, 64));
        for (int i = 0; i < 64; i++)
            assert_float_equal((double)y[i], (double)(step * i), 1e-4);
    }
    fix_close(&f);
}

static void test_nn_param__trainable(void **state)
{
    (void)state;
    const IoTensor t[] = {{.name = "lin.weight", .dtype = DTYPE_F32, .ndim = 2, .dim = {2, 2}, .data = VALUES},
                          {.name = "lin.bias", .dtype = DTYPE_F32, .ndim = 1, .dim = {2}, .data = VALUES}};
    static const char *const train[] = {"lin.weight"};
    Fix f;
    fix_open(&f, DTYPE_BF16);
    f.nn.train = train;
    f.nn.ntrain = 1;
    OpRef in = graph_input(f.g, "x", DTYPE_BF16, SHAPE(1, 2));
    size_t mark = nn_push(&f.nn, "m");
    nn_linear(&f.nn, "lin", in, 2, 1, OP_NONE);
    nn_linear(&f.nn, "lin", in, 2, 1, OP_NONE); /* a shared layer is listed once */
    nn_pop(&f.nn, mark);
    OK(graph_status(f.g));
    assert_int_equal(f.nn.ntrained, 1);
    assert_int_equal(graph_meta(f.g, f.nn.trained[0])->dtype, DTYPE_F32);
    IoSafetensors *s = file_with(t, 2);
    OK(nn_params_load(f.ps, f.g, "m", s, NULL));
    OK(nn_params_set_trainable(f.ps, f.g, f.nn.trained, f.nn.ntrained));
    NnParam *w = nn_params_find(f.ps, "m.lin.weight"), *b = nn_params_find(f.ps, "m.lin.bias");
    assert_true(w->trainable && w->owned && !w->frozen);
    assert_true(!b->trainable && b->frozen);
    fix_close(&f);
    io_safetensors_close(s);
    remove(TMP);
}

static void test_nn_param__glob(void **state)
{
    (void)state;
    static const struct {
        const char *pattern, *name;
        int match;
    } cases[] = {
        {"to_q", "unet.a.attn1.to_q", 1},        {"to_q", "unet.a.attn1.xto_q", 0},
        {"attn*.to_q", "unet.a.attn1.to_q", 1},  {"attn*.to_q", "unet.a.ff.to_q", 0},
        {"unet.*", "unet.a.b", 1},               {"unet.*", "text_encoder.a", 0},
        {"*ff*", "unet.a.ff.net.2", 1},          {"a|b.c", "x.b.c", 1},
        {"a|b.c", "x.b.d", 0},                   {"a|", "x.", 1},
        {"to_?", "a.to_q", 1},                   {"to_?", "a.to_out", 0},
        {"*a*a*a*b", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaac", 0}, {"", "a", 0},
        {"net.0", "ff.net.0.proj", 0},           {"net.0*", "ff.net.0.proj", 1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        if (nn_glob(cases[i].pattern, cases[i].name) != cases[i].match) {
            print_error("'%s' on '%s'\n", cases[i].pattern, cases[i].name);
            fail();
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nn_param__add_and_find),   cmocka_unit_test(test_nn_param__load),
        cmocka_unit_test(test_nn_param__load_names_and_ones), cmocka_unit_test(test_nn_param__load_errors),
        cmocka_unit_test(test_nn_param__save),           cmocka_unit_test(test_nn_param__init),
        cmocka_unit_test(test_nn_param__bind_versions),  cmocka_unit_test(test_nn_param__trainable),
        cmocka_unit_test(test_nn_param__glob),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
