/* Adapters in the graph against peft and LyCORIS (tests/peers/make_adapters.py), in double; dropout; fresh adapters. */
#include "models/fixture.h"
#include "base/rng.h"
#include "models/lora_ops.h"

#include <dirent.h>

#include "nn/adapter.h"

#define VECTORS "tests/vectors/adapters"

typedef struct {
    IoSafetensors *file;
    NnAdapterKind kind;
    float factor;
    int stride;        /* 0: linear */
    NnLoraPart part;
    Fix f;
    OpRef x, y, dy, dx, wrt[NN_FACTORS + 1], grad[NN_FACTORS + 1];
    int factors[NN_FACTORS], n;
} Case;

static Shape shape_of(IoSafetensors *f, const char *name)
{
    IoTensor t;
    Meta m;
    OK(io_safetensors_get(f, name, &t));
    OK(io_tensor_meta(&t, &m));
    return m.shape;
}

static void find_factors(Case *c)
{
    static const char *const kinds[] = {"lora", "loha", "lokr"};
    char name[64];
    const char *kind = io_safetensors_meta(c->file, "kind");
    for (int k = 0; k < 3; k++)
        if (!strcmp(kind, kinds[k]))
            c->kind = (NnAdapterKind)k;
    c->factor = strtof(io_safetensors_meta(c->file, "factor"), NULL);
    c->stride = atoi(io_safetensors_meta(c->file, "stride"));
    c->part = (NnLoraPart){.path = "m", .kind = c->kind, .factor = c->factor};
    for (int k = 0; k < NN_FACTORS; k++) {
        snprintf(name, sizeof name, "f.%s", nn_factor_leaf(c->kind, (NnFactor)k));
        if (io_safetensors_find(c->file, name) < 0)
            continue;
        Shape s = shape_of(c->file, name);
        c->part.shape[k] = k == NN_MAGNITUDE ? SHAPE(shape_count(&s)) : s;
        c->factors[c->n++] = k;
    }
}

/* Values of a tensor of the file as the graph has them: images channels last. */
static double *values(Case *c, const char *name, int image, int64_t *n)
{
    IoTensor t;
    OK(io_safetensors_get(c->file, name, &t));
    Shape s = shape_of(c->file, name);
    *n = shape_count(&s);
    float *v = malloc((size_t)*n * sizeof *v);
    double *d = malloc((size_t)*n * sizeof *d);
    if (image && c->stride)
        nn_nhwc_from_nchw(v, t.data, s.dim[0], s.dim[1], s.dim[2], s.dim[3]);
    else
        memcpy(v, t.data, (size_t)*n * sizeof *v);
    for (int64_t i = 0; i < *n; i++)
        d[i] = (double)v[i];
    free(v);
    return d;
}

static void bind(Case *c, const char *tensor, const char *param, Shape shape)
{
    int64_t n;
    NnParam *p;
    double *v = values(c, tensor, 0, &n);
    OK(nn_params_add(c->f.ps, param, DTYPE_F64, shape, &p));
    memcpy(p->data, v, (size_t)n * sizeof *v);
    free(v);
}

