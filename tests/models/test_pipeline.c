#include "models/fixture.h"

#include <unistd.h>

#include "base/hash.h"
#include "io/file.h"

#define DIR "build/test_models_pipeline"

/* A model folder made of links into sd21-tiny, with its own model_index.json (NULL: linked too). */
static void make_folder(const char *index)
{
    static const char *const parts[] = {"unet", "vae", "text_encoder", "tokenizer", "scheduler"};
    char from[512], to[256], cwd[256];
    OK(io_dir_make(DIR));
    assert_non_null(getcwd(cwd, sizeof cwd));
    for (int i = 0; i < 5; i++) {
        snprintf(from, sizeof from, "%s/tests/vectors/sd21-tiny/%s", cwd, parts[i]);
        snprintf(to, sizeof to, DIR "/%s", parts[i]);
        unlink(to);
        assert_int_equal(symlink(from, to), 0);
    }
    char *text = NULL;
    size_t n;
    if (!index) {
        OK(io_file_read(&text, &n, "tests/vectors/sd21-tiny/model_index.json", 1 << 20));
        index = text;
    }
    OK(io_file_write(DIR "/model_index.json", index, strlen(index)));
    free(text);
}

static int build_all(Pipeline *p, Graph *g)
{
    NnCtx nn;
    ClipText t;
    nn_init(&nn, g);
    OpRef x = graph_input(g, "x", DTYPE_F32, SHAPE(1, 8, 8, 4)), time = graph_input(g, "t", DTYPE_F32, SHAPE(1));
    OpRef ids = graph_input(g, "ids", DTYPE_I32, SHAPE(1, 77));
    size_t mark = nn_push(&nn, "%s", pipeline_root(PIPELINE_TEXT));
    OK(clip_text_forward(&nn, pipeline_text(p), ids, OP_NONE, 1, &t));
    nn_pop(&nn, mark);
    mark = nn_push(&nn, "%s", pipeline_root(PIPELINE_UNET));
    OpRef z = unet_forward(&nn, pipeline_unet(p), x, time, t.last);
    nn_pop(&nn, mark);
    mark = nn_push(&nn, "%s", pipeline_root(PIPELINE_VAE));
    vae_decode(&nn, pipeline_vae(p), z);
    nn_pop(&nn, mark);
    nn_deinit(&nn);
    return graph_status(g);
}

static void test_models_pipeline__opens(void **state)
{
    (void)state;
    Pipeline *p;
    OK(pipeline_open(&p, "tests/vectors/sd15-tiny", NULL));
    assert_int_equal(pipeline_unet(p)->levels, 4);
    assert_int_equal(pipeline_unet(p)->context, 32);
    assert_int_equal(pipeline_unet(p)->heads[3], 8);
    assert_int_equal(pipeline_vae(p)->latent_channels, 4);
    assert_float_equal((double)pipeline_vae(p)->scaling, 0.18215, 1e-7);
    assert_int_equal(pipeline_text(p)->layers, 3);
    assert_int_equal(pipeline_text(p)->projection, 0);
    assert_string_equal(pipeline_dir(p), "tests/vectors/sd15-tiny");
    assert_string_equal(pipeline_tokenizer_dir(p), "tests/vectors/sd15-tiny/tokenizer");
    assert_string_equal(pipeline_scheduler_path(p), "tests/vectors/sd15-tiny/scheduler/scheduler_config.json");
    pipeline_close(p);
}

static void test_models_pipeline__modules(void **state)
{
    (void)state;
    Pipeline *p;
    NnModules m;
    OK(pipeline_open(&p, "tests/vectors/sd15-tiny", NULL));
    OK(pipeline_modules(p, &m));
    const NnModule *conv = nn_modules_find(&m, "unet.mid_block.resnets.0.conv1");
    const NnModule *q = nn_modules_find(&m, "text_encoder.text_model.encoder.layers.0.self_attn.q_proj");
    assert_non_null(conv);
    assert_non_null(q);
    Shape cs = SHAPE(64, 64, 3, 3), qs = SHAPE(32, 32);
    assert_true(shape_equal(&conv->weight, &cs));
    assert_true(shape_equal(&q->weight, &qs));
    const NnModule *norm = nn_modules_find(&m, "unet.mid_block.resnets.0.norm1");
    Shape ns = SHAPE(64);
    assert_true(norm && shape_equal(&norm->weight, &ns));
    /* every weight of the files, save the two embeddings, is a module's: matrices and kernels, and the vectors of norms */
    int want = -2;
    for (int part = 0; part < 2; part++) {
        IoSafetensors *s = pipeline_files(p, part ? PIPELINE_TEXT : PIPELINE_UNET);
        for (int i = 0; i < io_safetensors_count(s); i++) {
            IoTensor t;
            OK(io_safetensors_at(s, i, &t));
            const char *end = strrchr(t.name, '.');
            want += t.dtype != DTYPE_I64 && end && !strcmp(end, ".weight");
        }
    }
    assert_int_equal(m.count, want);
    nn_modules_deinit(&m);
    pipeline_close(p);
}

