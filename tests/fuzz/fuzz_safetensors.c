#include <string.h>

#include "base/arena.h"
#include "base/error.h"
#include "fuzz.h"
#include "io/safetensors.h"
#include "io/safetensors_impl.h"

static void read_all(IoSafetensors *s)
{
    volatile unsigned sum = 0;
    int64_t bytes = 0;
    for (int i = 0; i < io_safetensors_count(s); i++) {
        IoTensor t;
        int rc = io_safetensors_at(s, i, &t);
        FUZZ_REQUIRE(rc == 0 || rc == ERR_UNSUPPORTED);
        FUZZ_REQUIRE(io_safetensors_find(s, io_safetensors_name(s, i)) == i);
        if (rc < 0)
            continue;
        size_t count = 1;
        for (int k = 0; k < t.ndim; k++)
            count *= (size_t)t.dim[k];
        FUZZ_REQUIRE(count * dtype_size(t.dtype) == t.bytes);
        FUZZ_REQUIRE(!t.bytes || (uintptr_t)t.data % dtype_size(t.dtype) == 0);
        for (size_t k = 0; k < t.bytes; k++)
            sum += ((const unsigned char *)t.data)[k];
        bytes += (int64_t)t.bytes;
    }
    FUZZ_REQUIRE(bytes <= io_safetensors_bytes(s));
    for (int i = 0; i < io_safetensors_meta_count(s); i++) {
        IoMeta m = io_safetensors_meta_at(s, i);
        FUZZ_REQUIRE(io_safetensors_meta(s, m.key) == m.value);
        sum += (unsigned)strlen(m.value);
    }
}

static void try_open(const uint8_t *data, size_t size)
{
    IoSafetensors *s;
    int rc = io_safetensors_open_memory(&s, data, size, "input");
    if (rc == 0)
        read_all(s);
    else
        FUZZ_REQUIRE(s == NULL && strncmp(err_message(), "input: ", 7) == 0);
    io_safetensors_close(s);
}

static void try_index(const uint8_t *data, size_t size)
{
    Arena arena;
    IoIndexItem *item = NULL;
    int count = 0;
    arena_init(&arena, 0);
    io_index_parse(&item, &count, &arena, (const char *)data, size, "input");
    free(item);
    arena_deinit(&arena);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    try_open(data, size);
    if (size > 0 && data[0] == '{')
        try_index(data, size);
    /* A mutated header nearly always has another size than the file says: set it right, so that it is parsed. */
    if (size >= 8) {
        uint8_t *fixed = malloc(size);
        uint64_t n = 0;
        memcpy(fixed, data, size);
        for (size_t i = 8; i < size; i++)
            if (data[i] == '}')
                n = i - 7;
        for (int i = 0; i < 8; i++)
            fixed[i] = (uint8_t)(n >> (8 * i));
        try_open(fixed, size);
        free(fixed);
    }
    return 0;
}
