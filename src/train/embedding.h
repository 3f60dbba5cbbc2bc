/* Textual inversion (arXiv:2208.01618): vectors for a new word, trained through the text encoder. The parameter "embedding.vectors"
 * [vectors, width] stands in the sequence wherever the token does (diffusers' rule: also inside of words); all else is frozen unless an
 * adapter is trained beside it. */
#ifndef TRAIN_EMBEDDING_H
#define TRAIN_EMBEDDING_H

#include "models/pipeline.h"
#include "text/clip_bpe.h"
#include "train/task.h"

#define TRAIN_EMBEDDING_PARAM "embedding.vectors"

typedef struct {
    const TrainEmbeddingConf *conf;
    int n, length, width;
    OpRef keep, take, row;    /* inputs: keep, take F32 [n,length,width], row I32 [n,length] */
    float *mask;              /* [2][n*length*width]: keep, take */
    int32_t *rows;            /* [n*length] */
} TrainEmbedding;

/* Declares parameter and inputs for n sequences and returns what stands in place of tokens (clip_text_forward_vectors; with e->keep). */
OpRef train_embedding_emit(TrainEmbedding *e, NnCtx *nn, const TrainEmbeddingConf *conf, const ClipConfig *text, int n);
void train_embedding_deinit(TrainEmbedding *e);
/* Adds the parameter with its first values: of embedding.init. ERR_RANGE names the key. */
int train_embedding_load(TrainEmbedding *e, TrainTask *t, Pipeline *pipe, const ClipBpe *bpe);
/* ids[length] of a caption, and its places of the token as row j of the inputs. */
int train_embedding_encode(TrainEmbedding *e, const ClipBpe *bpe, const char *caption, int j, int32_t *ids);
int train_embedding_write(const TrainEmbedding *e, Exec *ex);
/* The caption drawn for a position from embedding.prompts, "{}" being the token; without prompts the image's own. *out: free(). */
int train_embedding_caption(const TrainEmbeddingConf *conf, uint64_t seed, int64_t position, const char *own, char **out);
/* ERR_NOTFOUND names an image whose caption lacks the token. */
int train_embedding_check(const TrainEmbeddingConf *conf, const TrainDataset *data);
/* OUTPUT/embedding.safetensors from the values in t->params. */
int train_embedding_save(const TrainEmbedding *e, const TrainTask *t, const TrainPlace *to);

#endif
