#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "text/template_tree.h"

typedef struct {
    StrBuf slot[TREE_MAX_SLOTS];
    RngStream rng;
    uint64_t item;
    int opaque; /* slots are written as marks: their values are not known yet */
    int rc;
} Eval;

static void eval(Eval *e, const Tree *t, int mode, uint64_t k, StrBuf *out);

int64_t tree_multiply(int64_t k, int64_t l)
{
    int64_t r;
    return k == TREE_MANY || l == TREE_MANY || __builtin_mul_overflow(k, l, &r) || r >= (int64_t)1 << 62 ? (k && l ? TREE_MANY : 0) : r;
}

int64_t tree_arrangements(int n, int b)
{
    int64_t r = 1;
    for (int i = 0; i < b; i++)
        r = tree_multiply(r, n - i);
    return r;
}

static int64_t child_count(const Tree *t)
{
    return t->method == METHOD_RANDOM || t->method == METHOD_CYCLICAL ? 1 : t->count;
}

/* Place number `skip` among those not used. */
static int32_t nth_free(const int32_t *used, int taken, int64_t skip)
{
    int32_t i = 0;
    for (;; i++) {
        int busy = 0;
        for (int k = 0; k < taken; k++)
            busy |= used[k] == i;
        if (!busy && skip-- == 0)
            return i;
    }
}

static void unrank_arrangement(int n, int b, int64_t k, int32_t *place)
{
    for (int i = 0; i < b; i++) {
        int64_t below = tree_arrangements(n - i - 1, b - i - 1);
        place[i] = nth_free(place, i, below == TREE_MANY ? 0 : k / below);
        k = below == TREE_MANY ? k : k % below;
    }
}

static int64_t product(const Tree *t, const int32_t *place, int b)
{
    int64_t r = 1;
    for (int i = 0; i < b; i++)
        r = tree_multiply(r, child_count(t->child[t->list[place[i]]]));
    return r;
}

/* Arrangements one after the other, each with the expansions of its members. */
static int64_t skip_arrangements(const Tree *t, int b, int64_t k, int32_t *place)
{
    int64_t n = tree_arrangements(t->nlist, b);
    for (int64_t i = 0; i < n; i++) {
        unrank_arrangement(t->nlist, b, i, place);
        int64_t here = product(t, place, b);
        if (k < here)
            return k;
        k -= here;
    }
    return -1 - k; /* not among b at once; what is left */
}

int tree_unrank(const Tree *t, int64_t k, int *b, int32_t *place, int64_t *sub)
{
    for (*b = t->min; *b <= t->max; (*b)++) {
        if (t->each) {
            int64_t inner = 1, n = tree_arrangements(t->nlist, *b);
            for (int i = 0; i < *b; i++)
                inner = tree_multiply(inner, t->each);
            int64_t here = tree_multiply(n, inner);
            if (k >= here && here != TREE_MANY) {
                k -= here;
                continue;
            }
            unrank_arrangement(t->nlist, *b, inner == TREE_MANY ? 0 : k / inner, place);
            k = inner == TREE_MANY ? k : k % inner;
        } else {
            k = skip_arrangements(t, *b, k, place);
            if (k < 0) {
                k = -1 - k;
                continue;
            }
        }
        for (int i = *b - 1; i >= 0; i--) {
            int64_t n = child_count(t->child[t->list[place[i]]]);
            sub[i] = n > 0 ? k % n : 0;
            k = n > 0 ? k / n : 0;
        }
        return 0;
    }
    *b = 0;
    return -1;
}

/* ---- joining ---- */

static void cut(StrBuf *out, size_t at, size_t n)
{
    memmove(out->data + at, out->data + at + n, out->len - at - n + 1);
    out->len -= n;
}

/* dynamicprompts takes one separator off both ends: parts may be empty. */
static void strip_separator(StrBuf *out, size_t start, const char *separator)
{
    size_t n = strlen(separator);
    if (!n || out->failed)
        return;
    if (out->len - start >= n && memcmp(out->data + start, separator, n) == 0)
        cut(out, start, n);
    if (out->len - start >= n && memcmp(out->data + out->len - n, separator, n) == 0)
        cut(out, out->len - n, n);
}

static void join(Eval *e, const Tree *t, const int32_t *place, int b, int mode, const int64_t *sub, StrBuf *out)
{
    size_t start = out->len;
    for (int i = 0; i < b; i++) {
        if (i)
            str_add(out, t->text);
        eval(e, t->child[place[i]], mode, (uint64_t)sub[i], out);
    }
    if (b > 1)
        strip_separator(out, start, t->text);
}

/* ---- the three samplers ---- */

