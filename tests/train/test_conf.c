#include "models/fixture.h"
#include "train/unit.h"

/* Factors computed with transformers.optimization's get_constant_schedule_with_warmup, get_linear_schedule_with_warmup and
 * get_cosine_schedule_with_warmup for 4 steps of warm-up and 20 in all. */
static const int at_step[] = {0, 1, 3, 4, 5, 10, 12, 19};
static const double constant[] = {0, 0.25, 0.75, 1, 1, 1, 1, 1};
static const double linear[] = {0, 0.25, 0.75, 1, 0.9375, 0.625, 0.5, 0.0625};
static const double cosine[] = {0, 0.25, 0.75, 1, 0.99039264020161522, 0.69134171618254492, 0.5, 0.0096073597983847847};

static void check(const char *kind, const double *factor)
{
    char schedule[64];
    TrainConf c;
    snprintf(schedule, sizeof schedule, "optimizer.schedule=%s", kind);
    const char *const o[] = {schedule, "optimizer.warmup=4", "steps=20", "optimizer.lr=2e-3", NULL};
    conf_make(&c, o);
    for (int i = 0; i < 8; i++) {
        double lr = (double)train_conf_lr(&c, at_step[i]);
        if (fabs(lr - 2e-3 * factor[i]) > 1e-9) {
            print_error("%s step %d: %.9g, expected %.9g\n", kind, at_step[i], lr, 2e-3 * factor[i]);
            fail();
        }
    }
    train_conf_deinit(&c);
}

static void test_train_conf__schedules(void **state)
{
    (void)state;
    check("constant", constant);
    check("linear", linear);
    check("cosine", cosine);
}

/* Against transformers.optimization over 40 steps, 5 of them warm-up (tests/peers/make_optim.py). */
static void golden(IoSafetensors *f, const char *name, const char *const *extra)
{
    char key[64];
    const char *o[8] = {"optimizer.warmup=5", "steps=40", "optimizer.lr=1"};
    TrainConf c;
    for (int i = 0; extra[i]; i++)
        o[3 + i] = extra[i];
    conf_make(&c, o);
    snprintf(key, sizeof key, "schedule.%s", name);
    Ref r = ref_get(f, key, 0);
    for (int s = strcmp(name, "wsd") ? 0 : 5; s < 40; s++) /* transformers begins wsd's warm-up at min_lr, we at 0 */
        if (!(fabs((double)train_conf_lr(&c, s) - (double)r.v[s]) <= 2e-7))
            fail_msg("%s step %d: %.9g, expected %.9g", name, s, (double)train_conf_lr(&c, s), (double)r.v[s]);
    free(r.v);
    train_conf_deinit(&c);
}

static void test_train_conf__schedules_golden(void **state)
{
    (void)state;
    IoSafetensors *f;
    OK(io_safetensors_open(&f, "tests/vectors/optim/optim.safetensors"));
    golden(f, "constant", (const char *[]){NULL});
    golden(f, "linear", (const char *[]){"optimizer.schedule=linear", NULL});
    golden(f, "cosine", (const char *[]){"optimizer.schedule=cosine", NULL});
    golden(f, "cosine_min", (const char *[]){"optimizer.schedule=cosine", "optimizer.min_lr=0.1", NULL});
    golden(f, "cosine_restarts", (const char *[]){"optimizer.schedule=cosine_restarts", "optimizer.cycles=3", NULL});
    golden(f, "polynomial", (const char *[]){"optimizer.schedule=polynomial", "optimizer.power=2", "optimizer.min_lr=0.1", NULL});
    golden(f, "inverse_sqrt", (const char *[]){"optimizer.schedule=inverse_sqrt", NULL});
    golden(f, "wsd", (const char *[]){"optimizer.schedule=wsd", "optimizer.decay=10", "optimizer.min_lr=0.05", NULL});
    golden(f, "wsd_linear", (const char *[]){"optimizer.schedule=wsd", "optimizer.decay=10", "optimizer.decay_shape=linear", NULL});
    golden(f, "wsd_sqrt", (const char *[]){"optimizer.schedule=wsd", "optimizer.decay=10", "optimizer.decay_shape=sqrt", NULL});
    golden(f, "rex", (const char *[]){"optimizer.schedule=rex", NULL});
    io_safetensors_close(f);
}

