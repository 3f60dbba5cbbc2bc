/* Shared by the tests of models: a graph with its parameters, run on the CPU, with FIX_CUDA on the CUDA backend, and comparison with
 * reference tensors. */
#ifndef TESTS_MODELS_FIXTURE_H
#define TESTS_MODELS_FIXTURE_H

#include <assert.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#ifdef FIX_CUDA
#include "cuda/cuda.h"
#else
#include "cpu/cpu.h"
#endif
#include "graph/exec.h"
#include "io/safetensors.h"
#include "models/pipeline.h"
#include "nn/nn.h"
#include "nn/param.h"

#define OK(e)                                                                                      \
    do {                                                                                           \
        int rc_ok_ = (e);                                                                          \
        if (rc_ok_ < 0) {                                                                          \
            print_error("%s:%d: %s: %s (%d)\n", __FILE__, __LINE__, #e, err_message(), rc_ok_);    \
            fail();                                                                                \
        }                                                                                          \
    } while (0)
/* The call fails with `code` and its message contains `part`. */
#define FAILS(e, code, part)                                                                       \
    do {                                                                                           \
        int rc_fails_ = (e);                                                                       \
        if (rc_fails_ != (code) || !strstr(err_message(), part)) {                                 \
            print_error("%s:%d: %s gave %d '%s'\n", __FILE__, __LINE__, #e, rc_fails_,             \
                        rc_fails_ < 0 ? err_message() : "");                                       \
            fail();                                                                                \
        }                                                                                          \
    } while (0)

typedef struct {
    char path[NN_PATH_MAX];
    OpRef t;
} FixTap;

typedef struct {
    Graph *g;
    NnCtx nn;
    Backend *be;
    Plan *plan;
    Exec *ex;
    NnParams *ps;
    FixTap *tap;
    int ntap;
} Fix;

static inline void fix_tap(void *user, const char *path, OpRef t)
{
    Fix *f = user;
    f->tap = realloc(f->tap, (size_t)(f->ntap + 1) * sizeof *f->tap);
    snprintf(f->tap[f->ntap].path, sizeof f->tap->path, "%s", path);
    f->tap[f->ntap++].t = t;
}

static inline void fix_open_threads(Fix *f, Dtype dtype, int threads)
{
    memset(f, 0, sizeof *f);
    OK(graph_create(&f->g, dtype));
    nn_init(&f->nn, f->g);
    OK(nn_params_create(&f->ps));
#ifdef FIX_CUDA
    (void)threads;
    OK(cuda_backend_create(&f->be, 0));
#else
    OK(cpu_backend_create(&f->be, threads, CPU_ISA_AVX512));
#endif
}

static inline void fix_open(Fix *f, Dtype dtype)
{
    fix_open_threads(f, dtype, 1);
}

/* Marks the tensor as a result; its name is made from its number. */
static inline void fix_keep(Fix *f, OpRef t)
{
    char name[32];
    assert_true(t >= 0);
    snprintf(name, sizeof name, "kept.%d", (int)t);
    graph_output(f->g, t, name);
}

/* Plans and binds; call after the parameters are loaded. */
static inline void fix_plan(Fix *f)
{
    OK(graph_status(f->g));
    OK(graph_optimize(f->g, f->be));
    OK(plan_create(&f->plan, f->g, f->be));
    OK(exec_create(&f->ex, f->plan));
    OK(nn_params_bind(f->ps, f->g, f->ex));
}

static inline void fix_close(Fix *f)
{
    exec_destroy(f->ex);
    plan_destroy(f->plan);
    nn_deinit(&f->nn);
    graph_destroy(f->g);
    nn_params_destroy(f->ps);
    backend_destroy(f->be);
    free(f->tap);
    memset(f, 0, sizeof *f);
}

typedef struct {
    float *v;
    Shape shape;
    int64_t count;
} Ref;

/* A reference tensor as F32 (integers converted); 4-D ones from NCHW to NHWC when `image`. Free v. */
static inline Ref ref_get(IoSafetensors *s, const char *name, int image)
{
    IoTensor t;
    Meta m;
    Ref r;
    OK(io_safetensors_get(s, name, &t));
    OK(io_tensor_meta(&t, &m));
    r.shape = m.shape;
    r.count = shape_count(&m.shape);
    r.v = malloc((size_t)r.count * sizeof(float) + 4);
    if (m.dtype == DTYPE_I64)
        for (int64_t i = 0; i < r.count; i++)
            r.v[i] = (float)((const int64_t *)t.data)[i];
    else
        OK(dtype_convert(r.v, DTYPE_F32, t.data, t.dtype, r.count));
    if (image && m.shape.ndim == 4) {
        const int64_t *d = m.shape.dim;
        float *w = malloc((size_t)r.count * sizeof(float));
        nn_nhwc_from_nchw(w, r.v, d[0], d[1], d[2], d[3]);
        free(r.v);
        r.v = w;
        r.shape = SHAPE(d[0], d[2], d[3], d[1]);
    }
    return r;
}

static inline void fix_write(Fix *f, OpRef t, const Ref *r)
{
    OK(exec_write_f32(f->ex, t, r->v, r->count));
}

static inline float *fix_read(Fix *f, OpRef t, int64_t count)
{
    float *v = malloc((size_t)count * sizeof(float) + 4);
    OK(exec_read_f32(f->ex, t, v, count));
    return v;
}

/* Largest |a - b| over largest |b|. */
static inline double max_error(const float *a, const float *b, int64_t n)
{
    double e = 0, top = 0;
    for (int64_t i = 0; i < n; i++) {
        double d = fabs((double)a[i] - (double)b[i]);
        e = !(d <= e) ? d : e; /* a NaN sticks */
        top = fmax(top, fabs((double)b[i]));
    }
    return e / (top + 1e-12);
}

static inline double rms_error(const float *a, const float *b, int64_t n)
{
    double e = 0, top = 0;
    for (int64_t i = 0; i < n; i++) {
        e += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
        top += (double)b[i] * (double)b[i];
    }
    return sqrt(e / (top + 1e-30));
}

/* Compares a tensor of the graph with the reference; limit relative to the largest value. The measured noise of fp32 in the
 * references is 1e-6 of it; the rule there (1e-5 of the value + 20 times the noise) makes 3e-5. */
#define REL_F32 2e-5
static inline double fix_error(Fix *f, OpRef t, IoSafetensors *s, const char *name)
{
    Ref r = ref_get(s, name, 1);
    float *v = fix_read(f, t, r.count);
    double e = max_error(v, r.v, r.count);
    free(v);
    free(r.v);
    return e;
}

static inline void check_error(const char *what, double e, double limit)
{
    if (!(e <= limit)) {
        print_error("%s: error %.3g of the largest value, limit %.3g\n", what, e, limit);
        fail();
    }
}

/* Loads one model folder's part into the set. */
static inline IoSafetensors *fix_load(Fix *f, const char *root, const char *dir, NnNameFn names)
{
    static const char *const bases[] = {"diffusion_pytorch_model", "model", NULL};
    IoSafetensors *s;
    OK(io_safetensors_open_model(&s, dir, bases, NULL));
    OK(nn_params_load(f->ps, f->g, root, s, names));
    return s;
}

/* Runs those tests whose names match TEST_ONLY (nn_glob), all where it is not set. */
static inline int fix_run(const struct CMUnitTest *all, size_t n)
{
    const char *only = getenv("TEST_ONLY");
    struct CMUnitTest some[64];
    size_t count = 0;
    assert(n <= sizeof some / sizeof *some);
    for (size_t i = 0; i < n; i++)
        if (!only || nn_glob(only, all[i].name))
            some[count++] = all[i];
    return count ? _cmocka_run_group_tests("tests", some, count, NULL, NULL) : 0;
}

static inline void read_unet_config(UnetConfig *c, const char *path)
{
    ModelJson *j;
    OK(model_json_open(&j, path));
    OK(unet_config(c, j));
    model_json_close(j);
}

static inline void read_text_config(ClipConfig *c, const char *path)
{
    ModelJson *j;
    OK(model_json_open(&j, path));
    OK(clip_text_config(c, j, 0));
    model_json_close(j);
}

#endif
