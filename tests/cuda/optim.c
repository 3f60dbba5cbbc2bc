/* Training state, noise and pixels on the device against the host's functions: the same bits, in every order of threads. */
#include <omp.h>

#include "cpu/harness.h"
#include "cpu/ties.h"
#include "comm/exact.h"
#include "cuda/orders.h"
#include "io/image.h"
#include "ops/train.h"
#include "train/noise.h"

static void must(int rc)
{
    if (rc < 0)
        fail_msg("%s", err_message());
}

/* Tensors of one value, of less than a vector more, of one chunk and one block of 8-bit moments, of several chunks with a ragged end. */
static const int64_t counts[] = {1, 37, 256, 8192, 2 * 8192 + 261};
enum { TENSORS = 5, PLACES = 1 + 64 + 256 + 8192 + 2 * 8192 + 512 };

static int64_t padded(int64_t n)
{
    return (n + 15) / 16 * 16;
}

static int64_t make_slots(OptimSlot slot[TENSORS])
{
    int64_t at = 0, block = 0;
    for (int i = 0; i < TENSORS; i++) {
        slot[i] = (OptimSlot){counts[i], at, at, block, at * (int64_t)sizeof(float), DTYPE_F32};
        at += padded(counts[i]);
        block += padded(optim_blocks(counts[i]));
    }
    assert_true(at <= PLACES);
    return at;
}

static void *up(const void *host, size_t bytes)
{
    void *p;
    must(cuda->alloc(cuda, &p, bytes));
    must(cuda->upload(cuda, p, host, bytes));
    return p;
}

static void down(void *host, void *device, size_t bytes)
{
    must(cuda->download(cuda, host, device, bytes));
    cuda->free(cuda, device, bytes);
}

static void same_bits(const void *got, const void *want, int64_t n, size_t size, const char *what)
{
    for (int64_t i = 0; i < n; i++)
        if (memcmp((const char *)got + (size_t)i * size, (const char *)want + (size_t)i * size, size))
            fail_msg("%s: value %lld differs from the host's", what, (long long)i);
}

#define EACH_ORDER(o) for (int o = (emu_order(FIRST_ORDER, 1), FIRST_ORDER); o < ORDERS; emu_order(++o, 1))

/* ---- sums of gradients ---- */

/* Every kind of value: ordinary, halfway between two multiples of 2^-40, too large, not finite; sums at their limits. */
static void hard_values(float *g, int64_t *sum, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        g[i] = (float)uniform(11, i, -2, 2);
        sum[i] = (int64_t)(uniform(12, i, -1, 1) * 0x1p50);
        if (i % 7 == 1)
            g[i] = (float)(i % 64 - 32) * 0x1p-41f;
        if (i % 97 == 5)
            g[i] = i % 2 ? INFINITY : NAN;
        if (i % 101 == 3)
            g[i] = i % 2 ? 0x1p20f : -0x1.000002p20f;
        if (i % 103 == 2)
            sum[i] = (i % 2 ? -1 : 1) * (((int64_t)1 << 62) - (i % 3));
    }
}

