#include "text/vocab.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "text/unicode.h"

static uint64_t hash_bytes(const char *s, size_t len)
{
    uint64_t h = 1469598103934665603u;
    for (size_t i = 0; i < len; i++)
        h = (h ^ (unsigned char)s[i]) * 1099511628211u;
    return h ^ h >> 29;
}

static uint64_t hash_u64(uint64_t x)
{
    x = (x ^ x >> 31) * 0x9E3779B97F4A7C15u;
    return x ^ x >> 32;
}

static VocabSlot *map_slot(const VocabMap *m, const char *s, size_t len)
{
    size_t i = hash_bytes(s, len) & (m->cap - 1);
    while (m->slot[i].len != SIZE_MAX && (m->slot[i].len != len || memcmp(m->pool + m->slot[i].off, s, len) != 0))
        i = (i + 1) & (m->cap - 1);
    return &m->slot[i];
}

static int map_init(VocabMap *m, size_t count)
{
    m->cap = 64;
    while (m->cap < 2 * count)
        m->cap *= 2;
    m->slot = malloc(m->cap * sizeof *m->slot);
    if (!m->slot)
        return err_set(ERR_NOMEM, "out of memory: vocabulary of %zu tokens", count);
    for (size_t i = 0; i < m->cap; i++)
        m->slot[i] = (VocabSlot){0, SIZE_MAX, -1};
    return 0;
}

/* Room for `count` keys was made by map_init. */
static int map_put(VocabMap *m, const char *s, size_t len, int32_t value)
{
    if (m->count + 1 >= m->cap)
        return err_set(ERR_RANGE, "vocabulary grew beyond its table");
    VocabSlot *slot = map_slot(m, s, len);
    if (slot->len != SIZE_MAX) {
        slot->value = value;
        return 0;
    }
    if (m->pool_len + len > m->pool_cap) {
        size_t cap = 2 * (m->pool_cap + len) + 4096;
        char *p = realloc(m->pool, cap);
        if (!p)
            return err_set(ERR_NOMEM, "out of memory: vocabulary");
        m->pool = p;
        m->pool_cap = cap;
    }
    memcpy(m->pool + m->pool_len, s, len);
    *slot = (VocabSlot){m->pool_len, len, value};
    m->pool_len += len;
    m->count++;
    return 0;
}

int32_t vocab_find(const Vocab *v, const char *token, size_t len)
{
    return v->map.cap ? map_slot(&v->map, token, len)->value : -1;
}

const VocabMerge *vocab_find_merge(const Vocab *v, int32_t left, int32_t right)
{
    if (left < 0 || right < 0 || !v->merge_cap)
        return NULL;
    uint64_t key = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    size_t i = hash_u64(key) & (v->merge_cap - 1);
    while (v->merge[i].key != UINT64_MAX) {
        if (v->merge[i].key == key)
            return &v->merge[i];
        i = (i + 1) & (v->merge_cap - 1);
    }
    return NULL;
}

static int merges_init(Vocab *v, size_t count)
{
    size_t cap = 64;
    while (cap < 2 * count)
        cap *= 2;
    if (!(v->merge = malloc(cap * sizeof *v->merge)))
        return err_set(ERR_NOMEM, "out of memory: %zu merges", count);
    for (size_t i = 0; i < cap; i++)
        v->merge[i] = (VocabMerge){UINT64_MAX, 0, 0};
    v->merge_cap = cap;
    return 0;
}

/* `where` ("merges.txt: line 7") goes in front of errors. */
static int merge_put(Vocab *v, const char *a, size_t an, const char *b, size_t bn, int32_t rank, const char *where)
{
    char joined[1024];
    if (!an || !bn || an + bn > sizeof joined)
        return err_set(ERR_FORMAT, "%s: expected two tokens", where);
    memcpy(joined, a, an);
    memcpy(joined + an, b, bn);
    int32_t ia = vocab_find(v, a, an), ib = vocab_find(v, b, bn), id = vocab_find(v, joined, an + bn);
    if (ia < 0 || ib < 0 || id < 0)
        return err_set(ERR_FORMAT, "%s: token \"%.*s\" is not in the vocabulary", where,
                       (int)(ia < 0 ? an : ib < 0 ? bn : an + bn), ia < 0 ? a : ib < 0 ? b : joined);
    uint64_t key = (uint64_t)(uint32_t)ia << 32 | (uint32_t)ib;
    size_t i = hash_u64(key) & (v->merge_cap - 1);
    while (v->merge[i].key != UINT64_MAX && v->merge[i].key != key)
        i = (i + 1) & (v->merge_cap - 1);
    v->merge[i] = (VocabMerge){key, rank, id};
    return 0;
}

