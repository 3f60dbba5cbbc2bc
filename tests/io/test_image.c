#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jpeglib.h>
#include <png.h>
#include <zlib.h>

#include "io/png.h"

static void says(int rc, int code, const char *text)
{
    if (rc != code || !strstr(err_message(), text))
        fail_msg("rc %d (want %d): \"%s\" lacks \"%s\"", rc, code, err_message(), text);
}

static IoImage make(int w, int h, int c, const uint8_t *data)
{
    IoImage img;
    assert_int_equal(io_image_init(&img, w, h, c), 0);
    if (data)
        memcpy(img.data, data, (size_t)(w * h * c));
    return img;
}

/* ---- files made with libpng and libjpeg for the decoder ---- */

typedef struct {
    uint8_t data[65536];
    size_t n;
} Bytes;

static void put_bytes(png_structp png, png_bytep d, size_t n)
{
    Bytes *b = png_get_io_ptr(png);
    assert_true(b->n + n <= sizeof b->data);
    memcpy(b->data + b->n, d, n);
    b->n += n;
}

static void no_flush(png_structp png) { (void)png; }

static void make_png(Bytes *b, int w, int h, int depth, int type, int interlace, png_bytepp rows)
{
    static const png_color palette[4] = {{255, 0, 0}, {0, 255, 0}, {0, 0, 255}, {9, 8, 7}};
    static const uint8_t alpha[2] = {255, 64};
    png_structp p = png_create_write_struct(PNG_LIBPNG_VER_STRING, NULL, NULL, NULL);
    png_infop i = png_create_info_struct(p);
    b->n = 0;
    png_set_write_fn(p, b, put_bytes, no_flush);
    png_set_IHDR(p, i, (png_uint_32)w, (png_uint_32)h, depth, type, interlace, 0, 0);
    if (type == PNG_COLOR_TYPE_PALETTE) {
        png_set_PLTE(p, i, palette, 4);
        if (interlace)
            png_set_tRNS(p, i, alpha, 2, NULL);
    }
    png_write_info(p, i);
    png_write_image(p, rows);
    png_write_end(p, NULL);
    png_destroy_write_struct(&p, &i);
}

static void test_io_image__png_kinds(void **state)
{
    (void)state;
    static Bytes b;
    IoImage img;
    uint8_t row16[8] = {0x00, 0x00, 0x80, 0x80, 0xFF, 0xFF, 0x12, 0x34}, row1[1] = {0xA0}, row2[1] = {0x1B};
    png_bytep rows[1] = {row16};
    make_png(&b, 4, 1, 16, PNG_COLOR_TYPE_GRAY, 0, rows);
    assert_int_equal(io_image_decode(&img, b.data, b.n, "x"), 0);
    assert_int_equal(img.c, 1);
    const uint8_t want16[4] = {0, 0x80, 255, 0x12};
    assert_memory_equal(img.data, want16, 4);
    io_image_deinit(&img);

    rows[0] = row1;
    make_png(&b, 3, 1, 1, PNG_COLOR_TYPE_GRAY, 0, rows);
    assert_int_equal(io_image_decode(&img, b.data, b.n, "x"), 0);
    const uint8_t want1[3] = {255, 0, 255};
    assert_int_equal(img.c, 1);
    assert_memory_equal(img.data, want1, 3);
    io_image_deinit(&img);

    rows[0] = row2; /* indices 0 1 2 3 */
    make_png(&b, 4, 1, 2, PNG_COLOR_TYPE_PALETTE, 0, rows);
    assert_int_equal(io_image_decode(&img, b.data, b.n, "x"), 0);
    const uint8_t want_rgb[12] = {255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 8, 7};
    assert_int_equal(img.c, 3);
    assert_memory_equal(img.data, want_rgb, 12);
    io_image_deinit(&img);

    make_png(&b, 4, 1, 2, PNG_COLOR_TYPE_PALETTE, PNG_INTERLACE_ADAM7, rows);
    assert_int_equal(io_image_decode(&img, b.data, b.n, "x"), 0);
    assert_int_equal(img.c, 4);
    assert_int_equal(img.data[3], 255);
    assert_int_equal(img.data[7], 64);
    assert_int_equal(img.data[11], 255);
    io_image_deinit(&img);
}

