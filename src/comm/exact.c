#include "comm/exact_impl.h"

#include <math.h>

static const float VALUE_MAX = 0x1p20f;
static const double ONE = 0x1p40;
static const int64_t SUM_MAX = (int64_t)1 << 62;

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

WIDE static void float_range(float *restrict out, const int64_t *restrict acc, int64_t n, double scale)
{
    for (int64_t i = 0; i < n; i++)
        out[i] = (float)((double)acc[i] * (1.0 / ONE) * scale);
}

int64_t exact_add(int64_t *acc, const float *g, int64_t n)
{
    int64_t bad = 0;
#pragma omp parallel for schedule(static) reduction(+ : bad) if (n > CHUNK)
    for (int64_t i = 0; i < n; i += CHUNK)
        bad += add_range(acc + i, g + i, chunk_size(n, i));
    return bad;
}

void exact_to_float(float *out, const int64_t *acc, int64_t n, double scale)
{
#pragma omp parallel for schedule(static) if (n > CHUNK)
    for (int64_t i = 0; i < n; i += CHUNK)
        float_range(out + i, acc + i, chunk_size(n, i), scale);
}
