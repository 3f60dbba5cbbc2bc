#include "base/config_impl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

#include "base/error.h"

enum { MAX_NODES = 200000, MAX_KEYS = 10000 };

void conf_node_destroy(ConfNode *n)
{
    if (!n)
        return;
    for (int i = 0; i < n->count; i++) {
        conf_node_destroy(n->items[i]);
        if (n->keys)
            free(n->keys[i]);
    }
    free(n->items);
    free(n->keys);
    free(n->text);
    free(n->owned_source);
    free(n);
}

void conf_node_place(const ConfNode *n, const char *what, char *out, size_t size)
{
    const char *source = n->source ? n->source : "?";
    int key = what && *what;
    char line[32] = "";
    if (n->line > 0)
        snprintf(line, sizeof line, ":%d", n->line);
    snprintf(out, size, "%.400s%s%s%s%s", source, line, key ? ": key '" : "", key ? what : "", key ? "'" : "");
}

int conf_node_error(const ConfNode *n, int code, const char *what, const char *fmt, ...)
{
    char text[1024];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    char place[CONF_PATH_MAX + 512];
    conf_node_place(n, what, place, sizeof place);
    return err_set(code, "%s: %s", place, text);
}

int conf_node_scalar(ConfNode **out, const char *text, size_t size, int plain, int line, const char *source)
{
    *out = NULL;
    ConfNode *n = calloc(1, sizeof *n);
    char *copy = malloc(size + 1);
    if (!n || !copy) {
        free(n);
        free(copy);
        return err_set(ERR_NOMEM, "out of memory");
    }
    memcpy(copy, text, size);
    copy[size] = 0;
    *n = (ConfNode){.kind = CONF_NODE_SCALAR, .line = line, .plain = plain, .text = copy, .source = source};
    *out = n;
    return 0;
}

int conf_node_container(ConfNode **out, ConfNodeKind kind, int line, const char *source)
{
    *out = calloc(1, sizeof **out);
    if (!*out)
        return err_set(ERR_NOMEM, "out of memory");
    (*out)->kind = kind;
    (*out)->line = line;
    (*out)->source = source;
    return 0;
}

int conf_node_own_source(ConfNode *n, const char *name)
{
    TRY(str_copy(&n->owned_source, name));
    n->source = n->owned_source;
    return 0;
}

static int grow(ConfNode *n)
{
    size_t count = (size_t)n->count;
    if (count & (count - 1)) /* full at powers of two */
        return 0;
    size_t cap = count ? 2 * count : 1;
    ConfNode **items = realloc(n->items, cap * sizeof *items);
    if (items)
        n->items = items;
    char **keys = n->kind == CONF_NODE_MAP ? realloc(n->keys, cap * sizeof *keys) : NULL;
    if (keys)
        n->keys = keys;
    return items && (keys || n->kind != CONF_NODE_MAP) ? 0 : err_set(ERR_NOMEM, "out of memory");
}

int conf_node_append(ConfNode *parent, char *key, ConfNode *child)
{
    int rc = grow(parent);
    if (rc < 0) {
        free(key);
        conf_node_destroy(child);
        return rc;
    }
    if (parent->kind == CONF_NODE_MAP)
        parent->keys[parent->count] = key;
    parent->items[parent->count++] = child;
    return 0;
}

const ConfNode *conf_node_find(const ConfNode *map, const char *key)
{
    if (!map || map->kind != CONF_NODE_MAP)
        return NULL;
    for (int i = 0; i < map->count; i++)
        if (strcmp(map->keys[i], key) == 0)
            return map->items[i];
    return NULL;
}

int conf_node_is_null(const ConfNode *n)
{
    return n->kind == CONF_NODE_SCALAR && n->plain && strcmp(n->text, "null") == 0;
}

typedef struct {
    yaml_parser_t yaml;
    const char *name;
    const char *source; /* the root's copy of name, once there is a root */
    int nodes;
} Reader;

static int mark_line(yaml_mark_t m)
{
    return m.line < 2000000000 ? (int)m.line + 1 : 0;
}

