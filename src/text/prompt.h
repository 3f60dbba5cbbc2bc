/* What the text of a prompt means, by the rules of the program it was written for.
 *
 * PROMPT_ATELIER, PROMPT_A1111, PROMPT_A1111_NO_NORM (A1111's prompt_parser.parse_prompt_attention and extra networks):
 *     (word)  weight * 1.1      ((word)) 1.21      (word:1.3)  weight * 1.3      [word]  weight / 1.1
 *     \( \) \[ \] \\  literal      BREAK  the next chunk      <lora:name:0.8>  taken out of the text (":0.8" may be absent: 1)
 *     [from:to:when] [to:when] [from::when] [a|b]  prompt editing: prompt_schedule_parse, before this
 *     unbalanced brackets run to the end of the text
 * PROMPT_COMFYUI (comfy/sd1_clip.py token_weights): (word), (word:1.3), \( \); the weight of the innermost (x:w) replaces the weights
 *     around it, plain brackets multiply by 1.1; square brackets, BREAK and <> are plain text.
 * PROMPT_DIFFUSERS: the text as typed, cut to one chunk. */
#ifndef TEXT_PROMPT_H
#define TEXT_PROMPT_H

#include <stddef.h>

#include "base/error.h"

typedef enum { PROMPT_ATELIER, PROMPT_A1111, PROMPT_A1111_NO_NORM, PROMPT_COMFYUI, PROMPT_DIFFUSERS, PROMPT_RULES } PromptRules;
extern const char *const PROMPT_RULES_NAMES[PROMPT_RULES + 1]; /* "atelier", "a1111", ...; ends with NULL */

typedef struct {
    char *text;
    double weight;
    int pause; /* BREAK: text is "" */
} PromptPart;

typedef struct {
    char *name;
    double scale;
} PromptLora;

typedef struct {
    PromptPart *part; /* neighbours of equal weight are joined; one part "" for an empty prompt */
    int npart;
    PromptLora *lora;
    int nlora;
    char *plain;      /* all parts without syntax */
    int weighted;     /* some weight is not 1 */
} Prompt;

/* ERR_NOMEM, ERR_RANGE (longer than 64 KiB), ERR_FORMAT for a <lora:...> tag with an empty name or a scale that is no number. */
int prompt_parse(Prompt *p, const char *text, PromptRules rules);
void prompt_deinit(Prompt *p);
/* The text without its <lora:...> tags, and the tags (p->lora, p->nlora only; prompt_deinit). Under the rules of ComfyUI and
 * diffusers nothing is taken out. *rest: free(). */
int prompt_take_loras(Prompt *p, char **rest, const char *text, PromptRules rules);

/* ---- prompt editing ---- */

typedef struct {
    int until;  /* used for calls i < until of the network that no earlier entry covers */
    char *text;
} PromptStage;

typedef struct {
    PromptStage *stage;
    int count; /* at least 1; the last one's until is the number of calls */
} PromptSchedule;

/* A1111's get_learned_conditioning_prompt_schedules for `calls` runs of the denoiser: [from:to:when] with `when` in calls, or as a
 * share of them if it holds a '.'; [a|b|c] takes turns. The text of a stage keeps its weights' syntax. Text that does not follow this
 * grammar is left as it is. A1111 counts one call more before a change than the number says (its step k is used for call k too);
 * PROMPT_ATELIER does not: [a:b:3] is three calls of a. One stage under the rules of ComfyUI and diffusers. */
int prompt_schedule_parse(PromptSchedule *s, const char *text, PromptRules rules, int calls);
void prompt_schedule_deinit(PromptSchedule *s);

#endif
