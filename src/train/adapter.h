/* The adapter of a run: made from conf->lora, its learning rates, its dropout, the limit of its norms. */
#ifndef TRAIN_ADAPTER_H
#define TRAIN_ADAPTER_H

#include "models/lora.h"
#include "models/pipeline.h"
#include "train/task.h"

/* The file of lora.init, or a fresh adapter, with the dropout of the config; its factors are added to t->params under id 0. *lora is
 * the caller's. Errors name the key. */
int train_adapter_create(TrainTask *t, const Pipeline *pipe, Lora **lora);
/* Adds the input of positions to the graph where anything is dropped: *position (else OP_NONE), also nn->position. */
int train_adapter_position(TrainTask *t, NnCtx *nn, OpRef *position);
/* Writes the numbers of the items position .. position + micro_batch - 1; position < 0: nothing is dropped. */
int train_adapter_fill(TrainTask *t, OpRef input, int64_t position);
/* After an optimizer step whose values are in t->params: keeps lora.max_norm, also in s->param. */
int train_adapter_limit(TrainTask *t, Lora *lora, TrainState *s);
/* Peak rate of a parameter by lora.rules; lr where none sets it. */
double train_adapter_lr(const TrainLoraConf *c, const char *name, double lr);

#endif
