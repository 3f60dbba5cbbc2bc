#include "models/clip_vision.h"
#include "models/fixture.h"

typedef struct {
    Fix f;
    IoSafetensors *weights, *ref;
    ClipConfig text, vision;
    OpRef ids, index, pixels, target, image, words, logits, loss, seed;
} Pair;

/* The whole pair with its loss; trained parameters: all. */
static void pair_open(Pair *p, int recompute, OpRef *grads, int max)
{
    static const char *const all[] = {"clip.*"};
    ModelJson *j;
    ClipText t;
    memset(p, 0, sizeof *p);
    OK(model_json_open(&j, "tests/vectors/clip/config.json"));
    OK(clip_pair_config(&p->text, &p->vision, j));
    model_json_close(j);
    OK(io_safetensors_open(&p->ref, "tests/vectors/clip/reference.safetensors"));
    fix_open(&p->f, DTYPE_F32);
    Graph *g = p->f.g;
    p->f.nn.train = all;
    p->f.nn.ntrain = 1;
    p->ids = graph_input(g, "ids", DTYPE_I32, SHAPE(3, 7));
    p->index = graph_input(g, "index", DTYPE_I32, SHAPE(3));
    p->target = graph_input(g, "target", DTYPE_I32, SHAPE(3));
    p->pixels = graph_input(g, "pixels", DTYPE_F32, SHAPE(3, 12, 12, 3));
    p->seed = graph_input(g, "seed", DTYPE_F32, SHAPE(3));
    size_t mark = nn_push(&p->f.nn, "clip");
    OK(clip_text_forward(&p->f.nn, &p->text, p->ids, p->index, 1, &t));
    p->words = t.embeds;
    p->image = clip_vision_forward(&p->f.nn, &p->vision, p->pixels);
    p->loss = clip_contrastive_loss(&p->f.nn, p->image, p->words, p->target, &p->logits);
    nn_pop(&p->f.nn, mark);
    OK(graph_status(g));
    assert_true(p->f.nn.ntrained <= max);
    OK(graph_backward(g, p->loss, p->seed, p->f.nn.trained, p->f.nn.ntrained, grads, recompute));
    for (int i = 0; i < p->f.nn.ntrained; i++)
        if (grads[i] >= 0)
            fix_keep(&p->f, grads[i]);
    fix_keep(&p->f, p->loss);
    fix_keep(&p->f, p->logits);
    p->weights = fix_load(&p->f, "clip", "tests/vectors/clip", NULL);
    fix_plan(&p->f);
    int32_t ids[21], index[3], target[3] = {0, 1, 2};
    float seed[3] = {1 / 3.f, 1 / 3.f, 1 / 3.f};
    Ref r = ref_get(p->ref, "input_ids", 0), x = ref_get(p->ref, "pixel_values", 1);
    for (int i = 0; i < 21; i++)
        ids[i] = (int32_t)r.v[i];
    clip_text_pool_index(&p->text, ids, 3, 7, index);
    OK(exec_write(p->f.ex, p->ids, ids, sizeof ids));
    OK(exec_write(p->f.ex, p->index, index, sizeof index));
    OK(exec_write(p->f.ex, p->target, target, sizeof target));
    OK(exec_write_f32(p->f.ex, p->seed, seed, 3));
    fix_write(&p->f, p->pixels, &x);
    OK(exec_run(p->f.ex));
    free(r.v);
    free(x.v);
}

static void pair_close(Pair *p)
{
    fix_close(&p->f);
    io_safetensors_close(p->weights);
    io_safetensors_close(p->ref);
}

static void check_gradients(int recompute)
{
    Pair p;
    OpRef grads[128];
    pair_open(&p, recompute, grads, 128);
    check_error("logits", fix_error(&p.f, p.logits, p.ref, "logits_per_image"), REL_F32);
    float loss[3];
    Ref want = ref_get(p.ref, "loss", 0);
    OK(exec_read_f32(p.f.ex, p.loss, loss, 3));
    float mean = (loss[0] + loss[1] + loss[2]) / 3;
    check_error("loss", max_error(&mean, want.v, 1), 1e-5);
    free(want.v);
    assert_int_equal(p.f.nn.ntrained, io_safetensors_count(p.weights));
    for (int i = 0; i < p.f.nn.ntrained; i++) {
        char name[300];
        const char *param = graph_tensor(p.f.g, p.f.nn.trained[i])->name;
        snprintf(name, sizeof name, "grad.%s", param + 5);
        Ref r = ref_get(p.ref, name, 0);
        float *v = fix_read(&p.f, grads[i], r.count);
        /* a key's bias has no effect on a softmax: its gradient is rounding noise */
        double limit = strstr(name, "k_proj.bias") ? 1e9 : 1e-4;
        check_error(name, max_error(v, r.v, r.count), limit);
        free(v);
        free(r.v);
    }
    pair_close(&p);
}

static void test_models_clip_vision__pair_and_gradients(void **state)
{
    (void)state;
    check_gradients(0);
    check_gradients(1);
}

static void test_models_clip_vision__wrong_size(void **state)
{
    (void)state;
    Fix f;
    ClipConfig c = {.hidden = 8, .heads = 1, .image = 12, .patch = 4, .channels = 3, .layers = 1, .positions = 10};
    fix_open(&f, DTYPE_F32);
    OpRef x = graph_input(f.g, "x", DTYPE_F32, SHAPE(1, 8, 12, 3));
    assert_int_equal(clip_vision_forward(&f.nn, &c, x), OP_NONE);
    FAILS(graph_status(f.g), ERR_SHAPE, "image tower: pixels are [1,8,12,3], expected [N,12,12,3]");
    fix_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_models_clip_vision__pair_and_gradients),
        cmocka_unit_test(test_models_clip_vision__wrong_size),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
