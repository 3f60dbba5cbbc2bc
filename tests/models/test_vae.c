#include "models/fixture.h"

static void read_config(VaeConfig *c, const char *model)
{
    char path[256];
    ModelJson *j;
    snprintf(path, sizeof path, "tests/vectors/%s-tiny/vae/config.json", model);
    OK(model_json_open(&j, path));
    OK(vae_config(c, j));
    model_json_close(j);
}

static void check_taps(Fix *f, IoSafetensors *ref, const char *part, int *seen)
{
    for (int k = 0; k < f->ntap; k++) {
        char name[NN_PATH_MAX + 8];
        snprintf(name, sizeof name, "tap.%s", f->tap[k].path + 4);
        if (strncmp(name + 4, part, strlen(part)) || io_safetensors_find(ref, name) < 0)
            continue;
        check_error(name, fix_error(f, f->tap[k].t, ref, name), REL_F32);
        ++*seen;
    }
}

/* Encoder and decoder in two graphs on one parameter set, as training and rendering use them. */
static void check_model(const char *model, Dtype dtype, double limit, int taps)
{
    char path[256];
    VaeConfig c;
    IoSafetensors *ref;
    NnParams *ps = NULL;
    int seen = 0;
    read_config(&c, model);
    assert_int_equal(vae_factor(&c), 2);
    snprintf(path, sizeof path, "tests/vectors/vae/%s.safetensors", model);
    OK(io_safetensors_open(&ref, path));
    IoSafetensors *weights = NULL;
    for (int k = 0; k < 2; k++) {
        Fix f;
        fix_open(&f, dtype);
        if (ps) {
            nn_params_destroy(f.ps);
            f.ps = ps;
        }
        if (taps) {
            f.nn.tap = fix_tap;
            f.nn.tap_user = &f;
        }
        Ref in = ref_get(ref, k ? "latent" : "image", 1);
        OpRef x = graph_input(f.g, "x", DTYPE_F32, in.shape);
        size_t mark = nn_push(&f.nn, "vae");
        OpRef y = k ? vae_decode(&f.nn, &c, x) : vae_encode(&f.nn, &c, x);
        nn_pop(&f.nn, mark);
        OK(graph_status(f.g));
        fix_keep(&f, y);
        for (int i = 0; i < f.ntap; i++)
            fix_keep(&f, f.tap[i].t);
        snprintf(path, sizeof path, "tests/vectors/%s-tiny/vae", model);
        if (!weights)
            weights = fix_load(&f, "vae", path, vae_names);
        else
            OK(nn_params_load(f.ps, f.g, "vae", weights, vae_names));
        fix_plan(&f);
        fix_write(&f, x, &in);
        OK(exec_run(f.ex));
        check_error(k ? "decoded" : "moments", fix_error(&f, y, ref, k ? "decoded" : "moments"), limit);
        check_taps(&f, ref, k ? "decoder" : "encoder", &seen);
        for (int i = 0; i < graph_node_count(f.g); i++)
            if (graph_node(f.g, i)->kind == OP_GROUP_NORM)
                assert_float_equal((double)graph_node(f.g, i)->attr.eps, 1e-6, 1e-12);
        free(in.v);
        ps = f.ps;
        if (!k) {
            OK(nn_params_create(&f.ps)); /* keep ps for the decoder */
        }
        fix_close(&f);
    }
    assert_int_equal(seen, taps ? 10 : 0);
    io_safetensors_close(weights);
    io_safetensors_close(ref);
}

static void test_models_vae__sd15(void **state)
{
    (void)state;
    check_model("sd15", DTYPE_F32, REL_F32, 0);
}

static void test_models_vae__sd15_taps(void **state)
{
    (void)state;
    check_model("sd15", DTYPE_F32, REL_F32, 1);
}

static void test_models_vae__sd21(void **state)
{
    (void)state;
    check_model("sd21", DTYPE_F32, REL_F32, 0);
}

static void test_models_vae__bf16(void **state)
{
    (void)state;
    check_model("sd15", DTYPE_BF16, 4e-2, 0); /* of the largest value; 2e-2 in the root mean square */
}

static void test_models_vae__old_names(void **state)
{
    (void)state;
    char buf[128];
    assert_int_equal(vae_names("encoder.mid_block.attentions.0.to_q.weight", 0, buf, sizeof buf), 1);
    assert_string_equal(buf, "encoder.mid_block.attentions.0.to_q.weight");
    assert_int_equal(vae_names("encoder.mid_block.attentions.0.to_q.weight", 1, buf, sizeof buf), 1);
    assert_string_equal(buf, "encoder.mid_block.attentions.0.query.weight");
    assert_int_equal(vae_names("decoder.mid_block.attentions.0.to_out.0.bias", 1, buf, sizeof buf), 1);
    assert_string_equal(buf, "decoder.mid_block.attentions.0.proj_attn.bias");
    assert_int_equal(vae_names("decoder.conv_in.weight", 1, buf, sizeof buf), 0);
    assert_int_equal(vae_names("decoder.mid_block.attentions.0.to_q.weight", 2, buf, sizeof buf), 0);
}

static void test_models_vae__wrong_size(void **state)
{
    (void)state;
    VaeConfig c;
    Fix f;
    read_config(&c, "sd15");
    fix_open(&f, DTYPE_F32);
    OpRef x = graph_input(f.g, "x", DTYPE_F32, SHAPE(1, 15, 16, 3));
    assert_int_equal(vae_encode(&f.nn, &c, x), OP_NONE);
    FAILS(graph_status(f.g), ERR_SHAPE, "vae: image is [1,15,16,3], expected [N,H,W,3] with H and W multiples of 2");
    fix_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_models_vae__sd15),      cmocka_unit_test(test_models_vae__sd15_taps),
        cmocka_unit_test(test_models_vae__sd21),      cmocka_unit_test(test_models_vae__bf16),
        cmocka_unit_test(test_models_vae__old_names), cmocka_unit_test(test_models_vae__wrong_size),
    };
    return fix_run(tests, sizeof tests / sizeof *tests);
}
