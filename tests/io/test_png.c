#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>

#include "io/png.h"

#define DIR "tests/vectors/png/"

static void says(int rc, int code, const char *text)
{
    if (rc != code || !strstr(err_message(), text))
        fail_msg("rc %d (want %d): \"%s\" lacks \"%s\"", rc, code, err_message(), text);
}

static size_t slurp(const char *path, uint8_t **out)
{
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    fseek(f, 0, SEEK_END);
    size_t n = (size_t)ftell(f);
    rewind(f);
    *out = malloc(n + 1);
    assert_int_equal(fread(*out, 1, n, f), n);
    fclose(f);
    return n;
}

static uint32_t be32(const uint8_t *p) { return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3]; }

/* First chunk of a type; NULL when there is none. */
static uint8_t *find_chunk(uint8_t *d, size_t size, const char *type, size_t *len)
{
    for (size_t at = 8; at + 12 <= size;) {
        *len = be32(d + at);
        if (memcmp(d + at + 4, type, 4) == 0)
            return d + at + 8;
        at += *len + 12;
    }
    return NULL;
}

/* pixels.safetensors holds one tensor, rgb U8[32,48,3]. */
static const uint8_t *reference_pixels(uint8_t **file)
{
    slurp(DIR "pixels.safetensors", file);
    uint64_t n;
    memcpy(&n, *file, 8);
    return *file + 8 + n;
}

static json_t *expected(void)
{
    json_error_t e;
    json_t *j = json_load_file(DIR "expected.json", 0, &e);
    assert_non_null(j);
    return j;
}

static void test_io_png__reads_reference_files(void **state)
{
    (void)state;
    json_t *all = expected(), *j;
    const char *name;
    uint8_t *file = NULL;
    const uint8_t *pixels = reference_pixels(&file);
    json_object_foreach(all, name, j)
    {
        char path[128];
        IoImage img;
        IoPngText *text = NULL;
        int n = 0;
        snprintf(path, sizeof path, DIR "%s.png", name);
        assert_int_equal(io_image_load(&img, path), 0);
        assert_int_equal(img.w, 48);
        assert_int_equal(img.h, 32);
        assert_int_equal(img.c, 3);
        assert_memory_equal(img.data, pixels, 48 * 32 * 3);
        io_image_deinit(&img);
        assert_int_equal(io_png_read_text(&text, &n, path), 0);
        const char *want = json_string_value(json_object_get(j, "parameters"));
        assert_non_null(io_png_text_find(text, n, "parameters"));
        assert_string_equal(io_png_text_find(text, n, "parameters"), want);
        assert_null(io_png_text_find(text, n, "nothing"));
        io_png_text_free(text, n);
    }
    free(file);
    json_decref(all);
}

/* The same chunk, byte for byte, as the reference writer's. */
static void test_io_png__writes_reference_chunks(void **state)
{
    (void)state;
    json_t *all = expected(), *j;
    const char *name;
    uint8_t *file = NULL;
    const uint8_t *pixels = reference_pixels(&file);
    json_object_foreach(all, name, j)
    {
        char path[128];
        uint8_t *got = NULL, *want = NULL;
        size_t got_n = 0, a = 0, b = 0;
        IoImage img = {48, 32, 3, (uint8_t *)(uintptr_t)pixels}, back;
        char key[] = "parameters";
        char *value = (char *)(uintptr_t)json_string_value(json_object_get(j, "parameters"));
        const char *type = json_string_value(json_object_get(j, "chunk"));
        const IoPngText text = {key, value};
        assert_int_equal(io_png_encode(&got, &got_n, &img, &text, 1, -1), 0);
        snprintf(path, sizeof path, DIR "%s.png", name);
        size_t want_n = slurp(path, &want);
        uint8_t *cg = find_chunk(got, got_n, type, &a), *cw = find_chunk(want, want_n, type, &b);
        assert_non_null(cg);
        assert_non_null(cw);
        assert_int_equal(a, b);
        assert_memory_equal(cg, cw, a + 4); /* with the CRC */
        assert_int_equal(io_image_decode(&back, got, got_n, "memory"), 0);
        assert_memory_equal(back.data, pixels, 48 * 32 * 3);
        io_image_deinit(&back);
        free(got);
        free(want);
    }
    free(file);
    json_decref(all);
}

