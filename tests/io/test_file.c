#include "io/file.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/error.h"

static int make_dir(void **state)
{
    char name[] = "/tmp/atelier-test-XXXXXX";
    *state = mkdtemp(name) ? strdup(name) : NULL;
    return *state ? 0 : -1;
}

static int remove_dir(void **state)
{
    char command[256];
    snprintf(command, sizeof command, "rm -rf '%s'", (char *)*state);
    free(*state);
    return system(command);
}

static char *in(void **state, const char *name)
{
    static char path[4][512];
    static int turn;
    char *p = path[turn++ % 4];
    snprintf(p, sizeof path[0], "%s/%s", (char *)*state, name);
    return p;
}

static void test_io_file__write_and_read(void **state)
{
    char *data;
    size_t size;
    const char *path = in(state, "a.bin");
    assert_int_equal(io_file_write(path, "a\0b", 3), 0);
    assert_int_equal(io_file_write(path, "x\0yz", 4), 0);
    assert_int_equal(io_file_read(&data, &size, path, 4), 0);
    assert_int_equal(size, 4);
    assert_memory_equal(data, "x\0yz", 5);
    free(data);
    assert_int_equal(io_file_read(&data, &size, path, 3), ERR_RANGE);
    assert_null(data);
    assert_int_equal(io_file_read(&data, &size, in(state, "none"), 3), ERR_NOTFOUND);
    assert_int_equal(io_file_read(&data, &size, *state, 3), ERR_IO);
    IoNames n;
    assert_int_equal(io_dir_list(&n, *state, NULL), 0);
    assert_int_equal(n.count, 1);
    io_names_deinit(&n);
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    mode_t mask = umask(0);
    umask(mask);
    assert_int_equal(st.st_mode & 0777, 0666 & ~mask);
}

static void test_io_file__abort_leaves_the_old_file(void **state)
{
    IoAtomic *a;
    char *data;
    size_t size;
    const char *path = in(state, "a.bin");
    assert_int_equal(io_file_write(path, "old", 3), 0);
    assert_int_equal(io_atomic_open(&a, path), 0);
    assert_int_equal(io_atomic_write(a, "new data", 8), 0);
    char *temp = strdup(io_atomic_path(a));
    assert_true(io_file_exists(temp));
    io_atomic_abort(a);
    assert_false(io_file_exists(temp));
    free(temp);
    assert_int_equal(io_file_read(&data, &size, path, 100), 0);
    assert_string_equal(data, "old");
    free(data);
    io_atomic_abort(NULL);
}

static int leaves_out_weights(const char *dir, const char *name) { return !strcmp(dir, "unet") && !strcmp(name, "w"); }

static void test_io_dir__copies_to_a_depth(void **state)
{
    char *from = in(state, "model"), *to = in(state, "copy"), *path, *sub;
    static const char *const files[] = {"w", "unet/w", "unet/config", "unet/deep/w"};
    static const struct {
        int depth;
        int (*left_out)(const char *dir, const char *name);
        int there[4];
    } cases[] = {{0, NULL, {1, 0, 0, 0}}, {1, NULL, {1, 1, 1, 0}}, {1, leaves_out_weights, {1, 0, 1, 0}}, {2, leaves_out_weights, {1, 0, 1, 1}}};
    static const char *const names[] = {"0", "1", "2", "3"};
    assert_int_equal(io_path_join(&path, from, "unet/deep"), 0);
    assert_int_equal(io_dir_make(path), 0);
    free(path);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(io_path_join(&path, from, files[i]), 0);
        assert_int_equal(io_file_write(path, "x", 1), 0);
        free(path);
    }
    for (int k = 0; k < 4; k++) {
        assert_int_equal(io_path_join(&sub, to, names[k]), 0);
        assert_int_equal(io_dir_copy(from, sub, cases[k].depth, cases[k].left_out), 0);
        for (int i = 0; i < 4; i++) {
            assert_int_equal(io_path_join(&path, sub, files[i]), 0);
            assert_int_equal(io_file_exists(path), cases[k].there[i]);
            free(path);
        }
        free(sub);
    }
}

