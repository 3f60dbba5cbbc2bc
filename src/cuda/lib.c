#include <dlfcn.h>
#include <string.h>

#include "cuda/internal.h"
#include "cuda/nccl.h"

/* A symbol of the program itself (the emulated device brings its own libraries), else of the first library that opens. */
static void *open_any(const char *probe, const char *const *names)
{
    if (dlsym(RTLD_DEFAULT, probe))
        return RTLD_DEFAULT;
    for (; *names; names++) {
        void *lib = dlopen(*names, RTLD_NOW | RTLD_GLOBAL);
        if (lib && dlsym(lib, probe))
            return lib;
    }
    return NULL;
}

typedef struct {
    const char *name;
    void *slot;
} Symbol;

static int symbols(void *lib, const Symbol *s, size_t n, const char *needed)
{
    for (size_t i = 0; i < n; i++) {
        void *p = dlsym(lib, s[i].name);
        memcpy(s[i].slot, &p, sizeof p);
        if (!p)
            return err_set(ERR_UNSUPPORTED, "there is no symbol %s: %s or later is needed", s[i].name, needed);
    }
    return 0;
}

int cuda_blas_load(CudaBlas *b)
{
    static const char *const names[] = {"libcublas.so.13", "libcublas.so.12", "libcublas.so.11", "libcublas.so", NULL};
    void *lib = open_any("cublasGemmEx", names);
    if (!lib && !dlsym(RTLD_DEFAULT, "cublasGemmEx"))
        return err_set(ERR_UNSUPPORTED, "cuBLAS was not found (libcublas.so.13, .12 or .11); install it or add its folder to LD_LIBRARY_PATH");
    const Symbol s[] = {{"cublasCreate_v2", &b->create},
                        {"cublasDestroy_v2", &b->destroy},
                        {"cublasSetStream_v2", &b->set_stream},
                        {"cublasSetWorkspace_v2", &b->set_workspace},
                        {"cublasGetProperty", &b->property},
                        {"cublasGemmEx", &b->gemm}};
    return symbols(lib, s, sizeof s / sizeof *s, "cuBLAS 11");
}

int cuda_nccl_load(CudaNccl *n)
{
    static const char *const names[] = {"libnccl.so.2", NULL};
    void *lib = open_any("ncclGetVersion", names);
    if (!lib && !dlsym(RTLD_DEFAULT, "ncclGetVersion"))
        return err_set(ERR_UNSUPPORTED, "NCCL was not found (libnccl.so.2); install it or add its folder to LD_LIBRARY_PATH");
    const Symbol s[] = {{"ncclGetVersion", &n->get_version},
                        {"ncclGetUniqueId", &n->get_unique_id},
                        {"ncclCommInitRankConfig", &n->comm_init},
                        {"ncclCommGetAsyncError", &n->comm_error},
                        {"ncclCommFinalize", &n->comm_finalize},
                        {"ncclCommDestroy", &n->comm_destroy},
                        {"ncclCommAbort", &n->comm_abort},
                        {"ncclAllReduce", &n->all_reduce},
                        {"ncclGroupStart", &n->group_start},
                        {"ncclGroupEnd", &n->group_end},
                        {"ncclGetErrorString", &n->error_string}};
    return symbols(lib, s, sizeof s / sizeof *s, "NCCL 2.14");
}

int cuda_nccl_version(void)
{
    CudaNccl n;
    int version = 0;
    return cuda_nccl_load(&n) >= 0 && n.get_version(&version) == NCCL_SUCCESS ? version : 0;
}
