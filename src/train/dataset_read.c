#include <ctype.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "io/file.h"
#include "train/csv.h"
#include "train/dataset_impl.h"

enum { LIST_MAX_BYTES = 1 << 30, CAPTION_MAX_BYTES = 1 << 16 };

#define PACK_MEMORY_MAX ((int64_t)1 << 30)

/* One entry of `datasets` being read; repeats and tokens as the present folder's name and the settings say. */
typedef struct {
    TrainDataset *d;
    const TrainDatasetConf *dc;
    int repeats;
    const char *tokens;
} Reader;

static const char *const image_ext[] = {".png", ".jpg", ".jpeg", ".webp"};

static int is_image(const char *name)
{
    for (size_t i = 0; i < sizeof image_ext / sizeof *image_ext; i++)
        if (!strcasecmp(io_path_ext(name), image_ext[i]))
            return 1;
    return 0;
}

/* Lines without spaces around them, empty ones left out. */
static void trim_lines(char *s)
{
    char *to = s;
    for (char *p = s, *end; *p; p = *end ? end + 1 : end) {
        end = p + strcspn(p, "\n");
        char *a = p, *b = end;
        while (a < b && isspace((unsigned char)*a))
            a++;
        while (b > a && isspace((unsigned char)b[-1]))
            b--;
        if (a == b)
            continue;
        if (to > s)
            *to++ = '\n';
        memmove(to, a, (size_t)(b - a)); /* never beyond p: a line break was between */
        to += b - a;
    }
    *to = 0;
}

/* *out = NULL where there is no such file. */
static int read_caption(char **out, const char *path, int stem, const char *ext)
{
    char *file;
    size_t size;
    *out = NULL;
    TRY(str_format(&file, "%.*s%s%s", stem, path, ext[0] == '.' ? "" : ".", ext));
    int rc = io_file_exists(file) ? io_file_read(out, &size, file, CAPTION_MAX_BYTES) : 0;
    if (rc >= 0 && *out && (strlen(*out) != size || !str_is_utf8(*out, size))) {
        free(*out);
        *out = NULL;
        rc = err_set(ERR_FORMAT, "%s: caption is not UTF-8", file);
    }
    free(file);
    if (*out) {
        memmove(*out, *out + (strncmp(*out, "\xef\xbb\xbf", 3) ? 0 : 3), strlen(*out) - (strncmp(*out, "\xef\xbb\xbf", 3) ? 0 : 3) + 1);
        trim_lines(*out);
    }
    return rc;
}

/* The caption file's, the configured one, the folder's class tokens, or the file name in words. */
static int find_caption(const Reader *r, char **out, const char *path, int *named)
{
    *named = 0;
    const char *own[] = {r->dc->extension, NULL}, *const usual[] = {".txt", ".caption", NULL};
    int stem = (int)(strlen(path) - strlen(io_path_ext(path)));
    for (const char *const *ext = own[0][0] ? own : usual; *ext; ext++) {
        TRY(read_caption(out, path, stem, *ext));
        if (*out)
            return 0;
    }
    *named = 1;
    if (r->dc->caption[0])
        return str_copy(out, r->dc->caption);
    if (r->tokens[0])
        return str_copy(out, r->tokens);
    const char *name = io_path_name(path);
    TRY(str_format(out, "%.*s", (int)(strlen(name) - strlen(io_path_ext(name))), name));
    for (char *p = *out; *p; p++)
        if (*p == '_' || *p == '-')
            *p = ' ';
    return 0;
}

static int add_item(const Reader *r, const char *path, const char *caption, int named, int32_t pack, int64_t row)
{
    TrainDataset *d = r->d;
    TRY(train_dataset_grow((void **)&d->items, &d->cap, d->count + 1, sizeof *d->items));
    TrainItem *it = &d->items[d->count];
    *it = (TrainItem){.path = strdup(path), .caption = strdup(caption), .row = row, .pack = pack, .subset = d->nsubset - 1, .bucket = -1, .named = named};
    d->count++;
    return it->path && it->caption ? 0 : err_set(ERR_NOMEM, "dataset: out of memory");
}

