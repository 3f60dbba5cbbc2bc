#include "sampler/noise.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "sampler/solver_impl.h"

const char *const SAMPLER_COMPAT_NAMES[SAMPLER_COMPAT_COUNT + 1] = {"atelier", "diffusers-cpu", "diffusers-cpu-fp16", "diffusers-cuda",
                                                                    "comfyui", "a1111-gpu",     "a1111-cpu",          NULL};

SamplerRules sampler_compat_rules(SamplerCompat c)
{
    return c == SAMPLER_COMPAT_ATELIER   ? SAMPLER_RULES_ATELIER
           : c == SAMPLER_COMPAT_COMFYUI ? SAMPLER_RULES_COMFY
           : c < SAMPLER_COMPAT_COMFYUI  ? SAMPLER_RULES_DIFFUSERS
                                         : SAMPLER_RULES_A1111;
}

static int out_of_memory(int64_t n) { return err_set(ERR_NOMEM, "out of memory: %lld normals", (long long)n); }

static int is_a1111(SamplerCompat c) { return c == SAMPLER_COMPAT_A1111_GPU || c == SAMPLER_COMPAT_A1111_CPU; }

static void seed_both(SamplerNoise *z, uint64_t seed)
{
    rng_torch_init(&z->cpu, seed);
    rng_torch_cuda_init(&z->gpu, seed, z->c.gpu_threads);
}

void sampler_noise_init(SamplerNoise *z, const SamplerNoiseConf *conf)
{
    memset(z, 0, sizeof *z);
    z->c = *conf;
    seed_both(z, conf->seed);
}

void sampler_noise_deinit(SamplerNoise *z)
{
    rng_brownian_destroy(z->path);
    z->path = NULL;
}

static float half_value(uint16_t b)
{
    int e = b >> 10 & 31;
    double v = e ? ldexp((b & 0x3FF) | 0x400, e - 25) : ldexp(b & 0x3FF, -24);
    return (float)(b & 0x8000 ? -v : v);
}

static int draw_half(RngTorch *g, float *out, int64_t n)
{
    uint16_t *bits = malloc((size_t)n * sizeof *bits);
    if (!bits)
        return out_of_memory(n);
    rng_torch_normal_f16(g, bits, n);
    for (int64_t i = 0; i < n; i++)
        out[i] = half_value(bits[i]);
    free(bits);
    return 0;
}

typedef enum { CPU_F32, CPU_F16, GPU } Source;

static int draw(SamplerNoise *z, Source from, float *out, int64_t n)
{
    if (from == CPU_F16)
        return draw_half(&z->cpu, out, n);
    if (from == CPU_F32)
        rng_torch_normal_f32(&z->cpu, out, n);
    else
        rng_torch_cuda_normal(&z->gpu, out, n);
    return 0;
}

/* Image `batch_index` of a draw for the whole batch. */
static int draw_batch(SamplerNoise *z, Source from, float *out, int64_t n)
{
    int64_t size = z->c.batch_size > 1 ? z->c.batch_size : 1;
    if (size == 1 || z->c.compat != SAMPLER_COMPAT_COMFYUI)
        return draw(z, from, out, n);
    float *all = malloc((size_t)(size * n) * sizeof *all);
    if (!all)
        return out_of_memory(size * n);
    int rc = draw(z, from, all, size * n);
    memcpy(out, all + z->c.batch_index * n, (size_t)n * sizeof *out);
    free(all);
    return rc;
}

static Source first_source(SamplerCompat c)
{
    return c == SAMPLER_COMPAT_DIFFUSERS_CPU_FP16                                  ? CPU_F16
           : c == SAMPLER_COMPAT_DIFFUSERS_CUDA || c == SAMPLER_COMPAT_A1111_GPU ? GPU
                                                                                   : CPU_F32;
}

static int draw_keyed(const SamplerNoise *z, uint64_t seed, int purpose, int k, float *out, int64_t n)
{
    rng_normal_fill(out, n, rng_key(seed, (RngPurpose)purpose, (uint64_t)z->c.pass, (uint64_t)k), 0);
    return 0;
}

int sampler_noise_first(SamplerNoise *z, float *out, int64_t n)
{
    if (z->c.compat == SAMPLER_COMPAT_ATELIER)
        return draw_keyed(z, z->c.seed, RNG_SAMPLE, 0, out, n);
    return draw_batch(z, first_source(z->c.compat), out, n);
}

int sampler_noise_fresh(const SamplerNoise *z, uint64_t seed, float *out, int64_t n)
{
    if (z->c.compat == SAMPLER_COMPAT_ATELIER)
        return draw_keyed(z, seed, RNG_SAMPLE, 0, out, n);
    SamplerNoise fresh;
    SamplerNoiseConf c = z->c;
    c.seed = seed;
    sampler_noise_init(&fresh, &c);
    return draw_batch(&fresh, first_source(c.compat), out, n);
}

