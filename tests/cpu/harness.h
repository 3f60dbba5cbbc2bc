/* One case table per op family, run five ways: float and bf16 against the double loops on every instruction set, the
 * double gradient against central differences, and bit for bit on 1..4 threads, for one item alone, and in place.
 *
 * A case names a forward op; its gradient rule supplies the backward ops, run eagerly with a random seed at output 0. */
#ifndef TESTS_CPU_HARNESS_H
#define TESTS_CPU_HARNESS_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cpu/cpu.h"
#include "cpu/half.h"

/* What an input is: T or P with a gradient, N or C the same without, F float in every graph, I ids, J 64-bit numbers. */
typedef struct {
    char kind;
    Shape shape;
    double lo, hi; /* values (ids: 0..hi-1) */
} CaseIn;

enum { CASE_MAX_IN = 7, CASE_MAX_RESULTS = CASE_MAX_IN + OP_MAX_OUT };

typedef struct {
    const char *name;
    OpKind kind;
    OpAttr attr;
    char meta_kind; /* attr.meta.dtype becomes T ('T') or P ('P'); 0: as written */
    int nin;
    CaseIn in[CASE_MAX_IN];
    double tol;     /* float: error over |value| + rms; 0: 1e-5 */
    double tol_bf;  /* bf16; 0: 2e-2 */
    int items;      /* 1: every batched input and output has items in dim 0, and items are independent */
    int skip_fd;    /* 1: too big or not smooth */
    int cpu_only;   /* 1: a dtype that no other backend has */
} Case;

#define DIMS(...) {sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t), {__VA_ARGS__}}
#define IN(k, ...) {k, DIMS(__VA_ARGS__), -1, 1}
#define IN_RANGE(k, lo, hi, ...) {k, DIMS(__VA_ARGS__), lo, hi}

enum { EAGER_MAX = 64 };

typedef struct {
    OpBuild base;
    Backend *be;
    Dtype t;
    int n;
    Meta meta[EAGER_MAX];
    void *data[EAGER_MAX];
} Eager;

static inline uint64_t mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

static inline double uniform(uint64_t key, int64_t i, double lo, double hi)
{
    return lo + (hi - lo) * (double)(mix(mix(key) + (uint64_t)i) >> 11) * 0x1p-53;
}

static inline double read_value(const void *p, Dtype t, int64_t i)
{
    switch (t) {
    case DTYPE_F64: return ((const double *)p)[i];
    case DTYPE_F32: return (double)((const float *)p)[i];
    case DTYPE_BF16: return (double)bf16_to_float(((const uint16_t *)p)[i]);
    case DTYPE_F16: return (double)f16_to_float(((const uint16_t *)p)[i]);
    case DTYPE_I32: return ((const int32_t *)p)[i];
    case DTYPE_I64: return (double)((const int64_t *)p)[i];
    default: return NAN;
    }
}

static inline void write_value(void *p, Dtype t, int64_t i, double v)
{
    switch (t) {
    case DTYPE_F64: ((double *)p)[i] = v; break;
    case DTYPE_F32: ((float *)p)[i] = (float)v; break;
    case DTYPE_BF16: ((uint16_t *)p)[i] = bf16_from_float((float)v); break;
    case DTYPE_I32: ((int32_t *)p)[i] = (int32_t)v; break;
    case DTYPE_I64: ((int64_t *)p)[i] = (int64_t)v; break;
    default: fail(); break;
    }
}

/* 64 spare bytes on both sides hold a pattern, so that a stray write shows without a sanitizer. */
enum { GUARD = 64 };

static inline size_t meta_bytes(const Meta *m)
{
    return (size_t)shape_count(&m->shape) * dtype_size(m->dtype);
}

