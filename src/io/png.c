#include "io/png.h"

#include <png.h>
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "io/file.h"
#include "io/image_codec.h"

/* Everything a longjmp must find again lives here. */
typedef struct {
    png_structp png;
    png_infop info;
    const uint8_t *data; /* reading */
    size_t size, at;
    uint8_t *out;        /* writing */
    size_t out_size, out_cap;
    IoImage img;
    png_bytep *rows;
    png_textp text;
    char **latin;        /* text converted to Latin-1 */
    int ntext;
    int code;            /* an error that is not the format's */
    char message[160];
} Codec;

static void on_error(png_structp png, png_const_charp message)
{
    Codec *c = png_get_error_ptr(png);
    snprintf(c->message, sizeof c->message, "%s", message);
    longjmp(png_jmpbuf(png), 1);
}

static void on_warning(png_structp png, png_const_charp message)
{
    (void)png;
    (void)message;
}

static void read_bytes(png_structp png, png_bytep out, size_t n)
{
    Codec *c = png_get_io_ptr(png);
    if (n > c->size - c->at)
        png_error(png, "truncated");
    memcpy(out, c->data + c->at, n);
    c->at += n;
}

static void write_bytes(png_structp png, png_bytep data, size_t n)
{
    Codec *c = png_get_io_ptr(png);
    if (c->out_size + n > c->out_cap) {
        size_t cap = 2 * c->out_cap + n + 4096;
        uint8_t *p = realloc(c->out, cap);
        if (!p) {
            c->code = ERR_NOMEM;
            png_error(png, "out of memory");
        }
        c->out = p;
        c->out_cap = cap;
    }
    memcpy(c->out + c->out_size, data, n);
    c->out_size += n;
}

static void flush_nothing(png_structp png) { (void)png; }

static void codec_free(Codec *c, int writing)
{
    if (writing)
        png_destroy_write_struct(&c->png, &c->info);
    else
        png_destroy_read_struct(&c->png, &c->info, NULL);
    for (int i = 0; c->latin && i < c->ntext; i++)
        free(c->latin[i]);
    free(c->latin);
    free(c->text);
    free(c->rows);
    free(c->out);
    io_image_deinit(&c->img);
    free(c);
}

static int make_rows(Codec *c, const IoImage *img)
{
    c->rows = malloc((size_t)img->h * sizeof *c->rows);
    if (!c->rows)
        return err_set(ERR_NOMEM, "out of memory: PNG");
    for (int y = 0; y < img->h; y++)
        c->rows[y] = img->data + (size_t)y * (size_t)img->w * (size_t)img->c;
    return 0;
}

static int read_header(Codec *c)
{
    png_set_read_fn(c->png, c, read_bytes);
    png_set_user_limits(c->png, IO_IMAGE_MAX_SIDE, IO_IMAGE_MAX_SIDE);
    png_set_chunk_malloc_max(c->png, 16 << 20);
    png_set_keep_unknown_chunks(c->png, PNG_HANDLE_CHUNK_NEVER, NULL, 0);
    png_read_info(c->png, c->info);
    return 0;
}

static int read_pixels(Codec *c)
{
    TRY(read_header(c));
    int type = png_get_color_type(c->png, c->info);
    png_set_expand(c->png); /* palettes, 1..4 bits, tRNS to alpha */
    png_set_scale_16(c->png);
    png_set_interlace_handling(c->png);
    png_read_update_info(c->png, c->info);
    int channels = png_get_channels(c->png, c->info);
    TRY(io_image_init(&c->img, (int)png_get_image_width(c->png, c->info), (int)png_get_image_height(c->png, c->info), channels));
    if (png_get_rowbytes(c->png, c->info) != (size_t)c->img.w * (size_t)channels)
        return err_set(ERR_FORMAT, "PNG: unexpected row size (colour type %d)", type);
    TRY(make_rows(c, &c->img));
    png_read_image(c->png, c->rows);
    png_read_end(c->png, NULL);
    return 0;
}

/* libpng takes and clears as much memory as a chunk says it needs before it reads it. */
static int check_chunks(const uint8_t *d, size_t size)
{
    for (size_t at = 8; at < size;) {
        if (size - at < 12)
            return err_set(ERR_FORMAT, "PNG: truncated at byte %zu", at);
        size_t n = (size_t)d[at] << 24 | (size_t)d[at + 1] << 16 | (size_t)d[at + 2] << 8 | d[at + 3];
        if (n > size - at - 12)
            return err_set(ERR_FORMAT, "PNG: chunk at byte %zu is truncated", at);
        if (memcmp(d + at + 4, "IEND", 4) == 0)
            return 0;
        at += n + 12;
    }
    return err_set(ERR_FORMAT, "PNG: truncated: no IEND chunk");
}

static int read_run(Codec *c, int (*step)(Codec *))
{
    TRY(check_chunks(c->data, c->size));
    c->png = png_create_read_struct(PNG_LIBPNG_VER_STRING, c, on_error, on_warning);
    c->info = c->png ? png_create_info_struct(c->png) : NULL;
    if (!c->info)
        return err_set(ERR_NOMEM, "out of memory: PNG");
    if (setjmp(png_jmpbuf(c->png)))
        return err_set(ERR_FORMAT, "PNG: %s", c->message);
    return step(c);
}

int io_png_decode_pixels(IoImage *out, const uint8_t *data, size_t size)
{
    Codec *c = calloc(1, sizeof *c);
    if (!c)
        return err_set(ERR_NOMEM, "out of memory: PNG");
    c->data = data;
    c->size = size;
    int rc = read_run(c, read_pixels);
    if (rc == 0) {
        *out = c->img;
        c->img = (IoImage){0};
    }
    codec_free(c, 0);
    return rc;
}

