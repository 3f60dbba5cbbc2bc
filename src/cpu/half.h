/* Scalar conversions between float and the 16-bit formats, rounded to nearest even; NaN stays NaN. */
#ifndef CPU_HALF_H
#define CPU_HALF_H

#include <math.h>
#include <stdint.h>
#include <string.h>

static inline float half_bits_float(uint32_t u)
{
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

static inline uint32_t half_float_bits(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}

static inline float bf16_to_float(uint16_t h)
{
    return half_bits_float((uint32_t)h << 16);
}

static inline uint16_t bf16_from_float(float f)
{
    uint32_t u = half_float_bits(f);
    if ((u & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)((u >> 16) | 0x40u);
    return (uint16_t)((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}

static inline float f16_to_float(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, exponent = (h >> 10) & 31u, mantissa = h & 0x3ffu;
    if (exponent == 31)
        return half_bits_float(sign | 0x7f800000u | (mantissa << 13) | (mantissa ? 0x400000u : 0));
    if (exponent == 0) {
        float f = (float)mantissa * 0x1p-24f;
        return sign ? -f : f;
    }
    return half_bits_float(sign | ((exponent + 112) << 23) | (mantissa << 13));
}

static inline uint16_t f16_from_float(float f)
{
    uint32_t u = half_float_bits(f), sign = (u >> 16) & 0x8000u, a = u & 0x7fffffffu;
    if (a > 0x7f800000u)
        return (uint16_t)(sign | 0x7e00u | ((a >> 13) & 0x3ffu));
    if (a >= 0x477ff000u) /* 65520 and up round to infinity */
        return (uint16_t)(sign | 0x7c00u);
    if (a < 0x38800000u) /* under 2^-14: adding 0.5 leaves the units of 2^-24 in the low bits */
        return (uint16_t)(sign | (half_float_bits(half_bits_float(a) + 0.5f) - 0x3f000000u));
    a += 0xfffu + ((a >> 13) & 1u);
    return (uint16_t)(sign | ((a - 0x38000000u) >> 13));
}

#endif
