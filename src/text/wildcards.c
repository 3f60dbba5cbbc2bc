#include <ctype.h>
#include <fnmatch.h>
#include <stdlib.h>
#include <string.h>

#include "base/config.h"
#include "base/hash.h"
#include "io/file.h"
#include "text/template_impl.h"

enum { WILDCARDS_MAX_FILE = 64 << 20, WILDCARDS_MAX_FILES = 100000, WILDCARDS_MAX_DEPTH = 32 };

/* One list of values: a text file, or a list inside a structured one. */
typedef struct {
    char *name;      /* "animals/mammals/canine" */
    char *path;      /* text file still to be read; NULL when it is */
    WildcardValue *value;
    int count, cap;
} Collection;

/* What a pattern gave. */
typedef struct {
    char *pattern;
    WildcardValue *value;
    int count;
} Match;

struct Wildcards {
    Arena arena;
    char *dir;
    Collection *item;
    int count, cap;
    Match **match;
    int nmatch;
};

static int grow(void **list, int count, int *cap, size_t size)
{
    if (count < *cap)
        return 0;
    int n = *cap ? 2 * *cap : 16;
    void *grown = realloc(*list, (size_t)n * size);
    if (!grown)
        return err_set(ERR_NOMEM, "out of memory: wildcards");
    *list = grown;
    *cap = n;
    return 0;
}

static int add_collection(Wildcards *w, const char *name, const char *path, Collection **out)
{
    TRY(grow((void **)&w->item, w->count, &w->cap, sizeof *w->item));
    *out = &w->item[w->count];
    **out = (Collection){.name = arena_text(&w->arena, name, strlen(name)), .path = path ? arena_text(&w->arena, path, strlen(path)) : NULL};
    if (!(*out)->name || (path && !(*out)->path))
        return ERR_NOMEM;
    w->count++;
    return 0;
}

static int add_value(Wildcards *w, Collection *c, const char *text, size_t n, double weight)
{
    TRY(grow((void **)&c->value, c->count, &c->cap, sizeof *c->value));
    char *copy = arena_text(&w->arena, text, n);
    if (!copy)
        return ERR_NOMEM;
    c->value[c->count++] = (WildcardValue){copy, weight};
    return 0;
}

/* ---- text files ---- */

static int read_lines(Wildcards *w, Collection *c)
{
    char *text, *p;
    size_t size;
    int rc = 0;
    TRY(io_file_read(&text, &size, c->path, WILDCARDS_MAX_FILE));
    for (p = text; *p && rc >= 0;) {
        size_t line = strcspn(p, "\n"), n = line;
        const char *from = p;
        while (n && isspace((unsigned char)*from)) {
            from++;
            n--;
        }
        while (n && isspace((unsigned char)from[n - 1]))
            n--;
        if (n && *from != '#')
            rc = add_value(w, c, from, n, 1);
        p += line + (p[line] != 0);
    }
    free(text);
    c->path = NULL;
    return rc;
}

/* ---- YAML and JSON ---- */

/* "2::red": the weight is what stands before the last "::". */
static int add_weighted(Wildcards *w, Collection *c, const char *text)
{
    const char *mark = NULL;
    char *end;
    if (isdigit((unsigned char)*text))
        for (const char *p = strstr(text, "::"); p; p = strstr(p + 1, "::"))
            mark = p;
    double weight = mark ? strtod(text, &end) : 1;
    if (mark && end == mark && weight >= 0 && weight <= 1e9)
        return add_value(w, c, mark + 2, strlen(mark + 2), weight);
    return add_value(w, c, text, strlen(text), 1);
}

static int add_item(Wildcards *w, Collection *c, const ConfNode *n)
{
    const char *text;
    double weight = 1;
    if (conf_node_is_null(n) || (n->kind == CONF_NODE_SCALAR && !*n->text))
        return 0;
    if (n->kind == CONF_NODE_SCALAR)
        return add_weighted(w, c, n->text);
    const ConfNode *t = conf_node_find(n, "text"), *x = conf_node_find(n, "weight");
    if (!t)
        t = conf_node_find(n, "content");
    if (!t)
        return conf_node_error(n, ERR_FORMAT, c->name, "expected a text or {text: TEXT, weight: NUMBER}");
    TRY(conf_node_text(t, c->name, &text));
    if (x)
        TRY(conf_node_f64(x, c->name, &weight));
    if (!(weight >= 0 && weight <= 1e9))
        return conf_node_error(n, ERR_RANGE, c->name, "expected a weight from 0 to 1e9");
    return *text ? add_value(w, c, text, strlen(text), weight) : 0;
}