/* A new subset that the items read next belong to. */
static int begin_subset(Reader *r, const char *path)
{
    TrainDataset *d = r->d;
    TrainSubset *s = realloc(d->subset, (size_t)(d->nsubset + 1) * sizeof *s);
    if (!s)
        return err_set(ERR_NOMEM, "dataset: out of memory");
    d->subset = s;
    s += d->nsubset++;
    *s = (TrainSubset){strdup(path), r->dc, r->repeats, d->count, 0, 0};
    return s->path ? 0 : err_set(ERR_NOMEM, "dataset: out of memory");
}

/* kohya's folder names: N_class tokens. */
static int parse_folder(const char *name, int *repeats, const char **tokens)
{
    char *end;
    long n = isdigit((unsigned char)name[0]) ? strtol(name, &end, 10) : 0;
    if (n < 1 || n > 10000 || *end != '_')
        return 0;
    *repeats = (int)n;
    *tokens = end + 1;
    return 1;
}

/* Pictures in formats that are not read: said, not lost without a word. */
static int is_other_picture(const char *name)
{
    static const char *const ext[] = {".gif", ".bmp", ".tif", ".tiff", ".heic", ".heif", ".avif", ".jxl", ".jp2", ".tga", ".psd"};
    for (size_t i = 0; i < sizeof ext / sizeof *ext; i++)
        if (!strcasecmp(io_path_ext(name), ext[i]))
            return 1;
    return 0;
}

static int read_images(const Reader *r, const char *dir, const IoNames *names)
{
    int rc = 0, named, captions = 0, images = 0, other = 0;
    const char *first = "";
    for (int i = 0; rc >= 0 && i < names->count; i++) {
        char *path = NULL, *caption = NULL;
        if (!is_image(names->items[i])) {
            if (is_other_picture(names->items[i]) && !other++)
                first = names->items[i];
            continue;
        }
        rc = io_path_join(&path, dir, names->items[i]);
        if (rc >= 0)
            rc = find_caption(r, &caption, path, &named);
        if (rc >= 0)
            rc = add_item(r, path, caption, named, -1, -1);
        images++;
        captions += !named;
        free(path);
        free(caption);
    }
    if (other)
        log_info("%s: left out, as only PNG, JPEG and WebP are read: %d file%s, the first is %s", dir, other, other > 1 ? "s" : "", first);
    if (rc >= 0 && images && !captions && r->dc->extension[0])
        return err_set(ERR_NOTFOUND, "%s: no image has a caption in NAME%s (datasets.*.extension)", dir, r->dc->extension);
    return rc;
}

static void name_repeats(Reader *r, const char *dir)
{
    int n = 1;
    r->tokens = "";
    parse_folder(io_path_name(dir), &n, &r->tokens);
    r->repeats = r->dc->repeats ? r->dc->repeats : n;
}

/* Folders named N_class tokens below a folder without images of its own. */
static int read_folders(Reader *r, const IoNames *names)
{
    int rc = 0, n;
    const char *tokens;
    for (int i = 0; rc >= 0 && i < names->count; i++) {
        char *dir = NULL;
        IoNames below = {0};
        if (!parse_folder(names->items[i], &n, &tokens))
            continue;
        rc = io_path_join(&dir, r->dc->path, names->items[i]);
        if (rc >= 0 && io_file_is_dir(dir)) {
            name_repeats(r, dir);
            rc = io_dir_list(&below, dir, NULL);
            if (rc >= 0)
                rc = begin_subset(r, dir);
            if (rc >= 0)
                rc = read_images(r, dir, &below);
        }
        io_names_deinit(&below);
        free(dir);
    }
    return rc;
}

