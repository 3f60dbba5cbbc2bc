#include "cuda/nccl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "cuda/internal.h"
#include "ops/peers.h"

/* nccl.h needs 2.14 for calls that do not block. */
enum { OLDEST = 21400 };
static const double LEAVE_SECONDS = 10;

struct CudaPeers {
    CudaNccl lib;
    NcclComm comm;
    int rank, size;
    cudaStream_t stream;  /* of the sums: they run beside the backend's own work */
    cudaEvent_t before;   /* what the sum begun last waits for */
    cudaEvent_t here[PEERS_SLOTS], done[PEERS_SLOTS];
    int64_t begun, enqueued; /* a sum that NCCL has not enqueued yet has no `done` */
};

NcclConfig cuda_nccl_config(int blocking)
{
    return (NcclConfig){sizeof(NcclConfig), (unsigned)NCCL_MAGIC, NCCL_CONFIG_VERSION, blocking, INT_MIN, INT_MIN, INT_MIN, NULL, INT_MIN, INT_MIN};
}

static int failed(const CudaPeers *p, int result, const char *what)
{
    return err_set(ERR_BACKEND, "NCCL: %s: %s; NCCL_DEBUG=WARN says more", what, p->lib.error_string(result));
}

static int peers_device(Backend *be, unsigned char id[PEERS_DEVICE])
{
    struct cudaDeviceProp prop;
    TRY(cuda_check(cudaGetDeviceProperties(&prop, cuda_state(be)->device), "properties of the device"));
    memcpy(id, &prop.uuid, PEERS_DEVICE);
    return 0;
}

static int peers_available(Backend *be, int *version)
{
    CudaNccl lib;
    (void)be;
    *version = 0;
    TRY(cuda_nccl_load(&lib));
    if (lib.get_version(version) != NCCL_SUCCESS || *version < OLDEST)
        return err_set(ERR_UNSUPPORTED, "NCCL %d is older than 2.14", *version);
    return 0;
}

static int peers_make_id(Backend *be, unsigned char id[PEERS_ID])
{
    CudaPeers p = {.comm = NULL};
    NcclId made;
    (void)be;
    TRY(cuda_nccl_load(&p.lib));
    int r = p.lib.get_unique_id(&made);
    memcpy(id, &made, PEERS_ID);
    return r == NCCL_SUCCESS ? 0 : failed(&p, r, "no id for the group (NCCL_SOCKET_IFNAME names the network to use)");
}

static int make_streams(CudaPeers *p)
{
    TRY(cuda_check(cudaStreamCreateWithFlags(&p->stream, cudaStreamNonBlocking), "CUDA stream of the sums"));
    TRY(cuda_check(cudaEventCreateWithFlags(&p->before, cudaEventDisableTiming), "CUDA event"));
    for (int i = 0; i < PEERS_SLOTS; i++) {
        TRY(cuda_check(cudaEventCreateWithFlags(&p->here[i], cudaEventDisableTiming), "CUDA event"));
        TRY(cuda_check(cudaEventCreateWithFlags(&p->done[i], cudaEventDisableTiming), "CUDA event"));
    }
    return 0;
}

static int peers_join(Backend *be, const unsigned char id[PEERS_ID], int rank, int size)
{
    CudaState *st = cuda_state(be);
    CudaPeers *p = calloc(1, sizeof *p);
    NcclId joined;
    NcclConfig config = cuda_nccl_config(0);
    if (!p)
        return err_set(ERR_NOMEM, "out of memory: NCCL");
    st->peers = p;
    p->rank = rank;
    p->size = size;
    TRY(cuda_nccl_load(&p->lib));
    TRY(make_streams(p));
    memcpy(&joined, id, sizeof joined);
    int r = p->lib.comm_init(&p->comm, size, joined, rank, &config);
    return r == NCCL_SUCCESS || r == NCCL_IN_PROGRESS ? 0 : failed(p, r, "joining the group");
}

/* The last sum is on the stream only now. */
static int close_sum(CudaPeers *p)
{
    if (p->enqueued == p->begun)
        return 0;
    p->enqueued = p->begun;
    return cuda_check(cudaEventRecord(p->done[(p->begun - 1) % PEERS_SLOTS], p->stream), "CUDA event");
}

