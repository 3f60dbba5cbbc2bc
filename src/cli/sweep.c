#include <stdio.h>
#include <stdlib.h>

#include "base/log.h"
#include "base/signal.h"
#include "cli/cli.h"
#include "sweep/sweep.h"

static const char usage[] =
    "usage: [mpirun -np N] atelier sweep [--locked] [--shard I/N] CONFIG.yaml [key=value ...]\n\n"
    "Renders every combination of the axes (prompts, seeds, LoRAs, guidance, ...) into OUTPUT/run.h5, OUTPUT/png/ and\n"
    "OUTPUT/sheet.png. The ranks share the work; an image is the same, bit for bit, for any number of ranks, any batch\n"
    "size and after any interruption. Run the same command again to continue an interrupted sweep.\n\n"
    "  axes:                              every axis is a list, or for numbers a range; axes multiply\n"
    "    prompt: [a cat, a dog]\n"
    "    seed: {count: 4, start: 1}       or [1, 5, 7], or {range: [1, 4]}\n"
    "    lora: [none, {path: my.safetensors, scale: 0.8}]\n"
    "    look:                            any other name: maps whose keys go together\n"
    "      - {sampler: euler, steps: 20}\n"
    "      - {sampler: dpmpp_2m, spacing: karras, steps: 12}\n"
    "What can vary: model, vae, lora, size, hires, clip_skip, steps, sampler, spacing, seed_compat, prompt_rules, eta, strength, source,\n"
    "  mask, prompt, negative, guidance (cfg), guidance_rescale, variation_seed, variation_strength, seed_size, batch_index, seed.\n"
    "sampler: ddim, ddpm, pndm (PLMS), euler, euler_a, heun, lms, dpm2, dpm2_a, dpmpp_2s, dpmpp_2s_a, dpmpp_2m, dpmpp_sde, dpmpp_2m_sde,\n"
    "  dpmpp_3m, dpmpp_3m_sde, dpm_2m, unipc (unipc_bh1, unipc_bh2), deis, lcm, tcd; also A1111's, ComfyUI's and diffusers' names\n"
    "  (DPM++ 2M Karras, dpmpp_2m_sde_gpu, EulerDiscreteScheduler)\n"
    "spacing: automatic, normal, karras, exponential, polyexponential, sgm_uniform, simple, ddim_uniform, beta, kl_optimal, ays, ays_sdxl,\n"
    "  lu, leading, trailing, linspace\n"
    "seed_compat follows a program in noise, first scale, timesteps, schedules, img2img, inpainting and prompt weights at once.\n"
    "Images are safe as soon as they are in OUTPUT/parts, whatever is killed. A full or read-only disk makes the sweep wait. With\n"
    "mpirun --enable-recovery (or srun without --kill-on-bad-exit) the others go on when a rank dies. Runs over 256 MiB keep their\n"
    "images in OUTPUT/parts, shown by run.h5 (join).\n"
    "SIGTERM, SIGINT and SIGUSR1 stop at once with all finished images saved (exit code 3).\n"
    "--shard 3/16 renders the fourth of sixteen stretches of the work, also while other shards run elsewhere; the same command without\n"
    "--shard then joins them into run.h5 (and renders what is missing).\n"
    "--locked refuses to run unless CONFIG.yaml.lock (atelier lock) matches everything that is read.\n"
    "`atelier plan CONFIG.yaml` says what a sweep will need.\n";

static int run(Comm *comm, const SweepConf *c, const SweepShard *shard)
{
    SweepReport r;
    TRY(sweep_run(c, shard, comm, cli_threads(comm, c->threads), &r));
    if (comm->rank != 0)
        return 0;
    if (r.lost)
        log_warn("%d rank%s died on the way; the others did their work", r.lost, r.lost == 1 ? "" : "s");
    if (shard->count)
        printf("shard %d/%d: %lld images are done, %lld of them in %.1f s; without --shard all shards are joined\n", shard->index, shard->count,
               (long long)r.total, (long long)r.rendered, r.seconds);
    else if (r.rendered)
        printf("%lld images in %.1f s (%.2f images/s)%s; %s/run.h5%s%s\n", (long long)r.rendered, r.seconds,
               (double)r.rendered / r.seconds, r.before ? ", the others were done" : "", c->output, c->png ? ", png/" : "",
               c->sheet.enabled ? ", sheet.png" : "");
    else
        printf("all %lld images were done; %s/run.h5\n", (long long)r.total, c->output);
    return 0;
}

/* Takes "--shard I/N" out of the arguments. */
static int shard_option(int *argc, char **argv, SweepShard *s)
{
    for (int i = 1; i < *argc; i++) {
        const char *value;
        int at = i;
        TRY(cli_option(argv[0], *argc, argv, &i, "--shard", &value));
        if (!value)
            continue;
        TRY(sweep_shard_parse(s, value));
        int n = i + 1 - at;
        for (int k = at; k + n <= *argc; k++)
            argv[k] = argv[k + n];
        *argc -= n;
        return 0;
    }
    return 0;
}

int cli_sweep(int argc, char **argv)
{
    if (cli_wants_help(argc, argv))
        return cli_help(usage, &sweep_conf_table);
    Comm comm;
    int rc = signal_install(), count;
    if (rc < 0 || (rc = comm_init(&comm, &argc, &argv)) < 0)
        return cli_exit(rc);
    log_set_rank(comm.size > 1 ? comm.rank : -1);
    const char **overrides = calloc((size_t)argc + 1, sizeof *overrides), *path;
    SweepConf c = {0};
    SweepShard shard = {0};
    int locked = cli_take_flag(&argc, argv, "--locked");
    rc = shard_option(&argc, argv, &shard);
    if (rc >= 0)
        rc = overrides ? cli_config_args(argc, argv, &path, overrides, &count) : err_set(ERR_NOMEM, "out of memory");
    if (rc >= 0)
        rc = cli_config_other(sweep_conf_read(&c, path, overrides, count), path, 1);
    if (rc >= 0 && comm.rank == 0)
        rc = cli_lock_check(path, overrides, count, locked);
    rc = comm_agree(&comm, rc);
    if (rc >= 0)
        rc = run(&comm, &c, &shard);
    config_deinit(&sweep_conf_table, &c);
    free(overrides);
    return cli_exit_all(&comm, rc);
}
