/* Images of A1111, ComfyUI and InvokeAI as configurations. Texts as those programs write them, settings made up. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sweep/conf.h"
#include "sweep/foreign.h"

static int parse(Foreign *f, const char *key, const char *value)
{
    char k[32], *v = strdup(value);
    snprintf(k, sizeof k, "%s", key);
    const IoPngText text = {k, v};
    int rc = foreign_parse(f, &text, 1, "x.png");
    free(v);
    return rc;
}

static void says(int rc, int code, const char *text)
{
    if (rc != code || !strstr(err_message(), text))
        fail_msg("rc %d (want %d): \"%s\" lacks \"%s\"", rc, code, err_message(), text);
}

static void loses(const Foreign *f, const char *text)
{
    if (!strstr(f->lost.data, text))
        fail_msg("\"%s\" is not among what was lost:\n%s", text, f->lost.data);
}

/* The YAML must be a configuration, and read back as what was parsed. */
static void check_yaml(const Foreign *f)
{
    SweepConf c = {0};
    StrBuf b;
    str_init(&b);
    foreign_yaml(f, "x.png", "out/again", &b);
    assert_int_equal(config_init(&sweep_conf_table, &c), 0);
    if (config_load_text(&sweep_conf_table, &c, b.data, b.len, "yaml") < 0)
        fail_msg("%s\n%s", err_message(), b.data);
    assert_string_equal(c.prompt, f->prompt);
    assert_string_equal(c.negative, f->negative);
    assert_true(c.seed == f->seed);
    if (f->steps)
        assert_int_equal(c.steps, f->steps);
    assert_int_equal(c.lora ? c.lora->count : 0, f->nlora);
    config_deinit(&sweep_conf_table, &c);
    str_deinit(&b);
}

static void a1111__all_fields(void **state)
{
    (void)state;
    Foreign f;
    assert_int_equal(parse(&f, "parameters",
        "a (red:1.2) fox, <lora:ink:0.8> \"x\"\nBREAK second line\nNegative prompt: mud,\nblur\n"
        "Steps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 6.5, Seed: 4294967297, Size: 512x768, Model hash: 0123456789, "
        "Model: sd15, Denoising strength: 0.4, Clip skip: 2, ENSD: 31337, RNG: CPU, Hires upscale: 2, Hires steps: 10, "
        "Hires upscaler: Latent, Variation seed: 9, Variation seed strength: 0.25, Lora hashes: \"ink: 0123456789ab, b: 1\", "
        "TI hashes: \"bad: 0a1b\", Eta: 0.5, Schedule rho: 5, Sigma churn: 2.5, Sigma noise: x, Version: v1.9.0"), 0);
    assert_string_equal(f.tool, "A1111");
    assert_string_equal(f.prompt, "a (red:1.2) fox,  \"x\"\nBREAK second line");
    assert_string_equal(f.negative, "mud,\nblur");
    assert_string_equal(f.sampler, "dpmpp_2m");
    assert_string_equal(f.spacing, "karras");
    assert_true(f.seed == 4294967297);
    assert_int_equal(f.steps, 20);
    assert_int_equal(f.width, 512);
    assert_int_equal(f.height, 768);
    assert_int_equal(f.clip_skip, 2);
    assert_true(f.guidance == 6.5);
    assert_string_equal(f.model, "sd15");
    assert_string_equal(f.model_hash, "0123456789");
    assert_int_equal(f.nlora, 1);
    assert_string_equal(f.lora[0].name, "ink");
    assert_string_equal(f.lora[0].hash, "0123456789ab");
    assert_true(f.lora[0].scale == 0.8);
    assert_string_equal(f.hires, "latent-bilinear");
    assert_int_equal(f.hires_steps, 10);
    assert_true(f.hires_strength == 0.4 && f.hires_scale == 2);
    assert_true(f.variation_seed == 9 && f.variation_strength == 0.25);
    assert_string_equal(f.numbers.data, "eta: 0.5\nensd: 31337\nrho: 5\ns_churn: 2.5\n");
    loses(&f, "Sigma noise: x");
    loses(&f, "TI hashes: bad: 0a1b");
    check_yaml(&f);
    foreign_deinit(&f);
}

