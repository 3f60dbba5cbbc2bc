/* 8-bit images: reading files, pixel operations, contact sheets. Pixels are rows from the top, channels interleaved,
 * no padding: data[(y*w + x)*c + k]. Colours are as stored (sRGB); resizing works on the stored values.
 * Every operation but text on sheets gives the same bytes on every machine. */
#ifndef IO_IMAGE_H
#define IO_IMAGE_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

enum { IO_IMAGE_MAX_PIXELS = 64 * 1024 * 1024, IO_IMAGE_MAX_SIDE = 65535 };

/* c: 1 grey, 2 grey + alpha, 3 RGB, 4 RGBA. An all-zero IoImage is empty and may be deinitialised. */
typedef struct {
    int w, h, c;
    uint8_t *data;
} IoImage;

/* Zeroed pixels. ERR_RANGE over IO_IMAGE_MAX_PIXELS. */
int io_image_init(IoImage *img, int w, int h, int c);
void io_image_deinit(IoImage *img);
int io_image_copy(IoImage *out, const IoImage *img);

/* Reads a PNG, JPEG or WebP file, told apart by content; GIF and moving WebP are refused by name. 16-bit is cut to 8, palettes are expanded, EXIF
 * orientation is applied, CMYK JPEG becomes RGB. ERR_NOTFOUND, ERR_IO, ERR_FORMAT, ERR_RANGE (too big),
 * ERR_UNSUPPORTED; the message names the file. Truncated or corrupt data is an error, never a partial image. */
int io_image_load(IoImage *out, const char *path);
/* The same from memory; `name` is for messages. */
int io_image_decode(IoImage *out, const uint8_t *data, size_t size, const char *name);
/* Width and height from the header alone, after EXIF orientation. */
int io_image_size(const char *path, int *w, int *h);
int io_image_decode_size(const uint8_t *data, size_t size, const char *name, int *w, int *h);

/* Lossy and compact files of an RGB image, with a block of io/exif.h (NULL: none) inside. *data: free(). Equal calls give equal bytes.
 * JPEG: quality 1..100, colours at full resolution from 90 on. WebP: quality 0..100, or lossless. ERR_RANGE. */
int io_jpeg_encode(uint8_t **data, size_t *size, const IoImage *img, int quality, const uint8_t *exif, size_t exif_size);
int io_webp_encode(uint8_t **data, size_t *size, const IoImage *img, int quality, int lossless, const uint8_t *exif, size_t exif_size);

/* To 3 channels: grey is spread, alpha is composited on rgb (round half up). In place. */
int io_image_to_rgb(IoImage *img, uint8_t r, uint8_t g, uint8_t b);

typedef enum { IO_FILTER_NEAREST, IO_FILTER_BOX, IO_FILTER_BILINEAR, IO_FILTER_BICUBIC, IO_FILTER_LANCZOS } IoFilter;
/* Byte for byte what Pillow's Image.resize gives (NEAREST aside): antialiased, the filter's support growing with the shrink
 * factor; alpha is premultiplied meanwhile. */
int io_image_resize(IoImage *out, const IoImage *img, int w, int h, IoFilter filter);
/* The part [x, x+w) x [y, y+h). ERR_RANGE when it leaves the image. */
int io_image_crop(IoImage *out, const IoImage *img, int x, int y, int w, int h);
void io_image_flip_h(IoImage *img);
/* Resized so that the shorter relation just covers w x h, then the centre cut out (diffusers/kohya bucket rule). */
int io_image_cover(IoImage *out, const IoImage *img, int w, int h, IoFilter filter);
/* EXIF orientation 1..8, in place. */
int io_image_orient(IoImage *img, int orientation);

/* v/127.5 - 1 into out[c][h][w] resp. out[h][w][c]. */
void io_image_to_chw(const IoImage *img, float *out);
void io_image_to_hwc(const IoImage *img, float *out);
/* round_half_even(clamp(v/2 + 0.5, 0, 1) * 255), NaN to 0: what diffusers' image processor writes. */
int io_image_from_chw(IoImage *out, const float *v, int c, int h, int w);
int io_image_from_hwc(IoImage *out, const float *v, int h, int w, int c);

/* A grid of images with labels. tile[rows*cols] row by row; missing tiles have NULL data and stay background.
 * row_label[rows], col_label[cols], tile_label[rows*cols], title: each may be NULL, as may single labels. */
typedef struct {
    int rows, cols;
    const IoImage *tile;    /* 1, 3 or 4 channels; any size: shrunk to fit, or enlarged by whole pixels, centred */
    int cell_w, cell_h;     /* 0: the largest tile */
    const char *title;
    const char *const *row_label, *const *col_label, *const *tile_label;
} IoSheet;
/* Text is set by Pango in DejaVu Sans, without hinting; scripts that it lacks in what fontconfig finds for them. Same fonts and library
 * versions, same bytes. out: RGB. ERR_RANGE when the sheet would be over IO_IMAGE_MAX_PIXELS. */
int io_sheet_build(IoImage *out, const IoSheet *sheet);
/* The same as one PDF page (a point per pixel), tiles in their own resolution, text as text. *data: free(). ERR_RANGE over 14,400 points. */
int io_sheet_pdf(uint8_t **data, size_t *size, const IoSheet *sheet);

#endif
