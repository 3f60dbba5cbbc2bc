/* Prompts to embeddings: chunks, weights, editing, textual inversions; with an encoder that writes what it was given. */
#include "models/fixture.h"

#include <jansson.h>
#include <unistd.h>

#include "base/str.h"
#include "models/cond.h"

#define TOKENIZER "tests/vectors/sd15-tiny/tokenizer"
enum { WIDTH = 2 };

static ClipBpe *tok;
static int runs;

/* hidden[i] = (id or 1000 + first value of the vector, place). */
static int encode(void *ctx, const int32_t *ids, const CondVector *v, int n, float *hidden, float *pooled)
{
    int length = *(int *)ctx;
    runs++;
    for (int i = 0; i < length; i++) {
        hidden[WIDTH * i] = (float)ids[i];
        hidden[WIDTH * i + 1] = (float)i;
    }
    for (int i = 0; i < n; i++)
        hidden[WIDTH * v[i].at] = 1000000 + v[i].vector[0];
    if (pooled)
        pooled[0] = (float)ids[1];
    return 0;
}

static int32_t id_of(const char *word)
{
    int32_t id[8];
    int n;
    OK(clip_bpe_encode(tok, word, id, 8, &n));
    assert_int_equal(n, 1);
    return id[0];
}

/* "a b , | c": ids of words, '|' for the end of a chunk, '_' for padding. */
static void expect_chunks(const char *prompt, PromptRules rules, int length, const ChunkWord *words, int nwords, const char *want)
{
    Prompt p;
    Chunks c;
    StrBuf b;
    OK(prompt_parse(&p, prompt, rules));
    OK(chunks_make(&c, &p, tok, length, words, nwords, rules));
    str_init(&b);
    for (int k = 0; k < c.count; k++) {
        const int32_t *ids = c.ids + k * length, *row = c.row + k * length;
        const double *w = c.weight + k * length;
        str_add(&b, k ? " |" : "");
        assert_int_equal(ids[0], clip_bpe_bos(tok));
        int end = 1;
        while (ids[end] != clip_bpe_eos(tok) || row[end] >= 0)
            end++;
        for (int i = end + 1; i < length; i++)
            assert_int_equal(ids[i], clip_bpe_pad(tok));
        for (int i = 1; i < end; i++) {
            static const char *const known[] = {"a", "b", "c", "d", "e", "f", "g", "h", ","};
            const char *name = "?";
            for (size_t j = 0; j < sizeof known / sizeof *known; j++)
                name = ids[i] == id_of(known[j]) ? known[j] : name;
            if (row[i] >= 0)
                str_add_format(&b, " #%d", row[i]);
            else
                str_add_format(&b, " %s", name);
            if (w[i] != 1)
                str_add_format(&b, ":%g", w[i]);
        }
    }
    if (strcmp(b.data + (b.data[0] == ' '), want) != 0)
        fail_msg("'%s': '%s', expected '%s'", prompt, b.data, want);
    str_deinit(&b);
    chunks_deinit(&c);
    prompt_deinit(&p);
}

/* Chunks of 5 tokens. Expected values: the rules of sd_hijack_clip.tokenize_line and SDTokenizer.tokenize_with_weights by hand. */
static void test_chunks(void **state)
{
    (void)state;
    expect_chunks("a b c", PROMPT_A1111, 7, NULL, 0, "a b c");
    expect_chunks("", PROMPT_A1111, 7, NULL, 0, "");
    expect_chunks("a b c d e f", PROMPT_A1111, 7, NULL, 0, "a b c d e | f");
    expect_chunks("a b, c d e f", PROMPT_A1111, 7, NULL, 0, "a b , | c d e f");
    expect_chunks("a b c d, e", PROMPT_A1111, 7, NULL, 0, "a b c d , | e");
    expect_chunks("a b c d e, f", PROMPT_A1111, 7, NULL, 0, "a b c d e | , f");
    expect_chunks("a BREAK b BREAK", PROMPT_A1111, 7, NULL, 0, "a | b");
    expect_chunks("BREAK a", PROMPT_A1111, 7, NULL, 0, "| a");
    expect_chunks("a BREAK BREAK b", PROMPT_A1111, 7, NULL, 0, "a | | b");
    expect_chunks("a (b:1.5) [c] d", PROMPT_ATELIER, 7, NULL, 0, "a b:1.5 c:0.909091 d");
    expect_chunks("(a BREAK b:2)", PROMPT_ATELIER, 7, NULL, 0, "a:2 | b:2");
    expect_chunks("a b c d e f g", PROMPT_COMFYUI, 7, NULL, 0, "a b c d e | f g");
    expect_chunks("(a (b:0.5) c) (d:2", PROMPT_COMFYUI, 12, NULL, 0, "a:1.1 b:0.5 c:1.1 ? d ? ?");
    expect_chunks("a \\(b", PROMPT_COMFYUI, 7, NULL, 0, "a ? b");
    expect_chunks("a b c d e f g", PROMPT_DIFFUSERS, 7, NULL, 0, "a b c d e");
    expect_chunks("a (b:2)", PROMPT_DIFFUSERS, 10, NULL, 0, "a ? b ? ? ?");
    /* ComfyUI keeps a word of under 8 tokens in one piece. */
    expect_chunks("a b c ,,,", PROMPT_COMFYUI, 7, NULL, 0, "a b c ?");
}

