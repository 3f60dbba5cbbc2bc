#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "sampler/solver.h"

static void says(int rc, int code, const char *text)
{
    if (rc != code || !strstr(err_message(), text))
        fail_msg("rc %d (want %d): \"%s\" lacks \"%s\"", rc, code, err_message(), text);
}

static SamplerConf read(const char *text)
{
    SamplerConf c;
    if (sampler_conf_from_text(&c, text, "conf") < 0)
        fail_msg("%s", err_message());
    return c;
}

/* scheduler_config.json of Stable Diffusion 1.5 as published. */
static const char sd15[] = "{\"_class_name\":\"PNDMScheduler\",\"_diffusers_version\":\"0.6.0\",\"beta_end\":0.012,"
                           "\"beta_schedule\":\"scaled_linear\",\"beta_start\":0.00085,\"num_train_timesteps\":1000,"
                           "\"set_alpha_to_one\":false,\"skip_prk_steps\":true,\"steps_offset\":1,\"trained_betas\":null,"
                           "\"clip_sample\":false}";

/* What a file leaves out comes from the class: from_config of the published file gives linspace for Euler. */
static void test_sampler_conf__class_defaults_fill_in(void **state)
{
    (void)state;
    SamplerConf c = read(sd15);
    assert_int_equal(c.kind, SAMPLER_PNDM);
    assert_int_equal(c.spacing, SAMPLER_LEADING);
    assert_int_equal(c.skip_prk, 1);
    assert_int_equal(c.betas, SAMPLER_BETAS_SCALED_LINEAR);
    assert_int_equal(sampler_conf_set_kind(&c, "euler"), 0);
    assert_int_equal(c.spacing, SAMPLER_LINSPACE);
    assert_int_equal(c.steps_offset, 1);
    assert_int_equal(sampler_conf_set_kind(&c, "ddim"), 0);
    assert_int_equal(c.spacing, SAMPLER_LEADING);
    assert_int_equal(c.set_alpha_to_one, 0);
    assert_int_equal(c.clip_sample, 0);
    c = read("{\"_class_name\":\"DDIMScheduler\"}");
    assert_int_equal(c.clip_sample, 1);
    assert_int_equal(c.set_alpha_to_one, 1);
    assert_true(c.beta_start == 0.0001 && c.beta_end == 0.02 && c.betas == SAMPLER_BETAS_LINEAR);
    /* A spacing in the file survives a change of class. */
    c = read("{\"_class_name\":\"EulerDiscreteScheduler\",\"timestep_spacing\":\"leading\",\"use_karras_sigmas\":false}");
    assert_int_equal(sampler_conf_set_kind(&c, "dpmpp_2m"), 0);
    assert_int_equal(c.spacing, SAMPLER_LEADING);
}

