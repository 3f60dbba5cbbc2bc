#include "sweep/reproduce.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/file.h"

struct Reproducer {
    const ReproduceOptions *o;
    Render *render;
    char *model;           /* of `render` */
    char *rest;            /* variant, VAE and textual inversions it was opened with */
    Dtype dtype;
};

int reproducer_create(Reproducer **out, const ReproduceOptions *o)
{
    if (!(*out = calloc(1, sizeof **out)))
        return err_set(ERR_NOMEM, "out of memory");
    (*out)->o = o;
    return 0;
}

static void forget(Reproducer *r)
{
    render_close(r->render);
    free(r->model);
    free(r->rest);
    r->render = NULL;
    r->model = r->rest = NULL;
}

void reproducer_destroy(Reproducer *r)
{
    if (r)
        forget(r);
    free(r);
}

static int rest_of(const SweepConf *c, char **out)
{
    StrBuf b;
    str_init(&b);
    str_add_format(&b, "%s\n%s", c->variant, c->vae);
    for (int i = 0; i < c->embeddings.count; i++)
        str_add_format(&b, "\n%s", c->embeddings.items[i]);
    int rc = str_take(out, &b);
    str_deinit(&b);
    return rc;
}

static int open_model(Reproducer *r, const char *model, const SweepConf *c)
{
    RenderConf conf;
    char *rest;
    TRY(rest_of(c, &rest));
    if (r->render && strcmp(r->model, model) == 0 && strcmp(r->rest, rest) == 0 && r->dtype == sweep_conf_dtype(c)) {
        free(rest);
        return 0;
    }
    forget(r);
    r->rest = rest;
    sweep_conf_render(c, &conf);
    conf.model = model;
    conf.threads = r->o->threads;
    r->dtype = conf.dtype;
    TRY(str_copy(&r->model, model));
    return render_open(&r->render, &conf);
}

/* ---- from a record to a configuration ---- */

static int set_key(SweepConf *c, const char *key, json_t *v)
{
    StrBuf b;
    str_init(&b);
    str_add_format(&b, "%s=", key);
    if (json_is_string(v)) {
        str_add(&b, json_string_value(v));
    } else {
        char *text = json_dumps(v, JSON_ENCODE_ANY | JSON_REAL_PRECISION(17));
        str_add(&b, text ? text : "");
        free(text);
    }
    int rc = str_status(&b);
    if (rc >= 0)
        rc = config_override(&sweep_conf_table, c, b.data);
    str_deinit(&b);
    return rc;
}

/* name, path and scale of each; what the record knows beyond that is no setting. */
static int set_loras(SweepConf *c, json_t *list)
{
    size_t i;
    json_t *one, *plain = json_array();
    json_array_foreach(list, i, one) {
        json_t *o = json_object();
        json_object_set(o, "name", json_object_get(one, "name"));
        json_object_set(o, "path", json_object_get(one, "path"));
        json_object_set(o, "scale", json_object_get(one, "scale"));
        json_array_append_new(plain, o);
    }
    int rc = json_array_size(plain) ? set_key(c, "lora", plain) : 0;
    json_decref(plain);
    return rc;
}

/* The files alone. */
static int set_embeddings(SweepConf *c, json_t *list)
{
    size_t i;
    json_t *one, *paths = json_array();
    json_array_foreach(list, i, one)
        json_array_append(paths, json_object_get(one, "path"));
    int rc = set_key(c, "embeddings", paths);
    json_decref(paths);
    return rc;
}

static int set_keys(SweepConf *c, json_t *record)
{
    for (int i = 0; i < sweep_conf_table.count; i++) {
        const ConfField *f = &sweep_conf_table.fields[i];
        json_t *v = json_object_get(record, f->key);
        if (strcmp(f->key, "lora") == 0)
            TRY(set_loras(c, v));
        else if (v && strcmp(f->key, "embeddings") == 0)
            TRY(set_embeddings(c, v));
        else if (v && !json_is_null(v))
            TRY(set_key(c, f->key, v));
    }
    json_t *w = json_object_get(record, "width"), *h = json_object_get(record, "height");
    if (json_object_get(record, "size") || !w || !h)
        return 0;
    json_t *size = json_pack("[O,O]", w, h);
    int rc = size ? set_key(c, "size", size) : err_set(ERR_NOMEM, "out of memory");
    json_decref(size);
    return rc;
}

int reproduce_conf(SweepConf *c, const char *json, const char *name)
{
    json_error_t e;
    TRY(config_init(&sweep_conf_table, c));
    json_t *record = json_loads(json, JSON_REJECT_DUPLICATES, &e);
    int rc = json_is_object(record) ? set_keys(c, record) : err_set(ERR_FORMAT, "the record is no JSON object");
    json_decref(record);
    return rc < 0 ? err_context(rc, "%s", name) : 0;
}