static void test_cuda_optim__exact_add(void **state)
{
    (void)state;
    static float g[PLACES];
    static int64_t sum[PLACES], want[PLACES], got[PLACES];
    OptimSlot slot[TENSORS];
    int64_t n = make_slots(slot), left[TENSORS], large, limit = (int64_t)1 << 61;
    hard_values(g, sum, n);
    EACH_ORDER(o) {
        int64_t want_left[TENSORS], want_large = 0;
        const float *grads[TENSORS];
        OptimTable *t;
        memcpy(want, sum, (size_t)n * sizeof *sum);
        for (int i = 0; i < TENSORS; i++) {
            want_left[i] = exact_add(want + slot[i].at, g + slot[i].at, counts[i]);
            for (int64_t k = slot[i].at; k < slot[i].at + counts[i]; k++)
                want_large += want[k] > limit || want[k] < -limit;
            grads[i] = up(g + slot[i].at, (size_t)counts[i] * sizeof *g);
        }
        assert_true(want_left[4] > 100 && want_large > 10);
        const float **addresses = up(grads, sizeof grads);
        int64_t *device = up(sum, (size_t)n * sizeof *sum);
        must(cuda->train->table_create(cuda, &t, slot, TENSORS));
        must(cuda->train->exact_add(cuda, t, 0, 2, addresses, device, limit)); /* in two parts */
        must(cuda->train->exact_add(cuda, t, 2, 3, addresses, device, limit));
        must(cuda->train->exact_counts(cuda, t, left, &large));
        same_bits(left, want_left, TENSORS, sizeof *left, "values left out");
        assert_int_equal(large, want_large);
        must(cuda->train->exact_counts(cuda, t, left, &large)); /* counted anew */
        for (int i = 0; i < TENSORS; i++)
            assert_int_equal(left[i], 0);
        assert_int_equal(large, 0);
        down(got, device, (size_t)n * sizeof *got);
        same_bits(got, want, n, sizeof *got, "sum");
        for (int i = 0; i < TENSORS; i++)
            cuda->free(cuda, (void *)(uintptr_t)grads[i], 0);
        cuda->free(cuda, addresses, 0);
        cuda->train->table_destroy(cuda, t);
    }
}

static void test_cuda_optim__exact_to_float(void **state)
{
    (void)state;
    enum { N = 4099 };
    static int64_t sum[N];
    static float want[N], got[N];
    for (int64_t i = 0; i < N; i++)
        sum[i] = (int64_t)(uniform(2, i, -1, 1) * exp2(20 + i % 42));
    exact_to_float(want, sum, N, 1.0 / 3);
    EACH_ORDER(o) {
        int64_t *s = up(sum, sizeof sum);
        float *out = up(got, sizeof got);
        must(cuda->train->exact_to_float(cuda, out, s, N, 1.0 / 3));
        down(got, out, sizeof got);
        same_bits(got, want, N, sizeof *got, "float");
        cuda->free(cuda, s, 0);
    }
}

static void test_cuda_optim__sumsq(void **state)
{
    (void)state;
    enum { N = 4096 * 11 + 23 };
    static const int64_t sizes[] = {0, 1, 16, 4096, 4099, N};
    float *x = malloc(N * sizeof *x);
    OptimTable *t;
    for (int64_t i = 0; i < N; i++)
        x[i] = (float)(uniform(3, i, -2, 2) * exp2((double)(i % 90)));
    must(cuda->train->table_create(cuda, &t, &(OptimSlot){.count = N}, 1));
    EACH_ORDER(o)
        for (int k = 0; k < 6; k++) {
            double want = cpu_optim_sumsq(x, sizes[k]), got;
            float *device = up(x, (size_t)N * sizeof *x);
            must(cuda->train->sumsq(cuda, t, device, sizes[k], &got));
            same_bits(&got, &want, 1, sizeof got, "sum of squares");
            cuda->free(cuda, device, 0);
        }
    cuda->train->table_destroy(cuda, t);
    free(x);
}

/* ---- optimizers ---- */

typedef struct {
    float p[PLACES], grad[PLACES], array[2][PLACES], top[2][PLACES];
    uint8_t code[2][PLACES];
} Values;

static void host_step(OptimKind kind, Values *v, const OptimSlot *s, const OptimAdamw *a, float weight)
{
    float *p = v->p + s->at, *x = v->array[0] + s->at, *y = v->array[1] + s->at, *g = v->grad + s->at;
    switch (kind) {
    case OPTIM_ADAMW8:
        cpu_optim_adamw8(p, v->code[0] + s->at, v->top[0] + s->block, v->code[1] + s->at, v->top[1] + s->block, g, s->count, a);
        break;
    case OPTIM_LION:
        cpu_optim_lion(p, x, g, s->count, a);
        break;
    case OPTIM_SCHEDULEFREE:
        cpu_optim_schedulefree(p, x, y, g, s->count, a, weight);
        break;
    default:
        cpu_optim_adamw(p, x, y, g, s->count, a);
    }
}

