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
    {(char *)"unet.conv_norm_out", {1, {6, 1, 1, 1}}},
    {(char *)"text_encoder.text_model.encoder.layers.0.self_attn.q_proj", {2, {4, 4, 1, 1}}},
};

static void check(Lora *lo)
{
    FUZZ_REQUIRE(lora_count(lo) >= 1 && lora_count(lo) <= 6);
    for (int i = 0; i < lora_count(lo); i++) {
        const LoraPart *p = lora_at(lo, i);
        volatile float sum = 0;
        FUZZ_REQUIRE(p->rank >= 1);
        if (p->kind == NN_ADAPTER_LORA)
            FUZZ_REQUIRE(p->shape[NN_DOWN].dim[0] == p->rank && p->shape[NN_UP].dim[1] == p->rank);
        FUZZ_REQUIRE(isfinite(p->alpha) && p->alpha != 0);
        FUZZ_REQUIRE(i == 0 || strcmp(lora_at(lo, i - 1)->path, p->path) < 0);
        for (int f = 0; f < NN_FACTORS; f++)
            for (int64_t k = 0; p->f[f] && k < shape_count(&p->shape[f]); k++)
                sum += p->f[f][k];
        double norm;
        FUZZ_REQUIRE(lora_norm(p, &norm) == 0); /* every combination of factors that loads makes a matrix */
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
