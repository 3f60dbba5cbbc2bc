#include <stdlib.h>
#include <string.h>

#include "sweep/foreign_json.h"

/* Graphs are followed link by link; a hand-made one may go in circles. */
enum { MAX_HOPS = 1000 };

typedef struct {
    Foreign *f;
    json_t *root;
    int hops;
} Graph;

static const char *class_of(const json_t *node)
{
    const char *name = foreign_json_text(node, "class_type");
    return name ? name : "";
}

static json_t *inputs_of(const json_t *node) { return json_object_get(node, "inputs"); }

/* The node an input is linked to ([id, slot]); NULL when it is no link. */
static json_t *linked(Graph *g, const json_t *node, const char *input)
{
    const json_t *link = json_object_get(inputs_of(node), input);
    const json_t *id = json_is_array(link) ? json_array_get(link, 0) : NULL;
    char number[32];
    if (!id || g->hops++ > MAX_HOPS)
        return NULL;
    if (json_is_integer(id)) {
        snprintf(number, sizeof number, "%lld", (long long)json_integer_value(id));
        return json_object_get(g->root, number);
    }
    return json_is_string(id) ? json_object_get(g->root, json_string_value(id)) : NULL;
}

static int has_class(const json_t *node, const char *const *names)
{
    for (; *names; names++)
        if (strcmp(class_of(node), *names) == 0)
            return 1;
    return 0;
}

static const char *const samplers[] = {"KSampler", "KSamplerAdvanced", "SamplerCustom", "SamplerCustomAdvanced", NULL};

/* The sampler that a picture comes from: back along images, samples and latents. */
static json_t *find_sampler(Graph *g, json_t *node)
{
    static const char *const ways[] = {"images", "image", "samples", "latent", "latent_image", "pixels", NULL};
    while (node && !has_class(node, samplers)) {
        json_t *next = NULL;
        for (int i = 0; ways[i] && !next; i++)
            next = linked(g, node, ways[i]);
        if (next && strcmp(class_of(node), "VAEDecode") == 0) {
            json_t *vae = linked(g, node, "vae");
            const char *name = vae ? foreign_json_text(inputs_of(vae), "vae_name") : NULL;
            if (name)
                foreign_lost(g->f, "VAE %s: name a folder with the key vae", name);
        }
        node = next;
    }
    return node;
}

static json_t *find_output(Graph *g)
{
    static const char *const outputs[] = {"SaveImage", "SaveAnimatedWEBP", "PreviewImage", "SaveImageWebsocket", NULL};
    const char *id;
    json_t *node, *sampler = NULL, *any = NULL;
    json_object_foreach(g->root, id, node) {
        if (!sampler && has_class(node, outputs))
            sampler = find_sampler(g, node);
        if (has_class(node, samplers))
            any = node;
    }
    return sampler ? sampler : any;
}

/* A text that may come from another node: the first string it has. */
static const char *find_text(Graph *g, const json_t *node, const char *input)
{
    static const char *const keys[] = {"text", "string", "value", "prompt", "text_g", "positive", NULL};
    while (node) {
        const char *text = foreign_json_text(inputs_of(node), input);
        if (text)
            return text;
        json_t *next = linked(g, node, input);
        if (next)
            foreign_lost(g->f, "a text comes from a node of class %s", class_of(next));
        input = NULL;
        for (int i = 0; next && keys[i] && !input; i++)
            if (json_object_get(inputs_of(next), keys[i]))
                input = keys[i];
        node = input ? next : NULL;
    }
    return NULL;
}

/* From a conditioning to its text; *encode: the node that makes it. */
static int read_conditioning(Graph *g, json_t *node, const char *what, char **out, json_t **encode)
{
    static const char *const ways[] = {"conditioning", "conditioning_1", "conditioning_to", "positive", NULL};
    while (node) {
        if (strncmp(class_of(node), "CLIPTextEncode", 14) == 0) {
            const char *text = find_text(g, node, "text");
            if (!text)
                text = find_text(g, node, "text_g");
            if (!text)
                foreign_lost(g->f, "%s: its text is made while the graph runs", what);
            *encode = node;
            return foreign_set(out, text ? text : "");
        }
        foreign_lost(g->f, "%s goes through a node of class %s", what, class_of(node));
        json_t *next = NULL;
        for (int i = 0; ways[i] && !next; i++)
            next = linked(g, node, strcmp(ways[i], "positive") == 0 && strcmp(what, "negative prompt") == 0 ? "negative" : ways[i]);
        node = next;
    }
    foreign_lost(g->f, "%s: no text was found", what);
    return 0;
}