static int read_folder(Reader *r)
{
    IoNames names = {0};
    int64_t before = r->d->count;
    char *dir;
    TRY(str_copy(&dir, r->dc->path));
    for (size_t n = strlen(dir); n > 1 && dir[n - 1] == '/'; n--)
        dir[n - 1] = 0;
    int rc = io_dir_list(&names, dir, NULL), images = 0;
    for (int i = 0; i < names.count; i++)
        images += is_image(names.items[i]);
    if (rc >= 0 && images) {
        name_repeats(r, dir);
        rc = begin_subset(r, dir);
        if (rc >= 0)
            rc = read_images(r, dir, &names);
    } else if (rc >= 0) {
        rc = read_folders(r, &names);
    }
    io_names_deinit(&names);
    free(dir);
    if (rc >= 0 && r->d->count == before)
        return err_set(ERR_NOTFOUND, "%s: no images (.png, .jpg, .jpeg, .webp) in this folder, nor in folders named N_token class below it",
                       r->dc->path);
    return rc;
}

/* Path of a listed image; *found tells whether it is there. Names without an extension, as kohya's metadata may have them, are tried
 * with each. */
static int listed_path(const Reader *r, const char *file, char **path, int *found)
{
    char *dir = NULL;
    int rc = r->dc->images[0] ? str_copy(&dir, r->dc->images) : io_path_dir(&dir, r->dc->path);
    if (rc >= 0)
        rc = io_path_join(path, dir, file);
    free(dir);
    TRY(rc);
    *found = io_file_exists(*path) && !io_file_is_dir(*path);
    for (size_t i = 0; !*found && !is_image(file) && i < sizeof image_ext / sizeof *image_ext; i++) {
        char *longer;
        TRY(str_format(&longer, "%s%s", *path, image_ext[i]));
        *found = io_file_exists(longer);
        if (*found) {
            free(*path);
            *path = longer;
        } else {
            free(longer);
        }
    }
    return 0;
}

/* where: "file:line" or "file: key". */
static int add_listed(const Reader *r, const char *where, const char *file, const char *caption)
{
    char *path = NULL, *text = NULL;
    int rc, found = 0, named = 0;
    if (!file)
        return err_set(ERR_FORMAT, "%s: no file_name, image or image_path", where);
    TRY_GOTO(listed_path(r, file, &path, &found));
    if (!found) {
        rc = err_set(ERR_NOTFOUND, "%s: no such image: %s", where, path);
        goto done;
    }
    TRY_GOTO(caption ? str_copy(&text, caption) : find_caption(r, &text, path, &named));
    trim_lines(text);
    rc = add_item(r, path, text, named, -1, -1);
done:
    free(path);
    free(text);
    return rc;
}

/* The string under the first of up to three keys that is there; *out = NULL when none is. */
static int json_text(const json_t *o, const char *const *keys, const char **out)
{
    *out = NULL;
    for (int i = 0; i < 3 && keys[i]; i++) {
        const json_t *v = json_object_get(o, keys[i]);
        if (!v || json_is_null(v))
            continue;
        *out = json_string_value(v);
        return *out ? 0 : err_set(ERR_FORMAT, "key '%s': expected a string", keys[i]);
    }
    return 0;
}

/* kohya: tags follow the caption; with wildcards they follow each of its lines. */
static int join_tags(const Reader *r, const char *caption, const char *tags, char **out)
{
    const char *sep = r->dc->separator;
    StrBuf b;
    str_init(&b);
    for (const char *p = caption; *p; p++)
        if (*p == '\n' && r->dc->wildcards)
            str_add_format(&b, "%s%s\n", sep, tags);
        else
            str_add_char(&b, *p);
    str_add_format(&b, "%s%s", caption[0] && tags[0] ? sep : "", tags);
    int rc = str_take(out, &b);
    str_deinit(&b);
    return rc;
}

