#include <stdlib.h>
#include <string.h>

#include <webp/decode.h>
#include <webp/encode.h>
#include <webp/mux.h>

#include "io/image_codec.h"

static int features(const uint8_t *data, size_t size, WebPBitstreamFeatures *f)
{
    VP8StatusCode code = WebPGetFeatures(data, size, f);
    if (code == VP8_STATUS_NOT_ENOUGH_DATA)
        return err_set(ERR_FORMAT, "WebP: truncated");
    if (code != VP8_STATUS_OK)
        return err_set(ERR_FORMAT, "WebP: malformed header");
    return f->has_animation ? err_set(ERR_UNSUPPORTED, "is a moving WebP: take one picture out of it") : 0;
}

int io_webp_decode_size(const uint8_t *data, size_t size, int *w, int *h)
{
    WebPBitstreamFeatures f;
    TRY(features(data, size, &f));
    *w = f.width;
    *h = f.height;
    return 0;
}

int io_webp_decode_pixels(IoImage *out, const uint8_t *data, size_t size)
{
    WebPBitstreamFeatures f;
    TRY(features(data, size, &f));
    TRY(io_image_init(out, f.width, f.height, f.has_alpha ? 4 : 3));
    int stride = out->w * out->c;
    size_t bytes = (size_t)stride * (size_t)out->h;
    uint8_t *done = f.has_alpha ? WebPDecodeRGBAInto(data, size, out->data, bytes, stride)
                                : WebPDecodeRGBInto(data, size, out->data, bytes, stride);
    if (done)
        return 0;
    io_image_deinit(out);
    return err_set(ERR_FORMAT, "WebP: truncated or damaged");
}

static int encode_picture(WebPMemoryWriter *w, const IoImage *img, int quality, int lossless)
{
    WebPConfig conf;
    WebPPicture pic;
    if (!WebPConfigInit(&conf) || !WebPPictureInit(&pic) || (lossless && !WebPConfigLosslessPreset(&conf, 6)))
        return err_set(ERR_BACKEND, "WebP: the library is of another version");
    if (!lossless)
        conf.quality = (float)quality;
    conf.exact = 1;
    pic.use_argb = lossless;
    pic.width = img->w;
    pic.height = img->h;
    pic.writer = WebPMemoryWrite;
    pic.custom_ptr = w;
    int ok = WebPPictureImportRGB(&pic, img->data, 3 * img->w) && WebPEncode(&conf, &pic);
    int code = (int)pic.error_code;
    WebPPictureFree(&pic);
    return ok ? 0 : err_set(code == VP8_ENC_ERROR_OUT_OF_MEMORY ? ERR_NOMEM : ERR_BACKEND, "WebP: encoding failed (code %d)", code);
}

static int add_exif(WebPData *file, const WebPMemoryWriter *w, const uint8_t *exif, size_t exif_size)
{
    const WebPData picture = {w->mem, w->size}, block = {exif, exif_size};
    WebPMux *mux = WebPMuxNew();
    int ok = mux && WebPMuxSetImage(mux, &picture, 0) == WEBP_MUX_OK;
    if (ok && exif)
        ok = WebPMuxSetChunk(mux, "EXIF", &block, 0) == WEBP_MUX_OK;
    if (ok)
        ok = WebPMuxAssemble(mux, file) == WEBP_MUX_OK;
    WebPMuxDelete(mux);
    return ok ? 0 : err_set(ERR_NOMEM, "WebP: cannot put the file together");
}

int io_webp_encode(uint8_t **data, size_t *size, const IoImage *img, int quality, int lossless, const uint8_t *exif, size_t exif_size)
{
    WebPMemoryWriter w;
    WebPData file;
    *data = NULL;
    *size = 0;
    if (img->c != 3 || quality < 0 || quality > 100 || img->w > WEBP_MAX_DIMENSION || img->h > WEBP_MAX_DIMENSION)
        return err_set(ERR_RANGE, "WebP of %d x %d, %d channels, quality %d: expected RGB, sides up to %d, quality 0..100", img->w, img->h,
                       img->c, quality, WEBP_MAX_DIMENSION);
    WebPMemoryWriterInit(&w);
    WebPDataInit(&file);
    int rc = encode_picture(&w, img, quality, lossless);
    if (rc >= 0)
        rc = add_exif(&file, &w, exif, exif_size);
    WebPMemoryWriterClear(&w);
    if (rc >= 0 && !(*data = malloc(file.size)))
        rc = err_set(ERR_NOMEM, "out of memory: WebP");
    if (rc >= 0) {
        memcpy(*data, file.bytes, file.size);
        *size = file.size;
    }
    WebPDataClear(&file);
    return rc;
}
