#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "text/template_tree.h"

enum { MAX_NODES = 4000000, MAX_PATHS = 1000 };

const char *const TEMPLATE_MODE_NAMES[] = {"random", "combinatorial", "cyclical", NULL};

typedef struct Binding Binding;
struct Binding {
    const char *name;
    const Ast *value; /* evaluated anew at every use; NULL: slot or text */
    Tree *fixed;      /* TEXT or SLOT */
    int busy;
    Binding *next;
};

/* Wildcards whose values use no variable are built once. */
typedef struct {
    const char *pattern;
    int method;
    Tree *tree;
} Shared;

typedef struct {
    Template *t;
    Arena *a;
    Wildcards *w;
    Shared *shared;
    int nshared, nodes, depth;
    int uses;         /* variables seen so far */
} Builder;

static int build(Builder *b, const Ast *ast, Binding *env, Tree **out);

static int new_tree(Builder *b, TreeKind kind, int method, Tree **out)
{
    *out = NULL;
    if (++b->nodes > MAX_NODES)
        return err_set(ERR_RANGE, "template: more than %d parts once the wildcards are filled in", (int)MAX_NODES);
    if (!(*out = arena_alloc(b->a, sizeof **out)))
        return ERR_NOMEM;
    (*out)->kind = kind;
    (*out)->method = method;
    (*out)->count = 1;
    return 0;
}

static int new_children(Builder *b, Tree *t, int n)
{
    t->n = n;
    t->child = arena_array(b->a, (size_t)(n ? n : 1), sizeof *t->child);
    return t->child ? 0 : ERR_NOMEM;
}

static int64_t own_count(const Tree *t)
{
    return t->method == METHOD_RANDOM || t->method == METHOD_CYCLICAL ? 1 : t->count;
}

/* ---- choices ---- */

/* Children that are alike as texts are one in combinations. */
static int list_children(Builder *b, Tree *t, int wildcard)
{
    int64_t total = 0;
    for (int i = 0; i < t->n; i++)
        total += wildcard ? (t->weight[i] > 1e6 ? 1000000 : (int64_t)t->weight[i]) : 1;
    if (total > MAX_NODES)
        return err_set(ERR_RANGE, "template: the weights of a wildcard's values add up to over %d", (int)MAX_NODES);
    if (!(t->list = arena_array(b->a, (size_t)total + 1, sizeof *t->list)))
        return ERR_NOMEM;
    for (int i = 0; i < t->n; i++)
        for (int k = 0; k < (wildcard ? (int)t->weight[i] : 1); k++)
            t->list[t->nlist++] = i;
    return 0;
}

static int plain_and_different(const Tree *t)
{
    if (t->nlist > 4096)
        return 1;
    for (int i = 0; i < t->nlist; i++) {
        const Tree *x = t->child[t->list[i]];
        if (x->kind != TREE_TEXT)
            return 0;
        for (int k = 0; k < i; k++)
            if (strcmp(x->text, t->child[t->list[k]]->text) == 0)
                return 0;
    }
    return 1;
}

static uint64_t hash_text(const char *s, size_t n)
{
    uint64_t h = 1469598103934665603u;
    for (size_t i = 0; i < n; i++)
        h = (h ^ (unsigned char)s[i]) * 1099511628211u;
    return h ^ h >> 29;
}

typedef struct {
    StrBuf text;
    size_t *at;    /* [slots] place of a key in text + 1; 0: free */
    size_t mask;
} Seen;

/* 1 when the key is new. */
static int seen_add(Seen *s, const StrBuf *key)
{
    size_t i = (size_t)hash_text(key->data, key->len) & s->mask;
    for (; s->at[i]; i = (i + 1) & s->mask) {
        const char *have = s->text.data + s->at[i] - 1;
        size_t n;
        memcpy(&n, have, sizeof n);
        if (n == key->len && memcmp(have + sizeof n, key->data, n) == 0)
            return 0;
    }
    s->at[i] = s->text.len + 1;
    str_add_bytes(&s->text, &key->len, sizeof key->len);
    str_add_bytes(&s->text, key->data, key->len);
    return 1;
}

