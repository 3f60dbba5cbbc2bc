#include "models/unet.h"

/* Activations that the up path concatenates, in the order they were made. */
typedef struct {
    OpRef item[UNET_MAX_LEVELS * 65 + 1];
    int count;
} Skips;

static void skip_push(Skips *s, OpRef t)
{
    s->item[s->count++] = t;
}

/* diffusers BasicTransformerBlock: x + attn1(norm1(x)), + attn2(norm2(.), context), + ff(norm3(.)). LayerNorm eps 1e-5. */
static OpRef transformer_block(NnCtx *nn, OpRef x, OpRef context, int heads, int only_cross)
{
    if (x < 0)
        return OP_NONE;
    int64_t c = shape_last(&graph_meta(nn->g, x)->shape);
    graph_segment_begin(nn->g);
    for (int k = 1; k <= 2; k++) {
        OpRef h = nn_layer_norm(nn, k == 1 ? "norm1" : "norm2", x, 1e-5f);
        size_t mark = nn_push(nn, "attn%d", k);
        OpRef ctx = k == 2 || only_cross ? context : OP_NONE;
        if (nn->tap)
            x = nn_residual(nn, nn_tap(nn, NULL, nn_attention(nn, &NN_ATTN_DIFFUSERS, h, ctx, heads, 0, OP_NONE)), x);
        else
            x = nn_attention(nn, &NN_ATTN_DIFFUSERS, h, ctx, heads, 0, x);
        nn_pop(nn, mark);
    }
    OpRef h = nn_layer_norm(nn, "norm3", x, 1e-5f);
    size_t mark = nn_push(nn, "ff");
    h = op_geglu(nn->b, nn_linear(nn, "net.0.proj", h, 8 * c, 1, OP_NONE));
    if (nn->tap)
        x = nn_residual(nn, nn_tap(nn, NULL, nn_linear(nn, "net.2", h, c, 1, OP_NONE)), x);
    else
        x = nn_linear(nn, "net.2", h, c, 1, x);
    nn_pop(nn, mark);
    graph_segment_end(nn->g);
    return nn_tap(nn, NULL, x);
}

/* diffusers Transformer2DModel on an image; its group norm has eps 1e-6 whatever norm_eps says. */
static OpRef transformer(NnCtx *nn, const UnetConfig *c, OpRef x, OpRef context, int level, int depth, int only_cross)
{
    if (x < 0)
        return OP_NONE;
    Shape image = graph_meta(nn->g, x)->shape;
    int64_t ch = image.dim[3];
    Shape tokens = SHAPE(image.dim[0], image.dim[1] * image.dim[2], ch);
    OpRef h = nn_group_norm(nn, "norm", x, c->groups, 1e-6f, ACT_NONE);
    if (c->linear_projection)
        h = nn_linear(nn, "proj_in", op_reshape(nn->b, h, tokens), ch, 1, OP_NONE);
    else
        h = op_reshape(nn->b, nn_conv(nn, "proj_in", h, ch, 1, 1, NN_SAME, OP_NONE), tokens);
    for (int k = 0; k < depth; k++) {
        size_t mark = nn_push(nn, "transformer_blocks.%d", k);
        h = transformer_block(nn, h, context, c->heads[level], only_cross);
        nn_pop(nn, mark);
    }
    if (c->linear_projection)
        h = op_reshape(nn->b, nn_linear(nn, "proj_out", h, ch, 1, op_reshape(nn->b, x, tokens)), image);
    else
        h = nn_conv(nn, "proj_out", op_reshape(nn->b, h, image), ch, 1, 1, NN_SAME, x);
    return nn_tap(nn, NULL, h);
}

static OpRef block_layer(NnCtx *nn, const UnetConfig *c, OpRef x, OpRef emb, OpRef context, int level, int layer, int cross)
{
    size_t mark = nn_push(nn, "resnets.%d", layer);
    x = nn_resnet(nn, x, emb, c->channels[level], c->groups, c->eps);
    nn_pop(nn, mark);
    if (!cross)
        return x;
    mark = nn_push(nn, "attentions.%d", layer);
    x = transformer(nn, c, x, context, level, c->depth[level], c->only_cross[level]);
    nn_pop(nn, mark);
    return x;
}

