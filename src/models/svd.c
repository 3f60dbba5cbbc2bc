#include "models/svd.h"

#include <lapacke.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/rng.h"

enum { OVERSAMPLE = 16, MAX_ROUNDS = 40, BLOCK = 32 };

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

/* y[m,l] = a[m,n] x[n,l] */
static void times(double *y, const double *a, const double *x, int64_t m, int64_t n, int64_t l)
{
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < m; i++) {
        memset(y + i * l, 0, (size_t)l * sizeof *y);
        for (int64_t j = 0; j < n; j++)
            for (int64_t c = 0; c < l; c++)
                y[i * l + c] += a[i * n + j] * x[j * l + c];
    }
}

/* z[n,l] = a^T y, y [m,l]: rows of z in blocks, so that a is read along its rows. */
static void transposed_times(double *z, const double *a, const double *y, int64_t m, int64_t n, int64_t l)
{
#pragma omp parallel for schedule(static)
    for (int64_t b = 0; b < n; b += BLOCK) {
        int64_t end = b + BLOCK < n ? b + BLOCK : n;
        memset(z + b * l, 0, (size_t)((end - b) * l) * sizeof *z);
        for (int64_t i = 0; i < m; i++)
            for (int64_t j = b; j < end; j++)
                for (int64_t c = 0; c < l; c++)
                    z[j * l + c] += a[i * n + j] * y[i * l + c];
    }
}

typedef struct {
    int64_t l;
    double *q, *z, *r;      /* [m,l] orthonormal, [n,l], [l,l] */
    double *cu, *cs, *cvt;  /* of the core, [l,l], [l], [l,l] */
} Top;

/* z = a^T q, then z = qz r; the singular values of r are those of a within q. */
static int project(Top *t, const double *a, int64_t m, int64_t n)
{
    transposed_times(t->z, a, t->q, m, n, t->l);
    TRY(svd_qr(t->z, n, t->l, t->r));
    return svd_thin(t->r, t->l, t->l, t->cu, t->cs, t->cvt);
}

static int iterate(Top *t, const double *a, int64_t m, int64_t n, int64_t k)
{
    double held = -1;
    for (int round = 0;; round++) {
        TRY(project(t, a, m, n));
        double now = 0;
        for (int64_t i = 0; i < k; i++)
            now += t->cs[i] * t->cs[i];
        if (round >= MAX_ROUNDS || fabs(now - held) <= 1e-10 * now)
            return 0;
        held = now;
        times(t->q, a, t->z, m, n, t->l);
        TRY(svd_qr(t->q, m, t->l, t->r));
    }
}

/* a ~ q z^T = q (qz r)^T = (q Vr) S (qz Ur)^T with r = Ur S Vr^T. */
static void assemble(const Top *t, int64_t m, int64_t n, int64_t k, double *u, double *s, double *vt)
{
    int64_t l = t->l;
    memset(u, 0, (size_t)(m * k) * sizeof *u);
    memset(vt, 0, (size_t)(k * n) * sizeof *vt);
    memcpy(s, t->cs, (size_t)k * sizeof *s);
    for (int64_t i = 0; i < m; i++)
        for (int64_t c = 0; c < k; c++)
            for (int64_t j = 0; j < l; j++)
                u[i * k + c] += t->q[i * l + j] * t->cvt[c * l + j];
    for (int64_t c = 0; c < k; c++)
        for (int64_t i = 0; i < n; i++)
            for (int64_t j = 0; j < l; j++)
                vt[c * n + i] += t->cu[j * l + c] * t->z[i * l + j];
}

int svd_top(const double *a, int64_t m, int64_t n, int64_t k, double *u, double *s, double *vt, double *squares)
{
    int64_t least = m < n ? m : n, l = k + OVERSAMPLE < least ? k + OVERSAMPLE : least;
    TRY(check(a, m, n));
    double *memory = malloc((size_t)((m + n) * l + 3 * l * l + l) * sizeof *memory);
    if (!memory)
        return err_set(ERR_NOMEM, "singular values: out of memory");
    Top t = {.l = l, .q = memory, .z = memory + m * l, .r = memory + (m + n) * l};
    t.cu = t.r + l * l;
    t.cvt = t.cu + l * l;
    t.cs = t.cvt + l * l;
    RngStream rng = rng_stream(rng_key(1, RNG_INIT, (uint64_t)m, (uint64_t)n));
    for (int64_t i = 0; i < n * l; i++)
        t.z[i] = (double)rng_stream_below(&rng, 2000001) / 1e6 - 1;
    times(t.q, a, t.z, m, n, l);
    int rc = svd_qr(t.q, m, l, t.r);
    if (rc >= 0)
        rc = iterate(&t, a, m, n, k);
    if (rc >= 0)
        assemble(&t, m, n, k, u, s, vt);
    *squares = 0;
    for (int64_t i = 0; i < m * n; i++)
        *squares += a[i] * a[i];
    free(memory);
    return rc;
}
