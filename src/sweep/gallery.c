#include "sweep/gallery.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/file.h"
#include "sweep/gallery_assets.h"

enum { CHUNK = 256, ACROSS = 10, SPRITE = ACROSS * ACROSS, SHARD = 1000, THUMB_QUALITY = 85, PAPER = 238 };

static int write_text(const char *dir, const char *name, const char *text, size_t n)
{
    char *path;
    TRY(io_path_join(&path, dir, name));
    int rc = io_file_write(path, text, n);
    free(path);
    return rc;
}

static int write_page(const char *dir)
{
    TRY(write_text(dir, "index.html", gallery_html, strlen(gallery_html)));
    TRY(write_text(dir, "gallery.css", gallery_css, strlen(gallery_css)));
    return write_text(dir, "gallery.js", gallery_js, strlen(gallery_js));
}

/* "FUNCTION(JSON);" in ASCII, so that no text can end the script or be read in another encoding. */
static int write_call(const char *dir, const char *name, const char *before, const json_t *value, const char *after)
{
    char *text = json_dumps(value, JSON_ENSURE_ASCII | JSON_COMPACT | JSON_ENCODE_ANY | JSON_REAL_PRECISION(17));
    StrBuf b;
    str_init(&b);
    if (text) {
        str_add(&b, before);
        str_add(&b, text);
        str_add(&b, after);
    }
    int rc = text ? str_status(&b) : err_set(ERR_NOMEM, "out of memory");
    if (rc >= 0)
        rc = write_text(dir, name, b.data, b.len);
    free(text);
    str_deinit(&b);
    return rc;
}

/* ---- columns ---- */

/* Hashes and the like are in the records; here is what one filters by. */
static int is_wanted(const TableColumn *c)
{
    static const char *const unwanted[] = {"width", "height", "rank", "seconds", "lora_hash", "model_hash", "pixels_sha256", "version", "commit",
                                           "sampler_used", "spacing_used", "variant"};
    for (size_t i = 0; i < sizeof unwanted / sizeof *unwanted; i++)
        if (strcmp(c->name, unwanted[i]) == 0)
            return 0;
    return !c->alias && !str_ends_with(c->name, "_hash") && !str_ends_with(c->name, "sha256");
}

/* {name, numbers: [...]} */
static json_t *number_column(Table *t, const TableRows *rows, int column)
{
    json_t *list = json_array();
    for (int64_t i = 0; i < rows->n; i++) {
        ExprValue v = {EXPR_NONE, 0, 0, NULL};
        if (table_value(t, rows->row[i], column, 0, &v) < 0 || (v.kind != EXPR_INTEGER && v.kind != EXPR_NUMBER)) {
            json_decref(list);
            return NULL;
        }
        json_array_append_new(list, v.kind == EXPR_INTEGER ? json_integer(v.integer) : json_real(v.number));
    }
    return json_pack("{s:s, s:o}", "name", t->column[column].name, "numbers", list);
}

/* {name, values: [distinct texts], codes: [place in values]} */
static int text_column(Table *t, const TableRows *rows, int column, json_t **out)
{
    json_t *values = json_array(), *codes = json_array(), *place = json_object();
    StrBuf b;
    int rc = 0;
    str_init(&b);
    for (int64_t i = 0; i < rows->n && rc >= 0; i++) {
        str_clear(&b);
        rc = table_text(t, rows->row[i], column, &b);
        if (rc >= 0 && !str_is_utf8(b.data, b.len))
            rc = err_set(ERR_FORMAT, "image %lld: %s is not UTF-8", (long long)rows->row[i], t->column[column].name);
        if (rc < 0)
            break;
        json_t *code = json_object_get(place, b.data);
        if (!code) {
            json_object_set_new(place, b.data, json_integer((json_int_t)json_array_size(values)));
            json_array_append_new(values, json_string(b.data));
            code = json_object_get(place, b.data);
        }
        json_array_append(codes, code);
    }
    str_deinit(&b);
    json_decref(place);
    *out = json_pack("{s:s, s:o, s:o}", "name", t->column[column].name, "values", values, "codes", codes);
    return rc;
}

static int add_columns(json_t *index, Table *t, const TableRows *rows)
{
    json_t *list = json_array();
    json_object_set_new(index, "columns", list);
    for (int c = 0; c < t->count; c++) {
        if (!is_wanted(&t->column[c]))
            continue;
        json_t *one = number_column(t, rows, c);
        if (!one)
            TRY(text_column(t, rows, c, &one));
        json_array_append_new(list, one);
    }
    return 0;
}

static int write_index(const char *dir, Table *t, const TableRows *rows, const GalleryOptions *o)
{
    json_t *numbers = json_array();
    for (int64_t i = 0; i < rows->n; i++)
        json_array_append_new(numbers, json_integer(rows->row[i]));
    json_t *index = json_pack("{s:s, s:I, s:i, s:s, s:o, s:{s:i, s:i, s:i}}", "name", o->name, "n", (json_int_t)rows->n, "chunk", CHUNK,
                              "extension", PICTURE_EXTENSION[o->style.format], "index", numbers, "thumb", "side", o->thumb, "each", SPRITE,
                              "across", ACROSS);
    if (!index)
        return err_set(ERR_NOMEM, "out of memory");
    int rc = add_columns(index, t, rows);
    if (rc >= 0)
        rc = write_call(dir, "data/index.js", "GALLERY.start(", index, ");\n");
    json_decref(index);
    return rc;
}

