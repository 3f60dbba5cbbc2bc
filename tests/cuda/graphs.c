/* Runs replayed as CUDA graphs give what op by op launches give, and a recording never outlives the addresses in it. */
#include "cpu/harness.h"
#include "cuda/cuda.h"
#include "graph/exec.h"

#define OK(e)                          \
    do {                               \
        if ((e) < 0)                   \
            fail_msg("%s", err_message()); \
    } while (0)

enum { N = 2, H = 5, W = 4, C = 8, CO = 16, OUT = N * H * W * C };

/* linear(silu(conv(x))) * s: a frozen weight, a trained one and a scale. */
typedef struct {
    Backend *be;
    Graph *g;
    Plan *plan;
    Exec *ex;
    OpRef x, wc, wl, s, hidden, y;
} Net;

static void fill(float *p, int n, uint64_t key)
{
    for (int i = 0; i < n; i++)
        p[i] = (float)uniform(key, i, -1, 1);
}

static Backend *backend(const char *graphs)
{
    Backend *be;
    setenv("ATELIER_CUDA_GRAPHS", graphs, 1);
    OK(cuda_backend_create(&be, 0));
    unsetenv("ATELIER_CUDA_GRAPHS");
    return be;
}

static void net_init(Net *n, Backend *be)
{
    static const int pad[4] = {1, 1, 1, 1};
    n->be = be;
    OK(graph_create(&n->g, DTYPE_F32));
    OpBuild *b = graph_builder(n->g);
    n->x = graph_input(n->g, "x", DTYPE_F32, SHAPE(N, H, W, C));
    n->wc = graph_param(n->g, "wc", DTYPE_F32, SHAPE(CO, C, 3, 3));
    n->wl = graph_param(n->g, "wl", DTYPE_F32, SHAPE(C, CO));
    n->s = graph_param(n->g, "s", DTYPE_F32, SHAPE(1));
    n->hidden = op_act(b, op_conv2d(b, n->x, n->wc, OP_NONE, OP_NONE, 1, pad), ACT_SILU);
    n->y = op_scale(b, op_linear(b, n->hidden, n->wl, OP_NONE, OP_NONE), 0.5f, n->s);
    graph_output(n->g, n->hidden, "hidden");
    graph_output(n->g, n->y, "y");
    OK(graph_optimize(n->g, be));
    OK(plan_create(&n->plan, n->g, be));
    OK(exec_create(&n->ex, n->plan));
}

static void net_deinit(Net *n)
{
    exec_destroy(n->ex);
    plan_destroy(n->plan);
    graph_destroy(n->g);
    backend_destroy(n->be);
}

static float weight_conv[2][CO * C * 9], weight_linear[2][C * CO], scale[2] = {1.5f, -0.25f};

static void bind(Net *n, const float *conv, const float *linear, const float *s, uint64_t version)
{
    OK(exec_bind(n->ex, n->wc, &(OpView){(void *)conv, DTYPE_F32, SHAPE(CO, C, 3, 3), 0, 1}));
    OK(exec_bind(n->ex, n->wl, &(OpView){(void *)linear, DTYPE_F32, SHAPE(C, CO), version, 0}));
    OK(exec_bind(n->ex, n->s, &(OpView){(void *)s, DTYPE_F32, SHAPE(1), version, 0}));
}

static void run(Net *n, uint64_t key, float *y)
{
    float x[N * H * W * C];
    fill(x, N * H * W * C, key);
    OK(exec_write_f32(n->ex, n->x, x, N * H * W * C));
    OK(exec_run(n->ex));
    OK(exec_read_f32(n->ex, n->y, y, OUT));
}

/* Both run; the same bits. Returns how many runs of `on` have been replays. */
static int64_t both(Net *on, Net *off, uint64_t key)
{
    float a[OUT], b[OUT];
    run(on, key, a);
    run(off, key, b);
    assert_memory_equal(a, b, sizeof a);
    assert_true(fabsf(a[0]) > 0);
    assert_int_equal(exec_replays(off->ex), 0);
    return exec_replays(on->ex);
}

static void start(Net *on, Net *off)
{
    for (int i = 0; i < 2; i++) {
        fill(weight_conv[i], CO * C * 9, 5 + (uint64_t)i);
        fill(weight_linear[i], C * CO, 7 + (uint64_t)i);
    }
    net_init(on, backend("on"));
    net_init(off, backend("off"));
    bind(on, weight_conv[0], weight_linear[0], &scale[0], 1);
    bind(off, weight_conv[0], weight_linear[0], &scale[0], 1);
}

static void test_cuda_graphs__replays_give_the_same_bits(void **state)
{
    Net on, off;
    (void)state;
    start(&on, &off);
    for (int64_t i = 0; i < 4; i++)
        assert_int_equal(both(&on, &off, 20 + (uint64_t)i), i);
    net_deinit(&on);
    net_deinit(&off);
}

