#include "io/safetensors.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/error.h"
#include "base/hash.h"
#include "base/str.h"
#include "io/file.h"

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

static void has(const char *part)
{
    if (!strstr(err_message(), part))
        fail_msg("message '%s' lacks '%s'", err_message(), part);
}

/* The bytes of a file: the header's size, the header, `data` bytes 0, 1, 2... *out is the caller's. */
static size_t build(unsigned char **out, const char *header, size_t header_size, size_t data)
{
    unsigned char *p = malloc(8 + header_size + data + 1);
    for (int i = 0; i < 8; i++)
        p[i] = (unsigned char)(header_size >> (8 * i));
    memcpy(p + 8, header, header_size);
    for (size_t i = 0; i < data; i++)
        p[8 + header_size + i] = (unsigned char)i;
    *out = p;
    return 8 + header_size + data;
}

static int open_text(IoSafetensors **s, unsigned char **bytes, const char *header, size_t data)
{
    size_t n = build(bytes, header, strlen(header), data);
    return io_safetensors_open_memory(s, *bytes, n, "t.safetensors");
}

static void test_io_safetensors__reads_views(void **state)
{
    (void)state;
    static const char header[] = "{\"__metadata__\":{\"b\":\"2\",\"a\":\"\\u00e9\\ud83d\\ude00\\n\"},"
                                 "\"m\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,24]},"
                                 "\"scalar\":{\"shape\":[],\"data_offsets\":[24,32],\"dtype\":\"I64\"},"
                                 "\"empty\":{\"dtype\":\"F16\",\"shape\":[0,5],\"data_offsets\":[24,24]},"
                                 "\"five\":{\"dtype\":\"U8\",\"shape\":[1,1,2,1,2],\"data_offsets\":[32,36]},"
                                 "\"f8\":{\"dtype\":\"F8_E4M3\",\"shape\":[2],\"data_offsets\":[36,38]},"
                                 "\"new\":{\"dtype\":\"X9\",\"shape\":[2],\"data_offsets\":[38,39]}}   ";
    IoSafetensors *s;
    IoTensor t;
    Meta m;
    unsigned char *bytes;
    if (open_text(&s, &bytes, header, 39) < 0)
        fail_msg("%s", err_message());
    assert_int_equal(io_safetensors_count(s), 6);
    assert_string_equal(io_safetensors_name(s, 0), "empty");
    assert_string_equal(io_safetensors_meta(s, "a"), "\xc3\xa9\xf0\x9f\x98\x80\n");
    assert_null(io_safetensors_meta(s, "c"));
    assert_string_equal(io_safetensors_meta_at(s, 1).key, "b");
    assert_int_equal(io_safetensors_get(s, "m", &t), 0);
    assert_int_equal(t.dtype, DTYPE_F32);
    assert_int_equal(t.ndim, 2);
    assert_int_equal(t.dim[1], 3);
    assert_int_equal(t.bytes, 24);
    assert_int_equal(((const unsigned char *)t.data)[23], 23);
    assert_int_equal(io_tensor_meta(&t, &m), 0);
    assert_int_equal(m.shape.dim[2], 1);
    assert_int_equal(io_safetensors_get(s, "scalar", &t), 0);
    assert_int_equal(t.ndim, 0);
    assert_int_equal((uintptr_t)t.data % 8, 0);
    assert_int_equal(((const unsigned char *)t.data)[0], 24);
    assert_int_equal(io_safetensors_get(s, "empty", &t), 0);
    assert_int_equal(t.bytes, 0);
    assert_int_equal(io_safetensors_get(s, "five", &t), 0);
    assert_int_equal(t.ndim, 5);
    assert_int_equal(io_tensor_meta(&t, &m), ERR_SHAPE);
    assert_int_equal(io_safetensors_get(s, "f8", &t), ERR_UNSUPPORTED);
    has("t.safetensors: tensor 'f8': dtype F8_E4M3 is not supported");
    assert_int_equal(io_safetensors_get(s, "new", &t), ERR_UNSUPPORTED);
    assert_int_equal(io_safetensors_get(s, "none", &t), ERR_NOTFOUND);
    has("tensor 'none' is missing");
    assert_true(io_safetensors_bytes(s) == 39);
    io_safetensors_close(s);
    free(bytes);
}

