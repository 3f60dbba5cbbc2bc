/* Log lines on stderr. Level: 0 errors, 1 warnings, 2 per run (default), 3 per job, 4 per step, 5 per op. Thread-safe.
 * Ranks other than 0 print errors and warnings only, with "[rank R] " in front. */
#ifndef BASE_LOG_H
#define BASE_LOG_H

enum { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_JOB, LOG_STEP, LOG_OP };

void log_set_level(int level);
int log_level(void);
/* rank < 0: not in a parallel run. */
void log_set_rank(int rank);
void log_line(int level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#define log_error(...) log_line(LOG_ERROR, __VA_ARGS__)
#define log_warn(...) log_line(LOG_WARN, __VA_ARGS__)
#define log_info(...) log_line(LOG_INFO, __VA_ARGS__)

#endif
