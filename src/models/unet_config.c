#include <string.h>

#include "models/unet.h"

/* Keys of UNet2DConditionModel whose other values build another network. */
static int reject_others(const ModelJson *j)
{
    static const struct {
        const char *key, *value;
    } only[] = {
        {"addition_embed_type", "null"},
        {"addition_time_embed_dim", "null"},
        {"class_embed_type", "null"},
        {"class_embeddings_concat", "false"},
        {"num_class_embeds", "null"},
        {"encoder_hid_dim", "null"},
        {"encoder_hid_dim_type", "null"},
        {"attention_type", "\"default\""},
        {"dual_cross_attention", "false"},
        {"cross_attention_norm", "null"},
        {"num_attention_heads", "null"},
        {"resnet_time_scale_shift", "\"default\""},
        {"resnet_skip_time_act", "false"},
        {"resnet_out_scale_factor", "1"},
        {"mid_block_scale_factor", "1"},
        {"mid_block_type", "\"UNetMidBlock2DCrossAttn\""},
        {"time_embedding_type", "\"positional\""},
        {"time_embedding_act_fn", "null"},
        {"timestep_post_act", "null"},
        {"time_cond_proj_dim", "null"},
        {"reverse_transformer_layers_per_block", "null"},
    };
    for (size_t i = 0; i < sizeof only / sizeof *only; i++)
        TRY(model_json_only(j, only[i].key, only[i].value));
    const char *act;
    TRY(model_json_text(j, "act_fn", "silu", &act));
    if (strcmp(act, "silu") && strcmp(act, "swish"))
        return model_json_error(j, ERR_UNSUPPORTED, "act_fn", "is \"%s\"; only silu is supported", act);
    return 0;
}

static int block_types(const ModelJson *j, const char *key, int levels, const char *cross, const char *plain, int *out)
{
    const char *name[UNET_MAX_LEVELS];
    TRY(model_json_texts(j, key, levels, name));
    for (int i = 0; i < levels; i++) {
        if (strcmp(name[i], cross) && strcmp(name[i], plain))
            return model_json_error(j, ERR_UNSUPPORTED, key, "has \"%s\"; supported are %s and %s", name[i], cross, plain);
        out[i] = !strcmp(name[i], cross);
    }
    return 0;
}

static int read_levels(UnetConfig *c, const ModelJson *j)
{
    TRY(model_json_length(j, "block_out_channels", UNET_MAX_LEVELS, &c->levels));
    int n = c->levels;
    TRY(model_json_ints(j, "block_out_channels", 0, 1, 1 << 16, n, c->channels));
    TRY(model_json_ints(j, "layers_per_block", 2, 1, 64, n, c->layers));
    TRY(model_json_ints(j, "attention_head_dim", 8, 1, 1 << 12, n, c->heads));
    TRY(model_json_ints(j, "transformer_layers_per_block", 1, 1, 64, n, c->depth));
    TRY(model_json_bools(j, "only_cross_attention", 0, n, c->only_cross));
    TRY(block_types(j, "down_block_types", n, "CrossAttnDownBlock2D", "DownBlock2D", c->down_cross));
    return block_types(j, "up_block_types", n, "CrossAttnUpBlock2D", "UpBlock2D", c->up_cross);
}

static int check_divisions(const UnetConfig *c, const ModelJson *j)
{
    for (int i = 0; i < c->levels; i++) {
        if (c->channels[i] % c->groups)
            return model_json_error(j, ERR_SHAPE, "norm_num_groups", "is %d, which does not divide the %d channels of level %d",
                                    c->groups, c->channels[i], i);
        int cross = c->down_cross[i] || c->up_cross[c->levels - 1 - i] || i == c->levels - 1;
        if (cross && c->channels[i] % c->heads[i])
            return model_json_error(j, ERR_SHAPE, "attention_head_dim",
                                    "is %d heads, which do not divide the %d channels of level %d", c->heads[i],
                                    c->channels[i], i);
    }
    if (c->channels[0] % 2)
        return model_json_error(j, ERR_SHAPE, "block_out_channels", "starts with an odd number");
    return 0;
}

int unet_config(UnetConfig *c, const ModelJson *j)
{
    memset(c, 0, sizeof *c);
    TRY(reject_others(j));
    TRY(read_levels(c, j));
    TRY(model_json_int(j, "in_channels", 4, 1, 1 << 12, &c->in_channels));
    TRY(model_json_int(j, "out_channels", 4, 1, 1 << 12, &c->out_channels));
    TRY(model_json_int(j, "cross_attention_dim", 1280, 1, 1 << 16, &c->context));
    TRY(model_json_int(j, "norm_num_groups", 32, 1, 1 << 12, &c->groups));
    TRY(model_json_float(j, "norm_eps", 1e-5, &c->eps));
    TRY(model_json_bool(j, "use_linear_projection", 0, &c->linear_projection));
    TRY(model_json_bool(j, "flip_sin_to_cos", 1, &c->flip_sin_to_cos));
    TRY(model_json_float(j, "freq_shift", 0, &c->freq_shift));
    TRY(model_json_bool(j, "center_input_sample", 0, &c->center_input));
    TRY(model_json_int(j, "conv_in_kernel", 3, 1, 15, &c->conv_in_kernel));
    TRY(model_json_int(j, "conv_out_kernel", 3, 1, 15, &c->conv_out_kernel));
    TRY(model_json_int(j, "downsample_padding", 1, 0, 1, &c->downsample_padding));
    TRY(model_json_int(j, "time_embedding_dim", 4 * (int64_t)c->channels[0], 1, 1 << 20, &c->time_dim));
    TRY(model_json_int(j, "sample_size", 64, 1, 1 << 14, &c->sample_size));
    return check_divisions(c, j);
}
