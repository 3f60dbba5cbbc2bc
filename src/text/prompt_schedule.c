#include <ctype.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/str.h"
#include "text/prompt.h"

enum { SCHEDULE_MAX_NESTED = 100, SCHEDULE_MAX_CALLS = 100000 };

typedef enum { EDIT_NONE, EDIT_WHEN, EDIT_TURNS } EditKind;

/* A bracket "[...]" that changes with the calls. */
typedef struct {
    EditKind kind;
    const char *end;          /* of the closing bracket */
    const char *colon, *last; /* EDIT_WHEN: first colon when there are two, else NULL; the colon before the number */
    int turns;                /* EDIT_TURNS */
    int when;
} Edit;

typedef struct {
    int calls, strict;
    int failed;     /* strict: the text does not follow the grammar */
    uint8_t *mark;  /* [calls + 1]: a stage ends with this step (counted from 1) */
} Schedule;

static int check(const Schedule *s, const char *t, int depth, Edit *e);

/* "(...)", with one colon at most, and no '|'. NULL: not balanced. */
static const char *check_round(const Schedule *s, const char *t, int depth)
{
    int colons = 0;
    if (depth > SCHEDULE_MAX_NESTED)
        return NULL;
    for (t++; *t; t++) {
        Edit e;
        if (*t == ')')
            return t;
        if (*t == ']' || *t == '|' || (*t == ':' && ++colons > 1) || (*t == '\\' && !t[1]))
            return NULL;
        if (*t == '\\') {
            t++;
        } else if (*t == '(') {
            if (!(t = check_round(s, t, depth + 1)))
                return NULL;
        } else if (*t == '[') {
            if (!check(s, t, depth + 1, &e))
                return NULL;
            t = e.end;
        }
    }
    return NULL;
}

/* `when` as A1111's generate: a share of the calls when written with a point. */
static int read_when(const Schedule *s, const char *from, const char *end, int *when)
{
    char number[40], *stop;
    while (from < end && isspace((unsigned char)*from))
        from++;
    while (end > from && isspace((unsigned char)end[-1]))
        end--;
    size_t n = (size_t)(end - from);
    if (n == 0 || n >= sizeof number)
        return 0;
    memcpy(number, from, n);
    number[n] = 0;
    if (strspn(number, "+-.0123456789eE") != n)
        return 0;
    double x = strtod(number, &stop);
    if (*stop || !isfinite(x))
        return 0;
    if (strchr(number, '.'))
        x *= s->calls;
    *when = x >= s->calls ? s->calls : x <= 0 ? 0 : (int)x;
    return 1;
}

/* The bracket at t as a whole; 0: it is not balanced, or of no known form. */
static int check(const Schedule *s, const char *t, int depth, Edit *e)
{
    int colons = 0, bars = 0;
    *e = (Edit){0};
    if (depth > SCHEDULE_MAX_NESTED)
        return 0;
    for (t++; *t && *t != ']'; t++) {
        Edit inner;
        if (*t == ')' || (*t == '\\' && !t[1]))
            return 0;
        if (*t == '\\') {
            t++;
        } else if (*t == '(') {
            if (!(t = check_round(s, t, depth + 1)))
                return 0;
        } else if (*t == '[') {
            if (!check(s, t, depth + 1, &inner))
                return 0;
            t = inner.end;
        } else if (*t == ':') {
            e->colon = e->last;
            e->last = t;
            colons++;
        } else if (*t == '|') {
            bars++;
        }
    }
    if (!*t || (colons && bars) || colons > 2)
        return 0;
    e->end = t;
    if (colons && !read_when(s, e->last + 1, t, &e->when))
        return 0;
    e->kind = colons ? EDIT_WHEN : bars ? EDIT_TURNS : EDIT_NONE;
    e->turns = bars + 1;
    return 1;
}

/* Begin and end of turn k of the bracket at t. */
static void find_turn(const Schedule *s, const char *t, const Edit *e, int k, const char **from, const char **to)
{
    *from = ++t;
    for (; t < e->end; t++) {
        Edit inner;
        if (*t == '\\')
            t++;
        else if (*t == '(')
            t = check_round(s, t, 0);
        else if (*t == '[' && check(s, t, 0, &inner))
            t = inner.end;
        else if (*t == '|') {
            if (k-- == 0)
                break;
            *from = t + 1;
        }
    }
    *to = t;
}

