#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/error.h"
#include "cli/cli.h"
#include "cli/process.h"
#include "io/file.h"
#include "io/h5.h"
#include "sweep/grid.h"
#include "sweep/store.h"
#include "train/conf.h"

static const char usage[] =
    "usage: atelier status [OUTPUT|CONFIG.yaml ...]\n\n"
    "Shows the Slurm jobs of output folders (`atelier submit` notes them there) as squeue and sacct report them, and how far each run is by\n"
    "its own files: the newest checkpoint with its loss and pace, or the images that are stored. Without arguments: your jobs.\n"
    "It only reads, and needs no Slurm for folders without jobs.\n";

enum { MAX_TEXT = 16 << 20 };

/* ---- jobs ---- */

static int ask_queue(StrBuf *b, int *code)
{
    char user[32];
    snprintf(user, sizeof user, "%ld", (long)getuid());
    const char *argv[] = {"squeue", "-h", "-r", "-u", user, "-o", "%F|%i|%T|%M|%l|%D|%j|%R", NULL};
    return process_capture(argv, b, 0, code);
}

/* Lines of one job (all tasks of an array), or of all jobs with id NULL. Returns how many. */
static int print_queue(const char *queue, const char *id)
{
    char *copy, *save = NULL, *f[8];
    int n = 0;
    if (str_copy(&copy, queue) < 0)
        return 0;
    for (char *line = strtok_r(copy, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        if (process_fields(line, '|', f, 8) != 8 || (id && strcmp(f[0], id) != 0 && strcmp(f[1], id) != 0))
            continue;
        if (++n <= 8)
            printf("  job %-10s %-12s %-20s run %s of %s on %s node%s  %s\n", f[1], f[2], f[6], f[3], f[4], f[5], strcmp(f[5], "1") ? "s" : "", f[7]);
    }
    if (n > 8)
        printf("  ... and %d more tasks\n", n - 8);
    free(copy);
    return n;
}

/* A job that has left the queue: sacct knows it where accounting is on, else scontrol for some minutes. */
static void print_ended(const char *id, const char *name)
{
    StrBuf b;
    int code;
    const char *sacct[] = {"sacct", "-n", "-P", "-X", "-j", id, "-o", "State,Elapsed,ExitCode", NULL};
    const char *scontrol[] = {"scontrol", "-o", "show", "job", id, NULL};
    str_init(&b);
    if (process_capture(sacct, &b, 0, &code) >= 0 && code == 0 && b.len) {
        char *f[3], *line = b.data;
        line[strcspn(line, "\n")] = 0;
        if (process_fields(line, '|', f, 3) == 3) {
            printf("  job %-10s %-12s %-20s ran %s, exit code %s\n", id, f[0], name, f[1], f[2]);
            str_deinit(&b);
            return;
        }
    }
    str_clear(&b);
    const char *state = NULL, *restarts = NULL;
    if (process_capture(scontrol, &b, 0, &code) >= 0 && code == 0) {
        state = strstr(b.data, "JobState=");
        restarts = strstr(b.data, "Restarts=");
    }
    if (state)
        printf("  job %-10s %-12.*s %-20s restarts %.*s\n", id, (int)strcspn(state + 9, " \n"), state + 9, name,
               restarts ? (int)strcspn(restarts + 9, " \n") : 1, restarts ? restarts + 9 : "?");
    else
        printf("  job %-10s %-12s %-20s\n", id, "ended", name);
    str_deinit(&b);
}

static int print_jobs(const char *output, const char *queue)
{
    char *path, *text, *save = NULL;
    size_t size;
    TRY(str_format(&path, "%s/slurm/jobs", output));
    int rc = io_file_exists(path) ? io_file_read(&text, &size, path, MAX_TEXT) : 1;
    free(path);
    if (rc)
        return rc < 0 ? rc : 0;
    for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        char id[64], when[64], name[64];
        if (sscanf(line, "%63s %63s %63s", id, when, name) == 3 && !print_queue(queue, id))
            print_ended(id, name);
    }
    free(text);
    return 0;
}