static void test_sampler_conf__names(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        SamplerKind kind;
        const char *spacing;
    } cases[] = {
        {"ddim", SAMPLER_DDIM, "leading"},
        {"DDIM trailing", SAMPLER_DDIM, "trailing"},
        {"plms", SAMPLER_PNDM, "leading"},
        {"Euler a", SAMPLER_EULER_A, "linspace"},
        {"euler_ancestral", SAMPLER_EULER_A, "linspace"},
        {"euler_a_karras", SAMPLER_EULER_A, "karras"},
        {"DPM++ 2M Karras", SAMPLER_DPMPP_2M, "karras"},
        {"dpmpp_2m_sde_exponential", SAMPLER_DPMPP_2M_SDE, "exponential"},
        {"DPM++ 2M SDE", SAMPLER_DPMPP_2M_SDE, "linspace"},
        {"Heun", SAMPLER_HEUN, "linspace"},
        {"euler_leading", SAMPLER_EULER, "leading"},
        {"dpmpp_2m_sde_gpu", SAMPLER_DPMPP_2M_SDE, "linspace"},
        {"DPM++ 2M SDE Heun Exponential", SAMPLER_DPMPP_2M_SDE, "exponential"},
        {"DPM++ 3M SDE", SAMPLER_DPMPP_3M_SDE, "linspace"},
        {"dpm_2_ancestral", SAMPLER_DPM2_A, "linspace"},
        {"DPM2 a Karras", SAMPLER_DPM2_A, "karras"},
        {"k_dpmpp_2s_ancestral", SAMPLER_DPMPP_2S_A, "linspace"},
        {"DPM++ SDE Align Your Steps", SAMPLER_DPMPP_SDE, "ays"},
        {"uni_pc_bh2_simple", SAMPLER_UNIPC, "simple"},
        {"KDPM2AncestralDiscreteScheduler", SAMPLER_DPM2_A, "linspace"},
        {"dpmpp_2m_k", SAMPLER_DPMPP_2M, "karras"},
        {"euler_sgm_uniform", SAMPLER_EULER, "sgm_uniform"},
        {"ddim_ddim_uniform", SAMPLER_DDIM, "ddim_uniform"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        SamplerConf c = read(sd15);
        assert_int_equal(sampler_conf_set_kind(&c, cases[i].name), 0);
        assert_int_equal(c.kind, cases[i].kind);
        assert_string_equal(sampler_spacing_name(&c), cases[i].spacing);
        assert_int_equal(sampler_conf_check(&c), 0);
    }
    SamplerConf c = read(sd15);
    says(sampler_conf_set_kind(&c, "euler b"), ERR_RANGE, "dpmpp_2m");
    says(sampler_conf_set_spacing(&c, "cosine"), ERR_RANGE, "trailing");
    assert_int_equal(c.kind, SAMPLER_PNDM);
    for (int k = 0; k < SAMPLER_KINDS; k++) { /* names are read back */
        assert_int_equal(sampler_conf_set_kind(&c, sampler_kind_name((SamplerKind)k)), 0);
        assert_int_equal(c.kind, k);
        assert_int_equal(sampler_conf_set_kind(&c, sampler_kind_a1111_name((SamplerKind)k)), 0);
        assert_int_equal(c.kind, k);
    }
}

static void test_sampler_conf__unavailable_class_is_named_and_replaceable(void **state)
{
    (void)state;
    SamplerConf c = read("{\"_class_name\":\"ScoreSdeVeScheduler\",\"beta_schedule\":\"scaled_linear\",\"beta_start\":0.00085}");
    says(sampler_conf_check(&c), ERR_UNSUPPORTED, "ScoreSdeVeScheduler");
    assert_int_equal(sampler_conf_set_kind(&c, "euler"), 0);
    assert_int_equal(sampler_conf_check(&c), 0);
    assert_true(c.beta_start == 0.00085);
}

/* json.dump writes -Infinity for DPMSolverMultistep's default. */
static void test_sampler_conf__python_infinity(void **state)
{
    (void)state;
    SamplerConf c = read("{\"_class_name\":\"DPMSolverMultistepScheduler\",\"note\":\"a \\\"-Infinity\\\" b\",\n"
                         "\"lambda_min_clipped\": -Infinity, \"algorithm_type\":\"sde-dpmsolver++\"}");
    assert_int_equal(c.kind, SAMPLER_DPMPP_2M_SDE);
}

