#include "train/dataset.h"

#include "io/h5.h"
#include "train/unit.h"

typedef struct {
    TrainConf c;
    TrainDataset *d;
} Set;

static int try_open(Set *s, const char *datasets, const char *const *more)
{
    const char *o[16] = {datasets};
    for (int i = 0; more && more[i]; i++)
        o[i + 1] = more[i];
    memset(s, 0, sizeof *s);
    conf_make(&s->c, o);
    return train_dataset_open(&s->d, &s->c);
}

static void set_open(Set *s, const char *path, const char *keys, const char *const *more)
{
    char text[512];
    snprintf(text, sizeof text, "datasets=[{path: %s%s}]", at(path), keys);
    OK(try_open(s, text, more));
}

static void set_close(Set *s)
{
    train_dataset_close(s->d);
    train_conf_deinit(&s->c);
}

static void set_fails(const char *path, int code, const char *part)
{
    char text[512];
    Set s;
    snprintf(text, sizeof text, "datasets=[{path: %s}]", at(path));
    FAILS(try_open(&s, text, NULL), code, part);
    train_conf_deinit(&s.c);
}

static void caption_is(const Set *s, int64_t i, const char *file, const char *caption)
{
    const TrainItem *it = train_dataset_item(s->d, i);
    assert_string_equal(io_path_name(it->path), file);
    assert_string_equal(it->caption, caption);
}

/* Made in the reverse of the order of names; other files are passed over. */
static void make_folder(const char *dir)
{
    char name[128];
    OK(io_dir_make(at(dir)));
    static const char *const files[] = {"zebra.png", "my_red-car.png", "cat.png", "b.PNG", "a.png"};
    for (int i = 0; i < 5; i++) {
        snprintf(name, sizeof name, "%s/%s", dir, files[i]);
        put_image(name, 8, 8, 40 * i);
    }
    snprintf(name, sizeof name, "%s/a.txt", dir);
    put_text(name, "  caption of a \n");
    snprintf(name, sizeof name, "%s/b.caption", dir);
    put_text(name, "caption of b");
    snprintf(name, sizeof name, "%s/notes.md", dir);
    put_text(name, "not an image");
    snprintf(name, sizeof name, "%s/.hidden.png", dir);
    put_text(name, "not an image");
}

static void test_train_dataset__folder(void **state)
{
    (void)state;
    Set s;
    make_folder("folder");
    set_open(&s, "folder", "", NULL);
    assert_int_equal(train_dataset_count(s.d), 5);
    caption_is(&s, 0, "a.png", "caption of a");
    caption_is(&s, 1, "b.PNG", "caption of b");
    caption_is(&s, 2, "cat.png", "cat");
    caption_is(&s, 3, "my_red-car.png", "my red car");
    caption_is(&s, 4, "zebra.png", "zebra");
    set_close(&s);
    set_open(&s, "folder", ", caption: a thing", NULL);
    caption_is(&s, 0, "a.png", "caption of a");
    caption_is(&s, 4, "zebra.png", "a thing");
    set_close(&s);
}

/* Two folders with the same files made in different orders give the same items. */
static void test_train_dataset__order_of_names(void **state)
{
    (void)state;
    Set a, b;
    char name[64];
    OK(io_dir_make(at("up")));
    OK(io_dir_make(at("down")));
    for (int i = 0; i < 40; i++) {
        snprintf(name, sizeof name, "up/%c%d.png", 'a' + i * 7 % 26, i);
        put_image(name, 2, 2, i);
    }
    for (int i = 39; i >= 0; i--) {
        snprintf(name, sizeof name, "down/%c%d.png", 'a' + i * 7 % 26, i);
        put_image(name, 2, 2, i);
    }
    set_open(&a, "up", "", NULL);
    set_open(&b, "down", "", NULL);
    assert_int_equal(train_dataset_count(a.d), 40);
    for (int i = 0; i < 40; i++) {
        uint8_t ka[HASH_SIZE], kb[HASH_SIZE];
        assert_string_equal(io_path_name(train_dataset_item(a.d, i)->path), io_path_name(train_dataset_item(b.d, i)->path));
        OK(train_dataset_key(a.d, i, 0, ka));
        OK(train_dataset_key(b.d, i, 0, kb));
        assert_memory_equal(ka, kb, HASH_SIZE);
        if (i)
            assert_true(strcmp(train_dataset_item(a.d, i - 1)->path, train_dataset_item(a.d, i)->path) < 0);
    }
    set_close(&a);
    set_close(&b);
}