static inline OpRef eager_new(Eager *e, const Meta *m)
{
    size_t n = meta_bytes(m), padded = (n + 63) / 64 * 64;
    assert_true(e->n < EAGER_MAX);
    char *p = aligned_alloc(64, padded + 2 * GUARD);
    assert_non_null(p);
    memset(p, 0xa5, padded + 2 * GUARD);
    e->meta[e->n] = *m;
    e->data[e->n] = p + GUARD;
    return e->n++;
}

static inline void eager_check_guards(const Eager *e)
{
    for (int i = 0; i < e->n; i++) {
        const unsigned char *p = e->data[i];
        size_t n = meta_bytes(&e->meta[i]);
        for (int k = 1; k <= GUARD; k++)
            assert_int_equal(p[-k], 0xa5);
        for (size_t k = n; k < (n + 63) / 64 * 64 + GUARD; k++)
            assert_int_equal(p[k], 0xa5);
    }
}

static inline OpView eager_view(const Eager *e, OpRef r)
{
    return (OpView){.data = e->data[r], .dtype = e->meta[r].dtype, .shape = e->meta[r].shape};
}

/* Runs one op. On a device with memory of its own, every buffer goes there with its guards and comes back; buffers that are the
 * same stay the same. */
static inline void eager_call(Backend *be, const OpCall *c, size_t scratch)
{
    OpView view[OP_MAX_IN + OP_MAX_OUT];
    void *host[OP_MAX_IN + OP_MAX_OUT + 1], *device[OP_MAX_IN + OP_MAX_OUT + 1];
    size_t bytes[OP_MAX_IN + OP_MAX_OUT + 1];
    int n = c->nin + c->nout, rc;
    OpCall d = *c;
    for (int i = 0; i < n; i++)
        view[i] = i < c->nin ? c->in[i] : c->out[i - c->nin];
    for (int i = 0; be->acquire && i < n + (scratch != 0); i++) {
        host[i] = (char *)(i < n ? view[i].data : c->scratch) - GUARD;
        Meta m = {view[i].dtype, view[i].shape};
        bytes[i] = ((i < n ? meta_bytes(&m) : scratch) + 63) / 64 * 64 + 2 * GUARD;
        device[i] = NULL;
        for (int j = 0; j < i; j++)
            if (host[j] == host[i])
                device[i] = device[j];
        if (!device[i]) {
            assert_int_equal(be->alloc(be, &device[i], bytes[i]), 0);
            assert_int_equal(be->upload(be, device[i], host[i], bytes[i]), 0);
        }
        if (i < n)
            view[i].data = (char *)device[i] + GUARD;
        else
            d.scratch = (char *)device[i] + GUARD;
    }
    d.in = view;
    d.out = view + c->nin;
    rc = be->op[c->kind].run(be, &d);
    if (rc < 0)
        fail_msg("%s: %s", op_name(c->kind), err_message());
    for (int i = 0; be->acquire && i < n + (scratch != 0); i++) {
        int shared = 0;
        for (int j = 0; j < i; j++)
            shared |= host[j] == host[i];
        if (shared)
            continue;
        assert_int_equal(be->download(be, host[i], device[i], bytes[i]), 0);
        be->free(be, device[i], bytes[i]);
    }
}

static inline void eager_run(Eager *e, OpKind kind, const OpAttr *attr, const OpRef *in, int nin, const OpRef *out, int nout)
{
    OpView vin[OP_MAX_IN], vout[OP_MAX_OUT];
    Meta min[OP_MAX_IN], mout[OP_MAX_OUT];
    for (int i = 0; i < nin; i++) {
        vin[i] = eager_view(e, in[i]);
        min[i] = e->meta[in[i]];
    }
    for (int i = 0; i < nout; i++) {
        vout[i] = eager_view(e, out[i]);
        mout[i] = e->meta[out[i]];
    }
    const BackendOp *op = &e->be->op[kind];
    size_t bytes = op->scratch ? op->scratch(e->be, attr, min, nin, mout, nout) : 0;
    Meta work = {DTYPE_U8, SHAPE((int64_t)bytes)};
    OpRef scratch = bytes ? eager_new(e, &work) : OP_NONE;
    OpCall c = {.kind = kind, .attr = attr, .in = vin, .out = vout, .nin = nin, .nout = nout,
                .scratch = bytes ? e->data[scratch] : NULL};
    assert_non_null(op->run);
    eager_call(e->be, &c, bytes);
}

