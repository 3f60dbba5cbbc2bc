#include <sys/mman.h>
#include <unistd.h>

#include "cpu/dnnl_case.h"

typedef struct {
    Shape x;
    int64_t co, k;
    int stride, pad[4];
} Case;

#define X(...) {4, {__VA_ARGS__}}
static const Case cases[] = {
    {X(2, 8, 8, 3), 17, 3, 1, {1, 1, 1, 1}},    {X(1, 9, 7, 17), 4, 3, 1, {1, 1, 1, 1}},
    {X(1, 16, 16, 96), 96, 3, 1, {1, 1, 1, 1}}, {X(2, 8, 8, 96), 96, 3, 2, {1, 1, 1, 1}},
    {X(2, 8, 8, 32), 32, 3, 2, {0, 0, 1, 1}},   {X(2, 17, 13, 4), 3, 3, 2, {0, 0, 1, 1}},
    {X(1, 15, 15, 17), 33, 3, 2, {1, 1, 1, 1}}, {X(2, 5, 6, 96), 17, 1, 1, {0, 0, 0, 0}},
    {X(2, 7, 7, 17), 3, 1, 1, {0, 0, 0, 0}},    {X(1, 32, 32, 32), 32, 3, 1, {1, 1, 1, 1}},
    {X(1, 6, 6, 8), 8, 3, 1, {0, 0, 0, 0}},     {X(2, 4, 4, 128), 130, 3, 1, {1, 1, 1, 1}},
    {X(1, 80, 70, 4), 8, 3, 1, {1, 1, 1, 1}},   {X(1, 14, 14, 3), 20, 7, 2, {3, 3, 3, 3}},
    {X(1, 16, 16, 3), 24, 4, 2, {1, 1, 1, 1}},  {X(1, 6, 6, 3), 5, 1, 2, {0, 0, 0, 0}},
    {X(1, 1, 1, 4), 4, 3, 1, {1, 1, 1, 1}},     {X(40, 4, 4, 8), 8, 3, 1, {1, 1, 1, 1}},
    {X(1, 4, 5, 4), 4, 3, 1, {2, 0, 1, 2}},     {X(3, 72, 72, 4), 8, 3, 1, {1, 1, 1, 1}},
    /* few pixels, many weights: the gathered product */
    {X(1, 3, 4, 512), 460, 3, 1, {1, 1, 1, 1}}, {X(1, 4, 5, 512), 460, 3, 2, {0, 0, 1, 1}},
};
enum { CASES = sizeof cases / sizeof *cases };

static Shape out_shape(const Case *c)
{
    return SHAPE(c->x.dim[0], (c->x.dim[1] + c->pad[0] + c->pad[2] - c->k) / c->stride + 1,
                 (c->x.dim[2] + c->pad[1] + c->pad[3] - c->k) / c->stride + 1, c->co);
}

static Shape weight_shape(const Case *c)
{
    return SHAPE(c->co, c->x.dim[3], c->k, c->k);
}

static OpAttr attr_of(const Case *c, int has, Dtype t, Shape result)
{
    OpAttr a = {.stride = c->stride, .has = has, .meta = {t, result}};
    for (int i = 0; i < 4; i++)
        a.pad[i] = c->pad[i];
    return a;
}

static int make_inputs(const Case *c, OpKind kind, int has, Dtype t, OpView *in)
{
    int n = 2;
    in[0] = case_random(t, kind == OP_CONV2D ? c->x : out_shape(c), 1);
    in[1] = case_random(t, kind == OP_CONV2D_BWD_W ? c->x : weight_shape(c), 2);
    if (has & OP_HAS_BIAS)
        in[n++] = case_random(DTYPE_F32, SHAPE(c->co), 3);
    if (has & OP_HAS_RES)
        in[n++] = case_random(t, kind == OP_CONV2D ? out_shape(c) : c->x, 4);
    return n;
}

