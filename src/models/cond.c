#include "models/cond.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

/* One text, encoded. */
typedef struct {
    Chunks tokens;
    int until;          /* for calls below */
    float *data, *pooled;
} Stage;

typedef struct {
    Stage *stage;
    int count, chunks;  /* chunks: of every stage */
} Side;

struct Cond {
    Side negative;                /* count 0: no guidance */
    Side part[COND_MAX_PARTS];    /* of the prompt: what stands between A1111's ANDs */
    double weight[COND_MAX_PARTS];
    int parts, prompt_chunks, chunks; /* prompt_chunks: of the longest part */
};

/* ---- weights ---- */

static double mean(const float *z, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += z[i];
    return sum / (double)n;
}

static void multiply(float *z, const double *weight, int length, int width)
{
    for (int i = 0; i < length; i++)
        for (int k = 0; k < width; k++)
            z[i * width + k] *= (float)weight[i];
}

void cond_weigh(float *z, const double *weight, int length, int width, const float *empty, PromptRules rules)
{
    size_t n = (size_t)length * (size_t)width;
    if (rules == PROMPT_DIFFUSERS)
        return;
    if (rules == PROMPT_A1111 || rules == PROMPT_A1111_NO_NORM) {
        double before = mean(z, n);
        multiply(z, weight, length, width);
        float by = (float)(before / mean(z, n));
        for (size_t i = 0; i < n && rules == PROMPT_A1111; i++)
            z[i] *= by;
        return;
    }
    for (int i = 0; i < length; i++) {
        if (!(weight[i] < 1 || weight[i] > 1))
            continue;
        float w = (float)weight[i], *row = z + (size_t)i * (size_t)width;
        const float *e = empty + (size_t)i * (size_t)width;
        for (int k = 0; k < width; k++)
            row[k] = (row[k] - e[k]) * w + e[k];
    }
}

/* ---- texts to tokens ---- */

static void side_deinit(Side *s)
{
    for (int i = 0; i < s->count; i++) {
        chunks_deinit(&s->stage[i].tokens);
        free(s->stage[i].data);
        free(s->stage[i].pooled);
    }
    free(s->stage);
    *s = (Side){0};
}

static int is_word_char(char c)
{
    return isalnum((unsigned char)c) || c == '_' || (c & 0x80);
}

static int tokens_of(const CondEncoder *e, const char *text, Chunks *out)
{
    Prompt p;
    TRY(prompt_parse(&p, text, e->rules));
    int rc = chunks_make(out, &p, e->tok, e->length, e->words ? e->words->word : NULL, e->words ? e->words->count : 0, e->rules);
    prompt_deinit(&p);
    return rc;
}

static int side_tokens(Side *s, const CondEncoder *e, const char *text, int calls)
{
    PromptSchedule plan;
    TRY(prompt_schedule_parse(&plan, text, e->rules, calls));
    s->stage = calloc((size_t)plan.count, sizeof *s->stage);
    int rc = s->stage ? 0 : err_set(ERR_NOMEM, "out of memory");
    for (int i = 0; i < plan.count && rc >= 0; i++) {
        rc = tokens_of(e, plan.stage[i].text, &s->stage[i].tokens);
        if (rc < 0)
            break;
        s->count = i + 1;
        s->stage[i].until = plan.stage[i].until;
        if (s->stage[i].tokens.count > s->chunks)
            s->chunks = s->stage[i].tokens.count;
    }
    prompt_schedule_deinit(&plan);
    return rc;
}

static int gcd(int a, int b)
{
    return b ? gcd(b, a % b) : a;
}

/* Chunks of both sides: each repeated to the least common multiple, or filled up to the longer one. All parts of the prompt count as
 * the longest one. */
static void fit(Cond *c)
{
    int p = 0;
    for (int i = 0; i < c->parts; i++)
        p = c->part[i].chunks > p ? c->part[i].chunks : p;
    int n = c->negative.count ? c->negative.chunks : p;
    c->prompt_chunks = p;
    c->chunks = p / gcd(p, n) * n;
    if (c->chunks <= COND_MAX_REPEAT)
        return;
    c->chunks = p > n ? p : n;
    c->prompt_chunks = c->negative.chunks = c->chunks;
}