static inline int eager_emit(OpBuild *b, OpKind kind, const OpAttr *attr, const OpRef *in, int nin, OpRef *out, int nout)
{
    Eager *e = (Eager *)b;
    Meta min[OP_MAX_IN], mout[OP_MAX_OUT];
    int n = 0;
    for (int i = 0; i < nin; i++)
        min[i] = e->meta[in[i]];
    if (op_rule(kind)->infer(attr, min, nin, mout, &n) < 0)
        fail_msg("%s", err_message());
    for (int i = 0; i < n && i < nout; i++)
        out[i] = eager_new(e, &mout[i]);
    eager_run(e, kind, attr, in, nin, out, n < nout ? n : nout);
    return 0;
}

static inline const Meta *eager_meta(const OpBuild *b, OpRef t)
{
    return &((const Eager *)b)->meta[t];
}

static inline OpRef eager_fail(OpBuild *b, int code)
{
    (void)b;
    fail_msg("error %d: %s", code, err_message());
    return OP_NONE;
}

static inline void eager_init(Eager *e, Backend *be, Dtype t)
{
    memset(e, 0, sizeof *e);
    e->base.emit = eager_emit;
    e->base.meta = eager_meta;
    e->base.fail = eager_fail;
    e->be = be;
    e->t = t;
}

static inline void eager_deinit(Eager *e)
{
    for (int i = 0; i < e->n; i++)
        free((char *)e->data[i] - GUARD);
    e->n = 0;
}

/* Results of one case: outputs of the op, then gradients of the inputs that have one. */
typedef struct {
    Eager e;
    OpRef in[CASE_MAX_IN], out[OP_MAX_OUT], din[CASE_MAX_IN], seed;
    int nout;
    OpAttr attr;
} Run;

static inline Dtype in_dtype(char kind, Dtype t)
{
    return kind == 'I' ? DTYPE_I32 : kind == 'J' ? DTYPE_I64 : kind == 'T' || kind == 'N' ? t : kind != 'F' && t == DTYPE_F64 ? DTYPE_F64 : DTYPE_F32;
}

/* Values that the type `via` holds exactly, so that every run of a comparison starts from the same numbers. */
static inline double in_value(const Case *c, int k, Dtype via, int64_t i)
{
    const CaseIn *in = &c->in[k];
    double v = uniform((uint64_t)k + 17, i, in->kind == 'I' ? 0 : in->lo, in->hi);
    if (in->kind == 'I' || in->kind == 'J')
        return floor(v);
    Dtype t = in_dtype(in->kind, via);
    return t == DTYPE_BF16 ? (double)bf16_to_float(bf16_from_float((float)v)) : t == DTYPE_F64 ? v : (double)(float)v;
}

/* first, count: items of a batched case (count 0: all of them). */
static inline void run_inputs(Run *r, const Case *c, Backend *be, Dtype t, Dtype via, int64_t first, int64_t count)
{
    memset(r, 0, sizeof *r);
    eager_init(&r->e, be, t);
    r->attr = c->attr;
    if (c->meta_kind)
        r->attr.meta.dtype = c->meta_kind == 'T' || t == DTYPE_F64 ? t : DTYPE_F32;
    for (int k = 0; k < c->nin; k++) {
        const CaseIn *in = &c->in[k];
        Meta m = {in_dtype(in->kind, t), shape_make(in->shape.ndim, in->shape.dim)};
        int64_t skip = 0;
        if (count && m.shape.dim[0] == c->in[0].shape.dim[0]) {
            skip = first * (shape_count(&m.shape) / m.shape.dim[0]);
            m.shape.dim[0] = count;
        }
        r->in[k] = eager_new(&r->e, &m);
        for (int64_t i = 0; i < shape_count(&m.shape); i++)
            write_value(r->e.data[r->in[k]], m.dtype, i, in_value(c, k, via, skip + i));
    }
}

