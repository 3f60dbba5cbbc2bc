/* Optimizers against their references (tests/peers/make_optim.py): six steps on a matrix, a kernel and a bias whose gradients span four
 * decades. Limit: 2e-6 of a parameter's size of about 0.3 (float rounding of six steps); 8-bit codes may differ where a value lies
 * within rounding of the middle between two codes. */
#include "models/fixture.h"
#include "ops/optim.h"

#include <omp.h>

enum { STEPS = 6, TENSORS = 3 };
static const char *const names[TENSORS] = {"w", "k", "b"};

typedef struct {
    Ref p, grad[STEPS];
    Shape shape;
    int64_t n;
} One;

typedef struct {
    IoSafetensors *f;
    One t[TENSORS];
} Vectors;

static Ref get(const Vectors *v, const char *fmt, const char *what, int step, const char *tensor)
{
    char name[96];
    snprintf(name, sizeof name, fmt, what, step, tensor);
    return ref_get(v->f, name, 0);
}

static void vectors_open(Vectors *v)
{
    OK(io_safetensors_open(&v->f, "tests/vectors/optim/optim.safetensors"));
    for (int k = 0; k < TENSORS; k++) {
        One *t = &v->t[k];
        t->p = ref_get(v->f, (const char *[]){"start.w", "start.k", "start.b"}[k], 0);
        t->shape = t->p.shape;
        t->n = t->p.count;
        for (int s = 0; s < STEPS; s++)
            t->grad[s] = get(v, "%s%d.%s", "grad", s, names[k]);
    }
}

static void vectors_close(Vectors *v)
{
    for (int k = 0; k < TENSORS; k++) {
        free(v->t[k].p.v);
        for (int s = 0; s < STEPS; s++)
            free(v->t[k].grad[s].v);
    }
    io_safetensors_close(v->f);
}

static void near(const Vectors *v, const char *name, const char *part, int k, const float *p, double limit)
{
    char full[96];
    snprintf(full, sizeof full, "%s.%s.%s", name, part, names[k]);
    Ref r = ref_get(v->f, full, 0);
    for (int64_t i = 0; i < r.count; i++)
        if (!(fabs((double)p[i] - (double)r.v[i]) <= limit)) {
            print_error("%s[%d]: %.9g, expected %.9g\n", full, (int)i, (double)p[i], (double)r.v[i]);
            fail();
        }
    free(r.v);
}

static float *zeros(int64_t n)
{
    return calloc((size_t)n + 1, sizeof(float));
}

static void test_cpu_optim__lion(void **state)
{
    (void)state;
    Vectors v;
    vectors_open(&v);
    for (int k = 0; k < TENSORS; k++) {
        One *t = &v.t[k];
        float *m = zeros(t->n);
        for (int s = 0; s < STEPS; s++) {
            OptimAdamw o = {.lr = 1e-2f, .beta1 = 0.9f, .beta2 = 0.99f, .weight_decay = 0.1f, .step = s + 1, .grad_scale = 1};
            cpu_optim_lion(t->p.v, m, t->grad[s].v, t->n, &o);
            if (s == 0)
                near(&v, "lion", "first", k, t->p.v, 1e-7);
        }
        near(&v, "lion", "last", k, t->p.v, 2e-6);
        free(m);
    }
    vectors_close(&v);
}

static void adafactor(const char *name, OptimAdafactor o, int warmup)
{
    Vectors v;
    vectors_open(&v);
    for (int k = 0; k < TENSORS; k++) {
        One *t = &v.t[k];
        float *row = zeros(t->n), *col = zeros(t->n), *sq = zeros(t->n), *m = o.beta1 > 0 ? zeros(t->n) : NULL, *u = zeros(t->n);
        for (int s = 0; s < STEPS; s++) {
            o.step = s + 1;
            if (o.scale_parameter)
                o.lr = warmup ? 1e-6f * (float)(s + 1) : 1e-2f;
            cpu_optim_adafactor(t->p.v, row, col, sq, m, t->grad[s].v, u, &t->shape, &o);
            if (s == 0)
                near(&v, name, "first", k, t->p.v, 2e-7);
        }
        near(&v, name, "last", k, t->p.v, 2e-6);
        free(row), free(col), free(sq), free(m), free(u);
    }
    vectors_close(&v);
}

static void test_cpu_optim__adafactor(void **state)
{
    (void)state;
    OptimAdafactor o = {.decay_rate = -0.8f, .clip_threshold = 1, .weight_decay = 0.01f, .scale_parameter = 1, .grad_scale = 1};
    adafactor("adafactor", o, 0);
    o.weight_decay = 0;
    adafactor("adafactor_warmup", o, 1);
    o.scale_parameter = 0;
    o.lr = 1e-2f;
    o.beta1 = 0.9f;
    adafactor("adafactor_lr", o, 0);
}

