#include "train/cache.h"

#include <signal.h>

#include "base/signal.h"
#include "io/h5.h"
#include "train/unit.h"

enum { ROW = 5, MAX = 6000 };

typedef struct {
    uint8_t key[MAX][HASH_SIZE];
    int64_t value[MAX];
    int computed, calls, fail_at, stop_at;
    TrainCacheSpec spec;
    Comm comm;
} Job;

static int compute(void *ctx, const int64_t *which, int n, float *rows)
{
    Job *j = ctx;
    assert_true(n >= 1 && n <= j->spec.batch);
    if (++j->calls == j->fail_at)
        return err_set(ERR_FORMAT, "d/x.png: broken");
    if (j->calls == j->stop_at)
        raise(SIGTERM);
    for (int i = 0; i < n; i++)
        for (int k = 0; k < ROW; k++)
            rows[i * ROW + k] = (float)(j->value[which[i]] * 10 + k);
    j->computed += n;
    return 0;
}

static void set_value(Job *j, int i, int64_t value)
{
    j->value[i] = value;
    OK(hash_bytes(j->key[i], &value, sizeof value));
}

static Job *job_make(const char *name, int count)
{
    static char path[256];
    Job *j = calloc(1, sizeof *j);
    snprintf(path, sizeof path, "%s", at(name));
    comm_init_self(&j->comm);
    for (int i = 0; i < count; i++)
        set_value(j, i, i);
    j->spec = (TrainCacheSpec){path, "rows", count, ROW, (const uint8_t(*)[HASH_SIZE])j->key, 4, 0, compute, j};
    return j;
}

/* The file that a lone rank made first. */
static const char *part_of(const Job *j)
{
    static char path[300];
    snprintf(path, sizeof path, "%s.r0-0.h5", j->spec.path);
    return path;
}

/* Opens, checks every row, closes; returns how many rows were computed. */
static int use(Job *j)
{
    TrainCache *c;
    float row[ROW];
    j->computed = j->calls = 0;
    OK(train_cache_open(&c, &j->spec, &j->comm));
    for (int64_t i = 0; i < j->spec.count; i++) {
        OK(train_cache_read(c, i, row));
        for (int k = 0; k < ROW; k++)
            assert_true(row[k] == (float)(j->value[i] * 10 + k));
    }
    train_cache_close(c);
    return j->computed;
}

static void test_train_cache__hits(void **state)
{
    (void)state;
    Job *j = job_make("hits", 23);
    assert_int_equal(use(j), 23);
    assert_int_equal(use(j), 0);
    free(j);
}

static void test_train_cache__changed_entries_only(void **state)
{
    (void)state;
    Job *j = job_make("changed", 23);
    use(j);
    set_value(j, 7, 1000);
    set_value(j, 21, 1001);
    assert_int_equal(use(j), 2);
    set_value(j, 7, 7); /* the old row is still there */
    assert_int_equal(use(j), 0);
    set_value(j, 3, 9); /* another entry's content */
    assert_int_equal(use(j), 0);
    j->spec.count = 10;
    assert_int_equal(use(j), 0);
    free(j);
}

static void test_train_cache__equal_entries_once(void **state)
{
    (void)state;
    Job *j = job_make("equal", 30);
    for (int i = 0; i < 30; i++)
        set_value(j, i, i % 4);
    assert_int_equal(use(j), 4);
    free(j);
}

/* More rows than one block, in an order unlike that of the file; several portions. */
static void test_train_cache__many(void **state)
{
    (void)state;
    Job *j = job_make("many", MAX);
    for (int i = 0; i < MAX; i++)
        set_value(j, i, (int64_t)i * 7919 % MAX);
    j->spec.batch = 64;
    assert_int_equal(use(j), MAX);
    assert_int_equal(use(j), 0);
    free(j);
}

static void damage(const char *path, long offset, const char *bytes, size_t n)
{
    FILE *f = fopen(path, "r+b");
    assert_non_null(f);
    fseek(f, offset, offset < 0 ? SEEK_END : SEEK_SET);
    assert_int_equal(fwrite(bytes, 1, n, f), n);
    fclose(f);
}

