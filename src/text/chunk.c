#include "text/chunk.h"

#include <stdlib.h>
#include <string.h>

enum { COMFY_LONG_WORD = 8 };

typedef struct {
    const ChunkWord *word;
    int32_t *ids; /* the name as tokens */
    int n;
} Name;

typedef struct {
    Chunks *c;
    const ClipBpe *tok;
    PromptRules rules;
    const ChunkWord *words;
    Name *name;
    int nwords;
    int room;       /* tokens of a chunk: length - 2 */
    int n, comma;   /* tokens in the last chunk; place of its last comma, -1: none */
    int32_t comma_id;
} Builder;

void chunks_deinit(Chunks *c)
{
    free(c->ids);
    free(c->row);
    free(c->weight);
    *c = (Chunks){0};
}

void chunks_empty(const ClipBpe *tok, int length, int32_t *ids)
{
    ids[0] = clip_bpe_bos(tok);
    for (int i = 1; i < length; i++)
        ids[i] = i == 1 ? clip_bpe_eos(tok) : clip_bpe_pad(tok);
}

/* Places of the last chunk, after bos. */
static size_t at(const Builder *b, int i)
{
    return (size_t)(b->c->count - 1) * (size_t)b->c->length + (size_t)i + 1;
}

static int next_chunk(Builder *b)
{
    Chunks *c = b->c;
    size_t n = (size_t)(c->count + 1) * (size_t)c->length;
    if (c->count == CHUNK_MAX)
        return err_set(ERR_RANGE, "prompt: more than %d chunks of %d tokens", (int)CHUNK_MAX, b->room);
    int32_t *ids = realloc(c->ids, n * sizeof *ids);
    c->ids = ids ? ids : c->ids;
    int32_t *row = realloc(c->row, n * sizeof *row);
    c->row = row ? row : c->row;
    double *weight = realloc(c->weight, n * sizeof *weight);
    c->weight = weight ? weight : c->weight;
    if (!ids || !row || !weight)
        return err_set(ERR_NOMEM, "out of memory: prompt");
    size_t first = (size_t)c->count * (size_t)c->length;
    chunks_empty(b->tok, c->length, ids + first);
    for (size_t i = first; i < n; i++) {
        row[i] = -1;
        weight[i] = 1;
    }
    c->count++;
    b->n = 0;
    b->comma = -1;
    return 0;
}

static void put(Builder *b, int32_t id, int32_t row, double weight)
{
    size_t k = at(b, b->n++);
    b->c->ids[k] = id;
    b->c->row[k] = row;
    b->c->weight[k] = weight;
    b->c->ids[k + 1] = clip_bpe_eos(b->tok); /* padding follows */
    b->c->weighted |= weight < 1 || weight > 1;
}

static void clear_from(Builder *b, int from)
{
    Chunks *c = b->c;
    for (int i = from; i <= b->room; i++) {
        size_t k = at(b, i);
        c->ids[k] = i == from ? clip_bpe_eos(b->tok) : clip_bpe_pad(b->tok);
        c->row[k] = -1;
        c->weight[k] = 1;
    }
}

/* What follows the last comma moves to a new chunk. */
static int move_after_comma(Builder *b)
{
    int from = b->comma + 1, n = b->n - from;
    int32_t ids[CHUNK_COMMA_BACK], row[CHUNK_COMMA_BACK];
    double weight[CHUNK_COMMA_BACK];
    for (int i = 0; i < n; i++) {
        size_t k = at(b, from + i);
        ids[i] = b->c->ids[k];
        row[i] = b->c->row[k];
        weight[i] = b->c->weight[k];
    }
    clear_from(b, from);
    TRY(next_chunk(b));
    for (int i = 0; i < n; i++)
        put(b, ids[i], row[i], weight[i]);
    return 0;
}

static int put_word(Builder *b, const ChunkWord *w, double weight)
{
    if (b->n + w->count > b->room)
        TRY(next_chunk(b));
    for (int i = 0; i < w->count; i++)
        put(b, 0, w->first + i, weight);
    return 0;
}

static int encode(const Builder *b, const char *text, size_t len, int32_t **ids, int *n)
{
    int max = (int)len * 2 + 16;
    *ids = malloc((size_t)max * sizeof **ids);
    if (!*ids)
        return err_set(ERR_NOMEM, "out of memory: prompt");
    int rc = clip_bpe_encode_bytes(b->tok, text, len, *ids, max, n);
    *n = *n > max ? max : *n;
    return rc;
}

/* ---- A1111 ---- */

/* The longest name that the tokens at ids begin with, or NULL. */
static const Name *name_at(const Builder *b, const int32_t *ids, int n)
{
    const Name *best = NULL;
    for (int i = 0; i < b->nwords; i++) {
        const Name *m = &b->name[i];
        if (m->n && m->n <= n && (!best || m->n > best->n) && memcmp(m->ids, ids, (size_t)m->n * sizeof *ids) == 0)
            best = m;
    }
    return best;
}

static int put_tokens(Builder *b, const int32_t *ids, int n, double weight)
{
    for (int i = 0; i < n;) {
        if (ids[i] == b->comma_id)
            b->comma = b->n;
        else if (b->n == b->room && b->comma >= 0 && b->n - b->comma <= CHUNK_COMMA_BACK)
            TRY(move_after_comma(b));
        if (b->n == b->room)
            TRY(next_chunk(b));
        const Name *m = name_at(b, ids + i, n - i);
        if (m)
            TRY(put_word(b, m->word, weight));
        else
            put(b, ids[i], -1, weight);
        i += m ? m->n : 1;
    }
    return 0;
}