/* All tensors in one flat array with a gap between them, as the training state keeps them. */
enum { GAP = 5 };
static int64_t flatten(const Vectors *v, float *out, int step)
{
    int64_t n = 0;
    for (int k = 0; k < TENSORS; k++) {
        memcpy(out + n, step < 0 ? v->t[k].p.v : v->t[k].grad[step].v, (size_t)v->t[k].n * sizeof(float));
        n += v->t[k].n + GAP;
    }
    return n;
}

static void prodigy(const char *name, OptimProdigy d)
{
    Vectors v;
    char full[96];
    vectors_open(&v);
    float *p = zeros(4096), *p0 = zeros(4096), *s = zeros(4096), *m = zeros(4096), *sq = zeros(4096), *g = zeros(4096);
    int64_t n = flatten(&v, p, -1);
    memcpy(p0, p, 4096 * sizeof *p);
    d.d = d.d_max = d.d0;
    for (int i = 0; i < STEPS; i++) {
        OptimAdamw o = {.lr = 1, .beta1 = 0.9f, .beta2 = 0.999f, .eps = 1e-8f, .weight_decay = 0.01f, .step = i + 1, .grad_scale = 1};
        flatten(&v, g, i);
        cpu_optim_prodigy(p, p0, s, m, sq, g, n, &o, &d);
    }
    int64_t from = 0;
    for (int k = 0; k < TENSORS; k++) {
        near(&v, name, "last", k, p + from, 2e-6);
        from += v.t[k].n + GAP;
    }
    snprintf(full, sizeof full, "%s.d", name);
    Ref r = ref_get(v.f, full, 0);
    const double got[3] = {d.d, d.d_max, d.numerator};
    for (int i = 0; i < 3; i++)
        if (!(fabs(got[i] - (double)r.v[i]) <= 1e-4 * fabs((double)r.v[i]))) {
            print_error("%s[%d]: %.9g, expected %.9g\n", full, i, got[i], (double)r.v[i]);
            fail();
        }
    free(r.v);
    free(p), free(p0), free(s), free(m), free(sq), free(g);
    vectors_close(&v);
}

static void test_cpu_optim__prodigy(void **state)
{
    (void)state;
    prodigy("prodigy", (OptimProdigy){.d0 = 1e-6, .d_coef = 1});
    prodigy("prodigy_guard", (OptimProdigy){.d0 = 1e-6, .d_coef = 2, .bias_correction = 1, .safeguard_warmup = 1});
    prodigy("prodigy_growth", (OptimProdigy){.d0 = 1e-4, .d_coef = 1, .growth = 1.5});
}

static void test_cpu_optim__prodigy_without_gradient(void **state)
{
    (void)state;
    float p[3] = {1, 2, 3}, p0[3] = {1, 2, 3}, s[3] = {0}, m[3] = {0}, v[3] = {0}, g[3] = {0};
    OptimProdigy d = {.d = 1e-6, .d_max = 1e-6, .d0 = 1e-6, .d_coef = 1};
    OptimAdamw o = {.lr = 1, .beta1 = 0.9f, .beta2 = 0.999f, .eps = 1e-8f, .weight_decay = 0.1f, .step = 1, .grad_scale = 1};
    cpu_optim_prodigy(p, p0, s, m, v, g, 3, &o, &d);
    assert_true(p[0] == 1 && p[1] == 2 && p[2] == 3 && d.d == 1e-6);
}

static void schedulefree(const char *name, OptimAdamw o, int warmup, double r, double power)
{
    Vectors v;
    vectors_open(&v);
    double lr_max[TENSORS], sum[TENSORS];
    float lr = o.lr;
    for (int k = 0; k < TENSORS; k++) {
        One *t = &v.t[k];
        float *z = zeros(t->n), *sq = zeros(t->n), *x = zeros(t->n);
        memcpy(z, t->p.v, (size_t)t->n * sizeof *z);
        lr_max[k] = -1;
        sum[k] = 0;
        for (int s = 0; s < STEPS; s++) {
            o.step = s + 1;
            o.lr = s < warmup ? lr * (float)(s + 1) / (float)warmup : lr;
            double c = optim_schedulefree_weight((double)o.lr, o.step, r, power, &lr_max[k], &sum[k]);
            cpu_optim_schedulefree(t->p.v, z, sq, t->grad[s].v, t->n, &o, (float)c);
        }
        near(&v, name, "last", k, t->p.v, 2e-6);
        cpu_optim_schedulefree_average(x, t->p.v, z, t->n, o.beta1);
        near(&v, name, "eval", k, x, 2e-6);
        free(z), free(sq), free(x);
    }
    vectors_close(&v);
}

static void test_cpu_optim__schedulefree(void **state)
{
    (void)state;
    OptimAdamw o = {.lr = 1e-2f, .beta1 = 0.9f, .beta2 = 0.999f, .eps = 1e-8f, .weight_decay = 0.1f, .grad_scale = 1};
    schedulefree("schedulefree", o, 3, 0, 2);
    o = (OptimAdamw){.lr = 1e-2f, .beta1 = 0.95f, .beta2 = 0.99f, .eps = 1e-8f, .weight_decay = 0, .grad_scale = 1};
    schedulefree("schedulefree_r", o, 0, 1, 1);
}

