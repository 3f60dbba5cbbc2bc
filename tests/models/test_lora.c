#include "models/fixture.h"
#include "models/lora.h"

#include "base/hash.h"
#include "io/file.h"

#define TMP "build/test_models_lora.safetensors"

static void get_modules(NnModules *mods)
{
    Pipeline *p;
    OK(pipeline_open(&p, "tests/vectors/sd15-tiny", NULL));
    OK(pipeline_modules(p, mods));
    pipeline_close(p);
}

static Lora *load(const char *name, const NnModules *mods)
{
    char path[256];
    Lora *lo;
    snprintf(path, sizeof path, "tests/vectors/lora/%s.safetensors", name);
    OK(lora_load(&lo, path, mods));
    return lo;
}

static double part_factor(const LoraPart *p)
{
    return (double)p->alpha / p->rank;
}

/* Same modules; down equal; factor * up equal. */
static void check_same(Lora *a, Lora *b)
{
    assert_int_equal(lora_count(a), lora_count(b));
    for (int i = 0; i < lora_count(a); i++) {
        const LoraPart *p = lora_at(a, i), *q = lora_at(b, i);
        assert_string_equal(p->path, q->path);
        assert_true(shape_equal(&p->shape[NN_DOWN], &q->shape[NN_DOWN]) && shape_equal(&p->shape[NN_UP], &q->shape[NN_UP]));
        assert_memory_equal(p->f[NN_DOWN], q->f[NN_DOWN], (size_t)shape_count(&p->shape[NN_DOWN]) * sizeof(float));
        for (int64_t k = 0; k < shape_count(&p->shape[NN_UP]); k++)
            assert_float_equal(part_factor(p) * (double)p->f[NN_UP][k], part_factor(q) * (double)q->f[NN_UP][k], 1e-7);
    }
}

static void test_models_lora__three_formats(void **state)
{
    (void)state;
    static const char *const names[] = {"lora_attn_te", "lora_ffconv"};
    NnModules mods;
    get_modules(&mods);
    for (int i = 0; i < 2; i++) {
        char name[64];
        snprintf(name, sizeof name, "%s.kohya", names[i]);
        Lora *a = load(name, &mods);
        snprintf(name, sizeof name, "%s.diffusers", names[i]);
        Lora *b = load(name, &mods);
        snprintf(name, sizeof name, "%s.diffusers_old", names[i]);
        Lora *c = load(name, &mods);
        assert_float_equal((double)lora_at(a, 0)->alpha, 8, 0);
        assert_int_equal(lora_at(a, 0)->rank, 4);
        assert_float_equal((double)lora_at(b, 0)->alpha, 8, 0);
        assert_float_equal((double)lora_at(c, 0)->alpha, 4, 0);
        check_same(a, b);
        check_same(a, c);
        assert_int_equal(lora_covers(a, "text_encoder"), i == 0);
        assert_int_equal(lora_covers(a, "unet"), 1);
        lora_destroy(a);
        lora_destroy(b);
        lora_destroy(c);
    }
    nn_modules_deinit(&mods);
}

/* ---- in the graph ---- */

typedef struct {
    Fix f;
    OpRef x, t, ctx, out;
    IoSafetensors *weights, *ref;
    float *y;
    int64_t n;
} Net;

static void net_open(Net *r, const NnLora *const *lora, int n)
{
    UnetConfig c;
    memset(r, 0, sizeof *r);
    read_unet_config(&c, "tests/vectors/sd15-tiny/unet/config.json");
    OK(io_safetensors_open(&r->ref, "tests/vectors/unet/sd15.safetensors"));
    fix_open(&r->f, DTYPE_F32);
    r->f.nn.lora = lora;
    r->f.nn.nlora = n;
    r->x = graph_input(r->f.g, "x", DTYPE_F32, SHAPE(2, 8, 12, 4));
    r->t = graph_input(r->f.g, "t", DTYPE_F32, SHAPE(2));
    r->ctx = graph_input(r->f.g, "ctx", DTYPE_F32, SHAPE(2, 77, 32));
    size_t mark = nn_push(&r->f.nn, "unet");
    r->out = unet_forward(&r->f.nn, &c, r->x, r->t, r->ctx);
    nn_pop(&r->f.nn, mark);
    OK(graph_status(r->f.g));
    fix_keep(&r->f, r->out);
    r->weights = fix_load(&r->f, "unet", "tests/vectors/sd15-tiny/unet", NULL);
}

