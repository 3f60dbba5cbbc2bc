#include <stdio.h>

#include "cli/cli.h"
#include "sweep/sheet.h"

static const char usage[] =
    "usage: atelier sheet run.h5 [--rows a,b] [--columns c,d] [--where CONDITION] [--cell PIXELS] [--title TEXT] [--out FILE.png|FILE.pdf]\n\n"
    "Draws images of a sweep as a grid with labels (sheet.png). A row for each set of values of the columns after --rows, a column\n"
    "for each of --columns; without both: what varies, the last of it across. Where several images share a place the first is shown.\n"
    "For X/Y/Z grids name two on one side: --rows prompt,lora --columns cfg. Names: `atelier ls run.h5 --columns=?`. A PDF holds the\n"
    "pictures in their own resolution and text as text.\n";

typedef struct {
    const char *run, *rows, *columns, *where, *title, *out, *cell;
} Args;

static int parse(Args *a, int argc, char **argv)
{
    const struct {
        const char *name;
        const char **to;
    } options[] = {{"--rows", &a->rows},   {"--columns", &a->columns}, {"--where", &a->where}, {"--title", &a->title},
                   {"--out", &a->out}, {"-o", &a->out},        {"--cell", &a->cell}};
    for (int i = 1; i < argc; i++) {
        const char *v = NULL;
        for (size_t k = 0; k < sizeof options / sizeof *options && !v; k++) {
            TRY(cli_option("sheet", argc, argv, &i, options[k].name, &v));
            if (v)
                *options[k].to = v;
        }
        if (v)
            continue;
        if (argv[i][0] == '-' && argv[i][1])
            return cli_usage("sheet", "unknown option '%s'", argv[i]);
        if (a->run)
            return cli_usage("sheet", "one run.h5 expected, got '%s' and '%s'", a->run, argv[i]);
        a->run = argv[i];
    }
    if (!str_ends_with(a->out, ".png") && !str_ends_with(a->out, ".pdf"))
        return cli_usage("sheet", "--out '%s': expected FILE.png or FILE.pdf", a->out);
    return a->run ? 0 : cli_usage("sheet", "a run.h5 is expected");
}

static int sheet(const Args *a, int cell)
{
    SweepRunFile run = {0};
    Table t = {0};
    TableRows rows = {0};
    SheetCells cells = {0};
    int64_t hidden;
    int rc;
    TRY_GOTO(sweep_runfile_open(&run, a->run));
    TRY_GOTO(table_init(&t, &run));
    TRY_GOTO(table_select(&t, a->where, &rows));
    TRY_GOTO(sheet_cells_by_columns(&cells, &t, &rows, a->rows, a->columns, &hidden));
    TRY_GOTO(sheet_cells_write(a->out, &run, &cells, cell, a->title));
    printf("%s: %lld x %lld\n", a->out, (long long)cells.cols, (long long)cells.rows);
    if (hidden)
        printf("%lld of %lld images are behind others: name more --rows or --columns, or narrow with --where\n", (long long)hidden,
               (long long)rows.n);
done:
    sheet_cells_deinit(&cells);
    table_rows_deinit(&rows);
    table_deinit(&t);
    sweep_runfile_close(&run);
    return rc;
}

int cli_sheet(int argc, char **argv)
{
    if (cli_wants_help(argc, argv))
        return cli_help(usage, NULL);
    Args a = {.out = "sheet.png", .cell = "0"};
    int64_t cell = 0;
    int rc = parse(&a, argc, argv);
    if (rc >= 0)
        rc = cli_number("sheet", "--cell", a.cell, 0, 4096, &cell);
    return cli_exit(rc < 0 ? rc : sheet(&a, (int)cell));
}
