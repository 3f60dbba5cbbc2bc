#include "sweep/render_impl.h"

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

PipelinePart render_net_part(RenderNetKind kind)
{
    return kind == RENDER_NET_TEXT ? PIPELINE_TEXT : kind == RENDER_NET_UNET ? PIPELINE_UNET : PIPELINE_VAE;
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

static int net_key(Render *r, const RenderNetSpec *spec, char **out)
{
    StrBuf b;
    str_init(&b);
    if (spec->kind == RENDER_NET_TEXT)
        str_add_format(&b, "text skip %d, %d", spec->setup->clip_skip, spec->vectors);
    else
        str_add_format(&b, "%d: %d x %d x %d, %d", (int)spec->kind, spec->rows, spec->width, spec->height, spec->tokens);
    int ids[RENDER_MAX_LORA], n;
    int rc = part_adapters(r, render_net_part(spec->kind), spec->setup, ids, &n);
    if (rc < 0) {
        str_deinit(&b);
        return rc;
    }
    for (int i = 0; i < n; i++)
        str_add_format(&b, " +%d", ids[i]);
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

static void emit_text(Render *r, NnCtx *nn, const RenderNetSpec *spec, RenderNet *net)
{
    const ClipConfig *c = pipeline_text(r->pipe);
    ClipText text;
    int rc;
    net->in[0] = graph_input(nn->g, "ids", DTYPE_I32, SHAPE(1, c->positions));
    net->in[1] = net->in[2] = OP_NONE;
    if (spec->vectors) {
        net->in[1] = graph_input(nn->g, "keep", DTYPE_F32, SHAPE(1, c->positions, c->hidden));
        net->in[2] = graph_input(nn->g, "vectors", DTYPE_F32, SHAPE(1, c->positions, c->hidden));
        rc = clip_text_forward_vectors(nn, c, net->in[0], net->in[1], net->in[2], OP_NONE, spec->setup->clip_skip, &text);
    } else {
        rc = clip_text_forward(nn, c, net->in[0], OP_NONE, spec->setup->clip_skip, &text);
    }
    net->out = rc < 0 ? OP_NONE : text.last;
}

static void emit_unet(Render *r, NnCtx *nn, const RenderNetSpec *spec, RenderNet *net)
{
    const UnetConfig *c = pipeline_unet(r->pipe);
    int f = vae_factor(pipeline_vae(r->pipe)), rows = spec->rows;
    net->in[0] = graph_input(nn->g, "x", DTYPE_F32, SHAPE(rows, spec->height / f, spec->width / f, c->in_channels));
    net->in[1] = graph_input(nn->g, "t", DTYPE_F32, SHAPE(rows));
    net->in[2] = graph_input(nn->g, "context", DTYPE_F32, SHAPE(rows, spec->tokens, c->context));
    net->out = unet_forward(nn, c, net->in[0], net->in[1], net->in[2]);
}

static void emit_vae(Render *r, NnCtx *nn, const RenderNetSpec *spec, RenderNet *net)
{
    const VaeConfig *c = pipeline_vae(r->pipe);
    int f = vae_factor(c);
    if (spec->kind == RENDER_NET_DECODE) {
        net->in[0] = graph_input(nn->g, "z", DTYPE_F32, SHAPE(1, spec->height / f, spec->width / f, c->latent_channels));
        net->out = vae_decode(nn, c, nn_to_compute(nn, net->in[0]));
    } else {
        net->in[0] = graph_input(nn->g, "image", DTYPE_F32, SHAPE(1, spec->height, spec->width, c->in_channels));
        net->out = vae_encode(nn, c, nn_to_compute(nn, net->in[0]));
    }
}

int render_net_build(Render *r, const RenderNetSpec *spec, RenderNet *net)
{
    int rc, ids[RENDER_MAX_LORA], n = 0;
    const NnLora *lora[RENDER_MAX_LORA];
    PipelinePart part = render_net_part(spec->kind);
    NnCtx nn;
    TRY(part_adapters(r, part, spec->setup, ids, &n));
    TRY(graph_create(&net->graph, r->dtype));
    nn_init(&nn, net->graph);
    for (int i = 0; i < n; i++)
        lora[i] = lora_nn(r->adapter[ids[i]].lora, ids[i], 0);
    nn.lora = lora;
    nn.nlora = n;
    size_t mark = nn_push(&nn, "%s", pipeline_root(part));
    if (spec->kind == RENDER_NET_TEXT)
        emit_text(r, &nn, spec, net);
    else if (spec->kind == RENDER_NET_UNET)
        emit_unet(r, &nn, spec, net);
    else
        emit_vae(r, &nn, spec, net);
    nn_pop(&nn, mark);
    graph_output(net->graph, net->out, "out");
    TRY_GOTO(graph_status(net->graph));
    TRY_GOTO(graph_optimize(net->graph, r->be));
    TRY_GOTO(plan_create(&net->plan, net->graph, r->be));
    net->bytes = plan_arena_bytes(net->plan) + plan_param_bytes(net->plan);
    net->kind = spec->kind;
    rc = net_key(r, spec, &net->key);
done:
    nn_deinit(&nn);
    if (rc < 0) {
        render_net_deinit(net);
        return err_context(rc, "%s", pipeline_root(part));
    }
    return 0;
}

size_t render_net_bytes(const Render *r)
{
    size_t sum = 0;
    for (int i = 0; i < RENDER_MAX_NETS; i++)
        sum += r->net[i] ? r->net[i]->bytes : 0;
    return sum;
}

static int oldest(const Render *r)
{
    int at = -1;
    for (int i = 0; i < RENDER_MAX_NETS; i++)
        if (r->net[i] && (at < 0 || r->net[i]->used < r->net[at]->used))
            at = i;
    return at;
}

uint64_t render_net_oldest(const Render *r)
{
    int i = oldest(r);
    return i < 0 ? UINT64_MAX : r->net[i]->used;
}

static void drop_weights(Render *r, PipelinePart part)
{
    nn_params_destroy(r->params[part]);
    r->params[part] = NULL;
    if (r->pipe && pipeline_files(r->pipe, part))
        io_safetensors_release(pipeline_files(r->pipe, part), -1);
}

int render_net_drop(Render *r)
{
    int at = oldest(r);
    if (at < 0)
        return 0;
    PipelinePart part = render_net_part(r->net[at]->kind);
    render_net_deinit(r->net[at]);
    free(r->net[at]);
    r->net[at] = NULL;
    for (int i = 0; i < RENDER_MAX_NETS; i++)
        if (r->net[i] && render_net_part(r->net[i]->kind) == part)
            return 1;
    drop_weights(r, part);
    return 1;
}

/* Adapters' scales may change from call to call while the graph stays. */
static int bind_weights(Render *r, const RenderSetup *s, RenderNet *net)
{
    PipelinePart part = render_net_part(net->kind);
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

static int find_net(const Render *r, const char *key)
{
    for (int i = 0; i < RENDER_MAX_NETS; i++)
        if (r->net[i] && strcmp(r->net[i]->key, key) == 0)
            return i;
    return -1;
}

int render_net_rows(Render *r, RenderNetSpec *spec, int n)
{
    int per = spec->setup->guided ? 2 : 1, best = n * per;
    for (spec->rows = n * per; spec->rows <= 2 * n * per; spec->rows += per) {
        char *key;
        TRY(net_key(r, spec, &key));
        int at = find_net(r, key);
        free(key);
        if (at >= 0) {
            best = spec->rows;
            break;
        }
    }
    spec->rows = best;
    return 0;
}

/* What is in training comes before the model's files. */
static int put_live(Render *r, NnParams *ps, const Graph *g)
{
    for (int i = 0; r->live && i < graph_tensor_count(g); i++) {
        const GraphTensor *t = graph_tensor(g, i);
        NnParam *mine, *now = t->kind == TENSOR_PARAM ? nn_params_find(r->live, t->name) : NULL;
        if (!now || nn_params_find(ps, t->name))
            continue;
        if (now->dtype != DTYPE_F32 || !shape_equal(&now->shape, &t->meta.shape))
            continue;
        if (t->meta.dtype == DTYPE_F32) {
            TRY(nn_params_add_view(ps, t->name, DTYPE_F32, now->shape, now->data, NULL));
        } else {
            TRY(nn_params_add(ps, t->name, t->meta.dtype, now->shape, &mine));
            TRY(dtype_convert(mine->data, mine->dtype, now->data, DTYPE_F32, shape_count(&now->shape)));
        }
    }
    return 0;
}

static int start_new(Render *r, const RenderNetSpec *spec, RenderNet *net)
{
    PipelinePart part = render_net_part(spec->kind);
    TRY(render_net_build(r, spec, net));
    render_make_room(r, net->bytes);
    if (!r->params[part])
        TRY(nn_params_create(&r->params[part]));
    TRY(put_live(r, r->params[part], net->graph));
    TRY(pipeline_load(r->pipe, r->params[part], net->graph));
    return exec_create(&net->exec, net->plan);
}

int render_net_start(Render *r, const RenderNetSpec *spec, RenderNet **out)
{
    char *key;
    TRY(net_key(r, spec, &key));
    int at = find_net(r, key);
    free(key);
    if (at < 0) {
        RenderNet *net = calloc(1, sizeof *net);
        int rc = net ? start_new(r, spec, net) : err_set(ERR_NOMEM, "out of memory");
        if (rc < 0) {
            if (net)
                render_net_deinit(net);
            free(net);
            return rc;
        }
        for (at = 0; at < RENDER_MAX_NETS && r->net[at]; at++)
            ;
        if (at == RENDER_MAX_NETS) {
            at = oldest(r);
            render_net_deinit(r->net[at]);
            free(r->net[at]);
        }
        r->net[at] = net;
    }
    r->net[at]->used = render_tick(r);
    *out = r->net[at];
    return bind_weights(r, spec->setup, *out);
}
