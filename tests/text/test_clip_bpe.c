#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "text/clip_bpe.h"

#define DIR_SD15 "tests/vectors/sd15-tiny/tokenizer"

static json_t *load(const char *path)
{
    json_error_t e;
    json_t *j = json_load_file(path, JSON_ALLOW_NUL, &e);
    if (!j)
        fail_msg("%s: %s", path, e.text);
    return j;
}

static void put(const char *dir, const char *name, const char *text)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    assert_int_equal(fclose(f), 0);
}

static void temp_dir(char *dir)
{
    strcpy(dir, "/tmp/test_clip_bpe_XXXXXX");
    assert_non_null(mkdtemp(dir));
}

static void drop_dir(const char *dir)
{
    static const char *const name[] = {"vocab.json", "merges.txt", "special_tokens_map.json", "tokenizer_config.json",
                                       "tokenizer.json", "added_tokens.json"};
    char path[512];
    for (size_t i = 0; i < sizeof name / sizeof *name; i++) {
        snprintf(path, sizeof path, "%s/%s", dir, name[i]);
        unlink(path);
    }
    rmdir(dir);
}

static void link_vocab(const char *dir)
{
    char from[1024], to[512], cwd[512];
    assert_non_null(getcwd(cwd, sizeof cwd));
    for (int i = 0; i < 2; i++) {
        const char *name = i ? "merges.txt" : "vocab.json";
        snprintf(from, sizeof from, "%s/" DIR_SD15 "/%s", cwd, name);
        snprintf(to, sizeof to, "%s/%s", dir, name);
        assert_int_equal(symlink(from, to), 0);
    }
}

static void check_ids(const json_t *text, const json_t *want, const int32_t *ids, int n)
{
    int same = (size_t)n == json_array_size(want);
    for (int i = 0; same && i < n; i++)
        same = json_integer_value(json_array_get(want, (size_t)i)) == ids[i];
    if (same)
        return;
    fprintf(stderr, "text \"%s\": got", json_string_value(text));
    for (int i = 0; i < n; i++)
        fprintf(stderr, " %d", ids[i]);
    fail_msg("ids differ");
}

/* `key`: ids (no specials), ids77 or ids77_pad0. */
static int check_cases(const ClipBpe *tok, const char *key)
{
    json_t *cases = load("tests/vectors/tokenizer/clip_cases.json"), *c;
    size_t i;
    int32_t ids[4096];
    int count = 0;
    json_array_foreach(cases, i, c)
    {
        const json_t *text = json_object_get(c, "text");
        int n = 77;
        if (strcmp(key, "ids") == 0)
            assert_int_equal(clip_bpe_encode_bytes(tok, json_string_value(text), json_string_length(text), ids, 4096, &n), 0);
        else
            assert_int_equal(clip_bpe_encode_padded_bytes(tok, json_string_value(text), json_string_length(text), 77, ids), 0);
        check_ids(text, json_object_get(c, key), ids, n);
        count++;
    }
    json_decref(cases);
    return count;
}

static void test_text_clip_bpe__golden_ids(void **state)
{
    (void)state;
    ClipBpe *tok;
    assert_int_equal(clip_bpe_open(&tok, DIR_SD15), 0);
    assert_int_equal(check_cases(tok, "ids"), 88);
    assert_int_equal(check_cases(tok, "ids77"), 88);
    assert_int_equal(clip_bpe_bos(tok), 49406);
    assert_int_equal(clip_bpe_eos(tok), 49407);
    assert_int_equal(clip_bpe_pad(tok), 49407);
    assert_int_equal(clip_bpe_vocab_size(tok), 49408);
    assert_int_equal(clip_bpe_max_length(tok), 77);
    clip_bpe_close(tok);
}

static void test_text_clip_bpe__golden_pad_exclamation(void **state)
{
    (void)state;
    char dir[64];
    ClipBpe *tok;
    temp_dir(dir);
    link_vocab(dir);
    put(dir, "special_tokens_map.json",
        "{\"bos_token\":{\"content\":\"<|startoftext|>\",\"normalized\":true},\"eos_token\":{\"content\":\"<|endoftext|>\","
        "\"normalized\":true},\"pad_token\":\"!\"}");
    assert_int_equal(clip_bpe_open(&tok, dir), 0);
    assert_int_equal(clip_bpe_pad(tok), 0);
    assert_int_equal(check_cases(tok, "ids77_pad0"), 88);
    clip_bpe_close(tok);
    drop_dir(dir);
}

