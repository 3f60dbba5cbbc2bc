/* HDF5 files that survive a kill and a full disk at any moment. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "io/file.h"
#include "io/h5.h"

enum { ROW = 700 };
static char dir[64], path[96], journal[112];

static int setup(void **state)
{
    (void)state;
    strcpy(dir, "/tmp/test_h5j_XXXXXX");
    if (!mkdtemp(dir))
        return -1;
    snprintf(path, sizeof path, "%s/a.h5", dir);
    snprintf(journal, sizeof journal, "%s.journal", path);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    char cmd[96];
    snprintf(cmd, sizeof cmd, "rm -rf %s", dir);
    return system(cmd);
}

static int create(IoH5 **f)
{
    const IoH5Store packed = {.gzip = 1, .checksum = 1, .chunk_rows = 1};
    const int64_t dim = ROW;
    TRY(io_h5_create_safe(f, path));
    TRY(io_h5_create_rows(*f, "x", DTYPE_I32, 0, 1, &dim, &packed));
    TRY(io_h5_create_strings(*f, "s", 0));
    return io_h5_publish(*f);
}

/* Row k holds k * 1000 + j, and hard-to-pack noise. */
static int append(IoH5 *f, int k)
{
    int32_t x[ROW];
    char text[64];
    const char *s = text;
    for (int j = 0; j < ROW; j++)
        x[j] = j % 2 ? k * 1000 + j : (int32_t)((uint32_t)(k * ROW + j) * 2654435761u);
    snprintf(text, sizeof text, "row %d", k);
    TRY(io_h5_append(f, "x", DTYPE_I32, 1, x));
    return io_h5_append_strings(f, "s", &s, 1);
}

/* Rows of a sound file, or -1. */
static int rows(void)
{
    IoH5 *f = NULL;
    IoH5Info info;
    char **s = NULL;
    int64_t n = 0;
    int32_t x[ROW];
    if (io_h5_open(&f, path) < 0)
        return -1;
    int ok = io_h5_info(f, "x", &info) == 0 && io_h5_read_strings(f, "s", &s, &n) == 0 && n == info.dim[0];
    for (int k = 0; ok && k < n; k++) {
        char text[64];
        snprintf(text, sizeof text, "row %d", k);
        ok = strcmp(s[k], text) == 0 && io_h5_read_rows(f, "x", DTYPE_I32, k, 1, x) == 0;
        for (int j = 1; ok && j < ROW; j += 2)
            ok = x[j] == k * 1000 + j;
    }
    free(s);
    io_h5_close(f);
    return ok ? (int)n : -1;
}

static void test_h5_journal__appends_and_drops_what_is_not_saved(void **state)
{
    (void)state;
    IoH5 *f;
    assert_int_equal(create(&f), 0);
    for (int k = 0; k < 5; k++)
        assert_int_equal(append(f, k), 0);
    assert_int_equal(rows(), 0);
    assert_int_equal(io_h5_save(f), 0);
    assert_int_equal(rows(), 5);
    assert_int_equal(append(f, 5), 0);
    assert_int_equal(io_h5_close(f), 0);
    assert_int_equal(rows(), 5);
    assert_false(io_file_exists(journal));
    assert_int_equal(io_h5_open_safe(&f, path), 0);
    assert_int_equal(append(f, 5), 0);
    assert_int_equal(io_h5_commit(&f), 0);
    assert_int_equal(rows(), 6);
}

static void test_h5_journal__not_published_leaves_nothing(void **state)
{
    (void)state;
    IoH5 *f;
    const int64_t dim = 3;
    assert_int_equal(io_h5_create_safe(&f, path), 0);
    assert_int_equal(io_h5_create_rows(f, "x", DTYPE_I32, 0, 1, &dim, NULL), 0);
    assert_int_equal(io_h5_save(f), 0);
    assert_false(io_file_exists(path));
    assert_int_equal(io_h5_close(f), 0);
    IoNames names;
    assert_int_equal(io_dir_list(&names, dir, NULL), 0);
    assert_int_equal(names.count, 0);
    io_names_deinit(&names);
}

/* Writes until killed; says over the pipe how many rows were saved. */
static void write_on(int to)
{
    IoH5 *f;
    int k = rows();
    if (io_h5_open_safe(&f, path) < 0)
        _exit(1);
    for (;; k++) {
        if (append(f, k) < 0 || io_h5_save(f) < 0)
            _exit(1);
        int saved = k + 1;
        if (write(to, &saved, sizeof saved) < 0)
            _exit(1);
    }
}