static int next_event(Reader *r, yaml_event_t *e)
{
    if (yaml_parser_parse(&r->yaml, e))
        return 0;
    if (r->yaml.error == YAML_MEMORY_ERROR)
        return err_set(ERR_NOMEM, "out of memory");
    int line = mark_line(r->yaml.problem_mark);
    if (r->yaml.error == YAML_READER_ERROR)
        return err_set(ERR_FORMAT, "%s: not valid YAML: byte %zu: %s", r->name, r->yaml.problem_offset,
                       r->yaml.problem ? r->yaml.problem : "unreadable");
    const char *problem = r->yaml.problem ? r->yaml.problem : "?";
    const char *hint = strstr(problem, "cannot start any token")    ? " (indent with spaces, not tabs; quote texts with special characters)"
                       : strstr(problem, "mapping values are not") ? " (quote a text that holds ': ')"
                                                                   : "";
    return err_set(ERR_FORMAT, "%s:%d: not valid YAML: %s%s", r->name, line, problem, hint);
}

static int is_null_text(const char *s)
{
    return !*s || strcmp(s, "~") == 0 || strcmp(s, "null") == 0 || strcmp(s, "Null") == 0 || strcmp(s, "NULL") == 0;
}

static int read_scalar(Reader *r, const yaml_event_t *e, ConfNode **out)
{
    const char *text = (const char *)e->data.scalar.value;
    size_t size = e->data.scalar.length;
    int plain = e->data.scalar.style == YAML_PLAIN_SCALAR_STYLE, line = mark_line(e->start_mark);
    if (e->data.scalar.anchor || e->data.scalar.tag)
        return err_set(ERR_FORMAT, "%s:%d: anchors and tags (& and !) are not supported", r->name, line);
    if (strlen(text) != size)
        return err_set(ERR_FORMAT, "%s:%d: text holds a 0 character", r->name, line);
    if (plain && is_null_text(text)) {
        text = "null";
        size = 4;
    }
    return conf_node_scalar(out, text, size, plain, line, r->source);
}

static int read_node(Reader *r, yaml_event_t *e, int depth, ConfNode **out);

static int read_list(Reader *r, ConfNode *list, int depth)
{
    for (;;) {
        yaml_event_t e;
        ConfNode *child = NULL;
        TRY(next_event(r, &e));
        int end = e.type == YAML_SEQUENCE_END_EVENT;
        int rc = end ? 0 : read_node(r, &e, depth + 1, &child);
        yaml_event_delete(&e);
        if (rc < 0 || end)
            return rc;
        TRY(conf_node_append(list, NULL, child));
    }
}

static int read_key(Reader *r, const ConfNode *map, yaml_event_t *e, char **out)
{
    int line = mark_line(e->start_mark);
    if (e->type == YAML_ALIAS_EVENT)
        return err_set(ERR_FORMAT, "%s:%d: aliases (*) are not supported", r->name, line);
    if (e->type != YAML_SCALAR_EVENT || e->data.scalar.anchor || e->data.scalar.tag)
        return err_set(ERR_FORMAT, "%s:%d: a key must be plain text", r->name, line);
    const char *key = (const char *)e->data.scalar.value;
    if (strlen(key) != e->data.scalar.length || e->data.scalar.length > CONF_KEY_MAX || !*key)
        return err_set(ERR_FORMAT, "%s:%d: a key must have 1..%d characters", r->name, line, CONF_KEY_MAX);
    if (map->count >= MAX_KEYS) /* finding duplicates takes quadratic time */
        return err_set(ERR_FORMAT, "%s:%d: more than %d keys in one map", r->name, line, MAX_KEYS);
    const ConfNode *other = conf_node_find(map, key);
    if (other)
        return err_set(ERR_FORMAT, "%s:%d: key '%s' appears twice (first on line %d)", r->name, line, key, other->line);
    return str_copy(out, key);
}

