#include <math.h>

#include "sweep/render_impl.h"

/* Up to four source places and weights for every target place. */
typedef struct {
    int at[4];
    double w[4];
    int n;
} Tap;

static int clamp(int i, int n)
{
    return i < 0 ? 0 : i < n ? i : n - 1;
}

/* Cubic convolution with a = -0.75 (Keys 1981), as torch has it. */
static double cubic(double x)
{
    const double a = -0.75;
    x = fabs(x);
    return x <= 1 ? ((a + 2) * x - (a + 3)) * x * x + 1 : x < 2 ? ((a * x - 5 * a) * x + 8 * a) * x - 4 * a : 0;
}

static Tap tap_of(int i, int from, int to, RenderUpscale how)
{
    double scale = (double)from / to, x = ((double)i + 0.5) * scale - 0.5;
    Tap t = {.n = 1, .w = {1}};
    if (how == RENDER_UPSCALE_LATENT_NEAREST) {
        t.at[0] = clamp((int)floor((float)i * ((float)from / (float)to)), from);
        return t;
    }
    if (how == RENDER_UPSCALE_LATENT_BILINEAR) {
        x = x < 0 ? 0 : x;
        int k = clamp((int)x, from);
        double w = x - k;
        return (Tap){.n = 2, .at = {k, clamp(k + 1, from)}, .w = {1 - w, w}};
    }
    int k = (int)floor(x);
    t.n = 4;
    for (int j = 0; j < 4; j++) {
        t.at[j] = clamp(k - 1 + j, from);
        t.w[j] = cubic(x - (k - 1 + j));
    }
    return t;
}

int render_latent_resize(float *out, int W, int H, const float *in, int w, int h, int channels, RenderUpscale how)
{
    if (how < RENDER_UPSCALE_LATENT_NEAREST || how > RENDER_UPSCALE_LATENT_BICUBIC)
        return err_set(ERR_UNSUPPORTED, "upscale '%s' does not work on latents", RENDER_UPSCALE_NAMES[how]);
    for (int y = 0; y < H; y++) {
        Tap ty = tap_of(y, h, H, how);
        for (int x = 0; x < W; x++) {
            Tap tx = tap_of(x, w, W, how);
            for (int c = 0; c < channels; c++) {
                double sum = 0;
                for (int j = 0; j < ty.n; j++) {
                    double row = 0;
                    for (int k = 0; k < tx.n; k++)
                        row += tx.w[k] * (double)in[((size_t)ty.at[j] * (size_t)w + (size_t)tx.at[k]) * (size_t)channels + (size_t)c];
                    sum += ty.w[j] * row;
                }
                out[((size_t)y * (size_t)W + (size_t)x) * (size_t)channels + (size_t)c] = (float)sum;
            }
        }
    }
    return 0;
}
