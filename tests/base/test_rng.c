#include "base/rng.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/rng_torch.h"
#include "io/safetensors.h"

static IoSafetensors *vectors;

static int open_vectors(void **state)
{
    (void)state;
    return io_safetensors_open(&vectors, "tests/vectors/rng/rng.safetensors");
}

static int close_vectors(void **state)
{
    (void)state;
    io_safetensors_close(vectors);
    return 0;
}

/* Random123's kat_vectors, philox4x32 with 10 rounds. */
static void test_base_rng__philox_known_answers(void **state)
{
    (void)state;
    static const struct {
        uint32_t ctr[4], key[2], out[4];
    } kat[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
         {0xffffffff, 0xffffffff},
         {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (int i = 0; i < 3; i++) {
        uint32_t out[4];
        rng_philox(out, kat[i].ctr, kat[i].key);
        assert_memory_equal(out, kat[i].out, sizeof out);
    }
}

/* Saved runs depend on these bits: they may never change. */
static void test_base_rng__streams_are_frozen(void **state)
{
    (void)state;
    RngKey k = rng_key(0x123456789abcdef0u, RNG_NOISE, 7, 0x100000003u);
    static const uint32_t words[5] = {0x4f550e77, 0x63afe295, 0x1d01c9c3, 0x4bea7f76, 0x74eab10d};
    static const uint32_t normals[5] = {0xbf967f48, 0x3f7ae9d1, 0xbf1a0817, 0x3fffc8ba, 0xbf726e1b};
    static const int64_t order[8] = {5, 6, 3, 4, 1, 0, 7, 2};
    for (uint64_t i = 0; i < 5; i++) {
        float f = rng_normal(k, i);
        uint32_t bits;
        memcpy(&bits, &f, sizeof bits);
        assert_int_equal(rng_u32(k, i), words[i]);
        assert_int_equal(bits, normals[i]);
    }
    int64_t p[8];
    rng_permutation(p, 8, k);
    assert_memory_equal(p, order, sizeof p);
}

static void test_base_rng__keys_differ(void **state)
{
    (void)state;
    const RngKey k[] = {rng_key(1, RNG_NOISE, 2, 3),          rng_key(2, RNG_NOISE, 2, 3), rng_key(1, RNG_FLIP, 2, 3),
                        rng_key(1, RNG_NOISE, 3, 3),          rng_key(1, RNG_NOISE, 2, 4), rng_key(1ull << 32, RNG_NOISE, 2, 3),
                        rng_key(1, RNG_NOISE, 2ull << 32, 3), rng_key(1, RNG_NOISE, 2, 3ull << 32)};
    for (int i = 0; i < 8; i++)
        for (int j = 0; j < i; j++)
            assert_true(rng_u32(k[i], 0) != rng_u32(k[j], 0));
    assert_int_equal(rng_u32(k[0], 5), rng_u32(rng_key(1, RNG_NOISE, 2, 3), 5));
    assert_true(rng_u32(k[0], 1ull << 34) != rng_u32(k[0], 0));
}

static void test_base_rng__fills_equal_elements(void **state)
{
    (void)state;
    enum { N = 37 };
    RngKey k = rng_key(5, RNG_TEST, 0, 0);
    for (uint64_t first = 0; first < 9; first++) {
        float normal[N], uniform[N], range[N];
        uint32_t word[N];
        rng_normal_fill(normal, N, k, first);
        rng_uniform_fill(uniform, N, k, first);
        rng_range_fill(range, N, k, first, -2.0f, 6.0f);
        rng_u32_fill(word, N, k, first);
        for (uint64_t i = 0; i < N; i++) {
            assert_true(normal[i] == rng_normal(k, first + i));
            assert_true(uniform[i] == rng_uniform(k, first + i));
            assert_true(range[i] == -2.0f + 8.0f * uniform[i]);
            assert_int_equal(word[i], rng_u32(k, first + i));
        }
    }
}

static void test_base_rng__moments(void **state)
{
    (void)state;
    enum { N = 200000 };
    float *x = malloc(N * sizeof *x);
    double m[5] = {0}, u = 0;
    rng_normal_fill(x, N, rng_key(9, RNG_TEST, 1, 0), 0);
    for (int i = 0; i < N; i++)
        for (int p = 1; p < 5; p++)
            m[p] += pow((double)x[i], p) / N;
    assert_true(fabs(m[1]) < 0.01 && fabs(m[2] - 1) < 0.015 && fabs(m[3]) < 0.03 && fabs(m[4] - 3) < 0.1);
    rng_uniform_fill(x, N, rng_key(9, RNG_TEST, 2, 0), 0);
    for (int i = 0; i < N; i++) {
        assert_true(x[i] >= 0.0f && x[i] < 1.0f);
        u += (double)x[i] / N;
    }
    assert_true(fabs(u - 0.5) < 0.003);
    free(x);
}

static void test_base_rng__own_math_agrees_with_libm(void **state)
{
    (void)state;
    for (int i = 0; i < 200000; i++) {
        uint32_t w = rng_u32(rng_key(3, RNG_TEST, 0, 0), (uint64_t)i);
        double u = ((double)w + 0.5) * 0x1p-32, s, c;
        assert_true(fabs(rng_log(u) - log(u)) <= 4e-16 * fabs(log(u)) + 1e-300);
        rng_sincos_turns((double)w * 0x1p-32, &s, &c);
        double a = 6.283185307179586 * ((double)w * 0x1p-32);
        assert_true(fabs(s - sin(a)) < 1e-15 && fabs(c - cos(a)) < 1e-15);
    }
    double s, c;
    rng_sincos_turns(0.25, &s, &c);
    assert_true(s == 1.0 && c == 0.0);
    rng_sincos_turns(0.5, &s, &c);
    assert_true(s == 0.0 && c == -1.0);
    assert_true(rng_log(1.0) == 0.0);
}

static void test_base_rng__below_is_unbiased(void **state)
{
    (void)state;
    enum { N = 7, DRAWS = 70000 };
    int count[N] = {0};
    RngStream s = rng_stream(rng_key(4, RNG_TEST, 0, 0));
    for (int i = 0; i < DRAWS; i++)
        count[rng_stream_below(&s, N)]++;
    for (int i = 0; i < N; i++)
        assert_true(abs(count[i] - DRAWS / N) < 400);
    assert_int_equal(rng_stream_below(&s, 0), 0);
    assert_int_equal(rng_stream_below(&s, 1), 0);
    uint64_t top = 0, thirds = 0;
    for (int i = 0; i < 1000; i++) {
        /* A remainder alone would make the lower third twice as likely. */
        uint64_t v = rng_stream_below(&s, 0xC000000000000001u);
        assert_true(v < 0xC000000000000001u);
        top += v >= 0x6000000000000000u;
        v = rng_stream_below(&s, 3221225472u); /* 3/4 of 2^32: scaling alone would give every third value twice */
        assert_true(v < 3221225472u);
        thirds += v % 3 == 0;
    }
    assert_true(thirds > 270 && thirds < 400);
    assert_true(top > 430 && top < 570);
}

static void test_base_rng__permutation(void **state)
{
    (void)state;
    enum { N = 1000 };
    int64_t p[N], q[N], seen[N] = {0}, first[3] = {0};
    rng_permutation(p, N, rng_key(1, RNG_SHUFFLE, 0, 0));
    rng_permutation(q, N, rng_key(1, RNG_SHUFFLE, 0, 1));
    int same = 0;
    for (int i = 0; i < N; i++) {
        seen[p[i]]++;
        same += p[i] == q[i];
    }
    for (int i = 0; i < N; i++)
        assert_int_equal(seen[i], 1);
    assert_true(same < 20);
    for (uint64_t i = 0; i < 3000; i++) {
        rng_permutation(p, 3, rng_key(i, RNG_SHUFFLE, 0, 0));
        first[p[0]]++;
    }
    for (int i = 0; i < 3; i++)
        assert_true(first[i] > 850 && first[i] < 1150);
    rng_permutation(p, 0, rng_key(1, RNG_SHUFFLE, 0, 0));
}

static const uint64_t seeds[] = {0, 1, 42, 4294967301u};

static const IoTensor *get(uint64_t seed, const char *prefix, const char *rest)
{
    static IoTensor t;
    char name[100];
    snprintf(name, sizeof name, "%s/seed%llu/%s", prefix, (unsigned long long)seed, rest);
    if (io_safetensors_get(vectors, name, &t) < 0)
        fail_msg("%s", name);
    return &t;
}

static void near(const IoTensor *expected, const float *x, double tolerance)
{
    const float *e = expected->data;
    for (size_t i = 0; i < expected->bytes / 4; i++)
        if (!(fabs((double)e[i] - (double)x[i]) <= tolerance))
            fail_msg("%s[%zu]: expected %.9g, got %.9g", expected->name, i, (double)e[i], (double)x[i]);
}

static void test_base_rng__torch_words(void **state)
{
    (void)state;
    for (int s = 0; s < 4; s++) {
        RngTorch g;
        const IoTensor *t = get(seeds[s], "mt19937", "u32");
        rng_torch_init(&g, seeds[s]);
        for (int i = 0; i < 32; i++)
            assert_true(rng_torch_u32(&g) == (uint64_t)((const int64_t *)t->data)[i]);
    }
}

static void test_base_rng__torch_cpu_normals(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        int64_t n;
    } shapes[] = {{"1", 1}, {"3", 3}, {"15", 15}, {"16", 16}, {"17", 17}, {"31", 31}, {"40", 40}, {"1000", 1000}, {"4x8x8", 256}};
    for (int s = 0; s < 4; s++) {
        for (size_t k = 0; k < sizeof shapes / sizeof *shapes; k++) {
            RngTorch g;
            float x[1000];
            char second[32];
            rng_torch_init(&g, seeds[s]);
            rng_torch_normal_f32(&g, x, shapes[k].n);
            double tolerance = 0;
            near(get(seeds[s], "cpu", shapes[k].name), x, tolerance);
            rng_torch_normal_f32(&g, x, shapes[k].n);
            snprintf(second, sizeof second, "%s/second", shapes[k].name);
            near(get(seeds[s], "cpu", second), x, tolerance);
        }
        RngTorch g;
        float x[16];
        rng_torch_init(&g, seeds[s]);
        rng_torch_normal_f32(&g, x, 3);
        near(get(seeds[s], "cpu", "mixed/n3"), x, 0);
        rng_torch_normal_f32(&g, x, 16);
        near(get(seeds[s], "cpu", "mixed/n16"), x, 0);
    }
}

static float half_to_float(uint16_t b)
{
    int e = b >> 10 & 31;
    float v = e ? ldexpf((float)((b & 0x3FF) | 0x400), e - 25) : ldexpf((float)(b & 0x3FF), -24);
    return b & 0x8000 ? -v : v;
}

static void test_base_rng__torch_cpu_other_dtypes(void **state)
{
    (void)state;
    for (int s = 0; s < 4; s++) {
        RngTorch g;
        double d[1000];
        float x[1000];
        uint16_t h[64];
        rng_torch_init(&g, seeds[s]);
        rng_torch_normal_f64(&g, d, 1000);
        for (int i = 0; i < 1000; i++)
            x[i] = (float)d[i];
        near(get(seeds[s], "cpu", "1000/f64"), x, 1e-6);
        rng_torch_init(&g, seeds[s]);
        rng_torch_normal_f16(&g, h, 64);
        for (int i = 0; i < 64; i++)
            x[i] = half_to_float(h[i]);
        near(get(seeds[s], "cpu", "64/f16"), x, 0);
        rng_torch_init(&g, seeds[s]);
        rng_torch_normal_bf16(&g, h, 64);
        for (int i = 0; i < 64; i++) {
            uint32_t b = (uint32_t)h[i] << 16;
            memcpy(&x[i], &b, 4);
        }
        near(get(seeds[s], "cpu", "64/bf16"), x, 0);
    }
}

static void test_base_rng__torch_cuda_normals(void **state)
{
    (void)state;
    static const uint64_t cuda_seeds[] = {0, 1, 42, 4294967301u};
    for (int s = 0; s < 4; s++) {
        RngTorchCuda g;
        float x[1000];
        rng_torch_cuda_init(&g, cuda_seeds[s], 0);
        rng_torch_cuda_normal(&g, x, 1000);
        near(get(cuda_seeds[s], "philox", "offset0/1000"), x, 2e-6);
        rng_torch_cuda_normal(&g, x, 1000);
        near(get(cuda_seeds[s], "philox", "offset1/1000"), x, 2e-6);
    }
}

/* Beyond the device's threads the other components of a block are used, and the order of elements changes. */
static void test_base_rng__torch_cuda_depends_on_the_device(void **state)
{
    (void)state;
    enum { N = 5000, T = 512 };
    RngTorchCuda a, b;
    float x[N], y[N], z[N];
    rng_torch_cuda_init(&a, 7, T);
    rng_torch_cuda_init(&b, 7, 0);
    rng_torch_cuda_normal(&a, x, N);
    rng_torch_cuda_normal(&b, y, N);
    assert_memory_equal(x, y, T * sizeof *x);
    assert_true(x[T] != y[T]);
    assert_int_equal(a.offset, 3); /* (5000 - 1) / 2048 + 1 */
    assert_int_equal(b.offset, 1);
    rng_torch_cuda_init(&a, 7, T);
    a.offset = 1;
    rng_torch_cuda_normal(&a, z, T);
    assert_memory_equal(z, x + 4 * T, T * sizeof *x);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_base_rng__philox_known_answers),
        cmocka_unit_test(test_base_rng__streams_are_frozen),
        cmocka_unit_test(test_base_rng__keys_differ),
        cmocka_unit_test(test_base_rng__fills_equal_elements),
        cmocka_unit_test(test_base_rng__moments),
        cmocka_unit_test(test_base_rng__own_math_agrees_with_libm),
        cmocka_unit_test(test_base_rng__below_is_unbiased),
        cmocka_unit_test(test_base_rng__permutation),
        cmocka_unit_test(test_base_rng__torch_words),
        cmocka_unit_test(test_base_rng__torch_cpu_normals),
        cmocka_unit_test(test_base_rng__torch_cpu_other_dtypes),
        cmocka_unit_test(test_base_rng__torch_cuda_normals),
        cmocka_unit_test(test_base_rng__torch_cuda_depends_on_the_device),
    };
    return cmocka_run_group_tests(tests, open_vectors, close_vectors);
}
