#include <string.h>

#include "base/config.h"
#include "base/error.h"
#include "fuzz.h"

typedef struct {
    char *path;
    float scale;
    ConfInts sizes;
} Entry;
typedef struct {
    int32_t rank;
    ConfStrs targets;
} Inner;
typedef struct {
    char *model;
    float lr;
    double decay;
    int32_t steps;
    int64_t count;
    uint64_t seed;
    int flip, sampler;
    int64_t memory;
    Inner lora;
    ConfList loras;
    ConfStrs prompts;
    ConfNums betas;
    ConfNode *axes;
} Conf;

static const char *const samplers[] = {"ddim", "euler", NULL};
static const ConfField entry_fields[] = {
    CONF_STR(Entry, path, NULL, "file"),
    CONF_F32(Entry, scale, "1", -10, 10, "strength"),
    CONF_INTS(Entry, sizes, "[64]", 1, 4096, "sizes"),
};
static const ConfTable entry_table = CONF_TABLE(Entry, entry_fields);
static const ConfField inner_fields[] = {
    CONF_I32(Inner, rank, "16", 1, 1024, "rank"),
    CONF_STRS(Inner, targets, "[attn]", 1, 8, "layers"),
};
static const ConfTable inner_table = CONF_TABLE(Inner, inner_fields);
static const ConfField fields[] = {
    CONF_STR(Conf, model, "", "folder"),
    CONF_F32(Conf, lr, "1e-4", 1e-8, 1, "rate"),
    CONF_F64(Conf, decay, "0.01", 0, 1, "decay"),
    CONF_I32(Conf, steps, "1000", 1, 1e9, "steps"),
    CONF_I64(Conf, count, "5", INT64_MIN, INT64_MAX, "count"),
    CONF_U64(Conf, seed, "42", "seed"),
    CONF_BOOL(Conf, flip, "true", "mirror"),
    CONF_SIZE(Conf, memory, "8GiB", 0, 1e15, "memory"),
    CONF_ENUM(Conf, sampler, "euler", samplers, "sampler"),
    CONF_STRUCT(Conf, lora, &inner_table, "adapter"),
    CONF_STRUCTS(Conf, loras, &entry_table, 0, 5, "adapters"),
    CONF_STRS(Conf, prompts, "", 0, 100, "prompts"),
    CONF_NUMS(Conf, betas, "[0.9, 0.999]", 0, 1, "betas"),
    CONF_NODE(Conf, axes, "", "grid"),
};
static const ConfTable table = CONF_TABLE(Conf, fields);

/* What was read must come back the same from its dump. */
static void round_trip(const Conf *c)
{
    Conf d, e;
    StrBuf a, b;
    str_init(&a);
    str_init(&b);
    FUZZ_REQUIRE(config_dump(&table, c, &a) == 0);
    FUZZ_REQUIRE(config_init(&table, &d) == 0);
    int rc = config_load_text(&table, &d, a.data, a.len, "dump");
    if (rc < 0)
        fprintf(stderr, "%s\n%s\n", err_message(), a.data);
    FUZZ_REQUIRE(rc == 0);
    FUZZ_REQUIRE(config_copy(&table, &e, &d) == 0);
    FUZZ_REQUIRE(config_dump(&table, &e, &b) == 0);
    FUZZ_REQUIRE(strcmp(a.data, b.data) == 0);
    str_clear(&b);
    FUZZ_REQUIRE(config_dump_json(&table, &e, &b) == 0);
    config_deinit(&table, &d);
    config_deinit(&table, &e);
    str_deinit(&a);
    str_deinit(&b);
}

static void try_overrides(const char *text)
{
    Conf c;
    FUZZ_REQUIRE(config_init(&table, &c) == 0);
    char *copy = strdup(text), *rest = copy;
    for (char *line; (line = strsep(&rest, "\n")) != NULL;) {
        config_override(&table, &c, line);
        char *colon = strstr(line, ": "); /* a line of a file as an override */
        if (colon) {
            colon[0] = '=';
            config_override(&table, &c, line + strspn(line, " "));
        }
    }
    free(copy);
    round_trip(&c);
    config_deinit(&table, &c);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    Conf c;
    FUZZ_REQUIRE(config_init(&table, &c) == 0);
    int rc = config_load_text(&table, &c, (const char *)data, size, "input");
    if (rc == 0)
        round_trip(&c);
    else
        FUZZ_REQUIRE(strncmp(err_message(), "input:", 6) == 0);
    config_check(&table, &c, "input");
    config_deinit(&table, &c);
    char *text = malloc(size + 1);
    memcpy(text, data, size);
    text[size] = 0;
    try_overrides(text);
    free(text);
    return 0;
}
