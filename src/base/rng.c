#include "base/rng.h"

#include <math.h>
#include <string.h>

enum { DOMAIN = 0x41746c72 };

void rng_philox(uint32_t out[4], const uint32_t ctr[4], const uint32_t key[2])
{
    uint32_t x0 = ctr[0], x1 = ctr[1], x2 = ctr[2], x3 = ctr[3];
    uint32_t k0 = key[0], k1 = key[1];
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * x0;
        uint64_t p1 = (uint64_t)0xCD9E8D57u * x2;
        x0 = (uint32_t)(p1 >> 32) ^ x1 ^ k0;
        x1 = (uint32_t)p1;
        x2 = (uint32_t)(p0 >> 32) ^ x3 ^ k1;
        x3 = (uint32_t)p0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    out[0] = x0;
    out[1] = x1;
    out[2] = x2;
    out[3] = x3;
}

RngKey rng_key(uint64_t seed, RngPurpose purpose, uint64_t item, uint64_t step)
{
    const uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
    const uint32_t ctr[4] = {(uint32_t)purpose, DOMAIN, (uint32_t)item, (uint32_t)(item >> 32)};
    uint32_t sub[4];
    rng_philox(sub, ctr, key);
    return (RngKey){{sub[0], sub[1]}, {(uint32_t)step, (uint32_t)(step >> 32)}};
}

void rng_block(uint32_t out[4], RngKey k, uint64_t block)
{
    const uint32_t ctr[4] = {(uint32_t)block, (uint32_t)(block >> 32), k.step[0], k.step[1]};
    rng_philox(out, ctr, k.key);
}

static float unit_float(uint32_t w)
{
    return (float)(w >> 8) * 0x1p-24f;
}

double rng_log(double x)
{
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    int e = (int)(bits >> 52) - 1023;
    bits = (bits & 0x000FFFFFFFFFFFFFu) | 0x3FF0000000000000u;
    double m;
    memcpy(&m, &bits, sizeof m);
    if (m > 1.4142135623730951) {
        m *= 0.5;
        e++;
    }
    /* ln m = 2 atanh(f / (2 + f)); with |s| <= 0.1716 eleven terms reach double precision. */
    double f = m - 1.0, s = f / (2.0 + f), z = s * s;
    double p = 1.0 / 23.0;
    for (int n = 21; n >= 3; n -= 2)
        p = p * z + 1.0 / n;
    double hi = f - s * f; /* 2 s = f - s f: keeps the digits of f */
    return (double)e * 0.6931471805599453 + (hi + 2.0 * s * z * p);
}

void rng_sincos_turns(double turns, double *sine, double *cosine)
{
    /* Nearest multiple of a quarter turn; turns * 4 and the difference are exact for the uniforms used here. */
    double quarters = turns * 4.0;
    int q = (int)(quarters + 0.5);
    double x = (quarters - (double)q) * 1.5707963267948966, z = x * x;
    double s = -1.0 / 1307674368000.0, c = 1.0 / 20922789888000.0;
    s = s * z + 1.0 / 6227020800.0;
    s = s * z - 1.0 / 39916800.0;
    s = s * z + 1.0 / 362880.0;
    s = s * z - 1.0 / 5040.0;
    s = s * z + 1.0 / 120.0;
    s = s * z - 1.0 / 6.0;
    s = x + x * z * s;
    c = c * z - 1.0 / 87178291200.0;
    c = c * z + 1.0 / 479001600.0;
    c = c * z - 1.0 / 3628800.0;
    c = c * z + 1.0 / 40320.0;
    c = c * z - 1.0 / 720.0;
    c = c * z + 1.0 / 24.0;
    c = 1.0 - z * 0.5 + z * z * c;
    switch (q & 3) {
    case 0: *sine = s, *cosine = c; break;
    case 1: *sine = c, *cosine = -s; break;
    case 2: *sine = -s, *cosine = -c; break;
    default: *sine = -c, *cosine = s; break;
    }
}

static void normal_pair(float out[2], uint32_t a, uint32_t b)
{
    double r = sqrt(-2.0 * rng_log(((double)a + 0.5) * 0x1p-32));
    double s, c;
    rng_sincos_turns((double)b * 0x1p-32, &s, &c);
    out[0] = (float)(r * c);
    out[1] = (float)(r * s);
}

