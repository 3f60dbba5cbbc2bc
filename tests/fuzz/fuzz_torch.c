/* torch.save's files: converted bytes are a safetensors file. */
#include "fuzz.h"
#include "io/torch_file.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    void *out;
    size_t n;
    IoSafetensors *s;
    if (io_torch_convert(&out, &n, data, size, "input") < 0) {
        FUZZ_REQUIRE(!out);
        return 0;
    }
    if (io_safetensors_open_memory(&s, out, n, "input") == 0) /* names may be no UTF-8, or twice there */
        io_safetensors_close(s);
    free(out);
    return 0;
}