static void draw(float *x, uint64_t key, double size)
{
    OptimSlot slot[TENSORS];
    make_slots(slot);
    for (int i = 0; i < TENSORS; i++)
        for (int64_t k = slot[i].at; k < slot[i].at + counts[i]; k++)
            x[k] = (float)uniform(key, k, -size, size) * (k % 11 ? 1.0f : 0.0f);
}

/* The first, third and fifth tensor in bf16. */
static void make_halves(OptimSlot slot[TENSORS])
{
    int64_t place = 0;
    for (int i = 0; i < TENSORS; i++) {
        slot[i].dtype = i % 2 ? DTYPE_F32 : DTYPE_BF16;
        slot[i].place = place;
        place += padded(slot[i].count) * (int64_t)dtype_size(slot[i].dtype);
    }
}

static void pack(char *to, const float *p, const OptimSlot slot[TENSORS])
{
    for (int i = 0; i < TENSORS; i++)
        must(dtype_convert(to + slot[i].place, slot[i].dtype, p + slot[i].at, DTYPE_F32, slot[i].count));
}

static void round_halves(float *p, const OptimSlot slot[TENSORS], const OptimRate *rate)
{
    for (int i = 0; i < TENSORS; i++)
        if (slot[i].dtype == DTYPE_BF16)
            cpu_optim_round_bf16(p + slot[i].at, slot[i].count, rate[i].round);
}

/* Three steps of all tensors, each with rates of its own. */
static void check_kind(OptimKind kind, int halves)
{
    static Values host, device;
    static char packed[sizeof host.p];
    OptimSlot slot[TENSORS];
    OptimRate rate[TENSORS];
    OptimTable *t;
    make_slots(slot);
    if (halves)
        make_halves(slot);
    for (int i = 0; i < TENSORS; i++)
        rate[i] = (OptimRate){1e-2f / (float)(i + 1), i % 2 ? 0.1f : 0.0f, rng_key(3, RNG_ROUND, (uint64_t)i, 0)};
    must(cuda->train->table_create(cuda, &t, slot, TENSORS));
    EACH_ORDER(o) {
        memset(&host, 0, sizeof host);
        draw(host.p, 4, 1);
        if (kind == OPTIM_SCHEDULEFREE)
            memcpy(host.array[0], host.p, sizeof host.p);
        OptimStep s = {.kind = kind, .rate = rate, .weight = 0.25f};
        int eight = kind == OPTIM_ADAMW8;
        round_halves(host.p, slot, rate);
        pack(packed, host.p, slot);
        s.p = up(packed, sizeof packed);
        s.array[0] = eight ? up(host.code[0], sizeof host.code[0]) : up(host.array[0], sizeof host.array[0]);
        s.array[1] = eight ? up(host.top[0], sizeof host.top[0]) : up(host.array[1], sizeof host.array[1]);
        s.array[2] = eight ? up(host.code[1], sizeof host.code[1]) : NULL;
        s.array[3] = eight ? up(host.top[1], sizeof host.top[1]) : NULL;
        s.a = (OptimAdamw){.beta1 = 0.9f, .beta2 = 0.99f, .eps = 1e-8f, .grad_scale = 0.7f};
        for (s.a.step = 1; s.a.step <= 3; s.a.step++) {
            draw(host.grad, 5 + (uint64_t)s.a.step, 0.1);
            for (int i = 0; i < TENSORS; i++) {
                rate[i].round.step[0] = (uint32_t)s.a.step;
                OptimAdamw a = s.a;
                a.lr = rate[i].lr;
                a.weight_decay = rate[i].weight_decay;
                host_step(kind, &host, &slot[i], &a, s.weight);
            }
            round_halves(host.p, slot, rate);
            float *grad = up(host.grad, sizeof host.grad);
            s.grad = grad;
            must(cuda->train->step(cuda, t, &s));
            cuda->free(cuda, grad, 0);
        }
        pack(packed, host.p, slot);
        down(device.p, s.p, sizeof device.p);
        same_bits(device.p, packed, (int64_t)sizeof packed / 2, 2, "p");
        for (int k = 0; k < 2; k++) {
            down(eight ? (void *)device.code[k] : device.array[k], s.array[eight ? 2 * k : k], eight ? sizeof device.code[k] : sizeof device.array[k]);
            if (eight)
                down(device.top[k], s.array[2 * k + 1], sizeof device.top[k]);
            same_bits(eight ? (void *)device.code[k] : device.array[k], eight ? (void *)host.code[k] : host.array[k], PLACES, eight ? 1 : sizeof(float), "state");
            if (eight)
                same_bits(device.top[k], host.top[k], PLACES, sizeof(float), "maxima");
        }
    }
    cuda->train->table_destroy(cuda, t);
}

