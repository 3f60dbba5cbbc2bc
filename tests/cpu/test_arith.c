#include "cpu/harness.h"

#define BCAST(nm, h, items_, fd, ...) \
    {.name = nm, .kind = OP_ADD_BCAST, .attr = {.bcast = h}, .nin = 2, .in = {__VA_ARGS__}, .items = items_, .skip_fd = fd}
#define SUM(nm, h, x, ...)                                                                                      \
    {.name = nm, .kind = OP_SUM_BCAST, .attr = {.bcast = h, .meta = {.shape = DIMS(__VA_ARGS__)}}, .meta_kind = 'P', \
     .nin = 1, .in = {x}, .skip_fd = 1}
#define SUM_IN(...) {'N', DIMS(__VA_ARGS__), -1, 1}
#define COMMA ,

static const Case cases[] = {
    {.name = "add", .kind = OP_ADD, .nin = 2, .in = {IN('T', 2, 37), IN('T', 2, 37)}, .items = 1},
    {.name = "add big", .kind = OP_ADD, .nin = 2, .in = {IN('T', 2, 50001), IN('T', 2, 50001)}, .items = 1, .skip_fd = 1},
    {.name = "mul", .kind = OP_MUL, .nin = 2, .in = {IN('T', 3, 17), IN('T', 3, 17)}, .items = 1},
    {.name = "scale", .kind = OP_SCALE, .attr = {.scale = -1.5f}, .nin = 1, .in = {IN('T', 2, 19)}, .items = 1},
    {.name = "scale by s", .kind = OP_SCALE, .attr = {.scale = -1.5f, .has = OP_HAS_S}, .nin = 2,
     .in = {IN('T', 2, 19), IN('C', 1)}},
    BCAST("add per item", BCAST_ITEM, 1, 0, IN('T', 2, 3, 4, 5), IN('T', 2, 5)),
    BCAST("add per item, P", BCAST_ITEM, 1, 1, IN('T', 2, 300, 9), IN('P', 2, 9)),
    BCAST("add per item 320", BCAST_ITEM, 1, 1, IN('T', 2, 333, 320), IN('T', 2, 320)),
    BCAST("add per row", BCAST_ROW, 0, 0, IN('T', 3, 7, 5), IN('P', 7, 5)),
    BCAST("add per row, image", BCAST_ROW, 0, 1, IN('T', 3, 31, 9, 20), IN('T', 31, 9, 20)),
    BCAST("add per channel", BCAST_CHANNEL, 0, 0, IN('T', 3, 7, 5), IN('P', 5)),
    BCAST("add per channel 640", BCAST_CHANNEL, 0, 1, IN('T', 2, 190, 640), IN('P', 640)),
    BCAST("add per channel of a matrix", BCAST_CHANNEL, 0, 0, IN('T', 3, 5), IN('T', 5)),
    {.name = "concat", .kind = OP_CONCAT, .nin = 2, .in = {IN('T', 2, 3, 5), IN('T', 2, 3, 4)}, .items = 1},
    {.name = "concat big", .kind = OP_CONCAT, .nin = 2, .in = {IN('T', 2, 100, 320), IN('T', 2, 100, 641)}, .items = 1,
     .skip_fd = 1},
    {.name = "slice", .kind = OP_SLICE, .attr = {.begin = 2, .count = 3}, .nin = 1, .in = {IN('T', 2, 4, 7)}, .items = 1},
    {.name = "slice first", .kind = OP_SLICE, .attr = {.begin = 0, .count = 1}, .nin = 1, .in = {IN('T', 5, 3)}, .items = 1},
    {.name = "slice all", .kind = OP_SLICE, .attr = {.begin = 0, .count = 3}, .nin = 1, .in = {IN('T', 5, 3)}, .items = 1},
    {.name = "to nhwc", .kind = OP_NCHW_TO_NHWC, .nin = 1, .in = {IN('T', 2, 3, 5, 7)}, .items = 1},
    {.name = "to nhwc big", .kind = OP_NCHW_TO_NHWC, .nin = 1, .in = {IN('T', 2, 70, 33, 20)}, .items = 1, .skip_fd = 1},
    {.name = "to nchw", .kind = OP_NHWC_TO_NCHW, .nin = 1, .in = {IN('T', 2, 3, 5, 7)}, .items = 1},
    {.name = "to f32", .kind = OP_CAST, .attr = {.meta = {.dtype = DTYPE_F32}}, .nin = 1, .in = {IN('N', 3, 41)}, .items = 1,
     .skip_fd = 1},
    {.name = "to bf16", .kind = OP_CAST, .attr = {.meta = {.dtype = DTYPE_BF16}}, .nin = 1, .in = {IN('N', 3, 41)},
     .items = 1, .tol = 4e-3, .skip_fd = 1},
    {.name = "to f16", .kind = OP_CAST, .attr = {.meta = {.dtype = DTYPE_F16}}, .nin = 1, .in = {IN('N', 3, 41)}, .items = 1,
     .tol = 1e-3, .skip_fd = 1},
    {.name = "to f64", .kind = OP_CAST, .attr = {.meta = {.dtype = DTYPE_F64}}, .nin = 1, .in = {IN('N', 3, 41)}, .items = 1,
     .skip_fd = 1},
};

