#include "cpu/loss_cases.h"

CASE_TESTS(test_cpu_loss, loss_cases)

static double scalar_of(OpKind kind, OpLoss loss, const Meta *m, const double *const *data, int nin)
{
    Backend *be = make_backend(1, CPU_ISA_BASE);
    Eager e;
    OpRef in[5], out[1];
    eager_init(&e, be, DTYPE_F64);
    for (int i = 0; i < nin; i++) {
        in[i] = eager_new(&e, &m[i]);
        memcpy(e.data[in[i]], data[i], meta_bytes(&m[i]));
    }
    eager_emit(&e.base, kind, &(OpAttr){.loss = loss}, in, nin, out, 1);
    double v = *(double *)e.data[out[0]];
    eager_deinit(&e);
    backend_destroy(be);
    return v;
}

/* The double loops by hand. */
static void test_cpu_loss__values_by_hand(void **state)
{
    (void)state;
    const double x[4] = {1, 2, 3, 4}, y[4] = {0, 2, 5, 4}, w[1] = {3}, m[4] = {1, 0, log(2), 0};
    Meta row = {DTYPE_F64, SHAPE(1, 4)}, one = {DTYPE_F64, SHAPE(1)};
    assert_true(fabs(scalar_of(OP_MSE, 0, (Meta[]){row, row, one}, (const double *[]){x, y, w}, 3) - 3 * 5.0 / 4) < 1e-12);
    assert_true(fabs(scalar_of(OP_L1, 0, (Meta[]){row, row, one}, (const double *[]){x, y, w}, 3) - 3 * 3.0 / 4) < 1e-12);
    /* channels: mean 1, 0; logvar log 2, 0: (1 + 2 - 1 - log 2 + 0) / 2 / 2 */
    /* d = 1, 0, -2, 0; c = 0.5; mask 1, 0.5 over two channels */
    const double c[1] = {0.5}, mask[2] = {1, 0.5};
    Meta pixels = {DTYPE_F64, SHAPE(1, 2, 2)}, rows = {DTYPE_F64, SHAPE(1, 2)};
    const Meta pm[5] = {pixels, pixels, one, one, rows};
    const double *pd[5] = {x, y, w, c, mask}, h1 = sqrt(1.25) - 0.5, h2 = sqrt(4.25) - 0.5;
    assert_true(fabs(scalar_of(OP_PIXEL_LOSS, OP_LOSS_L2, pm, pd, 5) - 3 * (1 + 0.5 * 4) / 4) < 1e-12);
    assert_true(fabs(scalar_of(OP_PIXEL_LOSS, OP_LOSS_L1, pm, pd, 5) - 3 * (1 + 0.5 * 2) / 4) < 1e-12);
    assert_true(fabs(scalar_of(OP_PIXEL_LOSS, OP_LOSS_HUBER, pm, pd, 5) - 3 * (h1 + 0.5 * h2) / 4) < 1e-12);
    assert_true(fabs(scalar_of(OP_PIXEL_LOSS, OP_LOSS_SMOOTH_L1, pm, pd, 5) - 3 * 2 * (h1 + 0.5 * h2) / 4) < 1e-12);
    double kl = 3 * 0.5 * (1 + 2 - 1 - log(2)) / 2;
    assert_true(fabs(scalar_of(OP_KL, 0, (Meta[]){row, one}, (const double *[]){m, w}, 2) - kl) < 1e-12);
}

static void test_cpu_loss__target_out_of_range(void **state)
{
    (void)state;
    Backend *be = make_backend(1, CPU_ISA_AVX512);
    float x[6] = {0}, y[2];
    for (int bad = -1; bad <= 3; bad += 4) {
        int32_t target[2] = {0, bad};
        OpView in[2] = {{.data = x, .dtype = DTYPE_F32, .shape = SHAPE(2, 3)}, {.data = target, .dtype = DTYPE_I32, .shape = SHAPE(2)}};
        OpView out = {.data = y, .dtype = DTYPE_F32, .shape = SHAPE(2)};
        OpCall c = {.kind = OP_XENT, .attr = &(OpAttr){0}, .in = in, .out = &out, .nin = 2, .nout = 1};
        assert_int_equal(be->op[OP_XENT].run(be, &c), ERR_RANGE);
        assert_non_null(strstr(err_message(), "target[1]"));
    }
    backend_destroy(be);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE_TEST_LIST(test_cpu_loss),
        cmocka_unit_test(test_cpu_loss__values_by_hand),
        cmocka_unit_test(test_cpu_loss__target_out_of_range),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
