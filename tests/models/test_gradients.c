/* Losses and gradients of LoRA and full fine-tuning against torch, with and without recomputation. */
#include "models/fixture.h"
#include "models/lora.h"

enum { BATCH = 2 };

/* alpha_bar of the scaled-linear schedule as diffusers has it, in fp32. */
static float alpha_bar(int t)
{
    float a = sqrtf(0.00085f), b = sqrtf(0.012f), step = (b - a) / 999, bar = 1;
    for (int i = 0; i <= t; i++) {
        float s = i < 500 ? a + step * (float)i : b - step * (float)(999 - i);
        bar *= 1 - s * s;
    }
    return bar;
}

typedef struct {
    Fix f;
    Lora *lora;
    IoSafetensors *unet, *text, *batches, *ref;
    OpRef x, t, ctx, ids, target, weight, seed, loss;
    OpRef grads[1024];
} Train;

static void build(Train *r, const char *const *train, int text)
{
    UnetConfig uc;
    ClipConfig tc;
    Graph *g = r->f.g;
    NnCtx *nn = &r->f.nn;
    read_unet_config(&uc, "tests/vectors/sd15-tiny/unet/config.json");
    read_text_config(&tc, "tests/vectors/sd15-tiny/text_encoder/config.json");
    nn->train = train;
    nn->ntrain = train ? 1 : 0;
    r->x = graph_input(g, "x", DTYPE_F32, SHAPE(BATCH, 8, 12, 4));
    r->target = graph_input(g, "target", DTYPE_F32, SHAPE(BATCH, 8, 12, 4));
    r->t = graph_input(g, "t", DTYPE_F32, SHAPE(BATCH));
    r->weight = graph_input(g, "weight", DTYPE_F32, SHAPE(BATCH));
    r->seed = graph_input(g, "seed", DTYPE_F32, SHAPE(BATCH));
    if (text) {
        ClipText out;
        r->ids = graph_input(g, "ids", DTYPE_I32, SHAPE(BATCH, 77));
        size_t mark = nn_push(nn, "text_encoder");
        OK(clip_text_forward(nn, &tc, r->ids, OP_NONE, 1, &out));
        nn_pop(nn, mark);
        r->ctx = out.last;
    } else {
        r->ids = OP_NONE;
        r->ctx = graph_input(g, "ctx", DTYPE_F32, SHAPE(BATCH, 77, 32));
    }
    size_t mark = nn_push(nn, "unet");
    OpRef y = unet_forward(nn, &uc, r->x, r->t, r->ctx);
    nn_pop(nn, mark);
    r->loss = op_mse(nn->b, y, nn_to_compute(nn, r->target), r->weight);
    OK(graph_status(g));
    fix_keep(&r->f, r->loss);
}

static void set_inputs(Train *r)
{
    Ref lat = ref_get(r->batches, "batch0.latents", 1), noise = ref_get(r->batches, "batch0.noise", 1);
    Ref t = ref_get(r->batches, "batch0.timesteps", 0);
    float one[BATCH] = {1, 1}, seed[BATCH] = {1.0f / BATCH, 1.0f / BATCH};
    int64_t per = lat.count / BATCH;
    for (int64_t i = 0; i < lat.count; i++) {
        float bar = alpha_bar((int)t.v[i / per]);
        lat.v[i] = sqrtf(bar) * lat.v[i] + sqrtf(1 - bar) * noise.v[i];
    }
    fix_write(&r->f, r->x, &lat);
    fix_write(&r->f, r->target, &noise);
    fix_write(&r->f, r->t, &t);
    OK(exec_write_f32(r->f.ex, r->weight, one, BATCH));
    OK(exec_write_f32(r->f.ex, r->seed, seed, BATCH));
    if (r->ids >= 0) {
        Ref ids = ref_get(r->batches, "te_input_ids", 0);
        int32_t v[BATCH * 77];
        for (int i = 0; i < BATCH * 77; i++)
            v[i] = (int32_t)ids.v[i];
        OK(exec_write(r->f.ex, r->ids, v, sizeof v));
        free(ids.v);
    } else {
        Ref ctx = ref_get(r->batches, "batch0.encoder_hidden_states", 0);
        fix_write(&r->f, r->ctx, &ctx);
        free(ctx.v);
    }
    free(lat.v);
    free(noise.v);
    free(t.v);
}

