/* Proof that a record is enough: the image is rendered again from it and compared. */
#ifndef SWEEP_REPRODUCE_H
#define SWEEP_REPRODUCE_H

#include "sweep/runfile.h"

typedef struct {
    SweepRecord rec;
    char *json;          /* owner of the record's text */
    IoImage image;       /* as stored; empty when the file has none */
    const char *other_model; /* folder to use in place of the record's; NULL */
} ReproduceSource;

/* From a PNG written by Atelier, or image `index` of a run.h5 (by content). reproduce_source_deinit in every case. */
int reproduce_source_open(ReproduceSource *s, const char *path, int64_t index);
void reproduce_source_deinit(ReproduceSource *s);

typedef struct {
    int identical;       /* SHA-256 of the pixels is the recorded one */
    double psnr;         /* against the stored pixels, dB; INFINITY when equal */
    int64_t pixels;      /* how many pixels differ */
    int worst;           /* largest difference of a channel */
    char sha256[HASH_HEX_SIZE];
    char backend[32];
    IoImage image;       /* rendered now; the caller's */
} ReproduceResult;

/* ERR_NOTFOUND naming path and hash when the model or a LoRA is missing, ERR_FORMAT when it is another one. */
int reproduce_run(const ReproduceSource *s, int threads, ReproduceResult *out);

#endif
