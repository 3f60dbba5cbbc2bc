#include "models/vae.h"

#include <stdio.h>
#include <string.h>

static const float VAE_EPS = 1e-6f;

static int vae_only(const ModelJson *j)
{
    TRY(model_json_only(j, "latents_mean", "null"));
    TRY(model_json_only(j, "latents_std", "null"));
    const char *act;
    TRY(model_json_text(j, "act_fn", "silu", &act));
    if (strcmp(act, "silu") && strcmp(act, "swish"))
        return model_json_error(j, ERR_UNSUPPORTED, "act_fn", "is \"%s\"; only silu is supported", act);
    return 0;
}

static int vae_blocks(const ModelJson *j, const char *key, int levels, const char *want)
{
    const char *name[VAE_MAX_LEVELS];
    TRY(model_json_texts(j, key, levels, name));
    for (int i = 0; i < levels; i++)
        if (strcmp(name[i], want))
            return model_json_error(j, ERR_UNSUPPORTED, key, "has \"%s\"; only %s is supported", name[i], want);
    return 0;
}

int vae_config(VaeConfig *c, const ModelJson *j)
{
    memset(c, 0, sizeof *c);
    TRY(vae_only(j));
    TRY(model_json_length(j, "block_out_channels", VAE_MAX_LEVELS, &c->levels));
    TRY(model_json_ints(j, "block_out_channels", 0, 1, 1 << 16, c->levels, c->channels));
    TRY(vae_blocks(j, "down_block_types", c->levels, "DownEncoderBlock2D"));
    TRY(vae_blocks(j, "up_block_types", c->levels, "UpDecoderBlock2D"));
    TRY(model_json_int(j, "layers_per_block", 1, 1, 64, &c->layers));
    TRY(model_json_int(j, "in_channels", 3, 1, 1 << 12, &c->in_channels));
    TRY(model_json_int(j, "out_channels", 3, 1, 1 << 12, &c->out_channels));
    TRY(model_json_int(j, "latent_channels", 4, 1, 1 << 12, &c->latent_channels));
    TRY(model_json_int(j, "norm_num_groups", 32, 1, 1 << 12, &c->groups));
    TRY(model_json_bool(j, "use_quant_conv", 1, &c->quant));
    TRY(model_json_bool(j, "use_post_quant_conv", 1, &c->post_quant));
    TRY(model_json_bool(j, "mid_block_add_attention", 1, &c->mid_attention));
    TRY(model_json_float(j, "scaling_factor", 0.18215, &c->scaling));
    TRY(model_json_float(j, "shift_factor", 0, &c->shift));
    TRY(model_json_int(j, "sample_size", 512, 1, 1 << 16, &c->sample_size));
    if (!(c->scaling > 0))
        return model_json_error(j, ERR_RANGE, "scaling_factor", "is %g, expected a number over 0", (double)c->scaling);
    for (int i = 0; i < c->levels; i++)
        if (c->channels[i] % c->groups)
            return model_json_error(j, ERR_SHAPE, "norm_num_groups", "is %d, which does not divide the %d channels of level %d",
                                    c->groups, c->channels[i], i);
    return 0;
}

int vae_factor(const VaeConfig *c)
{
    return 1 << (c->levels - 1);
}

/* Group norm, one head over all channels, with the residual. */
static OpRef mid_attention(NnCtx *nn, const VaeConfig *c, OpRef x)
{
    if (x < 0)
        return OP_NONE;
    Shape image = graph_meta(nn->g, x)->shape;
    Shape tokens = SHAPE(image.dim[0], image.dim[1] * image.dim[2], image.dim[3]);
    size_t mark = nn_push(nn, "attentions.0");
    graph_segment_begin(nn->g);
    OpRef h = op_reshape(nn->b, nn_group_norm(nn, "group_norm", x, c->groups, VAE_EPS, ACT_NONE), tokens);
    h = nn_attention(nn, &NN_ATTN_VAE, h, OP_NONE, 1, 0, op_reshape(nn->b, x, tokens));
    h = op_reshape(nn->b, h, image);
    graph_segment_end(nn->g);
    h = nn_tap(nn, NULL, h);
    nn_pop(nn, mark);
    return h;
}

static OpRef resnet(NnCtx *nn, const VaeConfig *c, OpRef x, int index, int out)
{
    size_t mark = nn_push(nn, "resnets.%d", index);
    x = nn_resnet(nn, x, OP_NONE, out, c->groups, VAE_EPS);
    nn_pop(nn, mark);
    return x;
}

static OpRef mid_block(NnCtx *nn, const VaeConfig *c, OpRef x)
{
    int ch = c->channels[c->levels - 1];
    size_t mark = nn_push(nn, "mid_block");
    x = resnet(nn, c, x, 0, ch);
    if (c->mid_attention)
        x = mid_attention(nn, c, x);
    x = nn_tap(nn, NULL, resnet(nn, c, x, 1, ch));
    nn_pop(nn, mark);
    return x;
}

