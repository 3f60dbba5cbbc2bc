/* The VAE on whole images or on overlapping tiles of one size, mixed with weights that fall off linearly over the overlap. A tile has
 * its own group norm statistics and attention, so tiles change the image a little; how they lie depends on the image's size alone. */
#include <stdlib.h>
#include <string.h>

#include "sweep/render_impl.h"

/* Places of tiles along one side, in latents: `count` tiles of `size` at at(i). */
typedef struct {
    int length, size, overlap, count;
} Side;

static Side side_of(int length, int tile)
{
    Side s = {.length = length, .size = length, .count = 1};
    if (length <= tile)
        return s;
    s.size = tile;
    s.overlap = tile / 4;
    int stride = s.size - s.overlap;
    s.count = 1 + (length - s.size + stride - 1) / stride;
    return s;
}

/* The last tile ends with the image. */
static int side_at(const Side *s, int i)
{
    int at = i * (s->size - s->overlap), last = s->length - s->size;
    return at < last ? at : last;
}

/* Weight of place k (of n) in a tile that starts at `at`: falls off towards neighbours, not towards the image's edge. */
static float ramp(const Side *s, int at, int k, int n)
{
    int unit = n / s->size, over = s->overlap * unit;
    float w = 1;
    if (at > 0 && k < over)
        w = ((float)k + 0.5f) / (float)over;
    if (at + s->size < s->length && n - 1 - k < over) {
        float v = ((float)(n - 1 - k) + 0.5f) / (float)over;
        w = v < w ? v : w;
    }
    return w;
}

static int tile_latents(const Render *r, const RenderSetup *s)
{
    int f = vae_factor(pipeline_vae(r->pipe)), t = s->vae_tile / f;
    return t < 8 ? 8 : t;
}

RenderNetSpec render_vae_spec(const Render *r, const RenderSetup *s, RenderNetKind kind, int width, int height)
{
    int f = vae_factor(pipeline_vae(r->pipe));
    RenderNetSpec spec = {.kind = kind, .setup = s, .rows = 1, .width = width, .height = height};
    if (s->vae_tile) {
        spec.width = side_of(width / f, tile_latents(r, s)).size * f;
        spec.height = side_of(height / f, tile_latents(r, s)).size * f;
    }
    return spec;
}

int render_vae_runs(const Render *r, const RenderSetup *s, int width, int height)
{
    int f = vae_factor(pipeline_vae(r->pipe));
    return s->vae_tile ? side_of(width / f, tile_latents(r, s)).count * side_of(height / f, tile_latents(r, s)).count : 1;
}

static int net_run(RenderNet *net, const float *in, int64_t nin, float *out, int64_t nout)
{
    TRY(exec_write_f32(net->exec, net->in[0], in, nin));
    TRY(exec_run(net->exec));
    return exec_read_f32(net->exec, net->out, out, nout);
}

/* One network over an image of [h*uin, w*uin, cin] giving [h*uout, w*uout, cout]; uin and uout are per latent. */
typedef struct {
    RenderNet *net;
    Side x, y;
    int uin, cin, uout, cout;
} Tiles;

static void cut(float *to, const float *from, const Tiles *t, int ax, int ay)
{
    size_t row = (size_t)(t->x.size * t->uin * t->cin);
    for (int y = 0; y < t->y.size * t->uin; y++)
        memcpy(to + (size_t)y * row, from + ((size_t)(ay * t->uin + y) * (size_t)(t->x.length * t->uin) + (size_t)(ax * t->uin)) * (size_t)t->cin,
               row * sizeof *to);
}

static void add(float *sum, float *weight, const float *tile, const Tiles *t, int ax, int ay)
{
    int w = t->x.size * t->uout, h = t->y.size * t->uout;
    for (int y = 0; y < h; y++) {
        float wy = ramp(&t->y, ay, y, h);
        for (int x = 0; x < w; x++) {
            float wt = wy * ramp(&t->x, ax, x, w);
            size_t at = (size_t)(ay * t->uout + y) * (size_t)(t->x.length * t->uout) + (size_t)(ax * t->uout + x);
            weight[at] += wt;
            for (int c = 0; c < t->cout; c++)
                sum[at * (size_t)t->cout + (size_t)c] += wt * tile[((size_t)y * (size_t)w + (size_t)x) * (size_t)t->cout + (size_t)c];
        }
    }
}

