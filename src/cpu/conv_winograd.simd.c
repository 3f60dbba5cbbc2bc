#include "cpu/conv_winograd.h"
#include "cpu/simd.h"

/* Points +-A and +-B; A2 = A * A and so on. */
#define A 0.6875f
#define A2 0.47265625f
#define A3 0.324951171875f
#define B 1.5f
#define B2 2.25f
#define B3 3.375f
/* Products of a point's distances to the others. */
#define N0 (A2 * B2)
#define NA (2 * A2 * (A2 - B2))
#define NB (2 * B2 * (B2 - A2))

/* AHEAD: how many channels the weights are fetched before their use. */
enum { AHEAD = 32, IN = WINOGRAD_IN, OUT = WINOGRAD_OUT, POINTS = WINOGRAD_POINTS, BLOCK = WINOGRAD_BLOCK, TAPS = 9, VECS = BLOCK / VL };

/* B^T x for x[i * step], in place. */
INLINE void input_line(vf *x, int step)
{
    vf x0 = x[0], x1 = x[step], x2 = x[2 * step], x3 = x[3 * step], x4 = x[4 * step], x5 = x[5 * step];
    vf p = x4 - vf_set(B2) * x2, q = x3 - vf_set(B2) * x1, r = x4 - vf_set(A2) * x2, s = x3 - vf_set(A2) * x1;
    x[0] = (x4 - vf_set(A2 + B2) * x2) + vf_set(A2 * B2) * x0;
    x[step] = p + vf_set(A) * q;
    x[2 * step] = p - vf_set(A) * q;
    x[3 * step] = r + vf_set(B) * s;
    x[4 * step] = r - vf_set(B) * s;
    x[5 * step] = (x5 - vf_set(A2 + B2) * x3) + vf_set(A2 * B2) * x1;
}

INLINE void input_lanes(const void *const *from, int64_t c, float *to, int64_t plane, int lanes, int stream, int bf)
{
    vf x[POINTS];
#pragma GCC unroll 6
    for (int j = 0; j < IN; j++) {
#pragma GCC unroll 6
        for (int i = 0; i < IN; i++)
            x[i * IN + j] = vt_load(from[i * IN + j], c, lanes, bf);
        input_line(x + j, IN);
    }
#pragma GCC unroll 6
    for (int i = 0; i < IN; i++) {
        input_line(x + i * IN, 1);
#pragma GCC unroll 6
        for (int j = 0; j < IN; j++)
            if (stream)
                vf_stream(to + (i * IN + j) * plane + c, x[i * IN + j]);
            else
                vf_store(to + (i * IN + j) * plane + c, x[i * IN + j]);
    }
}

INLINE void input_tile(const void *const *from, int64_t channels, float *to, int64_t plane, int stream, int bf)
{
    int64_t c = 0;
    for (; c + VL <= channels; c += VL)
        input_lanes(from, c, to, plane, VL, stream, bf);
    if (c < channels)
        input_lanes(from, c, to, plane, (int)(channels - c), stream, bf);
    if (stream)
        vf_stream_end();
}

static void winograd_input(const void *const *from, int64_t channels, float *to, int64_t plane, int stream, int bf)
{
    if (bf && stream)
        input_tile(from, channels, to, plane, 1, 1);
    else if (bf)
        input_tile(from, channels, to, plane, 0, 1);
    else if (stream)
        input_tile(from, channels, to, plane, 1, 0);
    else
        input_tile(from, channels, to, plane, 0, 0);
}

/* G x for x[i * step], i < 3, to y[i * to], i < 6. */
INLINE void weight_line(const vf *x, int step, vf *y, int to)
{
    vf x0 = x[0], x1 = x[step], x2 = x[2 * step];
    vf ea = vf_set(1 / NA) * x0 + vf_set(A2 / NA) * x2, eb = vf_set(1 / NB) * x0 + vf_set(B2 / NB) * x2;
    y[0] = vf_set(1 / N0) * x0;
    y[to] = ea + vf_set(A / NA) * x1;
    y[2 * to] = ea - vf_set(A / NA) * x1;
    y[3 * to] = eb + vf_set(B / NB) * x1;
    y[4 * to] = eb - vf_set(B / NB) * x1;
    y[5 * to] = x2;
}

