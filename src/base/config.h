/* Configuration: one table of fields per plain C struct drives the YAML file, `key=value` overrides, --help, the bounds
 * and the resolved dump.
 *
 *     typedef struct { float lr; LoraConf lora; ConfList datasets; ConfNode *axes; } TrainConf;
 *     static const ConfField fields[] = {
 *         CONF_F32(TrainConf, lr, "1e-4", 1e-8, 1.0, "peak learning rate"),
 *         CONF_STRUCT(TrainConf, lora, &lora_table, "low-rank adapter"),
 *         CONF_STRUCTS(TrainConf, datasets, &dataset_table, 1, 100, "where the images are"),
 *     };
 *     const ConfTable train_table = CONF_TABLE(TrainConf, fields);
 *
 *     TrainConf c;
 *     TRY_GOTO(config_init(&train_table, &c));              // defaults; call config_deinit in every case afterwards
 *     TRY_GOTO(config_load(&train_table, &c, path));
 *     TRY_GOTO(config_override(&train_table, &c, "lora.rank=8"));
 *     TRY_GOTO(config_check(&train_table, &c));             // required keys are there
 *
 * Errors are ERR_FORMAT (not YAML, wrong type, duplicate), ERR_NOTFOUND (unknown or missing key), ERR_RANGE (bounds):
 * "train.yaml:12: key 'lora.rank': expected an integer in 1..1024, got 'abc'".
 * After an error the struct is still valid for config_deinit. */
#ifndef BASE_CONFIG_H
#define BASE_CONFIG_H

#include <stddef.h>
#include <stdint.h>

#include "base/str.h"

typedef enum {
    CONF_TYPE_BOOL,    /* int (0, 1): true/false, yes/no, on/off */
    CONF_TYPE_I32,     /* int32_t */
    CONF_TYPE_I64,     /* int64_t */
    CONF_TYPE_U64,     /* uint64_t: seeds */
    CONF_TYPE_F32,     /* float */
    CONF_TYPE_F64,     /* double */
    CONF_TYPE_SIZE,    /* int64_t bytes: 1500, 64KiB, 8GiB, 1.5GB */
    CONF_TYPE_STR,     /* char *, owned, never NULL after config_init; null reads as "" */
    CONF_TYPE_ENUM,    /* int: place in `names` */
    CONF_TYPE_STRS,    /* ConfStrs */
    CONF_TYPE_NUMS,    /* ConfNums */
    CONF_TYPE_INTS,    /* ConfInts */
    CONF_TYPE_STRUCT,  /* a struct inside, described by `table` */
    CONF_TYPE_STRUCTS, /* ConfList of structs described by `table` */
    CONF_TYPE_NODE     /* ConfNode *, owned, NULL when absent: a free-form subtree */
} ConfType;

typedef struct {
    char **items;
    int count;
} ConfStrs;
typedef struct {
    double *items;
    int count;
} ConfNums;
typedef struct {
    int64_t *items;
    int count;
} ConfInts;
typedef struct {
    void *items; /* array of `count` structs */
    int count;
} ConfList;

typedef struct ConfTable ConfTable;
typedef struct {
    const char *key;
    ConfType type;
    size_t offset;
    const char *def;          /* default as text; NULL: required (STR, ENUM, lists and NODE only) or an empty list */
    double min, max;          /* of the value (numbers), each number (NUMS, INTS), or the count (STRS, STRUCTS) */
    const char *const *names; /* ENUM: names ending with NULL */
    const ConfTable *table;   /* STRUCT, STRUCTS */
    const char *doc;
} ConfField;

struct ConfTable {
    const char *name;
    size_t size;
    const ConfField *fields;
    int count;
};

#define CONF_TABLE(T, F) {#T, sizeof(T), F, (int)(sizeof(F) / sizeof *(F))}
#define CONF_FIELD(T, m, type, def, lo, hi, names, table, doc) {#m, type, offsetof(T, m), def, lo, hi, names, table, doc}
#define CONF_BOOL(T, m, def, doc) CONF_FIELD(T, m, CONF_TYPE_BOOL, def, 0, 1, NULL, NULL, doc)
#define CONF_I32(T, m, def, lo, hi, doc) CONF_FIELD(T, m, CONF_TYPE_I32, def, lo, hi, NULL, NULL, doc)
#define CONF_I64(T, m, def, lo, hi, doc) CONF_FIELD(T, m, CONF_TYPE_I64, def, lo, hi, NULL, NULL, doc)
#define CONF_U64(T, m, def, doc) CONF_FIELD(T, m, CONF_TYPE_U64, def, 0, 18446744073709551615.0, NULL, NULL, doc)
#define CONF_F32(T, m, def, lo, hi, doc) CONF_FIELD(T, m, CONF_TYPE_F32, def, lo, hi, NULL, NULL, doc)
#define CONF_F64(T, m, def, lo, hi, doc) CONF_FIELD(T, m, CONF_TYPE_F64, def, lo, hi, NULL, NULL, doc)
#define CONF_SIZE(T, m, def, lo, hi, doc) CONF_FIELD(T, m, CONF_TYPE_SIZE, def, lo, hi, NULL, NULL, doc)
#define CONF_STR(T, m, def, doc) CONF_FIELD(T, m, CONF_TYPE_STR, def, 0, 0, NULL, NULL, doc)
#define CONF_ENUM(T, m, def, names, doc) CONF_FIELD(T, m, CONF_TYPE_ENUM, def, 0, 0, names, NULL, doc)
/* Lists: `def` in YAML flow form ("[a, b]"), "" for empty, NULL for required. */
#define CONF_STRS(T, m, def, lo, hi, doc) CONF_FIELD(T, m, CONF_TYPE_STRS, def, lo, hi, NULL, NULL, doc)
#define CONF_NUMS(T, m, def, lo, hi, doc) CONF_FIELD(T, m, CONF_TYPE_NUMS, def, lo, hi, NULL, NULL, doc)
#define CONF_INTS(T, m, def, lo, hi, doc) CONF_FIELD(T, m, CONF_TYPE_INTS, def, lo, hi, NULL, NULL, doc)
#define CONF_STRUCT(T, m, table, doc) CONF_FIELD(T, m, CONF_TYPE_STRUCT, "", 0, 0, NULL, table, doc)
/* lo..hi entries; lo > 0 makes it required. */
#define CONF_STRUCTS(T, m, table, lo, hi, doc) CONF_FIELD(T, m, CONF_TYPE_STRUCTS, "", lo, hi, NULL, table, doc)
/* def "" (optional) or NULL (required). */
#define CONF_NODE(T, m, def, doc) CONF_FIELD(T, m, CONF_TYPE_NODE, def, 0, 0, NULL, NULL, doc)

