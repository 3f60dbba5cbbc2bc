#define PCRE2_CODE_UNIT_WIDTH 8
#include "text/clip_bpe.h"

#include <pcre2.h>
#include <stdlib.h>
#include <string.h>

#include "text/unicode.h"
#include "text/vocab.h"

struct ClipBpe {
    Vocab vocab;
    pcre2_code *words;
};

/* White space is already one space each, so [^\s..] is [^ ..]; PCRE2's own \s would add U+180E. */
static const char words_pattern[] = "'s|'t|'re|'ve|'m|'ll|'d|\\p{L}+|\\p{N}|[^ \\p{L}\\p{N}]+";

/* One encode call: where ids go, and the buffers of the current word. */
typedef struct {
    const ClipBpe *tok;
    pcre2_match_data *match;
    int32_t *ids;
    int max, n;
    int32_t *id, *prev, *next; /* symbols of the word as a linked list */
    uint64_t *heap;            /* rank << 32 | position */
    size_t heap_n, cap;
} Encoder;

int clip_bpe_open(ClipBpe **out, const char *dir)
{
    ClipBpe *tok = calloc(1, sizeof *tok);
    int code, rc;
    PCRE2_SIZE at;
    *out = NULL;
    if (!tok)
        return err_set(ERR_NOMEM, "out of memory: tokenizer");
    if ((rc = vocab_load(&tok->vocab, dir)) < 0)
        goto fail;
    tok->words = pcre2_compile((PCRE2_SPTR)words_pattern, PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_NO_UTF_CHECK, &code, &at, NULL);
    if (!tok->words) {
        rc = err_set(ERR_NOMEM, "tokenizer: PCRE2 error %d", code);
        goto fail;
    }
    pcre2_jit_compile(tok->words, PCRE2_JIT_COMPLETE); /* only faster; interpretation follows where it fails */
    *out = tok;
    return 0;
fail:
    clip_bpe_close(tok);
    return rc;
}

void clip_bpe_close(ClipBpe *tok)
{
    if (!tok)
        return;
    pcre2_code_free(tok->words);
    vocab_deinit(&tok->vocab);
    free(tok);
}

int32_t clip_bpe_bos(const ClipBpe *tok) { return tok->vocab.bos; }
int32_t clip_bpe_eos(const ClipBpe *tok) { return tok->vocab.eos; }
int32_t clip_bpe_pad(const ClipBpe *tok) { return tok->vocab.pad; }
int32_t clip_bpe_vocab_size(const ClipBpe *tok) { return tok->vocab.size; }
int clip_bpe_max_length(const ClipBpe *tok) { return tok->vocab.max_length; }

static void put_id(Encoder *e, int32_t id)
{
    if (e->n < e->max)
        e->ids[e->n] = id;
    e->n++;
}

static int reserve(Encoder *e, size_t n)
{
    if (n <= e->cap)
        return 0;
    size_t cap = 2 * n + 64;
    int32_t *id = realloc(e->id, 3 * cap * sizeof *id);
    if (!id)
        return err_set(ERR_NOMEM, "out of memory: word of %zu bytes", n);
    e->id = id;
    e->prev = id + cap;
    e->next = id + 2 * cap;
    uint64_t *heap = realloc(e->heap, 3 * cap * sizeof *heap); /* n - 1 pairs, and two more per merge */
    if (!heap)
        return err_set(ERR_NOMEM, "out of memory: word of %zu bytes", n);
    e->heap = heap;
    e->cap = cap;
    return 0;
}

