#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/env.h"
#include "cuda/internal.h"
#include "kernels.h"
#include "ops/peers.h"

enum { WORKSPACE = 32 << 20 };

int cuda_check(cudaError_t e, const char *what)
{
    return e == cudaSuccess ? 0 : err_set(e == cudaErrorMemoryAllocation ? ERR_NOMEM : ERR_BACKEND, "%s: %s", what, cudaGetErrorString(e));
}

int cuda_type(const OpCall *c, Dtype t)
{
    if (t == DTYPE_F32)
        return KERNEL_F32;
    if (t == DTYPE_BF16)
        return KERNEL_BF16;
    return err_set(ERR_UNSUPPORTED, "op %s has no CUDA kernel for %s: f32 or bf16", op_name(c->kind), dtype_name(t));
}

int cuda_launched(const OpCall *c)
{
    cudaError_t e = cudaGetLastError();
    return e == cudaSuccess ? 0 : err_set(ERR_BACKEND, "op %s: launch failed: %s", op_name(c->kind), cudaGetErrorString(e));
}

void cuda_info(CudaInfo *out)
{
    CudaBlas blas;
    struct cudaDeviceProp prop;
    memset(out, 0, sizeof *out);
    cudaError_t e = cudaGetDeviceCount(&out->devices);
    if (e != cudaSuccess || out->devices < 1) {
        (void)cudaGetLastError();
        out->devices = 0;
        snprintf(out->why, sizeof out->why, "%s", e == cudaSuccess ? "no device" : cudaGetErrorString(e));
        return; /* the libraries are large and could not be used */
    }
    if (cudaGetDeviceProperties(&prop, 0) == cudaSuccess) {
        snprintf(out->name, sizeof out->name, "%s", prop.name);
        out->memory = prop.totalGlobalMem;
        out->major = prop.major;
        out->minor = prop.minor;
    }
    int part[3] = {0};
    if (cuda_blas_load(&blas) < 0) {
        snprintf(out->why, sizeof out->why, "%s", err_message());
    } else { /* a handle would take a good part of a second to make */
        for (int i = 0; i < 3; i++)
            blas.property(MAJOR_VERSION + i, &part[i]);
        out->cublas = part[0] * 10000 + part[1] * 100 + part[2];
    }
    out->nccl = cuda_nccl_version();
}

static int backend_alloc(Backend *be, void **out, size_t bytes)
{
    cudaError_t e = cudaMalloc(out, bytes ? bytes : 64);
    if (e != cudaErrorMemoryAllocation)
        return cuda_check(e, "device memory");
    size_t free = 0, total = 0;
    (void)cudaGetLastError();
    (void)cudaMemGetInfo(&free, &total);
    return err_set(ERR_NOMEM, "device %d: %zu MiB are needed, %zu of %zu MiB are free", cuda_state(be)->device, bytes >> 20, free >> 20,
                   total >> 20);
}

static void backend_free(Backend *be, void *p, size_t bytes)
{
    (void)bytes;
    (void)cudaStreamSynchronize(cuda_state(be)->stream);
    (void)cudaFree(p);
}

static int backend_sync(Backend *be)
{
    return cuda_check(cudaStreamSynchronize(cuda_state(be)->stream), "CUDA");
}

static int backend_memory(Backend *be, size_t *free, size_t *total)
{
    (void)be;
    return cuda_check(cudaMemGetInfo(free, total), "device memory");
}

static int stage_open(CudaStage *s)
{
    void *host;
    TRY(cuda_check(cudaMallocHost(&host, 2 * CUDA_STAGE), "pinned memory"));
    s->host = host;
    for (int k = 0; k < 2; k++)
        TRY(cuda_check(cudaEventCreateWithFlags(&s->done[k], cudaEventDisableTiming), "CUDA event"));
    return 0;
}

static void stage_close(CudaStage *s)
{
    for (int k = 0; k < 2; k++)
        if (s->done[k])
            (void)cudaEventDestroy(s->done[k]);
    if (s->host)
        (void)cudaFreeHost(s->host);
}

