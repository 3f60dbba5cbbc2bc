/* Convolution as an implicit GEMM. y[pixel, co] = sum over taps and ci of x[pixel moved by the tap, ci] * w[co, tap, ci]: rows are
 * output pixels of all items, gathered straight from the image; no row's sum depends on the rows around it. The data gradient is
 * the same sum over dy with the taps mirrored. bf16 runs on tensor cores: tiles of 128 pixels x 128 channels, or 64 where that gives too few blocks, 32
 * deep, three stages of cp.async; each of four warps takes half of both, so that a fragment read from shared memory is used two to four times
 * (at 32 x 32 per warp shared memory would allow a third of an H100's rate). f32 runs on fused multiply-adds. */
#include "device.h"
#include "grid.h"
#include "kernels.h"

namespace {

/* From an output pixel and a tap to a pixel of the h x w image: (o * mul + base + sign * tap) / div where it divides; and from there to
 * the source's, from_h x from_w: floor(y * from_h / h), a shift where the sizes are powers of two apart. */
struct Gather {
    int64_t rows;              /* n * oh * ow */
    int h, w, c, oh, ow, kw, taps, mul, base_y, base_x, sign, div, out;
    int from_h, from_w, shift; /* shift < 0: divide */
};

__device__ __forceinline__ int64_t gather_at(const Gather &g, int n, int oy, int ox, int tap)
{
    int y = oy * g.mul + g.base_y + g.sign * (tap / g.kw), x = ox * g.mul + g.base_x + g.sign * (tap % g.kw);
    if (g.div > 1) {
        if (y % g.div || x % g.div)
            return -1;
        y /= g.div;
        x /= g.div;
    }
    if (y < 0 || y >= g.h || x < 0 || x >= g.w)
        return -1;
    if (g.shift >= 0) {
        y >>= g.shift;
        x >>= g.shift;
    } else {
        y = (int)((uint32_t)(y * g.from_h) / (uint32_t)g.h);
        x = (int)((uint32_t)(x * g.from_w) / (uint32_t)g.w);
    }
    return (((int64_t)n * g.from_h + y) * g.from_w + x) * g.c;
}

enum { BM = 128, BK = 32, STAGES = 3, THREADS = 128, LD = BK + 8 };

/* 16 bytes at element c of a row of `width` elements, or 0 outside; `row` NULL: all outside. PACKED: width is a multiple of 8. */
template <bool PACKED> __device__ __forceinline__ void load_8(bf16 *shared, const bf16 *row, const bf16 *any, int c, int width)
{
    if constexpr (PACKED) {
        bool inside = row && c < width;
        copy_async_16(shared, inside ? row + c : any, inside ? 16 : 0);
    } else {
        for (int i = 0; i < 8; i++) {
            bf16 zero = {0};
            shared[i] = row && c + i < width ? row[c + i] : zero;
        }
    }
}

/* What a thread loads of a stage: 16 bytes of every 32nd row of pixels and of weights. Follows the taps, and within one the channels, from
 * stage to stage. */
struct Walk {
    int pixel[BM / 32][3];        /* item (-1: none), y, x */
    const bf16 *from[BM / 32];    /* the tap's pixel, or NULL */
    int tap, c;
};

__device__ __forceinline__ void walk_tap(Walk &k, const Gather &g, const bf16 *x)
{
#pragma unroll
    for (int i = 0; i < BM / 32; i++) {
        int64_t at = k.pixel[i][0] >= 0 && k.tap < g.taps ? gather_at(g, k.pixel[i][0], k.pixel[i][1], k.pixel[i][2], k.tap) : -1;
        k.from[i] = at >= 0 ? x + at : nullptr;
    }
}

__device__ __forceinline__ Walk walk_from(const Gather &g, const bf16 *x, int64_t first)
{
    Walk k;
    for (int i = 0; i < BM / 32; i++) {
        int64_t row = first + i * 32;
        bool inside = row < g.rows;
        k.pixel[i][0] = inside ? (int)(row / ((int64_t)g.oh * g.ow)) : -1;
        k.pixel[i][1] = inside ? (int)(row / g.ow % g.oh) : 0;
        k.pixel[i][2] = inside ? (int)(row % g.ow) : 0;
    }
    k.tap = k.c = 0;
    walk_tap(k, g, x);
    return k;
}

template <bool PACKED, int BN> __device__ __forceinline__ void load_stage(bf16 *a, const bf16 *x, const bf16 *w, const Gather &g, Walk &k)
{
    int t = (int)threadIdx.x, piece = t % 4 * 8;
    bf16 *b = a + BM * LD;
#pragma unroll
    for (int i = 0; i < BM / 32; i++)
        load_8<PACKED>(a + (t / 4 + i * 32) * LD + piece, k.from[i], x, k.c + piece, g.c);
#pragma unroll
    for (int i = 0; i < BN / 32; i++) {
        int co = (int)blockIdx.y * BN + t / 4 + i * 32;
        load_8<PACKED>(b + (t / 4 + i * 32) * LD + piece, co < g.out ? w + ((int64_t)co * g.taps + k.tap) * g.c : nullptr, w, k.c + piece, g.c);
    }
    k.c += BK;
    if (k.c < g.c)
        return;
    k.c = 0;
    k.tap++;
    walk_tap(k, g, x);
}

/* Two neighbours of a row of y, of channels co and co + 1. */
__device__ __forceinline__ void store_two(bf16 *y, const bf16 *res, const float *bias, int64_t row, int co, int out, float v0, float v1)
{
    bool second = co + 1 < out;
    int64_t at = row * out + co;
    if (bias) {
        v0 += bias[co];
        v1 += second ? bias[co + 1] : 0.0f;
    }
    if (out % 2 == 0) { /* 4 bytes, aligned */
        if (res) {
            uint32_t r = *reinterpret_cast<const uint32_t *>(res + at);
            v0 += __uint_as_float(r << 16);
            v1 += __uint_as_float(r & 0xffff0000u);
        }
        *reinterpret_cast<uint32_t *>(y + at) = pack_bf16(v0, v1);
        return;
    }
    store(y + at, v0 + (res ? load(res + at) : 0.0f));
    if (second)
        store(y + at + 1, v1 + (res ? load(res + at + 1) : 0.0f));
}

template <bool PACKED, int BN>
__global__ void __launch_bounds__(THREADS) k_conv(const bf16 *x, const bf16 *w, const float *bias, const bf16 *res, bf16 *y, Gather g)
{
    SHARED_DYNAMIC(bf16, mem);
    enum { STAGE = (BM + BN) * LD, TN = BN / 2, NI = BM / 32, NJ = TN / 8 };
    int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32, wm = warp % 2 * (BM / 2), wn = warp / 2 * TN;
    int64_t first = (int64_t)blockIdx.x * BM;
    int steps = g.taps * ((g.c + BK - 1) / BK);
    Walk k = walk_from(g, x, first + (int)threadIdx.x / 4);
    for (int s = 0; s < STAGES - 1; s++) {
        if (s < steps)
            load_stage<PACKED, BN>(mem + s * STAGE, x, w, g, k);
        copy_commit();
    }
    float acc[NI][NJ][4];
#pragma unroll
    for (int i = 0; i < NI; i++)
#pragma unroll
        for (int j = 0; j < NJ; j++)
            for (int e = 0; e < 4; e++)
                acc[i][j][e] = 0;
    for (int s = 0; s < steps; s++) {
        copy_wait<STAGES - 2>();
        BARRIER();
        int next = s + STAGES - 1;
        if (next < steps)
            load_stage<PACKED, BN>(mem + next % STAGES * STAGE, x, w, g, k);
        copy_commit();
        const bf16 *a = mem + s % STAGES * STAGE, *b = a + BM * LD;
#pragma unroll
        for (int kk = 0; kk < BK / 16; kk++) {
            uint32_t fa[NI][4], fb[NJ / 2][4];
#pragma unroll
            for (int i = 0; i < NI; i++)
                ldmatrix_x4(fa[i], a + (wm + i * 16 + lane % 16) * LD + kk * 16 + lane / 16 * 8);
#pragma unroll
            for (int j = 0; j < NJ / 2; j++)
                ldmatrix_x4(fb[j], b + (wn + j * 16 + lane / 16 * 8 + lane % 8) * LD + kk * 16 + lane / 8 % 2 * 8);
#pragma unroll
            for (int i = 0; i < NI; i++)
#pragma unroll
                for (int j = 0; j < NJ; j++)
                    mma_16816(acc[i][j], fa[i], fb[j / 2] + j % 2 * 2);
        }
    }
    copy_wait<0>();
#pragma unroll
    for (int i = 0; i < NI; i++)
#pragma unroll
        for (int j = 0; j < NJ; j++)
            for (int e = 0; e < 2; e++) {
                int64_t row = first + wm + i * 16 + lane / 4 + e * 8;
                int co = (int)blockIdx.y * BN + wn + j * 8 + lane % 4 * 2;
                if (row < g.rows && co < g.out)
                    store_two(y, res, bias, row, co, g.out, acc[i][j][2 * e], acc[i][j][2 * e + 1]);
            }
}

/* f32: 32 pixels x 32 channels per block, 16 deep, four results per thread. */
enum { FM = 32, FN = 32, FK = 16 };

__global__ void k_conv_f32(const float *x, const float *w, const float *bias, const float *res, float *y, Gather g)
{
    SHARED(float, a, FK * (FM + 1));
    SHARED(float, b, FK * (FN + 1));
    int t = (int)threadIdx.x, tx = t % FN, ty = t / FN * 4;
    int64_t first = (int64_t)blockIdx.x * FM;
    float acc[4] = {0, 0, 0, 0};
    int per_tap = (g.c + FK - 1) / FK;
    for (int step = 0; step < g.taps * per_tap; step++) {
        int tap = step / per_tap, c0 = step % per_tap * FK;
        for (int i = t; i < FM * FK; i += (int)blockDim.x) {
            int64_t row = first + i / FK;
            int c = c0 + i % FK;
            int64_t at = row < g.rows ? gather_at(g, (int)(row / ((int64_t)g.oh * g.ow)), (int)(row / g.ow % g.oh), (int)(row % g.ow), tap) : -1;
            a[i % FK * (FM + 1) + i / FK] = at >= 0 && c < g.c ? x[at + c] : 0.0f;
        }
        for (int i = t; i < FN * FK; i += (int)blockDim.x) {
            int co = (int)blockIdx.y * FN + i / FK, c = c0 + i % FK;
            b[i % FK * (FN + 1) + i / FK] = co < g.out && c < g.c ? w[((int64_t)co * g.taps + tap) * g.c + c] : 0.0f;
        }
        BARRIER();
        for (int k = 0; k < FK; k++)
            for (int i = 0; i < 4; i++)
                acc[i] = fmaf(a[k * (FM + 1) + ty + i], b[k * (FN + 1) + tx], acc[i]);
        BARRIER();
    }
    int co = (int)blockIdx.y * FN + tx;
    for (int i = 0; i < 4; i++) {
        int64_t row = first + ty + i;
        if (row < g.rows && co < g.out)
            y[row * g.out + co] = acc[i] + (bias ? bias[co] : 0.0f) + (res ? res[row * g.out + co] : 0.0f);
    }
}

template <typename T> __global__ void k_conv_pack(const T *w, T *packed, int64_t co, int64_t ci, int64_t taps, int gradient)
{
    for (int64_t i = grid_first(); i < co * ci * taps; i += grid_step()) {
        int64_t tap = i % taps, c = i / taps % ci, o = i / taps / ci;
        packed[gradient ? (c * taps + tap) * co + o : (o * taps + tap) * ci + c] = w[i];
    }
}

/* ---- weight gradient: dw[co, tap, ci] = sum over pixels of dy[pixel, co] x[pixel moved by tap, ci] ----
 * Tiles of W x W of one tap, a quarter for each of four warps, 32 pixels deep, three stages; part[chunk, co, tap, ci] float. */

enum { WK = 32 };
template <int W> struct Tile {
    static constexpr int LD = W + 8, STAGE = 2 * WK * LD, ACROSS = W / 8, DOWN = THREADS / ACROSS; /* a thread loads 16 bytes of every DOWN-th row */
};
int weight_tile(int64_t co, int64_t ci) { return co <= 64 || ci <= 64 ? 64 : 128; }

/* Pixels of a thread, from stage to stage. */
struct Rows {
    int64_t row;
    int n, y, x;
};

template <bool PACKED, int W>
__device__ __forceinline__ void load_pixels(bf16 *a, const bf16 *dy, const bf16 *x, const Gather &g, Rows &r, int64_t last, int co0, int ci0, int tap)
{
    constexpr int LD = Tile<W>::LD, ACROSS = Tile<W>::ACROSS, DOWN = Tile<W>::DOWN;
    bf16 *b = a + WK * LD;
    int t = (int)threadIdx.x, piece = t % ACROSS * 8;
#pragma unroll
    for (int i = 0; i < WK / DOWN; i++) {
        bool inside = r.row < last;
        int64_t at = inside ? gather_at(g, r.n, r.y, r.x, tap) : -1;
        load_8<PACKED>(a + (t / ACROSS + i * DOWN) * LD + piece, inside ? dy + r.row * g.out : nullptr, dy, co0 + piece, g.out);
        load_8<PACKED>(b + (t / ACROSS + i * DOWN) * LD + piece, at >= 0 ? x + at : nullptr, x, ci0 + piece, g.c);
        r.row += DOWN;
        for (r.x += DOWN; r.x >= g.ow; r.x -= g.ow)
            if (++r.y == g.oh)
                r.y = 0, r.n++;
    }
}

template <bool PACKED, int W>
__global__ void __launch_bounds__(THREADS) k_conv_bwd_w(const bf16 *dy, const bf16 *x, float *part, int64_t chunk, Gather g)
{
    SHARED_DYNAMIC(bf16, mem);
    constexpr int LD = Tile<W>::LD, STAGE = Tile<W>::STAGE, NI = W / 32, NJ = W / 16;
    int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32, wm = warp % 2 * (W / 2), wn = warp / 2 * (W / 2);
    int across = (g.c + W - 1) / W, tap = (int)blockIdx.y / across, ci0 = (int)blockIdx.y % across * W, co0 = (int)blockIdx.x * W;
    int64_t first = (int64_t)blockIdx.z * chunk, last = min(first + chunk, g.rows), mine = first + (int)threadIdx.x / Tile<W>::ACROSS;
    int steps = (int)((last - first + WK - 1) / WK);
    Rows r = {mine, (int)(mine / ((int64_t)g.oh * g.ow)), (int)(mine / g.ow % g.oh), (int)(mine % g.ow)};
    for (int s = 0; s < STAGES - 1; s++) {
        if (s < steps)
            load_pixels<PACKED, W>(mem + s * STAGE, dy, x, g, r, last, co0, ci0, tap);
        copy_commit();
    }
    float acc[NI][NJ][4];
#pragma unroll
    for (int i = 0; i < NI; i++)
#pragma unroll
        for (int j = 0; j < NJ; j++)
            for (int k = 0; k < 4; k++)
                acc[i][j][k] = 0;
    for (int s = 0; s < steps; s++) {
        copy_wait<STAGES - 2>();
        BARRIER();
        int next = s + STAGES - 1;
        if (next < steps)
            load_pixels<PACKED, W>(mem + next % STAGES * STAGE, dy, x, g, r, last, co0, ci0, tap);
        copy_commit();
        const bf16 *a = mem + s % STAGES * STAGE, *b = a + WK * LD;
#pragma unroll
        for (int kk = 0; kk < WK / 16; kk++) {
            uint32_t fa[NI][4], fb[NJ / 2][4];
#pragma unroll
            for (int i = 0; i < NI; i++) /* a is [pixel][co]: transposed to co x pixel */
                ldmatrix_x4_trans(fa[i], a + (kk * 16 + lane / 16 * 8 + lane % 8) * LD + wm + i * 16 + lane / 8 % 2 * 8);
#pragma unroll
            for (int j = 0; j < NJ / 2; j++)
                ldmatrix_x4_trans(fb[j], b + (kk * 16 + lane % 16) * LD + wn + j * 16 + lane / 16 * 8);
#pragma unroll
            for (int i = 0; i < NI; i++)
#pragma unroll
                for (int j = 0; j < NJ; j++)
                    mma_16816(acc[i][j], fa[i], fb[j / 2] + j % 2 * 2);
        }
    }
    copy_wait<0>();
    float *out = part + (int64_t)blockIdx.z * g.out * g.taps * g.c;
#pragma unroll
    for (int i = 0; i < NI; i++)
#pragma unroll
        for (int j = 0; j < NJ; j++)
            for (int k = 0; k < 4; k++) {
                int co = co0 + wm + i * 16 + lane / 4 + k / 2 * 8, ci = ci0 + wn + j * 8 + lane % 4 * 2 + k % 2;
                if (co < g.out && ci < g.c)
                    out[((int64_t)co * g.taps + tap) * g.c + ci] = acc[i][j][k];
            }
}

/* f32: thread per (co, tap, ci); pixels of the chunk in order. */
__global__ void k_conv_bwd_w_f32(const float *dy, const float *x, float *part, int64_t chunk, Gather g)
{
    int64_t count = (int64_t)g.out * g.taps * g.c, first = (int64_t)blockIdx.y * chunk, last = min(first + chunk, g.rows);
    for (int64_t i = grid_first(); i < count; i += grid_step()) {
        int ci = (int)(i % g.c), tap = (int)(i / g.c % g.taps), co = (int)(i / g.c / g.taps);
        float s = 0;
        for (int64_t row = first; row < last; row++) {
            int64_t at = gather_at(g, (int)(row / ((int64_t)g.oh * g.ow)), (int)(row / g.ow % g.oh), (int)(row % g.ow), tap);
            if (at >= 0)
                s = fmaf(dy[row * g.out + co], x[at + ci], s);
        }
        part[blockIdx.y * count + i] = s;
    }
}

/* dw [co,ci,taps] = sum over chunks of part[chunk,co,taps,ci] */
template <typename T> __global__ void k_conv_bwd_w_sum(const float *part, T *dw, int64_t chunks, int64_t co, int64_t ci, int64_t taps)
{
    int64_t count = co * ci * taps;
    for (int64_t i = grid_first(); i < count; i += grid_step()) {
        int64_t tap = i % taps, c = i / taps % ci, o = i / taps / ci;
        float s = 0;
        for (int64_t k = 0; k < chunks; k++)
            s += part[k * count + (o * taps + tap) * ci + c];
        store(dw + i, s);
    }
}

Gather forward_gather(const KernelConv *c)
{
    Gather g = {c->n * c->oh * c->ow, (int)c->h, (int)c->w, (int)c->ci, (int)c->oh, (int)c->ow, c->kw, c->kh * c->kw,
                c->stride, -c->pad_top, -c->pad_left, 1, 1, (int)c->co, (int)(c->from_h ? c->from_h : c->h),
                (int)(c->from_w ? c->from_w : c->w), 0};
    while (g.shift < 15 && (g.from_h << g.shift < g.h || g.from_w << g.shift < g.w))
        g.shift++;
    if (g.from_h << g.shift != g.h || g.from_w << g.shift != g.w)
        g.shift = -1;
    return g;
}

Gather backward_gather(const KernelConv *c)
{
    Gather g = {c->n * c->h * c->w, (int)c->oh, (int)c->ow, (int)c->co, (int)c->h, (int)c->w, c->kw, c->kh * c->kw,
                1, c->pad_top, c->pad_left, -1, c->stride, (int)c->ci, (int)c->oh, (int)c->ow, 0};
    return g;
}

void run_conv(int t, const void *x, const void *w, const float *bias, const void *res, void *y, Gather g, int processors, void *stream)
{
    if (t == KERNEL_F32) {
        dim3 grid((unsigned)ceil_div(g.rows, FM), (unsigned)ceil_div(g.out, FN));
        LAUNCH(k_conv_f32, grid, FM * FN / 4, 0, stream, (const float *)x, (const float *)w, bias, (const float *)res, (float *)y, g);
        return;
    }
    /* The width changes no bit: each result's products are added in the same order. */
    bool wide = g.out > 64 && ceil_div(g.rows, BM) * ceil_div(g.out, 128) >= processors;
    dim3 grid((unsigned)ceil_div(g.rows, BM), (unsigned)ceil_div(g.out, wide ? 128 : 64));
    size_t shared = sizeof(bf16) * STAGES * (BM + (wide ? 128 : 64)) * LD;
#define DO(P, N)                                                                                                                         \
    do {                                                                                                                                 \
        allow_shared((const void *)(k_conv<P, N>), shared);                                                                              \
        LAUNCH((k_conv<P, N>), grid, THREADS, shared, stream, (const bf16 *)x, (const bf16 *)w, bias, (const bf16 *)res, (bf16 *)y, g);  \
    } while (0)
    if (g.c % 8 == 0 && wide)
        DO(true, 128);
    else if (g.c % 8 == 0)
        DO(true, 64);
    else if (wide)
        DO(false, 128);
    else
        DO(false, 64);
#undef DO
}

/* Pixels summed by one block. Enough chunks to fill a GPU where the weights alone do not. */
int64_t bwd_w_chunk(const KernelConv *c)
{
    int64_t rows = c->n * c->oh * c->ow, tile = weight_tile(c->co, c->ci), tiles = ceil_div(c->co, tile) * ceil_div(c->ci, tile) * c->kh * c->kw;
    int64_t chunks = ceil_div(256, tiles), most = ceil_div(rows, 256);
    chunks = chunks < most ? chunks : most;
    return ceil_div(ceil_div(rows, chunks), WK) * WK;
}

} // namespace

