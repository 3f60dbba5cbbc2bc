#include "models/svd.h"

#include <lapacke.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"

static int check(const double *a, int64_t m, int64_t n)
{
    if (m < 1 || n < 1 || m > 1 << 24 || n > 1 << 24)
        return err_set(ERR_SHAPE, "decomposition of a %lld x %lld matrix", (long long)m, (long long)n);
    for (int64_t i = 0; i < m * n; i++)
        if (!isfinite(a[i]))
            return err_set(ERR_NUMERIC, "the matrix holds a value that is not finite");
    return 0;
}

int svd_thin(double *a, int64_t m, int64_t n, double *u, double *s, double *vt)
{
    lapack_int M = (lapack_int)m, N = (lapack_int)n, k = M < N ? M : N;
    TRY(check(a, m, n));
    lapack_int rc = LAPACKE_dgesdd(LAPACK_ROW_MAJOR, 'S', M, N, a, N, s, u, k, vt, N);
    return rc == 0 ? 0 : err_set(rc < 0 ? ERR_NOMEM : ERR_NUMERIC, "singular values: LAPACK dgesdd gave %d", (int)rc);
}

int svd_qr(double *a, int64_t m, int64_t n, double *r)
{
    lapack_int M = (lapack_int)m, N = (lapack_int)n;
    TRY(check(a, m, n));
    double *tau = malloc((size_t)n * sizeof *tau);
    if (!tau)
        return err_set(ERR_NOMEM, "QR: out of memory");
    lapack_int rc = LAPACKE_dgeqrf(LAPACK_ROW_MAJOR, M, N, a, N, tau);
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < n; j++)
            r[i * n + j] = j < i ? 0 : a[i * n + j];
    if (rc == 0)
        rc = LAPACKE_dorgqr(LAPACK_ROW_MAJOR, M, N, N, a, N, tau);
    free(tau);
    return rc == 0 ? 0 : err_set(rc < 0 ? ERR_NOMEM : ERR_NUMERIC, "QR: LAPACK gave %d", (int)rc);
}
