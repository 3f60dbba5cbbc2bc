#include "sweep/render_noise.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

void render_noise_init(RenderNoise *z, RenderSeed kind, const RenderItem *item, int pass)
{
    z->kind = kind;
    z->item = item;
    z->pass = pass;
    z->draws = 0;
    if (kind == RENDER_SEED_DIFFUSERS_CPU)
        rng_torch_init(&z->cpu, item->seed);
    else if (kind == RENDER_SEED_A1111_GPU)
        rng_torch_cuda_init(&z->gpu, item->seed, 0);
}

static void draw(RenderNoise *z, RngPurpose purpose, int step, float *out, int64_t n)
{
    if (z->kind == RENDER_SEED_DIFFUSERS_CPU)
        rng_torch_normal_f32(&z->cpu, out, n);
    else if (z->kind == RENDER_SEED_A1111_GPU)
        rng_torch_cuda_normal(&z->gpu, out, n);
    else
        rng_normal_fill(out, n, rng_key(z->item->seed, purpose, (uint64_t)z->pass, (uint64_t)step), 0);
}

/* The first numbers of a seed, whatever was drawn so far. */
static void draw_fresh(const RenderNoise *z, uint64_t seed, float *out, int64_t n)
{
    RenderItem item = {.seed = seed};
    RenderNoise fresh;
    render_noise_init(&fresh, z->kind, &item, z->pass);
    draw(&fresh, RNG_SAMPLE, 0, out, n);
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
    draw(z, RNG_SAMPLE, 0, out, dim[0] * dim[1] * dim[2]);
    if (!resized && !(it->variation_strength > 0))
        return 0;
    if (count <= 0)
        return 0;
    float *noise = malloc((size_t)count * sizeof *noise), *other = malloc((size_t)count * sizeof *other);
    int rc = noise && other ? 0 : err_set(ERR_NOMEM, "out of memory");
    if (rc >= 0) {
        if (resized)
            draw_fresh(z, it->seed, noise, count);
        else
            memcpy(noise, out, (size_t)count * sizeof *noise);
        if (it->variation_strength > 0) {
            draw_fresh(z, it->variation_seed, other, count);
            render_noise_slerp(noise, noise, other, it->variation_strength, dim[0], h, w);
        }
        place(out, dim, noise, h, w);
    }
    free(noise);
    free(other);
    return rc;
}

void render_noise_latent(RenderNoise *z, int k, float *out, int64_t n)
{
    if (z->kind == RENDER_SEED_DIFFUSERS_CPU)
        rng_torch_normal_f32(&z->cpu, out, n);
    else /* A1111 draws this from a generator without a seed of its own */
        rng_normal_fill(out, n, rng_key(z->item->seed, RNG_LATENT, (uint64_t)z->pass, (uint64_t)k), 0);
}

void render_noise_step(RenderNoise *z, int step, float *out, int64_t n)
{
    draw(z, RNG_ANCESTRAL, step, out, n);
}