static inline void run_forward(Run *r, const Case *c)
{
    Meta min[CASE_MAX_IN], mout[OP_MAX_OUT];
    for (int k = 0; k < c->nin; k++)
        min[k] = r->e.meta[r->in[k]];
    if (op_rule(c->kind)->infer(&r->attr, min, c->nin, mout, &r->nout) < 0)
        fail_msg("%s: %s", c->name, err_message());
    for (int i = 0; i < r->nout; i++)
        r->out[i] = eager_new(&r->e, &mout[i]);
    eager_run(&r->e, c->kind, &r->attr, r->in, c->nin, r->out, r->nout);
}

static inline void run_backward(Run *r, const Case *c, Dtype via, int64_t skip_items)
{
    uint8_t need[CASE_MAX_IN] = {0};
    OpRef dout[OP_MAX_OUT] = {OP_NONE, OP_NONE, OP_NONE, OP_NONE};
    int any = 0;
    for (int k = 0; k < c->nin; k++) {
        need[k] = c->in[k].kind == 'T' || c->in[k].kind == 'P';
        any |= need[k];
        r->din[k] = OP_NONE;
    }
    if (!op_rule(c->kind)->grad || !any)
        return;
    const Meta *m = &r->e.meta[r->out[0]];
    dout[0] = r->seed = eager_new(&r->e, m);
    int64_t skip = skip_items * (shape_count(&m->shape) / m->shape.dim[0]);
    for (int64_t i = 0; i < shape_count(&m->shape); i++) {
        double v = uniform(99, skip + i, -1, 1);
        v = via == DTYPE_BF16 ? (double)bf16_to_float(bf16_from_float((float)v)) : (double)(float)v;
        write_value(r->e.data[r->seed], m->dtype, i, v);
    }
    OpGrad g = {.attr = &r->attr, .in = r->in, .out = r->out, .dout = dout, .nin = c->nin, .nout = r->nout, .need = need,
                .din = r->din};
    if (op_rule(c->kind)->grad(&r->e.base, &g) < 0)
        fail_msg("%s: %s", c->name, err_message());
}

static inline void run_case(Run *r, const Case *c, Backend *be, Dtype t, Dtype via, int64_t first, int64_t count)
{
    run_inputs(r, c, be, t, via, first, count);
    run_forward(r, c);
    run_backward(r, c, via, first);
    eager_check_guards(&r->e);
}

static inline int run_results(const Run *r, const Case *c, OpRef *list)
{
    int n = 0;
    for (int i = 0; i < r->nout; i++)
        list[n++] = r->out[i];
    for (int k = 0; k < c->nin; k++)
        if (r->din[k] != OP_NONE && r->seed)
            list[n++] = r->din[k];
    return n;
}

static inline void compare_values(const Case *c, const Run *got, const Run *want, double tol, const char *what)
{
    OpRef a[CASE_MAX_RESULTS], b[CASE_MAX_RESULTS];
    int n = run_results(got, c, a);
    assert_int_equal(n, run_results(want, c, b));
    for (int k = 0; k < n; k++) {
        const Meta *ma = &got->e.meta[a[k]], *mb = &want->e.meta[b[k]];
        int64_t count = shape_count(&ma->shape);
        assert_int_equal(count, shape_count(&mb->shape));
        double square = 0;
        for (int64_t i = 0; i < count; i++)
            square += pow(read_value(want->e.data[b[k]], mb->dtype, i), 2);
        double rms = sqrt(square / (double)(count ? count : 1));
        for (int64_t i = 0; i < count; i++) {
            double x = read_value(got->e.data[a[k]], ma->dtype, i), y = read_value(want->e.data[b[k]], mb->dtype, i);
            if (!(fabs(x - y) <= tol * (fabs(y) + rms) + 2e-8))
                fail_msg("%s (%s): result %d at %lld is %.9g, expected %.9g", c->name, what, k, (long long)i, x, y);
        }
    }
}

