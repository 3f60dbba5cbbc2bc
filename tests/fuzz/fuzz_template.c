#include <string.h>

#include "fuzz.h"
#include "text/template.h"

static void try_mode(const char *text, TemplateMode mode)
{
    Wildcards *w;
    Template *t;
    FUZZ_REQUIRE(wildcards_open(&w, "") == 0);
    if (template_create(&t, text, w, mode) >= 0) {
        int64_t n = template_count(t);
        StrBuf a, b;
        str_init(&a);
        str_init(&b);
        FUZZ_REQUIRE(n >= 0 && (mode == TEMPLATE_COMBINATORIAL || n == 0));
        const uint64_t item[] = {0, 1, 2, n > 0 && n < INT64_MAX ? (uint64_t)n - 1 : 1u << 30, UINT64_MAX};
        for (size_t i = 0; i < sizeof item / sizeof *item && a.len < 1 << 16; i++) {
            size_t before = a.len;
            FUZZ_REQUIRE(template_expand(t, 1, item[i], &a) == 0);
            FUZZ_REQUIRE(template_expand(t, 1, item[i], &b) == 0);
            FUZZ_REQUIRE(a.len == b.len && (!a.len || memcmp(a.data + before, b.data + before, a.len - before) == 0));
        }
        str_deinit(&a);
        str_deinit(&b);
        template_destroy(t);
    }
    wildcards_close(w);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size > 4096)
        return 0;
    char *text = malloc(size + 1);
    memcpy(text, data, size);
    text[size] = 0;
    try_mode(text, TEMPLATE_RANDOM);
    try_mode(text, TEMPLATE_COMBINATORIAL);
    try_mode(text, TEMPLATE_CYCLICAL);
    free(text);
    return 0;
}