static void test_chunks_with_words(void **state)
{
    (void)state;
    const ChunkWord words[] = {{"f g", 0, 2}, {"h", 2, 3}, {"f", 5, 1}};
    expect_chunks("a f g b", PROMPT_A1111, 7, words, 3, "a #0 #1 b");
    expect_chunks("a f b", PROMPT_A1111, 7, words, 3, "a #5 b");
    expect_chunks("a b c (h:1.2)", PROMPT_A1111, 7, words, 3, "a b c | #2:1.2 #3:1.2 #4:1.2");
    expect_chunks("a embedding:h, f", PROMPT_COMFYUI, 9, words, 3, "a #2 #3 #4 , f");
    expect_chunks("a f b", PROMPT_DIFFUSERS, 7, words, 3, "a #5 b");
}

static CondEncoder encoder(int *length, PromptRules rules)
{
    return (CondEncoder){.tok = tok, .length = *length, .width = WIDTH, .pool = 1, .rules = rules, .encode = encode, .ctx = length};
}

static void test_cond__lengths(void **state)
{
    (void)state;
    int length = 7, n, parts;
    CondEncoder e = encoder(&length, PROMPT_A1111);
    Cond *c;
    OK(cond_create(&c, &e, "a b c d e f", "g", 10));
    assert_int_equal(cond_chunks(c), 2);
    OK(cond_count(&e, "a b c d e f", "g", 10, &n, &parts));
    assert_int_equal(n, 2);
    const float *p = cond_get(c, 0, COND_PROMPT), *g = cond_get(c, 9, COND_NEGATIVE);
    assert_true(p[WIDTH * 8] == (float)id_of("f"));
    assert_true(g[WIDTH * 1] == (float)id_of("g") && g[WIDTH * 8] == (float)id_of("g")); /* repeated whole */
    assert_true(cond_pooled(c, 0, COND_PROMPT)[0] == (float)id_of("a"));
    cond_destroy(c);
    OK(cond_count(&e, "a BREAK b BREAK c", "a BREAK b", 1, &n, &parts));
    assert_int_equal(n, 6);
    OK(cond_count(&e, "a BREAK b BREAK c BREAK d BREAK e BREAK f BREAK g", "a BREAK b BREAK c BREAK d BREAK e", 1, &n, &parts));
    assert_int_equal(n, 7); /* 35 would be too many: filled up with empty chunks */
    OK(cond_create(&c, &e, "a", NULL, 1));
    assert_null(cond_get(c, 0, COND_NEGATIVE));
    cond_destroy(c);
}

