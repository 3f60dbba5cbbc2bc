/* Singular values: the truncated decomposition against LAPACK's whole one. */
#include "models/svd.h"

#include <math.h>
#include <omp.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/rng.h"

enum { M = 150, N = 210, K = 24 };

/* Noise, or noise whose columns fall by `fall`. */
static double *matrix(double fall)
{
    double *a = malloc((size_t)(M * N) * sizeof *a);
    float *v = malloc((size_t)(M * N) * sizeof *v);
    rng_normal_fill(v, M * N, rng_key(3, RNG_INIT, 0, 0), 0);
    for (int i = 0; i < M * N; i++)
        a[i] = (double)v[i] * pow(fall, i % N);
    free(v);
    return a;
}

static double squares_of(const double *a)
{
    double sum = 0;
    for (int i = 0; i < M * N; i++)
        sum += a[i] * a[i];
    return sum;
}

/* |a - u diag(s) vt|^2 */
static double rest(const double *a, const double *u, const double *s, const double *vt, int k)
{
    double sum = 0;
    for (int i = 0; i < M; i++)
        for (int j = 0; j < N; j++) {
            double d = a[i * N + j];
            for (int c = 0; c < k; c++)
                d -= u[i * k + c] * s[c] * vt[c * N + j];
            sum += d * d;
        }
    return sum;
}

static void compare(double fall, double tolerance)
{
    double *a = matrix(fall), *b = malloc((size_t)(M * N) * sizeof *b);
    double *u = malloc(sizeof(double) * M * M), *s = malloc(sizeof(double) * M), *vt = malloc(sizeof(double) * M * N);
    double u2[M * K], s2[K], *vt2 = malloc(sizeof(double) * K * N), squares, lost = 0;
    memcpy(b, a, (size_t)(M * N) * sizeof *b);
    assert_int_equal(svd_thin(b, M, N, u, s, vt), 0);
    assert_int_equal(svd_top(a, M, N, K, u2, s2, vt2, &squares), 0);
    assert_true(fabs(squares - squares_of(a)) <= 1e-12 * squares);
    for (int i = 0; i < K; i++)
        assert_true(fabs(s2[i] - s[i]) <= tolerance * s[i]);
    for (int i = K; i < M; i++)
        lost += s[i] * s[i];
    /* No approximation of rank K is nearer than `lost` (Eckart and Young). */
    assert_true(rest(a, u2, s2, vt2, K) <= lost * (1 + 1e-6) + 1e-12 * squares);
    free(a);
    free(b);
    free(u);
    free(s);
    free(vt);
    free(vt2);
}

static void test_svd__top(void **state)
{
    (void)state;
    compare(0.95, 1e-9);
    compare(1, 1e-4); /* nearly flat: the hardest case */
}

static void test_svd__threads(void **state)
{
    (void)state;
    double *a = matrix(0.98), u[2][M * K], s[2][K], *vt[2], squares[2];
    for (int t = 0; t < 2; t++) {
        omp_set_num_threads(t ? 3 : 1);
        vt[t] = malloc(sizeof(double) * K * N);
        assert_int_equal(svd_top(a, M, N, K, u[t], s[t], vt[t], &squares[t]), 0);
    }
    assert_memory_equal(u[0], u[1], sizeof u[0]);
    assert_memory_equal(s[0], s[1], sizeof s[0]);
    assert_memory_equal(vt[0], vt[1], sizeof(double) * K * N);
    free(a);
    free(vt[0]);
    free(vt[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_svd__top), cmocka_unit_test(test_svd__threads)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