static int tiles_run(const Tiles *t, const float *in, float *out)
{
    int64_t nin = (int64_t)t->x.size * t->y.size * t->uin * t->uin * t->cin, nout = (int64_t)t->x.size * t->y.size * t->uout * t->uout * t->cout;
    size_t all = (size_t)(t->x.length * t->uout) * (size_t)(t->y.length * t->uout);
    if (t->x.count * t->y.count == 1)
        return net_run(t->net, in, nin, out, nout);
    float *part = malloc((size_t)nin * sizeof *part), *done = malloc((size_t)nout * sizeof *done), *weight = calloc(all, sizeof *weight);
    int rc = part && done && weight ? 0 : err_set(ERR_NOMEM, "out of memory");
    memset(out, 0, all * (size_t)t->cout * sizeof *out);
    for (int k = 0; rc >= 0 && k < t->x.count * t->y.count; k++) {
        int ax = side_at(&t->x, k % t->x.count), ay = side_at(&t->y, k / t->x.count);
        cut(part, in, t, ax, ay);
        rc = net_run(t->net, part, nin, done, nout);
        if (rc >= 0)
            add(out, weight, done, t, ax, ay);
    }
    for (size_t i = 0; rc >= 0 && i < all; i++)
        for (int c = 0; c < t->cout; c++)
            out[i * (size_t)t->cout + (size_t)c] /= weight[i];
    free(part);
    free(done);
    free(weight);
    return rc;
}

static int start(Render *r, const RenderSetup *s, RenderNetKind kind, int width, int height, Tiles *t)
{
    const VaeConfig *v = pipeline_vae(r->pipe);
    RenderNetSpec spec = render_vae_spec(r, s, kind, width, height);
    int f = vae_factor(v), tile = s->vae_tile ? tile_latents(r, s) : width + height;
    *t = (Tiles){.x = side_of(width / f, tile), .y = side_of(height / f, tile)};
    if (kind == RENDER_NET_DECODE)
        t->uin = 1, t->cin = v->latent_channels, t->uout = f, t->cout = v->out_channels;
    else
        t->uin = f, t->cin = v->in_channels, t->uout = 1, t->cout = 2 * v->latent_channels;
    return render_net_start(r, &spec, &t->net);
}

/* Where the device makes the pixels of an image that is one tile. */
static int decode_whole(Render *r, const Tiles *t, const float *z, int64_t nz, IoImage *out)
{
    const OpRef y = t->net->out;
    TRY(io_image_init(out, t->x.length * t->uout, t->y.length * t->uout, t->cout));
    TRY(exec_write_f32(t->net->exec, t->net->in[0], z, nz));
    TRY(exec_run(t->net->exec));
    return r->be->download_pixels(r->be, out->data, exec_data(t->net->exec, y), graph_meta(t->net->graph, y)->dtype,
                                  (int64_t)out->w * out->h * out->c);
}

int render_decode(Render *r, const RenderSetup *s, const float *x, int width, int height, IoImage *out)
{
    const VaeConfig *v = pipeline_vae(r->pipe);
    int f = vae_factor(v);
    size_t count = (size_t)(width / f) * (size_t)(height / f) * (size_t)v->latent_channels;
    Tiles t;
    TRY(start(r, s, RENDER_NET_DECODE, width, height, &t));
    int whole = r->be->download_pixels && t.x.count * t.y.count == 1;
    float *z = malloc(count * sizeof *z);
    float *pixels = whole ? NULL : malloc((size_t)width * (size_t)height * (size_t)v->out_channels * sizeof *pixels);
    int rc = z && (whole || pixels) ? 0 : err_set(ERR_NOMEM, "out of memory");
    for (size_t k = 0; rc >= 0 && k < count; k++)
        z[k] = x[k] / v->scaling + v->shift;
    if (rc >= 0)
        rc = whole ? decode_whole(r, &t, z, (int64_t)count, out) : tiles_run(&t, z, pixels);
    if (rc >= 0 && !whole)
        rc = io_image_from_hwc(out, pixels, height, width, v->out_channels);
    if (rc >= 0)
        rc = io_image_to_rgb(out, 255, 255, 255);
    free(z);
    free(pixels);
    return rc;
}

int render_encode(Render *r, const RenderSetup *s, const float *image, int width, int height, float *moments)
{
    Tiles t;
    TRY(start(r, s, RENDER_NET_ENCODE, width, height, &t));
    return tiles_run(&t, image, moments);
}