/* A 16 x 8 JPEG whose left half is bright; EXIF orientation when not 0; CMYK when c is 4. */
static size_t make_jpeg(uint8_t *out, size_t cap, int c, int orientation)
{
    struct jpeg_compress_struct j;
    struct jpeg_error_mgr e;
    unsigned char *mem = NULL;
    unsigned long n = 0;
    uint8_t exif[] = "Exif\0\0MM\0*\0\0\0\10\0\1\1\22\0\3\0\0\0\1\0\1\0\0\0\0\0\0", row[64];
    j.err = jpeg_std_error(&e);
    jpeg_create_compress(&j);
    jpeg_mem_dest(&j, &mem, &n);
    j.image_width = 16;
    j.image_height = 8;
    j.input_components = c;
    j.in_color_space = c == 4 ? JCS_CMYK : c == 3 ? JCS_RGB : JCS_GRAYSCALE;
    jpeg_set_defaults(&j);
    jpeg_set_quality(&j, 100, TRUE);
    jpeg_start_compress(&j, TRUE);
    exif[6 + 19] = (uint8_t)orientation;
    if (orientation)
        jpeg_write_marker(&j, JPEG_APP0 + 1, exif, 32);
    for (int x = 0; x < 16; x++)
        for (int k = 0; k < c; k++)
            row[x * c + k] = k == 3 ? 255 : x < 8 ? (uint8_t)(200 + 10 * k) : 20;
    JSAMPROW rows[1] = {row};
    for (int y = 0; y < 8; y++)
        jpeg_write_scanlines(&j, rows, 1);
    jpeg_finish_compress(&j);
    jpeg_destroy_compress(&j);
    assert_true(n <= cap);
    memcpy(out, mem, n);
    free(mem);
    return n;
}

static void test_io_image__jpeg_kinds(void **state)
{
    (void)state;
    static uint8_t d[65536];
    IoImage img;
    size_t n = make_jpeg(d, sizeof d, 3, 0);
    assert_int_equal(io_image_decode(&img, d, n, "x"), 0);
    assert_int_equal(img.w * 1000 + img.h * 10 + img.c, 16083);
    assert_true(abs(img.data[0] - 200) < 4 && abs(img.data[1] - 210) < 4 && abs(img.data[2] - 220) < 4);
    assert_true(abs(img.data[3 * 15] - 20) < 4);
    io_image_deinit(&img);
    n = make_jpeg(d, sizeof d, 1, 0);
    assert_int_equal(io_image_decode(&img, d, n, "x"), 0);
    assert_int_equal(img.c, 1);
    io_image_deinit(&img);
    n = make_jpeg(d, sizeof d, 4, 0); /* libjpeg marks it as Adobe: inverted, K 255 = no black */
    assert_int_equal(io_image_decode(&img, d, n, "x"), 0);
    assert_int_equal(img.c, 3);
    assert_true(abs(img.data[0] - 200) < 6 && abs(img.data[2] - 220) < 6 && abs(img.data[3 * 15] - 20) < 6);
    io_image_deinit(&img);
    n = make_jpeg(d, sizeof d, 3, 6); /* turned a quarter clockwise: the left half comes on top */
    assert_int_equal(io_image_decode(&img, d, n, "x"), 0);
    assert_int_equal(img.w, 8);
    assert_int_equal(img.h, 16);
    assert_true(img.data[0] > 190 && img.data[3 * 8 * 15] < 30);
    io_image_deinit(&img);
    for (size_t cut = 0; cut < n; cut += 3) {
        assert_true(io_image_decode(&img, d, cut, "cut.jpg") < 0);
        assert_non_null(strstr(err_message(), "cut.jpg"));
    }
    for (size_t at = 0; at < n; at++) {
        d[at] ^= 0x24;
        if (io_image_decode(&img, d, n, "bad.jpg") == 0)
            io_image_deinit(&img);
        d[at] ^= 0x24;
    }
}

static void test_io_image__size_from_header(void **state)
{
    (void)state;
    static uint8_t d[65536];
    int w = 0, h = 0;
    assert_int_equal(io_image_size("tests/vectors/png/a1111_text.png", &w, &h), 0);
    assert_int_equal(w, 48);
    assert_int_equal(h, 32);
    char path[] = "/tmp/test_image_XXXXXX";
    int fd = mkstemp(path);
    size_t n = make_jpeg(d, sizeof d, 3, 8);
    FILE *f = fdopen(fd, "wb");
    assert_int_equal(fwrite(d, 1, n, f), n);
    fclose(f);
    assert_int_equal(io_image_size(path, &w, &h), 0);
    assert_int_equal(w, 8);
    assert_int_equal(h, 16);
    remove(path);
    says(io_image_size(path, &w, &h), ERR_NOTFOUND, path);
}

