#include "cpu/arith_cases.h"

CASE_TESTS(test_cpu_arith, arith_cases)

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
