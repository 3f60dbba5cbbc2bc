#include "base/rng_brownian.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"

enum { POOL = 24, MAX_DEPTH = 48, MAX_WORDS = POOL + 4 };

static uint32_t hash_mix(uint32_t value, uint32_t *constant)
{
    value ^= *constant;
    *constant *= 0x931e8875u;
    value *= *constant;
    return value ^ value >> 16;
}

static uint32_t combine(uint32_t x, uint32_t y)
{
    uint32_t r = 0xca01f9ddu * x - 0x4973f715u * y;
    return r ^ r >> 16;
}

void rng_seed_sequence(uint64_t entropy, const uint32_t *spawn, int nspawn, uint32_t *out, int n)
{
    uint32_t words[MAX_WORDS] = {(uint32_t)entropy, (uint32_t)(entropy >> 32)}, pool[POOL], constant = 0x43b0d7e5u;
    int count = nspawn ? POOL : entropy >> 32 ? 2 : 1; /* with a spawn key the entropy is padded to the pool */
    for (int i = 0; i < nspawn; i++)
        words[count++] = spawn[i];
    for (int i = 0; i < POOL; i++)
        pool[i] = hash_mix(i < count ? words[i] : 0, &constant);
    for (int from = 0; from < POOL; from++)
        for (int to = 0; to < POOL; to++)
            if (from != to)
                pool[to] = combine(pool[to], hash_mix(pool[from], &constant));
    for (int from = POOL; from < count; from++)
        for (int to = 0; to < POOL; to++)
            pool[to] = combine(pool[to], hash_mix(words[from], &constant));
    constant = 0x8b51f9ddu;
    for (int i = 0; i < n; i++) {
        uint32_t v = pool[i % POOL] ^ constant;
        constant *= 0x58f38dedu;
        v *= constant;
        out[i] = v ^ v >> 16;
    }
}

struct RngBrownian {
    uint64_t entropy;
    double t0, t1;          /* rounded */
    int64_t n;
    RngBrownianDraw draw;
    void *ctx;
    float *top;             /* increment over the whole interval */
    float *noise;
    float *level[MAX_DEPTH][2]; /* increments of the two halves on the way down, allocated when first needed */
};

/* Python's round(x, 6): the decimal nearest to the binary value. */
static double round6(double x)
{
    char text[64];
    snprintf(text, sizeof text, "%.6f", x);
    return strtod(text, NULL);
}

static int alloc(float **p, int64_t n)
{
    if (!*p && !(*p = malloc((size_t)n * sizeof **p)))
        return err_set(ERR_NOMEM, "out of memory: Brownian path of %lld elements", (long long)n);
    return 0;
}

int rng_brownian_create(RngBrownian **out, uint64_t entropy, double t0, double t1, int64_t n, RngBrownianDraw draw, void *ctx)
{
    *out = NULL;
    if (!(t0 < t1) || !(fabs(t0) < 1e9) || !(fabs(t1) < 1e9) || n < 1)
        return err_set(ERR_RANGE, "Brownian path from %g to %g", t0, t1);
    RngBrownian *b = calloc(1, sizeof *b);
    if (!b)
        return err_set(ERR_NOMEM, "out of memory");
    *b = (RngBrownian){.entropy = entropy, .t0 = round6(t0), .t1 = round6(t1), .n = n, .draw = draw, .ctx = ctx};
    int rc = alloc(&b->top, n);
    if (rc == 0)
        rc = alloc(&b->noise, n);
    if (rc < 0) {
        rng_brownian_destroy(b);
        return rc;
    }
    uint32_t seed;
    rng_seed_sequence(entropy, NULL, 0, &seed, 1);
    draw(ctx, seed, b->top, n);
    float scale = (float)sqrt(t1 - t0);
    for (int64_t i = 0; i < n; i++)
        b->top[i] *= scale;
    *out = b;
    return 0;
}

void rng_brownian_destroy(RngBrownian *b)
{
    if (!b)
        return;
    for (int d = 0; d < MAX_DEPTH; d++) {
        free(b->level[d][0]);
        free(b->level[d][1]);
    }
    free(b->top);
    free(b->noise);
    free(b);
}

/* A node: its ends, its number among those of its depth. */
typedef struct {
    double start, end;
    uint32_t key;
    int depth;
} Node;

/* Increments of both halves of a node whose own is w. The bridge: left = w (m - a)/(b - a) + sqrt((m - a)(b - m)/(b - a)) z. */
static int split(RngBrownian *b, const Node *node, const float *w, double mid)
{
    float **half = b->level[node->depth];
    TRY(alloc(&half[0], b->n));
    TRY(alloc(&half[1], b->n));
    const uint32_t spawn[2] = {node->key, (uint32_t)node->depth};
    uint32_t seed;
    rng_seed_sequence(b->entropy, spawn, 2, &seed, 1);
    b->draw(b->ctx, seed, b->noise, b->n);
    double left = mid - node->start, right = node->end - mid, inverse = 1 / (node->end - node->start);
    float sd = (float)sqrt(left * right * inverse);
    for (int64_t i = 0; i < b->n; i++) {
        float mean = (float)left * w[i] * (float)inverse;
        half[0][i] = mean + sd * b->noise[i];
        half[1][i] = w[i] - half[0][i];
    }
    return 0;
}

static int add(RngBrownian *b, Node node, const float *w, double ta, double tb, float *out)
{
    if (!(ta > node.start) && !(tb < node.end)) {
        for (int64_t i = 0; i < b->n; i++)
            out[i] += w[i];
        return 0;
    }
    double mid = round6(0.5 * (node.end + node.start));
    if (node.depth >= MAX_DEPTH || !(mid > node.start && mid < node.end))
        return err_set(ERR_RANGE, "Brownian path: sigmas %.9g and %.9g are too close", ta, tb);
    TRY(split(b, &node, w, mid));
    Node left = {node.start, mid, 2 * node.key, node.depth + 1}, right = {mid, node.end, 2 * node.key + 1, node.depth + 1};
    if (ta < mid)
        TRY(add(b, left, b->level[node.depth][0], ta, tb < mid ? tb : mid, out));
    return tb > mid ? add(b, right, b->level[node.depth][1], ta > mid ? ta : mid, tb, out) : 0;
}

int rng_brownian_increment(RngBrownian *b, double ta, double tb, float *out)
{
    ta = round6(fmin(fmax(ta, b->t0), b->t1));
    tb = round6(fmin(fmax(tb, b->t0), b->t1));
    memset(out, 0, (size_t)b->n * sizeof *out);
    return ta < tb ? add(b, (Node){b->t0, b->t1, 0, 0}, b->top, ta, tb, out) : 0;
}
