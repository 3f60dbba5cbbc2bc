/* Chooses the backend of this process: the one place that knows which there are. */
#ifndef GRAPH_DEVICE_H
#define GRAPH_DEVICE_H

#include <stddef.h>

#include "ops/backend.h"

enum { DEVICE_AUTO, DEVICE_CPU, DEVICE_CUDA };
extern const char *const DEVICE_NAMES[]; /* auto, cpu, cuda, NULL */

/* AUTO: the GPU with the number `local_rank` (the rank among those of this node) where the program was built for CUDA and the node
 * has GPUs and cuBLAS, else the CPU. CUDA: that GPU, or ERR_UNSUPPORTED with what is missing; a node with GPUs refuses ranks beyond
 * them in both cases. threads: of the CPU backend. */
int device_create(Backend **out, int device, int local_rank, int threads);
/* One line for people: GPUs and libraries found, or why there are none. Returns buf. */
const char *device_describe(char *buf, size_t size);

#endif