/* ---- the same weights, or there is nothing to compare ---- */

typedef struct {
    Reproducer *r;
    const SweepConf *c;
    const char *hash;
} Search;

static int take_model(void *ctx, const char *folder)
{
    Search *s = ctx;
    const char *hex;
    if (open_model(s->r, folder, s->c) < 0 || render_model_hash(s->r->render, &hex) < 0)
        return 0; /* not a model that can be read here */
    return strcmp(hex, s->hash) == 0;
}

static int find_record_model(Reproducer *r, const SweepRecord *rec, const SweepConf *c)
{
    const char *path = r->o->model ? r->o->model : rec->model, *hex = "";
    Search s = {r, c, rec->model_hash};
    char *found = NULL;
    int there = io_file_exists(path);
    if (there) {
        TRY(open_model(r, path, c));
        TRY(render_model_hash(r->render, &hex));
        if (strcmp(hex, rec->model_hash) == 0)
            return 0;
    }
    char seen[HASH_HEX_SIZE];
    snprintf(seen, sizeof seen, "%s", hex);
    if (!r->o->model)
        TRY(find_model(&r->o->folders, take_model, &s, &found));
    if (found) {
        free(found);
        return 0;
    }
    const char *where = r->o->model || !r->o->folders.count ? "" : ", and it is in none of the folders of --models";
    if (there)
        return err_set(ERR_FORMAT, "%s is another model: its hash is %.16s, the image was made with %.16s%s", path, seen, rec->model_hash, where);
    return err_set(ERR_NOTFOUND, "model folder %s (hash %.16s) is not there%s", path, rec->model_hash, where);
}

/* found[i]: where the adapter lies now (NULL: where the record says). */
static int find_record_loras(Reproducer *r, const SweepRecord *rec, char *found[RENDER_MAX_LORA])
{
    for (int i = 0; i < rec->nlora; i++) {
        const char *path = rec->lora[i].path, *want = rec->lora[i].hash;
        char hex[HASH_HEX_SIZE] = "";
        int there = io_file_exists(path);
        if (there)
            TRY(find_lora_hash(path, hex));
        if (strcmp(hex, want) == 0)
            continue;
        TRY(find_lora(&r->o->folders, want, "", &found[i]));
        if (found[i])
            continue;
        const char *where = r->o->folders.count ? ", and it is in none of the folders of --models" : "";
        if (there)
            return err_set(ERR_FORMAT, "%s is another LoRA: its hash is %.16s, the image was made with %.16s%s", path, hex, want, where);
        return err_set(ERR_NOTFOUND, "LoRA %s (hash %.16s) is not there%s", path, want, where);
    }
    return 0;
}

static int check_file(const char *what, const char *path, const char *want)
{
    uint8_t sum[HASH_SIZE];
    char hex[HASH_HEX_SIZE];
    if (!*path)
        return 0;
    if (!io_file_exists(path))
        return err_set(ERR_NOTFOUND, "%s %s (hash %.16s) is not there", what, path, want);
    TRY(hash_file_range(sum, path, 0, -1));
    hash_hex(hex, sum, HASH_SIZE);
    return strcmp(hex, want) == 0 ? 0 : err_set(ERR_FORMAT, "%s %s is another file: its hash is %.16s, the image was made with %.16s", what, path, hex, want);
}

/* What has no other place to be looked for. */
static int check_files(const SweepRecord *rec)
{
    TRY(check_file("source", rec->source, rec->source_hash));
    TRY(check_file("mask", rec->mask, rec->mask_hash));
    for (int i = 0; i < rec->nembedding; i++)
        TRY(check_file("textual inversion", rec->embedding[i].path, rec->embedding[i].hash));
    return 0;
}

static int check_vae(const Reproducer *r, const SweepRecord *rec)
{
    const char *hex;
    if (!*rec->vae)
        return 0;
    TRY(pipeline_hash(render_pipeline(r->render), PIPELINE_VAE, &hex));
    return strcmp(hex, rec->vae_hash) == 0
               ? 0
               : err_set(ERR_FORMAT, "VAE %s is another one: its hash is %.16s, the image was made with %.16s", rec->vae, hex, rec->vae_hash);
}

/* ---- rendering ---- */