static void test_cuda_graphs__new_values_at_the_same_address(void **state)
{
    Net on, off;
    (void)state;
    start(&on, &off);
    for (int i = 0; i < 3; i++) { /* as the optimizer does after every step */
        weight_linear[0][3] += 0.5f;
        scale[0] += 0.25f;
        bind(&on, weight_conv[0], weight_linear[0], &scale[0], 2 + (uint64_t)i);
        bind(&off, weight_conv[0], weight_linear[0], &scale[0], 2 + (uint64_t)i);
        assert_int_equal(both(&on, &off, 30), i);
    }
    net_deinit(&on);
    net_deinit(&off);
}

static void test_cuda_graphs__a_parameter_bound_elsewhere(void **state)
{
    Net on, off;
    float before[OUT], after[OUT];
    (void)state;
    for (int which = 0; which < 3; which++) {
        start(&on, &off);
        for (int i = 0; i < 3; i++)
            both(&on, &off, 40);
        run(&on, 41, before);
        int64_t replays = exec_replays(on.ex);
        const float *conv = weight_conv[which == 0], *linear = weight_linear[which == 1], *s = &scale[which == 2];
        bind(&on, conv, linear, s, 1);
        bind(&off, conv, linear, s, 1);
        assert_int_equal(both(&on, &off, 41), replays); /* nothing to replay yet */
        run(&on, 41, after);
        assert_memory_not_equal(before, after, sizeof before);
        assert_int_equal(both(&on, &off, 42), replays + 2);
        net_deinit(&on);
        net_deinit(&off);
    }
}

static void test_cuda_graphs__a_run_to_a_tensor_or_profiled_is_not_replayed(void **state)
{
    Net on, off;
    (void)state;
    start(&on, &off);
    for (int i = 0; i < 3; i++)
        both(&on, &off, 50);
    OK(exec_run_to(on.ex, on.hidden));
    exec_profile(on.ex, 1);
    assert_int_equal(both(&on, &off, 51), 2);
    double seconds[OP_COUNT], flops[OP_COUNT];
    int64_t calls[OP_COUNT];
    exec_profile_get(on.ex, seconds, calls, flops);
    assert_int_equal(calls[OP_CONV2D], 1);
    exec_profile(on.ex, 0);
    assert_int_equal(both(&on, &off, 52), 3);
    net_deinit(&on);
    net_deinit(&off);
}

typedef struct {
    Net *net;
    int calls;
    float y[OUT];
} Watch;

static int watched(void *ctx, int i)
{
    Watch *w = ctx;
    assert_int_equal(i, w->calls++);
    if (i == 1)
        OK(exec_read_f32(w->net->ex, w->net->y, w->y, OUT)); /* all work up to it has been enqueued */
    return 0;
}

static void test_cuda_graphs__watched_runs_are_replayed_in_pieces(void **state)
{
    Net on, off;
    (void)state;
    start(&on, &off);
    OK(exec_watch(on.ex, (OpRef[]){on.hidden, on.y}, 2));
    for (int i = 0; i < 4; i++) {
        Watch w = {&on, 0, {0}};
        float x[N * H * W * C], y[OUT];
        fill(x, N * H * W * C, 70 + (uint64_t)i);
        OK(exec_write_f32(on.ex, on.x, x, N * H * W * C));
        OK(exec_run_watched(on.ex, watched, &w));
        assert_int_equal(w.calls, 2);
        assert_int_equal(exec_replays(on.ex), i);
        run(&off, 70 + (uint64_t)i, y);
        assert_memory_equal(w.y, y, sizeof y);
        assert_int_equal(both(&on, &off, 80), ++i); /* a run without anyone to tell takes the same pieces */
    }
    net_deinit(&on);
    net_deinit(&off);
}

static int (*act_run)(Backend *be, const OpCall *c);

static int act_that_waits(Backend *be, const OpCall *c)
{
    OK(act_run(be, c));
    return be->sync(be);
}

static void test_cuda_graphs__an_op_that_cannot_be_recorded(void **state)
{
    Net on, off;
    (void)state;
    start(&on, &off);
    act_run = on.be->op[OP_ACT].run;
    on.be->op[OP_ACT].run = act_that_waits;
    for (int i = 0; i < 4; i++)
        assert_int_equal(both(&on, &off, 60 + (uint64_t)i), 0);
    net_deinit(&on);
    net_deinit(&off);
}

static void test_cuda_graphs__switch_is_checked(void **state)
{
    Backend *be;
    (void)state;
    setenv("ATELIER_CUDA_GRAPHS", "maybe", 1);
    assert_int_equal(cuda_backend_create(&be, 0), ERR_RANGE);
    assert_non_null(strstr(err_message(), "ATELIER_CUDA_GRAPHS=maybe: expected off or on"));
    unsetenv("ATELIER_CUDA_GRAPHS");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cuda_graphs__replays_give_the_same_bits),
        cmocka_unit_test(test_cuda_graphs__new_values_at_the_same_address),
        cmocka_unit_test(test_cuda_graphs__a_parameter_bound_elsewhere),
        cmocka_unit_test(test_cuda_graphs__a_run_to_a_tensor_or_profiled_is_not_replayed),
        cmocka_unit_test(test_cuda_graphs__watched_runs_are_replayed_in_pieces),
        cmocka_unit_test(test_cuda_graphs__an_op_that_cannot_be_recorded),
        cmocka_unit_test(test_cuda_graphs__switch_is_checked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