static void test_cuda_optim__adamw(void **state)
{
    (void)state;
    check_kind(OPTIM_ADAMW, 0);
    check_kind(OPTIM_ADAMW, 1);
}
static void test_cuda_optim__adamw8(void **state)
{
    (void)state;
    check_kind(OPTIM_ADAMW8, 0);
    check_kind(OPTIM_ADAMW8, 1);
}
static void test_cuda_optim__adamw8_ties(void **state)
{
    (void)state;
    const OptimRate rate = {.lr = 1e-3f};
    const OptimAdamw a = {.lr = 1e-3f, .eps = 1e-8f, .step = 1, .grad_scale = 1};
    OptimTable *t;
    must(cuda->train->table_create(cuda, &t, &(OptimSlot){.count = OPTIM_BLOCK}, 1));
    for (int square = 0; square < 2; square++)
        EACH_ORDER(o) {
            float p[OPTIM_BLOCK] = {0}, g[OPTIM_BLOCK], top[2] = {0};
            uint8_t code[2][OPTIM_BLOCK] = {{0}}, got[OPTIM_BLOCK];
            assert_true(tie_gradient(g, got, square) > 50);
            OptimStep s = {.kind = OPTIM_ADAMW8, .rate = &rate, .a = a, .p = up(p, sizeof p)};
            float *grad = up(g, sizeof g);
            s.grad = grad;
            for (int k = 0; k < 2; k++) {
                s.array[2 * k] = up(code[k], sizeof code[k]);
                s.array[2 * k + 1] = up(&top[k], sizeof top[k]);
            }
            must(cuda->train->step(cuda, t, &s));
            cpu_optim_adamw8(p, code[0], &top[0], code[1], &top[1], g, OPTIM_BLOCK, &a);
            for (int k = 0; k < 2; k++) {
                down(got, s.array[2 * k], sizeof got);
                same_bits(got, code[k], OPTIM_BLOCK, 1, "code");
                cuda->free(cuda, s.array[2 * k + 1], 0);
            }
            cuda->free(cuda, grad, 0);
            cuda->free(cuda, s.p, 0);
        }
    cuda->train->table_destroy(cuda, t);
}
static void test_cuda_optim__lion(void **state)
{
    (void)state;
    check_kind(OPTIM_LION, 0);
    check_kind(OPTIM_LION, 1);
}
static void test_cuda_optim__schedulefree(void **state)
{
    (void)state;
    check_kind(OPTIM_SCHEDULEFREE, 0);
}

