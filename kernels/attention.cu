/* softmax(q k^T scale) v with an online softmax. See kernels.h. */
#include "attention.h"

namespace {

/* ---- tensor cores: 4 warps of MT times 16 queries each, BC keys at a time (64; 32 where registers are short), double-buffered. With MT = 2 every
 * fragment of keys and values that is read from shared memory is used twice. ---- */

/* MT times 16 queries x BC keys of q k^T scale2. */
template <int DP, int BC, int MT>
__device__ __forceinline__ void scores(float (*s)[BC / 8][4], const uint32_t (*qf)[DP / 16][4], const bf16 *k, float scale2)
{
    int lane = (int)threadIdx.x % 32;
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int j = 0; j < BC / 8; j++)
            for (int i = 0; i < 4; i++)
                s[m][j][i] = 0;
#pragma unroll
    for (int kk = 0; kk < DP / 16; kk++)
#pragma unroll
        for (int j = 0; j < BC / 16; j++) {
            uint32_t b[4];
            /* matrices: keys 0-7 | d 0-7, keys 0-7 | d 8-15, keys 8-15 | d 0-7, keys 8-15 | d 8-15 */
            ldmatrix_x4(b, k + (j * 16 + lane / 16 * 8 + lane % 8) * (DP + SKEW) + kk * 16 + lane / 8 % 2 * 8);
#pragma unroll
            for (int m = 0; m < MT; m++) {
                mma_16816(s[m][2 * j], qf[m][kk], b);
                mma_16816(s[m][2 * j + 1], qf[m][kk], b + 2);
            }
        }
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int j = 0; j < BC / 8; j++)
            for (int i = 0; i < 4; i++)
                s[m][j][i] *= scale2;
}

/* Keys that are not there, or come after the query, do not count. `row` is the thread's first, counted from the first key, as `keys` is. */
template <int BC> __device__ __forceinline__ void mask(float s[BC / 8][4], int64_t row, int64_t keys, int causal)
{
    int t4 = (int)threadIdx.x % 4;
    for (int i = 0; i < 2; i++) {
        int end = (int)min(causal ? min(keys, row + i * 8 + 1) : keys, (int64_t)BC);
#pragma unroll
        for (int j = 0; j < BC / 8; j++)
            for (int e = 0; e < 2; e++)
                if (j * 8 + t4 * 2 + e >= end)
                    s[j][2 * i + e] = -INFINITY;
    }
}

/* From scores to weights: rescales what was there before by the new maxima. */
template <int DP, int BC>
__device__ __forceinline__ void soften(uint32_t p[BC / 16][4], float s[BC / 8][4], float acc[DP / 8][4], float top[2], float sum[2])
{
    float m[2] = {top[0], top[1]}, base[2];
#pragma unroll
    for (int j = 0; j < BC / 8; j++)
        for (int i = 0; i < 4; i++)
            m[i / 2] = max(m[i / 2], s[j][i]);
    for (int i = 0; i < 2; i++) {
        m[i] = max(m[i], warp_xor(m[i], 1));
        m[i] = max(m[i], warp_xor(m[i], 2));
        base[i] = m[i] == -INFINITY ? 0.0f : m[i];
        float shrink = exp2_fast(top[i] - base[i]);
        top[i] = m[i];
        sum[i] *= shrink;
#pragma unroll
        for (int j = 0; j < DP / 8; j++) {
            acc[j][2 * i] *= shrink;
            acc[j][2 * i + 1] *= shrink;
        }
    }
#pragma unroll
    for (int j = 0; j < BC / 8; j++) {
        float e[4];
        for (int i = 0; i < 4; i++) {
            e[i] = exp2_fast(s[j][i] - base[i / 2]);
            sum[i / 2] += e[i];
        }
        p[j / 2][j % 2 * 2] = pack_bf16(e[0], e[1]);
        p[j / 2][j % 2 * 2 + 1] = pack_bf16(e[2], e[3]);
    }
}

