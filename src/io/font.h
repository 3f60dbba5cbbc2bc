/* The built-in 6x10 font: ASCII 32..126, 5 pixels wide (bit 4 is the left one), 9 rows drawn from the second row of a cell.
 * Accents are drawn over it from two-row marks. Internal to this room. */
#ifndef IO_FONT_H
#define IO_FONT_H

#include <stdint.h>

enum { FONT_W = 6, FONT_H = 10, FONT_ROWS = 9 };

extern const uint8_t font_ascii[95][FONT_ROWS];
extern const uint8_t font_box[FONT_ROWS]; /* for what the font lacks */
/* Two rows over the letter (below it for the cedilla) by combining mark; NULL when unknown. */
const uint8_t *font_mark(int32_t combining);

#endif