static void build(Case *c)
{
    char name[96], leaf[64];
    NnLora lora = {.id = 0, .part = &c->part, .count = 1, .trainable = 1};
    const NnLora *list[] = {&lora};
    Shape w = shape_of(c->file, "w"), x = shape_of(c->file, "x"), y = shape_of(c->file, "dy");
    fix_open(&c->f, DTYPE_F64);
    c->f.nn.lora = list;
    c->f.nn.nlora = 1;
    Graph *g = c->f.g;
    c->x = graph_input(g, "x", DTYPE_F64, c->stride ? SHAPE(x.dim[0], x.dim[2], x.dim[3], x.dim[1]) : x);
    c->dy = graph_input(g, "dy", DTYPE_F64, c->stride ? SHAPE(y.dim[0], y.dim[2], y.dim[3], y.dim[1]) : y);
    c->y = c->stride ? nn_conv(&c->f.nn, "m", c->x, w.dim[0], (int)w.dim[2], c->stride, NN_SAME, OP_NONE)
                     : nn_linear(&c->f.nn, "m", c->x, w.dim[0], 1, OP_NONE);
    OK(graph_status(g));
    for (int i = 0; i < c->n; i++) {
        snprintf(name, sizeof name, "lora.0.m.%s", nn_factor_leaf(c->kind, (NnFactor)c->factors[i]));
        c->wrt[i] = graph_find(g, name);
        assert_true(c->wrt[i] >= 0);
        snprintf(leaf, sizeof leaf, "f.%s", nn_factor_leaf(c->kind, (NnFactor)c->factors[i]));
        bind(c, leaf, name, c->part.shape[c->factors[i]]);
    }
    assert_int_equal(c->f.nn.ntrained, c->n);
    c->wrt[c->n] = c->x;
    OK(graph_backward(g, c->y, c->dy, c->wrt, c->n + 1, c->grad, 0));
    graph_output(g, c->y, "y");
    for (int i = 0; i <= c->n; i++)
        graph_output(g, c->grad[i], NULL);
    NnParam *scale;
    bind(c, "w", "m.weight", w);
    bind(c, "b", "m.bias", SHAPE(w.dim[0]));
    OK(nn_params_add(c->f.ps, "lora.0.scale", DTYPE_F64, SHAPE(1), &scale));
    *(double *)scale->data = 1;
    fix_plan(&c->f);
}

static void write_input(Case *c, OpRef t, const char *name)
{
    int64_t n;
    double *v = values(c, name, 1, &n);
    OK(exec_write(c->f.ex, t, v, (size_t)n * sizeof *v));
    free(v);
}

static void compare(Case *c, const char *path, OpRef t, const char *name, int image)
{
    int64_t n;
    if (io_safetensors_find(c->file, name) < 0)
        return;
    double *want = values(c, name, image, &n), *got = malloc((size_t)n * sizeof *got), top = 0, error = 0;
    OK(exec_read(c->f.ex, t, got, (size_t)n * sizeof *got));
    for (int64_t i = 0; i < n; i++) {
        top = fmax(top, fabs(want[i]));
        error = fmax(error, fabs(want[i] - got[i]));
    }
    if (!(error <= 2e-6 * top))
        fail_msg("%s: %s differs by %g of %g", path, name, error, top);
    free(want);
    free(got);
}

static void check_file(const char *path)
{
    char name[64];
    Case c = {0};
    OK(io_safetensors_open(&c.file, path));
    find_factors(&c);
    build(&c);
    write_input(&c, c.x, "x");
    write_input(&c, c.dy, "dy");
    OK(exec_run(c.f.ex));
    compare(&c, path, c.y, "y", 1);
    for (int i = 0; i < c.n; i++) {
        snprintf(name, sizeof name, "g.%s", nn_factor_leaf(c.kind, (NnFactor)c.factors[i]));
        compare(&c, path, c.grad[i], name, 0);
    }
    if (!(strstr(path, "lycoris") && c.part.shape[NN_MAGNITUDE].ndim)) /* LyCORIS differentiates the norm too */
        compare(&c, path, c.grad[c.n], "dx", 1);
    fix_close(&c.f);
    io_safetensors_close(c.file);
}

static void test_models_adapter__peft_and_lycoris(void **state)
{
    (void)state;
    char path[512];
    int files = 0;
    DIR *d = opendir(VECTORS);
    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d));) {
        if (!strstr(e->d_name, ".safetensors"))
            continue;
        snprintf(path, sizeof path, VECTORS "/%s", e->d_name);
        check_file(path);
        files++;
    }
    closedir(d);
    assert_int_equal(files, 27);
}

