/* What the two forms of a record share: the numbers of SweepRecordNoise by name. Inside the room only. */
#ifndef SWEEP_RECORD_IMPL_H
#define SWEEP_RECORD_IMPL_H

#include "sweep/record.h"

enum { SWEEP_NOISE_COUNT = 7 };

typedef struct {
    const char *key, *a1111; /* in our record, in A1111's text */
    size_t at;               /* offset in SweepRecordNoise */
    double usual;
} SweepNoiseNumber;
extern const SweepNoiseNumber SWEEP_NOISE_NUMBERS[SWEEP_NOISE_COUNT];

/* Whether a text is there and not empty. */
static inline int in_use(const char *text)
{
    return text && *text;
}

double sweep_noise_number(const SweepRecordNoise *z, int i);
int sweep_noise_is_usual(const SweepRecordNoise *z, int i);

#endif