static void test_io_image__rejects(void **state)
{
    (void)state;
    static Bytes b;
    IoImage img;
    says(io_image_decode(&img, (const uint8_t *)"", 0, "e.png"), ERR_FORMAT, "e.png: empty");
    says(io_image_decode(&img, (const uint8_t *)"hello", 5, "t.txt"), ERR_FORMAT, "t.txt: not a PNG, JPEG or WebP");
    says(io_image_decode(&img, (const uint8_t *)"RIFF....WEBPVP8 ", 16, "w"), ERR_FORMAT, "WebP");
    says(io_image_load(&img, "/nonexistent.png"), ERR_NOTFOUND, "/nonexistent.png");
    says(io_image_load(&img, "/tmp"), ERR_IO, "/tmp");
    assert_int_equal(io_image_init(&img, 60000, 60000, 3), ERR_RANGE);
    assert_int_equal(io_image_init(&img, 0, 1, 3), ERR_RANGE);
    assert_int_equal(io_image_init(&img, 1, 1, 5), ERR_RANGE);
    /* A header that promises 60000 x 60000 pixels is refused before any memory is taken. */
    uint8_t row[1] = {0};
    png_bytep rows[1] = {row};
    make_png(&b, 1, 1, 8, PNG_COLOR_TYPE_GRAY, 0, rows);
    const uint8_t side[8] = {0, 0, 0xEA, 0x60, 0, 0, 0xEA, 0x60};
    memcpy(b.data + 16, side, 8);
    uint32_t crc = (uint32_t)crc32(crc32(0, NULL, 0), b.data + 12, 17);
    for (int i = 0; i < 4; i++)
        b.data[29 + i] = (uint8_t)(crc >> (24 - 8 * i));
    says(io_image_decode(&img, b.data, b.n, "big.png"), ERR_RANGE, "big.png");
}

static void test_io_image__to_rgb(void **state)
{
    (void)state;
    const uint8_t ga[4] = {100, 255, 100, 0}, rgba[8] = {10, 20, 30, 128, 1, 2, 3, 255};
    IoImage a = make(2, 1, 2, ga), b = make(2, 1, 4, rgba);
    assert_int_equal(io_image_to_rgb(&a, 1, 2, 3), 0);
    const uint8_t want_a[6] = {100, 100, 100, 1, 2, 3};
    assert_memory_equal(a.data, want_a, 6);
    assert_int_equal(io_image_to_rgb(&b, 255, 255, 255), 0);
    /* (10*128 + 255*127)/255 = 132.02 */
    const uint8_t want_b[6] = {132, 137, 142, 1, 2, 3};
    assert_memory_equal(b.data, want_b, 6);
    io_image_deinit(&a);
    io_image_deinit(&b);
}