int sampler_noise_next(SamplerNoise *z, int purpose, int k, float *out, int64_t n)
{
    if (z->c.compat == SAMPLER_COMPAT_ATELIER)
        return draw_keyed(z, z->c.seed, purpose, k, out, n);
    return draw_batch(z, first_source(z->c.compat), out, n);
}

/* Where noise after the first comes from; sets the generator up the first time. */
static Source later_source(SamplerNoise *z, const Sampler *s)
{
    Source from = first_source(z->c.compat);
    if (!z->later && is_a1111(z->c.compat) && z->c.ensd != 0)
        seed_both(z, z->c.seed + (uint64_t)z->c.ensd);
    if (!z->later && z->c.compat == SAMPLER_COMPAT_COMFYUI)
        seed_both(z, z->c.seed);
    z->later = 1;
    if (z->c.compat == SAMPLER_COMPAT_COMFYUI)
        return GPU;
    int dpm = s->c.kind == SAMPLER_DPMPP_2M_SDE || s->c.kind == SAMPLER_DPMPP_3M_SDE; /* this class of diffusers draws f32 always */
    return from == CPU_F16 && dpm ? CPU_F32 : from;
}

/* torchsde's _randn: a generator seeded anew for each node. */
static void draw_node(void *ctx, uint32_t seed, float *out, int64_t n)
{
    SamplerNoise *z = ctx, node;
    if (z->c.compat == SAMPLER_COMPAT_ATELIER) {
        rng_normal_fill(out, n, rng_key(z->c.seed, RNG_ANCESTRAL, (uint64_t)z->c.pass + 2, seed), 0);
        return;
    }
    SamplerNoiseConf c = {.compat = z->c.compat, .seed = seed, .gpu_threads = z->c.gpu_threads};
    sampler_noise_init(&node, &c);
    Source from = z->path_gpu ? GPU : first_source(c.compat);
    if (from != CPU_F16 || draw(&node, from, out, n) < 0) /* half precision needs a buffer: f32 when there is none */
        draw(&node, from == GPU ? GPU : CPU_F32, out, n);
}

/* BrownianTreeNoiseSampler: (W(to) - W(from)) / sqrt(|to - from|), the path running from the lowest sigma up. */
static int step_brownian(SamplerNoise *z, const Sampler *s, const double interval[2], const double range[2], float *out, int64_t n)
{
    int64_t size = z->c.compat == SAMPLER_COMPAT_COMFYUI && z->c.batch_size > 1 ? z->c.batch_size : 1;
    if (z->path && z->path_n != size * n)
        sampler_noise_deinit(z);
    if (!z->path) {
        z->path_gpu = s->c.sde_gpu && z->c.compat == SAMPLER_COMPAT_COMFYUI;
        z->path_n = size * n;
        TRY(rng_brownian_create(&z->path, z->c.seed, range[0], range[1], z->path_n, draw_node, z));
    }
    float *all = size > 1 ? malloc((size_t)z->path_n * sizeof *all) : out;
    if (!all)
        return out_of_memory(z->path_n);
    int rc = rng_brownian_increment(z->path, interval[1], interval[0], all);
    const float *from = all + (size > 1 ? z->c.batch_index * n : 0);
    float scale = -sqrtf((float)interval[0] - (float)interval[1]);
    for (int64_t i = 0; i < n && rc >= 0; i++)
        out[i] = from[i] / scale;
    if (all != out)
        free(all);
    return rc;
}

int sampler_noise_step(SamplerNoise *z, const Sampler *s, int i, float *out, int64_t n)
{
    double interval[2], range[2];
    if (sampler_noise_interval(s, i, interval, range))
        return step_brownian(z, s, interval, range, out, n);
    if (z->c.compat == SAMPLER_COMPAT_ATELIER)
        return draw_keyed(z, z->c.seed, RNG_ANCESTRAL, i, out, n);
    return draw_batch(z, later_source(z, s), out, n);
}

int sampler_noise_churn(SamplerNoise *z, const Sampler *s, int i, float *out, int64_t n)
{
    if (z->c.compat == SAMPLER_COMPAT_ATELIER)
        return draw_keyed(z, z->c.seed, RNG_ANCESTRAL, i, out, n);
    int until = is_a1111(z->c.compat) ? s->call[i].step + 1 : z->churned + 1;
    for (; z->churned < until; z->churned++)
        TRY(draw_batch(z, later_source(z, s), out, n));
    return 0;
}
