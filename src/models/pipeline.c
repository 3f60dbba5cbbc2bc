#include "models/pipeline.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/str.h"
#include "io/file.h"

struct Pipeline {
    char *dir, *tokenizer, *scheduler;
    UnetConfig unet;
    VaeConfig vae;
    ClipConfig text;
    IoSafetensors *files[PIPELINE_PARTS];
    char hash[PIPELINE_PARTS][HASH_HEX_SIZE];
};

static const struct {
    const char *root;
    const char *classes; /* "|A|B|" */
    const char *bases[4];
    NnNameFn names;
} parts[PIPELINE_PARTS] = {
    [PIPELINE_UNET] = {"unet", "|UNet2DConditionModel|", {"diffusion_pytorch_model", "model"}, NULL},
    [PIPELINE_TEXT] = {"text_encoder", "|CLIPTextModel|CLIPTextModelWithProjection|", {"model", "pytorch_model"}, clip_names},
    [PIPELINE_VAE] = {"vae", "|AutoencoderKL|", {"diffusion_pytorch_model", "model"}, vae_names},
};

const char *pipeline_root(PipelinePart part)
{
    return parts[part].root;
}

/* The class that model_index.json gives for a part: [library, class]. */
static int read_class(const json_t *index, const char *path, const char *key, const char **out)
{
    const json_t *pair = json_object_get(index, key);
    *out = json_string_value(json_array_get(pair, 1));
    if (!pair)
        return err_set(ERR_NOTFOUND, "%s: key '%s' is missing", path, key);
    if (!*out)
        return err_set(ERR_FORMAT, "%s: key '%s': expected [library, class]", path, key);
    return 0;
}

static int check_class(const char *path, const char *key, const char *name, const char *allowed)
{
    char want[128];
    snprintf(want, sizeof want, "|%.120s|", name);
    if (strstr(allowed, want))
        return 0;
    return err_set(ERR_UNSUPPORTED, "%s: key '%s' is %s; supported: %.*s", path, key, name, (int)strlen(allowed) - 2, allowed + 1);
}

static int check_index(const char *path, int *projection)
{
    char *text = NULL;
    size_t size;
    json_error_t e;
    const char *name;
    TRY(io_file_read(&text, &size, path, 1 << 20));
    json_t *index = json_loadb(text, size, JSON_REJECT_DUPLICATES, &e);
    free(text);
    int rc = 0;
    if (!index || !json_is_object(index)) {
        rc = err_set(ERR_FORMAT, "%s:%d: %s", path, index ? 1 : e.line, index ? "expected a JSON object" : e.text);
        goto done;
    }
    for (int i = 0; i < PIPELINE_PARTS; i++) {
        TRY_GOTO(read_class(index, path, parts[i].root, &name));
        TRY_GOTO(check_class(path, parts[i].root, name, parts[i].classes));
        if (i == PIPELINE_TEXT)
            *projection = !strcmp(name, "CLIPTextModelWithProjection");
    }
    for (int i = 0; i < 2; i++) {
        static const char *const extra[] = {"text_encoder_2", "transformer"};
        if (json_is_string(json_array_get(json_object_get(index, extra[i]), 1)))
            TRY_GOTO(err_set(ERR_UNSUPPORTED, "%s: models with a '%s' are not supported", path, extra[i]));
    }
done:
    json_decref(index);
    return rc;
}

/* `other`: a folder in place of the model's own for this part, or one that holds it as a subfolder; NULL or "": none. */
static int part_dir(char **dir, const Pipeline *p, PipelinePart part, const char *other)
{
    TRY(io_path_join(dir, other && other[0] ? other : p->dir, parts[part].root));
    if (!other || !other[0] || io_file_is_dir(*dir))
        return 0;
    free(*dir);
    *dir = NULL;
    return str_copy(dir, other);
}

static int open_part(Pipeline *p, PipelinePart part, const char *variant, int projection, int weights, const char *other)
{
    char *dir = NULL, *config = NULL;
    ModelJson *j = NULL;
    int rc;
    TRY_GOTO(part_dir(&dir, p, part, other));
    TRY_GOTO(io_path_join(&config, dir, "config.json"));
    TRY_GOTO(model_json_open(&j, config));
    if (part == PIPELINE_UNET)
        rc = unet_config(&p->unet, j);
    else if (part == PIPELINE_VAE)
        rc = vae_config(&p->vae, j);
    else
        rc = clip_text_config(&p->text, j, projection);
    if (rc >= 0 && weights)
        rc = io_safetensors_open_model(&p->files[part], dir, parts[part].bases, variant);
done:
    model_json_close(j);
    free(config);
    free(dir);
    return rc;
}