static inline void compare_bits(const Case *c, const Run *got, const Run *want, const char *what)
{
    OpRef a[CASE_MAX_RESULTS], b[CASE_MAX_RESULTS];
    int n = run_results(got, c, a);
    assert_int_equal(n, run_results(want, c, b));
    for (int k = 0; k < n; k++) {
        size_t bytes = meta_bytes(&got->e.meta[a[k]]);
        assert_int_equal(bytes, meta_bytes(&want->e.meta[b[k]]));
        if (bytes && memcmp(got->e.data[a[k]], want->e.data[b[k]], bytes))
            fail_msg("%s: result %d differs with %s", c->name, k, what);
    }
}

static inline Backend *make_backend(int threads, int isa)
{
    Backend *be = NULL;
    if (cpu_backend_create(&be, threads, isa) < 0)
        fail_msg("%s", err_message());
    return be;
}

static inline void check_reference(const Case *cases, size_t n)
{
    static const char *const names[] = {"base", "avx2", "avx512"};
    Backend *be[3];
    for (int isa = CPU_ISA_BASE; isa <= CPU_ISA_AVX512; isa++)
        be[isa] = make_backend(2, isa);
    for (size_t i = 0; i < n; i++)
        for (Dtype t = DTYPE_F32; t <= DTYPE_BF16; t++) {
            Run got, want;
            char what[32];
            double tol = t == DTYPE_F32 ? (cases[i].tol > 0 ? cases[i].tol : 1e-5)
                                        : (cases[i].tol_bf > 0 ? cases[i].tol_bf : 2e-2);
            run_case(&want, &cases[i], be[0], DTYPE_F64, t, 0, 0);
            for (int isa = CPU_ISA_BASE; isa <= CPU_ISA_AVX512; isa++) {
                run_case(&got, &cases[i], be[isa], t, t, 0, 0);
                snprintf(what, sizeof what, "%s %s", names[isa], dtype_name(t));
                compare_values(&cases[i], &got, &want, tol, what);
                eager_deinit(&got.e);
            }
            eager_deinit(&want.e);
        }
    for (int isa = CPU_ISA_BASE; isa <= CPU_ISA_AVX512; isa++)
        backend_destroy(be[isa]);
}

static inline void check_threads(const Case *cases, size_t n)
{
    for (int isa = CPU_ISA_BASE; isa <= CPU_ISA_AVX512; isa += 2)
        for (size_t i = 0; i < n; i++)
            for (Dtype t = DTYPE_F32; t <= DTYPE_BF16; t++) {
                Run one, many;
                Backend *be = make_backend(1, isa);
                run_case(&one, &cases[i], be, t, t, 0, 0);
                for (int threads = 2; threads <= 4; threads++) {
                    Backend *team = make_backend(threads, isa);
                    char what[32];
                    run_case(&many, &cases[i], team, t, t, 0, 0);
                    snprintf(what, sizeof what, "%d threads, %s", threads, dtype_name(t));
                    compare_bits(&cases[i], &many, &one, what);
                    eager_deinit(&many.e);
                    backend_destroy(team);
                }
                eager_deinit(&one.e);
                backend_destroy(be);
            }
}

