#include "base/config_impl.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"

enum { FILE_MAX = 4 << 20 };

static int set_struct(const ConfTable *t, void *conf, const ConfNode *n, const char *path);

static int expected(const ConfField *f, const ConfNode *n, int code, const char *path)
{
    StrBuf b;
    str_init(&b);
    conf_field_expect(f, &b);
    int rc = conf_node_expected(n, code, path, b.data);
    str_deinit(&b);
    return rc;
}

static int in_bounds(const ConfField *f, double x)
{
    return x >= f->min && x <= f->max && !(conf_is_automatic(f) && x > -1 && x < 0);
}

/* ERR_FORMAT or ERR_RANGE, without a message, where the text is not a value of this field. */
static int set_scalar(const ConfField *f, void *conf, const char *s)
{
    int64_t i;
    double x;
    switch (f->type) {
    case CONF_TYPE_BOOL: return conf_parse_bool(s, &CONF_AT(int, f, conf)) ? 0 : ERR_FORMAT;
    case CONF_TYPE_U64: return conf_parse_u64(s, &CONF_AT(uint64_t, f, conf)) ? 0 : ERR_FORMAT;
    case CONF_TYPE_I32:
    case CONF_TYPE_I64:
    case CONF_TYPE_SIZE:
        if (!(f->type == CONF_TYPE_SIZE ? conf_parse_size(s, &i) : conf_parse_i64(s, &i)))
            return ERR_FORMAT;
        if (!in_bounds(f, (double)i) || (f->type == CONF_TYPE_I32 && (i < INT32_MIN || i > INT32_MAX)))
            return ERR_RANGE;
        if (f->type == CONF_TYPE_I32)
            CONF_AT(int32_t, f, conf) = (int32_t)i;
        else
            CONF_AT(int64_t, f, conf) = i;
        return 0;
    case CONF_TYPE_F32:
    case CONF_TYPE_F64:
        if (!conf_parse_f64(s, &x))
            return ERR_FORMAT;
        if (!in_bounds(f, x))
            return ERR_RANGE;
        if (f->type == CONF_TYPE_F32)
            CONF_AT(float, f, conf) = strtof(s, NULL);
        else
            CONF_AT(double, f, conf) = x;
        return 0;
    case CONF_TYPE_ENUM:
        for (int k = 0; f->names[k]; k++) {
            if (strcmp(s, f->names[k]) == 0) {
                CONF_AT(int, f, conf) = k;
                return 0;
            }
        }
        return ERR_FORMAT;
    default: return ERR_FORMAT;
    }
}

static int set_text(const ConfField *f, void *conf, const ConfNode *n, const char *path)
{
    if (n->kind != CONF_NODE_SCALAR)
        return expected(f, n, ERR_FORMAT, path);
    const char *text = conf_node_is_null(n) ? "" : n->text;
    if (!str_is_utf8(text, strlen(text)))
        return conf_node_error(n, ERR_FORMAT, path, "text is not UTF-8");
    char *copy;
    TRY(str_copy(&copy, text));
    free(CONF_AT(char *, f, conf));
    CONF_AT(char *, f, conf) = copy;
    return 0;
}

static void release_strs(ConfStrs *l)
{
    for (int i = 0; i < l->count; i++)
        free(l->items[i]);
    free(l->items);
    *l = (ConfStrs){NULL, 0};
}

static void release_structs(const ConfField *f, ConfList *l)
{
    for (int i = 0; i < l->count; i++)
        config_deinit(f->table, (char *)l->items + (size_t)i * f->table->size);
    free(l->items);
    *l = (ConfList){NULL, 0};
}

static int set_strs(const ConfField *f, ConfStrs *out, const ConfNode *n, const char *path)
{
    ConfStrs l = {calloc((size_t)n->count + 1, sizeof(char *)), 0};
    int rc = l.items ? 0 : err_set(ERR_NOMEM, "out of memory");
    for (int i = 0; rc == 0 && i < n->count; i++) {
        const ConfNode *e = n->items[i];
        if (e->kind != CONF_NODE_SCALAR || conf_node_is_null(e))
            rc = expected(f, e, ERR_FORMAT, path);
        else if (!str_is_utf8(e->text, strlen(e->text)))
            rc = conf_node_error(e, ERR_FORMAT, path, "text is not UTF-8");
        else if ((rc = str_copy(&l.items[i], e->text)) == 0)
            l.count++;
    }
    if (rc == 0) {
        ConfStrs old = *out;
        *out = l;
        l = old;
    }
    release_strs(&l);
    return rc;
}

