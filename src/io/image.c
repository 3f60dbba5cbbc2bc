#include "io/image.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/pixel.h"
#include "io/exif.h"
#include "io/file.h"
#include "io/image_codec.h"

enum { MAX_FILE = 512 << 20 };

int io_image_init(IoImage *img, int w, int h, int c)
{
    *img = (IoImage){0};
    if (w < 1 || h < 1 || w > IO_IMAGE_MAX_SIDE || h > IO_IMAGE_MAX_SIDE || (int64_t)w * h > IO_IMAGE_MAX_PIXELS)
        return err_set(ERR_RANGE, "image of %d x %d: expected sides of 1..%d and at most %d pixels", w, h,
                       (int)IO_IMAGE_MAX_SIDE, (int)IO_IMAGE_MAX_PIXELS);
    if (c < 1 || c > 4)
        return err_set(ERR_RANGE, "image of %d channels: expected 1..4", c);
    uint8_t *data = calloc((size_t)w * (size_t)h, (size_t)c);
    if (!data)
        return err_set(ERR_NOMEM, "out of memory: image of %d x %d", w, h);
    *img = (IoImage){w, h, c, data};
    return 0;
}

void io_image_deinit(IoImage *img)
{
    free(img->data);
    *img = (IoImage){0};
}

static size_t byte_count(const IoImage *img) { return (size_t)img->w * (size_t)img->h * (size_t)img->c; }

static uint8_t *pixel(const IoImage *img, int x, int y)
{
    return img->data + ((size_t)y * (size_t)img->w + (size_t)x) * (size_t)img->c;
}

int io_image_copy(IoImage *out, const IoImage *img)
{
    IoImage copy;
    TRY(io_image_init(&copy, img->w, img->h, img->c));
    memcpy(copy.data, img->data, byte_count(img));
    *out = copy;
    return 0;
}

typedef struct {
    int (*pixels)(IoImage *out, const uint8_t *data, size_t size);
    int (*size)(const uint8_t *data, size_t size, int *w, int *h);
} Codec;

static int sniff(const uint8_t *d, size_t n, Codec *codec)
{
    if (n >= 8 && memcmp(d, "\x89PNG\r\n\x1a\n", 8) == 0)
        *codec = (Codec){io_png_decode_pixels, io_png_decode_size};
    else if (n >= 3 && memcmp(d, "\xFF\xD8\xFF", 3) == 0)
        *codec = (Codec){io_jpeg_decode_pixels, io_jpeg_decode_size};
    else if (n >= 12 && memcmp(d, "RIFF", 4) == 0 && memcmp(d + 8, "WEBP", 4) == 0)
        *codec = (Codec){io_webp_decode_pixels, io_webp_decode_size};
    else if (n >= 6 && memcmp(d, "GIF8", 4) == 0)
        return err_set(ERR_UNSUPPORTED, "is a GIF file: convert it to PNG or JPEG");
    else
        return err_set(ERR_FORMAT, n ? "not a PNG, JPEG or WebP image" : "empty file");
    return 0;
}

static size_t word(const uint8_t *p, int big)
{
    return big ? (size_t)p[0] << 24 | (size_t)p[1] << 16 | (size_t)p[2] << 8 | p[3]
               : (size_t)p[3] << 24 | (size_t)p[2] << 16 | (size_t)p[1] << 8 | p[0];
}

/* EXIF orientation in a PNG's eXIf or a WebP's EXIF chunk; libjpeg finds that of a JPEG. */
static int chunk_orientation(const uint8_t *d, size_t n)
{
    int png = d[0] == 0x89;
    size_t at = png ? 8 : 12;
    if (d[0] == 0xFF)
        return 1;
    while (at < n && n - at >= 8) {
        size_t size = word(d + at + (png ? 0 : 4), png);
        const uint8_t *name = d + at + (png ? 4 : 0);
        if (size > n - at - 8)
            return 1;
        if (memcmp(name, png ? "eXIf" : "EXIF", 4) == 0)
            return io_exif_orientation(d + at + 8, size);
        at += 8 + size + (png ? 4 : size & 1);
    }
    return 1;
}

int io_image_decode(IoImage *out, const uint8_t *data, size_t size, const char *name)
{
    Codec codec;
    *out = (IoImage){0};
    TRY_CTX(sniff(data, size, &codec), "%s", name);
    TRY_CTX(codec.pixels(out, data, size), "%s", name);
    int rc = io_image_orient(out, chunk_orientation(data, size));
    if (rc < 0)
        io_image_deinit(out);
    return rc;
}

int io_image_load(IoImage *out, const char *path)
{
    char *data = NULL;
    size_t size = 0;
    *out = (IoImage){0};
    TRY(io_file_read(&data, &size, path, MAX_FILE));
    int rc = io_image_decode(out, (const uint8_t *)data, size, path);
    free(data);
    return rc;
}

int io_image_decode_size(const uint8_t *data, size_t size, const char *name, int *w, int *h)
{
    Codec codec;
    TRY_CTX(sniff(data, size, &codec), "%s", name);
    TRY_CTX(codec.size(data, size, w, h), "%s", name);
    if (chunk_orientation(data, size) >= 5) {
        int t = *w;
        *w = *h;
        *h = t;
    }
    return 0;
}

int io_image_size(const char *path, int *w, int *h)
{
    char *data = NULL;
    size_t size = 0;
    TRY(io_file_read(&data, &size, path, MAX_FILE));
    int rc = io_image_decode_size((const uint8_t *)data, size, path, w, h);
    free(data);
    return rc;
}