static int check_fit(const Pipeline *p)
{
    if (p->text.hidden != p->unet.context)
        return err_set(ERR_SHAPE, "%s: unet/config.json: key 'cross_attention_dim' is %d, but the text encoder's hidden_size is %d",
                       p->dir, p->unet.context, p->text.hidden);
    return 0;
}

/* Parts without the variant fall back to their plain files, as in diffusers; none at all is a mistake. */
static int check_variant(const Pipeline *p, const char *variant)
{
    char mark[64];
    snprintf(mark, sizeof mark, ".%.60s.", variant);
    for (int i = 0; i < PIPELINE_PARTS; i++)
        if (p->files[i] && strstr(io_path_name(io_safetensors_path(p->files[i])), mark))
            return 0;
    return err_set(ERR_NOTFOUND, "%s: no weight file has the variant '%s'", p->dir, variant);
}

static int check_folder(const char *dir, const char *index)
{
    if (!io_file_exists(dir))
        return err_set(ERR_NOTFOUND, "%s: no such model folder (models are not downloaded)", dir);
    if (!io_file_is_dir(dir))
        return err_set(ERR_FORMAT, "%s: is a file, expected a model folder in the diffusers layout; diffusers makes one of a single checkpoint: "
                       "StableDiffusionPipeline.from_single_file(FILE).save_pretrained(FOLDER)", dir);
    if (!io_file_exists(index))
        return err_set(ERR_NOTFOUND, "%s: expected a model folder in the diffusers layout, but it has no model_index.json", dir);
    return 0;
}

static int open_parts(Pipeline **out, const char *dir, const char *variant, PipelinePart without, const char *vae)
{
    char *index = NULL;
    int rc = ERR_NOMEM, projection = 0;
    Pipeline *p = calloc(1, sizeof *p);
    if (!p || !(p->dir = strdup(dir))) {
        err_set(rc, "%s: out of memory", dir);
        goto done;
    }
    TRY_GOTO(io_path_join(&index, dir, "model_index.json"));
    TRY_GOTO(check_folder(dir, index));
    TRY_GOTO(check_index(index, &projection));
    TRY_GOTO(io_path_join(&p->tokenizer, dir, "tokenizer"));
    TRY_GOTO(io_path_join(&p->scheduler, dir, "scheduler/scheduler_config.json"));
    for (int i = 0; i < PIPELINE_PARTS; i++)
        TRY_GOTO(open_part(p, (PipelinePart)i, variant, projection, (PipelinePart)i != without, i == PIPELINE_VAE ? vae : NULL));
    if (variant)
        TRY_GOTO(check_variant(p, variant));
    TRY_GOTO(check_fit(p));
    *out = p;
    p = NULL;
done:
    free(index);
    pipeline_close(p);
    return rc;
}

int pipeline_open(Pipeline **out, const char *dir, const char *variant)
{
    return pipeline_open_without(out, dir, variant, PIPELINE_PARTS);
}

int pipeline_open_without(Pipeline **out, const char *dir, const char *variant, PipelinePart without)
{
    return open_parts(out, dir, variant, without, NULL);
}

int pipeline_open_with_vae(Pipeline **out, const char *dir, const char *variant, const char *vae)
{
    return open_parts(out, dir, variant, PIPELINE_PARTS, vae);
}

void pipeline_close(Pipeline *p)
{
    if (!p)
        return;
    for (int i = 0; i < PIPELINE_PARTS; i++)
        io_safetensors_close(p->files[i]);
    free(p->dir);
    free(p->tokenizer);
    free(p->scheduler);
    free(p);
}

const char *pipeline_dir(const Pipeline *p)
{
    return p->dir;
}

const UnetConfig *pipeline_unet(const Pipeline *p)
{
    return &p->unet;
}

const VaeConfig *pipeline_vae(const Pipeline *p)
{
    return &p->vae;
}

const ClipConfig *pipeline_text(const Pipeline *p)
{
    return &p->text;
}

const char *pipeline_tokenizer_dir(const Pipeline *p)
{
    return p->tokenizer;
}

const char *pipeline_scheduler_path(const Pipeline *p)
{
    return p->scheduler;
}

IoSafetensors *pipeline_files(const Pipeline *p, PipelinePart part)
{
    return p->files[part];
}

