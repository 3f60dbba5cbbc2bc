#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "io/image.h"

/* Fixed-point weights, as Pillow's ImagingResample has for 8-bit images: sums are exact, so the result depends on nothing
 * but the weights' rounding. */
enum { WEIGHT_BITS = 22 };

static double filter_box(double x) { return x > -0.5 && x <= 0.5 ? 1 : 0; }

static double filter_bilinear(double x)
{
    x = fabs(x);
    return x < 1 ? 1 - x : 0;
}

/* Keys' cubic with a = -0.5 */
static double filter_bicubic(double x)
{
    x = fabs(x);
    if (x < 1)
        return (1.5 * x - 2.5) * x * x + 1;
    return x < 2 ? ((-0.5 * x + 2.5) * x - 4) * x + 2 : 0;
}

static double sinc(double x) { return x == 0 ? 1 : sin(M_PI * x) / (M_PI * x); }
static double filter_lanczos(double x) { return x > -3 && x < 3 ? sinc(x) * sinc(x / 3) : 0; }

static const struct {
    double (*fn)(double);
    double support;
} filters[] = {
    [IO_FILTER_BOX] = {filter_box, 0.5},
    [IO_FILTER_BILINEAR] = {filter_bilinear, 1},
    [IO_FILTER_BICUBIC] = {filter_bicubic, 2},
    [IO_FILTER_LANCZOS] = {filter_lanczos, 3},
};

/* For each output position: first input, how many, and their weights at weight[i * taps]. */
typedef struct {
    int *first, *count;
    int32_t *weight;
    int taps;
} Kernel;

static void kernel_deinit(Kernel *k)
{
    free(k->first);
    free(k->count);
    free(k->weight);
}

static int kernel_init(Kernel *k, int in, int out, IoFilter filter)
{
    double scale = (double)in / out, stretch = scale > 1 ? scale : 1, support = filters[filter].support * stretch;
    k->taps = (int)ceil(support) * 2 + 1;
    size_t n = (size_t)out, taps = (size_t)k->taps;
    k->first = malloc(n * sizeof(int));
    k->count = malloc(n * sizeof(int));
    k->weight = malloc(n * taps * sizeof(int32_t));
    double *w = malloc(taps * sizeof *w);
    if (!k->first || !k->count || !k->weight || !w) {
        free(w);
        kernel_deinit(k);
        return err_set(ERR_NOMEM, "out of memory: resizing to %d", out);
    }
    for (int i = 0; i < out; i++) {
        double centre = (i + 0.5) * scale, sum = 0;
        int lo = (int)(centre - support + 0.5), hi = (int)(centre + support + 0.5);
        lo = lo < 0 ? 0 : lo;
        hi = hi > in ? in : hi;
        int count = hi - lo;
        for (int j = 0; j < count; j++)
            sum += w[j] = filters[filter].fn((lo + j - centre + 0.5) / stretch);
        for (int j = 0; j < count; j++)
            k->weight[(size_t)i * taps + (size_t)j] = (int32_t)lround((sum != 0 ? w[j] / sum : 0) * (1 << WEIGHT_BITS));
        k->first[i] = lo;
        k->count[i] = count;
    }
    free(w);
    return 0;
}

static uint8_t to_byte(int64_t sum)
{
    int64_t v = (sum + (1 << (WEIGHT_BITS - 1))) >> WEIGHT_BITS;
    return (uint8_t)(v < 0 ? 0 : v > 255 ? 255 : v);
}

/* Resamples lines of `in` elements to k's length. Element i of line l of channel c is at l * line + i * step + c. */
static void resample(const uint8_t *src, uint8_t *dst, const Kernel *k, int out, int lines, size_t src_line, size_t src_step,
                     size_t dst_line, size_t dst_step, int channels)
{
    for (int l = 0; l < lines; l++)
        for (int i = 0; i < out; i++) {
            const int32_t *w = k->weight + (size_t)i * (size_t)k->taps;
            const uint8_t *s = src + (size_t)l * src_line + (size_t)k->first[i] * src_step;
            uint8_t *d = dst + (size_t)l * dst_line + (size_t)i * dst_step;
            for (int c = 0; c < channels; c++) {
                int64_t sum = 0;
                for (int j = 0; j < k->count[i]; j++)
                    sum += (int64_t)w[j] * s[(size_t)j * src_step + (size_t)c];
                d[c] = to_byte(sum);
            }
        }
}

static int resize_filtered(IoImage *out, const IoImage *img, int w, int h, IoFilter filter)
{
    Kernel kx = {0}, ky = {0};
    IoImage wide = {0};
    size_t c = (size_t)img->c;
    int rc;
    TRY_GOTO(io_image_init(out, w, h, img->c));
    TRY_GOTO(io_image_init(&wide, w, img->h, img->c));
    TRY_GOTO(kernel_init(&kx, img->w, w, filter));
    resample(img->data, wide.data, &kx, w, img->h, (size_t)img->w * c, c, (size_t)w * c, c, img->c);
    TRY_GOTO(kernel_init(&ky, img->h, h, filter));
    resample(wide.data, out->data, &ky, h, w, c, (size_t)w * c, c, (size_t)w * c, img->c);
done:
    io_image_deinit(&wide);
    kernel_deinit(&kx);
    kernel_deinit(&ky);
    if (rc < 0)
        io_image_deinit(out);
    return rc;
}

static int resize_nearest(IoImage *out, const IoImage *img, int w, int h)
{
    TRY(io_image_init(out, w, h, img->c));
    size_t c = (size_t)img->c;
    for (int y = 0; y < h; y++)
        for (int x = 0; x < w; x++) {
            size_t sx = (size_t)((2 * (int64_t)x + 1) * img->w / (2 * (int64_t)w));
            size_t sy = (size_t)((2 * (int64_t)y + 1) * img->h / (2 * (int64_t)h));
            memcpy(out->data + ((size_t)y * (size_t)w + (size_t)x) * c, img->data + (sy * (size_t)img->w + sx) * c, c);
        }
    return 0;
}

/* Colours of transparent pixels must not bleed: multiply by alpha before, divide after. */
static void premultiply(IoImage *img, int undo)
{
    size_t n = (size_t)img->w * (size_t)img->h, c = (size_t)img->c;
    for (size_t i = 0; i < n; i++) {
        uint8_t *p = img->data + i * c;
        unsigned a = p[c - 1];
        for (size_t k = 0; k + 1 < c; k++) {
            unsigned v = p[k];
            if (!undo)
                v = (v * a + 127) / 255;
            else if (a)
                v = v * 255 / a; /* truncated, as Pillow does */
            p[k] = (uint8_t)(v > 255 ? 255 : v);
        }
    }
}

int io_image_resize(IoImage *out, const IoImage *img, int w, int h, IoFilter filter)
{
    *out = (IoImage){0};
    if (filter == IO_FILTER_NEAREST)
        return resize_nearest(out, img, w, h);
    if (w == img->w && h == img->h)
        return io_image_copy(out, img);
    if (img->c == 1 || img->c == 3)
        return resize_filtered(out, img, w, h, filter);
    IoImage pre;
    TRY(io_image_copy(&pre, img));
    premultiply(&pre, 0);
    int rc = resize_filtered(out, &pre, w, h, filter);
    io_image_deinit(&pre);
    if (rc == 0)
        premultiply(out, 1);
    return rc;
}
