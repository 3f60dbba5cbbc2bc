#include <string.h>

#include "fuzz.h"
#include "models/clip_vision.h"
#include "models/unet.h"
#include "models/vae.h"

/* One document tried as the config of every kind of model. What is accepted divides as the builders need it. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    ModelJson *j = NULL;
    UnetConfig u;
    VaeConfig v;
    ClipConfig text, vision;
    if (model_json_parse(&j, (const char *)data, size, "input") < 0) {
        FUZZ_REQUIRE(!j && !strncmp(err_message(), "input", 5));
        return 0;
    }
    if (unet_config(&u, j) == 0)
        for (int i = 0; i < u.levels; i++)
            FUZZ_REQUIRE(u.channels[i] % u.groups == 0 && u.layers[i] >= 1 && (!u.down_cross[i] || u.channels[i] % u.heads[i] == 0));
    else
        FUZZ_REQUIRE(!strncmp(err_message(), "input: key", 10));
    if (vae_config(&v, j) == 0)
        FUZZ_REQUIRE(v.levels >= 1 && v.levels <= VAE_MAX_LEVELS && v.channels[v.levels - 1] % v.groups == 0 && v.scaling > 0);
    else
        FUZZ_REQUIRE(!strncmp(err_message(), "input: key", 10));
    if (clip_text_config(&text, j, size & 1) == 0)
        FUZZ_REQUIRE(text.hidden % text.heads == 0 && text.layers <= CLIP_MAX_LAYERS);
    else
        FUZZ_REQUIRE(!strncmp(err_message(), "input: key", 10));
    if (clip_pair_config(&text, &vision, j) == 0)
        FUZZ_REQUIRE(vision.image % vision.patch == 0);
    model_json_close(j);
    return 0;
}