int pipeline_load(Pipeline *p, NnParams *ps, const Graph *g)
{
    for (int i = 0; i < PIPELINE_PARTS; i++)
        if (p->files[i])
            TRY(nn_params_load(ps, g, parts[i].root, p->files[i], parts[i].names));
    return 0;
}

int pipeline_modules(const Pipeline *p, NnModules *mods)
{
    Graph *g;
    NnCtx nn;
    ClipText text;
    *mods = (NnModules){0};
    TRY(graph_create(&g, DTYPE_F32));
    nn_init(&nn, g);
    nn.modules = mods;
    OpRef x = graph_input(g, "x", DTYPE_F32, SHAPE(1, 64, 64, p->unet.in_channels));
    OpRef t = graph_input(g, "t", DTYPE_F32, SHAPE(1));
    OpRef ctx = graph_input(g, "context", DTYPE_F32, SHAPE(1, p->text.positions, p->unet.context));
    OpRef ids = graph_input(g, "ids", DTYPE_I32, SHAPE(1, p->text.positions));
    size_t mark = nn_push(&nn, "%s", parts[PIPELINE_UNET].root);
    unet_forward(&nn, &p->unet, x, t, ctx);
    nn_pop(&nn, mark);
    mark = nn_push(&nn, "%s", parts[PIPELINE_TEXT].root);
    int rc = clip_text_forward(&nn, &p->text, ids, OP_NONE, 1, &text);
    nn_pop(&nn, mark);
    if (rc >= 0)
        rc = graph_status(g);
    if (rc < 0)
        nn_modules_deinit(mods);
    nn_deinit(&nn);
    graph_destroy(g);
    return rc;
}

/* ---- hashes ---- */

static int name_order(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Hash over the hex hashes of the shards that an index names, in the order of their names. */
static int hash_shards(char hex[HASH_HEX_SIZE], const char *index_path, const json_t *map)
{
    const char *key;
    json_t *value;
    size_t n = 0, cap = json_object_size(map);
    uint8_t digest[HASH_SIZE];
    char *dir = NULL, *path = NULL;
    const char **name = calloc(cap + 1, sizeof *name);
    char *all = calloc(cap + 1, HASH_HEX_SIZE);
    int rc = name && all ? io_path_dir(&dir, index_path) : err_set(ERR_NOMEM, "%s: out of memory", index_path);
    if (rc < 0)
        goto done;
    json_object_foreach((json_t *)(uintptr_t)map, key, value)
        if (json_is_string(value))
            name[n++] = json_string_value(value);
    qsort(name, n, sizeof *name, name_order);
    size_t len = 0;
    for (size_t i = 0; i < n; i++) {
        if (i && !strcmp(name[i], name[i - 1]))
            continue;
        TRY_GOTO(io_path_join(&path, dir, name[i]));
        TRY_GOTO(hash_file_hex(hex, path));
        free(path);
        path = NULL;
        memcpy(all + len, hex, HASH_HEX_SIZE - 1);
        len += HASH_HEX_SIZE - 1;
    }
    TRY_GOTO(hash_bytes(digest, all, len));
    hash_hex(hex, digest, HASH_SIZE);
done:
    free(path);
    free(dir);
    free(all);
    free(name);
    return rc;
}

static int hash_index(char hex[HASH_HEX_SIZE], const char *path)
{
    char *text = NULL;
    size_t size;
    json_error_t e;
    TRY(io_file_read(&text, &size, path, 64 << 20));
    json_t *index = json_loadb(text, size, 0, &e);
    free(text);
    int rc = index ? hash_shards(hex, path, json_object_get(index, "weight_map"))
                   : err_set(ERR_FORMAT, "%s:%d: %s", path, e.line, e.text);
    json_decref(index);
    return rc;
}

int pipeline_hash(Pipeline *p, PipelinePart part, const char **hex)
{
    if (!p->files[part])
        return err_set(ERR_NOTFOUND, "%s: '%s' was opened without its weights", p->dir, parts[part].root);
    const char *path = io_safetensors_path(p->files[part]);
    if (!p->hash[part][0]) {
        char h[HASH_HEX_SIZE];
        const char *ext = io_path_ext(path);
        TRY(strcmp(ext, ".json") ? hash_file_hex(h, path) : hash_index(h, path));
        memcpy(p->hash[part], h, sizeof h);
    }
    *hex = p->hash[part];
    return 0;
}
