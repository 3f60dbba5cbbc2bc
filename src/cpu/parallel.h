/* The one place where the CPU backend starts threads. Work is cut into tasks by shape alone; which thread runs a task
 * never changes its result. Small work runs on the calling thread, since a team costs a few microseconds. */
#ifndef CPU_PARALLEL_H
#define CPU_PARALLEL_H

#include "cpu/cpu.h"

/* Runs one task; `thread` is in 0..be->threads-1 and picks the thread's own part of a workspace. */
typedef void (*CpuTask)(void *ctx, int64_t task, int thread);
/* Elements [begin, end) of a flat loop. */
typedef void (*CpuFlat)(void *ctx, int64_t begin, int64_t end);

/* Runs tasks 0..tasks-1. work: rough cost of the whole in bytes moved (or FLOP / 4); below 128 KiB it stays serial. */
void cpu_parallel_tasks(const Backend *be, int64_t tasks, int64_t work, CpuTask fn, void *ctx);
/* Cuts [0, n) into pieces of 16384 elements. bytes: memory traffic per element. */
void cpu_parallel_flat(const Backend *be, int64_t n, int64_t bytes, CpuFlat fn, void *ctx);

/* What this machine can run, limited by `limit` and the variable ATELIER_ISA; ERR_RANGE when that names nothing known. */
int cpu_isa_detect(int limit, int *isa);
/* CPU_WINOGRAD_AUTO, or what the variable ATELIER_WINOGRAD says; ERR_RANGE likewise. */
int cpu_winograd_detect(int *winograd);

#endif
