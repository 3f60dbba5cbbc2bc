/* What other programs write into images. The first byte chooses the reader: 'a' A1111, 'c' ComfyUI, 'i' InvokeAI, 'e' an EXIF block,
 * anything else a whole file. Whatever is read must become a configuration that loads. */
#include <string.h>

#include "fuzz.h"
#include "io/exif.h"
#include "sweep/conf.h"
#include "sweep/foreign.h"

static void try_foreign(const IoPngText *text, int n)
{
    Foreign f;
    SweepConf c = {0};
    StrBuf yaml;
    str_init(&yaml);
    if (foreign_parse(&f, text, n, "input") == 0) {
        foreign_yaml(&f, "input\n#", "out", &yaml);
        FUZZ_REQUIRE(config_init(&sweep_conf_table, &c) == 0);
        if (str_is_utf8(yaml.data, yaml.len) && config_load_text(&sweep_conf_table, &c, yaml.data, yaml.len, "yaml") < 0) {
            fprintf(stderr, "%s\n%s\n", err_message(), yaml.data);
            FUZZ_REQUIRE(!"the configuration loads");
        }
        if (str_is_utf8(f.prompt, strlen(f.prompt))) /* YAML carries no other bytes: they are written as '?' */
            FUZZ_REQUIRE(strcmp(c.prompt, f.prompt) == 0);
        FUZZ_REQUIRE(str_is_utf8(yaml.data, yaml.len) && c.seed == f.seed);
        config_deinit(&sweep_conf_table, &c);
    }
    str_deinit(&yaml);
    foreign_deinit(&f);
}

static void try_text(const char *key, const uint8_t *data, size_t size)
{
    char k[32], *v = malloc(size + 1);
    if (!v)
        return;
    memcpy(v, data, size);
    v[size] = 0;
    snprintf(k, sizeof k, "%s", key);
    const IoPngText text = {k, v};
    try_foreign(&text, 1);
    free(v);
}

/* What was read can be written, and comes back. */
static void try_block(const uint8_t *data, size_t size)
{
    IoPngText *text, *again;
    int n, m;
    uint8_t *block;
    size_t bytes;
    FUZZ_REQUIRE(io_exif_decode(&text, &n, data, size) == 0);
    const char *comment = io_png_text_find(text, n, "parameters");
    if (comment) {
        char key[] = "parameters", *value = strdup(comment);
        const IoPngText one = {key, value};
        FUZZ_REQUIRE(io_exif_encode(&block, &bytes, &one, 1) == 0);
        FUZZ_REQUIRE(io_exif_decode(&again, &m, block, bytes) == 0);
        io_png_text_free(again, m);
        free(block);
        free(value);
    }
    try_foreign(text, n);
    io_png_text_free(text, n);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    IoPngText *text;
    int n;
    if (!size)
        return 0;
    if (*data == 'a')
        try_text("parameters", data + 1, size - 1);
    else if (*data == 'c')
        try_text("prompt", data + 1, size - 1);
    else if (*data == 'i')
        try_text("invokeai_metadata", data + 1, size - 1);
    else if (*data == 'e')
        try_block(data + 1, size - 1);
    else if (io_image_decode_text(&text, &n, data, size, "input") == 0) {
        try_foreign(text, n);
        io_png_text_free(text, n);
    }
    return 0;
}
