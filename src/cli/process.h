/* Other programs (sbatch, squeue, ...). */
#ifndef CLI_PROCESS_H
#define CLI_PROCESS_H

#include "base/str.h"

/* Runs argv[0] (looked up in PATH; argv ends with NULL) and appends what it prints to `out`, with stderr where `errors` is set.
 * *code: its exit code, 127 when it is not installed, 128 + N after signal N. ERR_IO when it cannot be run at all. */
int process_capture(const char *const *argv, StrBuf *out, int errors, int *code);
/* Fields of a line split at `sep`, in place. Returns how many; the rest of a longer line stays in the last one. */
int process_fields(char *line, char sep, char **field, int max);

#endif
