/* Pixel decoders behind io_image_decode. Errors do not name the file. Internal to this room. */
#ifndef IO_IMAGE_CODEC_H
#define IO_IMAGE_CODEC_H

#include "io/image.h"

int io_png_decode_pixels(IoImage *out, const uint8_t *data, size_t size);
int io_png_decode_size(const uint8_t *data, size_t size, int *w, int *h);
int io_jpeg_decode_pixels(IoImage *out, const uint8_t *data, size_t size);
int io_jpeg_decode_size(const uint8_t *data, size_t size, int *w, int *h);
int io_webp_decode_pixels(IoImage *out, const uint8_t *data, size_t size);
int io_webp_decode_size(const uint8_t *data, size_t size, int *w, int *h);

#endif
