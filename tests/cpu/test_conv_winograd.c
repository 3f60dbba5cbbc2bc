/* Winograd convolutions against plain double loops, on every instruction set, batch and number of threads. */
#include <math.h>

#include "cpu/conv_winograd.h"
#include "cpu/dnnl_case.h"

typedef struct {
    int64_t items, h, w, ci, co;
} Case;

/* Whole and cut tiles; channels around the vectors' lengths, the blocks of 32 and the 64 that are transformed at a time. */
static const Case cases[] = {
    {1, 4, 4, 32, 32},  {2, 8, 8, 16, 48},  {1, 1, 1, 3, 5},     {3, 5, 7, 17, 33}, {1, 9, 6, 64, 65},   {2, 2, 13, 70, 31},
    {1, 12, 8, 130, 4}, {1, 3, 3, 1, 1},    {1, 16, 20, 8, 100}, {2, 4, 6, 200, 7}, {1, 23, 22, 33, 40}, {1, 48, 48, 40, 12},
    {3, 60, 56, 4, 8},  {1, 5, 9, 1040, 3}, {1, 6, 5, 3, 1050},
};
enum { CASES = sizeof cases / sizeof *cases };

static Backend *backend_with(const char *winograd, int threads, int isa)
{
    setenv("ATELIER_WINOGRAD", winograd, 1);
    Backend *be = case_backend_of(threads, isa);
    unsetenv("ATELIER_WINOGRAD");
    return be;
}

static OpAttr attr_of(const Case *c, OpKind kind, int has, Dtype t)
{
    OpAttr a = {.stride = 1, .pad = {1, 1, 1, 1}, .has = has};
    a.meta = (Meta){t, SHAPE(c->items, c->h, c->w, kind == OP_CONV2D ? c->co : c->ci)};
    return a;
}

static int make_inputs(const Case *c, OpKind kind, int has, Dtype t, OpView *in)
{
    Shape x = SHAPE(c->items, c->h, c->w, c->ci), y = SHAPE(c->items, c->h, c->w, c->co);
    int n = 2;
    in[0] = case_random(t, kind == OP_CONV2D ? x : y, 1);
    in[1] = case_random(t, SHAPE(c->co, c->ci, 3, 3), 2);
    if (has & OP_HAS_BIAS)
        in[n++] = case_random(DTYPE_F32, SHAPE(c->co), 3);
    if (has & OP_HAS_RES)
        in[n++] = case_random(t, kind == OP_CONV2D ? y : x, 4);
    return n;
}

static void compare(const Case *c, OpKind kind, int has)
{
    OpView in[CASE_MAX_IN], want = {0};
    for (int bf = 0; bf < 2; bf++) {
        Dtype t = bf ? DTYPE_BF16 : DTYPE_F32;
        OpAttr a = attr_of(c, kind, has, t);
        int n = make_inputs(c, kind, has, t, in);
        for (int isa = CPU_ISA_BASE; isa <= CPU_ISA_AVX512; isa++) {
            Backend *be = backend_with("all", 2, isa);
            OpView out = case_empty(t, a.meta.shape);
            if (!want.data)
                want = case_f64(be, kind, &a, in, n, a.meta.shape, 1);
            case_run(be, kind, &a, in, n, &out, 1);
            double e = case_error(&out, &want);
            if (!(e < case_tolerance(t)))
                fail_msg("%s case %d has %d %s isa %d: error %g", op_name(kind), (int)(c - cases), has, dtype_name(t), isa, e);
            free(out.data);
            backend_destroy(be);
        }
        case_free(in, n);
    }
    free(want.data);
}

static void test_cpu_conv_winograd__equals_f64(void **state)
{
    (void)state;
    static const int has[] = {OP_HAS_BIAS | OP_HAS_RES, OP_HAS_BIAS, 0, OP_HAS_RES};
    for (int i = 0; i < CASES; i++)
        compare(&cases[i], OP_CONV2D, has[i % 4]);
}

static void test_cpu_conv_winograd__bwd_x_equals_f64(void **state)
{
    (void)state;
    for (int i = 0; i < CASES; i++)
        compare(&cases[i], OP_CONV2D_BWD_X, i % 2 ? OP_HAS_RES : 0);
}

/* The first items of a batch give the same bits alone, with others, and on any number of threads. */
static void check_batches(Case c, OpKind kind, Dtype t, int isa)
{
    static const int batch[] = {5, 2, 1};
    int has = kind == OP_CONV2D ? OP_HAS_BIAS | OP_HAS_RES : OP_HAS_RES;
    OpView in[CASE_MAX_IN];
    c.items = 5;
    int n = make_inputs(&c, kind, has, t, in);
    case_roughen(in, n);
    OpView want = case_empty(t, attr_of(&c, kind, has, t).meta.shape), got = case_empty(t, want.shape);
    for (int threads = 1; threads <= 4; threads++) {
        Backend *be = backend_with("all", threads, isa);
        for (int j = 0; j < 3; j++) {
            OpView part[CASE_MAX_IN], out = case_slice(threads > 1 || j ? &got : &want, batch[j]);
            memcpy(part, in, sizeof part);
            part[0] = case_slice(&in[0], batch[j]);
            part[n - 1] = case_slice(&in[n - 1], batch[j]);
            OpAttr a = attr_of(&c, kind, has, t);
            a.meta.shape = out.shape;
            case_run(be, kind, &a, part, n, &out, 1);
            if (memcmp(out.data, want.data, case_bytes(&out)))
                fail_msg("%s %s %dx%dx%d isa %d: %d threads, batch %d gives other bits", op_name(kind), dtype_name(t), (int)c.h,
                         (int)c.w, (int)c.ci, isa, threads, batch[j]);
        }
        backend_destroy(be);
    }
    case_free(in, n);
    free(want.data);
    free(got.data);
}

