#include "train/adapter.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"

static LoraSpec make_spec(const TrainLoraConf *c, uint64_t seed)
{
    static const NnAdapterKind kinds[] = {NN_ADAPTER_LORA, NN_ADAPTER_LOHA, NN_ADAPTER_LOKR};
    return (LoraSpec){.kind = kinds[c->type],
                      .rank = c->rank,
                      .alpha = c->alpha,
                      .conv_rank = c->conv_rank,
                      .conv_alpha = c->conv_alpha,
                      .rslora = c->rslora,
                      .dora = c->dora,
                      .lokr_factor = c->lokr_factor,
                      .decompose_both = c->decompose_both,
                      .targets = (const char *const *)c->targets.items,
                      .ntargets = c->targets.count,
                      .exclude = (const char *const *)c->exclude.items,
                      .nexclude = c->exclude.count,
                      .seed = seed};
}

static int create_fresh(const TrainConf *c, const NnModules *mods, Lora **lora)
{
    LoraSpec spec = make_spec(&c->lora, c->seed);
    const TrainLoraRuleConf *r = c->lora.rules.items;
    LoraRule *rule = malloc(((size_t)c->lora.rules.count + 1) * sizeof *rule);
    if (!rule)
        return err_set(ERR_NOMEM, "lora: out of memory");
    for (int i = 0; i < c->lora.rules.count; i++)
        rule[i] = (LoraRule){r[i].match, r[i].rank, r[i].alpha};
    spec.rule = rule;
    spec.nrule = c->lora.rules.count;
    int rc = lora_create(lora, &spec, mods);
    free(rule);
    return rc;
}

int train_adapter_create(TrainTask *t, const Pipeline *pipe, Lora **lora)
{
    const TrainConf *c = t->conf;
    NnModules mods = {0};
    int rc = pipeline_modules(pipe, &mods);
    if (rc >= 0 && c->lora.init[0]) {
        rc = lora_load(lora, c->lora.init, &mods);
        if (rc < 0)
            rc = err_context(rc, "lora.init");
    } else if (rc >= 0) {
        rc = create_fresh(c, &mods, lora);
    }
    nn_modules_deinit(&mods);
    TRY(rc);
    lora_set_dropout(*lora, c->lora.dropout, c->lora.rank_dropout, c->lora.module_dropout, c->seed);
    return lora_add_params(*lora, 0, t->params);
}

int train_adapter_position(TrainTask *t, NnCtx *nn, OpRef *position)
{
    const TrainLoraConf *c = &t->conf->lora;
    *position = OP_NONE;
    if (c->dropout > 0 || c->rank_dropout > 0 || c->module_dropout > 0)
        nn->position = *position = graph_input(t->now.g, "position", DTYPE_I64, SHAPE(t->conf->micro_batch));
    return graph_status(t->now.g);
}

int train_adapter_fill(TrainTask *t, OpRef input, int64_t position)
{
    int64_t number[256];
    int n = t->conf->micro_batch;
    if (input < 0)
        return 0;
    for (int i = 0; i < n; i++)
        number[i] = position < 0 ? -1 : position + i;
    return exec_write(t->now.ex, input, number, (size_t)n * sizeof *number);
}

int train_adapter_limit(TrainTask *t, Lora *lora, TrainState *s)
{
    int scaled;
    if (!lora || !(t->conf->lora.max_norm > 0))
        return 0;
    TRY(lora_limit_norm(lora, t->conf->lora.max_norm, &scaled));
    for (int i = 0; scaled && i < s->count; i++) {
        const NnParam *p = nn_params_find(t->params, s->slot[i].name);
        if (p && !strncmp(s->slot[i].name, "lora.", 5))
            memcpy(s->param + s->slot[i].offset, p->data, (size_t)s->slot[i].count * sizeof(float));
    }
    return 0;
}

/* "lora.0.<path>.<leaf>" -> <path>; leaves have at most one dot. */
static int module_path(const char *name, char *out, size_t size)
{
    if (strncmp(name, "lora.", 5) || !strchr(name + 5, '.'))
        return 0;
    snprintf(out, size, "%s", strchr(name + 5, '.') + 1);
    char *dot = strrchr(out, '.');
    if (dot && !strcmp(dot, ".weight")) {
        *dot = 0;
        dot = strrchr(out, '.');
    }
    if (dot)
        *dot = 0;
    return dot != NULL;
}

double train_adapter_lr(const TrainLoraConf *c, const char *name, double lr)
{
    char path[NN_PATH_MAX + 64];
    const TrainLoraRuleConf *r = c->rules.items;
    if (!c->rules.count || !module_path(name, path, sizeof path))
        return lr;
    for (int i = 0; i < c->rules.count; i++)
        if (r[i].lr > 0 && nn_glob(r[i].match, path))
            lr = (double)r[i].lr;
    return lr;
}
