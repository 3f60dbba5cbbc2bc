#include "base/progress.h"

#include <stdarg.h>
#include <unistd.h>

#include "base/clock.h"

static const double TERMINAL_PERIOD = 0.1, PLAIN_PERIOD = 10.0;

void progress_init(Progress *p, const char *label, int64_t first, int64_t total, int show)
{
    *p = (Progress){.label = label, .first = first, .total = total, .start = clock_now(), .shown = -1e9, .last_done = first - 1};
    if (show) {
        p->to = stderr;
        p->terminal = isatty(fileno(stderr));
    }
}

double progress_rate(const Progress *p, int64_t done)
{
    double t = clock_now() - p->start;
    return t > 0.0 && done > p->first ? (double)(done - p->first) / t : 0.0;
}

void progress_update(Progress *p, int64_t done, const char *fmt, ...)
{
    if (!p->to)
        return;
    double now = clock_now();
    int final = done >= p->total && p->last_done < p->total;
    p->last_done = done;
    if (!final && now - p->shown < (p->terminal ? TERMINAL_PERIOD : PLAIN_PERIOD))
        return;
    p->shown = now;
    char extra[512], left[32];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(extra, sizeof extra, fmt, ap);
    va_end(ap);
    double rate = progress_rate(p, done);
    clock_duration_text(rate > 0.0 ? (double)(p->total - done) / rate : -1.0, left, sizeof left);
    fprintf(p->to, "%s%s %lld/%lld%s%s  left %s%s", p->terminal ? "\r\033[K" : "", p->label, (long long)done,
            (long long)p->total, extra[0] ? "  " : "", extra, left, p->terminal && !final ? "" : "\n");
    p->dirty = p->terminal && !final;
    fflush(p->to);
}

void progress_break(Progress *p)
{
    if (p->to && p->dirty)
        fputc('\n', p->to);
    p->dirty = 0;
}
