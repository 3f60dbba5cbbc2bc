/* 8-bit pixels and the numbers that models compute with. */
#ifndef BASE_PIXEL_H
#define BASE_PIXEL_H

#include <stdint.h>

/* 0..255 -> -1..1 */
static inline float pixel_to_unit(uint8_t v) { return (float)v / 127.5f - 1.0f; }

#endif