void kernel_conv_pack(int t, const void *w, void *packed, const KernelConv *c, int gradient, void *stream)
{
#define DO(T)                                                                                                                  \
    LAUNCH((k_conv_pack<T>), grid_for(c->co * c->ci * c->kh * c->kw), GRID_BLOCK, 0, stream, (const T *)w, (T *)packed, c->co, c->ci, \
           (int64_t)c->kh * c->kw, gradient)
    if (t == KERNEL_F32)
        DO(uint32_t);
    else
        DO(uint16_t);
#undef DO
}

void kernel_conv(int t, const void *x, const void *packed, const float *bias, const void *res, void *y, const KernelConv *c, void *stream)
{
    run_conv(t, x, packed, bias, res, y, forward_gather(c), c->processors, stream);
}

void kernel_conv_bwd_x(int t, const void *dy, const void *packed, const void *res, void *dx, const KernelConv *c, void *stream)
{
    run_conv(t, dy, packed, nullptr, res, dx, backward_gather(c), c->processors, stream);
}

size_t kernel_conv_bwd_w_scratch(const KernelConv *c)
{
    int64_t chunks = ceil_div(c->n * c->oh * c->ow, bwd_w_chunk(c));
    return (size_t)(chunks * c->co * c->ci * c->kh * c->kw) * sizeof(float);
}