/* ---- training ---- */

static double file_time(const char *path)
{
    struct stat st;
    return stat(path, &st) < 0 ? 0 : (double)st.st_mtim.tv_sec + 1e-9 * (double)st.st_mtim.tv_nsec;
}

static double last_loss(const char *path)
{
    IoH5 *f;
    IoH5Info info;
    float x[50];
    double sum = 0;
    int64_t n = 0, used = 0;
    if (io_h5_open(&f, path) < 0)
        return NAN;
    if (io_h5_info(f, "loss", &info) >= 0 && info.ndim == 1) {
        n = info.dim[0] < 50 ? info.dim[0] : 50;
        if (io_h5_read_rows(f, "loss", DTYPE_F32, info.dim[0] - n, n, x) < 0)
            n = 0;
    }
    io_h5_close(f);
    for (int64_t i = 0; i < n; i++)
        if (isfinite(x[i]))
            sum += (double)x[i], used++;
    return used ? sum / (double)used : NAN;
}

/* The checkpoints' numbers and times are the progress. */
static int print_steps(const char *dir, int32_t steps)
{
    IoNames names;
    char *newest = NULL, *before = NULL;
    long long at = 0, was = 0;
    TRY(io_dir_list(&names, dir, ".h5"));
    int rc = 0;
    if (names.count && sscanf(names.items[names.count - 1], "step-%lld.h5", &at) == 1)
        rc = io_path_join(&newest, dir, names.items[names.count - 1]);
    if (rc >= 0 && names.count > 1 && sscanf(names.items[names.count - 2], "step-%lld.h5", &was) == 1)
        rc = io_path_join(&before, dir, names.items[names.count - 2]);
    io_names_deinit(&names);
    printf("  step %lld of %d (%.1f %%)", at, steps, steps ? 100.0 * (double)at / steps : 0);
    if (newest) {
        double loss = last_loss(newest), age = (double)time(NULL) - file_time(newest);
        double pace = before ? (file_time(newest) - file_time(before)) / (double)(at - was) : 0;
        if (isfinite(loss))
            printf(", loss %.4f", loss);
        if (pace > 0)
            printf(", %.2f s a step", pace);
        if (pace > 0 && at < steps)
            printf(", about %.1f h left", pace * (double)(steps - at) / 3600);
        printf(", saved %.0f s ago", age > 0 ? age : 0);
    }
    putchar('\n');
    free(newest);
    free(before);
    return rc;
}

static int print_train(const char *output, const char *conf)
{
    TrainConf c = {0};
    char *dir = NULL, *end = NULL;
    int rc;
    TRY_GOTO(train_conf_read(&c, conf, NULL, 0));
    TRY_GOTO(io_path_join(&dir, output, "checkpoints"));
    TRY_GOTO(io_path_join(&end, output, "loss.csv"));
    printf("%s: training%s\n", output, io_file_exists(end) ? ", finished" : "");
    rc = io_file_is_dir(dir) ? print_steps(dir, c.steps) : 0;
done:
    free(dir);
    free(end);
    train_conf_deinit(&c);
    return rc;
}

/* ---- sweeps ---- */

/* Images in the parts of a folder; a part that is being written to at this very moment counts as it was a moment ago or not at all. */
static int64_t count_parts(const char *folder)
{
    SweepParts p;
    int64_t n = 0;
    if (sweep_parts_scan(&p, folder, 0) < 0)
        return 0;
    for (int i = 0; i < p.count; i++) {
        IoH5 *f;
        IoH5Info info;
        if (io_h5_open(&f, p.path[i]) < 0)
            continue;
        if (io_h5_info(f, "meta/index", &info) >= 0 && info.ndim == 1)
            n += info.dim[0];
        io_h5_close(f);
    }
    sweep_parts_deinit(&p);
    return n;
}

