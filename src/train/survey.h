/* What a configuration's datasets hold, before anything is trained: counts, buckets, token lengths, duplicates, unreadable files, a sheet. */
#ifndef TRAIN_SURVEY_H
#define TRAIN_SURVEY_H

#include "train/dataset.h"

typedef struct {
    const char *sheet; /* PNG to write; NULL: none */
    int tiles;         /* at most, 1..1000 */
    int show;          /* lines per list at most */
} TrainSurveyOptions;

/* Decodes all images. Token lengths need c->model/tokenizer (left out without). *bad: images that cannot be read. */
int train_survey(const TrainConf *c, const TrainSurveyOptions *o, StrBuf *out, int64_t *bad);

/* ---- inside survey*.c ---- */
enum { SURVEY_THUMB = 8 };
typedef struct {
    int readable;
    char *why;               /* where it is not */
    uint64_t print;          /* 64 signs of the slope from left to right in a 9 x 8 picture (dHash) */
    uint8_t thumb[SURVEY_THUMB * SURVEY_THUMB * 3];
} TrainSurveyItem;
int train_survey_look(TrainDataset *d, int64_t i, TrainSurveyItem *s);
int train_survey_duplicates(TrainDataset *d, const TrainSurveyItem *s, int show, StrBuf *out);
int train_survey_sheet(TrainDataset *d, const TrainSurveyItem *s, const TrainSurveyOptions *o);

#endif