void kernel_conv_bwd_w(int t, int tw, const void *dy, const void *x, void *dw, const KernelConv *c, void *scratch, void *stream)
{
    Gather g = forward_gather(c);
    int64_t chunk = bwd_w_chunk(c), chunks = ceil_div(g.rows, chunk), count = c->co * c->ci * g.taps;
    float *part = (float *)scratch;
    if (t == KERNEL_F32) {
        dim3 grid(grid_for(count), (unsigned)chunks);
        LAUNCH(k_conv_bwd_w_f32, grid, GRID_BLOCK, 0, stream, (const float *)dy, (const float *)x, part, chunk, g);
    } else {
        int tile = weight_tile(c->co, c->ci), packed = c->ci % 8 == 0 && c->co % 8 == 0;
        dim3 grid((unsigned)ceil_div(c->co, tile), (unsigned)(ceil_div(c->ci, tile) * g.taps), (unsigned)chunks);
#define DO(P, W)                                                                                                                        \
    do {                                                                                                                                \
        allow_shared((const void *)(k_conv_bwd_w<P, W>), sizeof(bf16) * STAGES * (int)Tile<W>::STAGE);                                  \
        LAUNCH((k_conv_bwd_w<P, W>), grid, THREADS, sizeof(bf16) * STAGES * (int)Tile<W>::STAGE, stream, (const bf16 *)dy,              \
               (const bf16 *)x, part, chunk, g);                                                                                        \
    } while (0)
        if (packed && tile > 64)
            DO(true, 128);
        else if (packed)
            DO(true, 64);
        else if (tile > 64)
            DO(false, 128);
        else
            DO(false, 64);
#undef DO
    }
#define DO(T) LAUNCH((k_conv_bwd_w_sum<T>), grid_for(count), GRID_BLOCK, 0, stream, part, (T *)dw, chunks, c->co, c->ci, (int64_t)g.taps)
    EACH_TYPE(tw, DO);
#undef DO
}
