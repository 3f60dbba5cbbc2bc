/* Training against the reference runs (PyTorch, diffusers, peft): gradients, losses, gradient norms, learning rates and final
 * weights of ten AdamW steps. Limits: gradients 1e-4 of the tensor's largest value + 1e-7, first loss 1e-5, later losses and norms
 * 1e-4, final weights 1e-4 absolute (ten steps of 1e-3 move a weight by up to 1e-2). */
#include "train/golden.h"

#define PREFIXES "'*down_blocks.0.*%s|*mid_block.*%s|*up_blocks.1.*%s'"
#define ATTN "lora.targets=['attn*.to_q', 'attn*.to_k', 'attn*.to_v', 'attn*.to_out.0']"

static void close_to(const char *what, int64_t at, double a, double b, double rel)
{
    if (!(fabs(a - b) <= rel * fabs(b) + 1e-30)) {
        print_error("%s %lld: %.9g, expected %.9g\n", what, (long long)at, a, b);
        fail();
    }
}

/* "lora.0.unet.x" -> "unet.x", "unet.x" -> "x" */
static const char *file_name(const TrainSlot *s)
{
    return strncmp(s->name, "lora.0.", 7) ? s->name + 5 : s->name + 7;
}

static void compare(const char *what, const float *a, const Ref *b, int stride, double rel, double abs)
{
    double top = 0, e = 0;
    for (int64_t i = 0; i < b->count; i++) {
        double d = fabs((double)a[i * stride] - (double)b->v[i]);
        e = !(d <= e) ? d : e;
        top = fmax(top, fabs((double)b->v[i]));
    }
    if (!(e <= rel * top + abs)) {
        print_error("%s: error %.3g, largest value %.3g\n", what, e, top);
        fail();
    }
}

/* Compares every tensor PREFIX.NAME of the file with the slot's part of v. Returns how many there were. */
static int compare_all(const Golden *g, IoSafetensors *ref, const char *prefix, const float *v, int stride, double rel, double abs)
{
    int seen = 0;
    char name[256];
    for (int i = 0; i < g->state.count; i++) {
        const TrainSlot *s = &g->state.slot[i];
        snprintf(name, sizeof name, "%s.%s", prefix, file_name(s));
        if (io_safetensors_find(ref, name) < 0)
            continue;
        Ref r = ref_get(ref, name, 0);
        assert_int_equal(r.count, (s->count + stride - 1) / stride);
        compare(name, v + s->offset, &r, stride, rel, abs);
        free(r.v);
        seen++;
    }
    return seen;
}

static void run_steps(Golden *g, IoSafetensors *ref, int steps)
{
    Ref losses = ref_get(ref, "losses", 0);
    for (int s = 0; s < steps; s++) {
        OK(train_step_run(&g->step));
        close_to("loss", s, (double)g->state.loss[s], (double)losses.v[s], s ? 1e-4 : 1e-5);
    }
    free(losses.v);
}

static void check_lora(const char *name, const char *const *overrides, SamplerPredict predict, double prior)
{
    Golden g;
    IoSafetensors *ref;
    char path[128];
    golden_open(&g, overrides, predict, prior);
    snprintf(path, sizeof path, GOLDEN "%s.safetensors", name);
    OK(io_safetensors_open(&ref, path));
    Ref norms = ref_get(ref, "grad_norms", 0), lrs = ref_get(ref, "lrs", 0), losses = ref_get(ref, "losses", 0);
    for (int s = 0; s < 10; s++) {
        close_to("learning rate", s, (double)train_conf_lr(&g.c, s), (double)lrs.v[s], 1e-6);
        OK(train_step_run(&g.step));
        close_to("loss", s, (double)g.state.loss[s], (double)losses.v[s], s ? 1e-4 : 1e-5);
        close_to("gradient norm", s, g.step.norm, (double)norms.v[s], 1e-4);
        if (s == 0) {
            int n = compare_all(&g, ref, "grad", g.step.grad, 1, 1e-4, 1e-7);
            assert_int_equal(n, g.state.count);
        }
    }
    assert_true(compare_all(&g, ref, "final", g.state.param, 1, 0, 1e-4) > 0);
    OK(train_step_run(&g.step));
    close_to("loss", 10, (double)g.state.loss[10], (double)losses.v[10], 1e-4);
    free(norms.v);
    free(lrs.v);
    free(losses.v);
    io_safetensors_close(ref);
    golden_close(&g);
}

