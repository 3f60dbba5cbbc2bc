#include <string.h>

#include "fuzz.h"
#include "io/s3_impl.h"

/* Whatever a server lists: names without end or sense are fine, and none lies outside of its own memory. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = malloc(size + 1), **names = NULL, *bucket, *prefix;
    int n = 0;
    memcpy(text, data, size);
    text[size] = 0;
    FUZZ_REQUIRE(s3_names_parse(text, &names, &n) == 0);
    for (int i = 0; i < n; i++)
        FUZZ_REQUIRE(strlen(names[i]) <= size);
    io_s3_names_free(names, n);
    if (io_s3_url(text, &bucket, &prefix) == 0)
        FUZZ_REQUIRE(strlen(bucket) + strlen(prefix) < size);
    free(bucket);
    free(prefix);
    free(text);
    return 0;
}
