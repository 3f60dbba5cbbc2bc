/* What the case tables of this room share: metas written as text, and which inputs have gradients. */
#ifndef TESTS_OPS_CASES_H
#define TESTS_OPS_CASES_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "ops/op.h"

/* A constant Meta. */
#define M(t, ...) {.dtype = DTYPE_##t, .shape = {sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t), {__VA_ARGS__}}}

static inline Dtype parse_dtype(const char *s, size_t n)
{
    for (int t = 0; t < DTYPE_COUNT; t++)
        if (strlen(dtype_name((Dtype)t)) == n && !strncmp(s, dtype_name((Dtype)t), n))
            return (Dtype)t;
    fail_msg("dtype in %s", s);
    return DTYPE_COUNT;
}

/* "f32[2,3] i32[2]" -> metas. */
static inline int parse_metas(const char *s, Meta *m)
{
    int n = 0;
    while (*s) {
        int64_t dim[OP_MAX_DIM];
        int nd = 0;
        size_t len = strcspn(s, "[");
        Dtype t = parse_dtype(s, len);
        s += len + 1;
        while (*s != ']') {
            dim[nd++] = strtoll(s, (char **)&s, 10);
            s += *s == ',';
        }
        m[n++] = (Meta){t, shape_make(nd, dim)};
        s += 1 + (s[1] == ' ');
    }
    return n;
}

static inline int is_float(Dtype t)
{
    return t == DTYPE_F32 || t == DTYPE_BF16 || t == DTYPE_F16 || t == DTYPE_F64;
}

/* Inputs without a gradient: asking for one is an error, not silently zero. */
static inline int no_gradient(OpKind k, int i)
{
    return (k == OP_SCALE && i == 1) || ((k == OP_MSE || k == OP_L1) && i == 2) ||
           ((k == OP_GAUSS_SAMPLE || k == OP_KL) && i == 1) || (k == OP_PIXEL_LOSS && i >= 2);
}

/* Inputs that count as constant: no gradient, and no error. */
static inline int is_constant(OpKind k, int i)
{
    return k == OP_ROW_GAIN && i == 1;
}

#endif
