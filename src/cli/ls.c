#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "sweep/table.h"

static const char usage[] =
    "usage: atelier ls run.h5 [--where CONDITION] [--columns a,b,c] [--json|--csv]\n\n"
    "Lists the images of a sweep, one a line. --columns=? lists what there is to choose from; --json prints one object a line,\n"
    "--csv a table with a header (RFC 4180). Conditions as in `atelier help export`.\n";

typedef enum { AS_TEXT, AS_JSON, AS_CSV } Style;
typedef struct {
    const char *run, *where, *columns;
    Style style;
} Args;

static int parse(Args *a, int argc, char **argv)
{
    const char *v;
    for (int i = 1; i < argc; i++) {
        TRY(cli_option("ls", argc, argv, &i, "--where", &v));
        if (v) {
            a->where = v;
            continue;
        }
        TRY(cli_option("ls", argc, argv, &i, "--columns", &v));
        if (v)
            a->columns = v;
        else if (strcmp(argv[i], "--json") == 0)
            a->style = AS_JSON;
        else if (strcmp(argv[i], "--csv") == 0)
            a->style = AS_CSV;
        else if (argv[i][0] == '-' && argv[i][1])
            return cli_usage("ls", "unknown option '%s'", argv[i]);
        else if (a->run)
            return cli_usage("ls", "one run.h5 expected, got '%s' and '%s'", a->run, argv[i]);
        else
            a->run = argv[i];
    }
    return a->run ? 0 : cli_usage("ls", "a run.h5 is expected");
}

static void add_csv(StrBuf *b, const char *text)
{
    if (!strpbrk(text, ",\"\r\n")) {
        str_add(b, text);
        return;
    }
    str_add_char(b, '"');
    for (const char *p = text; *p; p++) {
        if (*p == '"')
            str_add_char(b, '"');
        str_add_char(b, *p);
    }
    str_add_char(b, '"');
}

/* One line each, whatever the text holds. */
static void add_plain(StrBuf *b, const char *text)
{
    for (const char *p = text; *p; p++)
        str_add_char(b, (unsigned char)*p < 32 || *p == 127 ? ' ' : *p);
}

static int add_cell(Table *t, int64_t row, int column, Style style, StrBuf *line)
{
    StrBuf cell;
    if (style == AS_JSON) {
        str_add_json(line, t->column[column].name, strlen(t->column[column].name));
        str_add(line, ": ");
        return table_json(t, row, column, line);
    }
    str_init(&cell);
    int rc = table_text(t, row, column, &cell);
    if (rc >= 0)
        rc = str_status(&cell);
    if (rc >= 0 && style == AS_CSV)
        add_csv(line, cell.data);
    else if (rc >= 0)
        add_plain(line, cell.data);
    str_deinit(&cell);
    return rc;
}

static int print_row(Table *t, int64_t row, const TableColumns *c, Style style)
{
    StrBuf line;
    int rc = 0;
    str_init(&line);
    for (int i = 0; i < c->count && rc >= 0; i++) {
        str_add(&line, style == AS_JSON ? (i ? ", " : "{") : !i ? "" : style == AS_CSV ? "," : "\t");
        rc = add_cell(t, row, c->column[i], style, &line);
    }
    if (rc >= 0)
        rc = str_status(&line);
    if (rc >= 0)
        printf("%s%s\n", line.data, style == AS_JSON ? "}" : "");
    str_deinit(&line);
    return rc;
}

static void print_head(const Table *t, const TableColumns *c, Style style)
{
    for (int i = 0; style != AS_JSON && i < c->count; i++)
        printf("%s%s", !i ? "" : style == AS_CSV ? "," : "\t", t->column[c->column[i]].name);
    if (style != AS_JSON)
        printf("\n");
}

static void print_names(const Table *t)
{
    static const char *const kinds[] = {"column", "adapters", "width x height", "axis", "record"};
    for (int i = 0; i < t->count; i++)
        printf("%-20s %s%s\n", t->column[i].name, kinds[t->column[i].kind], t->column[i].alias ? ", another name" : "");
}

static int list(const Args *a)
{
    SweepRunFile run = {0};
    Table t = {0};
    TableRows rows = {0};
    TableColumns c = {0};
    int rc;
    TRY_GOTO(sweep_runfile_open(&run, a->run));
    TRY_GOTO(table_init(&t, &run));
    if (strcmp(a->columns, "?") == 0) {
        print_names(&t);
        goto done;
    }
    TRY_GOTO(table_columns(&t, a->columns, "--columns", &c));
    TRY_GOTO(table_select(&t, a->where, &rows));
    print_head(&t, &c, a->style);
    for (int64_t i = 0; i < rows.n; i++)
        TRY_GOTO(print_row(&t, rows.row[i], &c, a->style));
done:
    free(c.column);
    table_rows_deinit(&rows);
    table_deinit(&t);
    sweep_runfile_close(&run);
    return rc;
}

int cli_ls(int argc, char **argv)
{
    if (cli_wants_help(argc, argv))
        return cli_help(usage, NULL);
    Args a = {.columns = "index,seed,size,steps,sampler,guidance,lora,prompt"};
    int rc = parse(&a, argc, argv);
    return cli_exit(rc < 0 ? rc : list(&a));
}
