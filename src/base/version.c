#include "base/version.h"

#ifndef ATELIER_COMMIT
#define ATELIER_COMMIT "unknown"
#endif

const char *version_commit(void)
{
    return ATELIER_COMMIT;
}