static int add_json(const Reader *r, const char *where, const json_t *o, const char *file)
{
    static const char *const files[] = {"file_name", "image", "image_path"}, *const texts[] = {"text", "caption", NULL},
                             *const tag_keys[] = {"tags", NULL};
    const char *caption, *tags;
    char *both = NULL;
    int rc = file ? 0 : json_text(o, files, &file);
    if (rc >= 0)
        rc = json_text(o, texts, &caption);
    if (rc >= 0)
        rc = json_text(o, tag_keys, &tags);
    TRY_CTX(rc, "%s", where);
    if (tags)
        TRY(join_tags(r, caption ? caption : "", tags, &both));
    rc = add_listed(r, where, file, both ? both : caption);
    free(both);
    return rc;
}

static int read_jsonl(const Reader *r)
{
    char *text, *where;
    size_t size;
    TRY(io_file_read(&text, &size, r->dc->path, LIST_MAX_BYTES));
    int rc = 0, line = 0;
    for (char *p = text, *end; rc >= 0 && p < text + size; p = end + 1) {
        end = memchr(p, '\n', (size_t)(text + size - p));
        if (!end)
            end = text + size;
        line++;
        json_error_t je;
        size_t n = (size_t)(end - p);
        while (n && isspace((unsigned char)p[n - 1]))
            n--;
        if (!n)
            continue;
        json_t *o = json_loadb(p, n, JSON_REJECT_DUPLICATES, &je);
        rc = str_format(&where, "%s:%d", r->dc->path, line);
        if (rc >= 0 && (!o || !json_is_object(o)))
            rc = err_set(ERR_FORMAT, "%s: expected a JSON object: %s", where, o ? "another value" : je.text);
        if (rc >= 0)
            rc = add_json(r, where, o, NULL);
        free(where);
        json_decref(o);
    }
    free(text);
    return rc;
}

/* kohya's metadata: {"path or name of an image": {"caption": ..., "tags": ...}}. */
static int read_json(const Reader *r)
{
    char *text, *where = NULL;
    const char *key;
    json_t *value;
    json_error_t je;
    size_t size;
    TRY(io_file_read(&text, &size, r->dc->path, LIST_MAX_BYTES));
    json_t *root = json_loadb(text, size, JSON_REJECT_DUPLICATES, &je);
    free(text);
    if (!root)
        return err_set(ERR_FORMAT, "%s:%d: %s", r->dc->path, je.line, je.text);
    int rc = json_is_object(root) ? 0 : err_set(ERR_FORMAT, "%s: expected an object with a key for every image", r->dc->path);
    json_object_foreach(root, key, value)
    {
        if (rc < 0)
            break;
        rc = str_format(&where, "%s: '%s'", r->dc->path, key);
        if (rc >= 0 && !json_is_object(value))
            rc = err_set(ERR_FORMAT, "%s: expected an object with a caption or tags", where);
        if (rc >= 0)
            rc = add_json(r, where, value, key);
        free(where);
        where = NULL;
    }
    json_decref(root);
    return rc;
}

static void find_columns(const TrainCsv *csv, int *file_col, int *text_col)
{
    for (int i = 0; i < csv->count; i++) {
        const char *h = csv->field[i];
        if (!strcmp(h, "file_name") || !strcmp(h, "image") || !strcmp(h, "image_path"))
            *file_col = i;
        if (!strcmp(h, "text") || !strcmp(h, "caption"))
            *text_col = i;
    }
}

static int add_record(const Reader *r, const TrainCsv *csv, int file_col, int text_col)
{
    char *where;
    if (csv->count <= file_col || csv->count <= text_col)
        return err_set(ERR_FORMAT, "%s:%d: %d fields, fewer than the header", r->dc->path, csv->line, csv->count);
    TRY(str_format(&where, "%s:%d", r->dc->path, csv->line));
    int rc = add_listed(r, where, csv->field[file_col], text_col < 0 ? NULL : csv->field[text_col]);
    free(where);
    return rc;
}