static void test_io_png__round_trip_of_channels_and_levels(void **state)
{
    (void)state;
    for (int c = 1; c <= 4; c++)
        for (int level = -1; level <= 9; level += 5) {
            IoImage img, back;
            uint8_t *a = NULL, *b = NULL;
            size_t na = 0, nb = 0;
            assert_int_equal(io_image_init(&img, 17, 9, c), 0);
            for (int i = 0; i < 17 * 9 * c; i++)
                img.data[i] = (uint8_t)(i * i % 251);
            assert_int_equal(io_png_encode(&a, &na, &img, NULL, 0, level), 0);
            assert_int_equal(io_png_encode(&b, &nb, &img, NULL, 0, level), 0);
            assert_int_equal(na, nb);
            assert_memory_equal(a, b, na);
            assert_int_equal(io_image_decode(&back, a, na, "memory"), 0);
            assert_int_equal(back.c, c);
            assert_memory_equal(back.data, img.data, (size_t)(17 * 9 * c));
            io_image_deinit(&img);
            io_image_deinit(&back);
            free(a);
            free(b);
        }
}

static void test_io_png__write_is_atomic_and_keeps_all_text(void **state)
{
    (void)state;
    char path[] = "/tmp/test_png_XXXXXX", k1[] = "parameters", k2[] = "atelier", v1[] = "caf\xC3\xA9\nx", v2[] = "{\"a\": \"\xE7\x8C\xAB\"}";
    const IoPngText text[] = {{k1, v1}, {k2, v2}};
    IoPngText *back = NULL;
    int n = 0, fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    IoImage img;
    assert_int_equal(io_image_init(&img, 2, 2, 3), 0);
    assert_int_equal(io_png_write(path, &img, text, 2, 9), 0);
    assert_int_equal(io_png_read_text(&back, &n, path), 0);
    assert_int_equal(n, 2);
    assert_string_equal(back[0].key, k1);
    assert_string_equal(back[0].value, v1);
    assert_string_equal(back[1].value, v2);
    io_png_text_free(back, n);
    says(io_png_write("/nonexistent/x.png", &img, NULL, 0, 6), ERR_NOTFOUND, "/nonexistent/x.png");
    /* A refused write leaves the old file. */
    char bad[] = "\xFF";
    const IoPngText wrong = {k1, bad};
    says(io_png_write(path, &img, &wrong, 1, 6), ERR_FORMAT, "not UTF-8");
    assert_int_equal(io_png_read_text(&back, &n, path), 0);
    assert_int_equal(n, 2);
    io_png_text_free(back, n);
    io_image_deinit(&img);
    unlink(path);
}

static void test_io_png__rejects_bad_keys(void **state)
{
    (void)state;
    IoImage img;
    uint8_t *d = NULL;
    size_t n;
    char value[] = "x", longer[81], *const key[] = {"", " a", "a ", "a  b", "a\nb", "caf\xC3\xA9", longer};
    memset(longer, 'k', 80);
    longer[80] = 0;
    assert_int_equal(io_image_init(&img, 1, 1, 1), 0);
    for (size_t i = 0; i < sizeof key / sizeof *key; i++) {
        const IoPngText text = {key[i], value};
        says(io_png_encode(&d, &n, &img, &text, 1, 6), ERR_RANGE, "key");
        assert_null(d);
    }
    assert_int_equal(io_png_encode(&d, &n, &img, NULL, 0, 10), ERR_RANGE);
    io_image_deinit(&img);
}

/* ---- text chunks made by hand ---- */

static size_t add_chunk(uint8_t *d, size_t at, const char *type, const void *body, size_t n)
{
    const uint8_t len[4] = {(uint8_t)(n >> 24), (uint8_t)(n >> 16), (uint8_t)(n >> 8), (uint8_t)n};
    memcpy(d + at, len, 4);
    memcpy(d + at + 4, type, 4);
    memcpy(d + at + 8, body, n);
    uint32_t crc = (uint32_t)crc32(crc32(0, NULL, 0), d + at + 4, (uInt)n + 4);
    const uint8_t c[4] = {(uint8_t)(crc >> 24), (uint8_t)(crc >> 16), (uint8_t)(crc >> 8), (uint8_t)crc};
    memcpy(d + at + 8 + n, c, 4);
    return at + 12 + n;
}

static int read_one(const char *type, const void *body, size_t n, IoPngText **text, int *count)
{
    static uint8_t d[4096];
    memcpy(d, "\x89PNG\r\n\x1a\n", 8);
    size_t at = add_chunk(d, 8, type, body, n);
    at = add_chunk(d, at, "IEND", "", 0);
    return io_png_decode_text(text, count, d, at, "made.png");
}

