/* The part of NCCL that Atelier uses, as declared in nccl.h of NCCL 2.18 (names, values and layouts; later versions take them): that
 * header does not come with every CUDA toolkit. tests/cuda/nccl.c compares it with the real one where there is one. */
#ifndef CUDA_NCCL_H
#define CUDA_NCCL_H

#include <cuda_runtime.h>
#include <limits.h>
#include <stddef.h>

typedef struct ncclComm *NcclComm;
typedef struct {
    char internal[128];
} NcclId;
enum { NCCL_SUCCESS = 0, NCCL_IN_PROGRESS = 7, NCCL_INT64 = 4, NCCL_SUM = 0, NCCL_MAGIC = (int)0xcafebeefu, NCCL_CONFIG_VERSION = 21800 };
typedef struct {
    size_t size;
    unsigned int magic, version;
    int blocking, cga_cluster_size, min_ctas, max_ctas;
    const char *net_name;
    int split_share, later; /* later: of versions after 2.18; INT_MIN as everything left open */
} NcclConfig;

typedef struct {
    int (*get_version)(int *version);
    int (*get_unique_id)(NcclId *id);
    int (*comm_init)(NcclComm *comm, int size, NcclId id, int rank, NcclConfig *config);
    int (*comm_error)(NcclComm comm, int *error);
    int (*comm_finalize)(NcclComm comm);
    int (*comm_destroy)(NcclComm comm);
    int (*comm_abort)(NcclComm comm);
    int (*all_reduce)(const void *send, void *recv, size_t count, int type, int op, NcclComm comm, cudaStream_t stream);
    int (*group_start)(void);
    int (*group_end)(void);
    const char *(*error_string)(int result);
} CudaNccl;

/* libnccl.so.2, or the emulated device's. ERR_UNSUPPORTED names what is missing. */
int cuda_nccl_load(CudaNccl *out);
/* blocking 0: calls return NCCL_IN_PROGRESS and comm_error says when they are done. */
NcclConfig cuda_nccl_config(int blocking);

#endif
