#include "base/config_impl.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"

static const char SOURCE[] = "command line";

typedef struct {
    const char *path;  /* whole dotted key */
    const char *rest;  /* part not walked yet */
    const char *value;
} Assignment;

/* Takes the next part of a dotted key. */
static size_t next_part(Assignment *a, const char **part)
{
    size_t n = strcspn(a->rest, ".");
    *part = a->rest;
    a->rest += n + (a->rest[n] == '.');
    return n;
}

static int fail(const Assignment *a, int code, const char *text)
{
    return err_set(code, "%s: key '%s': %s", SOURCE, a->path, text);
}

static int is_list(ConfType t)
{
    return t == CONF_TYPE_STRS || t == CONF_TYPE_NUMS || t == CONF_TYPE_INTS;
}

/* Lists and maps as YAML, scalars as they stand. */
static int parse_value(ConfNode **out, const ConfField *f, const char *value)
{
    const char *start = value + strspn(value, " ");
    int bracket = *start == '[' || *start == '{';
    if (f->type == CONF_TYPE_NODE || f->type == CONF_TYPE_STRUCT || f->type == CONF_TYPE_STRUCTS ||
        (is_list(f->type) && (bracket || !*start)))
        return conf_node_parse(out, value, strlen(value), SOURCE);
    ConfNode *scalar, *list;
    TRY(conf_node_scalar(&scalar, value, strlen(value), f->type != CONF_TYPE_STR, 0, SOURCE));
    *out = scalar;
    if (!is_list(f->type))
        return 0;
    int rc = conf_node_container(&list, CONF_NODE_LIST, 0, SOURCE);
    if (rc < 0) {
        conf_node_destroy(scalar);
        return rc;
    }
    *out = list;
    rc = conf_node_append(list, NULL, scalar);
    if (rc < 0)
        conf_node_destroy(list);
    return rc;
}

static int read_value(ConfNode **out, const Assignment *a, const ConfField *f)
{
    TRY_CTX(parse_value(out, f, a->value), "key '%s'", a->path);
    return 0;
}

static void forget_lines(ConfNode *n)
{
    n->line = 0;
    for (int i = 0; i < n->count; i++)
        forget_lines(n->items[i]);
}

/* Takes child. */
static int add_entry(ConfNode *map, const char *key, size_t n, ConfNode *child)
{
    char *copy = strndup(key, n);
    if (!copy) {
        conf_node_destroy(child);
        return err_set(ERR_NOMEM, "out of memory");
    }
    return conf_node_append(map, copy, child);
}

/* Puts `child` at the rest of the key below a map, making maps on the way; takes child. */
static int graft(Assignment *a, ConfNode *map, ConfNode *child)
{
    for (;;) {
        const char *part;
        size_t n = next_part(a, &part);
        int at = -1;
        if (map->kind != CONF_NODE_MAP || n == 0) {
            conf_node_destroy(child);
            return fail(a, ERR_NOTFOUND, n ? "a part of the key is not a map" : "empty part");
        }
        for (int i = 0; i < map->count; i++)
            if (strlen(map->keys[i]) == n && memcmp(map->keys[i], part, n) == 0)
                at = i;
        if (!*a->rest) {
            if (at < 0)
                return add_entry(map, part, n, child);
            conf_node_destroy(map->items[at]);
            map->items[at] = child;
            return 0;
        }
        if (at < 0) {
            ConfNode *below;
            int rc = conf_node_container(&below, CONF_NODE_MAP, 0, SOURCE);
            if (rc == 0)
                rc = add_entry(map, part, n, below);
            if (rc < 0) {
                conf_node_destroy(child);
                return rc;
            }
            at = map->count - 1;
        }
        map = map->items[at];
    }
}