static int set_numbers(const ConfField *f, void *conf, const ConfNode *n, const char *path)
{
    void *items = calloc((size_t)n->count + 1, sizeof(double));
    if (!items)
        return err_set(ERR_NOMEM, "out of memory");
    for (int i = 0; i < n->count; i++) {
        const ConfNode *e = n->items[i];
        double x = 0;
        int64_t k = 0;
        int scalar = e->kind == CONF_NODE_SCALAR && e->plain;
        int is = scalar && (f->type == CONF_TYPE_NUMS ? conf_parse_f64(e->text, &x) : conf_parse_i64(e->text, &k));
        if (!is || !in_bounds(f, f->type == CONF_TYPE_NUMS ? x : (double)k)) {
            free(items);
            return expected(f, e, is ? ERR_RANGE : ERR_FORMAT, path);
        }
        if (f->type == CONF_TYPE_NUMS)
            ((double *)items)[i] = x;
        else
            ((int64_t *)items)[i] = k;
    }
    if (f->type == CONF_TYPE_NUMS) {
        free(CONF_AT(ConfNums, f, conf).items);
        CONF_AT(ConfNums, f, conf) = (ConfNums){items, n->count};
    } else {
        free(CONF_AT(ConfInts, f, conf).items);
        CONF_AT(ConfInts, f, conf) = (ConfInts){items, n->count};
    }
    return 0;
}

static int set_structs(const ConfField *f, ConfList *out, const ConfNode *n, const char *path)
{
    size_t size = f->table->size;
    ConfList l = {calloc((size_t)n->count + 1, size), 0};
    int rc = l.items ? 0 : err_set(ERR_NOMEM, "out of memory");
    for (int i = 0; rc == 0 && i < n->count; i++) {
        char where[CONF_PATH_MAX];
        void *item = (char *)l.items + (size_t)i * size;
        snprintf(where, sizeof where, "%s.%d", path, i);
        l.count++;
        rc = config_init(f->table, item);
        if (rc == 0)
            rc = set_struct(f->table, item, n->items[i], where);
    }
    if (rc == 0) {
        ConfList old = *out;
        *out = l;
        l = old;
    }
    release_structs(f, &l);
    return rc;
}

static int set_node(const ConfField *f, void *conf, const ConfNode *n, const char *path)
{
    ConfNode *copy = NULL;
    TRY(conf_node_check_depth(n, path));
    if (!conf_node_is_null(n))
        TRY(conf_node_copy(&copy, n));
    conf_node_destroy(CONF_AT(ConfNode *, f, conf));
    CONF_AT(ConfNode *, f, conf) = copy;
    return 0;
}

static int set_list(const ConfField *f, void *conf, const ConfNode *n, const char *path)
{
    static const ConfNode none = {.kind = CONF_NODE_LIST};
    int line_known = n->kind == CONF_NODE_LIST;
    if (!line_known && !conf_node_is_null(n))
        return expected(f, n, ERR_FORMAT, path);
    const ConfNode *list = line_known ? n : &none;
    int counted = f->type == CONF_TYPE_STRS || f->type == CONF_TYPE_STRUCTS;
    if (counted && !in_bounds(f, list->count))
        return conf_node_error(n, ERR_RANGE, path, "expected %.0f..%.0f entries, got %d", f->min, f->max, list->count);
    if (f->type == CONF_TYPE_STRS)
        return set_strs(f, &CONF_AT(ConfStrs, f, conf), list, path);
    if (f->type == CONF_TYPE_STRUCTS)
        return set_structs(f, &CONF_AT(ConfList, f, conf), list, path);
    return set_numbers(f, conf, list, path);
}

int conf_field_set(const ConfField *f, void *conf, const ConfNode *n, const char *path)
{
    switch (f->type) {
    case CONF_TYPE_STR: return set_text(f, conf, n, path);
    case CONF_TYPE_STRS:
    case CONF_TYPE_NUMS:
    case CONF_TYPE_INTS:
    case CONF_TYPE_STRUCTS: return set_list(f, conf, n, path);
    case CONF_TYPE_STRUCT: return conf_node_is_null(n) ? 0 : set_struct(f->table, conf_at(f, conf), n, path);
    case CONF_TYPE_NODE: return set_node(f, conf, n, path);
    default: break;
    }
    if (n->kind != CONF_NODE_SCALAR || (!n->plain && f->type != CONF_TYPE_ENUM))
        return expected(f, n, ERR_FORMAT, path);
    int rc = set_scalar(f, conf, n->text);
    return rc < 0 ? expected(f, n, rc, path) : 0;
}

