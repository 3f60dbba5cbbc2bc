/* Files between ranks whose machines do not share storage. Everything here is collective. */
#ifndef COMM_SHARE_H
#define COMM_SHARE_H

#include "comm/comm.h"

/* *sees: whether this rank finds in `dir` what rank 0 writes there; *all: whether every rank does. Asks the file system only where the
 * ranks are on several machines. */
int comm_share_test(Comm *c, const char *dir, int *sees, int *all);
/* The file of rank 0 at the same path on every machine that does not see rank 0's (one rank each writes it). Machines that have it with
 * the same bytes are left alone. */
int comm_share_spread(Comm *c, const char *path, int sees);
/* The same for the files of rank 0's folder whose names end in `suffix`: the last `most` in the order of their names (0: all). A folder
 * that is not there has none. *count (NULL: not wanted): how many. */
int comm_share_spread_dir(Comm *c, const char *dir, const char *suffix, int64_t most, int sees, int64_t *count);
/* The files path[n] of rank `from` (n counts there only) to rank 0, which gives each the name that `place` says (free()); each is removed at
 * `from` once it is safe at rank 0. */
typedef int (*CommSharePlace)(void *ctx, char **out);
int comm_share_collect(Comm *c, int from, char *const *path, int n, CommSharePlace place, void *ctx);

#endif