/* The adapter with the values that the reference started from. */
static void make_lora(Train *r, const char *const *targets, int ntargets)
{
    Pipeline *p;
    NnModules mods;
    LoraSpec spec = {.rank = 4, .alpha = 8, .targets = targets, .ntargets = ntargets, .seed = 1};
    OK(pipeline_open(&p, "tests/vectors/sd15-tiny", NULL));
    OK(pipeline_modules(p, &mods));
    OK(lora_create(&r->lora, &spec, &mods));
    nn_modules_deinit(&mods);
    pipeline_close(p);
    int tensors = 0;
    for (int i = 0; i < lora_count(r->lora); i++) {
        LoraPart *part = lora_at(r->lora, i);
        char name[400];
        for (int k = 0; k < 2; k++) {
            snprintf(name, sizeof name, "init.%s.lora_%c.weight", part->path, k ? 'B' : 'A');
            Ref v = ref_get(r->ref, name, 0);
            assert_true(shape_equal(&v.shape, &part->shape[k ? NN_UP : NN_DOWN]));
            memcpy(part->f[k ? NN_UP : NN_DOWN], v.v, (size_t)v.count * sizeof(float));
            free(v.v);
            tensors++;
        }
    }
    int want = 0;
    for (int i = 0; i < io_safetensors_count(r->ref); i++)
        want += !strncmp(io_safetensors_name(r->ref, i), "init.", 5);
    assert_int_equal(tensors, want);
}

static void train_open(Train *r, const char *ref, const char *const *targets, int ntargets, const char *const *train, int text,
                       int recompute, Dtype dtype)
{
    char path[256];
    const NnLora *view[1];
    memset(r, 0, sizeof *r);
    snprintf(path, sizeof path, "tests/vectors/training/%s.safetensors", ref);
    OK(io_safetensors_open(&r->ref, path));
    OK(io_safetensors_open(&r->batches, "tests/vectors/training/batches.safetensors"));
    fix_open(&r->f, dtype);
    if (targets) {
        make_lora(r, targets, ntargets);
        view[0] = lora_nn(r->lora, 0, 1);
        r->f.nn.lora = view;
        r->f.nn.nlora = 1;
    }
    build(r, train, text);
    assert_true(r->f.nn.ntrained <= 1024);
    OK(graph_backward(r->f.g, r->loss, r->seed, r->f.nn.trained, r->f.nn.ntrained, r->grads, recompute));
    for (int i = 0; i < r->f.nn.ntrained; i++)
        fix_keep(&r->f, r->grads[i]);
    r->unet = fix_load(&r->f, "unet", "tests/vectors/sd15-tiny/unet", NULL);
    if (text)
        r->text = fix_load(&r->f, "text_encoder", "tests/vectors/sd15-tiny/text_encoder", clip_names);
    if (targets)
        OK(lora_add_params(r->lora, 0, r->f.ps));
    OK(nn_params_set_trainable(r->f.ps, r->f.g, r->f.nn.trained, r->f.nn.ntrained));
    fix_plan(&r->f);
    set_inputs(r);
    OK(exec_run(r->f.ex));
}

static void train_close(Train *r)
{
    fix_close(&r->f);
    lora_destroy(r->lora);
    io_safetensors_close(r->unet);
    io_safetensors_close(r->text);
    io_safetensors_close(r->batches);
    io_safetensors_close(r->ref);
}