/* g[t] = tap t of VL weights that are `lane` elements apart. */
INLINE void weight_load(const void *w, int64_t lane, int lanes, int bf, vf g[TAPS])
{
    int t = 0;
    for (; TAPS - t > 1; t += VL) {
        int n = TAPS - t < VL ? TAPS - t : VL;
        vf x[VL];
        const void *from = t_at(w, t, bf);
#pragma GCC unroll 16
        for (int i = 0; i < VL; i++, from = t_at(from, lane, bf))
            x[i] = i < lanes ? vt_load(from, 0, n, bf) : vf_zero();
        vf_transpose(x);
        for (int i = 0; i < n; i++)
            g[t + i] = x[i];
    }
    if (t < TAPS) {
        float last[VL] ALIGNED;
        for (int i = 0; i < VL; i++)
            last[i] = i < lanes ? t_load(w, i * lane + t, bf) : 0;
        g[t] = vf_load(last);
    }
}

INLINE void weight_lanes(const void *w, int64_t lane, int lanes, int flip, float *to, int64_t plane, int bf)
{
    vf g[TAPS], half[3 * IN], x[3], u[IN];
    weight_load(w, lane, lanes, bf, g);
#pragma GCC unroll 3
    for (int j = 0; j < 3; j++) {
#pragma GCC unroll 3
        for (int i = 0; i < 3; i++)
            x[i] = flip ? g[TAPS - 1 - (i * 3 + j)] : g[i * 3 + j];
        weight_line(x, 1, half + j, 3);
    }
#pragma GCC unroll 6
    for (int i = 0; i < IN; i++) {
        weight_line(half + i * 3, 1, u, 1);
#pragma GCC unroll 6
        for (int j = 0; j < IN; j++)
            vf_store(to + (i * IN + j) * plane, u[j]);
    }
}

INLINE void weight_block(const void *w, int64_t lane, int64_t step, int64_t lanes, int64_t depth, int flip, float *to, int64_t plane, int bf)
{
    for (int64_t k = 0; k < depth; k++)
        for (int64_t i = 0; i < BLOCK; i += VL) {
            int n = i < lanes ? lanes_at(i, lanes) : 0;
            const void *at = t_at(w, i * lane + k * step, bf);
            /* Two channels lie within a line, or nearly. */
            for (int j = (int)(k % 2); j < n; j += 2)
                __builtin_prefetch(t_at(at, j * lane + AHEAD * step, bf), 0, 2);
            if (n == VL)
                weight_lanes(at, lane, VL, flip, to + k * BLOCK + i, plane, bf);
            else if (n > 0)
                weight_lanes(at, lane, n, flip, to + k * BLOCK + i, plane, bf);
            else
                for (int p = 0; p < POINTS; p++)
                    vf_store(to + k * BLOCK + i + p * plane, vf_zero());
        }
}

static void winograd_weights(const void *w, int64_t lane, int64_t step, int64_t lanes, int64_t depth, int flip, float *to, int64_t plane,
                             int bf)
{
    if (bf)
        weight_block(w, lane, step, lanes, depth, flip, to, plane, 1);
    else
        weight_block(w, lane, step, lanes, depth, flip, to, plane, 0);
}

/* ---- products ---- */

enum { ROWS = CPU_ISA_LEVEL == 2 ? 12 : 6, PANEL = 2, LINE = 16 };

/* Rows of `t` from `row`, columns from `col`. next: the rows that come after; lines: how many lines of the next b to fetch in
 * LINE steps. Both are on their way into the second cache while this block computes. */
INLINE void product_block(const CpuWinogradProduct *t, int64_t row, int64_t col, const float *next, const float *next_b, int lines,
                          int rows, int vecs)
{
    const int64_t lda = t->lda, depth = t->depth;
    const float *a = t->a + row * lda, *b = t->b + col;
    float *c = t->c + row * BLOCK + col;
    vf acc[ROWS][PANEL];
#pragma GCC unroll 12
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 2
        for (int v = 0; v < vecs; v++)
            acc[r][v] = t->add ? vf_load(c + r * BLOCK + v * VL) : vf_zero();
    /* Rows by fours, so that addresses are one of three pointers and a multiple of one stride. */
    const float *a0 = a, *a4 = a + 4 * lda, *a8 = a + 8 * lda;
    for (int64_t k0 = 0; k0 < depth; k0 += LINE) {
        int64_t end = k0 + LINE < depth ? k0 + LINE : depth;
        for (int64_t r = 0; r < rows; r++)
            __builtin_prefetch(next + r * lda + k0, 0, 2);
        for (int i = 0; i < lines; i++, next_b += LINE)
            __builtin_prefetch(next_b, 0, 2);
        for (int64_t k = k0; k < end; k++, b += BLOCK) {
            vf bv[PANEL];
#pragma GCC unroll 2
            for (int v = 0; v < vecs; v++)
                bv[v] = vf_load(b + v * VL);
#pragma GCC unroll 12
            for (int r = 0; r < rows; r++) {
                const float *from = r < 4 ? a0 : r < 8 ? a4 : a8;
                vf av = vf_set(from[(r & 3) * lda + k]);
#pragma GCC unroll 2
                for (int v = 0; v < vecs; v++)
                    acc[r][v] = acc[r][v] + av * bv[v];
            }
        }
    }
#pragma GCC unroll 12
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 2
        for (int v = 0; v < vecs; v++)
            vf_store(c + r * BLOCK + v * VL, acc[r][v]);
}

