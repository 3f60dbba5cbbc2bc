/* NCCL on the devices that one process sees, as nccl-tests do: known integers, exact sums, many sizes. Then our own calls, which do not
 * block, in a group of one. Skips where there is no NCCL. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "cuda/cuda.h"
#include "cuda/internal.h"
#include "cuda/nccl.h"
#include "ops/peers.h"

#if !defined(EMULATED) && defined(__has_include)
#if __has_include(<nccl.h>)
#include <nccl.h>
_Static_assert(ncclSuccess == (ncclResult_t)NCCL_SUCCESS && ncclInProgress == (ncclResult_t)NCCL_IN_PROGRESS, "results");
_Static_assert(ncclInt64 == (ncclDataType_t)NCCL_INT64 && ncclSum == (ncclRedOp_t)NCCL_SUM, "type and operation");
_Static_assert(sizeof(ncclUniqueId) == sizeof(NcclId), "id");
_Static_assert(offsetof(ncclConfig_t, magic) == offsetof(NcclConfig, magic) && offsetof(ncclConfig_t, version) == offsetof(NcclConfig, version) &&
                   offsetof(ncclConfig_t, blocking) == offsetof(NcclConfig, blocking) &&
                   offsetof(ncclConfig_t, netName) == offsetof(NcclConfig, net_name) &&
                   offsetof(ncclConfig_t, splitShare) == offsetof(NcclConfig, split_share),
               "configuration");
#endif
#endif

enum { MOST = 16, BIG = (1 << 24) + 1 };
static CudaNccl lib;
static int have, devices;
static NcclComm comm[MOST];
static cudaStream_t stream[MOST];

static int64_t value(int rank, int64_t i)
{
    uint64_t x = ((uint64_t)i + 1) * 0x9e3779b97f4a7c15u + (uint64_t)rank * 0xd1b54a32d192ed03u;
    return (int64_t)(x ^ x >> 29) >> 7;
}

static int nccl_start(void **state)
{
    NcclId id;
    NcclConfig config = cuda_nccl_config(1);
    (void)state;
    have = cudaGetDeviceCount(&devices) == cudaSuccess && devices > 0 && cuda_nccl_load(&lib) >= 0;
    devices = devices < MOST ? devices : MOST;
    if (!have)
        return 0;
    if (lib.get_unique_id(&id) || lib.group_start())
        return -1;
    for (int d = 0; d < devices; d++)
        if (cudaSetDevice(d) || cudaStreamCreateWithFlags(&stream[d], cudaStreamNonBlocking) || lib.comm_init(&comm[d], devices, id, d, &config))
            return -1;
    return lib.group_end();
}

static int nccl_stop(void **state)
{
    (void)state;
    for (int d = 0; have && d < devices; d++) {
        lib.comm_destroy(comm[d]);
        cudaStreamDestroy(stream[d]);
    }
    return 0;
}

static void sums_are_exact(int64_t n)
{
    int64_t *x[MOST], *host = malloc((size_t)n * sizeof *host);
    for (int d = 0; d < devices; d++) {
        assert_int_equal(cudaSetDevice(d), 0);
        assert_int_equal(cudaMalloc((void **)&x[d], (size_t)n * sizeof *host), 0);
        for (int64_t i = 0; i < n; i++)
            host[i] = value(d, i);
        assert_int_equal(cudaMemcpyAsync(x[d], host, (size_t)n * sizeof *host, cudaMemcpyHostToDevice, stream[d]), 0);
        assert_int_equal(cudaStreamSynchronize(stream[d]), 0);
    }
    assert_int_equal(lib.group_start(), 0);
    for (int d = 0; d < devices; d++)
        assert_int_equal(lib.all_reduce(x[d], x[d], (size_t)n, NCCL_INT64, NCCL_SUM, comm[d], stream[d]), 0);
    assert_int_equal(lib.group_end(), 0);
    for (int d = 0; d < devices; d++) {
        int64_t wrong = 0;
        assert_int_equal(cudaSetDevice(d), 0);
        assert_int_equal(cudaMemcpyAsync(host, x[d], (size_t)n * sizeof *host, cudaMemcpyDeviceToHost, stream[d]), 0);
        assert_int_equal(cudaStreamSynchronize(stream[d]), 0);
        for (int64_t i = 0; i < n; i++) {
            int64_t sum = 0;
            for (int r = 0; r < devices; r++)
                sum += value(r, i);
            wrong += host[i] != sum;
        }
        assert_int_equal(wrong, 0);
        cudaFree(x[d]);
    }
    free(host);
}

static void test_cuda_nccl__sums_are_exact(void **state)
{
    (void)state;
    static const int64_t n[] = {1, 2, 3, 127, 65537, (1 << 20) + 3, BIG};
    if (!have)
        skip();
    print_message("%d device%s\n", devices, devices > 1 ? "s" : "");
    for (size_t k = 0; k < sizeof n / sizeof *n; k++)
#ifdef EMULATED
        if (n[k] < BIG)
#endif
            sums_are_exact(n[k]);
}

static int until(Backend *be, int (*ask)(Backend *, int64_t), int64_t k, int want)
{
    int rc = 0;
    for (int i = 0; i < 60000 && rc >= 0 && rc != want; i++) {
        rc = ask(be, k);
        nanosleep(&(struct timespec){0, 1000000}, NULL);
    }
    return rc;
}

static int ready(Backend *be, int64_t k)
{
    (void)k;
    return be->peers->ready(be);
}

/* More sums than slots, each after the work that the backend has before it. */
static void test_cuda_nccl__a_group_of_one(void **state)
{
    enum { N = 5003, SUMS = 3 * PEERS_SLOTS };
    (void)state;
    Backend *be;
    unsigned char id[PEERS_ID], device[PEERS_DEVICE];
    int version;
    if (!have)
        skip();
    if (cuda_backend_create(&be, 0) < 0)
        skip(); /* no cuBLAS */
    const BackendPeers *p = be->peers;
    void *x = NULL;
    int64_t *host = malloc(N * sizeof *host);
    assert_int_equal(p->device(be, device), 0);
    assert_int_equal(p->available(be, &version), 0);
    assert_true(version >= 21400);
    assert_int_equal(p->make_id(be, id), 0);
    assert_int_equal(p->join(be, id, 0, 1), 0);
    assert_int_equal(until(be, ready, 0, 1), 1);
    assert_int_equal(be->alloc(be, &x, N * sizeof *host), 0);
    for (int64_t i = 0; i < N; i++)
        host[i] = value(0, i);
    assert_int_equal(be->upload(be, x, host, N * sizeof *host), 0);
    for (int64_t k = 0; k < SUMS; k++) {
        if (k >= PEERS_SLOTS)
            assert_int_equal(until(be, p->state, k - PEERS_SLOTS, PEERS_DONE), PEERS_DONE);
        assert_int_equal(until(be, ready, 0, 1), 1);
        assert_int_equal(p->sum(be, x, N), 0);
    }
    assert_int_equal(until(be, p->state, SUMS - 1, PEERS_DONE), PEERS_DONE);
    memset(host, 0, N * sizeof *host);
    assert_int_equal(be->download(be, host, x, N * sizeof *host), 0);
    int wrong = 0;
    for (int64_t i = 0; i < N; i++)
        wrong += host[i] != value(0, i);
    assert_int_equal(wrong, 0);
    p->leave(be, 0);
    assert_true(p->ready(be) < 0);
    be->free(be, x, N * sizeof *host);
    backend_destroy(be);
    free(host);
}

int main(void)
{
#ifdef EMULATED
    setenv("EMU_DEVICES", "3", 0);
#endif
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cuda_nccl__sums_are_exact),
        cmocka_unit_test(test_cuda_nccl__a_group_of_one),
    };
    return cmocka_run_group_tests(tests, nccl_start, nccl_stop);
}
