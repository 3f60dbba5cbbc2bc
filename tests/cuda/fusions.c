/* What graph_optimize rewrites for a backend: the same results, and less memory. */
#include "cpu/harness.h"
#include "cuda/cuda.h"
#include "graph/exec.h"

#define OK(e)                          \
    do {                               \
        if ((e) < 0)                   \
            fail_msg("%s", err_message()); \
    } while (0)

enum { PARAMS = 12, OUTS = 14 };

typedef struct {
    Graph *g;
    Plan *plan;
    Exec *ex;
    OpRef x, param[PARAMS], out[OUTS];
    float *value[PARAMS];
    int nparam, nout;
} Net;

typedef void (*Build)(Net *n, OpBuild *b);

static OpRef param(Net *n, Shape s)
{
    char name[16];
    snprintf(name, sizeof name, "p%d", n->nparam);
    OpRef t = graph_param(n->g, name, s.ndim == 1 ? DTYPE_F32 : graph_dtype(n->g), s);
    assert_true(t >= 0);
    return n->param[n->nparam++] = t;
}

static void keep(Net *n, OpRef t)
{
    char name[16];
    if (t < 0)
        fail_msg("%s", err_message());
    snprintf(name, sizeof name, "y%d", n->nout);
    graph_output(n->g, t, name);
    n->out[n->nout++] = t;
}

/* The gradients of all parameters and of x, seeded with y itself. */
static void differentiate(Net *n, OpRef y)
{
    OpRef wrt[PARAMS + 1], grad[PARAMS + 1];
    memcpy(wrt, n->param, sizeof n->param);
    wrt[n->nparam] = n->x;
    OK(graph_backward(n->g, y, y, wrt, n->nparam + 1, grad, 0));
    for (int i = 0; i <= n->nparam; i++)
        keep(n, grad[i]);
}

static void net_init(Net *n, Backend *be, Dtype t, Build build, const Backend *fused)
{
    memset(n, 0, sizeof *n);
    OK(graph_create(&n->g, t));
    build(n, graph_builder(n->g));
    OK(graph_status(n->g));
    OK(graph_optimize(n->g, fused));
    OK(plan_create(&n->plan, n->g, be));
    OK(exec_create(&n->ex, n->plan));
    for (int i = 0; i < n->nparam; i++) {
        const Meta *m = graph_meta(n->g, n->param[i]);
        int64_t count = shape_count(&m->shape);
        n->value[i] = malloc((size_t)count * sizeof(float));
        assert_non_null(n->value[i]);
        for (int64_t k = 0; k < count; k++)
            write_value(n->value[i], m->dtype, k, uniform(100 + (uint64_t)i, k, -1, 1) / (m->shape.ndim > 1 ? 4 : 1));
        OK(exec_bind(n->ex, n->param[i], &(OpView){n->value[i], m->dtype, m->shape, 1, 0}));
    }
    const Shape *s = &graph_meta(n->g, n->x)->shape;
    float *x = malloc((size_t)shape_count(s) * sizeof *x);
    assert_non_null(x);
    for (int64_t k = 0; k < shape_count(s); k++)
        x[k] = (float)uniform(7, k, -1, 1);
    OK(exec_write_f32(n->ex, n->x, x, shape_count(s)));
    if (graph_find(n->g, "s") >= 0)
        OK(exec_write_f32(n->ex, graph_find(n->g, "s"), &(float){1.5f}, 1));
    OK(exec_run(n->ex));
    free(x);
}

static void net_deinit(Net *n)
{
    exec_destroy(n->ex);
    plan_destroy(n->plan);
    graph_destroy(n->g);
    for (int i = 0; i < n->nparam; i++)
        free(n->value[i]);
}

static int alive(const Net *n, OpKind k)
{
    int count = 0;
    for (int i = 0; i < graph_node_count(n->g); i++)
        count += graph_node(n->g, i)->kind == k && !graph_node(n->g, i)->dead;
    return count;
}

/* Results as doubles; the caller's. */
static double *result(const Net *n, int i, int64_t *count)
{
    const Meta *m = graph_meta(n->g, n->out[i]);
    *count = shape_count(&m->shape);
    float *f = malloc((size_t)*count * sizeof *f);
    double *d = malloc((size_t)*count * sizeof *d);
    assert_true(f && d);
    OK(exec_read_f32(n->ex, n->out[i], f, *count));
    for (int64_t k = 0; k < *count; k++)
        d[k] = f[k];
    free(f);
    return d;
}

