#include "sweep/render_noise.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

void render_noise_init(RenderNoise *z, const RenderSetup *s, const RenderItem *item, int pass)
{
    z->item = item;
    z->draws = 0;
    sampler_noise_init(&z->stream, &(SamplerNoiseConf){.compat = s->seed_compat,
                                                       .seed = item->seed,
                                                       .pass = pass,
                                                       .ensd = s->ensd,
                                                       .gpu_threads = s->gpu_threads,
                                                       .batch_index = item->batch_index,
                                                       .batch_size = item->batch_size});
}

void render_noise_deinit(RenderNoise *z)
{
    sampler_noise_deinit(&z->stream);
}

void render_noise_slerp(float *out, const float *low, const float *high, double weight, int64_t rows, int64_t n, int64_t columns)
{
    double sum = 0;
    for (int pass = 0; pass < 2; pass++) { /* first the mean cosine, which decides between the arc and the chord */
        int straight = pass && sum / (double)(rows * columns) > 0.9995;
        for (int64_t r = 0; r < rows; r++)
            for (int64_t c = 0; c < columns; c++) {
                const float *a = low + r * n * columns + c, *b = high + r * n * columns + c;
                double aa = 0, bb = 0, ab = 0;
                for (int64_t k = 0; k < n; k++) {
                    double x = a[k * columns], y = b[k * columns];
                    aa += x * x;
                    bb += y * y;
                    ab += x * y;
                }
                double cosine = aa > 0 && bb > 0 ? ab / (sqrt(aa) * sqrt(bb)) : 1;
                cosine = cosine > 1 ? 1 : cosine < -1 ? -1 : cosine;
                if (!pass) {
                    sum += cosine;
                    continue;
                }
                double angle = acos(cosine), s = sin(angle);
                double wa = straight ? weight : s > 0 ? sin((1 - weight) * angle) / s : 1 - weight;
                double wb = straight ? 1 - weight : s > 0 ? sin(weight * angle) / s : weight;
                for (int64_t k = 0; k < n; k++) {
                    int64_t at = r * n * columns + k * columns + c;
                    out[at] = (float)(wa * low[at] + wb * high[at]);
                }
            }
    }
}

/* Copies the middle of `in` to the middle of `out`. */
static void place(float *out, const int64_t dim[3], const float *in, int64_t h, int64_t w)
{
    int64_t dx = (dim[2] - w) / 2, dy = (dim[1] - h) / 2;
    if ((dim[2] - w) % 2 < 0) /* Python's // goes down */
        dx--;
    if ((dim[1] - h) % 2 < 0)
        dy--;
    int64_t cw = dx >= 0 ? w : w + 2 * dx, ch = dy >= 0 ? h : h + 2 * dy;
    int64_t tx = dx < 0 ? 0 : dx, ty = dy < 0 ? 0 : dy, sx = dx < 0 ? -dx : 0, sy = dy < 0 ? -dy : 0;
    for (int64_t c = 0; c < dim[0]; c++)
        for (int64_t y = 0; y < ch; y++)
            memcpy(out + (c * dim[1] + ty + y) * dim[2] + tx, in + (c * h + sy + y) * w + sx, (size_t)cw * sizeof *out);
}

int render_noise_first(RenderNoise *z, const int64_t dim[3], int factor, float *out)
{
    const RenderItem *it = z->item;
    int64_t h = it->seed_height ? it->seed_height / factor : dim[1], w = it->seed_width ? it->seed_width / factor : dim[2];
    int64_t count = dim[0] * h * w;
    int resized = h != dim[1] || w != dim[2];
    TRY(sampler_noise_first(&z->stream, out, dim[0] * dim[1] * dim[2]));
    if (!resized && !(it->variation_strength > 0))
        return 0;
    if (count <= 0)
        return 0;
    float *noise = malloc((size_t)count * sizeof *noise), *other = malloc((size_t)count * sizeof *other);
    int rc = noise && other ? 0 : err_set(ERR_NOMEM, "out of memory");
    if (rc >= 0) {
        if (resized)
            rc = sampler_noise_fresh(&z->stream, it->seed, noise, count);
        else
            memcpy(noise, out, (size_t)count * sizeof *noise);
        if (rc >= 0 && it->variation_strength > 0) {
            rc = sampler_noise_fresh(&z->stream, it->variation_seed, other, count);
            render_noise_slerp(noise, noise, other, it->variation_strength, dim[0], h, w);
        }
        place(out, dim, noise, h, w);
    }
    free(noise);
    free(other);
    return rc;
}

int render_noise_latent(RenderNoise *z, int k, float *out, int64_t n)
{
    if (sampler_compat_rules(z->stream.c.compat) <= SAMPLER_RULES_DIFFUSERS)
        return sampler_noise_next(&z->stream, RNG_LATENT, k, out, n);
    /* A1111 draws this from a generator without a seed of its own, ComfyUI takes the mean. */
    rng_normal_fill(out, n, rng_key(z->item->seed, RNG_LATENT, (uint64_t)z->stream.c.pass, (uint64_t)k), 0);
    return 0;
}
