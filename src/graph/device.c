#include "graph/device.h"

#include <stdio.h>
#include <stdlib.h>

#include "cpu/cpu.h"
#ifdef ATELIER_CUDA
#include "cuda/cuda.h"
#endif

const char *const DEVICE_NAMES[] = {"auto", "cpu", "cuda", NULL};

#ifdef ATELIER_CUDA
/* A launcher that gives every rank a GPU of its own (srun --gpus-per-task, cloud/bind.sh) shows it as the only one. */
static int shown_its_own(const CudaInfo *info)
{
    return info->devices == 1 && (getenv("CUDA_VISIBLE_DEVICES") || getenv("SLURM_GPUS_PER_TASK"));
}

static int cuda_create(Backend **out, int device, int local_rank, int threads)
{
    CudaInfo info;
    cuda_info(&info);
    if (device == DEVICE_AUTO && (!info.devices || info.why[0]))
        return cpu_backend_create(out, threads, CPU_ISA_AVX512);
    return cuda_backend_create(out, shown_its_own(&info) ? 0 : local_rank);
}

const char *device_describe(char *buf, size_t size)
{
    CudaInfo i;
    cuda_info(&i);
    if (!i.devices)
        snprintf(buf, size, "none (%s)", i.why);
    else
        snprintf(buf, size, "%d x %s, compute capability %d.%d, %.1f GiB; cuBLAS %d, NCCL %d%s%s", i.devices, i.name, i.major, i.minor,
                 (double)i.memory / 1073741824.0, i.cublas, i.nccl, i.why[0] ? "; " : "", i.why);
    return buf;
}
#else
static int cuda_create(Backend **out, int device, int local_rank, int threads)
{
    (void)local_rank;
    if (device == DEVICE_AUTO)
        return cpu_backend_create(out, threads, CPU_ISA_AVX512);
    return err_set(ERR_UNSUPPORTED, "device: cuda: this program was built without CUDA (nvcc was not found); build it with nvcc, or set device: cpu");
}

const char *device_describe(char *buf, size_t size)
{
    snprintf(buf, size, "built without CUDA");
    return buf;
}
#endif

int device_create(Backend **out, int device, int local_rank, int threads)
{
    if (device == DEVICE_CPU)
        return cpu_backend_create(out, threads, CPU_ISA_AVX512);
    return cuda_create(out, device, local_rank, threads);
}
