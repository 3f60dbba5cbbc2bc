/* Launchers of the CUDA kernels: raw device pointers, sizes, a stream (cudaStream_t). They enqueue and return at once; a failed
 * launch shows in cudaGetLastError. `t` is the dtype T of activations (KERNEL_F32, KERNEL_BF16); parameters P of one dimension,
 * statistics and scratch are float. Layouts and formulas are those of src/ops/op.h. Buffers of activations are 16-byte aligned.
 *
 * Every result is a pure function of the inputs that mathematically reach it: reductions have an order fixed by the shape of one
 * item; nothing is added atomically. Outputs may be the same buffer as an input where src/ops says so.
 */
#ifndef KERNELS_KERNELS_H
#define KERNELS_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { KERNEL_F32, KERNEL_BF16, KERNEL_F16 /* kernel_cast only */ };

/* ---- act.cu: f is an Act of src/ops/op.h ---- */
void kernel_act(int t, const void *x, void *y, int64_t n, int f, void *stream);
void kernel_act_bwd(int t, const void *dy, const void *x, void *dx, int64_t n, int f, void *stream);
/* x[rows, 2 width] -> y[rows, width]; bias [2 width] of x, or NULL */
void kernel_geglu(int t, const void *x, const float *bias, void *y, int64_t rows, int64_t width, void *stream);
void kernel_geglu_bwd(int t, const void *dy, const void *x, const float *bias, void *dx, int64_t rows, int64_t width, void *stream);

/* ---- arith.cu ---- */
void kernel_add(int t, const void *x, const void *y, void *z, int64_t n, void *stream);
void kernel_mul(int t, const void *x, const void *y, void *z, int64_t n, void *stream);
/* y = factor * s[0] * x; s float or NULL */
void kernel_scale(int t, const void *x, const float *s, float factor, void *y, int64_t n, void *stream);
/* y[r,c] = x[r,c] + v[r / div % mod, c]; v of type tv */
void kernel_add_rows(int t, int tv, const void *x, const void *v, void *y, int64_t rows, int64_t c, int64_t div, int64_t mod, void *stream);
/* the same with v as a factor */
void kernel_mul_rows(int t, int tv, const void *x, const void *v, void *y, int64_t rows, int64_t c, int64_t div, int64_t mod, void *stream);
/* out[i, c] = sum over r of x[i, r, c], in order within chunks of rows, then over chunks. scratch: kernel_sum_rows_scratch bytes */
size_t kernel_sum_rows_scratch(int64_t items, int64_t rows, int64_t c);
void kernel_sum_rows(int t, int tout, const void *x, void *out, int64_t items, int64_t rows, int64_t c, void *scratch, void *stream);
/* out[i] = sum over n of x[n, i] */
void kernel_sum_items(int t, int tout, const void *x, void *out, int64_t items, int64_t count, void *stream);
/* Rows of `width` elements of `size` bytes (2 or 4): out[r, at + j] = x[r, from + j]; sx, so: elements from row to row. */
void kernel_copy_rows(int size, const void *x, int64_t sx, int64_t from, void *out, int64_t so, int64_t at, int64_t rows, int64_t width, void *stream);
void kernel_cast(int from, int to, const void *x, void *y, int64_t n, void *stream);
/* out[i, c, r] = x[i, r, c]; elements of `size` bytes */
void kernel_transpose(int size, const void *x, void *out, int64_t items, int64_t rows, int64_t cols, void *stream);
void kernel_upsample(int size, const void *x, void *y, int64_t n, int64_t h, int64_t w, int64_t oh, int64_t ow, int64_t c, void *stream);
void kernel_upsample_bwd(int t, const void *dy, void *dx, int64_t n, int64_t h, int64_t w, int64_t oh, int64_t ow, int64_t c, void *stream);

/* ---- adapter.cu ---- */
/* g[r] = m[r] / |v[r]|; v[rows, cols] */
void kernel_row_gain(const float *m, const float *v, float *g, int64_t rows, int64_t cols, void *stream);
/* OP_DROPOUT of src/ops/op.h with the draws of src/base/rng.h. what: Drop; x [items, count], rows of `channels`; position [items] */
void kernel_dropout(int t, const void *x, const int64_t *position, void *y, int64_t items, int64_t count, int64_t channels, float p, int what,
                    uint64_t seed, uint64_t key, void *stream);