static void test_cpu_conv_winograd__bits_do_not_depend_on_batch_or_threads(void **state)
{
    (void)state;
    /* One image, and all of them, on different sides of the limits that cut the work. */
    static const Case s[] = {{0, 16, 16, 96, 96}, {0, 8, 12, 150, 40}, {0, 50, 45, 34, 33}, {0, 5, 6, 1060, 35}, {0, 4, 4, 64, 64}};
    for (size_t i = 0; i < sizeof s / sizeof *s; i++)
        for (int bf = 0; bf < 2; bf++) {
            check_batches(s[i], OP_CONV2D, bf ? DTYPE_BF16 : DTYPE_F32, CPU_ISA_AVX512);
            check_batches(s[i], OP_CONV2D_BWD_X, bf ? DTYPE_BF16 : DTYPE_F32, i % 2 ? CPU_ISA_AVX2 : CPU_ISA_BASE);
        }
}

static double rms_error(Backend *be, const OpAttr *a, const OpView *in, const OpView *want)
{
    OpView out = case_empty(DTYPE_F32, a->meta.shape);
    double sum = 0;
    case_run(be, OP_CONV2D, a, in, 2, &out, 1);
    for (int64_t i = 0; i < shape_count(&out.shape); i++) {
        double d = case_get(&out, i) - case_get(want, i);
        sum += d * d;
    }
    free(out.data);
    backend_destroy(be);
    return sqrt(sum / (double)shape_count(&a->meta.shape));
}

/* Other points of interpolation would pass the tests above with several times the error. */
static void test_cpu_conv_winograd__rounds_little_more_than_the_direct_sum(void **state)
{
    (void)state;
    const Case c = {1, 16, 16, 320, 8};
    OpView in[2];
    OpAttr a = attr_of(&c, OP_CONV2D, 0, DTYPE_F32);
    make_inputs(&c, OP_CONV2D, 0, DTYPE_F32, in);
    case_roughen(in, 2);
    Backend *be = backend_with("off", 1, CPU_ISA_AVX512);
    OpView want = case_f64(be, OP_CONV2D, &a, in, 2, a.meta.shape, 1);
    double direct = rms_error(be, &a, in, &want);
    double winograd = rms_error(backend_with("all", 1, CPU_ISA_AVX512), &a, in, &want);
    if (!(winograd < 3 * direct))
        fail_msg("rms error %g, of the direct sum %g", winograd, direct);
    case_free(in, 2);
    free(want.data);
}

static ConvShape shape_of(int64_t items, int64_t size, int64_t ci, int64_t co, int stride, Dtype t)
{
    int64_t out = (size + 2 - 3) / stride + 1;
    return (ConvShape){items, size, size, ci, out, out, co, 3, 3, stride, 1, 1, t};
}

static void test_cpu_conv_winograd__is_chosen_by_one_image_alone(void **state)
{
    (void)state;
    Backend *be = backend_with("auto", 1, CPU_ISA_AVX512), *off = backend_with("off", 1, CPU_ISA_AVX512);
    for (int64_t size = 1; size <= 64; size++)
        for (int64_t channels = 8; channels <= 512; channels *= 2) {
            ConvShape one = shape_of(1, size, channels, 64, 1, DTYPE_F32), many = shape_of(40, size, channels, 64, 1, DTYPE_F32);
            assert_int_equal(cpu_conv_winograd_wanted(be, &one), cpu_conv_winograd_wanted(be, &many));
            assert_false(cpu_conv_winograd_wanted(off, &one));
        }
    ConvShape sd = shape_of(2, 64, 320, 320, 1, DTYPE_F32), down = shape_of(2, 64, 320, 320, 2, DTYPE_F32);
    assert_true(cpu_conv_winograd_wanted(be, &sd));
    assert_false(cpu_conv_winograd_wanted(be, &down));
    backend_destroy(be);
    backend_destroy(off);
    setenv("ATELIER_WINOGRAD", "maybe", 1);
    assert_int_equal(cpu_backend_create(&be, 1, CPU_ISA_AVX512), ERR_RANGE);
    assert_non_null(strstr(err_message(), "ATELIER_WINOGRAD=maybe: expected off, auto or all"));
    unsetenv("ATELIER_WINOGRAD");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cpu_conv_winograd__equals_f64),
        cmocka_unit_test(test_cpu_conv_winograd__bwd_x_equals_f64),
        cmocka_unit_test(test_cpu_conv_winograd__bits_do_not_depend_on_batch_or_threads),
        cmocka_unit_test(test_cpu_conv_winograd__rounds_little_more_than_the_direct_sum),
        cmocka_unit_test(test_cpu_conv_winograd__is_chosen_by_one_image_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