static void test_sampler_conf__bad_files(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int code;
        const char *says;
    } cases[] = {
        {"", ERR_FORMAT, "conf: line"},
        {"[]", ERR_FORMAT, "object"},
        {"{}", ERR_FORMAT, "_class_name"},
        {"{\"_class_name\":\"DDIMScheduler\",\"beta_start\":\"x\"}", ERR_FORMAT, "beta_start"},
        {"{\"_class_name\":\"DDIMScheduler\",\"clip_sample\":1}", ERR_FORMAT, "clip_sample"},
        {"{\"_class_name\":\"DDIMScheduler\",\"num_train_timesteps\":-1}", ERR_FORMAT, "num_train_timesteps"},
        {"{\"_class_name\":\"DDIMScheduler\",\"beta_schedule\":\"sigmoid\"}", ERR_RANGE, "scaled_linear"},
        {"{\"_class_name\":\"DDIMScheduler\",\"timestep_spacing\":\"odd\"}", ERR_RANGE, "trailing"},
        {"{\"_class_name\":\"DDIMScheduler\",\"thresholding\":true}", ERR_UNSUPPORTED, "thresholding"},
        {"{\"_class_name\":\"DDIMScheduler\",\"trained_betas\":[0.1]}", ERR_UNSUPPORTED, "trained_betas"},
        {"{\"_class_name\":\"EulerDiscreteScheduler\",\"timestep_type\":\"continuous\"}", ERR_UNSUPPORTED, "timestep_type"},
        {"{\"_class_name\":\"EulerDiscreteScheduler\",\"use_karras_sigmas\":true,\"use_exponential_sigmas\":true}", ERR_FORMAT, "both"},
        {"{\"_class_name\":\"DPMSolverMultistepScheduler\",\"algorithm_type\":\"sde-dpmsolver\"}", ERR_UNSUPPORTED, "sde-dpmsolver"},
        {"{\"_class_name\":\"FlowMatchEulerDiscreteScheduler\"}", ERR_UNSUPPORTED, "flow"},
    };
    SamplerConf c;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        says(sampler_conf_from_text(&c, cases[i].text, "conf"), cases[i].code, cases[i].says);
        assert_true(strncmp(err_message(), "conf", 4) == 0);
    }
    says(sampler_conf_from_json(&c, "/nonexistent/scheduler_config.json"), ERR_NOTFOUND, "/nonexistent");
}

static void test_sampler_conf__bounds(void **state)
{
    (void)state;
    SamplerConf c;
    sampler_conf_default(&c);
    assert_int_equal(sampler_conf_check(&c), 0);
    c.steps = 0;
    says(sampler_conf_check(&c), ERR_RANGE, "steps 0");
    c.steps = 1000; /* with offset 1 the last timestep would be 1000 */
    says(sampler_conf_check(&c), ERR_RANGE, "steps_offset 1");
    sampler_conf_default(&c);
    c.eta = 1.5;
    says(sampler_conf_check(&c), ERR_RANGE, "eta");
    sampler_conf_default(&c);
    c.strength = -0.1;
    says(sampler_conf_check(&c), ERR_RANGE, "strength");
    sampler_conf_default(&c);
    c.sigma_min = 3;
    c.sigma_max = 2;
    says(sampler_conf_check(&c), ERR_RANGE, "sigma_min");
    sampler_conf_default(&c);
    c.s_churn = -1;
    says(sampler_conf_check(&c), ERR_RANGE, "s_churn");
    sampler_conf_default(&c);
    assert_int_equal(sampler_conf_set_kind(&c, "lcm"), 0);
    c.steps = 51;
    says(sampler_conf_check(&c), ERR_RANGE, "original_inference_steps");
    sampler_conf_default(&c);
    c.zero_snr = 1;
    says(sampler_conf_check(&c), ERR_UNSUPPORTED, "rescale_betas_zero_snr");
    sampler_conf_default(&c);
    assert_int_equal(sampler_conf_set_kind(&c, "dpmpp_2m"), 0);
    c.order = 4;
    says(sampler_conf_check(&c), ERR_UNSUPPORTED, "solver_order 4");
    sampler_conf_default(&c);
    assert_int_equal(sampler_conf_set_kind(&c, "pndm"), 0);
    c.skip_prk = 0;
    c.steps = 3;
    says(sampler_conf_check(&c), ERR_RANGE, "at least 4 steps");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sampler_conf__class_defaults_fill_in),
        cmocka_unit_test(test_sampler_conf__names),
        cmocka_unit_test(test_sampler_conf__unavailable_class_is_named_and_replaceable),
        cmocka_unit_test(test_sampler_conf__python_infinity),
        cmocka_unit_test(test_sampler_conf__bad_files),
        cmocka_unit_test(test_sampler_conf__bounds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
