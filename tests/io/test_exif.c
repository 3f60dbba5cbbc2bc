/* JPEG, WebP and the EXIF block in both. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/exif.h"
#include "io/file.h"

static const char params[] = "two, \"cats\" \xC3\xA9\xE7\x8C\xAB\xF0\x9F\xA6\x8A\nSteps: 2, Sampler: Euler a, Seed: 7";
static const char record[] = "{\"prompt\": \"x\", \"seed\": 7}";

static void make_block(uint8_t **d, size_t *n)
{
    char k1[] = "parameters", k2[] = "atelier", v1[sizeof params], v2[sizeof record];
    memcpy(v1, params, sizeof params);
    memcpy(v2, record, sizeof record);
    const IoPngText text[] = {{k1, v1}, {k2, v2}};
    assert_int_equal(io_exif_encode(d, n, text, 2), 0);
}

static void check_texts(IoPngText *text, int n)
{
    assert_int_equal(n, 2);
    assert_string_equal(io_png_text_find(text, n, "parameters"), params);
    assert_string_equal(io_png_text_find(text, n, "atelier"), record);
    io_png_text_free(text, n);
}

static void picture(IoImage *img)
{
    assert_int_equal(io_image_init(img, 37, 21, 3), 0);
    for (int i = 0; i < 37 * 21 * 3; i++)
        img->data[i] = (uint8_t)(128 + 100 * ((i / 3 % 37) - 18) / 18 + i % 3 * 9);
}

static int worst(const IoImage *a, const IoImage *b)
{
    int most = 0;
    assert_true(a->w == b->w && a->h == b->h && a->c == b->c);
    for (int i = 0; i < a->w * a->h * a->c; i++) {
        int d = abs(a->data[i] - b->data[i]);
        most = d > most ? d : most;
    }
    return most;
}

static void exif__texts_come_back(void **state)
{
    (void)state;
    uint8_t *d;
    size_t n;
    IoPngText *text;
    int count;
    make_block(&d, &n);
    assert_int_equal(io_exif_decode(&text, &count, d, n), 0);
    check_texts(text, count);
    free(d);
}

static void exif__cut_block_is_no_error(void **state)
{
    (void)state;
    uint8_t *d;
    size_t n;
    make_block(&d, &n);
    for (size_t k = 0; k <= n; k++) {
        uint8_t *cut = malloc(k + 1); /* so that the sanitizer sees reads past the end */
        IoPngText *text;
        int count;
        memcpy(cut, d, k);
        assert_int_equal(io_exif_decode(&text, &count, cut, k), 0);
        io_png_text_free(text, count);
        free(cut);
    }
    free(d);
}

static void exif__too_many_texts_and_no_ascii_are_refused(void **state)
{
    (void)state;
    char k[] = "k", v[] = "\xC3\xA9", a[] = "a";
    const IoPngText wide[] = {{k, v}}, many[] = {{k, a}, {k, a}, {k, a}, {k, a}};
    uint8_t *d;
    size_t n;
    assert_int_equal(io_exif_encode(&d, &n, wide, 1), ERR_FORMAT);
    assert_int_equal(io_exif_encode(&d, &n, many, 4), ERR_RANGE);
}

/* Blocks as piexif and Pillow write them; made by tests/peers/make_metadata.py. */
static void exif__reads_other_writers(void **state)
{
    (void)state;
    static const struct {
        const char *file, *key, *text;
    } cases[] = {
        {"a1111.jpg", "parameters", "a caf\xC3\xA9, \xE7\x8C\xAB\nNegative prompt: mud\nSteps: 20, Sampler: DPM++ 2M, Seed: 5"},
        {"a1111.webp", "parameters", "a caf\xC3\xA9, \xE7\x8C\xAB\nNegative prompt: mud\nSteps: 20, Sampler: DPM++ 2M, Seed: 5"},
        {"comfy.webp", "prompt", "{\"1\": {\"class_type\": \"KSampler\"}}"},
        {"little.jpg", "parameters", "plain words\nSteps: 3, Sampler: Euler, Seed: 9"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char path[256];
        IoPngText *text;
        int n;
        snprintf(path, sizeof path, "tests/vectors/metadata/%s", cases[i].file);
        assert_int_equal(io_image_read_text(&text, &n, path), 0);
        const char *found = io_png_text_find(text, n, cases[i].key);
        assert_non_null(found);
        assert_string_equal(found, cases[i].text);
        io_png_text_free(text, n);
    }
}

static void webp__lossless_is_exact(void **state)
{
    (void)state;
    IoImage img, back;
    uint8_t *e, *d;
    size_t ne, n;
    IoPngText *text;
    int count;
    picture(&img);
    make_block(&e, &ne);
    assert_int_equal(io_webp_encode(&d, &n, &img, 90, 1, e, ne), 0);
    assert_int_equal(io_image_decode(&back, d, n, "x"), 0);
    assert_int_equal(worst(&img, &back), 0);
    assert_int_equal(io_image_decode_text(&text, &count, d, n, "x"), 0);
    check_texts(text, count);
    io_image_deinit(&back);
    io_image_deinit(&img);
    free(d);
    free(e);
}

static void jpeg_and_webp__lossy_is_near(void **state)
{
    (void)state;
    IoImage img, back;
    uint8_t *e, *d;
    size_t ne, n;
    IoPngText *text;
    int count;
    picture(&img);
    make_block(&e, &ne);
    for (int webp = 0; webp < 2; webp++) {
        assert_int_equal(webp ? io_webp_encode(&d, &n, &img, 95, 0, e, ne) : io_jpeg_encode(&d, &n, &img, 95, e, ne), 0);
        assert_int_equal(io_image_decode(&back, d, n, "x"), 0);
        assert_in_range(worst(&img, &back), 1, 24);
        assert_int_equal(io_image_decode_text(&text, &count, d, n, "x"), 0);
        check_texts(text, count);
        io_image_deinit(&back);
        free(d);
    }
    free(e);
    io_image_deinit(&img);
}

static void jpeg_and_webp__bad_arguments(void **state)
{
    (void)state;
    IoImage img;
    uint8_t *d, *big = calloc(70000, 1);
    size_t n;
    picture(&img);
    assert_int_equal(io_jpeg_encode(&d, &n, &img, 0, NULL, 0), ERR_RANGE);
    assert_int_equal(io_jpeg_encode(&d, &n, &img, 90, big, 70000), ERR_RANGE);
    assert_int_equal(io_webp_encode(&d, &n, &img, 101, 0, NULL, 0), ERR_RANGE);
    assert_int_equal(io_jpeg_encode(&d, &n, &img, 50, NULL, 0), 0);
    free(d);
    free(big);
    io_image_deinit(&img);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(exif__texts_come_back),
        cmocka_unit_test(exif__cut_block_is_no_error),
        cmocka_unit_test(exif__too_many_texts_and_no_ascii_are_refused),
        cmocka_unit_test(exif__reads_other_writers),
        cmocka_unit_test(webp__lossless_is_exact),
        cmocka_unit_test(jpeg_and_webp__lossy_is_near),
        cmocka_unit_test(jpeg_and_webp__bad_arguments),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
