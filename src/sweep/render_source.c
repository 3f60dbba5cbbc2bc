#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/str.h"
#include "sweep/render_impl.h"

enum { HALF = 128 }; /* of a mask's 255: diffusers' binarize and a rounded value/255 agree on it */

int render_image_load(const char *path, int width, int height, IoImage *out)
{
    IoImage file = {0};
    int rc;
    TRY_GOTO(io_image_load(&file, path));
    TRY_GOTO(io_image_to_rgb(&file, 255, 255, 255));
    if (file.w == width && file.h == height) {
        *out = file;
        return 0;
    }
    rc = io_image_resize(out, &file, width, height, IO_FILTER_LANCZOS);
done:
    io_image_deinit(&file);
    return rc;
}

/* ---- masks ---- */

static int mirror(int i, int n)
{
    while (i < 0 || i >= n)
        i = i < 0 ? -i : 2 * n - 2 - i;
    return i;
}

/* One pass along x of a Gaussian of the given deviation, transposing, so that two passes do both ways. Radius 2.5 deviations, edges
 * mirrored without repeating them (OpenCV's default, as A1111 calls it). */
static void blur_pass(float *out, const float *in, int w, int h, const double *kernel, int radius)
{
    for (int y = 0; y < h; y++)
        for (int x = 0; x < w; x++) {
            double sum = 0;
            for (int k = -radius; k <= radius; k++)
                sum += kernel[k + radius] * (double)in[(size_t)y * (size_t)w + (size_t)(w > 1 ? mirror(x + k, w) : 0)];
            out[(size_t)x * (size_t)h + (size_t)y] = (float)sum;
        }
}

static int blur(uint8_t *m, int w, int h, double deviation)
{
    int radius = (int)(2.5 * deviation + 0.5);
    size_t n = (size_t)w * (size_t)h;
    if (radius < 1)
        return 0;
    float *a = calloc(n, sizeof *a), *b = calloc(n, sizeof *b);
    double *kernel = calloc((size_t)(2 * radius + 1), sizeof *kernel), sum = 0;
    int rc = a && b && kernel ? 0 : err_set(ERR_NOMEM, "out of memory");
    if (rc >= 0) {
        for (int k = -radius; k <= radius; k++)
            sum += kernel[k + radius] = exp(-0.5 * k * k / (deviation * deviation));
        for (int k = 0; k <= 2 * radius; k++)
            kernel[k] /= sum;
        for (size_t i = 0; i < n; i++)
            a[i] = m[i];
        blur_pass(b, a, w, h, kernel, radius);
        blur_pass(a, b, h, w, kernel, radius);
        for (size_t i = 0; i < n; i++)
            m[i] = (uint8_t)(a[i] + 0.5f);
    }
    free(a);
    free(b);
    free(kernel);
    return rc;
}

int render_mask_load(const RenderSetup *s, const char *path, uint8_t *soft)
{
    IoImage m = {0};
    size_t n = (size_t)s->width * (size_t)s->height;
    TRY(render_image_load(path, s->width, s->height, &m));
    for (size_t i = 0; i < n; i++) { /* Pillow's grey of RGB */
        const uint8_t *p = m.data + 3 * i;
        soft[i] = (uint8_t)((p[0] * 19595 + p[1] * 38470 + p[2] * 7471 + 0x8000) >> 16);
        if (s->inpaint.invert)
            soft[i] = (uint8_t)(255 - soft[i]);
    }
    io_image_deinit(&m);
    return blur(soft, s->width, s->height, s->inpaint.blur);
}

/* A1111 (modules/processing.py) shrinks the mask with Pillow's bicubic filter and rounds. */
static int shrink_smooth(const RenderSetup *s, const uint8_t *soft, int w, int h, float *mask)
{
    IoImage large, small = {0};
    TRY(io_image_init(&large, s->width, s->height, 1));
    memcpy(large.data, soft, (size_t)s->width * (size_t)s->height);
    int rc = io_image_resize(&small, &large, w, h, IO_FILTER_BICUBIC);
    for (int i = 0; rc >= 0 && i < w * h; i++)
        mask[i] = small.data[i] >= HALF;
    io_image_deinit(&large);
    io_image_deinit(&small);
    return rc;
}

int render_mask_latent(const Render *r, const RenderSetup *s, const uint8_t *soft, float *mask)
{
    int f = vae_factor(pipeline_vae(r->pipe)), w = s->width / f, h = s->height / f;
    if (s->rules == PROMPT_A1111 || s->rules == PROMPT_A1111_NO_NORM)
        return shrink_smooth(s, soft, w, h, mask);
    for (int y = 0; y < h; y++)
        for (int x = 0; x < w; x++)
            mask[(size_t)y * (size_t)w + (size_t)x] = soft[(size_t)(y * f) * (size_t)s->width + (size_t)(x * f)] >= HALF;
    return 0;
}

/* ---- sources ---- */

