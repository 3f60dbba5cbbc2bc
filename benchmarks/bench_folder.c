/* Fills a model folder that has only its config files with random weights, as PyTorch initialises the modules.
 *   bench_folder FOLDER f32|bf16 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/file.h"
#include "models/clip_text.h"
#include "models/unet.h"
#include "models/vae.h"

typedef struct {
    const char *part, *file;
    int (*emit)(NnCtx *nn, const ModelJson *j);
} Part;

static int emit_unet(NnCtx *nn, const ModelJson *j)
{
    UnetConfig c;
    TRY(unet_config(&c, j));
    OpRef x = graph_input(nn->g, "x", DTYPE_F32, SHAPE(1, 8, 8, c.in_channels)), t = graph_input(nn->g, "t", DTYPE_F32, SHAPE(1));
    OpRef context = graph_input(nn->g, "context", DTYPE_F32, SHAPE(1, 77, c.context));
    unet_forward(nn, &c, x, t, context);
    return graph_status(nn->g);
}

static int emit_vae(NnCtx *nn, const ModelJson *j)
{
    VaeConfig c;
    TRY(vae_config(&c, j));
    int side = 8 * vae_factor(&c);
    vae_encode(nn, &c, graph_input(nn->g, "image", DTYPE_F32, SHAPE(1, side, side, c.in_channels)));
    vae_decode(nn, &c, graph_input(nn->g, "z", DTYPE_F32, SHAPE(1, 8, 8, c.latent_channels)));
    return graph_status(nn->g);
}

static int emit_text(NnCtx *nn, const ModelJson *j)
{
    ClipConfig c;
    ClipText text;
    TRY(clip_text_config(&c, j, 0));
    TRY(clip_text_forward(nn, &c, graph_input(nn->g, "ids", DTYPE_I32, SHAPE(1, c.positions)), OP_NONE, 1, &text));
    return graph_status(nn->g);
}

static int make_part(const char *folder, const Part *p, Dtype dtype)
{
    const IoMeta meta = {"format", "pt"};
    char *dir = NULL, *config = NULL, *path = NULL;
    ModelJson *j = NULL;
    Graph *g = NULL;
    NnParams *ps = NULL;
    NnCtx nn = {0};
    int rc;
    TRY_GOTO(io_path_join(&dir, folder, p->part));
    TRY_GOTO(io_path_join(&config, dir, "config.json"));
    TRY_GOTO(io_path_join(&path, dir, p->file));
    if (io_file_exists(path))
        goto done;
    TRY_GOTO(model_json_open(&j, config));
    TRY_GOTO(graph_create(&g, DTYPE_F32));
    nn_init(&nn, g);
    size_t mark = nn_push(&nn, "%s", p->part);
    rc = p->emit(&nn, j);
    nn_pop(&nn, mark);
    TRY_GOTO(rc);
    TRY_GOTO(nn_params_create(&ps));
    TRY_GOTO(nn_params_init(ps, g, p->part, 15, NULL, 0));
    TRY_GOTO(nn_params_save(ps, p->part, path, dtype, NULL, &meta, 1));
    printf("%s\n", path);
done:
    nn_deinit(&nn);
    nn_params_destroy(ps);
    graph_destroy(g);
    model_json_close(j);
    free(dir);
    free(config);
    free(path);
    return rc;
}

int main(int argc, char **argv)
{
    static const Part parts[] = {{"text_encoder", "model.safetensors", emit_text},
                                 {"vae", "diffusion_pytorch_model.safetensors", emit_vae},
                                 {"unet", "diffusion_pytorch_model.safetensors", emit_unet}};
    if (argc != 3 || (strcmp(argv[2], "f32") && strcmp(argv[2], "bf16"))) {
        fprintf(stderr, "usage: bench_folder FOLDER f32|bf16\n");
        return 2;
    }
    for (int i = 0; i < 3; i++)
        if (make_part(argv[1], &parts[i], strcmp(argv[2], "f32") ? DTYPE_BF16 : DTYPE_F32) < 0) {
            fprintf(stderr, "bench_folder: %s\n", err_message());
            return 1;
        }
    return 0;
}