/* Lists the expansions that differ from all before them and in themselves. */
static int find_unique(Builder *b, Tree *t)
{
    int32_t *keep = malloc((size_t)t->count * sizeof *keep);
    Seen seen = {.at = calloc((size_t)TREE_MAX_ENUMERATED * 2, sizeof *seen.at), .mask = (size_t)TREE_MAX_ENUMERATED * 2 - 1};
    StrBuf key;
    int n = 0, rc = keep && seen.at ? 0 : err_set(ERR_NOMEM, "out of memory: template");
    str_init(&key);
    str_init(&seen.text);
    for (int64_t k = 0; k < t->count && rc >= 0; k++) {
        int same;
        str_clear(&key);
        rc = tree_key(b->t, t, k, &key, &same);
        if (rc >= 0 && !same && seen_add(&seen, &key))
            keep[n++] = (int32_t)k;
        if (rc >= 0)
            rc = str_status(&seen.text);
    }
    if (rc >= 0 && n < t->count) {
        t->unique = arena_array(b->a, (size_t)n + 1, sizeof *t->unique);
        if (!t->unique)
            rc = ERR_NOMEM;
        else
            memcpy(t->unique, keep, (size_t)n * sizeof *keep);
        t->count = n;
    }
    free(keep);
    free(seen.at);
    str_deinit(&key);
    str_deinit(&seen.text);
    return rc;
}

/* Sum over all arrangements of the products of their members' counts. */
static int64_t count_unequal(const Tree *t, int taken, int32_t *used, int left)
{
    int64_t sum = 0;
    if (!left)
        return 1;
    for (int i = 0; i < t->nlist && sum < TREE_MANY; i++) {
        int skip = 0;
        for (int k = 0; k < taken; k++)
            skip |= used[k] == i;
        if (skip)
            continue;
        used[taken] = i;
        int64_t more = tree_multiply(own_count(t->child[t->list[i]]), count_unequal(t, taken + 1, used, left - 1));
        sum = more >= TREE_MANY - sum ? TREE_MANY : sum + more;
    }
    return sum;
}

static int count_pick(Builder *b, Tree *t, int wildcard)
{
    t->each = t->nlist ? own_count(t->child[t->list[0]]) : 1;
    for (int i = 1; i < t->nlist; i++)
        if (own_count(t->child[t->list[i]]) != t->each)
            t->each = 0;
    t->min = t->min > t->nlist ? t->nlist : t->min;
    t->max = t->max > t->nlist ? t->nlist : t->max;
    t->count = 0;
    for (int k = t->min; k <= t->max; k++) {
        int64_t n = tree_arrangements(t->nlist, k), more;
        if (t->each) {
            more = n;
            for (int i = 0; i < k; i++)
                more = tree_multiply(more, t->each);
        } else {
            int32_t used[64];
            if (k > 1 && (n > TREE_MAX_ENUMERATED || k > 64)) {
                if (b->t->mode == TEMPLATE_COMBINATORIAL)
                    return err_set(ERR_RANGE, "template: {%d$$...} of parts with different numbers of variants makes over %d arrangements", k,
                                   (int)TREE_MAX_ENUMERATED);
                more = TREE_MANY;
            } else {
                more = count_unequal(t, 0, used, k);
            }
        }
        t->count = more >= TREE_MANY - t->count ? TREE_MANY : t->count + more;
    }
    if (wildcard || b->t->mode != TEMPLATE_COMBINATORIAL || t->count > TREE_MAX_ENUMERATED || plain_and_different(t))
        return 0;
    return find_unique(b, t);
}

static int build_value(Builder *b, const char *text, const char *name, Binding *env, Tree **out)
{
    Ast *ast;
    char what[160];
    snprintf(what, sizeof what, "wildcard __%.100s__", name);
    TRY(template_parse(&ast, b->a, text, what));
    TRY_CTX(build(b, ast, env, out), "%s", what);
    return 0;
}