/* Image.fromarray(x).resize((w, h), filter) of Pillow 13.0.0 for x[j][i] = (i*i*7 + j*13 + i*j*3) % 256, 7 x 5. */
static void test_io_image__resize_as_pillow(void **state)
{
    (void)state;
    static const struct {
        IoFilter filter;
        int w, h;
        uint8_t want[70];
    } cases[] = {
        {IO_FILTER_BOX, 3, 4,
                 {4, 68, 214, 26, 101, 130, 47, 134, 46, 62, 156, 76}},
        {IO_FILTER_BOX, 10, 7,
                 {0, 7, 7, 28, 63, 63, 112, 175, 175, 252, 13, 23, 23, 47, 85, 85, 137, 203, 203, 27, 13, 23, 23, 47,
                  85, 85, 137, 203, 203, 27, 26, 39, 39, 66, 107, 107, 162, 231, 231, 58, 39, 55, 55, 85, 129, 129,
                  187, 3, 3, 89, 39, 55, 55, 85, 129, 129, 187, 3, 3, 89, 52, 71, 71, 104, 151, 151, 212, 31, 31,
                  120}},
        {IO_FILTER_BILINEAR, 3, 4,
                 {13, 76, 173, 31, 101, 138, 49, 118, 107, 67, 138, 95}},
        {IO_FILTER_BILINEAR, 10, 7,
                 {0, 4, 12, 27, 51, 80, 115, 159, 210, 252, 7, 12, 22, 38, 63, 93, 129, 175, 161, 123, 17, 22, 34,
                  51, 78, 110, 147, 195, 132, 36, 26, 33, 46, 65, 93, 126, 165, 214, 153, 58, 35, 44, 58, 79, 108,
                  142, 174, 96, 74, 80, 45, 54, 70, 92, 123, 159, 189, 61, 54, 102, 52, 62, 79, 102, 135, 172, 203,
                  76, 71, 120}},
        {IO_FILTER_BICUBIC, 3, 4,
                 {7, 70, 181, 25, 104, 141, 45, 124, 105, 64, 146, 91}},
        {IO_FILTER_BICUBIC, 10, 7,
                 {0, 1, 10, 26, 48, 78, 114, 155, 220, 255, 6, 9, 19, 36, 59, 90, 127, 181, 163, 119, 16, 21, 33, 50,
                  76, 108, 147, 218, 129, 5, 25, 31, 44, 64, 91, 125, 165, 230, 155, 48, 34, 42, 56, 78, 106, 149,
                  178, 82, 60, 82, 45, 53, 70, 93, 123, 170, 195, 35, 36, 111, 52, 61, 79, 103, 134, 182, 209, 65,
                  63, 127}},
        {IO_FILTER_LANCZOS, 3, 4,
                 {4, 68, 183, 19, 110, 145, 41, 127, 109, 61, 147, 90}},
        {IO_FILTER_LANCZOS, 10, 7,
                 {0, 1, 10, 26, 49, 77, 112, 150, 226, 255, 6, 8, 19, 36, 59, 87, 127, 179, 160, 123, 17, 21, 34, 53,
                  79, 102, 152, 247, 125, 0, 26, 31, 44, 65, 92, 120, 167, 243, 152, 42, 34, 40, 55, 77, 100, 155,
                  175, 85, 56, 86, 45, 53, 70, 93, 116, 184, 194, 24, 24, 121, 52, 60, 79, 103, 127, 193, 208, 68,
                  60, 133}},
    };
    uint8_t x[35];
    IoImage out;
    for (int j = 0; j < 5; j++)
        for (int i = 0; i < 7; i++)
            x[j * 7 + i] = (uint8_t)((i * i * 7 + j * 13 + i * j * 3) % 256);
    IoImage img = make(7, 5, 1, x);
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        assert_int_equal(io_image_resize(&out, &img, cases[k].w, cases[k].h, cases[k].filter), 0);
        assert_memory_equal(out.data, cases[k].want, (size_t)(out.w * out.h));
        io_image_deinit(&out);
    }
    assert_int_equal(io_image_resize(&out, &img, 7, 5, IO_FILTER_LANCZOS), 0);
    assert_memory_equal(out.data, x, 35);
    io_image_deinit(&out);
    io_image_deinit(&img);
}

/* The same with RGBA: x[j][i][c] = (i*31 + j*57 + c*91 + i*j*c*5) % 256, 6 x 4 to 4 x 3 by Lanczos. */
static void test_io_image__resize_alpha_as_pillow(void **state)
{
    (void)state;
    static const uint8_t want[48] = {0,   82, 222, 31,  62, 183, 139, 86, 105, 138, 48,  131, 164, 248, 76, 113,
                                     99,  236, 84, 121, 143, 132, 89, 217, 211, 0,  178, 106, 88,  132, 116, 81,
                                     159, 83, 78,  134, 201, 79, 175, 90, 61,  152, 87,  169, 56,  191, 100, 149};
    uint8_t x[96];
    for (int j = 0; j < 4; j++)
        for (int i = 0; i < 6; i++)
            for (int c = 0; c < 4; c++)
                x[(j * 6 + i) * 4 + c] = (uint8_t)((i * 31 + j * 57 + c * 91 + i * j * c * 5) % 256);
    IoImage img = make(6, 4, 4, x), out;
    assert_int_equal(io_image_resize(&out, &img, 4, 3, IO_FILTER_LANCZOS), 0);
    assert_memory_equal(out.data, want, 48);
    io_image_deinit(&out);
    io_image_deinit(&img);
}

static void test_io_image__resize_nearest(void **state)
{
    (void)state;
    const uint8_t line[2] = {0, 100}, near[8] = {0, 0, 100, 100, 0, 0, 100, 100};
    IoImage two = make(2, 1, 1, line), out;
    assert_int_equal(io_image_resize(&out, &two, 4, 2, IO_FILTER_NEAREST), 0);
    assert_memory_equal(out.data, near, 8);
    io_image_deinit(&out);
    io_image_deinit(&two);
}

