#include "sweep/record_impl.h"

#include <ctype.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "base/version.h"
#include "io/file.h"
#include "io/png.h"

int sweep_pixels_hash(char hex[HASH_HEX_SIZE], const IoImage *img)
{
    uint8_t sum[HASH_SIZE];
    TRY(hash_bytes(sum, img->data, (size_t)img->w * (size_t)img->h * (size_t)img->c));
    hash_hex(hex, sum, HASH_SIZE);
    return 0;
}

static int input_hashes(SweepRecord *rec, Render *r)
{
    rec->vae_hash = rec->source_hash = rec->mask_hash = "";
    TRY(render_model_hash(r, &rec->model_hash));
    if (*rec->vae)
        TRY(pipeline_hash(render_pipeline(r), PIPELINE_VAE, &rec->vae_hash));
    if (*rec->source)
        TRY(render_file_hash(r, rec->source, &rec->source_hash));
    return *rec->mask ? render_file_hash(r, rec->mask, &rec->mask_hash) : 0;
}

/* Whether a name may stand in a text: the tokenizer knows neither case nor the number of blanks, so neither do we. */
static int stands_in(const char *text, const char *name)
{
    for (; *text; text++) {
        const char *t = text, *n = name;
        for (; *n; n++) {
            if (isspace((unsigned char)*n))
                continue;
            while (isspace((unsigned char)*t))
                t++;
            if (tolower((unsigned char)*t) != tolower((unsigned char)*n))
                break;
            t++;
        }
        if (!*n)
            return 1;
    }
    return 0;
}

static int input_embeddings(SweepRecord *rec, Render *r)
{
    RenderEmbedding e;
    for (int i = 0; render_embedding(r, i, &e); i++) {
        if (!stands_in(rec->prompt, e.name) && !stands_in(rec->negative, e.name))
            continue;
        if (rec->nembedding == SWEEP_RECORD_MAX_EMBEDDINGS)
            return err_set(ERR_RANGE, "prompt '%.60s': over %d textual inversions", rec->prompt, SWEEP_RECORD_MAX_EMBEDDINGS);
        rec->embedding[rec->nembedding++] = (SweepRecordFile){e.name, e.path, e.hash, 1};
    }
    return 0;
}

int sweep_record_make(SweepRecord *rec, Render *r, const SweepConf *c, const SweepItem *it, const RenderSetup *s,
                      const char pixels_sha256[HASH_HEX_SIZE])
{
    *rec = (SweepRecord){.version = ATELIER_VERSION,
                         .commit = version_commit(),
                         .backend = render_backend(r),
                         .dtype = dtype_name(sweep_conf_dtype(c)),
                         .model = it->model && it->model[0] ? it->model : c->model,
                         .variant = c->variant,
                         .prompt = it->prompt,
                         .negative = it->negative,
                         .seed_compat = SAMPLER_COMPAT_NAMES[s->seed_compat],
                         .rules = PROMPT_RULES_NAMES[s->rules],
                         .typed = it->typed && strcmp(it->typed, it->prompt) != 0 ? it->typed : NULL,
                         .typed_negative = it->typed_negative && strcmp(it->typed_negative, it->negative) != 0 ? it->typed_negative : NULL,
                         .sampler = it->sampler,
                         .spacing = it->spacing,
                         .sampler_used = sampler_kind_name(s->sampler.kind),
                         .spacing_used = sampler_spacing_name(&s->sampler),
                         .pixels_sha256 = pixels_sha256,
                         .index = it->index,
                         .seed = it->seed,
                         .width = s->width,
                         .height = s->height,
                         .steps = it->steps,
                         .clip_skip = it->clip_skip,
                         .guidance = it->guidance,
                         .guidance_rescale = it->rescale,
                         .eta = it->eta,
                         .variation_seed = it->variation_seed,
                         .variation_strength = it->variation_strength,
                         .seed_width = it->seed_width,
                         .seed_height = it->seed_height,
                         .hires = s->hires,
                         .vae_tile = s->vae_tile,
                         .vae = it->vae ? it->vae : "",
                         .source = it->source ? it->source : "",
                         .mask = it->mask ? it->mask : "",
                         .strength = s->strength,
                         .encode = s->encode,
                         .inpaint = s->inpaint,
                         .noise = {c->rho, c->sigma_min, c->sigma_max, c->s_churn, c->s_tmin, c->s_tmax, c->s_noise, c->ensd,
                                   it->batch_index, it->batch_size, c->gpu}};
    TRY(input_hashes(rec, r));
    TRY(input_embeddings(rec, r));
    for (int i = 0; i < it->nlora; i++) {
        rec->lora[i].name = it->lora[i].name;
        rec->lora[i].path = it->lora[i].path;
        rec->lora[i].scale = it->lora[i].scale;
        TRY(render_lora_hash(r, it->lora[i].path, &rec->lora[i].hash));
        rec->nlora = i + 1;
    }
    return 0;
}