template <int DP, int BC, int MT>
__global__ void __launch_bounds__(THREADS, 1) k_attention(const bf16 *q, const bf16 *k, const bf16 *v, bf16 *o, float *lse, AttArg a)
{
    SHARED_DYNAMIC(bf16, mem);
    enum { TILE = BC * (DP + SKEW), ROWS = BR * MT };
    bf16 *kt = mem, *vt = mem + 2 * TILE;
    int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32, g = lane / 4, t4 = lane % 4;
    int64_t item = (int64_t)blockIdx.z, head = blockIdx.y, first = (int64_t)blockIdx.x * ROWS, own = first + warp * 16 * MT;
    const bf16 *qp = q + item * a.lq * a.width + head * a.d, *kp = k + item * a.lk * a.width + head * a.d;
    const bf16 *vp = v + item * a.lk * a.width + head * a.d;
    int64_t blocks = (a.lk + BC - 1) / BC;
    if (a.causal)
        blocks = min(blocks, (first + ROWS - 1) / BC + 1);
    uint32_t qf[MT][DP / 16][4];
    load_tile<DP, ROWS>(vt, qp, first, a.lq, a);
    copy_commit();
    load_tile<DP, BC>(kt, kp, 0, a.lk, a);
    copy_commit();
    copy_wait<1>();
    BARRIER();
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int kk = 0; kk < DP / 16; kk++)
            ldmatrix_x4(qf[m][kk], vt + ((warp * MT + m) * 16 + lane % 16) * (DP + SKEW) + kk * 16 + lane / 16 * 8);
    BARRIER();
    load_tile<DP, BC>(vt, vp, 0, a.lk, a);
    copy_commit();
    float acc[MT][DP / 8][4], top[MT][2], sum[MT][2];
#pragma unroll
    for (int m = 0; m < MT; m++) {
        for (int i = 0; i < 2; i++)
            top[m][i] = -INFINITY, sum[m][i] = 0;
#pragma unroll
        for (int j = 0; j < DP / 8; j++)
            for (int i = 0; i < 4; i++)
                acc[m][j][i] = 0;
    }
    const float scale2 = a.scale * 1.4426950408889634f; /* exp2 is the hardware's */
    for (int64_t b = 0; b < blocks; b++) {
        int now = (int)(b % 2);
        copy_wait<0>();
        BARRIER();
        if (b + 1 < blocks) {
            load_tile<DP, BC>(kt + (1 - now) * TILE, kp, (b + 1) * BC, a.lk, a);
            load_tile<DP, BC>(vt + (1 - now) * TILE, vp, (b + 1) * BC, a.lk, a);
            copy_commit();
        }
        float s[MT][BC / 8][4];
        uint32_t p[MT][BC / 16][4];
        scores<DP, BC, MT>(s, qf, kt + now * TILE, scale2);
        bool edge = (b + 1) * BC > a.lk || (a.causal && (b + 1) * BC > own + 1);
#pragma unroll
        for (int m = 0; m < MT; m++) {
            if (edge)
                mask<BC>(s[m], own + m * 16 + g - b * BC, a.lk - b * BC, a.causal);
            soften<DP, BC>(p[m], s[m], acc[m], top[m], sum[m]);
        }
        add_product<DP, BC, MT>(acc, p, vt + now * TILE);
    }
#pragma unroll
    for (int m = 0; m < MT; m++)
        for (int i = 0; i < 2; i++) {
            float all = sum[m][i];
            all += warp_xor(all, 1);
            all += warp_xor(all, 2);
            int64_t row = own + m * 16 + g + i * 8;
            if (row >= a.lq)
                continue;
            float inv = all > 0 ? 1.0f / all : 0.0f;
            bf16 *out = o + (item * a.lq + row) * a.width + head * a.d;
#pragma unroll
            for (int j = 0; j < DP / 8; j++)
                if (j * 8 < a.d)
                    *reinterpret_cast<uint32_t *>(out + j * 8 + t4 * 2) = pack_bf16(acc[m][j][2 * i] * inv, acc[m][j][2 * i + 1] * inv);
            if (t4 == 0)
                lse[(item * a.heads + head) * a.lq + row] = top[m][i] * 0.69314718055994531f + logf(all);
        }
}

