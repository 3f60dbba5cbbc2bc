/* How an op finds its code: <family>.c holds the plain double loops (the reference and the gradient check's ground) and
 * registers; <family>.simd.c holds the float and bf16 code, compiled once per instruction set under a suffixed name. */
#ifndef CPU_KERNEL_H
#define CPU_KERNEL_H

#include "cpu/cpu.h"
#include "cpu/parallel.h"

/* Declares int name_base/_avx2/_avx512(Backend *, const OpCall *). */
#define CPU_DECLARE(name)                               \
    int name##_base(Backend *be, const OpCall *c);      \
    int name##_avx2(Backend *be, const OpCall *c);      \
    int name##_avx512(Backend *be, const OpCall *c)

#if defined(__x86_64__)
#define CPU_PICK(isa, name) \
    ((isa) == CPU_ISA_AVX512 ? name##_avx512 : (isa) == CPU_ISA_AVX2 ? name##_avx2 : name##_base)
#else
#define CPU_PICK(isa, name) (name##_base)
#endif

/* Defines run_<op>: doubles go to f64_<op>(be, call), float and bf16 to cpu_<op>_<isa>. `arg` is an input or output
 * (`in[0]`) whose dtype decides. */
#define CPU_OP(op, arg)                                                                     \
    CPU_DECLARE(cpu_##op);                                                                  \
    static int run_##op(Backend *be, const OpCall *c)                                       \
    {                                                                                       \
        if (c->arg.dtype == DTYPE_F64)                                                      \
            return f64_##op(be, c);                                                         \
        if (c->arg.dtype != DTYPE_F32 && c->arg.dtype != DTYPE_BF16)                        \
            return cpu_op_unsupported(c, c->arg.dtype);                                     \
        return CPU_PICK(((const CpuState *)be->impl)->isa, cpu_##op)(be, c);                \
    }

static inline int cpu_op_unsupported(const OpCall *c, Dtype t)
{
    return err_set(ERR_UNSUPPORTED, "%s: no CPU code for dtype %s", op_name(c->kind), dtype_name(t));
}

static inline int64_t cpu_ceil_div(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

/* Rows of a [rows, C] matrix per chunk of a column sum: about 64 KiB of floats, from C alone. */
static inline int64_t cpu_chunk_rows(int64_t channels)
{
    int64_t r = 16384 / (channels ? channels : 1);
    return r < 16 ? 16 : r > 256 ? 256 : r;
}

static inline int64_t cpu_chunks(int64_t rows, int64_t channels)
{
    return cpu_ceil_div(rows, cpu_chunk_rows(channels));
}

/* Product of the dims between the first and the last: H*W of an image, L of a sequence; 1 for a matrix. */
static inline int64_t cpu_middle(const Shape *s)
{
    int64_t m = 1;
    for (int i = 1; i < s->ndim - 1; i++)
        m *= s->dim[i];
    return m;
}

#endif
