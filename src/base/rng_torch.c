#include "base/rng_torch.h"

#include <math.h>
#include <string.h>

#include "base/rng.h"

enum { N = 624, M = 397, BLOCK = 16 };
static const double TWO_PI = 6.283185307179586;

void rng_torch_init(RngTorch *g, uint64_t seed)
{
    memset(g, 0, sizeof *g);
    g->state[0] = (uint32_t)seed;
    for (uint32_t j = 1; j < N; j++)
        g->state[j] = 1812433253u * (g->state[j - 1] ^ g->state[j - 1] >> 30) + j;
}

static void renew(RngTorch *g)
{
    uint32_t *s = g->state;
    for (int i = 0; i < N; i++) {
        uint32_t y = (s[i] & 0x80000000u) | (s[(i + 1) % N] & 0x7fffffffu);
        s[i] = s[(i + M) % N] ^ y >> 1 ^ (y & 1 ? 0x9908b0dfu : 0);
    }
    g->left = N;
}

uint32_t rng_torch_u32(RngTorch *g)
{
    if (g->left == 0)
        renew(g);
    uint32_t y = g->state[N - g->left--];
    y ^= y >> 11;
    y ^= y << 7 & 0x9d2c5680u;
    y ^= y << 15 & 0xefc60000u;
    return y ^ y >> 18;
}

uint64_t rng_torch_u64(RngTorch *g)
{
    uint64_t high = rng_torch_u32(g);
    return high << 32 | rng_torch_u32(g);
}

static double uniform53(RngTorch *g)
{
    return (double)(rng_torch_u64(g) & 0x1FFFFFFFFFFFFFu) * 0x1p-53;
}

/* at::normal_distribution<double>: the path for fewer than 16 elements. */
static double small_normal(RngTorch *g)
{
    if (g->has_cached) {
        g->has_cached = 0;
        return g->cached;
    }
    double u1 = uniform53(g), u2 = uniform53(g), s, c;
    double r = sqrt(-2.0 * rng_log(1.0 - u2));
    rng_sincos_turns(u1, &s, &c);
    g->cached = r * s;
    g->has_cached = 1;
    return r * c;
}

/* What the four dtypes do differently: uniforms, and how a pair of them becomes a pair of normals. */
typedef struct {
    double (*uniform)(RngTorch *g);
    void (*pair)(double u1, double u2, double out[2]);
    void (*store)(void *out, int64_t i, double v);
    double (*load)(const void *out, int64_t i);
} Kind;

static void fill_block(const Kind *k, void *out, int64_t at)
{
    for (int j = 0; j < BLOCK / 2; j++) {
        double v[2];
        k->pair(k->load(out, at + j), k->load(out, at + j + BLOCK / 2), v);
        k->store(out, at + j, v[0]);
        k->store(out, at + j + BLOCK / 2, v[1]);
    }
}

/* normal_fill of aten/src/ATen/native/cpu/DistributionTemplates.h */
static void fill(const Kind *k, RngTorch *g, void *out, int64_t n)
{
    if (n < BLOCK) {
        for (int64_t i = 0; i < n; i++)
            k->store(out, i, small_normal(g));
        return;
    }
    for (int64_t i = 0; i < n; i++)
        k->store(out, i, k->uniform(g));
    for (int64_t i = 0; i + BLOCK <= n; i += BLOCK)
        fill_block(k, out, i);
    if (n % BLOCK) {
        for (int64_t i = n - BLOCK; i < n; i++)
            k->store(out, i, k->uniform(g));
        fill_block(k, out, n - BLOCK);
    }
}

static double uniform24(RngTorch *g)
{
    return (double)(rng_torch_u32(g) & 0xFFFFFF) * 0x1p-24;
}

static void pair_f64(double u1, double u2, double out[2])
{
    double s, c, r = sqrt(-2.0 * rng_log(1.0 - u1));
    rng_sincos_turns(u2, &s, &c);
    out[0] = r * c;
    out[1] = r * s;
}

/* torch's AVX2 path takes its logarithm, sine and cosine from Cephes' single precision polynomials (Moshier, logf and
 * sinf), eight lanes at a time, compiled with fused multiply-adds. Repeating these steps gives the same bits. */
