#include "base/signal.h"

#include <signal.h>
#include <string.h>

#include "base/error.h"

static volatile sig_atomic_t received; /* a handler can reach nothing else */

static void on_signal(int number)
{
    if (received && number != SIGUSR1) {
        signal(number, SIG_DFL);
        raise(number);
        return;
    }
    if (!received)
        received = number;
}

int signal_install(void)
{
    static const int wanted[] = {SIGTERM, SIGINT, SIGUSR1};
    struct sigaction sa;
    memset(&sa, 0, sizeof sa);
    sa.sa_handler = on_signal;
    sa.sa_flags = SA_RESTART;
    sigemptyset(&sa.sa_mask);
    signal(SIGXFSZ, SIG_IGN); /* a limit on file sizes is an error like a full disk */
    for (int i = 0; i < 3; i++)
        if (sigaction(wanted[i], &sa, NULL) != 0)
            return err_errno("installing a handler for %s", signal_name(wanted[i]));
    return 0;
}

int signal_stop(void)
{
    return received;
}

const char *signal_name(int number)
{
    switch (number) {
    case SIGTERM: return "SIGTERM";
    case SIGINT: return "SIGINT";
    case SIGUSR1: return "SIGUSR1";
    default: return "a signal";
    }
}