/* *root: NULL when the file is absent and that is allowed. */
static int load_json(json_t **root, const char *dir, const char *name, int optional)
{
    char path[4096];
    *root = NULL;
    if (snprintf(path, sizeof path, "%s/%s", dir, name) >= (int)sizeof path)
        return err_set(ERR_RANGE, "%s: path too long", dir);
    FILE *f = fopen(path, "rb");
    if (!f) {
        if (optional && errno == ENOENT)
            return 0;
        return err_errno("%s", path);
    }
    json_error_t e;
    *root = json_loadf(f, 0, &e);
    fclose(f);
    if (!*root)
        return err_set(ERR_FORMAT, "%s: line %d: %s", path, e.line, e.text);
    if (!json_is_object(*root)) {
        json_decref(*root);
        *root = NULL;
        return err_set(ERR_FORMAT, "%s: expected a JSON object", path);
    }
    return 0;
}

static int get_id(const json_t *value, const char *key, int32_t *id)
{
    json_int_t n = json_is_integer(value) ? json_integer_value(value) : -1;
    if (n < 0 || n >= INT32_MAX)
        return err_set(ERR_FORMAT, "token \"%s\": expected an id of 0 or more", key);
    *id = (int32_t)n;
    return 0;
}

static int put_token(Vocab *v, const char *token, size_t len, int32_t id)
{
    if (id >= v->size)
        v->size = id + 1;
    return map_put(&v->map, token, len, id);
}

static int load_vocab(Vocab *v, json_t *vocab, size_t extra)
{
    const char *key;
    json_t *value;
    int32_t id = -1;
    TRY(map_init(&v->map, json_object_size(vocab) + extra));
    json_object_foreach(vocab, key, value)
    {
        TRY(get_id(value, key, &id));
        TRY(put_token(v, key, strlen(key), id));
    }
    return 0;
}

static int load_merges_txt(Vocab *v, const char *dir)
{
    char path[4096], where[64];
    snprintf(path, sizeof path, "%s/merges.txt", dir);
    FILE *f = fopen(path, "rb");
    if (!f)
        return err_errno("%s", path);
    char *line = NULL;
    size_t cap = 0;
    ssize_t n;
    int rc = 0;
    int32_t rank = 0;
    TRY_GOTO(merges_init(v, v->map.count));
    for (int no = 1; (n = getline(&line, &cap, f)) >= 0; no++) {
        while (n > 0 && (line[n - 1] == '\n' || line[n - 1] == '\r'))
            n--;
        if (n == 0 || (no == 1 && n >= 8 && memcmp(line, "#version", 8) == 0))
            continue;
        const char *sp = memchr(line, ' ', (size_t)n);
        size_t an = sp ? (size_t)(sp - line) : 0, bn = sp ? (size_t)n - an - 1 : 0;
        snprintf(where, sizeof where, "line %d", no);
        if ((size_t)rank + 1 >= v->merge_cap)
            rc = err_set(ERR_FORMAT, "%s: more merges than tokens", where);
        else
            rc = merge_put(v, line, an, sp ? sp + 1 : line, bn, rank++, where);
        if (rc < 0)
            break;
    }
done:
    free(line);
    fclose(f);
    return rc < 0 ? err_context(rc, "%s", path) : 0;
}

static int load_merges_json(Vocab *v, const json_t *merges)
{
    size_t n = json_array_size(merges);
    TRY(merges_init(v, n));
    for (size_t i = 0; i < n; i++) {
        const json_t *m = json_array_get(merges, i);
        char where[64];
        snprintf(where, sizeof where, "model.merges[%zu]", i);
        const char *a = json_string_value(json_array_get(m, 0)), *b = json_string_value(json_array_get(m, 1));
        size_t an = a ? strlen(a) : 0, bn = b ? strlen(b) : 0;
        if (json_is_string(m) && (a = json_string_value(m))) {
            b = strchr(a, ' ');
            an = b ? (size_t)(b - a) : 0;
            b = b ? b + 1 : a;
            bn = an ? strlen(b) : 0;
        }
        TRY(merge_put(v, a, an, b, bn, (int32_t)i, where));
    }
    return 0;
}

