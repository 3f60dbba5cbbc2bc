#ifndef CUDA_INTERNAL_H
#define CUDA_INTERNAL_H

#include <cublas_v2.h>
#include <cuda_runtime.h>

#include "cuda/cuda.h"

/* cuBLAS, typed by NVIDIA's own header. */
typedef struct {
    __typeof__(&cublasCreate_v2) create;
    __typeof__(&cublasDestroy_v2) destroy;
    __typeof__(&cublasSetStream_v2) set_stream;
    __typeof__(&cublasSetWorkspace_v2) set_workspace;
    __typeof__(&cublasGetProperty) property;
    __typeof__(&cublasGemmEx) gemm;
} CudaBlas;

enum { CUDA_LOW_RANK_OFF, CUDA_LOW_RANK_AUTO, CUDA_LOW_RANK_ALL };

/* Pinned memory through which all uploads go, in two halves: while one is filled the copies out of the other go on. */
enum { CUDA_STAGE = 4 << 20 };
typedef struct {
    char *host;           /* [2][CUDA_STAGE] */
    cudaEvent_t done[2];  /* the copies out of a half that is full */
    int half;
    size_t used;          /* bytes of it */
} CudaStage;

typedef struct CudaMirror CudaMirror;
typedef struct CudaPeers CudaPeers;

typedef struct {
    int device, processors;
    cudaStream_t stream;
    CudaBlas blas;
    cublasHandle_t handle;
    void *workspace;
    int low_rank;         /* CUDA_LOW_RANK_*: which products take kernels/linear.cu; ATELIER_LOW_RANK=off|auto|all */
    void *pixels;          /* of the largest image so far */
    size_t pixels_bytes;
    CudaStage stage;
    int recording;
    CudaMirror *mirrors;
    int mirror_count, mirror_cap;
    CudaPeers *peers;    /* nccl.c; NULL: in no group */
} CudaState; /* Backend.impl */

/* 0, or ERR_BACKEND with "WHAT: message of the runtime". */
int cuda_check(cudaError_t e, const char *what);
int cuda_blas_load(CudaBlas *out);
int cuda_nccl_version(void);
/* The kernels' name of a dtype, or a negative error. */
int cuda_type(const OpCall *c, Dtype t);
/* After a launch. */
int cuda_launched(const OpCall *c);

int cuda_mirror_acquire(Backend *be, const OpView *host, void **device);
int cuda_mirror_adopt(Backend *be, const OpView *host, void *device);
void cuda_mirror_release(Backend *be, const OpView *host);
void cuda_mirror_free_all(CudaState *st);

static inline CudaState *cuda_state(Backend *be)
{
    return be->impl;
}

void cuda_act_register(Backend *be);
void cuda_arith_register(Backend *be);
void cuda_norm_register(Backend *be);
void cuda_embed_register(Backend *be);
void cuda_loss_register(Backend *be);
void cuda_attention_register(Backend *be);
void cuda_linear_register(Backend *be);
void cuda_conv_register(Backend *be);
void cuda_adapter_register(Backend *be);
void cuda_peers_register(Backend *be);
void cuda_train_register(Backend *be);

#endif
