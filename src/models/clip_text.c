#include "models/clip_text.h"

#include <stdio.h>
#include <string.h>

#include "models/clip_block.h"

static int read_act(Act *out, const ModelJson *j)
{
    static const struct {
        const char *name;
        Act act;
    } acts[] = {{"quick_gelu", ACT_QUICK_GELU}, {"gelu", ACT_GELU}, {"gelu_new", ACT_GELU_TANH},
                {"gelu_pytorch_tanh", ACT_GELU_TANH}, {"relu", ACT_RELU}, {"silu", ACT_SILU}};
    const char *name;
    TRY(model_json_text(j, "hidden_act", "quick_gelu", &name));
    for (size_t i = 0; i < sizeof acts / sizeof *acts; i++)
        if (!strcmp(name, acts[i].name)) {
            *out = acts[i].act;
            return 0;
        }
    return model_json_error(j, ERR_UNSUPPORTED, "hidden_act", "is \"%s\"; expected quick_gelu, gelu, gelu_new, relu or silu",
                            name);
}

int clip_config_common(ClipConfig *c, const ModelJson *j, int hidden, int intermediate, int heads)
{
    memset(c, 0, sizeof *c);
    TRY(model_json_int(j, "hidden_size", hidden, 1, 1 << 16, &c->hidden));
    TRY(model_json_int(j, "intermediate_size", intermediate, 1, 1 << 18, &c->intermediate));
    TRY(model_json_int(j, "num_hidden_layers", 12, 1, CLIP_MAX_LAYERS, &c->layers));
    TRY(model_json_int(j, "num_attention_heads", heads, 1, 1 << 12, &c->heads));
    TRY(model_json_float(j, "layer_norm_eps", 1e-5, &c->eps));
    TRY(read_act(&c->act, j));
    if (c->hidden % c->heads)
        return model_json_error(j, ERR_SHAPE, "num_attention_heads", "is %d, which does not divide hidden_size %d", c->heads,
                                c->hidden);
    return 0;
}

int clip_text_config(ClipConfig *c, const ModelJson *j, int with_projection)
{
    TRY(clip_config_common(c, j, 512, 2048, 8));
    TRY(model_json_int(j, "max_position_embeddings", 77, 1, 1 << 16, &c->positions));
    TRY(model_json_int(j, "vocab_size", 49408, 1, 1 << 24, &c->vocab));
    TRY(model_json_int(j, "eos_token_id", 49407, 0, 1 << 24, &c->eos));
    if (with_projection)
        TRY(model_json_int(j, "projection_dim", 512, 1, 1 << 16, &c->projection));
    return 0;
}

OpRef clip_layer(NnCtx *nn, const ClipConfig *c, OpRef x, int index, int causal)
{
    size_t mark = nn_push(nn, "encoder.layers.%d", index);
    graph_segment_begin(nn->g);
    OpRef h = nn_layer_norm(nn, "layer_norm1", x, c->eps);
    size_t inner = nn_push(nn, "self_attn");
    x = nn_attention(nn, &NN_ATTN_CLIP, h, OP_NONE, c->heads, causal, x);
    nn_pop(nn, inner);
    h = nn_layer_norm(nn, "layer_norm2", x, c->eps);
    inner = nn_push(nn, "mlp");
    h = op_act(nn->b, nn_linear(nn, "fc1", h, c->intermediate, 1, OP_NONE), c->act);
    x = nn_linear(nn, "fc2", h, c->hidden, 1, x);
    nn_pop(nn, inner);
    graph_segment_end(nn->g);
    x = nn_tap(nn, NULL, x);
    nn_pop(nn, mark);
    return x;
}

/* keep, vectors: OP_NONE, or what some tokens are replaced with. keep is 1 or 0, so the others stay to the bit. */
static OpRef embeddings(NnCtx *nn, const ClipConfig *c, OpRef ids, OpRef keep, OpRef vectors)
{
    size_t mark = nn_push(nn, "embeddings");
    OpRef token = nn_param(nn, "token_embedding.weight", SHAPE(c->vocab, c->hidden));
    OpRef place = nn_param(nn, "position_embedding.weight", SHAPE(c->positions, c->hidden));
    nn_pop(nn, mark);
    OpRef x = op_embed(nn->b, ids, token);
    if (keep >= 0)
        x = op_add(nn->b, op_mul(nn->b, x, nn_to_compute(nn, keep)), nn_to_compute(nn, vectors));
    return op_add_bcast(nn->b, x, place, BCAST_ROW);
}

static int check_text(NnCtx *nn, const ClipConfig *c, OpRef ids, int skip)
{
    char a[96];
    if (ids < 0)
        return ERR_SHAPE;
    Shape s = graph_meta(nn->g, ids)->shape;
    if (s.ndim != 2 || s.dim[1] != c->positions)
        return err_set(ERR_SHAPE, "text encoder: ids are %s, expected [N,%d]", shape_text(&s, a, sizeof a), c->positions);
    if (skip < 1 || skip > c->layers)
        return err_set(ERR_RANGE, "clip skip is %d, expected 1..%d", skip, c->layers);
    return 0;
}

int clip_text_forward(NnCtx *nn, const ClipConfig *c, OpRef ids, OpRef pool_index, int skip, ClipText *out)
{
    return clip_text_forward_vectors(nn, c, ids, OP_NONE, OP_NONE, pool_index, skip, out);
}

int clip_text_forward_vectors(NnCtx *nn, const ClipConfig *c, OpRef ids, OpRef keep, OpRef vectors, OpRef pool_index, int skip, ClipText *out)
{
    *out = (ClipText){.layers = c->layers, .last = OP_NONE, .pooled = OP_NONE, .embeds = OP_NONE};
    TRY(graph_status(nn->g));
    int rc = check_text(nn, c, ids, skip);
    if (rc < 0) {
        nn->b->fail(nn->b, rc);
        return rc;
    }
    size_t mark = nn_push(nn, "text_model");
    out->hidden[0] = embeddings(nn, c, ids, keep, vectors);
    for (int i = 0; i < c->layers; i++)
        out->hidden[i + 1] = clip_layer(nn, c, out->hidden[i], i, 1);
    out->last = nn_layer_norm(nn, "final_layer_norm", out->hidden[c->layers - (skip - 1)], c->eps);
    nn_pop(nn, mark);
    if (pool_index >= 0)
        out->pooled = op_gather_row(nn->b, out->last, pool_index);
    if (pool_index >= 0 && c->projection)
        out->embeds = nn_linear(nn, "text_projection", out->pooled, c->projection, 0, OP_NONE);
    return graph_status(nn->g);
}

void clip_text_pool_index(const ClipConfig *c, const int32_t *ids, int n, int length, int32_t *index)
{
    for (int i = 0; i < n; i++) {
        const int32_t *row = ids + (size_t)i * (size_t)length;
        int best = 0;
        for (int k = 0; k < length; k++) {
            if (c->eos == 2 ? row[k] > row[best] : row[k] == c->eos)
                best = k;
            if (c->eos != 2 && row[k] == c->eos)
                break;
        }
        index[i] = best;
    }
}

int clip_names(const char *name, int k, char *buf, size_t size)
{
    static const char prefix[] = "text_model.";
    int inside = !strncmp(name, prefix, sizeof prefix - 1);
    if (k > 1 || (k == 1 && !inside))
        return 0;
    int n = snprintf(buf, size, "%s", k == 1 ? name + sizeof prefix - 1 : name);
    return n > 0 && (size_t)n < size;
}