/* Every result of a and b: the same, or (tol > 0) as near as tol of value and rms. */
static void compare(const Net *a, const Net *b, double tol, const char *what)
{
    assert_int_equal(a->nout, b->nout);
    for (int i = 0; i < a->nout; i++) {
        int64_t n, m;
        double *x = result(a, i, &n), *y = result(b, i, &m), square = 0;
        assert_int_equal(n, m);
        for (int64_t k = 0; k < n; k++)
            square += y[k] * y[k];
        assert_true(square > 0);
        for (int64_t k = 0; k < n; k++)
            if (!(fabs(x[k] - y[k]) <= tol * (fabs(y[k]) + sqrt(square / (double)n))))
                fail_msg("%s: result %d at %lld is %.9g, expected %.9g", what, i, (long long)k, x[k], y[k]);
        free(x);
        free(y);
    }
}

/* The CPU backend runs the rewritten graphs too, though it does not gain; where oneDNN is there. */
#ifdef EMULATED
enum { BACKENDS = 2 };
#else
enum { BACKENDS = 1 };
#endif
static Backend *both[2];

static int start(void **state)
{
    (void)state;
    both[1] = make_backend(2, CPU_ISA_AVX512);
    if (cuda_backend_create(&both[0], 0) < 0) {
        fprintf(stderr, "%s\n", err_message());
        return -1;
    }
    both[1]->fuses = both[0]->fuses & (BACKEND_FUSE_UPSAMPLE | BACKEND_FUSE_BIAS);
    return 0;
}

static int stop(void **state)
{
    (void)state;
    backend_destroy(both[0]);
    backend_destroy(both[1]);
    return 0;
}

/* Forward alone and with gradients, in f32 and bf16, on the first `backends` of both: the graph as built and as rewritten give the same within
 * the tolerance of the type, and `check` sees the two (backward: with gradients). */
typedef void (*Check)(const Net *plain, const Net *fused, const Backend *be, int backward);

static void compare_rewritten(Build forward, Build gradients, int backends, double tol, double tol_bf, Check check)
{
    for (int k = 0; k < 4 * backends; k++) {
        Net plain, fused;
        Backend *be = both[k / 4];
        Dtype t = k & 2 ? DTYPE_BF16 : DTYPE_F32;
        int backward = k & 1;
        net_init(&plain, be, t, backward ? gradients : forward, NULL);
        net_init(&fused, be, t, backward ? gradients : forward, be);
        check(&plain, &fused, be, backward);
        compare(&fused, &plain, t == DTYPE_F32 ? tol : tol_bf, be->name);
        net_deinit(&plain);
        net_deinit(&fused);
    }
}

/* ---- upsampling into convolutions ---- */

static const int pad1[4] = {1, 1, 1, 1};

/* Two resolutions more: one twice as large, one of another size, and a residual. */
static OpRef upsampler(Net *n, OpBuild *b)
{
    n->x = graph_input(n->g, "x", DTYPE_F32, SHAPE(2, 4, 5, 8));
    OpRef h = op_cast(b, n->x, graph_dtype(n->g));
    h = op_act(b, op_conv2d(b, h, param(n, SHAPE(16, 8, 3, 3)), OP_NONE, OP_NONE, 1, pad1), ACT_SILU);
    h = op_conv2d(b, op_upsample_nearest(b, h, 8, 10), param(n, SHAPE(8, 16, 3, 3)), param(n, SHAPE(8)), OP_NONE, 1, pad1);
    OpRef big = op_upsample_nearest(b, h, 9, 13), w = param(n, SHAPE(8, 8, 3, 3));
    OpRef y = op_conv2d(b, big, w, OP_NONE, OP_NONE, 1, pad1);
    return op_add(b, op_conv2d(b, big, param(n, SHAPE(8, 8, 1, 1)), OP_NONE, OP_NONE, 1, (int[4]){0}), y);
}

static void build_upsampler(Net *n, OpBuild *b)
{
    keep(n, upsampler(n, b));
}

