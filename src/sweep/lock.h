/* Lock files: the hash of everything a configuration reads, as text for Git. One line each, sorted:
 *     # atelier lock 1
 *     version 0.1.0
 *     config  SHA256            of the resolved configuration without where it writes and how fast
 *     file    SHA256 PATH
 *     tree    SHA256 COUNT PATH a folder of more than 64 files, or "images of LIST": over their names and hashes */
#ifndef SWEEP_LOCK_H
#define SWEEP_LOCK_H

#include "base/config.h"

/* Files that a file names: the images of a list. */
typedef struct {
    const char *name;
    char **path;
    int count;
} LockList;

/* From a resolved configuration (config_dump of the sweep's or the training's table). Inputs are the values of the keys that name files
 * and folders. ERR_NOTFOUND, with the key, when one is not there; class images that the training would make itself may be missing. */
int lock_check(const char *yaml); /* only that they are there */
int lock_build(StrBuf *out, const char *yaml, const LockList *list, int nlist);
int lock_is(const char *text);
/* One line per difference ("model/unet/x.safetensors changed") added to report; *count of them. A difference of versions alone counts 0. */
int lock_compare(const char *old, const char *now, StrBuf *report, int *count);

#endif
