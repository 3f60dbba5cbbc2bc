/* Files that torch itself wrote (tests/peers/make_embeddings.py). */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "io/torch_file.h"
#include "models/fixture.h"

#define DIR "tests/vectors/embeddings/"

static void torch_file__embedding_of_a1111(void **state)
{
    (void)state;
    IoSafetensors *f;
    IoTensor t;
    void *memory;
    assert_true(io_torch_is(DIR "a1111.pt"));
    assert_false(io_torch_is("tests/vectors/adapters/lora_linear.safetensors"));
    OK(io_torch_open(&f, &memory, DIR "a1111.pt"));
    assert_int_equal(io_safetensors_count(f), 1);
    OK(io_safetensors_get(f, "string_to_param.*", &t));
    assert_int_equal(t.dtype, DTYPE_F32);
    assert_true(t.ndim == 2 && t.dim[0] == 2 && t.dim[1] == 32);
    for (int i = 0; i < 64; i++)
        assert_true(((const float *)t.data)[i] == (float)(i - 20) / 64);
    io_safetensors_close(f);
    free(memory);
}

static void torch_file__embedding_of_diffusers_is_a_part_of_its_storage(void **state)
{
    (void)state;
    IoSafetensors *f;
    IoTensor t;
    void *memory;
    OK(io_torch_open(&f, &memory, DIR "learned_embeds.bin"));
    OK(io_safetensors_get(f, "<cat-toy>", &t));
    assert_int_equal(t.dtype, DTYPE_F16);
    assert_true(t.ndim == 1 && t.dim[0] == 32);
    assert_int_equal(((const uint16_t *)t.data)[0], 0x3200); /* 12 / 64 */
    io_safetensors_close(f);
    free(memory);
}

static void torch_file__refuses(void **state)
{
    (void)state;
    IoSafetensors *f;
    void *memory;
    FAILS(io_torch_open(&f, &memory, DIR "calls.pt"), ERR_UNSUPPORTED, "'posix getcwd'");
    FAILS(io_torch_open(&f, &memory, DIR "transposed.pt"), ERR_UNSUPPORTED, "contiguous");
    FAILS(io_torch_open(&f, &memory, DIR "legacy.pt"), ERR_UNSUPPORTED, "load it with torch and save it again");
    FAILS(io_torch_open(&f, &memory, DIR "none.pt"), ERR_NOTFOUND, "none.pt");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(torch_file__embedding_of_a1111),
        cmocka_unit_test(torch_file__embedding_of_diffusers_is_a_part_of_its_storage),
        cmocka_unit_test(torch_file__refuses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
