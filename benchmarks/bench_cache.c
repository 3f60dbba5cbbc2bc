/* The latent cache of many small images: how much of the time of building it is bookkeeping, and how much images, VAE and disk.
 *     bench_cache [FOLDER [IMAGES [MODEL]]]      (., 100000; MODEL: also the time of its VAE per image). Under mpirun: on all ranks.
 * The images are PNG files of 64 x 64 with captions. In place of a VAE each row is computed by averaging pixels, so that next to nothing
 * hides the bookkeeping; times of a lone rank are CPU seconds of the process, beside them the time that passed. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "base/clock.h"
#include "base/str.h"
#include "graph/device.h"
#include "io/file.h"
#include "io/png.h"
#include "train/cache.h"
#include "train/dataset.h"
#include "train/encode.h"

enum { SIDE = 64, CELL = 8, ROW = CELL * CELL * 8, BATCH = 8, PER_FOLDER = 1000 };

typedef struct {
    double wall, cpu;
} Moment;

typedef struct {
    TrainDataset *d;
    double decode;        /* CPU seconds in images */
    int64_t n;
} Job;

static Moment now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (Moment){clock_now(), (double)t.tv_sec + 1e-9 * (double)t.tv_nsec};
}

static Moment phase(const Comm *c, const char *name, Moment since, double images)
{
    Moment t = now();
    if (c->rank == 0)
        printf("%-44s %8.2f s CPU %8.2f s passed %9.2f us per image\n", name, t.cpu - since.cpu, t.wall - since.wall,
               1e6 * (t.cpu - since.cpu) / images);
    fflush(stdout);
    return now();
}

/* Written plainly: what is measured comes later. */
static int put(const char *path, const void *data, size_t size)
{
    FILE *f = fopen(path, "wb");
    if (!f)
        return err_errno("%s", path);
    int ok = fwrite(data, 1, size, f) == size;
    return fclose(f) == 0 && ok ? 0 : err_errno("%s", path);
}

static int make_image(const char *folder, int64_t k)
{
    IoImage img;
    uint8_t *png = NULL;
    size_t size;
    char *path = NULL, text[64];
    TRY(io_image_init(&img, SIDE, SIDE, 3));
    for (int i = 0; i < SIDE * SIDE; i++)
        for (int c = 0; c < 3; c++)
            img.data[3 * i + c] = (uint8_t)((i % SIDE * (c + 1) + i / SIDE * (int)(k % 7)) / 2 + (int)(k >> (8 * c)));
    int rc = io_png_encode(&png, &size, &img, NULL, 0, 1);
    io_image_deinit(&img);
    if (rc >= 0)
        rc = str_format(&path, "%s/%03lld/%06lld.png", folder, (long long)(k / PER_FOLDER), (long long)k);
    if (rc >= 0)
        rc = put(path, png, size);
    if (rc >= 0) {
        memcpy(path + strlen(path) - 3, "txt", 3);
        rc = put(path, text, (size_t)snprintf(text, sizeof text, "picture number %lld", (long long)k));
    }
    free(path);
    free(png);
    return rc;
}

static int make_images(const char *folder, int64_t n)
{
    char *path;
    for (int64_t k = 0; k < n; k++) {
        if (k % PER_FOLDER == 0) {
            TRY(str_format(&path, "%s/%03lld", folder, (long long)(k / PER_FOLDER)));
            int rc = io_dir_make(path);
            free(path);
            TRY(rc);
        }
        TRY(make_image(folder, k));
    }
    return 0;
}

static int compute(void *ctx, const int64_t *which, int n, float *rows)
{
    Job *j = ctx;
    double from = now().cpu;
    for (int i = 0; i < n; i++) {
        IoImage img;
        float *row = rows + (int64_t)i * ROW;
        TRY(train_dataset_load(j->d, which[i], 1, 0, 0, &img));
        for (int k = 0; k < ROW; k++)
            row[k] = (float)img.data[k * (SIDE * SIDE * 3 / ROW)];
        io_image_deinit(&img);
    }
    j->decode += now().cpu - from;
    j->n += n;
    return 0;
}

static int keys_of(Job *j, uint8_t (*key)[HASH_SIZE])
{
    for (int64_t i = 0; i < train_dataset_count(j->d); i++) {
        uint8_t image[HASH_SIZE];
        TRY(train_dataset_key(j->d, i, 0, image));
        TRY(hash_bytes(key[i], image, sizeof image));
    }
    return 0;
}