static void test_train_cache__damaged(void **state)
{
    (void)state;
    Job *j = job_make("damaged", 23);
    char name[300];
    int64_t size;
    use(j);
    OK(io_file_write(part_of(j), "no HDF5", 7));
    assert_int_equal(use(j), 23); /* into another file */
    OK(io_file_remove(part_of(j)));
    assert_int_equal(use(j), 0);
    snprintf(name, sizeof name, "%s.r0-1.h5", j->spec.path);
    OK(io_file_size(&size, name));
    assert_int_equal(truncate(name, size / 2), 0);
    assert_int_equal(use(j), 23);
    assert_true(io_file_exists(part_of(j)));
    /* a byte among the rows: found by the checksum of the chunk */
    char *data, want[ROW * 4];
    size_t n;
    float row[ROW];
    for (int k = 0; k < ROW; k++)
        row[k] = (float)(11 * 10 + k);
    memcpy(want, row, sizeof want);
    OK(io_file_read(&data, &n, part_of(j), 1 << 20));
    char *hit = memmem(data, n, want, sizeof want);
    assert_non_null(hit);
    damage(part_of(j), hit - data, "\x7f", 1);
    free(data);
    assert_int_equal(use(j), 23);
    assert_int_equal(use(j), 0);
    free(j);
}

static void test_train_cache__rows_of_another_size(void **state)
{
    (void)state;
    Job *j = job_make("size", 5);
    IoH5 *f;
    const int64_t dim[] = {3, 9}, key[] = {3, HASH_SIZE};
    float rows[27] = {0};
    uint8_t keys[3 * HASH_SIZE] = {0};
    OK(io_h5_create(&f, part_of(j)));
    OK(io_h5_write(f, "row", DTYPE_F32, 2, dim, rows, NULL));
    OK(io_h5_write(f, "key", DTYPE_U8, 2, key, keys, NULL));
    OK(io_h5_commit(&f));
    assert_int_equal(use(j), 5);
    free(j);
}

/* An error of one row: the rounds before it are kept, an older file stays. */
static void test_train_cache__compute_fails(void **state)
{
    (void)state;
    Job *j = job_make("fails", 23);
    TrainCache *c;
    j->fail_at = 3;
    FAILS(train_cache_open(&c, &j->spec, &j->comm), ERR_FORMAT, "d/x.png: broken");
    assert_false(io_file_exists(part_of(j)));
    j->fail_at = 0;
    j->spec.count = 8;
    use(j);
    j->spec.count = 23;
    j->fail_at = 2;
    j->calls = 0;
    FAILS(train_cache_open(&c, &j->spec, &j->comm), ERR_FORMAT, "d/x.png: broken");
    j->fail_at = 0;
    j->spec.count = 8;
    assert_int_equal(use(j), 0);
    free(j);
}

static void test_train_cache__no_folder(void **state)
{
    (void)state;
    Job *j = job_make("no/such/folder", 3);
    TrainCache *c;
    FAILS(train_cache_open(&c, &j->spec, &j->comm), ERR_NOTFOUND, "no/such");
    free(j);
}

/* A save of another run that was killed: its rows are there after the replay, or it is passed over; never wrong rows. Files of other
 * names do not count. */
static void test_train_cache__other_files(void **state)
{
    (void)state;
    Job *j = job_make("others", 40);
    j->spec.count = 20;
    assert_int_equal(use(j), 20);
    j->spec.count = 40;
    assert_int_equal(use(j), 20); /* a second file */
    put_text("others-2.r0-0.h5", "text");
    put_text("others.txt", "text");
    put_text("others.r0-0.h5.journal", "ATLJRNL1 cut off");
    assert_int_equal(use(j), 0);
    j->spec.per_node = 1;
    assert_int_equal(use(j), 0);
    free(j);
}

/* Last: the signal stays. */
static void test_train_cache__signal_keeps_rows(void **state)
{
    (void)state;
    Job *j = job_make("signal", 100);
    TrainCache *c;
    OK(signal_install());
    j->stop_at = 3;
    FAILS(train_cache_open(&c, &j->spec, &j->comm), ERR_STOPPED, "stopped by SIGTERM");
    assert_int_equal(j->computed, 32); /* a round of eight batches */
    j->stop_at = 0;
    j->computed = 0;
    FAILS(train_cache_open(&c, &j->spec, &j->comm), ERR_STOPPED, "stopped by SIGTERM");
    assert_int_equal(j->computed, 32); /* goes on where it stopped */
    free(j);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_train_cache__hits),
        cmocka_unit_test(test_train_cache__changed_entries_only),
        cmocka_unit_test(test_train_cache__equal_entries_once),
        cmocka_unit_test(test_train_cache__many),
        cmocka_unit_test(test_train_cache__damaged),
        cmocka_unit_test(test_train_cache__rows_of_another_size),
        cmocka_unit_test(test_train_cache__compute_fails),
        cmocka_unit_test(test_train_cache__no_folder),
        cmocka_unit_test(test_train_cache__other_files),
        cmocka_unit_test(test_train_cache__signal_keeps_rows),
    };
    return cmocka_run_group_tests(tests, scratch_make, scratch_remove);
}