static void test_train_dataset__jsonl(void **state)
{
    (void)state;
    Set s;
    make_folder("list");
    put_text("list/metadata.jsonl", "{\"file_name\": \"cat.png\", \"text\": \"caf\\u00e9 \\\"x\\\"\"}\r\n\n"
                                    "{\"image\": \"a.png\", \"caption\": \"one\", \"other\": 5}\n{\"file_name\": \"b.PNG\"}");
    set_open(&s, "list/metadata.jsonl", "", NULL);
    assert_int_equal(train_dataset_count(s.d), 3);
    caption_is(&s, 0, "cat.png", "caf\xc3\xa9 \"x\"");
    caption_is(&s, 1, "a.png", "one");
    caption_is(&s, 2, "b.PNG", "caption of b");
    set_close(&s);
    put_text("list/bad.jsonl", "{\"file_name\": \"a.png\"}\n[1]\n");
    set_fails("list/bad.jsonl", ERR_FORMAT, "bad.jsonl:2: expected a JSON object");
    put_text("list/bad.jsonl", "{\"file_name\": \"a.png\", \"text\": \"\xff\"}\n");
    set_fails("list/bad.jsonl", ERR_FORMAT, "bad.jsonl:1: expected a JSON object");
    put_text("list/bad.jsonl", "{\"file_name\": \"a.png\", \"text\": [\"x\"]}\n");
    set_fails("list/bad.jsonl", ERR_FORMAT, "bad.jsonl:1: key 'text': expected a string");
    put_text("list/bad.jsonl", "\n{\"file_name\": \"x.png\"}\n");
    set_fails("list/bad.jsonl", ERR_NOTFOUND, "bad.jsonl:2: no such image");
    put_text("list/bad.jsonl", "{\"text\": \"x\"}\n");
    set_fails("list/bad.jsonl", ERR_FORMAT, "bad.jsonl:1: no file_name, image or image_path");
    put_text("list/bad.jsonl", "\n\n");
    set_fails("list/bad.jsonl", ERR_NOTFOUND, "hold no images");
}

/* kohya's folders: "N_class tokens" below a folder; captions before class tokens; the settings before the name. */
static void test_train_dataset__kohya_folders(void **state)
{
    (void)state;
    Set s;
    StrBuf b;
    OK(io_dir_make(at("kohya/10_sks dog")));
    OK(io_dir_make(at("kohya/3_my_cat")));
    OK(io_dir_make(at("kohya/other")));
    put_image("kohya/10_sks dog/a.png", 8, 8, 1);
    put_image("kohya/10_sks dog/b.png", 8, 8, 2);
    put_text("kohya/10_sks dog/b.txt", "\xef\xbb\xbf a line \r\n\r\n another\r\n");
    put_image("kohya/3_my_cat/c.png", 8, 8, 3);
    put_image("kohya/other/d.png", 8, 8, 4);
    set_open(&s, "kohya", "", NULL);
    assert_int_equal(train_dataset_count(s.d), 3);
    assert_int_equal(train_dataset_epoch(s.d), 23);
    caption_is(&s, 0, "a.png", "sks dog");
    caption_is(&s, 1, "b.png", "a line\nanother");
    caption_is(&s, 2, "c.png", "my_cat");
    assert_int_equal(train_dataset_subsets(s.d), 2);
    assert_int_equal(train_dataset_subset(s.d, 0)->entries, 20);
    str_init(&b);
    OK(train_dataset_caption(s.d, 1, 0, -1, &b));
    assert_string_equal(b.data, "a line");
    str_deinit(&b);
    set_close(&s);
    set_open(&s, "kohya", ", repeats: 2, caption: thing", NULL);
    assert_int_equal(train_dataset_epoch(s.d), 6);
    caption_is(&s, 2, "c.png", "thing");
    set_close(&s);
    set_open(&s, "kohya/3_my_cat", "", NULL);
    assert_int_equal(train_dataset_epoch(s.d), 3);
    set_close(&s);
}

