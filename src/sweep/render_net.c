#include "sweep/render_net.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/str.h"

int render_adapter_find(Render *r, const char *path, int *id)
{
    for (int i = 0; i < r->nadapter; i++)
        if (strcmp(r->adapter[i].path, path) == 0) {
            *id = i;
            return 0;
        }
    if (!r->modules.count)
        TRY(pipeline_modules(r->pipe, &r->modules));
    RenderAdapter *grown = realloc(r->adapter, (size_t)(r->nadapter + 1) * sizeof *grown);
    if (!grown)
        return err_set(ERR_NOMEM, "out of memory");
    r->adapter = grown;
    RenderAdapter a = {0};
    TRY(str_copy(&a.path, path));
    int rc = lora_load(&a.lora, path, &r->modules);
    if (rc < 0) {
        free(a.path);
        return rc;
    }
    r->adapter[r->nadapter] = a;
    *id = r->nadapter++;
    return 0;
}

/* Adapters of the setup that touch this part, in the setup's order. */
static int part_adapters(Render *r, PipelinePart part, const RenderSetup *s, int ids[RENDER_MAX_LORA], int *n)
{
    *n = 0;
    if (part == PIPELINE_VAE)
        return 0;
    for (int i = 0; i < s->nlora; i++) {
        int id;
        TRY(render_adapter_find(r, s->lora[i].path, &id));
        if (lora_covers(r->adapter[id].lora, pipeline_root(part)))
            ids[(*n)++] = id;
    }
    return 0;
}

static int net_key(Render *r, PipelinePart part, const RenderSetup *s, int rows, char **out)
{
    StrBuf b;
    str_init(&b);
    if (part == PIPELINE_TEXT)
        str_add_format(&b, "skip %d", s->clip_skip);
    else
        str_add_format(&b, "%d x %d x %d", rows, s->width, s->height);
    int ids[RENDER_MAX_LORA], n;
    int rc = part_adapters(r, part, s, ids, &n);
    if (rc < 0) {
        str_deinit(&b);
        return rc;
    }
    for (int i = 0; i < n; i++)
        str_add_format(&b, " +%d", ids[i]);
    return str_take(out, &b);
}

int render_text_key(Render *r, const RenderSetup *s, const char *prompt, char **out)
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

void render_net_deinit(RenderNet *net)
{
    exec_destroy(net->exec);
    plan_destroy(net->plan);
    graph_destroy(net->graph);
    free(net->key);
    memset(net, 0, sizeof *net);
}

static void emit_text(Render *r, NnCtx *nn, const RenderSetup *s, RenderNet *net)
{
    const ClipConfig *c = pipeline_text(r->pipe);
    ClipText text;
    net->in[0] = graph_input(nn->g, "ids", DTYPE_I32, SHAPE(1, c->positions));
    net->out = clip_text_forward(nn, c, net->in[0], OP_NONE, s->clip_skip, &text) < 0 ? OP_NONE : text.last;
}

static void emit_unet(Render *r, NnCtx *nn, const RenderSetup *s, int rows, RenderNet *net)
{
    const UnetConfig *c = pipeline_unet(r->pipe);
    int f = vae_factor(pipeline_vae(r->pipe));
    net->in[0] = graph_input(nn->g, "x", DTYPE_F32, SHAPE(rows, s->height / f, s->width / f, c->in_channels));
    net->in[1] = graph_input(nn->g, "t", DTYPE_F32, SHAPE(rows));
    net->in[2] = graph_input(nn->g, "context", DTYPE_F32, SHAPE(rows, pipeline_text(r->pipe)->positions, c->context));
    net->out = unet_forward(nn, c, net->in[0], net->in[1], net->in[2]);
}

static void emit_vae(Render *r, NnCtx *nn, const RenderSetup *s, RenderNet *net)
{
    const VaeConfig *c = pipeline_vae(r->pipe);
    int f = vae_factor(c);
    net->in[0] = graph_input(nn->g, "z", DTYPE_F32, SHAPE(1, s->height / f, s->width / f, c->latent_channels));
    net->out = vae_decode(nn, c, nn_to_compute(nn, net->in[0]));
}