INLINE void product_panel(const CpuWinogradProduct *t, int64_t col, int vecs)
{
    int64_t blocks = cpu_ceil_div(t->rows, ROWS), row = 0;
    /* The next b has depth * BLOCK floats: BLOCK lines in LINE steps, shared out to the blocks of the first panel. */
    int lines = col == 0 ? (int)cpu_ceil_div(BLOCK, blocks) : 0;
    const float *next_b = t->next_b;
    for (; row + ROWS <= t->rows; row += ROWS, next_b += t->depth * lines) {
        const float *next = row + ROWS < t->rows ? t->a + (row + ROWS) * t->lda : t->next_a;
        product_block(t, row, col, next, next_b, lines, ROWS, vecs);
    }
    switch (t->rows - row) {
#if CPU_ISA_LEVEL == 2
    case 8: product_block(t, row, col, t->next_a, next_b, lines, 8, vecs); break;
#else
    case 2: product_block(t, row, col, t->next_a, next_b, lines, 2, vecs); break;
#endif
    case 4: product_block(t, row, col, t->next_a, next_b, lines, 4, vecs); break;
    default: break;
    }
}

static void winograd_product(const CpuWinogradProduct *t)
{
    for (int64_t col = 0; col < t->cols; col += PANEL * VL) {
        if (t->cols - col > VL)
            product_panel(t, col, PANEL);
        else
            product_panel(t, col, 1);
    }
}

/* ---- output ---- */

/* A^T x for x[i * step], i < 6, to y[0..3]. */
INLINE void output_line(const vf *x, int step, vf y[OUT])
{
    vf sa = x[step] + x[2 * step], da = x[step] - x[2 * step], sb = x[3 * step] + x[4 * step], db = x[3 * step] - x[4 * step];
    y[0] = x[0] + sa + sb;
    y[1] = vf_set(A) * da + vf_set(B) * db;
    y[2] = vf_set(A2) * sa + vf_set(B2) * sb;
    y[3] = vf_set(A3) * da + vf_set(B3) * db + x[5 * step];
}

typedef struct {
    const float *bias;
    const void *res;
    void *to;
    int64_t row, pixel;
    int rows, cols;
} Tile;

INLINE void output_lanes(const float *from, int64_t plane, const Tile *t, int64_t c, int lanes, int bf)
{
    vf half[OUT][IN], y[OUT];
    vf bias = t->bias ? vf_load_n(t->bias + c, lanes) : vf_zero();
#pragma GCC unroll 6
    for (int j = 0; j < IN; j++) {
        vf x[IN];
#pragma GCC unroll 6
        for (int i = 0; i < IN; i++)
            x[i] = vf_load(from + (i * IN + j) * plane + c);
        output_line(x, 1, y);
#pragma GCC unroll 4
        for (int i = 0; i < OUT; i++)
            half[i][j] = y[i];
    }
    for (int r = 0; r < t->rows; r++) {
        output_line(half[r], 1, y);
        for (int i = 0; i < t->cols; i++) {
            int64_t at = r * t->row + i * t->pixel + c;
            vf v = y[i] + bias;
            if (t->res)
                v += vt_load(t->res, at, lanes, bf);
            vt_store(t->to, at, v, lanes, bf);
        }
    }
}

INLINE void output_tile(const float *from, int64_t plane, const Tile *t, int64_t lanes, int bf)
{
    for (int64_t c = 0; c < lanes; c += VL) {
        int n = lanes_at(c, lanes);
        if (n == VL)
            output_lanes(from, plane, t, c, VL, bf);
        else
            output_lanes(from, plane, t, c, n, bf);
    }
}

static void winograd_output(const float *from, int64_t plane, const float *bias, const void *res, void *to, int64_t row, int64_t pixel,
                            int rows, int cols, int64_t lanes, int bf)
{
    Tile t = {bias, res, to, row, pixel, rows, cols};
    if (bf)
        output_tile(from, plane, &t, lanes, 1);
    else
        output_tile(from, plane, &t, lanes, 0);
}

const CpuWinogradOps CPU_FN(cpu_winograd_ops) = {winograd_input, winograd_weights, winograd_product, winograd_output};
