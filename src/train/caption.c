#include "train/caption.h"

#include <stdlib.h>
#include <string.h>

#include "base/rng.h"

enum { STREAM_ORDER = 1, STREAM_DROP = 2, STREAM_CHOICE = 3 };
enum { OPEN = 1, CLOSE = 2 }; /* stand for {{ and }}: no caption has these bytes once it is cleaned */

typedef struct {
    const char *at;
    size_t n;
} Tag;

typedef struct {
    const TrainDatasetConf *c;
    uint64_t seed;
    int64_t position;
    Tag *tag;
    int ntag, cap;
} Maker;

static RngKey key_of(const Maker *m, int stream)
{
    return rng_key(m->seed, RNG_CAPTION, (uint64_t)m->position, (uint64_t)stream);
}

int train_caption_varies(const TrainDatasetConf *c, const char *text)
{
    int choice = c->wildcards && (strchr(text, '\n') || strchr(text, '{') || strchr(c->prefix, '{') || strchr(c->suffix, '{'));
    return c->shuffle || c->tag_dropout > 0 || choice;
}

static char *find_part(const char *s, const char *part)
{
    return *part ? strstr(s, part) : NULL;
}

/* With prefix and suffix; controls but line breaks become spaces. */
static int assemble(const Maker *m, const char *text, char **out)
{
    StrBuf b;
    str_init(&b);
    if (m->c->prefix[0])
        str_add_format(&b, "%s ", m->c->prefix);
    str_add(&b, text);
    if (m->c->suffix[0])
        str_add_format(&b, " %s", m->c->suffix);
    int rc = str_take(out, &b);
    str_deinit(&b);
    for (char *p = rc < 0 ? NULL : *out; p && *p; p++)
        if ((unsigned char)*p < 32 && *p != '\n')
            *p = ' ';
    return rc;
}

/* Leaves one line of s in place. */
static void choose_line(char *s, int random, RngStream *r)
{
    uint64_t lines = 1, pick;
    for (const char *p = s; *p; p++)
        lines += *p == '\n';
    pick = random ? rng_stream_below(r, lines) : 0;
    char *line = s;
    for (; pick; pick--)
        line = strchr(line, '\n') + 1;
    size_t n = strcspn(line, "\n");
    memmove(s, line, n);
    s[n] = 0;
}

static void escape_braces(char *s)
{
    char *to = s;
    for (const char *p = s; *p; p++) {
        int twice = (*p == '{' || *p == '}') && p[1] == *p;
        *to++ = !twice ? *p : *p == '{' ? OPEN : CLOSE;
        p += twice;
    }
    *to = 0;
}

/* One of the parts of a|b|c. */
static void add_choice(StrBuf *b, const char *s, size_t n, RngStream *r)
{
    uint64_t parts = 1;
    for (size_t i = 0; i < n; i++)
        parts += s[i] == '|';
    uint64_t pick = rng_stream_below(r, parts);
    const char *end = s + n;
    for (; pick; pick--)
        s = (const char *)memchr(s, '|', (size_t)(end - s)) + 1;
    const char *bar = memchr(s, '|', (size_t)(end - s));
    str_add_bytes(b, s, (size_t)((bar ? bar : end) - s));
}

/* The leftmost { with a later } and something between them, again and again, as kohya's regular expression \{([^}]+)\} finds them. */
static int expand_choices(char **s, RngStream *r)
{
    StrBuf b;
    str_init(&b);
    escape_braces(*s);
    for (const char *p = *s; *p; p++) {
        const char *end = *p == '{' ? strchr(p, '}') : NULL;
        if (!end || end == p + 1) {
            str_add_char(&b, *p);
            continue;
        }
        add_choice(&b, p + 1, (size_t)(end - p - 1), r);
        p = end;
    }
    free(*s);
    *s = NULL;
    int rc = str_take(s, &b);
    str_deinit(&b);
    for (char *p = rc < 0 ? NULL : *s; p && *p; p++)
        *p = *p == OPEN ? '{' : *p == CLOSE ? '}' : *p;
    return rc;
}

