#include <string.h>

#include "base/str.h"
#include "fuzz.h"
#include "text/infotext.h"
#include "text/prompt.h"

static void try_prompt(const char *text, PromptRules rules)
{
    Prompt p;
    if (prompt_parse(&p, text, rules) < 0)
        return;
    size_t total = 0;
    FUZZ_REQUIRE(p.npart >= 1 && p.plain);
    for (int i = 0; i < p.npart; i++) {
        FUZZ_REQUIRE(strncmp(p.plain + total, p.part[i].text, strlen(p.part[i].text)) == 0);
        FUZZ_REQUIRE(i == 0 || p.part[i].pause || p.part[i - 1].pause || p.part[i].weight != p.part[i - 1].weight ||
                     p.part[i].weight != p.part[i].weight);
        total += strlen(p.part[i].text);
    }
    FUZZ_REQUIRE(p.plain[total] == 0 && total <= strlen(text));
    for (int i = 0; i < p.nlora; i++)
        FUZZ_REQUIRE(*p.lora[i].name);
    prompt_deinit(&p);
}

/* Stages follow each other up to the last call. */
static void try_schedule(const char *text, PromptRules rules, int calls)
{
    PromptSchedule s;
    FUZZ_REQUIRE(prompt_schedule_parse(&s, text, rules, calls) == 0);
    FUZZ_REQUIRE(s.count >= 1 && s.stage[s.count - 1].until == calls);
    for (int i = 0; i < s.count; i++) {
        FUZZ_REQUIRE(s.stage[i].until > (i ? s.stage[i - 1].until : 0));
        FUZZ_REQUIRE(strlen(s.stage[i].text) <= strlen(text));
    }
    prompt_schedule_deinit(&s);
}

/* What was parsed comes back the same after building. */
static void try_infotext(const char *text)
{
    Infotext a, b;
    char *built = NULL;
    FUZZ_REQUIRE(infotext_parse(&a, text) == 0);
    FUZZ_REQUIRE(infotext_build(&built, &a) == 0);
    FUZZ_REQUIRE(infotext_parse(&b, built) == 0);
    /* A second mark inside the negative prompt, and bytes that are not UTF-8, cannot be written so as to come back. */
    if (a.nfield && !strstr(a.negative, "Negative prompt:") && str_is_utf8(text, strlen(text))) {
        FUZZ_REQUIRE(strcmp(a.prompt, b.prompt) == 0);
        FUZZ_REQUIRE(strcmp(a.negative, b.negative) == 0);
        FUZZ_REQUIRE(a.nfield == b.nfield);
        for (int i = 0; i < a.nfield; i++) {
            FUZZ_REQUIRE(strcmp(a.field[i].key, b.field[i].key) == 0);
            FUZZ_REQUIRE(strcmp(a.field[i].value, b.field[i].value) == 0);
        }
    }
    free(built);
    infotext_deinit(&a);
    infotext_deinit(&b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = malloc(size + 1);
    memcpy(text, data, size);
    text[size] = 0;
    for (int rules = 0; rules < PROMPT_RULES; rules++)
        try_prompt(text, (PromptRules)rules);
    try_schedule(text, PROMPT_ATELIER, 7);
    try_schedule(text, PROMPT_A1111, 20);
    try_infotext(text);
    free(text);
    return 0;
}