static int peers_ready(Backend *be)
{
    CudaPeers *p = cuda_state(be)->peers;
    int error = NCCL_SUCCESS;
    if (!p || !p->comm)
        return err_set(ERR_BACKEND, "NCCL: no group");
    int r = p->lib.comm_error(p->comm, &error);
    if (r != NCCL_SUCCESS && r != NCCL_IN_PROGRESS)
        return failed(p, r, "the state of the group");
    if (error == NCCL_IN_PROGRESS || r == NCCL_IN_PROGRESS)
        return 0;
    if (error != NCCL_SUCCESS)
        return failed(p, error, "the group failed");
    TRY(close_sum(p));
    return 1;
}

static int peers_sum(Backend *be, int64_t *x, int64_t n)
{
    CudaState *st = cuda_state(be);
    CudaPeers *p = st->peers;
    TRY(cuda_check(cudaEventRecord(p->before, st->stream), "CUDA event"));
    TRY(cuda_check(cudaStreamWaitEvent(p->stream, p->before, 0), "CUDA stream"));
    TRY(cuda_check(cudaEventRecord(p->here[p->begun % PEERS_SLOTS], p->stream), "CUDA event"));
    int r = p->lib.all_reduce(x, x, (size_t)n, NCCL_INT64, NCCL_SUM, p->comm, p->stream);
    if (r != NCCL_SUCCESS && r != NCCL_IN_PROGRESS)
        return failed(p, r, "all-reduce");
    p->begun++;
    return r == NCCL_SUCCESS ? close_sum(p) : 0;
}

/* 1 when all before the event has run. */
static int has_fired(cudaEvent_t e)
{
    cudaError_t r = cudaEventQuery(e);
    if (r == cudaErrorNotReady) {
        (void)cudaGetLastError();
        return 0;
    }
    TRY(cuda_check(r, "a sum over the ranks"));
    return 1;
}

static int peers_state(Backend *be, int64_t k)
{
    CudaPeers *p = cuda_state(be)->peers;
    TRY(peers_ready(be));
    int done = k < p->enqueued ? has_fired(p->done[k % PEERS_SLOTS]) : 0;
    if (done)
        return done < 0 ? done : PEERS_DONE;
    int here = k < p->begun ? has_fired(p->here[k % PEERS_SLOTS]) : 0;
    return here < 0 ? here : here ? PEERS_HERE : PEERS_NOT_YET;
}

/* Waits for what comm_finalize has begun, but not for ever. */
static int finalized(CudaPeers *p)
{
    int error = NCCL_IN_PROGRESS;
    double began = clock_now();
    int r = p->lib.comm_finalize(p->comm);
    while (r == NCCL_SUCCESS || r == NCCL_IN_PROGRESS) {
        if (p->lib.comm_error(p->comm, &error) != NCCL_SUCCESS || error != NCCL_IN_PROGRESS || clock_now() - began > LEAVE_SECONDS)
            break;
        nanosleep(&(struct timespec){0, 1000000}, NULL);
    }
    return error == NCCL_SUCCESS;
}

static void peers_leave(Backend *be, int abort)
{
    CudaState *st = cuda_state(be);
    CudaPeers *p = st->peers;
    if (!p)
        return;
    if (p->comm && !abort && finalized(p))
        p->lib.comm_destroy(p->comm);
    else if (p->comm)
        p->lib.comm_abort(p->comm);
    for (int i = 0; i < PEERS_SLOTS; i++) {
        if (p->here[i])
            (void)cudaEventDestroy(p->here[i]);
        if (p->done[i])
            (void)cudaEventDestroy(p->done[i]);
    }
    if (p->before)
        (void)cudaEventDestroy(p->before);
    if (p->stream)
        (void)cudaStreamDestroy(p->stream);
    free(p);
    st->peers = NULL;
}

void cuda_peers_register(Backend *be)
{
    static const BackendPeers peers = {peers_device, peers_available, peers_make_id, peers_join, peers_ready, peers_sum, peers_state, peers_leave};
    be->peers = &peers;
}