/* The same vocabulary as tokenizer.json, with merges as strings and as pairs. */
static void test_text_clip_bpe__golden_tokenizer_json(void **state)
{
    (void)state;
    for (int pairs = 0; pairs < 2; pairs++) {
        char dir[64], path[128], line[512];
        ClipBpe *tok;
        temp_dir(dir);
        json_t *merges = json_array();
        FILE *f = fopen(DIR_SD15 "/merges.txt", "r");
        assert_non_null(f);
        for (int no = 0; fgets(line, sizeof line, f); no++) {
            line[strcspn(line, "\n")] = 0;
            char *sp = strchr(line, ' ');
            if (!no)
                continue;
            if (pairs)
                json_array_append_new(merges, json_pack("[s%,s]", line, (size_t)(sp - line), sp + 1));
            else
                json_array_append_new(merges, json_string(line));
        }
        fclose(f);
        json_t *root = json_pack("{s:{s:s,s:s,s:o,s:o},s:[{s:i,s:s,s:b},{s:i,s:s,s:b}]}", "model", "type", "BPE",
                                 "end_of_word_suffix", "</w>", "vocab", load(DIR_SD15 "/vocab.json"), "merges", merges,
                                 "added_tokens", "id", 49406, "content", "<|startoftext|>", "normalized", 1, "id", 49407,
                                 "content", "<|endoftext|>", "normalized", 1);
        assert_non_null(root);
        snprintf(path, sizeof path, "%s/tokenizer.json", dir);
        assert_int_equal(json_dump_file(root, path, JSON_COMPACT), 0);
        json_decref(root);
        assert_int_equal(clip_bpe_open(&tok, dir), 0);
        check_cases(tok, "ids");
        check_cases(tok, "ids77");
        clip_bpe_close(tok);
        drop_dir(dir);
    }
}

static const char tiny_vocab[] = "{\"a\":0,\"b\":1,\"a</w>\":2,\"b</w>\":3,\"ab</w>\":4,\"<|startoftext|>\":5,\"<|endoftext|>\":6}";

static void test_text_clip_bpe__small_vocabulary(void **state)
{
    (void)state;
    char dir[64];
    ClipBpe *tok;
    int32_t ids[16];
    int n;
    temp_dir(dir);
    put(dir, "vocab.json", tiny_vocab);
    put(dir, "merges.txt", "#version: 0.2\na b</w>\n");
    assert_int_equal(clip_bpe_open(&tok, dir), 0);
    assert_int_equal(clip_bpe_vocab_size(tok), 7);
    assert_int_equal(clip_bpe_encode(tok, "AB b aab c", ids, 16, &n), 0);
    const int32_t want[] = {4, 3, 0, 4, 6}; /* c is unknown: unk is eos */
    assert_int_equal(n, 5);
    assert_memory_equal(ids, want, sizeof want);
    clip_bpe_close(tok);
    drop_dir(dir);
}

static void test_text_clip_bpe__counts_beyond_max(void **state)
{
    (void)state;
    ClipBpe *tok;
    int32_t ids[3] = {0, 0, -7};
    int n;
    assert_int_equal(clip_bpe_open(&tok, DIR_SD15), 0);
    assert_int_equal(clip_bpe_encode(tok, "a photo of a cat", ids, 2, &n), 0);
    assert_int_equal(n, 5);
    assert_int_equal(ids[0], 320);
    assert_int_equal(ids[1], 1125);
    assert_int_equal(ids[2], -7);
    assert_int_equal(clip_bpe_encode_padded(tok, "x", 1, ids), ERR_RANGE);
    clip_bpe_close(tok);
}

