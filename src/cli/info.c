#include <hdf5.h>
#include <jansson.h>
#include <oneapi/dnnl/dnnl.h>
#include <openssl/crypto.h>
#include <png.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/version.h"
#include "cli/cli.h"
#include "cpu/cpu.h"
#include "graph/device.h"
#include "io/h5.h"

static const char usage[] =
    "usage: [mpirun -np N] atelier info\n\n"
    "Prints version, processor and instruction set in use, threads, libraries, and the ranks when run under mpirun.\n";

static void cpu_model(char *out, size_t size)
{
    char line[256];
    snprintf(out, size, "unknown");
    FILE *f = fopen("/proc/cpuinfo", "r");
    if (!f)
        return;
    while (fgets(line, sizeof line, f)) {
        char *colon = strchr(line, ':');
        if (!colon || strncmp(line, "model name", 10) != 0)
            continue;
        colon[strcspn(colon, "\n")] = 0;
        snprintf(out, size, "%s", colon + 2);
        break;
    }
    fclose(f);
}

static int print_info(Comm *c)
{
    static const char *const isa[] = {"base", "avx2", "avx512"};
    char cpu[256], host[128] = "", gpu[512], mpi[128];
    unsigned h5[3];
    Backend *be;
    TRY(cpu_backend_create(&be, cli_threads(c, 0), CPU_ISA_AVX512));
    const CpuState *st = be->impl;
    cpu_model(cpu, sizeof cpu);
    gethostname(host, sizeof host - 1);
    comm_library(mpi, sizeof mpi);
    H5get_libversion(&h5[0], &h5[1], &h5[2]);
    const dnnl_version_t *dnnl = dnnl_version();
    printf("atelier %s (%s)\n", ATELIER_VERSION, version_commit());
    printf("processor    %s\n", cpu);
    printf("kernels      %s, bf16 %s; %d threads%s\n", isa[st->isa], st->bf16 ? "in hardware" : "emulated", be->threads,
           c->size > 1 ? " per rank" : "");
    printf("GPUs         %s\n", device_describe(gpu, sizeof gpu));
    printf("memory       %.1f GiB\n", (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGE_SIZE) / 1073741824.0);
    printf("ranks        %d (%s), %d on %s\n", c->size, c->fn->name, c->local_size, host);
    printf("libraries    %s, oneDNN %d.%d.%d, HDF5 %u.%u.%u%s, libpng %s, jansson %s, %s\n", mpi, dnnl->major, dnnl->minor, dnnl->patch, h5[0], h5[1],
           h5[2], io_h5_is_parallel() ? " (MPI-IO)" : "", png_libpng_ver, jansson_version_str(), OpenSSL_version(OPENSSL_VERSION));
    backend_destroy(be);
    return 0;
}

int cli_info(int argc, char **argv)
{
    if (cli_wants_help(argc, argv))
        return cli_help(usage, NULL);
    Comm comm;
    if (argc > 1)
        return cli_exit(cli_usage("info", "unexpected '%s'", argv[1]));
    int rc = comm_init(&comm, &argc, &argv);
    if (rc < 0)
        return cli_exit(rc);
    if (comm.rank == 0)
        rc = print_info(&comm);
    return cli_exit_all(&comm, rc);
}