static OpRef down_path(NnCtx *nn, const UnetConfig *c, OpRef x, OpRef emb, OpRef context, Skips *skips)
{
    for (int i = 0; i < c->levels; i++) {
        size_t block = nn_push(nn, "down_blocks.%d", i);
        for (int k = 0; k < c->layers[i]; k++) {
            x = block_layer(nn, c, x, emb, context, i, k, c->down_cross[i]);
            skip_push(skips, x);
        }
        if (i < c->levels - 1) {
            size_t mark = nn_push(nn, "downsamplers.0");
            x = nn_conv(nn, "conv", x, c->channels[i], 3, 2, c->downsample_padding ? NN_SAME : NN_ASYM, OP_NONE);
            x = nn_tap(nn, NULL, x);
            nn_pop(nn, mark);
            skip_push(skips, x);
        }
        x = nn_tap(nn, NULL, x);
        nn_pop(nn, block);
    }
    return x;
}

static OpRef mid_block(NnCtx *nn, const UnetConfig *c, OpRef x, OpRef emb, OpRef context)
{
    int level = c->levels - 1;
    size_t block = nn_push(nn, "mid_block");
    for (int k = 0; k < 2; k++) {
        size_t mark = nn_push(nn, "resnets.%d", k);
        x = nn_resnet(nn, x, emb, c->channels[level], c->groups, c->eps);
        nn_pop(nn, mark);
        if (k)
            continue;
        mark = nn_push(nn, "attentions.0");
        x = transformer(nn, c, x, context, level, c->depth[level], 0);
        nn_pop(nn, mark);
    }
    x = nn_tap(nn, NULL, x);
    nn_pop(nn, block);
    return x;
}

/* Nearest neighbour to the size of the skip that comes next: 2x, or 2x - 1 where the size was odd. */
static OpRef upsample(NnCtx *nn, OpRef x, OpRef like, int channels)
{
    if (x < 0 || like < 0)
        return OP_NONE;
    Shape s = graph_meta(nn->g, like)->shape;
    size_t mark = nn_push(nn, "upsamplers.0");
    x = op_upsample_nearest(nn->b, x, s.dim[1], s.dim[2]);
    x = nn_tap(nn, NULL, nn_conv(nn, "conv", x, channels, 3, 1, NN_SAME, OP_NONE));
    nn_pop(nn, mark);
    return x;
}

static OpRef up_path(NnCtx *nn, const UnetConfig *c, OpRef x, OpRef emb, OpRef context, Skips *skips)
{
    for (int i = 0; i < c->levels; i++) {
        int level = c->levels - 1 - i;
        size_t block = nn_push(nn, "up_blocks.%d", i);
        for (int k = 0; k <= c->layers[level]; k++) {
            x = op_concat(nn->b, x, skips->item[--skips->count]);
            x = block_layer(nn, c, x, emb, context, level, k, c->up_cross[i]);
        }
        if (level > 0)
            x = upsample(nn, x, skips->item[skips->count - 1], c->channels[level]);
        x = nn_tap(nn, NULL, x);
        nn_pop(nn, block);
    }
    return x;
}

/* linear_2(silu(linear_1(e))) + res */
static OpRef embedding_mlp(NnCtx *nn, const UnetConfig *c, OpRef e, OpRef res)
{
    e = op_act(nn->b, nn_linear(nn, "linear_1", e, c->time_dim, 1, OP_NONE), ACT_SILU);
    return nn_linear(nn, "linear_2", e, c->time_dim, 1, res);
}

