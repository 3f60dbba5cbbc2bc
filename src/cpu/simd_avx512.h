/* Part of cpu/simd.h: AVX-512 (F, BW, DQ, VL). */
#include <immintrin.h>

enum { VL = 16 };
typedef __m512 vf;
typedef __mmask16 vm;

INLINE vm vm_lanes(int lanes) { return (vm)_bzhi_u32(0xffffu, (unsigned)lanes); }
INLINE vf vf_set(float x) { return _mm512_set1_ps(x); }
INLINE vf vf_zero(void) { return _mm512_setzero_ps(); }
INLINE vf vf_load(const float *p) { return _mm512_loadu_ps(p); }
INLINE vf vf_load_part(const float *p, int lanes) { return _mm512_maskz_loadu_ps(vm_lanes(lanes), p); }
INLINE void vf_store(float *p, vf v) { _mm512_storeu_ps(p, v); }
/* Past the caches; p is aligned. vf_stream_end before others read it. */
INLINE void vf_stream(float *p, vf v) { _mm512_stream_ps(p, v); }
INLINE void vf_stream_end(void) { _mm_sfence(); }
INLINE void vf_store_part(float *p, vf v, int lanes) { _mm512_mask_storeu_ps(p, vm_lanes(lanes), v); }

INLINE vf vf_widen_bf16(__m256i h)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
}
INLINE vf vf_load_bf16(const uint16_t *p) { return vf_widen_bf16(_mm256_loadu_si256((const __m256i *)p)); }
INLINE vf vf_load_bf16_part(const uint16_t *p, int lanes)
{
    return vf_widen_bf16(_mm256_maskz_loadu_epi16(vm_lanes(lanes), p));
}
INLINE __m256i vf_narrow_bf16(vf v)
{
    const __m512i upper = _mm512_set_epi16(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 31, 29, 27, 25, 23, 21, 19, 17, 15,
                                           13, 11, 9, 7, 5, 3, 1);
    __m512i u = _mm512_castps_si512(v), one = _mm512_set1_epi32(1);
    __m512i r = _mm512_add_epi32(u, _mm512_set1_epi32(0x7fff));
    r = _mm512_mask_add_epi32(r, _mm512_test_epi32_mask(u, _mm512_set1_epi32(0x10000)), r, one);
    r = _mm512_mask_or_epi32(r, _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q), u, _mm512_set1_epi32(0x400000));
    return _mm512_castsi512_si256(_mm512_permutexvar_epi16(upper, r));
}
INLINE void vf_store_bf16(uint16_t *p, vf v) { _mm256_storeu_si256((__m256i *)p, vf_narrow_bf16(v)); }
INLINE void vf_store_bf16_part(uint16_t *p, vf v, int lanes)
{
    _mm256_mask_storeu_epi16(p, vm_lanes(lanes), vf_narrow_bf16(v));
}
INLINE vf vf_load_f16(const uint16_t *p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p)); }
INLINE void vf_store_f16(uint16_t *p, vf v)
{
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

/* Where an operand is NaN, max and min return b. */
INLINE vf vf_max(vf a, vf b) { return _mm512_max_ps(a, b); }
INLINE vf vf_min(vf a, vf b) { return _mm512_min_ps(a, b); }
INLINE vf vf_abs(vf a) { return _mm512_abs_ps(a); }
INLINE vf vf_sqrt(vf a) { return _mm512_sqrt_ps(a); }
INLINE vf vf_round(vf a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
/* 1 / a to 6e-5, and to about an ulp (for finite a: one Newton step). */
INLINE vf vf_recip_rough(vf a) { return _mm512_rcp14_ps(a); }
INLINE vf vf_recip(vf a)
{
    vf r = _mm512_rcp14_ps(a);
    return r + r * (vf_set(1.0f) - a * r);
}
/* a < b ? x : y */
INLINE vf vf_if_lt(vf a, vf b, vf x, vf y) { return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), y, x); }
INLINE vf vf_copysign(vf mag, vf sign)
{
    return _mm512_castsi512_ps(_mm512_ternarylogic_epi32(_mm512_castps_si512(mag), _mm512_castps_si512(sign),
                                                         _mm512_set1_epi32((int)0x80000000u), 0xd8));
}
/* p * 2^n for whole n; gradual underflow, overflow to infinity. */
INLINE vf vf_scale2(vf p, vf n) { return _mm512_scalef_ps(p, n); }
/* The same for whole n in VF_POW_MIN..127; exactly 0 at VF_POW_MIN. */
#define VF_POW_MIN (-160.0f)
INLINE vf vf_scale2_fast(vf p, vf n) { return _mm512_scalef_ps(p, n); }

INLINE float vf_sum(vf v)
{
    __m256 a = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    b = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(b, _mm_shuffle_ps(b, b, 1)));
}
INLINE float vf_top(vf v) { return _mm512_reduce_max_ps(v); }

/* a0 b0 a1 b1 ... of the lower and of the upper halves. */
INLINE vf vf_zip_low(vf a, vf b)
{
    return _mm512_permutex2var_ps(a, _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23), b);
}
INLINE vf vf_zip_high(vf a, vf b)
{
    return _mm512_permutex2var_ps(a, _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31), b);
}
