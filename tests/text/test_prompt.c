#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
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

/* "until:text|..." */
static void expect_schedule(const char *text, PromptRules rules, int calls, const char *want)
{
    PromptSchedule s;
    char got[2048] = "";
    if (prompt_schedule_parse(&s, text, rules, calls) < 0)
        fail_msg("%s: %s", text, err_message());
    for (int i = 0; i < s.count; i++) {
        size_t n = strlen(got);
        snprintf(got + n, sizeof got - n, "%s%d:%s", i ? "|" : "", s.stage[i].until, s.stage[i].text);
    }
    if (strcmp(got, want) != 0)
        fail_msg("%s: got %s, expected %s", text, got, want);
    prompt_schedule_deinit(&s);
}

/* The examples of A1111's get_learned_conditioning_prompt_schedules for 10 steps; its step k is also used for call k (from 0). */
static void test_text_prompt__schedules(void **state)
{
    (void)state;
    expect_schedule("test", PROMPT_A1111, 10, "10:test");
    expect_schedule("a [b:3]", PROMPT_A1111, 10, "4:a |10:a b");
    expect_schedule("a [b: 3]", PROMPT_A1111, 10, "4:a |10:a b");
    expect_schedule("a [[[b]]:2]", PROMPT_A1111, 10, "3:a |10:a [[b]]");
    expect_schedule("[(a:2):3]", PROMPT_A1111, 10, "4:|10:(a:2)");
    expect_schedule("a [b : c : 1] d", PROMPT_A1111, 10, "2:a b  d|10:a  c  d");
    expect_schedule("a[b:[c:d:2]:1]e", PROMPT_A1111, 10, "2:abe|3:ace|10:ade");
    expect_schedule("a [unbalanced", PROMPT_A1111, 10, "10:a [unbalanced");
    expect_schedule("a [b:.5] c", PROMPT_A1111, 10, "6:a  c|10:a b c");
    expect_schedule("a [{b|d{:.5] c", PROMPT_A1111, 10, "10:a [{b|d{:.5] c");
    expect_schedule("((a][:b:c [d:3]", PROMPT_A1111, 10, "4:((a][:b:c |10:((a][:b:c d");
    expect_schedule("[a|(b:1.1)]", PROMPT_A1111, 4, "2:a|3:(b:1.1)|4:a"); /* the last step's turn never comes */
    expect_schedule("[a|b|c]", PROMPT_ATELIER, 5, "1:a|2:b|3:c|4:a|5:b");
    expect_schedule("[a:b:3]", PROMPT_ATELIER, 10, "3:a|10:b");
    expect_schedule("[a::3] x", PROMPT_ATELIER, 10, "3:a x|10: x");
    expect_schedule("[a:b:0]", PROMPT_ATELIER, 10, "10:b");
    expect_schedule("[a:b:1.0] [c:d:99]", PROMPT_ATELIER, 10, "10:a c");
    expect_schedule("[a:b]", PROMPT_ATELIER, 10, "10:[a:b]");
    expect_schedule("a|b [c:d:5]", PROMPT_ATELIER, 10, "5:a|b c|10:a|b d");
    expect_schedule("a|b [c:d:5]", PROMPT_A1111, 10, "10:a|b [c:d:5]");
    expect_schedule("\\[a:b:5]", PROMPT_ATELIER, 10, "10:\\[a:b:5]");
    expect_schedule("[a\\:b:c:5]", PROMPT_ATELIER, 10, "5:a\\:b|10:c");
    expect_schedule("[a:b:5]", PROMPT_COMFYUI, 10, "10:[a:b:5]");
    PromptSchedule s;
    assert_int_equal(prompt_schedule_parse(&s, "a", PROMPT_A1111, 0), ERR_RANGE);
}

static void expect_rules(const char *text, PromptRules rules, const char *parts)
{
    Prompt p;
    char got[1024] = "";
    assert_int_equal(prompt_parse(&p, text, rules), 0);
    for (int i = 0; i < p.npart; i++) {
        size_t n = strlen(got);
        snprintf(got + n, sizeof got - n, "%s%s*%.4g", i ? "|" : "", p.part[i].pause ? "<break>" : p.part[i].text, p.part[i].weight);
    }
    assert_string_equal(got, parts);
    prompt_deinit(&p);
}

/* ComfyUI: token_weights worked out by hand; BREAK: parse_prompt_attention. */
static void test_text_prompt__other_rules(void **state)
{
    (void)state;
    expect_rules("a (b) (c:1.5) [d]", PROMPT_COMFYUI, "a *1|b*1.1| *1|c*1.5| [d]*1");
    expect_rules("(a (b:0.5) (c))", PROMPT_COMFYUI, "a *1.1|b*0.5| *1.1|c*1.21");
    expect_rules("((a:1.3):2)", PROMPT_COMFYUI, "a*1.3");
    expect_rules("(a:b)", PROMPT_COMFYUI, "a:b*1.1");
    expect_rules("\\(a\\) (b\\):2)", PROMPT_COMFYUI, "(a) *1|b)*2");
    expect_rules("(a", PROMPT_COMFYUI, "(a*1");
    expect_rules("a)b(c)", PROMPT_COMFYUI, "a)b(c)*1");
    expect_rules("(a:1.5) [b] \\(", PROMPT_DIFFUSERS, "(a:1.5) [b] \\(*1");
    expect_rules("a BREAK b", PROMPT_A1111, "a*1|<break>*-1|b*1");
    expect_rules("aBREAK BREAKb", PROMPT_A1111, "aBREAK BREAKb*1");
    expect_rules("(a BREAK b)", PROMPT_A1111, "a*1.1|BREAK*-1.1|b*1.1");
    expect_rules("(a BREAK b)", PROMPT_ATELIER, "a*1.1|<break>*-1|b*1.1");
    Prompt p;
    char *rest;
    assert_int_equal(prompt_take_loras(&p, &rest, "a <lora:x:0.5:0.5> (b:2)<lora:y>", PROMPT_A1111), 0);
    assert_string_equal(rest, "a  (b:2)");
    assert_int_equal(p.nlora, 2);
    free(rest);
    prompt_deinit(&p);
    assert_int_equal(prompt_take_loras(&p, &rest, "<lora:x:0.5:0.4>", PROMPT_A1111), ERR_UNSUPPORTED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_text_prompt__attention),
        cmocka_unit_test(test_text_prompt__lora_tags),
        cmocka_unit_test(test_text_prompt__rejects_bad_lora_tags),
        cmocka_unit_test(test_text_prompt__schedules),
        cmocka_unit_test(test_text_prompt__other_rules),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
