#include "models/fixture.h"

static int32_t *read_ids(IoSafetensors *ref, Shape *shape)
{
    Ref r = ref_get(ref, "input_ids", 0);
    int32_t *ids = malloc((size_t)r.count * sizeof *ids);
    for (int64_t i = 0; i < r.count; i++)
        ids[i] = (int32_t)r.v[i];
    *shape = r.shape;
    free(r.v);
    return ids;
}

static void check_model(const char *model, int skip, Dtype dtype, double limit)
{
    char path[256];
    ClipConfig c;
    ClipText out;
    IoSafetensors *ref;
    Shape s;
    Fix f;
    snprintf(path, sizeof path, "tests/vectors/%s-tiny/text_encoder/config.json", model);
    read_text_config(&c, path);
    snprintf(path, sizeof path, "tests/vectors/text/%s_text_encoder.safetensors", model);
    OK(io_safetensors_open(&ref, path));
    int32_t *ids = read_ids(ref, &s), index[8];
    fix_open(&f, dtype);
    OpRef in = graph_input(f.g, "ids", DTYPE_I32, s), idx = graph_input(f.g, "index", DTYPE_I32, SHAPE(s.dim[0]));
    size_t mark = nn_push(&f.nn, "text_encoder");
    OK(clip_text_forward(&f.nn, &c, in, idx, skip, &out));
    nn_pop(&f.nn, mark);
    for (int i = 0; i <= c.layers; i++)
        fix_keep(&f, out.hidden[i]);
    fix_keep(&f, out.last);
    fix_keep(&f, out.pooled);
    snprintf(path, sizeof path, "tests/vectors/%s-tiny/text_encoder", model);
    IoSafetensors *weights = fix_load(&f, "text_encoder", path, clip_names);
    fix_plan(&f);
    clip_text_pool_index(&c, ids, (int)s.dim[0], (int)s.dim[1], index);
    OK(exec_write(f.ex, in, ids, (size_t)shape_count(&s) * sizeof *ids));
    OK(exec_write(f.ex, idx, index, (size_t)s.dim[0] * sizeof *index));
    OK(exec_run(f.ex));
    for (int i = 0; i <= c.layers; i++) {
        char name[32];
        snprintf(name, sizeof name, "hidden_%d", i);
        check_error(name, fix_error(&f, out.hidden[i], ref, name), limit);
    }
    check_error("last", fix_error(&f, out.last, ref, skip == 2 ? "clip_skip_2" : "last_hidden_state"), limit);
    if (skip == 1)
        check_error("pooled", fix_error(&f, out.pooled, ref, "pooler_output"), limit);
    free(ids);
    fix_close(&f);
    io_safetensors_close(weights);
    io_safetensors_close(ref);
}

static void test_models_clip_text__sd15(void **state)
{
    (void)state;
    check_model("sd15", 1, DTYPE_F32, REL_F32);
}

static void test_models_clip_text__sd21(void **state)
{
    (void)state;
    check_model("sd21", 1, DTYPE_F32, REL_F32);
}

static void test_models_clip_text__skip_2(void **state)
{
    (void)state;
    check_model("sd15", 2, DTYPE_F32, REL_F32);
    check_model("sd21", 2, DTYPE_F32, REL_F32);
}

static void test_models_clip_text__bf16(void **state)
{
    (void)state;
    check_model("sd15", 1, DTYPE_BF16, 2e-2);
}

static void test_models_clip_text__pool_index(void **state)
{
    (void)state;
    int32_t ids[2][5] = {{8, 3, 9, 9, 1}, {8, 3, 4, 2, 2}}, at[2];
    ClipConfig c = {.eos = 2};
    clip_text_pool_index(&c, ids[0], 2, 5, at);
    assert_int_equal(at[0], 2); /* the largest id, first of equals */
    assert_int_equal(at[1], 0);
    c.eos = 4;
    clip_text_pool_index(&c, ids[0], 2, 5, at);
    assert_int_equal(at[0], 0); /* absent: transformers' argmax of zeros */
    assert_int_equal(at[1], 2);
}

static void test_models_clip_text__names(void **state)
{
    (void)state;
    char buf[128];
    assert_int_equal(clip_names("text_model.final_layer_norm.bias", 1, buf, sizeof buf), 1);
    assert_string_equal(buf, "final_layer_norm.bias");
    assert_int_equal(clip_names("text_projection.weight", 1, buf, sizeof buf), 0);
}

static void test_models_clip_text__errors(void **state)
{
    (void)state;
    ClipConfig c;
    ClipText out;
    Fix f;
    read_text_config(&c, "tests/vectors/sd15-tiny/text_encoder/config.json");
    fix_open(&f, DTYPE_F32);
    OpRef ids = graph_input(f.g, "ids", DTYPE_I32, SHAPE(1, 77));
    FAILS(clip_text_forward(&f.nn, &c, ids, OP_NONE, 4, &out), ERR_RANGE, "clip skip is 4, expected 1..3");
    fix_close(&f);
    ModelJson *j;
    static const char text[] = "{\"hidden_size\": 30, \"num_attention_heads\": 4}";
    OK(model_json_parse(&j, text, strlen(text), "c.json"));
    FAILS(clip_text_config(&c, j, 0), ERR_SHAPE, "c.json: key 'num_attention_heads' is 4");
    model_json_close(j);
    static const char act[] = "{\"hidden_act\": \"mish\"}";
    OK(model_json_parse(&j, act, strlen(act), "c.json"));
    FAILS(clip_text_config(&c, j, 0), ERR_UNSUPPORTED, "key 'hidden_act' is \"mish\"");
    model_json_close(j);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_models_clip_text__sd15),   cmocka_unit_test(test_models_clip_text__sd21),
        cmocka_unit_test(test_models_clip_text__skip_2), cmocka_unit_test(test_models_clip_text__bf16),
        cmocka_unit_test(test_models_clip_text__pool_index), cmocka_unit_test(test_models_clip_text__names),
        cmocka_unit_test(test_models_clip_text__errors),
    };
    return fix_run(tests, sizeof tests / sizeof *tests);
}