/* As kohya counts them: as many as the others, first each with its repeats, then one by one; the rest is not used. */
static void test_train_dataset__regularisation(void **state)
{
    (void)state;
    Set s;
    char text[600];
    int n[9] = {0};
    make_folder("subject");
    make_folder("class");
    snprintf(text, sizeof text, "datasets=[{path: %s, repeats: 3, is_reg: true, weight: 2}, {path: %s, repeats: 4}]", at("class"), at("subject"));
    const char *const more[] = {"prior_weight=0.5", NULL};
    OK(try_open(&s, text, more));
    assert_int_equal(train_dataset_epoch(s.d), 40); /* 5 x 4, then 5 x 3 and 5 more */
    set_close(&s);
    snprintf(text, sizeof text, "datasets=[{path: %s, is_reg: true}, {path: %s, repeats: 3}, {path: %s, is_reg: true}]", at("class"),
             at("subject"), at("class"));
    OK(try_open(&s, text, more));
    assert_int_equal(train_dataset_epoch(s.d), 30);
    for (int64_t e = 0; e < 30; e++)
        n[train_dataset_entry(s.d, e) / 5]++;
    assert_int_equal(n[1], 15);
    assert_int_equal(n[0], 10);
    assert_int_equal(n[2], 5);
    assert_true(train_dataset_item(s.d, 0)->weight == 0.5f && train_dataset_item(s.d, 5)->weight == 1);
    set_close(&s);
    snprintf(text, sizeof text, "datasets=[{path: %s, is_reg: true}]", at("class"));
    FAILS(try_open(&s, text, NULL), ERR_NOTFOUND, "all datasets are regularisation images");
    train_conf_deinit(&s.c);
}

static void test_train_dataset__kohya_metadata(void **state)
{
    (void)state;
    Set s;
    make_folder("meta");
    put_text("meta.json", "{\"zebra\": {\"caption\": \"a zebra\", \"tags\": \"x, y\", \"train_resolution\": [8, 8]},"
                          " \"a.png\": {\"tags\": \"only tags\"}, \"cat.png\": {\"caption\": \"one\\ntwo\", \"tags\": \"t\"}, \"b.PNG\": {}}");
    char keys[400];
    snprintf(keys, sizeof keys, ", images: %s", at("meta"));
    set_open(&s, "meta.json", keys, NULL);
    assert_int_equal(train_dataset_count(s.d), 4);
    caption_is(&s, 0, "zebra.png", "a zebra,x, y");
    caption_is(&s, 1, "a.png", "only tags");
    caption_is(&s, 2, "cat.png", "one\ntwo,t");
    caption_is(&s, 3, "b.PNG", "caption of b");
    set_close(&s);
    strcat(keys, ", wildcards: true");
    set_open(&s, "meta.json", keys, NULL);
    caption_is(&s, 2, "cat.png", "one,t\ntwo,t");
    set_close(&s);
    put_text("bad.json", "[]");
    set_fails("bad.json", ERR_FORMAT, "bad.json: expected an object with a key for every image");
    put_text("bad.json", "{\"x\": 5}");
    set_fails("bad.json", ERR_FORMAT, "bad.json: 'x': expected an object");
    put_text("bad.json", "{\"x\": {\"caption\": \"a\"}}");
    set_fails("bad.json", ERR_NOTFOUND, "bad.json: 'x': no such image");
    put_text("bad.json", "{\"x\": {\"caption\": 1}}");
    set_fails("bad.json", ERR_FORMAT, "'x': key 'caption': expected a string");
    put_text("bad.json", "{\"x\": {\n\"caption\" 1}}");
    set_fails("bad.json", ERR_FORMAT, "bad.json:2: ");
}

/* Shares of dropped captions, of the run and of a dataset's own; whole epochs without captions. */
static void test_train_dataset__caption_dropout(void **state)
{
    (void)state;
    Set s;
    StrBuf b;
    make_folder("drop");
    const char *const run[] = {"caption_dropout=0.5", NULL};
    const struct {
        const char *keys;
        int lo, hi;
    } cases[] = {{"", 900, 1100}, {", caption_dropout: 0", 0, 0}, {", caption_dropout: 0.1", 140, 260},
                 {", caption_dropout: 0, caption_dropout_every: 4", 500, 500}};
    str_init(&b);
    for (int k = 0; k < 4; k++) {
        int empty = 0;
        set_open(&s, "drop", cases[k].keys, run);
        for (int64_t p = 0; p < 2000; p++) {
            OK(train_dataset_caption(s.d, 0, 1, p, &b));
            empty += !b.len;
        }
        assert_in_range(empty, cases[k].lo, cases[k].hi);
        set_close(&s);
    }
    str_deinit(&b);
}