/* Steps with and without a gradient, the first of all without: nothing is known of the size of steps then. */
static void check_prodigy(int safeguard)
{
    static Values host;
    static float p0[PLACES], got[PLACES];
    OptimSlot slot[TENSORS];
    OptimTable *t;
    int64_t n = make_slots(slot);
    must(cuda->train->table_create(cuda, &t, slot, TENSORS));
    EACH_ORDER(o) {
        memset(&host, 0, sizeof host);
        draw(host.p, 4, 1);
        memcpy(p0, host.p, sizeof p0);
        OptimFlat f = {up(p0, sizeof p0), up(host.top[0], sizeof got), up(host.array[0], sizeof got), up(host.array[1], sizeof got), up(p0, sizeof p0), NULL};
        OptimProdigy want = {1e-3, 1e-3, 0, 1e-3, 1, 2, 1, safeguard}, have = want;
        OptimAdamw a = {.lr = 1, .weight_decay = 1e-3f, .beta1 = 0.9f, .beta2 = 0.99f, .eps = 1e-8f, .grad_scale = 0.7f};
        for (a.step = 1; a.step <= 12; a.step++) {
            draw(host.grad, 6, a.step > 1 ? 0.1 : 0); /* always the same way: d grows */
            cpu_optim_prodigy(host.p, p0, host.top[0], host.array[0], host.array[1], host.grad, n, &a, &want);
            float *grad = up(host.grad, sizeof host.grad);
            f.grad = grad;
            must(cuda->train->prodigy(cuda, t, &f, n, &a, &have));
            cuda->free(cuda, grad, 0);
            same_bits(&have, &want, 3, sizeof(double), "estimates");
        }
        assert_true(have.d > have.d0);
        float *device[] = {f.p, f.s, f.m, f.v};
        const float *values[] = {host.p, host.top[0], host.array[0], host.array[1]};
        for (int k = 0; k < 4; k++) {
            down(got, device[k], sizeof got);
            same_bits(got, values[k], n, sizeof *got, "Prodigy");
        }
        cuda->free(cuda, (void *)(uintptr_t)f.p0, 0);
    }
    cuda->train->table_destroy(cuda, t);
}

/* Matrices whose rows can be read 16 bytes at once and not, kernels of convolutions, a vector. */
static void check_adafactor(Shape s, int momentum, int scale_parameter)
{
    enum { MOST = 10000 };
    static float host[6][MOST], update[MOST], got[MOST]; /* p row col v m grad */
    const Shape *shape = &s;
    int64_t n = shape_count(shape), last = shape_last(shape), second = shape->ndim > 1 ? shape->dim[shape->ndim - 2] : 1;
    const int64_t size[6] = {n, n / last, n / second, n, n, n};
    float *device[6];
    OptimTable *t;
    OptimAdafactor a = {1e-2f, momentum ? 0.9f : 0, -0.8f, 1, 0.01f, scale_parameter, 1, 0.7f};
    assert_true(n <= MOST);
    must(cuda->train->table_create(cuda, &t, &(OptimSlot){.count = n}, 1));
    EACH_ORDER(o) {
        memset(host, 0, sizeof host);
        for (int64_t i = 0; i < n; i++)
            host[0][i] = (float)uniform(41, i, -1, 1);
        for (int k = 0; k < 6; k++)
            device[k] = up(host[k], sizeof host[k]);
        for (a.step = 1; a.step <= 3; a.step++) {
            for (int64_t i = 0; i < n; i++)
                host[5][i] = (float)uniform(41 + (uint64_t)a.step, i, -0.1, 0.1) * (a.step == 3 && i % 5 ? 30.0f : 1.0f); /* some are clipped */
            must(cuda->upload(cuda, device[5], host[5], sizeof host[5]));
            cpu_optim_adafactor(host[0], host[1], host[2], host[3], momentum ? host[4] : NULL, host[5], update, shape, &a);
            must(cuda->train->adafactor(cuda, t, device[0], device[1], device[2], device[3], momentum ? device[4] : NULL, device[5], shape, &a));
        }
        for (int k = 0; k < 6; k++) {
            down(got, device[k], sizeof got);
            same_bits(got, k == 5 ? update : host[k], size[k], sizeof *got, "Adafactor");
        }
    }
    cuda->train->table_destroy(cuda, t);
}

static void test_cuda_optim__adafactor(void **state)
{
    (void)state;
    check_adafactor(SHAPE(70, 68), 1, 1);
    check_adafactor(SHAPE(9, 1001), 0, 0);
    check_adafactor(SHAPE(40, 20, 3, 3), 1, 0);
    check_adafactor(SHAPE(4100), 1, 1);
    check_adafactor(SHAPE(5), 0, 1);
}

static void test_cuda_optim__prodigy(void **state)
{
    (void)state;
    check_prodigy(0);
    check_prodigy(1);
}

