/* bf16 on machines where oneDNN does not compute in it (no AVX-512): the op runs on float copies of its tensors.
 * Slow but exact: float holds every bf16, and the result is rounded once. */
#ifndef CPU_WIDEN_H
#define CPU_WIDEN_H

#include "cpu/cpu.h"

size_t cpu_widen_scratch(Backend *be, const BackendOp *op, const OpAttr *attr, const Meta *in, int nin, const Meta *out, int nout);
int cpu_widen_prepare(Backend *be, const BackendOp *op, const OpCall *c, void **state);
int cpu_widen_run(Backend *be, const BackendOp *op, const OpCall *c);

/* Defines op##_any: op, on float copies where a tensor is bf16 and oneDNN has no code for it. */
#define CPU_WIDENED(op)                                                                                             \
    static size_t op##_any_scratch(Backend *be, const OpAttr *attr, const Meta *in, int nin, const Meta *out, int nout) \
    {                                                                                                               \
        return cpu_widen_scratch(be, &op, attr, in, nin, out, nout);                                                \
    }                                                                                                               \
    static int op##_any_prepare(Backend *be, const OpCall *c, void **state)                                         \
    {                                                                                                               \
        return cpu_widen_prepare(be, &op, c, state);                                                                \
    }                                                                                                               \
    static int op##_any_run(Backend *be, const OpCall *c)                                                           \
    {                                                                                                               \
        return cpu_widen_run(be, &op, c);                                                                           \
    }                                                                                                               \
    static void op##_any_release(Backend *be, void *state)                                                          \
    {                                                                                                               \
        op.release(be, state);                                                                                      \
    }                                                                                                               \
    static const BackendOp op##_any = {op##_any_scratch, op##_any_prepare, op##_any_run, op##_any_release}

#endif