static void build_upsampler_gradients(Net *n, OpBuild *b)
{
    OpRef y = upsampler(n, b);
    keep(n, y);
    differentiate(n, y);
}

/* Someone else reads the large image: it must be made anyway. */
static void build_read_upsampled(Net *n, OpBuild *b)
{
    n->x = graph_input(n->g, "x", graph_dtype(n->g), SHAPE(1, 3, 4, 8));
    OpRef big = op_upsample_nearest(b, n->x, 6, 8);
    OpRef y = op_conv2d(b, big, param(n, SHAPE(8, 8, 3, 3)), OP_NONE, OP_NONE, 1, pad1);
    OpRef other = op_upsample_nearest(b, n->x, 6, 4);
    keep(n, op_add(b, y, op_act(b, big, ACT_SILU)));
    keep(n, op_conv2d(b, other, n->param[0], OP_NONE, OP_NONE, 1, pad1));
    keep(n, other);
}

static void check_upsampler(const Net *plain, const Net *fused, const Backend *be, int backward)
{
    (void)backward;
    assert_int_equal(alive(plain, OP_UPSAMPLE_NEAREST), 2);
    assert_int_equal(alive(fused, OP_UPSAMPLE_NEAREST), 0);
    if (be == both[0])
        assert_true(plan_arena_bytes(fused->plan) < plan_arena_bytes(plain->plan));
}

static void test_cuda_fusions__upsampling_changes_no_bit(void **state)
{
    (void)state;
    compare_rewritten(build_upsampler, build_upsampler_gradients, BACKENDS, 0, 0, check_upsampler);
}

static void test_cuda_fusions__upsampling_that_others_read_stays(void **state)
{
    (void)state;
    Net plain, fused;
    net_init(&plain, both[0], DTYPE_F32, build_read_upsampled, NULL);
    net_init(&fused, both[0], DTYPE_F32, build_read_upsampled, both[0]);
    assert_int_equal(alive(&fused, OP_UPSAMPLE_NEAREST), 2);
    compare(&fused, &plain, 0, "read by others");
    net_deinit(&plain);
    net_deinit(&fused);
}

/* ---- low-rank paths into the products beside them ---- */

static OpRef adapted(Net *n, OpBuild *b, OpRef x, int64_t in, int64_t out, int64_t rank, OpRef bias, OpRef res, OpRef s)
{
    OpRef y = op_linear(b, x, param(n, SHAPE(out, in)), bias, res), down = param(n, SHAPE(rank, in)), up = param(n, SHAPE(out, rank));
    OpRef h = op_scale(b, op_linear(b, x, down, OP_NONE, OP_NONE), 0.5f, s);
    return op_linear(b, h, up, OP_NONE, y);
}

/* Two modules that read the same x, and one after them with a bias and a residual. */
static OpRef adapters(Net *n, OpBuild *b)
{
    n->x = graph_input(n->g, "x", DTYPE_F32, SHAPE(2, 9, 24));
    OpRef x = op_act(b, op_cast(b, n->x, graph_dtype(n->g)), ACT_SILU);
    OpRef p = adapted(n, b, x, 24, 40, 4, OP_NONE, OP_NONE, OP_NONE);
    OpRef q = adapted(n, b, x, 24, 40, 8, OP_NONE, OP_NONE, OP_NONE);
    OpRef s = graph_input(n->g, "s", DTYPE_F32, SHAPE(1));
    return adapted(n, b, op_mul(b, p, q), 40, 24, 4, param(n, SHAPE(24)), x, s);
}

static void build_adapters(Net *n, OpBuild *b)
{
    keep(n, adapters(n, b));
}

static void build_adapters_gradients(Net *n, OpBuild *b)
{
    OpRef y = adapters(n, b);
    keep(n, y);
    differentiate(n, y);
}

static void check_adapters(const Net *plain, const Net *fused, const Backend *be, int backward)
{
    (void)be;
    assert_int_equal(alive(plain, OP_LINEAR_LOW), 0);
    assert_int_equal(alive(plain, OP_LINEAR_BWD_X), 9 * backward);
    assert_int_equal(alive(fused, OP_LINEAR_LOW), 3);
    assert_int_equal(alive(fused, OP_LINEAR), 0);
    assert_int_equal(alive(fused, OP_SCALE), 0);
    assert_int_equal(alive(fused, OP_LINEAR_LOW_BWD_X), 3 * backward);
    assert_int_equal(alive(fused, OP_LINEAR_BWD_X), 0);
}