static float cephes_log(float x)
{
    static const float p[] = {7.0376836292E-2f, -1.1514610310E-1f, 1.1676998740E-1f, -1.2420140846E-1f, 1.4249322787E-1f,
                              -1.6668057665E-1f, 2.0000714765E-1f, -2.4999993993E-1f, 3.3333331174E-1f};
    int exponent;
    x = frexpf(x, &exponent);
    float e = (float)exponent;
    if (x < 0.707106781186547524f) {
        e -= 1.0f;
        x = x - 1.0f + x;
    } else {
        x -= 1.0f;
    }
    float z = x * x, y = p[0];
    for (int i = 1; i < 9; i++)
        y = fmaf(y, x, p[i]);
    y = fmaf(y * x, z, e * -2.12194440e-4f);
    y = fmaf(z, -0.5f, y);
    return fmaf(e, 0.693359375f, x + y);
}

static void cephes_sincos(float x, float *sine, float *cosine)
{
    int j = ((int)(x * 1.27323954473516f) + 1) & ~1; /* x >= 0, in eighths of a turn */
    float y = (float)j;
    x = fmaf(y, -0.78515625f, x);
    x = fmaf(y, -2.4187564849853515625e-4f, x);
    x = fmaf(y, -3.77489497744594108e-8f, x);
    float z = x * x;
    float c = fmaf(fmaf(2.443315711809948E-005f, z, -1.388731625493765E-003f), z, 4.166664568298827E-002f);
    c = fmaf(c * z, z, -(z * 0.5f)) + 1.0f;
    float s = fmaf(fmaf(-1.9515295891E-4f, z, 8.3321608736E-3f), z, -1.6666654611E-1f);
    s = fmaf(s * z, x, x);
    int swap = j & 2;
    *sine = (j & 4) ? -(swap ? c : s) : (swap ? c : s);
    *cosine = ((j - 2) & 4) ? (swap ? s : c) : -(swap ? s : c);
}

static void pair_f32(double u1, double u2, double out[2])
{
    float s, c, r = sqrtf(-2.0f * cephes_log(1.0f - (float)u1));
    cephes_sincos((float)TWO_PI * (float)u2, &s, &c);
    out[0] = (double)(r * c);
    out[1] = (double)(r * s);
}

static void store_f32(void *out, int64_t i, double v)
{
    ((float *)out)[i] = (float)v;
}

static double load_f32(const void *out, int64_t i)
{
    return (double)((const float *)out)[i];
}

static void store_f64(void *out, int64_t i, double v)
{
    ((double *)out)[i] = v;
}

static double load_f64(const void *out, int64_t i)
{
    return ((const double *)out)[i];
}

/* Rounds to `bits` significant bits, to nearest even, with the smallest exponent of the dtype. */
static double round_to(double v, int bits, int min_exponent)
{
    int e;
    if (!(fabs(v) > 0.0))
        return v;
    frexp(v, &e); /* |v| in [2^(e-1), 2^e) */
    int unit = (e < min_exponent + 1 ? min_exponent + 1 : e) - bits;
    return ldexp(nearbyint(ldexp(v, -unit)), unit);
}

static double round_f16(double v)
{
    return round_to(v, 11, -14);
}

static double round_bf16(double v)
{
    return round_to(v, 8, -126);
}

static void store_f16(void *out, int64_t i, double v)
{
    uint16_t sign = signbit(v) ? 0x8000 : 0, bits = 0;
    int e;
    v = fabs(round_f16(v));
    if (v > 0.0) {
        frexp(v, &e);
        if (e - 1 < -14)
            bits = (uint16_t)ldexp(v, 24);
        else
            bits = (uint16_t)((unsigned)(e - 1 + 15) << 10 | ((unsigned)ldexp(v, 11 - e) & 0x3FF));
    }
    ((uint16_t *)out)[i] = sign | bits;
}

static double load_f16(const void *out, int64_t i)
{
    uint16_t b = ((const uint16_t *)out)[i];
    int e = b >> 10 & 31;
    double v = e ? ldexp((b & 0x3FF) | 0x400, e - 25) : ldexp(b & 0x3FF, -24);
    return b & 0x8000 ? -v : v;
}