/* The values of one name; as a choice of `min` to `max` of them. */
static int build_values(Builder *b, const char *pattern, int method, const Ast *variant, Binding *env, Tree **out)
{
    const WildcardValue *value;
    int n, uses = b->uses;
    for (int i = 0; i < b->nshared && !variant; i++)
        if (b->shared[i].method == method && strcmp(b->shared[i].pattern, pattern) == 0) {
            *out = b->shared[i].tree;
            return 0;
        }
    TRY(wildcards_get(b->w, pattern, &value, &n));
    TRY(new_tree(b, TREE_PICK, method, out));
    Tree *t = *out;
    double *weight = arena_array(b->a, (size_t)n, sizeof *weight);
    if (!weight)
        return ERR_NOMEM;
    TRY(new_children(b, t, n));
    for (int i = 0; i < n; i++) {
        weight[i] = value[i].weight;
        TRY(build_value(b, value[i].text, pattern, env, &t->child[i]));
    }
    t->weight = weight;
    t->text = variant ? variant->text : ",";
    t->min = variant ? variant->min : 1;
    t->max = !variant ? 1 : variant->max < 0 ? n : variant->max;
    if (t->min > t->max) {
        int low = t->max;
        t->max = t->min;
        t->min = low;
    }
    TRY(list_children(b, t, 1));
    TRY(count_pick(b, t, !variant));
    if (variant || b->uses != uses)
        return 0;
    Shared *grown = realloc(b->shared, ((size_t)b->nshared + 1) * sizeof *grown);
    if (!grown)
        return err_set(ERR_NOMEM, "out of memory: template");
    b->shared = grown;
    b->shared[b->nshared++] = (Shared){arena_text(b->a, pattern, strlen(pattern)), method, t};
    return b->shared[b->nshared - 1].pattern ? 0 : ERR_NOMEM;
}

/* ---- wildcards ---- */

static int bind(Builder *b, Binding **env, const char *name, const Ast *value, Tree *fixed)
{
    Binding *x = arena_alloc(b->a, sizeof *x);
    if (!x)
        return ERR_NOMEM;
    *x = (Binding){.name = name, .value = value, .fixed = fixed, .next = *env};
    *env = x;
    return 0;
}

static Binding *lookup(Binding *env, const char *name)
{
    while (env && strcmp(env->name, name) != 0)
        env = env->next;
    return env;
}

/* An unset variable in a path stands for its own name, as in dynamicprompts. */
static int bind_path(Builder *b, const Ast *path, Binding **env)
{
    for (int i = 0; i < path->count; i++) {
        const Ast *g = path->child[i];
        if (g->kind != AST_GET || g->count || lookup(*env, g->text))
            continue;
        Tree *t;
        TRY(new_tree(b, TREE_TEXT, 0, &t));
        t->text = g->text;
        TRY(bind(b, env, g->text, NULL, t));
    }
    return 0;
}

static int has_slot(const Tree *t)
{
    int found = t->kind == TREE_SLOT;
    for (int i = 0; i < t->n && !found; i++)
        found = has_slot(t->child[i]);
    return found;
}

static void trim(StrBuf *s)
{
    while (s->len && (unsigned char)s->data[s->len - 1] <= ' ')
        s->data[--s->len] = 0;
}