static int add_tree(Wildcards *w, const char *name, const ConfNode *n)
{
    Collection *c;
    if (n->kind == CONF_NODE_LIST) {
        TRY(add_collection(w, name, NULL, &c));
        int at = w->count - 1;
        for (int i = 0; i < n->count; i++)
            TRY(add_item(w, &w->item[at], n->items[i]));
        return 0;
    }
    if (n->kind == CONF_NODE_SCALAR) {
        if (conf_node_is_null(n) || n->plain) /* numbers and the like are no lists */
            return 0;
        TRY(add_collection(w, name, NULL, &c));
        return add_item(w, c, n);
    }
    for (int i = 0; i < n->count; i++) {
        char *path;
        TRY(str_format(&path, "%s%s%s", name, *name && !str_ends_with(name, "/") ? "/" : "", n->keys[i]));
        int rc = add_tree(w, path, n->items[i]);
        free(path);
        TRY(rc);
    }
    return 0;
}

/* A flat list takes the file's name, a map the folder's. */
static int read_tree(Wildcards *w, const char *path, const char *folder, const char *stem)
{
    char *text;
    size_t size;
    ConfNode *n = NULL;
    TRY(io_file_read(&text, &size, path, WILDCARDS_MAX_FILE));
    int rc = conf_node_parse(&n, text, size, path);
    free(text);
    if (rc >= 0)
        rc = add_tree(w, n->kind == CONF_NODE_LIST ? stem : folder, n);
    conf_node_destroy(n);
    return rc;
}

/* ---- folders ---- */

static int scan(Wildcards *w, const char *dir, const char *folder, int depth);

static int scan_entry(Wildcards *w, const char *path, const char *folder, const char *file, int depth)
{
    const char *ext = io_path_ext(file);
    Collection *c;
    char *stem;
    int rc = 0;
    if (io_file_is_dir(path)) {
        TRY(str_format(&stem, "%s%s/", folder, file));
        rc = scan(w, path, stem, depth + 1);
        free(stem);
        return rc;
    }
    TRY(str_format(&stem, "%s%.*s", folder, (int)(ext - file), file));
    if (strcmp(ext, ".txt") == 0)
        rc = add_collection(w, stem, path, &c);
    else if (strcmp(ext, ".yaml") == 0 || strcmp(ext, ".yml") == 0 || strcmp(ext, ".json") == 0)
        rc = read_tree(w, path, folder, stem);
    free(stem);
    return rc;
}

static int scan(Wildcards *w, const char *dir, const char *folder, int depth)
{
    IoNames names;
    if (depth > WILDCARDS_MAX_DEPTH)
        return err_set(ERR_RANGE, "%s: more than %d folders inside each other", dir, (int)WILDCARDS_MAX_DEPTH);
    TRY(io_dir_list(&names, dir, NULL));
    int rc = 0;
    for (int i = 0; i < names.count && rc >= 0; i++) {
        char *path;
        rc = io_path_join(&path, dir, names.items[i]);
        if (rc < 0)
            break;
        rc = w->count > WILDCARDS_MAX_FILES ? err_set(ERR_RANGE, "%s: more than %d lists of wildcards", w->dir, (int)WILDCARDS_MAX_FILES)
                                            : scan_entry(w, path, folder, names.items[i], depth);
        free(path);
    }
    io_names_deinit(&names);
    return rc;
}

int wildcards_open(Wildcards **out, const char *dir)
{
    Wildcards *w = calloc(1, sizeof *w);
    if (!w)
        return err_set(ERR_NOMEM, "out of memory: wildcards");
    arena_init(&w->arena, 0);
    int rc = 0;
    if (dir && *dir) {
        w->dir = arena_text(&w->arena, dir, strlen(dir));
        rc = !w->dir ? ERR_NOMEM : io_file_is_dir(dir) ? scan(w, dir, "", 0) : err_set(ERR_NOTFOUND, "%s: no folder of wildcards", dir);
    }
    if (rc < 0) {
        wildcards_close(w);
        return rc;
    }
    *out = w;
    return 0;
}

void wildcards_close(Wildcards *w)
{
    if (!w)
        return;
    for (int i = 0; i < w->count; i++)
        free(w->item[i].value);
    for (int i = 0; i < w->nmatch; i++) {
        free(w->match[i]->value);
        free(w->match[i]);
    }
    free(w->match);
    free(w->item);
    arena_deinit(&w->arena);
    free(w);
}

/* ---- patterns ---- */

static int by_text(const void *a, const void *b)
{
    const WildcardValue *x = a, *y = b;
    int c = strcmp(x->text, y->text);
    return c ? c : x->weight < y->weight ? -1 : x->weight > y->weight;
}