static void net_plan(Net *r)
{
    fix_plan(&r->f);
    Ref x = ref_get(r->ref, "sample", 1), t = ref_get(r->ref, "timestep", 0), c = ref_get(r->ref, "encoder_hidden_states", 0);
    fix_write(&r->f, r->x, &x);
    fix_write(&r->f, r->t, &t);
    fix_write(&r->f, r->ctx, &c);
    free(x.v);
    free(t.v);
    free(c.v);
    r->n = 2 * 8 * 12 * 4;
}

static void net_run(Net *r)
{
    OK(exec_run(r->f.ex));
    free(r->y);
    r->y = fix_read(&r->f, r->out, r->n);
}

static void net_close(Net *r)
{
    free(r->y);
    fix_close(&r->f);
    io_safetensors_close(r->weights);
    io_safetensors_close(r->ref);
}

/* Output of the model with both files merged into the weights. */
static float *merged_output(Lora *a, float sa, Lora *b, float sb)
{
    Net m;
    net_open(&m, NULL, 0);
    OK(lora_merge(a, m.f.ps, sa));
    if (b)
        OK(lora_merge(b, m.f.ps, sb));
    net_plan(&m);
    net_run(&m);
    float *y = m.y;
    m.y = NULL;
    net_close(&m);
    return y;
}

static void test_models_lora__graph_equals_merge(void **state)
{
    (void)state;
    NnModules mods;
    get_modules(&mods);
    Lora *a = load("lora_attn_te.kohya", &mods), *b = load("lora_ffconv.diffusers", &mods);
    const NnLora *view[2] = {lora_nn(a, 0, 0), lora_nn(b, 1, 0)};
    Net r, plain;
    net_open(&r, view, 2);
    OK(lora_add_params(a, 0, r.f.ps));
    OK(lora_add_params(b, 1, r.f.ps));
    net_plan(&r);
    net_open(&plain, NULL, 0);
    net_plan(&plain);
    net_run(&plain);

    static const float scales[][2] = {{0.8f, 0}, {0, 0.8f}, {0.5f, -0.7f}};
    for (int i = 0; i < 3; i++) { /* one graph, one plan: only the scale parameters change */
        OK(lora_set_scale(r.f.ps, 0, scales[i][0]));
        OK(lora_set_scale(r.f.ps, 1, scales[i][1]));
        OK(nn_params_bind(r.f.ps, r.f.g, r.f.ex));
        net_run(&r);
        float *want = merged_output(a, scales[i][0], b, scales[i][1]);
        check_error("graph against merge", max_error(r.y, want, r.n), REL_F32);
        assert_true(max_error(r.y, plain.y, r.n) > 1e-2);
        free(want);
    }
    OK(lora_set_scale(r.f.ps, 0, 0));
    OK(lora_set_scale(r.f.ps, 1, 0));
    OK(nn_params_bind(r.f.ps, r.f.g, r.f.ex));
    net_run(&r);
    check_error("scale 0", max_error(r.y, plain.y, r.n), 1e-6);
    net_close(&plain);
    net_close(&r);
    lora_destroy(a);
    lora_destroy(b);
    nn_modules_deinit(&mods);
}

static void test_models_lora__no_such_adapter(void **state)
{
    (void)state;
    NnParams *ps;
    OK(nn_params_create(&ps));
    FAILS(lora_set_scale(ps, 3, 1), ERR_NOTFOUND, "no adapter number 3");
    nn_params_destroy(ps);
}

/* ---- fresh adapters ---- */