/* case_random holds the same values in float and bf16, so one double result serves both. */
static void compare(OpKind kind, int number, const Case *c, int has, int isa)
{
    static const Dtype types[3][2] = {{DTYPE_F32, DTYPE_F32}, {DTYPE_BF16, DTYPE_BF16}, {DTYPE_BF16, DTYPE_F32}};
    Shape result = kind == OP_CONV2D ? out_shape(c) : kind == OP_CONV2D_BWD_X ? c->x : weight_shape(c);
    Backend *be = case_backend_of(2, isa);
    OpView want = {0};
    for (int i = 0; i < (kind == OP_CONV2D_BWD_W ? 3 : 2); i++) {
        Dtype t = types[i][0], to = types[i][1];
        OpAttr a = attr_of(c, has, to, result);
        OpView in[CASE_MAX_IN], out = case_empty(to, result);
        int n = make_inputs(c, kind, has, t, in);
        if (!want.data)
            want = case_f64(be, kind, &a, in, n, result, 1);
        case_run(be, kind, &a, in, n, &out, kind == OP_CONV2D_BWD_W ? -1 : 1);
        double e = case_error(&out, &want);
        if (!(e < case_tolerance(to)))
            fail_msg("%s case %d has %d %s->%s: error %g", op_name(kind), number, has, dtype_name(t), dtype_name(to), e);
        case_free(in, n);
        free(out.data);
    }
    free(want.data);
    backend_destroy(be);
}

static void test_cpu_conv__equals_f64(void **state)
{
    (void)state;
    static const int has[] = {0, OP_HAS_BIAS, OP_HAS_BIAS | OP_HAS_RES};
    for (int i = 0; i < CASES; i++)
        compare(OP_CONV2D, i, &cases[i], has[i % 3], CPU_ISA_AVX512);
}

static void test_cpu_conv__equals_f64_with_bias_and_res(void **state)
{
    (void)state;
    for (int i = 0; i < 9; i++)
        compare(OP_CONV2D, i, &cases[i], OP_HAS_BIAS | OP_HAS_RES, CPU_ISA_AVX512);
}

static void test_cpu_conv__bwd_x_equals_f64(void **state)
{
    (void)state;
    for (int i = 0; i < CASES; i++)
        compare(OP_CONV2D_BWD_X, i, &cases[i], i % 2 ? OP_HAS_RES : 0, CPU_ISA_AVX512);
}

static void test_cpu_conv__bwd_w_equals_f64(void **state)
{
    (void)state;
    for (int i = 0; i < CASES; i++)
        compare(OP_CONV2D_BWD_W, i, &cases[i], 0, CPU_ISA_AVX512);
}

/* The first items of a batch must give the same bits alone, with others, and on any number of threads. */
static void check_batches(OpKind kind, Case c, int has, Dtype t)
{
    static const int threads[] = {1, 2, 3, 4};
    static const int batch[] = {5, 2, 1};
    OpView in[CASE_MAX_IN];
    c.x.dim[0] = 5;
    int n = make_inputs(&c, kind, has, t, in);
    case_roughen(in, n);
    OpView want = case_empty(t, kind == OP_CONV2D ? out_shape(&c) : c.x), got = case_empty(t, want.shape);
    for (int i = 0; i < 4; i++) {
        Backend *be = case_backend(threads[i]);
        for (int j = 0; j < 3; j++) {
            OpView part[CASE_MAX_IN], out = case_slice(i || j ? &got : &want, batch[j]);
            memcpy(part, in, sizeof part);
            part[0] = case_slice(&in[0], batch[j]);
            if (has & OP_HAS_RES)
                part[n - 1] = case_slice(&in[n - 1], batch[j]);
            OpAttr a = attr_of(&c, has, t, out.shape);
            case_run(be, kind, &a, part, n, &out, 1);
            if (memcmp(out.data, want.data, case_bytes(&out)))
                fail_msg("%s %s %dx%dx%d: %d threads, batch %d gives other bits", op_name(kind), dtype_name(t),
                         (int)c.x.dim[1], (int)c.x.dim[2], (int)c.x.dim[3], threads[i], batch[j]);
        }
        backend_destroy(be);
    }
    case_free(in, n);
    free(want.data);
    free(got.data);
}

static void test_cpu_conv__bits_do_not_depend_on_batch_or_threads(void **state)
{
    (void)state;
    static const Case s[] = {
        {X(1, 16, 16, 96), 96, 3, 1, {1, 1, 1, 1}}, {X(1, 4, 4, 64), 64, 3, 1, {1, 1, 1, 1}},
        {X(1, 16, 16, 32), 48, 3, 2, {0, 0, 1, 1}}, {X(1, 16, 16, 64), 96, 1, 1, {0, 0, 0, 0}},
        {X(1, 24, 24, 3), 32, 3, 1, {1, 1, 1, 1}},  {X(1, 8, 8, 192), 200, 1, 1, {0, 0, 0, 0}},
        {X(1, 6, 6, 256), 920, 3, 1, {1, 1, 1, 1}},
    };
    for (size_t i = 0; i < sizeof s / sizeof *s; i++)
        for (int bf = 0; bf < 2; bf++) {
            check_batches(OP_CONV2D, s[i], OP_HAS_BIAS | OP_HAS_RES, bf ? DTYPE_BF16 : DTYPE_F32);
            check_batches(OP_CONV2D_BWD_X, s[i], 0, bf ? DTYPE_BF16 : DTYPE_F32);
            check_batches(OP_CONV2D_BWD_X, s[i], OP_HAS_RES, bf ? DTYPE_BF16 : DTYPE_F32);
        }
}

