/* Singular values of dense matrices, by LAPACK. */
#ifndef MODELS_SVD_H
#define MODELS_SVD_H

#include <stdint.h>

/* a[m,n] = u[m,k] diag(s[k]) vt[k,n], k = min(m,n), s falling. a is destroyed. ERR_NUMERIC when it does not converge or a is not
 * finite. */
int svd_thin(double *a, int64_t m, int64_t n, double *u, double *s, double *vt);
/* The k largest of them, k < min(m,n)/3 or so, without the others: randomised subspace iteration (Halko, Martinsson, Tropp 2011,
 * algorithm 4.4), repeated until what the k values hold of the norm stands still at 1e-10. a stays. The same for any number of threads.
 * *squares: the sum of squares of all singular values. */
int svd_top(const double *a, int64_t m, int64_t n, int64_t k, double *u, double *s, double *vt, double *squares);
/* a[m,n] = q[m,k] r[k,n], k = min(m,n): q in place of a where n <= m (a then has m*n values), r separate. Needs n <= m. */
int svd_qr(double *a, int64_t m, int64_t n, double *r);

#endif
