/* Ops of adapters: gains of weight-decomposed rows and dropout by counter-based draws. */
#include "device.h"
#include "grid.h"
#include "kernels.h"
#include "philox.h"

namespace {

/* g[r] = m[r] / |v[r]|; block per row. */
__global__ void k_row_gain(const float *m, const float *v, float *g, int64_t cols)
{
    SHARED(float, red, 32);
    const float *p = v + blockIdx.x * cols;
    float s = 0;
    for (int64_t i = threadIdx.x; i < cols; i += GRID_BLOCK)
        s = fmaf(p[i], p[i], s);
    s = block_sum(s, red);
    if (threadIdx.x == 0)
        g[blockIdx.x] = m[blockIdx.x] / sqrtf(s);
}

/* Values of Drop in src/ops/op.h. */
enum { ELEMENT, CHANNEL, ITEM, PER = 4 };
enum { RNG_DROPOUT = 12 }; /* src/base/rng.h */

struct Drop {
    float p;
    int what;
    uint64_t seed, key;
    int64_t items, count, channels;
};

/* Four elements of one item per thread. */
template <typename T> __global__ void k_dropout(const T *x, const int64_t *position, T *y, Drop d)
{
    int64_t groups = (d.count + PER - 1) / PER;
    float keep = d.what == ITEM ? 1.0f : 1.0f / (1.0f - d.p);
    for (int64_t i = grid_first(); i < d.items * groups; i += grid_step()) {
        int64_t item = i / groups, first = i % groups * PER, number = position[item], held = -1;
        Stream s = stream_of(d.seed, RNG_DROPOUT, (uint64_t)number, d.key);
        Words w = {{0, 0, 0, 0}};
        for (int64_t e = first; e < first + PER && e < d.count; e++) {
            int64_t draw = d.what == ELEMENT ? e : d.what == CHANNEL ? e % d.channels : 0;
            if (draw / 4 != held) {
                held = draw / 4;
                w = stream_block(s, (uint64_t)held);
            }
            int64_t at = item * d.count + e;
            float u = word_uniform(draw % 4 == 0 ? w.w[0] : draw % 4 == 1 ? w.w[1] : draw % 4 == 2 ? w.w[2] : w.w[3]);
            store(y + at, load(x + at) * (number < 0 ? 1.0f : u < d.p ? 0.0f : keep));
        }
    }
}

} // namespace

void kernel_row_gain(const float *m, const float *v, float *g, int64_t rows, int64_t cols, void *stream)
{
    LAUNCH(k_row_gain, (unsigned)rows, GRID_BLOCK, 0, stream, m, v, g, cols);
}

void kernel_dropout(int t, const void *x, const int64_t *position, void *y, int64_t items, int64_t count, int64_t channels, float p, int what,
                    uint64_t seed, uint64_t key, void *stream)
{
    Drop d = {p, what, seed, key, items, count, channels};
#define DO(T) LAUNCH((k_dropout<T>), grid_for(items * ceil_div(count, PER)), GRID_BLOCK, 0, stream, (const T *)x, position, (T *)y, d)
    EACH_TYPE(t, DO);
#undef DO
}