static int read_map(Reader *r, ConfNode *map, int depth)
{
    for (;;) {
        yaml_event_t e;
        char *key = NULL;
        ConfNode *child = NULL;
        TRY(next_event(r, &e));
        int end = e.type == YAML_MAPPING_END_EVENT;
        int rc = end ? 0 : read_key(r, map, &e, &key);
        yaml_event_delete(&e);
        if (rc < 0 || end)
            return rc;
        rc = next_event(r, &e);
        if (rc == 0) {
            rc = read_node(r, &e, depth + 1, &child);
            yaml_event_delete(&e);
        }
        if (rc < 0) {
            free(key);
            return rc;
        }
        TRY(conf_node_append(map, key, child));
    }
}

/* Leaves *out NULL on an error. The event stays the caller's. */
static int read_node(Reader *r, yaml_event_t *e, int depth, ConfNode **out)
{
    int line = mark_line(e->start_mark), rc;
    *out = NULL;
    if (depth > CONF_DEPTH_MAX)
        return err_set(ERR_FORMAT, "%s:%d: nested deeper than %d levels", r->name, line, CONF_DEPTH_MAX);
    if (++r->nodes > MAX_NODES)
        return err_set(ERR_FORMAT, "%s:%d: more than %d values", r->name, line, MAX_NODES);
    if (e->type == YAML_SCALAR_EVENT)
        return read_scalar(r, e, out);
    if (e->type == YAML_ALIAS_EVENT)
        return err_set(ERR_FORMAT, "%s:%d: aliases (*) are not supported", r->name, line);
    int list = e->type == YAML_SEQUENCE_START_EVENT;
    if (list ? e->data.sequence_start.anchor || e->data.sequence_start.tag
             : e->data.mapping_start.anchor || e->data.mapping_start.tag)
        return err_set(ERR_FORMAT, "%s:%d: anchors and tags (& and !) are not supported", r->name, line);
    TRY(conf_node_container(out, list ? CONF_NODE_LIST : CONF_NODE_MAP, line, r->source));
    rc = list ? read_list(r, *out, depth) : read_map(r, *out, depth);
    if (rc < 0) {
        conf_node_destroy(*out);
        *out = NULL;
    }
    return rc;
}

static int read_document(Reader *r, ConfNode **out)
{
    yaml_event_t e;
    int rc;
    do { /* stream start, document start */
        TRY(next_event(r, &e));
        yaml_event_type_t type = e.type;
        if (type == YAML_STREAM_END_EVENT || type == YAML_NO_EVENT) {
            yaml_event_delete(&e);
            return conf_node_container(out, CONF_NODE_MAP, 1, r->source);
        }
        if (type != YAML_STREAM_START_EVENT && type != YAML_DOCUMENT_START_EVENT)
            break;
        yaml_event_delete(&e);
    } while (1);
    rc = read_node(r, &e, 0, out);
    yaml_event_delete(&e);
    TRY(rc);
    TRY(next_event(r, &e)); /* document end */
    yaml_event_delete(&e);
    TRY(next_event(r, &e));
    if (e.type != YAML_STREAM_END_EVENT)
        rc = err_set(ERR_FORMAT, "%s:%d: only one document per file is allowed", r->name, mark_line(e.start_mark));
    yaml_event_delete(&e);
    return rc;
}

int conf_node_parse(ConfNode **out, const char *text, size_t size, const char *name)
{
    Reader r = {.name = name};
    char *source = NULL;
    ConfNode *root = NULL;
    *out = NULL;
    TRY(str_copy(&source, name));
    r.source = source;
    if (!yaml_parser_initialize(&r.yaml)) {
        free(source);
        return err_set(ERR_NOMEM, "out of memory");
    }
    if (size >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0) { /* a byte order mark, as Windows editors write it */
        text += 3;
        size -= 3;
    }
    yaml_parser_set_input_string(&r.yaml, (const unsigned char *)text, size);
    yaml_parser_set_encoding(&r.yaml, YAML_UTF8_ENCODING);
    int rc = read_document(&r, &root);
    yaml_parser_delete(&r.yaml);
    if (rc < 0) {
        conf_node_destroy(root);
        free(source);
        return rc;
    }
    root->owned_source = source;
    *out = root;
    return 0;
}