static void add_text(StrBuf *b, const char *key, const char *value)
{
    str_add_format(b, "%s\"%s\": ", b->data[b->len - 1] == '{' ? "" : ", ", key);
    str_add_json(b, value, strlen(value));
}

static void add_int(StrBuf *b, const char *key, int64_t value)
{
    str_add_format(b, ", \"%s\": %lld", key, (long long)value);
}

static void add_number(StrBuf *b, const char *key, double value)
{
    str_add_format(b, ", \"%s\": ", key);
    str_add_number(b, value, 0);
}

/* Where they are not the defaults. */
static void add_noise(StrBuf *b, const SweepRecordNoise *z)
{
    for (int i = 0; i < SWEEP_NOISE_COUNT; i++)
        if (!sweep_noise_is_usual(z, i))
            add_number(b, SWEEP_NOISE_NUMBERS[i].key, sweep_noise_number(z, i));
    if (z->ensd)
        add_int(b, "ensd", z->ensd);
    if (z->gpu)
        add_text(b, "gpu", SWEEP_GPU_NAMES[z->gpu]);
    if (z->batch_size) {
        add_int(b, "batch_index", z->batch_index);
        add_int(b, "batch_size", z->batch_size);
    }
}

/* Only what is not as usual. */
static void add_extras(const SweepRecord *rec, StrBuf *b)
{
    if (rec->variation_strength > 0) {
        add_int(b, "variation_seed", rec->variation_seed);
        add_number(b, "variation_strength", rec->variation_strength);
    }
    if (rec->seed_width)
        str_add_format(b, ", \"seed_size\": [%d, %d]", rec->seed_width, rec->seed_height);
    if (rec->hires.upscale) {
        str_add(b, ", \"hires\": {");
        add_text(b, "upscale", RENDER_UPSCALE_NAMES[rec->hires.upscale]);
        add_number(b, "scale", rec->hires.scale);
        add_int(b, "steps", rec->hires.steps);
        add_number(b, "strength", rec->hires.strength);
        str_add_char(b, '}');
    }
    if (rec->vae_tile)
        add_int(b, "vae_tile", rec->vae_tile);
    if (in_use(rec->source)) {
        add_number(b, "strength", rec->strength);
        add_text(b, "encode", RENDER_ENCODE_NAMES[rec->encode]);
    }
    if (in_use(rec->mask)) {
        str_add(b, ", \"inpaint\": {");
        add_text(b, "fill", RENDER_FILL_NAMES[rec->inpaint.fill]);
        add_number(b, "blur", rec->inpaint.blur);
        str_add_format(b, ", \"invert\": %s, \"paste\": %s}", rec->inpaint.invert ? "true" : "false", rec->inpaint.paste ? "true" : "false");
    }
}

static void add_inputs(const SweepRecord *rec, StrBuf *b)
{
    add_text(b, "model", rec->model);
    add_text(b, "variant", rec->variant);
    add_text(b, "model_hash", rec->model_hash);
    if (in_use(rec->vae)) {
        add_text(b, "vae", rec->vae);
        add_text(b, "vae_hash", rec->vae_hash);
    }
    str_add(b, ", \"lora\": [");
    for (int i = 0; i < rec->nlora; i++) {
        str_add(b, i ? ", {" : "{");
        add_text(b, "name", rec->lora[i].name);
        add_text(b, "path", rec->lora[i].path);
        add_number(b, "scale", rec->lora[i].scale);
        add_text(b, "hash", rec->lora[i].hash);
        str_add_char(b, '}');
    }
    str_add_char(b, ']');
    for (int i = 0; i < rec->nembedding; i++) {
        str_add(b, i ? ", {" : ", \"embeddings\": [{");
        add_text(b, "name", rec->embedding[i].name);
        add_text(b, "path", rec->embedding[i].path);
        add_text(b, "hash", rec->embedding[i].hash);
        str_add(b, i + 1 == rec->nembedding ? "}]" : "}");
    }
    if (in_use(rec->source)) {
        add_text(b, "source", rec->source);
        add_text(b, "source_hash", rec->source_hash);
    }
    if (in_use(rec->mask)) {
        add_text(b, "mask", rec->mask);
        add_text(b, "mask_hash", rec->mask_hash);
    }
}