static void test_models_lora__create(void **state)
{
    (void)state;
    static const char *const targets[] = {"unet.*attn*.to_q", "*.conv1"};
    NnModules mods;
    Lora *a, *b;
    LoraSpec spec = {.rank = 4, .alpha = 2, .conv_rank = 3, .targets = targets, .ntargets = 2, .seed = 7};
    get_modules(&mods);
    OK(lora_create(&a, &spec, &mods));
    for (int i = 0; i < lora_count(a); i++) {
        const LoraPart *p = lora_at(a, i);
        int conv = p->shape[NN_DOWN].ndim == 4;
        int64_t fan = shape_count(&p->shape[NN_DOWN]) / p->rank;
        double top = 0, sum = 0;
        assert_int_equal(p->rank, conv ? 3 : 4);
        assert_float_equal((double)p->alpha, conv ? 3 : 2, 0);
        for (int64_t k = 0; k < shape_count(&p->shape[NN_UP]); k++)
            assert_float_equal((double)p->f[NN_UP][k], 0, 0);
        for (int64_t k = 0; k < shape_count(&p->shape[NN_DOWN]); k++) {
            top = fmax(top, fabs((double)p->f[NN_DOWN][k]));
            sum += (double)p->f[NN_DOWN][k] * (double)p->f[NN_DOWN][k];
        }
        /* U(-b, b) with b = 1/sqrt(fan_in) has variance b^2 / 3 */
        assert_true(top <= 1 / sqrt((double)fan) && top > 0.85 / sqrt((double)fan));
        assert_float_equal(sum / (double)shape_count(&p->shape[NN_DOWN]) * 3 * (double)fan, 1, 0.3);
    }
    /* a factor depends on seed and module alone */
    spec.ntargets = 1;
    OK(lora_create(&b, &spec, &mods));
    const LoraPart *q = lora_at(b, 0), *p = lora_find(a, q->path);
    assert_non_null(p);
    assert_memory_equal(p->f[NN_DOWN], q->f[NN_DOWN], (size_t)shape_count(&q->shape[NN_DOWN]) * sizeof(float));
    lora_destroy(b);
    spec.seed = 8;
    OK(lora_create(&b, &spec, &mods));
    assert_true(memcmp(p->f[NN_DOWN], lora_at(b, 0)->f[NN_DOWN], (size_t)shape_count(&p->shape[NN_DOWN]) * sizeof(float)));
    lora_destroy(b);
    static const char *const wrong[] = {"*.to_q", "*.to_z"};
    spec.targets = wrong;
    spec.ntargets = 2;
    FAILS(lora_create(&b, &spec, &mods), ERR_NOTFOUND, "lora.targets: '*.to_z' matches no linear layer");
    spec.rank = 0;
    FAILS(lora_create(&b, &spec, &mods), ERR_RANGE, "rank is 0");
    lora_destroy(a);
    nn_modules_deinit(&mods);
}

/* ---- writing ---- */

/* SHA-256 of everything after the header. */
static void data_hash(char hex[65], const char *path)
{
    char *s;
    size_t n;
    uint8_t h[HASH_SIZE];
    OK(io_file_read(&s, &n, path, 1 << 24));
    uint64_t header = 0;
    for (int i = 7; i >= 0; i--)
        header = header << 8 | (uint8_t)s[i];
    OK(hash_bytes(h, s + 8 + header, n - 8 - header));
    hash_hex(hex, h, HASH_SIZE);
    free(s);
}

static void test_models_lora__kohya_file(void **state)
{
    (void)state;
    static const char source[] = "tests/vectors/lora/lora_ffconv.kohya.safetensors";
    static const IoMeta meta[] = {{"ss_network_dim", "4"}, {"ss_network_module", "networks.lora"}, {"sshs_model_hash", "stale"}};
    NnModules mods;
    char want[65], got[65];
    get_modules(&mods);
    Lora *a = load("lora_ffconv.kohya", &mods), *b;
    OK(lora_save(a, TMP, LORA_KOHYA, DTYPE_F32, meta, 3));
    data_hash(want, source);
    data_hash(got, TMP);
    assert_string_equal(got, want); /* the bytes that the safetensors library wrote, names and alphas included */
    IoSafetensors *s, *o;
    OK(io_safetensors_open(&s, TMP));
    OK(io_safetensors_open(&o, source));
    assert_string_equal(io_safetensors_meta(s, "sshs_model_hash"), want);
    assert_int_equal(strlen(io_safetensors_meta(s, "sshs_legacy_hash")), 8);
    assert_string_equal(io_safetensors_meta(s, "ss_network_dim"), "4");
    assert_int_equal(io_safetensors_count(s), io_safetensors_count(o));
    for (int i = 0; i < io_safetensors_count(s); i++)
        assert_string_equal(io_safetensors_name(s, i), io_safetensors_name(o, i));
    io_safetensors_close(s);
    io_safetensors_close(o);
    OK(lora_load(&b, TMP, &mods));
    check_same(a, b);
    lora_destroy(b);
    lora_destroy(a);
    nn_modules_deinit(&mods);
    remove(TMP);
}

static void test_models_lora__peft_file(void **state)
{
    (void)state;
    NnModules mods;
    get_modules(&mods);
    Lora *a = load("lora_attn_te.kohya", &mods), *b;
    lora_find(a, "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q")->alpha = 2.5f; /* an alpha_pattern */
    OK(lora_save(a, TMP, LORA_PEFT, DTYPE_F32, NULL, 0));
    OK(lora_load(&b, TMP, &mods));
    check_same(a, b);
    assert_float_equal((double)lora_find(b, "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q")->alpha, 2.5, 0);
    lora_destroy(b);
    IoSafetensors *s, *o;
    OK(io_safetensors_open(&s, TMP));
    OK(io_safetensors_open(&o, "tests/vectors/lora/lora_attn_te.diffusers.safetensors"));
    assert_int_equal(io_safetensors_count(s), io_safetensors_count(o));
    for (int i = 0; i < io_safetensors_count(s); i++)
        assert_string_equal(io_safetensors_name(s, i), io_safetensors_name(o, i));
    io_safetensors_close(s);
    io_safetensors_close(o);
    lora_destroy(a);
    nn_modules_deinit(&mods);
    remove(TMP);
}

