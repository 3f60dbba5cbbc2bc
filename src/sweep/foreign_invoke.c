#include <string.h>

#include "sweep/foreign_json.h"

static int read_model(Foreign *f, const json_t *root)
{
    const json_t *m = json_object_get(root, "model");
    const char *name = foreign_json_text(m, "name"), *hash = foreign_json_text(m, "hash");
    if (!name)
        name = foreign_json_text(m, "model_name");
    TRY(foreign_set(&f->model, name ? name : ""));
    if (hash && strncmp(hash, "sha256:", 7) == 0)
        return foreign_set(&f->model_hash, hash + 7);
    if (hash)
        foreign_lost(f, "the model's hash %s is of a kind that is not computed here", hash);
    return 0;
}

static int read_loras(Foreign *f, const json_t *list)
{
    size_t i;
    json_t *one;
    json_array_foreach(list, i, one) {
        const json_t *m = json_object_get(one, "model");
        double weight = 0.75; /* InvokeAI's default */
        m = m ? m : json_object_get(one, "lora");
        const char *name = foreign_json_text(m, "name"), *hash = foreign_json_text(m, "hash");
        name = name ? name : foreign_json_text(m, "model_name");
        foreign_json_number(one, "weight", -100, 100, &weight);
        if (!name)
            continue;
        if (hash && strncmp(hash, "sha256:", 7) == 0)
            foreign_lost(f, "LoRA %s: its hash is of the whole file, %s", name, hash);
        TRY(foreign_add_lora(f, name, "", weight));
    }
    return 0;
}

static void note_rest(Foreign *f, const json_t *root)
{
    static const char *const lists[] = {"controlnets", "ipAdapters", "t2iAdapters", "regions", "ref_images", NULL};
    static const char *const flags[] = {"seamless_x", "seamless_y", "hrf_enabled", NULL};
    static const char *const texts[] = {"positive_style_prompt", "negative_style_prompt", "refiner_model", NULL};
    for (int i = 0; lists[i]; i++)
        if (json_array_size(json_object_get(root, lists[i])))
            foreign_lost(f, "%s", lists[i]);
    for (int i = 0; flags[i]; i++)
        if (json_is_true(json_object_get(root, flags[i])))
            foreign_lost(f, "%s", flags[i]);
    for (int i = 0; texts[i]; i++) {
        const json_t *v = json_object_get(root, texts[i]);
        if (json_is_object(v) || (json_is_string(v) && json_string_length(v)))
            foreign_lost(f, "%s", texts[i]);
    }
    const json_t *vae = json_object_get(root, "vae");
    if (json_is_object(vae))
        foreign_lost(f, "VAE %s: name a folder with the key vae", foreign_json_text(vae, "name") ? foreign_json_text(vae, "name") : "");
}

static int read_source(Foreign *f, const json_t *root)
{
    const char *mode = foreign_json_text(root, "generation_mode"), *image = foreign_json_text(root, "init_image");
    double strength;
    if (foreign_json_number(root, "strength", 0, 1, &strength) && image) {
        f->strength = strength;
        foreign_lost(f, "source image %s: put it where the configuration says", image);
        TRY(foreign_set(&f->source, image));
    } else if (mode && !strstr(mode, "txt2img")) {
        foreign_lost(f, "generation_mode %s: its picture is not in the file", mode);
    }
    return 0;
}

static int convert(Foreign *f, const json_t *root)
{
    int64_t n;
    const char *prompt = foreign_json_text(root, "positive_prompt"), *device = foreign_json_text(root, "rand_device");
    if (!prompt && !json_object_get(root, "seed"))
        return err_set(ERR_FORMAT, "neither positive_prompt nor seed in it");
    TRY(foreign_set(&f->prompt, prompt ? prompt : ""));
    TRY(foreign_set(&f->negative, foreign_json_text(root, "negative_prompt")));
    if (!foreign_json_seed(f, root, "seed"))
        foreign_lost(f, "no seed");
    if (foreign_json_int(root, "steps", 1, 1000, &n))
        f->steps = (int)n;
    if (foreign_json_int(root, "width", 8, 16384, &n))
        f->width = (int)n;
    if (foreign_json_int(root, "height", 8, 16384, &n))
        f->height = (int)n;
    if (foreign_json_int(root, "clip_skip", 0, 63, &n)) /* layers left out */
        f->clip_skip = (int)n + 1;
    foreign_json_number(root, "cfg_scale", 0, 1000, &f->guidance);
    foreign_json_number(root, "cfg_rescale_multiplier", 0, 1, &f->guidance_rescale);
    TRY(read_model(f, root));
    TRY(read_loras(f, json_object_get(root, "loras")));
    TRY(read_source(f, root));
    note_rest(f, root);
    foreign_set_seed_compat(f, device && strcmp(device, "cuda") == 0 ? "diffusers-cuda" : "diffusers-cpu-fp16");
    return foreign_set_sampler(f, foreign_json_text(root, "scheduler"), NULL);
}

int foreign_invoke(Foreign *f, const char *json)
{
    json_t *root;
    f->tool = "InvokeAI";
    TRY(foreign_json_parse(&root, json));
    int rc = json_is_object(root) ? convert(f, root) : err_set(ERR_FORMAT, "no JSON object");
    json_decref(root);
    return rc;
}
