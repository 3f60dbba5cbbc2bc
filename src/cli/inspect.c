#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/str.h"
#include "cli/cli.h"
#include "io/torch_file.h"
#include "io/file.h"
#include "io/h5.h"
#include "models/lora.h"
#include "models/pipeline.h"

static const char usage[] =
    "usage: atelier inspect FILE [--all]\n\n"
    "Explains a file: an adapter (LoRA, LoHa, LoKr, DoRA, differences), a textual inversion, a model folder or weight file, a checkpoint of\n"
    "training, an image or a run.h5: what it is, the model it is probably for, ranks, alphas and norms by block, settings, hashes.\n"
    "  --all               every module of an adapter, every tensor of a weight file, all metadata\n";

/* ---- safetensors ---- */

static int has(IoSafetensors *f, const char *part)
{
    for (int i = 0; i < io_safetensors_count(f); i++)
        if (strstr(io_safetensors_name(f, i), part))
            return 1;
    return 0;
}

static int64_t last_dim(IoSafetensors *f, const char *part)
{
    IoTensor t;
    for (int i = 0; i < io_safetensors_count(f); i++)
        if (strstr(io_safetensors_name(f, i), part) && io_safetensors_at(f, i, &t) >= 0 && t.ndim > 1)
            return t.dim[1];
    return 0;
}

/* Of an adapter: the width of the text that cross-attention reads, and names that only one family has. */
static const char *guess_adapter(IoSafetensors *f)
{
    const char *said = io_safetensors_meta(f, "ss_base_model_version");
    if (said)
        return said;
    if (has(f, "double_blocks") || has(f, "single_transformer_blocks"))
        return "Flux (by its names)";
    if (has(f, "joint_blocks") || has(f, "transformer.transformer_blocks"))
        return "Stable Diffusion 3 (by its names)";
    int64_t w = last_dim(f, "attn2_to_k.lora_down");
    w = w ? w : last_dim(f, "attn2.to_k.lora_A");
    if (has(f, "lora_te2_") || has(f, "text_encoder_2.") || has(f, "input_blocks_") || w == 2048)
        return "SDXL (by its names)";
    return w == 768 ? "Stable Diffusion 1.x (context width 768)" : w == 1024 ? "Stable Diffusion 2.x (context width 1024)" : "unknown";
}

static const char *guess_weights(IoSafetensors *f)
{
    int64_t w = last_dim(f, "attn2.to_k.weight");
    const char *base = w == 768 ? "Stable Diffusion 1.x" : w == 1024 ? "Stable Diffusion 2.x" : w == 2048 ? "SDXL" : NULL;
    if (has(f, "model.diffusion_model.") && has(f, "first_stage_model."))
        return base ? w == 768    ? "checkpoint in one file (ldm naming), Stable Diffusion 1.x"
                      : w == 1024 ? "checkpoint in one file (ldm naming), Stable Diffusion 2.x"
                                  : "checkpoint in one file (ldm naming), SDXL"
                    : "checkpoint in one file (ldm naming)";
    if (has(f, "down_blocks.0.resnets.0.time_emb_proj") || has(f, "time_embedding.linear_1"))
        return base ? w == 768    ? "UNet (diffusers naming) of Stable Diffusion 1.x"
                      : w == 1024 ? "UNet (diffusers naming) of Stable Diffusion 2.x"
                                  : "UNet (diffusers naming) of SDXL"
                    : "UNet (diffusers naming)";
    if (has(f, "encoder.mid_block.attentions") || has(f, "decoder.mid_block.attentions"))
        return "VAE (diffusers naming)";
    if (has(f, "vision_model."))
        return "CLIP (text encoder and image tower)";
    if (has(f, "token_embedding.weight"))
        return "CLIP text encoder";
    return "weights of unknown kind";
}

static void print_metadata(IoSafetensors *f, int all)
{
    int n = io_safetensors_meta_count(f), hidden = 0;
    for (int i = 0; i < n; i++) {
        IoMeta m = io_safetensors_meta_at(f, i);
        if (!all && strlen(m.value) > 160) {
            hidden++;
            continue;
        }
        printf("  %-32s %s\n", m.key, m.value);
    }
    if (hidden)
        printf("  (%d long ones: --all)\n", hidden);
}

/* ---- adapters ---- */

typedef struct {
    char name[64];
    int count, low, high;
    float alpha_low, alpha_high;
    double square;      /* sum of squared norms */
} Block;

