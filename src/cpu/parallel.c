#include "cpu/parallel.h"

#include <omp.h>

enum { SERIAL_BELOW = 128 * 1024, FLAT_PIECE = 16384 };

void cpu_parallel_tasks(const Backend *be, int64_t tasks, int64_t work, CpuTask fn, void *ctx)
{
    int team = be->threads;
    if (work < SERIAL_BELOW || team > tasks)
        team = work < SERIAL_BELOW ? 1 : (int)tasks;
    if (team <= 1) {
        for (int64_t i = 0; i < tasks; i++)
            fn(ctx, i, 0);
        return;
    }
    /* Tasks may differ in cost (causal attention) and cores may be shared, so idle threads take the next one. */
#pragma omp parallel num_threads(team)
    {
        int thread = omp_get_thread_num();
#pragma omp for schedule(dynamic, 1)
        for (int64_t i = 0; i < tasks; i++)
            fn(ctx, i, thread);
    }
}

typedef struct {
    CpuFlat fn;
    void *ctx;
    int64_t n;
} Flat;

static void flat_task(void *p, int64_t task, int thread)
{
    (void)thread;
    const Flat *f = p;
    int64_t begin = task * FLAT_PIECE;
    f->fn(f->ctx, begin, begin + FLAT_PIECE < f->n ? begin + FLAT_PIECE : f->n);
}

void cpu_parallel_flat(const Backend *be, int64_t n, int64_t bytes, CpuFlat fn, void *ctx)
{
    Flat f = {fn, ctx, n};
    cpu_parallel_tasks(be, (n + FLAT_PIECE - 1) / FLAT_PIECE, n * bytes, flat_task, &f);
}
