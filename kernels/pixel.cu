/* Images between the VAE and files. */
#include "device.h"
#include "grid.h"
#include "kernels.h"

namespace {

enum { PER = 16 }; /* pixels' values per thread: 16 bytes of them */

/* As io_image_from_hwc: NaN becomes 0, halves go to even. */
__device__ __forceinline__ uint32_t to_pixel(float v)
{
    float u = add_rn(mul_rn(v, 0.5f), 0.5f);
    u = u > 0 ? u : 0.0f;
    u = u < 1 ? u : 1.0f;
    return (uint32_t)round_i32(u * 255.0f);
}

template <typename T> __global__ void k_to_pixels(const T *x, uint8_t *y, int64_t n)
{
    enum { N = Pack<T>::N };
    for (int64_t i = grid_first(); i * PER < n; i += grid_step()) {
        if ((i + 1) * PER > n) {
            for (int64_t k = i * PER; k < n; k++)
                y[k] = (uint8_t)to_pixel(load(x + k));
            continue;
        }
        uint32_t word[4];
        float v[PER];
#pragma unroll
        for (int k = 0; k < PER; k += N)
            load_pack(v + k, x + i * PER + k);
#pragma unroll
        for (int k = 0; k < 4; k++)
            word[k] = to_pixel(v[4 * k]) | to_pixel(v[4 * k + 1]) << 8 | to_pixel(v[4 * k + 2]) << 16 | to_pixel(v[4 * k + 3]) << 24;
        uint4 q;
        q.x = word[0], q.y = word[1], q.z = word[2], q.w = word[3];
        *reinterpret_cast<uint4 *>(y + i * PER) = q;
    }
}

/* As io_image_to_hwc. */
__device__ __forceinline__ float from_pixel(uint32_t v) { return add_rn((float)v / 127.5f, -1.0f); }

template <typename T> __global__ void k_from_pixels(const uint8_t *x, T *y, int64_t n)
{
    enum { N = Pack<T>::N };
    for (int64_t i = grid_first(); i * PER < n; i += grid_step()) {
        if ((i + 1) * PER > n) {
            for (int64_t k = i * PER; k < n; k++)
                store(y + k, from_pixel(x[k]));
            continue;
        }
        uint4 q = *reinterpret_cast<const uint4 *>(x + i * PER);
        const uint32_t word[4] = {q.x, q.y, q.z, q.w};
        float v[PER];
#pragma unroll
        for (int k = 0; k < PER; k++)
            v[k] = from_pixel(word[k / 4] >> k % 4 * 8 & 255);
#pragma unroll
        for (int k = 0; k < PER; k += N)
            store_pack(y + i * PER + k, v + k);
    }
}

} // namespace

void kernel_to_pixels(int t, const void *x, uint8_t *y, int64_t n, void *stream)
{
#define DO(T) LAUNCH((k_to_pixels<T>), grid_for(ceil_div(n, PER)), GRID_BLOCK, 0, stream, (const T *)x, y, n)
    EACH_TYPE(t, DO);
#undef DO
}

void kernel_from_pixels(int t, const uint8_t *x, void *y, int64_t n, void *stream)
{
#define DO(T) LAUNCH((k_from_pixels<T>), grid_for(ceil_div(n, PER)), GRID_BLOCK, 0, stream, x, (T *)y, n)
    EACH_TYPE(t, DO);
#undef DO
}