int render_net_build(Render *r, PipelinePart part, const RenderSetup *s, int rows, RenderNet *net)
{
    int rc, ids[RENDER_MAX_LORA], n = 0;
    const NnLora *lora[RENDER_MAX_LORA];
    NnCtx nn;
    TRY(part_adapters(r, part, s, ids, &n));
    TRY(graph_create(&net->graph, r->dtype));
    nn_init(&nn, net->graph);
    for (int i = 0; i < n; i++)
        lora[i] = lora_nn(r->adapter[ids[i]].lora, ids[i], 0);
    nn.lora = lora;
    nn.nlora = n;
    size_t mark = nn_push(&nn, "%s", pipeline_root(part));
    if (part == PIPELINE_TEXT)
        emit_text(r, &nn, s, net);
    else if (part == PIPELINE_UNET)
        emit_unet(r, &nn, s, rows, net);
    else
        emit_vae(r, &nn, s, net);
    nn_pop(&nn, mark);
    graph_output(net->graph, net->out, "out");
    TRY_GOTO(graph_status(net->graph));
    TRY_GOTO(graph_optimize(net->graph));
    TRY_GOTO(plan_create(&net->plan, net->graph, r->be));
    net->bytes = plan_arena_bytes(net->plan) + plan_param_bytes(net->plan);
    rc = net_key(r, part, s, rows, &net->key);
done:
    nn_deinit(&nn);
    if (rc < 0) {
        render_net_deinit(net);
        return err_context(rc, "%s", pipeline_root(part));
    }
    return 0;
}

size_t render_net_bytes(const RenderNet *net)
{
    return net->exec ? net->bytes : 0;
}

void render_part_drop(Render *r, PipelinePart part)
{
    render_net_deinit(&r->net[part]);
    nn_params_destroy(r->params[part]);
    r->params[part] = NULL;
    if (r->pipe && pipeline_files(r->pipe, part))
        io_safetensors_release(pipeline_files(r->pipe, part), -1);
}

/* Adapters' scales may change from call to call while the graph stays. */
static int bind_weights(Render *r, PipelinePart part, const RenderSetup *s, RenderNet *net)
{
    NnParams *ps = r->params[part];
    int ids[RENDER_MAX_LORA], n;
    TRY(part_adapters(r, part, s, ids, &n));
    for (int i = 0; i < s->nlora; i++)
        for (int k = 0; k < n; k++) {
            if (strcmp(r->adapter[ids[k]].path, s->lora[i].path) != 0)
                continue;
            char name[64];
            snprintf(name, sizeof name, "lora.%d.scale", ids[k]);
            if (!nn_params_find(ps, name))
                TRY(lora_add_params(r->adapter[ids[k]].lora, ids[k], ps));
            TRY(lora_set_scale(ps, ids[k], (float)s->lora[i].scale));
        }
    return nn_params_bind(ps, net->graph, net->exec);
}

/* Drops the other parts when they and `bytes` together are more than may stay. */
static void make_room(Render *r, PipelinePart part, size_t bytes)
{
    size_t sum = bytes;
    for (int i = 0; i < PIPELINE_PARTS; i++)
        if (i != (int)part)
            sum += render_net_bytes(&r->net[i]);
    if (sum <= (size_t)r->keep)
        return;
    for (int i = 0; i < PIPELINE_PARTS; i++)
        if (i != (int)part)
            render_part_drop(r, (PipelinePart)i);
}

int render_net_rows(Render *r, const RenderSetup *s, int n, int *rows)
{
    int per = s->guided ? 2 : 1;
    const RenderNet *net = &r->net[PIPELINE_UNET];
    *rows = n * per;
    if (!net->exec)
        return 0;
    int have = (int)graph_meta(net->graph, net->in[0])->shape.dim[0];
    if (have % per || have <= *rows || have > 2 * *rows)
        return 0;
    char *key;
    TRY(net_key(r, PIPELINE_UNET, s, have, &key));
    if (strcmp(key, net->key) == 0)
        *rows = have;
    free(key);
    return 0;
}

int render_net_start(Render *r, PipelinePart part, const RenderSetup *s, int rows, RenderNet **out)
{
    RenderNet *net = &r->net[part];
    char *key;
    TRY(net_key(r, part, s, rows, &key));
    int fits = net->exec && strcmp(net->key, key) == 0;
    free(key);
    if (!fits) {
        render_net_deinit(net);
        TRY(render_net_build(r, part, s, rows, net));
        make_room(r, part, net->bytes);
        if (!r->params[part])
            TRY(nn_params_create(&r->params[part]));
        TRY(pipeline_load(r->pipe, r->params[part], net->graph));
        TRY(exec_create(&net->exec, net->plan));
    }
    TRY(bind_weights(r, part, s, net));
    *out = net;
    return 0;
}