static int read_csv(const Reader *r)
{
    char *text;
    size_t size;
    TRY(io_file_read(&text, &size, r->dc->path, LIST_MAX_BYTES));
    TrainCsv csv;
    if (strlen(text) != size || !str_is_utf8(text, size)) {
        free(text);
        return err_set(ERR_FORMAT, "%s: is not UTF-8 text", r->dc->path);
    }
    train_csv_init(&csv, text, r->dc->path);
    int rc = train_csv_next(&csv), file_col = -1, text_col = -1;
    if (rc > 0)
        find_columns(&csv, &file_col, &text_col);
    if (rc >= 0 && file_col < 0)
        rc = err_set(ERR_FORMAT, "%s:1: expected a header with a column file_name, image or image_path", r->dc->path);
    while (rc >= 0 && (rc = train_csv_next(&csv)) > 0)
        rc = add_record(r, &csv, file_col, text_col);
    train_csv_deinit(&csv);
    free(text);
    return rc;
}

static int load_pack(TrainPack *p)
{
    int64_t bytes = p->n * p->h * p->w * 3;
    if (bytes > PACK_MEMORY_MAX || !(p->pixels = malloc((size_t)bytes + 1)))
        return 0;
    return io_h5_read(p->h5, "images", DTYPE_U8, p->pixels, bytes);
}

static int read_pack(const Reader *r)
{
    TrainDataset *d = r->d;
    const TrainDatasetConf *dc = r->dc;
    TrainPack p = {0};
    IoH5Info info;
    char **captions = NULL;
    int64_t n = 0;
    int rc;
    TRY(io_h5_open(&p.h5, dc->path));
    TRY_GOTO(io_h5_info(p.h5, "images", &info));
    if (info.dtype != DTYPE_U8 || info.ndim != 4 || info.dim[3] != 3) {
        rc = err_set(ERR_FORMAT, "%s: images: expected uint8 [N,H,W,3]", dc->path);
        goto done;
    }
    p.n = info.dim[0], p.h = info.dim[1], p.w = info.dim[2];
    TRY_GOTO(io_h5_read_strings(p.h5, "captions", &captions, &n));
    if (n != p.n) {
        rc = err_set(ERR_FORMAT, "%s: %lld captions for %lld images", dc->path, (long long)n, (long long)p.n);
        goto done;
    }
    TRY_GOTO(load_pack(&p));
    TrainPack *packs = realloc(d->packs, (size_t)(d->npack + 1) * sizeof *packs);
    if (!packs) {
        rc = err_set(ERR_NOMEM, "dataset: out of memory");
        goto done;
    }
    d->packs = packs;
    for (int64_t i = 0; rc >= 0 && i < n; i++)
        rc = add_item(r, dc->path, captions[i], 0, d->npack, i);
    d->packs[d->npack++] = p;
    p = (TrainPack){0};
done:
    free(captions);
    free(p.pixels);
    if (p.h5)
        io_h5_close(p.h5);
    return rc;
}

/* A list or a pack: one subset. */
static int read_file(Reader *r)
{
    static const struct {
        const char *ext;
        int (*read)(const Reader *r);
    } kinds[] = {{".jsonl", read_jsonl}, {".json", read_json}, {".csv", read_csv}, {".h5", read_pack}};
    const char *path = r->dc->path;
    if (!io_file_exists(path))
        return err_set(ERR_NOTFOUND, "%s: no such dataset (datasets.path)", path);
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (!strcmp(io_path_ext(path), kinds[i].ext)) {
            r->repeats = r->dc->repeats ? r->dc->repeats : 1;
            TRY(begin_subset(r, path));
            return kinds[i].read(r);
        }
    return err_set(ERR_FORMAT, "%s: expected a folder, .jsonl, .json, .csv or .h5 (datasets.path)", path);
}

int train_dataset_read(TrainDataset *d, const TrainDatasetConf *dc)
{
    Reader r = {d, dc, 1, ""};
    int first = d->nsubset;
    TRY(io_file_is_dir(dc->path) ? read_folder(&r) : read_file(&r));
    for (int i = first; i < d->nsubset; i++)
        d->subset[i].count = (i + 1 < d->nsubset ? d->subset[i + 1].first : d->count) - d->subset[i].first;
    return 0;
}