static void test_cpu_optim__dynamic_map(void **state)
{
    (void)state;
    Vectors v;
    float map[256];
    vectors_open(&v);
    for (int is_signed = 0; is_signed < 2; is_signed++) {
        Ref r = ref_get(v.f, is_signed ? "map.signed" : "map.unsigned", 0);
        optim_dynamic_map(map, is_signed);
        for (int i = 0; i < 256; i++)
            if (!(fabs((double)map[i] - (double)r.v[i]) <= 2.4e-7 * fabs((double)r.v[i])))
                fail_msg("map %d [%d]: %.9g, expected %.9g", is_signed, i, (double)map[i], (double)r.v[i]);
        free(r.v);
    }
    vectors_close(&v);
}

/* Codes and their maxima; a code may be off by one in a few places. */
static void codes(const Vectors *v, const char *part, int k, const uint8_t *got)
{
    char full[96];
    int off = 0;
    snprintf(full, sizeof full, "adamw8.%s.%s", part, names[k]);
    Ref r = ref_get(v->f, full, 0);
    for (int64_t i = 0; i < r.count; i++) {
        int d = abs((int)got[i] - (int)r.v[i]);
        if (d > 1)
            fail_msg("%s[%d]: %d, expected %d", full, (int)i, got[i], (int)r.v[i]);
        off += d;
    }
    assert_true(off <= r.count / 100);
    free(r.v);
}

static void test_cpu_optim__adamw8(void **state)
{
    (void)state;
    Vectors v;
    vectors_open(&v);
    for (int k = 0; k < TENSORS; k++) {
        One *t = &v.t[k];
        uint8_t *m = calloc((size_t)t->n, 1), *sq = calloc((size_t)t->n, 1);
        float *m_max = zeros(optim_blocks(t->n)), *v_max = zeros(optim_blocks(t->n));
        for (int s = 0; s < STEPS; s++) {
            OptimAdamw o = {.lr = 1e-2f, .beta1 = 0.9f, .beta2 = 0.999f, .eps = 1e-8f, .weight_decay = 0.1f, .step = s + 1, .grad_scale = 1};
            cpu_optim_adamw8(t->p.v, m, m_max, sq, v_max, t->grad[s].v, t->n, &o);
        }
        codes(&v, "m", k, m);
        codes(&v, "v", k, sq);
        near(&v, "adamw8", "m_max", k, m_max, 1e-6);
        near(&v, "adamw8", "v_max", k, v_max, 1e-6);
        near(&v, "adamw8", "last", k, t->p.v, 2e-6);
        free(m), free(sq), free(m_max), free(v_max);
    }
    vectors_close(&v);
}

/* The same bits with any number of threads, on an array that is cut into many pieces. */
static void test_cpu_optim__threads(void **state)
{
    (void)state;
    enum { N = 300 * 1000 + 7 };
    static const Shape shape = {2, {3 * 1000, 100, 1, 1}};
    float *first = NULL;
    for (int threads = 1; threads <= 4; threads += 3) {
        omp_set_num_threads(threads);
        float *a[7];
        for (int i = 0; i < 7; i++)
            a[i] = zeros(N);
        for (int i = 0; i < N; i++) {
            a[0][i] = sinf((float)i);
            a[1][i] = cosf((float)(7 * i)) * 0.1f;
            a[2][i] = a[0][i];
        }
        OptimAdamw o = {.lr = 1, .beta1 = 0.9f, .beta2 = 0.999f, .eps = 1e-8f, .weight_decay = 0.1f, .step = 1, .grad_scale = 0.5f};
        OptimProdigy d = {.d = 1e-6, .d_max = 1e-6, .d0 = 1e-6, .d_coef = 1};
        for (; o.step <= 3; o.step++)
            cpu_optim_prodigy(a[0], a[2], a[3], a[4], a[5], a[1], N, &o, &d);
        OptimAdafactor f = {.lr = 1e-2f, .decay_rate = -0.8f, .clip_threshold = 1, .scale_parameter = 1, .step = 2, .grad_scale = 1};
        cpu_optim_adafactor(a[0], a[4], a[5], NULL, NULL, a[1], a[6], &shape, &f);
        if (first)
            assert_memory_equal(first, a[0], N * sizeof(float));
        for (int i = 1; i < 7; i++)
            free(a[i]);
        if (first)
            free(a[0]);
        else
            first = a[0];
    }
    free(first);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cpu_optim__lion),
        cmocka_unit_test(test_cpu_optim__adafactor),
        cmocka_unit_test(test_cpu_optim__prodigy),
        cmocka_unit_test(test_cpu_optim__prodigy_without_gradient),
        cmocka_unit_test(test_cpu_optim__schedulefree),
        cmocka_unit_test(test_cpu_optim__dynamic_map),
        cmocka_unit_test(test_cpu_optim__adamw8),
        cmocka_unit_test(test_cpu_optim__threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