/* A constant stays constant under every filter and size; transparent colour does not bleed. */
static void test_io_image__resize_properties(void **state)
{
    (void)state;
    for (int f = IO_FILTER_NEAREST; f <= IO_FILTER_LANCZOS; f++)
        for (int w = 1; w < 40; w += 9)
            for (int h = 1; h < 40; h += 13) {
                IoImage img = make(13, 11, 3, NULL), out;
                memset(img.data, 201, 13 * 11 * 3);
                assert_int_equal(io_image_resize(&out, &img, w, h, (IoFilter)f), 0);
                for (int i = 0; i < w * h * 3; i++)
                    assert_int_equal(out.data[i], 201);
                io_image_deinit(&out);
                io_image_deinit(&img);
            }
    const uint8_t rgba[8] = {200, 100, 50, 255, 0, 255, 0, 0};
    IoImage a = make(2, 1, 4, rgba), out;
    assert_int_equal(io_image_resize(&out, &a, 1, 1, IO_FILTER_BOX), 0);
    assert_true(abs(out.data[0] - 200) <= 1 && abs(out.data[1] - 100) <= 1 && out.data[3] == 128);
    io_image_deinit(&out);
    io_image_deinit(&a);
}

static void test_io_image__crop_flip_orient_cover(void **state)
{
    (void)state;
    const uint8_t x[6] = {1, 2, 3, 4, 5, 6};
    IoImage img = make(3, 2, 1, x), out;
    assert_int_equal(io_image_crop(&out, &img, 1, 0, 2, 2), 0);
    const uint8_t crop[4] = {2, 3, 5, 6};
    assert_memory_equal(out.data, crop, 4);
    io_image_deinit(&out);
    says(io_image_crop(&out, &img, 2, 0, 2, 1), ERR_RANGE, "3 x 2");
    assert_int_equal(io_image_crop(&out, &img, 0, 0, INT32_MAX, 1), ERR_RANGE);
    io_image_flip_h(&img);
    const uint8_t flip[6] = {3, 2, 1, 6, 5, 4};
    assert_memory_equal(img.data, flip, 6);
    io_image_flip_h(&img);
    static const uint8_t turned[9][6] = {{1, 2, 3, 4, 5, 6}, {1, 2, 3, 4, 5, 6}, {3, 2, 1, 6, 5, 4},
                                         {6, 5, 4, 3, 2, 1}, {4, 5, 6, 1, 2, 3}, {1, 4, 2, 5, 3, 6},
                                         {4, 1, 5, 2, 6, 3}, {6, 3, 5, 2, 4, 1}, {3, 6, 2, 5, 1, 4}};
    for (int o = 0; o <= 8; o++) {
        assert_int_equal(io_image_copy(&out, &img), 0);
        assert_int_equal(io_image_orient(&out, o), 0);
        assert_int_equal(out.w, o >= 5 ? 2 : 3);
        assert_memory_equal(out.data, turned[o], 6);
        io_image_deinit(&out);
    }
    for (int w = 1; w < 9; w += 3)
        for (int h = 1; h < 9; h += 2) {
            assert_int_equal(io_image_cover(&out, &img, w, h, IO_FILTER_BICUBIC), 0);
            assert_int_equal(out.w, w);
            assert_int_equal(out.h, h);
            io_image_deinit(&out);
        }
    io_image_deinit(&img);
}

static void test_io_image__floats(void **state)
{
    (void)state;
    uint8_t x[256 * 3];
    float hwc[256 * 3], chw[256 * 3];
    for (int i = 0; i < 256 * 3; i++)
        x[i] = (uint8_t)(i * 7);
    IoImage img = make(16, 16, 3, x), back;
    io_image_to_hwc(&img, hwc);
    io_image_to_chw(&img, chw);
    assert_true(hwc[3 * 5 + 1] == chw[256 + 5]);
    assert_true(hwc[0] == -1.0f);
    assert_int_equal(io_image_from_hwc(&back, hwc, 16, 16, 3), 0);
    assert_memory_equal(back.data, x, sizeof x);
    io_image_deinit(&back);
    assert_int_equal(io_image_from_chw(&back, chw, 3, 16, 16), 0);
    assert_memory_equal(back.data, x, sizeof x);
    io_image_deinit(&back);
    io_image_deinit(&img);
    /* 0.5 of a level rounds to even: 0.5/255 -> 0, 1.5/255 -> 2. */
    const float odd[6] = {NAN, -7, 7, INFINITY, 2 * (0.5f / 255) - 1, 2 * (1.5f / 255) - 1};
    assert_int_equal(io_image_from_hwc(&back, odd, 1, 2, 3), 0);
    assert_int_equal(back.data[0], 0);
    assert_int_equal(back.data[1], 0);
    assert_int_equal(back.data[2], 255);
    assert_int_equal(back.data[3], 255);
    assert_true(back.data[4] <= 1);
    io_image_deinit(&back);
}

