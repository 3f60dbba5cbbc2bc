#include <stdlib.h>
#include <string.h>

#include "base/str.h"
#include "sweep/render_impl.h"
#include "text/clip_bpe.h"

enum { TEXT_CACHE = 256 };

typedef struct {
    Render *r;
    const RenderSetup *setup;
} Encoding;

/* keep and vectors of models/clip_text.h for one chunk. */
static int write_vectors(RenderNet *net, const CondVector *vectors, int n, int length, int width)
{
    size_t count = (size_t)length * (size_t)width;
    float *v = calloc(2 * count, sizeof *v), *keep = v ? v + count : NULL;
    if (!v)
        return err_set(ERR_NOMEM, "out of memory");
    for (size_t k = 0; k < count; k++)
        keep[k] = 1;
    for (int i = 0; i < n; i++) {
        size_t at = (size_t)vectors[i].at * (size_t)width;
        memcpy(v + at, vectors[i].vector, (size_t)width * sizeof *v);
        memset(keep + at, 0, (size_t)width * sizeof *v);
    }
    int rc = exec_write_f32(net->exec, net->in[1], keep, (int64_t)count);
    if (rc >= 0)
        rc = exec_write_f32(net->exec, net->in[2], v, (int64_t)count);
    free(v);
    return rc;
}

static int run_encoder(const Encoding *e, const int32_t *ids, const CondVector *vectors, int n, float *hidden)
{
    const ClipConfig *c = pipeline_text(e->r->pipe);
    const RenderNetSpec spec = {.kind = RENDER_NET_TEXT, .setup = e->setup, .rows = 1, .vectors = n > 0};
    RenderNet *net;
    TRY(render_net_start(e->r, &spec, &net));
    if (n)
        TRY(write_vectors(net, vectors, n, c->positions, c->hidden));
    TRY(exec_write(net->exec, net->in[0], ids, (size_t)c->positions * sizeof *ids));
    TRY(exec_run(net->exec));
    return exec_read_f32(net->exec, net->out, hidden, (int64_t)c->positions * c->hidden);
}

static RenderText *text_slot(Render *r)
{
    if (r->ntext < TEXT_CACHE) {
        RenderText *grown = realloc(r->text, (size_t)(r->ntext + 1) * sizeof *grown);
        if (!grown)
            return NULL;
        r->text = grown;
        memset(&r->text[r->ntext], 0, sizeof *grown);
        return &r->text[r->ntext++];
    }
    RenderText *oldest = r->text;
    for (int i = 1; i < r->ntext; i++)
        if (r->text[i].used < oldest->used)
            oldest = &r->text[i];
    return oldest;
}

/* Clip skip, adapters that touch the encoder, ids, vectors. */
static int text_key(const Encoding *e, const int32_t *ids, const CondVector *vectors, int n, char **out)
{
    Render *r = e->r;
    const RenderSetup *s = e->setup;
    StrBuf b;
    str_init(&b);
    str_add_format(&b, "%d", s->clip_skip);
    for (int i = 0; i < s->nlora; i++) {
        int id;
        int rc = render_adapter_find(r, s->lora[i].path, &id);
        if (rc < 0) {
            str_deinit(&b);
            return rc;
        }
        if (lora_covers(r->adapter[id].lora, pipeline_root(PIPELINE_TEXT)))
            str_add_format(&b, "|%d:%.17g", id, s->lora[i].scale);
    }
    str_add_char(&b, '|');
    for (int i = 0; i < pipeline_text(r->pipe)->positions; i++)
        str_add_format(&b, " %x", (unsigned)ids[i]);
    for (int i = 0; i < n; i++)
        str_add_format(&b, " %d=%td", vectors[i].at, vectors[i].vector - r->words.vectors);
    return str_take(out, &b);
}

static int encode(void *ctx, const int32_t *ids, const CondVector *vectors, int n, float *hidden, float *pooled)
{
    Encoding *e = ctx;
    Render *r = e->r;
    size_t bytes = (size_t)pipeline_text(r->pipe)->positions * (size_t)pipeline_text(r->pipe)->hidden * sizeof *hidden;
    char *key;
    (void)pooled;
    TRY(text_key(e, ids, vectors, n, &key));
    for (int i = 0; i < r->ntext; i++)
        if (r->text[i].key && strcmp(r->text[i].key, key) == 0) {
            r->text[i].used = ++r->clock;
            memcpy(hidden, r->text[i].data, bytes);
            free(key);
            return 0;
        }
    int rc = run_encoder(e, ids, vectors, n, hidden);
    RenderText *t = rc < 0 ? NULL : text_slot(r);
    float *data = t ? malloc(bytes) : NULL;
    if (!data) {
        free(key);
        return rc < 0 ? err_context(rc, "text encoder") : err_set(ERR_NOMEM, "out of memory");
    }
    memcpy(data, hidden, bytes);
    free(t->key);
    free(t->data);
    *t = (RenderText){.key = key, .data = data, .used = ++r->clock};
    return 0;
}

static CondEncoder encoder_of(Encoding *e)
{
    const Render *r = e->r;
    const ClipConfig *c = pipeline_text(r->pipe);
    return (CondEncoder){.tok = r->tok,
                         .length = c->positions,
                         .width = c->hidden,
                         .rules = e->setup->rules,
                         .words = r->words.count ? &r->words : NULL,
                         .encode = encode,
                         .ctx = e};
}

int render_prompt_size(Render *r, const RenderSetup *s, const RenderItem *item, RenderPrompt *out)
{
    Encoding e = {r, s};
    const CondEncoder encoder = encoder_of(&e);
    int calls, parts = 1;
    *out = (RenderPrompt){1, 1};
    TRY(render_pass_calls(s, s->source, &calls));
    TRY(cond_count(&encoder, item->prompt, s->guided ? item->negative : NULL, calls > 0 ? calls : 1, &out->chunks, &parts));
    out->runs = parts > 1 ? parts / 2 + 1 : 1;
    return 0;
}

int render_cond(Render *r, const RenderSetup *s, const RenderItem *item, int calls, Cond **out)
{
    Encoding e = {r, s};
    const CondEncoder encoder = encoder_of(&e);
    return cond_create(out, &encoder, item->prompt, s->guided ? item->negative : NULL, calls);
}

void render_text_deinit(Render *r)
{
    for (int i = 0; i < r->ntext; i++) {
        free(r->text[i].key);
        free(r->text[i].data);
    }
    free(r->text);
    inversion_set_deinit(&r->words);
}
