#include "sweep/find.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/error.h"
#include "base/str.h"
#include "io/file.h"

enum { MAX_DEPTH = 6 };

int find_lora_hash(const char *path, char hex[HASH_HEX_SIZE])
{
    uint8_t head[8], sum[HASH_SIZE];
    FILE *f = fopen(path, "rb");
    if (!f)
        return err_errno("%s", path);
    size_t got = fread(head, 1, sizeof head, f);
    fclose(f);
    if (got != sizeof head)
        return err_set(ERR_FORMAT, "%s: too short for a safetensors file", path);
    int64_t header = 0;
    for (int i = 7; i >= 0; i--)
        header = header * 256 + head[i];
    if (header < 0 || header > 100000000)
        return err_set(ERR_FORMAT, "%s: no safetensors file", path);
    TRY(hash_file_range(sum, path, 8 + header, -1));
    hash_hex(hex, sum, HASH_SIZE);
    return 0;
}

/* 1: taken, and the walk ends; 0: goes on. */
typedef int (*Visit)(void *ctx, const char *path, int is_dir);

static int walk(const char *dir, Visit visit, void *ctx, int depth, char **found)
{
    IoNames names;
    int rc = 0;
    if (depth > MAX_DEPTH || io_dir_list(&names, dir, NULL) < 0)
        return 0; /* what cannot be read holds nothing */
    for (int i = 0; i < names.count && rc >= 0 && !*found; i++) {
        char *path;
        if ((rc = io_path_join(&path, dir, names.items[i])) < 0)
            break;
        int is_dir = io_file_is_dir(path);
        rc = visit(ctx, path, is_dir);
        if (rc > 0) {
            *found = path;
            break;
        }
        if (rc >= 0 && is_dir)
            rc = walk(path, visit, ctx, depth + 1, found);
        free(path);
    }
    io_names_deinit(&names);
    return rc < 0 ? rc : 0;
}

static int walk_all(const FindFolders *in, Visit visit, void *ctx, char **found)
{
    *found = NULL;
    for (int i = 0; i < in->count && !*found; i++) {
        int rc = visit(ctx, in->items[i], io_file_is_dir(in->items[i]));
        if (rc > 0)
            TRY(str_copy(found, in->items[i]));
        else
            TRY(rc < 0 ? rc : walk(in->items[i], visit, ctx, 0, found));
    }
    return 0;
}

typedef struct {
    const char *hash, *name;
} Wanted;

/* "sub/ink.safetensors" is meant by "ink", "ink.safetensors" and "sub\\ink.safetensors". */
static int same_name(const char *path, const char *name)
{
    const char *slash = strrchr(name, '/'), *back = strrchr(name, '\\');
    name = slash && slash > name ? slash + 1 : name;
    name = back && back + 1 > name ? back + 1 : name;
    const char *file = io_path_name(path), *ext = io_path_ext(file);
    size_t n = strlen(file) - strlen(ext);
    return *name && (strcasecmp(file, name) == 0 || (strlen(name) == n && strncasecmp(file, name, n) == 0));
}

static int visit_lora(void *ctx, const char *path, int is_dir)
{
    const Wanted *w = ctx;
    char hex[HASH_HEX_SIZE];
    if (is_dir || !str_ends_with(path, ".safetensors"))
        return 0;
    if (!w->hash[0])
        return same_name(path, w->name);
    return find_lora_hash(path, hex) >= 0 && strncasecmp(hex, w->hash, strlen(w->hash)) == 0;
}

int find_lora(const FindFolders *in, const char *hash, const char *name, char **path)
{
    Wanted w = {hash, name};
    return walk_all(in, visit_lora, &w, path);
}

typedef struct {
    FindModel take;
    void *ctx;
} Taker;

static int visit_model(void *ctx, const char *path, int is_dir)
{
    const Taker *t = ctx;
    char *index;
    if (!is_dir)
        return 0;
    TRY(io_path_join(&index, path, "model_index.json"));
    int there = io_file_exists(index);
    free(index);
    return there ? t->take(t->ctx, path) : 0;
}

int find_model(const FindFolders *in, FindModel take, void *ctx, char **path)
{
    Taker t = {take, ctx};
    return walk_all(in, visit_model, &t, path);
}

static int visit_foreign_hash(void *ctx, const char *path, int is_dir)
{
    const Wanted *w = ctx;
    char hex[HASH_HEX_SIZE];
    if (is_dir || !str_ends_with(path, ".safetensors"))
        return 0;
    return hash_file_hex(hex, path) >= 0 && strncasecmp(hex, w->hash, strlen(w->hash)) == 0;
}

static int take_named(void *ctx, const char *folder)
{
    const Wanted *w = ctx;
    return same_name(folder, w->name);
}

int find_foreign_model(const FindFolders *in, const char *hash, const char *name, char **path)
{
    Wanted w = {hash, name}, by_name = {"", name};
    *path = NULL;
    if (hash[0])
        TRY(walk_all(in, visit_foreign_hash, &w, path));
    if (!*path)
        TRY(find_model(in, take_named, &w, path));
    return *path ? 0 : walk_all(in, visit_lora, &by_name, path);
}
