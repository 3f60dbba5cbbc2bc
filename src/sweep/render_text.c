#include <stdlib.h>
#include <string.h>

#include "base/str.h"
#include "sweep/render_impl.h"
#include "text/clip_bpe.h"

enum { TEXT_CACHE = 256 };

static int encode_prompt(Render *r, const RenderSetup *s, const char *prompt, float *dst, int64_t count)
{
    RenderNet *net;
    int length = pipeline_text(r->pipe)->positions;
    const RenderNetSpec spec = {.kind = RENDER_NET_TEXT, .setup = s, .rows = 1};
    TRY(render_net_start(r, &spec, &net));
    int32_t *ids = malloc((size_t)length * sizeof *ids);
    if (!ids)
        return err_set(ERR_NOMEM, "out of memory");
    int rc;
    TRY_GOTO(clip_bpe_encode_padded(r->tok, prompt, length, ids));
    TRY_GOTO(exec_write(net->exec, net->in[0], ids, (size_t)length * sizeof *ids));
    TRY_GOTO(exec_run(net->exec));
    rc = exec_read_f32(net->exec, net->out, dst, count);
done:
    free(ids);
    return rc;
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

/* "skip|id:scale|...|prompt": adapters that do not touch the encoder are left out. */
static int text_key(Render *r, const RenderSetup *s, const char *prompt, char **out)
{
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
    str_add(&b, prompt);
    return str_take(out, &b);
}

int render_text_embedding(Render *r, const RenderSetup *s, const char *prompt, float *dst, int64_t count)
{
    char *key;
    TRY(text_key(r, s, prompt, &key));
    for (int i = 0; i < r->ntext; i++)
        if (r->text[i].key && strcmp(r->text[i].key, key) == 0) {
            r->text[i].used = ++r->clock;
            memcpy(dst, r->text[i].data, (size_t)count * sizeof *dst);
            free(key);
            return 0;
        }
    int rc = encode_prompt(r, s, prompt, dst, count);
    RenderText *t = rc < 0 ? NULL : text_slot(r);
    float *data = t ? malloc((size_t)count * sizeof *data) : NULL;
    if (!data) {
        free(key);
        return rc < 0 ? err_context(rc, "text encoder") : err_set(ERR_NOMEM, "out of memory");
    }
    memcpy(data, dst, (size_t)count * sizeof *data);
    free(t->key);
    free(t->data);
    *t = (RenderText){.key = key, .data = data, .used = ++r->clock};
    return 0;
}

void render_text_deinit(Render *r)
{
    for (int i = 0; i < r->ntext; i++) {
        free(r->text[i].key);
        free(r->text[i].data);
    }
    free(r->text);
    r->text = NULL;
    r->ntext = 0;
}
