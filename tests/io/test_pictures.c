/* Kinds of images that sets hold, against Pillow's reading of them (tests/peers/make_pictures.py). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "io/image.h"

#define DIR "tests/vectors/pictures/"

/* JPEG decoders and conversions of CMYK differ a little. */
static void check(const char *name, int w, int h, const char *points)
{
    char path[128];
    IoImage img;
    int sw, sh, tolerance = strstr(name, ".jpg") ? 4 : 1;
    snprintf(path, sizeof path, DIR "%s", name);
    if (io_image_size(path, &sw, &sh) < 0 || io_image_load(&img, path) < 0)
        fail_msg("%s", err_message());
    assert_int_equal(io_image_to_rgb(&img, 255, 255, 255), 0);
    if (sw != w || sh != h || img.w != w || img.h != h)
        fail_msg("%s: size %d x %d, decoded %d x %d, expected %d x %d", name, sw, sh, img.w, img.h, w, h);
    for (int k = 0; k < 16; k++) {
        int want[3], used;
        assert_int_equal(sscanf(points, " %d,%d,%d%n", &want[0], &want[1], &want[2], &used), 3);
        points += used;
        const uint8_t *p = img.data + 3 * ((2 * (k / 4) + 1) * h / 8 * w + (2 * (k % 4) + 1) * w / 8);
        for (int c = 0; c < 3; c++)
            if (abs(p[c] - want[c]) > tolerance)
                fail_msg("%s: point %d: %d,%d,%d, expected %d,%d,%d", name, k, p[0], p[1], p[2], want[0], want[1], want[2]);
    }
    io_image_deinit(&img);
}

static void test_io_pictures__as_pillow_reads_them(void **state)
{
    (void)state;
    char line[1024], name[64];
    int w, h, used, n = 0;
    FILE *f = fopen(DIR "expect.txt", "r");
    assert_non_null(f);
    for (; fgets(line, sizeof line, f); n++) {
        assert_int_equal(sscanf(line, "%63s %d %d%n", name, &w, &h, &used), 3);
        check(name, w, h, line + used);
    }
    fclose(f);
    assert_int_equal(n, 15);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_io_pictures__as_pillow_reads_them)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
