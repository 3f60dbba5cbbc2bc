/* Adafactor of one tensor, with the sums, their order and the roundings of src/cpu/optim_adafactor.c: the same bits. Numbers that hold for the
 * whole tensor stay on the device, so that nothing waits for the host. */
#include "device.h"
#include "grid.h"
#include "kernels.h"

namespace {

/* Gradient squared, with the term that keeps roots away from zero. */
__device__ __forceinline__ float square(float g, float scale)
{
    float x = mul_rn(g, scale);
    return add_rn(mul_rn(x, x), 1e-30f);
}

/* Sum of the tiles in order; one thread. */
__device__ __forceinline__ double total(const double *tile, int64_t n)
{
    double s = 0;
    for (int64_t i = 0; i < (n + KERNEL_TILE - 1) / KERNEL_TILE; i++)
        s += tile[i];
    return s;
}

__global__ void k_adafactor_rate(const double *tile, int64_t n, KernelAdafactor a, KernelTerms *terms)
{
    double lr = a.lr;
    if (a.scale_parameter) {
        double rms = sqrt(total(tile, n) / (double)n);
        lr = mul_rn(lr, rms > 1e-3 ? rms : 1e-3);
    }
    terms->lr = (float)lr;
    terms->decay = (float)add_rn(1.0, -mul_rn(lr, a.weight_decay));
}

__global__ void k_adafactor_clip(const double *tile, int64_t n, KernelAdafactor a, KernelTerms *terms)
{
    double rms = sqrt(total(tile, n) / (double)n) / a.clip;
    terms->fraction = rms > 1 ? 1 / rms : 1.0;
}

/* Four lanes per row, each with four of its 16 chains. */
__global__ void k_adafactor_rows(const float *grad, float *row, int64_t rows, int64_t cols, KernelAdafactor a)
{
    int64_t r = grid_first() / 4, last = r < rows ? cols : 0;
    int part = (int)threadIdx.x % 4;
    const float *g = grad + (r < rows ? r : 0) * cols;
    double s[4] = {0, 0, 0, 0};
    for (int64_t c = part * 4; c < last; c += 16) {
        if (cols % 4 == 0) {
            float v[4];
            load_pack(v, g + c);
            for (int k = 0; k < 4; k++)
                s[k] += (double)square(v[k], a.scale);
        } else {
#pragma unroll
            for (int k = 0; k < 4; k++)
                s[k] += c + k < last ? (double)square(g[c + k], a.scale) : 0.0;
        }
    }
    for (int k = 0; k < 4; k++) {
        s[k] += warp_xor(s[k], 2);
        s[k] += warp_xor(s[k], 1);
    }
    if (part == 0 && r < rows)
        row[r] = add_rn(mul_rn(row[r], a.beta2), mul_rn(a.keep, (float)(((s[0] + s[2]) + (s[1] + s[3])) / (double)cols)));
}

/* A thread per column of each matrix: neighbours read neighbours. */
__global__ void k_adafactor_cols(const float *grad, float *col, int64_t outer, int64_t rows, int64_t cols, KernelAdafactor a)
{
    for (int64_t i = grid_first(); i < outer * cols; i += grid_step()) {
        const float *g = grad + i / cols * rows * cols + i % cols;
        double s = 0;
        for (int64_t r = 0; r < rows; r++)
            s += (double)square(g[r * cols], a.scale);
        col[i] = add_rn(mul_rn(col[i], a.beta2), mul_rn(a.keep, (float)(s / (double)rows)));
    }
}

__global__ void k_adafactor_mean(const float *row, float *mean, int64_t outer, int64_t rows)
{
    for (int64_t o = grid_first(); o < outer; o += grid_step()) {
        double s = 0;
        for (int64_t r = 0; r < rows; r++)
            s += (double)row[o * rows + r];
        mean[o] = (float)(s / (double)rows);
    }
}

__global__ void k_adafactor_update(float *grad, const float *row, const float *col, const float *mean, int64_t n, int64_t rows, int64_t cols,
                                   KernelAdafactor a)
{
    for (int64_t i = grid_first(); i < n; i += grid_step()) {
        int64_t r = i / cols, o = r / rows;
        float by_row = 1 / sqrtf(row[r] / mean[o]), by_col = 1 / sqrtf(col[o * cols + i % cols]);
        grad[i] = mul_rn(mul_rn(by_row, by_col), mul_rn(grad[i], a.scale));
    }
}

__global__ void k_adafactor_vector(float *grad, float *v, int64_t n, KernelAdafactor a)
{
    for (int64_t i = grid_first(); i < n; i += grid_step()) {
        v[i] = add_rn(mul_rn(v[i], a.beta2), mul_rn(a.keep, square(grad[i], a.scale)));
        grad[i] = mul_rn(1 / sqrtf(v[i]), mul_rn(grad[i], a.scale));
    }
}

__global__ void k_adafactor_apply(float *p, float *m, const float *update, int64_t n, float beta1, const KernelTerms *terms)
{
    const KernelTerms t = *terms;
    for (int64_t i = grid_first(); i < n; i += grid_step()) {
        float u = mul_rn((float)mul_rn((double)update[i], t.fraction), t.lr);
        if (m)
            u = m[i] = add_rn(mul_rn(m[i], beta1), mul_rn(1 - beta1, u));
        p[i] = add_rn(mul_rn(p[i], t.decay), -u);
    }
}

} // namespace

void kernel_adafactor(float *p, float *row, float *col, float *v, float *m, float *grad, int64_t n, int64_t outer, int64_t rows, int64_t cols,
                      const KernelAdafactor *a, double *tile, float *mean, KernelTerms *terms, void *stream)
{
    KernelAdafactor k = *a;
    if (k.scale_parameter)
        kernel_tile_sums(KERNEL_SUM_SQUARE, p, nullptr, n, tile, stream);
    LAUNCH(k_adafactor_rate, 1, 1, 0, stream, tile, n, k, terms);
    if (cols) {
        LAUNCH(k_adafactor_rows, (unsigned)ceil_div(outer * rows * 4, GRID_BLOCK), GRID_BLOCK, 0, stream, grad, row, outer * rows, cols, k);
        LAUNCH(k_adafactor_cols, grid_for(outer * cols), GRID_BLOCK, 0, stream, grad, col, outer, rows, cols, k);
        LAUNCH(k_adafactor_mean, grid_for(outer), GRID_BLOCK, 0, stream, row, mean, outer, rows);
        LAUNCH(k_adafactor_update, grid_for(n), GRID_BLOCK, 0, stream, grad, row, col, mean, n, rows, cols, k);
    } else {
        LAUNCH(k_adafactor_vector, grid_for(n), GRID_BLOCK, 0, stream, grad, v, n, k);
    }
    kernel_tile_sums(KERNEL_SUM_SQUARE, grad, nullptr, n, tile, stream);
    LAUNCH(k_adafactor_clip, 1, 1, 0, stream, tile, n, k, terms);
    LAUNCH(k_adafactor_apply, grid_for(n), GRID_BLOCK, 0, stream, p, m, grad, n, k.beta1, terms);
}
