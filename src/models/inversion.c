#include "models/inversion.h"

#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/str.h"
#include "io/file.h"
#include "io/torch_file.h"

enum { INVERSION_MAX_VECTORS = 75 };

void inversion_set_init(InversionSet *s, int width)
{
    memset(s, 0, sizeof *s);
    s->width = width;
}

void inversion_set_deinit(InversionSet *s)
{
    for (int i = 0; i < s->count; i++) {
        free((char *)s->word[i].name);
        free(s->path[i]);
    }
    free(s->path);
    free(s->word);
    free(s->hash);
    free(s->vectors);
    memset(s, 0, sizeof *s);
}

static float half(uint16_t h)
{
    uint32_t sign = (uint32_t)(h >> 15) << 31, e = h >> 10 & 31, m = h & 1023, bits;
    float f;
    if (e == 0) {
        f = (float)m / 16777216.0f;
        return sign ? -f : f;
    }
    bits = sign | (e == 31 ? 255u << 23 : (e + 112) << 23) | m << 13;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static int read_vectors(float *to, const IoTensor *t, int64_t n, const char *path)
{
    for (int64_t i = 0; i < n; i++) {
        uint16_t h = 0;
        uint32_t wide;
        if (t->dtype != DTYPE_F32)
            memcpy(&h, (const char *)t->data + 2 * i, 2);
        switch (t->dtype) {
        case DTYPE_F32: memcpy(&to[i], (const char *)t->data + 4 * i, 4); break;
        case DTYPE_F16: to[i] = half(h); break;
        case DTYPE_BF16:
            wide = (uint32_t)h << 16;
            memcpy(&to[i], &wide, 4);
            break;
        default: return err_set(ERR_UNSUPPORTED, "%s: tensor '%s' is %s: expected F32, F16 or BF16", path, t->name, dtype_name(t->dtype));
        }
        if (!(to[i] - to[i] == 0))
            return err_set(ERR_NUMERIC, "%s: tensor '%s' holds a value that is not finite", path, t->name);
    }
    return 0;
}

static const char *models_of(int64_t width)
{
    switch (width) {
    case 768: return " (Stable Diffusion 1.x)";
    case 1024: return " (Stable Diffusion 2.x)";
    case 1280: return " (SDXL's second encoder)";
    default: return "";
    }
}

/* The tensor for an encoder of this width; *token: 1 when its name is the word. */
static int pick(IoSafetensors *f, int width, IoTensor *t, int *token)
{
    static const char *const known[] = {"emb_params", "string_to_param.*", "string_to_param", "clip_l", "clip_g"};
    const char *path = io_safetensors_path(f);
    int at = -1, pair = io_safetensors_find(f, "clip_l") >= 0 && io_safetensors_find(f, "clip_g") >= 0;
    *token = 0;
    for (size_t i = 0; i < sizeof known / sizeof *known && (at < 0 || pair); i++) {
        int k = io_safetensors_find(f, known[i]);
        if (k < 0)
            continue;
        TRY(io_safetensors_at(f, k, t));
        if (!pair || (t->ndim > 0 && t->dim[t->ndim - 1] == width))
            at = k;
    }
    if (at < 0 && !pair && io_safetensors_count(f) == 1) {
        at = 0;
        *token = 1;
    }
    if (at < 0 && pair)
        at = io_safetensors_find(f, "clip_l");
    if (at < 0)
        return err_set(ERR_FORMAT, "%s: no textual inversion: expected one tensor named by its token, \"emb_params\", or \"clip_l\" and \"clip_g\"; "
                       "the first of %d tensors is '%s'", path, io_safetensors_count(f), io_safetensors_count(f) ? io_safetensors_name(f, 0) : "");
    TRY(io_safetensors_at(f, at, t));
    if (t->ndim < 1 || t->ndim > 2)
        return err_set(ERR_SHAPE, "%s: tensor '%s' has %d dimensions: expected [vectors, %d]", path, t->name, t->ndim, width);
    int64_t have = t->dim[t->ndim - 1];
    if (have != width)
        return err_set(ERR_SHAPE, "%s: tensor '%s' has vectors of width %lld%s; this model's text encoder takes %d%s", path, t->name,
                       (long long)have, models_of(have), width, models_of(width));
    return 0;
}

static int add(InversionSet *s, const IoTensor *t, const char *path, const char *name)
{
    int64_t n = t->ndim == 2 ? t->dim[0] : 1;
    if (n < 1 || n > INVERSION_MAX_VECTORS)
        return err_set(ERR_RANGE, "%s: %lld vectors: expected 1..%d", path, (long long)n, (int)INVERSION_MAX_VECTORS);
    for (int i = 0; i < s->count; i++)
        if (strcmp(s->word[i].name, name) == 0)
            return err_set(ERR_FORMAT, "%s: there is a textual inversion '%s' already", path, name);
    ChunkWord *word = realloc(s->word, ((size_t)s->count + 1) * sizeof *word);
    s->word = word ? word : s->word;
    char(*hash)[65] = realloc(s->hash, ((size_t)s->count + 1) * sizeof *hash);
    s->hash = hash ? hash : s->hash;
    size_t need = ((size_t)s->rows + (size_t)n) * (size_t)s->width;
    float *vectors = realloc(s->vectors, need * sizeof *vectors);
    s->vectors = vectors ? vectors : s->vectors;
    char **paths = realloc(s->path, ((size_t)s->count + 1) * sizeof *paths);
    s->path = paths ? paths : s->path;
    if (!word || !hash || !vectors || !paths)
        return err_set(ERR_NOMEM, "out of memory");
    TRY(read_vectors(vectors + (size_t)s->rows * (size_t)s->width, t, n * s->width, path));
    uint8_t sum[HASH_SIZE];
    hash[s->count][0] = 0;
    if (path[0]) {
        TRY(hash_file_range(sum, path, 0, -1));
        hash_hex(hash[s->count], sum, HASH_SIZE);
    }
    char *copy;
    TRY(str_copy(&paths[s->count], path));
    int rc = str_copy(&copy, name);
    if (rc < 0) {
        free(paths[s->count]);
        return rc;
    }
    word[s->count++] = (ChunkWord){copy, s->rows, (int)n};
    s->rows += (int)n;
    return 0;
}

int inversion_set_put(InversionSet *s, const char *name, const float *vectors, int n)
{
    const IoTensor t = {.name = name, .dtype = DTYPE_F32, .ndim = 2, .dim = {n, s->width}, .data = (void *)vectors};
    return add(s, &t, "", name);
}

int inversion_set_add(InversionSet *s, const char *path, const char *name)
{
    IoSafetensors *f;
    IoTensor t;
    char *stem = NULL;
    void *memory = NULL;
    int token, rc;
    TRY(io_torch_is(path) ? io_torch_open(&f, &memory, path) : io_safetensors_open(&f, path));
    TRY_GOTO(pick(f, s->width, &t, &token));
    const char *base = io_path_name(path);
    TRY_GOTO(str_format(&stem, "%.*s", (int)(io_path_ext(base) - base), base));
    rc = add(s, &t, path, name ? name : token ? t.name : stem);
done:
    free(stem);
    io_safetensors_close(f);
    free(memory);
    return rc;
}
