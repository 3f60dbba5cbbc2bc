#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jpeglib.h>

#include "io/image.h"

enum { MAX_SEGMENT = 65533 };

/* On the heap, so that longjmp leaves no local in doubt. */
typedef struct {
    struct jpeg_compress_struct j;
    struct jpeg_error_mgr mgr;
    jmp_buf jump;
    char text[JMSG_LENGTH_MAX];
    unsigned char *out;
    unsigned long size;
    uint8_t *segment;
} Encoder;

static void on_error(j_common_ptr j)
{
    Encoder *e = j->client_data;
    e->mgr.format_message(j, e->text);
    longjmp(e->jump, 1);
}

static int encode(Encoder *e, const IoImage *img, int quality, size_t segment_size)
{
    e->j.err = jpeg_std_error(&e->mgr);
    e->j.client_data = e;
    e->mgr.error_exit = on_error;
    if (setjmp(e->jump))
        return err_set(ERR_BACKEND, "JPEG: %s", e->text);
    jpeg_create_compress(&e->j);
    jpeg_mem_dest(&e->j, &e->out, &e->size);
    e->j.image_width = (JDIMENSION)img->w;
    e->j.image_height = (JDIMENSION)img->h;
    e->j.input_components = 3;
    e->j.in_color_space = JCS_RGB;
    jpeg_set_defaults(&e->j);
    jpeg_set_quality(&e->j, quality, TRUE);
    e->j.optimize_coding = TRUE;
    e->j.dct_method = JDCT_ISLOW;
    if (quality >= 90)
        e->j.comp_info[0].h_samp_factor = e->j.comp_info[0].v_samp_factor = 1;
    jpeg_start_compress(&e->j, TRUE);
    if (segment_size)
        jpeg_write_marker(&e->j, JPEG_APP0 + 1, e->segment, (unsigned)segment_size);
    while (e->j.next_scanline < e->j.image_height) {
        JSAMPROW row = img->data + (size_t)e->j.next_scanline * (size_t)img->w * 3;
        jpeg_write_scanlines(&e->j, &row, 1);
    }
    jpeg_finish_compress(&e->j);
    return 0;
}

int io_jpeg_encode(uint8_t **data, size_t *size, const IoImage *img, int quality, const uint8_t *exif, size_t exif_size)
{
    size_t n = exif ? exif_size + 6 : 0;
    *data = NULL;
    *size = 0;
    if (img->c != 3 || quality < 1 || quality > 100)
        return err_set(ERR_RANGE, "JPEG of %d channels, quality %d: expected RGB, quality 1..100", img->c, quality);
    if (n > MAX_SEGMENT)
        return err_set(ERR_RANGE, "JPEG holds at most %d bytes of texts, here are %zu: choose PNG or WebP", MAX_SEGMENT, n);
    Encoder *e = calloc(1, sizeof *e);
    uint8_t *segment = malloc(n + 1);
    int rc = e && segment ? 0 : err_set(ERR_NOMEM, "out of memory: JPEG");
    if (rc == 0) {
        memcpy(segment, "Exif\0\0", n ? 6 : 0);
        if (n)
            memcpy(segment + 6, exif, exif_size);
        e->segment = segment;
        rc = encode(e, img, quality, n);
        jpeg_destroy_compress(&e->j);
    }
    if (rc == 0) {
        *data = e->out;
        *size = e->size;
    } else if (e) {
        free(e->out);
    }
    free(segment);
    free(e);
    return rc;
}