static void test_train_conf__no_warmup(void **state)
{
    (void)state;
    TrainConf c;
    const char *const o[] = {"optimizer.schedule=cosine", "steps=10", "optimizer.lr=1", NULL};
    conf_make(&c, o);
    assert_true(train_conf_lr(&c, 0) == 1.0f);
    assert_true(fabs((double)train_conf_lr(&c, 5) - 0.5) < 1e-7);
    assert_true(train_conf_lr(&c, 10) >= 0 && train_conf_lr(&c, 10) < 1e-7f);
    train_conf_deinit(&c);
}

/* Warm-up longer than the run: the rate only rises. */
static void test_train_conf__only_warmup(void **state)
{
    (void)state;
    TrainConf c;
    const char *const o[] = {"optimizer.schedule=linear", "optimizer.warmup=100", "steps=10", "optimizer.lr=1", NULL};
    conf_make(&c, o);
    for (int s = 0; s < 10; s++)
        assert_true(fabs((double)train_conf_lr(&c, s) - s / 100.0) < 1e-7);
    train_conf_deinit(&c);
}

/* The fall is a tenth of the schedule, not of a run that ends before it. */
static void test_train_conf__wsd_in_parts(void **state)
{
    (void)state;
    TrainConf c;
    const char *const o[] = {"optimizer.schedule=wsd", "optimizer.schedule_steps=200", "steps=50", "optimizer.lr=1", NULL};
    conf_make(&c, o);
    assert_int_equal(c.optimizer.decay, 20);
    assert_true(train_conf_lr(&c, 49) == 1.0f && train_conf_lr(&c, 180) == 1.0f);
    assert_true(fabs((double)train_conf_lr(&c, 190) - 0.5) < 1e-6);
    train_conf_deinit(&c);
}

static void micro(const char *batch, const char *task, int want)
{
    TrainConf c;
    const char *const o[] = {batch, task, NULL};
    conf_make(&c, o);
    assert_int_equal(c.micro_batch, want);
    train_conf_deinit(&c);
}

static void test_train_conf__micro_batch_default(void **state)
{
    (void)state;
    micro("batch=4", "task=lora", 4);
    micro("batch=16", "task=lora", 8);
    micro("batch=9", "task=lora", 3);
    micro("batch=13", "task=full", 1);
    micro("batch=64", "task=clip", 64);
}

static void fails(const char *override, int code, const char *part)
{
    TrainConf c;
    const char *const o[] = {"model=m", "output=o", "datasets=[{path: d}]", override};
    FAILS(train_conf_read(&c, NULL, o, 4), code, part);
    train_conf_deinit(&c);
}

static void test_train_conf__bounds(void **state)
{
    (void)state;
    fails("micro_batch=3", ERR_RANGE, "batch 8 is not a multiple of micro_batch 3");
    fails("resolution=100", ERR_RANGE, "resolution 100 is not a multiple of 8");
    fails("background=[0, 0, 256]", ERR_RANGE, "background");
    fails("background=[0, 0]", ERR_RANGE, "background");
    fails("init_random=true", ERR_RANGE, "init_random");
    fails("optimizer.beta2=1", ERR_RANGE, "optimizer.beta2");
    fails("steps=0", ERR_RANGE, "steps");
    fails("optimizer.weights=bf16", ERR_RANGE, "optimizer.weights: bf16 is for the tasks full");
    fails("lora.targets=[]", ERR_RANGE, "lora.targets");
    fails("lora.ranc=4", ERR_NOTFOUND, "rank");
    fails("datasets=[{path: d, repeats: -1}]", ERR_RANGE, "repeats");
    fails("optimizer.lr=nan", ERR_FORMAT, "optimizer.lr");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_train_conf__schedules),           cmocka_unit_test(test_train_conf__schedules_golden),
        cmocka_unit_test(test_train_conf__no_warmup),
        cmocka_unit_test(test_train_conf__only_warmup),
        cmocka_unit_test(test_train_conf__wsd_in_parts),
        cmocka_unit_test(test_train_conf__micro_batch_default),
        cmocka_unit_test(test_train_conf__bounds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
