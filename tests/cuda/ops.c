/* Every CUDA op against the double loops of the CPU backend, from the same case tables. On the emulated device each case runs in
 * three orders of threads, which must give the same bits; on a GPU it runs once. */
#include "cpu/act_cases.h"
#include "cpu/adapter_cases.h"
#include "cpu/arith_cases.h"
#include "cpu/attention_cases.h"
#include "cpu/embed_cases.h"
#include "cpu/loss_cases.h"
#include "cpu/norm_cases.h"
#include "cuda/gemm_cases.h"
#include "cuda/orders.h"

/* The sanitizers are slow: they see the cases that are not too large. */
static int too_large(const Case *c)
{
    for (int k = 0; k < c->nin && FIRST_ORDER; k++)
        if (shape_count(&c->in[k].shape) > 12000)
            return 1;
    return c->cpu_only;
}

static void check_cuda(const Case *cases, size_t n)
{
    static const char *const orders[] = {"first to last", "last to first", "shuffled"};
    Backend *cpu = make_backend(1, CPU_ISA_BASE);
    for (size_t i = 0; i < n; i++)
        for (Dtype t = DTYPE_F32; t <= DTYPE_BF16 && !too_large(&cases[i]); t++) {
            Run got, want, first;
            double tol = t == DTYPE_F32 ? fmax(cases[i].tol, 2e-5) : fmax(cases[i].tol_bf, 2e-2);
            run_case(&want, &cases[i], cpu, DTYPE_F64, t, 0, 0);
            for (int o = FIRST_ORDER; o < ORDERS; o++) {
                emu_order(o, i + 1);
                run_case(&got, &cases[i], cuda, t, t, 0, 0);
                compare_values(&cases[i], &got, &want, tol, t == DTYPE_F32 ? "f32" : "bf16");
                if (o == FIRST_ORDER) {
                    first = got;
                    continue;
                }
                compare_bits(&cases[i], &got, &first, orders[o]);
                eager_deinit(&got.e);
            }
            eager_deinit(&first.e);
            eager_deinit(&want.e);
        }
    emu_order(0, 0);
    backend_destroy(cpu);
}

#define MAYBE_UNUSED __attribute__((unused))
#define FAMILY(name)                                                             \
    static void test_cuda_##name##__matches_double(void **state)                 \
    {                                                                            \
        (void)state;                                                             \
        check_cuda(name##_cases, sizeof name##_cases / sizeof *name##_cases);    \
    }                                                                            \
    MAYBE_UNUSED static void test_cuda_##name##__same_bits_for_one_item(void **state) \
    {                                                                            \
        (void)state;                                                             \
        check_items_on(cuda, name##_cases, sizeof name##_cases / sizeof *name##_cases); \
    }                                                                            \
    MAYBE_UNUSED static void test_cuda_##name##__same_bits_in_place(void **state) \
    {                                                                            \
        (void)state;                                                             \
        check_in_place_on(cuda, name##_cases, sizeof name##_cases / sizeof *name##_cases); \
    }
#if defined(EMU_TSAN) || defined(__SANITIZE_ADDRESS__)
#define TESTS(name) cmocka_unit_test(test_cuda_##name##__matches_double)
#else
#define TESTS(name)                                          \
    cmocka_unit_test(test_cuda_##name##__matches_double),    \
        cmocka_unit_test(test_cuda_##name##__same_bits_for_one_item), cmocka_unit_test(test_cuda_##name##__same_bits_in_place)
#endif

FAMILY(act)
FAMILY(adapter)
FAMILY(arith)
FAMILY(attention)
FAMILY(embed)
FAMILY(loss)
FAMILY(norm)
FAMILY(linear)
FAMILY(low)
FAMILY(conv)
FAMILY(flash)

static void test_cuda_ops__all_there(void **state)
{
    (void)state;
    for (int k = 0; k < OP_COUNT; k++)
        if (k != OP_RESHAPE && !cuda->op[k].run)
            fail_msg("op %s has no CUDA kernel", op_name(k));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cuda_ops__all_there),
        TESTS(act), TESTS(adapter), TESTS(arith), TESTS(attention), TESTS(embed), TESTS(loss), TESTS(norm), TESTS(linear), TESTS(low), TESTS(conv), TESTS(flash),
    };
    return cmocka_run_group_tests(tests, cuda_start, cuda_stop);
}