static int set_below_node(Assignment *a, const ConfField *f, void *conf)
{
    ConfNode **root = &CONF_AT(ConfNode *, f, conf), *child;
    TRY(read_value(&child, a, f));
    forget_lines(child);
    if (!*root) {
        int rc = conf_node_container(root, CONF_NODE_MAP, 0, SOURCE);
        if (rc < 0) {
            conf_node_destroy(child);
            return rc;
        }
    }
    TRY(graft(a, *root, child));
    return conf_node_check_depth(*root, a->path);
}

static int set_whole(Assignment *a, const ConfField *f, void *conf)
{
    ConfNode *n;
    TRY(read_value(&n, a, f));
    forget_lines(n);
    int rc = conf_field_set(f, conf, n, a->path);
    conf_node_destroy(n);
    return rc;
}

static int pick_entry(Assignment *a, const ConfField *f, void *conf, void **entry)
{
    const char *part;
    size_t n = next_part(a, &part);
    const ConfList *l = &CONF_AT(ConfList, f, conf);
    int k = 0;
    for (size_t i = 0; i < n; i++) {
        if (!isdigit((unsigned char)part[i]) || k > l->count)
            return fail(a, ERR_NOTFOUND, "expected the number of a list entry (0 is the first)");
        k = k * 10 + (part[i] - '0');
    }
    if (!n || k >= l->count)
        return fail(a, ERR_NOTFOUND, "the list has no such entry");
    *entry = (char *)l->items + (size_t)k * f->table->size;
    return 0;
}

static int apply(Assignment *a, const ConfTable *t, void *conf)
{
    for (;;) {
        static const ConfNode here = {.source = SOURCE};
        const char *part, *before = a->rest;
        size_t n = next_part(a, &part);
        const ConfField *f = conf_field_find(t, part, n);
        if (!f) {
            char above[CONF_PATH_MAX], key[CONF_PATH_MAX];
            size_t up = before > a->path ? (size_t)(before - a->path) - 1 : 0;
            up = up < sizeof above ? up : sizeof above - 1;
            n = n < sizeof key ? n : sizeof key - 1;
            memcpy(above, a->path, up);
            memcpy(key, part, n);
            above[up] = key[n] = 0;
            return conf_unknown_key(t, &here, above, key);
        }
        if (!*a->rest)
            return set_whole(a, f, conf);
        if (f->type == CONF_TYPE_NODE)
            return set_below_node(a, f, conf);
        if (f->type == CONF_TYPE_STRUCT) {
            conf = conf_at(f, conf);
        } else if (f->type == CONF_TYPE_STRUCTS) {
            TRY(pick_entry(a, f, conf, &conf));
            if (!*a->rest)
                return fail(a, ERR_NOTFOUND, "name a key of the entry");
        } else {
            return fail(a, ERR_NOTFOUND, "has no keys below it");
        }
        t = f->table;
    }
}

