/* Signatures as botocore makes them (tests/peers/s3_vectors.py), names and URLs. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/error.h"
#include "io/s3.h"

static int line(FILE *f, char *buf, size_t size)
{
    if (!fgets(buf, (int)size, f))
        return 0;
    buf[strcspn(buf, "\n")] = 0;
    return 1;
}

static void signs_like_botocore(void **state)
{
    (void)state;
    char part[9][1024], blank[8];
    int n = 0;
    FILE *f = fopen("tests/vectors/s3/sigv4.txt", "r");
    assert_non_null(f);
    while (line(f, part[0], sizeof part[0])) {
        for (int i = 1; i < 9; i++)
            assert_true(line(f, part[i], sizeof part[i]));
        line(f, blank, sizeof blank);
        const char *header[] = {part[6], NULL};
        const IoS3 s = {.region = "eu-central-1", .key = "AKIDEXAMPLE", .secret = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", .token = part[7]};
        const IoS3Request r = {.method = part[0], .path = part[1], .query = part[2], .host = part[3], .payload = part[4], .time = part[5],
                               .header = part[6][0] ? header : NULL};
        char *got = NULL;
        assert_int_equal(io_s3_authorization(&got, &s, &r), 0);
        assert_string_equal(got, part[8]);
        free(got);
        n++;
    }
    fclose(f);
    assert_int_equal(n, 9);
}

static void encodes_names(void **state)
{
    (void)state;
    char *got;
    assert_int_equal(io_s3_encode(&got, "a b/\xC3\xA9+(1)~.png", 1), 0);
    assert_string_equal(got, "a%20b/%C3%A9%2B%281%29~.png");
    free(got);
    assert_int_equal(io_s3_encode(&got, "a/b=", 0), 0);
    assert_string_equal(got, "a%2Fb%3D");
    free(got);
}

static void splits_urls(void **state)
{
    (void)state;
    static const char *const bad[] = {"", "s3://", "s3:///x", "http://x/y", "bucket/x"};
    char *bucket, *prefix;
    assert_int_equal(io_s3_url("s3://art/runs/7/", &bucket, &prefix), 0);
    assert_string_equal(bucket, "art");
    assert_string_equal(prefix, "runs/7");
    free(bucket);
    free(prefix);
    assert_int_equal(io_s3_url("s3://art", &bucket, &prefix), 0);
    assert_string_equal(prefix, "");
    free(bucket);
    free(prefix);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(io_s3_url(bad[i], &bucket, &prefix), ERR_FORMAT);
}

static void asks_for_keys(void **state)
{
    (void)state;
    IoS3 s;
    unsetenv("AWS_ACCESS_KEY_ID");
    assert_int_equal(io_s3_init(&s), ERR_NOTFOUND);
    assert_non_null(strstr(err_message(), "AWS_ACCESS_KEY_ID"));
    io_s3_deinit(&s);
    setenv("AWS_ACCESS_KEY_ID", "k", 1);
    setenv("AWS_SECRET_ACCESS_KEY", "s", 1);
    setenv("AWS_ENDPOINT_URL", "ftp://x", 1);
    assert_int_equal(io_s3_init(&s), ERR_FORMAT);
    io_s3_deinit(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(signs_like_botocore),
        cmocka_unit_test(encodes_names),
        cmocka_unit_test(splits_urls),
        cmocka_unit_test(asks_for_keys),
    };
    return cmocka_run_group_tests_name("io_s3", tests, NULL, NULL);
}
