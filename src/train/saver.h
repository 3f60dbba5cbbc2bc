/* Writes checkpoints, if wanted on a thread of its own from a copy of the state, so that training goes on meanwhile. One at a time.
 * Not collective: for the rank that writes. */
#ifndef TRAIN_SAVER_H
#define TRAIN_SAVER_H

#include "train/state.h"

typedef struct TrainSaver TrainSaver;

/* Borrows all. background 0: every save is written at once. */
int train_saver_create(TrainSaver **out, const TrainConf *c, const char *config, const TrainOrigin *origin, int background);
/* Waits for the write under way. NULL is fine. */
void train_saver_destroy(TrainSaver *v);
/* Saves the state. A write that fails (a full disk) is a warning, and the checkpoints before it stay; with must it is waited for and its
 * error is returned. */
int train_saver_save(TrainSaver *v, TrainState *s, int must);

#endif
