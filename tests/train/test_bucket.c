/* Buckets against kohya's sd-scripts (tests/peers/make_buckets.py), and the order of micro-batches. */
#include "train/bucket.h"

#include "train/dataset.h"
#include "train/unit.h"

static void test_train_bucket__as_kohya(void **state)
{
    (void)state;
    static char line[4096];
    TrainBucketConf c = {.enabled = 1};
    TrainBuckets b = {0};
    int sets = 0, sizes = 0, resolution;
    FILE *f = fopen("tests/vectors/buckets/kohya.txt", "r");
    assert_non_null(f);
    while (fgets(line, sizeof line, f)) {
        TrainSize in, want[2], got[2];
        if (sscanf(line, "set %d %d %d %d %d", &resolution, &c.min, &c.max, &c.steps, &c.no_upscale) == 5) {
            train_buckets_deinit(&b);
            OK(train_buckets_init(&b, &c, resolution));
            sets++;
        } else if (!strncmp(line, "reso", 4)) {
            const char *p = line + 4;
            int w, h, used, n = 0;
            for (; sscanf(p, " %d %d%n", &w, &h, &used) == 2; p += used, n++) {
                assert_true(n < b.count);
                assert_int_equal(b.reso[n].w, w);
                assert_int_equal(b.reso[n].h, h);
            }
            assert_int_equal(n, b.count);
        } else {
            assert_int_equal(sscanf(line, "size %d %d %d %d %d %d", &in.w, &in.h, &want[0].w, &want[0].h, &want[1].w, &want[1].h), 6);
            OK(train_buckets_select(&b, in.w, in.h, &got[0], &got[1]));
            if (memcmp(got, want, sizeof got))
                fail_msg("%d x %d at %d: bucket %d x %d of %d x %d, expected: %s", in.w, in.h, resolution, got[0].w, got[0].h, got[1].w,
                         got[1].h, line);
            sizes++;
        }
    }
    fclose(f);
    train_buckets_deinit(&b);
    assert_int_equal(sets, 7);
    assert_true(sizes > 400);
}

static void test_train_bucket__too_small(void **state)
{
    (void)state;
    TrainBucketConf c = {1, 256, 1024, 64, 1};
    TrainBuckets b;
    TrainSize s, r;
    OK(train_buckets_init(&b, &c, 512));
    FAILS(train_buckets_select(&b, 63, 500, &s, &r), ERR_RANGE, "image of 63 x 500: no bucket");
    OK(train_buckets_select(&b, 100, 500, &s, &r));
    assert_int_equal(s.w, 64);
    assert_int_equal(s.h, 448);
    train_buckets_deinit(&b);
}

typedef struct {
    TrainConf c;
    TrainDataset *d;
    Comm comm;
} Set;

/* 7 squares, 3 tall and 1 wide image, the tall ones twice. */
static void set_open(Set *s, const char *micro)
{
    char text[700], name[64];
    OK(io_dir_make(at("square")));
    OK(io_dir_make(at("2_tall")));
    for (int i = 0; i < 7; i++) {
        snprintf(name, sizeof name, "square/%d.png", i);
        put_image(name, 20, 20, i);
    }
    for (int i = 0; i < 3; i++) {
        snprintf(name, sizeof name, "2_tall/%d.png", i);
        put_image(name, 12, 30, i);
    }
    put_image("square/wide.png", 40, 16, 9);
    snprintf(text, sizeof text, "datasets=[{path: %s}, {path: %s}]", at("square"), at("2_tall"));
    const char *const o[] = {"model=m", "output=o", text, "resolution=16", "bucket={enabled: true, min: 8, max: 32, steps: 8}", "batch=60", micro};
    OK(train_conf_read(&s->c, NULL, o, 7));
    comm_init_self(&s->comm);
    OK(train_dataset_open(&s->d, &s->c));
    OK(train_dataset_scan(s->d, &s->comm));
    OK(train_dataset_make_buckets(s->d));
}

static void set_close(Set *s)
{
    train_dataset_close(s->d);
    train_conf_deinit(&s->c);
}

/* Every micro-batch has one bucket; over n_b * m micro-batches of epochs each entry is shown alike often; any order of asking gives the same. */
static void order(const char *micro)
{
    Set s;
    set_open(&s, micro);
    int64_t m = s.c.micro_batch, epochs = 60, n = 14 * epochs, item, seen[11] = {0}, *all = malloc((size_t)n * sizeof *all), in_bucket[8];
    assert_int_equal(train_dataset_epoch(s.d), 14);
    assert_int_equal(train_dataset_buckets(s.d), 3);
    for (int64_t p = 0; p < n; p++) {
        int mirror, bucket;
        OK(train_dataset_at(s.d, 5, p, &item, &mirror));
        OK(train_dataset_bucket_at(s.d, 5, p, &bucket, NULL));
        assert_int_equal(train_dataset_item(s.d, item)->bucket, bucket);
        if (p % m)
            assert_int_equal(bucket, train_dataset_item(s.d, all[p - 1])->bucket);
        all[p] = item;
        seen[item]++;
    }
    for (int i = 0; i < 11; i++)
        assert_int_equal(seen[i], i < 8 ? epochs : 2 * epochs);
    for (int b = 0; b < 3; b++)
        train_dataset_bucket(s.d, b, &in_bucket[b]);
    assert_int_equal(in_bucket[0] + in_bucket[1] + in_bucket[2], 14);
    for (int64_t k = 0, p = 0; k < n; k++, p = (p + 389) % n) {
        OK(train_dataset_bucket_at(s.d, 5, p, NULL, &item));
        assert_int_equal(item, all[p]);
        if (k % 7 == 0)
            OK(train_dataset_bucket_at(s.d, 6, p, NULL, &item));
    }
    free(all);
    set_close(&s);
}

static void test_train_bucket__order(void **state)
{
    (void)state;
    order("micro_batch=1");
    order("micro_batch=2");
    order("micro_batch=4");
    order("micro_batch=20");
}

static void test_train_bucket__images(void **state)
{
    (void)state;
    Set s;
    IoImage img;
    uint8_t a[HASH_SIZE], b[HASH_SIZE];
    set_open(&s, "micro_batch=1");
    for (int64_t i = 0; i < train_dataset_count(s.d); i++) {
        const TrainItem *it = train_dataset_item(s.d, i);
        OK(train_dataset_load(s.d, i, 1, 0, 0, &img));
        assert_int_equal(img.w, it->size.w);
        assert_int_equal(img.h, it->size.h);
        assert_int_equal(img.w * img.h % 64, 0);
        io_image_deinit(&img);
    }
    assert_int_equal(train_dataset_item(s.d, 8)->size.h, 24); /* 12 x 30 */
    OK(train_dataset_key(s.d, 8, 0, a));
    s.c.bucket.enabled = 0;
    train_dataset_close(s.d);
    OK(train_dataset_open(&s.d, &s.c));
    OK(train_dataset_key(s.d, 8, 0, b));
    assert_memory_not_equal(a, b, HASH_SIZE);
    set_close(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_train_bucket__as_kohya),   cmocka_unit_test(test_train_bucket__too_small),
        cmocka_unit_test(test_train_bucket__order),      cmocka_unit_test(test_train_bucket__images),
    };
    return cmocka_run_group_tests(tests, scratch_make, scratch_remove);
}
