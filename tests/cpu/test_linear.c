#include "cpu/dnnl_case.h"

typedef struct {
    Shape x;       /* [..., K] */
    int64_t n;
    int has;
} Case;

static const Case cases[] = {
    {{2, {1, 5, 1, 1}}, 3, 0},
    {{2, {3, 320, 1, 1}}, 1280, OP_HAS_BIAS},
    {{2, {2, 1280, 1, 1}}, 320, OP_HAS_BIAS | OP_HAS_RES},
    {{3, {5, 77, 96, 1}}, 96, OP_HAS_BIAS | OP_HAS_RES},
    {{3, {2, 64, 384, 1}}, 96, OP_HAS_RES},
    {{3, {3, 256, 96, 1}}, 768, OP_HAS_BIAS},
    {{3, {2, 1100, 33, 1}}, 17, OP_HAS_BIAS | OP_HAS_RES},
    {{3, {2, 300, 1100, 1}}, 130, OP_HAS_BIAS | OP_HAS_RES},
    {{3, {1, 4096, 40, 1}}, 16, 0},
    {{3, {1, 4096, 16, 1}}, 80, OP_HAS_RES},
    {{4, {2, 4, 4, 7, }}, 5, OP_HAS_BIAS},
    {{1, {7, 1, 1, 1}}, 4, OP_HAS_BIAS},
    {{2, {40, 2100, 1, 1}}, 200, OP_HAS_BIAS | OP_HAS_RES},
};
enum { CASES = sizeof cases / sizeof *cases };

static Shape with_last(Shape s, int64_t n)
{
    s.dim[s.ndim - 1] = n;
    return s;
}

static int make_inputs(OpKind kind, const Case *c, int has, Dtype t, OpView *in)
{
    Shape y = with_last(c->x, c->n), w = SHAPE(c->n, shape_last(&c->x));
    int n = 2;
    in[0] = case_random(t, kind == OP_LINEAR ? c->x : y, 1);
    in[1] = case_random(t, kind == OP_LINEAR_BWD_W ? c->x : w, 2);
    if (has & OP_HAS_BIAS)
        in[n++] = case_random(DTYPE_F32, SHAPE(c->n), 3);
    if (has & OP_HAS_RES)
        in[n++] = case_random(t, kind == OP_LINEAR ? y : c->x, 4);
    return n;
}

/* random holds the same values in float and bf16, so one double result serves both. */
static void compare(OpKind kind, int number, const Case *c, int has, int isa)
{
    static const Dtype types[3][2] = {{DTYPE_F32, DTYPE_F32}, {DTYPE_BF16, DTYPE_BF16}, {DTYPE_BF16, DTYPE_F32}};
    Shape y = with_last(c->x, c->n), w = SHAPE(c->n, shape_last(&c->x));
    Shape result = kind == OP_LINEAR ? y : kind == OP_LINEAR_BWD_X ? c->x : w;
    Backend *be = case_backend_of(2, isa);
    OpView want = {0};
    for (int i = 0; i < (kind == OP_LINEAR_BWD_W ? 3 : 2); i++) {
        Dtype t = types[i][0], to = types[i][1];
        OpAttr a = {.has = has, .meta = {to, result}};
        OpView in[CASE_MAX_IN], out = case_empty(to, result);
        int n = make_inputs(kind, c, has, t, in);
        if (!want.data)
            want = case_f64(be, kind, &a, in, n, result, 1);
        case_run(be, kind, &a, in, n, &out, kind == OP_LINEAR_BWD_W ? -1 : 1);
        double e = case_error(&out, &want);
        if (!(e < case_tolerance(to)))
            fail_msg("%s case %d has %d %s->%s: error %g", op_name(kind), number, has, dtype_name(t), dtype_name(to), e);
        case_free(in, n);
        free(out.data);
    }
    free(want.data);
    backend_destroy(be);
}

static void test_cpu_linear__equals_f64(void **state)
{
    (void)state;
    for (int i = 0; i < CASES; i++)
        compare(OP_LINEAR, i, &cases[i], cases[i].has, CPU_ISA_AVX512);
}

