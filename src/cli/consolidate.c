#include <stdio.h>

#include "base/log.h"
#include "cli/cli.h"
#include "sweep/runfile.h"

static const char usage[] =
    "usage: [mpirun -np N] atelier consolidate run.h5 [-o OUT.h5]\n\n"
    "Makes a run file that holds its images itself, in the order of their numbers, from one whose images are in the parts beside it\n"
    "(join: virtual). Without -o the new file takes the place of the old one; the parts are left and may then be removed.\n"
    "Several ranks write the file together where the program is built with a parallel HDF5 (make HDF5=openmpi), else rank 0 does all.\n";

static int consolidate(Comm *comm, int argc, char **argv)
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
    TRY(sweep_runfile_consolidate(path, out ? out : path, comm));
    if (comm->rank == 0)
        printf("%s\n", out ? out : path);
    return 0;
}

int cli_consolidate(int argc, char **argv)
{
    if (cli_wants_help(argc, argv))
        return cli_help(usage, NULL);
    Comm comm;
    int rc = comm_init(&comm, &argc, &argv);
    if (rc < 0)
        return cli_exit(rc);
    log_set_rank(comm.size > 1 ? comm.rank : -1);
    return cli_exit_all(&comm, consolidate(&comm, argc, argv));
}