static int gather(Wildcards *w, const char *pattern, Match *m)
{
    int cap = 0;
    for (int i = 0; i < w->count; i++) {
        Collection *c = &w->item[i];
        if (fnmatch(pattern, c->name, FNM_NOESCAPE) != 0)
            continue;
        if (c->path)
            TRY(read_lines(w, c));
        for (int k = 0; k < c->count; k++) {
            TRY(grow((void **)&m->value, m->count, &cap, sizeof *m->value));
            m->value[m->count++] = c->value[k];
        }
    }
    if (!m->count)
        return 0;
    qsort(m->value, (size_t)m->count, sizeof *m->value, by_text);
    int n = 1;
    for (int k = 1; k < m->count; k++)
        if (by_text(&m->value[n - 1], &m->value[k]) != 0)
            m->value[n++] = m->value[k];
    m->count = n;
    return 0;
}

static int missing(const Wildcards *w, const char *pattern)
{
    const char *near = NULL;
    const char **names = calloc((size_t)w->count + 1, sizeof *names);
    for (int i = 0; names && i < w->count; i++)
        names[i] = w->item[i].name;
    if (names)
        near = str_nearest(pattern, names, w->count);
    int rc = w->dir ? err_set(ERR_NOTFOUND, "wildcard __%s__: %s has no values of that name%s%s%s", pattern, w->dir,
                              near ? "; did you mean __" : "", near ? near : "", near ? "__?" : "")
                    : err_set(ERR_NOTFOUND, "wildcard __%s__: no folder of wildcards is set (key 'wildcards')", pattern);
    free(names);
    return rc;
}

/* Slashes of both kinds and at both ends are forgiven. */
static int clean(Wildcards *w, const char *pattern, char **out)
{
    char *q = arena_text(&w->arena, pattern, strlen(pattern)), *to = q;
    if (!q)
        return ERR_NOMEM;
    if (strstr(pattern, ".."))
        return err_set(ERR_FORMAT, "wildcard __%s__: '..' leads outside the folder", pattern);
    for (const char *p = q; *p; p++) {
        char c = *p == '\\' ? '/' : *p;
        if (c != '/' || (to > q && to[-1] != '/'))
            *to++ = c;
    }
    while (to > q && to[-1] == '/')
        to--;
    *to = 0;
    *out = q;
    return 0;
}

int wildcards_get(Wildcards *w, const char *pattern, const WildcardValue **values, int *count)
{
    char *name = NULL;
    TRY(clean(w, pattern, &name));
    for (int i = 0; i < w->nmatch; i++)
        if (strcmp(w->match[i]->pattern, name) == 0) {
            *values = w->match[i]->value;
            *count = w->match[i]->count;
            return 0;
        }
    Match **grown = realloc(w->match, ((size_t)w->nmatch + 1) * sizeof *grown);
    if (!grown)
        return err_set(ERR_NOMEM, "out of memory: wildcards");
    w->match = grown;
    Match *m = calloc(1, sizeof *m);
    if (!m)
        return err_set(ERR_NOMEM, "out of memory: wildcards");
    m->pattern = name;
    int rc = gather(w, name, m);
    if (rc >= 0 && !m->count && strncmp(name, "**", 2) != 0) {
        char *deep = NULL;
        rc = str_format(&deep, "**/%s", name);
        if (rc >= 0)
            rc = gather(w, deep, m);
        free(deep);
    }
    if (rc >= 0 && !m->count)
        rc = missing(w, name);
    if (rc < 0) {
        free(m->value);
        free(m);
        return rc;
    }
    w->match[w->nmatch++] = m;
    *values = m->value;
    *count = m->count;
    return 0;
}

int wildcards_hash(const Wildcards *w, char hex[65])
{
    StrBuf b;
    uint8_t sum[HASH_SIZE];
    str_init(&b);
    for (int i = 0; i < w->nmatch; i++) {
        str_add_format(&b, "%s\n", w->match[i]->pattern);
        for (int k = 0; k < w->match[i]->count; k++) {
            str_add_number(&b, w->match[i]->value[k].weight, 0);
            str_add_char(&b, ' ');
            str_add_json(&b, w->match[i]->value[k].text, strlen(w->match[i]->value[k].text));
            str_add_char(&b, '\n');
        }
    }
    int rc = str_status(&b);
    if (rc >= 0)
        rc = hash_bytes(sum, b.data ? b.data : "", b.len);
    if (rc >= 0)
        hash_hex(hex, sum, HASH_SIZE);
    str_deinit(&b);
    return rc;
}
