/* Program version. The commit comes from the Makefile. */
#ifndef BASE_VERSION_H
#define BASE_VERSION_H

#define ATELIER_VERSION "0.1.0"

/* "abcdef123456" or "abcdef123456-dirty"; "unknown" outside a checkout. */
const char *version_commit(void);

#endif