static void test_cpu_linear__bwd_x_equals_f64(void **state)
{
    (void)state;
    for (int i = 0; i < CASES; i++)
        compare(OP_LINEAR_BWD_X, i, &cases[i], i % 2 ? OP_HAS_RES : 0, CPU_ISA_AVX512);
}

static void test_cpu_linear__bwd_w_equals_f64(void **state)
{
    (void)state;
    for (int i = 0; i < CASES; i++)
        compare(OP_LINEAR_BWD_W, i, &cases[i], 0, CPU_ISA_AVX512);
}

static void test_cpu_linear__bias_grad_equals_f64(void **state)
{
    (void)state;
    Backend *be = case_backend(2);
    for (int i = 0; i < 2; i++) {
        Dtype t = i ? DTYPE_BF16 : DTYPE_F32;
        OpView in = case_random(t, SHAPE(3, 70, 37), 1), out = case_empty(DTYPE_F32, SHAPE(37));
        OpView want = case_f64(be, OP_BIAS_GRAD, &(OpAttr){0}, &in, 1, out.shape, -1);
        case_run(be, OP_BIAS_GRAD, &(OpAttr){0}, &in, 1, &out, -1);
        assert_true(case_error(&out, &want) < 1e-5);
        case_free(&in, 1);
        free(want.data);
        free(out.data);
    }
    backend_destroy(be);
}

/* The first items of a batch must give the same bits alone, with others, and on any number of threads. */
static void check_batches(OpKind kind, int has, Shape x, int64_t n, Dtype t)
{
    static const int threads[] = {1, 2, 3, 4};
    static const int batch[] = {1, 2, 5};
    Shape y = with_last(x, n), wide = kind == OP_LINEAR ? x : y, to = kind == OP_LINEAR ? y : x;
    x.dim[0] = y.dim[0] = wide.dim[0] = to.dim[0] = 5;
    OpView in[CASE_MAX_IN] = {case_random(t, wide, 1), case_random(t, SHAPE(n, shape_last(&x)), 2)};
    int nin = 2;
    if (has & OP_HAS_BIAS)
        in[nin++] = case_random(DTYPE_F32, SHAPE(n), 3);
    if (has & OP_HAS_RES)
        in[nin++] = case_random(t, to, 4);
    case_roughen(in, nin);
    OpView want = case_empty(t, to), got = case_empty(t, to);
    for (int i = 0; i < 4; i++) {
        Backend *be = case_backend(threads[i]);
        for (int j = 2; j >= 0; j--) {
            OpView part[CASE_MAX_IN], out = case_slice(i || j != 2 ? &got : &want, batch[j]);
            memcpy(part, in, sizeof part);
            part[0] = case_slice(&in[0], batch[j]);
            if (has & OP_HAS_RES)
                part[nin - 1] = case_slice(&in[nin - 1], batch[j]);
            case_run(be, kind, &(OpAttr){.has = has}, part, nin, &out, 1);
            if (memcmp(out.data, want.data, case_bytes(&out)))
                fail_msg("%s %s K=%d N=%d: %d threads, batch %d gives other bits", op_name(kind), dtype_name(t),
                         (int)shape_last(&x), (int)n, threads[i], batch[j]);
        }
        backend_destroy(be);
    }
    case_free(in, nin);
    free(want.data);
    free(got.data);
}

static void test_cpu_linear__bits_do_not_depend_on_batch_or_threads(void **state)
{
    (void)state;
    static const struct {
        Shape x;
        int64_t n;
    } s[] = {{{2, {1, 320, 1, 1}}, 1280}, {{3, {1, 16, 256, 1}}, 256}, {{3, {1, 64, 384, 1}}, 96}, {{3, {1, 77, 768, 1}}, 320},
             {{3, {1, 256, 640, 1}}, 640}, {{3, {1, 1030, 96, 1}}, 50}, {{3, {1, 100, 1300, 1}}, 128}, {{3, {1, 300, 64, 1}}, 16},
             {{2, {1, 1, 1, 1}}, 1}};
    for (size_t i = 0; i < sizeof s / sizeof *s; i++)
        for (int bf = 0; bf < 2; bf++) {
            check_batches(OP_LINEAR, OP_HAS_BIAS | OP_HAS_RES, s[i].x, s[i].n, bf ? DTYPE_BF16 : DTYPE_F32);
            check_batches(OP_LINEAR_BWD_X, OP_HAS_RES, s[i].x, s[i].n, bf ? DTYPE_BF16 : DTYPE_F32);
        }
}

