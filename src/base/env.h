/* Environment variables that choose among names. */
#ifndef BASE_ENV_H
#define BASE_ENV_H

/* *choice is the place of the variable's value in `names` (ended by NULL); `otherwise` where it is unset or empty. ERR_RANGE names the
 * variable and what was expected. */
int env_choice(const char *variable, const char *const *names, int otherwise, int *choice);

#endif
