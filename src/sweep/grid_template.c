#include <stdlib.h>
#include <string.h>

#include "io/file.h"
#include "sweep/grid.h"
#include "text/prompt.h"


/* ---- templates as an axis ---- */

void sweep_templates_destroy(SweepTemplates *t)
{
    if (!t)
        return;
    for (int i = 0; i < t->count; i++) {
        template_destroy(t->item[i]);
        free(t->text[i]);
    }
    free(t->item);
    free(t->text);
    free(t->first);
    free(t);
}

static int add_template(SweepGrid *g, SweepTemplates *t, const ConfNode *n, const char *what, TemplateMode mode, int64_t count)
{
    const char *text;
    TRY(conf_node_text(n, what, &text));
    int i = t->count;
    char place[200];
    conf_node_place(n, what, place, sizeof place);
    TRY_CTX(template_create(&t->item[i], text, g->wildcards, mode), "%s", place);
    t->count++;
    TRY(str_copy(&t->text[i], text));
    int64_t all = mode == TEMPLATE_COMBINATORIAL ? template_count(t->item[i]) : count;
    if (count && all > count)
        all = count;
    if (all < 1)
        return conf_node_error(n, ERR_RANGE, what, "the template has no expansion");
    if (all > SWEEP_MAX_ITEMS - t->first[i])
        return conf_node_error(n, ERR_RANGE, what, "the template has %s%lld expansions: at most %d; set count", all == INT64_MAX ? "over " : "",
                               (long long)all, SWEEP_MAX_ITEMS);
    t->first[i + 1] = t->first[i] + all;
    t->tags |= strstr(text, "<lora:") != NULL || strstr(text, "__") != NULL;
    return 0;
}

static int read_mode(TemplateMode *mode, const ConfNode *n, const char *what)
{
    const char *text;
    *mode = TEMPLATE_RANDOM;
    if (!n)
        return 0;
    TRY(conf_node_text(n, what, &text));
    for (int i = 0; TEMPLATE_MODE_NAMES[i]; i++)
        if (strcmp(text, TEMPLATE_MODE_NAMES[i]) == 0) {
            *mode = (TemplateMode)i;
            return 0;
        }
    return conf_node_error(n, ERR_RANGE, what, "mode: expected random, combinatorial or cyclical, got '%s'", text);
}

static int check_keys(const ConfNode *n, const char *what)
{
    static const char *const keys[] = {"template", "mode", "count", "seed"};
    for (int i = 0; i < n->count; i++) {
        int known = 0;
        for (size_t k = 0; k < sizeof keys / sizeof *keys; k++)
            known |= strcmp(n->keys[i], keys[k]) == 0;
        if (!known)
            return conf_node_error(n->items[i], ERR_NOTFOUND, what, "'%s': a template takes template, mode, count and seed", n->keys[i]);
    }
    return 0;
}

int sweep_axis_templates(SweepGrid *g, SweepAxis *a, SweepField field, const ConfNode *n, const char *what)
{
    const ConfNode *text = conf_node_find(n, "template"), *count = conf_node_find(n, "count"), *seed = conf_node_find(n, "seed");
    TemplateMode mode;
    int64_t number = 0;
    TRY(check_keys(n, what));
    TRY(read_mode(&mode, conf_node_find(n, "mode"), what));
    if (count)
        TRY(conf_node_i64(count, what, &number));
    if (count ? number < 1 || number > SWEEP_MAX_ITEMS : mode != TEMPLATE_COMBINATORIAL)
        return conf_node_error(count ? count : n, ERR_RANGE, what, "count: expected how many to draw of each template, 1..%d", SWEEP_MAX_ITEMS);
    int list = text->kind == CONF_NODE_LIST, many = list ? text->count : 1;
    SweepTemplates *t = a->templates = calloc(1, sizeof *t);
    if (!t || many < 1)
        return t ? conf_node_error(text, ERR_RANGE, what, "an empty list of templates") : err_set(ERR_NOMEM, "out of memory");
    t->field = field;
    t->item = calloc((size_t)many, sizeof *t->item);
    t->text = calloc((size_t)many, sizeof *t->text);
    t->first = calloc((size_t)many + 1, sizeof *t->first);
    if (!t->item || !t->text || !t->first)
        return err_set(ERR_NOMEM, "out of memory");
    if (seed)
        TRY(conf_node_u64(seed, what, &t->seed));
    for (int i = 0; i < many; i++)
        TRY(add_template(g, t, list ? text->items[i] : text, what, mode, number));
    a->set = 1u << field;
    a->count = t->first[many];
    return 0;
}