static void check_loss(Train *r, double limit)
{
    float loss[BATCH];
    Ref want = ref_get(r->ref, "losses", 0);
    OK(exec_read_f32(r->f.ex, r->loss, loss, BATCH));
    float mean = (loss[0] + loss[1]) / 2;
    check_error("loss", max_error(&mean, want.v, 1), limit);
    free(want.v);
}

/* |error| <= 1e-4 of the tensor's largest gradient + 1e-7 (tests/vectors: README of the references). */
static void check_grad(const char *name, const float *got, const float *want, int64_t n)
{
    double top = 0, e = 0;
    for (int64_t i = 0; i < n; i++) {
        double d = fabs((double)got[i] - (double)want[i]);
        e = !(d <= e) ? d : e;
        top = fmax(top, fabs((double)want[i]));
    }
    if (!(e <= 1e-4 * top + 1e-7)) {
        print_error("%s: error %.3g, largest %.3g\n", name, e, top);
        fail();
    }
}

/* "grad.NAME", every fifth element "grad_every5.NAME", and "grad_norm.NAME" where present. */
static void check_one(Train *r, const char *param, const float *v, int64_t n)
{
    char name[400];
    snprintf(name, sizeof name, "grad.%s", param);
    if (io_safetensors_find(r->ref, name) >= 0) {
        Ref want = ref_get(r->ref, name, 0);
        assert_int_equal(want.count, n);
        check_grad(name, v, want.v, n);
        free(want.v);
    } else {
        snprintf(name, sizeof name, "grad_every5.%s", param);
        Ref want = ref_get(r->ref, name, 0);
        float *some = malloc((size_t)want.count * sizeof *some);
        assert_int_equal(want.count, (n + 4) / 5);
        for (int64_t i = 0; i < want.count; i++)
            some[i] = v[5 * i];
        check_grad(name, some, want.v, want.count);
        free(some);
        free(want.v);
    }
    snprintf(name, sizeof name, "grad_norm.%s", param);
    if (io_safetensors_find(r->ref, name) < 0)
        return;
    Ref want = ref_get(r->ref, name, 0);
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += (double)v[i] * (double)v[i];
    if (!(fabs(sqrt(sum) - (double)want.v[0]) <= 1e-4 * (double)want.v[0] + 1e-6)) {
        print_error("%s: %.9g, expected %.9g\n", name, sqrt(sum), (double)want.v[0]);
        fail();
    }
    free(want.v);
}

static float *read_grad(Train *r, int i, const char **name, int64_t *n)
{
    const GraphTensor *t = graph_tensor(r->f.g, r->f.nn.trained[i]);
    *name = t->name;
    *n = shape_count(&t->meta.shape);
    assert_true(r->grads[i] >= 0);
    return fix_read(&r->f, r->grads[i], *n);
}

static void check_all(Train *r, const char *prefix)
{
    for (int i = 0; i < r->f.nn.ntrained; i++) {
        const char *name;
        int64_t n;
        float *v = read_grad(r, i, &name, &n);
        assert_memory_equal(name, prefix, strlen(prefix));
        check_one(r, name + strlen(prefix), v, n);
        free(v);
    }
}

static void check_equal(Train *a, Train *b)
{
    assert_int_equal(a->f.nn.ntrained, b->f.nn.ntrained);
    for (int i = 0; i < a->f.nn.ntrained; i++) {
        const char *na, *nb;
        int64_t n, m;
        float *va = read_grad(a, i, &na, &n), *vb = read_grad(b, i, &nb, &m);
        assert_string_equal(na, nb);
        if (memcmp(va, vb, (size_t)n * sizeof *va)) {
            print_error("%s: recomputation changes the gradient\n", na);
            fail();
        }
        free(va);
        free(vb);
    }
}

static const char *const attn[] = {"unet.*to_q|unet.*to_k|unet.*to_v|unet.*to_out.0"};
static const char *const attn_te[] = {"unet.*to_q|unet.*to_k|unet.*to_v|unet.*to_out.0", "text_encoder.*q_proj",
                                      "text_encoder.*v_proj"};
