#include "sweep/lock.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/hash.h"
#include "base/version.h"
#include "io/file.h"

enum { MANY = 64, MAX_DEPTH = 16 };
static const char head[] = "# atelier lock 1";

typedef struct {
    char **line;
    int count, cap;
} Lines;

static void lines_deinit(Lines *l)
{
    for (int i = 0; i < l->count; i++)
        free(l->line[i]);
    free(l->line);
}

/* Takes the text over in every case. */
static int lines_add(Lines *l, char *text)
{
    if (l->count == l->cap) {
        int cap = 2 * l->cap + 16;
        char **grown = realloc(l->line, (size_t)cap * sizeof *grown);
        if (!grown) {
            free(text);
            return err_set(ERR_NOMEM, "out of memory");
        }
        l->line = grown;
        l->cap = cap;
    }
    l->line[l->count++] = text;
    return 0;
}

static int by_bytes(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

/* ---- files ---- */

static int list_files(Lines *files, const char *dir, int depth)
{
    IoNames names;
    int rc = 0;
    if (depth > MAX_DEPTH)
        return err_set(ERR_RANGE, "%s: more than %d folders deep", dir, MAX_DEPTH);
    TRY(io_dir_list(&names, dir, NULL));
    for (int i = 0; i < names.count && rc >= 0; i++) {
        char *path;
        if ((rc = io_path_join(&path, dir, names.items[i])) < 0)
            break;
        if (io_file_is_dir(path)) {
            rc = list_files(files, path, depth + 1);
            free(path);
        } else {
            rc = lines_add(files, path);
        }
    }
    io_names_deinit(&names);
    return rc;
}

static int add_file(Lines *out, const char *path)
{
    char hex[HASH_HEX_SIZE], *line;
    TRY(hash_file_hex(hex, path));
    TRY(str_format(&line, "file    %s %s", hex, path));
    return lines_add(out, line);
}

/* skip: bytes at the start of each path that are not part of its name. */
static int add_tree(Lines *out, const char *dir, const Lines *files, size_t skip)
{
    char hex[HASH_HEX_SIZE], *line;
    uint8_t sum[HASH_SIZE];
    StrBuf b;
    int rc = 0;
    str_init(&b);
    for (int i = 0; i < files->count && rc >= 0; i++) {
        rc = hash_file_hex(hex, files->line[i]);
        str_add_format(&b, "%s %s\n", hex, files->line[i] + skip);
    }
    if (rc >= 0 && (rc = str_status(&b)) >= 0 && (rc = hash_bytes(sum, b.data, b.len)) >= 0) {
        hash_hex(hex, sum, HASH_SIZE);
        rc = str_format(&line, "tree    %s %d %s", hex, files->count, dir);
        if (rc >= 0)
            rc = lines_add(out, line);
    }
    str_deinit(&b);
    return rc;
}

static int add_path(Lines *out, const char *path)
{
    Lines files = {0};
    if (!io_file_is_dir(path))
        return add_file(out, path);
    int rc = list_files(&files, path, 0);
    if (rc >= 0 && files.count > MANY)
        rc = add_tree(out, path, &files, strlen(path));
    for (int i = 0; rc >= 0 && files.count <= MANY && i < files.count; i++)
        rc = add_file(out, files.line[i]);
    lines_deinit(&files);
    return rc;
}

static int add_list(Lines *out, const LockList *list)
{
    Lines files = {.line = list->path, .count = list->count};
    char *name;
    TRY(str_format(&name, "images of %s", list->name));
    int rc = list->count > MANY ? add_tree(out, name, &files, 0) : 0;
    free(name);
    for (int i = 0; rc >= 0 && list->count <= MANY && i < list->count; i++)
        rc = add_file(out, list->path[i]);
    return rc;
}

/* ---- the configuration ---- */

static int is_one_of(const char *key, const char *const *names)
{
    for (; *names; names++)
        if (strcmp(key, *names) == 0)
            return 1;
    return 0;
}

static const char *const inputs[] = {"model", "vae", "path", "masks", "images", "class_images", "source", "mask", "init", "loras",
                                     "wildcards", "embeddings", NULL};
static const char *const nothing[] = {"", "none", "null", "~", "off", "false", NULL}; /* on an axis */
/* Where and how fast; in `loss` and `sheet` the names above stand for other things. */
static const char *const outputs[] = {"output", "cache", "threads", "device", "keep", "batch", "resume", "sheet", "png", NULL};

/* Class images that a training makes for itself (class_images), and words that vectors begin as (embedding.init), are no input. */
static int is_made(const char *key, const char *what, const char *value)
{
    if (strcmp(what, "embedding.init") == 0)
        return !str_ends_with(value, ".safetensors");
    if (strcmp(key, "class_images") != 0)
        return 0;
    char *conf;
    if (io_path_join(&conf, value, "sweep.yaml") < 0)
        return 0;
    int made = !io_file_exists(value) || io_file_exists(conf);
    free(conf);
    return made;
}

static int add_input(Lines *out, const ConfNode *n, const char *key, const char *what)
{
    if (!is_one_of(key, inputs) || is_one_of(n->text, nothing) || is_made(key, what, n->text))
        return 0;
    if (!io_file_exists(n->text))
        return err_set(ERR_NOTFOUND, "key '%s': there is no %s", what, n->text);
    if (out)
        TRY_CTX(add_path(out, n->text), "key '%s'", what);
    return 0;
}

/* key: the nearest name; what: the whole way to the node. out NULL: only whether all are there. */
static int add_inputs(Lines *out, const ConfNode *n, const char *key, const char *what)
{
    int map = n->kind == CONF_NODE_MAP, rc = 0;
    if (is_one_of(key, outputs) || strcmp(what, "loss") == 0)
        return 0;
    if (n->kind == CONF_NODE_SCALAR)
        return add_input(out, n, key, what);
    for (int i = 0; i < n->count && rc >= 0; i++) {
        char *deeper;
        TRY(map ? str_format(&deeper, "%s%s%s", what, *what ? "." : "", n->keys[i]) : str_format(&deeper, "%s.%d", what, i));
        rc = add_inputs(out, n->items[i], map ? n->keys[i] : key, deeper);
        free(deeper);
    }
    return rc;
}

static int add_config(Lines *out, const ConfNode *root)
{
    uint8_t sum[HASH_SIZE];
    char hex[HASH_HEX_SIZE], *line;
    StrBuf b;
    str_init(&b);
    for (int i = 0; i < root->count; i++) {
        if (is_one_of(root->keys[i], outputs))
            continue;
        str_add_format(&b, "%s: ", root->keys[i]);
        conf_node_dump(root->items[i], &b);
        str_add_char(&b, '\n');
    }
    int rc = str_status(&b);
    if (rc >= 0 && (rc = hash_bytes(sum, b.data, b.len)) >= 0) {
        hash_hex(hex, sum, HASH_SIZE);
        rc = str_format(&line, "config  %s", hex);
        if (rc >= 0)
            rc = lines_add(out, line);
    }
    str_deinit(&b);
    return rc;
}

int lock_check(const char *yaml)
{
    ConfNode *root;
    TRY(conf_node_parse(&root, yaml, strlen(yaml), "configuration"));
    int rc = add_inputs(NULL, root, "", "");
    conf_node_destroy(root);
    return rc;
}

int lock_build(StrBuf *out, const char *yaml, const LockList *list, int nlist)
{
    ConfNode *root;
    Lines l = {0};
    int rc;
    TRY(conf_node_parse(&root, yaml, strlen(yaml), "configuration"));
    TRY_GOTO(add_inputs(&l, root, "", ""));
    for (int i = 0; i < nlist; i++)
        TRY_GOTO(add_list(&l, &list[i]));
    TRY_GOTO(add_config(&l, root));
    qsort(l.line, (size_t)l.count, sizeof *l.line, by_bytes);
    str_add_format(out, "%s\nversion %s\n", head, ATELIER_VERSION);
    for (int i = 0; i < l.count; i++) {
        if (i && strcmp(l.line[i], l.line[i - 1]) == 0)
            continue;
        str_add(out, l.line[i]);
        str_add_char(out, '\n');
    }
    rc = str_status(out);
done:
    lines_deinit(&l);
    conf_node_destroy(root);
    return rc;
}

/* ---- comparing ---- */

int lock_is(const char *text) { return str_starts_with(text, head); }

/* What a line is about: its path, or "configuration". */
static const char *subject(const char *line)
{
    const char *p = strchr(line, ' ');
    if (str_starts_with(line, "version"))
        return "version";
    if (str_starts_with(line, "config"))
        return "the configuration";
    p += strspn(p, " ");
    if (!(p = strchr(p, ' ')))
        return line;
    p++;
    if (str_starts_with(line, "tree")) {
        const char *after = strchr(p, ' ');
        p = after ? after + 1 : p;
    }
    return p;
}

static int split(Lines *l, const char *text)
{
    while (*text) {
        size_t n = strcspn(text, "\n");
        int known = strncmp(text, "file ", 5) == 0 || strncmp(text, "tree ", 5) == 0 || strncmp(text, "config ", 7) == 0 ||
                    strncmp(text, "version ", 8) == 0;
        if (known) {
            char *line;
            TRY(str_format(&line, "%.*s", (int)n, text));
            TRY(lines_add(l, line));
        }
        text += n + (text[n] == '\n');
    }
    return 0;
}

static const char *find_subject(const Lines *l, const char *about)
{
    for (int i = 0; i < l->count; i++)
        if (strcmp(subject(l->line[i]), about) == 0)
            return l->line[i];
    return NULL;
}

int lock_compare(const char *old, const char *now, StrBuf *report, int *count)
{
    Lines a = {0}, b = {0};
    int rc;
    *count = 0;
    TRY_GOTO(split(&a, old));
    TRY_GOTO(split(&b, now));
    for (int i = 0; i < a.count; i++) {
        const char *about = subject(a.line[i]), *other = find_subject(&b, about);
        if (other && strcmp(other, a.line[i]) == 0)
            continue;
        if (other && strcmp(about, "version") == 0)
            str_add_format(report, "%s: %s -> %s\n", about, a.line[i] + 8, other + 8);
        else
            str_add_format(report, "%s %s\n", about, other ? "changed" : "is not read any more");
        *count += strcmp(about, "version") != 0;
    }
    for (int i = 0; i < b.count; i++)
        if (!find_subject(&a, subject(b.line[i]))) {
            str_add_format(report, "%s is new\n", subject(b.line[i]));
            ++*count;
        }
    rc = str_status(report);
done:
    lines_deinit(&a);
    lines_deinit(&b);
    return rc;
}