static void heap_push(Encoder *e, uint64_t v)
{
    size_t i = e->heap_n++;
    while (i > 0 && e->heap[(i - 1) / 2] > v) {
        e->heap[i] = e->heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    e->heap[i] = v;
}

static uint64_t heap_pop(Encoder *e)
{
    uint64_t top = e->heap[0], v = e->heap[--e->heap_n];
    size_t i = 0, c;
    while ((c = 2 * i + 1) < e->heap_n) {
        if (c + 1 < e->heap_n && e->heap[c + 1] < e->heap[c])
            c++;
        if (e->heap[c] >= v)
            break;
        e->heap[i] = e->heap[c];
        i = c;
    }
    e->heap[i] = v;
    return top;
}

static void push_pair(Encoder *e, int32_t left)
{
    if (left < 0 || e->next[left] < 0)
        return;
    const VocabMerge *m = vocab_find_merge(&e->tok->vocab, e->id[left], e->id[e->next[left]]);
    if (m)
        heap_push(e, (uint64_t)(uint32_t)m->rank << 32 | (uint32_t)left);
}

/* Merges the pair of lowest rank, leftmost first, until none is left. The heap keeps long words (scripts without spaces)
 * from taking quadratic time; its entries may be stale, so each is checked against the list. */
static int encode_word(Encoder *e, const char *s, size_t len)
{
    enum { DEAD = -2 };
    const Vocab *v = &e->tok->vocab;
    TRY(reserve(e, len));
    int32_t n = (int32_t)len;
    e->heap_n = 0;
    for (int32_t i = 0; i < n; i++) {
        unsigned char b = (unsigned char)s[i];
        e->id[i] = i == n - 1 ? v->byte_end_id[b] : v->byte_id[b];
        e->prev[i] = i - 1;
        e->next[i] = i == n - 1 ? -1 : i + 1;
    }
    for (int32_t i = 0; i < n; i++)
        push_pair(e, i);
    while (e->heap_n) {
        uint64_t top = heap_pop(e);
        int32_t i = (int32_t)(uint32_t)top, j;
        if (e->id[i] == DEAD || (j = e->next[i]) < 0)
            continue;
        const VocabMerge *m = vocab_find_merge(v, e->id[i], e->id[j]);
        if (!m || (uint64_t)(uint32_t)m->rank != top >> 32)
            continue;
        e->id[i] = m->id;
        e->id[j] = DEAD;
        e->next[i] = e->next[j];
        if (e->next[j] >= 0)
            e->prev[e->next[j]] = i;
        push_pair(e, e->prev[i]);
        push_pair(e, i);
    }
    for (int32_t i = 0; i >= 0; i = e->next[i])
        put_id(e, e->id[i] < 0 ? v->unk : e->id[i]);
    return 0;
}

/* Text that is normalised and free of special tokens. */
static int encode_plain(Encoder *e, const char *s, size_t len)
{
    PCRE2_SIZE at = 0;
    while (at < len) {
        int rc = pcre2_match(e->tok->words, (PCRE2_SPTR)s, len, at, PCRE2_NO_UTF_CHECK, e->match, NULL);
        if (rc == PCRE2_ERROR_NOMATCH)
            break;
        if (rc < 0)
            return err_set(ERR_RANGE, "tokenizer: PCRE2 error %d", rc);
        const PCRE2_SIZE *span = pcre2_get_ovector_pointer(e->match);
        TRY(encode_word(e, s + span[0], span[1] - span[0]));
        at = span[1];
    }
    return 0;
}

/* First (then longest) special token of this kind from s on; s + len when none. */
static const char *find_special(const Vocab *v, int normalized, const char *s, size_t len, const VocabSpecial **hit)
{
    for (const char *p = s; p < s + len; p++) {
        *hit = NULL;
        for (int k = 0; k < v->nspecial; k++) {
            const VocabSpecial *t = &v->special[k];
            if (t->normalized == normalized && t->len <= (size_t)(s + len - p) && *p == *t->content &&
                memcmp(p, t->content, t->len) == 0 && (!*hit || t->len > (*hit)->len))
                *hit = t;
        }
        if (*hit)
            return p;
    }
    *hit = NULL;
    return s + len;
}

static int encode_raw(Encoder *e, const char *s, size_t len);

/* Cuts out special tokens and hands what lies between on: raw text to normalisation, normalised text to the words. */
static int encode_pieces(Encoder *e, int normalized, const char *s, size_t len)
{
    const VocabSpecial *hit;
    const char *end = s + len;
    while (s < end) {
        const char *p = find_special(&e->tok->vocab, normalized, s, (size_t)(end - s), &hit);
        if (p > s)
            TRY(normalized ? encode_plain(e, s, (size_t)(p - s)) : encode_raw(e, s, (size_t)(p - s)));
        if (!hit)
            break;
        put_id(e, hit->id);
        s = p + hit->len;
    }
    return 0;
}

static int encode_raw(Encoder *e, const char *s, size_t len)
{
    char *text = NULL;
    size_t n = 0;
    TRY(text_clip_normalize(s, len, &text, &n));
    int rc = encode_pieces(e, 1, text, n);
    free(text);
    return rc;
}

int clip_bpe_encode_bytes(const ClipBpe *tok, const char *text, size_t len, int32_t *ids, int max, int *n)
{
    Encoder e = {.tok = tok, .ids = ids, .max = max};
    *n = 0;
    if (len > TEXT_MAX_BYTES)
        return err_set(ERR_RANGE, "text of %zu bytes: at most %d", len, (int)TEXT_MAX_BYTES);
    if (!(e.match = pcre2_match_data_create(1, NULL)))
        return err_set(ERR_NOMEM, "out of memory: tokenizer");
    int rc = encode_pieces(&e, 0, text, len);
    pcre2_match_data_free(e.match);
    free(e.id);
    free(e.heap);
    *n = e.n;
    return rc;
}

int clip_bpe_encode(const ClipBpe *tok, const char *text, int32_t *ids, int max, int *n)
{
    return clip_bpe_encode_bytes(tok, text, strlen(text), ids, max, n);
}

int clip_bpe_encode_padded_bytes(const ClipBpe *tok, const char *text, size_t len, int length, int32_t *out)
{
    int n;
    if (length < 2)
        return err_set(ERR_RANGE, "token length %d: expected 2 or more", length);
    TRY(clip_bpe_encode_bytes(tok, text, len, out + 1, length - 2, &n));
    if (n > length - 2)
        n = length - 2;
    out[0] = tok->vocab.bos;
    out[n + 1] = tok->vocab.eos;
    for (int i = n + 2; i < length; i++)
        out[i] = tok->vocab.pad;
    return 0;
}

int clip_bpe_encode_padded(const ClipBpe *tok, const char *text, int length, int32_t *out)
{
    return clip_bpe_encode_padded_bytes(tok, text, strlen(text), length, out);
}
