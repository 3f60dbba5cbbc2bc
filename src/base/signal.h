/* Asking a run to stop: SIGTERM, SIGINT (Ctrl-C) and SIGUSR1 (Slurm's warning before the time limit) only set a flag, which
 * long loops read between two steps. A second SIGINT or SIGTERM ends the process as usual. */
#ifndef BASE_SIGNAL_H
#define BASE_SIGNAL_H

/* Once per process, by commands that save their state when stopped. ERR_IO. */
int signal_install(void);
/* Number of the first signal received since installation, 0 when none. */
int signal_stop(void);
/* "SIGTERM", "SIGINT", "SIGUSR1", else "a signal". */
const char *signal_name(int number);

#endif