/* Text of a step (from 1). */
static void render(Schedule *s, const char *t, const char *end, int step, StrBuf *out)
{
    while (t < end && !s->failed) {
        Edit e;
        if (*t == '\\') {
            s->failed |= s->strict && t + 1 == end;
            str_add_char(out, *t++);
            if (t < end)
                str_add_char(out, *t++);
            continue;
        }
        s->failed |= *t == '|' && s->strict;
        if (*t != '[' || !check(s, t, 0, &e) || e.kind == EDIT_NONE) {
            str_add_char(out, *t++);
            continue;
        }
        const char *from = e.colon ? e.colon + 1 : t + 1, *to = e.last;
        if (e.kind == EDIT_TURNS)
            find_turn(s, t, &e, (step - 1) % e.turns, &from, &to);
        else if (step <= e.when) {
            from = t + 1;
            to = e.colon ? e.colon : from;
        }
        render(s, from, to, step, out);
        t = e.end + 1;
    }
}

static void collect(Schedule *s, const char *t)
{
    for (; *t; t++) {
        Edit e;
        if (*t == '\\' && t[1])
            t++;
        else if (*t == '[' && check(s, t, 0, &e)) {
            if (e.kind == EDIT_WHEN)
                s->mark[e.when] = 1;
            else if (e.kind == EDIT_TURNS)
                memset(s->mark, 1, (size_t)s->calls + 1);
        }
    }
}

static int add_stage(PromptSchedule *out, const char *text, int until)
{
    if (out->count && strcmp(out->stage[out->count - 1].text, text) == 0) {
        out->stage[out->count - 1].until = until;
        return 0;
    }
    PromptStage *grown = realloc(out->stage, ((size_t)out->count + 1) * sizeof *grown);
    if (!grown)
        return err_set(ERR_NOMEM, "out of memory: prompt");
    out->stage = grown;
    TRY(str_copy(&grown[out->count].text, text));
    grown[out->count++].until = until;
    return 0;
}

static int make_stages(Schedule *s, PromptSchedule *out, const char *text)
{
    StrBuf b;
    int rc = 0;
    str_init(&b);
    s->mark[s->calls] = 1;
    for (int step = 1; step <= s->calls && rc == 0; step++) {
        if (!s->mark[step])
            continue;
        if (out->count && out->stage[out->count - 1].until == s->calls)
            break; /* A1111's last step is one that no call reaches */
        str_clear(&b);
        render(s, text, text + strlen(text), step, &b);
        if (s->failed)
            break;
        int until = s->strict && step < s->calls ? step + 1 : step;
        rc = str_status(&b) < 0 ? ERR_NOMEM : add_stage(out, b.data, until);
    }
    str_deinit(&b);
    if (rc == 0 && s->failed) {
        prompt_schedule_deinit(out);
        rc = add_stage(out, text, s->calls);
    }
    return rc;
}

int prompt_schedule_parse(PromptSchedule *out, const char *text, PromptRules rules, int calls)
{
    *out = (PromptSchedule){0};
    if (calls < 1 || calls > SCHEDULE_MAX_CALLS)
        return err_set(ERR_RANGE, "prompt editing over %d calls: expected 1..%d", calls, (int)SCHEDULE_MAX_CALLS);
    if (rules == PROMPT_COMFYUI || rules == PROMPT_DIFFUSERS || !strchr(text, '['))
        return add_stage(out, text, calls);
    Schedule s = {.calls = calls, .strict = rules != PROMPT_ATELIER, .mark = calloc((size_t)calls + 1, 1)};
    if (!s.mark)
        return err_set(ERR_NOMEM, "out of memory: prompt");
    collect(&s, text);
    int rc = make_stages(&s, out, text);
    free(s.mark);
    if (rc < 0)
        prompt_schedule_deinit(out);
    return rc;
}

void prompt_schedule_deinit(PromptSchedule *s)
{
    for (int i = 0; i < s->count; i++)
        free(s->stage[i].text);
    free(s->stage);
    *s = (PromptSchedule){0};
}
