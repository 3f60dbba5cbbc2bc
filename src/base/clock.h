/* Time. */
#ifndef BASE_CLOCK_H
#define BASE_CLOCK_H

#include <stddef.h>
#include <stdint.h>

/* Seconds of a clock that never goes back; only differences mean anything. */
double clock_now(void);
int64_t clock_now_ns(void);
enum { CLOCK_UTC_SIZE = 21 };
/* "2024-05-01T12:00:00Z" */
void clock_utc_text(char out[CLOCK_UTC_SIZE]);
/* "00:01:10", "26:00:00", "--:--:--" for a negative or not finite number. Returns buf. */
const char *clock_duration_text(double seconds, char *buf, size_t size);

#endif
