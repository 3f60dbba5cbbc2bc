#include <dlfcn.h>
#include <string.h>

#include "cuda/internal.h"

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

static int symbol(void *lib, const char *name, void *slot)
{
    void *p = dlsym(lib, name);
    memcpy(slot, &p, sizeof p);
    return p ? 0 : err_set(ERR_UNSUPPORTED, "cuBLAS has no symbol %s: version 11 or later is needed", name);
}

int cuda_blas_load(CudaBlas *b)
{
    static const char *const names[] = {"libcublas.so.13", "libcublas.so.12", "libcublas.so.11", "libcublas.so", NULL};
    void *lib = open_any("cublasGemmEx", names);
    if (!lib && !dlsym(RTLD_DEFAULT, "cublasGemmEx"))
        return err_set(ERR_UNSUPPORTED, "cuBLAS was not found (libcublas.so.13, .12 or .11); install it or add its folder to LD_LIBRARY_PATH");
    TRY(symbol(lib, "cublasCreate_v2", &b->create));
    TRY(symbol(lib, "cublasDestroy_v2", &b->destroy));
    TRY(symbol(lib, "cublasSetStream_v2", &b->set_stream));
    TRY(symbol(lib, "cublasSetWorkspace_v2", &b->set_workspace));
    TRY(symbol(lib, "cublasGetProperty", &b->property));
    TRY(symbol(lib, "cublasGemmEx", &b->gemm));
    return 0;
}

int cuda_nccl_version(void)
{
    static const char *const names[] = {"libnccl.so.2", NULL};
    void *lib = open_any("ncclGetVersion", names);
    int (*get)(int *) = NULL, version = 0;
    void *p = dlsym(lib ? lib : RTLD_DEFAULT, "ncclGetVersion");
    memcpy(&get, &p, sizeof p);
    return get && get(&version) == 0 ? version : 0;
}
