/* What the parts of bench_gpu share. Results go to standard output, one per line, fields separated by tabs:
 *   info  KEY  VALUE                                       the device, its ceilings
 *   flop  NAME  SECONDS  FLOP  TARGET                      a kernel bound by arithmetic; target: share of the bf16 peak, 0: none
 *   byte  NAME  SECONDS  BYTES  TARGET                     a kernel bound by memory; target: share of the copy bandwidth
 *   net   NAME  SECONDS  FLOP  RATE  UNIT  TARGET          a whole network; rate per second; target: least rate, 0: none
 */
#ifndef BENCHMARKS_GPU_H
#define BENCHMARKS_GPU_H

#include "cuda/cuda.h"
#include "cuda/internal.h"

typedef struct {
    Backend *be;
    cudaStream_t stream;
    int tiny;          /* smallest shapes, one run: shows that the code works */
    const char *only;  /* part of the name of what is measured; NULL: all */
    size_t l2;         /* bytes */
    double peak;       /* bf16 FLOP/s of the data sheet */
} Gpu;

/* Enqueues one run on the buffers of `set`. */
typedef int (*GpuWork)(void *ctx, int set);

/* Sets of buffers of `bytes` each that together are well beyond the L2 cache, so that none is found in it. */
int gpu_sets(const Gpu *g, double bytes);
/* Median seconds of one run, between events around the replay of a CUDA graph of many runs over all sets in turn. */
int gpu_time(const Gpu *g, GpuWork work, void *ctx, int sets, double *seconds);
/* Device memory with values in -1..1 of the dtype; the caller's to free. */
int gpu_random(const Gpu *g, void **out, Dtype t, int64_t count);
int gpu_wanted(const Gpu *g, const char *name);

int gpu_ceilings(Gpu *g);
int gpu_kernels(const Gpu *g);
int gpu_optimizers(const Gpu *g);
int gpu_nets(const Gpu *g);
int gpu_lora(const Gpu *g);

double gpu_now(void);
double gpu_median(double *v, int n); /* sorts v */

#endif
