#include <omp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/env.h"
#include "cpu/cpu.h"
#include "cpu/parallel.h"

enum { ALIGN_SMALL = 64, ALIGN_HUGE = 2 << 20 };

static int isa_of_machine(void)
{
#if defined(__x86_64__)
    __builtin_cpu_init();
    int avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") &&
               __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("f16c") && __builtin_cpu_supports("movbe") &&
               __builtin_cpu_supports("lzcnt");
    int avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                 __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                 __builtin_cpu_supports("avx512cd");
    return avx2 && avx512 ? CPU_ISA_AVX512 : avx2 ? CPU_ISA_AVX2 : CPU_ISA_BASE;
#else
    return CPU_ISA_BASE;
#endif
}

static int bf16_of_machine(void)
{
#if defined(__x86_64__)
    return __builtin_cpu_supports("avx512bf16") != 0;
#else
    return 0;
#endif
}

static int amx_of_machine(void)
{
#if defined(__x86_64__)
    return __builtin_cpu_supports("amx-bf16") != 0;
#else
    return 0;
#endif
}

int cpu_winograd_detect(int *winograd)
{
    static const char *const names[] = {"off", "auto", "all", NULL};
    return env_choice("ATELIER_WINOGRAD", names, CPU_WINOGRAD_AUTO, winograd);
}

int cpu_isa_detect(int limit, int *isa)
{
    static const char *const names[] = {"base", "avx2", "avx512", NULL};
    int named;
    TRY(env_choice("ATELIER_ISA", names, CPU_ISA_AVX512, &named));
    limit = named < limit ? named : limit;
    int has = isa_of_machine();
    *isa = has < limit ? has : limit;
    return 0;
}

/* Big blocks start on a 2 MiB page and fill whole ones, so that the kernel can back them with huge pages. */
static int backend_alloc(Backend *be, void **out, size_t bytes)
{
    (void)be;
    size_t align = bytes >= ALIGN_HUGE ? ALIGN_HUGE : ALIGN_SMALL;
    if (bytes > SIZE_MAX - align)
        return err_set(ERR_NOMEM, "out of memory: %zu bytes", bytes);
    size_t size = bytes ? (bytes + align - 1) / align * align : align;
    void *p = aligned_alloc(align, size);
    if (!p)
        return err_set(ERR_NOMEM, "out of memory: %zu bytes", bytes);
    if (align == ALIGN_HUGE)
        (void)madvise(p, size, MADV_HUGEPAGE); /* only a hint: refused where huge pages are off */
    *out = p;
    return 0;
}

static void backend_free(Backend *be, void *p, size_t bytes)
{
    (void)be;
    (void)bytes;
    free(p);
}

static int backend_upload(Backend *be, void *dst, const void *host_src, size_t bytes)
{
    (void)be;
    if (bytes)
        memcpy(dst, host_src, bytes);
    return 0;
}

static int backend_download(Backend *be, void *host_dst, const void *src, size_t bytes)
{
    (void)be;
    if (bytes)
        memcpy(host_dst, src, bytes);
    return 0;
}

static int backend_sync(Backend *be)
{
    (void)be;
    return 0;
}

static void cpu_destroy(Backend *be)
{
    CpuState *st = be->impl;
    if (st)
        cpu_dnnl_destroy(st);
    free(st);
    free(be);
}

int cpu_backend_create(Backend **out, int threads, int isa_limit)
{
    static const char *const labels[] = {"cpu-base", "cpu-avx2", "cpu-avx512"};
    int rc = ERR_NOMEM;
    Backend *be = calloc(1, sizeof *be);
    CpuState *st = calloc(1, sizeof *st);
    if (!be || !st) {
        free(be);
        free(st);
        return err_set(ERR_NOMEM, "out of memory: CPU backend");
    }
    be->name = "cpu";
    be->impl = st;
    be->threads = threads > 0 ? threads : omp_get_max_threads();
    be->alloc = backend_alloc;
    be->free = backend_free;
    be->upload = backend_upload;
    be->download = backend_download;
    be->sync = backend_sync;
    be->destroy = cpu_destroy;
    TRY_GOTO(cpu_isa_detect(isa_limit, &st->isa));
    st->amx = amx_of_machine();
    TRY_GOTO(cpu_winograd_detect(&st->winograd));
    be->label = labels[st->isa];
    st->bf16 = st->isa == CPU_ISA_AVX512 && bf16_of_machine();
    cpu_norm_register(be);
    cpu_attention_register(be);
    cpu_act_register(be);
    cpu_arith_register(be);
    cpu_embed_register(be);
    cpu_loss_register(be);
    cpu_adapter_register(be);
    TRY_GOTO(cpu_linear_register(be));
    TRY_GOTO(cpu_conv_register(be));
    *out = be;
    be = NULL;
done:
    backend_destroy(be);
    return rc;
}