/* "unet.down_blocks_0_attentions_..." -> "unet.down_blocks.0"; text encoders by layer. */
static void block_name(char *out, size_t size, const char *path)
{
    static const char *const marks[] = {"down_blocks_", "up_blocks_", "input_blocks_", "output_blocks_", "encoder_layers_",
                                        "double_blocks_", "single_blocks_", "transformer_blocks_"};
    const char *dot = strchr(path, '.');
    int root = dot ? (int)(dot - path) : 0;
    for (size_t i = 0; dot && i < sizeof marks / sizeof *marks; i++) {
        const char *at = strstr(dot, marks[i]);
        if (!at || (i > 3 && i != 4 && at != dot + 1))
            continue;
        size_t n = strlen(marks[i]);
        snprintf(out, size, "%.*s.%.*s.%.*s", root, path, (int)(n - 1), at, (int)strspn(at + n, "0123456789"), at + n);
        return;
    }
    snprintf(out, size, "%.*s%s", root, path, dot && strstr(dot, "mid") ? ".mid_block" : ".other");
}

static int block_of(Block *b, int *n, const char *name)
{
    int i = 0;
    while (i < *n && strcmp(b[i].name, name))
        i++;
    if (i == *n) {
        b[i] = (Block){.low = 1 << 30};
        snprintf(b[(*n)++].name, sizeof b->name, "%s", name);
    }
    return i;
}

static int count_kinds(Lora *lo, StrBuf *text)
{
    int kind[NN_ADAPTER_KINDS] = {0}, dora = 0, conv = 0, norm = 0, bias = 0, first = 1;
    for (int i = 0; i < lora_count(lo); i++) {
        const LoraPart *p = lora_at(lo, i);
        kind[p->kind]++;
        dora += p->f[NN_MAGNITUDE] != NULL;
        conv += p->weight.ndim == 4 && p->weight.dim[2] > 1;
        norm += p->weight.ndim < 2;
        bias += p->f[NN_DIFF_B] != NULL;
    }
    for (int k = 0; k < NN_ADAPTER_KINDS; k++)
        if (kind[k]) {
            str_add_format(text, "%s%s (%d modules)", first ? "" : ", ", k == NN_ADAPTER_FULL ? "full difference" : nn_adapter_name((NnAdapterKind)k),
                           kind[k]);
            first = 0;
        }
    if (dora)
        str_add_format(text, ", DoRA magnitudes in %d", dora);
    if (conv)
        str_add_format(text, ", %d convolutions", conv);
    if (norm + bias)
        str_add_format(text, ", %d norms, %d biases", norm, bias);
    return str_status(text);
}

static int print_blocks(Lora *lo, int all)
{
    Block *b = calloc((size_t)lora_count(lo) + 1, sizeof *b);
    int n = 0, rc = b ? 0 : err_set(ERR_NOMEM, "out of memory");
    for (int i = 0; rc >= 0 && i < lora_count(lo); i++) {
        const LoraPart *p = lora_at(lo, i);
        char name[64];
        double norm;
        if ((rc = lora_norm(p, &norm)) < 0)
            break;
        block_name(name, sizeof name, p->path);
        Block *k = &b[block_of(b, &n, name)];
        k->alpha_low = !k->count || p->alpha < k->alpha_low ? p->alpha : k->alpha_low;
        k->alpha_high = !k->count || p->alpha > k->alpha_high ? p->alpha : k->alpha_high;
        k->low = p->rank < k->low ? p->rank : k->low;
        k->high = p->rank > k->high ? p->rank : k->high;
        k->square += norm * norm;
        k->count++;
        if (all)
            printf("  %-90s %-5s rank %-4d alpha %-8g norm %.4g\n", p->path, nn_adapter_name(p->kind), p->rank, (double)p->alpha, norm);
    }
    printf("  %-34s %8s %10s %14s %10s\n", "block", "modules", "rank", "alpha", "norm");
    for (int i = 0; rc >= 0 && i < n; i++) {
        char rank[32], alpha[48];
        snprintf(rank, sizeof rank, "%d", b[i].low);
        if (b[i].low < b[i].high)
            snprintf(rank, sizeof rank, "%d..%d", b[i].low, b[i].high);
        snprintf(alpha, sizeof alpha, "%g", (double)b[i].alpha_low);
        if (b[i].alpha_low < b[i].alpha_high)
            snprintf(alpha, sizeof alpha, "%g..%g", (double)b[i].alpha_low, (double)b[i].alpha_high);
        printf("  %-34s %8d %10s %14s %10.4g\n", b[i].name, b[i].count, rank, alpha, sqrt(b[i].square));
    }
    free(b);
    return rc;
}

