#include <string.h>

#include "base/error.h"
#include "fuzz.h"
#include "io/png.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    IoImage img;
    IoPngText *text = NULL;
    int n = 0;
    if (io_image_decode(&img, data, size, "input") == 0) {
        FUZZ_REQUIRE(img.w > 0 && img.h > 0 && img.c >= 1 && img.c <= 4 && img.data);
        volatile uint8_t last = img.data[(size_t)img.w * (size_t)img.h * (size_t)img.c - 1];
        (void)last;
        io_image_deinit(&img);
    } else {
        FUZZ_REQUIRE(!img.data && strncmp(err_message(), "input: ", 7) == 0);
    }
    if (io_png_decode_text(&text, &n, data, size, "input") == 0) {
        for (int i = 0; i < n; i++)
            FUZZ_REQUIRE(*text[i].key && text[i].value);
    } else {
        FUZZ_REQUIRE(!text && n == 0);
    }
    io_png_text_free(text, n);
    return 0;
}