static int draw_weighted(Eval *e, const Tree *t, const int32_t *used, int taken)
{
    double sum = 0, first = -1;
    int equal = 1, last = 0;
    for (int pass = 0; pass < 2; pass++) {
        double u = pass ? (double)(rng_stream_u64(&e->rng) >> 11) * 0x1p-53 * sum : 0;
        for (int i = 0; i < t->n; i++) {
            int busy = 0;
            for (int k = 0; k < taken; k++)
                busy |= used[k] == i;
            if (busy)
                continue;
            double w = t->weight[i];
            if (!pass) {
                sum += w;
                equal &= first < 0 || !(w < first || w > first);
                first = first < 0 ? w : first;
                continue;
            }
            last = w > 0 ? i : last;
            u -= w;
            if (u < 0 && w > 0)
                return i;
        }
        if (!pass && (equal || !(sum > 0)))
            return nth_free(used, taken, (int64_t)rng_stream_below(&e->rng, (uint64_t)(t->n - taken)));
    }
    return last;
}

static void pick_random(Eval *e, const Tree *t, StrBuf *out)
{
    int max = t->max < t->n ? t->max : t->n, min = t->min < max ? t->min : max;
    int b = t->n == 1 ? 1 : min == max ? max : min + (int)rng_stream_below(&e->rng, (uint64_t)(max - min + 1));
    int32_t *place = malloc((size_t)(b + 1) * sizeof *place);
    int64_t *sub = calloc((size_t)b + 1, sizeof *sub);
    if (!place || !sub)
        e->rc = err_set(ERR_NOMEM, "out of memory: template");
    for (int i = 0; i < b && e->rc >= 0; i++)
        place[i] = t->n == 1 ? 0 : draw_weighted(e, t, place, i);
    if (e->rc >= 0)
        join(e, t, place, b, METHOD_RANDOM, sub, out);
    free(place);
    free(sub);
}

static void pick_numbered(Eval *e, const Tree *t, int mode, uint64_t k, StrBuf *out)
{
    int b = t->max;
    int32_t *place = malloc((size_t)(b + 1) * sizeof *place);
    int64_t *sub = calloc((size_t)b + 1, sizeof *sub);
    if (!place || !sub) {
        e->rc = err_set(ERR_NOMEM, "out of memory: template");
    } else if (mode == METHOD_COMBINATORIAL) {
        int64_t n = t->unique ? t->unique[k % (uint64_t)t->count] : (int64_t)k;
        tree_unrank(t, n, &b, place, sub);
    } else { /* takes turns; what is inside moves on once per round */
        int64_t all = 0, n;
        for (int i = t->min; i <= t->max && all < TREE_MANY; i++)
            all = tree_arrangements(t->nlist, i) >= TREE_MANY - all ? TREE_MANY : all + tree_arrangements(t->nlist, i);
        int64_t at = all > 0 ? (int64_t)(k % (uint64_t)all) : 0;
        for (b = t->min; b < t->max && at >= (n = tree_arrangements(t->nlist, b)); b++)
            at -= n;
        b = t->nlist ? b : 0;
        unrank_arrangement(t->nlist, b, at, place);
        for (int i = 0; i < b; i++)
            sub[i] = (int64_t)(k / (uint64_t)(all ? all : 1));
    }
    for (int i = 0; i < b && e->rc >= 0; i++)
        place[i] = t->list[place[i]];
    if (e->rc >= 0)
        join(e, t, place, b, mode, sub, out);
    free(place);
    free(sub);
}

static void pick(Eval *e, const Tree *t, int mode, uint64_t k, StrBuf *out)
{
    if (mode == METHOD_RANDOM)
        pick_random(e, t, out);
    else
        pick_numbered(e, t, mode, k, out);
}

/* Dots of dynamicprompts' wrap_command.py: three or more '.', or one of some ellipsis characters. *n: their length. */
static const char *find_dots(const char *s, size_t *n)
{
    static const char *const marks[] = {"\u1801", "\u2026", "\u22ee", "\u22ef", "\u22f0", "\u22f1", "\ufe19"};
    for (; *s; s++) {
        *n = strspn(s, ".");
        if (*n >= 3)
            return s;
        for (size_t i = 0, again = 1; again; i = 0) {
            for (again = 0; i < sizeof marks / sizeof *marks; i++)
                if (strncmp(s + (*n >= 3 ? *n : 0), marks[i], 3) == 0) {
                    *n = *n >= 3 ? *n + 3 : 3;
                    again = 1;
                }
        }
        if (*n >= 3)
            return s;
    }
    *n = 0;
    return s;
}

static void wrap(Eval *e, const Tree *t, int mode, uint64_t k, StrBuf *out)
{
    StrBuf b;
    uint64_t inner = (uint64_t)child_count(t->child[1]);
    size_t n;
    str_init(&b);
    eval(e, t->child[0], mode, mode == METHOD_COMBINATORIAL && inner ? k / inner : k, &b);
    const char *text = b.data, *dots = find_dots(text, &n);
    str_add_bytes(out, text, (size_t)(dots - text));
    eval(e, t->child[1], mode, mode == METHOD_COMBINATORIAL && inner ? k % inner : k, out);
    str_add(out, dots + n);
    out->failed |= b.failed;
    str_deinit(&b);
}

