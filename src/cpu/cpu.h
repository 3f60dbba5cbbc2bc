/* The CPU backend: the default on a machine without a GPU and the reference for every kernel.
 *
 * linear.c, conv.c run on oneDNN; every other family is our own code, one source (<family>.simd.c) compiled for three
 * instruction sets (base, avx2, avx512) and chosen at run time. F64 graphs run on plain loops (gradient checks).
 *
 * Determinism: work is cut into tiles by shape alone, never by the number of threads; each tile is computed by one
 * thread in a fixed order; no reduction crosses tiles except in a fixed order. oneDNN primitives are created for one
 * thread and one tile and called inside our own parallel loops.
 */
#ifndef CPU_CPU_H
#define CPU_CPU_H

#include "ops/backend.h"

enum { CPU_ISA_BASE, CPU_ISA_AVX2, CPU_ISA_AVX512 };
enum { CPU_WINOGRAD_OFF, CPU_WINOGRAD_AUTO, CPU_WINOGRAD_ALL };

typedef struct {
    int isa;          /* CPU_ISA_*: what the machine has, limited by `isa_limit` and ATELIER_ISA=base|avx2|avx512 */
    int bf16;         /* AVX512_BF16 present and allowed */
    int amx;          /* oneDNN has bf16 products in AMX tiles */
    int winograd;     /* CPU_WINOGRAD_*: 3x3 convolutions that may take conv_winograd.c; ATELIER_WINOGRAD=off|auto|all */
    void *dnnl;       /* linear.c and conv.c: engine, primitive cache, packed weights (src/cpu/dnnl.h) */
} CpuState;           /* Backend.impl */

/* threads <= 0: OMP_NUM_THREADS, or the cores this process may run on. isa_limit: highest CPU_ISA_* to use. */
int cpu_backend_create(Backend **out, int threads, int isa_limit);

/* Each family fills its slots of be->op for the chosen instruction set. */
int cpu_linear_register(Backend *be);
int cpu_conv_register(Backend *be);
void cpu_norm_register(Backend *be);
void cpu_attention_register(Backend *be);
void cpu_act_register(Backend *be);
void cpu_arith_register(Backend *be);
void cpu_embed_register(Backend *be);
void cpu_loss_register(Backend *be);
void cpu_adapter_register(Backend *be);
/* Frees the oneDNN state; called by destroy. */
void cpu_dnnl_destroy(CpuState *st);

#endif