static void test_cpu_linear__bwd_w_bits_do_not_depend_on_threads(void **state)
{
    (void)state;
    static const int64_t shapes[][3] = {{4096, 16, 320}, {4096, 320, 16}, {5000, 96, 96}, {300, 600, 40}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (int bf = 0; bf < 2; bf++) {
            Dtype t = bf ? DTYPE_BF16 : DTYPE_F32;
            Shape w = SHAPE(shapes[i][1], shapes[i][2]);
            OpView in[2] = {case_random(t, SHAPE(shapes[i][0], shapes[i][1]), 1), case_random(t, SHAPE(shapes[i][0], shapes[i][2]), 2)};
            OpView out[4];
            case_roughen(in, 2);
            for (int n = 0; n < 4; n++) {
                Backend *be = case_backend(n + 1);
                out[n] = case_empty(DTYPE_F32, w);
                case_run(be, OP_LINEAR_BWD_W, &(OpAttr){.meta = {DTYPE_F32, w}}, in, 2, &out[n], -1);
                assert_memory_equal(out[n].data, out[0].data, case_bytes(out));
                backend_destroy(be);
            }
            case_free(in, 2);
            case_free(out, 4);
        }
}

/* The planner may let the result share storage with res. */
static void test_cpu_linear__res_may_be_the_result(void **state)
{
    (void)state;
    Backend *be = case_backend(2);
    for (int i = 0; i < CASES * 2; i++) {
        const Case *c = &cases[i / 2];
        Dtype t = i % 2 ? DTYPE_BF16 : DTYPE_F32;
        OpView in[CASE_MAX_IN], apart = case_empty(t, with_last(c->x, c->n));
        int n = make_inputs(OP_LINEAR, c, OP_HAS_RES, t, in);
        case_run(be, OP_LINEAR, &(OpAttr){.has = OP_HAS_RES}, in, n, &apart, 1);
        OpView shared = in[n - 1];
        case_run(be, OP_LINEAR, &(OpAttr){.has = OP_HAS_RES}, in, n, &shared, 1);
        assert_memory_equal(shared.data, apart.data, case_bytes(&apart));
        case_free(in, n);
        free(apart.data);
    }
    backend_destroy(be);
}

static void test_cpu_linear__rejects_other_dtypes(void **state)
{
    (void)state;
    Backend *be = case_backend(1);
    OpView in[2] = {case_random(DTYPE_F32, SHAPE(2, 4), 1), case_random(DTYPE_F32, SHAPE(3, 4), 2)};
    OpView out = case_empty(DTYPE_F32, SHAPE(2, 3));
    in[0].dtype = DTYPE_F16;
    OpCall c = {OP_LINEAR, &(OpAttr){0}, in, &out, 2, 1, NULL, NULL};
    assert_int_equal(be->op[OP_LINEAR].run(be, &c), ERR_UNSUPPORTED);
    case_free(in, 2);
    free(out.data);
    backend_destroy(be);
}

/* There bf16 runs on float copies. */
static void test_cpu_linear__bf16_without_avx512(void **state)
{
    (void)state;
    static const OpKind kinds[] = {OP_LINEAR, OP_LINEAR_BWD_X, OP_LINEAR_BWD_W};
    for (int i = 0; i < 9; i++)
        compare(kinds[i % 3], i, &cases[i], 0, CPU_ISA_AVX2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cpu_linear__equals_f64),
        cmocka_unit_test(test_cpu_linear__bwd_x_equals_f64),
        cmocka_unit_test(test_cpu_linear__bwd_w_equals_f64),
        cmocka_unit_test(test_cpu_linear__bias_grad_equals_f64),
        cmocka_unit_test(test_cpu_linear__bits_do_not_depend_on_batch_or_threads),
        cmocka_unit_test(test_cpu_linear__bwd_w_bits_do_not_depend_on_threads),
        cmocka_unit_test(test_cpu_linear__res_may_be_the_result),
        cmocka_unit_test(test_cpu_linear__rejects_other_dtypes),
        cmocka_unit_test(test_cpu_linear__bf16_without_avx512),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