int config_is_override(const char *arg)
{
    size_t n = strspn(arg, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-");
    return n > 0 && arg[n] == '=' && arg[0] != '-' && arg[0] != '.';
}

int config_override(const ConfTable *t, void *conf, const char *assignment)
{
    const char *equal = strchr(assignment, '=');
    if (!equal || equal == assignment)
        return err_set(ERR_FORMAT, "%s: expected key=value, got '%.100s'", SOURCE, assignment);
    if (equal - assignment > CONF_KEY_MAX)
        return err_set(ERR_FORMAT, "%s: a key of more than %d characters", SOURCE, CONF_KEY_MAX);
    if (!str_is_utf8(assignment, strlen(assignment)))
        return err_set(ERR_FORMAT, "%s: text is not UTF-8", SOURCE);
    char *path = strndup(assignment, (size_t)(equal - assignment));
    if (!path)
        return err_set(ERR_NOMEM, "out of memory");
    Assignment a = {path, path, equal + 1};
    int rc = apply(&a, t, conf);
    free(path);
    return rc;
}

static int copy_strs(ConfStrs *out, const ConfStrs *from)
{
    if (!from->count)
        return 0;
    out->items = calloc((size_t)from->count, sizeof(char *));
    if (!out->items)
        return err_set(ERR_NOMEM, "out of memory");
    for (int i = 0; i < from->count; i++) {
        TRY(str_copy(&out->items[i], from->items[i]));
        out->count++;
    }
    return 0;
}

static int copy_bytes(void **out, const void *from, int count, size_t size)
{
    if (!count)
        return 0;
    *out = malloc((size_t)count * size);
    if (!*out)
        return err_set(ERR_NOMEM, "out of memory");
    memcpy(*out, from, (size_t)count * size);
    return 0;
}

static int copy_fields(const ConfTable *t, void *out, const void *conf);

static int copy_structs(const ConfField *f, ConfList *out, const ConfList *from)
{
    if (!from->count)
        return 0;
    size_t size = f->table->size;
    out->items = calloc((size_t)from->count, size);
    if (!out->items)
        return err_set(ERR_NOMEM, "out of memory");
    out->count = from->count;
    for (int i = 0; i < from->count; i++)
        TRY(copy_fields(f->table, (char *)out->items + (size_t)i * size, (const char *)from->items + (size_t)i * size));
    return 0;
}

static int copy_field(const ConfField *f, void *out, const void *conf)
{
    switch (f->type) {
    case CONF_TYPE_STR: return str_copy(&CONF_AT(char *, f, out), CONF_AT(char *, f, conf));
    case CONF_TYPE_STRS: return copy_strs(&CONF_AT(ConfStrs, f, out), &CONF_AT(ConfStrs, f, conf));
    case CONF_TYPE_NUMS: {
        const ConfNums *from = &CONF_AT(ConfNums, f, conf);
        ConfNums *to = &CONF_AT(ConfNums, f, out);
        void *items = NULL;
        TRY(copy_bytes(&items, from->items, from->count, sizeof(double)));
        *to = (ConfNums){items, from->count};
        return 0;
    }
    case CONF_TYPE_INTS: {
        const ConfInts *from = &CONF_AT(ConfInts, f, conf);
        ConfInts *to = &CONF_AT(ConfInts, f, out);
        void *items = NULL;
        TRY(copy_bytes(&items, from->items, from->count, sizeof(int64_t)));
        *to = (ConfInts){items, from->count};
        return 0;
    }
    case CONF_TYPE_STRUCT: return copy_fields(f->table, conf_at(f, out), conf_at(f, conf));
    case CONF_TYPE_STRUCTS: return copy_structs(f, &CONF_AT(ConfList, f, out), &CONF_AT(ConfList, f, conf));
    case CONF_TYPE_NODE: {
        const ConfNode *from = CONF_AT(ConfNode *, f, conf);
        return from ? conf_node_copy(&CONF_AT(ConfNode *, f, out), from) : 0;
    }
    case CONF_TYPE_BOOL:
    case CONF_TYPE_ENUM: CONF_AT(int, f, out) = CONF_AT(int, f, conf); return 0;
    case CONF_TYPE_I32: CONF_AT(int32_t, f, out) = CONF_AT(int32_t, f, conf); return 0;
    case CONF_TYPE_F32: CONF_AT(float, f, out) = CONF_AT(float, f, conf); return 0;
    case CONF_TYPE_F64: CONF_AT(double, f, out) = CONF_AT(double, f, conf); return 0;
    case CONF_TYPE_I64:
    case CONF_TYPE_SIZE: CONF_AT(int64_t, f, out) = CONF_AT(int64_t, f, conf); return 0;
    case CONF_TYPE_U64: CONF_AT(uint64_t, f, out) = CONF_AT(uint64_t, f, conf); return 0;
    }
    return 0;
}

static int copy_fields(const ConfTable *t, void *out, const void *conf)
{
    for (int i = 0; i < t->count; i++)
        TRY(copy_field(&t->fields[i], out, conf));
    return 0;
}

int config_copy(const ConfTable *t, void *out, const void *conf)
{
    memset(out, 0, t->size);
    return copy_fields(t, out, conf);
}
