#include "cpu/act_cases.h"

CASE_TESTS(test_cpu_act, act_cases)

static double distance_ulp(float got, double want)
{
    float f = (float)want, next = nextafterf(fabsf(f), INFINITY);
    return fabs((double)got - want) / (double)(next - fabsf(f));
}

static double double_of(int act, double x)
{
    switch (act) {
    case ACT_EXP: return exp(x);
    case ACT_TANH: return tanh(x);
    case ACT_SIGMOID: return 1 / (1 + exp(-x));
    case ACT_GELU: return 0.5 * x * erfc(-x / sqrt(2));
    default: return x / (1 + exp(-x));
    }
}

/* The vector functions against libm in double, over the whole range where the result is a normal float. */
static void test_cpu_act__accuracy_in_ulp(void **state)
{
    (void)state;
    static const struct {
        int act;
        double lo, hi, most;
    } fn[] = {{ACT_EXP, -87.3, 88.7, 2}, {ACT_TANH, -12, 12, 3}, {ACT_TANH, -0.6, 0.6, 3}, {ACT_SIGMOID, -80, 30, 3},
              {ACT_SILU, -80, 80, 4}, {ACT_GELU, 0, 9, 4}};
    enum { N = 20000 };
    float *x = malloc(N * sizeof *x), *y = malloc(N * sizeof *y);
    for (int isa = CPU_ISA_BASE; isa <= CPU_ISA_AVX512; isa++) {
        Backend *be = make_backend(1, isa);
        for (size_t k = 0; k < sizeof fn / sizeof *fn; k++) {
            for (int i = 0; i < N; i++)
                x[i] = (float)uniform(k, i, fn[k].lo, fn[k].hi);
            OpAttr attr = {.act = fn[k].act};
            OpView in = {.data = x, .dtype = DTYPE_F32, .shape = SHAPE(N)}, out = {.data = y, .dtype = DTYPE_F32, .shape = SHAPE(N)};
            OpCall c = {.kind = OP_ACT, .attr = &attr, .in = &in, .out = &out, .nin = 1, .nout = 1};
            assert_int_equal(be->op[OP_ACT].run(be, &c), 0);
            double worst = 0;
            for (int i = 0; i < N; i++)
                worst = fmax(worst, distance_ulp(y[i], double_of(fn[k].act, (double)x[i])));
            if (worst > fn[k].most)
                fail_msg("function %d is off by %.2f ulp (isa %d)", fn[k].act, worst, isa);
        }
        backend_destroy(be);
    }
    free(x);
    free(y);
}

static void test_cpu_act__limits(void **state)
{
    (void)state;
    static const struct {
        int act;
        float x, y;
    } want[] = {
        {ACT_EXP, 100, INFINITY},    {ACT_EXP, -200, 0},       {ACT_EXP, 0, 1},       {ACT_SILU, -300, 0},
        {ACT_SILU, 300, 300},        {ACT_TANH, 100, 1},       {ACT_TANH, -100, -1},  {ACT_SIGMOID, 200, 1},
        {ACT_SIGMOID, -200, 0},      {ACT_GELU, 50, 50},       {ACT_GELU, -50, 0},    {ACT_GELU_TANH, 50, 50},
        {ACT_GELU_TANH, -50, 0},     {ACT_QUICK_GELU, 90, 90}, {ACT_RELU, -3, 0},     {ACT_RELU, 3, 3},
        {ACT_EXP, INFINITY, INFINITY}, {ACT_TANH, INFINITY, 1}, {ACT_EXP, -INFINITY, 0}, {ACT_TANH, 0, 0},
    };
    for (int isa = CPU_ISA_BASE; isa <= CPU_ISA_AVX512; isa++) {
        Backend *be = make_backend(1, isa);
        for (size_t k = 0; k < sizeof want / sizeof *want; k++) {
            float x[2] = {want[k].x, NAN}, y[2];
            OpAttr attr = {.act = want[k].act};
            OpView in = {.data = x, .dtype = DTYPE_F32, .shape = SHAPE(2)}, out = {.data = y, .dtype = DTYPE_F32, .shape = SHAPE(2)};
            OpCall c = {.kind = OP_ACT, .attr = &attr, .in = &in, .out = &out, .nin = 1, .nout = 1};
            assert_int_equal(be->op[OP_ACT].run(be, &c), 0);
            if (!(y[0] == want[k].y || fabsf(y[0] - want[k].y) < 1e-33f)) /* 0 may be a rest of 1e-38 x */
                fail_msg("function %d of %g is %g (isa %d)", want[k].act, (double)x[0], (double)y[0], isa);
            if (!isnan(y[1]))
                fail_msg("function %d loses NaN (isa %d)", want[k].act, isa);
        }
        backend_destroy(be);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE_TEST_LIST(test_cpu_act),
        cmocka_unit_test(test_cpu_act__accuracy_in_ulp),
        cmocka_unit_test(test_cpu_act__limits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
