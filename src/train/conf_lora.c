#include "train/conf.h"

static const char *const type_names[] = {"lora", "loha", "lokr", NULL};
static const char *const format_names[] = {"kohya", "peft", NULL};

static const ConfField rule_fields[] = {
    CONF_STR(TrainLoraRuleConf, match, NULL, "pattern of module paths: 'down_blocks.*', '*.attn2.*'"),
    CONF_I32(TrainLoraRuleConf, rank, "0", 0, 1024, "rank there; 0: as before"),
    CONF_F32(TrainLoraRuleConf, alpha, "0", 0, 4096, "alpha there; 0: as before, or the rank where this rule sets it"),
    CONF_F32(TrainLoraRuleConf, lr, "0", 0, 10, "peak learning rate there; 0: as before"),
};
static const ConfTable rule_table = CONF_TABLE(TrainLoraRuleConf, rule_fields);

static const ConfField lora_fields[] = {
    CONF_ENUM(TrainLoraConf, type, "lora", type_names, "lora: down and up factors; loha: Hadamard product of two pairs; lokr: Kronecker product"),
    CONF_I32(TrainLoraConf, rank, "16", 1, 1024, "rank of the factors"),
    CONF_F32(TrainLoraConf, alpha, "0", 0, 4096, "the update is scaled by alpha/rank; 0 means alpha = rank"),
    CONF_I32(TrainLoraConf, conv_rank, "0", 0, 1024, "rank where the kernel is larger than 1x1; 0: rank"),
    CONF_F32(TrainLoraConf, conv_alpha, "0", 0, 4096, "alpha there; 0: alpha, or conv_rank where that is set"),
    CONF_BOOL(TrainLoraConf, rslora, "false", "scale by alpha/sqrt(rank)"),
    CONF_BOOL(TrainLoraConf, dora, "false", "DoRA: train the norms of the weight's rows beside their direction"),
    CONF_I32(TrainLoraConf, lokr_factor, "-1", -1, 4096, "lokr: size of the first factor, as LyCORIS' factor; -1: near the square root"),
    CONF_BOOL(TrainLoraConf, decompose_both, "false", "lokr: low rank for the first factor too, where it is large enough"),
    CONF_STRS(TrainLoraConf, targets, "['attn*.to_q', 'attn*.to_k', 'attn*.to_v', 'attn*.to_out.0']", 1, 100,
              "patterns of the linear and convolution modules that get factors"),
    CONF_STRS(TrainLoraConf, exclude, "[]", 0, 100, "patterns of modules among them that get none"),
    CONF_STRUCTS(TrainLoraConf, rules, &rule_table, 0, 1000, "other ranks, alphas and learning rates for some modules; later rules win"),
    CONF_F32(TrainLoraConf, dropout, "0", 0, 0.99, "share of the values behind the down factor that are dropped (loha, lokr: of the update)"),
    CONF_F32(TrainLoraConf, rank_dropout, "0", 0, 0.99, "share of the ranks that are dropped, per image (loha, lokr: of the outputs)"),
    CONF_F32(TrainLoraConf, module_dropout, "0", 0, 0.99, "share of the modules that are left out, per image"),
    CONF_F32(TrainLoraConf, max_norm, "0", 0, 1e6, "largest norm of a module's update, kept after every step; 0 off"),
    CONF_STR(TrainLoraConf, init, "", "adapter file to go on from: its kinds, ranks, alphas and modules count, not the settings above"),
    CONF_ENUM(TrainLoraConf, format, "kohya", format_names, "naming of the saved .safetensors"),
};
const ConfTable train_lora_table = CONF_TABLE(TrainLoraConf, lora_fields);