static int count_ink(const IoImage *img, int x0, int y0, int x1, int y1)
{
    int n = 0;
    for (int y = y0; y < y1; y++)
        for (int x = x0; x < x1; x++)
            n += img->data[3 * (y * img->w + x)] < 100;
    return n;
}

static void test_io_image__sheet(void **state)
{
    (void)state;
    IoImage tile[4] = {{0}}, out;
    const char *const row[2] = {"first row", "second"}, *const col[2] = {"seed 1", "seed 2 with a longer label"};
    tile[0] = make(16, 16, 3, NULL);
    tile[1] = make(16, 8, 1, NULL);
    tile[3] = make(100, 50, 4, NULL);
    memset(tile[3].data, 255, 100 * 50 * 4);
    IoSheet s = {.rows = 2, .cols = 2, .tile = tile, .cell_w = 32, .cell_h = 32, .title = "a title", .row_label = row, .col_label = col};
    assert_int_equal(io_sheet_build(&out, &s), 0);
    assert_int_equal(out.c, 3);
    /* The first tile is black and enlarged twice to fill its cell. */
    int dark = count_ink(&out, out.w - 10 - 70, 0, out.w, out.h);
    assert_true(dark >= 32 * 32 + 32 * 16);
    IoImage again;
    assert_int_equal(io_sheet_build(&again, &s), 0);
    assert_memory_equal(out.data, again.data, (size_t)(out.w * out.h * 3));
    io_image_deinit(&again);
    /* Labels: ink left of the cells, above the columns, and none elsewhere outside. */
    int left = out.w - 10 - 70, top = out.h - 10 - 70;
    assert_true(count_ink(&out, 0, top, left - 6, out.h) > 30);
    assert_true(count_ink(&out, left, 0, out.w, top) > 30);
    assert_int_equal(count_ink(&out, 0, out.h - 10, out.w, out.h), 0);
    io_image_deinit(&out);
    uint8_t *pdf, *pdf2;
    size_t n, n2;
    assert_int_equal(io_sheet_pdf(&pdf, &n, &s), 0);
    assert_int_equal(io_sheet_pdf(&pdf2, &n2, &s), 0);
    assert_memory_equal(pdf, "%PDF-1.", 7);
    assert_true(n == n2 && memcmp(pdf, pdf2, n) == 0);
    free(pdf);
    free(pdf2);
    const char *const odd[2] = {"\xFF broken", "\xE7\x8C\xAB two\nlines \x01"}; /* no UTF-8, no ASCII, controls */
    s.row_label = odd;
    assert_int_equal(io_sheet_build(&out, &s), 0);
    io_image_deinit(&out);
    s.cell_w = 60000;
    says(io_sheet_build(&out, &s), ERR_RANGE, "too large");
    s.rows = 0;
    assert_int_equal(io_sheet_build(&out, &s), ERR_RANGE);
    for (int i = 0; i < 4; i++)
        io_image_deinit(&tile[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_io_image__png_kinds),
        cmocka_unit_test(test_io_image__jpeg_kinds),
        cmocka_unit_test(test_io_image__size_from_header),
        cmocka_unit_test(test_io_image__rejects),
        cmocka_unit_test(test_io_image__to_rgb),
        cmocka_unit_test(test_io_image__resize_as_pillow),
        cmocka_unit_test(test_io_image__resize_alpha_as_pillow),
        cmocka_unit_test(test_io_image__resize_nearest),
        cmocka_unit_test(test_io_image__resize_properties),
        cmocka_unit_test(test_io_image__crop_flip_orient_cover),
        cmocka_unit_test(test_io_image__floats),
        cmocka_unit_test(test_io_image__sheet),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