/* ---- bad files ---- */

typedef struct {
    const char *name;
    int64_t dim[2];
} Entry;

static int write_and_load(const Entry *e, int n, const IoMeta *meta, int nmeta, const NnModules *mods, Lora **lo)
{
    static const float zeros[64 * 64];
    IoTensor t[8];
    for (int i = 0; i < n; i++)
        t[i] = (IoTensor){.name = e[i].name, .dtype = DTYPE_F32, .ndim = e[i].dim[0] ? 2 : 0, .dim = {e[i].dim[0], e[i].dim[1]},
                          .data = zeros};
    OK(io_safetensors_write(TMP, t, n, meta, nmeta));
    return lora_load(lo, TMP, mods);
}

#define Q "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
#define QK "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"

static void test_models_lora__bad_files(void **state)
{
    (void)state;
    NnModules mods;
    Lora *lo;
    get_modules(&mods);
#define LOAD(m, nm, ...) write_and_load((const Entry[]){__VA_ARGS__}, (int)(sizeof((Entry[]){__VA_ARGS__}) / sizeof(Entry)), m, nm, &mods, &lo)
    FAILS(LOAD(NULL, 0, {"x.oft_blocks", {4, 4}}), ERR_UNSUPPORTED, "adapter of kind OFT");
    FAILS(LOAD(NULL, 0, {QK ".a1.weight", {4, 4}}), ERR_UNSUPPORTED, "GLoRA");
    FAILS(LOAD(NULL, 0, {QK ".dora_scale", {64, 1}}), ERR_NOTFOUND, "has an alpha or a magnitude and nothing else");
    FAILS(LOAD(NULL, 0, {QK ".dora_scale", {1, 64}}, {QK ".lora_down.weight", {4, 64}}, {QK ".lora_up.weight", {64, 4}}),
          ERR_UNSUPPORTED, "magnitudes of inputs");
    FAILS(LOAD(NULL, 0, {QK ".dora_scale", {32, 1}}, {QK ".lora_down.weight", {4, 64}}, {QK ".lora_up.weight", {64, 4}}),
          ERR_SHAPE, "one value for each of the 64 outputs");
    FAILS(LOAD(NULL, 0, {QK ".hada_w1_a", {64, 4}}, {QK ".lora_down.weight", {4, 64}}), ERR_FORMAT, "already has a LoHa");
    FAILS(LOAD(NULL, 0, {QK ".hada_w1_a", {64, 4}}, {QK ".hada_w1_b", {4, 64}}), ERR_NOTFOUND, "lacks its hada_w2_a");
    FAILS(LOAD(NULL, 0, {QK ".hada_w1_a", {64, 4}}, {QK ".hada_w1_b", {4, 64}}, {QK ".hada_w2_a", {64, 2}}, {QK ".hada_w2_b", {2, 64}}),
          ERR_SHAPE, "have ranks 4 and 2");
    FAILS(LOAD(NULL, 0, {QK ".lokr_w1", {3, 8}}, {QK ".lokr_w2", {8, 8}}), ERR_SHAPE, "which does not divide");
    FAILS(LOAD(NULL, 0, {QK ".lokr_w1", {8, 8}}, {QK ".lokr_w2", {8, 4}}), ERR_SHAPE, "has shape [8,4], expected [8,8]");
    FAILS(LOAD(NULL, 0, {QK ".diff", {64, 32}}), ERR_SHAPE, "has shape [64,32], expected [64,64]");
    FAILS(LOAD(NULL, 0, {"lora_unet_conv_norm_out.lora_down.weight", {4, 64}}, {"lora_unet_conv_norm_out.lora_up.weight", {64, 4}}),
          ERR_SHAPE, "is a norm");
    FAILS(LOAD(NULL, 0, {"conv_in.weight", {4, 4}}), ERR_FORMAT, "'conv_in.weight' is no part of a LoRA");
    FAILS(LOAD(NULL, 0, {QK "2.lora_down.weight", {4, 64}}), ERR_NOTFOUND, "the model has no such linear layer");
    FAILS(LOAD(NULL, 0, {"text_encoder_2.x.lora_A.weight", {4, 64}}), ERR_NOTFOUND, "text_encoder_2.x");
    FAILS(LOAD(NULL, 0, {QK ".lora_down.weight", {4, 64}}), ERR_NOTFOUND, "lacks its up (lora_B) matrix");
    FAILS(LOAD(NULL, 0, {QK ".lora_up.weight", {64, 4}}), ERR_NOTFOUND, "lacks its down (lora_A) matrix");
    FAILS(LOAD(NULL, 0, {QK ".lora_down.weight", {4, 32}}, {QK ".lora_up.weight", {64, 4}}), ERR_SHAPE,
          "has shape [4,32], expected [4,64]");
    FAILS(LOAD(NULL, 0, {QK ".lora_down.weight", {4, 64}}, {QK ".lora_up.weight", {64, 8}}), ERR_SHAPE,
          "has shape [64,8], expected [64,4]");
    FAILS(LOAD(NULL, 0, {QK ".lora_down.weight", {4, 64}}, {"unet." Q ".lora_A.weight", {4, 64}}), ERR_FORMAT,
          "are for the same module");
    FAILS(LOAD(NULL, 0, {QK ".alpha", {2, 1}}, {QK ".lora_down.weight", {4, 64}}, {QK ".lora_up.weight", {64, 4}}), ERR_SHAPE,
          "has 2 elements, expected one");
    FAILS(LOAD(((IoMeta[]){{"lora_adapter_metadata", "{"}}), 1, {QK ".alpha", {0, 0}}), ERR_FORMAT, "lora_adapter_metadata");
    remove(TMP);
    nn_modules_deinit(&mods);
}

