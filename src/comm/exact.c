#include "comm/exact.h"

#include <math.h>

#include "base/error.h"

static const float VALUE_MAX = 0x1p20f;
static const double ONE = 0x1p40;
static const int64_t SUM_MAX = (int64_t)1 << 62;

int64_t exact_add(int64_t *acc, const float *g, int64_t n)
{
    int64_t bad = 0;
#pragma omp parallel for schedule(static) reduction(+ : bad) if (n > 65536)
    for (int64_t i = 0; i < n; i++) {
        int fits = fabsf(g[i]) <= VALUE_MAX; /* false for NaN */
        int64_t q = llrint((double)(fits ? g[i] : 0.0f) * ONE);
        int64_t sum = acc[i] + q; /* |acc| <= 2^62 and |q| <= 2^60: cannot wrap */
        int inside = sum <= SUM_MAX && sum >= -SUM_MAX;
        acc[i] = inside ? sum : acc[i];
        bad += !(fits && inside);
    }
    return bad;
}

int exact_reduce(Comm *c, int64_t *acc, int64_t n, int64_t bad)
{
    int64_t limit = INT64_MAX / c->size, large = 0;
#pragma omp parallel for schedule(static) reduction(+ : large) if (n > 65536)
    for (int64_t i = 0; i < n; i++)
        large += acc[i] > limit || acc[i] < -limit;
    int64_t total[2] = {bad, large};
    TRY(comm_sum_i64(c, total, 2));
    if (total[0])
        return err_set(ERR_NUMERIC, "%lld gradient values are not finite or larger than 2^%d", (long long)total[0], EXACT_MAX_LOG2);
    if (total[1])
        return err_set(ERR_NUMERIC, "the sum of %lld gradients is out of range", (long long)total[1]);
    return comm_sum_i64(c, acc, n);
}

void exact_to_float(float *out, const int64_t *acc, int64_t n, double scale)
{
#pragma omp parallel for schedule(static) if (n > 65536)
    for (int64_t i = 0; i < n; i++)
        out[i] = (float)((double)acc[i] * (1.0 / ONE) * scale);
}
