#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "io/h5.h"

static char dir[64];

static int setup(void **state)
{
    (void)state;
    strcpy(dir, "/tmp/test_h5_XXXXXX");
    return mkdtemp(dir) ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    char cmd[96];
    snprintf(cmd, sizeof cmd, "rm -rf %s", dir);
    return system(cmd);
}

static const char *in_dir(const char *name)
{
    static char buf[4][160];
    static int k;
    char *p = buf[k++ % 4];
    snprintf(p, sizeof buf[0], "%s/%s", dir, name);
    return p;
}

static void says(int rc, int code, const char *text)
{
    if (rc != code || !strstr(err_message(), text))
        fail_msg("rc %d (want %d): \"%s\" lacks \"%s\"", rc, code, err_message(), text);
}

static IoH5 *create(const char *name)
{
    IoH5 *f = NULL;
    if (io_h5_create(&f, in_dir(name)) < 0)
        fail_msg("%s", err_message());
    return f;
}

static IoH5 *reopen(const char *name)
{
    IoH5 *f = NULL;
    if (io_h5_open(&f, in_dir(name)) < 0)
        fail_msg("%s", err_message());
    return f;
}

static void test_io_h5__round_trip_of_every_dtype(void **state)
{
    (void)state;
    const int64_t dim[2] = {3, 5};
    uint8_t data[15 * 8], back[15 * 8];
    char name[32];
    for (size_t i = 0; i < sizeof data; i++)
        data[i] = (uint8_t)(i * 37 % 101);
    IoH5 *f = create("types.h5");
    for (int t = 0; t < DTYPE_COUNT; t++) {
        snprintf(name, sizeof name, "group/%s", dtype_name((Dtype)t));
        assert_int_equal(io_h5_write(f, name, (Dtype)t, 2, dim, data, NULL), 0);
        snprintf(name, sizeof name, "packed/%s", dtype_name((Dtype)t));
        const IoH5Store store = {.gzip = 4, .shuffle = 1, .checksum = 1, .chunk_rows = 2};
        assert_int_equal(io_h5_write(f, name, (Dtype)t, 2, dim, data, &store), 0);
    }
    assert_int_equal(io_h5_commit(&f), 0);
    assert_null(f);
    f = reopen("types.h5");
    for (int t = 0; t < 2 * DTYPE_COUNT; t++) {
        IoH5Info info;
        Dtype type = (Dtype)(t / 2);
        snprintf(name, sizeof name, "%s/%s", t % 2 ? "packed" : "group", dtype_name(type));
        assert_int_equal(io_h5_info(f, name, &info), 0);
        assert_int_equal(info.dtype, type);
        assert_int_equal(info.ndim, 2);
        assert_int_equal(info.dim[0], 3);
        assert_int_equal(info.dim[1], 5);
        memset(back, 0xEE, sizeof back);
        assert_int_equal(io_h5_read(f, name, type, back, 15), 0);
        assert_memory_equal(back, data, 15 * dtype_size(type));
        assert_int_equal(io_h5_read_rows(f, name, type, 1, 2, back), 0);
        assert_memory_equal(back, data + 5 * dtype_size(type), 10 * dtype_size(type));
    }
    char **names = NULL;
    int n = 0;
    assert_int_equal(io_h5_list(f, "/", &names, &n), 0);
    assert_int_equal(n, 2);
    assert_string_equal(names[0], "group");
    assert_string_equal(names[1], "packed");
    io_h5_names_free(names, n);
    assert_int_equal(io_h5_close(f), 0);
}

static void test_io_h5__scalar_and_empty(void **state)
{
    (void)state;
    const float x = 2.5f;
    float y = 0;
    const int64_t none[2] = {0, 4};
    const IoH5Store store = {.gzip = 1, .checksum = 1};
    IoH5Info info;
    IoH5 *f = create("scalar.h5");
    assert_int_equal(io_h5_write(f, "x", DTYPE_F32, 0, NULL, &x, &store), 0);
    assert_int_equal(io_h5_write(f, "none", DTYPE_F32, 2, none, NULL, &store), 0);
    assert_int_equal(io_h5_read(f, "x", DTYPE_F32, &y, 1), 0);
    assert_true(y == x);
    assert_int_equal(io_h5_info(f, "none", &info), 0);
    assert_int_equal(info.dim[0], 0);
    assert_int_equal(info.dim[1], 4);
    assert_int_equal(io_h5_read(f, "none", DTYPE_F32, NULL, 0), 0);
    assert_int_equal(io_h5_commit(&f), 0);
}