/* Item k alone gives the bits it has in the batch, in every result that has items. */
static inline void check_items_on(Backend *be, const Case *cases, size_t n)
{
    for (size_t i = 0; i < n; i++)
        for (Dtype t = DTYPE_F32; t <= DTYPE_BF16 && cases[i].items && !(cases[i].cpu_only && be->acquire); t++) {
            Run all, one;
            OpRef a[CASE_MAX_RESULTS], b[CASE_MAX_RESULTS];
            int64_t items = cases[i].in[0].shape.dim[0];
            run_case(&all, &cases[i], be, t, t, 0, 0);
            int count = run_results(&all, &cases[i], a);
            for (int64_t item = 0; item < items; item++) {
                run_case(&one, &cases[i], be, t, t, item, 1);
                run_results(&one, &cases[i], b);
                for (int k = 0; k < count; k++) {
                    const Meta *m = &all.e.meta[a[k]];
                    size_t bytes = meta_bytes(&one.e.meta[b[k]]);
                    if (m->shape.dim[0] != items || bytes * (size_t)items != meta_bytes(m))
                        continue;
                    if (memcmp((char *)all.e.data[a[k]] + (size_t)item * bytes, one.e.data[b[k]], bytes))
                        fail_msg("%s: result %d of item %lld alone differs (%s)", cases[i].name, k, (long long)item,
                                 dtype_name(t));
                }
                eager_deinit(&one.e);
            }
            eager_deinit(&all.e);
        }
}

static inline void check_items(const Case *cases, size_t n)
{
    Backend *be = make_backend(2, CPU_ISA_AVX512);
    check_items_on(be, cases, n);
    backend_destroy(be);
}

uint8_t op_inplace_mask(OpKind k, const OpAttr *attr);

/* Every input that the rule lets share storage with output 0. */
static inline void check_in_place_on(Backend *be, const Case *cases, size_t n)
{
    for (size_t i = 0; i < n; i++)
        for (Dtype t = DTYPE_F32; t <= DTYPE_BF16; t++)
            for (int k = 0; k < cases[i].nin; k++) {
                Run apart, shared;
                OpRef out[OP_MAX_OUT];
                if (!(op_inplace_mask(cases[i].kind, &cases[i].attr) >> k & 1))
                    continue;
                run_inputs(&apart, &cases[i], be, t, t, 0, 0);
                run_forward(&apart, &cases[i]);
                run_inputs(&shared, &cases[i], be, t, t, 0, 0);
                run_forward(&shared, &cases[i]);
                memcpy(out, shared.out, sizeof out);
                size_t bytes = meta_bytes(&apart.e.meta[apart.out[0]]);
                if (bytes == meta_bytes(&shared.e.meta[shared.in[k]])) {
                    Meta keep = shared.e.meta[shared.in[k]];
                    OpView in[CASE_MAX_IN], view[OP_MAX_OUT];
                    for (int j = 0; j < cases[i].nin; j++)
                        in[j] = eager_view(&shared.e, shared.in[j]);
                    for (int j = 0; j < shared.nout; j++)
                        view[j] = eager_view(&shared.e, out[j]);
                    view[0].data = in[k].data;
                    Meta work = {DTYPE_U8, SHAPE(1 << 22)};
                    OpRef scratch = eager_new(&shared.e, &work);
                    OpCall c = {.kind = cases[i].kind, .attr = &shared.attr, .in = in, .out = view, .nin = cases[i].nin,
                                .nout = shared.nout, .scratch = shared.e.data[scratch]};
                    eager_call(be, &c, 1 << 22);
                    if (memcmp(in[k].data, apart.e.data[apart.out[0]], bytes))
                        fail_msg("%s: differs in place of input %d (%s)", cases[i].name, k, dtype_name(keep.dtype));
                }
                eager_deinit(&apart.e);
                eager_deinit(&shared.e);
            }
}

static inline void check_in_place(const Case *cases, size_t n)
{
    Backend *be = make_backend(3, CPU_ISA_AVX512);
    check_in_place_on(be, cases, n);
    backend_destroy(be);
}

