/* Part of cpu/simd.h: AVX2, FMA, F16C. */
#include <immintrin.h>

enum { VL = 8 };
typedef __m256 vf;

INLINE vf vf_set(float x) { return _mm256_set1_ps(x); }
INLINE vf vf_zero(void) { return _mm256_setzero_ps(); }
INLINE vf vf_load(const float *p) { return _mm256_loadu_ps(p); }
INLINE void vf_store(float *p, vf v) { _mm256_storeu_ps(p, v); }
/* Past the caches; p is aligned. vf_stream_end before others read it. */
INLINE void vf_stream(float *p, vf v) { _mm256_stream_ps(p, v); }
INLINE void vf_stream_end(void) { _mm_sfence(); }
INLINE vf vf_load_part(const float *p, int lanes)
{
    float t[8] ALIGNED = {0};
    memcpy(t, p, (size_t)lanes * sizeof *t);
    return _mm256_load_ps(t);
}
INLINE void vf_store_part(float *p, vf v, int lanes)
{
    float t[8] ALIGNED;
    _mm256_store_ps(t, v);
    memcpy(p, t, (size_t)lanes * sizeof *t);
}

INLINE vf vf_widen_bf16(__m128i h) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16)); }
INLINE vf vf_load_bf16(const uint16_t *p) { return vf_widen_bf16(_mm_loadu_si128((const __m128i *)p)); }
INLINE vf vf_load_bf16_part(const uint16_t *p, int lanes)
{
    uint16_t t[8] ALIGNED = {0};
    memcpy(t, p, (size_t)lanes * sizeof *t);
    return vf_load_bf16(t);
}
INLINE void vf_store_bf16(uint16_t *p, vf v)
{
    __m256i u = _mm256_castps_si256(v);
    __m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
    __m256i r = _mm256_add_epi32(u, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    __m256i quiet = _mm256_or_si256(u, _mm256_set1_epi32(0x400000));
    r = _mm256_blendv_epi8(r, quiet, _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q)));
    r = _mm256_srli_epi32(r, 16);
    __m128i h = _mm_packus_epi32(_mm256_castsi256_si128(r), _mm256_extracti128_si256(r, 1));
    _mm_storeu_si128((__m128i *)p, h);
}
INLINE void vf_store_bf16_part(uint16_t *p, vf v, int lanes)
{
    uint16_t t[8] ALIGNED;
    vf_store_bf16(t, v);
    memcpy(p, t, (size_t)lanes * sizeof *t);
}
INLINE vf vf_load_f16(const uint16_t *p) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)); }
INLINE void vf_store_f16(uint16_t *p, vf v)
{
    _mm_storeu_si128((__m128i *)p, _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

INLINE vf vf_max(vf a, vf b) { return _mm256_max_ps(a, b); }
INLINE vf vf_min(vf a, vf b) { return _mm256_min_ps(a, b); }
INLINE vf vf_abs(vf a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
INLINE vf vf_sqrt(vf a) { return _mm256_sqrt_ps(a); }
INLINE vf vf_round(vf a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
INLINE vf vf_recip(vf a) { return vf_set(1.0f) / a; }
INLINE vf vf_recip_rough(vf a) { return vf_set(1.0f) / a; }
INLINE vf vf_if_lt(vf a, vf b, vf x, vf y) { return _mm256_blendv_ps(y, x, _mm256_cmp_ps(a, b, _CMP_LT_OQ)); }
INLINE vf vf_copysign(vf mag, vf sign)
{
    const vf bit = _mm256_set1_ps(-0.0f);
    return _mm256_or_ps(_mm256_andnot_ps(bit, mag), _mm256_and_ps(bit, sign));
}
#define VF_POW_MIN (-127.0f)
INLINE vf vf_scale2_fast(vf p, vf n)
{
    __m256i e = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    return _mm256_mul_ps(p, _mm256_castsi256_ps(_mm256_slli_epi32(e, 23)));
}
/* In two steps, so that n in -252..254 is in range of the exponent field. */
INLINE vf vf_scale2(vf p, vf n)
{
    vf half = vf_round(_mm256_mul_ps(n, vf_set(0.5f)));
    return vf_scale2_fast(vf_scale2_fast(p, half), _mm256_sub_ps(n, half));
}

INLINE float vf_sum(vf v)
{
    __m128 b = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    b = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(b, _mm_shuffle_ps(b, b, 1)));
}
INLINE float vf_top(vf v)
{
    __m128 b = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    b = _mm_max_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_max_ss(b, _mm_shuffle_ps(b, b, 1)));
}

INLINE vf vf_zip_low(vf a, vf b)
{
    return _mm256_permute2f128_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b), 0x20);
}
INLINE vf vf_zip_high(vf a, vf b)
{
    return _mm256_permute2f128_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b), 0x31);
}
