#include "base/env.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/str.h"

int env_choice(const char *variable, const char *const *names, int otherwise, int *choice)
{
    const char *want = getenv(variable);
    *choice = otherwise;
    if (!want || !*want)
        return 0;
    for (int i = 0; names[i]; i++)
        if (!strcmp(want, names[i])) {
            *choice = i;
            return 0;
        }
    StrBuf b;
    str_init(&b);
    for (int i = 0; names[i]; i++)
        str_add_format(&b, "%s%s", !i ? "" : names[i + 1] ? ", " : " or ", names[i]);
    int rc = err_set(ERR_RANGE, "%s=%s: expected %s", variable, want, b.data ? b.data : "another value");
    str_deinit(&b);
    return rc;
}