static inline double seeded_sum(const Run *r)
{
    const Meta *m = &r->e.meta[r->out[0]];
    double s = 0;
    for (int64_t i = 0; i < shape_count(&m->shape); i++)
        s += (double)(float)uniform(99, i, -1, 1) * ((const double *)r->e.data[r->out[0]])[i];
    return s;
}

/* Five-point differences at up to 24 elements of every input that has a gradient. */
static inline void check_gradient(const Case *cases, size_t n)
{
    const double h = 0x1p-11;
    Backend *be = make_backend(1, CPU_ISA_BASE);
    for (size_t i = 0; i < n; i++) {
        const Case *c = &cases[i];
        Run r;
        if (c->skip_fd)
            continue;
        run_case(&r, c, be, DTYPE_F64, DTYPE_F64, 0, 0);
        for (int k = 0; k < c->nin; k++) {
            if (!r.seed || r.din[k] == OP_NONE)
                continue;
            int64_t count = shape_count(&r.e.meta[r.in[k]].shape), step = count / 24 + 1;
            const double *d = r.e.data[r.din[k]];
            double top = 0;
            for (int64_t j = 0; j < count; j++)
                top = fmax(top, fabs(d[j]));
            for (int64_t j = 0; j < count; j += step) {
                double *x = (double *)r.e.data[r.in[k]] + j, old = *x, f[4];
                static const int at[4] = {-2, -1, 1, 2};
                for (int p = 0; p < 4; p++) {
                    *x = old + at[p] * h;
                    int mark = r.e.n;
                    eager_run(&r.e, c->kind, &r.attr, r.in, c->nin, r.out, r.nout);
                    for (; r.e.n > mark; r.e.n--)
                        free((char *)r.e.data[r.e.n - 1] - GUARD);
                    f[p] = seeded_sum(&r);
                }
                *x = old;
                double slope = (f[0] - 8 * f[1] + 8 * f[2] - f[3]) / (12 * h);
                if (!(fabs(slope - d[j]) <= 1e-7 * (top + fabs(slope)) + 1e-12))
                    fail_msg("%s: gradient of input %d at %lld is %.12g, differences say %.12g", c->name, k, (long long)j,
                             d[j], slope);
            }
        }
        eager_deinit(&r.e);
    }
    backend_destroy(be);
}

/* The tests of a family from its table. */
#define CASE_TESTS(prefix, cases)                                                                        \
    static void prefix##__matches_double(void **s)                                                       \
    {                                                                                                    \
        (void)s;                                                                                         \
        check_reference(cases, sizeof(cases) / sizeof *(cases));                                         \
    }                                                                                                    \
    static void prefix##__same_bits_on_any_threads(void **s)                                             \
    {                                                                                                    \
        (void)s;                                                                                         \
        check_threads(cases, sizeof(cases) / sizeof *(cases));                                           \
    }                                                                                                    \
    static void prefix##__same_bits_for_one_item(void **s)                                               \
    {                                                                                                    \
        (void)s;                                                                                         \
        check_items(cases, sizeof(cases) / sizeof *(cases));                                             \
    }                                                                                                    \
    static void prefix##__same_bits_in_place(void **s)                                                   \
    {                                                                                                    \
        (void)s;                                                                                         \
        check_in_place(cases, sizeof(cases) / sizeof *(cases));                                          \
    }                                                                                                    \
    static void prefix##__gradient_by_differences(void **s)                                              \
    {                                                                                                    \
        (void)s;                                                                                         \
        check_gradient(cases, sizeof(cases) / sizeof *(cases));                                          \
    }

#define CASE_TEST_LIST(prefix)                                                                           \
    cmocka_unit_test(prefix##__matches_double), cmocka_unit_test(prefix##__same_bits_on_any_threads),    \
        cmocka_unit_test(prefix##__same_bits_for_one_item), cmocka_unit_test(prefix##__same_bits_in_place), \
        cmocka_unit_test(prefix##__gradient_by_differences)

#endif
