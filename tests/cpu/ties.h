/* A gradient whose first step of 8-bit AdamW with beta1 = beta2 = 0 meets ties: values exactly between two of the signed map (its first moments are
 * the gradient) and squares exactly between two of the unsigned one. The last value, 1, is both maxima. */
#ifndef TESTS_CPU_TIES_H
#define TESTS_CPU_TIES_H

#include <math.h>

#include "ops/optim.h"

static inline int between(const float map[256], int i, float x) { return x > map[i] && x < map[i + 1] && x - map[i] == map[i + 1] - x; }

/* code[k]: the lower neighbour of grad[k], in the signed map for `square` 0, else of its square in the unsigned one. The number of ties. */
static inline int tie_gradient(float grad[OPTIM_BLOCK], uint8_t code[OPTIM_BLOCK], int square)
{
    float map[256];
    int n = 0;
    optim_dynamic_map(map, !square);
    for (int i = 0; i < 255; i++) {
        float x = map[i] + (map[i + 1] - map[i]) / 2, g = square ? sqrtf(x) : x;
        if (!between(map, i, square ? g * g : g))
            continue;
        grad[n] = g;
        code[n++] = (uint8_t)i;
    }
    for (int k = n; k < OPTIM_BLOCK; k++) {
        grad[k] = 1;
        code[k] = 255;
    }
    return n;
}

#endif
