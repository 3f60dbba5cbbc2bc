#include "train/state.h"

#include "base/version.h"
#include "io/h5.h"
#include "train/unit.h"

enum { STEPS = 7 };
static const TrainOrigin origin = {"cpu", "aa", "bb"};

static void fill(float *v, int64_t n, float from)
{
    for (int64_t i = 0; i < n; i++)
        v[i] = from + (float)i * 0.25f;
}

static void state_make(TrainState *s, int ema, int filled)
{
    memset(s, 0, sizeof *s);
    OK(train_state_add(s, "lora.0.unet.a.lora_A.weight", DTYPE_F32, SHAPE(4, 5)));
    OK(train_state_add(s, "unet.conv.weight", DTYPE_F32, SHAPE(2, 3, 3, 3)));
    OK(train_state_add(s, "unet.conv.bias", DTYPE_F32, SHAPE(2)));
    OK(train_state_array(s, "adam_m", DTYPE_F32, TRAIN_OF_ALL));
    OK(train_state_array(s, "adam_v", DTYPE_F32, TRAIN_OF_ALL));
    OK(train_state_alloc(s, ema));
    for (int i = 0; filled && i < s->count; i++) {
        const TrainSlot *t = &s->slot[i];
        fill(s->param + t->offset, t->count, 1);
        fill(train_array_slot(&s->array[0], i), t->count, 100);
        fill(train_array_slot(&s->array[1], i), t->count, 200);
        if (ema)
            fill(s->ema + t->offset, t->count, 300);
    }
    for (int i = 0; filled && i < STEPS; i++)
        OK(train_state_push_step(s, i == 3 ? NAN : 0.5f / (float)(i + 1), 1.5f));
    s->skipped = filled ? 1 : 0;
}

static void conf_for(TrainConf *c, const char *folder, const char *extra)
{
    static char output[300];
    snprintf(output, sizeof output, "output=%s", at(folder));
    const char *const o[] = {output, "steps=100", extra, NULL};
    conf_make(c, o);
}

static void save(TrainState *s, const TrainConf *c)
{
    StrBuf b;
    str_init(&b);
    OK(config_dump(&train_conf_table, c, &b));
    OK(train_checkpoint_save(s, c, b.data, &origin));
    str_deinit(&b);
}

static void same(const TrainState *a, const TrainState *b)
{
    size_t bytes = (size_t)a->n * sizeof(float);
    assert_int_equal(a->step, b->step);
    assert_int_equal(a->skipped, b->skipped);
    assert_memory_equal(a->param, b->param, bytes);
    assert_memory_equal(a->array[0].data, b->array[0].data, bytes);
    assert_memory_equal(a->array[1].data, b->array[1].data, bytes);
    if (a->ema)
        assert_memory_equal(a->ema, b->ema, bytes);
    assert_memory_equal(a->loss, b->loss, (size_t)a->step * sizeof(float));
}

static void test_train_state__slots(void **state)
{
    (void)state;
    TrainState s;
    state_make(&s, 1, 0);
    for (int i = 0; i < s.count; i++) {
        assert_int_equal((uintptr_t)(s.param + s.slot[i].offset) % 64, 0);
        assert_int_equal((uintptr_t)(s.ema + s.slot[i].offset) % 64, 0);
    }
    assert_int_equal(s.slot[1].offset, 32);
    assert_int_equal(s.slot[2].offset, 32 + 64);
    assert_int_equal(s.n, 32 + 64 + 16);
    for (int i = 0; i < 3000; i++)
        OK(train_state_push_step(&s, (float)i, 0));
    assert_int_equal(s.step, 3000);
    assert_true(s.loss[2999] == 2999.0f);
    train_state_deinit(&s);
}

static void test_train_state__round_trip(void **state)
{
    (void)state;
    for (int ema = 0; ema < 2; ema++) {
        TrainState a, b;
        TrainConf c;
        int found;
        conf_for(&c, ema ? "ema" : "plain", ema ? "optimizer.ema=0.9" : "optimizer.ema=0");
        state_make(&a, ema, 1);
        state_make(&b, ema, 0);
        OK(train_checkpoint_resume(&b, &c, &origin, &found));
        assert_int_equal(found, 0);
        save(&a, &c);
        OK(train_checkpoint_resume(&b, &c, &origin, &found));
        assert_int_equal(found, 1);
        same(&a, &b);
        train_state_deinit(&a);
        train_state_deinit(&b);
        train_conf_deinit(&c);
    }
}

