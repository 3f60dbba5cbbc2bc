/* Errors: functions return 0 or a negative ERR_*; the message is kept per thread and gains context on the way up.
 *
 *     if (n > max)
 *         return err_set(ERR_RANGE, "rank %d: expected 1..%d", n, max);
 *     TRY(io_open(&f, path));                              // pass an error on unchanged
 *     TRY_CTX(parse(f), "%s", path);                       // "path: what parse said"
 */
#ifndef BASE_ERROR_H
#define BASE_ERROR_H

enum {
    ERR_NONE = 0,
    ERR_NOMEM = -1,       /* out of memory */
    ERR_IO = -2,          /* the operating system refused: open, read, write, rename, no space */
    ERR_FORMAT = -3,      /* a file or message does not follow its format */
    ERR_SHAPE = -4,       /* a tensor has another shape or dtype than expected */
    ERR_RANGE = -5,       /* a value is out of its bounds */
    ERR_NOTFOUND = -6,    /* a file, key or tensor is missing */
    ERR_UNSUPPORTED = -7, /* understood, but not available here */
    ERR_BUSY = -8,        /* held by another run */
    ERR_USAGE = -9,       /* bad command line: exit code 2 */
    ERR_PEER = -10,       /* another rank failed; its message was printed there */
    ERR_STOPPED = -11,    /* asked to stop (signal); state is saved */
    ERR_NUMERIC = -12,    /* NaN or Inf */
    ERR_BACKEND = -13,    /* oneDNN, CUDA or MPI reported a failure */
    ERR_SPACE = -14       /* disk full, quota used up, read-only: the same may work later */
};

/* Sets this thread's message and returns `code`. */
int err_set(int code, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Puts "context: " in front of this thread's message and returns `code`. */
int err_context(int code, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* err_set with strerror(errno) appended; always ERR_IO, but ERR_NOTFOUND where errno is ENOENT, and ERR_SPACE
 * for ENOSPC, EDQUOT, EFBIG and EROFS. */
int err_errno(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* This thread's last message; "" when none. Borrowed, valid until the next err_* call of this thread. */
const char *err_message(void);
/* "out of memory", "I/O error", ... for a code. */
const char *err_name(int code);

#define TRY(e)                      \
    do {                            \
        int rc_try_ = (e);          \
        if (rc_try_ < 0)            \
            return rc_try_;         \
    } while (0)
#define TRY_CTX(e, ...)                                  \
    do {                                                 \
        int rc_try_ = (e);                               \
        if (rc_try_ < 0)                                 \
            return err_context(rc_try_, __VA_ARGS__);    \
    } while (0)
/* For functions with one cleanup label: sets `rc` and jumps to `done`. */
#define TRY_GOTO(e)                 \
    do {                            \
        if ((rc = (e)) < 0)         \
            goto done;              \
    } while (0)

#endif