/* "...: -0.5" at the end of a part is its weight (A1111's re_weight). Cuts it off. */
static double take_weight(char *part)
{
    size_t end = strlen(part), at, digits = 0, points = 0;
    while (end && isspace((unsigned char)part[end - 1]))
        end--;
    for (at = end; at && (isdigit((unsigned char)part[at - 1]) || part[at - 1] == '.'); at--)
        *(part[at - 1] == '.' ? &points : &digits) += 1;
    if (at && (part[at - 1] == '-' || part[at - 1] == '+'))
        at--;
    size_t colon = at;
    while (colon && isspace((unsigned char)part[colon - 1]))
        colon--;
    if (!digits || points > 1 || !colon || part[colon - 1] != ':')
        return 1;
    double w = strtod(part + at, NULL);
    for (colon--; colon && isspace((unsigned char)part[colon - 1]); colon--)
        ;
    part[colon] = 0;
    return w;
}

/* The next AND that is a word of its own, or NULL. */
static char *find_and(const char *begin, char *from)
{
    for (char *p = strstr(from, "AND"); p; p = strstr(p + 1, "AND"))
        if ((p == begin || !is_word_char(p[-1])) && !is_word_char(p[3]))
            return p;
    return NULL;
}

/* A1111 renders "a AND b :0.5" as two prompts whose predictions are added (prompt_parser.get_multicond_prompt_list). */
static int prompt_tokens(Cond *c, const CondEncoder *e, const char *prompt, int calls)
{
    char *text = strdup(prompt), *part = text;
    int rc = text ? 0 : err_set(ERR_NOMEM, "out of memory"), splits = e->rules == PROMPT_A1111 || e->rules == PROMPT_A1111_NO_NORM;
    while (rc >= 0 && part) {
        char *and = splits ? find_and(text, part) : NULL;
        if (and)
            *and = 0;
        if (c->parts == COND_MAX_PARTS) {
            rc = err_set(ERR_RANGE, "prompt '%.60s': more than %d parts joined by AND", prompt, COND_MAX_PARTS);
            break;
        }
        c->weight[c->parts] = splits ? take_weight(part) : 1;
        rc = side_tokens(&c->part[c->parts++], e, part, calls);
        part = and ? and + 3 : NULL;
    }
    free(text);
    return rc;
}

static int all_tokens(Cond *c, const CondEncoder *e, const char *prompt, const char *negative, int calls)
{
    TRY(prompt_tokens(c, e, prompt, calls));
    if (c->parts > 1 && !negative)
        return err_set(ERR_UNSUPPORTED, "prompt '%.60s': AND needs a guidance above 1", prompt);
    if (negative)
        TRY_CTX(side_tokens(&c->negative, e, negative, calls), "negative");
    fit(c);
    return 0;
}

/* ---- tokens to embeddings ---- */

typedef struct {
    const CondEncoder *e;
    int32_t *ids;      /* of the empty prompt */
    float *empty;      /* its hidden states; NULL until needed */
    float *pooled;
    CondVector *vector;
} Work;

static int empty_states(Work *w)
{
    const CondEncoder *e = w->e;
    if (w->empty)
        return 0;
    if (!(w->empty = malloc((size_t)e->length * (size_t)e->width * sizeof *w->empty)))
        return err_set(ERR_NOMEM, "out of memory");
    return e->encode(e->ctx, w->ids, NULL, 0, w->empty, e->pool ? w->pooled : NULL);
}

static int encode_chunk(Work *w, const Chunks *t, int i, float *z, float *pooled)
{
    const CondEncoder *e = w->e;
    const int32_t *row = t->row + (size_t)i * (size_t)t->length;
    int n = 0, weighs = t->weighted && e->rules != PROMPT_DIFFUSERS;
    for (int k = 0; k < t->length; k++)
        if (row[k] >= 0)
            w->vector[n++] = (CondVector){k, e->words->vectors + (size_t)row[k] * (size_t)e->words->width};
    TRY(e->encode(e->ctx, t->ids + (size_t)i * (size_t)t->length, w->vector, n, z, pooled));
    if (!weighs)
        return 0;
    if (e->rules == PROMPT_ATELIER || e->rules == PROMPT_COMFYUI)
        TRY(empty_states(w));
    cond_weigh(z, t->weight + (size_t)i * (size_t)t->length, t->length, e->width, w->empty, e->rules);
    return 0;
}

/* own: chunks of its side, filled up with empty ones. Up to `chunks` the last row is repeated, as A1111 does where the parts of a prompt
 * differ (reconstruct_multicond_batch); up to `total` all of it. */