/* Room for n bytes: in the other half, as soon as its copies are made, where this one has none left. */
static int stage_take(CudaStage *s, size_t n, cudaStream_t stream, char **out)
{
    if (s->used + n > CUDA_STAGE) {
        TRY(cuda_check(cudaEventRecord(s->done[s->half], stream), "CUDA event"));
        s->half = !s->half;
        s->used = 0;
        TRY(cuda_check(cudaEventSynchronize(s->done[s->half]), "copy to the device"));
    }
    *out = s->host + (size_t)s->half * CUDA_STAGE + s->used;
    s->used += (n + 63) / 64 * 64;
    return 0;
}

static int backend_upload(Backend *be, void *dst, const void *src, size_t bytes)
{
    CudaState *st = cuda_state(be);
    char *host;
    if (st->recording) /* the graph would copy whatever lies there when it is replayed */
        return err_set(ERR_BACKEND, "a copy from the host cannot be recorded");
    for (size_t at = 0; at < bytes; at += CUDA_STAGE) {
        size_t n = bytes - at < CUDA_STAGE ? bytes - at : CUDA_STAGE;
        TRY(stage_take(&st->stage, n, st->stream, &host));
        memcpy(host, (const char *)src + at, n);
        TRY(cuda_check(cudaMemcpyAsync((char *)dst + at, host, n, cudaMemcpyHostToDevice, st->stream), "copy to the device"));
    }
    return 0;
}

static int backend_download(Backend *be, void *dst, const void *src, size_t bytes)
{
    if (!bytes)
        return 0;
    TRY(cuda_check(cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDeviceToHost, cuda_state(be)->stream), "copy from the device"));
    return backend_sync(be);
}

/* Only this thread's calls are watched while recording: other threads may use the device meanwhile. */
static int record_begin(Backend *be)
{
    CudaState *st = cuda_state(be);
    TRY(cuda_check(cudaStreamBeginCapture(st->stream, cudaStreamCaptureModeThreadLocal), "recording a CUDA graph"));
    st->recording = 1;
    return 0;
}

static int record_end(Backend *be, void **work)
{
    cudaGraph_t graph = NULL;
    cudaGraphExec_t exec = NULL;
    cuda_state(be)->recording = 0;
    int rc = cuda_check(cudaStreamEndCapture(cuda_state(be)->stream, &graph), "recording a CUDA graph");
    if (rc >= 0)
        rc = cuda_check(cudaGraphInstantiate(&exec, graph, 0), "making a CUDA graph");
    if (graph)
        (void)cudaGraphDestroy(graph);
    if (rc < 0)
        (void)cudaGetLastError(); /* or the next launch would seem to have failed */
    *work = rc < 0 ? NULL : exec;
    return rc;
}

static int replay(Backend *be, void *work)
{
    return cuda_check(cudaGraphLaunch(work, cuda_state(be)->stream), "CUDA graph");
}

static void forget(Backend *be, void *work)
{
    (void)backend_sync(be);
    (void)cudaGraphExecDestroy(work);
}

static int choose(Backend *be)
{
    static const char *const names[] = {"off", "on", NULL}, *const low[] = {"off", "auto", "all", NULL};
    int on;
    TRY(env_choice("ATELIER_LOW_RANK", low, CUDA_LOW_RANK_AUTO, &cuda_state(be)->low_rank));
    TRY(env_choice("ATELIER_CUDA_GRAPHS", names, 1, &on));
    if (!on)
        return 0;
    be->record_begin = record_begin;
    be->record_end = record_end;
    be->replay = replay;
    be->forget = forget;
    return 0;
}

static int pixels_room(Backend *be, Dtype t, int64_t n)
{
    CudaState *st = cuda_state(be);
    if (t != DTYPE_F32 && t != DTYPE_BF16)
        return err_set(ERR_UNSUPPORTED, "pixels of %s", dtype_name(t));
    if ((size_t)n <= st->pixels_bytes)
        return 0;
    if (st->pixels)
        be->free(be, st->pixels, st->pixels_bytes);
    st->pixels = NULL;
    st->pixels_bytes = 0;
    TRY(be->alloc(be, &st->pixels, (size_t)n));
    st->pixels_bytes = (size_t)n;
    return 0;
}

static int backend_download_pixels(Backend *be, uint8_t *host, const void *x, Dtype t, int64_t n)
{
    CudaState *st = cuda_state(be);
    TRY(pixels_room(be, t, n));
    if (n)
        kernel_to_pixels(t == DTYPE_F32 ? KERNEL_F32 : KERNEL_BF16, x, st->pixels, n, st->stream);
    TRY(cuda_check(cudaGetLastError(), "pixels"));
    return be->download(be, host, st->pixels, (size_t)n);
}

