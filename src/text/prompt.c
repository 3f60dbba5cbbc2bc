#include "text/prompt.h"

#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/str.h"

enum { PROMPT_MAX = 64 << 10, PROMPT_MAX_NESTED = 200 };

const char *const PROMPT_RULES_NAMES[PROMPT_RULES + 1] = {"atelier", "a1111", "a1111-no-norm", "comfyui", "diffusers", NULL};

/* Stack of part numbers at which open brackets began. */
typedef struct {
    int *at;
    int n;
} Brackets;

typedef struct {
    Prompt *p;
    PromptRules rules;
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

static int add_part(Parser *s, const char *text, size_t n, double weight, int pause)
{
    Prompt *p = s->p;
    if (p->npart == s->cap_part) {
        int cap = 2 * s->cap_part + 8;
        PromptPart *q = realloc(p->part, (size_t)cap * sizeof *q);
        if (!q)
            return err_set(ERR_NOMEM, "out of memory: prompt");
        p->part = q;
        s->cap_part = cap;
    }
    char *copy = strndup(text, n);
    if (!copy)
        return err_set(ERR_NOMEM, "out of memory: prompt");
    p->part[p->npart++] = (PromptPart){copy, weight, pause};
    return 0;
}

static int is_word(char c)
{
    return isalnum((unsigned char)c) || c == '_' || (c & 0x80);
}

/* The next BREAK that is a word of its own, or NULL. */
static const char *find_break(const char *begin, const char *from)
{
    for (const char *b = strstr(from, "BREAK"); b; b = strstr(b + 1, "BREAK"))
        if ((b == begin || !is_word(b[-1])) && !is_word(b[5]))
            return b;
    return NULL;
}

/* Ends the part being read, if it has text. A BREAK weighs -1 like A1111's, so that brackets around it spoil it there. */
static int end_part(Parser *s)
{
    TRY(str_status(&s->text));
    const char *from = s->text.data, *b;
    while ((b = find_break(s->text.data, from))) {
        const char *end = b;
        while (end > from && isspace((unsigned char)end[-1]))
            end--;
        if (end > from)
            TRY(add_part(s, from, (size_t)(end - from), 1, 0));
        TRY(add_part(s, "", 0, -1, 1));
        from = b + 5;
        while (isspace((unsigned char)*from))
            from++;
    }
    if (*from)
        TRY(add_part(s, from, strlen(from), 1, 0));
    str_clear(&s->text);
    return 0;
}

static void multiply_from(Parser *s, int first, double by)
{
    for (int i = first; i < s->p->npart; i++)
        if (!s->p->part[i].pause || s->rules != PROMPT_ATELIER)
            s->p->part[i].weight *= by;
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
    multiply_from(s, b->at[--b->n], by);
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

/* ---- LoRA tags ---- */

static int read_scale(const char *from, const char *end, double *scale)
{
    char number[32], *stop = number;
    size_t m = (size_t)(end - from);
    if (m > 0 && m < sizeof number) {
        memcpy(number, from, m);
        number[m] = 0;
        *scale = strtod(number, &stop);
    }
    return stop != number && !*stop && *scale >= -1000 && *scale <= 1000;
}

/* <lora:name:0.8> or <lora:name:0.8:0.8> (text encoder, UNet) at s; *len: its length, 0 when there is no tag. */
static int lora_at(Prompt *p, const char *t, size_t *len)
{
    const char *end = strncmp(t, "<lora:", 6) == 0 ? strchr(t, '>') : NULL;
    *len = 0;
    if (!end)
        return 0;
    const char *name = t + 6, *colon = memchr(name, ':', (size_t)(end - name));
    const char *second = colon ? memchr(colon + 1, ':', (size_t)(end - colon - 1)) : NULL;
    size_t n = (size_t)((colon ? colon : end) - name);
    double scale = 1, unet = 1;
    int shown = (int)(end - t + 1 > 80 ? 80 : end - t + 1);
    if (colon && (!read_scale(colon + 1, second ? second : end, &scale) || (second && !read_scale(second + 1, end, &unet))))
        return err_set(ERR_FORMAT, "prompt: %.*s: expected <lora:name:scale>", shown, t);
    if (second && (scale < unet || scale > unet))
        return err_set(ERR_UNSUPPORTED, "prompt: %.*s: text encoder and UNet must have the same scale", shown, t);
    if (!n)
        return err_set(ERR_FORMAT, "prompt: <lora:> tag without a name");
    PromptLora *q = realloc(p->lora, ((size_t)p->nlora + 1) * sizeof *q);
    if (!q)
        return err_set(ERR_NOMEM, "out of memory: prompt");
    p->lora = q;
    q[p->nlora].scale = scale;
    if (!(q[p->nlora].name = strndup(name, n)))
        return err_set(ERR_NOMEM, "out of memory: prompt");
    p->nlora++;
    *len = (size_t)(end - t) + 1;
    return 0;
}

int prompt_take_loras(Prompt *p, char **rest, const char *text, PromptRules rules)
{
    StrBuf b;
    int rc = 0, tags = rules != PROMPT_COMFYUI && rules != PROMPT_DIFFUSERS;
    *p = (Prompt){0};
    str_init(&b);
    while (*text && rc == 0) {
        size_t used = 0;
        if (*text == '<' && tags)
            rc = lora_at(p, text, &used);
        if (!used)
            str_add_char(&b, *text);
        text += used ? used : 1;
    }
    if (rc == 0)
        rc = str_take(rest, &b);
    str_deinit(&b);
    if (rc < 0)
        prompt_deinit(p);
    return rc;
}

/* ---- A1111's syntax ---- */

static int parse_mark(Parser *s, const char *t, size_t *used)
{
    double w;
    *used = 1;
    if (*t == '\\') {
        /* A backslash before another character is dropped, as A1111 does. */
        if (t[1] && strchr("()[]\\", t[1])) {
            str_add_char(&s->text, t[1]);
            *used = 2;
        }
    } else if (*t == '(') {
        return open_bracket(s, &s->round);
    } else if (*t == '[') {
        return open_bracket(s, &s->square);
    } else if (*t == ':' && s->round.n && weight_at(t, &w)) {
        *used = weight_at(t, &w);
        return close_bracket(s, &s->round, w);
    } else if (*t == ')' && s->round.n) {
        return close_bracket(s, &s->round, 1.1);
    } else if (*t == ']' && s->square.n) {
        return close_bracket(s, &s->square, 1 / 1.1);
    } else {
        str_add_char(&s->text, *t);
    }
    return 0;
}

static int parse(Parser *s, const char *t)
{
    while (*t) {
        size_t used = 0;
        if (*t == '<')
            TRY(lora_at(s->p, t, &used));
        if (!used)
            TRY(parse_mark(s, t, &used));
        t += used;
    }
    TRY(end_part(s));
    for (int i = 0; i < s->round.n; i++)
        multiply_from(s, s->round.at[i], 1.1);
    for (int i = 0; i < s->square.n; i++)
        multiply_from(s, s->square.at[i], 1 / 1.1);
    /* Inside brackets A1111 no longer knows its own mark. */
    for (int i = 0; i < s->p->npart; i++) {
        PromptPart *q = &s->p->part[i];
        if (q->pause && (q->weight < -1 || q->weight > -1)) {
            free(q->text);
            if (!(q->text = strdup("BREAK")))
                return err_set(ERR_NOMEM, "out of memory: prompt");
            q->pause = 0;
        }
    }
    return 0;
}

/* ---- ComfyUI's syntax ---- */

static int comfy_escaped(const char *t, const char *end)
{
    return *t == '\\' && t + 1 < end && (t[1] == '(' || t[1] == ')');
}

static int comfy_text(Parser *s, const char *t, const char *end, double weight)
{
    str_clear(&s->text);
    for (; t < end; t++) {
        t += comfy_escaped(t, end);
        str_add_char(&s->text, *t);
    }
    TRY(str_status(&s->text));
    return s->text.len ? add_part(s, s->text.data, s->text.len, weight, 0) : 0;
}

static int comfy_parse(Parser *s, const char *t, const char *end, double weight, int depth);

/* One item of parse_parentheses: "(...)" or text. */
static int comfy_item(Parser *s, const char *t, const char *end, double weight, int depth)
{
    if (end - t < 2 || *t != '(' || end[-1] != ')' || (end - t > 2 && comfy_escaped(end - 2, end)))
        return comfy_text(s, t, end, weight);
    const char *colon = --end;
    t++;
    weight *= 1.1;
    while (colon > t && *colon != ':')
        colon--;
    if (colon > t) {
        char number[48], *stop = number;
        size_t n = (size_t)(end - colon - 1);
        if (n > 0 && n < sizeof number && !memchr(colon + 1, 'x', n)) {
            memcpy(number, colon + 1, n);
            number[n] = 0;
            double w = strtod(number, &stop);
            while (isspace((unsigned char)*stop))
                stop++;
            if (stop > number && !*stop && isfinite(w)) {
                weight = w;
                end = colon;
            }
        }
    }
    return comfy_parse(s, t, end, weight, depth + 1);
}

static int comfy_parse(Parser *s, const char *t, const char *end, double weight, int depth)
{
    const char *item = t;
    int level = 0;
    if (depth > PROMPT_MAX_NESTED)
        return err_set(ERR_RANGE, "prompt: more than %d brackets inside each other", (int)PROMPT_MAX_NESTED);
    for (; t < end; t++) {
        if (comfy_escaped(t, end)) {
            t++;
        } else if (*t == '(' && level++ == 0) {
            if (t > item)
                TRY(comfy_item(s, item, t, weight, depth));
            item = t;
        } else if (*t == ')' && --level == 0) {
            TRY(comfy_item(s, item, t + 1, weight, depth));
            item = t + 1;
        }
    }
    return item < end ? comfy_item(s, item, end, weight, depth) : 0;
}

/* ---- all rules ---- */

/* Joins neighbours of equal weight, makes `plain`, and sees to at least one part. */
static int finish(Prompt *p)
{
    StrBuf joined, plain;
    int rc = 0, n = 0;
    str_init(&plain);
    for (int i = 0; i < p->npart && rc == 0; n++) {
        double w = p->part[i].weight;
        int pause = p->part[i].pause, first = i;
        str_init(&joined);
        for (; i < p->npart && p->part[i].weight == w && (i == first || (!pause && !p->part[i].pause)); i++) {
            str_add(&joined, p->part[i].text);
            free(p->part[i].text);
            p->part[i].text = NULL;
        }
        str_add(&plain, joined.data);
        p->weighted |= w != 1 && !pause;
        p->part[n].weight = w;
        p->part[n].pause = pause;
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
    p->part[0].pause = 0;
    p->npart = 1;
    return 0;
}

int prompt_parse(Prompt *p, const char *text, PromptRules rules)
{
    Parser s = {.p = p, .rules = rules};
    size_t len = strlen(text);
    int rc;
    *p = (Prompt){0};
    if (len > PROMPT_MAX)
        return err_set(ERR_RANGE, "prompt of %zu bytes: expected at most %d", len, (int)PROMPT_MAX);
    str_init(&s.text);
    s.round.at = malloc((len + 1) * sizeof(int));
    s.square.at = malloc((len + 1) * sizeof(int));
    if (!s.round.at || !s.square.at)
        rc = err_set(ERR_NOMEM, "out of memory: prompt");
    else if (rules == PROMPT_DIFFUSERS)
        rc = len ? add_part(&s, text, len, 1, 0) : 0;
    else
        rc = rules == PROMPT_COMFYUI ? comfy_parse(&s, text, text + len, 1, 0) : parse(&s, text);
    if (rc == 0)
        rc = finish(p);
    free(s.round.at);
    free(s.square.at);
    str_deinit(&s.text);
    if (rc < 0)
        prompt_deinit(p);
    return rc;
}
