#include "ops/op.h"
#include "train/conf.h"

static const char *const type_names[] = {"l2", "l1", "huber", "smooth_l1", NULL};
static const char *const huber_names[] = {"snr", "exponential", "constant", NULL};
static const char *const mask_names[] = {"none", "alpha", "images", NULL};
static const char *const flow_names[] = {"none", "sigma_sqrt", "cosmap", NULL};
static const char *const predict_names[] = {"model", "epsilon", "v_prediction", "sample", "flow", NULL};
static const char *const distribution_names[] = {"uniform", "logit_normal", NULL};

static const ConfField loss_fields[] = {
    CONF_ENUM(TrainLossConf, type, "l2", type_names, "squared, absolute, or between them: pseudo-Huber as kohya's trainers have it"),
    CONF_ENUM(TrainLossConf, huber_schedule, "snr", huber_names, "how huber_c changes with the timestep (huber, smooth_l1)"),
    CONF_F32(TrainLossConf, huber_c, "0.1", 1e-6, 100, "where the Huber losses turn from squared to absolute"),
    CONF_F32(TrainLossConf, huber_scale, "1", 1e-6, 1e6, "factor on huber_c (exponential, constant)"),
    CONF_F32(TrainLossConf, min_snr, "0", 0, 1000, "gamma of min-SNR weighting; 0 off"),
    CONF_BOOL(TrainLossConf, debiased, "false", "debiased estimation: weight 1/sqrt(SNR), 1/(SNR+1) for v_prediction"),
    CONF_BOOL(TrainLossConf, scale_v_pred_loss_like_noise_pred, "false", "v_prediction: weight SNR/(SNR+1)"),
    CONF_F32(TrainLossConf, v_pred_like_loss, "0", 0, 1000, "adds the loss over SNR/(SNR+1), times this; 0 off"),
    CONF_ENUM(TrainLossConf, flow_weighting, "none", flow_names, "flow: weight 1/sigma^2 or cosmap, as Stable Diffusion 3"),
    CONF_ENUM(TrainLossConf, mask, "none", mask_names,
              "weights of pixels: the images' alpha channel, or the red channel of images of the same name in datasets.*.masks"),
    CONF_F32(TrainLossConf, kl, "1e-4", 0, 10, "vae: weight of the KL divergence"),
    CONF_F32(TrainLossConf, l1, "1.0", 0, 10, "vae: weight of the absolute error beside the squared error"),
};
const ConfTable train_loss_table = CONF_TABLE(TrainLossConf, loss_fields);

static const ConfField noise_fields[] = {
    CONF_ENUM(TrainNoiseConf, predict, "model", predict_names, "what the network learns to give; model: as its scheduler config says"),
    CONF_BOOL(TrainNoiseConf, zero_snr, "false", "rescale the noise schedule to end in pure noise (for v_prediction)"),
    CONF_F32(TrainNoiseConf, offset, "0", 0, 10, "noise offset: noise common to all pixels of a channel; 0 off"),
    CONF_BOOL(TrainNoiseConf, offset_random, "false", "offset of each sample drawn from 0..offset"),
    CONF_F32(TrainNoiseConf, offset_adaptive, "0", -10, 10, "added to offset: times the absolute mean of the channel; 0 off"),
    CONF_I32(TrainNoiseConf, multires_iterations, "0", 0, 30, "multi-resolution (pyramid) noise: number of added levels; 0 off"),
    CONF_F32(TrainNoiseConf, multires_discount, "0.3", 0, 1, "weight of a level relative to the finer one"),
    CONF_F32(TrainNoiseConf, perturbation, "0", 0, 10, "input perturbation (ip_noise_gamma): extra noise that the target lacks; 0 off"),
    CONF_BOOL(TrainNoiseConf, perturbation_random, "false", "perturbation of each sample drawn from 0..perturbation"),
    CONF_I32(TrainNoiseConf, timestep_min, "0", 0, 9999, "smallest timestep"),
    CONF_I32(TrainNoiseConf, timestep_max, "0", 0, 10000, "end of the timesteps, itself not drawn; 0: all"),
    CONF_ENUM(TrainNoiseConf, distribution, "uniform", distribution_names, "of the timesteps; logit_normal: sigmoid(mean + std * normal)"),
    CONF_F32(TrainNoiseConf, mean, "0", -10, 10, "logit_normal"),
    CONF_F32(TrainNoiseConf, std, "1", 0, 10, "logit_normal"),
    CONF_F32(TrainNoiseConf, shift, "1", 0.01, 100, "timesteps t become shift*t / (1 + (shift-1)*t): over 1, more noise"),
};
const ConfTable train_noise_table = CONF_TABLE(TrainNoiseConf, noise_fields);

const char *train_loss_name(int type)
{
    return type_names[type];
}

const char *train_huber_name(int schedule)
{
    return huber_names[schedule];
}

int train_loss_check(const TrainLossConf *l, const TrainNoiseConf *n, const char *path)
{
    int flow = n->predict == TRAIN_PREDICT_FLOW;
    if (n->timestep_max && n->timestep_max <= n->timestep_min)
        return err_set(ERR_RANGE, "%s: noise: timestep_max %d is not above timestep_min %d", path, n->timestep_max, n->timestep_min);
    if (flow && (l->min_snr > 0 || l->debiased || l->v_pred_like_loss > 0 || l->scale_v_pred_loss_like_noise_pred || n->zero_snr))
        return err_set(ERR_RANGE, "%s: noise.predict=flow has no SNR: leave out min_snr, debiased, v_pred_like_loss, "
                       "scale_v_pred_loss_like_noise_pred and zero_snr", path);
    if (flow && (l->type == OP_LOSS_HUBER || l->type == OP_LOSS_SMOOTH_L1) && l->huber_schedule == TRAIN_HUBER_SNR)
        return err_set(ERR_RANGE, "%s: noise.predict=flow has no SNR: set loss.huber_schedule to exponential or constant", path);
    if (!flow && l->flow_weighting)
        return err_set(ERR_RANGE, "%s: loss.flow_weighting needs noise.predict=flow", path);
    return 0;
}