/* (v a + bg (255 - a)) / 255, rounded */
static uint8_t blend(int v, int a, int bg)
{
    return (uint8_t)((v * a + bg * (255 - a) + 127) / 255);
}

int io_image_to_rgb(IoImage *img, uint8_t r, uint8_t g, uint8_t b)
{
    const uint8_t bg[3] = {r, g, b};
    IoImage rgb;
    if (img->c == 3)
        return 0;
    TRY(io_image_init(&rgb, img->w, img->h, 3));
    size_t n = (size_t)img->w * (size_t)img->h, c = (size_t)img->c;
    for (size_t i = 0; i < n; i++) {
        const uint8_t *p = img->data + i * c;
        int alpha = c == 2 ? p[1] : c == 4 ? p[3] : 255;
        for (size_t k = 0; k < 3; k++)
            rgb.data[3 * i + k] = blend(p[c >= 3 ? k : 0], alpha, bg[k]);
    }
    io_image_deinit(img);
    *img = rgb;
    return 0;
}

int io_image_crop(IoImage *out, const IoImage *img, int x, int y, int w, int h)
{
    IoImage part;
    if (x < 0 || y < 0 || w < 1 || h < 1 || w > img->w - x || h > img->h - y)
        return err_set(ERR_RANGE, "crop %d x %d at (%d, %d) leaves the image of %d x %d", w, h, x, y, img->w, img->h);
    TRY(io_image_init(&part, w, h, img->c));
    size_t row = (size_t)w * (size_t)img->c;
    for (int i = 0; i < h; i++)
        memcpy(part.data + (size_t)i * row, pixel(img, x, y + i), row);
    *out = part;
    return 0;
}

void io_image_flip_h(IoImage *img)
{
    size_t c = (size_t)img->c;
    uint8_t t[4];
    for (int y = 0; y < img->h; y++) {
        uint8_t *a = pixel(img, 0, y), *b = pixel(img, img->w - 1, y);
        for (; a < b; a += c, b -= c) {
            memcpy(t, a, c);
            memcpy(a, b, c);
            memcpy(b, t, c);
        }
    }
}

int io_image_cover(IoImage *out, const IoImage *img, int w, int h, IoFilter filter)
{
    IoImage big;
    if (w < 1 || h < 1)
        return err_set(ERR_RANGE, "cover %d x %d: expected at least 1 x 1", w, h);
    /* Scale by the larger of the two ratios; the other side is rounded and never falls short. */
    int64_t a = (int64_t)w * img->h, b = (int64_t)h * img->w;
    int bw = a >= b ? w : (int)((2 * b + img->h) / (2 * (int64_t)img->h));
    int bh = a >= b ? (int)((2 * a + img->w) / (2 * (int64_t)img->w)) : h;
    bw = bw < w ? w : bw;
    bh = bh < h ? h : bh;
    TRY(io_image_resize(&big, img, bw, bh, filter));
    int rc = io_image_crop(out, &big, (bw - w) / 2, (bh - h) / 2, w, h);
    io_image_deinit(&big);
    return rc;
}

int io_image_orient(IoImage *img, int orientation)
{
    if (orientation <= 1 || orientation > 8)
        return 0;
    int swap = orientation >= 5, w = img->w, h = img->h;
    IoImage r;
    TRY(io_image_init(&r, swap ? h : w, swap ? w : h, img->c));
    for (int y = 0; y < h; y++)
        for (int x = 0; x < w; x++) {
            int fx = w - 1 - x, fy = h - 1 - y, tx = x, ty = y;
            switch (orientation) {
            case 2: tx = fx; break;
            case 3: tx = fx, ty = fy; break;
            case 4: ty = fy; break;
            case 5: tx = y, ty = x; break;
            case 6: tx = fy, ty = x; break;
            case 7: tx = fy, ty = fx; break;
            default: tx = y, ty = fx; break;
            }
            memcpy(pixel(&r, tx, ty), pixel(img, x, y), (size_t)img->c);
        }
    io_image_deinit(img);
    *img = r;
    return 0;
}

void io_image_to_hwc(const IoImage *img, float *out)
{
    size_t n = byte_count(img);
    for (size_t i = 0; i < n; i++)
        out[i] = pixel_to_unit(img->data[i]);
}

void io_image_to_chw(const IoImage *img, float *out)
{
    size_t n = (size_t)img->w * (size_t)img->h, c = (size_t)img->c;
    for (size_t k = 0; k < c; k++)
        for (size_t i = 0; i < n; i++)
            out[k * n + i] = pixel_to_unit(img->data[i * c + k]);
}

/* In float as numpy does it: (v/2 + 0.5).clamp(0, 1) * 255, round half to even. */
static uint8_t from_unit(float v)
{
    float u = v / 2 + 0.5f;
    u = u > 0 ? u : 0; /* NaN becomes 0 */
    u = u < 1 ? u : 1;
    return (uint8_t)nearbyintf(u * 255.0f);
}

int io_image_from_hwc(IoImage *out, const float *v, int h, int w, int c)
{
    TRY(io_image_init(out, w, h, c));
    size_t n = byte_count(out);
    for (size_t i = 0; i < n; i++)
        out->data[i] = from_unit(v[i]);
    return 0;
}

int io_image_from_chw(IoImage *out, const float *v, int c, int h, int w)
{
    TRY(io_image_init(out, w, h, c));
    size_t n = (size_t)w * (size_t)h, ch = (size_t)c;
    for (size_t k = 0; k < ch; k++)
        for (size_t i = 0; i < n; i++)
            out->data[i * ch + k] = from_unit(v[k * n + i]);
    return 0;
}
