/* A diffusers model folder: model_index.json, unet/, vae/, text_encoder/, tokenizer/, scheduler/. Opening reads the configs and maps
 * the weight files; nothing is loaded before a graph asks for it. */
#ifndef MODELS_PIPELINE_H
#define MODELS_PIPELINE_H

#include "models/clip_text.h"
#include "models/unet.h"
#include "models/vae.h"

typedef enum { PIPELINE_UNET, PIPELINE_TEXT, PIPELINE_VAE, PIPELINE_PARTS } PipelinePart;

typedef struct Pipeline Pipeline;

/* variant: "fp16" (ERR_NOTFOUND when no part has it) or NULL (plain files first). Checks the classes in model_index.json.
 * ERR_NOTFOUND, ERR_FORMAT, ERR_UNSUPPORTED with file and key. */
int pipeline_open(Pipeline **out, const char *dir, const char *variant);
/* The same for a model one part of which is still to be trained: only its config.json is read, pipeline_files gives NULL. */
int pipeline_open_without(Pipeline **out, const char *dir, const char *variant, PipelinePart without);
/* With another VAE: its folder, or that of a model that has it in vae/. NULL or "": the model's own. */
int pipeline_open_with_vae(Pipeline **out, const char *dir, const char *variant, const char *vae);
void pipeline_close(Pipeline *p);

const char *pipeline_dir(const Pipeline *p);
const UnetConfig *pipeline_unet(const Pipeline *p);
const VaeConfig *pipeline_vae(const Pipeline *p);
const ClipConfig *pipeline_text(const Pipeline *p);
const char *pipeline_tokenizer_dir(const Pipeline *p);
const char *pipeline_scheduler_path(const Pipeline *p); /* scheduler/scheduler_config.json */
/* "unet", "text_encoder", "vae": the root of parameter names and the subfolder. */
const char *pipeline_root(PipelinePart part);
IoSafetensors *pipeline_files(const Pipeline *p, PipelinePart part);

/* Loads every parameter of `g` under the three roots into the set (nn_params_load); a part opened without weights is left out. The pipeline must stay open as long as ps. */
int pipeline_load(Pipeline *p, NnParams *ps, const Graph *g);
/* Lists all linear layers and convolutions of UNet and text encoder (targets of adapters). *mods: nn_modules_deinit. */
int pipeline_modules(const Pipeline *p, NnModules *mods);
/* SHA-256 in hex of a part's weight file (of several shards: of their hashes in order). Computed on first use (reads the
 * file) and kept. Borrowed. */
int pipeline_hash(Pipeline *p, PipelinePart part, const char **hex);

#endif
