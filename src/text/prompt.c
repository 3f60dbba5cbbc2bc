#include "text/prompt.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "base/str.h"

enum { PROMPT_MAX = 64 << 10 };

/* Stack of part numbers at which open brackets began. */
typedef struct {
    int *at;
    int n;
} Brackets;

typedef struct {
    Prompt *p;
    StrBuf text; /* of the part being read */
    int cap_part;
    Brackets round, square;
} Parser;

void prompt_deinit(Prompt *p)
{
    for (int i = 0; i < p->npart; i++)
        free(p->part[i].text);
    for (int i = 0; i < p->nlora; i++)
        free(p->lora[i].name);
    free(p->part);
    free(p->lora);
    free(p->plain);
    *p = (Prompt){0};
}

/* Ends the part being read, if it has text. */
static int end_part(Parser *s)
{
    Prompt *p = s->p;
    if (!s->text.len)
        return str_status(&s->text);
    if (p->npart == s->cap_part) {
        int cap = 2 * s->cap_part + 8;
        PromptPart *q = realloc(p->part, (size_t)cap * sizeof *q);
        if (!q)
            return err_set(ERR_NOMEM, "out of memory: prompt");
        p->part = q;
        s->cap_part = cap;
    }
    char *text = NULL;
    TRY(str_take(&text, &s->text));
    p->part[p->npart++] = (PromptPart){text, 1};
    return 0;
}

static void multiply_from(Prompt *p, int first, double by)
{
    for (int i = first; i < p->npart; i++)
        p->part[i].weight *= by;
}

static int open_bracket(Parser *s, Brackets *b)
{
    TRY(end_part(s));
    b->at[b->n++] = s->p->npart;
    return 0;
}

static int close_bracket(Parser *s, Brackets *b, double by)
{
    TRY(end_part(s));
    multiply_from(s->p, b->at[--b->n], by);
    return 0;
}

/* Length of ":1.3)" at s with the number in *w; 0 when it is something else. */
static size_t weight_at(const char *s, double *w)
{
    char number[32];
    size_t i = 1, n = 0;
    while (isspace((unsigned char)s[i]))
        i++;
    while (n + 1 < sizeof number && s[i] && (strchr(".0123456789", s[i]) || (n == 0 && strchr("+-", s[i]))))
        number[n++] = s[i++];
    number[n] = 0;
    while (isspace((unsigned char)s[i]))
        i++;
    char *end;
    *w = strtod(number, &end);
    return s[i] == ')' && n && *end == 0 && end != number ? i + 1 : 0;
}

/* <lora:name:0.8> at s; *len: its length, 0 when there is no tag. */
static int lora_at(Parser *s, const char *t, size_t *len)
{
    const char *end = strncmp(t, "<lora:", 6) == 0 ? strchr(t, '>') : NULL;
    *len = 0;
    if (!end)
        return 0;
    const char *name = t + 6, *colon = memchr(name, ':', (size_t)(end - name));
    size_t n = (size_t)((colon ? colon : end) - name);
    double scale = 1;
    if (colon) {
        char number[32], *stop = number;
        size_t m = (size_t)(end - colon - 1);
        if (m > 0 && m < sizeof number) {
            memcpy(number, colon + 1, m);
            number[m] = 0;
            scale = strtod(number, &stop);
        }
        if (stop == number || *stop || !(scale >= -1000 && scale <= 1000))
            return err_set(ERR_FORMAT, "prompt: %.*s: expected <lora:name:scale>", (int)(end - t + 1 > 80 ? 80 : end - t + 1), t);
    }
    if (!n)
        return err_set(ERR_FORMAT, "prompt: <lora:> tag without a name");
    PromptLora *q = realloc(s->p->lora, ((size_t)s->p->nlora + 1) * sizeof *q);
    if (!q)
        return err_set(ERR_NOMEM, "out of memory: prompt");
    s->p->lora = q;
    q[s->p->nlora].scale = scale;
    if (!(q[s->p->nlora].name = strndup(name, n)))
        return err_set(ERR_NOMEM, "out of memory: prompt");
    s->p->nlora++;
    *len = (size_t)(end - t) + 1;
    return 0;
}

static int parse(Parser *s, const char *t)
{
    while (*t) {
        size_t used = 1;
        double w;
        if (*t == '<') {
            TRY(lora_at(s, t, &used));
            if (used) {
                t += used;
                continue;
            }
            used = 1;
        }
        if (*t == '\\') {
            /* A backslash before another character is dropped, as A1111 does. */
            if (t[1] && strchr("()[]\\", t[1])) {
                str_add_char(&s->text, t[1]);
                used = 2;
            }
        } else if (*t == '(') {
            TRY(open_bracket(s, &s->round));
        } else if (*t == '[') {
            TRY(open_bracket(s, &s->square));
        } else if (*t == ':' && s->round.n && weight_at(t, &w)) {
            used = weight_at(t, &w);
            TRY(close_bracket(s, &s->round, w));
        } else if (*t == ')' && s->round.n) {
            TRY(close_bracket(s, &s->round, 1.1));
        } else if (*t == ']' && s->square.n) {
            TRY(close_bracket(s, &s->square, 1 / 1.1));
        } else {
            str_add_char(&s->text, *t);
        }
        t += used;
    }
    TRY(end_part(s));
    for (int i = 0; i < s->round.n; i++)
        multiply_from(s->p, s->round.at[i], 1.1);
    for (int i = 0; i < s->square.n; i++)
        multiply_from(s->p, s->square.at[i], 1 / 1.1);
    return 0;
}

/* Joins neighbours of equal weight, makes `plain`, and sees to at least one part. */
static int finish(Prompt *p)
{
    StrBuf joined, plain;
    int rc = 0, n = 0;
    str_init(&plain);
    for (int i = 0; i < p->npart && rc == 0; n++) {
        double w = p->part[i].weight;
        str_init(&joined);
        for (; i < p->npart && p->part[i].weight == w; i++) {
            str_add(&joined, p->part[i].text);
            free(p->part[i].text);
            p->part[i].text = NULL;
        }
        str_add(&plain, joined.data);
        p->weighted |= w != 1;
        p->part[n].weight = w;
        rc = str_take(&p->part[n].text, &joined);
        str_deinit(&joined);
    }
    if (rc == 0)
        p->npart = n;
    if (rc == 0)
        rc = str_take(&p->plain, &plain);
    str_deinit(&plain);
    if (rc < 0 || p->npart)
        return rc;
    p->part = realloc(p->part, sizeof *p->part);
    if (!p->part || !(p->part[0].text = strdup("")))
        return err_set(ERR_NOMEM, "out of memory: prompt");
    p->part[0].weight = 1;
    p->npart = 1;
    return 0;
}

int prompt_parse(Prompt *p, const char *text)
{
    Parser s = {.p = p};
    size_t len = strlen(text);
    *p = (Prompt){0};
    if (len > PROMPT_MAX)
        return err_set(ERR_RANGE, "prompt of %zu bytes: expected at most %d", len, (int)PROMPT_MAX);
    str_init(&s.text);
    s.round.at = malloc((len + 1) * sizeof(int));
    s.square.at = malloc((len + 1) * sizeof(int));
    int rc = s.round.at && s.square.at ? parse(&s, text) : err_set(ERR_NOMEM, "out of memory: prompt");
    if (rc == 0)
        rc = finish(p);
    free(s.round.at);
    free(s.square.at);
    str_deinit(&s.text);
    if (rc < 0)
        prompt_deinit(p);
    return rc;
}