void sweep_record_json(const SweepRecord *rec, StrBuf *b)
{
    str_add_char(b, '{');
    add_text(b, "version", rec->version);
    add_text(b, "commit", rec->commit);
    add_text(b, "backend", rec->backend);
    add_text(b, "dtype", rec->dtype);
    add_int(b, "index", rec->index);
    add_text(b, "prompt", rec->prompt);
    add_text(b, "negative", rec->negative);
    if (rec->typed)
        add_text(b, "prompt_typed", rec->typed);
    if (rec->typed_negative)
        add_text(b, "negative_typed", rec->typed_negative);
    if (rec->rules)
        add_text(b, "prompt_rules", rec->rules);
    add_int(b, "seed", rec->seed);
    add_text(b, "seed_compat", rec->seed_compat);
    add_int(b, "width", rec->width);
    add_int(b, "height", rec->height);
    add_int(b, "steps", rec->steps);
    add_text(b, "sampler", rec->sampler);
    add_text(b, "spacing", rec->spacing);
    add_text(b, "sampler_used", rec->sampler_used);
    add_text(b, "spacing_used", rec->spacing_used);
    add_number(b, "eta", rec->eta);
    add_noise(b, &rec->noise);
    add_number(b, "guidance", rec->guidance);
    add_number(b, "guidance_rescale", rec->guidance_rescale);
    add_int(b, "clip_skip", rec->clip_skip);
    add_extras(rec, b);
    add_text(b, "pixels_sha256", rec->pixels_sha256);
    add_inputs(rec, b);
    str_add_char(b, '}');
}

void sweep_record_lora(const SweepRecord *rec, StrBuf *text, StrBuf *hashes)
{
    for (int i = 0; i < rec->nlora; i++) {
        str_add_format(text, "%s%s:%g", i ? " " : "", rec->lora[i].name, rec->lora[i].scale);
        str_add_format(hashes, "%s%s", i ? " " : "", rec->lora[i].hash);
    }
}

static int get_text(json_t *o, const char *key, const char *name, const char **out)
{
    *out = json_string_value(json_object_get(o, key));
    return *out ? 0 : err_set(ERR_NOTFOUND, "%s: record without text '%s'", name, key);
}

static int get_int(json_t *o, const char *key, const char *name, int64_t lo, int64_t hi, int64_t *out)
{
    json_t *v = json_object_get(o, key);
    if (!json_is_integer(v))
        return err_set(ERR_NOTFOUND, "%s: record without integer '%s'", name, key);
    *out = json_integer_value(v);
    return *out >= lo && *out <= hi ? 0 : err_set(ERR_RANGE, "%s: record: '%s' is %lld", name, key, (long long)*out);
}

static int get_number(json_t *o, const char *key, const char *name, double *out)
{
    json_t *v = json_object_get(o, key);
    if (!json_is_number(v))
        return err_set(ERR_NOTFOUND, "%s: record without number '%s'", name, key);
    *out = json_number_value(v);
    return 0;
}

static void get_text_or_none(json_t *o, const char *key, const char **out)
{
    const char *text = json_string_value(json_object_get(o, key));
    *out = text ? text : "";
}

static int get_name(json_t *o, const char *key, const char *name, const char *const *names, int *out)
{
    const char *text;
    TRY(get_text(o, key, name, &text));
    for (int i = 0; names[i]; i++)
        if (strcmp(names[i], text) == 0) {
            *out = i;
            return 0;
        }
    return err_set(ERR_RANGE, "%s: record: '%s' is '%s'", name, key, text);
}

static int get_hires(SweepRecord *rec, json_t *o, const char *name)
{
    int64_t steps;
    if (!o)
        return 0;
    TRY(get_name(o, "upscale", name, RENDER_UPSCALE_NAMES, &rec->hires.upscale));
    TRY(get_number(o, "scale", name, &rec->hires.scale));
    TRY(get_int(o, "steps", name, 0, 10000, &steps));
    rec->hires.steps = (int32_t)steps;
    return get_number(o, "strength", name, &rec->hires.strength);
}