static void test_io_h5__append_and_resize(void **state)
{
    (void)state;
    const int64_t row[2] = {2, 2};
    int32_t data[12], back[16];
    IoH5 *f = NULL;
    for (int i = 0; i < 12; i++)
        data[i] = i + 1;
    assert_int_equal(io_h5_create_direct(&f, in_dir("grow.h5")), 0);
    assert_int_equal(io_h5_create_rows(f, "rows", DTYPE_I32, 0, 2, row, &(IoH5Store){.chunk_rows = 2, .gzip = 1}), 0);
    assert_int_equal(io_h5_append(f, "rows", DTYPE_I32, 1, data), 0);
    assert_int_equal(io_h5_append(f, "rows", DTYPE_I32, 2, data + 4), 0);
    assert_int_equal(io_h5_flush(f), 0);
    assert_int_equal(io_h5_close(f), 0);
    assert_int_equal(io_h5_open_append(&f, in_dir("grow.h5")), 0);
    assert_int_equal(io_h5_resize(f, "rows", 4), 0);
    assert_int_equal(io_h5_read(f, "rows", DTYPE_I32, back, 16), 0);
    assert_memory_equal(back, data, sizeof data);
    for (int i = 12; i < 16; i++)
        assert_int_equal(back[i], 0);
    assert_int_equal(io_h5_write_rows(f, "rows", DTYPE_I32, 3, 1, data + 8), 0);
    assert_int_equal(io_h5_read_rows(f, "rows", DTYPE_I32, 3, 1, back), 0);
    assert_int_equal(back[0], 9);
    says(io_h5_read_rows(f, "rows", DTYPE_I32, 3, 2, back), ERR_RANGE, "rows 3..5 of 4");
    says(io_h5_write_rows(f, "rows", DTYPE_I32, -1, 1, data), ERR_RANGE, "rows");
    assert_int_equal(io_h5_close(f), 0);
}

static void test_io_h5__strings(void **state)
{
    (void)state;
    const char *const s[] = {"", "caf\xC3\xA9", "a\nb, \"c\"", "\xE7\x8C\xAB"};
    char **back = NULL, *one = NULL;
    int64_t n = 0;
    IoH5 *f = create("strings.h5");
    assert_int_equal(io_h5_write_strings(f, "a/s", s, 3), 0);
    assert_int_equal(io_h5_append_strings(f, "a/s", s + 3, 1), 0);
    assert_int_equal(io_h5_create_strings(f, "later", 2), 0);
    assert_int_equal(io_h5_update_strings(f, "later", 1, s + 1, 1), 0);
    assert_int_equal(io_h5_write_string(f, "config", "x: 1\n"), 0);
    assert_int_equal(io_h5_commit(&f), 0);
    f = reopen("strings.h5");
    assert_int_equal(io_h5_read_strings(f, "a/s", &back, &n), 0);
    assert_int_equal(n, 4);
    for (int i = 0; i < 4; i++)
        assert_string_equal(back[i], s[i]);
    free(back);
    assert_int_equal(io_h5_read_strings(f, "later", &back, &n), 0);
    assert_int_equal(n, 2);
    assert_string_equal(back[0], "");
    assert_string_equal(back[1], s[1]);
    free(back);
    assert_int_equal(io_h5_read_string(f, "config", &one), 0);
    assert_string_equal(one, "x: 1\n");
    free(one);
    says(io_h5_read_string(f, "a/s", &one), ERR_SHAPE, "4 strings");
    assert_null(one);
    assert_int_equal(io_h5_close(f), 0);
}

static void test_io_h5__attributes(void **state)
{
    (void)state;
    char *s = NULL;
    int64_t i = 0;
    double d = 0;
    const float x = 1;
    IoH5 *f = create("attrs.h5");
    assert_int_equal(io_h5_write(f, "x", DTYPE_F32, 0, NULL, &x, NULL), 0);
    assert_int_equal(io_h5_set_attr_str(f, "/", "version", "old"), 0);
    assert_int_equal(io_h5_set_attr_str(f, "/", "version", "1.0 \xC3\xA9"), 0);
    assert_int_equal(io_h5_set_attr_i64(f, "x", "step", INT64_C(-5000000000)), 0);
    assert_int_equal(io_h5_set_attr_f64(f, "x", "lr", 1e-4), 0);
    assert_int_equal(io_h5_commit(&f), 0);
    f = reopen("attrs.h5");
    assert_int_equal(io_h5_attr_str(f, "/", "version", &s), 0);
    assert_string_equal(s, "1.0 \xC3\xA9");
    free(s);
    assert_int_equal(io_h5_attr_i64(f, "x", "step", &i), 0);
    assert_true(i == INT64_C(-5000000000));
    assert_int_equal(io_h5_attr_f64(f, "x", "lr", &d), 0);
    assert_true(d == 1e-4);
    assert_int_equal(io_h5_attr_f64(f, "x", "step", &d), 0);
    assert_true(d == -5e9);
    assert_int_equal(io_h5_attr_exists(f, "x", "lr"), 1);
    assert_int_equal(io_h5_attr_exists(f, "x", "nope"), 0);
    says(io_h5_attr_i64(f, "x", "nope", &i), ERR_NOTFOUND, "nope");
    says(io_h5_attr_i64(f, "x", "lr", &i), ERR_SHAPE, "lr");
    says(io_h5_attr_str(f, "x", "lr", &s), ERR_SHAPE, "lr");
    says(io_h5_set_attr_i64(f, "x", "step", 1), ERR_IO, "reading only");
    assert_int_equal(io_h5_close(f), 0);
}

