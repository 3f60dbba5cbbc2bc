#include "models/clip_vision.h"

#include "models/clip_block.h"

static int vision_config(ClipConfig *c, const ModelJson *j)
{
    TRY(clip_config_common(c, j, 768, 3072, 12));
    TRY(model_json_int(j, "image_size", 224, 1, 1 << 14, &c->image));
    TRY(model_json_int(j, "patch_size", 32, 1, 1 << 10, &c->patch));
    TRY(model_json_int(j, "num_channels", 3, 1, 64, &c->channels));
    if (c->image % c->patch)
        return model_json_error(j, ERR_SHAPE, "patch_size", "is %d, which does not divide image_size %d", c->patch, c->image);
    c->positions = (c->image / c->patch) * (c->image / c->patch) + 1;
    return 0;
}

int clip_pair_config(ClipConfig *text, ClipConfig *vision, const ModelJson *j)
{
    ModelJson *sub = NULL;
    int projection, rc;
    TRY(model_json_int(j, "projection_dim", 512, 1, 1 << 16, &projection));
    TRY(model_json_sub(j, "text_config", &sub));
    rc = clip_text_config(text, sub, 0);
    model_json_close(sub);
    TRY(rc);
    TRY(model_json_sub(j, "vision_config", &sub));
    rc = vision_config(vision, sub);
    model_json_close(sub);
    text->projection = vision->projection = projection;
    return rc;
}

/* [N,S,S,C] -> [N,(S/p)^2,C*p*p] with the elements of a patch in the order of the kernel (c, y, x): two moves of one axis to
 * the end, since a convolution op has strides 1 and 2 only. */
static OpRef patches(NnCtx *nn, const ClipConfig *c, OpRef x)
{
    int64_t n = graph_meta(nn->g, x)->shape.dim[0], p = c->patch, side = c->image / p, ch = c->channels;
    x = op_reshape(nn->b, x, SHAPE(n * side, p, side, p * ch));       /* rows of patches, y, column, (x c) */
    x = op_nchw_to_nhwc(nn->b, x);                                    /* ., column, (x c), y */
    x = op_reshape(nn->b, x, SHAPE(n * side * side, p, ch, p));       /* patch, x, c, y */
    x = op_nchw_to_nhwc(nn->b, x);                                    /* patch, c, y, x */
    return op_reshape(nn->b, x, SHAPE(n, side * side, ch * p * p));
}

/* Puts v[C] in front of the rows of x[N,L,C]. */
static OpRef prepend(NnCtx *nn, OpRef x, OpRef v)
{
    if (x < 0)
        return OP_NONE;
    Shape s = graph_meta(nn->g, x)->shape;
    Meta m = {graph_dtype(nn->g), SHAPE(s.dim[0], s.dim[2])};
    OpRef first = op_add_bcast(nn->b, op_zero(nn->b, &m), v, BCAST_CHANNEL);
    OpRef flat = op_reshape(nn->b, x, SHAPE(s.dim[0], s.dim[1] * s.dim[2]));
    return op_reshape(nn->b, op_concat(nn->b, first, flat), SHAPE(s.dim[0], s.dim[1] + 1, s.dim[2]));
}

OpRef clip_vision_forward(NnCtx *nn, const ClipConfig *c, OpRef pixels)
{
    char a[96];
    if (pixels < 0)
        return OP_NONE;
    Shape s = graph_meta(nn->g, pixels)->shape;
    if (s.ndim != 4 || s.dim[1] != c->image || s.dim[2] != c->image || s.dim[3] != c->channels)
        return nn->b->fail(nn->b, err_set(ERR_SHAPE, "image tower: pixels are %s, expected [N,%d,%d,%d]",
                                          shape_text(&s, a, sizeof a), c->image, c->image, c->channels));
    size_t mark = nn_push(nn, "vision_model");
    size_t inner = nn_push(nn, "embeddings");
    OpRef kernel = nn_param(nn, "patch_embedding.weight", SHAPE(c->hidden, c->channels, c->patch, c->patch));
    kernel = op_reshape(nn->b, kernel, SHAPE(c->hidden, c->channels * c->patch * c->patch));
    OpRef x = op_linear(nn->b, patches(nn, c, nn_to_compute(nn, pixels)), kernel, OP_NONE, OP_NONE);
    x = prepend(nn, x, nn_param(nn, "class_embedding", SHAPE(c->hidden)));
    x = op_add_bcast(nn->b, x, nn_param(nn, "position_embedding.weight", SHAPE(c->positions, c->hidden)), BCAST_ROW);
    nn_pop(nn, inner);
    x = nn_layer_norm(nn, "pre_layrnorm", x, c->eps); /* transformers' spelling */
    for (int i = 0; i < c->layers; i++)
        x = clip_layer(nn, c, x, i, 0);
    x = op_slice(nn->b, op_reshape(nn->b, x, SHAPE(s.dim[0], (int64_t)c->positions * c->hidden)), 0, c->hidden);
    x = nn_layer_norm(nn, "post_layernorm", x, c->eps);
    nn_pop(nn, mark);
    return c->projection ? nn_linear(nn, "visual_projection", x, c->projection, 0, OP_NONE) : x;
}

OpRef clip_contrastive_loss(NnCtx *nn, OpRef image, OpRef text, OpRef target, OpRef *logits)
{
    if (image < 0 || text < 0 || target < 0)
        return OP_NONE;
    Shape s = graph_meta(nn->g, image)->shape;
    int64_t count = shape_count(&s);
    OpRef i = op_l2_norm(nn->b, image), t = op_l2_norm(nn->b, text);
    /* exp(logit_scale) on every element of i, as a product with a column of ones: a scalar with a gradient */
    OpRef ls = nn_to_compute(nn, op_reshape(nn->b, nn_param(nn, "logit_scale", shape_make(0, NULL)), SHAPE(1, 1)));
    OpRef scale = op_linear(nn->b, nn_constant(nn, 1, SHAPE(count, 1)), ls, OP_NONE, OP_NONE);
    scale = op_reshape(nn->b, op_act(nn->b, scale, ACT_EXP), s);
    i = op_mul(nn->b, i, scale);
    OpRef rows = op_linear(nn->b, i, t, OP_NONE, OP_NONE);
    OpRef columns = op_linear(nn->b, t, i, OP_NONE, OP_NONE);
    if (logits)
        *logits = rows;
    OpRef loss = op_add(nn->b, op_xent(nn->b, rows, target), op_xent(nn->b, columns, target));
    return op_scale(nn->b, loss, 0.5f, OP_NONE);
}
