/* Writing of finished images: the writer of `atelier sweep` against the raw bandwidth of the same disk in the same run, and what each
 * compression costs.
 *     bench_writer [FOLDER [IMAGES [SIDE]]]        (a folder on the disk in question; ., 64, 512) */
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/str.h"
#include "io/file.h"
#include "sweep/record.h"
#include "sweep/writer.h"

/* Seconds that this process computed, all threads: other programs on the machine do not count. */
static double cpu_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Smooth colours with a little grain, as a decoder makes them. */
static int make_image(IoImage *img, int side, int number)
{
    uint32_t noise = (uint32_t)number * 2654435761u + 1;
    TRY(io_image_init(img, side, side, 3));
    for (int y = 0; y < side; y++)
        for (int x = 0; x < side; x++)
            for (int c = 0; c < 3; c++) {
                noise = noise * 1664525u + 1013904223u;
                double v = 128 + 60 * sin(0.02 * x + number + c) + 50 * cos(0.013 * y * (1 + 0.1 * c)) + (double)(noise >> 31);
                img->data[((size_t)y * (size_t)side + (size_t)x) * 3 + (size_t)c] = (uint8_t)(v < 0 ? 0 : v > 255 ? 255 : v);
            }
    return 0;
}

static int make_row(SweepRow *row, int side, int number)
{
    static const char record[] = "{\"index\": %d, \"prompt\": \"%s\"}";
    char prompt[900];
    memset(row, 0, sizeof *row);
    memset(prompt, 'a' + number % 26, sizeof prompt - 1);
    prompt[sizeof prompt - 1] = 0;
    row->index = number;
    TRY(str_format(&row->record, record, number, prompt));
    return make_image(&row->image, side, number);
}

/* Bytes per second of large plain writes with a sync at the end. */
static int raw_bandwidth(const char *folder, double *out)
{
    enum { PIECE = 4 << 20, PIECES = 64 };
    char *path, *data = malloc(PIECE);
    TRY(io_path_join(&path, folder, "bench-raw.tmp"));
    if (!data)
        return err_set(ERR_NOMEM, "out of memory");
    for (int i = 0; i < PIECE; i++)
        data[i] = (char)((unsigned)i * 2654435761u >> 24);
    double start = clock_now();
    int fd = open(path, O_CREAT | O_TRUNC | O_WRONLY, 0666), rc = fd < 0 ? err_errno("%s", path) : 0;
    for (int i = 0; i < PIECES && rc >= 0; i++)
        if (write(fd, data, PIECE) != PIECE)
            rc = err_errno("%s", path);
    if (rc >= 0 && fsync(fd) < 0)
        rc = err_errno("%s", path);
    *out = (double)PIECE * PIECES / (clock_now() - start);
    if (fd >= 0)
        close(fd);
    unlink(path);
    free(path);
    free(data);
    return rc;
}

static int filters(const char *folder, int n, int side)
{
    static const IoH5Store stores[] = {{.chunk_rows = 1},
                                       {.gzip = 1, .chunk_rows = 1},
                                       {.gzip = 2, .chunk_rows = 1},
                                       {.gzip = 4, .chunk_rows = 1},
                                       {.gzip = 6, .chunk_rows = 1},
                                       {.gzip = 4, .shuffle = 1, .chunk_rows = 1},
                                       {.gzip = 4, .checksum = 1, .chunk_rows = 1}};
    char *path;
    TRY(io_path_join(&path, folder, "bench-filter.tmp.h5"));
    for (size_t k = 0; k < sizeof stores / sizeof *stores; k++) {
        IoH5 *f;
        IoImage img;
        int64_t size;
        double spent = 0;
        TRY(io_h5_create_direct(&f, path));
        TRY(io_h5_create_rows(f, "images", DTYPE_U8, 0, 3, (int64_t[]){side, side, 3}, &stores[k]));
        for (int i = 0; i < n; i++) {
            TRY(make_image(&img, side, i));
            double start = cpu_now();
            TRY(io_h5_append(f, "images", DTYPE_U8, 1, img.data));
            spent += cpu_now() - start;
            io_image_deinit(&img);
        }
        TRY(io_h5_close(f));
        TRY(io_file_size(&size, path));
        printf("  gzip %d%s%s: %6.1f MB/s of pixels per core, %5.1f %% of the size\n", stores[k].gzip, stores[k].shuffle ? " shuffle" : "",
               stores[k].checksum ? " fletcher32" : "", (double)n * side * side * 3e-6 / spent, 100.0 * (double)size / ((double)n * side * side * 3));
        unlink(path);
    }
    free(path);
    return 0;
}

static int64_t folder_bytes(const char *output)
{
    SweepParts p;
    int64_t sum = 0, size;
    if (sweep_parts_scan(&p, output, 0) < 0)
        return 0;
    for (int i = 0; i < p.count; i++)
        if (io_file_size(&size, p.path[i]) >= 0)
            sum += size;
    sweep_parts_deinit(&p);
    return sum;
}

static int writer(const char *folder, int n, int side, double raw)
{
    char *output;
    SweepStore store;
    SweepWriter *w;
    SweepWriterStats stats;
    TRY(io_path_join(&output, folder, "bench-writer.tmp"));
    const SweepWriterConf conf = {.output = output, .count = n, .queue = 256 << 20, .retry = 1};
    TRY(io_dir_make(output));
    TRY(sweep_store_init(&store, output, "bench", 0, 0));
    TRY(sweep_writer_start(&w, &store, &conf));
    SweepRow *rows = calloc((size_t)n, sizeof *rows);
    if (!rows)
        return err_set(ERR_NOMEM, "out of memory");
    for (int i = 0; i < n; i++)
        TRY(make_row(&rows[i], side, i));
    double start = clock_now(), cpu = cpu_now();
    TRY(sweep_writer_put(w, rows, n));
    TRY(sweep_writer_stop(w, &stats));
    double wall = clock_now() - start, pixels = (double)stats.bytes, file = (double)folder_bytes(output);
    printf("writer: %.1f MB/s of pixels, %.1f MB/s on disk = %.1f %% of the raw bandwidth; %lld images in %lld saves\n", pixels * 1e-6 / wall,
           file * 1e-6 / wall, 100 * file / wall / raw, (long long)stats.stored, (long long)stats.saves);
    cpu = cpu_now() - cpu;
    printf("  %.3f s of computing per image (%.1f MB/s of pixels on a free core): a rank that renders slower never waits\n", cpu / n,
           pixels * 1e-6 / cpu);
    TRY(sweep_parts_remove(output));
    rmdir(output);
    free(output);
    free(rows);
    return 0;
}

static int bench(const char *folder, int n, int side)
{
    double raw = 0;
    TRY(raw_bandwidth(folder, &raw));
    printf("raw: %.1f MB/s (256 MiB, synced)\n", raw * 1e-6);
    TRY(writer(folder, n, side, raw));
    printf("filters:\n");
    return filters(folder, n < 16 ? n : 16, side);
}

int main(int argc, char **argv)
{
    int rc = bench(argc > 1 ? argv[1] : ".", argc > 2 ? atoi(argv[2]) : 64, argc > 3 ? atoi(argv[3]) : 512);
    if (rc < 0)
        fprintf(stderr, "%s\n", err_message());
    return rc < 0;
}