static int make_a1111(Builder *b, const Prompt *p)
{
    int pending = 0; /* a BREAK at the end opens no chunk of its own */
    for (int i = 0; i < p->npart; i++) {
        if (p->part[i].pause) {
            if (pending)
                TRY(next_chunk(b));
            pending = 1;
            continue;
        }
        int32_t *ids;
        int n, rc = encode(b, p->part[i].text, strlen(p->part[i].text), &ids, &n);
        if (rc >= 0 && n && pending) {
            rc = next_chunk(b);
            pending = 0;
        }
        if (rc >= 0)
            rc = put_tokens(b, ids, n, p->part[i].weight);
        free(ids);
        TRY(rc);
    }
    return 0;
}

/* ---- ComfyUI ---- */

static int put_group(Builder *b, const int32_t *ids, const ChunkWord *w, int n, double weight)
{
    int large = n >= COMFY_LONG_WORD;
    for (int i = 0; i < n; i++) {
        if (b->n == b->room || (i == 0 && !large && b->n + n > b->room))
            TRY(next_chunk(b));
        if (w)
            put(b, 0, w->first + i, weight);
        else
            put(b, ids[i], -1, weight);
    }
    return 0;
}

/* "embedding:NAME", perhaps with commas after it. */
static const ChunkWord *comfy_name(const Builder *b, const char *word, size_t n, size_t *used)
{
    static const char mark[] = "embedding:";
    size_t skip = sizeof mark - 1, end = n;
    if (n < skip || memcmp(word, mark, skip) != 0)
        return NULL;
    for (;; end--) {
        for (int i = 0; i < b->nwords; i++)
            if (strlen(b->words[i].name) == end - skip && memcmp(b->words[i].name, word + skip, end - skip) == 0) {
                *used = end;
                return &b->words[i];
            }
        if (end == skip || word[end - 1] != ',')
            return NULL;
    }
}

static int comfy_word(Builder *b, const char *word, size_t n, double weight)
{
    size_t used = 0;
    const ChunkWord *w = comfy_name(b, word, n, &used);
    if (w)
        TRY(put_group(b, NULL, w, w->count, weight));
    if (used == n)
        return 0;
    int32_t *ids;
    int count, rc = encode(b, word + used, n - used, &ids, &count);
    if (rc >= 0)
        rc = put_group(b, ids, NULL, count, weight);
    free(ids);
    return rc;
}

static int make_comfy(Builder *b, const Prompt *p)
{
    for (int i = 0; i < p->npart; i++)
        for (const char *t = p->part[i].text; *t;) {
            size_t n = strcspn(t, " \n");
            if (n)
                TRY(comfy_word(b, t, n, p->part[i].weight));
            t += n + (t[n] != 0);
        }
    return 0;
}

/* ---- diffusers ---- */

static int put_cut(Builder *b, const char *text, size_t len)
{
    int32_t *ids;
    int n, rc = len ? encode(b, text, len, &ids, &n) : 0;
    if (!len)
        return 0;
    for (int i = 0; i < n && rc >= 0 && b->n < b->room; i++)
        put(b, ids[i], -1, 1);
    free(ids);
    return rc;
}

static const ChunkWord *word_at(const Builder *b, const char *t)
{
    const ChunkWord *best = NULL;
    for (int i = 0; i < b->nwords; i++) {
        size_t n = strlen(b->words[i].name);
        if (n && strncmp(t, b->words[i].name, n) == 0 && (!best || n > strlen(best->name)))
            best = &b->words[i];
    }
    return best;
}

static int make_diffusers(Builder *b, const Prompt *p)
{
    const char *from = p->plain, *t = from;
    while (*t) {
        const ChunkWord *w = word_at(b, t);
        if (!w) {
            t++;
            continue;
        }
        TRY(put_cut(b, from, (size_t)(t - from)));
        for (int i = 0; i < w->count && b->n < b->room; i++)
            put(b, 0, w->first + i, 1);
        t += strlen(w->name);
        from = t;
    }
    return put_cut(b, from, (size_t)(t - from));
}

static int encode_names(Builder *b)
{
    int n;
    int32_t comma[2];
    TRY(clip_bpe_encode(b->tok, ",", comma, 2, &n));
    b->comma_id = n == 1 ? comma[0] : -1;
    if (!b->nwords)
        return 0;
    if (!(b->name = calloc((size_t)b->nwords, sizeof *b->name)))
        return err_set(ERR_NOMEM, "out of memory: prompt");
    for (int i = 0; i < b->nwords; i++) {
        if (b->words[i].count < 1 || b->words[i].count > b->room)
            return err_set(ERR_RANGE, "textual inversion '%s' has %d vectors: expected 1..%d", b->words[i].name, b->words[i].count, b->room);
        b->name[i].word = &b->words[i];
        TRY(encode(b, b->words[i].name, strlen(b->words[i].name), &b->name[i].ids, &b->name[i].n));
    }
    return 0;
}

int chunks_make(Chunks *c, const Prompt *p, const ClipBpe *tok, int length, const ChunkWord *words, int nwords, PromptRules rules)
{
    *c = (Chunks){.length = length};
    if (length < 3)
        return err_set(ERR_RANGE, "text encoder with %d positions: expected at least 3", length);
    Builder b = {.c = c, .tok = tok, .rules = rules, .words = words, .nwords = nwords, .room = length - 2};
    int rc;
    TRY_GOTO(encode_names(&b));
    TRY_GOTO(next_chunk(&b));
    if (rules == PROMPT_DIFFUSERS)
        rc = make_diffusers(&b, p);
    else
        rc = rules == PROMPT_COMFYUI ? make_comfy(&b, p) : make_a1111(&b, p);
done:
    for (int i = 0; i < nwords && b.name; i++)
        free(b.name[i].ids);
    free(b.name);
    if (rc < 0)
        chunks_deinit(c);
    return rc;
}
