/* y = x w^T + u b^T with u = scale x a^T, rank at most 64: each block multiplies its tile of x with w and with a while it lies in shared
 * memory, then adds its u times b; x is read once and y written once. Every block of a row of tiles makes u again, which costs rank/128 of
 * the work; the first one stores it. No row's sums depend on the rows around it. bf16, tiles of 128 x 128, 32 deep, three stages of
 * cp.async. The data gradient is the same with w, a and b lying the other way. */
#include "device.h"
#include "grid.h"
#include "kernels.h"

namespace {

enum { BM = 128, BN = 128, BK = 32, STAGES = 3, THREADS = 256, LD = BK + 8, LD_N = BN + 8 };

template <int R, bool TRANS> struct Tile {
    static constexpr int LD_R = R + 8, X = BM * LD, W = TRANS ? BK * (int)LD_N : BN * (int)LD, A = TRANS ? BK * LD_R : R * LD;
    static constexpr int STAGE = X + W + A, B = TRANS ? R * LD_N : BN * LD_R;
    static_assert(BM * LD_R <= STAGE, "u lies over the first stage");
    static constexpr size_t bytes = sizeof(bf16) * (size_t)((int)STAGES * STAGE + B);
};

/* 8 elements of a row of `width`, zeros outside and where the row does not exist. Whole pieces of 16 bytes in the background where
 * `packed`: width is a multiple of 8. */
__device__ __forceinline__ void load_8(bf16 *shared, const bf16 *base, int64_t row, int64_t rows, int64_t c, int64_t width, bool packed)
{
    if (packed) {
        bool inside = row < rows && c < width;
        copy_async_16(shared, inside ? base + row * width + c : base, inside ? 16 : 0);
        return;
    }
    for (int i = 0; i < 8; i++) {
        bf16 zero = {0};
        shared[i] = row < rows && c + i < width ? base[row * width + c + i] : zero;
    }
}

/* A tile of ROWS x COLS elements from (row, c) on, LDS elements from row to row. */
template <int ROWS, int COLS, int LDS>
__device__ __forceinline__ void load_tile(bf16 *to, const bf16 *base, int64_t row, int64_t rows, int64_t c, int64_t width, bool packed)
{
    for (int i = (int)threadIdx.x; i < ROWS * COLS / 8; i += THREADS)
        load_8(to + i / (COLS / 8) * LDS + i % (COLS / 8) * 8, base, row + i / (COLS / 8), rows, c + i % (COLS / 8) * 8, width, packed);
}

struct LowArg {
    const bf16 *x, *w, *a, *b, *res;
    const float *bias, *s;
    bf16 *y, *u;
    KernelLow g;
};

template <int R, bool TRANS> __device__ __forceinline__ void load_stage(bf16 *to, const LowArg &p, int64_t row, int64_t col, int64_t k)
{
    typedef Tile<R, TRANS> T;
    load_tile<BM, BK, LD>(to, p.x, row, p.g.rows, k, p.g.k, true);
    if constexpr (TRANS) {
        load_tile<BK, BN, LD_N>(to + T::X, p.w, k, p.g.k, col, p.g.n, true);
        load_tile<BK, R, T::LD_R>(to + T::X + T::W, p.a, k, p.g.k, 0, p.g.rank, p.g.rank % 8 == 0);
    } else {
        load_tile<BN, BK, LD>(to + T::X, p.w, col, p.g.n, k, p.g.k, true);
        load_tile<R, BK, LD>(to + T::X + T::W, p.a, 0, p.g.rank, k, p.g.k, true);
    }
}

/* Operand b of two products with 16 columns from `col` on, 16 deep from `k` on: b[0..1] the first 8 columns, b[2..3] the others. */
template <bool TRANS> __device__ __forceinline__ void load_columns(uint32_t b[4], const bf16 *tile, int ld, int col, int k)
{
    int lane = (int)threadIdx.x % 32;
    if constexpr (TRANS)
        ldmatrix_x4_trans(b, tile + (k + lane % 16) * ld + col + lane / 16 * 8);
    else
        ldmatrix_x4(b, tile + (col + lane / 16 * 8 + lane % 8) * ld + k + lane / 8 % 2 * 8);
}

/* acc[i][j] += 32 rows of `a` (fa) times 64 columns of `tile`. */
template <bool TRANS> __device__ __forceinline__ void multiply(float acc[2][8][4], const uint32_t fa[2][4], const bf16 *tile, int ld, int col, int k)
{
#pragma unroll
    for (int j = 0; j < 4; j++) {
        uint32_t fb[4];
        load_columns<TRANS>(fb, tile, ld, col + j * 16, k);
#pragma unroll
        for (int i = 0; i < 2; i++) {
            mma_16816(acc[i][2 * j], fa[i], fb);
            mma_16816(acc[i][2 * j + 1], fa[i], fb + 2);
        }
    }
}

/* low[i][j] += the same rows times this side's R/2 columns of a. */
template <int R, bool TRANS>
__device__ __forceinline__ void multiply_low(float low[2][R / 16][4], const uint32_t fa[2][4], const bf16 *tile, int ld, int side, int k)
{
#pragma unroll
    for (int j = 0; j < (R + 31) / 32; j++) {
        uint32_t fb[4];
        load_columns<TRANS>(fb, tile, ld, R == 16 ? 0 : side * (R / 2) + j * 16, k);
        if (R == 16 && side) {
            fb[0] = fb[2];
            fb[1] = fb[3];
        }
#pragma unroll
        for (int i = 0; i < 2; i++) {
            mma_16816(low[i][R == 16 ? 0 : 2 * j], fa[i], fb);
            if (R > 16)
                mma_16816(low[i][R == 16 ? 0 : 2 * j + 1], fa[i], fb + 2);
        }
    }
}

template <int R, bool TRANS> __global__ void __launch_bounds__(THREADS) k_linear_low(LowArg p)
{
    typedef Tile<R, TRANS> T;
    SHARED_DYNAMIC(bf16, mem);
    int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32, wm = warp % 4 * 32, side = warp / 4;
    int64_t row0 = (int64_t)blockIdx.x * BM, col0 = (int64_t)blockIdx.y * BN;
    int steps = (int)((p.g.k + BK - 1) / BK);
    bf16 *second = mem + (int)STAGES * T::STAGE;
    if constexpr (TRANS)
        load_tile<R, BN, LD_N>(second, p.b, 0, p.g.rank, col0, p.g.n, true);
    else
        load_tile<BN, R, T::LD_R>(second, p.b, col0, p.g.n, 0, p.g.rank, p.g.rank % 8 == 0);
    for (int s = 0; s < STAGES - 1; s++) {
        if (s < steps)
            load_stage<R, TRANS>(mem + s * T::STAGE, p, row0, col0, (int64_t)s * BK);
        copy_commit();
    }
    float acc[2][8][4], low[2][R / 16][4];
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int k = 0; k < 4; k++) {
#pragma unroll
            for (int j = 0; j < 8; j++)
                acc[i][j][k] = 0;
#pragma unroll
            for (int j = 0; j < R / 16; j++)
                low[i][j][k] = 0;
        }
    for (int s = 0; s < steps; s++) {
        copy_wait<STAGES - 2>();
        BARRIER();
        int next = s + STAGES - 1;
        if (next < steps)
            load_stage<R, TRANS>(mem + next % STAGES * T::STAGE, p, row0, col0, (int64_t)next * BK);
        copy_commit();
        const bf16 *x = mem + s % STAGES * T::STAGE, *w = x + T::X, *a = w + T::W;
#pragma unroll
        for (int kk = 0; kk < BK; kk += 16) {
            uint32_t fa[2][4];
#pragma unroll
            for (int i = 0; i < 2; i++)
                ldmatrix_x4(fa[i], x + (wm + i * 16 + lane % 16) * LD + kk + lane / 16 * 8);
            multiply<TRANS>(acc, fa, w, TRANS ? (int)LD_N : (int)LD, side * 64, kk);
            multiply_low<R, TRANS>(low, fa, a, TRANS ? T::LD_R : (int)LD, side, kk);
        }
    }
    copy_wait<0>();
    BARRIER(); /* the stages are read: u takes the place of the first */
    float scale = p.g.factor * (p.s ? p.s[0] : 1.0f);
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int j = 0; j < R / 16; j++)
#pragma unroll
            for (int k = 0; k < 4; k++) {
                int r = wm + i * 16 + lane / 4 + k / 2 * 8, c = side * (R / 2) + j * 8 + lane % 4 * 2 + k % 2;
                bf16 v = f32_to_bf16(low[i][j][k] * scale);
                mem[r * T::LD_R + c] = v;
                if (blockIdx.y == 0 && row0 + r < p.g.rows && c < p.g.rank)
                    p.u[(row0 + r) * p.g.rank + c] = v;
            }
    BARRIER();
