#include "base/error.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { MESSAGE_MAX = 2048 };
static _Thread_local char message[MESSAGE_MAX];

/* text[n..] = ": tail", cut where it does not fit. */
static void append(char *text, int n, const char *tail)
{
    size_t room = (size_t)(MESSAGE_MAX - n - 3), len = strlen(tail);
    len = len < room ? len : room;
    memcpy(text + n, ": ", 2);
    memcpy(text + n + 2, tail, len);
    text[(size_t)n + 2 + len] = 0;
}

int err_set(int code, const char *fmt, ...)
{
    char text[MESSAGE_MAX]; /* the arguments may point into `message` */
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    memcpy(message, text, sizeof message);
    return code;
}

int err_context(int code, const char *fmt, ...)
{
    char text[MESSAGE_MAX];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    if (n > 0 && n < MESSAGE_MAX - 3)
        append(text, n, message);
    memcpy(message, text, sizeof message);
    return code;
}

int err_errno(const char *fmt, ...)
{
    int e = errno;
    char text[MESSAGE_MAX];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    if (n > 0 && n < MESSAGE_MAX - 3)
        append(text, n, strerror(e));
    memcpy(message, text, sizeof message);
    if (e == ENOSPC || e == EDQUOT || e == EFBIG || e == EROFS)
        return ERR_SPACE;
    return e == ENOENT ? ERR_NOTFOUND : ERR_IO;
}

const char *err_message(void)
{
    return message;
}

const char *err_name(int code)
{
    static const char *const names[] = {"success",          "out of memory",      "I/O error",     "bad format",
                                        "wrong shape",      "out of range",       "not found",     "unsupported",
                                        "in use",           "usage",              "another rank failed", "stopped",
                                        "not a finite number", "backend failure",   "no space"};
    int i = -code;
    return i >= 0 && i < (int)(sizeof names / sizeof *names) ? names[i] : "unknown error";
}
