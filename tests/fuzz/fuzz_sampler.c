#include <math.h>
#include <string.h>

#include "base/error.h"
#include "fuzz.h"
#include "sampler/solver.h"

static void run(const SamplerConf *conf)
{
    Sampler *s = NULL;
    float x[4] = {1, -1, 0.5f, 0}, m[4] = {0.1f, 0, -0.3f, 2}, noise[4] = {0, 1, -1, 0.2f};
    if (sampler_create(&s, conf, 4) < 0)
        return;
    FUZZ_REQUIRE(sampler_count(s) >= 1);
    for (int i = 0; i < sampler_count(s); i++) {
        FUZZ_REQUIRE(sampler_timestep(s, i) >= 0 && sampler_timestep(s, i) <= conf->train_steps - 1);
        FUZZ_REQUIRE(!isnan(sampler_sigma(s, i)) && sampler_sigma(s, i) >= 0);
        FUZZ_REQUIRE(sampler_step(s, i, x, m, sampler_needs_noise(s, i) ? noise : NULL, 4) == 0);
    }
    sampler_destroy(s);
}

/* The first line of the input may be a sampler's name; the rest is a scheduler_config.json. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    SamplerConf conf;
    char *text = malloc(size + 1);
    memcpy(text, data, size);
    text[size] = 0;
    char *nl = text[0] == '{' ? NULL : strchr(text, '\n');
    if (nl)
        *nl = 0;
    int rc = sampler_conf_from_text(&conf, nl ? nl + 1 : text, "input");
    if (rc < 0) {
        FUZZ_REQUIRE(strncmp(err_message(), "input", 5) == 0);
        sampler_conf_default(&conf);
    }
    if (nl)
        sampler_conf_set_kind(&conf, text);
    conf.steps = 1 + (int)(size % 23);
    if (sampler_conf_check(&conf) == 0)
        run(&conf);
    free(text);
    return 0;
}
