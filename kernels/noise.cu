/* Latents drawn from their moments, noised to a timestep, with what the network is to give: one pass, by counter-based draws. The bits are
 * the host's (src/train/noise.c); exp is taken in double and rounded once on both sides. */
#include "device.h"
#include "grid.h"
#include "kernels.h"
#include "philox.h"

namespace {

enum { PER = 4 }; /* elements of one block of a stream */

__device__ __forceinline__ Stream stream_from(const KernelStream &k) { return Stream{{k.key[0], k.key[1]}, {k.step[0], k.step[1]}}; }

/* One element of a stream of normals. */
__device__ __forceinline__ float normal_at(const Stream &s, uint64_t i)
{
    float v[4];
    normal_block(v, s, i / 4);
    return i % 4 == 0 ? v[0] : i % 4 == 1 ? v[1] : i % 4 == 2 ? v[2] : v[3];
}

struct Mix {
    int64_t items, count, c;
    float shift, scaling;
    int kind;
};

/* Scaled x_0 from mean, log-variance and a draw. */
__device__ __forceinline__ float latent(float mean, float logvar, float draw, const Mix &m)
{
    float lv = logvar < -30.0f ? -30.0f : logvar > 20.0f ? 20.0f : logvar;
    float z = add_rn(mean, mul_rn((float)exp(0.5 * (double)lv), draw));
    return mul_rn(add_rn(z, -m.shift), m.scaling);
}

__device__ __forceinline__ double target_of(int kind, double x0, double e, const KernelSample &k)
{
    if (kind == KERNEL_TARGET_V)
        return add_rn(mul_rn(k.a, e), -mul_rn(k.s, x0));
    return kind == KERNEL_TARGET_SAMPLE ? x0 : kind == KERNEL_TARGET_FLOW ? e - x0 : e;
}

/* Four neighbours of one item per thread. */
template <typename T> __global__ void k_noise(const float *moments, const KernelSample *sample, T *x, T *target, Mix m)
{
    int64_t groups = (m.count + PER - 1) / PER;
    for (int64_t i = grid_first(); i < m.items * groups; i += grid_step()) {
        int64_t item = i / groups, g = i % groups;
        const KernelSample k = sample[item];
        const float *in = moments + item * 2 * m.count;
        float draw[4], noise[4], extra[4] = {0, 0, 0, 0};
        normal_block(draw, stream_from(k.latent), (uint64_t)g);
        normal_block(noise, stream_from(k.noise), (uint64_t)g);
        if (k.gamma != 0)
            normal_block(extra, stream_from(k.extra), (uint64_t)g);
#pragma unroll
        for (int j = 0; j < PER; j++) {
            int64_t e = g * PER + j, channel = e % m.c, at = e / m.c * 2 * m.c + channel;
            if (e >= m.count)
                continue;
            double x0 = (double)latent(in[at], in[at + m.c], draw[j], m);
            float n = noise[j];
            if (k.strength != 0)
                n = add_rn(n, (float)mul_rn(k.strength, (double)normal_at(stream_from(k.offset), (uint64_t)channel)));
            double more = k.gamma != 0 ? add_rn((double)n, mul_rn(k.gamma, (double)extra[j])) : (double)n;
            store(x + item * m.count + e, (float)add_rn(mul_rn(k.a, x0), mul_rn(k.s, more)));
            store(target + item * m.count + e, (float)target_of(m.kind, x0, (double)n, k));
        }
    }
}

} // namespace

void kernel_noise(int t, const float *moments, const KernelSample *sample, void *x, void *target, int64_t items, int64_t count, int64_t c,
                  float shift, float scaling, int kind, void *stream)
{
    Mix m = {items, count, c, shift, scaling, kind};
#define DO(T) LAUNCH((k_noise<T>), grid_for(items * ceil_div(count, PER)), GRID_BLOCK, 0, stream, moments, sample, (T *)x, (T *)target, m)
    EACH_TYPE(t, DO);
#undef DO
}