static void test_cpu_conv__bwd_w_bits_do_not_depend_on_threads(void **state)
{
    (void)state;
    for (int i = 0; i < CASES * 2; i++) {
        const Case *c = &cases[i / 2];
        Dtype t = i % 2 ? DTYPE_BF16 : DTYPE_F32;
        OpView in[2], out[4];
        OpAttr a = attr_of(c, 0, DTYPE_F32, weight_shape(c));
        make_inputs(c, OP_CONV2D_BWD_W, 0, t, in);
        case_roughen(in, 2);
        for (int n = 0; n < 4; n++) {
            Backend *be = case_backend(n + 1);
            out[n] = case_empty(DTYPE_F32, weight_shape(c));
            case_run(be, OP_CONV2D_BWD_W, &a, in, 2, &out[n], -1);
            assert_memory_equal(out[n].data, out[0].data, case_bytes(out));
            backend_destroy(be);
        }
        case_free(in, 2);
        case_free(out, 4);
    }
}

static void test_cpu_conv__res_may_be_the_result(void **state)
{
    (void)state;
    static const OpKind kinds[] = {OP_CONV2D, OP_CONV2D_BWD_X};
    Backend *be = case_backend(2);
    for (int i = 0; i < CASES * 4; i++) {
        const Case *c = &cases[i / 4];
        Dtype t = i % 2 ? DTYPE_BF16 : DTYPE_F32;
        OpKind kind = kinds[i % 4 / 2];
        OpView in[CASE_MAX_IN], apart = case_empty(t, kind == OP_CONV2D ? out_shape(c) : c->x);
        OpAttr a = attr_of(c, OP_HAS_RES, t, apart.shape);
        int n = make_inputs(c, kind, OP_HAS_RES, t, in);
        case_run(be, kind, &a, in, n, &apart, 1);
        OpView shared = in[n - 1];
        case_run(be, kind, &a, in, n, &shared, 1);
        assert_memory_equal(shared.data, apart.data, case_bytes(&apart));
        case_free(in, n);
        free(apart.data);
    }
    backend_destroy(be);
}

/* A weight is packed once, and again when its version grows; one that is an activation, on every run. */
static void check_repacking(int parameter)
{
    Backend *be = case_backend(2);
    const Case *c = &cases[2];
    OpView in[2], first = case_empty(DTYPE_F32, out_shape(c)), again = case_empty(DTYPE_F32, out_shape(c));
    OpAttr a = attr_of(c, 0, DTYPE_F32, first.shape);
    make_inputs(c, OP_CONV2D, 0, DTYPE_F32, in);
    Meta mi[2] = {{DTYPE_F32, in[0].shape}, {DTYPE_F32, in[1].shape}}, mo = {DTYPE_F32, first.shape};
    OpView known[2] = {in[0], in[1]};
    known[0].data = NULL;
    if (!parameter)
        known[1].data = NULL;
    OpCall call = {OP_CONV2D, &a, known, &first, 2, 1, case_alloc(be->op[OP_CONV2D].scratch(be, &a, mi, 2, &mo, 1)), NULL};
    CHECK(be->op[OP_CONV2D].prepare(be, &call, &call.state));
    call.in = in;
    CHECK(be->op[OP_CONV2D].run(be, &call));
    for (int64_t i = 0; i < shape_count(&in[1].shape); i++)
        ((float *)in[1].data)[i] *= 2;
    in[1].version += parameter != 0;
    call.out = &again;
    CHECK(be->op[OP_CONV2D].run(be, &call));
    for (int64_t i = 0; i < shape_count(&first.shape); i++)
        assert_true(((float *)again.data)[i] == 2 * ((float *)first.data)[i]);
    be->op[OP_CONV2D].release(be, call.state);
    free(call.scratch);
    case_free(in, 2);
    free(first.data);
    free(again.data);
    backend_destroy(be);
}

static void test_cpu_conv__packs_again_when_the_version_grows(void **state)
{
    (void)state;
    check_repacking(1);
}

