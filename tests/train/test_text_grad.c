/* Gradients of the text encoder and of a new word's vector through the UNet's loss, against PyTorch (tests/peers/make_text_grad.py).
 * Limits: loss 1e-5, gradients 1e-4 of the tensor's largest value + 1e-8. */
#include "train/golden.h"

static IoSafetensors *ref;

static void near(const char *what, const float *a, const Ref *b)
{
    double top = 0, e = 0;
    for (int64_t i = 0; i < b->count; i++) {
        e = fmax(e, fabs((double)a[i] - (double)b->v[i]));
        top = fmax(top, fabs((double)b->v[i]));
    }
    if (!(e <= 1e-4 * top + 1e-8) || !(top > 0)) {
        print_error("%s: error %.3g, largest value %.3g\n", what, e, top);
        fail();
    }
}

static void near_loss(const Golden *g, const char *name)
{
    Ref r = ref_get(ref, name, 0);
    assert_true(fabs((double)g->state.loss[0] - (double)r.v[0]) <= 1e-5 * (double)r.v[0]);
    free(r.v);
}

static void get_ids(int32_t ids[2 * 77])
{
    IoTensor t;
    OK(io_safetensors_get(ref, "ids", &t));
    memcpy(ids, t.data, 2 * 77 * sizeof *ids);
}

static int fill(TrainTask *t, int64_t position)
{
    Golden *g = t->impl;
    int32_t ids[2 * 77];
    OK(golden_fill(t, position));
    get_ids(ids);
    return exec_write(t->now.ex, g->in.ids, ids, sizeof ids);
}

static const TrainSlot *slot(const Golden *g, const char *name)
{
    for (int i = 0; i < g->state.count; i++)
        if (!strcmp(g->state.slot[i].name, name))
            return &g->state.slot[i];
    fail_msg("no slot %s", name);
    return NULL;
}

static void check_table(const Golden *g)
{
    const TrainSlot *s = slot(g, "text_encoder.text_model.embeddings.token_embedding.weight");
    Ref grad = ref_get(ref, "grad.rows", 0);
    IoTensor rows;
    OK(io_safetensors_get(ref, "rows", &rows));
    int64_t width = s->shape.dim[1], n = grad.count / width;
    float *mine = malloc((size_t)grad.count * sizeof *mine);
    double all = 0, some = 0;
    for (int64_t i = 0; i < n; i++)
        memcpy(mine + i * width, g->step.grad + s->offset + ((const int32_t *)rows.data)[i] * width, (size_t)width * sizeof *mine);
    near("token table", mine, &grad);
    for (int64_t i = 0; i < s->count; i++)
        all += fabs((double)g->step.grad[s->offset + i]);
    for (int64_t i = 0; i < grad.count; i++)
        some += fabs((double)mine[i]);
    assert_true(fabs(all - some) <= 1e-9 * all);
    free(mine);
    free(grad.v);
}

static void test_text_grad__all_parameters(void **state)
{
    (void)state;
    Golden g;
    const char *const o[] = {"task=full", "text_encoder=train", "train=['text_encoder.*']", NULL};
    golden_open(&g, o, SAMPLER_PREDICT_EPSILON, 0);
    g.task.fill = fill;
    OK(train_step_run(&g.step));
    near_loss(&g, "loss");
    int seen = 0;
    for (int i = 0; i < g.state.count; i++) {
        char name[256];
        snprintf(name, sizeof name, "grad.%s", g.state.slot[i].name + strlen("text_encoder."));
        if (io_safetensors_find(ref, name) < 0)
            continue;
        Ref r = ref_get(ref, name, 0);
        assert_int_equal(r.count, g.state.slot[i].count);
        near(name, g.step.grad + g.state.slot[i].offset, &r);
        free(r.v);
        seen++;
    }
    assert_int_equal(seen, g.state.count - 1);
    check_table(&g);
    golden_close(&g);
}

/* The third token of both captions is the word. */
static int fill_word(TrainTask *t, int64_t position)
{
    Golden *g = t->impl;
    TrainEmbedding *e = &g->in.words;
    OK(fill(t, position));
    size_t all = (size_t)(e->n * e->length * e->width);
    for (size_t i = 0; i < all; i++) {
        int word = i / (size_t)e->width % (size_t)e->length == 3;
        e->mask[i] = !word;
        e->mask[all + i] = (float)word;
    }
    return train_embedding_write(e, t->now.ex);
}

static void test_text_grad__new_word(void **state)
{
    (void)state;
    Golden g;
    const char *const o[] = {"task=embedding", "embedding.token=<word>", NULL};
    golden_open(&g, o, SAMPLER_PREDICT_EPSILON, 0);
    g.task.fill = fill_word;
    Ref vector = ref_get(ref, "word.vector", 0), grad = ref_get(ref, "word.grad", 0);
    assert_int_equal(g.state.count, 1);
    memcpy(g.state.param, vector.v, (size_t)vector.count * sizeof(float));
    OK(train_step_sync(&g.step));
    OK(train_step_run(&g.step));
    near_loss(&g, "word.loss");
    near("word", g.step.grad, &grad);
    free(vector.v);
    free(grad.v);
    golden_close(&g);
}

static int open_ref(void **state)
{
    (void)state;
    return io_safetensors_open(&ref, GOLDEN "text_grad.safetensors");
}

static int close_ref(void **state)
{
    (void)state;
    io_safetensors_close(ref);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_text_grad__all_parameters), cmocka_unit_test(test_text_grad__new_word)};
    return cmocka_run_group_tests(tests, open_ref, close_ref);
}
