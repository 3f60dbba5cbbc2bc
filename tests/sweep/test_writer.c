/* The writer thread: order, back-pressure, a full disk; where PNGs go; the progress line. */
#include "models/fixture.h"

#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/str.h"
#include "io/file.h"
#include "sweep/monitor.h"
#include "sweep/writer.h"

static void make_row(SweepRow *row, int64_t index)
{
    uint32_t x = (uint32_t)index + 1;
    memset(row, 0, sizeof *row);
    OK(io_image_init(&row->image, 64, 48, 3));
    for (int i = 0; i < 64 * 48 * 3; i++)
        row->image.data[i] = (uint8_t)((x = x * 1664525u + 1013904223u) >> 24);
    OK(str_format(&row->record, "{\"index\": %lld}", (long long)index));
    row->index = index;
}

static SweepWriter *start(const char *dir, int64_t queue)
{
    SweepWriter *w;
    SweepStore store;
    const SweepWriterConf conf = {.output = dir, .count = 100, .queue = queue, .retry = 0.05};
    OK(sweep_store_init(&store, dir, "me", 0, 0));
    OK(sweep_writer_start(&w, &store, &conf));
    return w;
}

static void put(SweepWriter *w, int64_t index)
{
    SweepRow row;
    make_row(&row, index);
    OK(sweep_writer_put(w, &row, 1));
}

static int64_t count_rows(const char *dir)
{
    SweepParts p;
    int64_t n = 0;
    OK(sweep_parts_scan(&p, dir, 1));
    for (int i = 0; i < p.count; i++) {
        SweepPart part;
        OK(sweep_part_open(&part, p.path[i], "me", 1));
        for (int64_t k = 0; k < part.n; k++)
            assert_int_equal(part.index[k], n + k);
        n += part.n;
        sweep_part_close(&part);
    }
    sweep_parts_deinit(&p);
    return n;
}

static void test_sweep_writer__stores_in_order_with_a_small_queue(void **state)
{
    (void)state;
    char dir[] = "/tmp/atelier-test-XXXXXX", command[64];
    SweepWriterStats stats;
    int paused;
    assert_non_null(mkdtemp(dir));
    SweepWriter *w = start(dir, 1);
    for (int i = 0; i < 12; i++)
        put(w, i);
    assert_true(sweep_writer_stored(w, &paused) >= 10 && !paused); /* one is being written, one waits */
    OK(sweep_writer_flush(w));
    assert_int_equal(sweep_writer_stored(w, &paused), 12);
    put(w, 12);
    OK(sweep_writer_stop(w, &stats));
    assert_int_equal(stats.stored, 13);
    assert_true(stats.stalled > 0 && stats.busy > 0 && stats.saves >= 12);
    assert_int_equal(count_rows(dir), 13);
    OK(sweep_writer_stop(NULL, NULL));
    snprintf(command, sizeof command, "rm -rf %s", dir);
    assert_int_equal(system(command), 0);
}

/* A limit on file sizes stands in for a full disk. */
static int fill(const char *dir)
{
    struct rlimit all, small;
    SweepWriterStats stats;
    int paused = 0;
    signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &all);
    small = (struct rlimit){60000, all.rlim_max};
    SweepWriter *w = start(dir, 1 << 30);
    setrlimit(RLIMIT_FSIZE, &small);
    for (int i = 0; i < 30; i++)
        put(w, i);
    for (int i = 0; i < 400 && !paused; i++) {
        usleep(10000);
        sweep_writer_stored(w, &paused);
    }
    setrlimit(RLIMIT_FSIZE, &all);
    if (!paused || sweep_writer_flush(w) < 0 || sweep_writer_stored(w, &paused) != 30 || paused)
        return 1;
    if (sweep_writer_stop(w, &stats) < 0 || !(stats.paused > 0))
        return 2;
    return count_rows(dir) == 30 ? 0 : 3;
}

static void test_sweep_writer__waits_for_a_full_disk(void **state)
{
    (void)state;
    char dir[] = "/tmp/atelier-test-XXXXXX", command[64];
    int status;
    assert_non_null(mkdtemp(dir));
    pid_t pid = fork();
    if (pid == 0)
        _exit(fill(dir));
    waitpid(pid, &status, 0);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
    snprintf(command, sizeof command, "rm -rf %s", dir);
    assert_int_equal(system(command), 0);
}

static void test_sweep_writer__png_folders(void **state)
{
    (void)state;
    char *path;
    OK(sweep_png_path("out", 12, 24, &path));
    assert_string_equal(path, "out/png/000012.png");
    free(path);
    OK(sweep_png_path("out", 123456, 200000, &path));
    assert_string_equal(path, "out/png/0123/123456.png");
    free(path);
}

static void test_sweep_writer__removes_temps_of_all_folders(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        int64_t count;
        int stays;
    } files[] = {{"png/.000003.png.tmp-0123456789ab", 24, 0},
                 {"png/0000/.000003.png.tmp-0123456789ab", 20001, 0},
                 {"png/0020/.020000.png.tmp-0123456789ab", 20001, 0},
                 {"png/0020/020000.png", 20001, 1}};
    char dir[] = "/tmp/atelier-test-XXXXXX", text[128];
    assert_non_null(mkdtemp(dir));
    OK(sweep_png_remove_temps(dir, 24)); /* no folder yet */
    snprintf(text, sizeof text, "mkdir -p %s/png/0000 %s/png/0020", dir, dir);
    assert_int_equal(system(text), 0);
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        snprintf(text, sizeof text, "%s/%s", dir, files[i].name);
        FILE *f = fopen(text, "w");
        assert_non_null(f);
        fclose(f);
        OK(sweep_png_remove_temps(dir, files[i].count));
        assert_int_equal(access(text, F_OK) == 0, files[i].stays);
    }
    snprintf(text, sizeof text, "rm -rf %s", dir);
    assert_int_equal(system(text), 0);
}

static void test_sweep_monitor__line(void **state)
{
    (void)state;
    SweepMonitor m;
    char line[1200];
    const SweepDispatchConf conf = {.before = 100, .total = 400};
    SweepRankStatus r[6] = {{RANK_RENDERING, 0, 3, 20, 40}, {RANK_FULL, 0, 0, 0, 60}, {.state = RANK_LOST},
                            {.state = RANK_WAITING},        {.state = RANK_WAITING},  {.state = RANK_DONE}};
    sweep_monitor_init(&m, &conf, 6);
    sweep_monitor_line(&m, r, 50, line, sizeof line);
    assert_string_equal(line, "image 200/400  2.00 images/s  left 00:01:40  1 rendering 1 disk full 2 waiting 1 done 1 lost");
    sweep_monitor_init(&m, &conf, 2);
    sweep_monitor_line(&m, r, 50, line, sizeof line);
    assert_string_equal(line, "image 200/400  2.00 images/s  left 00:01:40  [0] step 3/20  [1] disk full");
    sweep_monitor_init(&m, &conf, 1);
    sweep_monitor_line(&m, r, 10, line, sizeof line);
    assert_string_equal(line, "image 140/400  4.00 images/s  left 00:01:05  step 3/20");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sweep_writer__stores_in_order_with_a_small_queue),
        cmocka_unit_test(test_sweep_writer__waits_for_a_full_disk),
        cmocka_unit_test(test_sweep_writer__png_folders),
        cmocka_unit_test(test_sweep_writer__removes_temps_of_all_folders),
        cmocka_unit_test(test_sweep_monitor__line),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
