/* exp, tanh, erf and the activations on vectors, to about 2 ulp. Polynomials are minimax fits (Remez exchange) of the
 * functions named beside them; tests/cpu/test_act.c measures them against libm. NaN in gives NaN out. */
#ifndef CPU_SIMD_MATH_H
#define CPU_SIMD_MATH_H

#include "cpu/simd.h"

/* (e^r - 1 - r) / r^2 on |r| <= ln(2)/2, error 3e-9. x must lie within +-100000. */
INLINE vf vf_exp_in_range(vf x)
{
    vf n = vf_round(x * vf_set(1.44269504f));
    vf r = x - n * vf_set(0.693359375f);
    r = r - n * vf_set(-2.12194440e-4f);
    vf q = vf_set(1.381458831e-3f);
    q = q * r + vf_set(8.368716575e-3f);
    q = q * r + vf_set(4.166838899e-2f);
    q = q * r + vf_set(1.666652113e-1f);
    q = q * r + vf_set(4.999999404e-1f);
    return vf_scale2(q * (r * r) + r + vf_set(1.0f), n);
}

/* Overflows to infinity, underflows gradually. */
INLINE vf vf_exp(vf x)
{
    return vf_exp_in_range(vf_min(vf_set(90.0f), vf_max(vf_set(-105.0f), x)));
}

/* 2^x for x <= 127, tiny results may flush to 0; exactly 0 from VF_POW_MIN down. (2^f - 1) / f on |f| <= 1/2, error 9e-8. */
INLINE vf vf_exp2_fast(vf x)
{
    x = vf_max(vf_set(VF_POW_MIN), x);
    vf n = vf_round(x);
    vf f = x - n;
    vf q = vf_set(1.326474594e-3f);
    q = q * f + vf_set(9.671512060e-3f);
    q = q * f + vf_set(5.550733581e-2f);
    q = q * f + vf_set(2.402224243e-1f);
    q = q * f + vf_set(6.931470037e-1f);
    return vf_scale2_fast(q * f + vf_set(1.0f), n);
}

/* The same to 1e-4, a twentieth of what rounding to bf16 costs. */
INLINE vf vf_exp2_rough(vf x)
{
    x = vf_max(vf_set(VF_POW_MIN), x);
    vf n = vf_round(x);
    vf f = x - n;
    vf q = vf_set(5.500898510e-2f);
    q = q * f + vf_set(2.422109395e-1f);
    q = q * f + vf_set(6.932829022e-1f);
    return vf_scale2_fast(q * f + vf_set(1.0f), n);
}

/* (tanh(x)/x - 1) / x^2 under 0.55, error 1e-9; 1 - 2 / (e^2x + 1) above. */
INLINE vf vf_tanh(vf x)
{
    vf a = vf_abs(x), s = x * x;
    vf q = vf_set(-6.274244282e-3f);
    q = q * s + vf_set(2.107168175e-2f);
    q = q * s + vf_set(-5.385231227e-2f);
    q = q * s + vf_set(1.333258599e-1f);
    q = q * s + vf_set(-3.333331645e-1f);
    vf small = q * s * x + x;
    vf big = vf_set(1.0f) - vf_set(2.0f) / (vf_exp(a + a) + vf_set(1.0f));
    return vf_if_lt(a, vf_set(0.55f), small, vf_copysign(big, x));
}

/* erf(x)/x as a ratio of polynomials in x^2 for |x| < 4, error 2.5e-8; +-1 beyond, where erf rounds to it. */
INLINE vf vf_erf(vf x)
{
    vf s = vf_min(vf_set(16.0f), x * x);
    vf p = vf_set(1.986813913e-6f);
    p = p * s + vf_set(2.845222480e-4f);
    p = p * s + vf_set(3.882029559e-3f);
    p = p * s + vf_set(5.309760571e-2f);
    p = p * s + vf_set(1.935164630e-1f);
    p = p * s + vf_set(1.128379107e+0f);
    vf q = vf_set(3.741822366e-5f);
    q = q * s + vf_set(1.185226836e-3f);
    q = q * s + vf_set(1.520461589e-2f);
    q = q * s + vf_set(1.153378561e-1f);
    q = q * s + vf_set(5.048320293e-1f);
    q = q * s + vf_set(1.0f);
    vf y = x * p * vf_recip(q);
    return vf_if_lt(vf_set(4.0f), vf_abs(x), vf_copysign(vf_set(1.0f), x), y);
}

/* `rough` = 1 is for results that will be rounded to bf16: right to about 2e-4, and a third cheaper. */

/* 1 / (1 + e^-x). The exponential is kept finite, so that vf_recip is right: under x = -87 the result stays at 1e-38. */
INLINE vf vf_sigmoid(vf x, int rough)
{
    vf e;
    if (rough)
        e = vf_exp2_rough(vf_min(vf_set(126.0f), x * vf_set(-1.44269504f)));
    else
        e = vf_exp_in_range(vf_min(vf_set(87.0f), vf_max(vf_set(-105.0f), -x)));
    e = vf_set(1.0f) + e;
    if (rough)
        return vf_recip_rough(e);
    return vf_recip(e);
}

INLINE vf vf_silu(vf x, int rough)
{
    return x * vf_sigmoid(x, rough);
}

/* d/dx of x * sigmoid(x) */
INLINE vf vf_silu_grad(vf x, int rough)
{
    vf s = vf_sigmoid(x, rough);
    return s + x * s * (vf_set(1.0f) - s);
}

/* The normal distribution's Phi(x). */
INLINE vf vf_normal_cdf(vf x)
{
    return vf_set(0.5f) + vf_set(0.5f) * vf_erf(x * vf_set(0.707106781f));
}

/* x Phi(x) */
INLINE vf vf_gelu(vf x)
{
    vf h = x * vf_set(0.5f);
    return h + h * vf_erf(x * vf_set(0.707106781f));
}

/* Phi(x) + x phi(x), from Phi(x). */
INLINE vf vf_gelu_grad(vf x, vf cdf)
{
    return cdf + x * vf_set(0.398942280f) * vf_exp(x * x * vf_set(-0.5f));
}

#endif