/* A path with choices in it is a choice between the wildcards of all its expansions. */
static int build_paths(Builder *b, const Ast *wild, const Ast *variant, Binding *env, const Tree *path, Tree **out)
{
    Template one = {.mode = TEMPLATE_COMBINATORIAL, .root = (Tree *)path, .nslots = b->t->nslots};
    Tree *t;
    StrBuf name;
    int rc = 0;
    if (path->count > MAX_PATHS)
        return err_set(ERR_RANGE, "template: a wildcard's name with more than %d expansions", (int)MAX_PATHS);
    if (has_slot(path))
        return err_set(ERR_UNSUPPORTED, "template: the name of a wildcard uses a variable that was set with '=!' to several values; set it without '!'");
    TRY(new_tree(b, TREE_PICK, wild->method, &t));
    TRY(new_children(b, t, (int)path->count));
    double *weight = arena_array(b->a, (size_t)path->count + 1, sizeof *weight);
    if (!weight)
        return ERR_NOMEM;
    str_init(&name);
    for (int i = 0; i < t->n && rc >= 0; i++) {
        str_clear(&name);
        weight[i] = 1;
        rc = template_expand(&one, 0, (uint64_t)i, &name);
        trim(&name);
        if (rc >= 0)
            rc = build_values(b, name.data, t->n == 1 ? wild->method : METHOD_NONE, variant, env, &t->child[i]);
    }
    str_deinit(&name);
    TRY(rc);
    *out = t->n == 1 ? t->child[0] : t;
    t->weight = weight;
    t->text = "";
    t->min = t->max = 1;
    return t->n == 1 ? 0 : list_children(b, t, 0) < 0 ? ERR_NOMEM : count_pick(b, t, 1);
}

static int build_wild(Builder *b, const Ast *wild, const Ast *variant, Binding *env, Tree **out)
{
    Tree *path;
    Binding *inner = env;
    for (int i = 1; i < wild->count; i++)
        TRY(bind(b, &inner, wild->name[i], wild->child[i], NULL));
    TemplateMode mode = b->t->mode;
    TRY(bind_path(b, wild->child[0], &env));
    b->t->mode = TEMPLATE_COMBINATORIAL;
    int rc = build(b, wild->child[0], env, &path);
    b->t->mode = mode;
    TRY(rc);
    return build_paths(b, wild, variant, inner, path, out);
}

/* ---- the rest ---- */

static const Ast *only_wildcard(const Ast *v)
{
    const Ast *list = v->count == 1 ? v->child[0] : NULL;
    return list && list->count == 1 && list->child[0]->kind == AST_WILD ? list->child[0] : NULL;
}

static int build_variant(Builder *b, const Ast *v, Binding *env, Tree **out)
{
    const Ast *wild = only_wildcard(v);
    Tree *t;
    if (wild) {
        TRY(build_wild(b, wild, v, env, out));
        if (v->method && !wild->method) {
            TRY(new_tree(b, TREE_SEQ, v->method, &t));
            TRY(new_children(b, t, 1));
            t->child[0] = *out;
            t->count = (*out)->count;
            *out = t;
        }
        return 0;
    }
    TRY(new_tree(b, TREE_PICK, v->method, out));
    t = *out;
    TRY(new_children(b, t, v->count));
    for (int i = 0; i < v->count; i++)
        TRY(build(b, v->child[i], env, &t->child[i]));
    t->weight = v->weight;
    t->text = v->text;
    t->min = v->min;
    t->max = v->max < 0 ? v->count : v->max;
    if (t->min > t->max) {
        t->min = t->max;
        t->max = v->min;
    }
    TRY(list_children(b, t, 0));
    return count_pick(b, t, 0);
}

static int build_get(Builder *b, const Ast *g, Binding *env, Tree **out)
{
    Binding *x = lookup(env, g->text);
    b->uses++;
    if (!x && g->count)
        return build(b, g->child[0], env, out);
    if (!x)
        return err_set(ERR_NOTFOUND, "template: variable '%s' is not set; write ${%s=VALUE} before, or ${%s:DEFAULT}", g->text, g->text, g->text);
    if (x->fixed) {
        *out = x->fixed;
        return 0;
    }
    if (x->busy)
        return err_set(ERR_RANGE, "template: variable '%s' refers to itself", g->text);
    x->busy = 1;
    int rc = build(b, x->value, env, out);
    x->busy = 0;
    return rc;
}

