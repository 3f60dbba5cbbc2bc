/* Proof that a record is enough: images are rendered again from their records and compared. The record's keys are those of a sweep's
 * configuration (sweep/conf.h), so that whatever a sweep can set is reproduced. */
#ifndef SWEEP_REPRODUCE_H
#define SWEEP_REPRODUCE_H

#include "sweep/find.h"
#include "sweep/foreign.h"
#include "sweep/runfile.h"

typedef struct {
    const char *model;   /* folder to use in place of the record's; NULL */
    FindFolders folders; /* searched for models and LoRAs that are not where the record says */
    int threads;
    RenderTick tick;     /* may be NULL */
    void *ctx;
} ReproduceOptions;

typedef struct {
    int identical;       /* SHA-256 of the pixels is the recorded one */
    int same_backend;    /* rendered with the recorded backend and dtype: then nothing else will do */
    double psnr;         /* against the stored pixels, dB; INFINITY when equal, NAN when sizes differ or there are none */
    int64_t pixels;      /* how many pixels differ */
    int worst;           /* largest difference of a channel */
    char sha256[HASH_HEX_SIZE];
    char backend[32];
    IoImage image;       /* rendered now; the caller's */
} ReproduceResult;

typedef struct Reproducer Reproducer;
/* Borrows the options. Keeps the model open from one image to the next. */
int reproducer_create(Reproducer **out, const ReproduceOptions *o);
void reproducer_destroy(Reproducer *r);
/* From a record; `stored` (may be empty) is compared. ERR_NOTFOUND naming path and hash when the model or a LoRA is missing, ERR_FORMAT
 * when it is another one. */
int reproducer_record(Reproducer *r, const char *json, const IoImage *stored, const char *name, ReproduceResult *out);
/* From a configuration (of one image; its model and LoRAs as they are); identical and same_backend stay 0. */
int reproducer_conf(Reproducer *r, const SweepConf *c, const IoImage *stored, ReproduceResult *out);

/* The configuration that a record stands for. config_deinit(&sweep_conf_table, c) in every case. */
int reproduce_conf(SweepConf *c, const char *json, const char *name);
/* Fills model_path and the LoRAs' paths from the folders; what is not found is lost. */
int reproduce_find(Foreign *f, const ReproduceOptions *o);

/* Differences of two images: psnr, pixels, worst. */
void reproduce_compare(const IoImage *a, const IoImage *b, ReproduceResult *out);

#endif
