/* Singular values of dense matrices, by LAPACK. */
#ifndef MODELS_SVD_H
#define MODELS_SVD_H

#include <stdint.h>

/* a[m,n] = u[m,k] diag(s[k]) vt[k,n], k = min(m,n), s falling. a is destroyed. ERR_NUMERIC when it does not converge or a is not
 * finite. */
int svd_thin(double *a, int64_t m, int64_t n, double *u, double *s, double *vt);
/* a[m,n] = q[m,k] r[k,n], k = min(m,n): q in place of a where n <= m (a then has m*n values), r separate. Needs n <= m. */
int svd_qr(double *a, int64_t m, int64_t n, double *r);

#endif