const ConfField *conf_field_find(const ConfTable *t, const char *key, size_t n)
{
    for (int i = 0; i < t->count; i++)
        if (strlen(t->fields[i].key) == n && memcmp(t->fields[i].key, key, n) == 0)
            return &t->fields[i];
    return NULL;
}

/* Dotted path of a key of this name in the structs below, the nearest first; 0 when there is none. */
static int find_below(const ConfTable *t, const char *key, char *out, size_t size)
{
    for (int deep = 0; deep < 2; deep++)
        for (int i = 0; i < t->count; i++) {
            const ConfField *f = &t->fields[i];
            int list = f->type == CONF_TYPE_STRUCTS;
            if (f->type != CONF_TYPE_STRUCT && !list)
                continue;
            int n = snprintf(out, size, "%s%s.", f->key, list ? "[]" : "");
            if (n < 0 || (size_t)n >= size)
                continue;
            if (!deep && conf_field_find(f->table, key, strlen(key)))
                return snprintf(out + n, size - (size_t)n, "%s", key) > 0;
            if (deep && find_below(f->table, key, out + n, size - (size_t)n))
                return 1;
        }
    return 0;
}

int conf_unknown_key(const ConfTable *t, const ConfNode *where, const char *path, const char *key)
{
    const char *names[256];
    int count = t->count < 256 ? t->count : 256;
    for (int i = 0; i < count; i++)
        names[i] = t->fields[i].key;
    char full[CONF_PATH_MAX], below[CONF_PATH_MAX];
    const char *near = find_below(t, key, below, sizeof below) ? below : str_nearest(key, names, count);
    snprintf(full, sizeof full, "%s%s%s", path, *path ? "." : "", key);
    if (near)
        return conf_node_error(where, ERR_NOTFOUND, full, "unknown key (did you mean '%s'?)", near);
    StrBuf b;
    str_init(&b);
    for (int i = 0; i < count; i++)
        str_add_format(&b, "%s%s", i ? ", " : "", names[i]);
    int rc = conf_node_error(where, ERR_NOTFOUND, full, "unknown key (known: %s)", b.data);
    str_deinit(&b);
    return rc;
}

static int set_struct(const ConfTable *t, void *conf, const ConfNode *n, const char *path)
{
    if (n->kind != CONF_NODE_MAP)
        return conf_node_expected(n, ERR_FORMAT, path, "a map of keys");
    for (int i = 0; i < n->count; i++) {
        const ConfField *f = conf_field_find(t, n->keys[i], strlen(n->keys[i]));
        if (!f)
            return conf_unknown_key(t, n->items[i], path, n->keys[i]);
        char full[CONF_PATH_MAX];
        snprintf(full, sizeof full, "%s%s%s", path, *path ? "." : "", f->key);
        TRY(conf_field_set(f, conf, n->items[i], full));
    }
    return 0;
}

static int set_default(const ConfField *f, void *conf)
{
    if (f->type == CONF_TYPE_STRUCT)
        return config_init(f->table, conf_at(f, conf));
    if (f->type == CONF_TYPE_STR)
        return str_copy(&CONF_AT(char *, f, conf), f->def ? f->def : "");
    if (f->type == CONF_TYPE_ENUM && !f->def)
        CONF_AT(int, f, conf) = -1;
    if (!f->def || !*f->def)
        return 0;
    ConfNode *n;
    TRY(conf_node_parse(&n, f->def, strlen(f->def), "default"));
    int rc = conf_field_set(f, conf, n, f->key);
    conf_node_destroy(n);
    return rc;
}

int config_init(const ConfTable *t, void *conf)
{
    memset(conf, 0, t->size);
    for (int i = 0; i < t->count; i++)
        TRY(set_default(&t->fields[i], conf));
    return 0;
}

