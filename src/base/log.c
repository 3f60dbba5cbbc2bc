#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>

static int current_level = LOG_INFO;
static int current_rank = -1;

void log_set_level(int level)
{
    current_level = level;
}

int log_level(void)
{
    return current_level;
}

void log_set_rank(int rank)
{
    current_rank = rank;
}

void log_line(int level, const char *fmt, ...)
{
    static const char *const prefix[] = {"error: ", "warning: "};
    char text[4096];
    int n = 0;
    if (level > current_level || (current_rank > 0 && level > LOG_WARN && current_level <= LOG_INFO))
        return;
    if (current_rank > 0)
        n = snprintf(text, sizeof text, "[rank %d] ", current_rank);
    if (level <= LOG_WARN)
        n += snprintf(text + n, sizeof text - (size_t)n, "%s", prefix[level]);
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text + n, sizeof text - (size_t)n, fmt, ap);
    va_end(ap);
    fprintf(stderr, "%s\n", text);
}