/* ---- reading and writing structs ---- */

/* Zeroes the struct and sets all defaults. */
int config_init(const ConfTable *t, void *conf);
/* Releases what the struct owns and zeroes it. Fine on a zeroed struct. */
void config_deinit(const ConfTable *t, void *conf);
/* Sets what the YAML file mentions; the rest keeps its value. Lists are replaced, nested structs merged. */
int config_load(const ConfTable *t, void *conf, const char *path);
/* The same from memory; `name` stands for the file in messages. */
int config_load_text(const ConfTable *t, void *conf, const char *text, size_t size, const char *name);
/* "key=value", dotted keys for nested structs and list entries: lora.rank=8, loras.0.scale=0.5, axes.seed=[1, 2].
 * Scalars are taken as they stand; lists and structs as YAML flow ([a, b], {path: x}); a lone word is a list of one. */
int config_override(const ConfTable *t, void *conf, const char *assignment);
/* Whether `arg` looks like an override (a key, then '='). */
int config_is_override(const char *arg);
/* Required keys are present, list lengths are within bounds. `source` names the file in messages (may be NULL). */
int config_check(const ConfTable *t, const void *conf, const char *source);
/* init, load (path may be NULL), override in order, check. Call config_deinit also after an error. */
int config_read(const ConfTable *t, void *conf, const char *path, const char *const *overrides, int count);
/* Deep copy into uninitialised storage. */
int config_copy(const ConfTable *t, void *out, const void *conf);

/* All keys with their values as YAML; loading it into a fresh struct gives the same values. */
int config_dump(const ConfTable *t, const void *conf, StrBuf *out);
/* The same as one JSON object. */
int config_dump_json(const ConfTable *t, const void *conf, StrBuf *out);
/* A text in YAML's double quotes; bytes that are no UTF-8 become '?'. */
void config_add_quoted(StrBuf *out, const char *text);
/* One line per key: key, type, default, bounds, doc. */
void config_help(const ConfTable *t, StrBuf *out);

/* ---- free-form subtrees ---- */

typedef enum { CONF_NODE_SCALAR, CONF_NODE_LIST, CONF_NODE_MAP } ConfNodeKind;
typedef struct ConfNode ConfNode;
struct ConfNode {
    ConfNodeKind kind;
    int line;           /* 1-based in `source`; 0 on the command line */
    int plain;          /* scalar without quotes; every plain null has the text "null" */
    int count;          /* entries of a list or map */
    char *text;         /* scalar */
    ConfNode **items;   /* list entries, or map values in file order */
    char **keys;        /* map keys, unique */
    const char *source; /* file name for messages: owned by the root, shared by the nodes below it */
    char *owned_source; /* what `source` of this node and those below points to; NULL below the root */
};

/* A plain null, ~ or nothing. */
int conf_node_is_null(const ConfNode *n);
/* One YAML document (no anchors, aliases, tags or duplicate keys; at most 64 levels, 200,000 nodes
 * and 10,000 keys per map). *out is the
 * caller's. An empty document gives an empty map. */
int conf_node_parse(ConfNode **out, const char *text, size_t size, const char *name);
void conf_node_destroy(ConfNode *n);
int conf_node_copy(ConfNode **out, const ConfNode *n);
/* Value of a map's key; NULL when absent or not a map. Borrowed. */
const ConfNode *conf_node_find(const ConfNode *map, const char *key);
/* Typed values. `what` names it in messages ("axes.seed"). */
int conf_node_text(const ConfNode *n, const char *what, const char **out); /* borrowed */
int conf_node_i64(const ConfNode *n, const char *what, int64_t *out);
int conf_node_u64(const ConfNode *n, const char *what, uint64_t *out);
int conf_node_f64(const ConfNode *n, const char *what, double *out);
int conf_node_bool(const ConfNode *n, const char *what, int *out);
/* "none or a map" -> "FILE:LINE: key 'what': expected none or a map, got 'text'" */
int conf_node_expected(const ConfNode *n, int code, const char *what, const char *expected);
/* "FILE:LINE: key 'what'" */
void conf_node_place(const ConfNode *n, const char *what, char *out, size_t size);
/* err_set(code, "FILE:LINE: key 'what': ...") */
int conf_node_error(const ConfNode *n, int code, const char *what, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
/* YAML text of a subtree in flow form, on one line. */
void conf_node_dump(const ConfNode *n, StrBuf *out);
void conf_node_dump_json(const ConfNode *n, StrBuf *out);

#endif
