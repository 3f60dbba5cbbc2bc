#include "base/hash.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/progress.h"

static void test_base_hash__known_answers(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        /* FIPS 180-2, and the hash of nothing */
        {"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
        {"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
        {"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
         "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"},
    };
    for (int i = 0; i < 3; i++) {
        uint8_t sum[HASH_SIZE];
        char hex[HASH_HEX_SIZE];
        assert_int_equal(hash_bytes(sum, cases[i][0], strlen(cases[i][0])), 0);
        hash_hex(hex, sum, sizeof sum);
        assert_string_equal(hex, cases[i][1]);
    }
}

static void test_base_hash__files_and_ranges(void **state)
{
    (void)state;
    enum { N = 700000 };
    static char data[N];
    char path[] = "/tmp/atelier-test-XXXXXX", hex[HASH_HEX_SIZE], again[HASH_HEX_SIZE];
    uint8_t a[HASH_SIZE], b[HASH_SIZE];
    Hash *h;
    for (int i = 0; i < N; i++)
        data[i] = (char)(i * 31 >> 3);
    int fd = mkstemp(path);
    assert_int_equal(write(fd, data, N), N);
    close(fd);
    assert_int_equal(hash_create(&h), 0);
    for (int i = 0; i < N; i += 1000)
        assert_int_equal(hash_update(h, data + i, 1000), 0);
    assert_int_equal(hash_finish(h, a), 0);
    hash_destroy(h);
    hash_destroy(NULL);
    assert_int_equal(hash_file(b, path), 0);
    assert_memory_equal(a, b, sizeof a);
    hash_hex(hex, a, sizeof a);
    assert_int_equal(hash_file_hex(again, path), 0);
    assert_string_equal(hex, again);
    static const int64_t ranges[][3] = {{10, 300000, 300000}, {N - 5, 100, 5}, {N + 5, 100, 0}, {5, -1, N - 5}, {5, 0, 0}};
    for (int i = 0; i < 5; i++) {
        int64_t from = ranges[i][0] < N ? ranges[i][0] : 0;
        assert_int_equal(hash_file_range(a, path, ranges[i][0], ranges[i][1]), 0);
        assert_int_equal(hash_bytes(b, data + from, (size_t)ranges[i][2]), 0);
        assert_memory_equal(a, b, sizeof a);
    }
    unlink(path);
    assert_int_equal(hash_file(a, path), ERR_NOTFOUND);
    assert_int_equal(hash_file(a, "/tmp"), ERR_IO);
}

static void test_base_clock__texts(void **state)
{
    (void)state;
    char b[32], utc[CLOCK_UTC_SIZE];
    assert_string_equal(clock_duration_text(70.2, b, sizeof b), "00:01:10");
    assert_string_equal(clock_duration_text(59.6, b, sizeof b), "00:01:00");
    assert_string_equal(clock_duration_text(26 * 3600, b, sizeof b), "26:00:00");
    assert_string_equal(clock_duration_text(-1, b, sizeof b), "--:--:--");
    assert_string_equal(clock_duration_text(1.0 / 0.0, b, sizeof b), "--:--:--");
    clock_utc_text(utc);
    assert_int_equal(strlen(utc), 20);
    assert_true(utc[4] == '-' && utc[10] == 'T' && utc[19] == 'Z');
    int64_t a = clock_now_ns();
    assert_true(clock_now_ns() >= a);
}

static size_t shown(FILE *f, char *out, size_t size)
{
    rewind(f);
    size_t n = fread(out, 1, size - 1, f);
    out[n] = 0;
    return n;
}

static void test_base_progress__plain_lines_are_rare(void **state)
{
    (void)state;
    char text[4096];
    Progress p;
    progress_init(&p, "step", 10, 1010, 1);
    p.to = tmpfile();
    p.terminal = 0;
    for (int i = 11; i <= 1010; i++)
        progress_update(&p, i, "loss %.4f", 0.1234);
    progress_update(&p, 1010, "again");
    shown(p.to, text, sizeof text);
    int lines = 0;
    for (const char *c = text; *c; c++)
        lines += *c == '\n';
    assert_int_equal(lines, 2);
    assert_non_null(strstr(text, "step 11/1010  loss 0.1234  left "));
    assert_non_null(strstr(text, "step 1010/1010  loss 0.1234  left 00:00:00\n"));
    assert_null(strchr(text, '\r'));
    fclose(p.to);
}

static void test_base_progress__terminal_rewrites(void **state)
{
    (void)state;
    char text[4096];
    Progress p;
    progress_init(&p, "image", 0, 3, 1);
    p.to = tmpfile();
    p.terminal = 1;
    progress_update(&p, 1, "%s", "");
    progress_break(&p);
    progress_break(&p);
    p.shown = -1e9;
    progress_update(&p, 2, "x");
    progress_update(&p, 3, "y");
    shown(p.to, text, sizeof text);
    assert_non_null(strstr(text, "\r\033[Kimage 1/3  left "));
    assert_non_null(strstr(text, "\n\r\033[Kimage 2/3  x  left "));
    assert_true(strlen(text) > 0 && text[strlen(text) - 1] == '\n');
    fclose(p.to);
    progress_init(&p, "image", 0, 3, 0);
    progress_update(&p, 1, "nobody sees this");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_base_hash__known_answers),
        cmocka_unit_test(test_base_hash__files_and_ranges),
        cmocka_unit_test(test_base_clock__texts),
        cmocka_unit_test(test_base_progress__plain_lines_are_rare),
        cmocka_unit_test(test_base_progress__terminal_rewrites),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
