/* Part of cpu/simd.h: any machine, in the compiler's portable vectors of four floats. */
enum { VL = 4 };
typedef float vf __attribute__((vector_size(16)));
typedef int32_t vi_base __attribute__((vector_size(16)));

INLINE vf vf_set(float x) { return (vf){x, x, x, x}; }
INLINE vf vf_zero(void) { return (vf){0, 0, 0, 0}; }
INLINE vf vf_load(const float *p)
{
    vf v;
    memcpy(&v, p, sizeof v);
    return v;
}
INLINE void vf_store(float *p, vf v) { memcpy(p, &v, sizeof v); }
INLINE void vf_stream(float *p, vf v) { vf_store(p, v); }
INLINE void vf_stream_end(void) {}
INLINE vf vf_load_part(const float *p, int lanes)
{
    vf v = vf_zero();
    memcpy(&v, p, (size_t)lanes * sizeof *p);
    return v;
}
INLINE void vf_store_part(float *p, vf v, int lanes) { memcpy(p, &v, (size_t)lanes * sizeof *p); }

INLINE vf vf_load_bf16_part(const uint16_t *p, int lanes)
{
    vf v = vf_zero();
    for (int i = 0; i < lanes; i++)
        v[i] = bf16_to_float(p[i]);
    return v;
}
INLINE vf vf_load_bf16(const uint16_t *p)
{
    return (vf){bf16_to_float(p[0]), bf16_to_float(p[1]), bf16_to_float(p[2]), bf16_to_float(p[3])};
}
INLINE void vf_store_bf16_part(uint16_t *p, vf v, int lanes)
{
    for (int i = 0; i < lanes; i++)
        p[i] = bf16_from_float(v[i]);
}
INLINE void vf_store_bf16(uint16_t *p, vf v) { vf_store_bf16_part(p, v, VL); }

INLINE vf vf_load_f16(const uint16_t *p)
{
    return (vf){f16_to_float(p[0]), f16_to_float(p[1]), f16_to_float(p[2]), f16_to_float(p[3])};
}
INLINE void vf_store_f16(uint16_t *p, vf v)
{
    for (int i = 0; i < VL; i++)
        p[i] = f16_from_float(v[i]);
}

INLINE vf vf_pick(vi_base mask, vf x, vf y) { return (vf)(((vi_base)x & mask) | ((vi_base)y & ~mask)); }
INLINE vf vf_max(vf a, vf b) { return vf_pick(a > b, a, b); }
INLINE vf vf_min(vf a, vf b) { return vf_pick(a < b, a, b); }
INLINE vf vf_abs(vf a) { return (vf)((vi_base)a & 0x7fffffff); }
INLINE vf vf_sqrt(vf a) { return (vf){sqrtf(a[0]), sqrtf(a[1]), sqrtf(a[2]), sqrtf(a[3])}; }
INLINE vf vf_recip(vf a) { return vf_set(1.0f) / a; }
INLINE vf vf_recip_rough(vf a) { return vf_set(1.0f) / a; }
INLINE vf vf_if_lt(vf a, vf b, vf x, vf y) { return vf_pick(a < b, x, y); }
INLINE vf vf_copysign(vf mag, vf sign)
{
    const vi_base bit = (vi_base)vf_set(-0.0f);
    return (vf)(((vi_base)mag & ~bit) | ((vi_base)sign & bit));
}
/* Adding 1.5 * 2^23 leaves no room for a fraction; larger values are whole already. */
INLINE vf vf_round(vf a)
{
    const vf big = vf_set(12582912.0f);
    return vf_if_lt(vf_abs(a), vf_set(4194304.0f), (a + big) - big, a);
}
#define VF_POW_MIN (-127.0f)
INLINE vf vf_scale2_fast(vf p, vf n)
{
    vi_base e = __builtin_convertvector(n, vi_base) + 127;
    return p * (vf)(e << 23);
}
INLINE vf vf_scale2(vf p, vf n)
{
    vf half = vf_round(n * vf_set(0.5f));
    return vf_scale2_fast(vf_scale2_fast(p, half), n - half);
}

INLINE float vf_sum(vf v) { return (v[0] + v[2]) + (v[1] + v[3]); }
INLINE float vf_top(vf v)
{
    float a = v[0] > v[2] ? v[0] : v[2], b = v[1] > v[3] ? v[1] : v[3];
    return a > b ? a : b;
}

INLINE vf vf_zip_low(vf a, vf b) { return (vf){a[0], b[0], a[1], b[1]}; }
INLINE vf vf_zip_high(vf a, vf b) { return (vf){a[2], b[2], a[3], b[3]}; }