static int add_special(Vocab *v, const char *content, int32_t id, int normalized)
{
    size_t len = strlen(content);
    char *text = NULL;
    if (!len)
        return 0;
    for (int i = 0; i < v->nspecial; i++)
        if (v->special[i].id == id)
            return 0;
    if (normalized) {
        TRY(text_clip_normalize(content, len, &text, &len));
    } else if (!(text = strdup(content))) {
        return err_set(ERR_NOMEM, "out of memory");
    }
    VocabSpecial *p = realloc(v->special, ((size_t)v->nspecial + 1) * sizeof *p);
    if (!p) {
        free(text);
        return err_set(ERR_NOMEM, "out of memory");
    }
    v->special = p;
    p[v->nspecial++] = (VocabSpecial){text, len, id, normalized};
    return 0;
}

/* tokenizer.json's added_tokens (an array) or tokenizer_config.json's added_tokens_decoder (an object keyed by id). */
static int load_added(Vocab *v, const json_t *list)
{
    size_t n = json_is_array(list) ? json_array_size(list) : 0;
    for (size_t i = 0; i < n; i++) {
        const json_t *t = json_array_get(list, i);
        const char *content = json_string_value(json_object_get(t, "content"));
        int32_t id = -1;
        if (!content)
            return err_set(ERR_FORMAT, "added_tokens[%zu]: no content", i);
        TRY(get_id(json_object_get(t, "id"), content, &id));
        TRY(put_token(v, content, strlen(content), id));
        TRY(add_special(v, content, id, json_is_true(json_object_get(t, "normalized"))));
    }
    if (!json_is_object(list))
        return 0;
    const char *key;
    json_t *t;
    json_object_foreach((json_t *)(uintptr_t)list, key, t)
    {
        const char *content = json_string_value(json_object_get(t, "content"));
        char *end;
        long id = strtol(key, &end, 10);
        if (!content || *end || id < 0 || id >= INT32_MAX)
            return err_set(ERR_FORMAT, "added_tokens_decoder.%s: expected an id with a content", key);
        TRY(put_token(v, content, strlen(content), (int32_t)id));
        TRY(add_special(v, content, (int32_t)id, json_is_true(json_object_get(t, "normalized"))));
    }
    return 0;
}

/* added_tokens.json: {"content": id}. */
static int load_added_map(Vocab *v, json_t *map)
{
    const char *key;
    json_t *value;
    int32_t id = -1;
    json_object_foreach(map, key, value)
    {
        TRY(get_id(value, key, &id));
        TRY(put_token(v, key, strlen(key), id));
        TRY(add_special(v, key, id, 0));
    }
    return 0;
}

/* One of bos_token.. of special_tokens_map.json or tokenizer_config.json: a string, or an object with content. */
static int load_role(Vocab *v, const json_t *root, const char *role, int32_t *id)
{
    const json_t *t = json_object_get(root, role);
    const char *content = json_string_value(json_is_object(t) ? json_object_get(t, "content") : t);
    if (!content)
        return 0;
    int32_t found = vocab_find(v, content, strlen(content));
    if (found < 0)
        return err_set(ERR_FORMAT, "%s \"%s\" is not in the vocabulary", role, content);
    *id = found;
    /* A plain string becomes AddedToken(normalized=False) in transformers. */
    return add_special(v, content, found, json_is_object(t) && json_is_true(json_object_get(t, "normalized")));
}

static int load_roles(Vocab *v, const json_t *root)
{
    TRY(load_role(v, root, "bos_token", &v->bos));
    TRY(load_role(v, root, "eos_token", &v->eos));
    TRY(load_role(v, root, "unk_token", &v->unk));
    TRY(load_role(v, root, "pad_token", &v->pad));
    return 0;
}

/* Ids of single bytes in the printable alphabet of GPT-2's bytes_to_unicode. */
static void find_bytes(Vocab *v)
{
    int32_t extra = 256;
    for (int b = 0; b < 256; b++) {
        char text[16];
        int kept = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
        size_t n = text_utf8_encode(kept ? b : extra++, text);
        v->byte_id[b] = vocab_find(v, text, n);
        memcpy(text + n, "</w>", 4);
        v->byte_end_id[b] = vocab_find(v, text, n + 4);
    }
}

static int default_role(const Vocab *v, const char *content, int32_t *id)
{
    if (*id < 0 && (*id = vocab_find(v, content, strlen(content))) < 0)
        return err_set(ERR_FORMAT, "no token \"%s\" in the vocabulary", content);
    return 0;
}

