/* Private to lora*.c. */
#ifndef MODELS_LORA_IMPL_H
#define MODELS_LORA_IMPL_H

#include "models/lora.h"

struct Lora {
    LoraPart *part;
    int count, cap;
    NnLoraPart *view;
    NnLora nn;
};

int lora_alloc(Lora **out);
/* Adds an empty part for the module; *out is borrowed until the next call. */
int lora_add(Lora *lo, const NnModule *m, LoraPart **out);
void lora_shapes(const Shape *weight, int rank, Shape *down, Shape *up);
/* Sets rank, shapes for the module's weight and zeroed factors. */
int lora_set_shapes(LoraPart *p, const Shape *weight, int rank);
/* Sorted by path; to be called once all parts are there. */
void lora_sort(Lora *lo);

#endif