/* Which values stay is a function of (seed, position, key, index) alone: the same in any batch. */
static void test_models_adapter__dropout_draws(void **state)
{
    (void)state;
    enum { N = 3, L = 5, C = 40 };
    static const int64_t position[N] = {7, 1000000007, -7};
    float x[N * L * C], y[N * L * C];
    for (int what = DROP_ELEMENT; what <= DROP_ITEM; what++) {
        Fix f;
        int zeros = 0;
        fix_open(&f, DTYPE_F32);
        OpRef in = graph_input(f.g, "x", DTYPE_F32, SHAPE(N, L, C)), at = graph_input(f.g, "position", DTYPE_I64, SHAPE(N));
        OpRef out = op_dropout(f.nn.b, in, at, 0.3f, (Drop)what, 11, 12);
        fix_keep(&f, out);
        fix_plan(&f);
        for (int i = 0; i < N * L * C; i++)
            x[i] = 1 + (float)i;
        OK(exec_write(f.ex, in, x, sizeof x));
        OK(exec_write(f.ex, at, position, sizeof position));
        OK(exec_run(f.ex));
        OK(exec_read(f.ex, out, y, sizeof y));
        for (int i = 0; i < N * L * C; i++) {
            int item = i / (L * C), draw = what == DROP_ELEMENT ? i % (L * C) : what == DROP_CHANNEL ? i % C : 0;
            int drop = rng_uniform(rng_key(11, RNG_DROPOUT, (uint64_t)position[item], 12), (uint64_t)draw) < 0.3f;
            float keep = what == DROP_ITEM || position[item] < 0 ? 1.0f : 1.0f / (1.0f - 0.3f);
            drop &= position[item] >= 0;
            assert_float_equal((double)y[i], drop ? 0 : (double)(x[i] * keep), 0);
            zeros += drop;
        }
        if (what == DROP_ELEMENT)
            assert_in_range(zeros, 90, 150); /* of 400 */
        fix_close(&f);
    }
}

static const NnModule sites[] = {{(char *)"unet.a.lin", {2, {12, 8, 1, 1}}}, {(char *)"unet.b.conv", {4, {12, 8, 3, 3}}},
                                 {(char *)"unet.b.norm", {1, {12, 1, 1, 1}}}};
static const NnModules site_list = {(NnModule *)(uintptr_t)sites, 3, 0};
#define FILE_OUT "build/test_models_adapter.safetensors"

/* Every kind: fresh ones change nothing, rules apply, files of both namings bring the same change back. */
static void test_models_adapter__create_save_load(void **state)
{
    (void)state;
    static const char *const all[] = {"*"}, *const not_conv[] = {"*.conv"};
    static const LoraRule rules[] = {{"a.*", 2, 0}, {"*.lin", 0, 3}};
    for (int kind = NN_ADAPTER_LORA; kind <= NN_ADAPTER_LOKR; kind++)
        for (int dora = 0; dora < 2; dora++) {
            Lora *a, *b;
            double norm;
            float d[12 * 72], e[12 * 72];
            LoraSpec spec = {.kind = (NnAdapterKind)kind, .rank = 1, .alpha = 4, .dora = dora, .decompose_both = 1, .lokr_factor = 4,
                             .targets = all, .ntargets = 1, .rule = rules, .nrule = 2, .seed = 3};
            OK(lora_create(&a, &spec, &site_list));
            assert_int_equal(lora_count(a), 2); /* no norm */
            assert_int_equal(lora_at(a, 0)->rank, 2);
            assert_float_equal((double)lora_at(a, 0)->alpha, kind == NN_ADAPTER_LOKR && lora_at(a, 0)->f[NN_W2] ? 2 : 3, 0);
            for (int i = 0; i < 2; i++) {
                LoraPart *p = lora_at(a, i);
                OK(lora_norm(p, &norm));
                assert_float_equal(norm, 0, 0);
                for (int k = 0; k < NN_FACTORS; k++)
                    for (int64_t j = 0; p->f[k] && j < shape_count(&p->shape[k]); j++)
                        p->f[k][j] += 0.01f * (float)(j % 7 + k);
            }
            for (int form = LORA_KOHYA; form <= LORA_PEFT; form++) {
                OK(lora_save(a, FILE_OUT, (LoraFormat)form, DTYPE_F32, NULL, 0));
                OK(lora_load(&b, FILE_OUT, &site_list));
                for (int i = 0; i < 2; i++) {
                    const LoraPart *p = lora_at(a, i), *q = lora_at(b, i);
                    assert_int_equal(p->kind, q->kind);
                    assert_int_equal(p->f[NN_MAGNITUDE] != NULL, q->f[NN_MAGNITUDE] != NULL);
                    if (form == LORA_PEFT && kind != NN_ADAPTER_LORA) /* no alpha in such files */
                        continue;
                    OK(lora_delta(p, d));
                    OK(lora_delta(q, e));
                    assert_memory_equal(d, e, (size_t)shape_count(&p->weight) * sizeof(float));
                }
                lora_destroy(b);
            }
            int scaled;
            OK(lora_limit_norm(a, 0.25f, &scaled));
            for (int i = 0; i < 2; i++) {
                OK(lora_norm(lora_at(a, i), &norm));
                assert_true(norm <= 0.25 * (1 + 1e-5));
            }
            lora_destroy(a);
        }
    Lora *a;
    LoraSpec spec = {.kind = NN_ADAPTER_LORA, .rank = 1, .targets = all, .ntargets = 1, .exclude = not_conv, .nexclude = 1};
    OK(lora_create(&a, &spec, &site_list));
    assert_int_equal(lora_count(a), 1);
    lora_destroy(a);
    static const LoraRule none[] = {{"*.attn", 2, 0}};
    spec.rule = none;
    spec.nrule = 1;
    FAILS(lora_create(&a, &spec, &site_list), ERR_NOTFOUND, "lora.rules: '*.attn' matches none");
    remove(FILE_OUT);
}