static const char *const attn[] = {ATTN, NULL};

static void test_train_golden__lora_attn(void **state)
{
    (void)state;
    check_lora("lora_attn", attn, SAMPLER_PREDICT_EPSILON, 0);
}

static void test_train_golden__lora_attn_micro_batches(void **state)
{
    (void)state;
    const char *const o[] = {ATTN, "micro_batch=1", NULL};
    check_lora("lora_attn", o, SAMPLER_PREDICT_EPSILON, 0);
}

static void test_train_golden__lora_ffconv(void **state)
{
    (void)state;
    static const char *const part[] = {"to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out", "conv1", "conv2"};
    char targets[2048] = "lora.targets=[", one[160];
    for (int i = 0; i < 10; i++) {
        snprintf(one, sizeof one, "%s" PREFIXES, i ? ", " : "", part[i], part[i], part[i]);
        strcat(targets, one);
    }
    strcat(targets, "]");
    const char *const o[] = {targets, NULL};
    check_lora("lora_ffconv", o, SAMPLER_PREDICT_EPSILON, 0);
}

static void test_train_golden__min_snr(void **state)
{
    (void)state;
    const char *const o[] = {ATTN, "loss.min_snr=5", NULL};
    check_lora("lora_minsnr", o, SAMPLER_PREDICT_EPSILON, 0);
}

static void test_train_golden__v_prediction(void **state)
{
    (void)state;
    check_lora("lora_v", attn, SAMPLER_PREDICT_V, 0);
}

static void test_train_golden__v_prediction_min_snr(void **state)
{
    (void)state;
    const char *const o[] = {ATTN, "loss.min_snr=5", NULL};
    check_lora("lora_v_minsnr", o, SAMPLER_PREDICT_V, 0);
}

static void test_train_golden__prior_preservation(void **state)
{
    (void)state;
    const char *const o[] = {ATTN, "batch=4", "micro_batch=4", NULL};
    check_lora("lora_prior", o, SAMPLER_PREDICT_EPSILON, 0.75);
}

static void test_train_golden__clip_and_cosine(void **state)
{
    (void)state;
    const char *const o[] = {ATTN, "optimizer.clip=0.01", "optimizer.schedule=cosine", "optimizer.warmup=3", "steps=10", NULL};
    check_lora("lora_clip_cosine", o, SAMPLER_PREDICT_EPSILON, 0);
}

static void test_train_golden__full_unet(void **state)
{
    (void)state;
    Golden g;
    IoSafetensors *ref;
    const char *const o[] = {"task=full", "optimizer.lr=1e-4", NULL};
    char name[256];
    golden_open(&g, o, SAMPLER_PREDICT_EPSILON, 0);
    OK(io_safetensors_open(&ref, GOLDEN "full_unet.safetensors"));
    run_steps(&g, ref, 1);
    int n = compare_all(&g, ref, "grad", g.step.grad, 1, 1e-4, 1e-7);
    n += compare_all(&g, ref, "grad_every5", g.step.grad, 5, 1e-4, 1e-7);
    assert_int_equal(n, g.state.count);
    for (int i = 0; i < g.state.count; i++) {
        const TrainSlot *s = &g.state.slot[i];
        snprintf(name, sizeof name, "grad_norm.%s", file_name(s));
        Ref r = ref_get(ref, name, 0);
        double norm = sqrt(cpu_optim_sumsq(g.step.grad + s->offset, s->count));
        if (!(fabs(norm - (double)r.v[0]) <= 1e-4 * (double)r.v[0] + 1e-7))
            close_to(name, 0, norm, (double)r.v[0], 1e-4);
        free(r.v);
    }
    Ref losses = ref_get(ref, "losses", 0);
    for (int s = 1; s < 5; s++) {
        OK(train_step_run(&g.step));
        close_to("loss", s, (double)g.state.loss[s], (double)losses.v[s], 1e-4);
    }
    assert_int_equal(compare_all(&g, ref, "final", g.state.param, 1, 0, 1e-4), 5);
    g.state.step = 6; /* the last loss of the reference is that of batch 0 */
    OK(train_step_run(&g.step));
    close_to("loss", 5, (double)g.state.loss[6], (double)losses.v[5], 1e-4);
    free(losses.v);
    io_safetensors_close(ref);
    golden_close(&g);
}