/* fp16 files in an F32 graph are copied, converted; the parameters of all parts come in one call. */
static void test_models_pipeline__loads_fp16(void **state)
{
    (void)state;
    Pipeline *p;
    Graph *g;
    NnParams *ps;
    OK(pipeline_open(&p, "tests/vectors/sd21-tiny", "fp16"));
    OK(graph_create(&g, DTYPE_F32));
    OK(nn_params_create(&ps));
    OK(build_all(p, g));
    OK(pipeline_load(p, ps, g));
    int params = 0;
    for (int i = 0; i < graph_tensor_count(g); i++)
        params += graph_tensor(g, i)->kind == TENSOR_PARAM;
    assert_int_equal(nn_params_count(ps), params);
    const NnParam *w = nn_params_find(ps, "unet.conv_in.weight");
    IoTensor t;
    OK(io_safetensors_get(pipeline_files(p, PIPELINE_UNET), "conv_in.weight", &t));
    _Float16 first;
    memcpy(&first, t.data, sizeof first);
    assert_float_equal((double)((const float *)w->data)[0], (double)first, 0);
    OK(pipeline_load(p, ps, g)); /* again: nothing to do */
    assert_int_equal(nn_params_count(ps), params);
    nn_params_destroy(ps);
    graph_destroy(g);
    pipeline_close(p);
}

static void test_models_pipeline__hash(void **state)
{
    (void)state;
    Pipeline *p;
    const char *a, *b;
    char want[HASH_HEX_SIZE];
    OK(pipeline_open(&p, "tests/vectors/sd15-tiny", NULL));
    OK(pipeline_hash(p, PIPELINE_VAE, &a));
    OK(hash_file_hex(want, "tests/vectors/sd15-tiny/vae/diffusion_pytorch_model.safetensors"));
    assert_string_equal(a, want);
    OK(pipeline_hash(p, PIPELINE_VAE, &b));
    assert_ptr_equal(a, b);
    pipeline_close(p);
}

/* The UNet in two shards with an index. */
static void make_shards(void)
{
    IoSafetensors *s;
    IoTensor t[2000];
    char index[1 << 17] = "{\"metadata\": {\"total_size\": 1}, \"weight_map\": {", from[256], *text;
    size_t size;
    make_folder(NULL);
    unlink(DIR "/unet");
    OK(io_dir_make(DIR "/unet"));
    snprintf(from, sizeof from, "tests/vectors/sd21-tiny/unet/config.json");
    OK(io_file_read(&text, &size, from, 1 << 20));
    OK(io_file_write(DIR "/unet/config.json", text, size));
    free(text);
    OK(io_safetensors_open(&s, "tests/vectors/sd21-tiny/unet/diffusion_pytorch_model.fp16.safetensors"));
    int n = io_safetensors_count(s), half = n / 2;
    for (int i = 0; i < n; i++) {
        size_t len = strlen(index);
        OK(io_safetensors_at(s, i, &t[i]));
        snprintf(index + len, sizeof index - len, "%s\"%s\": \"diffusion_pytorch_model-0000%d-of-00002.safetensors\"",
                 i ? ", " : "", t[i].name, i < half ? 1 : 2);
    }
    strcat(index, "}}");
    OK(io_safetensors_write(DIR "/unet/diffusion_pytorch_model-00001-of-00002.safetensors", t, half, NULL, 0));
    OK(io_safetensors_write(DIR "/unet/diffusion_pytorch_model-00002-of-00002.safetensors", t + half, n - half, NULL, 0));
    OK(io_file_write(DIR "/unet/diffusion_pytorch_model.safetensors.index.json", index, strlen(index)));
    io_safetensors_close(s);
}

static void remove_shards(void)
{
    remove(DIR "/unet/diffusion_pytorch_model-00001-of-00002.safetensors");
    remove(DIR "/unet/diffusion_pytorch_model-00002-of-00002.safetensors");
    remove(DIR "/unet/diffusion_pytorch_model.safetensors.index.json");
    remove(DIR "/unet/config.json");
    remove(DIR "/unet");
}