static void test_io_png__text_chunk_kinds(void **state)
{
    (void)state;
    IoPngText *text = NULL;
    int n = 0;
    uint8_t body[256] = "key\0\0";
    uLongf packed = 200;
    assert_int_equal(read_one("tEXt", "k\xE9y\0caf\xE9", 8, &text, &n), 0);
    assert_string_equal(text[0].key, "k\xC3\xA9y");
    assert_string_equal(text[0].value, "caf\xC3\xA9");
    io_png_text_free(text, n);
    assert_int_equal(compress(body + 5, &packed, (const Bytef *)"h\xE9llo", 5), Z_OK);
    assert_int_equal(read_one("zTXt", body, 5 + packed, &text, &n), 0);
    assert_string_equal(text[0].value, "h\xC3\xA9llo");
    io_png_text_free(text, n);
    packed = 200;
    memcpy(body, "key\0\1\0en\0clef\0", 14);
    assert_int_equal(compress(body + 13, &packed, (const Bytef *)"\xE7\x8C\xAB", 3), Z_OK);
    memcpy(body, "key\0\1\0en\0clf\0", 13);
    assert_int_equal(read_one("iTXt", body, 13 + packed, &text, &n), 0);
    assert_string_equal(text[0].value, "\xE7\x8C\xAB");
    io_png_text_free(text, n);
}

static void test_io_png__broken_text_chunks_are_errors(void **state)
{
    (void)state;
    IoPngText *text = NULL;
    int n = 0;
    says(read_one("tEXt", "nokey", 5, &text, &n), ERR_FORMAT, "made.png: PNG: tEXt chunk has no key");
    assert_null(text);
    says(read_one("tEXt", "\0x", 2, &text, &n), ERR_FORMAT, "no key");
    says(read_one("zTXt", "k\0\1xx", 5, &text, &n), ERR_FORMAT, "zTXt");
    says(read_one("zTXt", "k\0\0xx", 5, &text, &n), ERR_FORMAT, "corrupt");
    says(read_one("iTXt", "k\0\0", 3, &text, &n), ERR_FORMAT, "iTXt");
    says(read_one("iTXt", "k\0\0\0\0\0\xFF", 7, &text, &n), ERR_FORMAT, "UTF-8");
    says(io_png_decode_text(&text, &n, (const uint8_t *)"GIF89a", 6, "x"), ERR_FORMAT, "not a PNG");
    says(io_png_read_text(&text, &n, "/nonexistent.png"), ERR_NOTFOUND, "/nonexistent.png");
    uint8_t *file = NULL;
    size_t size = slurp(DIR "a1111_text.png", &file);
    file[8 + 25 + 20] ^= 1; /* inside the first text chunk */
    says(io_png_decode_text(&text, &n, file, size, "x"), ERR_FORMAT, "CRC");
    says(io_png_decode_text(&text, &n, file, 100, "x"), ERR_FORMAT, "truncated");
    free(file);
}

/* Every truncation and many single-bit changes: an error or a whole image, never a crash. */
static void test_io_png__corrupt_files_are_errors(void **state)
{
    (void)state;
    uint8_t *file = NULL;
    size_t size = slurp(DIR "a1111_text.png", &file);
    IoImage img;
    for (size_t n = 0; n < size; n += 7) {
        assert_true(io_image_decode(&img, file, n, "cut.png") < 0);
        assert_non_null(strstr(err_message(), "cut.png"));
        assert_null(img.data);
    }
    for (size_t at = 0; at < size; at += 5) {
        file[at] ^= 0x10;
        if (io_image_decode(&img, file, size, "bad.png") == 0)
            io_image_deinit(&img);
        file[at] ^= 0x10;
    }
    free(file);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_io_png__reads_reference_files),
        cmocka_unit_test(test_io_png__writes_reference_chunks),
        cmocka_unit_test(test_io_png__round_trip_of_channels_and_levels),
        cmocka_unit_test(test_io_png__write_is_atomic_and_keeps_all_text),
        cmocka_unit_test(test_io_png__rejects_bad_keys),
        cmocka_unit_test(test_io_png__text_chunk_kinds),
        cmocka_unit_test(test_io_png__broken_text_chunks_are_errors),
        cmocka_unit_test(test_io_png__corrupt_files_are_errors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