static int check_json_model(const json_t *model)
{
    const char *type = json_string_value(json_object_get(model, "type"));
    const char *suffix = json_string_value(json_object_get(model, "end_of_word_suffix"));
    if (type && strcmp(type, "BPE") != 0)
        return err_set(ERR_UNSUPPORTED, "model.type \"%s\": expected BPE", type);
    if (!suffix || strcmp(suffix, "</w>") != 0)
        return err_set(ERR_UNSUPPORTED, "model.end_of_word_suffix: expected \"</w>\" (not a CLIP tokenizer)");
    if (!json_is_object(json_object_get(model, "vocab")) || !json_is_array(json_object_get(model, "merges")))
        return err_set(ERR_FORMAT, "model.vocab or model.merges is missing");
    return 0;
}

static int load_tokens(Vocab *v, const char *dir, size_t extra)
{
    json_t *root = NULL;
    TRY(load_json(&root, dir, "vocab.json", 1));
    if (root) {
        int rc = load_vocab(v, root, extra);
        json_decref(root);
        TRY_CTX(rc, "%s/vocab.json", dir);
        return load_merges_txt(v, dir);
    }
    TRY(load_json(&root, dir, "tokenizer.json", 1));
    if (!root)
        return err_set(ERR_NOTFOUND, "%s: expected vocab.json and merges.txt, or tokenizer.json", dir);
    int rc;
    const json_t *model = json_object_get(root, "model"), *added = json_object_get(root, "added_tokens");
    TRY_GOTO(check_json_model(model));
    TRY_GOTO(load_vocab(v, json_object_get(model, "vocab"), extra + json_array_size(added)));
    TRY_GOTO(load_merges_json(v, json_object_get(model, "merges")));
    TRY_GOTO(load_added(v, added));
    const json_t *pad = json_object_get(json_object_get(root, "padding"), "pad_id");
    if (json_is_integer(pad) && json_integer_value(pad) >= 0 && json_integer_value(pad) < v->size)
        v->pad = (int32_t)json_integer_value(pad);
done:
    json_decref(root);
    return rc < 0 ? err_context(rc, "%s/tokenizer.json", dir) : 0;
}

static int load_specials(Vocab *v, const json_t *config, const json_t *special, json_t *added)
{
    TRY(load_added(v, json_object_get(config, "added_tokens_decoder")));
    TRY(load_added_map(v, added));
    TRY(load_roles(v, special));
    TRY(load_roles(v, config));
    TRY(default_role(v, "<|startoftext|>", &v->bos));
    return default_role(v, "<|endoftext|>", &v->eos);
}

int vocab_load(Vocab *v, const char *dir)
{
    json_t *config = NULL, *special = NULL, *added = NULL;
    int rc;
    memset(v, 0, sizeof *v);
    v->bos = v->eos = v->pad = v->unk = -1;
    v->max_length = 77;
    TRY_GOTO(load_json(&config, dir, "tokenizer_config.json", 1));
    TRY_GOTO(load_json(&special, dir, "special_tokens_map.json", 1));
    TRY_GOTO(load_json(&added, dir, "added_tokens.json", 1));
    const json_t *decoder = json_object_get(config, "added_tokens_decoder");
    TRY_GOTO(load_tokens(v, dir, json_object_size(decoder) + json_object_size(added) + 16));
    if ((rc = load_specials(v, config, special, added)) < 0) {
        err_context(rc, "%s", dir);
        goto done;
    }
    if (v->pad < 0)
        v->pad = v->eos;
    if (v->unk < 0)
        v->unk = v->eos;
    const json_t *max = json_object_get(config, "model_max_length");
    if (json_is_integer(max) && json_integer_value(max) >= 2 && json_integer_value(max) <= 4096)
        v->max_length = (int)json_integer_value(max);
    find_bytes(v);
done:
    json_decref(config);
    json_decref(special);
    json_decref(added);
    if (rc < 0) {
        vocab_deinit(v);
        return err_context(rc, "tokenizer");
    }
    return 0;
}

void vocab_deinit(Vocab *v)
{
    for (int i = 0; i < v->nspecial; i++)
        free(v->special[i].content);
    free(v->special);
    free(v->merge);
    free(v->map.slot);
    free(v->map.pool);
    memset(v, 0, sizeof *v);
}