#define SIDE(x)                                                                                             \
    x "*to_q|" x "*to_k|" x "*to_v|" x "*to_out.0|" x "*ff.net.0.proj|" x "*ff.net.2|" x "*proj_in|" x     \
      "*proj_out|" x "*conv1|" x "*conv2"
static const char *const ffconv[] = {SIDE("unet.down_blocks.0."), SIDE("unet.mid_block."), SIDE("unet.up_blocks.1.")};

static void check_lora(const char *ref, const char *const *targets, int n, int text)
{
    Train r, again;
    train_open(&r, ref, targets, n, NULL, text, 0, DTYPE_F32);
    check_loss(&r, 1e-5);
    check_all(&r, "lora.0.");
    train_open(&again, ref, targets, n, NULL, text, 1, DTYPE_F32);
    check_equal(&r, &again);
    assert_true(plan_arena_bytes(again.f.plan) < plan_arena_bytes(r.f.plan));
    train_close(&again);
    train_close(&r);
}

static void test_models_gradients__lora_attention(void **state)
{
    (void)state;
    check_lora("lora_attn", attn, 1, 0);
}

static void test_models_gradients__lora_ff_conv(void **state)
{
    (void)state;
    check_lora("lora_ffconv", ffconv, 3, 0);
}

static void test_models_gradients__lora_with_text_encoder(void **state)
{
    (void)state;
    check_lora("lora_attn_te", attn_te, 3, 1);
}

static void test_models_gradients__full_unet(void **state)
{
    (void)state;
    static const char *const all[] = {"unet.*"};
    Train r, again;
    train_open(&r, "full_unet", NULL, 0, all, 0, 0, DTYPE_F32);
    check_loss(&r, 1e-5);
    assert_int_equal(r.f.nn.ntrained, io_safetensors_count(r.unet));
    check_all(&r, "unet.");
    train_open(&again, "full_unet", NULL, 0, all, 0, 1, DTYPE_F32);
    check_equal(&r, &again);
    train_close(&again);
    train_close(&r);
}

/* Trained parameters stay F32 in a BF16 graph, and so do their gradients. */
static void check_bf16(const char *ref, const char *const *targets, const char *const *train)
{
    Train r, f32;
    train_open(&r, ref, targets, targets ? 1 : 0, train, 0, 0, DTYPE_BF16);
    train_open(&f32, ref, targets, targets ? 1 : 0, train, 0, 0, DTYPE_F32);
    check_loss(&r, 1e-2);
    double e = 0, all = 0;
    for (int i = 0; i < r.f.nn.ntrained; i++) {
        const char *name;
        int64_t n;
        assert_int_equal(graph_meta(r.f.g, r.f.nn.trained[i])->dtype, DTYPE_F32);
        assert_int_equal(graph_meta(r.f.g, r.grads[i])->dtype, DTYPE_F32);
        float *v = read_grad(&r, i, &name, &n), *w = read_grad(&f32, i, &name, &n);
        for (int64_t k = 0; k < n; k++) {
            e += (double)(v[k] - w[k]) * (double)(v[k] - w[k]);
            all += (double)w[k] * (double)w[k];
        }
        free(v);
        free(w);
    }
    check_error("bf16 gradients (rms)", sqrt(e / all), 5e-2);
    train_close(&r);
    train_close(&f32);
}

static void test_models_gradients__bf16(void **state)
{
    (void)state;
    static const char *const all[] = {"unet.*"};
    check_bf16("lora_attn", attn, NULL);
    check_bf16("full_unet", NULL, all);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_models_gradients__lora_attention),
        cmocka_unit_test(test_models_gradients__lora_ff_conv),
        cmocka_unit_test(test_models_gradients__lora_with_text_encoder),
        cmocka_unit_test(test_models_gradients__full_unet),
        cmocka_unit_test(test_models_gradients__bf16),
    };
    return fix_run(tests, sizeof tests / sizeof *tests);
}