static int source_key(const RenderSetup *s, const RenderItem *item, int masked, char **out)
{
    StrBuf b;
    str_init(&b);
    str_add_format(&b, "%dx%d tile %d|%s", s->width, s->height, s->vae_tile, item->source);
    if (masked)
        str_add_format(&b, "|blur %.17g invert %d|%s", s->inpaint.blur, s->inpaint.invert, item->mask);
    return str_take(out, &b);
}

static int encode_source(Render *r, const RenderSetup *s, const RenderItem *item, const uint8_t *soft, float *moments)
{
    IoImage image = {0};
    size_t pixels = (size_t)s->width * (size_t)s->height;
    float *v = malloc(pixels * 3 * sizeof *v);
    int rc = v ? 0 : err_set(ERR_NOMEM, "out of memory");
    if (rc >= 0)
        rc = render_image_load(item->source, s->width, s->height, &image);
    if (rc >= 0) {
        io_image_to_hwc(&image, v);
        for (size_t i = 0; soft && i < pixels; i++)
            if (soft[i] >= HALF)
                v[3 * i] = v[3 * i + 1] = v[3 * i + 2] = 0;
        rc = render_encode(r, s, v, s->width, s->height, moments);
    }
    io_image_deinit(&image);
    free(v);
    return rc;
}

int render_source_moments(Render *r, const RenderSetup *s, const RenderItem *item, const uint8_t *soft, const float **out)
{
    const VaeConfig *v = pipeline_vae(r->pipe);
    int f = vae_factor(v);
    char *key;
    TRY(source_key(s, item, soft != NULL, &key));
    RenderMoments *m = &r->moments[0];
    for (int i = 0; i < RENDER_MAX_SOURCES; i++) {
        RenderMoments *k = &r->moments[i];
        if (k->key && strcmp(k->key, key) == 0) {
            free(key);
            k->used = ++r->clock;
            *out = k->moments;
            return 0;
        }
        m = k->used < m->used ? k : m;
    }
    float *moments = malloc((size_t)(s->width / f) * (size_t)(s->height / f) * 2 * (size_t)v->latent_channels * sizeof *moments);
    int rc = moments ? encode_source(r, s, item, soft, moments) : err_set(ERR_NOMEM, "out of memory");
    if (rc < 0) {
        free(moments);
        free(key);
        return err_context(rc, "source");
    }
    free(m->key);
    free(m->moments);
    *m = (RenderMoments){.key = key, .moments = moments, .used = ++r->clock};
    *out = moments;
    return 0;
}

void render_moments_latent(const Render *r, const float *moments, const float *noise, int64_t pixels, float *x)
{
    const VaeConfig *v = pipeline_vae(r->pipe);
    int64_t c = v->latent_channels;
    for (int64_t p = 0; p < pixels; p++)
        for (int64_t k = 0; k < c; k++) {
            float z = moments[p * 2 * c + k], logvar = moments[p * 2 * c + c + k];
            if (noise) {
                logvar = logvar < -30 ? -30 : logvar > 20 ? 20 : logvar;
                z += (float)exp(0.5 * (double)logvar) * noise[p * c + k];
            }
            x[p * c + k] = (z - v->shift) * v->scaling;
        }
}

int render_paste(const RenderSetup *s, const RenderItem *item, IoImage *image)
{
    IoImage source = {0};
    size_t n = (size_t)s->width * (size_t)s->height;
    uint8_t *soft = malloc(n);
    int rc = soft ? render_mask_load(s, item->mask, soft) : err_set(ERR_NOMEM, "out of memory");
    if (rc >= 0)
        rc = render_image_load(item->source, s->width, s->height, &source);
    for (size_t i = 0; rc >= 0 && i < 3 * n; i++) {
        int a = soft[i / 3];
        image->data[i] = (uint8_t)((image->data[i] * a + source.data[i] * (255 - a) + 127) / 255);
    }
    io_image_deinit(&source);
    free(soft);
    return rc;
}

int render_file_hash(Render *r, const char *path, const char **hex)
{
    for (int i = 0; i < r->nfile; i++)
        if (strcmp(r->file[i]->path, path) == 0) {
            *hex = r->file[i]->hex;
            return 0;
        }
    RenderFileHash **grown = realloc(r->file, (size_t)(r->nfile + 1) * sizeof *grown), *f = calloc(1, sizeof *f);
    if (grown)
        r->file = grown;
    if (!grown || !f) {
        free(f);
        return err_set(ERR_NOMEM, "out of memory");
    }
    int rc = str_copy(&f->path, path);
    if (rc >= 0)
        rc = hash_file_hex(f->hex, path);
    if (rc < 0) {
        free(f->path);
        free(f);
        return rc;
    }
    r->file[r->nfile++] = f;
    *hex = f->hex;
    return 0;
}

void render_source_deinit(Render *r)
{
    for (int i = 0; i < RENDER_MAX_SOURCES; i++) {
        free(r->moments[i].key);
        free(r->moments[i].moments);
    }
    for (int i = 0; i < r->nfile; i++) {
        free(r->file[i]->path);
        free(r->file[i]);
    }
    free(r->file);
}
