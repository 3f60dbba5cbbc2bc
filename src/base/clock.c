#include "base/clock.h"

#include <math.h>
#include <stdio.h>
#include <time.h>

int64_t clock_now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

double clock_now(void)
{
    return (double)clock_now_ns() * 1e-9;
}

void clock_utc_text(char out[CLOCK_UTC_SIZE])
{
    time_t now = time(NULL);
    struct tm tm;
    gmtime_r(&now, &tm);
    if (!strftime(out, CLOCK_UTC_SIZE, "%Y-%m-%dT%H:%M:%SZ", &tm))
        out[0] = 0;
}

const char *clock_duration_text(double seconds, char *buf, size_t size)
{
    if (!isfinite(seconds) || seconds < 0.0 || seconds > 3.6e9) {
        snprintf(buf, size, "--:--:--");
        return buf;
    }
    int64_t s = (int64_t)(seconds + 0.5);
    snprintf(buf, size, "%02lld:%02d:%02d", (long long)(s / 3600), (int)(s / 60 % 60), (int)(s % 60));
    return buf;
}
