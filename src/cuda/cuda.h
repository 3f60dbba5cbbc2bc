/* The CUDA backend: the ops of src/ops on an NVIDIA GPU, by the kernels of kernels/ and cuBLAS.
 *
 * One stream per backend; ops are enqueued in order. cuBLAS is loaded at run time. Every matrix product is one call per item with
 * the shape of that item, so that what cuBLAS chooses, and with it every bit, does not depend on the batch.
 * Graphs that run again are recorded as CUDA graphs and replayed (Backend.record_begin); ATELIER_CUDA_GRAPHS=off launches every op.
 * A LoRA's low-rank path goes into the product beside it (LINEAR_LOW) by one kernel where one item needs at most 2^32 multiplications;
 * ATELIER_LOW_RANK=off does neither, =all takes the kernel for all sizes: for comparison, it changes the last bits of a result.
 * Built with nvcc, or against the emulated device of tests/emu.
 */
#ifndef CUDA_CUDA_H
#define CUDA_CUDA_H

#include "ops/backend.h"

/* What this machine has. Never fails: what is missing is said in `why`. */
typedef struct {
    int devices;
    char name[256];          /* of the first device */
    size_t memory;           /* bytes of the first device */
    int major, minor;        /* compute capability of the first device */
    int cublas, nccl;        /* versions as major * 10000 + minor * 100 + patch; 0: absent, or not looked for without a device */
    char why[256];           /* why devices is 0, or which library is missing; "" otherwise */
} CudaInfo;
void cuda_info(CudaInfo *out);

/* The backend on `device` (0, 1, ...). ERR_UNSUPPORTED where there is no such device or no cuBLAS: the message says which. */
int cuda_backend_create(Backend **out, int device);

#endif
