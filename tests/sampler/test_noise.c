#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <string.h>

#include "sampler/noise.h"

enum { N = 256 };

static Sampler *make(const char *kind, SamplerCompat compat)
{
    SamplerConf c;
    Sampler *s = NULL;
    sampler_conf_default(&c);
    c.steps = 8;
    c.rules = sampler_compat_rules(compat);
    assert_int_equal(sampler_conf_set_kind(&c, kind), 0);
    if (sampler_create(&s, &c, N) < 0)
        fail_msg("%s", err_message());
    return s;
}

/* First normals of seed 42 on the CPU (torch.randn(1, 4, 64, 64)) and of seed 0 by A1111's "NV" source. */
static void test_sampler_noise__known_values(void **state)
{
    (void)state;
    static const struct {
        SamplerCompat compat;
        uint64_t seed;
        int64_t n;
        float want[4];
    } cases[] = {
        {SAMPLER_COMPAT_DIFFUSERS_CPU, 42, 16384, {1.9269153f, 1.4872841f, 0.9007172f, -2.1055210f}},
        {SAMPLER_COMPAT_COMFYUI, 42, 16384, {1.9269153f, 1.4872841f, 0.9007172f, -2.1055210f}},
        {SAMPLER_COMPAT_A1111_CPU, 42, 16384, {1.9269153f, 1.4872841f, 0.9007172f, -2.1055210f}},
        {SAMPLER_COMPAT_DIFFUSERS_CPU_FP16, 42, 16384, {0.38696289f, 1.47070312f, 0.14685059f, -1.11816406f}},
        {SAMPLER_COMPAT_A1111_GPU, 0, 12, {-0.92466259f, -0.42534415f, -2.6438457f, 0.14518388f}},
        {SAMPLER_COMPAT_DIFFUSERS_CUDA, 0, 12, {-0.92466259f, -0.42534415f, -2.6438457f, 0.14518388f}},
    };
    static float out[16384], fresh[16384];
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        SamplerNoise z;
        sampler_noise_init(&z, &(SamplerNoiseConf){.compat = cases[k].compat, .seed = cases[k].seed});
        assert_int_equal(sampler_noise_first(&z, out, cases[k].n), 0);
        assert_int_equal(sampler_noise_fresh(&z, cases[k].seed, fresh, cases[k].n), 0);
        assert_memory_equal(out, fresh, (size_t)cases[k].n * sizeof *out);
        for (int i = 0; i < 4; i++)
            if (!(fabsf(out[i] - cases[k].want[i]) <= 3e-6f))
                fail_msg("%s: %g, want %g", SAMPLER_COMPAT_NAMES[cases[k].compat], (double)out[i], (double)cases[k].want[i]);
        sampler_noise_deinit(&z);
    }
}

/* ComfyUI: later noise is the CUDA stream from its start. A1111: the stream goes on, or starts at seed + ensd. */
static void test_sampler_noise__later_draws(void **state)
{
    (void)state;
    float a[N], b[N], first[N];
    SamplerNoise z, w;
    Sampler *comfy = make("euler_a", SAMPLER_COMPAT_COMFYUI), *a1111 = make("euler_a", SAMPLER_COMPAT_A1111_GPU);
    RngTorchCuda g;
    sampler_noise_init(&z, &(SamplerNoiseConf){.compat = SAMPLER_COMPAT_COMFYUI, .seed = 7});
    assert_int_equal(sampler_noise_first(&z, first, N), 0);
    assert_int_equal(sampler_noise_step(&z, comfy, 0, a, N), 0);
    rng_torch_cuda_init(&g, 7, 0);
    rng_torch_cuda_normal(&g, b, N);
    assert_memory_equal(a, b, sizeof a);
    sampler_noise_init(&z, &(SamplerNoiseConf){.compat = SAMPLER_COMPAT_A1111_GPU, .seed = 7});
    assert_int_equal(sampler_noise_first(&z, first, N), 0);
    assert_memory_equal(first, b, sizeof b);
    assert_int_equal(sampler_noise_step(&z, a1111, 0, a, N), 0);
    rng_torch_cuda_normal(&g, b, N);
    assert_memory_equal(a, b, sizeof a);
    sampler_noise_init(&z, &(SamplerNoiseConf){.compat = SAMPLER_COMPAT_A1111_GPU, .seed = 7, .ensd = 31337});
    assert_int_equal(sampler_noise_first(&z, first, N), 0);
    assert_int_equal(sampler_noise_step(&z, a1111, 0, a, N), 0);
    sampler_noise_init(&w, &(SamplerNoiseConf){.compat = SAMPLER_COMPAT_A1111_GPU, .seed = 7 + 31337});
    assert_int_equal(sampler_noise_first(&w, b, N), 0);
    assert_memory_equal(a, b, sizeof a);
    sampler_destroy(comfy);
    sampler_destroy(a1111);
}