static void store_bf16(void *out, int64_t i, double v)
{
    float f = (float)round_bf16(v);
    uint32_t b;
    memcpy(&b, &f, sizeof b);
    ((uint16_t *)out)[i] = (uint16_t)(b >> 16);
}

static double load_bf16(const void *out, int64_t i)
{
    uint32_t b = (uint32_t)((const uint16_t *)out)[i] << 16;
    float f;
    memcpy(&f, &b, sizeof f);
    return (double)f;
}

static double uniform11(RngTorch *g)
{
    return (double)(rng_torch_u32(g) & 0x7FF) * 0x1p-11;
}

static double uniform8(RngTorch *g)
{
    return (double)(rng_torch_u32(g) & 0xFF) * 0x1p-8;
}

/* torch rounds the result of each operation to the dtype. */
static void pair_rounded(double u1, double u2, double out[2], double (*rnd)(double))
{
    double s, c, r = rnd(sqrt(rnd(-2.0 * rnd(rng_log(rnd(1.0 - u1))))));
    rng_sincos_turns(rnd(TWO_PI * u2) / TWO_PI, &s, &c);
    out[0] = rnd(r * rnd(c));
    out[1] = rnd(r * rnd(s));
}

static void pair_f16(double u1, double u2, double out[2])
{
    pair_rounded(u1, u2, out, round_f16);
}

static void pair_bf16(double u1, double u2, double out[2])
{
    pair_rounded(u1, u2, out, round_bf16);
}

void rng_torch_normal_f32(RngTorch *g, float *out, int64_t n)
{
    static const Kind k = {uniform24, pair_f32, store_f32, load_f32};
    fill(&k, g, out, n);
}

void rng_torch_normal_f64(RngTorch *g, double *out, int64_t n)
{
    static const Kind k = {uniform53, pair_f64, store_f64, load_f64};
    fill(&k, g, out, n);
}

void rng_torch_normal_f16(RngTorch *g, uint16_t *out, int64_t n)
{
    static const Kind k = {uniform11, pair_f16, store_f16, load_f16};
    fill(&k, g, out, n);
}

void rng_torch_normal_bf16(RngTorch *g, uint16_t *out, int64_t n)
{
    static const Kind k = {uniform8, pair_bf16, store_bf16, load_bf16};
    fill(&k, g, out, n);
}

void rng_torch_cuda_init(RngTorchCuda *g, uint64_t seed, int64_t threads)
{
    *g = (RngTorchCuda){seed, 0, threads > 0 ? threads : INT64_MAX};
}

/* curand_normal4: pairs from words (0,1) and (2,3), sine first. */
static void curand_normal4(double out[4], uint64_t seed, uint64_t block, uint64_t thread)
{
    const uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
    const uint32_t ctr[4] = {(uint32_t)block, (uint32_t)(block >> 32), (uint32_t)thread, (uint32_t)(thread >> 32)};
    uint32_t w[4];
    rng_philox(w, ctr, key);
    for (int i = 0; i < 4; i += 2) {
        double s, c, u = (double)w[i] * 0x1p-32 + 0x1p-33;
        double r = sqrt(-2.0 * rng_log(u));
        rng_sincos_turns((double)w[i + 1] * 0x1p-32 + 0x1p-33, &s, &c);
        out[i] = r * s;
        out[i + 1] = r * c;
    }
}

void rng_torch_cuda_normal(RngTorchCuda *g, float *out, int64_t n)
{
    if (n <= 0)
        return;
    /* A small draw starts fewer threads: blocks of 256, at most the device's. */
    int64_t blocks = (n + 255) / 256 * 256, t = blocks < g->threads ? blocks : g->threads;
    int64_t loops = (n - 1) / 4 / t + 1;
    for (int64_t loop = 0; loop < loops; loop++) {
        for (int64_t thread = 0; thread < t; thread++) {
            int64_t first = thread + loop * 4 * t;
            if (first >= n)
                break;
            double v[4];
            curand_normal4(v, g->seed, g->offset + (uint64_t)loop, (uint64_t)thread);
            for (int64_t k = 0; k < 4 && first + k * t < n; k++)
                out[first + k * t] = (float)v[k];
        }
    }
    g->offset += (uint64_t)loops;
}
