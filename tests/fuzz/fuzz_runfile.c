/* Run files whose columns have other types, lengths and contents than a sweep writes: built from the input, then read as every command
 * reads them. Bytes of the input: for each column a choice (as it should be, shorter, longer, another type, missing), then numbers and
 * texts; the rest is the first record. */
#include <string.h>
#include <unistd.h>

#include "fuzz.h"
#include "sweep/sheet.h"
#include "sweep/table.h"

typedef struct {
    const uint8_t *p;
    size_t n;
} Bytes;

static unsigned take(Bytes *b)
{
    if (!b->n)
        return 0;
    b->n--;
    return *b->p++;
}

static int64_t rows_of(unsigned choice, int64_t n) { return choice == 1 ? n - (n > 0) : choice == 2 ? n + 1 : n; }

static void write_texts(IoH5 *f, const char *name, Bytes *b, int64_t n, const char *record)
{
    char text[8][24];
    const char *list[8];
    for (int64_t i = 0; i < n; i++) {
        for (size_t k = 0; k < sizeof text[i]; k++)
            text[i][k] = (char)take(b);
        text[i][23] = 0;
        list[i] = record ? record : text[i];
    }
    io_h5_write_strings(f, name, list, n);
}

static void write_column(IoH5 *f, const SweepColumn *c, Bytes *b, int64_t n, const char *record)
{
    unsigned choice = take(b) % 32;
    int64_t rows = rows_of(choice, n), value[8];
    double real[8];
    int text = choice == 3 ? !c->text : c->text;
    if (choice == 4)
        return;
    if (text) {
        write_texts(f, c->name, b, rows, strcmp(c->name, "meta/record") == 0 ? record : NULL);
        return;
    }
    for (int64_t i = 0; i < rows; i++) {
        value[i] = (int8_t)take(b);
        real[i] = (double)value[i] / 7;
    }
    int32_t small[8];
    for (int64_t i = 0; i < rows; i++)
        small[i] = (int32_t)value[i];
    Dtype t = c->text ? DTYPE_I64 : c->dtype;
    io_h5_write(f, c->name, t, 1, &rows, t == DTYPE_F64 ? (void *)real : t == DTYPE_I32 ? (void *)small : value, NULL);
}

static void build(const char *path, Bytes b)
{
    IoH5 *f;
    uint8_t pixels[8 * 4 * 4 * 3] = {0};
    char record[4096];
    int64_t n = take(&b) % 4, row[8] = {0}, shape[2] = {take(&b) % 4, take(&b) % 3};
    FUZZ_REQUIRE(io_h5_create_direct(&f, path) == 0);
    io_h5_set_attr_str(f, "/", "format", take(&b) % 16 ? "atelier sweep" : "other");
    io_h5_write_string(f, "config", "a: b");
    Bytes rest = {b.p + (b.n > 200 ? 200 : b.n), b.n > 200 ? b.n - 200 : 0};
    size_t len = rest.n < sizeof record - 1 ? rest.n : sizeof record - 1;
    memcpy(record, rest.p, len);
    record[len] = 0;
    for (int c = 0; c < SWEEP_COLS; c++)
        write_column(f, &SWEEP_COLUMN[c], &b, n, len ? record : "{}");
    for (int64_t i = 0; i < n; i++)
        row[i] = (int8_t)take(&b);
    io_h5_write(f, "meta/row", DTYPE_I64, 1, &n, row, NULL);
    int64_t dim[4] = {n, 1 + take(&b) % 4, 1 + take(&b) % 4, 3};
    io_h5_write(f, take(&b) % 2 ? "images" : "images_4x4", DTYPE_U8, 4, dim, pixels, NULL);
    int64_t two = 2;
    const char *const axes[] = {"one", "two"};
    io_h5_write(f, "grid/shape", DTYPE_I64, 1, &two, shape, NULL);
    io_h5_write_strings(f, "grid/axes", axes, 2);
    io_h5_write_strings(f, "grid/labels/one", axes, take(&b) % 3);
    io_h5_write_strings(f, "grid/labels/two", axes, take(&b) % 3);
    io_h5_close(f);
}

static void read_all(SweepRunFile *run)
{
    Table t;
    TableRows rows = {0};
    SheetCells cells = {0};
    StrBuf text;
    int64_t hidden;
    str_init(&text);
    if (table_init(&t, run) == 0) {
        for (int64_t k = 0; k < run->meta.n; k++)
            for (int c = 0; c < t.count; c++)
                if (table_text(&t, k, c, &text) == 0)
                    table_json(&t, k, c, &text);
        if (table_select(&t, "cfg > 0 or lora = 'a' or prompt like '*a*'", &rows) == 0)
            sheet_cells_by_columns(&cells, &t, &rows, NULL, NULL, &hidden);
    }
    for (int64_t k = -1; k <= run->meta.n; k++) {
        IoImage img = {0};
        sweep_runfile_image(run, k, &img);
        io_image_deinit(&img);
    }
    for (int64_t k = 0; k < run->meta.n; k++) {
        SweepRecord rec;
        sweep_record_parse(&rec, sweep_runfile_record(run, k), "record");
        sweep_record_deinit(&rec);
    }
    str_deinit(&text);
    sheet_cells_deinit(&cells);
    table_rows_deinit(&rows);
    table_deinit(&t);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char path[64];
    SweepRunFile run;
    snprintf(path, sizeof path, "/tmp/atelier-fuzz-%ld.h5", (long)getpid());
    build(path, (Bytes){data, size});
    if (sweep_runfile_open(&run, path) == 0)
        read_all(&run);
    sweep_runfile_close(&run);
    unlink(path);
    return 0;
}