static void test_train_dataset__csv(void **state)
{
    (void)state;
    Set s;
    make_folder("table");
    put_text("table/list.csv", "id,caption,image\n1,\"a, b\",cat.png\n2,two,a.png\n");
    set_open(&s, "table/list.csv", "", NULL);
    assert_int_equal(train_dataset_count(s.d), 2);
    caption_is(&s, 0, "cat.png", "a, b");
    caption_is(&s, 1, "a.png", "two");
    set_close(&s);
    put_text("table/list.csv", "file_name\na.png\nzebra.png\n");
    set_open(&s, "table/list.csv", "", NULL);
    caption_is(&s, 0, "a.png", "caption of a");
    caption_is(&s, 1, "zebra.png", "zebra");
    set_close(&s);
    put_text("table/bad.csv", "text,caption\na,b\n");
    set_fails("table/bad.csv", ERR_FORMAT, "bad.csv:1: expected a header");
    put_text("table/bad.csv", "image,caption\na.png\n");
    set_fails("table/bad.csv", ERR_FORMAT, "bad.csv:2: 1 fields");
    put_text("table/bad.csv", "image,caption\na.png,\xff\n");
    set_fails("table/bad.csv", ERR_FORMAT, "bad.csv: ");
    put_text("table/bad.csv", "");
    set_fails("table/bad.csv", ERR_FORMAT, "bad.csv:1: expected a header");
}

static void make_pack(const char *name, int64_t images, int64_t captions, int64_t channels)
{
    IoH5 *f;
    uint8_t pixels[5 * 8 * 8 * 4];
    const char *const text[] = {"red", "green", "blue", "grey", "caf\xc3\xa9"};
    const int64_t dim[] = {images, 8, 8, channels};
    for (size_t i = 0; i < sizeof pixels; i++)
        pixels[i] = (uint8_t)(i * 7);
    OK(io_h5_create(&f, at(name)));
    OK(io_h5_write(f, "images", DTYPE_U8, 4, dim, pixels, NULL));
    OK(io_h5_write_strings(f, "captions", text, captions));
    OK(io_h5_commit(&f));
}

static void test_train_dataset__pack(void **state)
{
    (void)state;
    Set s;
    IoImage img = {0};
    make_pack("art.h5", 5, 5, 3);
    const char *const res[] = {"resolution=8", NULL};
    set_open(&s, "art.h5", "", res);
    assert_int_equal(train_dataset_count(s.d), 5);
    assert_string_equal(train_dataset_item(s.d, 4)->caption, "caf\xc3\xa9");
    OK(train_dataset_load(s.d, 2, 1, 0, 0, &img));
    for (int i = 0; i < 192; i++)
        assert_int_equal(img.data[i], (uint8_t)((2 * 192 + i) * 7));
    io_image_deinit(&img);
    uint8_t k[3][HASH_SIZE];
    OK(train_dataset_key(s.d, 0, 0, k[0]));
    OK(train_dataset_key(s.d, 1, 0, k[1]));
    OK(train_dataset_key(s.d, 0, 1, k[2]));
    assert_memory_not_equal(k[0], k[1], HASH_SIZE);
    assert_memory_not_equal(k[0], k[2], HASH_SIZE);
    set_close(&s);
    make_pack("bad.h5", 5, 4, 3);
    set_fails("bad.h5", ERR_FORMAT, "4 captions for 5 images");
    make_pack("bad.h5", 5, 5, 4);
    set_fails("bad.h5", ERR_FORMAT, "expected uint8 [N,H,W,3]");
    put_text("bad.h5", "text");
    Set b;
    char text[300];
    snprintf(text, sizeof text, "datasets=[{path: %s}]", at("bad.h5"));
    assert_true(try_open(&b, text, NULL) < 0);
    assert_non_null(strstr(err_message(), "bad.h5"));
    train_conf_deinit(&b.c);
}

