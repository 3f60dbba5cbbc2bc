#include <string.h>

#include "nn/param.h"

/* Iterative with one point of return: linear memory, no recursion on hostile patterns. */
static int glob_whole(const char *p, const char *pend, const char *s)
{
    const char *star = NULL, *back = NULL;
    while (*s) {
        if (p < pend && *p == '*') {
            star = ++p;
            back = s;
        } else if (p < pend && (*p == '?' || *p == *s)) {
            p++;
            s++;
        } else if (star) {
            p = star;
            s = ++back;
        } else {
            return 0;
        }
    }
    while (p < pend && *p == '*')
        p++;
    return p == pend;
}

int nn_glob(const char *pattern, const char *name)
{
    for (const char *p = pattern;;) {
        const char *end = strchrnul(p, '|');
        for (const char *s = name; s; s = strchr(s, '.') ? strchr(s, '.') + 1 : NULL)
            if (glob_whole(p, end, s))
                return 1;
        if (!*end)
            return 0;
        p = end + 1;
    }
}
