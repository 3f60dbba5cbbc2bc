#include "comm/exact.h"

#include <math.h>

#include "base/error.h"

static const float VALUE_MAX = 0x1p20f;
static const double ONE = 0x1p40;
static const int64_t SUM_MAX = (int64_t)1 << 62;

/* Compiled also with 512-bit conversions between double and int64, chosen at start. Same bits either way. */
#if defined(__x86_64__)
#define WIDE __attribute__((noinline, target_clones("arch=skylake-avx512", "default"), optimize("O3", "no-math-errno", "no-trapping-math")))
#else
#define WIDE
#endif

enum { CHUNK = 1 << 16 };

WIDE static int64_t add_range(int64_t *restrict acc, const float *restrict g, int64_t n)
{
    int64_t bad = 0;
    for (int64_t i = 0; i < n; i++) {
        int fits = fabsf(g[i]) <= VALUE_MAX; /* false for NaN */
        int64_t q = (int64_t)rint((double)(fits ? g[i] : 0.0f) * ONE);
        int64_t sum = acc[i] + q; /* |acc| <= 2^62 and |q| <= 2^60: cannot wrap */
        int inside = (sum <= SUM_MAX) & (sum >= -SUM_MAX);
        acc[i] = inside ? sum : acc[i];
        bad += !(fits & inside);
    }
    return bad;
}

WIDE static int64_t large_range(const int64_t *acc, int64_t n, int64_t limit)
{
    int64_t large = 0;
    for (int64_t i = 0; i < n; i++)
        large += (acc[i] > limit) | (acc[i] < -limit);
    return large;
}

WIDE static void float_range(float *restrict out, const int64_t *restrict acc, int64_t n, double scale)
{
    for (int64_t i = 0; i < n; i++)
        out[i] = (float)((double)acc[i] * (1.0 / ONE) * scale);
}

static int64_t chunk_size(int64_t n, int64_t first)
{
    return n - first < CHUNK ? n - first : CHUNK;
}

int64_t exact_add(int64_t *acc, const float *g, int64_t n)
{
    int64_t bad = 0;
#pragma omp parallel for schedule(static) reduction(+ : bad) if (n > CHUNK)
    for (int64_t i = 0; i < n; i += CHUNK)
        bad += add_range(acc + i, g + i, chunk_size(n, i));
    return bad;
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

void exact_to_float(float *out, const int64_t *acc, int64_t n, double scale)
{
#pragma omp parallel for schedule(static) if (n > CHUNK)
    for (int64_t i = 0; i < n; i += CHUNK)
        float_range(out + i, acc + i, chunk_size(n, i), scale);
}