static void test_cuda_optim__ema(void **state)
{
    (void)state;
    static float x[PLACES], average[PLACES], want[PLACES], got[PLACES];
    static char packed[sizeof x];
    OptimSlot slot[TENSORS];
    OptimTable *t;
    make_slots(slot);
    make_halves(slot);
    for (int i = 0; i < TENSORS; i++)
        for (int64_t k = slot[i].at; k < slot[i].at + counts[i]; k++) {
            x[k] = (float)(slot[i].dtype == DTYPE_BF16 ? k % 256 : k) / 64;
            average[k] = (float)uniform(9, k, -1, 1);
            want[k] = average[k] + 0.3f * (x[k] - average[k]);
        }
    pack(packed, x, slot);
    must(cuda->train->table_create(cuda, &t, slot, TENSORS));
    EACH_ORDER(o) {
        void *a = up(average, sizeof average), *b = up(packed, sizeof packed);
        must(cuda->train->ema(cuda, t, a, b, 0.3f));
        down(got, a, sizeof got);
        same_bits(got, want, PLACES, sizeof *got, "average");
        cuda->free(cuda, b, 0);
    }
    cuda->train->table_destroy(cuda, t);
}

/* ---- noise ---- */

typedef struct {
    float offset, perturbation;
    int random, flow, c;
    SamplerPredict predict;
} NoiseCase;

/* Three samples, one of them held out (a negative position); the last block of draws is not whole. */
static void check_noise(const NoiseCase *k, Dtype dtype)
{
    enum { ITEMS = 3, PIXELS = 7 * 5, MOST = PIXELS * 4 };
    static const int64_t position[ITEMS] = {0, 12345678901, -2};
    double time[ITEMS] = {0, 1, 2}, alpha_bar[3] = {0.999, 0.5, 0.01};
    TrainNoiseConf n = {.offset = k->offset, .offset_random = k->random, .perturbation = k->perturbation, .perturbation_random = k->random};
    TrainNoise t = {&n, NULL, alpha_bar, 3, k->flow, k->predict};
    TrainNoiseDevice *d;
    static float moments[ITEMS * MOST * 2], x[ITEMS * MOST], target[ITEMS * MOST], work[MOST], want[2][ITEMS * MOST], got[ITEMS * MOST];
    int64_t count = PIXELS * k->c;
    size_t bytes = (size_t)(ITEMS * count) * dtype_size(dtype);
    for (int64_t i = 0; i < ITEMS * count * 2; i++)
        moments[i] = (float)(i % 50 ? uniform(21, i, -3, 3) : i % 100 ? 40 : -40);
    for (int j = 0; j < ITEMS; j++) {
        float *xj = x + j * count, *tj = target + j * count;
        train_noise_latent(7, position[j], moments + j * 2 * count, 0.1f, 0.18215f, xj, tj, count, k->c);
        train_noise_apply(&t, 7, position[j], time[j], xj, tj, work, 7, 5, k->c);
    }
    must(dtype_convert(want[0], dtype, x, DTYPE_F32, ITEMS * count));
    must(dtype_convert(want[1], dtype, target, DTYPE_F32, ITEMS * count));
    must(train_noise_device_create(&d, cuda, &t, ITEMS, MOST));
    assert_non_null(d);
    EACH_ORDER(o) {
        void *dx = up(x, bytes), *dt = up(x, bytes);
        const TrainNoiseBatch b = {7, position, time, moments, 0.1f, 0.18215f, ITEMS, k->c, count};
        must(train_noise_device_apply(d, &b, dx, dt, dtype));
        down(got, dx, bytes);
        same_bits(got, want[0], ITEMS * count, dtype_size(dtype), "x");
        down(got, dt, bytes);
        same_bits(got, want[1], ITEMS * count, dtype_size(dtype), "target");
    }
    train_noise_device_destroy(d);
}

