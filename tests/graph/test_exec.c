#include "models/fixture.h"

typedef struct {
    const Exec *ex;
    OpRef t[4];
    int seen[8], count, stop;
    float first[8];
} Log;

static int done(void *ctx, int i)
{
    Log *l = ctx;
    l->seen[l->count] = i;
    l->first[l->count++] = *(const float *)exec_data(l->ex, l->t[i]);
    return l->count == l->stop ? err_set(ERR_NUMERIC, "enough") : 0;
}

/* Said once per tensor, when its values are there, in the order of the ops; views with what they are views of. */
static void test_graph_exec__watched(void **state)
{
    (void)state;
    Fix f;
    const float in[6] = {1, 2, 3, 4, 5, 6};
    fix_open(&f, DTYPE_F32);
    OpBuild *b = graph_builder(f.g);
    OpRef x = graph_input(f.g, "x", DTYPE_F32, SHAPE(2, 3)), half = op_scale(b, x, 0.5f, OP_NONE);
    OpRef view = op_reshape(b, half, SHAPE(6)), sum = op_add(b, x, half), last = op_scale(b, sum, 10, OP_NONE);
    Log l = {.t = {last, view, half, sum}};
    for (int i = 0; i < 4; i++)
        fix_keep(&f, l.t[i]);
    fix_plan(&f);
    l.ex = f.ex;
    OK(exec_write_f32(f.ex, x, in, 6));
    OK(exec_watch(f.ex, l.t, 4));
    OK(exec_run(f.ex));
    assert_int_equal(l.count, 0);
    for (int round = 0; round < 2; round++, l.count = 0) {
        static const int order[4] = {1, 2, 3, 0};
        static const float values[4] = {0.5f, 0.5f, 1.5f, 15};
        OK(exec_run_watched(f.ex, done, &l));
        assert_int_equal(l.count, 4);
        for (int i = 0; i < 4; i++) {
            assert_int_equal(l.seen[i], order[i]);
            assert_true(l.first[i] == values[i]);
        }
    }
    l.stop = 3;
    FAILS(exec_run_watched(f.ex, done, &l), ERR_NUMERIC, "enough");
    assert_int_equal(l.count, 3);
    OK(exec_watch(f.ex, l.t, 1)); /* in place of the others */
    l.stop = l.count = 0;
    OK(exec_run_watched(f.ex, done, &l));
    assert_int_equal(l.count, 1);
    FAILS(exec_watch(f.ex, &x, 1), ERR_NOTFOUND, "no op gives tensor");
    fix_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_graph_exec__watched)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