static void test_io_h5__errors_name_file_and_dataset(void **state)
{
    (void)state;
    const int64_t dim[1] = {4};
    float x[4] = {1, 2, 3, 4};
    IoH5 *f = NULL;
    IoH5Info info;
    says(io_h5_open(&f, in_dir("absent.h5")), ERR_NOTFOUND, "absent.h5");
    assert_null(f);
    says(io_h5_open(&f, "/proc/self/cmdline"), ERR_FORMAT, "not an HDF5 file");
    says(io_h5_create(&f, in_dir("no/such/folder.h5")), ERR_NOTFOUND, "folder.h5");
    f = create("errors.h5");
    assert_int_equal(io_h5_write(f, "x", DTYPE_F32, 1, dim, x, NULL), 0);
    says(io_h5_write(f, "x", DTYPE_F32, 1, dim, x, NULL), ERR_BUSY, "x: exists");
    says(io_h5_read(f, "y", DTYPE_F32, x, 4), ERR_NOTFOUND, "errors.h5: y");
    says(io_h5_read(f, "x", DTYPE_F64, x, 4), ERR_SHAPE, "is f32, expected f64");
    says(io_h5_read(f, "x", DTYPE_F32, x, 3), ERR_SHAPE, "4 elements, expected 3");
    says(io_h5_append(f, "x", DTYPE_F32, 1, x), ERR_IO, "number of rows");
    says(io_h5_info(f, "x/y", &info), ERR_NOTFOUND, "x/y");
    says(io_h5_write(f, "x/y", DTYPE_F32, 1, dim, x, NULL), ERR_IO, "x/y");
    says(io_h5_write(f, "", DTYPE_F32, 1, dim, x, NULL), ERR_RANGE, "dataset name");
    assert_int_equal(io_h5_exists(f, "x"), 1);
    assert_int_equal(io_h5_exists(f, "x/y"), 0);
    assert_int_equal(io_h5_exists(f, "/"), 1);
    assert_int_equal(io_h5_delete(f, "x"), 0);
    assert_int_equal(io_h5_exists(f, "x"), 0);
    /* Closed without commit: nothing is left. */
    assert_int_equal(io_h5_close(f), 0);
    assert_int_not_equal(access(in_dir("errors.h5"), F_OK), 0);
    assert_int_equal(io_h5_close(NULL), 0);
}

static size_t slurp(const char *path, char **out)
{
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    fseek(f, 0, SEEK_END);
    size_t n = (size_t)ftell(f);
    rewind(f);
    *out = malloc(n + 1);
    assert_int_equal(fread(*out, 1, n, f), n);
    fclose(f);
    return n;
}

static void write_sample(const char *name)
{
    const int64_t dim[2] = {64, 8}, row[1] = {3};
    static float x[512];
    const char *const s[] = {"one", "two"};
    for (int i = 0; i < 512; i++)
        x[i] = (float)(i * i % 997) * 1.37f; /* packs badly: most of the file is checksummed */
    IoH5 *f = create(name);
    assert_int_equal(io_h5_write(f, "g/packed", DTYPE_F32, 2, dim, x, &(IoH5Store){.gzip = 4, .shuffle = 1, .checksum = 1}), 0);
    assert_int_equal(io_h5_write(f, "g/plain", DTYPE_F32, 1, dim, x, NULL), 0);
    assert_int_equal(io_h5_create_rows(f, "rows", DTYPE_F32, 0, 1, row, &(IoH5Store){.chunk_rows = 4}), 0);
    assert_int_equal(io_h5_append(f, "rows", DTYPE_F32, 4, x), 0);
    assert_int_equal(io_h5_write_strings(f, "s", s, 2), 0);
    assert_int_equal(io_h5_set_attr_str(f, "/", "config", "a: 1"), 0);
    assert_int_equal(io_h5_group(f, "empty/inner"), 0);
    assert_int_equal(io_h5_commit(&f), 0);
}