/* ---- plain: see attention.h ---- */

template <typename T> __global__ void k_attention_plain(const T *q, const T *k, const T *v, T *o, float *lse, AttArg a)
{
    SHARED(float, qr, MOST_D);
    SHARED(float, p, PLAIN);
    SHARED(float, red, 32);
    int64_t row = blockIdx.x, item = blockIdx.z, head = blockIdx.y, base = item * a.lk * a.width + head * a.d;
    int64_t at = (item * a.lq + row) * a.width + head * a.d, last = a.causal ? min(row + 1, a.lk) : a.lk;
    int t = (int)threadIdx.x;
    float acc[PER_THREAD] = {0, 0, 0, 0}, top = -INFINITY, sum = 0;
    row_to_shared(qr, q + at, a.d);
    for (int64_t j0 = 0; j0 < last; j0 += PLAIN) {
        int count = (int)min(last - j0, (int64_t)PLAIN);
        BARRIER();
        p[t] = t < count ? dot_with(qr, k + base + (j0 + t) * a.width, a.d) * a.scale : -INFINITY;
        float m = warp_max(p[t]);
        if (t % 32 == 0)
            red[t / 32] = m;
        BARRIER();
        m = max(max(max(red[0], red[1]), max(red[2], red[3])), top);
        float shrink = expf(top - m);
        p[t] = expf(p[t] - m);
        top = m;
        BARRIER();
        float s = 0;
        for (int j = 0; j < count; j++)
            s += p[j];
        sum = sum * shrink + s;
        for (int i = 0; i < PER_THREAD; i++) {
            int c = i * PLAIN + t;
            if (c >= a.d)
                break;
            float x = 0;
            for (int j = 0; j < count; j++)
                x = fmaf(p[j], load(v + base + (j0 + j) * a.width + c), x);
            acc[i] = acc[i] * shrink + x;
        }
    }
    for (int i = 0; i < PER_THREAD; i++)
        if (i * PLAIN + t < a.d)
            store(o + at + i * PLAIN + t, sum > 0 ? acc[i] / sum : 0.0f);
    if (t == 0)
        lse[(item * a.heads + head) * a.lq + row] = top + logf(sum);
}

template <int DP, int BC, int MT>
void launch_flash(const void *q, const void *k, const void *v, void *o, float *lse, int64_t n, AttArg a, void *stream)
{
    size_t shared = 4 * BC * (DP + SKEW) * sizeof(bf16);
    dim3 grid((unsigned)ceil_div(a.lq, BR * MT), (unsigned)a.heads, (unsigned)n);
    allow_shared((const void *)(k_attention<DP, BC, MT>), shared);
    LAUNCH((k_attention<DP, BC, MT>), grid, THREADS, shared, stream, (const bf16 *)q, (const bf16 *)k, (const bf16 *)v, (bf16 *)o, lse, a);
}

} // namespace

void kernel_attention(int t, const void *q, const void *k, const void *v, void *o, float *lse, int64_t n, int64_t lq, int64_t lk,
                      int heads, int64_t d, float scale, int causal, int processors, void *stream)
{
    AttArg a = {lq, lk, heads * d, heads, (int)d, causal, scale};
    bool tall = lq > BR && ceil_div(lq, 2 * BR) * heads * n >= processors;
    if (on_tensor_cores(t, d)) {
#define DO(DP)                                                                        \
    do {                                                                              \
        if (DP <= 64 && tall)                                                         \
            launch_flash<DP, DP == 160 ? 32 : 64, DP <= 64 ? 2 : 1>(q, k, v, o, lse, n, a, stream); \
        else                                                                          \
            launch_flash<DP, DP == 160 ? 32 : 64, 1>(q, k, v, o, lse, n, a, stream);  \
    } while (0)
        EACH_HEAD(d, DO);
#undef DO
        return;
    }
#define DO(T) \
    LAUNCH((k_attention_plain<T>), plain_grid(lq, heads, n), PLAIN, 0, stream, (const T *)q, (const T *)k, (const T *)v, (T *)o, lse, a)
    EACH_TYPE(t, DO);
#undef DO
}