#pragma unroll
    for (int kk = 0; kk < R; kk += 16) {
        uint32_t fa[2][4];
#pragma unroll
        for (int i = 0; i < 2; i++)
            ldmatrix_x4(fa[i], mem + (wm + i * 16 + lane % 16) * T::LD_R + kk + lane / 16 * 8);
        multiply<TRANS>(acc, fa, second, TRANS ? (int)LD_N : T::LD_R, side * 64, kk);
    }
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int j = 0; j < 8; j++)
#pragma unroll
            for (int k = 0; k < 4; k += 2) { /* n is even: two neighbours at once */
                int64_t row = row0 + wm + i * 16 + lane / 4 + k / 2 * 8, col = col0 + side * 64 + j * 8 + lane % 4 * 2;
                if (row >= p.g.rows || col >= p.g.n)
                    continue;
                float v0 = acc[i][j][k], v1 = acc[i][j][k + 1];
                if (p.bias) {
                    v0 += p.bias[col];
                    v1 += p.bias[col + 1];
                }
                if (p.res) {
                    uint32_t r = *reinterpret_cast<const uint32_t *>(p.res + row * p.g.n + col);
                    v0 += __uint_as_float(r << 16);
                    v1 += __uint_as_float(r & 0xffff0000u);
                }
                *reinterpret_cast<uint32_t *>(p.y + row * p.g.n + col) = pack_bf16(v0, v1);
            }
}

template <int R, bool TRANS> void run(const LowArg &p, void *stream)
{
    dim3 grid((unsigned)ceil_div(p.g.rows, BM), (unsigned)ceil_div(p.g.n, BN));
    size_t shared = Tile<R, TRANS>::bytes;
    allow_shared((const void *)(k_linear_low<R, TRANS>), shared);
    LAUNCH((k_linear_low<R, TRANS>), grid, THREADS, shared, stream, p);
}

} // namespace

void kernel_linear_low(const void *x, const void *w, const void *a, const void *b, const float *bias, const void *res, const float *s,
                       void *y, void *u, const KernelLow *g, void *stream)
{
    LowArg p = {(const bf16 *)x, (const bf16 *)w, (const bf16 *)a, (const bf16 *)b, (const bf16 *)res, bias, s, (bf16 *)y, (bf16 *)u, *g};
#define DO(R)                          \
    do {                               \
        if (g->transposed)             \
            run<R, true>(p, stream);   \
        else                           \
            run<R, false>(p, stream);  \
    } while (0)
    if (!g->rows)
        return;
    if (g->rank <= 16)
        DO(16);
    else if (g->rank <= 32)
        DO(32);
    else
        DO(64);
#undef DO
}