static int get_inpaint(SweepRecord *rec, json_t *o, const char *name)
{
    if (!o)
        return 0;
    TRY(get_name(o, "fill", name, RENDER_FILL_NAMES, &rec->inpaint.fill));
    TRY(get_number(o, "blur", name, &rec->inpaint.blur));
    rec->inpaint.invert = json_is_true(json_object_get(o, "invert"));
    rec->inpaint.paste = json_is_true(json_object_get(o, "paste"));
    return 0;
}

static int get_seed_size(SweepRecord *rec, json_t *list, const char *name)
{
    if (!list)
        return 0;
    json_int_t w = json_integer_value(json_array_get(list, 0)), h = json_integer_value(json_array_get(list, 1));
    if (w < 1 || w > 16384 || h < 1 || h > 16384)
        return err_set(ERR_RANGE, "%s: record: 'seed_size' is no [width, height]", name);
    rec->seed_width = (int)w;
    rec->seed_height = (int)h;
    return 0;
}

static int get_extras(SweepRecord *rec, json_t *o, const char *name)
{
    const struct {
        const char *key;
        const char **to;
    } texts[] = {{"vae", &rec->vae},   {"vae_hash", &rec->vae_hash},  {"source", &rec->source},
                 {"source_hash", &rec->source_hash},  {"mask", &rec->mask}, {"mask_hash", &rec->mask_hash}};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        get_text_or_none(o, texts[i].key, texts[i].to);
    if (json_object_get(o, "variation_strength")) {
        TRY(get_int(o, "variation_seed", name, 0, INT64_MAX, &rec->variation_seed));
        TRY(get_number(o, "variation_strength", name, &rec->variation_strength));
    }
    TRY(get_seed_size(rec, json_object_get(o, "seed_size"), name));
    TRY(get_hires(rec, json_object_get(o, "hires"), name));
    if (json_object_get(o, "vae_tile")) {
        int64_t tile;
        TRY(get_int(o, "vae_tile", name, 0, 16384, &tile));
        rec->vae_tile = (int)tile;
    }
    if (*rec->source) {
        TRY(get_number(o, "strength", name, &rec->strength));
        TRY(get_name(o, "encode", name, RENDER_ENCODE_NAMES, &rec->encode));
    }
    return get_inpaint(rec, json_object_get(o, "inpaint"), name);
}

static int get_noise(SweepRecordNoise *z, json_t *o, const char *name)
{
    *z = (SweepRecordNoise){.s_noise = 1};
    for (int i = 0; i < SWEEP_NOISE_COUNT; i++)
        if (json_object_get(o, SWEEP_NOISE_NUMBERS[i].key)) {
            double v = 0;
            TRY(get_number(o, SWEEP_NOISE_NUMBERS[i].key, name, &v));
            memcpy((char *)z + SWEEP_NOISE_NUMBERS[i].at, &v, sizeof v);
        }
    if (json_object_get(o, "ensd"))
        TRY(get_int(o, "ensd", name, INT64_MIN, INT64_MAX, &z->ensd));
    if (json_object_get(o, "batch_size")) {
        int64_t size, index;
        TRY(get_int(o, "batch_size", name, 0, 4096, &size));
        TRY(get_int(o, "batch_index", name, 0, 4095, &index));
        z->batch_size = (int)size;
        z->batch_index = (int)index;
    }
    return json_object_get(o, "gpu") ? get_name(o, "gpu", name, SWEEP_GPU_NAMES, &z->gpu) : 0;
}

static int get_embeddings(SweepRecord *rec, json_t *list, const char *name)
{
    if (!list)
        return 0;
    if (!json_is_array(list) || json_array_size(list) > SWEEP_RECORD_MAX_EMBEDDINGS)
        return err_set(ERR_FORMAT, "%s: record: 'embeddings' is no list of at most %d", name, SWEEP_RECORD_MAX_EMBEDDINGS);
    rec->nembedding = (int)json_array_size(list);
    for (int i = 0; i < rec->nembedding; i++) {
        json_t *o = json_array_get(list, (size_t)i);
        TRY(get_text(o, "name", name, &rec->embedding[i].name));
        TRY(get_text(o, "path", name, &rec->embedding[i].path));
        TRY(get_text(o, "hash", name, &rec->embedding[i].hash));
    }
    return 0;
}

