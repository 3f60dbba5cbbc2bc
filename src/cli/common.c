#include <errno.h>
#include <math.h>
#include <omp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/log.h"
#include "cli/cli.h"
#include "comm/guard.h"
#include "io/file.h"

int cli_wants_help(int argc, char **argv)
{
    for (int i = 1; i < argc; i++)
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0)
            return 1;
    return 0;
}

int cli_help(const char *usage, const ConfTable *table)
{
    fputs(usage, stdout);
    if (table) {
        StrBuf b;
        str_init(&b);
        config_help(table, &b);
        fputs("\nKeys of the configuration:\n", stdout);
        fputs(b.data, stdout);
        str_deinit(&b);
    }
    return CLI_OK;
}

static int exit_code(int rc)
{
    if (rc >= 0)
        return CLI_OK;
    return rc == ERR_USAGE ? CLI_USAGE : rc == ERR_STOPPED ? CLI_STOPPED : CLI_ERROR;
}

static void print_error(int rc)
{
    const char *text = err_message();
    fflush(stdout);
    fprintf(stderr, "atelier: %s\n", *text ? text : err_name(rc));
}

int cli_exit(int rc)
{
    if (rc < 0)
        print_error(rc);
    else if (fflush(stdout) != 0)
        print_error(rc = err_errno("writing the output"));
    return exit_code(rc);
}

/* Ranks do not wait for each other any more: one says why, and ends what is left of the others when all is saved. */
static void leave_lost(Comm *c, int rc)
{
    int saver = comm_lost_is_saver(c);
    if (saver)
        print_error(rc);
    fflush(NULL);
    comm_lost_wait(c, saver);
    if (saver)
        comm_abort(c, CLI_ERROR);
    _exit(CLI_ERROR);
}

int cli_exit_all(Comm *c, int rc)
{
    if (comm_lost(c))
        leave_lost(c, rc);
    int agreed = comm_agree(c, rc);
    int64_t code = exit_code(rc); /* ranks that did not fail learn from the others which kind of failure it is */
    if (comm_max_i64(c, &code, 1) < 0 || (agreed < 0 && code == CLI_OK))
        code = CLI_ERROR;
    if (agreed < 0 && c->rank == 0)
        print_error(agreed);
    comm_deinit(c);
    return (int)code;
}

int cli_usage(const char *command, const char *fmt, ...)
{
    char text[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    return err_set(ERR_USAGE, "%s; see atelier help %s", text, command);
}

int cli_config_args(int argc, char **argv, const char **path, const char **overrides, int *count)
{
    *path = NULL;
    *count = 0;
    for (int i = 1; i < argc; i++) {
        if (config_is_override(argv[i]))
            overrides[(*count)++] = argv[i];
        else if (argv[i][0] == '-' && argv[i][1])
            return cli_usage(argv[0], "unknown option '%s'", argv[i]);
        else if (*path)
            return cli_usage(argv[0], "one configuration file expected, got '%s' and '%s' (settings are key=value)", *path, argv[i]);
        else
            *path = argv[i];
    }
    return *path ? 0 : cli_usage(argv[0], "a configuration file is expected");
}

int cli_threads(const Comm *c, int wanted)
{
    int ranks = c && c->local_size > 0 ? c->local_size : 1;
    int share = (int)sysconf(_SC_NPROCESSORS_ONLN) / ranks, n = omp_get_max_threads();
    if (share < 1)
        share = 1;
    n = wanted > 0 ? wanted : n < share ? n : share;
    omp_set_num_threads(n); /* for the loops outside the backend too */
    return n;
}

int cli_option(const char *command, int argc, char **argv, int *i, const char *name, const char **value)
{
    size_t n = strlen(name);
    *value = NULL;
    if (strncmp(argv[*i], name, n) != 0 || (argv[*i][n] && argv[*i][n] != '='))
        return 0;
    if (argv[*i][n] == '=') {
        *value = argv[*i] + n + 1;
        return 0;
    }
    if (*i + 1 >= argc)
        return cli_usage(command, "%s needs a value", name);
    *value = argv[++*i];
    return 0;
}

int cli_number(const char *command, const char *option, const char *text, int64_t lo, int64_t hi, int64_t *out)
{
    char *end;
    errno = 0;
    *out = strtoll(text, &end, 10);
    if (errno || end == text || *end || *out < lo || *out > hi)
        return cli_usage(command, "%s: expected a number %lld..%lld, got '%s'", option, (long long)lo, (long long)hi, text);
    return 0;
}

int cli_file_scale(const char *command, const char *text, size_t *length, double *scale)
{
    const char *colon = strrchr(text, ':');
    *length = strlen(text);
    *scale = 1;
    if (!colon || io_file_exists(text))
        return 0;
    char *end;
    double x = strtod(colon + 1, &end);
    if (colon == text || end == colon + 1 || *end || !isfinite(x))
        return cli_usage(command, "expected FILE or FILE:SCALE, got '%s'", text);
    *scale = x;
    *length = (size_t)(colon - text);
    return 0;
}

int cli_config_other(int rc, const char *path, int want_sweep)
{
    ConfNode *root;
    char *text;
    size_t size;
    if (rc != ERR_NOTFOUND || !path || io_file_read(&text, &size, path, (size_t)16 << 20) < 0)
        return rc;
    if (conf_node_parse(&root, text, size, path) >= 0) {
        if (!want_sweep && conf_node_find(root, "axes"))
            err_set(rc, "%s: has axes, so it is the configuration of a sweep: atelier sweep %s", path, path);
        else if (want_sweep && conf_node_find(root, "datasets"))
            err_set(rc, "%s: has datasets, so it is the configuration of a training: atelier train %s", path, path);
        conf_node_destroy(root);
    }
    free(text);
    return rc;
}

int cli_config_is_sweep(const char *path, int *yes)
{
    char *text;
    size_t size;
    ConfNode *root;
    TRY(io_file_read(&text, &size, path, (size_t)16 << 20));
    int rc = conf_node_parse(&root, text, size, path);
    if (rc >= 0) {
        *yes = conf_node_find(root, "axes") || conf_node_find(root, "prompt");
        conf_node_destroy(root);
    }
    free(text);
    return rc;
}