static void a1111__old_sampler_names_automatic_and_img2img(void **state)
{
    (void)state;
    Foreign f;
    assert_int_equal(parse(&f, "parameters", "x\nSteps: 5, Sampler: DPM++ 2M Karras, CFG scale: 7, Seed: 1, Size: 64x64"), 0);
    assert_string_equal(f.sampler, "dpmpp_2m");
    assert_string_equal(f.spacing, "karras");
    assert_string_equal(f.seed_compat, "a1111-gpu");
    foreign_deinit(&f);
    assert_int_equal(parse(&f, "parameters", "x\nSteps: 5, Sampler: DPM++ 2M, Schedule type: Automatic, Seed: 1, Denoising strength: 0.7"), 0);
    assert_string_equal(f.spacing, "karras");
    loses(&f, "img2img at strength 0.7");
    foreign_deinit(&f);
    assert_int_equal(parse(&f, "parameters", "x\nSteps: 5, Sampler: Mystery, Seed: -3, Size: 1x1"), 0);
    loses(&f, "sampler 'Mystery' is not available");
    loses(&f, "Seed: -3");
    loses(&f, "Size: 1x1");
    foreign_deinit(&f);
    says(parse(&f, "parameters", "just words"), ERR_FORMAT, "text 'parameters'");
    foreign_deinit(&f);
}

/* The graph of ComfyUI's default workflow, with two adapters, a clip skip, a text from another node and a NaN as Python writes it. */
static const char comfy[] =
    "{\"3\": {\"class_type\": \"KSampler\", \"inputs\": {\"seed\": 18446744073709551615, \"steps\": 25, \"cfg\": 7.5, \"sampler_name\": "
    "\"euler_ancestral\", \"scheduler\": \"karras\", \"denoise\": 1.0, \"model\": [\"11\", 0], \"positive\": [\"6\", 0], \"negative\": "
    "[\"7\", 0], \"latent_image\": [\"5\", 0]}, \"is_changed\": [NaN]},"
    "\"4\": {\"class_type\": \"CheckpointLoaderSimple\", \"inputs\": {\"ckpt_name\": \"sd/v1-5.safetensors\"}},"
    "\"5\": {\"class_type\": \"EmptyLatentImage\", \"inputs\": {\"width\": 512, \"height\": 640, \"batch_size\": 4}},"
    "\"6\": {\"class_type\": \"CLIPTextEncode\", \"inputs\": {\"text\": [\"20\", 0], \"clip\": [\"12\", 0]}},"
    "\"7\": {\"class_type\": \"CLIPTextEncode\", \"inputs\": {\"text\": \"text, \\\"watermark\\\"\", \"clip\": [\"4\", 1]}},"
    "\"8\": {\"class_type\": \"VAEDecode\", \"inputs\": {\"samples\": [\"3\", 0], \"vae\": [\"4\", 2]}},"
    "\"9\": {\"class_type\": \"SaveImage\", \"inputs\": {\"filename_prefix\": \"ComfyUI\", \"images\": [\"8\", 0]}},"
    "\"10\": {\"class_type\": \"LoraLoader\", \"inputs\": {\"lora_name\": \"a.safetensors\", \"strength_model\": 0.5, \"strength_clip\": 1, "
    "\"model\": [\"4\", 0], \"clip\": [\"4\", 1]}},"
    "\"11\": {\"class_type\": \"LoraLoader\", \"inputs\": {\"lora_name\": \"b.safetensors\", \"strength_model\": 1, \"strength_clip\": 1, "
    "\"model\": [\"10\", 0], \"clip\": [\"10\", 1]}},"
    "\"12\": {\"class_type\": \"CLIPSetLastLayer\", \"inputs\": {\"stop_at_clip_layer\": -2, \"clip\": [\"11\", 1]}},"
    "\"20\": {\"class_type\": \"PrimitiveString\", \"inputs\": {\"value\": \"beautiful scenery\"}}}";

