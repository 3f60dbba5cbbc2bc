#include <math.h>
#include <string.h>

#include "fuzz.h"
#include "models/lora.h"

/* A few modules of each kind. */
static NnModule items[] = {
    {(char *)"unet.mid_block.attentions.0.proj_in", {4, {6, 6, 1, 1}}},
    {(char *)"unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q", {2, {6, 6, 1, 1}}},
    {(char *)"unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0", {2, {6, 6, 1, 1}}},
    {(char *)"unet.mid_block.resnets.0.conv1", {4, {6, 4, 3, 3}}},
    {(char *)"text_encoder.text_model.encoder.layers.0.self_attn.q_proj", {2, {4, 4, 1, 1}}},
};

static void check(Lora *lo)
{
    FUZZ_REQUIRE(lora_count(lo) >= 1 && lora_count(lo) <= 5);
    for (int i = 0; i < lora_count(lo); i++) {
        const LoraPart *p = lora_at(lo, i);
        volatile float sum = 0;
        FUZZ_REQUIRE(p->rank >= 1 && p->down.dim[0] == p->rank && p->up.dim[1] == p->rank);
        FUZZ_REQUIRE(isfinite(p->alpha) && p->alpha != 0);
        FUZZ_REQUIRE(i == 0 || strcmp(lora_at(lo, i - 1)->path, p->path) < 0);
        for (int64_t k = 0; k < shape_count(&p->down); k++)
            sum += p->a[k];
        for (int64_t k = 0; k < shape_count(&p->up); k++)
            sum += p->b[k];
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const NnModules mods = {items, sizeof items / sizeof *items, 0};
    Lora *lo = NULL;
    int rc = lora_load_memory(&lo, data, size, "input", &mods);
    if (rc == 0)
        check(lo);
    else
        FUZZ_REQUIRE(lo == NULL && err_message()[0]);
    lora_destroy(lo);
    return 0;
}
