/* The loss of latent diffusion: shared by the tasks lora and full, and open to tests. */
#ifndef TRAIN_DIFFUSION_H
#define TRAIN_DIFFUSION_H

#include "models/lora.h"
#include "models/pipeline.h"
#include "sampler/schedule.h"
#include "train/embedding.h"
#include "train/task.h"

/* Inputs of the graph for a micro-batch of n: x, target [n,h,w,c] T; time [n] F32; context [n,length,width] T, or ids [n,length] I32 where
 * the text encoder is trained; weight [n] P; huber [n] P and mask [n,h,w] P for other losses than the plain squared error. position [n] I64 where
 * something is dropped. The others are OP_NONE. */
typedef struct {
    OpRef x, time, context, ids, target, weight, huber, mask, position;
    TrainEmbedding words;     /* length 0 without embedding.token; train_embedding_deinit */
} TrainDiffusionGraph;

/* Builds loss[i] = weight[i] * mean over one item of the loss between unet(x, time, context) and target, its gradients and the plan into t.
 * Task lora: the adapter of conf->lora, *lora, made where it is NULL, is the caller's and its factors are in t->params; else what conf->train names. */
int train_diffusion_graph(TrainTask *t, const Pipeline *pipe, int h, int w, TrainDiffusionGraph *out, Lora **lora);
/* x: x_0 -> x_t; noise -> what the model is to predict (noise, velocity or x_0). n values of one item. */
void train_diffusion_noise(float *x, float *noise, int64_t n, double alpha_bar, SamplerPredict predict);

#endif