void reproduce_compare(const IoImage *a, const IoImage *b, ReproduceResult *out)
{
    double sum = 0;
    out->psnr = NAN;
    out->pixels = out->worst = 0;
    if (!a->data || !b->data || a->w != b->w || a->h != b->h || a->c != b->c)
        return;
    size_t n = (size_t)a->w * (size_t)a->h;
    for (size_t p = 0; p < n; p++) {
        int differs = 0;
        for (size_t k = p * (size_t)a->c; k < (p + 1) * (size_t)a->c; k++) {
            int d = abs(a->data[k] - b->data[k]);
            sum += d * d;
            differs |= d;
            out->worst = d > out->worst ? d : out->worst;
        }
        out->pixels += differs != 0;
    }
    out->psnr = sum > 0 ? 10 * log10(255.0 * 255.0 * (double)n * a->c / sum) : INFINITY;
}

/* With the model that is open; moved[i] in place of the i-th adapter's path. */
static int render(Reproducer *r, const SweepConf *c, char *const *moved, const IoImage *stored, ReproduceResult *out)
{
    SweepGrid grid = {0};
    SweepItem it = {0};
    RenderSetup s;
    RenderItem item;
    RenderResult result = {0};
    int rc;
    snprintf(out->backend, sizeof out->backend, "%s", render_backend(r->render));
    TRY_GOTO(sweep_grid_init(&grid, c));
    if (grid.count != 1) {
        rc = err_set(ERR_RANGE, "the configuration is of %lld images, not of one", (long long)grid.count);
        goto done;
    }
    for (int i = 0; moved && i < grid.base.nlora; i++)
        if (moved[i]) {
            free(grid.base.lora[i].path);
            grid.base.lora[i].path = NULL;
            TRY_GOTO(str_copy(&grid.base.lora[i].path, moved[i]));
        }
    TRY_GOTO(sweep_item_load(&grid, 0, &it));
    TRY_GOTO(sweep_item_setup(&it, c, r->render, &s));
    sweep_item_render(&it, &item);
    TRY_GOTO(render_run(r->render, &s, &item, 1, &result, r->o->tick, r->o->ctx));
    TRY_GOTO(sweep_pixels_hash(out->sha256, &result.image));
    reproduce_compare(stored, &result.image, out);
    out->image = result.image;
    memset(&result.image, 0, sizeof result.image);
done:
    render_result_deinit(&result);
    sweep_item_deinit(&it);
    sweep_grid_deinit(&grid);
    return rc;
}

int reproducer_record(Reproducer *r, const char *json, const IoImage *stored, const char *name, ReproduceResult *out)
{
    SweepConf c = {0};
    SweepRecord rec;
    char *moved[RENDER_MAX_LORA] = {NULL};
    int rc;
    memset(out, 0, sizeof *out);
    TRY_GOTO(sweep_record_parse(&rec, json, name));
    TRY_GOTO(reproduce_conf(&c, json, name));
    TRY_GOTO(check_files(&rec));
    TRY_GOTO(find_record_model(r, &rec, &c));
    TRY_GOTO(check_vae(r, &rec));
    TRY_GOTO(find_record_loras(r, &rec, moved));
    TRY_GOTO(render(r, &c, moved, stored, out));
    out->identical = strcmp(out->sha256, rec.pixels_sha256) == 0;
    out->same_backend = strcmp(out->backend, rec.backend) == 0;
done:
    for (int i = 0; i < RENDER_MAX_LORA; i++)
        free(moved[i]);
    config_deinit(&sweep_conf_table, &c);
    sweep_record_deinit(&rec);
    return rc;
}

int reproducer_conf(Reproducer *r, const SweepConf *c, const IoImage *stored, ReproduceResult *out)
{
    memset(out, 0, sizeof *out);
    TRY(open_model(r, r->o->model ? r->o->model : c->model, c));
    return render(r, c, NULL, stored, out);
}

int reproduce_find(Foreign *f, const ReproduceOptions *o)
{
    char *path = NULL;
    if (o->model) {
        TRY(foreign_set(&f->model_path, o->model));
    } else {
        TRY(find_foreign_model(&o->folders, f->model_hash, f->model, &path));
        int rc = foreign_set(&f->model_path, path);
        free(path);
        TRY(rc);
    }
    if (!f->model_path[0])
        foreign_lost(f, "model %s%s%s: name its folder with --model, or where to look for it with --models", f->model,
                     f->model_hash[0] ? ", hash " : "", f->model_hash);
    for (int i = 0; i < f->nlora; i++) {
        TRY(find_lora(&o->folders, f->lora[i].hash, f->lora[i].name, &path));
        int rc = foreign_set(&f->lora[i].path, path);
        if (rc >= 0 && !path)
            foreign_lost(f, "LoRA %s%s%s was not found in the folders of --models", f->lora[i].name, f->lora[i].hash[0] ? ", hash " : "",
                         f->lora[i].hash);
        free(path);
        TRY(rc);
    }
    return str_status(&f->lost);
}
