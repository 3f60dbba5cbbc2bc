#include <stdio.h>

#include "cli/cli.h"
#include "io/file.h"
#include "sweep/runfile.h"

static const char usage[] =
    "usage: atelier consolidate run.h5 [-o OUT.h5]\n\n"
    "Makes a run file that holds its images itself, in the order of their numbers, from one whose images are in the parts beside it\n"
    "(join: virtual). Without -o the new file takes the place of the old one; the parts are left and may then be removed.\n";

static int consolidate(int argc, char **argv)
{
    const char *path = NULL, *out = NULL, *value;
    for (int i = 1; i < argc; i++) {
        TRY(cli_option("consolidate", argc, argv, &i, "-o", &value));
        if (value)
            out = value;
        else if (argv[i][0] == '-')
            return cli_usage("consolidate", "unknown option '%s'", argv[i]);
        else if (path)
            return cli_usage("consolidate", "one file expected, got '%s' and '%s'", path, argv[i]);
        else
            path = argv[i];
    }
    if (!path)
        return cli_usage("consolidate", "a run.h5 is expected");
    TRY(sweep_runfile_consolidate(path, out ? out : path));
    printf("%s\n", out ? out : path);
    return 0;
}

int cli_consolidate(int argc, char **argv)
{
    if (cli_wants_help(argc, argv))
        return cli_help(usage, NULL);
    return cli_exit(consolidate(argc, argv));
}