static void test_cuda_fusions__low_rank_paths(void **state)
{
    (void)state;
    compare_rewritten(build_adapters, build_adapters_gradients, 1, 1e-5, 3e-2, check_adapters);
}

/* Like a LoRA but for one thing each: the path starts at another tensor, its h or the result without it is read by others. */
static void build_no_adapters(Net *n, OpBuild *b)
{
    n->x = graph_input(n->g, "x", graph_dtype(n->g), SHAPE(2, 9, 24));
    OpRef x = n->x, z = op_act(b, x, ACT_SILU);
    for (int i = 0; i < 3; i++) {
        OpRef y = op_linear(b, x, param(n, SHAPE(24, 24)), OP_NONE, OP_NONE);
        OpRef h = op_linear(b, i ? x : z, param(n, SHAPE(4, 24)), OP_NONE, OP_NONE);
        keep(n, op_linear(b, op_scale(b, h, 0.5f, OP_NONE), param(n, SHAPE(24, 4)), OP_NONE, y));
        if (i)
            keep(n, op_act(b, i == 1 ? h : y, ACT_SILU));
    }
}

static void test_cuda_fusions__what_is_no_low_rank_path_stays(void **state)
{
    (void)state;
    Net plain, fused;
    net_init(&plain, both[0], DTYPE_F32, build_no_adapters, NULL);
    net_init(&fused, both[0], DTYPE_F32, build_no_adapters, both[0]);
    assert_int_equal(alive(&fused, OP_LINEAR), 9);
    compare(&fused, &plain, 0, "no low-rank path");
    net_deinit(&plain);
    net_deinit(&fused);
}

/* ---- biases ---- */

/* One that GEGLU may add, and one of a result that others read too. */
static OpRef gated(Net *n, OpBuild *b)
{
    n->x = graph_input(n->g, "x", DTYPE_F32, SHAPE(2, 9, 24));
    OpRef x = op_cast(b, n->x, graph_dtype(n->g));
    OpRef h = op_geglu(b, op_linear(b, x, param(n, SHAPE(64, 24)), param(n, SHAPE(64)), OP_NONE));
    OpRef z = op_linear(b, h, param(n, SHAPE(48, 32)), param(n, SHAPE(48)), OP_NONE);
    return op_add(b, op_geglu(b, z), op_slice(b, z, 0, 24));
}

static void build_gated(Net *n, OpBuild *b)
{
    keep(n, gated(n, b));
}

static void build_gated_gradients(Net *n, OpBuild *b)
{
    OpRef y = gated(n, b);
    keep(n, y);
    differentiate(n, y);
}

static int biased(const Net *n, OpKind k)
{
    int count = 0;
    for (int i = 0; i < graph_node_count(n->g); i++)
        count += graph_node(n->g, i)->kind == k && !graph_node(n->g, i)->dead && graph_node(n->g, i)->attr.has & OP_HAS_BIAS;
    return count;
}

static void check_gated(const Net *plain, const Net *fused, const Backend *be, int backward)
{
    (void)be;
    assert_int_equal(biased(plain, OP_LINEAR), 2);
    assert_int_equal(biased(fused, OP_LINEAR), 1);
    assert_int_equal(biased(fused, OP_GEGLU), 1);
    assert_int_equal(biased(fused, OP_GEGLU_BWD), backward);
}

static void test_cuda_fusions__bias_into_geglu(void **state)
{
    (void)state;
    compare_rewritten(build_gated, build_gated_gradients, BACKENDS, 1e-5, 6e-2, check_gated);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cuda_fusions__upsampling_changes_no_bit),
        cmocka_unit_test(test_cuda_fusions__upsampling_that_others_read_stays),
        cmocka_unit_test(test_cuda_fusions__low_rank_paths),
        cmocka_unit_test(test_cuda_fusions__what_is_no_low_rank_path_stays),
        cmocka_unit_test(test_cuda_fusions__bias_into_geglu),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
