#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "io/font.h"
#include "io/image.h"

typedef struct {
    int32_t base; /* '\n', ASCII, or 0 for the box */
    int32_t mark; /* combining mark or 0 */
} Cell;

typedef struct {
    Cell *cell;
    size_t n;
} Cells;

/* What the font lacks but has an everyday stand-in. */
static const char *stand_in(int32_t cp)
{
    switch (cp) {
    case 0x2018: case 0x2019: return "'";
    case 0x201C: case 0x201D: return "\"";
    case 0x2010: case 0x2011: case 0x2012: case 0x2013: case 0x2014: case 0x2212: return "-";
    case 0x2026: return "...";
    case 0xA0: return " ";
    case 0xD7: return "x";
    case 0xDF: return "ss";
    case 0xC6: return "AE";
    case 0xE6: return "ae";
    case 0xD8: return "O";
    case 0xF8: return "o";
    case '\t': return " ";
    default: return NULL;
    }
}

/* Appends the one to three cells of a code point; a combining mark goes onto the cell before. */
static void add_cells(Cells *c, int32_t cp)
{
    if (cp == '\n' || (cp >= 32 && cp < 127)) {
        c->cell[c->n++] = (Cell){cp, 0};
        return;
    }
    if (font_mark(cp) && c->n) {
        c->cell[c->n - 1].mark = cp;
        return;
    }
    const char *s = stand_in(cp);
    for (; s && *s; s++)
        c->cell[c->n++] = (Cell){*s, 0};
    if (s || cp < 32)
        return;
    utf8proc_int32_t part[8];
    int class = 0;
    utf8proc_ssize_t n = utf8proc_decompose_char(cp, part, 8, UTF8PROC_DECOMPOSE, &class);
    if (n >= 2 && n <= 8 && part[0] >= 32 && part[0] < 127)
        c->cell[c->n++] = (Cell){part[0], font_mark(part[1]) ? part[1] : 0};
    else
        c->cell[c->n++] = (Cell){0, 0};
}

static int to_cells(Cells *c, const char *text)
{
    size_t len = strlen(text);
    c->n = 0;
    c->cell = malloc((3 * len + 4) * sizeof *c->cell);
    if (!c->cell)
        return 0;
    for (size_t i = 0; i < len;) {
        utf8proc_int32_t cp;
        utf8proc_ssize_t used = utf8proc_iterate((const utf8proc_uint8_t *)text + i, (utf8proc_ssize_t)(len - i), &cp);
        add_cells(c, used > 0 ? cp : 0xFFFD);
        i += used > 0 ? (size_t)used : 1;
    }
    return 1;
}

/* Length of the line from `at`, at most cols; *next: where the following line starts. */
static size_t take_line(const Cells *c, size_t at, size_t cols, size_t *next)
{
    size_t n = 0, blank = 0;
    while (at + n < c->n && n < cols && c->cell[at + n].base != '\n') {
        if (c->cell[at + n].base == ' ')
            blank = n;
        n++;
    }
    *next = at + n;
    if (at + n >= c->n)
        return n;
    if (c->cell[at + n].base == '\n' || c->cell[at + n].base == ' ') {
        *next = at + n + 1;
        return n;
    }
    if (!blank)
        return n;
    *next = at + blank + 1;
    return blank;
}

static void put(IoImage *img, int x, int y, const uint8_t *rgb)
{
    if (x < 0 || y < 0 || x >= img->w || y >= img->h)
        return;
    uint8_t *p = img->data + ((size_t)y * (size_t)img->w + (size_t)x) * (size_t)img->c;
    int colours = img->c >= 3 ? 3 : 1;
    for (int k = 0; k < colours; k++)
        p[k] = rgb[k];
    if (img->c == 2 || img->c == 4)
        p[img->c - 1] = 255;
}

static void draw_rows(IoImage *img, int x, int y, const uint8_t *rows, int n, const uint8_t *rgb)
{
    for (int r = 0; r < n; r++)
        for (int b = 0; b < 5; b++)
            if (rows[r] >> (4 - b) & 1)
                put(img, x + b, y + r, rgb);
}

static void draw_cell(IoImage *img, int x, int y, Cell cell, const uint8_t *rgb)
{
    uint8_t rows[FONT_ROWS];
    const uint8_t *mark = cell.mark ? font_mark(cell.mark) : NULL;
    memcpy(rows, cell.base ? font_ascii[cell.base - 32] : font_box, sizeof rows);
    int below = cell.mark == 0x327 || cell.mark == 0x328;
    if (mark && !below && (cell.base == 'i' || cell.base == 'j'))
        rows[0] = 0; /* the mark takes the dot's place */
    int tall = rows[0] || rows[1];
    draw_rows(img, x, y + 1, rows, FONT_ROWS, rgb);
    if (mark && below)
        draw_rows(img, x, y + 8, mark, 2, rgb);
    else if (mark)
        draw_rows(img, x, tall ? y : y + 1, mark, tall ? 1 : 2, rgb);
}

int io_image_text(IoImage *img, int x, int y, int width, int max_lines, const char *text, const uint8_t *rgb)
{
    Cells c;
    size_t cols = width >= FONT_W ? (size_t)(width / FONT_W) : 1, at = 0, next = 0;
    int line = 0;
    if (!to_cells(&c, text))
        return 0;
    for (; at < c.n && line < max_lines; line++) {
        size_t n = take_line(&c, at, cols, &next);
        int cut = line == max_lines - 1 && next < c.n; /* more text than room: end in two dots */
        for (size_t i = 0; i < n; i++) {
            Cell cell = c.cell[at + i];
            if (cut && n >= 3 && i + 2 >= n)
                cell = (Cell){'.', 0};
            draw_cell(img, x + (int)i * FONT_W, y + line * FONT_H, cell, rgb);
        }
        at = next;
    }
    free(c.cell);
    return line;
}

int io_image_text_lines(int width, int max_lines, const char *text)
{
    Cells c;
    size_t cols = width >= FONT_W ? (size_t)(width / FONT_W) : 1, at = 0;
    int line = 0;
    if (!to_cells(&c, text))
        return 0;
    for (; at < c.n && line < max_lines; line++)
        take_line(&c, at, cols, &at);
    free(c.cell);
    return line;
}
