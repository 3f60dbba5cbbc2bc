#include "models/fixture.h"

static void test_nn_nn__paths(void **state)
{
    (void)state;
    Fix f;
    fix_open(&f, DTYPE_F32);
    size_t a = nn_push(&f.nn, "unet"), b = nn_push(&f.nn, "down_blocks.%d", 3);
    assert_string_equal(f.nn.path, "unet.down_blocks.3");
    OpRef w = nn_param(&f.nn, "weight", SHAPE(2, 3)), again = nn_param(&f.nn, "weight", SHAPE(2, 3));
    assert_int_equal(w, again);
    assert_string_equal(graph_tensor(f.g, w)->name, "unet.down_blocks.3.weight");
    nn_pop(&f.nn, b);
    assert_string_equal(f.nn.path, "unet");
    nn_pop(&f.nn, a);
    assert_string_equal(f.nn.path, "");
    assert_int_equal(nn_param(&f.nn, "unet.down_blocks.3.weight", SHAPE(3, 2)), OP_NONE);
    FAILS(graph_status(f.g), ERR_SHAPE, "'unet.down_blocks.3.weight' is used twice");
    fix_close(&f);
    fix_open(&f, DTYPE_F32);
    nn_push(&f.nn, "%0*d", NN_PATH_MAX, 0);
    FAILS(graph_status(f.g), ERR_RANGE, "is longer than 255");
    assert_int_equal(f.nn.len, 0);
    fix_close(&f);
}

/* An error or a missing input goes through every block without a crash. */
static void test_nn_nn__none_passes(void **state)
{
    (void)state;
    Fix f;
    fix_open(&f, DTYPE_F32);
    f.nn.tap = fix_tap;
    f.nn.tap_user = &f;
    assert_int_equal(nn_linear(&f.nn, "a", OP_NONE, 4, 1, OP_NONE), OP_NONE);
    assert_int_equal(nn_conv(&f.nn, "a", OP_NONE, 4, 3, 1, NN_SAME, OP_NONE), OP_NONE);
    assert_int_equal(nn_group_norm(&f.nn, "a", OP_NONE, 4, 1e-5f, ACT_NONE), OP_NONE);
    assert_int_equal(nn_layer_norm(&f.nn, "a", OP_NONE, 1e-5f), OP_NONE);
    assert_int_equal(nn_attention(&f.nn, &NN_ATTN_CLIP, OP_NONE, OP_NONE, 2, 0, OP_NONE), OP_NONE);
    assert_int_equal(nn_resnet(&f.nn, OP_NONE, OP_NONE, 4, 2, 1e-5f), OP_NONE);
    assert_int_equal(nn_to_compute(&f.nn, OP_NONE), OP_NONE);
    assert_int_equal(f.ntap, 0);
    OpRef x = graph_input(f.g, "x", DTYPE_F32, SHAPE(1, 3, 10));
    assert_int_equal(nn_attention(&f.nn, &NN_ATTN_CLIP, x, OP_NONE, 3, 0, OP_NONE), OP_NONE);
    FAILS(graph_status(f.g), ERR_SHAPE, "10 channels do not divide into 3 heads");
    fix_close(&f);
}

static void test_nn_nn__constant(void **state)
{
    (void)state;
    Fix f;
    float v[6];
    fix_open(&f, DTYPE_BF16);
    OpRef c = nn_constant(&f.nn, -1.5f, SHAPE(2, 3));
    fix_keep(&f, c);
    fix_plan(&f);
    OK(exec_run(f.ex));
    OK(exec_read_f32(f.ex, c, v, 6));
    for (int i = 0; i < 6; i++)
        assert_float_equal((double)v[i], -1.5, 0);
    fix_close(&f);
}

static void test_nn_nn__layouts(void **state)
{
    (void)state;
    float a[2 * 3 * 2 * 4], b[48], c[48];
    for (int i = 0; i < 48; i++)
        a[i] = (float)i;
    nn_nhwc_from_nchw(b, a, 2, 3, 2, 4);
    /* item 1, channel 2, row 1, column 3 */
    assert_float_equal((double)b[((1 * 2 + 1) * 4 + 3) * 3 + 2], (double)a[((1 * 3 + 2) * 2 + 1) * 4 + 3], 0);
    nn_nchw_from_nhwc(c, b, 2, 3, 2, 4);
    assert_memory_equal(a, c, sizeof a);
}

/* The convolution's size and padding: same, and one row and column of zeros after. */
static void test_nn_nn__conv_padding(void **state)
{
    (void)state;
    Fix f;
    NnParam *w;
    float x[16], same[16], half[4];
    fix_open(&f, DTYPE_F32);
    OpRef in = graph_input(f.g, "x", DTYPE_F32, SHAPE(1, 4, 4, 1));
    OpRef a = nn_conv(&f.nn, "c", in, 1, 3, 1, NN_SAME, OP_NONE), b = nn_conv(&f.nn, "c", in, 1, 3, 2, NN_ASYM, OP_NONE);
    Shape sb = SHAPE(1, 2, 2, 1);
    assert_true(shape_equal(&graph_meta(f.g, b)->shape, &sb));
    fix_keep(&f, a);
    fix_keep(&f, b);
    OK(nn_params_add(f.ps, "c.weight", DTYPE_F32, SHAPE(1, 1, 3, 3), &w));
    for (int i = 0; i < 9; i++)
        ((float *)w->data)[i] = (float)(i + 1);
    OK(nn_params_add(f.ps, "c.bias", DTYPE_F32, SHAPE(1), NULL));
    fix_plan(&f);
    for (int i = 0; i < 16; i++)
        x[i] = (float)(i * i % 7);
    OK(exec_write_f32(f.ex, in, x, 16));
    OK(exec_run(f.ex));
    OK(exec_read_f32(f.ex, a, same, 16));
    OK(exec_read_f32(f.ex, b, half, 4));
    for (int oy = 0; oy < 4; oy++)
        for (int ox = 0; ox < 4; ox++)
            for (int asym = 0; asym <= (oy < 2 && ox < 2); asym++) {
                double sum = 0;
                for (int k = 0; k < 9; k++) {
                    int y = asym ? 2 * oy + k / 3 : oy + k / 3 - 1, z = asym ? 2 * ox + k % 3 : ox + k % 3 - 1;
                    sum += y >= 0 && y < 4 && z >= 0 && z < 4 ? (k + 1) * (double)x[y * 4 + z] : 0;
                }
                assert_float_equal((double)(asym ? half[oy * 2 + ox] : same[oy * 4 + ox]), sum, 1e-4);
            }
    fix_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nn_nn__paths),   cmocka_unit_test(test_nn_nn__none_passes),
        cmocka_unit_test(test_nn_nn__constant), cmocka_unit_test(test_nn_nn__layouts),
        cmocka_unit_test(test_nn_nn__conv_padding),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
