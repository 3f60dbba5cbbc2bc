/* Shared by the op families of this room: checks for shape rules, emission for gradient rules. Not for other rooms.
 *
 * Every check returns 0 or ERR_SHAPE / ERR_RANGE with "OP: WHAT is FOUND, expected EXPECTED". */
#ifndef OPS_RULE_H
#define OPS_RULE_H

#include "ops/op.h"

#define RULE_DECLARE(n, s) extern const OpRule op_rule_##n;
OP_LIST(RULE_DECLARE)
#undef RULE_DECLARE

Meta rule_meta(Dtype t, int ndim, const int64_t *dim);
#define RULE_META(t, ...)                                                            \
    rule_meta(t, (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), (int64_t[]){__VA_ARGS__})

/* nin is `want`, every dimension is at least 1. */
int rule_inputs(OpKind k, const Meta *in, int nin, int want);
/* The number of inputs that `fixed` ones and the present optional ones make; `allowed`: the OP_HAS_* bits of the op. */
int rule_optional(OpKind k, const OpAttr *a, int fixed, int allowed, int *want);
int rule_compute(OpKind k, const char *what, const Meta *m);  /* F32, BF16 or F64 */
int rule_dtype(OpKind k, const char *what, const Meta *m, Dtype want);
int rule_ndim(OpKind k, const char *what, const Meta *m, int lo, int hi);
/* Dtype and shape equal `want`. */
int rule_equal(OpKind k, const char *what, const Meta *m, const Meta *want);
/* attr.meta.dtype is P or T of a weight's gradient. */
int rule_wgrad_dtype(OpKind k, const OpAttr *a, Dtype t);
/* attr.meta.shape is a usable shape. */
int rule_attr_shape(OpKind k, const OpAttr *a);
int rule_range(OpKind k, const char *what, int64_t v, int64_t lo, int64_t hi);
/* Finite and at least 0. */
int rule_eps(OpKind k, float eps);
int rule_finite(OpKind k, const char *what, float v);
/* attr.meta.shape with another dtype; unused dimensions are 1 whatever the caller left there. */
Meta rule_result(Dtype t, const OpAttr *a);
/* m with the last dimension replaced. */
Meta rule_with_last(const Meta *m, int64_t last);

/* For gradient rules: 0, or the error that emit recorded. */
int rule_emit(OpBuild *b, OpKind k, const OpAttr *a, const OpRef *in, int nin, OpRef *out, int nout);
#define RULE_EMIT(b, k, a, out, nout, ...)                                                                       \
    rule_emit(b, k, a, (const OpRef[]){__VA_ARGS__}, (int)(sizeof((OpRef[]){__VA_ARGS__}) / sizeof(OpRef)), out, nout)
/* For emitters: output 0; OP_NONE when an input is OP_NONE. */
OpRef rule_op(OpBuild *b, OpKind k, const OpAttr *a, const OpRef *in, int nin, int nout);
#define RULE_OP(b, k, a, nout, ...)                                                                              \
    rule_op(b, k, a, (const OpRef[]){__VA_ARGS__}, (int)(sizeof((OpRef[]){__VA_ARGS__}) / sizeof(OpRef)), nout)
/* The dtype of a weight's gradient (OpBuild.grad_dtype). */
Dtype rule_grad_dtype(const OpBuild *b, OpRef w);
/* ERR_UNSUPPORTED when a gradient is wanted of input i, which has none, or arrives at an output other than 0. */
int rule_no_grad(OpKind k, const OpGrad *g, int i, const char *what);
int rule_only_first(OpKind k, const OpGrad *g);

#endif
