/* PNG files with text chunks. Written bytes depend only on pixels, texts and level (and the zlib in use). */
#ifndef IO_PNG_H
#define IO_PNG_H

#include "io/image.h"

typedef struct {
    char *key;   /* 1..79 Latin-1 characters as UTF-8 */
    char *value; /* UTF-8 */
} IoPngText;

/* Writes an 8-bit PNG by way of path.tmp.PID, fsync and rename; an existing file is replaced only by a whole one.
 * Text goes before the pixels: tEXt where it fits Latin-1, else iTXt. level: zlib 0..9, -1 for the default (6).
 * ERR_IO, ERR_RANGE (bad key), ERR_FORMAT (text is not UTF-8). */
int io_png_write(const char *path, const IoImage *img, const IoPngText *text, int ntext, int level);
/* The same into memory; free *data. */
int io_png_encode(uint8_t **data, size_t *size, const IoImage *img, const IoPngText *text, int ntext, int level);

/* All tEXt, zTXt and iTXt chunks of a file, in order, as UTF-8. A broken chunk is ERR_FORMAT. Free with io_png_text_free. */
int io_png_read_text(IoPngText **text, int *ntext, const char *path);
int io_png_decode_text(IoPngText **text, int *ntext, const uint8_t *data, size_t size, const char *name);
void io_png_text_free(IoPngText *text, int ntext);
/* The texts of a PNG, JPEG or WebP file, told apart by content: of the latter two those of the EXIF block (io/exif.h). None is fine;
 * ERR_FORMAT where it is none of the three. io_png_text_free. */
int io_image_read_text(IoPngText **text, int *ntext, const char *path);
int io_image_decode_text(IoPngText **text, int *ntext, const uint8_t *data, size_t size, const char *name);
/* Value of the first chunk with this key, or NULL. Borrowed. */
const char *io_png_text_find(const IoPngText *text, int ntext, const char *key);

#endif