static void test_io_h5__equal_content_gives_equal_bytes(void **state)
{
    (void)state;
    char *a = NULL, *b = NULL;
    write_sample("same1.h5");
    usleep(1100000); /* HDF5's time stamps count seconds */
    write_sample("same2.h5");
    size_t na = slurp(in_dir("same1.h5"), &a), nb = slurp(in_dir("same2.h5"), &b);
    assert_int_equal(na, nb);
    assert_memory_equal(a, b, na);
    free(a);
    free(b);
}

/* Reads all it can of a damaged file. 1 if the damage was noticed in opening it or in the checksummed chunks. */
static int read_everything(const char *path)
{
    IoH5 *f = NULL;
    static float x[512];
    char **s = NULL, *text = NULL;
    int64_t n;
    if (io_h5_open(&f, path) < 0)
        return 1;
    int noticed = io_h5_read(f, "g/packed", DTYPE_F32, x, 512) < 0;
    io_h5_read(f, "g/plain", DTYPE_F32, x, 64);
    io_h5_read(f, "rows", DTYPE_F32, x, 12);
    io_h5_read_strings(f, "s", &s, &n);
    io_h5_attr_str(f, "/", "config", &text);
    free(s);
    free(text);
    io_h5_close(f);
    return noticed;
}

static void put_file(const char *path, const char *data, size_t n)
{
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, n, f), n);
    fclose(f);
}

static void test_io_h5__corrupt_files_are_errors(void **state)
{
    (void)state;
    char *data = NULL;
    IoH5 *f = NULL;
    write_sample("good.h5");
    size_t n = slurp(in_dir("good.h5"), &data);
    put_file(in_dir("cut.h5"), data, n / 2);
    int rc = io_h5_open(&f, in_dir("cut.h5"));
    says(rc, ERR_FORMAT, "cut.h5");
    assert_non_null(strstr(err_message(), "truncated"));
    uint32_t seed = 1;
    int noticed = 0;
    for (int k = 0; k < 100; k++) {
        seed = seed * 1664525u + 1013904223u;
        size_t at = seed % n;
        data[at] = (char)(data[at] ^ 0x41);
        put_file(in_dir("bad.h5"), data, n);
        data[at] = (char)(data[at] ^ 0x41);
        pid_t pid = fork();
        if (pid == 0) /* in a child, which may crash; the library leaks after errors */
            _exit(read_everything(in_dir("bad.h5")));
        int status = 0;
        waitpid(pid, &status, 0);
        if (!WIFEXITED(status))
            fail_msg("crash with byte %zu changed", at);
        noticed += WEXITSTATUS(status);
    }
    if (noticed < 5)
        fail_msg("only %d of 100 wrong bytes noticed in %zu", noticed, n);
    free(data);
}

static void write_part(const char *name, int first, int rows)
{
    const int64_t row[1] = {2};
    int32_t x[20];
    uint16_t b[20];
    char text[8];
    const char *s = text;
    for (int i = 0; i < 2 * rows; i++) {
        x[i] = 2 * first + i;
        b[i] = (uint16_t)(2 * first + i);
    }
    IoH5 *f = create(name);
    assert_int_equal(io_h5_create_rows(f, "d/x", DTYPE_I32, 0, 1, row, NULL), 0);
    assert_int_equal(io_h5_append(f, "d/x", DTYPE_I32, rows, x), 0);
    assert_int_equal(io_h5_create_rows(f, "b", DTYPE_BF16, 0, 1, row, NULL), 0);
    assert_int_equal(io_h5_append(f, "b", DTYPE_BF16, rows, b), 0);
    assert_int_equal(io_h5_create_strings(f, "s", 0), 0);
    for (int i = 0; i < rows; i++) {
        snprintf(text, sizeof text, "s%d", first + i);
        assert_int_equal(io_h5_append_strings(f, "s", &s, 1), 0);
    }
    assert_int_equal(io_h5_commit(&f), 0);
}