static void test_cpu_conv__packs_activations_on_every_run(void **state)
{
    (void)state;
    check_repacking(0);
}

/* Runs case `c` with the weight at w.data and checks that the weight is still what it was. */
static void run_with_weight(const Case *c, OpView w, const OpView *x, const OpView *want)
{
    Backend *be = case_backend(2);
    OpView in[2] = {*x, w}, out = case_empty(DTYPE_F32, want->shape);
    OpAttr a = attr_of(c, 0, DTYPE_F32, out.shape);
    void *before = case_alloc(case_bytes(&w));
    memcpy(before, w.data, case_bytes(&w));
    case_run(be, OP_CONV2D, &a, in, 2, &out, 1);
    assert_memory_equal(out.data, want->data, case_bytes(want));
    assert_memory_equal(w.data, before, case_bytes(&w));
    free(before);
    free(out.data);
    backend_destroy(be);
}

/* A packed copy replaces the pages of a mapped file; memory of any other kind must keep its values. */
static void test_cpu_conv__frozen_weights_stay_readable(void **state)
{
    (void)state;
    const Case *c = &cases[2];
    Backend *be = case_backend(2);
    OpView in[2], want = case_empty(DTYPE_F32, out_shape(c));
    OpAttr a = attr_of(c, 0, DTYPE_F32, want.shape);
    make_inputs(c, OP_CONV2D, 0, DTYPE_F32, in);
    case_run(be, OP_CONV2D, &a, in, 2, &want, 1);
    OpView w = in[1];
    w.frozen = 1;
    run_with_weight(c, w, &in[0], &want);

    char path[] = "/tmp/test_conv_XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    /* At an offset, as after a file's header: the first page is shared with something else. */
    enum { AT = 100 };
    assert_int_equal(pwrite(fd, w.data, case_bytes(&w), AT), (ssize_t)case_bytes(&w));
    for (int writable = 0; writable < 2; writable++) {
        char *map = mmap(NULL, case_bytes(&w) + AT, PROT_READ | (writable ? PROT_WRITE : 0), MAP_PRIVATE, fd, 0);
        assert_true(map != MAP_FAILED);
        OpView mapped = w;
        mapped.data = map + AT;
        if (writable)
            memcpy(mapped.data, w.data, case_bytes(&w)); /* private pages that the file could not give back */
        run_with_weight(c, mapped, &in[0], &want);
        munmap(map, case_bytes(&w) + AT);
        assert_int_equal(ftruncate(fd, AT), 0);
        assert_int_equal(ftruncate(fd, (off_t)(AT + case_bytes(&w))), 0); /* the file now holds zeros */
    }
    close(fd);
    unlink(path);
    case_free(in, 2);
    free(want.data);
    backend_destroy(be);
}

/* Files align weights to their dtype only. */
static void test_cpu_conv__weights_may_be_unaligned(void **state)
{
    (void)state;
    static const OpKind kinds[] = {OP_CONV2D, OP_CONV2D_BWD_X};
    static const int which[] = {2, 7, CASES - 2};
    Backend *be = case_backend(2);
    for (int i = 0; i < 12; i++) {
        const Case *c = &cases[which[i / 4]];
        Dtype t = i % 2 ? DTYPE_BF16 : DTYPE_F32;
        OpKind kind = kinds[i % 4 / 2];
        OpView in[2], out[2] = {case_empty(t, kind == OP_CONV2D ? out_shape(c) : c->x), case_empty(t, kind == OP_CONV2D ? out_shape(c) : c->x)};
        OpAttr a = attr_of(c, 0, t, out[0].shape);
        make_inputs(c, kind, 0, t, in);
        case_run(be, kind, &a, in, 2, &out[0], 1);
        char *room = case_alloc(case_bytes(&in[1]) + 64);
        OpView moved[2] = {in[0], in[1]};
        moved[1].data = room + dtype_size(t);
        memcpy(moved[1].data, in[1].data, case_bytes(&in[1]));
        case_run(be, kind, &a, moved, 2, &out[1], 1);
        assert_memory_equal(out[1].data, out[0].data, case_bytes(out));
        free(room);
        case_free(in, 2);
        case_free(out, 2);
    }
    backend_destroy(be);
}

