/* Each piece of PTX against what the PTX ISA says, computed here, and against its emulated twin: `wrappers write FILE` on the emulated
 * device writes the twins' results, and with WRAPPER_TWINS=FILE they are compared, bit for bit where exact.
 * `wrappers device` says which device there is: 0, or 3 where there is none. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cpu/half.h"
#include "cuda/cuda.h"
#include "cuda/internal.h"
#include "cuda/wrappers.h"

typedef struct {
    const char *name;
    Wrapper which;
    void (*fill)(uint32_t *in, int n);
    void (*expect)(const uint32_t *in, uint32_t *want); /* NULL: only the twin says */
    double absolute; /* floats may differ by this; 0: every bit is the same */
    int units;       /* floats may differ by units in the last place as math_limit says */
} Case;

static const int in_words[] = {
#define IN_WORDS(name, in, out) in,
    WRAPPERS(IN_WORDS)
};
static const int out_words[] = {
#define OUT_WORDS(name, in, out) out,
    WRAPPERS(OUT_WORDS)
};

static uint32_t mix(uint32_t x)
{
    x = (x ^ x >> 16) * 0x7feb352du;
    x = (x ^ x >> 15) * 0x846ca68bu;
    return x ^ x >> 16;
}

static uint32_t bits(float v)
{
    uint32_t u;
    memcpy(&u, &v, 4);
    return u;
}

static float value(uint32_t u)
{
    float v;
    memcpy(&v, &u, 4);
    return v;
}

/* ---- inputs ---- */

/* Values at which roundings go wrong, then any bits. */
static void fill_any(uint32_t *in, int n)
{
    static const uint32_t special[] = {0, 0x80000000, 0x7f800000, 0xff800000, 0x7fc00000, 0x7f800001, 0xffffffff, 1, 0x807fffff,
                                       0x00800000, 0x7f7fffff, 0x3f808000, 0x3f818000, 0x3f808001, 0x3f807fff, 0x7f7f8000,
                                       0x477fefff, 0x477ff000, 0x33000000, 0x33000001, 0x33800000, 0x387fc000, 0x387fe000,
                                       0x3f801000, 0x3f803000, 0xc77ff000, 0x7c00, 0xfc01, 0x03ff, 0x8001};
    for (int i = 0; i < n; i++)
        in[i] = i < (int)(sizeof special / sizeof *special) ? special[i] : mix((uint32_t)i + 1);
}

/* -1..1; then lanes for SHUFFLE. */
static void fill_unit(uint32_t *in, int n)
{
    for (int i = 0; i < n; i++)
        in[i] = bits((float)(mix((uint32_t)i + 77) >> 8) * 0x1p-23f - 1.0f);
}

static void fill_lanes(uint32_t *in, int n)
{
    fill_unit(in, n);
    for (int i = 64; i < n; i++)
        in[i] = mix((uint32_t)i) % 32;
}

static void fill_ids(uint32_t *in, int n)
{
    for (int i = 0; i < n; i++)
        in[i] = (uint32_t)(2 * i) | (uint32_t)(2 * i + 1) << 16;
}

static uint32_t pair(float lo, float hi)
{
    return bf16_from_float(lo) | (uint32_t)bf16_from_float(hi) << 16;
}

static float small_int(int i)
{
    return (float)((int)(mix((uint32_t)i + 5) % 17) - 8);
}

/* Whole numbers, whose products and sums are exact. */
static void fill_mma_int(uint32_t *in, int n)
{
    for (int i = 0; i < n; i++)
        in[i] = i < 192 ? pair(small_int(2 * i), small_int(2 * i + 1)) : bits(small_int(2 * i));
}

static void fill_mma(uint32_t *in, int n)
{
    fill_unit(in, n);
    for (int i = 0; i < 192; i++)
        in[i] = pair(value(in[i]), value(mix((uint32_t)i) >> 9 | 0x3f000000));
}

static void fill_math(uint32_t *in, int n)
{
    static const float special[] = {0.0f, -0.0f, 1, -1, 1e-6f, -1e-6f, 0.5f, 20, -20, 1e-30f, 100, -80};
    fill_unit(in, n);
    for (int i = 0; i < n; i++)
        in[i] = bits(i < (int)(sizeof special / sizeof *special) ? special[i] : 10 * value(in[i]));
}