static int print_adapter(IoSafetensors *f, const char *path, int all)
{
    NnModules mods = {0};
    Lora *lo = NULL;
    StrBuf kinds;
    int rc;
    str_init(&kinds);
    TRY_GOTO(lora_file_modules(&mods, path));
    TRY_GOTO(lora_load(&lo, path, &mods));
    TRY_GOTO(count_kinds(lo, &kinds));
    printf("type          adapter: %s\n", kinds.data);
    printf("naming        %s\n", has(f, "lora_unet_") || has(f, "lora_te") ? "kohya" : has(f, ".lora_A.") ? "PEFT" : has(f, ".lora.") ? "diffusers (old)" : "other");
    printf("base model    %s\n", guess_adapter(f));
    printf("dtype         %s, %lld values\n", io_safetensors_dtype(f, 0), (long long)lora_values(lo));
    rc = print_blocks(lo, all);
done:
    str_deinit(&kinds);
    lora_destroy(lo);
    nn_modules_deinit(&mods);
    return rc;
}

static int is_adapter(IoSafetensors *f)
{
    static const char *const marks[] = {".lora_down.", ".lora_A.", ".lora.down.", "_lora.down.", ".hada_w1", ".lokr_w", ".diff",
                                        ".w_norm", ".lora_linear_layer.", ".oft_", ".a1.", ".on_input"};
    for (size_t i = 0; i < sizeof marks / sizeof *marks; i++)
        if (has(f, marks[i]))
            return 1;
    return 0;
}

static int print_inversion(IoSafetensors *f)
{
    for (int i = 0; i < io_safetensors_count(f); i++) {
        IoTensor t;
        TRY(io_safetensors_at(f, i, &t));
        int64_t width = t.ndim ? t.dim[t.ndim - 1] : 0;
        printf("type          textual inversion '%s': %lld vectors of width %lld%s\n", t.name, (long long)(t.ndim > 1 ? t.dim[0] : 1),
               (long long)width, width == 768 ? " (Stable Diffusion 1.x)" : width == 1024 ? " (Stable Diffusion 2.x)" : width == 1280 ? " (SDXL)" : "");
    }
    return 0;
}

static int is_inversion(IoSafetensors *f)
{
    return has(f, "emb_params") || has(f, "string_to_param") || has(f, "string_to_param.*") || (has(f, "clip_l") && io_safetensors_count(f) <= 2) ||
           (io_safetensors_count(f) == 1 && io_safetensors_name(f, 0)[0] == '<');
}

static int print_weights(IoSafetensors *f, int all)
{
    int64_t n = 0;
    for (int i = 0; i < io_safetensors_count(f); i++) {
        IoTensor t;
        int64_t count = 1;
        if (io_safetensors_at(f, i, &t) < 0) /* a dtype that is not computed with */
            continue;
        for (int k = 0; k < t.ndim; k++)
            count *= t.dim[k];
        n += count;
        if (all)
            printf("  %-80s %s %lld values\n", t.name, io_safetensors_dtype(f, i), (long long)count);
    }
    printf("type          %s\n", guess_weights(f));
    printf("tensors       %d, %lld values, %.1f MiB, first dtype %s\n", io_safetensors_count(f), (long long)n,
           (double)io_safetensors_bytes(f) / 1048576, io_safetensors_count(f) ? io_safetensors_dtype(f, 0) : "none");
    return 0;
}

static int inspect_tensors(const char *path, int all)
{
    IoSafetensors *f;
    void *memory = NULL;
    char hex[HASH_HEX_SIZE];
    int rc;
    TRY(io_torch_is(path) ? io_torch_open(&f, &memory, path) : io_safetensors_open(&f, path));
    printf("file          %s\n", path);
    TRY_GOTO(is_inversion(f) ? print_inversion(f) : is_adapter(f) ? print_adapter(f, path, all) : print_weights(f, all));
    if (str_ends_with(path, ".safetensors")) {
        TRY_GOTO(hash_file_hex(hex, path));
        printf("sha256        %s (A1111's model hash %.10s)\n", hex, hex);
    }
    if (io_safetensors_meta_count(f))
        printf("metadata\n");
    print_metadata(f, all);
    rc = 0;
done:
    io_safetensors_close(f);
    free(memory);
    return rc;
}

/* ---- others ---- */

