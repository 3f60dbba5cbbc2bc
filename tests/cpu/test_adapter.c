#include "cpu/adapter_cases.h"

CASE_TESTS(test_cpu_adapter, adapter_cases)

int main(void)
{
    const struct CMUnitTest tests[] = {CASE_TEST_LIST(test_cpu_adapter)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
