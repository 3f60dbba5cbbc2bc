#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jpeglib.h>
#include <jerror.h>

#include "io/exif.h"
#include "io/image_codec.h"

/* libjpeg reports errors by calling error_exit, which must not return. */
typedef struct {
    struct jpeg_error_mgr mgr;
    jmp_buf jump;
    char text[JMSG_LENGTH_MAX];
    int code;
} Trap;

typedef struct {
    struct jpeg_decompress_struct j;
    struct jpeg_progress_mgr progress;
    Trap trap;
    IoImage img;
    uint8_t *row; /* one CMYK row */
} Decoder;

static void trap_exit(j_common_ptr j)
{
    Trap *t = (Trap *)j->err;
    t->mgr.format_message(j, t->text);
    longjmp(t->jump, 1);
}

/* Warnings that mean lost data are errors; odd but complete files (extra bytes, old markers) pass. */
static void trap_message(j_common_ptr j, int level)
{
    int code = j->err->msg_code;
    if (level < 0 && (code == JWRN_HIT_MARKER || code == JWRN_HUFF_BAD_CODE || code == JWRN_JPEG_EOF ||
                      code == JWRN_MUST_RESYNC || code == JWRN_ARITH_BAD_CODE))
        trap_exit(j);
}

static void trap_silent(j_common_ptr j) { (void)j; }

/* A small progressive file may hold thousands of scans of a large image. */
static void limit_scans(j_common_ptr j)
{
    j_decompress_ptr d = (j_decompress_ptr)j;
    if (d->input_scan_number > 200) {
        Trap *t = (Trap *)j->err;
        snprintf(t->text, sizeof t->text, "more than 200 scans");
        longjmp(t->jump, 1);
    }
}

static int orientation_of(const struct jpeg_decompress_struct *j)
{
    for (jpeg_saved_marker_ptr m = j->marker_list; m; m = m->next) {
        int o = io_exif_orientation(m->data, m->data_length);
        if (o != 1)
            return o;
    }
    return 1;
}

static void begin(Decoder *d, const uint8_t *data, size_t size)
{
    d->j.err = jpeg_std_error(&d->trap.mgr);
    d->trap.mgr.error_exit = trap_exit;
    d->trap.mgr.emit_message = trap_message;
    d->trap.mgr.output_message = trap_silent;
    jpeg_create_decompress(&d->j);
    d->progress.progress_monitor = limit_scans;
    d->j.progress = &d->progress;
    d->j.mem->max_memory_to_use = 1L << 30;
    jpeg_mem_src(&d->j, data, (unsigned long)size);
    jpeg_save_markers(&d->j, JPEG_APP0 + 1, 0xFFFF);
    jpeg_read_header(&d->j, TRUE);
}

/* Adobe files store CMYK inverted: 255 is no ink. */
static void cmyk_to_rgb(const uint8_t *in, uint8_t *out, size_t n, int inverted)
{
    for (size_t i = 0; i < n; i++) {
        int k = inverted ? in[4 * i + 3] : 255 - in[4 * i + 3];
        for (size_t c = 0; c < 3; c++) {
            int v = inverted ? in[4 * i + c] : 255 - in[4 * i + c];
            out[3 * i + c] = (uint8_t)((v * k + 127) / 255);
        }
    }
}

static int read_pixels(Decoder *d, const uint8_t *data, size_t size)
{
    begin(d, data, size);
    int cmyk = d->j.jpeg_color_space == JCS_CMYK || d->j.jpeg_color_space == JCS_YCCK;
    int grey = d->j.jpeg_color_space == JCS_GRAYSCALE;
    d->j.out_color_space = cmyk ? JCS_CMYK : grey ? JCS_GRAYSCALE : JCS_RGB;
    d->j.dct_method = JDCT_ISLOW;
    TRY(io_image_init(&d->img, (int)d->j.image_width, (int)d->j.image_height, grey ? 1 : 3));
    jpeg_start_decompress(&d->j);
    size_t w = (size_t)d->img.w, stride = w * (size_t)d->img.c;
    if (cmyk && !(d->row = malloc(4 * w)))
        return err_set(ERR_NOMEM, "out of memory: image of %d x %d", d->img.w, d->img.h);
    while (d->j.output_scanline < d->j.output_height) {
        uint8_t *out = d->img.data + (size_t)d->j.output_scanline * stride;
        JSAMPROW row = cmyk ? d->row : out;
        jpeg_read_scanlines(&d->j, &row, 1);
        if (cmyk)
            cmyk_to_rgb(d->row, out, w, d->j.saw_Adobe_marker);
    }
    int orientation = orientation_of(&d->j); /* finish frees the markers */
    jpeg_finish_decompress(&d->j);
    return io_image_orient(&d->img, orientation);
}

static int read_size(Decoder *d, const uint8_t *data, size_t size)
{
    begin(d, data, size);
    int swap = orientation_of(&d->j) >= 5;
    d->img.w = (int)(swap ? d->j.image_height : d->j.image_width);
    d->img.h = (int)(swap ? d->j.image_width : d->j.image_height);
    return 0;
}

/* The decoder lives on the heap so that longjmp leaves no local of this frame in doubt. */
static int run(Decoder *d, int (*step)(Decoder *, const uint8_t *, size_t), const uint8_t *data, size_t size)
{
    int rc;
    if (setjmp(d->trap.jump))
        rc = err_set(ERR_FORMAT, "JPEG: %s", d->trap.text);
    else
        rc = step(d, data, size);
    jpeg_destroy_decompress(&d->j);
    free(d->row);
    return rc;
}

int io_jpeg_decode_pixels(IoImage *out, const uint8_t *data, size_t size)
{
    Decoder *d = calloc(1, sizeof *d);
    if (!d)
        return err_set(ERR_NOMEM, "out of memory: JPEG");
    int rc = run(d, read_pixels, data, size);
    if (rc < 0)
        io_image_deinit(&d->img);
    else
        *out = d->img;
    free(d);
    return rc;
}

int io_jpeg_decode_size(const uint8_t *data, size_t size, int *w, int *h)
{
    Decoder *d = calloc(1, sizeof *d);
    if (!d)
        return err_set(ERR_NOMEM, "out of memory: JPEG");
    int rc = run(d, read_size, data, size);
    if (rc == 0) {
        *w = d->img.w;
        *h = d->img.h;
    }
    free(d);
    return rc;
}