static OpRef norm_out(NnCtx *nn, const VaeConfig *c, OpRef x)
{
    if (!nn->tap)
        return nn_group_norm(nn, "conv_norm_out", x, c->groups, VAE_EPS, ACT_SILU);
    x = nn_tap(nn, "conv_norm_out", nn_group_norm(nn, "conv_norm_out", x, c->groups, VAE_EPS, ACT_NONE));
    return op_act(nn->b, x, ACT_SILU);
}

static OpRef check_input(NnCtx *nn, OpRef x, const char *what, int channels, int multiple)
{
    char a[96];
    if (x < 0)
        return OP_NONE;
    Shape s = graph_meta(nn->g, x)->shape;
    if (s.ndim != 4 || s.dim[3] != channels || s.dim[1] % multiple || s.dim[2] % multiple)
        return nn->b->fail(nn->b, err_set(ERR_SHAPE, "vae: %s is %s, expected [N,H,W,%d] with H and W multiples of %d", what,
                                          shape_text(&s, a, sizeof a), channels, multiple));
    return nn_to_compute(nn, x);
}

OpRef vae_encode(NnCtx *nn, const VaeConfig *c, OpRef image)
{
    OpRef x = check_input(nn, image, "image", c->in_channels, vae_factor(c));
    size_t root = nn_push(nn, "encoder");
    x = nn_conv(nn, "conv_in", x, c->channels[0], 3, 1, NN_SAME, OP_NONE);
    for (int i = 0; i < c->levels; i++) {
        size_t block = nn_push(nn, "down_blocks.%d", i);
        for (int k = 0; k < c->layers; k++)
            x = resnet(nn, c, x, k, c->channels[i]);
        if (i < c->levels - 1)
            x = nn_conv(nn, "downsamplers.0.conv", x, c->channels[i], 3, 2, NN_ASYM, OP_NONE);
        x = nn_tap(nn, NULL, x);
        nn_pop(nn, block);
    }
    x = norm_out(nn, c, mid_block(nn, c, x));
    x = nn_conv(nn, "conv_out", x, 2 * c->latent_channels, 3, 1, NN_SAME, OP_NONE);
    nn_pop(nn, root);
    return c->quant ? nn_conv(nn, "quant_conv", x, 2 * c->latent_channels, 1, 1, NN_SAME, OP_NONE) : x;
}

static OpRef upsample(NnCtx *nn, OpRef x, int channels)
{
    if (x < 0)
        return OP_NONE;
    Shape s = graph_meta(nn->g, x)->shape;
    x = op_upsample_nearest(nn->b, x, 2 * s.dim[1], 2 * s.dim[2]);
    return nn_conv(nn, "upsamplers.0.conv", x, channels, 3, 1, NN_SAME, OP_NONE);
}

OpRef vae_decode(NnCtx *nn, const VaeConfig *c, OpRef z)
{
    OpRef x = check_input(nn, z, "latent", c->latent_channels, 1);
    if (c->post_quant)
        x = nn_conv(nn, "post_quant_conv", x, c->latent_channels, 1, 1, NN_SAME, OP_NONE);
    size_t root = nn_push(nn, "decoder");
    x = nn_conv(nn, "conv_in", x, c->channels[c->levels - 1], 3, 1, NN_SAME, OP_NONE);
    x = mid_block(nn, c, x);
    for (int i = 0; i < c->levels; i++) {
        int ch = c->channels[c->levels - 1 - i];
        size_t block = nn_push(nn, "up_blocks.%d", i);
        for (int k = 0; k <= c->layers; k++)
            x = resnet(nn, c, x, k, ch);
        if (i < c->levels - 1)
            x = upsample(nn, x, ch);
        x = nn_tap(nn, NULL, x);
        nn_pop(nn, block);
    }
    x = nn_conv(nn, "conv_out", norm_out(nn, c, x), c->out_channels, 3, 1, NN_SAME, OP_NONE);
    nn_pop(nn, root);
    return x;
}

int vae_names(const char *name, int k, char *buf, size_t size)
{
    static const char *const map[][2] = {
        {".to_q.", ".query."}, {".to_k.", ".key."}, {".to_v.", ".value."}, {".to_out.0.", ".proj_attn."}};
    int n;
    if (k == 0) {
        n = snprintf(buf, size, "%s", name);
        return n > 0 && (size_t)n < size;
    }
    for (size_t i = 0; k == 1 && i < sizeof map / sizeof *map; i++) {
        const char *at = strstr(name, map[i][0]);
        if (!at)
            continue;
        n = snprintf(buf, size, "%.*s%s%s", (int)(at - name), name, map[i][1], at + strlen(map[i][0]));
        return n > 0 && (size_t)n < size;
    }
    return 0;
}