static void test_train_dataset__several_and_missing(void **state)
{
    (void)state;
    Set s;
    char text[600];
    make_folder("one");
    make_pack("two.h5", 5, 5, 3);
    snprintf(text, sizeof text, "datasets=[{path: %s, repeats: 2}, {path: %s}]", at("one"), at("two.h5"));
    OK(try_open(&s, text, NULL));
    assert_int_equal(train_dataset_count(s.d), 10);
    assert_int_equal(train_dataset_epoch(s.d), 15);
    set_close(&s);
    set_fails("nothing", ERR_NOTFOUND, "nothing: no such dataset");
    put_text("list.txt", "x");
    set_fails("list.txt", ERR_FORMAT, "expected a folder, .jsonl, .json, .csv or .h5");
    OK(io_dir_make(at("empty")));
    set_fails("empty", ERR_NOTFOUND, "no images");
    put_image("latin.png", 2, 2, 0);
    OK(io_dir_make(at("latin")));
    put_image("latin/x.png", 2, 2, 0);
    put_text("latin/x.txt", "caf\xe9");
    set_fails("latin", ERR_FORMAT, "x.txt: caption is not UTF-8");
}

/* Every epoch shows every entry once, epochs differ, positions may be asked in any order, the order depends on the seed alone. */
static void test_train_dataset__epochs(void **state)
{
    (void)state;
    Set s;
    int64_t item, first[20];
    int mirror, changed = 0, seeds = 0;
    make_folder("epochs");
    set_open(&s, "epochs", ", repeats: 4", NULL);
    int64_t n = train_dataset_epoch(s.d);
    assert_int_equal(n, 20);
    for (int64_t e = 0; e < 6; e++) {
        int seen[5] = {0};
        for (int64_t p = 0; p < n; p++) {
            OK(train_dataset_at(s.d, 3, e * n + p, &item, &mirror));
            assert_true(item >= 0 && item < 5);
            assert_int_equal(mirror, 0);
            seen[item]++;
            changed += e && first[p] != item;
            if (!e)
                first[p] = item;
        }
        for (int i = 0; i < 5; i++)
            assert_int_equal(seen[i], 4);
    }
    assert_true(changed > 40);
    for (int64_t p = n - 1; p >= 0; p--) {
        OK(train_dataset_at(s.d, 3, p, &item, &mirror));
        assert_int_equal(item, first[p]);
        OK(train_dataset_at(s.d, 3, p + 7 * n, &item, &mirror));
        OK(train_dataset_at(s.d, 4, p, &item, &mirror));
        seeds += item != first[p];
    }
    assert_true(seeds > 5);
    set_close(&s);
}

static void test_train_dataset__mirror(void **state)
{
    (void)state;
    Set s;
    int64_t item;
    int mirror, count = 0;
    make_folder("mirror");
    const char *const flip[] = {"flip=true", "resolution=8", NULL};
    set_open(&s, "mirror", "", flip);
    for (int64_t p = 0; p < 1000; p++) {
        OK(train_dataset_at(s.d, 3, p, &item, &mirror));
        count += mirror;
    }
    assert_true(count > 430 && count < 570);
    IoImage a = {0}, b = {0};
    OK(train_dataset_load(s.d, 0, 3, 0, 0, &a));
    OK(train_dataset_load(s.d, 0, 3, 0, 1, &b));
    for (int y = 0; y < 8; y++)
        for (int x = 0; x < 8; x++)
            assert_memory_equal(a.data + (y * 8 + x) * 3, b.data + (y * 8 + 7 - x) * 3, 3);
    io_image_deinit(&a);
    io_image_deinit(&b);
    set_close(&s);
}

/* A random crop is a function of seed and position; a centred one of nothing. */
static void test_train_dataset__crops(void **state)
{
    (void)state;
    Set s;
    IoImage a = {0}, b = {0};
    OK(io_dir_make(at("wide")));
    put_image("wide/w.png", 64, 16, 9);
    const char *const center[] = {"resolution=16", NULL}, *const random[] = {"resolution=16", "crop=random", NULL};
    set_open(&s, "wide", "", center);
    OK(train_dataset_load(s.d, 0, 1, 0, 0, &a));
    assert_int_equal(a.w, 16);
    assert_int_equal(a.h, 16);
    assert_int_equal(a.data[1], 24);
    io_image_deinit(&a);
    set_close(&s);
    set_open(&s, "wide", "", random);
    int different = 0;
    for (int p = 0; p < 40; p++) {
        OK(train_dataset_load(s.d, 0, 1, p, 0, &a));
        OK(train_dataset_load(s.d, 0, 1, p, 0, &b));
        assert_memory_equal(a.data, b.data, 16 * 16 * 3);
        assert_true(a.data[1] <= 48);
        assert_int_equal(a.data[16 * 3 - 2], a.data[1] + 15);
        different += a.data[1] != 24;
        io_image_deinit(&a);
        io_image_deinit(&b);
    }
    assert_true(different > 30);
    set_close(&s);
}

