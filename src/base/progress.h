/* One progress line on stderr:
 *     step 120/400  loss 0.1234  7.9 img/s  left 00:01:10
 * On a terminal it is rewritten in place, at most 10 times a second; elsewhere a plain line appears at most every 10 s
 * (and for the first and the last count). */
#ifndef BASE_PROGRESS_H
#define BASE_PROGRESS_H

#include <stdint.h>
#include <stdio.h>

typedef struct {
    const char *label;  /* "step"; borrowed */
    int64_t first;      /* count at which this run began (after a resume) */
    int64_t total;
    double start, shown;
    FILE *to;           /* NULL: show nothing */
    int terminal;
    int dirty;          /* an unfinished line is on the terminal */
    int64_t last_done;
} Progress;

/* show = 0 (ranks other than 0): every call does nothing. */
void progress_init(Progress *p, const char *label, int64_t first, int64_t total, int show);
/* Called as often as convenient. The formatted text goes between the count and the time left. */
void progress_update(Progress *p, int64_t done, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* Items per second since the start; 0 before the first. */
double progress_rate(const Progress *p, int64_t done);
/* Ends the line on a terminal (also before other output is printed). */
void progress_break(Progress *p);

#endif
