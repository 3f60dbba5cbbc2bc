#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/log.h"
#include "base/version.h"
#include "cli/cli.h"

typedef struct {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *line;
} Command;

static const Command commands[] = {
    {"train", cli_train, "fine-tune a model: LoRA or full, on one or many ranks"},
    {"sweep", cli_sweep, "render a grid of images into run.h5, PNGs and a contact sheet"},
    {"plan", cli_plan, "say what a train or sweep config will need: memory, work, images"},
    {"submit", cli_submit, "write a Slurm job for a config and submit it"},
    {"status", cli_status, "show jobs in the queue and how far runs are"},
    {"push", cli_push, "copy a run's folder to S3-compatible storage, also while it runs"},
    {"fetch", cli_fetch, "copy it back, to go on elsewhere"},
    {"dataset", cli_dataset, "look at training images: counts, buckets, captions, duplicates, a contact sheet"},
    {"sample", cli_sample, "render one image"},
    {"reproduce", cli_reproduce, "render an image again from its own record and compare"},
    {"ls", cli_ls, "list the images of a run.h5, with filters"},
    {"show", cli_show, "print everything about one image or run"},
    {"export", cli_export, "write images of a run.h5 as PNG, JPEG or WebP files"},
    {"sheet", cli_sheet, "draw a labelled grid of a run.h5 as PNG or PDF"},
    {"gallery", cli_gallery, "make a folder of a run.h5 that a browser opens from disk"},
    {"lock", cli_lock, "write the hashes of everything a config reads, for Git"},
    {"diff", cli_diff, "say what differs between two images, runs, configs or lock files"},
    {"consolidate", cli_consolidate, "make a run.h5 of virtual datasets hold its images itself"},
    {"score", cli_score, "measure the images of a sweep, per LoRA"},
    {"merge", cli_merge, "put adapters into a model, or several into one"},
    {"extract", cli_extract, "the difference of two models as a LoRA"},
    {"resize", cli_resize, "change the ranks of a LoRA"},
    {"inspect", cli_inspect, "explain a LoRA, model, checkpoint or image"},
    {"tokenize", cli_tokenize, "show the tokens of a text"},
    {"info", cli_info, "show version, processor, libraries and ranks"},
};
enum { COMMANDS = sizeof commands / sizeof *commands };

static const Command *command_find(const char *name)
{
    for (int i = 0; i < COMMANDS; i++)
        if (strcmp(commands[i].name, name) == 0)
            return &commands[i];
    return NULL;
}

static void print_commands(FILE *to)
{
    fprintf(to, "usage: atelier COMMAND [arguments]\n\n");
    for (int i = 0; i < COMMANDS; i++)
        fprintf(to, "  %-11s %s\n", commands[i].name, commands[i].line);
    fprintf(to, "\n  atelier help COMMAND   more about one command\n"
                "  atelier --version      version and commit\n\n"
                "Exit codes: 0 done, 1 error, 2 bad command line, 3 stopped by a signal (finished work is saved).\n"
                "ATELIER_LOG=0..5 sets how much is told (2).\n");
}

static int unknown_command(const char *name)
{
    const char *names[COMMANDS];
    for (int i = 0; i < COMMANDS; i++)
        names[i] = commands[i].name;
    const char *near = str_nearest(name, names, COMMANDS);
    if (near)
        return cli_exit(err_set(ERR_USAGE, "unknown command '%s'; did you mean '%s'?", name, near));
    return cli_exit(err_set(ERR_USAGE, "unknown command '%s'; see atelier help", name));
}

static int help(int argc, char **argv)
{
    if (argc < 2) {
        print_commands(stdout);
        return CLI_OK;
    }
    const Command *c = command_find(argv[1]);
    if (!c)
        return unknown_command(argv[1]);
    char flag[] = "--help";
    char *args[] = {argv[1], flag, NULL};
    return c->run(2, args);
}

/* Threads that wait for others spin for milliseconds by libgomp's own choice, which takes the cores from the very threads they wait for
 * where the machine has other work too. It reads its settings before main, so the program starts once more with them. */
static void spin_briefly(char **argv)
{
    char self[4096];
    if (getenv("OMP_WAIT_POLICY") || getenv("GOMP_SPINCOUNT"))
        return;
    ssize_t n = readlink("/proc/self/exe", self, sizeof self);
    if (n < 1 || (size_t)n >= sizeof self || setenv("GOMP_SPINCOUNT", "3000", 1) < 0)
        return;
    self[n] = 0;
    execv(self, argv);
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        print_commands(stderr);
        return CLI_USAGE;
    }
    const char *level = getenv("ATELIER_LOG");
    if (level && level[0] >= '0' && level[0] <= '5' && !level[1])
        log_set_level(level[0] - '0');
    const char *name = argv[1];
    if (strcmp(name, "--version") == 0 || strcmp(name, "version") == 0) {
        printf("atelier %s (%s)\n", ATELIER_VERSION, version_commit());
        return CLI_OK;
    }
    if (strcmp(name, "help") == 0 || strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0)
        return help(argc - 1, argv + 1);
    const Command *c = command_find(name);
    if (!c)
        return unknown_command(name);
    spin_briefly(argv);
    return c->run(argc - 1, argv + 1);
}