static void test_train_dataset__keys(void **state)
{
    (void)state;
    Set s;
    uint8_t k[4][HASH_SIZE];
    make_folder("keys");
    const char *const big[] = {"resolution=16", NULL}, *const black[] = {"background=[0, 0, 0]", NULL};
    set_open(&s, "keys", "", NULL);
    OK(train_dataset_key(s.d, 0, 0, k[0]));
    OK(train_dataset_key(s.d, 0, 1, k[1]));
    set_close(&s);
    set_open(&s, "keys", "", big);
    OK(train_dataset_key(s.d, 0, 0, k[2]));
    set_close(&s);
    set_open(&s, "keys", "", black);
    OK(train_dataset_key(s.d, 0, 0, k[3]));
    set_close(&s);
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < i; j++)
            assert_memory_not_equal(k[i], k[j], HASH_SIZE);
    put_image("keys/a.png", 8, 8, 77);
    set_open(&s, "keys", "", NULL);
    OK(train_dataset_key(s.d, 0, 0, k[1]));
    assert_memory_not_equal(k[0], k[1], HASH_SIZE);
    set_close(&s);
}

/* The same images and captions in another place have the same digest; any change gives another. */
static void test_train_dataset__digest(void **state)
{
    (void)state;
    Set s;
    uint8_t k[5][HASH_SIZE];
    static const char *const folder[] = {"dig1", "dig2", "dig2", "dig2", "dig1"};
    static const char *const keys[] = {"", "", "", "", ", repeats: 2"};
    make_folder("dig1");
    make_folder("dig2");
    for (int i = 0; i < 5; i++) {
        if (i == 2)
            put_image("dig2/cat.png", 8, 8, 1);
        if (i == 3)
            put_text("dig2/cat.txt", "a cat");
        set_open(&s, folder[i], keys[i], NULL);
        OK(train_dataset_digest(s.d, k[i]));
        set_close(&s);
    }
    assert_memory_equal(k[0], k[1], HASH_SIZE);
    for (int i = 1; i < 5; i++)
        for (int j = 1; j < i; j++)
            assert_memory_not_equal(k[i], k[j], HASH_SIZE);
}

static void test_train_dataset__bad_image(void **state)
{
    (void)state;
    Set s;
    IoImage img = {0};
    OK(io_dir_make(at("broken")));
    put_text("broken/x.png", "no image");
    set_open(&s, "broken", "", NULL);
    assert_true(train_dataset_load(s.d, 0, 1, 0, 0, &img) < 0);
    const char *once = strstr(err_message(), "broken/x.png");
    assert_non_null(once);
    assert_null(strstr(once + 1, "broken/x.png"));
    set_close(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_train_dataset__folder),
        cmocka_unit_test(test_train_dataset__order_of_names),
        cmocka_unit_test(test_train_dataset__jsonl),
        cmocka_unit_test(test_train_dataset__kohya_folders),
        cmocka_unit_test(test_train_dataset__regularisation),
        cmocka_unit_test(test_train_dataset__kohya_metadata),
        cmocka_unit_test(test_train_dataset__caption_dropout),
        cmocka_unit_test(test_train_dataset__csv),
        cmocka_unit_test(test_train_dataset__pack),
        cmocka_unit_test(test_train_dataset__several_and_missing),
        cmocka_unit_test(test_train_dataset__epochs),
        cmocka_unit_test(test_train_dataset__mirror),
        cmocka_unit_test(test_train_dataset__crops),
        cmocka_unit_test(test_train_dataset__keys),
        cmocka_unit_test(test_train_dataset__digest),
        cmocka_unit_test(test_train_dataset__bad_image),
    };
    return cmocka_run_group_tests(tests, scratch_make, scratch_remove);
}