static void test_models_pipeline__shards(void **state)
{
    (void)state;
    Pipeline *p;
    Graph *g;
    NnParams *ps;
    const char *hex;
    char part[2][HASH_HEX_SIZE], want[HASH_HEX_SIZE], both[2 * HASH_HEX_SIZE];
    uint8_t h[HASH_SIZE];
    make_shards();
    OK(pipeline_open(&p, DIR, NULL));
    OK(graph_create(&g, DTYPE_F32));
    OK(nn_params_create(&ps));
    OK(build_all(p, g));
    OK(pipeline_load(p, ps, g));
    OK(pipeline_hash(p, PIPELINE_UNET, &hex));
    OK(hash_file_hex(part[0], DIR "/unet/diffusion_pytorch_model-00001-of-00002.safetensors"));
    OK(hash_file_hex(part[1], DIR "/unet/diffusion_pytorch_model-00002-of-00002.safetensors"));
    snprintf(both, sizeof both, "%s%s", part[0], part[1]);
    OK(hash_bytes(h, both, 128));
    hash_hex(want, h, HASH_SIZE);
    assert_string_equal(hex, want);
    nn_params_destroy(ps);
    graph_destroy(g);
    pipeline_close(p);
    remove_shards();
}

static void test_models_pipeline__without_a_part(void **state)
{
    (void)state;
    Pipeline *p;
    Graph *g;
    NnParams *ps;
    const char *hex;
    OK(pipeline_open_without(&p, "tests/vectors/sd21-tiny", "fp16", PIPELINE_UNET));
    OK(graph_create(&g, DTYPE_F32));
    OK(nn_params_create(&ps));
    OK(build_all(p, g));
    OK(pipeline_load(p, ps, g));
    assert_null(pipeline_files(p, PIPELINE_UNET));
    assert_null(nn_params_find(ps, "unet.conv_in.weight"));
    assert_non_null(nn_params_find(ps, "vae.decoder.conv_in.weight"));
    FAILS(pipeline_hash(p, PIPELINE_UNET, &hex), ERR_NOTFOUND, "'unet' was opened without its weights");
    nn_params_destroy(ps);
    graph_destroy(g);
    pipeline_close(p);
}

static void index_fails(const char *index, int code, const char *part)
{
    Pipeline *p = NULL;
    make_folder(index);
    FAILS(pipeline_open(&p, DIR, NULL), code, part);
    assert_null(p);
}

static void test_models_pipeline__errors(void **state)
{
    (void)state;
    Pipeline *p;
    FAILS(pipeline_open(&p, "tests/vectors/none", NULL), ERR_NOTFOUND, "tests/vectors/none: no such model folder");
    FAILS(pipeline_open(&p, "tests/vectors/unet", NULL), ERR_NOTFOUND, "model_index.json");
    FAILS(pipeline_open(&p, "tests/vectors/sd15-tiny", "int8"), ERR_NOTFOUND, "int8");
    index_fails("{", ERR_FORMAT, DIR "/model_index.json:1:");
    index_fails("[]", ERR_FORMAT, "expected a JSON object");
    index_fails("{\"vae\": [\"diffusers\", \"AutoencoderKL\"]}", ERR_NOTFOUND, "key 'unet' is missing");
    index_fails("{\"unet\": [\"diffusers\", \"UNet3D\"]}", ERR_UNSUPPORTED, "key 'unet' is UNet3D; supported: UNet2DConditionModel");
    index_fails("{\"unet\": 3}", ERR_FORMAT, "key 'unet': expected [library, class]");
    index_fails("{\"unet\": [\"d\", \"UNet2DConditionModel\"], \"text_encoder\": [\"t\", \"CLIPTextModel\"], \"vae\": [\"d\", "
                "\"AutoencoderKL\"], \"text_encoder_2\": [\"t\", \"CLIPTextModelWithProjection\"]}",
                ERR_UNSUPPORTED, "models with a 'text_encoder_2' are not supported");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_models_pipeline__opens),      cmocka_unit_test(test_models_pipeline__modules),
        cmocka_unit_test(test_models_pipeline__loads_fp16), cmocka_unit_test(test_models_pipeline__hash),
        cmocka_unit_test(test_models_pipeline__without_a_part),
        cmocka_unit_test(test_models_pipeline__shards),     cmocka_unit_test(test_models_pipeline__errors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