static void test_h5_journal__survives_kills(void **state)
{
    (void)state;
    enum { KILLS = 150 };
    IoH5 *f;
    int with_journal = 0, most = 0;
    assert_int_equal(create(&f), 0);
    assert_int_equal(io_h5_close(f), 0);
    srand(7);
    for (int i = 0; i < KILLS; i++) {
        int to[2], saved = most, got;
        assert_int_equal(pipe(to), 0);
        pid_t pid = fork();
        if (pid == 0)
            write_on(to[1]);
        close(to[1]);
        if (read(to[0], &got, sizeof got) == sizeof got)
            saved = got;
        usleep((useconds_t)(rand() % 4000));
        kill(pid, SIGKILL);
        int status;
        waitpid(pid, &status, 0);
        assert_true(WIFSIGNALED(status));
        while (read(to[0], &got, sizeof got) == sizeof got)
            saved = got;
        close(to[0]);
        int64_t size = 0;
        with_journal += io_file_exists(journal) && io_file_size(&size, journal) == 0 && size > 0;
        assert_int_equal(io_h5_recover(path), 0);
        assert_false(io_file_exists(journal));
        most = rows();
        assert_in_range(most, saved, saved + 1);
        if (most > 400) { /* a fresh file keeps the checks short */
            unlink(path);
            assert_int_equal(create(&f), 0);
            assert_int_equal(io_h5_close(f), 0);
            most = 0;
        }
    }
    print_message("%d of %d kills left a journal\n", with_journal, (int)KILLS);
}

/* A journal that is cut or damaged anywhere is not replayed; a whole one is, and twice does no harm. */
static void test_h5_journal__half_written_journal_is_ignored(void **state)
{
    (void)state;
    IoH5 *f;
    char *old, *text;
    size_t old_size, size;
    assert_int_equal(create(&f), 0);
    assert_int_equal(append(f, 0), 0);
    assert_int_equal(io_h5_save(f), 0);
    assert_int_equal(io_file_read(&old, &old_size, path, 1 << 24), 0);
    assert_int_equal(append(f, 1), 0);
    pid_t pid = fork();
    if (pid == 0) { /* the limit stops the journal, not the file: what is appended is shorter than the journal's pages */
        signal(SIGXFSZ, SIG_IGN);
        _exit(io_h5_save(f) == 0 ? 0 : 1);
    }
    int status;
    waitpid(pid, &status, 0);
    assert_int_equal(status, 0);
    assert_int_equal(io_h5_close(f), 0);
    assert_int_equal(rows(), 2);
    /* Bad journals beside a good file. */
    const char bad[] = "ATLJRNL1 and so on";
    assert_int_equal(io_file_write(journal, bad, sizeof bad), 0);
    assert_int_equal(io_h5_recover(path), 0);
    assert_int_equal(rows(), 2);
    assert_int_equal(io_file_write(journal, "", 0), 0);
    assert_int_equal(io_h5_recover(path), 0);
    assert_false(io_file_exists(journal));
    assert_int_equal(rows(), 2);
    assert_int_equal(io_file_read(&text, &size, path, 1 << 24), 0);
    free(text);
    free(old);
}

/* A limit on file sizes stands in for a full disk; raising it for room that was made. */
static int fill_the_disk(void)
{
    IoH5 *f;
    struct rlimit all;
    int k = 0, full = 0;
    signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &all);
    if (create(&f) < 0)
        return 1;
    for (int round = 0; round < 10; round++) {
        int64_t size;
        if (io_file_size(&size, path) < 0)
            return 1;
        struct rlimit small = {(rlim_t)(size + 3000 * round), all.rlim_max};
        setrlimit(RLIMIT_FSIZE, &small);
        int rc = 0;
        while (rc == 0 && k < 1000) {
            if (append(f, k) < 0)
                return 2;
            rc = io_h5_save(f);
            k += rc == 0;
        }
        if (rc != ERR_SPACE || !strstr(err_message(), "File too large"))
            return 3;
        full++;
        if (io_h5_save(f) != ERR_SPACE)
            return 4;
        setrlimit(RLIMIT_FSIZE, &all);
        if ((io_file_size(&size, journal) < 0 || size == 0) && rows() != k) /* others see the file as it was */
            return 5;
        if (io_h5_save(f) < 0)
            return 6;
        k++;
        if (rows() != k)
            return 7;
    }
    /* Giving up while the disk is full loses only what was not saved. */
    struct rlimit small = {1000, all.rlim_max};
    setrlimit(RLIMIT_FSIZE, &small);
    if (append(f, k) < 0 || io_h5_save(f) != ERR_SPACE)
        return 8;
    io_h5_close(f);
    setrlimit(RLIMIT_FSIZE, &all);
    return io_h5_recover(path) == 0 && rows() == k && full > 5 ? 0 : 9;
}

static void test_h5_journal__waits_for_a_full_disk(void **state)
{
    (void)state;
    int status;
    pid_t pid = fork();
    if (pid == 0)
        _exit(fill_the_disk());
    waitpid(pid, &status, 0);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_h5_journal__appends_and_drops_what_is_not_saved, setup, teardown),
        cmocka_unit_test_setup_teardown(test_h5_journal__not_published_leaves_nothing, setup, teardown),
        cmocka_unit_test_setup_teardown(test_h5_journal__survives_kills, setup, teardown),
        cmocka_unit_test_setup_teardown(test_h5_journal__half_written_journal_is_ignored, setup, teardown),
        cmocka_unit_test_setup_teardown(test_h5_journal__waits_for_a_full_disk, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