void config_deinit(const ConfTable *t, void *conf)
{
    for (int i = 0; i < t->count; i++) {
        const ConfField *f = &t->fields[i];
        switch (f->type) {
        case CONF_TYPE_STR: free(CONF_AT(char *, f, conf)); break;
        case CONF_TYPE_STRS: release_strs(&CONF_AT(ConfStrs, f, conf)); break;
        case CONF_TYPE_NUMS: free(CONF_AT(ConfNums, f, conf).items); break;
        case CONF_TYPE_INTS: free(CONF_AT(ConfInts, f, conf).items); break;
        case CONF_TYPE_STRUCT: config_deinit(f->table, conf_at(f, conf)); break;
        case CONF_TYPE_STRUCTS: release_structs(f, &CONF_AT(ConfList, f, conf)); break;
        case CONF_TYPE_NODE: conf_node_destroy(CONF_AT(ConfNode *, f, conf)); break;
        default: break;
        }
    }
    memset(conf, 0, t->size);
}

int config_load_text(const ConfTable *t, void *conf, const char *text, size_t size, const char *name)
{
    ConfNode *root;
    if (size > FILE_MAX)
        return err_set(ERR_RANGE, "%s: larger than %d bytes", name, FILE_MAX);
    TRY(conf_node_parse(&root, text, size, name));
    int rc = conf_node_is_null(root) ? 0 : set_struct(t, conf, root, "");
    conf_node_destroy(root);
    return rc;
}

int config_load(const ConfTable *t, void *conf, const char *path)
{
    FILE *f = fopen(path, "rb");
    if (!f)
        return err_errno("%s", path);
    char *text = malloc((size_t)FILE_MAX + 1);
    int rc = text ? 0 : err_set(ERR_NOMEM, "out of memory");
    if (rc == 0) {
        size_t n = fread(text, 1, (size_t)FILE_MAX + 1, f);
        rc = ferror(f) ? err_errno("%s: read", path) : config_load_text(t, conf, text, n, path);
    }
    free(text);
    fclose(f);
    return rc;
}

int config_read(const ConfTable *t, void *conf, const char *path, const char *const *overrides, int count)
{
    TRY(config_init(t, conf));
    if (path)
        TRY(config_load(t, conf, path));
    for (int i = 0; i < count; i++)
        TRY(config_override(t, conf, overrides[i]));
    return config_check(t, conf, path);
}

static int missing(const ConfField *f, const void *conf)
{
    switch (f->type) {
    case CONF_TYPE_STR: return !f->def && !*CONF_AT(char *, f, conf);
    case CONF_TYPE_ENUM: return CONF_AT(int, f, conf) < 0;
    case CONF_TYPE_STRS: return !f->def && !CONF_AT(ConfStrs, f, conf).count;
    case CONF_TYPE_NUMS: return !f->def && !CONF_AT(ConfNums, f, conf).count;
    case CONF_TYPE_INTS: return !f->def && !CONF_AT(ConfInts, f, conf).count;
    case CONF_TYPE_STRUCTS: return f->min > 0 && !CONF_AT(ConfList, f, conf).count;
    case CONF_TYPE_NODE: return !f->def && !CONF_AT(ConfNode *, f, conf);
    default: return 0;
    }
}

static int check_struct(const ConfTable *t, const void *conf, const char *source, const char *path)
{
    for (int i = 0; i < t->count; i++) {
        const ConfField *f = &t->fields[i];
        char full[CONF_PATH_MAX];
        snprintf(full, sizeof full, "%s%s%s", path, *path ? "." : "", f->key);
        if (missing(f, conf))
            return err_set(ERR_NOTFOUND, "%s%skey '%s' is missing (%s)", source ? source : "", source ? ": " : "", full, f->doc);
        if (f->type == CONF_TYPE_STRUCT)
            TRY(check_struct(f->table, conf_at(f, conf), source, full));
        if (f->type != CONF_TYPE_STRUCTS)
            continue;
        const ConfList *l = &CONF_AT(ConfList, f, conf);
        for (int k = 0; k < l->count; k++) {
            char entry[CONF_PATH_MAX + 16];
            snprintf(entry, sizeof entry, "%s.%d", full, k);
            TRY(check_struct(f->table, (const char *)l->items + (size_t)k * f->table->size, source, entry));
        }
    }
    return 0;
}

int config_check(const ConfTable *t, const void *conf, const char *source)
{
    return check_struct(t, conf, source, "");
}