static int get_lora(SweepRecord *rec, json_t *list, const char *name)
{
    if (!json_is_array(list) || json_array_size(list) > RENDER_MAX_LORA)
        return err_set(ERR_FORMAT, "%s: record: 'lora' is no list of at most %d", name, RENDER_MAX_LORA);
    rec->nlora = (int)json_array_size(list);
    for (int i = 0; i < rec->nlora; i++) {
        json_t *o = json_array_get(list, (size_t)i);
        TRY(get_text(o, "name", name, &rec->lora[i].name));
        TRY(get_text(o, "path", name, &rec->lora[i].path));
        TRY(get_text(o, "hash", name, &rec->lora[i].hash));
        TRY(get_number(o, "scale", name, &rec->lora[i].scale));
    }
    return 0;
}

int sweep_record_parse(SweepRecord *rec, const char *json, const char *name)
{
    json_error_t e;
    memset(rec, 0, sizeof *rec);
    json_t *o = json_loads(json, JSON_REJECT_DUPLICATES, &e);
    rec->owner = o;
    if (!json_is_object(o))
        return err_set(ERR_FORMAT, "%s: the record is no JSON object: %s", name, e.text);
    const struct {
        const char *key;
        const char **to;
    } texts[] = {{"version", &rec->version},         {"commit", &rec->commit},
                 {"backend", &rec->backend},         {"dtype", &rec->dtype},
                 {"model", &rec->model},             {"variant", &rec->variant},
                 {"model_hash", &rec->model_hash},   {"prompt", &rec->prompt},
                 {"negative", &rec->negative},       {"seed_compat", &rec->seed_compat},
                 {"sampler", &rec->sampler},         {"spacing", &rec->spacing},
                 {"sampler_used", &rec->sampler_used}, {"spacing_used", &rec->spacing_used},
                 {"pixels_sha256", &rec->pixels_sha256}};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        TRY(get_text(o, texts[i].key, name, texts[i].to));
    rec->typed = json_string_value(json_object_get(o, "prompt_typed"));
    rec->typed_negative = json_string_value(json_object_get(o, "negative_typed"));
    rec->rules = json_string_value(json_object_get(o, "prompt_rules"));
    int64_t w, h, steps, skip;
    TRY(get_int(o, "index", name, 0, INT64_MAX, &rec->index));
    TRY(get_int(o, "seed", name, 0, INT64_MAX, &rec->seed));
    TRY(get_int(o, "width", name, 1, 16384, &w));
    TRY(get_int(o, "height", name, 1, 16384, &h));
    TRY(get_int(o, "steps", name, 1, 10000, &steps));
    TRY(get_int(o, "clip_skip", name, 1, 64, &skip));
    rec->width = (int)w;
    rec->height = (int)h;
    rec->steps = (int)steps;
    rec->clip_skip = (int)skip;
    TRY(get_number(o, "guidance", name, &rec->guidance));
    TRY(get_number(o, "guidance_rescale", name, &rec->guidance_rescale));
    TRY(get_number(o, "eta", name, &rec->eta));
    TRY(get_noise(&rec->noise, o, name));
    TRY(get_extras(rec, o, name));
    TRY(get_embeddings(rec, json_object_get(o, "embeddings"), name));
    return get_lora(rec, json_object_get(o, "lora"), name);
}

void sweep_record_deinit(SweepRecord *rec)
{
    json_decref(rec->owner);
    memset(rec, 0, sizeof *rec);
}

int sweep_record_png(const char *path, const IoImage *img, const char *json)
{
    SweepRecord rec;
    char *info = NULL, *copy = NULL;
    int rc;
    TRY_GOTO(sweep_record_parse(&rec, json, path));
    TRY_GOTO(sweep_record_infotext(&rec, &info));
    TRY_GOTO(str_copy(&copy, json));
    char k1[] = "parameters", k2[] = "atelier";
    const IoPngText text[2] = {{k1, info}, {k2, copy}};
    rc = io_png_write(path, img, text, 2, 6);
done:
    sweep_record_deinit(&rec);
    free(info);
    free(copy);
    return rc;
}