static int read_model(Graph *g, json_t *node)
{
    static const char *const names[] = {"ckpt_name", "unet_name", "model_path", NULL};
    ForeignLora *l = g->f->lora;
    for (; node && !g->f->model; node = linked(g, node, "model")) {
        json_t *in = inputs_of(node);
        for (int i = 0; names[i] && !g->f->model; i++)
            TRY(foreign_set(&g->f->model, foreign_json_text(in, names[i])));
        if (g->f->model)
            break;
        const char *lora = foreign_json_text(in, "lora_name");
        double unet = 1, text;
        if (lora) {
            foreign_json_number(in, "strength_model", -100, 100, &unet);
            TRY(foreign_add_lora(g->f, lora, "", unet));
            if (foreign_json_number(in, "strength_clip", -100, 100, &text) && (text < unet || text > unet))
                foreign_lost(g->f, "LoRA %s: strength %g of the text encoder beside %g of the UNet", lora, text, unet);
        } else if (strcmp(class_of(node), "RescaleCFG") == 0) {
            foreign_json_number(in, "multiplier", 0, 1, &g->f->guidance_rescale);
        } else {
            foreign_lost(g->f, "the model goes through a node of class %s", class_of(node));
        }
    }
    for (int i = 0, k = g->f->nlora - 1; i < k; i++, k--) { /* in the order in which they are applied */
        ForeignLora t = l[i];
        l[i] = l[k];
        l[k] = t;
    }
    return 0;
}

static void read_clip_skip(Graph *g, json_t *encode)
{
    int64_t layer;
    for (json_t *node = encode ? linked(g, encode, "clip") : NULL; node; node = linked(g, node, "clip"))
        if (foreign_json_int(inputs_of(node), "stop_at_clip_layer", -64, -1, &layer)) {
            g->f->clip_skip = (int)-layer;
            return;
        }
}

static void check_denoise(Graph *g, double denoise)
{
    if (denoise < 1 && !g->f->source)
        foreign_lost(g->f, "denoise %g from an empty latent", denoise);
}

/* The size, or the picture it started from. */
static int read_latent(Graph *g, json_t *node)
{
    int64_t w, h, batch;
    for (; node; node = linked(g, node, "samples")) {
        json_t *in = inputs_of(node);
        if (strncmp(class_of(node), "Empty", 5) == 0 && foreign_json_int(in, "width", 8, 16384, &w) && foreign_json_int(in, "height", 8, 16384, &h)) {
            g->f->width = (int)w;
            g->f->height = (int)h;
            if (foreign_json_int(in, "batch_size", 2, 4096, &batch)) {
                str_add_format(&g->f->numbers, "batch_size: %lld\n", (long long)batch);
                foreign_lost(g->f, "which image of the batch of %lld this is: set batch_index (0 here is the first)", (long long)batch);
            }
            return 0;
        }
        json_t *pixels = linked(g, node, "pixels");
        const char *name = pixels ? foreign_json_text(inputs_of(pixels), "image") : NULL;
        if (name) {
            foreign_lost(g->f, "source image %s: put it where the configuration says", name);
            return foreign_set(&g->f->source, name);
        }
        if (!has_class(node, samplers) && strncmp(class_of(node), "VAEEncode", 9) != 0)
            foreign_lost(g->f, "the latent goes through a node of class %s", class_of(node));
    }
    return 0;
}

/* A second pass whose latent comes from a first one: "hires fix". *first: the sampler before, or NULL. */
static int read_second_pass(Graph *g, json_t *sampler, json_t **first)
{
    static const char *const methods[][2] = {{"nearest-exact", "latent-nearest"}, {"bilinear", "latent-bilinear"}, {"bicubic", "latent-bicubic"}};
    json_t *up = linked(g, sampler, "latent_image"), *in = inputs_of(up);
    int64_t steps = 0, width;
    *first = up && !has_class(up, samplers) ? find_sampler(g, up) : NULL;
    if (!*first)
        return 0;
    const char *method = foreign_json_text(in, "upscale_method");
    foreign_json_int(inputs_of(sampler), "steps", 1, 1000, &steps);
    g->f->hires_steps = (int)steps;
    g->f->hires_strength = 1;
    foreign_json_number(inputs_of(sampler), "denoise", 0, 1, &g->f->hires_strength);
    int sized = foreign_json_number(in, "scale_by", 1, 8, &g->f->hires_scale);
    if (!sized && foreign_json_int(in, "width", 8, 16384, &width))
        g->f->hires_scale = -(double)width; /* divided by the first width when that is known */
    for (size_t i = 0; method && i < sizeof methods / sizeof *methods; i++)
        if (strcmp(method, methods[i][0]) == 0)
            return foreign_set(&g->f->hires, methods[i][1]);
    foreign_lost(g->f, "second pass: %s%s%s", class_of(up), method ? " by " : "", method ? method : "");
    return 0;
}