/* Image k of a batch that ComfyUI drew as a whole is slice k of the draw; the other programs ignore the batch. */
static void test_sampler_noise__batches_of_comfyui(void **state)
{
    (void)state;
    float whole[3 * N], part[N];
    SamplerNoise z;
    sampler_noise_init(&z, &(SamplerNoiseConf){.compat = SAMPLER_COMPAT_COMFYUI, .seed = 3});
    assert_int_equal(sampler_noise_first(&z, whole, 3 * N), 0);
    for (int k = 0; k < 3; k++) {
        sampler_noise_init(&z, &(SamplerNoiseConf){.compat = SAMPLER_COMPAT_COMFYUI, .seed = 3, .batch_index = k, .batch_size = 3});
        assert_int_equal(sampler_noise_first(&z, part, N), 0);
        assert_memory_equal(part, whole + k * N, sizeof part);
    }
    sampler_noise_init(&z, &(SamplerNoiseConf){.compat = SAMPLER_COMPAT_A1111_CPU, .seed = 3, .batch_index = 2, .batch_size = 3});
    assert_int_equal(sampler_noise_first(&z, part, N), 0);
    assert_memory_equal(part, whole, sizeof part);
}

/* -(W(from) - W(to)) / sqrt(from - to) of the tree over the run's sigmas, entropy the seed. */
static void test_sampler_noise__brownian_increments(void **state)
{
    (void)state;
    for (int compat = 0; compat < SAMPLER_COMPAT_COUNT; compat++) {
        Sampler *s = make("dpmpp_sde", (SamplerCompat)compat);
        SamplerNoise z, again;
        float a[N], b[N];
        double interval[2], range[2], sum = 0;
        int count = 0;
        const SamplerNoiseConf conf = {.compat = (SamplerCompat)compat, .seed = 11};
        sampler_noise_init(&z, &conf);
        sampler_noise_init(&again, &conf);
        for (int i = 0; i < sampler_count(s); i++) {
            if (!sampler_needs_noise(s, i))
                continue;
            assert_int_equal(sampler_noise_interval(s, i, interval, range), 1);
            assert_true(interval[0] > interval[1] && interval[1] > 0);
            assert_int_equal(sampler_noise_step(&z, s, i, a, N), 0);
            for (int k = 0; k < N; k++)
                sum += (double)a[k] * (double)a[k];
            count += N;
        }
        if (!(fabs(sum / count - 1) < 0.2))
            fail_msg("%s: variance %g", SAMPLER_COMPAT_NAMES[compat], sum / count);
        assert_int_equal(sampler_noise_step(&z, s, 2, a, N), 0); /* whatever was asked before */
        assert_int_equal(sampler_noise_step(&again, s, 2, b, N), 0);
        assert_memory_equal(a, b, sizeof a);
        sampler_noise_deinit(&z);
        sampler_noise_deinit(&again);
        sampler_destroy(s);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sampler_noise__known_values),
        cmocka_unit_test(test_sampler_noise__later_draws),
        cmocka_unit_test(test_sampler_noise__batches_of_comfyui),
        cmocka_unit_test(test_sampler_noise__brownian_increments),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