/* The last part changes fastest: the number of expansions of all parts after it divides a part's turn. */
static void sequence(Eval *e, const Tree *t, int mode, uint64_t k, StrBuf *out)
{
    int64_t after = 1;
    for (int i = 0; i < t->n; i++)
        after = tree_multiply(after, child_count(t->child[i]));
    for (int i = 0; i < t->n; i++) {
        int64_t n = child_count(t->child[i]);
        if (mode != METHOD_COMBINATORIAL) {
            eval(e, t->child[i], mode, k, out);
            continue;
        }
        if (after == TREE_MANY) { /* find it anew without this part */
            after = 1;
            for (int j = i + 1; j < t->n; j++)
                after = tree_multiply(after, child_count(t->child[j]));
        } else {
            after = n > 0 ? after / n : 0;
        }
        eval(e, t->child[i], mode, after == TREE_MANY || after == 0 ? 0 : k / (uint64_t)after, out);
        k = after == TREE_MANY || after == 0 ? k : k % (uint64_t)after;
    }
}

static void eval(Eval *e, const Tree *t, int mode, uint64_t k, StrBuf *out)
{
    if (e->rc < 0)
        return;
    if (t->method && t->method != mode && !(t->method == METHOD_COMBINATORIAL)) {
        mode = t->method;
        k = e->item;
    }
    switch (t->kind) {
    case TREE_TEXT: str_add(out, t->text); break;
    case TREE_SLOT:
        if (e->opaque)
            str_add_format(out, "\x01%d\x01", t->slot);
        else
            str_add(out, e->slot[t->slot].data ? e->slot[t->slot].data : "");
        break;
    case TREE_LET:
        str_clear(&e->slot[t->slot]);
        eval(e, t->child[0], mode, k, &e->slot[t->slot]);
        out->failed |= e->slot[t->slot].failed;
        break;
    case TREE_SEQ: sequence(e, t, mode, k, out); break;
    case TREE_PICK: pick(e, t, mode, k, out); break;
    case TREE_WRAP: wrap(e, t, mode, k, out); break;
    }
}

static int mode_of(const Template *t)
{
    return t->mode == TEMPLATE_RANDOM ? METHOD_RANDOM : t->mode == TEMPLATE_CYCLICAL ? METHOD_CYCLICAL : METHOD_COMBINATORIAL;
}

static Eval *eval_create(int nslots, uint64_t seed, uint64_t item)
{
    Eval *e = calloc(1, sizeof *e);
    if (!e)
        return NULL;
    for (int i = 0; i < nslots; i++)
        str_init(&e->slot[i]);
    e->rng = rng_stream(rng_key(seed, RNG_WILDCARD, item, 0));
    e->item = item;
    return e;
}

static void eval_destroy(Eval *e, int nslots)
{
    for (int i = 0; i < nslots; i++)
        str_deinit(&e->slot[i]);
    free(e);
}

int tree_key(const Template *t, const Tree *p, int64_t k, StrBuf *out, int *same)
{
    Eval *e = eval_create(t->nslots, 0, 0);
    int32_t *place = malloc((size_t)(p->max + 1) * sizeof *place);
    int64_t *sub = calloc((size_t)p->max + 1, sizeof *sub);
    size_t *at = malloc((size_t)(p->max + 1) * sizeof *at);
    int b = 0, rc = e && place && sub && at ? 0 : err_set(ERR_NOMEM, "out of memory: template");
    *same = 0;
    if (rc >= 0) {
        e->opaque = 1;
        tree_unrank(p, k, &b, place, sub);
    }
    for (int i = 0; i < b && rc >= 0; i++) {
        at[i] = out->len;
        eval(e, p->child[p->list[place[i]]], METHOD_COMBINATORIAL, (uint64_t)sub[i], out);
        str_add_bytes(out, "", 1);
        rc = e->rc < 0 ? e->rc : str_status(out);
        for (int j = 0; j < i && rc >= 0; j++)
            *same |= strcmp(out->data + at[j], out->data + at[i]) == 0;
    }
    if (e)
        eval_destroy(e, t->nslots);
    free(place);
    free(sub);
    free(at);
    return rc;
}

int template_expand(const Template *t, uint64_t seed, uint64_t item, StrBuf *out)
{
    Eval *e = eval_create(t->nslots, seed, item);
    if (!e)
        return err_set(ERR_NOMEM, "out of memory: template");
    int64_t n = child_count(t->root);
    uint64_t k = t->mode == TEMPLATE_COMBINATORIAL && n > 0 && n != TREE_MANY ? item % (uint64_t)n : item;
    eval(e, t->root, mode_of(t), k, out);
    int rc = e->rc < 0 ? e->rc : str_status(out);
    eval_destroy(e, t->nslots);
    return rc;
}