typedef struct {
    json_t *model, *positive, *negative, *latent;
    const char *sampler, *schedule;
    double denoise;
} Parts;

static void read_numbers(Graph *g, const json_t *in, Parts *p)
{
    int64_t steps;
    if (!foreign_json_seed(g->f, in, "seed"))
        foreign_json_seed(g->f, in, "noise_seed");
    if (foreign_json_int(in, "steps", 1, 1000, &steps))
        g->f->steps = (int)steps;
    foreign_json_number(in, "cfg", 0, 1000, &g->f->guidance);
    foreign_json_number(in, "denoise", 0, 1, &p->denoise);
    if (foreign_json_text(in, "sampler_name"))
        p->sampler = foreign_json_text(in, "sampler_name");
    if (foreign_json_text(in, "scheduler"))
        p->schedule = foreign_json_text(in, "scheduler");
}

static void read_sampler(Graph *g, json_t *node, Parts *p)
{
    static const char *const helpers[] = {"noise", "guider", "sampler", "sigmas", NULL};
    json_t *in = inputs_of(node), *guider = NULL;
    int64_t at;
    *p = (Parts){.denoise = 1};
    read_numbers(g, in, p);
    for (int i = 0; helpers[i]; i++) {
        json_t *helper = linked(g, node, helpers[i]);
        if (!helper)
            continue;
        read_numbers(g, inputs_of(helper), p);
        if (strcmp(helpers[i], "guider") == 0)
            guider = helper;
        if (strcmp(helpers[i], "sigmas") == 0 && !p->schedule && strcmp(class_of(helper), "KarrasScheduler") == 0)
            p->schedule = "karras";
        else if (strcmp(helpers[i], "sigmas") == 0 && !p->schedule)
            foreign_lost(g->f, "schedule of a node of class %s", class_of(helper));
    }
    if (guider && !json_object_get(inputs_of(guider), "cfg"))
        g->f->guidance = 1;
    json_t *from = guider ? guider : node;
    p->model = linked(g, from, "model");
    p->positive = linked(g, from, json_object_get(inputs_of(from), "conditioning") ? "conditioning" : "positive");
    p->negative = linked(g, from, "negative");
    p->latent = linked(g, node, "latent_image");
    if (foreign_json_int(in, "start_at_step", 1, 10000, &at))
        foreign_lost(g->f, "start_at_step %lld", (long long)at);
    if (foreign_json_int(in, "end_at_step", 1, g->f->steps - 1, &at))
        foreign_lost(g->f, "end_at_step %lld", (long long)at);
}

static int convert(Graph *g)
{
    json_t *sampler = find_output(g), *first = NULL, *encode = NULL, *unused = NULL;
    Parts p;
    if (!sampler)
        return err_set(ERR_FORMAT, "the graph has no node of class KSampler, KSamplerAdvanced, SamplerCustom or SamplerCustomAdvanced");
    TRY(read_second_pass(g, sampler, &first));
    read_sampler(g, first ? first : sampler, &p);
    TRY(read_conditioning(g, p.positive, "prompt", &g->f->prompt, &encode));
    if (p.negative)
        TRY(read_conditioning(g, p.negative, "negative prompt", &g->f->negative, &unused));
    TRY(read_model(g, p.model));
    read_clip_skip(g, encode);
    TRY(read_latent(g, p.latent));
    check_denoise(g, p.denoise);
    g->f->strength = p.denoise;
    if (g->f->hires_scale < 0)
        g->f->hires_scale = g->f->width ? -g->f->hires_scale / g->f->width : 1;
    if (g->f->hires && (g->f->hires_scale < 1 || g->f->hires_scale > 8)) {
        foreign_lost(g->f, "second pass at %g times the size", g->f->hires_scale);
        TRY(foreign_set(&g->f->hires, ""));
    }
    foreign_set_seed_compat(g->f, "comfyui");
    return foreign_set_sampler(g->f, p.sampler, p.schedule);
}

int foreign_comfy(Foreign *f, const char *json)
{
    Graph g = {f, NULL, 0};
    f->tool = "ComfyUI";
    TRY(foreign_json_parse(&g.root, json));
    int rc = json_is_object(g.root) ? convert(&g) : err_set(ERR_FORMAT, "the graph is no JSON object");
    json_decref(g.root);
    return rc;
}