static void test_cond__and(void **state)
{
    (void)state;
    int length = 7;
    CondEncoder e = encoder(&length, PROMPT_A1111);
    Cond *c;
    FAILS(cond_create(&c, &e, "a AND b", NULL, 1), ERR_UNSUPPORTED, "AND");
    OK(cond_create(&c, &e, "a :1.5 AND b c : -.5 AND[d:e:3]", "f AND g", 6));
    assert_int_equal(cond_parts(c), 3);
    int n, parts;
    OK(cond_count(&e, "a AND b BREAK c", "d", 1, &n, &parts));
    assert_true(n == 2 && parts == 2);
    assert_true(cond_part_weight(c, 0) == 1.5 && cond_part_weight(c, 1) == -0.5 && cond_part_weight(c, 2) == 1);
    assert_true(cond_part_get(c, 0, 1)[WIDTH] == (float)id_of("b") && cond_part_get(c, 0, 1)[2 * WIDTH] == (float)id_of("c"));
    assert_true(cond_part_get(c, 0, 2)[WIDTH] == (float)id_of("d") && cond_part_get(c, 5, 2)[WIDTH] == (float)id_of("e"));
    assert_true(cond_get(c, 0, COND_PROMPT) == cond_part_get(c, 0, 0));
    cond_destroy(c);
    OK(cond_create(&c, &e, "a: AND b:1.2.3 ANDY", "f", 1)); /* no weights, no third part */
    assert_int_equal(cond_parts(c), 2);
    assert_true(cond_part_weight(c, 0) == 1 && cond_part_weight(c, 1) == 1);
    cond_destroy(c);
    OK(cond_create(&c, &e, "a BREAK b AND c", "f", 1)); /* the shorter part goes on with its last row */
    assert_int_equal(cond_chunks(c), 2);
    const float *z = cond_part_get(c, 0, 1);
    for (int i = length; i < 2 * length; i++)
        assert_memory_equal(z + i * WIDTH, z + (length - 1) * WIDTH, WIDTH * sizeof *z);
    cond_destroy(c);
    FAILS(cond_create(&c, &e, "a AND a AND a AND a AND a AND a AND a AND a AND a AND a AND a AND a AND a AND a AND a AND a AND a", "f", 1), ERR_RANGE, "16");
    e.rules = PROMPT_ATELIER;
    OK(cond_create(&c, &e, "a AND b", NULL, 1));
    assert_int_equal(cond_parts(c), 1);
    cond_destroy(c);
}

static void test_cond__editing(void **state)
{
    (void)state;
    int length = 7;
    CondEncoder e = encoder(&length, PROMPT_ATELIER);
    Cond *c;
    runs = 0;
    OK(cond_create(&c, &e, "[a:b:3] c", "[d|e]", 6));
    assert_int_equal(runs, 4 + 4); /* 2 stages, and one of the negative prompt per call */
    for (int i = 0; i < 6; i++) {
        assert_true(cond_get(c, i, COND_PROMPT)[WIDTH] == (float)id_of(i < 3 ? "a" : "b"));
        assert_true(cond_get(c, i, COND_NEGATIVE)[WIDTH] == (float)id_of(i % 2 ? "e" : "d"));
    }
    cond_destroy(c);
    e.rules = PROMPT_A1111;
    OK(cond_create(&c, &e, "[a:b:3] c", NULL, 6));
    for (int i = 0; i < 6; i++)
        assert_true(cond_get(c, i, COND_PROMPT)[WIDTH] == (float)id_of(i <= 3 ? "a" : "b"));
    cond_destroy(c);
    OK(cond_create(&c, &e, "[a b c d e f:a:0.5]", NULL, 6)); /* stages of one prompt have one length */
    assert_int_equal(cond_chunks(c), 2);
    assert_true(cond_get(c, 5, COND_PROMPT)[WIDTH * 8] == (float)clip_bpe_eos(tok));
    cond_destroy(c);
}

static void test_cond__weights(void **state)
{
    (void)state;
    json_error_t err;
    json_t *all = json_load_file("tests/vectors/text/weights.json", 0, &err), *v;
    assert_non_null(all);
    for (int rules = 0; rules < PROMPT_RULES; rules++) {
        float z[15], empty[15];
        double w[5];
        for (size_t i = 0; i < 15; i++) {
            z[i] = (float)json_number_value(json_array_get(json_object_get(all, "z"), i));
            empty[i] = (float)json_number_value(json_array_get(json_object_get(all, "empty"), i));
        }
        for (size_t i = 0; i < 5; i++)
            w[i] = json_number_value(json_array_get(json_object_get(all, "weight"), i));
        cond_weigh(z, w, 5, 3, empty, (PromptRules)rules);
        v = json_object_get(all, PROMPT_RULES_NAMES[rules]);
        for (size_t i = 0; i < 15; i++)
            assert_true(fabs(z[i] - json_number_value(json_array_get(v, i))) < 1e-5);
    }
    json_decref(all);
    int length = 7;
    CondEncoder e = encoder(&length, PROMPT_ATELIER);
    Cond *c;
    runs = 0;
    OK(cond_create(&c, &e, "a (b:3)", NULL, 1));
    assert_int_equal(runs, 2); /* the empty prompt too */
    float eos = (float)clip_bpe_eos(tok), b = (float)id_of("b"), pad = (float)clip_bpe_pad(tok);
    assert_true(cond_get(c, 0, COND_PROMPT)[WIDTH] == (float)id_of("a"));
    assert_true(cond_get(c, 0, COND_PROMPT)[WIDTH * 2] == (b - pad) * 3 + pad && eos > 0);
    cond_destroy(c);
}

