/* The gradient of softmax(q k^T scale) v from its saved log-sum-exp. See kernels.h. */
#include "attention.h"

namespace {

/* delta[n, heads, lq] = sum over d of do * o; warp per row */
template <typename T> __global__ void k_attention_delta(const T *dout, const T *o, float *delta, AttArg a)
{
    int64_t row = (int64_t)blockIdx.x * (PLAIN / 32) + threadIdx.x / 32, item = blockIdx.z, head = blockIdx.y;
    if (row >= a.lq)
        return;
    int64_t at = (item * a.lq + row) * a.width + head * a.d;
    float s = 0;
    for (int c = (int)threadIdx.x % 32; c < a.d; c += 32)
        s += load(dout + at + c) * load(o + at + c);
    s = warp_sum(s);
    if (threadIdx.x % 32 == 0)
        delta[(item * a.heads + head) * a.lq + row] = s;
}

template <typename T>
__global__ void k_attention_dq(const T *dout, const T *q, const T *k, const T *v, const float *lse, const float *delta, T *dq, AttArg a)
{
    SHARED(float, qr, MOST_D);
    SHARED(float, dr, MOST_D);
    SHARED(float, ds, PLAIN);
    int64_t row = blockIdx.x, item = blockIdx.z, head = blockIdx.y, base = item * a.lk * a.width + head * a.d;
    int64_t at = (item * a.lq + row) * a.width + head * a.d, stat = (item * a.heads + head) * a.lq + row;
    int64_t last = a.causal ? min(row + 1, a.lk) : a.lk;
    int t = (int)threadIdx.x;
    float acc[PER_THREAD] = {0, 0, 0, 0};
    row_to_shared(qr, q + at, a.d);
    row_to_shared(dr, dout + at, a.d);
    for (int64_t j0 = 0; j0 < last; j0 += PLAIN) {
        int count = (int)min(last - j0, (int64_t)PLAIN);
        BARRIER();
        if (t < count) {
            int64_t key = base + (j0 + t) * a.width;
            float p = expf(dot_with(qr, k + key, a.d) * a.scale - lse[stat]);
            ds[t] = p * (dot_with(dr, v + key, a.d) - delta[stat]);
        }
        BARRIER();
        for (int i = 0; i < PER_THREAD && i * PLAIN + t < a.d; i++)
            for (int j = 0; j < count; j++)
                acc[i] = fmaf(ds[j], load(k + base + (j0 + j) * a.width + i * PLAIN + t), acc[i]);
    }
    for (int i = 0; i < PER_THREAD; i++)
        if (i * PLAIN + t < a.d)
            store(dq + at + i * PLAIN + t, acc[i] * a.scale);
}

template <typename T>
__global__ void k_attention_dkv(const T *dout, const T *q, const T *k, const T *v, const float *lse, const float *delta, T *dk, T *dv, AttArg a)
{
    SHARED(float, kr, MOST_D);
    SHARED(float, vr, MOST_D);
    SHARED(float, ds, PLAIN);
    SHARED(float, p, PLAIN);
    int64_t key = blockIdx.x, item = blockIdx.z, head = blockIdx.y, base = item * a.lq * a.width + head * a.d;
    int64_t at = (item * a.lk + key) * a.width + head * a.d, stat = (item * a.heads + head) * a.lq;
    int t = (int)threadIdx.x;
    float gk[PER_THREAD] = {0, 0, 0, 0}, gv[PER_THREAD] = {0, 0, 0, 0};
    row_to_shared(kr, k + at, a.d);
    row_to_shared(vr, v + at, a.d);
    for (int64_t r0 = a.causal ? key : 0; r0 < a.lq; r0 += PLAIN) {
        int count = (int)min(a.lq - r0, (int64_t)PLAIN);
        BARRIER();
        if (t < count) {
            int64_t row = base + (r0 + t) * a.width;
            p[t] = expf(dot_with(kr, q + row, a.d) * a.scale - lse[stat + r0 + t]);
            ds[t] = p[t] * (dot_with(vr, dout + row, a.d) - delta[stat + r0 + t]);
        }
        BARRIER();
        for (int i = 0; i < PER_THREAD && i * PLAIN + t < a.d; i++)
            for (int j = 0; j < count; j++) {
                int64_t c = base + (r0 + j) * a.width + i * PLAIN + t;
                gk[i] = fmaf(ds[j], load(q + c), gk[i]);
                gv[i] = fmaf(p[j], load(dout + c), gv[i]);
            }
    }
    for (int i = 0; i < PER_THREAD; i++)
        if (i * PLAIN + t < a.d) {
            store(dk + at + i * PLAIN + t, gk[i] * a.scale);
            store(dv + at + i * PLAIN + t, gv[i]);
        }
}

/* ---- tensor cores (flash attention 2, arXiv:2307.08691, algorithm 2, as two passes so that nothing is added atomically) ----
 * A block keeps 64 rows of two operands and streams tiles of BC rows of two others past them:
 *   dq:     rows q, do; columns k, v.    s = q k^T, e = do v^T, p = exp(s scale - lse), ds = p (e - delta); dq = sum of ds k
 *   dk, dv: rows k, v;  columns q, do.   the transposes of the same;                    dk = sum of ds^T q, dv = sum of p^T do
 */

/* 16 rows x BC columns of r c^T. */
template <int DP, int BC> __device__ __forceinline__ void products(float s[BC / 8][4], const bf16 *r, const bf16 *c)
{
    int lane = (int)threadIdx.x % 32;
    for (int j = 0; j < BC / 8; j++)
        for (int i = 0; i < 4; i++)
            s[j][i] = 0;
#pragma unroll
    for (int kk = 0; kk < DP / 16; kk++) {
        uint32_t fa[4];
        ldmatrix_x4(fa, r + lane % 16 * (DP + SKEW) + kk * 16 + lane / 16 * 8);
#pragma unroll
        for (int j = 0; j < BC / 16; j++) {
            uint32_t fb[4];
            ldmatrix_x4(fb, c + (j * 16 + lane / 16 * 8 + lane % 8) * (DP + SKEW) + kk * 16 + lane / 8 % 2 * 8);
            mma_16816(s[2 * j], fa, fb);
            mma_16816(s[2 * j + 1], fa, fb + 2);
        }
    }
}

template <int BC> __device__ __forceinline__ void pack_rows(uint32_t f[BC / 16][4], const float s[BC / 8][4])
{
#pragma unroll
    for (int j = 0; j < BC / 8; j++) {
        f[j / 2][j % 2 * 2] = pack_bf16(s[j][0], s[j][1]);
        f[j / 2][j % 2 * 2 + 1] = pack_bf16(s[j][2], s[j][3]);
    }
}

template <int DP> __device__ __forceinline__ void store_rows(bf16 *out, const float acc[DP / 8][4], int64_t first, int64_t rows, float scale, AttArg a)
{
    int lane = (int)threadIdx.x % 32;
    for (int i = 0; i < 2; i++) {
        int64_t row = first + lane / 4 + i * 8;
        if (row >= rows)
            continue;
#pragma unroll
        for (int j = 0; j < DP / 8; j++)
            if (j * 8 < a.d)
                *reinterpret_cast<uint32_t *>(out + row * a.width + j * 8 + lane % 4 * 2) =
                    pack_bf16(acc[j][2 * i] * scale, acc[j][2 * i + 1] * scale);
    }
}

template <int DP, int BC> constexpr size_t bwd_shared() { return (2 * BR + 4 * BC) * (DP + SKEW) * sizeof(bf16) + 4 * BC * sizeof(float); }

/* KV: dk and dv in d1 and d2; else dq in d1. PARTS: 1 d1, 2 d2, 3 both. lse and delta belong to queries: to columns for KV, to rows otherwise. */
template <int DP, int BC, bool KV, int PARTS>
__global__ void __launch_bounds__(THREADS) k_attention_bwd(const bf16 *r1, const bf16 *r2, const bf16 *c1, const bf16 *c2, const float *lse,
                                                           const float *delta, bf16 *d1, bf16 *d2, AttArg a)
{
    SHARED_DYNAMIC(bf16, mem);
    enum { ROWS = BR * (DP + SKEW), TILE = BC * (DP + SKEW) };
    bf16 *rt1 = mem, *rt2 = mem + ROWS, *ct = mem + 2 * ROWS; /* ct: c1, c2 of one tile, then of the next */
    float *stat = reinterpret_cast<float *>(ct + 4 * TILE);   /* lse, delta of one tile, then of the next */
    const float log2e = 1.4426950408889634f, scale2 = a.scale * log2e;
    int t = (int)threadIdx.x, lane = t % 32, warp = t / 32, g = lane / 4, t4 = lane % 4;
    int64_t item = (int64_t)blockIdx.z, head = blockIdx.y, first = (int64_t)blockIdx.x * BR, rows = KV ? a.lk : a.lq, cols = KV ? a.lq : a.lk;
    int64_t row_at = item * rows * a.width + head * a.d, col_at = item * cols * a.width + head * a.d, stat_at = (item * a.heads + head) * a.lq;
    int64_t begin = KV && a.causal ? first / BC : 0, end = (cols + BC - 1) / BC;
    if (!KV && a.causal)
        end = min(end, (first + BR - 1) / BC + 1);
    auto load_columns = [&](int64_t b, int buffer) {
        load_tile<DP, BC>(ct + 2 * buffer * TILE, c1 + col_at, b * BC, cols, a);
        load_tile<DP, BC>(ct + (2 * buffer + 1) * TILE, c2 + col_at, b * BC, cols, a);
        copy_commit();
        if (KV && t < BC && b * BC + t < cols) {
            stat[2 * buffer * BC + t] = lse[stat_at + b * BC + t] * log2e;
            stat[(2 * buffer + 1) * BC + t] = delta[stat_at + b * BC + t];
        }
    };
    load_tile<DP, BR>(rt1, r1 + row_at, first, rows, a);
    load_tile<DP, BR>(rt2, r2 + row_at, first, rows, a);
    load_columns(begin, 0);
    float row_lse[2] = {0, 0}, row_delta[2] = {0, 0};
    for (int i = 0; i < 2 && !KV; i++) {
        int64_t row = first + warp * 16 + g + i * 8;
        row_lse[i] = row < rows ? lse[stat_at + row] * log2e : 0.0f;
        row_delta[i] = row < rows ? delta[stat_at + row] : 0.0f;
    }
    float acc1[DP / 8][4], acc2[DP / 8][4];
#pragma unroll
    for (int j = 0; j < DP / 8; j++)
        for (int i = 0; i < 4; i++)
            acc1[j][i] = acc2[j][i] = 0;
    for (int64_t b = begin; b < end; b++) {
        int now = (int)((b - begin) % 2);
        copy_wait<0>();
        BARRIER();
        if (b + 1 < end)
            load_columns(b + 1, 1 - now);
        const bf16 *ct1 = ct + 2 * now * TILE, *ct2 = ct1 + TILE;
        float p[BC / 8][4], e[BC / 8][4];
        products<DP, BC>(p, rt1 + warp * 16 * (DP + SKEW), ct1);
        if constexpr (PARTS & 1)
            products<DP, BC>(e, rt2 + warp * 16 * (DP + SKEW), ct2);
#pragma unroll
        for (int j = 0; j < BC / 8; j++)
            for (int i = 0; i < 4; i++) {
                int at = j * 8 + t4 * 2 + i % 2;
                int64_t col = b * BC + at, row = first + warp * 16 + g + i / 2 * 8;
                bool seen = col < cols && row < rows && (!a.causal || (KV ? row <= col : col <= row));
                float l = KV ? stat[2 * now * BC + at] : row_lse[i / 2], m = KV ? stat[(2 * now + 1) * BC + at] : row_delta[i / 2];
                p[j][i] = seen ? exp2f(p[j][i] * scale2 - l) : 0.0f;
                if constexpr (PARTS & 1)
                    e[j][i] = seen ? p[j][i] * (e[j][i] - m) : 0.0f;
            }
        uint32_t f[BC / 16][4];
        if constexpr (PARTS & 2) {
            pack_rows<BC>(f, p);
            add_product<DP, BC, 1>(&acc2, &f, ct2);
        }
        if constexpr (PARTS & 1) {
            pack_rows<BC>(f, e);
            add_product<DP, BC, 1>(&acc1, &f, ct1);
        }
    }
    copy_wait<0>();
    if constexpr (PARTS & 1)
        store_rows<DP>(d1 + row_at, acc1, first + warp * 16, rows, a.scale, a);
    if constexpr (PARTS & 2)
        store_rows<DP>(d2 + row_at, acc2, first + warp * 16, rows, 1.0f, a);
}

template <int DP, int BC, bool KV, int PARTS>
void launch_pass(const bf16 *r1, const bf16 *r2, const bf16 *c1, const bf16 *c2, const float *lse, const float *delta, bf16 *d1, bf16 *d2,
                 int64_t n, AttArg a, void *stream)
{
    const size_t shared = bwd_shared<DP, BC>();
    allow_shared((const void *)(k_attention_bwd<DP, BC, KV, PARTS>), shared);
    LAUNCH((k_attention_bwd<DP, BC, KV, PARTS>), plain_grid(ceil_div(KV ? a.lk : a.lq, BR), a.heads, n), THREADS, shared, stream, r1, r2, c1,
           c2, lse, delta, d1, d2, a);
}

/* dk and dv of wide heads do not fit the registers at once. */
template <int DP>
void launch_bwd(const bf16 *dout, const bf16 *q, const bf16 *k, const bf16 *v, const float *lse, const float *delta, bf16 *dq, bf16 *dk, bf16 *dv,
                int64_t n, AttArg a, void *stream)
{
    launch_pass<DP, DP <= 80 ? 64 : 32, false, 1>(q, dout, k, v, lse, delta, dq, nullptr, n, a, stream);
    if constexpr (DP <= 128) {
        launch_pass<DP, DP <= 80 ? 64 : 16, true, 3>(k, v, q, dout, lse, delta, dk, dv, n, a, stream);
    } else {
        launch_pass<DP, 32, true, 1>(k, v, q, dout, lse, delta, dk, dv, n, a, stream);
        launch_pass<DP, 32, true, 2>(k, v, q, dout, lse, delta, dk, dv, n, a, stream);
    }
}

} // namespace

