#include <string.h>

#include "base/str.h"
#include "fuzz.h"
#include "text/infotext.h"
#include "text/prompt.h"

static void try_prompt(const char *text)
{
    Prompt p;
    if (prompt_parse(&p, text, PROMPT_A1111) < 0)
        return;
    size_t total = 0;
    FUZZ_REQUIRE(p.npart >= 1 && p.plain);
    for (int i = 0; i < p.npart; i++) {
        FUZZ_REQUIRE(strncmp(p.plain + total, p.part[i].text, strlen(p.part[i].text)) == 0);
        FUZZ_REQUIRE(i == 0 || p.part[i].weight != p.part[i - 1].weight || p.part[i].weight != p.part[i].weight);
        total += strlen(p.part[i].text);
    }
    FUZZ_REQUIRE(p.plain[total] == 0 && total <= strlen(text));
    for (int i = 0; i < p.nlora; i++)
        FUZZ_REQUIRE(*p.lora[i].name);
    prompt_deinit(&p);
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
    try_prompt(text);
    try_infotext(text);
    free(text);
    return 0;
}