static void test_train_golden__bf16_follows(void **state)
{
    (void)state;
    Golden g;
    IoSafetensors *ref;
    const char *const o[] = {ATTN, "dtype=bf16", NULL};
    golden_open(&g, o, SAMPLER_PREDICT_EPSILON, 0);
    OK(io_safetensors_open(&ref, GOLDEN "lora_attn.safetensors"));
    Ref losses = ref_get(ref, "losses", 0), norms = ref_get(ref, "grad_norms", 0);
    for (int s = 0; s < 6; s++) {
        OK(train_step_run(&g.step));
        close_to("bf16 loss", s, (double)g.state.loss[s], (double)losses.v[s], 2e-2);
        close_to("bf16 gradient norm", s, g.step.norm, (double)norms.v[s], 5e-2);
    }
    free(losses.v);
    free(norms.v);
    io_safetensors_close(ref);
    golden_close(&g);
}

/* Recomputing activations runs the same operations on the same numbers. */
static void test_train_golden__checkpointing_changes_no_bit(void **state)
{
    (void)state;
    static const char *const base[2][3] = {{ATTN, NULL}, {"task=full", NULL}};
    for (int k = 0; k < 2; k++) {
        Golden a, b;
        const char *const o[] = {base[k][0], "gradient_checkpointing=true", NULL};
        golden_open(&a, base[k], SAMPLER_PREDICT_EPSILON, 0);
        golden_open(&b, o, SAMPLER_PREDICT_EPSILON, 0);
        for (int s = 0; s < 2; s++) {
            OK(train_step_run(&a.step));
            OK(train_step_run(&b.step));
        }
        assert_memory_equal(a.step.grad, b.step.grad, (size_t)a.state.n * sizeof(float));
        assert_memory_equal(a.state.param, b.state.param, (size_t)a.state.n * sizeof(float));
        assert_true(plan_arena_bytes(b.task.now.plan) < plan_arena_bytes(a.task.now.plan));
        golden_close(&a);
        golden_close(&b);
    }
}

/* Gradients without a finite sum: the step is skipped and counted, weights and moments stay. */
static void test_train_golden__not_finite_is_skipped(void **state)
{
    (void)state;
    Golden g;
    golden_open(&g, attn, SAMPLER_PREDICT_EPSILON, 0);
    OK(train_step_run(&g.step));
    size_t bytes = (size_t)g.state.n * sizeof(float);
    float *before = malloc(bytes);
    memcpy(before, g.state.param, bytes);
    for (int i = 0; i < 1000; i++)
        g.alpha_bar[i] = NAN;
    OK(train_step_run(&g.step));
    assert_memory_equal(before, g.state.param, bytes);
    assert_int_equal(g.state.skipped, 1);
    assert_int_equal(g.state.step, 2);
    assert_true(isnan(g.state.loss[1]));
    for (int i = 0; i < 8; i++)
        OK(train_step_run(&g.step));
    FAILS(train_step_run(&g.step), ERR_NUMERIC, "10 steps in a row");
    free(before);
    golden_close(&g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_train_golden__lora_attn),
        cmocka_unit_test(test_train_golden__lora_attn_micro_batches),
        cmocka_unit_test(test_train_golden__lora_ffconv),
        cmocka_unit_test(test_train_golden__min_snr),
        cmocka_unit_test(test_train_golden__v_prediction),
        cmocka_unit_test(test_train_golden__v_prediction_min_snr),
        cmocka_unit_test(test_train_golden__prior_preservation),
        cmocka_unit_test(test_train_golden__clip_and_cosine),
        cmocka_unit_test(test_train_golden__full_unet),
        cmocka_unit_test(test_train_golden__bf16_follows),
        cmocka_unit_test(test_train_golden__checkpointing_changes_no_bit),
        cmocka_unit_test(test_train_golden__not_finite_is_skipped),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
