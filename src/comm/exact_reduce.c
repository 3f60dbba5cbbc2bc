#include "comm/exact_impl.h"

#include "base/error.h"

WIDE static int64_t large_range(const int64_t *acc, int64_t n, int64_t limit)
{
    int64_t large = 0;
    for (int64_t i = 0; i < n; i++)
        large += (acc[i] > limit) | (acc[i] < -limit);
    return large;
}

int exact_check(Comm *c, const int64_t *acc, int64_t n, int64_t bad, int64_t large)
{
    int64_t limit = exact_limit(c);
#pragma omp parallel for schedule(static) reduction(+ : large) if (n > CHUNK)
    for (int64_t i = 0; i < n; i += CHUNK)
        large += large_range(acc + i, chunk_size(n, i), limit);
    int64_t total[2] = {bad, large};
    TRY(comm_sum_i64(c, total, 2));
    if (total[0])
        return err_set(ERR_NUMERIC, "%lld gradient values are not finite or larger than 2^%d", (long long)total[0], EXACT_MAX_LOG2);
    if (total[1])
        return err_set(ERR_NUMERIC, "the sum of %lld gradients is out of range", (long long)total[1]);
    return 0;
}

int exact_reduce(Comm *c, int64_t *acc, int64_t n, int64_t bad)
{
    TRY(exact_check(c, acc, n, bad, 0));
    return comm_sum_i64(c, acc, n);
}