static void comfy__default_workflow(void **state)
{
    (void)state;
    Foreign f;
    assert_int_equal(parse(&f, "prompt", comfy), 0);
    assert_string_equal(f.tool, "ComfyUI");
    assert_string_equal(f.prompt, "beautiful scenery");
    assert_string_equal(f.negative, "text, \"watermark\"");
    assert_string_equal(f.sampler, "euler_a");
    assert_string_equal(f.spacing, "karras");
    assert_true(f.seed == INT64_MAX);
    loses(&f, "seed 18446744073709551615");
    assert_int_equal(f.steps, 25);
    assert_int_equal(f.width, 512);
    assert_int_equal(f.height, 640);
    loses(&f, "image of the batch of 4");
    assert_string_equal(f.numbers.data, "batch_size: 4\n");
    assert_int_equal(f.clip_skip, 2);
    assert_string_equal(f.model, "sd/v1-5.safetensors");
    assert_int_equal(f.nlora, 2);
    assert_string_equal(f.lora[0].name, "a.safetensors");
    assert_true(f.lora[0].scale == 0.5);
    loses(&f, "LoRA a.safetensors: strength 1 of the text encoder");
    assert_string_equal(f.lora[1].name, "b.safetensors");
    check_yaml(&f);
    foreign_deinit(&f);
}

static void comfy__second_pass_and_custom_sampler(void **state)
{
    (void)state;
    static const char graph[] =
        "{\"1\": {\"class_type\": \"SamplerCustomAdvanced\", \"inputs\": {\"noise\": [\"n\", 0], \"guider\": [\"g\", 0], \"sampler\": [\"s\", 0], "
        "\"sigmas\": [\"t\", 0], \"latent_image\": [\"e\", 0]}}, \"n\": {\"class_type\": \"RandomNoise\", \"inputs\": {\"noise_seed\": 77}},"
        "\"g\": {\"class_type\": \"CFGGuider\", \"inputs\": {\"cfg\": 3, \"model\": [\"m\", 0], \"positive\": [\"p\", 0], \"negative\": [\"q\", 0]}},"
        "\"s\": {\"class_type\": \"KSamplerSelect\", \"inputs\": {\"sampler_name\": \"heun\"}},"
        "\"t\": {\"class_type\": \"BasicScheduler\", \"inputs\": {\"scheduler\": \"exponential\", \"steps\": 12, \"denoise\": 1}},"
        "\"e\": {\"class_type\": \"EmptyLatentImage\", \"inputs\": {\"width\": 256, \"height\": 256, \"batch_size\": 1}},"
        "\"m\": {\"class_type\": \"CheckpointLoaderSimple\", \"inputs\": {\"ckpt_name\": \"x\"}},"
        "\"p\": {\"class_type\": \"CLIPTextEncode\", \"inputs\": {\"text\": \"yes\"}}, \"q\": {\"class_type\": \"CLIPTextEncode\", \"inputs\": {\"text\": \"no\"}},"
        "\"u\": {\"class_type\": \"LatentUpscale\", \"inputs\": {\"upscale_method\": \"bicubic\", \"width\": 512, \"height\": 512, \"samples\": [\"1\", 0]}},"
        "\"2\": {\"class_type\": \"KSampler\", \"inputs\": {\"seed\": 5, \"steps\": 8, \"cfg\": 3, \"sampler_name\": \"euler\", \"scheduler\": \"normal\", "
        "\"denoise\": 0.5, \"model\": [\"m\", 0], \"positive\": [\"p\", 0], \"negative\": [\"q\", 0], \"latent_image\": [\"u\", 0]}},"
        "\"d\": {\"class_type\": \"VAEDecode\", \"inputs\": {\"samples\": [\"2\", 0]}}, \"o\": {\"class_type\": \"SaveImage\", \"inputs\": {\"images\": [\"d\", 0]}}}";
    Foreign f;
    assert_int_equal(parse(&f, "prompt", graph), 0);
    assert_true(f.seed == 77 && f.steps == 12 && f.guidance == 3);
    assert_string_equal(f.sampler, "heun");
    assert_string_equal(f.spacing, "exponential");
    assert_string_equal(f.negative, "no");
    assert_string_equal(f.hires, "latent-bicubic");
    assert_true(f.hires_scale == 2 && f.hires_steps == 8 && f.hires_strength == 0.5);
    check_yaml(&f);
    foreign_deinit(&f);
}