/* ---- what must come out ---- */

static void expect_bf16(const uint32_t *in, uint32_t *want)
{
    for (int i = 0; i < 256; i++) {
        float v = value(in[i]);
        want[2 * i] = v != v ? 0x7fff : bf16_from_float(v);
        want[2 * i + 1] = want[2 * i] << 16;
    }
}

static void expect_f16(const uint32_t *in, uint32_t *want)
{
    for (int i = 0; i < 256; i++) {
        float v = value(in[i]), low = f16_to_float((uint16_t)in[i]);
        want[2 * i] = v != v ? 0x7fff : f16_from_float(v);
        want[2 * i + 1] = low != low ? 0x7fc00000 : bits(low);
    }
}

static void expect_pack(const uint32_t *in, uint32_t *want)
{
    for (int i = 0; i < 256; i++) {
        float v = value(in[i]);
        uint32_t h = v != v ? 0x7fff : bf16_from_float(v);
        want[i / 2] = i % 2 ? want[i / 2] | h << 16 : h;
    }
}

static void expect_shuffle(const uint32_t *in, uint32_t *want)
{
    for (int i = 0; i < 64; i++) {
        int warp = i / 32 * 32;
        for (int k = 0; k < 5; k++)
            want[k * 64 + i] = in[i ^ 1 << k];
        want[320 + i] = in[warp + (int)in[64 + i]];
        want[384 + i] = in[warp + ((int)in[64 + i] + 7) % 32];
    }
}

static float half_of(uint32_t word, int high)
{
    return value(high ? word & 0xffff0000u : word << 16);
}

/* PTX ISA, "Matrix Fragments for mma.m16n8k16": row-major A, column-major B, by group = lane / 4 and lane % 4. */
static void expect_mma(const uint32_t *in, uint32_t *want)
{
    double a[16][16], b[16][8];
    for (int l = 0; l < 32; l++)
        for (int i = 0; i < 8; i++) {
            int row = (i < 2 || (i >= 4 && i < 6)) ? l / 4 : l / 4 + 8, col = l % 4 * 2 + (i & 1) + (i < 4 ? 0 : 8);
            a[row][col] = (double)half_of(in[l * 4 + i / 2], i & 1);
            if (i < 4)
                b[l % 4 * 2 + (i & 1) + (i < 2 ? 0 : 8)][l / 4] = (double)half_of(in[128 + l * 2 + i / 2], i & 1);
        }
    for (int l = 0; l < 32; l++)
        for (int i = 0; i < 4; i++) {
            int row = i < 2 ? l / 4 : l / 4 + 8, col = l % 4 * 2 + (i & 1);
            double sum = (double)value(in[192 + l * 4 + i]);
            for (int k = 0; k < 16; k++)
                sum += a[row][k] * b[k][col];
            want[l * 4 + i] = bits((float)sum);
        }
}

static uint32_t tile_at(const uint32_t *in, int row, int col)
{
    return in[row * 8 + col / 2] >> 16 * (col % 2) & 0xffff;
}

/* Lane l receives row l/4, columns 2 (l%4) and the next of each matrix; transposed: column l/4 and those rows. */
static void expect_ldmatrix(const uint32_t *in, uint32_t *want)
{
    for (int l = 0; l < 32; l++)
        for (int m = 0; m < 4; m++) {
            int row = 16 + m % 2 * 8, col = m / 2 * 8, a = l / 4, b = l % 4 * 2;
            want[l * 4 + m] = tile_at(in, row + a, col + b) | tile_at(in, row + a, col + b + 1) << 16;
            want[128 + l * 4 + m] = tile_at(in, row + b, col + a) | tile_at(in, row + b + 1, col + a) << 16;
        }
}

static uint32_t copied(const uint32_t *in, int group, int lane, int word)
{
    int bytes = (lane + group * 3) % 9 * 2 - word * 4;
    uint32_t v = in[group * 128 + lane * 4 + word];
    return bytes <= 0 ? 0 : bytes >= 4 ? v : v & 0xffff;
}

static void expect_copy(const uint32_t *in, uint32_t *want)
{
    for (int l = 0; l < 32; l++)
        for (int k = 0; k < 4; k++) {
            for (int g = 0; g < 3; g++)
                want[g * 128 + l * 4 + k] = copied(in, g, l, k);
            want[384 + l * 4 + k] = copied(in, 0, (l + 5) % 32, k);
        }
}