static void test_io_h5__join(void **state)
{
    (void)state;
    write_part("part0.h5", 0, 3);
    write_part("part1.h5", 3, 0);
    assert_int_equal(mkdir(in_dir("sub"), 0777), 0); /* HDF5 finds a lost absolute path by its last part, but not in there */
    write_part("sub/part2.h5", 3, 2);
    char p0[160], p1[160], p2[160];
    snprintf(p0, sizeof p0, "%s/part0.h5", dir);
    snprintf(p1, sizeof p1, "%s/part1.h5", dir);
    snprintf(p2, sizeof p2, "%s/sub/part2.h5", dir);
    const IoH5Piece all[] = {{p0, 0, 3}, {p1, 0, 0}, {p2, 0, 2}}, some[] = {{p2, 1, 1}, {p0, 0, 1}, {p0, 2, 1}};
    int32_t x[10];
    IoH5Info info;
    IoH5 *f = create("run.h5");
    assert_int_equal(io_h5_join(f, "d/x", "d/x", all, 3), 0);
    assert_int_equal(io_h5_join(f, "b", "b", all, 3), 0);
    assert_int_equal(io_h5_join(f, "picked", "d/x", some, 3), 0);
    assert_int_equal(io_h5_commit(&f), 0);
    /* Paths are relative: the whole folder may move. */
    char moved[80];
    snprintf(moved, sizeof moved, "%s.moved", dir);
    assert_int_equal(rename(dir, moved), 0);
    strcpy(dir, moved);
    f = reopen("run.h5");
    assert_int_equal(io_h5_read(f, "d/x", DTYPE_I32, x, 10), 0);
    for (int i = 0; i < 10; i++)
        assert_int_equal(x[i], i);
    assert_int_equal(io_h5_read_rows(f, "d/x", DTYPE_I32, 2, 2, x), 0);
    assert_int_equal(x[3], 7);
    assert_int_equal(io_h5_info(f, "b", &info), 0);
    assert_int_equal(info.dtype, DTYPE_BF16);
    assert_int_equal(info.dim[0], 5);
    assert_int_equal(io_h5_read(f, "picked", DTYPE_I32, x, 6), 0);
    const int32_t want[6] = {8, 9, 0, 1, 4, 5};
    assert_memory_equal(x, want, sizeof want);
    assert_int_equal(io_h5_close(f), 0);
}

static void test_io_h5__join_rejects_other_shapes(void **state)
{
    (void)state;
    const int64_t a[2] = {2, 3}, b[2] = {2, 4};
    const float x[8] = {0};
    IoH5 *f = create("a.h5");
    assert_int_equal(io_h5_write(f, "x", DTYPE_F32, 2, a, x, NULL), 0);
    assert_int_equal(io_h5_commit(&f), 0);
    f = create("b.h5");
    assert_int_equal(io_h5_write(f, "x", DTYPE_F32, 2, b, x, NULL), 0);
    assert_int_equal(io_h5_commit(&f), 0);
    const IoH5Piece both[] = {{in_dir("a.h5"), 0, 2}, {in_dir("b.h5"), 0, 2}}, more = {in_dir("a.h5"), 1, 2};
    f = create("j.h5");
    says(io_h5_join(f, "x", "x", both, 2), ERR_SHAPE, "b.h5: x");
    says(io_h5_join(f, "x", "y", both, 2), ERR_NOTFOUND, "a.h5: y");
    says(io_h5_join(f, "x", "x", &more, 1), ERR_RANGE, "rows 1..3 of 2");
    assert_int_equal(io_h5_close(f), 0);
}

static int write_to_full_device(void)
{
    static float x[1 << 20];
    const int64_t dim[1] = {1 << 20};
    IoH5 *f = NULL;
    int rc = io_h5_create_direct(&f, "/dev/full");
    if (rc < 0)
        return rc;
    io_h5_write(f, "x", DTYPE_F32, 1, dim, x, NULL);
    rc = io_h5_flush(f);
    io_h5_close(f);
    return rc;
}

/* With no room on the device the error comes at the latest in the flush. In a child: the library leaks after such errors. */
static void test_io_h5__full_disk_is_an_error(void **state)
{
    (void)state;
    int status = 0;
    if (access("/dev/full", W_OK) != 0)
        skip();
    pid_t pid = fork();
    if (pid == 0)
        _exit(write_to_full_device() < 0 ? 7 : 0);
    waitpid(pid, &status, 0);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 7);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_io_h5__round_trip_of_every_dtype),
        cmocka_unit_test(test_io_h5__scalar_and_empty),
        cmocka_unit_test(test_io_h5__append_and_resize),
        cmocka_unit_test(test_io_h5__strings),
        cmocka_unit_test(test_io_h5__attributes),
        cmocka_unit_test(test_io_h5__errors_name_file_and_dataset),
        cmocka_unit_test(test_io_h5__equal_content_gives_equal_bytes),
        cmocka_unit_test(test_io_h5__corrupt_files_are_errors),
        cmocka_unit_test(test_io_h5__join),
        cmocka_unit_test(test_io_h5__join_rejects_other_shapes),
        cmocka_unit_test(test_io_h5__full_disk_is_an_error),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