static int add_tag(Maker *m, const char *at, size_t n, int keep_empty)
{
    while (n && at[0] == ' ')
        at++, n--;
    while (n && at[n - 1] == ' ')
        n--;
    if (!n && !keep_empty)
        return 0;
    if (m->ntag == m->cap) {
        int cap = m->cap ? 2 * m->cap : 64;
        Tag *t = realloc(m->tag, (size_t)cap * sizeof *t);
        if (!t)
            return err_set(ERR_NOMEM, "caption: out of memory");
        m->tag = t;
        m->cap = cap;
    }
    m->tag[m->ntag++] = (Tag){at, n};
    return 0;
}

static int split(Maker *m, const char *s, int keep_empty)
{
    const char *sep = m->c->separator;
    for (const char *end; (end = strstr(s, sep)); s = end + strlen(sep))
        TRY(add_tag(m, s, (size_t)(end - s), keep_empty));
    return add_tag(m, s, strlen(s), keep_empty);
}

/* Tags of s, in three parts: [0, *from) and [*to, ntag) stay as they are. */
static int split_parts(Maker *m, char *s, int *from, int *to)
{
    char *first = find_part(s, m->c->keep_separator), *second = NULL;
    if (!first) {
        TRY(split(m, s, 1));
        *from = m->c->keep_tokens < m->ntag ? m->c->keep_tokens : m->ntag;
        *to = m->ntag;
        return 0;
    }
    size_t n = strlen(m->c->keep_separator);
    *first = 0;
    second = find_part(first + n, m->c->keep_separator);
    if (second)
        *second = 0;
    TRY(split(m, s, 0));
    *from = m->ntag;
    TRY(split(m, first + n, 0));
    *to = m->ntag;
    return second ? split(m, second + n, 0) : 0;
}

static void shuffle(Maker *m, int from, int to)
{
    RngStream r = rng_stream(key_of(m, STREAM_ORDER));
    for (int i = to - 1; i > from; i--) {
        int j = from + (int)rng_stream_below(&r, (uint64_t)(i - from + 1));
        Tag t = m->tag[i];
        m->tag[i] = m->tag[j];
        m->tag[j] = t;
    }
}

static int arrange_tags(Maker *m, char **s)
{
    StrBuf b;
    int from, to, n = 0;
    TRY(split_parts(m, *s, &from, &to));
    if (m->c->shuffle)
        shuffle(m, from, to);
    RngKey drop = key_of(m, STREAM_DROP);
    str_init(&b);
    for (int i = 0; i < m->ntag; i++) {
        if (i >= from && i < to && rng_uniform(drop, (uint64_t)(i - from)) < m->c->tag_dropout)
            continue;
        str_add_format(&b, "%s%s", n ? m->c->separator : "", n ? " " : "");
        str_add_bytes(&b, m->tag[i].at, m->tag[i].n);
        n++;
    }
    char *joined = NULL;
    int rc = str_take(&joined, &b);
    str_deinit(&b);
    free(*s);
    *s = joined;
    return rc;
}

static void add_replaced(StrBuf *out, const char *s, const char *from, const char *to)
{
    for (const char *hit; (hit = find_part(s, from)); s = hit + strlen(from)) {
        str_add_bytes(out, s, (size_t)(hit - s));
        str_add(out, to);
    }
    str_add(out, s);
}

int train_caption_make(StrBuf *out, const TrainDatasetConf *c, const char *text, uint64_t seed, int64_t position)
{
    Maker m = {.c = c, .seed = seed, .position = position};
    RngStream choice = rng_stream(key_of(&m, STREAM_CHOICE));
    char *s = NULL;
    int rc;
    TRY_GOTO(assemble(&m, text, &s));
    choose_line(s, c->wildcards, &choice);
    if (c->wildcards)
        TRY_GOTO(expand_choices(&s, &choice));
    if (c->shuffle || c->tag_dropout > 0 || find_part(s, c->keep_separator))
        TRY_GOTO(arrange_tags(&m, &s));
    if (c->trigger[0] && !strstr(s, c->trigger))
        str_add_format(out, "%s%s%s", c->trigger, s[0] ? c->separator : "", s[0] ? " " : "");
    add_replaced(out, s, c->secondary_separator, c->separator);
    rc = str_status(out);
done:
    free(s);
    free(m.tag);
    return rc;
}