/* An assignment changes env; *let: a LET to be evaluated first, or NULL. */
static int build_set(Builder *b, const Ast *s, Binding **env, Tree **let)
{
    Tree *t, *slot;
    *let = NULL;
    if (s->keep && lookup(*env, s->text))
        return 0;
    if (!s->immediate)
        return bind(b, env, s->text, s->child[0], NULL);
    TRY(build(b, s->child[0], *env, &t));
    if (t->kind == TREE_TEXT)
        return bind(b, env, s->text, NULL, t);
    if (b->t->nslots == TREE_MAX_SLOTS)
        return err_set(ERR_RANGE, "template: more than %d variables set with '=!'", (int)TREE_MAX_SLOTS);
    TRY(new_tree(b, TREE_SLOT, 0, &slot));
    TRY(new_tree(b, TREE_LET, 0, let));
    TRY(new_children(b, *let, 1));
    (*let)->child[0] = t;
    (*let)->count = own_count(t);
    slot->slot = (*let)->slot = b->t->nslots++;
    b->uses++;
    return bind(b, env, s->text, NULL, slot);
}

static int build_list(Builder *b, const Ast *list, Binding *env, Tree **out)
{
    TRY(new_tree(b, TREE_SEQ, 0, out));
    Tree *t = *out, *part;
    TRY(new_children(b, t, list->count));
    t->n = 0;
    for (int i = 0; i < list->count; i++)
        if (list->child[i]->kind == AST_SET) {
            TRY(build_set(b, list->child[i], &env, &part));
            if (part)
                t->child[t->n++] = part;
        }
    for (int i = 0; i < list->count; i++)
        if (list->child[i]->kind != AST_SET)
            TRY(build(b, list->child[i], env, &t->child[t->n++]));
    for (int i = 0; i < t->n; i++)
        t->count = tree_multiply(t->count, own_count(t->child[i]));
    if (t->n == 1 && t->child[0]->kind != TREE_LET)
        *out = t->child[0];
    if (t->n == 0) {
        t->kind = TREE_TEXT;
        t->text = "";
    }
    return 0;
}

static int build_node(Builder *b, const Ast *ast, Binding *env, Tree **out)
{
    switch (ast->kind) {
    case AST_LIST: return build_list(b, ast, env, out);
    case AST_VARIANT: return build_variant(b, ast, env, out);
    case AST_WILD: return build_wild(b, ast, NULL, env, out);
    case AST_GET: return build_get(b, ast, env, out);
    case AST_WRAP:
        TRY(new_tree(b, TREE_WRAP, 0, out));
        TRY(new_children(b, *out, 2));
        for (int i = 0; i < 2; i++) {
            TRY(build(b, ast->child[i], env, &(*out)->child[i]));
            (*out)->count = tree_multiply((*out)->count, own_count((*out)->child[i]));
        }
        return 0;
    default:
        TRY(new_tree(b, TREE_TEXT, 0, out));
        (*out)->text = ast->text ? ast->text : "";
        return 0;
    }
}

static int build(Builder *b, const Ast *ast, Binding *env, Tree **out)
{
    if (++b->depth > 4 * TEMPLATE_MAX_DEPTH)
        return err_set(ERR_RANGE, "template: nested too deeply: a wildcard refers to itself");
    int rc = build_node(b, ast, env, out);
    b->depth--;
    return rc;
}

int template_create(Template **out, const char *text, Wildcards *w, TemplateMode mode)
{
    Template *t = calloc(1, sizeof *t);
    if (!t)
        return err_set(ERR_NOMEM, "out of memory: template");
    arena_init(&t->arena, 0);
    t->mode = mode;
    Builder b = {.t = t, .a = &t->arena, .w = w};
    Ast *ast;
    int rc = template_parse(&ast, &t->arena, text, "template");
    if (rc >= 0)
        rc = build(&b, ast, NULL, &t->root);
    free(b.shared);
    if (rc < 0) {
        template_destroy(t);
        return rc;
    }
    *out = t;
    return 0;
}

void template_destroy(Template *t)
{
    if (!t)
        return;
    arena_deinit(&t->arena);
    free(t);
}

int64_t template_count(const Template *t)
{
    return t->mode == TEMPLATE_COMBINATORIAL ? own_count(t->root) : 0;
}
