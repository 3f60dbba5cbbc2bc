#include "sweep/monitor.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"

static const double TERMINAL_PERIOD = 0.9, PLAIN_PERIOD = 10.0;
enum { TABLE_RANKS = 16, LINE_RANKS = 4 };
static const char *const STATES[RANK_STATES] = {"starting", "rendering", "writing", "disk full", "waiting", "done", "lost"};

void sweep_monitor_init(SweepMonitor *m, const SweepDispatchConf *conf, int ranks)
{
    *m = (SweepMonitor){.before = conf->before,
                        .total = conf->total,
                        .ranks = ranks,
                        .start = clock_now(),
                        .shown = -1e9,
                        .terminal = isatty(STDERR_FILENO),
                        .describe = conf->describe,
                        .ctx = conf->ctx};
}

static void add(char *buf, int64_t size, const char *text)
{
    size_t n = strlen(buf);
    snprintf(buf + n, (size_t)size - n, "%s", text);
}

/* "rendering 3/20 lora=ink" */
static void rank_text(const SweepMonitor *m, const SweepRankStatus *r, char *buf, int64_t size)
{
    char what[160] = "";
    if (r->state == RANK_RENDERING && m->describe)
        m->describe(m->ctx, r->item, what, sizeof what);
    if (r->state == RANK_RENDERING && r->steps)
        snprintf(buf, (size_t)size, "step %d/%d%s%s", r->step, r->steps, what[0] ? "  " : "", what);
    else
        snprintf(buf, (size_t)size, "%s", STATES[r->state]);
}

const char *sweep_monitor_line(const SweepMonitor *m, const SweepRankStatus *rank, double seconds, char *buf, int64_t size)
{
    int64_t stored = 0;
    int count[RANK_STATES] = {0};
    char left[32], text[256];
    for (int r = 0; r < m->ranks; r++) {
        stored += rank[r].stored;
        count[rank[r].state]++;
    }
    int64_t done = m->before + stored;
    double rate = seconds > 0 ? (double)stored / seconds : 0;
    clock_duration_text(rate > 0 ? (double)(m->total - done) / rate : -1.0, left, sizeof left);
    snprintf(buf, (size_t)size, "image %lld/%lld  %.2f images/s  left %s ", (long long)done, (long long)m->total, rate, left);
    for (int s = 0; s < RANK_STATES && m->ranks > LINE_RANKS; s++)
        if (count[s]) {
            snprintf(text, sizeof text, " %d %s", count[s], STATES[s]);
            add(buf, size, text);
        }
    for (int r = 0; r < m->ranks && m->ranks <= LINE_RANKS; r++) {
        char doing[200];
        rank_text(m, &rank[r], doing, sizeof doing);
        snprintf(text, sizeof text, m->ranks > 1 ? "%s[%d] %s" : "%s%.0d%s", r ? "  " : " ", r, doing);
        add(buf, size, text);
    }
    return buf;
}

void sweep_monitor_show(SweepMonitor *m, const SweepRankStatus *rank, int last)
{
    double now = clock_now();
    char line[1200], text[200];
    if (!last && now - m->shown < (m->terminal ? TERMINAL_PERIOD : PLAIN_PERIOD))
        return;
    m->shown = now;
    sweep_monitor_line(m, rank, now - m->start, line, sizeof line);
    if (!m->terminal) {
        fprintf(stderr, "%s\n", line);
        return;
    }
    int table = m->ranks > LINE_RANKS ? m->ranks < TABLE_RANKS ? m->ranks : TABLE_RANKS : 0;
    if (m->drawn)
        fprintf(stderr, "\033[%dA", m->drawn);
    fprintf(stderr, "\r\033[J%.*s\n", 200, line);
    for (int r = 0; r < table; r++) {
        rank_text(m, &rank[r], text, sizeof text);
        fprintf(stderr, "  rank %-4d %8lld images  %s\n", r, (long long)rank[r].stored, text);
    }
    m->drawn = last ? 0 : table + 1;
    fflush(stderr);
}