/* ---- norm.cu: groups of c/groups channels over `rows` rows of each item; mean, rstd [items, groups] ---- */
size_t kernel_group_norm_scratch(int64_t items, int64_t rows, int64_t c);
void kernel_group_norm(int t, const void *x, const float *gamma, const float *beta, void *y, float *mean, float *rstd, int64_t items,
                       int64_t rows, int64_t c, int groups, float eps, int silu, void *scratch, void *stream);
void kernel_group_norm_bwd(int t, const void *dy, const void *x, const float *gamma, const float *beta, const float *mean,
                           const float *rstd, void *dx, float *dgamma, float *dbeta, int64_t items, int64_t rows, int64_t c,
                           int groups, int silu, void *scratch, void *stream);
/* RMS norm: beta, mean (and dbeta) NULL. */
void kernel_layer_norm(int t, const void *x, const float *gamma, const float *beta, void *y, float *mean, float *rstd, int64_t rows,
                       int64_t c, float eps, void *stream);
size_t kernel_layer_norm_bwd_scratch(int64_t rows, int64_t c);
void kernel_layer_norm_bwd(int t, const void *dy, const void *x, const float *gamma, const float *mean, const float *rstd, void *dx,
                           float *dgamma, float *dbeta, int64_t rows, int64_t c, void *scratch, void *stream);
void kernel_l2_norm(int t, const void *x, void *y, float *norm, int64_t rows, int64_t c, void *stream);
void kernel_l2_norm_bwd(int t, const void *dy, const void *y, const float *norm, void *dx, int64_t rows, int64_t c, void *stream);

/* ---- embed.cu. An id outside the table gives zeros: the host has checked before. ---- */
void kernel_embed(int size, const int32_t *ids, const void *table, void *y, int64_t n, int64_t vocab, int64_t c, void *stream);
void kernel_embed_bwd(int t, const void *dy, const int32_t *ids, float *dtable, int64_t n, int64_t vocab, int64_t c, void *stream);
void kernel_gather_row(int size, const void *x, const int32_t *idx, void *y, int64_t n, int64_t len, int64_t c, void *stream);
void kernel_gather_row_bwd(int size, const void *dy, const int32_t *idx, void *dx, int64_t n, int64_t len, int64_t c, void *stream);
void kernel_time_embed(int t, const float *time, void *y, int64_t n, int64_t dim, int flip, float shift, float max_period, void *stream);

/* ---- loss.cu: items of `count` elements ---- */
size_t kernel_loss_scratch(int64_t items, int64_t count);
void kernel_pair_loss(int t, int l1, const void *x, const void *y, const float *weight, float *loss, int64_t items, int64_t count,
                      void *scratch, void *stream);
void kernel_pair_loss_bwd(int t, int l1, const float *dl, const void *x, const void *y, const float *weight, void *dx, int64_t items,
                          int64_t count, void *stream);
/* kind: OpLoss of src/ops/op.h; c [items]; mask [items * count / width] */
void kernel_pixel_loss(int t, int kind, const void *x, const void *y, const float *weight, const float *c, const float *mask, float *loss,
                       int64_t items, int64_t count, int64_t width, void *scratch, void *stream);
void kernel_pixel_loss_bwd(int t, int kind, const float *dl, const void *x, const void *y, const float *weight, const float *c,
                           const float *mask, void *dx, int64_t items, int64_t count, int64_t width, void *stream);
void kernel_xent(int t, const void *x, const int32_t *target, float *loss, int64_t rows, int64_t c, void *stream);
void kernel_xent_bwd(int t, const float *dl, const void *x, const int32_t *target, void *dx, int64_t rows, int64_t c, void *stream);
/* moments[rows, 2 w] */
void kernel_gauss_sample(int t, const void *moments, const void *noise, void *z, int64_t rows, int64_t w, void *stream);
void kernel_gauss_sample_bwd(int t, const void *dz, const void *moments, const void *noise, void *dm, int64_t rows, int64_t w, void *stream);
void kernel_kl(int t, const void *moments, const float *weight, float *kl, int64_t items, int64_t rows, int64_t w, void *scratch, void *stream);
void kernel_kl_bwd(int t, const float *dk, const void *moments, const float *weight, void *dm, int64_t items, int64_t rows, int64_t w, void *stream);

/* ---- optim.cu: training state, the bits of src/comm/exact.c and src/cpu/optim*.c ----
 * Tensors lie one after another in flat arrays; a table in device memory cuts all of them into chunks, and a launch covers the table. */
