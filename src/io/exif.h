/* Texts in EXIF blocks (a TIFF header and its directories, with or without "Exif\0\0" in front), as JPEG's APP1 and WebP's EXIF
 * chunk hold them. EXIF 2.32: UserComment 0x9286, 8 bytes of character code, then text. A1111 (piexif) writes "UNICODE\0" and UTF-16BE.
 * ComfyUI writes "prompt:{...}" and "workflow:{...}" into Make 0x010F and Model 0x0110. */
#ifndef IO_EXIF_H
#define IO_EXIF_H

#include "io/png.h"

/* A block with the text under "parameters" as UserComment and every other one as "key:value" in ImageDescription, Make or Model
 * (at most 3, ASCII only). Begins with the TIFF header. *data: free(). ERR_RANGE, ERR_FORMAT. */
int io_exif_encode(uint8_t **data, size_t *size, const IoPngText *text, int ntext);
/* Texts of a block: UserComment under "parameters"; "word:{..." in an ASCII tag under that word, other ASCII tags of the three under
 * "ImageDescription", "Make", "Model". What is damaged is left out; nothing is an error but ERR_NOMEM. io_png_text_free. */
int io_exif_decode(IoPngText **text, int *ntext, const uint8_t *data, size_t size);
/* Tag 0x0112 of the first directory, 1..8; 1 where it is missing or damaged. */
int io_exif_orientation(const uint8_t *data, size_t size);

#endif