/* A header that is not padded leaves floats unaligned: the view must be an aligned copy. */
static void test_io_safetensors__aligns_data(void **state)
{
    (void)state;
    static const char *const headers[] = {"{\"x\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}",
                                          "{\"x\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}} ",
                                          "{\"x\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}  "};
    for (int i = 0; i < 3; i++) {
        IoSafetensors *s;
        IoTensor t, again;
        unsigned char *bytes;
        assert_int_equal(open_text(&s, &bytes, headers[i], 8), 0);
        assert_int_equal(io_safetensors_get(s, "x", &t), 0);
        assert_int_equal((uintptr_t)t.data % 4, 0);
        assert_int_equal(((const unsigned char *)t.data)[7], 7);
        assert_int_equal(io_safetensors_get(s, "x", &again), 0);
        assert_ptr_equal(t.data, again.data);
        io_safetensors_close(s);
        free(bytes);
    }
}

#define T(name, dtype, shape, b, e) "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":[" b "," e "]}"

static const struct {
    const char *header;
    size_t data;
    const char *part;
} hostile[] = {
    {"", 0, "expected '{'"},
    {" {}", 0, "expected '{'"},
    {"[]", 0, "expected '{'"},
    {"{", 0, "not valid JSON at byte 1"},
    {"{}x", 0, "text after the end"},
    {"{}", 4, "4 bytes of data belong to no tensor"},
    {"{" T("x", "F32", "[1]", "0", "4") "}", 3, "ends at byte 4 of the data, the file has 3"},
    {"{" T("x", "F32", "[1]", "0", "4") "}", 5, "1 bytes of data belong to no tensor"},
    {"{" T("x", "F32", "[1]", "4", "8") "}", 8, "a hole"},
    {"{" T("x", "F32", "[1]", "0", "4") "," T("y", "F32", "[1]", "8", "12") "}", 12, "'y' begins at 8, the data before it ends at 4 (a hole)"},
    {"{" T("x", "F32", "[2]", "0", "8") "," T("y", "F32", "[1]", "4", "8") "}", 8, "an overlap"},
    {"{" T("x", "F32", "[1]", "0", "4") "," T("y", "F32", "[1]", "0", "4") "}", 4, "an overlap"},
    {"{" T("x", "F32", "[2]", "0", "4") "}", 4, "shape and dtype F32 need 8 bytes, the header gives it 4"},
    {"{" T("x", "F4", "[3]", "0", "2") "}", 2, "shape and dtype F4"},
    {"{" T("x", "F32", "[1]", "4", "0") "}", 4, "ends before it begins"},
    {"{" T("x", "F32", "[-1]", "0", "4") "}", 4, "expected an integer, 0 or more"},
    {"{" T("x", "F32", "[1.0]", "0", "4") "}", 4, "expected an integer"},
    {"{" T("x", "F32", "[1e3]", "0", "4") "}", 4, "expected an integer"},
    {"{" T("x", "F32", "[01]", "0", "4") "}", 4, "expected an integer"},
    {"{" T("x", "F32", "[1,]", "0", "4") "}", 4, "expected an integer"},
    {"{" T("x", "F32", "[\"1\"]", "0", "4") "}", 4, "expected an integer"},
    {"{" T("x", "F32", "[4294967296,4294967296]", "0", "0") "}", 0, "shape is too large"},
    {"{" T("x", "F32", "[4611686018427387904]", "0", "0") "}", 0, "shape is too large"},
    {"{" T("x", "F32", "[9223372036854775808]", "0", "0") "}", 0, "too large"},
    {"{" T("x", "F32", "[1]", "0", "18446744073709551616") "}", 4, "number too large"},
    {"{" T("x", "F32", "[1]", "18446744073709551612", "18446744073709551615") "}", 4, "need 4 bytes"},
    {"{" T("x", "F32", "[1]", "18446744073709551611", "18446744073709551615") "}", 4, "a hole"},
    {"{" T("x", "F32", "[1,1,1,1,1,1,1,1,1]", "0", "4") "}", 4, "more than 8 dimensions"},
    {"{" T("x", "F32", "[1]", "0", "4") "," T("x", "F32", "[1]", "4", "8") "}", 8, "tensor 'x' appears twice"},
    {"{" T("x", "U8", "[0]", "0", "0") "," T("x", "U8", "[0]", "0", "0") "}", 0, "tensor 'x' appears twice"},
    {"{\"x\":{\"dtype\":\"F32\",\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "repeated key 'dtype'"},
    {"{\"x\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4, "key 'data_offsets' is missing"},
    {"{\"x\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4],\"extra\":1}}", 4, "unexpected key 'extra'"},
    {"{\"x\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4,8]}}", 4, "expected ']'"},
    {"{\"x\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0]}}", 4, "expected ','"},
    {"{\"x\":{\"dtype\":5,\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "expected '\"'"},
    {"{\"x\":null}", 0, "expected '{'"},
    {"{\"x\":[[[[[[[[[[[[[[[[[[[[", 0, "expected '{'"},
    {"{\"__metadata__\":{\"a\":1}}", 0, "expected '\"'"},
    {"{\"__metadata__\":{\"a\":{\"b\":\"c\"}}}", 0, "expected '\"'"},
    {"{\"__metadata__\":{\"a\":\"1\",\"a\":\"2\"}}", 0, "metadata key 'a' appears twice"},
    {"{\"__metadata__\":{},\"__metadata__\":{}}", 0, "'__metadata__' appears twice"},
    {"{\"__metadata__\":[]}", 0, "expected '{'"},
    {"{\"a\\u0000b\":{}}", 0, "a 0 character"},
    {"{\"a\\nb\":{}}", 0, "a control character in a key"},
    {"{\"a\nb\":{}}", 0, "a control character"},
    {"{\"a\\ud800\":{}}", 0, "half a surrogate"},
    {"{\"a\\ud800\\u0041\":{}}", 0, "half a surrogate"},
    {"{\"a\\udc00\":{}}", 0, "half a surrogate"},
    {"{\"a\\u12\":{}}", 0, "hexadecimal"},
    {"{\"a\\x\":{}}", 0, "unknown escape"},
    {"{\"a\\", 0, "closing quote"},
    {"{\"a", 0, "closing quote"},
    {"{\"a\xff\":{}}", 0, "not UTF-8"},
    {"{\"a\xc0\x80\":{}}", 0, "not UTF-8"},
    {"{\"a\xed\xa0\x80\":{}}", 0, "not UTF-8"},
    {"{" T("x", "F32", "[1]", "0", "4") ",}", 4, "expected '\"'"},
    {"{,}", 0, "expected '\"'"},
};

static void test_io_safetensors__rejects_hostile_headers(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof hostile / sizeof *hostile; i++) {
        IoSafetensors *s = (void *)1;
        unsigned char *bytes;
        int rc = open_text(&s, &bytes, hostile[i].header, hostile[i].data);
        if (rc != (strstr(hostile[i].part, "more than 8") ? ERR_UNSUPPORTED : ERR_FORMAT))
            fail_msg("case %zu %s: returned %d (%s)", i, hostile[i].header, rc, err_message());
        assert_null(s);
        has("t.safetensors: ");
        has(hostile[i].part);
        free(bytes);
    }
}

static void test_io_safetensors__rejects_lying_sizes(void **state)
{
    (void)state;
    static const struct {
        uint64_t n;
        size_t size;
        const char *part;
    } cases[] = {
        {0, 0, "too short"},          {0, 7, "too short"},
        {0, 8, "expected '{'"},       {1, 8, "truncated"},
        {100, 50, "truncated"},       {100000000, 50, "truncated"},
        {100000001, 50, "at most"},   {UINT64_MAX, 50, "at most"},
        {UINT64_MAX - 7, 50, "at most"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        unsigned char *exact = malloc(cases[i].size + 1), all[64];
        IoSafetensors *s;
        memset(all, ' ', sizeof all);
        for (int k = 0; k < 8; k++)
            all[k] = (unsigned char)(cases[i].n >> (8 * k));
        memcpy(exact, all, cases[i].size);
        assert_int_equal(io_safetensors_open_memory(&s, exact, cases[i].size, "t.safetensors"), ERR_FORMAT);
        has(cases[i].part);
        free(exact);
    }
}

/* Every prefix of a good file must be refused without touching a byte past its end (seen by ASan). */
static void test_io_safetensors__rejects_every_truncation(void **state)
{
    (void)state;
    static const char header[] = "{\"__metadata__\":{\"k\":\"\\u00e9\"}," T("x", "F32", "[2]", "0", "8") "," T("y", "I64", "[]", "8", "16") "}";
    unsigned char *bytes;
    size_t n = build(&bytes, header, strlen(header), 16);
    for (size_t k = 0; k < n; k++) {
        unsigned char *part = malloc(k + 1);
        unsigned char *exact = realloc(part, k ? k : 1);
        IoSafetensors *s;
        memcpy(exact, bytes, k);
        assert_int_equal(io_safetensors_open_memory(&s, exact, k, "t"), ERR_FORMAT);
        if (k > 8) { /* also when the size tells of the cut */
            for (int i = 0; i < 8; i++)
                exact[i] = (unsigned char)((k - 8) >> (8 * i));
            assert_int_equal(io_safetensors_open_memory(&s, exact, k, "t"), ERR_FORMAT);
        }
        free(exact);
    }
    free(bytes);
}

static void test_io_safetensors__missing_and_odd_files(void **state)
{
    IoSafetensors *s;
    assert_int_equal(io_safetensors_open(&s, in(state, "none.safetensors")), ERR_NOTFOUND);
    has("none.safetensors");
    assert_int_equal(io_safetensors_open(&s, *state), ERR_IO);
    assert_int_equal(io_file_write(in(state, "empty.safetensors"), "", 0), 0);
    assert_int_equal(io_safetensors_open(&s, in(state, "empty.safetensors")), ERR_FORMAT);
    assert_int_equal(io_safetensors_open(&s, in(state, "none.json")), ERR_NOTFOUND);
}

static const float ones[6] = {1, 2, 3, 4, 5, 6};
static const int64_t longs[2] = {7, 8};
static const uint16_t halfs[3] = {0x3c00, 0, 1};

static void test_io_safetensors__writes_the_library_layout(void **state)
{
    const IoTensor t[] = {
        {"z.f16", DTYPE_F16, 1, {3}, halfs, 0},    {"b", DTYPE_F32, 2, {2, 3}, ones, 0}, {"a", DTYPE_F32, 0, {0}, ones, 0},
        {"ids", DTYPE_I64, 2, {1, 2}, longs, 0},   {"bf", DTYPE_BF16, 1, {1}, halfs, 0}, {"u", DTYPE_U8, 1, {2}, "\1\2", 0},
        {"e\"\n", DTYPE_F32, 2, {0, 4}, NULL, 0},
    };
    const IoMeta meta[] = {{"ss_x", "1\t\xc3\xa9"}, {"format", "pt"}};
    static const char expected[] = "{\"__metadata__\":{\"format\":\"pt\",\"ss_x\":\"1\\t\xc3\xa9\"},"
                                   "\"ids\":{\"dtype\":\"I64\",\"shape\":[1,2],\"data_offsets\":[0,16]},"
                                   "\"a\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[16,20]},"
                                   "\"b\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[20,44]},"
                                   "\"e\\\"x\":{\"dtype\":\"F32\",\"shape\":[0,4],\"data_offsets\":[44,44]},"
                                   "\"bf\":{\"dtype\":\"BF16\",\"shape\":[1],\"data_offsets\":[44,46]},"
                                   "\"z.f16\":{\"dtype\":\"F16\",\"shape\":[3],\"data_offsets\":[46,52]},"
                                   "\"u\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[52,54]}}";
    IoTensor copy[7];
    char *data;
    size_t size;
    memcpy(copy, t, sizeof t);
    copy[6].name = "e\"x";
    const char *path = in(state, "w.safetensors");
    assert_int_equal(io_safetensors_write(path, copy, 7, meta, 2), 0);
    assert_int_equal(io_file_read(&data, &size, path, 10000), 0);
    size_t n = (unsigned char)data[0] | (size_t)(unsigned char)data[1] << 8;
    assert_int_equal(n % 8, 0);
    assert_int_equal(size, 8 + n + 54);
    assert_memory_equal(data + 8, expected, strlen(expected));
    for (size_t i = strlen(expected); i < n; i++)
        assert_int_equal(data[8 + i], ' ');
    assert_memory_equal(data + 8 + n, longs, 16);
    assert_memory_equal(data + 8 + n + 20, ones, 24);
    free(data);
    IoSafetensors *s;
    assert_int_equal(io_safetensors_open(&s, path), 0);
    assert_string_equal(io_safetensors_meta(s, "ss_x"), "1\t\xc3\xa9");
    io_safetensors_close(s);
}

static void test_io_safetensors__refuses_bad_writes(void **state)
{
    const char *path = in(state, "w.safetensors");
    const IoTensor good = {"a", DTYPE_F32, 1, {6}, ones, 0};
    const IoTensor twice[] = {good, good}, reserved = {"__metadata__", DTYPE_F32, 1, {1}, ones, 0},
                   latin = {"\xe9", DTYPE_F32, 1, {1}, ones, 0}, negative = {"n", DTYPE_F32, 1, {-1}, ones, 0},
                   wide = {"w", DTYPE_F64, 1, {1}, ones, 0}, many = {"m", DTYPE_F32, 9, {1}, ones, 0};
    const IoMeta meta[] = {{"k", "1"}, {"k", "2"}}, bad = {"k", "\xff"};
    assert_int_equal(io_safetensors_write(path, twice, 2, NULL, 0), ERR_FORMAT);
    has("w.safetensors: two tensors are named 'a'");
    assert_int_equal(io_safetensors_write(path, &reserved, 1, NULL, 0), ERR_FORMAT);
    assert_int_equal(io_safetensors_write(path, &latin, 1, NULL, 0), ERR_FORMAT);
    assert_int_equal(io_safetensors_write(path, &negative, 1, NULL, 0), ERR_SHAPE);
    assert_int_equal(io_safetensors_write(path, &many, 1, NULL, 0), ERR_SHAPE);
    assert_int_equal(io_safetensors_write(path, &good, 1, meta, 2), ERR_FORMAT);
    assert_int_equal(io_safetensors_write(path, &good, 1, &bad, 1), ERR_FORMAT);
    assert_false(io_file_exists(path));
    assert_int_equal(io_safetensors_write(path, &good, 0, NULL, 0), 0);
    (void)wide;
    IoSafetensors *s;
    assert_int_equal(io_safetensors_open(&s, path), 0);
    assert_int_equal(io_safetensors_count(s), 0);
    io_safetensors_close(s);
}

/* Reads a file that the library wrote, writes it again: the same bytes. */
static void rewrite(void **state, const char *path)
{
    IoSafetensors *s;
    char *a, *b;
    size_t na, nb;
    if (io_safetensors_open(&s, path) < 0)
        fail_msg("%s", err_message());
    int n = io_safetensors_count(s), m = io_safetensors_meta_count(s);
    IoTensor *t = calloc((size_t)n, sizeof *t);
    IoMeta *meta = calloc((size_t)m + 1, sizeof *meta);
    for (int i = 0; i < n; i++)
        assert_int_equal(io_safetensors_at(s, n - 1 - i, &t[i]), 0);
    for (int i = 0; i < m; i++)
        meta[i] = io_safetensors_meta_at(s, i);
    assert_int_equal(io_safetensors_write(in(state, "again"), t, n, meta, m), 0);
    assert_int_equal(io_file_read(&a, &na, path, 1 << 24), 0);
    assert_int_equal(io_file_read(&b, &nb, in(state, "again"), 1 << 24), 0);
    assert_int_equal(na, nb);
    if (memcmp(a, b, na) != 0)
        fail_msg("%s: not the same bytes", path);
    free(a);
    free(b);
    free(t);
    free(meta);
    io_safetensors_close(s);
}

static void test_io_safetensors__rewrites_library_files(void **state)
{
    const char *more = getenv("SAFETENSORS"); /* other files to try, by hand */
    rewrite(state, "tests/vectors/rng/rng.safetensors");
    if (more)
        rewrite(state, more);
}

static void write_one(void **state, const char *file, const char *tensor, float value)
{
    const IoTensor t = {tensor, DTYPE_F32, 1, {1}, &value, 0};
    const IoMeta m = {"from", file};
    assert_int_equal(io_safetensors_write(in(state, file), &t, 1, &m, 1), 0);
}

static int write_index(void **state, const char *file, const char *text)
{
    return io_file_write(in(state, file), text, strlen(text));
}

static void test_io_safetensors__opens_shards(void **state)
{
    static const char *const bases[] = {"other", "model", NULL};
    IoSafetensors *s;
    IoTensor t;
    write_one(state, "model-2.safetensors", "b", 2);
    write_one(state, "model-1.safetensors", "a", 1);
    write_index(state, "model.safetensors.index.json",
                "{\"metadata\":{\"total_size\":8,\"x\":[1,{\"y\":null}]},\"weight_map\":{\"b\":\"model-2.safetensors\","
                "\"a\":\"model-1.safetensors\"}}");
    if (io_safetensors_open_model(&s, *state, bases, NULL) < 0)
        fail_msg("%s", err_message());
    assert_int_equal(io_safetensors_count(s), 2);
    assert_int_equal(io_safetensors_get(s, "b", &t), 0);
    assert_true(*(const float *)t.data == 2.0f);
    assert_int_equal(io_safetensors_get(s, "a", &t), 0);
    assert_true(*(const float *)t.data == 1.0f);
    assert_string_equal(io_safetensors_meta(s, "from"), "model-1.safetensors");
    io_safetensors_close(s);
}

static void test_io_safetensors__bad_indexes(void **state)
{
    static const struct {
        const char *text;
        int code;
        const char *part;
    } cases[] = {
        {"{\"weight_map\":{\"a\":\"gone.safetensors\"}}", ERR_NOTFOUND, "a shard is missing"},
        {"{\"weight_map\":{\"z\":\"one.safetensors\"}}", ERR_NOTFOUND, "tensor 'z' is not in one.safetensors"},
        {"{\"weight_map\":{\"a\":\"../one.safetensors\"}}", ERR_FORMAT, "outside the folder"},
        {"{\"weight_map\":{\"a\":\"/etc/passwd\"}}", ERR_FORMAT, "outside the folder"},
        {"{\"weight_map\":{\"a\":\"one.safetensors\",\"a\":\"one.safetensors\"}}", ERR_FORMAT, "'a' appears twice"},
        {"{\"weight_map\":{\"a\":1}}", ERR_FORMAT, "byte"},
        {"{\"weight_map\":[]}", ERR_FORMAT, "byte"},
        {"{\"weight_map\":{},\"weight_map\":{}}", ERR_FORMAT, "twice"},
        {"{}", ERR_FORMAT, "'weight_map' is missing"},
        {"{\"m\":[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[", ERR_FORMAT, "nested too deeply"},
        {"", ERR_FORMAT, "byte 0"},
    };
    write_one(state, "one.safetensors", "a", 1);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        IoSafetensors *s;
        write_index(state, "m.safetensors.index.json", cases[i].text);
        int rc = io_safetensors_open(&s, in(state, "m.safetensors.index.json"));
        if (rc != cases[i].code)
            fail_msg("%s: returned %d (%s)", cases[i].text, rc, err_message());
        has("m.safetensors.index.json");
        has(cases[i].part);
    }
}

static void test_io_safetensors__picks_variants(void **state)
{
    static const char *const bases[] = {"model", NULL};
    IoSafetensors *s;
    assert_int_equal(io_safetensors_open_model(&s, *state, bases, NULL), ERR_NOTFOUND);
    has("no weights found: expected model.safetensors");
    write_one(state, "model.fp16.safetensors", "a", 16);
    assert_int_equal(io_safetensors_open_model(&s, *state, bases, NULL), 0);
    assert_string_equal(io_safetensors_meta(s, "from"), "model.fp16.safetensors");
    io_safetensors_close(s);
    write_one(state, "model.safetensors", "a", 32);
    assert_int_equal(io_safetensors_open_model(&s, *state, bases, NULL), 0);
    assert_string_equal(io_safetensors_meta(s, "from"), "model.safetensors");
    io_safetensors_close(s);
    assert_int_equal(io_safetensors_open_model(&s, *state, bases, "fp16"), 0);
    assert_string_equal(io_safetensors_meta(s, "from"), "model.fp16.safetensors");
    io_safetensors_close(s);
    assert_int_equal(io_safetensors_open_model(&s, *state, bases, "bf16"), 0);
    io_safetensors_close(s);
    assert_int_equal(remove(in(state, "model.safetensors")), 0);
    assert_int_equal(remove(in(state, "model.fp16.safetensors")), 0);
    write_one(state, "shard.safetensors", "a", 1);
    write_index(state, "model.safetensors.index.fp16.json", "{\"weight_map\":{\"a\":\"shard.safetensors\"}}");
    assert_int_equal(io_safetensors_open_model(&s, *state, bases, NULL), 0);
    io_safetensors_close(s);
}

/* Against hashes of the written file itself. */
static void test_io_safetensors__kohya_hashes(void **state)
{
    enum { N = 300000 };
    static float big[N];
    char model[65], legacy[9], hex[65];
    uint8_t sum[32];
    char *data;
    size_t size;
    for (int i = 0; i < N; i++)
        big[i] = (float)i;
    const IoTensor t[] = {{"a", DTYPE_F32, 1, {N}, big, 0}, {"alpha", DTYPE_F32, 0, {0}, ones, 0}};
    const IoMeta meta[] = {{"ss_network_dim", "4"}, {"modelspec.title", "x"}};
    const char *path = in(state, "k");
    assert_int_equal(io_safetensors_kohya_hashes(model, legacy, t, 2, meta, 2), 0);
    assert_int_equal(io_safetensors_write(path, t, 2, meta, 1), 0); /* the file with only ss_ metadata */
    assert_int_equal(io_file_read(&data, &size, path, 1 << 24), 0);
    size_t n = (unsigned char)data[0] | (size_t)(unsigned char)data[1] << 8;
    free(data);
    assert_int_equal(hash_file_range(sum, path, (int64_t)(8 + n), -1), 0);
    hash_hex(hex, sum, 32);
    assert_string_equal(model, hex);
    assert_int_equal(hash_file_range(sum, path, 0x100000, 0x10000), 0);
    hash_hex(hex, sum, 4);
    assert_string_equal(legacy, hex);
    /* A file that ends before: the hash of nothing. */
    assert_int_equal(io_safetensors_kohya_hashes(model, legacy, t + 1, 1, meta, 2), 0);
    assert_string_equal(legacy, "e3b0c442");
}

static int64_t file_rss_kib(void)
{
    char line[256];
    long kib = 0;
    FILE *f = fopen("/proc/self/status", "r");
    assert_non_null(f);
    while (fgets(line, sizeof line, f))
        if (!strncmp(line, "RssFile:", 8))
            kib = strtol(line + 8, NULL, 10);
    fclose(f);
    return kib;
}

static float total(const IoTensor *t)
{
    float sum = 0;
    for (int64_t i = 0; i < t->dim[0]; i++)
        sum += ((const float *)t->data)[i];
    return sum;
}

static void test_io_safetensors__gives_memory_back(void **state)
{
    enum { N = 1 << 20 };
    static float x[N];
    for (int i = 0; i < N; i++)
        x[i] = (float)(i % 7);
    const IoTensor t[] = {{"a", DTYPE_F32, 1, {N}, x, 0}, {"b", DTYPE_F32, 1, {N}, x, 0}};
    const char *path = in(state, "big.safetensors");
    IoSafetensors *s;
    IoTensor a, b;
    assert_int_equal(io_safetensors_write(path, t, 2, NULL, 0), 0);
    assert_int_equal(io_safetensors_open(&s, path), 0);
    assert_int_equal(io_safetensors_get(s, "a", &a), 0);
    assert_int_equal(io_safetensors_get(s, "b", &b), 0);
    float sum = total(&a);
    assert_true(total(&b) == sum);
    int64_t both = file_rss_kib();
    io_safetensors_release(s, io_safetensors_find(s, "a"));
    int64_t one = file_rss_kib();
    io_safetensors_release(s, -1);
    int64_t none = file_rss_kib();
    assert_true(both - one > 3900 && both - one < 4200);
    assert_true(both - none > 8000);
    assert_true(total(&a) == sum && total(&b) == sum);
    io_safetensors_close(s);
}

int main(void)
{
#define D(f) cmocka_unit_test_setup_teardown(f, make_dir, remove_dir)
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_io_safetensors__reads_views),
        cmocka_unit_test(test_io_safetensors__aligns_data),
        cmocka_unit_test(test_io_safetensors__rejects_hostile_headers),
        cmocka_unit_test(test_io_safetensors__rejects_lying_sizes),
        cmocka_unit_test(test_io_safetensors__rejects_every_truncation),
        D(test_io_safetensors__missing_and_odd_files),
        D(test_io_safetensors__writes_the_library_layout),
        D(test_io_safetensors__refuses_bad_writes),
        D(test_io_safetensors__rewrites_library_files),
        D(test_io_safetensors__opens_shards),
        D(test_io_safetensors__bad_indexes),
        D(test_io_safetensors__picks_variants),
        D(test_io_safetensors__kohya_hashes),
        D(test_io_safetensors__gives_memory_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