static void expect_shared(const uint32_t *in, uint32_t *want)
{
    for (int i = 0; i < 128; i++)
        want[i] = in[127 - i];
}

static void expect_integers(const uint32_t *in, uint32_t *want)
{
    for (int i = 0; i < 63; i++)
        want[i * 4] = (uint32_t)((uint64_t)in[i * 4] * in[i * 4 + 1] >> 32);
}

/* mma on the tensor cores may cut products where they are aligned: 17 terms of at most 1, each to 2^-20. */
static const Case cases[] = {
    {"bf16", WRAPPER_BF16, fill_any, expect_bf16, 0, 0},
    {"f16", WRAPPER_F16, fill_any, expect_f16, 0, 0},
    {"pack_bf16", WRAPPER_PACK, fill_any, expect_pack, 0, 0},
    {"warp_get, warp_xor", WRAPPER_SHUFFLE, fill_lanes, expect_shuffle, 0, 0},
    {"mma_16816 of whole numbers", WRAPPER_MMA, fill_mma_int, expect_mma, 0, 0},
    {"mma_16816", WRAPPER_MMA, fill_mma, expect_mma, 17 * 0x1p-20, 0},
    {"ldmatrix", WRAPPER_LDMATRIX, fill_ids, expect_ldmatrix, 0, 0},
    {"copy_async", WRAPPER_COPY_ASYNC, fill_ids, expect_copy, 0, 0},
    {"warp_sum, warp_max, block_sum", WRAPPER_REDUCE, fill_unit, NULL, 0, 0},
    {"load_pack, store_pack", WRAPPER_VECTORS, fill_unit, NULL, 0, 0},
    {"96 KiB of shared memory", WRAPPER_SHARED, fill_ids, expect_shared, 0, 0},
    {"whole numbers, philox", WRAPPER_INTEGERS, fill_any, expect_integers, 0, 0},
    {"functions", WRAPPER_MATH, fill_math, NULL, 0, 1},
};
enum { CASES = sizeof cases / sizeof *cases };

/* Twice the largest error of the CUDA C++ Programming Guide's tables for single precision, which is against the exact value; the twin's
 * own is 1 at most. __expf: 2 + 1.173 |x|. */
static double math_limit(int at, const uint32_t *in)
{
    static const uint8_t guide[MATH_COUNT] = {[MATH_EXP] = 2, [MATH_EXP2] = 2, [MATH_LOG] = 1, [MATH_TANH] = 2, [MATH_ERF] = 2,
                                              [MATH_EXPM1] = 1, [MATH_RSQRT] = 2, [MATH_SIN] = 2, [MATH_COS] = 2,
                                              [MATH_FAST_EXP] = 2, [MATH_FAST_EXP2] = 2, [MATH_FAST_DIVIDE] = 2};
    int f = at / 256;
    return guide[f] ? 2 * guide[f] + 1 + (f == MATH_FAST_EXP ? 1.2 * fabs((double)value(in[at % 256])) : 0) : 0;
}

static double units_apart(uint32_t a, uint32_t b)
{
    int64_t x = a & 0x80000000u ? -(int64_t)(a & 0x7fffffff) : (int64_t)a, y = b & 0x80000000u ? -(int64_t)(b & 0x7fffffff) : (int64_t)b;
    return fabs((double)(x - y));
}

static void compare(const Case *c, const uint32_t *in, const uint32_t *got, const uint32_t *want, int n, const char *whose)
{
    double worst = 0;
    for (int i = 0; i < n; i++) {
        int fits = got[i] == want[i];
        double error = fits ? 0 : c->absolute > 0 ? fabs((double)value(got[i]) - (double)value(want[i])) : units_apart(got[i], want[i]);
        if (c->absolute > 0)
            fits |= error <= c->absolute;
        else if (c->units)
            fits |= error <= math_limit(i, in);
        worst = error > worst ? error : worst;
        if (!fits)
            fail_msg("%s: word %d is %08x (%.9g), %s %08x (%.9g)", c->name, i, got[i], (double)value(got[i]), whose, want[i],
                     (double)value(want[i]));
    }
    if (worst > 0)
        printf("# %s: largest difference %.3g %s from %s\n", c->name, worst, c->absolute > 0 ? "" : "units in the last place", whose);
}