static int write_records(const char *dir, const SweepRunFile *run, const TableRows *rows)
{
    for (int64_t k = 0; k * CHUNK < rows->n; k++) {
        char name[64], before[64];
        json_t *list = json_array();
        for (int64_t i = k * CHUNK; i < (k + 1) * CHUNK && i < rows->n; i++) {
            json_t *record = json_loads(sweep_runfile_record(run, rows->row[i]), 0, NULL);
            json_array_append_new(list, record ? record : json_object());
        }
        snprintf(name, sizeof name, "data/record-%05lld.js", (long long)k);
        snprintf(before, sizeof before, "GALLERY.records(%lld,", (long long)k);
        int rc = write_call(dir, name, before, list, ");\n");
        json_decref(list);
        TRY(rc);
    }
    return 0;
}

/* ---- pictures ---- */

/* Into its place of the sprite: shrunk to fit, or enlarged by whole pixels; centred. */
static int add_thumb(IoImage *sprite, int place, const IoImage *img, int side)
{
    IoImage t = {0};
    int longest = img->w > img->h ? img->w : img->h, up = side / longest;
    int w = up ? img->w * up : (int)((int64_t)img->w * side / longest), h = up ? img->h * up : (int)((int64_t)img->h * side / longest);
    TRY(io_image_resize(&t, img, w > 0 ? w : 1, h > 0 ? h : 1, up ? IO_FILTER_NEAREST : IO_FILTER_LANCZOS));
    int x = place % ACROSS * side + (side - t.w) / 2, y = place / ACROSS * side + (side - t.h) / 2;
    for (int r = 0; r < t.h; r++)
        memcpy(sprite->data + 3 * ((size_t)(y + r) * (size_t)sprite->w + (size_t)x), t.data + 3 * (size_t)r * (size_t)t.w, 3 * (size_t)t.w);
    io_image_deinit(&t);
    return 0;
}

static int write_image(const char *dir, SweepRunFile *run, int64_t row, const IoImage *img, const PictureStyle *style)
{
    char *folder = NULL, *path = NULL;
    int rc;
    TRY_GOTO(str_format(&folder, "%s/images/%04lld", dir, (long long)(row / SHARD)));
    if (!io_file_is_dir(folder))
        TRY_GOTO(io_dir_make(folder));
    TRY_GOTO(str_format(&path, "%s/%06lld%s", folder, (long long)row, PICTURE_EXTENSION[style->format]));
    rc = picture_write(path, img, sweep_runfile_record(run, row), style);
done:
    free(folder);
    free(path);
    return rc;
}

static int write_sprite(const char *dir, int64_t number, const IoImage *sprite)
{
    char name[64];
    uint8_t *data;
    size_t n;
    TRY(io_webp_encode(&data, &n, sprite, THUMB_QUALITY, 0, NULL, 0));
    snprintf(name, sizeof name, "thumbs/%05lld.webp", (long long)number);
    int rc = write_text(dir, name, (const char *)data, n);
    free(data);
    return rc;
}

static int write_pictures(const char *dir, SweepRunFile *run, const TableRows *rows, const GalleryOptions *o)
{
    IoImage sprite, img = {0};
    int rc = 0;
    TRY(io_image_init(&sprite, ACROSS * o->thumb, ACROSS * o->thumb, 3));
    for (int64_t i = 0; i < rows->n && rc >= 0; i++) {
        if (i % SPRITE == 0)
            memset(sprite.data, PAPER, 3 * (size_t)sprite.w * (size_t)sprite.h);
        rc = sweep_runfile_image(run, rows->row[i], &img);
        if (rc >= 0)
            rc = add_thumb(&sprite, (int)(i % SPRITE), &img, o->thumb);
        if (rc >= 0)
            rc = write_image(dir, run, rows->row[i], &img, &o->style);
        if (rc >= 0 && (i % SPRITE == SPRITE - 1 || i == rows->n - 1))
            rc = write_sprite(dir, i / SPRITE, &sprite);
        io_image_deinit(&img);
        if (rc >= 0 && o->tick)
            o->tick(o->ctx, i + 1);
    }
    io_image_deinit(&sprite);
    return rc;
}

int gallery_write(const char *dir, Table *t, const TableRows *rows, const GalleryOptions *o)
{
    static const char *const folders[] = {"data", "thumbs", "images"};
    if (!rows->n)
        return err_set(ERR_NOTFOUND, "gallery: no image meets the condition");
    if (o->thumb < 16 || o->thumb > 512)
        return err_set(ERR_RANGE, "gallery: small pictures of %d pixels: expected 16..512", o->thumb);
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++) {
        char *path;
        TRY(io_path_join(&path, dir, folders[i]));
        int rc = io_dir_make(path);
        free(path);
        TRY(rc);
    }
    SweepRunFile *run = t->run;
    TRY(write_pictures(dir, run, rows, o));
    TRY(write_records(dir, run, rows));
    TRY(write_index(dir, t, rows, o));
    return write_page(dir); /* last: a page without its data is not opened by mistake */
}