static int encode_stage(Work *w, Stage *s, int own, int chunks, int total)
{
    const CondEncoder *e = w->e;
    size_t width = (size_t)e->width, one = (size_t)e->length * width;
    s->data = malloc((size_t)total * one * sizeof *s->data);
    s->pooled = e->pool ? malloc((size_t)e->pool * sizeof *s->pooled) : NULL;
    if (!s->data || (e->pool && !s->pooled))
        return err_set(ERR_NOMEM, "out of memory");
    for (int i = 0; i < s->tokens.count; i++)
        TRY(encode_chunk(w, &s->tokens, i, s->data + (size_t)i * one, !e->pool ? NULL : i ? w->pooled : s->pooled));
    for (int i = s->tokens.count; i < own; i++) {
        TRY(empty_states(w));
        memcpy(s->data + (size_t)i * one, w->empty, one * sizeof *s->data);
    }
    for (size_t row = (size_t)own * one; row < (size_t)chunks * one; row += width)
        memcpy(s->data + row, s->data + row - width, width * sizeof *s->data);
    for (int i = chunks; i < total; i++)
        memcpy(s->data + (size_t)i * one, s->data + (size_t)(i - chunks) * one, one * sizeof *s->data);
    return 0;
}

static int encode_side(Work *w, Side *side, int chunks, int total)
{
    for (int i = 0; i < side->count; i++)
        TRY(encode_stage(w, &side->stage[i], side->chunks, chunks, total));
    return 0;
}

static int encode_all(Cond *c, const CondEncoder *e)
{
    Work w = {.e = e, .ids = malloc((size_t)e->length * sizeof *w.ids), .vector = malloc((size_t)e->length * sizeof *w.vector),
              .pooled = malloc(((size_t)e->pool + 1) * sizeof *w.pooled)};
    int rc = w.ids && w.vector && w.pooled ? 0 : err_set(ERR_NOMEM, "out of memory");
    if (rc >= 0)
        chunks_empty(e->tok, e->length, w.ids);
    for (int i = 0; i < c->parts && rc >= 0; i++)
        rc = encode_side(&w, &c->part[i], c->prompt_chunks, c->chunks);
    if (rc >= 0)
        rc = encode_side(&w, &c->negative, c->negative.chunks, c->chunks);
    free(w.ids);
    free(w.empty);
    free(w.pooled);
    free(w.vector);
    return rc;
}

static int check_encoder(const CondEncoder *e)
{
    if (e->words && e->words->count && e->words->width < 1)
        return err_set(ERR_SHAPE, "textual inversions of width %d", e->words->width);
    return 0;
}

int cond_create(Cond **out, const CondEncoder *e, const char *prompt, const char *negative, int calls)
{
    TRY(check_encoder(e));
    Cond *c = calloc(1, sizeof *c);
    if (!c)
        return err_set(ERR_NOMEM, "out of memory");
    int rc = all_tokens(c, e, prompt, negative, calls);
    if (rc >= 0)
        rc = encode_all(c, e);
    if (rc < 0) {
        cond_destroy(c);
        return rc;
    }
    *out = c;
    return 0;
}

static void deinit(Cond *c)
{
    side_deinit(&c->negative);
    for (int i = 0; i < c->parts; i++)
        side_deinit(&c->part[i]);
}

void cond_destroy(Cond *c)
{
    if (!c)
        return;
    deinit(c);
    free(c);
}

int cond_chunks(const Cond *c)
{
    return c->chunks;
}

int cond_parts(const Cond *c)
{
    return c->parts;
}

double cond_part_weight(const Cond *c, int part)
{
    return c->weight[part];
}

static const Stage *stage_at(const Side *s, int call)
{
    int i = 0;
    while (i + 1 < s->count && call >= s->stage[i].until)
        i++;
    return &s->stage[i];
}

static const Side *side_of(const Cond *c, CondSide side)
{
    return side == COND_NEGATIVE ? &c->negative : &c->part[0];
}

const float *cond_part_get(const Cond *c, int call, int part)
{
    return stage_at(&c->part[part], call)->data;
}

const float *cond_get(const Cond *c, int call, CondSide side)
{
    return side_of(c, side)->count ? stage_at(side_of(c, side), call)->data : NULL;
}

const float *cond_pooled(const Cond *c, int call, CondSide side)
{
    return side_of(c, side)->count ? stage_at(side_of(c, side), call)->pooled : NULL;
}

int cond_count(const CondEncoder *e, const char *prompt, const char *negative, int calls, int *chunks, int *parts)
{
    Cond c = {0};
    int rc = all_tokens(&c, e, prompt, negative, calls);
    *chunks = c.chunks;
    *parts = c.parts;
    deinit(&c);
    return rc;
}