static void write_file(const char *path, const char *name, int ndim, int64_t n, int64_t width, const char *other, int64_t other_width)
{
    float data[200];
    for (int i = 0; i < 200; i++)
        data[i] = (float)i;
    IoTensor t[2] = {{.name = name, .dtype = DTYPE_F32, .ndim = ndim, .dim = {ndim == 2 ? n : width, width}, .data = data},
                     {.name = other, .dtype = DTYPE_F32, .ndim = 2, .dim = {n, other_width}, .data = data + 50}};
    OK(io_safetensors_write(path, t, other ? 2 : 1, NULL, 0));
}

static void test_inversions(void **state)
{
    (void)state;
    char dir[] = "/tmp/test_cond_XXXXXX", path[64];
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/cat.safetensors", dir);
    InversionSet s;
    inversion_set_init(&s, 4);
    write_file(path, "<cat-toy>", 1, 1, 4, NULL, 0); /* diffusers */
    OK(inversion_set_add(&s, path, NULL));
    assert_string_equal(s.word[0].name, "<cat-toy>");
    write_file(path, "emb_params", 2, 3, 4, NULL, 0); /* A1111, kohya */
    OK(inversion_set_add(&s, path, NULL));
    assert_string_equal(s.word[1].name, "cat");
    assert_true(s.word[1].first == 1 && s.word[1].count == 3 && s.rows == 4 && s.vectors[4 * 2] == 4);
    FAILS(inversion_set_add(&s, path, NULL), ERR_FORMAT, "'cat' already");
    write_file(path, "clip_g", 2, 2, 6, "clip_l", 4); /* kohya for SDXL: the one that fits */
    OK(inversion_set_add(&s, path, "pair"));
    assert_true(s.word[2].count == 2 && s.vectors[16] == 50);
    write_file(path, "emb_params", 2, 3, 8, NULL, 0);
    FAILS(inversion_set_add(&s, path, "wide"), ERR_SHAPE, "vectors of width 8; this model's text encoder takes 4");
    write_file(path, "clip_g", 2, 2, 6, "clip_l", 8);
    FAILS(inversion_set_add(&s, path, "wide"), ERR_SHAPE, "width 8");
    write_file(path, "weight", 2, 2, 6, "bias", 8);
    FAILS(inversion_set_add(&s, path, "none"), ERR_FORMAT, "no textual inversion");
    int length = 7;
    CondEncoder e = encoder(&length, PROMPT_A1111);
    Cond *c;
    e.words = &s;
    OK(cond_create(&c, &e, "a cat b", NULL, 1));
    const float *p = cond_get(c, 0, COND_PROMPT);
    assert_true(p[WIDTH] == (float)id_of("a") && p[WIDTH * 2] == 1000000 && p[WIDTH * 3] == 1000004 && p[WIDTH * 4] == 1000008 &&
                p[WIDTH * 5] == (float)id_of("b"));
    cond_destroy(c);
    inversion_set_deinit(&s);
    unlink(path);
    rmdir(dir);
}

static int setup(void **state)
{
    (void)state;
    return clip_bpe_open(&tok, TOKENIZER);
}

static int teardown(void **state)
{
    (void)state;
    clip_bpe_close(tok);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_chunks), cmocka_unit_test(test_chunks_with_words), cmocka_unit_test(test_cond__lengths),
        cmocka_unit_test(test_cond__and),
                                       cmocka_unit_test(test_cond__editing), cmocka_unit_test(test_cond__weights), cmocka_unit_test(test_inversions)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
