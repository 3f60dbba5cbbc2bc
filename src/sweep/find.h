/* Finding weights by their hash in folders, where the path of a record does not lead to them any more. */
#ifndef SWEEP_FIND_H
#define SWEEP_FIND_H

#include "base/hash.h"

typedef struct {
    const char *const *items;
    int count;
} FindFolders;

/* SHA-256 of a safetensors file's bytes after its header, as hex. */
int find_lora_hash(const char *path, char hex[HASH_HEX_SIZE]);
/* A LoRA file (*.safetensors, any depth) whose data's hash begins with `hash`, or, where hash is "", with this file name (with or without
 * its extension). *path: free(); NULL when there is none. */
int find_lora(const FindFolders *in, const char *hash, const char *name, char **path);
/* Called for every model folder (with a model_index.json): 1 to take it, 0 to go on. */
typedef int (*FindModel)(void *ctx, const char *folder);
int find_model(const FindFolders *in, FindModel take, void *ctx, char **path);
/* A model by another program's words: a *.safetensors whose whole hash begins with `hash`, else a file or folder of this name. */
int find_foreign_model(const FindFolders *in, const char *hash, const char *name, char **path);

#endif