uint32_t rng_u32(RngKey k, uint64_t i)
{
    uint32_t w[4];
    rng_block(w, k, i / 4);
    return w[i % 4];
}

float rng_uniform(RngKey k, uint64_t i)
{
    return unit_float(rng_u32(k, i));
}

float rng_normal(RngKey k, uint64_t i)
{
    uint32_t w[4];
    float v[2];
    rng_block(w, k, i / 4);
    normal_pair(v, w[i & 2], w[(i & 2) + 1]);
    return v[i & 1];
}

void rng_u32_fill(uint32_t *out, int64_t n, RngKey k, uint64_t first)
{
    for (int64_t j = 0; j < n;) {
        uint64_t i = first + (uint64_t)j;
        uint32_t w[4];
        rng_block(w, k, i / 4);
        for (unsigned lane = (unsigned)(i % 4); lane < 4 && j < n; lane++)
            out[j++] = w[lane];
    }
}

void rng_range_fill(float *out, int64_t n, RngKey k, uint64_t first, float lo, float hi)
{
    for (int64_t j = 0; j < n;) {
        uint64_t i = first + (uint64_t)j;
        uint32_t w[4];
        rng_block(w, k, i / 4);
        for (unsigned lane = (unsigned)(i % 4); lane < 4 && j < n; lane++)
            out[j++] = lo + (hi - lo) * unit_float(w[lane]);
    }
}

void rng_uniform_fill(float *out, int64_t n, RngKey k, uint64_t first)
{
    rng_range_fill(out, n, k, first, 0.0f, 1.0f);
}

void rng_normal_fill(float *out, int64_t n, RngKey k, uint64_t first)
{
    for (int64_t j = 0; j < n;) {
        uint64_t i = first + (uint64_t)j;
        uint32_t w[4];
        float v[4];
        rng_block(w, k, i / 4);
        normal_pair(v, w[0], w[1]);
        normal_pair(v + 2, w[2], w[3]);
        for (unsigned lane = (unsigned)(i % 4); lane < 4 && j < n; lane++)
            out[j++] = v[lane];
    }
}

RngStream rng_stream(RngKey k)
{
    return (RngStream){k, 0};
}

uint32_t rng_stream_u32(RngStream *s)
{
    return rng_u32(s->key, s->next++);
}

uint64_t rng_stream_u64(RngStream *s)
{
    uint64_t lo = rng_stream_u32(s);
    return lo | (uint64_t)rng_stream_u32(s) << 32;
}

float rng_stream_uniform(RngStream *s)
{
    return unit_float(rng_stream_u32(s));
}

uint64_t rng_stream_below(RngStream *s, uint64_t n)
{
    if (n <= 1)
        return 0;
    if (n <= (uint64_t)1 << 32) {
        /* Lemire, "Fast random integer generation in an interval" (2019), algorithm 5. */
        uint32_t m = (uint32_t)n; /* 0 stands for 2^32: every word is accepted */
        if (m == 0)
            return rng_stream_u32(s);
        uint32_t threshold = (0u - m) % m;
        for (;;) {
            uint64_t p = (uint64_t)rng_stream_u32(s) * m;
            if ((uint32_t)p >= threshold)
                return p >> 32;
        }
    }
    uint64_t reject = (0u - n) % n; /* 2^64 mod n */
    for (;;) {
        uint64_t x = rng_stream_u64(s);
        if (x >= reject)
            return x % n;
    }
}

uint64_t rng_below(RngKey k, uint64_t n)
{
    RngStream s = rng_stream(k);
    return rng_stream_below(&s, n);
}

void rng_permutation(int64_t *out, int64_t n, RngKey k)
{
    RngStream s = rng_stream(k);
    for (int64_t i = 0; i < n; i++)
        out[i] = i;
    for (int64_t i = n - 1; i > 0; i--) {
        int64_t j = (int64_t)rng_stream_below(&s, (uint64_t)i + 1);
        int64_t t = out[i];
        out[i] = out[j];
        out[j] = t;
    }
}
