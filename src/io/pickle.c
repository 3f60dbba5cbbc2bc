#include "io/pickle.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"

enum { MAX_STACK = 100000, MAX_MEMO = 1000000 };

typedef struct {
    Arena *arena;
    const uint8_t *p, *end;
    const char *name;
    PickleValue **stack;
    size_t depth, room;
    PickleValue **memo;
    size_t nmemo;
} Reader;

static int damaged(const Reader *r, const char *what)
{
    return err_set(ERR_FORMAT, "%s: not a file of torch.save that can be read here: %s", r->name, what);
}

static int make(Reader *r, PickleKind kind, PickleValue **out)
{
    *out = arena_alloc(r->arena, sizeof **out);
    if (!*out)
        return err_set(ERR_NOMEM, "out of memory");
    memset(*out, 0, sizeof **out);
    (*out)->kind = kind;
    return 0;
}

static int push(Reader *r, PickleValue *v)
{
    if (r->depth >= MAX_STACK)
        return damaged(r, "nested too deeply");
    if (r->depth == r->room) {
        size_t room = 2 * r->room + 64;
        PickleValue **grown = realloc(r->stack, room * sizeof *grown);
        if (!grown)
            return err_set(ERR_NOMEM, "out of memory");
        r->stack = grown;
        r->room = room;
    }
    r->stack[r->depth++] = v;
    return 0;
}

static int push_new(Reader *r, PickleKind kind, int64_t number)
{
    PickleValue *v;
    TRY(make(r, kind, &v));
    v->number = number;
    return push(r, v);
}

static int pop(Reader *r, PickleValue **out)
{
    if (!r->depth || r->stack[r->depth - 1]->kind == PICKLE_MARK)
        return damaged(r, "a value is missing");
    *out = r->stack[--r->depth];
    return 0;
}

static int bytes(Reader *r, size_t n, const uint8_t **out)
{
    if ((size_t)(r->end - r->p) < n)
        return damaged(r, "it ends too early");
    *out = r->p;
    r->p += n;
    return 0;
}

static int number(Reader *r, size_t n, uint64_t *out)
{
    const uint8_t *b = NULL;
    TRY(bytes(r, n, &b));
    *out = 0;
    for (size_t i = 0; i < n; i++)
        *out |= (uint64_t)b[i] << 8 * i;
    return 0;
}

/* A length of `width` bytes, then so many. Only texts are kept. */
static int push_text(Reader *r, size_t width, PickleKind kind)
{
    uint64_t n = 0;
    const uint8_t *b = NULL;
    PickleValue *v;
    TRY(number(r, width, &n));
    if (n > (uint64_t)(r->end - r->p))
        return damaged(r, "it ends too early");
    TRY(bytes(r, (size_t)n, &b));
    TRY(make(r, kind, &v));
    if (kind == PICKLE_TEXT && !(v->text = arena_text(r->arena, (const char *)b, (size_t)n)))
        return err_set(ERR_NOMEM, "out of memory");
    return push(r, v);
}

static int line(Reader *r, const char **out, size_t *n)
{
    const uint8_t *e = memchr(r->p, '\n', (size_t)(r->end - r->p));
    if (!e)
        return damaged(r, "it ends too early");
    *out = (const char *)r->p;
    *n = (size_t)(e - r->p);
    r->p = e + 1;
    return 0;
}

static int push_name(Reader *r, const char *module, size_t nmodule, const char *name, size_t nname)
{
    PickleValue *v;
    if (memchr(module, 0, nmodule) || memchr(name, 0, nname))
        return damaged(r, "a name with a zero byte");
    TRY(make(r, PICKLE_NAME, &v));
    char *text = arena_alloc(r->arena, nmodule + nname + 2);
    if (!text)
        return err_set(ERR_NOMEM, "out of memory");
    memcpy(text, module, nmodule);
    text[nmodule] = ' ';
    memcpy(text + nmodule + 1, name, nname);
    text[nmodule + 1 + nname] = 0;
    v->text = text;
    return push(r, v);
}

static int add(Reader *r, PickleValue *to, PickleValue *v)
{
    if (to->count == to->room) {
        size_t room = 2 * to->room + 4;
        PickleValue **grown = arena_array(r->arena, room, sizeof *grown);
        if (!grown)
            return err_set(ERR_NOMEM, "out of memory");
        if (to->count)
            memcpy(grown, to->item, to->count * sizeof *grown);
        to->item = grown;
        to->room = room;
    }
    to->item[to->count++] = v;
    return 0;
}

