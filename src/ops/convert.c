#include <string.h>

#include "ops/op.h"

static float bf16_to_f32(uint16_t h)
{
    uint32_t u = (uint32_t)h << 16;
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

static uint16_t f32_to_bf16(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    if ((u & 0x7fffffff) > 0x7f800000)
        return (uint16_t)(u >> 16 | 0x40); /* stays a NaN */
    return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

static float f16_to_f32(uint16_t h)
{
    _Float16 v;
    memcpy(&v, &h, sizeof v);
    return (float)v;
}

static uint16_t f32_to_f16(float f)
{
    _Float16 v = (_Float16)f;
    uint16_t h;
    memcpy(&h, &v, sizeof h);
    return h;
}

static double load(const void *src, Dtype from, int64_t i)
{
    switch (from) {
    case DTYPE_F64:
        return ((const double *)src)[i];
    case DTYPE_BF16:
        return (double)bf16_to_f32(((const uint16_t *)src)[i]);
    case DTYPE_F16:
        return (double)f16_to_f32(((const uint16_t *)src)[i]);
    default:
        return (double)((const float *)src)[i];
    }
}

static int is_float(Dtype t)
{
    return t == DTYPE_F32 || t == DTYPE_BF16 || t == DTYPE_F16 || t == DTYPE_F64;
}

/* The loops that load a model: simple enough to be vectorised. */
static int convert_fast(void *dst, Dtype to, const void *src, Dtype from, int64_t count)
{
    if (from == DTYPE_BF16 && to == DTYPE_F32) {
        for (int64_t i = 0; i < count; i++)
            ((uint32_t *)dst)[i] = (uint32_t)((const uint16_t *)src)[i] << 16;
    } else if (from == DTYPE_F32 && to == DTYPE_BF16) {
        for (int64_t i = 0; i < count; i++)
            ((uint16_t *)dst)[i] = f32_to_bf16(((const float *)src)[i]);
    } else if (from == DTYPE_F16 && to == DTYPE_F32) {
        for (int64_t i = 0; i < count; i++)
            ((float *)dst)[i] = f16_to_f32(((const uint16_t *)src)[i]);
    } else if (from == DTYPE_F16 && to == DTYPE_BF16) {
        for (int64_t i = 0; i < count; i++)
            ((uint16_t *)dst)[i] = f32_to_bf16(f16_to_f32(((const uint16_t *)src)[i]));
    } else if (from == DTYPE_F32 && to == DTYPE_F16) {
        for (int64_t i = 0; i < count; i++)
            ((uint16_t *)dst)[i] = f32_to_f16(((const float *)src)[i]);
    } else {
        return 0;
    }
    return 1;
}

int dtype_convert(void *dst, Dtype to, const void *src, Dtype from, int64_t count)
{
    if (!is_float(to) || !is_float(from))
        return err_set(ERR_UNSUPPORTED, "cannot convert %s to %s", dtype_name(from), dtype_name(to));
    if (to == from) {
        memcpy(dst, src, (size_t)count * dtype_size(to));
        return 0;
    }
    if (convert_fast(dst, to, src, from, count))
        return 0;
    for (int64_t i = 0; i < count; i++) {
        double v = load(src, from, i);
        if (to == DTYPE_F64)
            ((double *)dst)[i] = v;
        else if (to == DTYPE_F32)
            ((float *)dst)[i] = (float)v;
        else if (to == DTYPE_BF16)
            ((uint16_t *)dst)[i] = f32_to_bf16((float)v);
        else
            ((uint16_t *)dst)[i] = f32_to_f16((float)v);
    }
    return 0;
}