static void test_cpu_conv__upsample_equals_definition(void **state)
{
    (void)state;
    static const int64_t sizes[][4] = {{4, 4, 8, 8}, {3, 5, 7, 11}, {6, 6, 4, 5}, {1, 1, 3, 2}};
    Backend *be = case_backend(2);
    for (int i = 0; i < 8; i++) {
        const int64_t *z = sizes[i / 2], n = 2, ch = 5;
        Dtype t = i % 2 ? DTYPE_BF16 : DTYPE_F32;
        OpView x = case_random(t, SHAPE(n, z[0], z[1], ch), 1), y = case_empty(t, SHAPE(n, z[2], z[3], ch));
        OpView dy = case_random(t, y.shape, 2), dx = case_empty(t, x.shape);
        double *want = calloc((size_t)shape_count(&x.shape), sizeof *want);
        case_run(be, OP_UPSAMPLE_NEAREST, &(OpAttr){.meta = {t, y.shape}}, &x, 1, &y, -1);
        case_run(be, OP_UPSAMPLE_NEAREST_BWD, &(OpAttr){.meta = {t, x.shape}}, &dy, 1, &dx, -1);
        for (int64_t j = 0; j < shape_count(&y.shape); j++) {
            int64_t c = j % ch, ox = j / ch % z[3], oy = j / ch / z[3] % z[2], item = j / ch / z[3] / z[2];
            int64_t from = ((item * z[0] + oy * z[0] / z[2]) * z[1] + ox * z[1] / z[3]) * ch + c;
            assert_true(case_get(&y, j) == case_get(&x, from));
            want[from] += case_get(&dy, j);
        }
        for (int64_t j = 0; j < shape_count(&x.shape); j++) {
            double d = want[j] - case_get(&dx, j);
            assert_true((d < 0 ? -d : d) <= (t == DTYPE_BF16 ? 0.02 : 0));
        }
        free(want);
        case_free((OpView[]){x, y, dy, dx}, 4);
    }
    backend_destroy(be);
}

static void test_cpu_conv__rejects_padding_past_the_kernel(void **state)
{
    (void)state;
    static const OpKind kinds[] = {OP_CONV2D, OP_CONV2D_BWD_X, OP_CONV2D_BWD_W};
    Backend *be = case_backend(1);
    for (int i = 0; i < 3; i++) {
        Case c = {X(1, 4, 4, 4), 4, 3, 1, {3, 0, 0, 0}};
        OpView in[2], out = case_empty(DTYPE_F32, i == 0 ? out_shape(&c) : i == 1 ? c.x : weight_shape(&c));
        make_inputs(&c, kinds[i], 0, DTYPE_F32, in);
        OpAttr a = attr_of(&c, 0, DTYPE_F32, out.shape);
        OpCall call = {kinds[i], &a, in, &out, 2, 1, NULL, NULL};
        void *made = NULL;
        assert_int_equal(be->op[kinds[i]].prepare(be, &call, &made), ERR_UNSUPPORTED);
        assert_null(made);
        case_free(in, 2);
        free(out.data);
    }
    backend_destroy(be);
}

/* There bf16 runs on float copies. */
static void test_cpu_conv__bf16_without_avx512(void **state)
{
    (void)state;
    static const OpKind kinds[] = {OP_CONV2D, OP_CONV2D_BWD_X, OP_CONV2D_BWD_W};
    for (int i = 0; i < 9; i++)
        compare(kinds[i % 3], i, &cases[i], 0, CPU_ISA_AVX2);
}

int main(void)
{
    setenv("ATELIER_WINOGRAD", "off", 1); /* test_conv_winograd.c has its own tests */
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cpu_conv__equals_f64),
        cmocka_unit_test(test_cpu_conv__equals_f64_with_bias_and_res),
        cmocka_unit_test(test_cpu_conv__bwd_x_equals_f64),
        cmocka_unit_test(test_cpu_conv__bwd_w_equals_f64),
        cmocka_unit_test(test_cpu_conv__bits_do_not_depend_on_batch_or_threads),
        cmocka_unit_test(test_cpu_conv__bwd_w_bits_do_not_depend_on_threads),
        cmocka_unit_test(test_cpu_conv__res_may_be_the_result),
        cmocka_unit_test(test_cpu_conv__packs_again_when_the_version_grows),
        cmocka_unit_test(test_cpu_conv__packs_activations_on_every_run),
        cmocka_unit_test(test_cpu_conv__frozen_weights_stay_readable),
        cmocka_unit_test(test_cpu_conv__weights_may_be_unaligned),
        cmocka_unit_test(test_cpu_conv__upsample_equals_definition),
        cmocka_unit_test(test_cpu_conv__rejects_padding_past_the_kernel),
        cmocka_unit_test(test_cpu_conv__bf16_without_avx512),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