static void test_io_file__copies_and_shares(void **state)
{
    char *from = in(state, "a"), *to = in(state, "b"), *got;
    struct stat a, b;
    size_t size;
    assert_int_equal(io_file_copy(from, to, 1), ERR_NOTFOUND);
    assert_int_equal(io_file_write(from, "one", 3), 0);
    for (int share = 0; share < 2; share++) {
        assert_int_equal(io_file_write(to, "old", 3), 0);
        assert_int_equal(io_file_copy(from, to, share), 0);
        assert_int_equal(io_file_copy(from, to, share), 0);
        assert_int_equal(io_file_read(&got, &size, to, 100), 0);
        assert_string_equal(got, "one");
        free(got);
        assert_int_equal(stat(from, &a) | stat(to, &b), 0);
        assert_int_equal(a.st_ino == b.st_ino, share);
    }
    assert_int_equal(io_file_write(to, "two", 3), 0); /* a writer parts them */
    assert_int_equal(io_file_read(&got, &size, from, 100), 0);
    assert_string_equal(got, "one");
    free(got);
    IoNames names = {0};
    assert_int_equal(io_dir_list(&names, (char *)*state, NULL), 0);
    assert_int_equal(names.count, 2);
    io_names_deinit(&names);
}

static void test_io_file__failed_commit_keeps_the_old_file(void **state)
{
    IoAtomic *a;
    const char *path = in(state, "a.bin");
    assert_int_equal(io_dir_make(in(state, "a.bin")), 0); /* a file cannot be renamed over a folder */
    assert_int_equal(io_atomic_open(&a, path), 0);
    assert_int_equal(io_atomic_commit(a), ERR_IO);
    assert_true(io_file_is_dir(path));
    assert_int_equal(io_atomic_open(&a, in(state, "no/such/x")), ERR_NOTFOUND);
    assert_non_null(strstr(err_message(), "no/such/x"));
    assert_int_equal(io_file_write("/dev/full/x", "", 0), ERR_IO);
}

/* A file size limit stands in for a full disk: write() stores a part, then fails. */
static void test_io_file__full_disk_keeps_the_old_file(void **state)
{
    char *data, zeros[4000] = {0};
    size_t size;
    const char *path = in(state, "a.bin");
    assert_int_equal(io_file_write(path, "old", 3), 0);
    pid_t child = fork();
    if (child == 0) {
        signal(SIGXFSZ, SIG_IGN);
        setrlimit(RLIMIT_FSIZE, &(struct rlimit){1000, 1000});
        int rc = io_file_write(path, zeros, sizeof zeros);
        _exit(rc == ERR_SPACE && strstr(err_message(), "a.bin: write: ") ? 0 : 1);
    }
    int status;
    waitpid(child, &status, 0);
    assert_int_equal(status, 0);
    assert_int_equal(io_file_read(&data, &size, path, 100), 0);
    assert_string_equal(data, "old");
    free(data);
    char command[600];
    snprintf(command, sizeof command, "test \"$(ls -A '%s')\" = a.bin", (char *)*state);
    assert_int_equal(system(command), 0);
}

static void test_io_file__temps_of_killed_runs_are_removed(void **state)
{
    IoAtomic *a;
    const char *path = in(state, "run.h5");
    assert_int_equal(io_file_write(path, "x", 1), 0);
    if (fork() == 0) {
        if (io_atomic_open(&a, path) == 0)
            io_atomic_write(a, "half", 4);
        _exit(0);
    }
    wait(NULL);
    assert_int_equal(io_dir_remove_temps(*state), 0);
    char command[600];
    snprintf(command, sizeof command, "test \"$(ls -A '%s')\" = run.h5", (char *)*state);
    assert_int_equal(system(command), 0);
}

