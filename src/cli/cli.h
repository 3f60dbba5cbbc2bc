/* The commands. Each takes its own name in argv[0], handles --help, prints its errors as "atelier: ..." on stderr, and returns the
 * process's exit code: 0 done, 1 error, 2 bad command line, 3 stopped by a signal with all finished work saved. */
#ifndef CLI_CLI_H
#define CLI_CLI_H

#include "base/config.h"
#include "comm/comm.h"

enum { CLI_OK = 0, CLI_ERROR = 1, CLI_USAGE = 2, CLI_STOPPED = 3 };

int cli_train(int argc, char **argv); /* collective; src/cli/train.c */
int cli_sweep(int argc, char **argv); /* collective */
int cli_plan(int argc, char **argv);
int cli_submit(int argc, char **argv);
int cli_status(int argc, char **argv);
int cli_push(int argc, char **argv);
int cli_fetch(int argc, char **argv);
int cli_dataset(int argc, char **argv);
int cli_sample(int argc, char **argv);
int cli_reproduce(int argc, char **argv);
int cli_export(int argc, char **argv);
int cli_consolidate(int argc, char **argv);
int cli_ls(int argc, char **argv);
int cli_show(int argc, char **argv);
int cli_sheet(int argc, char **argv);
int cli_gallery(int argc, char **argv);
int cli_lock(int argc, char **argv);
int cli_diff(int argc, char **argv);
int cli_score(int argc, char **argv);
int cli_tokenize(int argc, char **argv);
int cli_merge(int argc, char **argv);
int cli_extract(int argc, char **argv);
int cli_resize(int argc, char **argv);
int cli_inspect(int argc, char **argv);
int cli_info(int argc, char **argv);

/* Whether -h or --help is among the arguments. */
int cli_wants_help(int argc, char **argv);
/* Prints `usage`, and the keys of `table` when given. Returns CLI_OK. */
int cli_help(const char *usage, const ConfTable *table);
/* Exit code of a lone process for an error code; prints the message of a negative one. */
int cli_exit(int rc);
/* The same at the end of a command that ran on several ranks: all agree on the status, rank 0 prints, the communicator is closed.
 * Every rank returns the same class of code. Collective. */
int cli_exit_all(Comm *c, int rc);
/* err_set(ERR_USAGE, "...; see atelier help COMMAND"). */
int cli_usage(const char *command, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Splits argv[1..]: the plain argument (exactly one; ERR_USAGE otherwise) and overrides "key=value" (pointers into argv, storage for
 * argc entries). */
int cli_config_args(int argc, char **argv, const char **path, const char **overrides, int *count);

/* "ink.safetensors:0.8" -> the length of the file's name and 0.8; without a scale 1. A file whose name holds a colon is taken as it is.
 * ERR_USAGE. */
int cli_file_scale(const char *command, const char *text, size_t *length, double *scale);

/* Whether a configuration is of a sweep: it has the key `axes` or `prompt`. */
int cli_config_is_sweep(const char *path, int *yes);
/* rc of reading a configuration. Where it is an unknown or missing key because the file is one of the other kind (training, sweep), the
 * message says that instead. */
int cli_config_other(int rc, const char *path, int want_sweep);
/* All keys of a sweep's or training's configuration as YAML; src/cli/lock.c. */
int cli_config_resolved(const char *path, const char *const *overrides, int count, StrBuf *out);
/* Compares CONFIG.lock, where it is there, with what is read now: a warning, or with `locked` an error; then its absence is one too. */
int cli_lock_check(const char *path, const char *const *overrides, int count, int locked);
/* Takes a flag out of the arguments; whether it was there. */
int cli_take_flag(int *argc, char **argv, const char *flag);

/* Threads of this rank: `wanted` where positive, else OMP_NUM_THREADS or the cores this process may run on, but no more than the
 * rank's share of the node. c may be NULL: a lone process. */
int cli_threads(const Comm *c, int wanted);
/* Value of "--name VALUE" or "--name=VALUE" at argv[*i] (advanced past a separate value); NULL when argv[*i] is another option.
 * ERR_USAGE when the value is missing. */
int cli_option(const char *command, int argc, char **argv, int *i, const char *name, const char **value);
/* An integer lo..hi. ERR_USAGE. */
int cli_number(const char *command, const char *option, const char *text, int64_t lo, int64_t hi, int64_t *out);

#endif