static int depth_of(const ConfNode *n)
{
    int deepest = 0;
    for (int i = 0; i < n->count; i++) {
        int d = depth_of(n->items[i]);
        deepest = d > deepest ? d : deepest;
    }
    return deepest + 1;
}

int conf_node_check_depth(const ConfNode *n, const char *what)
{
    if (depth_of(n) > CONF_NODE_DEPTH_MAX)
        return conf_node_error(n, ERR_FORMAT, what, "nested deeper than %d levels", CONF_NODE_DEPTH_MAX);
    return 0;
}

static int copy_below(ConfNode **out, const ConfNode *n, const char *source)
{
    if (n->kind == CONF_NODE_SCALAR)
        return conf_node_scalar(out, n->text, strlen(n->text), n->plain, n->line, source);
    TRY(conf_node_container(out, n->kind, n->line, source));
    for (int i = 0; i < n->count; i++) {
        ConfNode *child = NULL;
        char *key = NULL;
        /* A grafted child keeps its own source. */
        int rc = n->items[i]->owned_source ? conf_node_copy(&child, n->items[i]) : copy_below(&child, n->items[i], source);
        if (rc == 0 && n->keys)
            rc = str_copy(&key, n->keys[i]);
        if (rc < 0)
            conf_node_destroy(child);
        else
            rc = conf_node_append(*out, key, child);
        if (rc < 0) {
            conf_node_destroy(*out);
            *out = NULL;
            return rc;
        }
    }
    return 0;
}

int conf_node_copy(ConfNode **out, const ConfNode *n)
{
    char *source;
    *out = NULL;
    TRY(str_copy(&source, n->source ? n->source : "?"));
    int rc = copy_below(out, n, source);
    if (rc < 0)
        free(source);
    else
        (*out)->owned_source = source;
    return rc;
}

static const char *describe(const ConfNode *n, char *buf, size_t size)
{
    if (n->kind == CONF_NODE_LIST)
        return "a list";
    if (n->kind == CONF_NODE_MAP)
        return "a map";
    if (conf_node_is_null(n))
        return "nothing";
    snprintf(buf, size, "'%.60s%s'", n->text, strlen(n->text) > 60 ? "..." : "");
    return buf;
}

int conf_node_expected(const ConfNode *n, int code, const char *what, const char *expected)
{
    char got[80];
    return conf_node_error(n, code, what, "expected %s, got %s", expected, describe(n, got, sizeof got));
}

int conf_node_text(const ConfNode *n, const char *what, const char **out)
{
    if (n->kind != CONF_NODE_SCALAR)
        return conf_node_expected(n, ERR_FORMAT, what, "text");
    *out = conf_node_is_null(n) ? "" : n->text;
    return 0;
}

int conf_node_i64(const ConfNode *n, const char *what, int64_t *out)
{
    if (n->kind != CONF_NODE_SCALAR || !n->plain || !conf_parse_i64(n->text, out))
        return conf_node_expected(n, ERR_FORMAT, what, "an integer");
    return 0;
}

int conf_node_u64(const ConfNode *n, const char *what, uint64_t *out)
{
    if (n->kind != CONF_NODE_SCALAR || !n->plain || !conf_parse_u64(n->text, out))
        return conf_node_expected(n, ERR_FORMAT, what, "an integer, 0 or more");
    return 0;
}

int conf_node_f64(const ConfNode *n, const char *what, double *out)
{
    if (n->kind != CONF_NODE_SCALAR || !n->plain || !conf_parse_f64(n->text, out))
        return conf_node_expected(n, ERR_FORMAT, what, "a number");
    return 0;
}

int conf_node_bool(const ConfNode *n, const char *what, int *out)
{
    if (n->kind != CONF_NODE_SCALAR || !n->plain || !conf_parse_bool(n->text, out))
        return conf_node_expected(n, ERR_FORMAT, what, "true or false");
    return 0;
}
