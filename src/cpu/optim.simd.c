#include "cpu/optim.h"
#include "cpu/simd.h"

void CPU_FN(cpu_optim_adamw_flat)(void *p, int64_t begin, int64_t end)
{
    const OptimArg *a = p;
    const vf b1 = vf_set(a->beta1), b2 = vf_set(a->beta2), c1 = vf_set(1 - a->beta1), c2 = vf_set(1 - a->beta2);
    const vf scale = vf_set(a->grad_scale), decay = vf_set(a->decay), step = vf_set(a->step_size);
    const vf root = vf_set(a->root_v), eps = vf_set(a->eps);
    for (int64_t i = begin; i < end; i += VL) {
        int n = lanes_at(i, end);
        vf g = vf_load_n(a->grad + i, n) * scale;
        vf m = vf_load_n(a->m + i, n) * b1 + g * c1;
        vf v = vf_load_n(a->v + i, n) * b2 + g * g * c2;
        vf_store_n(a->m + i, m, n);
        vf_store_n(a->v + i, v, n);
        vf_store_n(a->p + i, vf_load_n(a->p + i, n) * decay - step * (m / (vf_sqrt(v) / root + eps)), n);
    }
}

/* Sum of squares of one tile: float squares would overflow past 1e19, so lanes are kept in double. */
double CPU_FN(cpu_optim_sumsq_tile)(const float *x, int64_t n)
{
    double s[16] = {0};
    int64_t i = 0;
    for (; i + 16 <= n; i += 16)
        for (int k = 0; k < 16; k++)
            s[k] += (double)x[i + k] * (double)x[i + k];
    for (int k = 0; i < n; i++, k++)
        s[k] += (double)x[i] * (double)x[i];
    for (int w = 8; w > 0; w /= 2)
        for (int k = 0; k < w; k++)
            s[k] += s[k + w];
    return s[0];
}
