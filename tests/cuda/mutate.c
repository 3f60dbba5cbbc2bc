/* Takes away one barrier of the kernels and runs their cases: `mutate FAMILY -1` lists the barriers (number, file, line) that the family
 * reaches, `mutate FAMILY N` runs without the N-th. Something must fail: a value, a check of the emulator, or a race that
 * ThreadSanitizer sees (many missing barriers change no value in any order of threads). See mutate.sh. */
#include <omp.h>

#include "cuda/cuda.h"
#include "cuda/gemm_cases.h"
#include "cuda/mutate_cases.h"
#include "ops/train.h"

void emu_order(int order, uint64_t seed);
void emu_skip_barrier(int n);
int emu_barriers_seen(void);
const char *emu_barrier_site(int n, int *line);

static const struct {
    const char *name;
    const Case *cases;
    size_t count;
} families[] = {
    {"attention", attention_short, sizeof attention_short / sizeof *attention_short},
    {"conv", conv_short, sizeof conv_short / sizeof *conv_short},
    {"linear", linear_short, sizeof linear_short / sizeof *linear_short},
    {"norm", norm_short, sizeof norm_short / sizeof *norm_short},
    {"optim", NULL, 0}, /* run_adamw8 */
};

static int family, skip;

static void *up(Backend *be, const void *host, size_t bytes)
{
    void *p;
    if (be->alloc(be, &p, bytes) < 0 || be->upload(be, p, host, bytes) < 0)
        fail_msg("%s", err_message());
    return p;
}

/* Several blocks of 8-bit moments: the maps that all of them read are put into shared memory first. */
static void run_adamw8(Backend *cuda)
{
    enum { N = 600 };
    static float p[N], grad[N], top[2][16], got[N];
    static uint8_t code[2][N];
    OptimTable *t;
    const OptimRate rate = {.lr = 1e-2f};
    OptimStep s = {.kind = OPTIM_ADAMW8, .rate = &rate, .a = {.lr = 1e-2f, .beta1 = 0.9f, .beta2 = 0.99f, .eps = 1e-8f, .step = 1, .grad_scale = 1}};
    omp_set_num_threads(1); /* ThreadSanitizer does not know libgomp's */
    for (int i = 0; i < N; i++)
        grad[i] = (float)uniform(1, i, -1, 1);
    s.p = up(cuda, p, sizeof p);
    s.grad = up(cuda, grad, sizeof grad);
    for (int k = 0; k < 2; k++) {
        s.array[2 * k] = up(cuda, code[k], sizeof code[k]);
        s.array[2 * k + 1] = up(cuda, top[k], sizeof top[k]);
    }
    cpu_optim_adamw8(p, code[0], top[0], code[1], top[1], grad, N, &s.a);
    if (cuda->train->table_create(cuda, &t, &(OptimSlot){.count = N}, 1) < 0 || cuda->train->step(cuda, t, &s) < 0 ||
        cuda->download(cuda, got, s.p, sizeof got) < 0)
        fail_msg("%s", err_message());
    assert_memory_equal(got, p, sizeof p);
    cuda->train->table_destroy(cuda, t);
}

static void run(void **state)
{
    (void)state;
    Backend *cuda, *cpu = make_backend(1, CPU_ISA_BASE);
    if (cuda_backend_create(&cuda, 0) < 0)
        fail_msg("%s", err_message());
    emu_order(2, 1);
    emu_skip_barrier(skip);
    if (!families[family].cases)
        run_adamw8(cuda);
    for (size_t i = 0; i < families[family].count; i++)
        for (Dtype t = DTYPE_F32; t <= DTYPE_BF16; t++) {
            const Case *c = &families[family].cases[i];
            Run got, want;
            run_case(&want, c, cpu, DTYPE_F64, t, 0, 0);
            run_case(&got, c, cuda, t, t, 0, 0);
            compare_values(c, &got, &want, t == DTYPE_F32 ? fmax(c->tol, 2e-5) : fmax(c->tol_bf, 2e-2), dtype_name(t));
            eager_deinit(&got.e);
            eager_deinit(&want.e);
        }
    backend_destroy(cuda);
    backend_destroy(cpu);
}

int main(int argc, char **argv)
{
    for (family = 0; argc == 3 && family < (int)(sizeof families / sizeof *families); family++)
        if (!strcmp(argv[1], families[family].name))
            break;
    if (argc != 3 || family == (int)(sizeof families / sizeof *families))
        return fprintf(stderr, "usage: mutate attention|conv|linear|norm|optim N\n"), 2;
    skip = atoi(argv[2]);
    const struct CMUnitTest tests[] = {cmocka_unit_test(run)};
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    for (int i = 0; skip < 0 && i < emu_barriers_seen(); i++) {
        int line;
        const char *file = emu_barrier_site(i, &line);
        printf("barrier %d %s:%d\n", i, file, line);
    }
    return rc;
}