/* What lies above the last n values (n < 0: the last mark) becomes items of `to`; the mark goes. */
static int gather(Reader *r, PickleValue *to, int n)
{
    size_t first = r->depth;
    for (int i = 0; n >= 0 && i < n; i++)
        if (!first-- || r->stack[first]->kind == PICKLE_MARK)
            return damaged(r, "a value is missing");
    while (n < 0 && first && r->stack[first - 1]->kind != PICKLE_MARK)
        first--;
    if (n < 0 && !first)
        return damaged(r, "a mark is missing");
    for (size_t i = first; i < r->depth; i++)
        TRY(add(r, to, r->stack[i]));
    r->depth = n < 0 ? first - 1 : first;
    return 0;
}

static int collect(Reader *r, PickleKind kind, int n)
{
    PickleValue *v;
    TRY(make(r, kind, &v));
    TRY(gather(r, v, n));
    if (kind == PICKLE_DICT && v->count % 2)
        return damaged(r, "a key without a value");
    return push(r, v);
}

/* n values (n < 0: to the mark) into the list or dictionary below them. */
static int extend(Reader *r, PickleKind kind, int n)
{
    PickleValue *more, *to;
    TRY(make(r, kind, &more));
    TRY(gather(r, more, n));
    TRY(pop(r, &to));
    if (to->kind != kind || (kind == PICKLE_DICT && more->count % 2))
        return damaged(r, "items of something else");
    for (size_t i = 0; i < more->count; i++)
        TRY(add(r, to, more->item[i]));
    return push(r, to);
}

static int remember(Reader *r, uint64_t at)
{
    if (!r->depth || at >= MAX_MEMO)
        return damaged(r, "nothing to remember");
    if (at >= r->nmemo) {
        size_t n = (size_t)at * 2 + 64;
        PickleValue **grown = realloc(r->memo, n * sizeof *grown);
        if (!grown)
            return err_set(ERR_NOMEM, "out of memory");
        memset(grown + r->nmemo, 0, (n - r->nmemo) * sizeof *grown);
        r->memo = grown;
        r->nmemo = n;
    }
    r->memo[at] = r->stack[r->depth - 1];
    return 0;
}

static int recall(Reader *r, uint64_t at)
{
    if (at >= r->nmemo || !r->memo[at] || r->memo[at]->kind == PICKLE_MARK)
        return damaged(r, "it refers to nothing");
    return push(r, r->memo[at]);
}

/* ("storage", type, key, device, count) */
static int persistent(Reader *r)
{
    PickleValue *t, *v;
    TRY(pop(r, &t));
    if (t->kind != PICKLE_TUPLE || t->count < 5 || t->item[1]->kind != PICKLE_NAME || t->item[2]->kind != PICKLE_TEXT)
        return damaged(r, "an unknown kind of storage");
    TRY(make(r, PICKLE_STORAGE, &v));
    v->type = strchr(t->item[1]->text, ' ') + 1;
    v->text = t->item[2]->text;
    return push(r, v);
}

static int sizes(const PickleValue *t, int64_t out[PICKLE_MAX_DIM])
{
    if (t->kind != PICKLE_TUPLE || t->count > PICKLE_MAX_DIM)
        return 0;
    for (size_t i = 0; i < t->count; i++) {
        if (t->item[i]->kind != PICKLE_INT || t->item[i]->number < 0)
            return 0;
        out[i] = t->item[i]->number;
    }
    return 1;
}

/* torch._utils._rebuild_tensor_v2(storage, offset, size, stride, ...) */
static int tensor(Reader *r, const PickleValue *a)
{
    PickleValue *v;
    TRY(make(r, PICKLE_TENSOR, &v));
    if (a->count < 4 || a->item[0]->kind != PICKLE_STORAGE || a->item[1]->kind != PICKLE_INT || !sizes(a->item[2], v->dim) ||
        !sizes(a->item[3], v->stride) || a->item[2]->count != a->item[3]->count)
        return damaged(r, "a tensor of an unknown form");
    v->ndim = (int)a->item[2]->count;
    v->number = a->item[1]->number;
    v->text = a->item[0]->text;
    v->type = a->item[0]->type;
    return push(r, v);
}

static int reduce(Reader *r)
{
    PickleValue *args, *fn;
    TRY(pop(r, &args));
    TRY(pop(r, &fn));
    if (fn->kind != PICKLE_NAME || args->kind != PICKLE_TUPLE)
        return damaged(r, "a call of something without a name");
    if (strcmp(fn->text, "torch._utils _rebuild_tensor_v2") == 0)
        return tensor(r, args);
    if (strcmp(fn->text, "torch._utils _rebuild_parameter") == 0 && args->count && args->item[0]->kind == PICKLE_TENSOR)
        return push(r, args->item[0]);
    if (strcmp(fn->text, "collections OrderedDict") == 0 && !args->count)
        return push_new(r, PICKLE_DICT, 0);
    return err_set(ERR_UNSUPPORTED, "%s: it wants to call Python's '%.100s': only files of plain tensors are read; convert it to safetensors", r->name,
                   fn->text);
}

