#include "cli/process.h"

#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdint.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"

extern char **environ;

static int spawn(const char *const *argv, int to, int errors, pid_t *pid)
{
    posix_spawn_file_actions_t act;
    posix_spawn_file_actions_init(&act);
    posix_spawn_file_actions_addopen(&act, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&act, to, STDOUT_FILENO);
    if (errors)
        posix_spawn_file_actions_adddup2(&act, to, STDERR_FILENO);
    else
        posix_spawn_file_actions_addopen(&act, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
    int rc = posix_spawnp(pid, argv[0], &act, NULL, (char *const *)(uintptr_t)argv, environ);
    posix_spawn_file_actions_destroy(&act);
    return rc;
}

int process_capture(const char *const *argv, StrBuf *out, int errors, int *code)
{
    int fd[2], status = 0;
    pid_t pid;
    char buf[4096];
    if (pipe2(fd, O_CLOEXEC) < 0)
        return err_errno("%s", argv[0]);
    int rc = spawn(argv, fd[1], errors, &pid);
    close(fd[1]);
    *code = 127;
    if (rc == ENOENT) {
        close(fd[0]);
        return 0;
    }
    if (rc) {
        close(fd[0]);
        errno = rc;
        return err_errno("%s", argv[0]);
    }
    for (ssize_t n; (n = read(fd[0], buf, sizeof buf)) != 0;) {
        if (n > 0)
            str_add_bytes(out, buf, (size_t)n);
        else if (errno != EINTR)
            break;
    }
    close(fd[0]);
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    *code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    return str_status(out);
}

int process_fields(char *line, char sep, char **field, int max)
{
    int n = 0;
    for (char *p = line;; p++) {
        field[n++] = p;
        char *end = n < max ? strchr(p, sep) : NULL;
        if (!end)
            return n;
        *end = 0;
        p = end;
    }
}