int io_png_decode_size(const uint8_t *data, size_t size, int *w, int *h)
{
    Codec *c = calloc(1, sizeof *c);
    if (!c)
        return err_set(ERR_NOMEM, "out of memory: PNG");
    c->data = data;
    c->size = size;
    int rc = read_run(c, read_header);
    if (rc == 0) {
        *w = (int)png_get_image_width(c->png, c->info);
        *h = (int)png_get_image_height(c->png, c->info);
    }
    codec_free(c, 0);
    return rc;
}

/* *latin: NULL where some character is beyond Latin-1. */
static int to_latin1(const char *s, const char *what, char **latin)
{
    size_t n = strlen(s), k = 0;
    char *out = malloc(n + 1);
    *latin = NULL;
    if (!out)
        return err_set(ERR_NOMEM, "out of memory: PNG text");
    int wide = 0;
    for (size_t i = 0; i < n;) {
        utf8proc_int32_t cp;
        utf8proc_ssize_t used = utf8proc_iterate((const utf8proc_uint8_t *)s + i, (utf8proc_ssize_t)(n - i), &cp);
        if (used <= 0) {
            free(out);
            return err_set(ERR_FORMAT, "PNG text \"%s\" is not UTF-8 at byte %zu", what, i);
        }
        wide |= cp > 0xFF;
        out[k++] = (char)cp;
        i += (size_t)used;
    }
    out[k] = 0;
    if (wide)
        free(out);
    else
        *latin = out;
    return 0;
}

/* PNG specification 11.3.4.2: 1..79 printable Latin-1 characters, single spaces inside only. */
static int check_key(const char *key)
{
    size_t n = strlen(key);
    int bad = n < 1 || n > 79 || key[0] == ' ' || key[n ? n - 1 : 0] == ' ' || strstr(key, "  ") != NULL;
    for (size_t i = 0; i < n && !bad; i++)
        bad = (unsigned char)key[i] < 32 || (unsigned char)key[i] > 126;
    return bad ? err_set(ERR_RANGE, "PNG text key \"%s\": expected 1..79 printable characters", key) : 0;
}

static int set_text(Codec *c, const IoPngText *text, int ntext)
{
    static char lang[] = "";
    if (!ntext)
        return 0;
    c->text = calloc((size_t)ntext, sizeof *c->text);
    c->latin = calloc((size_t)ntext, sizeof *c->latin);
    if (!c->text || !c->latin)
        return err_set(ERR_NOMEM, "out of memory: PNG text");
    c->ntext = ntext;
    for (int i = 0; i < ntext; i++) {
        png_textp t = &c->text[i];
        TRY(check_key(text[i].key));
        TRY(to_latin1(text[i].value, text[i].key, &c->latin[i]));
        t->key = text[i].key;
        t->text = c->latin[i] ? c->latin[i] : text[i].value;
        t->compression = c->latin[i] ? PNG_TEXT_COMPRESSION_NONE : PNG_ITXT_COMPRESSION_NONE;
        t->lang = t->lang_key = lang;
    }
    return 0;
}

static int write_all(Codec *c, const IoImage *img, int level)
{
    static const int types[5] = {0, PNG_COLOR_TYPE_GRAY, PNG_COLOR_TYPE_GRAY_ALPHA, PNG_COLOR_TYPE_RGB, PNG_COLOR_TYPE_RGB_ALPHA};
    c->png = png_create_write_struct(PNG_LIBPNG_VER_STRING, c, on_error, on_warning);
    c->info = c->png ? png_create_info_struct(c->png) : NULL;
    if (!c->info)
        return err_set(ERR_NOMEM, "out of memory: PNG");
    if (setjmp(png_jmpbuf(c->png)))
        return err_set(c->code ? c->code : ERR_FORMAT, "PNG: %s", c->message);
    png_set_write_fn(c->png, c, write_bytes, flush_nothing);
    png_set_compression_level(c->png, level < 0 ? 6 : level);
    png_set_IHDR(c->png, c->info, (png_uint_32)img->w, (png_uint_32)img->h, 8, types[img->c], PNG_INTERLACE_NONE,
                 PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
    if (c->ntext)
        png_set_text(c->png, c->info, c->text, c->ntext);
    png_write_info(c->png, c->info);
    png_write_image(c->png, c->rows);
    png_write_end(c->png, NULL);
    return 0;
}

int io_png_encode(uint8_t **data, size_t *size, const IoImage *img, const IoPngText *text, int ntext, int level)
{
    *data = NULL;
    *size = 0;
    if (!img->data || img->c < 1 || img->c > 4 || level > 9)
        return err_set(ERR_RANGE, "PNG: %d channels, level %d: expected pixels of 1..4 channels, level 0..9", img->c, level);
    Codec *c = calloc(1, sizeof *c);
    if (!c)
        return err_set(ERR_NOMEM, "out of memory: PNG");
    int rc = make_rows(c, img);
    if (rc == 0)
        rc = set_text(c, text, ntext);
    if (rc == 0)
        rc = write_all(c, img, level);
    if (rc == 0) {
        *data = c->out;
        *size = c->out_size;
        c->out = NULL;
    }
    codec_free(c, 1);
    return rc;
}

int io_png_write(const char *path, const IoImage *img, const IoPngText *text, int ntext, int level)
{
    uint8_t *data = NULL;
    size_t size = 0;
    TRY_CTX(io_png_encode(&data, &size, img, text, ntext, level), "%s", path);
    int rc = io_file_write(path, data, size);
    free(data);
    return rc;
}