static int backend_upload_pixels(Backend *be, void *x, Dtype t, const uint8_t *host, int64_t n)
{
    CudaState *st = cuda_state(be);
    TRY(pixels_room(be, t, n));
    TRY(be->upload(be, st->pixels, host, (size_t)n));
    if (n)
        kernel_from_pixels(t == DTYPE_F32 ? KERNEL_F32 : KERNEL_BF16, st->pixels, x, n, st->stream);
    return cuda_check(cudaGetLastError(), "pixels");
}

static void backend_destroy_cuda(Backend *be)
{
    CudaState *st = be->impl;
    if (st) {
        if (be->peers)
            be->peers->leave(be, 1);
        cuda_mirror_free_all(st);
        if (st->handle)
            st->blas.destroy(st->handle);
        if (st->workspace)
            (void)cudaFree(st->workspace);
        if (st->pixels)
            (void)cudaFree(st->pixels);
        if (st->stream)
            (void)cudaStreamSynchronize(st->stream);
        stage_close(&st->stage);
        if (st->stream)
            (void)cudaStreamDestroy(st->stream);
        free(st->mirrors);
    }
    free(st);
    free(be);
}

static int open_device(CudaState *st, int device)
{
    int count = 0;
    if (cudaGetDeviceCount(&count) != cudaSuccess || count < 1) {
        cudaError_t e = cudaGetLastError();
        return err_set(ERR_UNSUPPORTED, "device=cuda: no CUDA device: %s", cudaGetErrorString(e));
    }
    if (device >= count)
        return err_set(ERR_UNSUPPORTED, "CUDA device %d does not exist: this node has %d; start at most %d ranks on it, one per GPU", device,
                       count, count);
    TRY(cuda_blas_load(&st->blas));
    TRY(cuda_check(cudaSetDevice(device), "choosing the CUDA device"));
    TRY(cuda_check(cudaDeviceGetAttribute(&st->processors, cudaDevAttrMultiProcessorCount, device), "CUDA device"));
    TRY(cuda_check(cudaStreamCreateWithFlags(&st->stream, cudaStreamNonBlocking), "CUDA stream"));
    TRY(stage_open(&st->stage));
    cublasStatus_t s = st->blas.create(&st->handle);
    if (s != CUBLAS_STATUS_SUCCESS)
        return err_set(ERR_BACKEND, "cuBLAS did not start: status %d", (int)s);
    st->blas.set_stream(st->handle, st->stream);
    TRY(cuda_check(cudaMalloc(&st->workspace, WORKSPACE), "cuBLAS workspace"));
    st->blas.set_workspace(st->handle, st->workspace, WORKSPACE);
    return 0;
}

int cuda_backend_create(Backend **out, int device)
{
    int rc = ERR_NOMEM;
    Backend *be = calloc(1, sizeof *be);
    CudaState *st = calloc(1, sizeof *st);
    if (!be || !st) {
        free(be);
        free(st);
        return err_set(ERR_NOMEM, "out of memory: CUDA backend");
    }
    st->device = device;
    be->name = be->label = "cuda";
    be->impl = st;
    be->threads = 1;
    be->alloc = backend_alloc;
    be->free = backend_free;
    be->upload = backend_upload;
    be->download = backend_download;
    be->download_pixels = backend_download_pixels;
    be->upload_pixels = backend_upload_pixels;
    be->sync = backend_sync;
    be->memory = backend_memory;
    be->destroy = backend_destroy_cuda;
    be->acquire = cuda_mirror_acquire;
    be->drop = cuda_mirror_release;
    TRY_GOTO(choose(be));
    TRY_GOTO(open_device(st, device));
    cuda_act_register(be);
    cuda_arith_register(be);
    cuda_norm_register(be);
    cuda_embed_register(be);
    cuda_loss_register(be);
    cuda_attention_register(be);
    cuda_linear_register(be);
    cuda_conv_register(be);
    cuda_adapter_register(be);
    cuda_peers_register(be);
    cuda_train_register(be);
    *out = be;
    be = NULL;
done:
    backend_destroy(be);
    return rc;
}
