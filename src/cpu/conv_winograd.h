/* 3x3 convolutions of stride 1 and padding 1 with a quarter of the multiplications: Winograd's F(4x4,3x3).
 *
 * Each tile of 4x4 results comes from 6x6 inputs: y = A^T [(G g G^T) . (B^T d B)] A (Lavin and Gray, "Fast Algorithms for
 * Convolutional Neural Networks", 2016, equation 8). The matrices follow from Toom and Cook's interpolation at the points
 * 0, 11/16, -11/16, 3/2, -3/2, infinity, all exact in binary. In float the error is about 1.6 times that of plain sums
 * (rms, 320 channels), a third of that at the usual points 0, 1, -1, 2, -2; transforms and products are in float for
 * bf16 tensors too.
 *
 * The product over tiles is 36 matrix products [tiles, channels read] x [channels read, channels written], each element
 * one chain of multiply-adds in the order of the channels: no bit depends on the cutting, which may therefore follow
 * the batch and the number of threads. Weights are read as they lie in the file and transformed in blocks on every run.
 */
#ifndef CPU_CONV_WINOGRAD_H
#define CPU_CONV_WINOGRAD_H

#include "cpu/conv.h"

enum { WINOGRAD_OUT = 4, WINOGRAD_IN = 6, WINOGRAD_POINTS = 36, WINOGRAD_BLOCK = 32 };

typedef struct {
    ConvShape s;
    int forward, bias, res;
    int64_t k, n;                /* channels read and written */
    int64_t down, across, tiles; /* tiles of an image, and of all images */
    int64_t chunk, chunks;       /* tiles transformed at a time */
    int64_t blocks, parts;       /* a chunk's tasks: blocks of WINOGRAD_BLOCK channels written, parts of the chunk */
    int64_t depth;               /* channels read per transformed block of weights */
    int64_t group, products;     /* tiles per product, and those whose products are kept at a time */
    int64_t ld;                  /* floats per row of transformed inputs */
    int stream;
    size_t thread_bytes, bytes;
} ConvWinograd;

/* c[rows, WINOGRAD_BLOCK] (+)= a[rows, depth] b[depth, WINOGRAD_BLOCK], the first `cols` columns. next_a, next_b: operands of the
 * product after this one, fetched meanwhile; they may point anywhere. */
typedef struct {
    const float *a;
    int64_t lda;
    const float *b;
    float *c;
    int64_t rows, depth, cols;   /* rows: a multiple of 4 */
    int add;
    const float *next_a, *next_b;
} CpuWinogradProduct;

/* One set per instruction set (conv_winograd.simd.c). bf: 1 where the tensor is bfloat16. Everything transformed is float,
 * [36 points][...]; `plane` is the distance between two points. */
typedef struct {
    /* One tile: to[p * plane + c] from the pixels from[36] of `channels` each. stream: past the caches. */
    void (*input)(const void *const *from, int64_t channels, float *to, int64_t plane, int stream, int bf);
    /* to[p * plane + k * WINOGRAD_BLOCK + i], zero from `lanes` on, of the 3x3 weights at w[i * lane + k * step]; flip
     * turns them by 180 degrees. */
    void (*weights)(const void *w, int64_t lane, int64_t step, int64_t lanes, int64_t depth, int flip, float *to, int64_t plane, int bf);
    void (*product)(const CpuWinogradProduct *product);
    /* One tile: to[r * row + i * pixel + c] for r < rows, i < cols, c < lanes, elements of the result's type. bias and res
     * may be NULL; res lies like to, and may be it. */
    void (*output)(const float *from, int64_t plane, const float *bias, const void *res, void *to, int64_t row, int64_t pixel, int rows,
                   int cols, int64_t lanes, int bf);
} CpuWinogradOps;

extern const CpuWinogradOps cpu_winograd_ops_base, cpu_winograd_ops_avx2, cpu_winograd_ops_avx512;

/* Whether it is possible, and whether it pays: from the shape of one image alone. */
int cpu_conv_winograd_wanted(const Backend *be, const ConvShape *s);
void cpu_conv_winograd_plan(const Backend *be, const ConvShape *s, int forward, int bias, int res, ConvWinograd *p);
/* forward: from = x, to = y. Else dx: from = dy, to = dx. res may be `to`. w: OIHW, as in the file. */
void cpu_conv_winograd_run(const Backend *be, const ConvWinograd *p, const void *from, const void *w, const float *bias,
                           const void *res, void *to, void *scratch);

#endif