/* Saving twice gives the same bytes (no times inside). */
static void test_train_state__same_bytes(void **state)
{
    (void)state;
    TrainState s;
    TrainConf c;
    char *a, *b;
    size_t na, nb;
    conf_for(&c, "bytes", "seed=5");
    state_make(&s, 0, 1);
    save(&s, &c);
    OK(io_file_read(&a, &na, at("bytes/checkpoints/step-00000007.h5"), 1 << 22));
    sleep(1);
    save(&s, &c);
    OK(io_file_read(&b, &nb, at("bytes/checkpoints/step-00000007.h5"), 1 << 22));
    assert_int_equal(na, nb);
    assert_memory_equal(a, b, na);
    free(a);
    free(b);
    train_state_deinit(&s);
    train_conf_deinit(&c);
}

static int checkpoints(const char *folder, char *text)
{
    IoNames n;
    char path[128];
    snprintf(path, sizeof path, "%s/checkpoints", folder);
    OK(io_dir_list(&n, at(path), NULL));
    int count = n.count;
    *text = 0;
    for (int i = 0; i < n.count; i++)
        sprintf(text + strlen(text), "%s%s", i ? " " : "", n.items[i]);
    io_names_deinit(&n);
    return count;
}

static void test_train_state__keeps_the_newest(void **state)
{
    (void)state;
    TrainState s;
    TrainConf c;
    char names[1024];
    conf_for(&c, "keep", "checkpoint.keep=3");
    state_make(&s, 0, 1);
    for (int i = 0; i < 5; i++) {
        save(&s, &c);
        OK(train_state_push_step(&s, 0, 0));
    }
    assert_int_equal(checkpoints("keep", names), 3);
    assert_string_equal(names, "step-00000009.h5 step-00000010.h5 step-00000011.h5");
    /* A run started over saves an earlier step: the later ones are of the run given up. Files of others stay. */
    put_text("keep/checkpoints/mine.h5", "x");
    s.step = 10;
    save(&s, &c);
    checkpoints("keep", names);
    assert_string_equal(names, "mine.h5 step-00000009.h5 step-00000010.h5");
    train_state_deinit(&s);
    train_conf_deinit(&c);
}

static void resume_fails(const char *folder, const char *extra, int code, const char *part)
{
    TrainState s;
    TrainConf c;
    int found;
    conf_for(&c, folder, extra);
    state_make(&s, 0, 0);
    FAILS(train_checkpoint_resume(&s, &c, &origin, &found), code, part);
    assert_int_equal(found, 0);
    train_state_deinit(&s);
    train_conf_deinit(&c);
}

static void test_train_state__settings_that_matter(void **state)
{
    (void)state;
    TrainState s;
    TrainConf c;
    conf_for(&c, "conf", "seed=1");
    state_make(&s, 0, 1);
    save(&s, &c);
    train_conf_deinit(&c);
    resume_fails("conf", "seed=2", ERR_RANGE, "step-00000007.h5 was made with 'seed: 1' but the config says 'seed: 2'");
    train_state_deinit(&s);
    static const char *const matter[] = {"optimizer.lr=0.5",  "optimizer.warmup=3", "lora.rank=8",  "dtype=bf16",     "batch=16",
                                         "micro_batch=2",     "flip=true",          "model=other",  "crop=random",    "loss.min_snr=5",
                                         "caption_dropout=0", "lora.alpha=3",       "resolution=64", "optimizer.ema=0.5"};
    for (size_t i = 0; i < sizeof matter / sizeof *matter; i++)
        resume_fails("conf", matter[i], ERR_RANGE, "but the config says");
    static const char *const free_keys[] = {"threads=3", "patience=9", "sum_by=mpi", "sum_bucket=1MiB", "cache=x", "steps=50", "checkpoint.every=7", "checkpoint.keep=9",
                                            "save_dtype=f16", "lora.format=peft", "gradient_checkpointing=true"};
    for (size_t i = 0; i < sizeof free_keys / sizeof *free_keys; i++) {
        TrainState r;
        int found;
        char output[300];
        snprintf(output, sizeof output, "output=%s", at("conf"));
        const char *const o[] = {output, "steps=100", "seed=1", free_keys[i], NULL};
        conf_make(&c, o);
        state_make(&r, 0, 0);
        OK(train_checkpoint_resume(&r, &c, &origin, &found));
        assert_int_equal(found, 1);
        train_state_deinit(&r);
        train_conf_deinit(&c);
    }
}

/* With a schedule that depends on the number of steps, that number matters; else it may grow but not fall below what is done. */
static void test_train_state__steps(void **state)
{
    (void)state;
    TrainState s;
    TrainConf c;
    conf_for(&c, "steps", "optimizer.schedule=cosine");
    state_make(&s, 0, 1);
    save(&s, &c);
    train_conf_deinit(&c);
    int found;
    char output[300];
    snprintf(output, sizeof output, "output=%s", at("steps"));
    const char *const o[] = {output, "optimizer.schedule=cosine", "steps=200", NULL};
    conf_make(&c, o);
    FAILS(train_checkpoint_resume(&s, &c, &origin, &found), ERR_RANGE, "was made with 'steps: 100' but the config says 'steps: 200'");
    train_conf_deinit(&c);
    const char *const few[] = {output, "optimizer.schedule=cosine", "steps=6", NULL};
    conf_make(&c, few);
    FAILS(train_checkpoint_resume(&s, &c, &origin, &found), ERR_RANGE, "is past the 6 steps");
    train_conf_deinit(&c);
    train_state_deinit(&s);
}