CASE_TESTS(test_cpu_arith, cases)

/* Layout moves are exact, so they are held against the index formula itself, for each element size. */
static void test_cpu_arith__layouts_by_index(void **state)
{
    (void)state;
    const int64_t n = 2, c = 5, h = 3, w = 35;
    Backend *be = make_backend(2, CPU_ISA_AVX512);
    for (Dtype t = DTYPE_F32; t <= DTYPE_F64; t++) {
        Eager e;
        eager_init(&e, be, t);
        Meta m = {t, SHAPE(n, c, h, w)};
        OpRef x = eager_new(&e, &m), y, z;
        unsigned char *px = e.data[x];
        for (size_t i = 0; i < meta_bytes(&m); i++)
            px[i] = (unsigned char)mix(i);
        Meta my = {t, SHAPE(n, h, w, c)};
        y = eager_new(&e, &my);
        z = eager_new(&e, &m);
        eager_run(&e, OP_NCHW_TO_NHWC, &(OpAttr){0}, &x, 1, &y, 1);
        eager_run(&e, OP_NHWC_TO_NCHW, &(OpAttr){0}, &y, 1, &z, 1);
        size_t size = dtype_size(t);
        for (int64_t i = 0; i < n * c * h * w; i++) {
            int64_t in = i / (c * h * w), ic = i / (h * w) % c, at = i % (h * w);
            assert_memory_equal(px + (size_t)i * size, (char *)e.data[y] + (size_t)((in * h * w + at) * c + ic) * size, size);
        }
        assert_memory_equal(px, e.data[z], meta_bytes(&m));
        eager_check_guards(&e);
        eager_deinit(&e);
    }
    backend_destroy(be);
}

/* All 65536 bf16 and f16 values through float and back, and halves between neighbours to even. */
static void test_cpu_arith__half_formats_round_to_even(void **state)
{
    (void)state;
    for (int isa = CPU_ISA_BASE; isa <= CPU_ISA_AVX512; isa++) {
        Backend *be = make_backend(1, isa);
        for (Dtype t = DTYPE_BF16; t <= DTYPE_F16; t++) {
            Eager e;
            eager_init(&e, be, t);
            Meta mh = {t, SHAPE(65536)}, mf = {DTYPE_F32, SHAPE(65536)};
            OpRef h = eager_new(&e, &mh), f = eager_new(&e, &mf), back = eager_new(&e, &mh);
            uint16_t *ph = e.data[h], *pb = e.data[back];
            float *pf = e.data[f];
            OpAttr to_f = {.meta = {.dtype = DTYPE_F32}}, to_h = {.meta = {.dtype = t}};
            for (int i = 0; i < 65536; i++)
                ph[i] = (uint16_t)i;
            eager_run(&e, OP_CAST, &to_f, &h, 1, &f, 1);
            eager_run(&e, OP_CAST, &to_h, &f, 1, &back, 1);
            for (int i = 0; i < 65536; i++) {
                if (isnan(pf[i])) /* a signalling NaN may turn quiet, but stays one */
                    assert_true(pb[i] == ph[i] || pb[i] == (ph[i] | (t == DTYPE_BF16 ? 0x40 : 0x200)));
                else
                    assert_int_equal(pb[i], ph[i]);
            }
            for (int i = 0; i < 65535; i++) /* halfway between value i and the next */
                pf[i] = (float)(0.5 * ((double)pf[i] + (double)pf[i + 1]));
            eager_run(&e, OP_CAST, &to_h, &f, 1, &back, 1);
            int last = t == DTYPE_BF16 ? 0x7f7f : 0x7bff;
            for (int i = 0; i < last; i++)
                assert_int_equal(pb[i], i + (i & 1));
            eager_deinit(&e);
        }
        backend_destroy(be);
    }
}

static void test_cpu_arith__sum_bcast(void **state)
{
    (void)state;
    static const Case sums[] = {
        SUM("sum per item", BCAST_ITEM, SUM_IN(2 COMMA 11 COMMA 7), 2, 7),
        SUM("sum per item, image", BCAST_ITEM, SUM_IN(2 COMMA 40 COMMA 41 COMMA 70), 2, 70),
        SUM("sum per row", BCAST_ROW, SUM_IN(5 COMMA 11 COMMA 7), 11, 7),
        SUM("sum per channel", BCAST_CHANNEL, SUM_IN(3 COMMA 301 COMMA 320), 320),
        SUM("sum per channel, many rows", BCAST_CHANNEL, SUM_IN(70000 COMMA 3), 3),
    };
    check_reference(sums, sizeof sums / sizeof *sums);
    check_threads(sums, sizeof sums / sizeof *sums);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE_TEST_LIST(test_cpu_arith),
        cmocka_unit_test(test_cpu_arith__layouts_by_index),
        cmocka_unit_test(test_cpu_arith__half_formats_round_to_even),
        cmocka_unit_test(test_cpu_arith__sum_bcast),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