static void test_io_file__folders(void **state)
{
    IoNames n;
    assert_int_equal(io_dir_make(in(state, "a/b//c/")), 0);
    assert_int_equal(io_dir_make(in(state, "a/b/c")), 0);
    assert_true(io_file_is_dir(in(state, "a/b/c")));
    assert_int_equal(io_file_write(in(state, "a/z.txt"), "", 0), 0);
    assert_int_equal(io_file_write(in(state, "a/Y.txt"), "", 0), 0);
    assert_int_equal(io_file_write(in(state, "a/.hidden.txt"), "", 0), 0);
    assert_int_equal(io_file_write(in(state, "a/x.png"), "", 0), 0);
    assert_int_equal(io_dir_make(in(state, "a/x.png/y")), ERR_IO);
    assert_int_equal(io_dir_list(&n, in(state, "a"), ".txt"), 0);
    assert_int_equal(n.count, 2);
    assert_string_equal(n.items[0], "Y.txt");
    assert_string_equal(n.items[1], "z.txt");
    io_names_deinit(&n);
    assert_int_equal(io_dir_list(&n, in(state, "none"), NULL), ERR_NOTFOUND);
}

static void test_io_file__paths(void **state)
{
    (void)state;
    static const char *const dirs[][2] = {{"a/b", "a"}, {"a", "."}, {"/a", "/"}, {"/", "/"}, {"a/b/", "a"}, {"a//b", "a"}, {"", "."}};
    static const char *const joins[][3] = {{"a", "b", "a/b"}, {"a/", "b", "a/b"}, {"", "b", "b"}, {"a", "/b", "/b"}};
    char *p;
    for (size_t i = 0; i < sizeof dirs / sizeof *dirs; i++) {
        assert_int_equal(io_path_dir(&p, dirs[i][0]), 0);
        assert_string_equal(p, dirs[i][1]);
        free(p);
    }
    for (size_t i = 0; i < sizeof joins / sizeof *joins; i++) {
        assert_int_equal(io_path_join(&p, joins[i][0], joins[i][1]), 0);
        assert_string_equal(p, joins[i][2]);
        free(p);
    }
    assert_string_equal(io_path_name("a/b.c"), "b.c");
    assert_string_equal(io_path_ext("a.d/b.tar.gz"), ".gz");
    assert_string_equal(io_path_ext("a.d/b"), "");
    assert_string_equal(io_path_ext(".profile"), "");
    assert_true(io_path_is_inside("a/b..c"));
    assert_false(io_path_is_inside("a/../b"));
    assert_false(io_path_is_inside(".."));
    assert_false(io_path_is_inside("/a"));
    assert_false(io_path_is_inside(""));
}

static void test_io_file__lock_excludes_other_processes(void **state)
{
    IoLock *l;
    assert_int_equal(io_lock_acquire(&l, *state), 0);
    pid_t child = fork();
    if (child == 0) {
        IoLock *m;
        char expected[64];
        int rc = io_lock_acquire(&m, *state);
        snprintf(expected, sizeof expected, "in use by another run (process %ld on host ", (long)getppid());
        _exit(rc == ERR_BUSY && strstr(err_message(), expected) ? 0 : 1);
    }
    int status;
    waitpid(child, &status, 0);
    assert_int_equal(status, 0);
    io_lock_release(l);
    assert_int_equal(io_lock_acquire(&l, *state), 0);
    io_lock_release(l);
    io_lock_release(NULL);
    assert_int_equal(io_lock_acquire(&l, in(state, "none")), ERR_NOTFOUND);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, make_dir, remove_dir)
    const struct CMUnitTest tests[] = {
        T(test_io_file__write_and_read),
        T(test_io_file__abort_leaves_the_old_file),
        T(test_io_dir__copies_to_a_depth),
        T(test_io_file__copies_and_shares),
        T(test_io_file__failed_commit_keeps_the_old_file),
        T(test_io_file__full_disk_keeps_the_old_file),
        T(test_io_file__temps_of_killed_runs_are_removed),
        T(test_io_file__folders),
        T(test_io_file__paths),
        T(test_io_file__lock_excludes_other_processes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