/* Without a model: modules from the file; combined exactly; resized to the full rank and back to the same change. */
static void test_models_adapter__combine_and_resize(void **state)
{
    (void)state;
    static const char *const all[] = {"*"};
    Lora *a[2], *sum, *small;
    NnModules mods = {0};
    float d[2][12 * 72], got[12 * 72];
    double error;
    for (int k = 0; k < 2; k++) {
        LoraSpec spec = {.kind = k ? NN_ADAPTER_LOKR : NN_ADAPTER_LORA, .rank = 2, .targets = all, .ntargets = 1, .seed = 3};
        OK(lora_create(&a[k], &spec, &site_list));
        for (int i = 0; i < 2; i++)
            for (int f = 0; f < NN_FACTORS; f++)
                for (int64_t j = 0; lora_at(a[k], i)->f[f] && j < shape_count(&lora_at(a[k], i)->shape[f]); j++)
                    lora_at(a[k], i)->f[f][j] += 0.1f * (float)(j % 5);
    }
    static const float scale[] = {0.5f, -2};
    const LoraKeep keep = {.rank = 0};
    OK(lora_combine(&sum, a, scale, 2));
    OK(lora_resize(&small, sum, &keep, &error));
    assert_true(error < 1e-6);
    for (int i = 0; i < 2; i++) {
        int64_t n = shape_count(&lora_at(a[0], i)->weight);
        OK(lora_delta(lora_at(a[0], i), d[0]));
        OK(lora_delta(lora_at(a[1], i), d[1]));
        for (int pass = 0; pass < 2; pass++) {
            OK(lora_delta(lora_at(pass ? small : sum, i), got));
            for (int64_t j = 0; j < n; j++)
                assert_float_equal((double)got[j], 0.5 * (double)d[0][j] - 2 * (double)d[1][j], 2e-4);
        }
    }
    lora_destroy(small);
    lora_destroy(sum);
    OK(lora_combine(&sum, a, scale, 1)); /* pairs stay pairs */
    assert_int_equal(lora_at(sum, 0)->kind, NN_ADAPTER_LORA);
    const LoraKeep one = {.rank = 1};
    OK(lora_resize(&small, sum, &one, &error));
    assert_int_equal(lora_at(small, 0)->rank, 1);
    assert_true(error > 0 && error < 1);
    OK(lora_save(small, FILE_OUT, LORA_KOHYA, DTYPE_F32, NULL, 0));
    lora_destroy(sum);
    OK(lora_file_modules(&mods, FILE_OUT));
    OK(lora_load(&sum, FILE_OUT, &mods));
    assert_string_equal(lora_at(sum, 0)->path, "unet.a_lin");
    assert_int_equal(lora_at(sum, 1)->weight.dim[3], 3);
    FAILS(lora_save(sum, FILE_OUT, LORA_PEFT, DTYPE_F32, NULL, 0), ERR_UNSUPPORTED, "PEFT's names need the model");
    lora_destroy(sum);
    lora_destroy(small);
    lora_destroy(a[0]);
    lora_destroy(a[1]);
    nn_modules_deinit(&mods);
    remove(FILE_OUT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_models_adapter__peft_and_lycoris),
        cmocka_unit_test(test_models_adapter__dropout_draws),
        cmocka_unit_test(test_models_adapter__create_save_load),
        cmocka_unit_test(test_models_adapter__combine_and_resize),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
