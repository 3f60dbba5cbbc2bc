/* DreamBooth (arXiv:2208.12242): a subject trained beside images of its class, which keep the model from forgetting what else the class
 * is (prior preservation). The class images are ordinary training images with a caption and a weight of their own; where there are none,
 * all ranks make them before the training with a sweep. */
#ifndef TRAIN_DREAMBOOTH_H
#define TRAIN_DREAMBOOTH_H

#include "comm/comm.h"
#include "train/conf.h"

/* Across keys. ERR_RANGE names the key. */
int train_dreambooth_check(const TrainConf *c, const char *path);
/* conf->datasets with the prompt of dreambooth, then the class images where they exist (they are left out while they are not made yet).
 * *out: train_dreambooth_sets_deinit, also after an error; its strings are partly conf's. */
int train_dreambooth_sets(const TrainConf *c, ConfList *out);
void train_dreambooth_sets_deinit(const TrainConf *c, ConfList *sets);
/* Images that train_dreambooth_generate would make: 0 where nothing is to be generated. */
int train_dreambooth_missing(const TrainConf *c, int *count);
/* Makes the class images that are missing: a sweep over seeds into the class folder, whose PNGs are then the images. Collective. threads:
 * of this rank. Errors of the sweep; ERR_STOPPED after a signal (finished images are kept); ERR_PEER after a rank died. */
int train_dreambooth_generate(const TrainConf *c, Comm *comm, int threads);

#endif
