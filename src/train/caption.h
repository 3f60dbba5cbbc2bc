/* Captions as they are shown to the model. Rules and names of kohya's sd-scripts (library/train_util.py, BaseDataset.process_caption), in
 * this order: prefix and suffix; one line (wildcards: any, else the first); {a|b|c}, with {{ and }} for braces; tags: those kept, the
 * others shuffled, some left out; the secondary separator; the trigger words in front. */
#ifndef TRAIN_CAPTION_H
#define TRAIN_CAPTION_H

#include "base/str.h"
#include "train/conf.h"

/* Whether the caption made of `text` may differ from one sample to the next, apart from being dropped as a whole. */
int train_caption_varies(const TrainDatasetConf *c, const char *text);
/* Appends it. All choices are functions of (seed, position), the streams (seed, RNG_CAPTION, position, 1..3): order of tags, tags left
 * out, lines and alternatives. text: UTF-8; controls count as spaces, line breaks aside. ERR_NOMEM. */
int train_caption_make(StrBuf *out, const TrainDatasetConf *c, const char *text, uint64_t seed, int64_t position);

#endif
