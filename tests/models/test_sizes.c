/* The definitions at the sizes of the published models: numbers of parameters and operations, nothing is run. */
#include "models/fixture.h"

static const char SD15_UNET[] =
    "{\"block_out_channels\": [320, 640, 1280, 1280], \"attention_head_dim\": 8, \"cross_attention_dim\": 768, "
    "\"down_block_types\": [\"CrossAttnDownBlock2D\", \"CrossAttnDownBlock2D\", \"CrossAttnDownBlock2D\", \"DownBlock2D\"], "
    "\"up_block_types\": [\"UpBlock2D\", \"CrossAttnUpBlock2D\", \"CrossAttnUpBlock2D\", \"CrossAttnUpBlock2D\"]}";
static const char SD21_UNET[] =
    "{\"block_out_channels\": [320, 640, 1280, 1280], \"attention_head_dim\": [5, 10, 20, 20], \"cross_attention_dim\": 1024, "
    "\"use_linear_projection\": true, "
    "\"down_block_types\": [\"CrossAttnDownBlock2D\", \"CrossAttnDownBlock2D\", \"CrossAttnDownBlock2D\", \"DownBlock2D\"], "
    "\"up_block_types\": [\"UpBlock2D\", \"CrossAttnUpBlock2D\", \"CrossAttnUpBlock2D\", \"CrossAttnUpBlock2D\"]}";
static const char VAE[] =
    "{\"block_out_channels\": [128, 256, 512, 512], \"layers_per_block\": 2, "
    "\"down_block_types\": [\"DownEncoderBlock2D\", \"DownEncoderBlock2D\", \"DownEncoderBlock2D\", \"DownEncoderBlock2D\"], "
    "\"up_block_types\": [\"UpDecoderBlock2D\", \"UpDecoderBlock2D\", \"UpDecoderBlock2D\", \"UpDecoderBlock2D\"]}";
static const char CLIP_L[] = "{\"hidden_size\": 768, \"intermediate_size\": 3072, \"num_attention_heads\": 12}";

static ModelJson *parse(const char *text)
{
    ModelJson *j;
    OK(model_json_parse(&j, text, strlen(text), "config.json"));
    return j;
}

static int64_t count_params(const Graph *g)
{
    int64_t n = 0;
    for (int i = 0; i < graph_tensor_count(g); i++)
        if (graph_tensor(g, i)->kind == TENSOR_PARAM)
            n += shape_count(&graph_meta(g, i)->shape);
    return n;
}

static void check_unet(const char *config, int64_t params, double gflop)
{
    UnetConfig c;
    Graph *g;
    NnCtx nn;
    ModelJson *j = parse(config);
    OK(unet_config(&c, j));
    model_json_close(j);
    OK(graph_create(&g, DTYPE_F32));
    nn_init(&nn, g);
    OpRef x = graph_input(g, "x", DTYPE_F32, SHAPE(2, 64, 64, 4)), t = graph_input(g, "t", DTYPE_F32, SHAPE(2));
    OpRef ctx = graph_input(g, "ctx", DTYPE_F32, SHAPE(2, 77, c.context));
    graph_output(g, unet_forward(&nn, &c, x, t, ctx), "y");
    OK(graph_status(g));
    OK(graph_optimize(g, NULL));
    assert_int_equal(count_params(g), params);
    assert_float_equal(graph_flops(g) / 1e9, gflop, 0.02 * gflop);
    graph_destroy(g);
}

static void test_models_sizes__unet(void **state)
{
    (void)state;
    check_unet(SD15_UNET, 859520964, 1606);
    check_unet(SD21_UNET, 865910724, 1606);
}

static void test_models_sizes__vae(void **state)
{
    (void)state;
    VaeConfig c;
    Graph *g;
    NnCtx nn;
    ModelJson *j = parse(VAE);
    OK(vae_config(&c, j));
    model_json_close(j);
    OK(graph_create(&g, DTYPE_F32));
    nn_init(&nn, g);
    graph_output(g, vae_decode(&nn, &c, graph_input(g, "z", DTYPE_F32, SHAPE(1, 64, 64, 4))), "image");
    OK(graph_status(g));
    assert_float_equal(graph_flops(g) / 1e9, 2515, 0.02 * 2515);
    graph_output(g, vae_encode(&nn, &c, graph_input(g, "x", DTYPE_F32, SHAPE(1, 64, 64, 3))), "moments");
    OK(graph_status(g));
    assert_int_equal(count_params(g), 83653863);
    graph_destroy(g);
}

static void test_models_sizes__clip(void **state)
{
    (void)state;
    ClipConfig c;
    ClipText out;
    Graph *g;
    NnCtx nn;
    ModelJson *j = parse(CLIP_L);
    OK(clip_text_config(&c, j, 0));
    model_json_close(j);
    OK(graph_create(&g, DTYPE_F32));
    nn_init(&nn, g);
    OK(clip_text_forward(&nn, &c, graph_input(g, "ids", DTYPE_I32, SHAPE(1, 77)), OP_NONE, 1, &out));
    assert_int_equal(count_params(g), 123060480);
    graph_destroy(g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_models_sizes__unet),
        cmocka_unit_test(test_models_sizes__vae),
        cmocka_unit_test(test_models_sizes__clip),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