enum { KERNEL_CHUNK = 8192 };
typedef struct {
    uint32_t key[2], step[2]; /* RngKey of src/base/rng.h */
} KernelStream;
typedef struct {
    int32_t slot, count;    /* of tensor `slot`; count <= KERNEL_CHUNK */
    int64_t from;           /* first value, a multiple of KERNEL_CHUNK */
    int64_t at;             /* its place in grad, sum, average: a multiple of 16 */
    int64_t state;          /* its place in the optimizer's arrays: a multiple of 16 */
    int64_t block;          /* 8-bit moments: its first block's place in the maxima */
    int64_t place;          /* its place in p, in bytes: a multiple of 32 */
    int64_t type;           /* of p: KERNEL_F32, or KERNEL_BF16 that is rounded stochastically */
} KernelChunk;
typedef struct {
    float decay;            /* 1 - lr wd; schedulefree: wd */
    float step;             /* AdamW: lr / (1 - beta1^t); else lr */
    float pull;             /* schedulefree: lr (beta1 (1 - weight) - 1) */
    float unused;
    KernelStream round;     /* of bf16 values */
} KernelRate;               /* [tensors] in device memory */
typedef struct {
    float beta1, beta2, keep1, keep2; /* keep: 1 - beta */
    float eps, scale;                 /* scale: of the gradient */
    float root;                       /* sqrt(1 - beta2^t); schedulefree: 1 - beta2^t */
    float weight;                     /* schedulefree */
} KernelMoments;
/* sum[at ...] += nearest multiple of 2^-40 of grad[slot]; left_out[slot] += values that src/comm/exact.h leaves out, *large += sums
 * beyond +-limit. */
void kernel_exact_add(const KernelChunk *chunk, int64_t chunks, const float *const *grad, int64_t *sum, int64_t limit, uint64_t *left_out,
                      uint64_t *large, void *stream);
void kernel_exact_to_float(float *out, const int64_t *sum, int64_t n, double scale, void *stream);
/* Sums over tiles of 4096 values of x^2, x y or |x|; the total is their sum in order. */
enum { KERNEL_TILE = 4096, KERNEL_SUM_SQUARE = 0, KERNEL_SUM_PRODUCT, KERNEL_SUM_ABS };
void kernel_tile_sums(int what, const float *x, const float *y, int64_t n, double *tile, void *stream);
/* x, y: AdamW's m and v, Lion's m, schedule-free's z and v. */
enum { KERNEL_ADAMW, KERNEL_LION, KERNEL_SCHEDULEFREE };
void kernel_optim(int kind, const KernelChunk *chunk, int64_t chunks, const KernelRate *rate, void *p, float *x, float *y, const float *grad,
                  const KernelMoments *a, void *stream);
/* map [512]: the signed and the unsigned dynamic map. */
void kernel_adamw8(const KernelChunk *chunk, int64_t chunks, const KernelRate *rate, const float *map, void *p, uint8_t *m8, float *m_max,
                   uint8_t *v8, float *v_max, const float *grad, const KernelMoments *a, void *stream);
/* Prodigy of one flat array: moments, then values (OptimProdigyStep of src/ops/optim.h). */
typedef struct {
    float scale, beta1, beta2, beta3, moment, square, weight, lr, decay, eps;
} KernelProdigy;
void kernel_prodigy_moments(float *m, float *v, float *s, const float *grad, int64_t n, const KernelProdigy *a, void *stream);
void kernel_prodigy_values(float *p, const float *m, const float *v, int64_t n, const KernelProdigy *a, void *stream);
/* Adafactor of one tensor [outer, rows, cols], as src/cpu/optim_adafactor.c; cols 0: a vector with v. grad becomes the update.
 * tile: as above for n values; mean [outer]; terms: scratch of the tensor. m may be NULL. */
typedef struct {
    double lr, weight_decay, clip;
    float beta1, beta2, keep, scale; /* keep: 1 - beta2 */
    int scale_parameter;
} KernelAdafactor;
typedef struct {
    double fraction;
    float lr, decay;
} KernelTerms;
void kernel_adafactor(float *p, float *row, float *col, float *v, float *m, float *grad, int64_t n, int64_t outer, int64_t rows, int64_t cols,
                      const KernelAdafactor *a, double *tile, float *mean, KernelTerms *terms, void *stream);
/* average += rate (p - average) */
void kernel_ema(const KernelChunk *chunk, int64_t chunks, float *average, const void *p, float rate, void *stream);