static Backend *cuda;
static FILE *twins;

static void run(const Case *c, uint32_t *in, uint32_t *out)
{
    void *din, *dout;
    size_t nin = (size_t)in_words[c->which] * 4, nout = (size_t)out_words[c->which] * 4;
    memset(out, 0, nout);
    c->fill(in, in_words[c->which]);
    if (cuda->alloc(cuda, &din, nin) < 0 || cuda->alloc(cuda, &dout, nout) < 0 || cuda->upload(cuda, din, in, nin) < 0 ||
        cuda->upload(cuda, dout, out, nout) < 0)
        fail_msg("%s", err_message());
    wrapper_run((int)c->which, din, dout, cuda_state(cuda)->stream);
    cudaError_t e = cudaGetLastError();
    if (e != cudaSuccess)
        fail_msg("%s: launch failed: %s", c->name, cudaGetErrorString(e));
    if (cuda->download(cuda, out, dout, nout) < 0)
        fail_msg("%s: %s", c->name, err_message());
    cuda->free(cuda, din, nin);
    cuda->free(cuda, dout, nout);
}

static void test_wrapper(void **state)
{
    const Case *c = *state;
    static uint32_t in[WRAPPER_MOST_IN], got[WRAPPER_MOST_OUT], want[WRAPPER_MOST_OUT];
    int n = out_words[c->which];
    run(c, in, got);
    if (c->expect) {
        memcpy(want, got, sizeof want); /* what it says nothing about */
        c->expect(in, want);
        compare(c, in, got, want, n, "expected");
    }
    if (!twins)
        return;
    int nin = in_words[c->which], at = (int)(c - cases);
    long skip = 0;
    for (int i = 0; i < at; i++)
        skip += in_words[cases[i].which] + out_words[cases[i].which];
    uint32_t there[WRAPPER_MOST_IN];
    if (fseek(twins, skip * 4, SEEK_SET) || fread(there, 4, (size_t)nin, twins) != (size_t)nin ||
        fread(want, 4, (size_t)n, twins) != (size_t)n)
        fail_msg("%s: the file of the twins' results ends here", c->name);
    if (memcmp(there, in, (size_t)nin * 4))
        fail_msg("%s: the twins' results are for other inputs: make them again", c->name);
    compare(c, in, got, want, n, "the emulated twin's");
}

static int write_twins(const char *path)
{
    static uint32_t in[WRAPPER_MOST_IN], out[WRAPPER_MOST_OUT];
    FILE *f = fopen(path, "wb");
    int bad = !f;
    for (int i = 0; i < CASES && !bad; i++) {
        size_t nin = (size_t)in_words[cases[i].which], nout = (size_t)out_words[cases[i].which];
        run(&cases[i], in, out);
        bad = fwrite(in, 4, nin, f) != nin || fwrite(out, 4, nout, f) != nout;
    }
    if (f && fclose(f))
        bad = 1;
    if (bad)
        perror(path);
    return bad;
}

int main(int argc, char **argv)
{
    struct CMUnitTest tests[CASES];
    CudaInfo info;
    cuda_info(&info);
    if (argc > 1 && !strcmp(argv[1], "device")) {
        if (!info.devices)
            return fprintf(stderr, "no CUDA device: %s\n", info.why), 3;
        return printf("%d x %s, compute capability %d.%d, cuBLAS %d\n", info.devices, info.name, info.major, info.minor, info.cublas), 0;
    }
    if (cuda_backend_create(&cuda, 0) < 0)
        return fprintf(stderr, "%s\n", err_message()), 1;
    int rc;
    if (argc > 2 && !strcmp(argv[1], "write")) {
        rc = write_twins(argv[2]);
    } else {
        const char *file = getenv("WRAPPER_TWINS");
        twins = file ? fopen(file, "rb") : NULL;
        if (file && !twins)
            return perror(file), 1;
        for (int i = 0; i < CASES; i++)
            tests[i] = (struct CMUnitTest){cases[i].name, test_wrapper, NULL, NULL, (void *)(uintptr_t)&cases[i]};
        rc = cmocka_run_group_tests(tests, NULL, NULL);
        if (twins)
            fclose(twins);
    }
    backend_destroy(cuda);
    return rc;
}