static int count_shards(const char *output, int64_t *images, int *shards)
{
    char *dir;
    IoNames names;
    TRY(io_path_join(&dir, output, "shards"));
    int rc = io_file_is_dir(dir) ? io_dir_list(&names, dir, NULL) : 1;
    for (int i = 0; rc == 0 && i < names.count; i++) {
        char *folder;
        if (io_path_join(&folder, dir, names.items[i]) < 0)
            continue;
        *images += count_parts(folder);
        ++*shards;
        free(folder);
    }
    if (rc == 0)
        io_names_deinit(&names);
    free(dir);
    return rc < 0 ? rc : 0;
}

static int print_sweep(const char *output, const char *conf)
{
    SweepConf c = {0};
    SweepGrid g = {0};
    char *run = NULL;
    int shards = 0, rc;
    TRY_GOTO(sweep_conf_read(&c, conf, NULL, 0));
    TRY_GOTO(sweep_grid_init(&g, &c));
    TRY_GOTO(io_path_join(&run, output, "run.h5"));
    int whole = io_file_exists(run);
    int64_t n = whole ? g.count : count_parts(output);
    if (!whole)
        TRY_GOTO(count_shards(output, &n, &shards));
    printf("%s: sweep%s\n  image %lld of %lld (%.1f %%)", output, whole ? ", finished" : "", (long long)n, (long long)g.count,
           g.count ? 100.0 * (double)n / (double)g.count : 0);
    if (shards)
        printf(", in %d shards that have begun", shards);
    putchar('\n');
done:
    sweep_grid_deinit(&g);
    config_deinit(&sweep_conf_table, &c);
    free(run);
    return rc;
}

/* ---- */

/* The output folder that a configuration names, or the folder itself. */
static int find_output(char **out, const char *path)
{
    StrBuf b;
    ConfNode *root = NULL;
    const char *text;
    if (io_file_is_dir(path))
        return str_copy(out, path);
    str_init(&b);
    int rc = cli_config_resolved(path, NULL, 0, &b);
    if (rc >= 0)
        rc = conf_node_parse(&root, b.data, b.len, path);
    if (rc >= 0)
        rc = conf_node_text(conf_node_find(root, "output"), "output", &text);
    if (rc >= 0)
        rc = str_copy(out, text);
    conf_node_destroy(root);
    str_deinit(&b);
    return rc;
}

static int print_run(const char *path, const char *queue)
{
    char *output = NULL, *train = NULL, *sweep = NULL;
    int rc;
    TRY_GOTO(find_output(&output, path));
    TRY_GOTO(io_path_join(&train, output, "config.yaml"));
    TRY_GOTO(io_path_join(&sweep, output, "sweep.yaml"));
    if (io_file_exists(sweep))
        rc = print_sweep(output, sweep);
    else if (io_file_exists(train))
        rc = print_train(output, train);
    else
        printf("%s: nothing has run there yet\n", output);
    if (rc >= 0)
        rc = print_jobs(output, queue);
done:
    free(output);
    free(train);
    free(sweep);
    return rc;
}

int cli_status(int argc, char **argv)
{
    if (cli_wants_help(argc, argv))
        return cli_help(usage, NULL);
    StrBuf queue;
    str_init(&queue);
    int code = 0, rc = ask_queue(&queue, &code);
    if (rc >= 0 && argc < 2) {
        if (code)
            rc = err_set(ERR_NOTFOUND, "squeue does not answer: name output folders to see how far their runs are");
        else if (!print_queue(queue.data, NULL))
            printf("no jobs\n");
    }
    for (int i = 1; i < argc && rc >= 0; i++)
        rc = argv[i][0] == '-' ? cli_usage("status", "unknown option '%s'", argv[i]) : print_run(argv[i], queue.data);
    str_deinit(&queue);
    return cli_exit(rc);
}
