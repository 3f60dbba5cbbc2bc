#include "cpu/harness.h"

static const Case cases[] = {
    {.name = "mul per item", .kind = OP_MUL_BCAST, .attr = {.bcast = BCAST_ITEM}, .nin = 2,
     .in = {IN('T', 2, 3, 4, 5), IN('T', 2, 5)}, .items = 1},
    {.name = "mul per item, P", .kind = OP_MUL_BCAST, .attr = {.bcast = BCAST_ITEM}, .nin = 2,
     .in = {IN('T', 2, 300, 9), IN('P', 2, 9)}, .items = 1, .skip_fd = 1},
    {.name = "mul per channel", .kind = OP_MUL_BCAST, .attr = {.bcast = BCAST_CHANNEL}, .nin = 2,
     .in = {IN('T', 3, 7, 5), IN('P', 5)}},
    {.name = "mul per channel 640", .kind = OP_MUL_BCAST, .attr = {.bcast = BCAST_CHANNEL}, .nin = 2,
     .in = {IN('T', 2, 90, 640), IN('P', 640)}, .skip_fd = 1},
    {.name = "row gain", .kind = OP_ROW_GAIN, .nin = 2, .in = {IN('P', 5), IN('P', 5, 7)}, .skip_fd = 1},
    {.name = "row gain of kernels", .kind = OP_ROW_GAIN, .nin = 2, .in = {IN('P', 3), IN('P', 3, 40, 3, 3)}, .skip_fd = 1},
};

CASE_TESTS(test_cpu_adapter, cases)

int main(void)
{
    const struct CMUnitTest tests[] = {CASE_TEST_LIST(test_cpu_adapter)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
