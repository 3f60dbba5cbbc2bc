#include "train/csv.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"

void train_csv_init(TrainCsv *c, char *text, const char *name)
{
    memset(c, 0, sizeof *c);
    c->at = text;
    c->name = name;
    c->next_line = 1;
    if (!strncmp(text, "\xef\xbb\xbf", 3))
        c->at += 3;
}

void train_csv_deinit(TrainCsv *c)
{
    free(c->field);
    c->field = NULL;
}

static int add_field(TrainCsv *c, char *start)
{
    if (c->count == c->cap) {
        int n = c->cap ? c->cap * 2 : 16;
        char **p = realloc(c->field, (size_t)n * sizeof *p);
        if (!p)
            return err_set(ERR_NOMEM, "%s: out of memory", c->name);
        c->field = p;
        c->cap = n;
    }
    c->field[c->count++] = start;
    return 0;
}

/* A quoted field at *in is unquoted to *out; *in ends at what follows it. */
static int read_quoted(TrainCsv *c, char **in, char **out)
{
    char *p = *in;
    for (p++;; p++) {
        if (!*p)
            return err_set(ERR_FORMAT, "%s:%d: a quoted field does not end", c->name, c->line);
        if (*p == '"' && *++p != '"')
            break;
        c->next_line += *p == '\n';
        *(*out)++ = *p;
    }
    if (*p == '\r' && (p[1] == '\n' || !p[1]))
        p++;
    *in = p;
    return *p && *p != ',' && *p != '\n' ? err_set(ERR_FORMAT, "%s:%d: text after a closing quote", c->name, c->line) : 0;
}

/* Moves one field to `start` and returns the character that ended it (',', '\n' or 0), or a negative error. */
static int read_field(TrainCsv *c, char *start)
{
    char *in = c->at, *out = start;
    if (*in == '"') {
        TRY(read_quoted(c, &in, &out));
    } else {
        while (*in && *in != ',' && *in != '\n')
            *out++ = *in++;
        if (*in != ',' && out > start && out[-1] == '\r')
            out--;
    }
    int end = *in;
    c->at = in + (end != 0);
    *out = 0;
    return end;
}

int train_csv_next(TrainCsv *c)
{
    while (*c->at == '\n' || (*c->at == '\r' && c->at[1] == '\n')) {
        c->next_line += *c->at == '\n';
        c->at++;
    }
    if (!*c->at)
        return 0;
    c->count = 0;
    c->line = c->next_line;
    int end;
    do {
        char *start = c->at;
        end = read_field(c, start);
        if (end < 0)
            return end;
        TRY(add_field(c, start));
    } while (end == ',');
    c->next_line++;
    return 1;
}