static void comfy__circles_and_rubbish(void **state)
{
    (void)state;
    Foreign f;
    assert_int_equal(parse(&f, "prompt",
                           "{\"1\": {\"class_type\": \"KSampler\", \"inputs\": {\"model\": [\"1\", 0], \"positive\": [\"2\", 0], \"latent_image\": [\"3\", 0]}},"
                           "\"2\": {\"class_type\": \"A\", \"inputs\": {\"conditioning\": [\"2\", 0]}}, \"3\": {\"class_type\": \"B\", \"inputs\": {\"samples\": [\"3\", 0]}}}"), 0);
    foreign_deinit(&f);
    says(parse(&f, "prompt", "{\"1\": {\"class_type\": \"Note\"}}"), ERR_FORMAT, "KSampler");
    foreign_deinit(&f);
    says(parse(&f, "prompt", "{\"1\": "), ERR_FORMAT, "no JSON");
    foreign_deinit(&f);
    says(parse(&f, "prompt", "[1]"), ERR_FORMAT, "no JSON object");
    foreign_deinit(&f);
    says(parse(&f, "Software", "x"), ERR_NOTFOUND, "no record");
    foreign_deinit(&f);
}

static void invoke__all_fields(void **state)
{
    (void)state;
    Foreign f;
    assert_int_equal(parse(&f, "invokeai_metadata",
        "{\"generation_mode\": \"txt2img\", \"positive_prompt\": \"a fox\", \"negative_prompt\": \"mud\", \"width\": 512, \"height\": 384, "
        "\"seed\": 12345, \"rand_device\": \"cpu\", \"cfg_scale\": 7.5, \"cfg_rescale_multiplier\": 0.3, \"steps\": 30, \"scheduler\": "
        "\"dpmpp_2m_k\", \"clip_skip\": 1, \"model\": {\"key\": \"k\", \"hash\": \"blake3:00\", \"name\": \"dreamer\", \"base\": \"sd-1\"}, "
        "\"controlnets\": [{\"a\": 1}], \"loras\": [{\"model\": {\"name\": \"ink\"}, \"weight\": 0.6}], \"vae\": {\"name\": \"mse\"}}"), 0);
    assert_string_equal(f.tool, "InvokeAI");
    assert_string_equal(f.sampler, "dpmpp_2m");
    assert_string_equal(f.spacing, "karras");
    assert_int_equal(f.clip_skip, 2);
    assert_true(f.seed == 12345 && f.steps == 30 && f.guidance == 7.5 && f.guidance_rescale == 0.3);
    assert_string_equal(f.model, "dreamer");
    assert_int_equal(f.nlora, 1);
    assert_true(f.lora[0].scale == 0.6);
    loses(&f, "controlnets");
    loses(&f, "VAE mse");
    loses(&f, "blake3:00");
    check_yaml(&f);
    foreign_deinit(&f);
    says(parse(&f, "invokeai_metadata", "{}"), ERR_FORMAT, "positive_prompt");
    foreign_deinit(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a1111__all_fields),
        cmocka_unit_test(a1111__old_sampler_names_automatic_and_img2img),
        cmocka_unit_test(comfy__default_workflow),
        cmocka_unit_test(comfy__second_pass_and_custom_sampler),
        cmocka_unit_test(comfy__circles_and_rubbish),
        cmocka_unit_test(invoke__all_fields),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