int sweep_templates_expand(const SweepTemplates *t, int64_t place, StrBuf *out)
{
    int i = 0;
    while (i + 1 < t->count && place >= t->first[i + 1])
        i++;
    return template_expand(t->item[i], t->seed, (uint64_t)(place - t->first[i]), out);
}

/* ---- adapters named in prompts ---- */

struct SweepTags {
    SweepLora *file; /* sorted by name */
    int count;
    char *folder;
};

void sweep_tags_close(struct SweepTags *t)
{
    if (!t)
        return;
    for (int i = 0; i < t->count; i++) {
        free(t->file[i].name);
        free(t->file[i].path);
    }
    free(t->file);
    free(t->folder);
    free(t);
}

static int list_files(struct SweepTags *t, const char *folder)
{
    static const char ext[] = ".safetensors";
    IoNames names;
    int rc = 0;
    TRY_CTX(io_dir_list(&names, folder, ext), "key 'loras'");
    t->file = calloc((size_t)names.count + 1, sizeof *t->file);
    if (!t->file)
        rc = err_set(ERR_NOMEM, "out of memory");
    for (int i = 0; i < names.count && rc >= 0; i++) {
        SweepLora *f = &t->file[t->count];
        f->scale = 1;
        rc = str_format(&f->name, "%.*s", (int)(strlen(names.items[i]) - (sizeof ext - 1)), names.items[i]);
        if (rc >= 0)
            rc = io_path_join(&f->path, folder, names.items[i]);
        t->count++;
    }
    io_names_deinit(&names);
    return rc;
}

int sweep_tags_open(struct SweepTags **out, const char *folder)
{
    struct SweepTags *t = calloc(1, sizeof *t);
    if (!t)
        return err_set(ERR_NOMEM, "out of memory");
    int rc = str_copy(&t->folder, folder ? folder : "");
    if (rc >= 0 && folder && *folder)
        rc = list_files(t, folder);
    if (rc < 0) {
        sweep_tags_close(t);
        return rc;
    }
    *out = t;
    return 0;
}

static int add_tag(const struct SweepTags *t, const PromptLora *tag, SweepItem *it)
{
    const SweepLora *f = NULL;
    for (int i = 0; i < t->count && !f; i++)
        if (strcmp(t->file[i].name, tag->name) == 0)
            f = &t->file[i];
    for (int i = 0; i < it->nlora; i++)
        if (f ? strcmp(it->lora[i].path, f->path) == 0 : strcmp(it->lora[i].name, tag->name) == 0) {
            it->lora[i].scale += tag->scale;
            return 0;
        }
    if (!f) {
        const char *near = NULL, **names = calloc((size_t)t->count + 1, sizeof *names);
        for (int i = 0; names && i < t->count; i++)
            names[i] = t->file[i].name;
        near = names ? str_nearest(tag->name, names, t->count) : NULL;
        free(names);
        if (!*t->folder)
            return err_set(ERR_NOTFOUND, "<lora:%s:%g>: set the key 'loras' to the folder of the LoRA files", tag->name, tag->scale);
        return err_set(ERR_NOTFOUND, "<lora:%s:%g>: there is no %s/%s.safetensors%s%s%s", tag->name, tag->scale, t->folder, tag->name,
                       near ? "; did you mean '" : "", near ? near : "", near ? "'?" : "");
    }
    if (it->nlora == RENDER_MAX_LORA)
        return err_set(ERR_RANGE, "more than %d LoRAs at once", RENDER_MAX_LORA);
    it->lora[it->nlora] = *f;
    it->lora[it->nlora++].scale = tag->scale;
    return 0;
}

int sweep_tags_add(const struct SweepTags *t, const char *text, SweepItem *it)
{
    Prompt p;
    char *rest;
    if (!text || !strstr(text, "<lora:"))
        return 0;
    TRY(prompt_take_loras(&p, &rest, text, (PromptRules)it->rules));
    int rc = 0;
    for (int i = 0; i < p.nlora && rc >= 0; i++)
        rc = add_tag(t, &p.lora[i], it);
    free(rest);
    prompt_deinit(&p);
    return rc;
}
