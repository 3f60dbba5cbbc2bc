/* Textual inversions: vectors that stand for a word before the text encoder. Reads safetensors, and the .pt
 * and .bin files of torch.save (io/torch_file.h), of
 *     diffusers   one tensor named by its token ("<cat-toy>"): [C] or [n,C]
 *     A1111       "emb_params": [n,C] (Forge, A1111, OneTrainer), "string_to_param.*" likewise
 *     kohya       "emb_params"; SDXL: "clip_l" [n,768] and "clip_g" [n,1280] in one file
 * F32, F16 or BF16. */
#ifndef MODELS_INVERSION_H
#define MODELS_INVERSION_H

#include "io/safetensors.h"
#include "text/chunk.h"

/* All inversions of a run for one text encoder, as one table. */
typedef struct {
    ChunkWord *word; /* names owned by the set */
    char (*hash)[65]; /* SHA-256 of each file */
    char **path;
    int count;
    float *vectors;  /* [rows][width] */
    int rows, width;
} InversionSet;

void inversion_set_init(InversionSet *s, int width);
void inversion_set_deinit(InversionSet *s);
/* Adds a file under `name`; NULL: the token it names itself (diffusers), else the file's name without its extension.
 * ERR_SHAPE when its vectors have not the set's width: names the file, tensor, both widths and the models that have such a width.
 * ERR_FORMAT for a file of no known form, a name twice, more than 75 vectors. */
int inversion_set_add(InversionSet *s, const char *path, const char *name);

/* Adds vectors[n][width of the set] under a name, with an empty hash. ERR_FORMAT for a name twice, ERR_RANGE for more than 75 vectors. */
int inversion_set_put(InversionSet *s, const char *name, const float *vectors, int n);

/* Writes [n,width] vectors as F32, F16 or BF16; atomic. EMB_PARAMS: read by A1111, Forge, kohya and ComfyUI; DIFFUSERS: the tensor is
 * named by the token. */
typedef enum { INVERSION_EMB_PARAMS, INVERSION_DIFFUSERS } InversionForm;
int inversion_save(const char *path, InversionForm form, const char *token, const float *vectors, int n, int width, Dtype to,
                   const IoMeta *meta, int nmeta);

#endif
