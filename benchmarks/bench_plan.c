/* Planner: items per second of a sweep of a million combinations, one thread: items in work order, batches cut, with and without
 * conditions and templates. */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "sweep/grid.h"

static double cpu_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int run(const char *name, const char *text)
{
    SweepConf c = {0};
    SweepGrid g = {0};
    SweepItem first = {0}, it;
    int64_t batches = 0;
    int rc;
    double start = cpu_seconds();
    TRY_GOTO(config_init(&sweep_conf_table, &c));
    TRY_GOTO(config_load_text(&sweep_conf_table, &c, text, strlen(text), name));
    TRY_GOTO(sweep_grid_init(&g, &c));
    double made = cpu_seconds();
    for (int64_t p = 0; p < g.count; p++) {
        sweep_grid_item(&g, sweep_grid_at(&g, p), &it);
        if (!p || !sweep_item_compatible(&first, &it)) {
            first = it;
            batches++;
        }
    }
    double planned = cpu_seconds();
    for (int64_t p = 0; p < g.count; p += 10) {
        TRY_GOTO(sweep_item_load(&g, p, &it));
        sweep_item_deinit(&it);
    }
    double loaded = cpu_seconds();
    printf("%-28s %8lld items  start %.3f s  plan %.2f M items/s  texts %.2f M items/s  (%lld runs of equal settings)\n", name, (long long)g.count,
           made - start, 1e-6 * (double)g.count / (planned - made), 1e-7 * (double)g.count / (loaded - planned), (long long)batches);
done:
    if (rc < 0)
        fprintf(stderr, "%s: %s\n", name, err_message());
    sweep_grid_deinit(&g);
    config_deinit(&sweep_conf_table, &c);
    return rc;
}

#define HEAD "model: m\noutput: o\n"
#define AXES "  seed: {count: 100}\n  cfg: {range: [1, 10]}\n  lora: [none, {path: a}, {path: b}, {path: c}, {path: d}]\n" \
             "  sampler: [euler, ddim]\n  size: [512, 768]\n"

int main(void)
{
    int rc = run("lists", HEAD "axes:\n" AXES "  prompt: [a, b, c, d, e, f, g, h, i, j]\n  steps: {range: [1, 5]}\n");
    rc |= run("templates", HEAD "axes:\n" AXES "  prompt: {template: '{a|b|c} {d|e|f} {2$$g|h|i} {j|k}', count: 50}\n");
    rc |= run("conditions", HEAD "exclude: \"cfg=7 and lora='a' or steps>=5 and seed%2=0\"\naxes:\n" AXES
                                 "  prompt: [a, b, c, d, e, f, g, h, i, j]\n  steps: {range: [1, 5]}\n");
    return rc < 0;
}