static void test_models_lora__alpha_rules(void **state)
{
    (void)state;
    static const Entry peft[] = {{"unet." Q ".lora_A.weight", {4, 64}}, {"unet." Q ".lora_B.weight", {64, 4}}};
    static const Entry kohya[] = {{QK ".alpha", {0, 0}}, {QK ".lora_down.weight", {4, 64}}, {QK ".lora_up.weight", {64, 4}}};
    static const Entry bare[] = {{Q ".lora_A.default.weight", {4, 64}}, {"base_model.model." Q ".lora_B.weight", {64, 4}}};
    static const Entry processor[] = {
        {"mid_block.attentions.0.transformer_blocks.0.attn1.processor.to_out_lora.down.weight", {4, 64}},
        {"mid_block.attentions.0.transformer_blocks.0.attn1.processor.to_out_lora.up.weight", {64, 4}}};
    static const IoMeta plain[] = {{"lora_adapter_metadata", "{\"unet.lora_alpha\": 6}"}};
    static const IoMeta rs[] = {{"lora_adapter_metadata", "{\"unet.lora_alpha\": 6, \"unet.use_rslora\": true}"}};
    static const IoMeta pattern[] = {
        {"lora_adapter_metadata", "{\"unet.lora_alpha\": 6, \"unet.alpha_pattern\": {\"attn1.to_q\": 3, \"n1.to_q\": 5}}"}};
    static const struct {
        const Entry *e;
        int n;
        const IoMeta *meta;
        float alpha;
    } cases[] = {{peft, 2, NULL, 4}, {peft, 2, plain, 6}, {peft, 2, rs, 12}, {peft, 2, pattern, 3},
                 {kohya, 3, NULL, 4}, /* alpha 0 means the rank */
                 {bare, 2, NULL, 4},  {processor, 2, NULL, 4}};
    NnModules mods;
    Lora *lo;
    get_modules(&mods);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        OK(write_and_load(cases[i].e, cases[i].n, cases[i].meta, cases[i].meta ? 1 : 0, &mods, &lo));
        assert_int_equal(lora_count(lo), 1);
        assert_float_equal((double)lora_at(lo, 0)->alpha, (double)cases[i].alpha, 1e-6);
        if (cases[i].e == processor)
            assert_string_equal(lora_at(lo, 0)->path, "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0");
        lora_destroy(lo);
    }
    remove(TMP);
    nn_modules_deinit(&mods);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_models_lora__three_formats),   cmocka_unit_test(test_models_lora__graph_equals_merge),
        cmocka_unit_test(test_models_lora__no_such_adapter), cmocka_unit_test(test_models_lora__create),
        cmocka_unit_test(test_models_lora__kohya_file),      cmocka_unit_test(test_models_lora__peft_file),
        cmocka_unit_test(test_models_lora__bad_files),       cmocka_unit_test(test_models_lora__alpha_rules),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