static void test_cuda_optim__noise(void **state)
{
    (void)state;
    static const NoiseCase cases[] = {
        {0, 0, 0, 0, 4, SAMPLER_PREDICT_EPSILON}, {0, 0, 0, 0, 4, SAMPLER_PREDICT_V},      {0, 0, 0, 0, 3, SAMPLER_PREDICT_SAMPLE},
        {0, 0, 0, 1, 4, SAMPLER_PREDICT_EPSILON}, {0.1f, 0, 0, 0, 4, SAMPLER_PREDICT_V},   {0.1f, 0.2f, 1, 0, 3, SAMPLER_PREDICT_EPSILON},
        {0, 0.3f, 0, 1, 4, SAMPLER_PREDICT_EPSILON},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        check_noise(&cases[i], DTYPE_F32);
        check_noise(&cases[i], DTYPE_BF16);
    }
}

/* What stays on the host. */
static void test_cuda_optim__noise_on_the_host(void **state)
{
    (void)state;
    TrainNoiseDevice *d;
    TrainNoiseConf multires = {.multires_iterations = 6}, adaptive = {.offset = 0.1f, .offset_adaptive = 0.1f};
    must(train_noise_device_create(&d, cuda, &(TrainNoise){.noise = &multires}, 1, 16));
    assert_null(d);
    must(train_noise_device_create(&d, cuda, &(TrainNoise){.noise = &adaptive}, 1, 16));
    assert_null(d);
}

/* ---- pixels ---- */

static void test_cuda_optim__pixels(void **state)
{
    (void)state;
    enum { N = 37 * 11 * 3 };
    static float x[N], back[N];
    static uint8_t got[N];
    static uint16_t half[N];
    IoImage want;
    for (int i = 0; i < N; i++)
        x[i] = i % 40 == 7 ? NAN : i % 40 == 9 ? (i % 80 == 9 ? INFINITY : -INFINITY) : i % 3 ? (float)uniform(31, i, -1.1, 1.1) : (float)(i % 256 * 2 + 1) / 255.0f - 1;
    must(dtype_convert(half, DTYPE_BF16, x, DTYPE_F32, N));
    must(dtype_convert(back, DTYPE_F32, half, DTYPE_BF16, N));
    EACH_ORDER(o)
        for (int bf = 0; bf < 2; bf++) {
            void *device = up(bf ? (void *)half : x, bf ? sizeof half : sizeof x);
            must(io_image_from_hwc(&want, bf ? back : x, 11, 37, 3));
            must(cuda->download_pixels(cuda, got, device, bf ? DTYPE_BF16 : DTYPE_F32, N));
            same_bits(got, want.data, N, 1, "pixel");
            must(cuda->download_pixels(cuda, got, device, bf ? DTYPE_BF16 : DTYPE_F32, 5)); /* fewer than before */
            same_bits(got, want.data, 5, 1, "pixel");
            io_image_deinit(&want);
            cuda->free(cuda, device, 0);
        }
}

/* All values of a byte; lengths with and without a rest; more than there was room for before. */
static void test_cuda_optim__from_pixels(void **state)
{
    (void)state;
    enum { N = 53 * 29 * 3 };
    static uint8_t pixel[N];
    static float want[N], got[N];
    static uint16_t half[N];
    static const int64_t sizes[] = {0, 5, 256, N};
    for (int i = 0; i < N; i++)
        pixel[i] = (uint8_t)(i * 7);
    io_image_to_hwc(&(IoImage){.w = 29, .h = 53, .c = 3, .data = pixel}, want);
    must(dtype_convert(half, DTYPE_BF16, want, DTYPE_F32, N));
    EACH_ORDER(o)
        for (int k = 0; k < 4; k++)
            for (int bf = 0; bf < 2; bf++) {
                void *device = up(got, sizeof got);
                must(cuda->upload_pixels(cuda, device, bf ? DTYPE_BF16 : DTYPE_F32, pixel, sizes[k]));
                down(got, device, sizeof got);
                same_bits(got, bf ? (void *)half : want, sizes[k], bf ? 2 : 4, "value");
            }
}

/* ---- copies from the host: the caller's memory is its own again at once, and the device gets what was there ---- */