static void test_text_clip_bpe__invalid_utf8_is_replaced(void **state)
{
    (void)state;
    static const char *const bad[] = {"\xFF", "\xC0\x80", "\xE2\x82", "\xED\xA0\x80", "\xF4\x90\x80\x80", "a\x80z", "\xF0\x9F\x98"};
    static const char *const good[] = {"\xEF\xBF\xBD", "\xEF\xBF\xBD\xEF\xBF\xBD", "\xEF\xBF\xBD", "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD",
                                       "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD", "a\xEF\xBF\xBDz", "\xEF\xBF\xBD"};
    ClipBpe *tok;
    int32_t a[64], b[64];
    int na, nb;
    assert_int_equal(clip_bpe_open(&tok, DIR_SD15), 0);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(clip_bpe_encode(tok, bad[i], a, 64, &na), 0);
        assert_int_equal(clip_bpe_encode(tok, good[i], b, 64, &nb), 0);
        assert_int_equal(na, nb);
        assert_memory_equal(a, b, (size_t)na * sizeof *a);
    }
    clip_bpe_close(tok);
}

/* A word of 200,000 bytes: the heap keeps this well under a second. */
static void test_text_clip_bpe__long_word(void **state)
{
    (void)state;
    enum { N = 200000 };
    ClipBpe *tok;
    char *text = malloc(N + 1);
    int n;
    assert_non_null(text);
    for (int i = 0; i < N; i++)
        text[i] = (char)('a' + (i % 7) * (i % 7) % 7 * (i % 3 + 1) % 26);
    text[N] = 0;
    assert_int_equal(clip_bpe_open(&tok, DIR_SD15), 0);
    assert_int_equal(clip_bpe_encode(tok, text, NULL, 0, &n), 0);
    assert_in_range(n, N / 16, N);
    clip_bpe_close(tok);
    free(text);
}

static void expect_open(const char *vocab, const char *merges, const char *map, int code, const char *says)
{
    char dir[64];
    ClipBpe *tok = (ClipBpe *)(uintptr_t)1;
    temp_dir(dir);
    if (vocab)
        put(dir, "vocab.json", vocab);
    if (merges)
        put(dir, "merges.txt", merges);
    if (map)
        put(dir, "special_tokens_map.json", map);
    assert_int_equal(clip_bpe_open(&tok, dir), code);
    assert_null(tok);
    assert_non_null(strstr(err_message(), dir));
    if (!strstr(err_message(), says))
        fail_msg("\"%s\" lacks \"%s\"", err_message(), says);
    drop_dir(dir);
}

static void test_text_clip_bpe__bad_files(void **state)
{
    (void)state;
    expect_open(NULL, NULL, NULL, ERR_NOTFOUND, "vocab.json");
    expect_open(tiny_vocab, NULL, NULL, ERR_NOTFOUND, "merges.txt");
    expect_open("{\"a\":", "", NULL, ERR_FORMAT, "vocab.json: line 1");
    expect_open("[]", "", NULL, ERR_FORMAT, "object");
    expect_open("{\"a\":-1}", "", NULL, ERR_FORMAT, "\"a\"");
    expect_open("{\"a\":\"x\"}", "", NULL, ERR_FORMAT, "\"a\"");
    expect_open("{\"a\":0}", "", NULL, ERR_FORMAT, "<|startoftext|>");
    expect_open(tiny_vocab, "#version\na b</w>\na zz\n", NULL, ERR_FORMAT, "merges.txt: line 3");
    expect_open(tiny_vocab, "ab\n", NULL, ERR_FORMAT, "line 1");
    expect_open(tiny_vocab, "", "{\"pad_token\":\"!\"}", ERR_FORMAT, "pad_token");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_text_clip_bpe__golden_ids),
        cmocka_unit_test(test_text_clip_bpe__golden_pad_exclamation),
        cmocka_unit_test(test_text_clip_bpe__golden_tokenizer_json),
        cmocka_unit_test(test_text_clip_bpe__small_vocabulary),
        cmocka_unit_test(test_text_clip_bpe__counts_beyond_max),
        cmocka_unit_test(test_text_clip_bpe__invalid_utf8_is_replaced),
        cmocka_unit_test(test_text_clip_bpe__long_word),
        cmocka_unit_test(test_text_clip_bpe__bad_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
