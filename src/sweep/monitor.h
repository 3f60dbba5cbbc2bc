/* The progress of all ranks on stderr: on a terminal a small table that is drawn again in place, elsewhere a line now and then. */
#ifndef SWEEP_MONITOR_H
#define SWEEP_MONITOR_H

#include "sweep/dispatch.h"

typedef struct {
    int64_t before, total;
    int ranks;
    double start, shown;
    int terminal, drawn; /* lines of the table on the screen */
    void (*describe)(void *ctx, int64_t item, char *out, int64_t size);
    void *ctx;
} SweepMonitor;

void sweep_monitor_init(SweepMonitor *m, const SweepDispatchConf *conf, int ranks);
/* As often as convenient. last: draw in any case and end the table. */
void sweep_monitor_show(SweepMonitor *m, const SweepRankStatus *rank, int last);
/* The line without a terminal: "image 120/4000  3.10 images/s  left 00:20:11  4 rendering". Returns buf. */
const char *sweep_monitor_line(const SweepMonitor *m, const SweepRankStatus *rank, double seconds, char *buf, int64_t size);

#endif