static void test_train_state__other_slots(void **state)
{
    (void)state;
    TrainState a, b = {0};
    TrainConf c;
    int found;
    conf_for(&c, "slots", "seed=1");
    state_make(&a, 0, 1);
    save(&a, &c);
    OK(train_state_add(&b, "lora.0.unet.a.lora_A.weight", DTYPE_F32, SHAPE(4, 6)));
    OK(train_state_alloc(&b, 0));
    FAILS(train_checkpoint_resume(&b, &c, &origin, &found), ERR_FORMAT, "none of the 1 checkpoint");
    train_state_deinit(&a);
    train_state_deinit(&b);
    train_conf_deinit(&c);
}

static void test_train_state__other_model_or_data(void **state)
{
    (void)state;
    TrainState s;
    TrainConf c;
    int found;
    const TrainOrigin model = {"cpu", "ax", "bb"}, data = {"cpu", "aa", "bx"}, unknown = {"cpu", "", ""};
    conf_for(&c, "origin", "seed=1");
    state_make(&s, 0, 1);
    save(&s, &c);
    FAILS(train_checkpoint_resume(&s, &c, &model, &found), ERR_RANGE, "step-00000007.h5 was made with other weights of the model");
    FAILS(train_checkpoint_resume(&s, &c, &data, &found), ERR_RANGE, "other images or captions");
    OK(train_checkpoint_resume(&s, &c, &unknown, &found));
    assert_int_equal(found, 1);
    IoH5 *f;
    char *text;
    OK(io_h5_open(&f, at("origin/checkpoints/step-00000007.h5")));
    static const char *const key[] = {"format", "backend", "model_sha256", "data_sha256", "version"};
    static const char *const want[] = {"atelier checkpoint 1", "cpu", "aa", "bb", ATELIER_VERSION};
    for (int i = 0; i < 5; i++) {
        OK(io_h5_attr_str(f, "/", key[i], &text));
        assert_string_equal(text, want[i]);
        free(text);
    }
    OK(io_h5_attr_str(f, "/", "commit", &text));
    assert_true(*text);
    free(text);
    io_h5_close(f);
    train_state_deinit(&s);
    train_conf_deinit(&c);
}

static void test_train_state__damaged(void **state)
{
    (void)state;
    TrainState a, older, b;
    TrainConf c;
    int found;
    conf_for(&c, "damaged", "seed=1");
    state_make(&older, 0, 1);
    state_make(&a, 0, 1);
    save(&older, &c);
    OK(train_state_push_step(&a, 0.25f, 2));
    for (int64_t i = 0; i < a.slot[1].count; i++)
        a.param[a.slot[1].offset + i] += 1;
    save(&a, &c);
    /* one value changed in place, everything else sound */
    IoH5 *f;
    const int64_t dim[] = {2};
    const float other[] = {9, 9};
    OK(io_h5_open_append(&f, at("damaged/checkpoints/step-00000008.h5")));
    OK(io_h5_update(f, "param/unet.conv.bias", DTYPE_F32, 1, dim, other));
    OK(io_h5_close(f));
    state_make(&b, 0, 0);
    OK(train_checkpoint_resume(&b, &c, &origin, &found));
    assert_int_equal(found, 1);
    same(&older, &b);
    train_state_deinit(&b);
    OK(io_file_remove(at("damaged/checkpoints/step-00000007.h5")));
    state_make(&b, 0, 0);
    FAILS(train_checkpoint_resume(&b, &c, &origin, &found), ERR_FORMAT, "none of the 1 checkpoint");
    train_state_deinit(&b);
    train_state_deinit(&a);
    train_state_deinit(&older);
    train_conf_deinit(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_train_state__slots),
        cmocka_unit_test(test_train_state__round_trip),
        cmocka_unit_test(test_train_state__same_bytes),
        cmocka_unit_test(test_train_state__keeps_the_newest),
        cmocka_unit_test(test_train_state__settings_that_matter),
        cmocka_unit_test(test_train_state__steps),
        cmocka_unit_test(test_train_state__other_slots),
        cmocka_unit_test(test_train_state__other_model_or_data),
        cmocka_unit_test(test_train_state__damaged),
    };
    return cmocka_run_group_tests(tests, scratch_make, scratch_remove);
}