static OpRef add_embedding(NnCtx *nn, const UnetConfig *c, const UnetAdded *added, OpRef emb)
{
    OpRef text = nn_to_compute(nn, added->text);
    OpRef e = op_time_embed(nn->b, added->sizes, added->size_dim, c->flip_sin_to_cos, c->freq_shift, 10000.0f, graph_dtype(nn->g));
    if (text < 0 || e < 0)
        return OP_NONE;
    int64_t n = graph_meta(nn->g, text)->shape.dim[0];
    e = op_concat(nn->b, text, op_reshape(nn->b, e, SHAPE(n, shape_count(&graph_meta(nn->g, e)->shape) / n)));
    size_t mark = nn_push(nn, "add_embedding");
    e = embedding_mlp(nn, c, e, emb);
    nn_pop(nn, mark);
    return e;
}

/* SiLU of the time embedding, as every resnet takes it. */
static OpRef time_embedding(NnCtx *nn, const UnetConfig *c, OpRef t, const UnetAdded *added)
{
    OpRef e = op_time_embed(nn->b, t, c->channels[0], c->flip_sin_to_cos, c->freq_shift, 10000.0f, graph_dtype(nn->g));
    e = nn_tap(nn, "time_proj", e);
    size_t mark = nn_push(nn, "time_embedding");
    e = nn_tap(nn, NULL, embedding_mlp(nn, c, e, OP_NONE));
    nn_pop(nn, mark);
    if (added)
        e = add_embedding(nn, c, added, e);
    return op_act(nn->b, e, ACT_SILU);
}

static int check_inputs(NnCtx *nn, const UnetConfig *c, OpRef x, OpRef context)
{
    char a[96];
    if (x < 0 || context < 0)
        return ERR_SHAPE; /* reported when it happened */
    Shape sx = graph_meta(nn->g, x)->shape, sc = graph_meta(nn->g, context)->shape;
    if (sx.ndim != 4 || sx.dim[3] != c->in_channels)
        return err_set(ERR_SHAPE, "unet: sample is %s, expected [N,H,W,%d]", shape_text(&sx, a, sizeof a), c->in_channels);
    if (sc.ndim != 3 || sc.dim[0] != sx.dim[0] || sc.dim[2] != c->context)
        return err_set(ERR_SHAPE, "unet: context is %s, expected [%lld,L,%d]", shape_text(&sc, a, sizeof a),
                       (long long)sx.dim[0], c->context);
    return 0;
}

OpRef unet_forward(NnCtx *nn, const UnetConfig *c, OpRef x, OpRef t, OpRef context)
{
    return unet_forward_added(nn, c, x, t, context, NULL);
}

OpRef unet_forward_added(NnCtx *nn, const UnetConfig *c, OpRef x, OpRef t, OpRef context, const UnetAdded *added)
{
    Skips skips = {.count = 0};
    int rc = check_inputs(nn, c, x, context);
    if (rc < 0)
        return x < 0 || context < 0 ? OP_NONE : nn->b->fail(nn->b, rc);
    x = nn_to_compute(nn, x);
    context = nn_to_compute(nn, context);
    if (c->center_input)
        x = op_add_bcast(nn->b, op_scale(nn->b, x, 2, OP_NONE), nn_constant(nn, -1, SHAPE(c->in_channels)), BCAST_CHANNEL);
    OpRef emb = time_embedding(nn, c, t, added);
    x = nn_conv(nn, "conv_in", x, c->channels[0], c->conv_in_kernel, 1, NN_SAME, OP_NONE);
    skip_push(&skips, x);
    x = down_path(nn, c, x, emb, context, &skips);
    x = mid_block(nn, c, x, emb, context);
    x = up_path(nn, c, x, emb, context, &skips);
    /* diffusers' module conv_norm_out ends before the SiLU: a tap wants it bare */
    if (nn->tap)
        x = op_act(nn->b, nn_tap(nn, "conv_norm_out", nn_group_norm(nn, "conv_norm_out", x, c->groups, c->eps, ACT_NONE)),
                   ACT_SILU);
    else
        x = nn_group_norm(nn, "conv_norm_out", x, c->groups, c->eps, ACT_SILU);
    return nn_conv(nn, "conv_out", x, c->out_channels, c->conv_out_kernel, 1, NN_SAME, OP_NONE);
}
