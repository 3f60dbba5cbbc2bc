#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "text/prompt.h"

/* Parts as "text*weight|..." with weights to 4 digits. */
static void expect(const char *text, const char *parts)
{
    Prompt p;
    char got[1024] = "";
    if (prompt_parse(&p, text, PROMPT_A1111) < 0)
        fail_msg("%s: %s", text, err_message());
    for (int i = 0; i < p.npart; i++) {
        size_t n = strlen(got);
        snprintf(got + n, sizeof got - n, "%s%s*%.4g", i ? "|" : "", p.part[i].text, p.part[i].weight);
    }
    assert_string_equal(got, parts);
    prompt_deinit(&p);
}

/* Expected values: the examples of A1111's parse_prompt_attention and its rules worked out by hand. */
static void test_text_prompt__attention(void **state)
{
    (void)state;
    expect("normal text", "normal text*1");
    expect("", "*1");
    expect("an (important) word", "an *1|important*1.1| word*1");
    expect("(unbalanced", "unbalanced*1.1");
    expect("\\(literal\\]", "(literal]*1");
    expect("(unnecessary)(parens)", "unnecessaryparens*1.1");
    expect("a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).",
           "a *1|house*1.573| *1.1|on*1| a *1.1|hill*0.55|, sun, *1.1|sky*1.464|.*1.1");
    expect("[[x]]", "x*0.8264");
    expect("a:b (c:d) e)", "a:b *1|c:d*1.1| e)*1");
    expect("(a: -0.5 )", "a*-0.5");
    expect("(a:1.2.3)", "a:1.2.3*1.1");
    expect("x:1.3)", "x:1.3)*1");
    expect("a\\b \\\\", "ab \\*1");
    expect("(a:1)(b)", "a*1|b*1.1");
    expect("\xE7\x8C\xAB (\xE7\x8C\xAB:2)", "\xE7\x8C\xAB *1|\xE7\x8C\xAB*2");
}

static void test_text_prompt__lora_tags(void **state)
{
    (void)state;
    Prompt p;
    assert_int_equal(prompt_parse(&p, "a (cat:1.2)<lora:my style:0.8>, <lora:b> <x> <lora:c:-1>", PROMPT_A1111), 0);
    assert_int_equal(p.nlora, 3);
    assert_string_equal(p.lora[0].name, "my style");
    assert_true(p.lora[0].scale == 0.8);
    assert_string_equal(p.lora[1].name, "b");
    assert_true(p.lora[1].scale == 1);
    assert_true(p.lora[2].scale == -1);
    assert_string_equal(p.plain, "a cat,  <x> ");
    assert_int_equal(p.weighted, 1);
    prompt_deinit(&p);
    assert_int_equal(prompt_parse(&p, "<lora:unclosed", PROMPT_A1111), 0);
    assert_int_equal(p.nlora, 0);
    assert_string_equal(p.plain, "<lora:unclosed");
    assert_int_equal(p.weighted, 0);
    prompt_deinit(&p);
}

static void test_text_prompt__rejects_bad_lora_tags(void **state)
{
    (void)state;
    Prompt p;
    const char *const bad[] = {"<lora:>", "<lora::1>", "<lora:a:>", "<lora:a:x>", "<lora:a:1x>", "<lora:a:nan>", "<lora:a:0.5:x>", "<lora:a:0.5:0.5:0.5>"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(prompt_parse(&p, bad[i], PROMPT_A1111), ERR_FORMAT);
        assert_non_null(strstr(err_message(), "lora"));
        assert_null(p.part);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_text_prompt__attention),
        cmocka_unit_test(test_text_prompt__lora_tags),
        cmocka_unit_test(test_text_prompt__rejects_bad_lora_tags),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