/* ---- noise.cu: what a diffusion step is given, as src/train/noise.h makes it on the host ---- */
typedef struct {
    KernelStream latent, noise, offset, extra;
    double a, s;      /* x_t = a x_0 + s noise */
    double strength;  /* of the offset of each channel; 0: none */
    double gamma;     /* of noise added to x_t alone; 0: none */
} KernelSample;
enum { KERNEL_TARGET_NOISE, KERNEL_TARGET_V, KERNEL_TARGET_SAMPLE, KERNEL_TARGET_FLOW };
/* moments [items][count / c][2 c] float -> x, target [items][count]: x_0 = (mean + exp(logvar / 2) draw - shift) scaling. */
void kernel_noise(int t, const float *moments, const KernelSample *sample, void *x, void *target, int64_t items, int64_t count, int64_t c,
                  float shift, float scaling, int kind, void *stream);

/* ---- pixel.cu ---- */
/* -1..1 -> 0..255, with the rounding of src/io/image.c */
void kernel_to_pixels(int t, const void *x, uint8_t *y, int64_t n, void *stream);
/* 0..255 -> -1..1 */
void kernel_from_pixels(int t, const uint8_t *x, void *y, int64_t n, void *stream);

/* ---- attention.cu: q, do, dq [n, lq, heads*d], k, v [n, lk, heads*d]; lse [n, heads, lq] ----
 * bf16 with d a multiple of 8 up to 160 runs on tensor cores (flash attention 2, arXiv:2307.08691); everything else on plain
 * fused multiply-adds. d <= 512. processors: of the device; heads of at most 64 take twice the rows per block where that still keeps
 * them busy, which changes no bit. */
void kernel_attention(int t, const void *q, const void *k, const void *v, void *o, float *lse, int64_t n, int64_t lq, int64_t lk,
                      int heads, int64_t d, float scale, int causal, int processors, void *stream);
size_t kernel_attention_bwd_scratch(int64_t n, int64_t lq, int heads);
void kernel_attention_bwd(int t, const void *dout, const void *q, const void *k, const void *v, const void *o, const float *lse, void *dq,
                          void *dk, void *dv, int64_t n, int64_t lq, int64_t lk, int heads, int64_t d, float scale, int causal,
                          void *scratch, void *stream);

/* ---- linear.cu: a linear layer and a low-rank path beside it, with one pass over x: y = x w^T (+ bias) (+ res) + u b^T,
 * u = factor (s[0]) x a^T. bf16 on tensor cores; k and n multiples of 8, rank at most KERNEL_LOW_MOST ---- */
enum { KERNEL_LOW_MOST = 64 };
typedef struct {
    int64_t rows, k, n;    /* x [rows,k], y [rows,n], u [rows,rank] */
    int rank, transposed;  /* 0: w [n,k], a [rank,k], b [n,rank]; 1: w [k,n], a [k,rank], b [rank,n] */
    float factor;
} KernelLow;
/* bias [n] float, res like y, s float; each may be NULL. res may be y. */
void kernel_linear_low(const void *x, const void *w, const void *a, const void *b, const float *bias, const void *res, const float *s,
                       void *y, void *u, const KernelLow *g, void *stream);

/* ---- conv.cu: implicit GEMM over NHWC; the weights of the forward pass and of the data gradient are packed first ---- */
typedef struct {
    int64_t n, h, w, ci;    /* x [n,h,w,ci] */
    int64_t oh, ow, co;     /* y [n,oh,ow,co] */
    int kh, kw, stride, pad_top, pad_left;
    int64_t from_h, from_w; /* forward and weight gradient: x is [n,from_h,from_w,ci], brought to h x w (at most 32768) by nearest
                               neighbour while it is read; 0: it is h x w */
    int processors;         /* of the device: wide tiles where they keep so many busy. Changes no bit */
} KernelConv;
/* w [co,ci,kh,kw] -> forward [co][kh kw][ci], gradient [ci][kh kw][co]; as many elements as w. */
void kernel_conv_pack(int t, const void *w, void *packed, const KernelConv *c, int gradient, void *stream);
/* bias [co] float, res like y; both may be NULL. */
void kernel_conv(int t, const void *x, const void *packed, const float *bias, const void *res, void *y, const KernelConv *c, void *stream);
void kernel_conv_bwd_x(int t, const void *dy, const void *packed, const void *res, void *dx, const KernelConv *c, void *stream);
/* dw [co,ci,kh,kw] of type tw. Pixels are summed in chunks, then over chunks, in order. */
size_t kernel_conv_bwd_w_scratch(const KernelConv *c);
void kernel_conv_bwd_w(int t, int tw, const void *dy, const void *x, void *dw, const KernelConv *c, void *scratch, void *stream);

#ifdef __cplusplus
}
#endif
#endif