static void test_cuda_optim__uploads(void **state)
{
    (void)state;
    enum { SMALL = 5000, ROUNDS = 600, LARGE = (9 << 20) + 77 };
    static char small[SMALL];
    char *large = malloc(LARGE), *want = malloc(LARGE);
    void *one[ROUNDS], *all;
    const char *lazy = getenv("EMU_LAZY") ? "1" : "0"; /* a GPU needs no asking */
    setenv("EMU_LAZY", "1", 1);
    for (int r = 0; r < ROUNDS; r++) {
        must(cuda->alloc(cuda, &one[r], SMALL));
        memset(small, r % 251, SMALL);
        must(cuda->upload(cuda, one[r], small, SMALL - (size_t)r % 64));
    }
    for (int i = 0; i < LARGE; i++)
        want[i] = large[i] = (char)(i % 253);
    must(cuda->alloc(cuda, &all, LARGE));
    must(cuda->upload(cuda, all, large, LARGE));
    memset(large, 1, LARGE);
    must(cuda->download(cuda, large, all, LARGE));
    assert_true(!memcmp(large, want, LARGE));
    for (int r = 0; r < ROUNDS; r++) {
        must(cuda->download(cuda, small, one[r], SMALL - 64));
        for (int i = 0; i < SMALL - 64; i++)
            if (small[i] != (char)(r % 251))
                fail_msg("copy %d holds other bytes", r);
        cuda->free(cuda, one[r], SMALL);
    }
    setenv("EMU_LAZY", lazy, 1);
    cuda->free(cuda, all, LARGE);
    free(large);
    free(want);
}

/* ---- parameters that live elsewhere ---- */

static void test_cuda_optim__adopted_parameter(void **state)
{
    (void)state;
    float host[64] = {1}, new_values[64] = {2}, got[64];
    OpView v = {.data = host, .dtype = DTYPE_F32, .shape = {1, {64, 1, 1, 1}}, .version = 1};
    void *address, *own = up(new_values, sizeof new_values);
    must(cuda->train->adopt(cuda, &v, own));
    assert_int_equal(cuda->train->adopt(cuda, &v, own), ERR_BUSY);
    for (int i = 0; i < 2; i++, v.version++) { /* a newer version on the host is not copied */
        must(cuda->acquire(cuda, &v, &address));
        assert_ptr_equal(address, own);
    }
    cuda->drop(cuda, &v);
    cuda->drop(cuda, &v);
    cuda->drop(cuda, &v);
    down(got, own, sizeof got); /* still there: it was ours */
    assert_true(got[0] == 2);
    must(cuda->acquire(cuda, &v, &address)); /* forgotten: a copy of the host's again */
    must(cuda->download(cuda, got, address, sizeof got));
    assert_true(got[0] == 1);
    cuda->drop(cuda, &v);
}

int main(void)
{
    setenv("ATELIER_ISA", "base", 1); /* AdamW's portable form */
    omp_set_num_threads(1);           /* ThreadSanitizer does not know libgomp's threads */
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cuda_optim__exact_add), cmocka_unit_test(test_cuda_optim__exact_to_float),
        cmocka_unit_test(test_cuda_optim__sumsq),     cmocka_unit_test(test_cuda_optim__adamw),
        cmocka_unit_test(test_cuda_optim__adamw8),    cmocka_unit_test(test_cuda_optim__adamw8_ties), cmocka_unit_test(test_cuda_optim__lion),
        cmocka_unit_test(test_cuda_optim__schedulefree), cmocka_unit_test(test_cuda_optim__ema),
        cmocka_unit_test(test_cuda_optim__adafactor), cmocka_unit_test(test_cuda_optim__prodigy),  cmocka_unit_test(test_cuda_optim__pixels),
        cmocka_unit_test(test_cuda_optim__from_pixels), cmocka_unit_test(test_cuda_optim__uploads),
        cmocka_unit_test(test_cuda_optim__noise),     cmocka_unit_test(test_cuda_optim__noise_on_the_host),
        cmocka_unit_test(test_cuda_optim__adopted_parameter),
    };
    return cmocka_run_group_tests(tests, cuda_start, cuda_stop);
}