size_t kernel_attention_bwd_scratch(int64_t n, int64_t lq, int heads) { return (size_t)(n * lq * heads) * sizeof(float); }

void kernel_attention_bwd(int t, const void *dout, const void *q, const void *k, const void *v, const void *o, const float *lse, void *dq,
                          void *dk, void *dv, int64_t n, int64_t lq, int64_t lk, int heads, int64_t d, float scale, int causal,
                          void *scratch, void *stream)
{
    AttArg a = {lq, lk, heads * d, heads, (int)d, causal, scale};
    float *delta = (float *)scratch;
    if (on_tensor_cores(t, d)) {
        LAUNCH((k_attention_delta<bf16>), plain_grid((lq + 3) / 4, heads, n), PLAIN, 0, stream, (const bf16 *)dout, (const bf16 *)o, delta, a);
#define DO(DP)                                                                                                                          \
    launch_bwd<DP>((const bf16 *)dout, (const bf16 *)q, (const bf16 *)k, (const bf16 *)v, lse, delta, (bf16 *)dq, (bf16 *)dk, (bf16 *)dv, \
                   n, a, stream)
        EACH_HEAD(d, DO);
#undef DO
        return;
    }
#define DO(T)                                                                                                                      \
    do {                                                                                                                           \
        LAUNCH((k_attention_delta<T>), plain_grid((lq + 3) / 4, heads, n), PLAIN, 0, stream, (const T *)dout, (const T *)o, delta, a);  \
        LAUNCH((k_attention_dq<T>), plain_grid(lq, heads, n), PLAIN, 0, stream, (const T *)dout, (const T *)q, (const T *)k,  \
               (const T *)v, lse, delta, (T *)dq, a);                                                                              \
        LAUNCH((k_attention_dkv<T>), plain_grid(lk, heads, n), PLAIN, 0, stream, (const T *)dout, (const T *)q, (const T *)k, \
               (const T *)v, lse, delta, (T *)dk, (T *)dv, a);                                                                     \
    } while (0)
    EACH_TYPE(t, DO);
#undef DO
}
