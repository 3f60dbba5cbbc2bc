/* The executor: runs a plan on a backend. exec_run allocates nothing. */
#ifndef GRAPH_EXEC_H
#define GRAPH_EXEC_H

#include "graph/plan.h"

typedef struct Exec Exec;

/* Allocates the arena. Borrows the plan. */
int exec_create(Exec **out, const Plan *p);
/* The same on the arena of `owner`, which must be at least as large and live longer. A run of either makes the other's inputs and
 * outputs worthless. ERR_RANGE. */
int exec_create_within(Exec **out, const Plan *p, Exec *owner);
void exec_destroy(Exec *e);
/* Binds a parameter: view->data stays the caller's. Bind again with a higher version after changing values. ERR_SHAPE on mismatch. */
int exec_bind(Exec *e, OpRef param, const OpView *view);
int exec_bind_name(Exec *e, const char *name, const OpView *view);
/* After all parameters are bound: lets ops prepare (pack weights). Called by the first exec_run when omitted. ERR_NOTFOUND names
 * an unbound parameter. */
int exec_prepare(Exec *e);
/* Where the backend can record work, a run at the same addresses as the last one is recorded and from then on replayed as a
 * whole, until a parameter is bound to another array. */
int exec_run(Exec *e);
int64_t exec_replays(const Exec *e);   /* runs that were replays */
/* Only as far as the op that gives t: a loss without its gradients. */
int exec_run_to(Exec *e, OpRef t);
/* exec_run that says when tensors are there: `done` is called with the number i of each of t[n] once the op that gives it has been enqueued
 * (a replay is cut into 16 pieces: at the end of its piece), in the order of the ops. Not OK from it ends the run. exec_watch copies t; call it again to change it. */
typedef int (*ExecDone)(void *ctx, int i);
int exec_watch(Exec *e, const OpRef *t, int n);
int exec_run_watched(Exec *e, ExecDone done, void *ctx);
/* Device pointer of an input, output or bound parameter; NULL when unknown. Valid for the executor's life. */
void *exec_data(const Exec *e, OpRef t);
/* Host <-> input/output, with the tensor's own dtype and size. */
int exec_write(Exec *e, OpRef t, const void *host, size_t bytes);
int exec_read(const Exec *e, OpRef t, void *host, size_t bytes);
/* F32 host arrays, converted to and from the tensor's dtype (F32, BF16, F16, F64). */
int exec_write_f32(Exec *e, OpRef t, const float *host, int64_t count);
/* 8-bit pixels, as -1..1 (base/pixel.h). */
int exec_write_pixels(Exec *e, OpRef t, const uint8_t *host, int64_t count);
int exec_read_f32(const Exec *e, OpRef t, float *host, int64_t count);

/* Seconds per op kind since profiling was switched on; seconds[OP_COUNT], calls[OP_COUNT], flops[OP_COUNT]. */
void exec_profile(Exec *e, int on);
void exec_profile_get(const Exec *e, double *seconds, int64_t *calls, double *flops);

#endif