/* STACK_GLOBAL: module and name are values. */
static int stack_name(Reader *r)
{
    PickleValue *module, *name;
    TRY(pop(r, &name));
    TRY(pop(r, &module));
    if (name->kind != PICKLE_TEXT || module->kind != PICKLE_TEXT)
        return damaged(r, "a name that is no text");
    return push_name(r, module->text, strlen(module->text), name->text, strlen(name->text));
}

static int step_value(Reader *r, uint8_t op)
{
    uint64_t n = 0;
    switch (op) {
    case 'N': return push_new(r, PICKLE_OTHER, 0);
    case 0x88: return push_new(r, PICKLE_INT, 1);
    case 0x89: return push_new(r, PICKLE_INT, 0);
    case 'J': TRY(number(r, 4, &n)); return push_new(r, PICKLE_INT, (int32_t)(uint32_t)n);
    case 'K': TRY(number(r, 1, &n)); return push_new(r, PICKLE_INT, (int64_t)n);
    case 'M': TRY(number(r, 2, &n)); return push_new(r, PICKLE_INT, (int64_t)n);
    case 'G': TRY(number(r, 8, &n)); return push_new(r, PICKLE_OTHER, 0);
    case 0x8a: {
        uint64_t size = 0;
        TRY(number(r, 1, &size));
        if (size > 8)
            return damaged(r, "a number too large");
        TRY(number(r, (size_t)size, &n));
        if (size && size < 8 && n >> (8 * size - 1) & 1)
            n |= ~UINT64_C(0) << 8 * size;
        return push_new(r, PICKLE_INT, (int64_t)n);
    }
    case 'X': return push_text(r, 4, PICKLE_TEXT);
    case 0x8c: return push_text(r, 1, PICKLE_TEXT);
    case 0x8d: return push_text(r, 8, PICKLE_TEXT);
    case 'B':
    case 'T': return push_text(r, 4, PICKLE_OTHER);
    case 'C':
    case 'U': return push_text(r, 1, PICKLE_OTHER);
    default: return err_set(ERR_UNSUPPORTED, "%s: pickle operation 0x%02x is not supported; convert the file to safetensors", r->name, op);
    }
}

static int step(Reader *r, uint8_t op)
{
    uint64_t n = 0;
    PickleValue *v;
    const char *a = "", *b = "";
    size_t na = 0, nb = 0;
    switch (op) {
    case 0x80: return number(r, 1, &n);
    case 0x95: return number(r, 8, &n);
    case '(': return push_new(r, PICKLE_MARK, 0);
    case '0': return pop(r, &v);
    case ')': return push_new(r, PICKLE_TUPLE, 0);
    case ']': return push_new(r, PICKLE_TUPLE, 0);
    case '}': return push_new(r, PICKLE_DICT, 0);
    case 't':
    case 'l': return collect(r, PICKLE_TUPLE, -1);
    case 'd': return collect(r, PICKLE_DICT, -1);
    case 0x85:
    case 0x86:
    case 0x87: return collect(r, PICKLE_TUPLE, op - 0x84);
    case 'a': return extend(r, PICKLE_TUPLE, 1);
    case 'e': return extend(r, PICKLE_TUPLE, -1);
    case 's': return extend(r, PICKLE_DICT, 2);
    case 'u': return extend(r, PICKLE_DICT, -1);
    case 'q': TRY(number(r, 1, &n)); return remember(r, n);
    case 'r': TRY(number(r, 4, &n)); return remember(r, n);
    case 0x94:
        for (n = 0; n < r->nmemo && r->memo[n]; n++)
            ;
        return remember(r, n);
    case 'h': TRY(number(r, 1, &n)); return recall(r, n);
    case 'j': TRY(number(r, 4, &n)); return recall(r, n);
    case 'c':
        TRY(line(r, &a, &na));
        TRY(line(r, &b, &nb));
        return push_name(r, a, na, b, nb);
    case 0x93: return stack_name(r);
    case 'Q': return persistent(r);
    case 'R': return reduce(r);
    case 'b': return pop(r, &v); /* attributes of what is below */
    default: return step_value(r, op);
    }
}

int io_pickle_read(PickleValue **out, Arena *arena, const uint8_t *data, size_t size, const char *name)
{
    Reader r = {.arena = arena, .p = data, .end = data + size, .name = name};
    int rc = 0;
    *out = NULL;
    while (rc >= 0 && !*out) {
        if (r.p == r.end)
            rc = damaged(&r, "it ends too early");
        else if (*r.p == '.')
            rc = pop(&r, out);
        else
            rc = step(&r, *r.p++);
    }
    free(r.stack);
    free(r.memo);
    return rc;
}