static int inspect_folder(const char *path)
{
    Pipeline *p;
    TRY(pipeline_open(&p, path, NULL));
    const UnetConfig *u = pipeline_unet(p);
    const VaeConfig *v = pipeline_vae(p);
    const ClipConfig *t = pipeline_text(p);
    printf("folder        %s\ntype          model in the diffusers layout\n", path);
    printf("base model    %s\n", u->context == 768 ? "Stable Diffusion 1.x" : u->context == 1024 ? "Stable Diffusion 2.x" : "of its own kind");
    printf("unet          %d channels in, context width %d, %.1f MiB\n", u->in_channels, u->context,
           (double)io_safetensors_bytes(pipeline_files(p, PIPELINE_UNET)) / 1048576);
    printf("vae           factor %d, %d latent channels, scaling %g\n", vae_factor(v), v->latent_channels, (double)v->scaling);
    printf("text encoder  %d layers of width %d, %d tokens\n", t->layers, t->hidden, t->positions);
    int rc = 0;
    for (int k = 0; rc >= 0 && k < PIPELINE_PARTS; k++) {
        const char *hex;
        rc = pipeline_hash(p, (PipelinePart)k, &hex);
        if (rc >= 0)
            printf("sha256        %s %s\n", hex, pipeline_root((PipelinePart)k));
    }
    pipeline_close(p);
    return rc;
}

static int print_checkpoint(IoH5 *f)
{
    static const char *const texts[] = {"format", "version", "commit", "backend", "model_sha256", "data_sha256", "sha256"};
    static const char *const numbers[] = {"step", "skipped", "seed"};
    char **names = NULL, *text = NULL;
    int n = 0;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        if (io_h5_attr_str(f, "/", texts[i], &text) >= 0) {
            printf("%-13s %s\n", texts[i], text);
            free(text);
            text = NULL;
        }
    for (int i = 0; i < 3; i++) {
        int64_t v;
        if (io_h5_attr_i64(f, "/", numbers[i], &v) >= 0)
            printf("%-13s %lld\n", numbers[i], (long long)v);
    }
    TRY(io_h5_list(f, "param", &names, &n));
    printf("trained       %d parameters", n);
    if (n)
        printf(", '%s' being the first", names[0]);
    printf("\n");
    io_h5_names_free(names, n);
    TRY(io_h5_read_string(f, "config", &text));
    printf("config\n%s", text);
    free(text);
    return 0;
}

/* A run.h5 and images are told by `atelier show`. */
static int inspect_h5(const char *path, int *shown)
{
    IoH5 *f;
    char *format = NULL;
    *shown = 0;
    TRY(io_h5_open(&f, path));
    int rc = 0;
    if (io_h5_attr_exists(f, "/", "format") && io_h5_attr_str(f, "/", "format", &format) >= 0 &&
        str_starts_with(format, "atelier checkpoint")) {
        printf("file          %s\ntype          checkpoint of training\n", path);
        rc = print_checkpoint(f);
        *shown = 1;
    } else if (!format && io_h5_exists(f, "images") && io_h5_exists(f, "captions")) {
        IoH5Info info;
        rc = io_h5_info(f, "images", &info);
        if (rc >= 0)
            printf("file          %s\ntype          pack of %lld captioned images of %lldx%lld\n", path, (long long)info.dim[0],
                   (long long)info.dim[2], (long long)info.dim[1]);
        *shown = 1;
    }
    free(format);
    io_h5_close(f);
    return rc;
}

int cli_inspect(int argc, char **argv)
{
    const char *path = NULL;
    int all = 0, shown = 1, rc = 0;
    if (cli_wants_help(argc, argv))
        return cli_help(usage, NULL);
    for (int i = 1; rc >= 0 && i < argc; i++) {
        if (!strcmp(argv[i], "--all"))
            all = 1;
        else if (argv[i][0] == '-' || path)
            rc = cli_usage("inspect", "unexpected '%s'", argv[i]);
        else
            path = argv[i];
    }
    if (rc >= 0 && !path)
        rc = cli_usage("inspect", "a file is expected");
    if (rc < 0)
        return cli_exit(rc);
    if (io_file_is_dir(path))
        return cli_exit(inspect_folder(path));
    if (str_ends_with(path, ".safetensors") || str_ends_with(path, ".safetensors.index.json") || io_torch_is(path))
        return cli_exit(inspect_tensors(path, all));
    if (str_ends_with(path, ".h5"))
        rc = inspect_h5(path, &shown);
    else
        shown = 0;
    if (rc < 0 || shown)
        return cli_exit(rc);
    char name[] = "show";
    char *args[] = {name, (char *)(uintptr_t)path, NULL};
    return cli_show(2, args);
}