static int open_set(TrainConf *c, const char *folder, int64_t n)
{
    StrBuf b;
    str_init(&b);
    str_add(&b, "datasets=[");
    for (int64_t k = 0; k < n; k += PER_FOLDER) {
        char path[32];
        snprintf(path, sizeof path, "/%03lld", (long long)(k / PER_FOLDER));
        str_add_format(&b, "%s{path: '%s%s'}", k ? ", " : "", folder, path);
    }
    str_add(&b, "]");
    const char *const o[] = {"model=-", "output=-", "resolution=64", b.data};
    int rc = str_status(&b);
    if (rc >= 0)
        rc = train_conf_read(c, NULL, o, 4);
    str_deinit(&b);
    return rc;
}

static int measure_vae(const char *model)
{
    enum { N = 32 };
    Pipeline *pipe = NULL;
    Backend *be = NULL;
    TrainEncoder *e = NULL;
    int rc;
    TRY_GOTO(pipeline_open_without(&pipe, model, NULL, PIPELINE_PARTS));
    TRY_GOTO(device_create(&be, 0, 0, 1));
    TRY_GOTO(train_encoder_create_images(&e, pipe, be, SIDE, SIDE, BATCH));
    float *in = calloc((size_t)N * SIDE * SIDE * 3, sizeof *in), *out = calloc((size_t)N * SIDE * SIDE * 8, sizeof *out);
    rc = in && out ? train_encoder_images(e, in, BATCH, out) : err_set(ERR_NOMEM, "out of memory");
    Moment from = now();
    if (rc >= 0)
        rc = train_encoder_images(e, in, N, out);
    if (rc >= 0)
        printf("%-44s %49.2f us per image\n", "VAE of the model, one thread", 1e6 * (now().cpu - from.cpu) / N);
    free(in);
    free(out);
done:
    train_encoder_destroy(e);
    backend_destroy(be);
    pipeline_close(pipe);
    return rc;
}

static int bench(Comm *comm, const char *folder, int64_t n)
{
    TrainConf c = {0};
    Job j = {0};
    TrainCache *cache = NULL;
    char *path = NULL;
    uint8_t(*key)[HASH_SIZE] = malloc((size_t)n * sizeof *key);
    int rc = key ? 0 : err_set(ERR_NOMEM, "out of memory");
    if (rc >= 0)
        rc = str_format(&path, "%s/latents-%d", folder, ROW);
    TRY_GOTO(comm_agree(comm, rc));
    TRY_GOTO(comm_agree(comm, open_set(&c, folder, n)));
    Moment begin = now(), at = begin;
    TRY_GOTO(comm_agree(comm, train_dataset_open(&j.d, &c)));
    at = phase(comm, "lists and captions", at, (double)n);
    TRY_GOTO(train_dataset_scan(j.d, comm));
    at = phase(comm, "reading and hashing the files", at, (double)n);
    TRY_GOTO(comm_agree(comm, keys_of(&j, key)));
    at = phase(comm, "keys", at, (double)n);
    TrainCacheSpec spec = {path, "rows", n, ROW, (const uint8_t(*)[HASH_SIZE])key, BATCH, 0, compute, &j};
    TRY_GOTO(train_cache_open(&cache, &spec, comm));
    Moment filled = phase(comm, "filling the cache and loading it", at, (double)n);
    if (comm->rank == 0)
        printf("%-44s %8.2f s CPU %35.2f us per image\n", "  of it images: reading, decoding, resizing", j.decode, 1e6 * j.decode / (double)j.n);
    if (comm->rank == 0)
        printf("%-44s %8.2f s CPU\n", "in all", filled.cpu - begin.cpu);
    train_cache_close(cache);
    cache = NULL;
    at = now();
    TRY_GOTO(train_cache_open(&cache, &spec, comm));
    phase(comm, "opening it again", at, (double)n);
done:
    train_cache_close(cache);
    train_dataset_close(j.d);
    train_conf_deinit(&c);
    free(path);
    free(key);
    return rc;
}

int main(int argc, char **argv)
{
    Comm comm;
    int64_t n = argc > 2 ? atoll(argv[2]) : 100000;
    char *folder = NULL;
    int rc = comm_init(&comm, &argc, &argv);
    if (rc >= 0)
        rc = io_path_join(&folder, argc > 1 ? argv[1] : ".", "bench-cache");
    if (rc >= 0 && comm.rank == 0)
        rc = io_file_exists(folder) ? err_set(ERR_BUSY, "%s is there already: remove it", folder) : make_images(folder, n);
    rc = comm_agree(&comm, rc);
    if (rc >= 0)
        rc = bench(&comm, folder, n);
    if (rc >= 0 && argc > 3 && comm.rank == 0)
        rc = measure_vae(argv[3]);
    if (rc < 0)
        fprintf(stderr, "%s\n", err_message());
    free(folder);
    comm_deinit(&comm);
    return rc < 0;
}
