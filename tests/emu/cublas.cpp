/* Stand-in for cuBLAS: plain loops, float sums in order of k. */
#include "emu.h"

#include "include/cublas_v2.h"

#include <cstring>
#include <vector>

struct EmuBlas {
    cudaStream_t stream = nullptr;
};

static float get(const void *p, cudaDataType_t t, size_t i)
{
    if (t == CUDA_R_32F)
        return static_cast<const float *>(p)[i];
    uint32_t u = static_cast<uint32_t>(static_cast<const uint16_t *>(p)[i]) << 16;
    float f;
    memcpy(&f, &u, 4);
    return f;
}

static void put(void *p, cudaDataType_t t, size_t i, float v)
{
    if (t == CUDA_R_32F) {
        static_cast<float *>(p)[i] = v;
        return;
    }
    uint32_t u;
    memcpy(&u, &v, 4);
    static_cast<uint16_t *>(p)[i] = v != v ? 0x7fff : static_cast<uint16_t>((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

static std::vector<float> unpack(const void *p, cudaDataType_t t, int ld, int rows, int cols, bool transpose)
{
    std::vector<float> v(static_cast<size_t>(rows) * static_cast<size_t>(cols));
    for (int c = 0; c < cols; c++)
        for (int r = 0; r < rows; r++)
            v[static_cast<size_t>(c) * static_cast<size_t>(rows) + static_cast<size_t>(r)] =
                get(p, t, transpose ? static_cast<size_t>(r) * static_cast<size_t>(ld) + static_cast<size_t>(c)
                                    : static_cast<size_t>(c) * static_cast<size_t>(ld) + static_cast<size_t>(r));
    return v;
}

extern "C" {

cublasStatus_t cublasCreate_v2(cublasHandle_t *handle)
{
    *handle = new EmuBlas();
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasDestroy_v2(cublasHandle_t handle)
{
    delete handle;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSetStream_v2(cublasHandle_t handle, cudaStream_t stream)
{
    handle->stream = stream;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSetWorkspace_v2(cublasHandle_t, void *, size_t) { return CUBLAS_STATUS_SUCCESS; }

cublasStatus_t cublasGetProperty(libraryPropertyType type, int *value)
{
    *value = type == MAJOR_VERSION;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasGemmEx(cublasHandle_t handle, cublasOperation_t ta, cublasOperation_t tb, int m, int n, int k, const void *alpha,
                            const void *a, cudaDataType_t at, int lda, const void *b, cudaDataType_t bt, int ldb, const void *beta, void *c,
                            cudaDataType_t ct, int ldc, cublasComputeType_t compute, cublasGemmAlgo_t)
{
    if (m < 0 || n < 0 || k < 0 || lda < (ta == CUBLAS_OP_N ? m : k) || ldb < (tb == CUBLAS_OP_N ? k : n) || ldc < m)
        return CUBLAS_STATUS_INVALID_VALUE;
    if (compute != CUBLAS_COMPUTE_32F || at != bt || (at == CUDA_R_32F && ct != CUDA_R_32F))
        return CUBLAS_STATUS_NOT_SUPPORTED;
    float al = *static_cast<const float *>(alpha), be = *static_cast<const float *>(beta);
    emu::enqueue(handle->stream, [=] {
        std::vector<float> x = unpack(a, at, lda, k, m, ta == CUBLAS_OP_N); /* [m][k] */
        std::vector<float> y = unpack(b, bt, ldb, k, n, tb != CUBLAS_OP_N); /* [n][k] */
        for (int j = 0; j < n; j++)
            for (int i = 0; i < m; i++) {
                const float *p = &x[static_cast<size_t>(i) * static_cast<size_t>(k)], *q = &y[static_cast<size_t>(j) * static_cast<size_t>(k)];
                float s[8] = {};
                int l = 0;
                for (; l + 8 <= k; l += 8)
                    for (int u = 0; u < 8; u++)
                        s[u] += p[l + u] * q[l + u];
                for (; l < k; l++)
                    s[0] += p[l] * q[l];
                float sum = ((s[0] + s[4]) + (s[1] + s[5])) + ((s[2] + s[6]) + (s[3] + s[7]));
                size_t at_c = static_cast<size_t>(j) * static_cast<size_t>(ldc) + static_cast<size_t>(i);
                put(c, ct, at_c, al * sum + (be != 0.0f ? be * get(c, ct, at_c) : 0.0f));
            }
    });
    return CUBLAS_STATUS_SUCCESS;
}
}
