/* ./fuzz_X [-seconds S] [-runs N] [-seed K] FILE|FOLDER...
 * Runs every file as it is, then N mutations (until S seconds are over, if given). The same seed and corpus give the same
 * inputs. An input that crashes, fails a property, or takes over 5 s of CPU or two minutes in all, is written to fuzz_X.crash beside the
 * program; exit code 1. Without files: tests/fuzz/corpus/X, for $FUZZ_SECONDS (3), and a line as tests/run.sh reads it. */
#include <signal.h>
#include <string.h>
#include <sys/time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/rng.h"
#include "fuzz.h"
#include "io/file.h"

enum { INPUT_MAX = 1 << 16, CORPUS_MAX = 1000, SLOW_SECONDS = 5, HUNG_SECONDS = 120 };

typedef struct {
    char *data;
    size_t size;
} Input;

static Input corpus[CORPUS_MAX];
static int corpus_count;
static uint8_t current[INPUT_MAX];
static size_t current_size;
static double begin;
static char crash[4096];

void __sanitizer_set_death_callback(void (*callback)(void)) __attribute__((weak));

static void save_current(void)
{
    FILE *f = fopen(crash, "wb");
    if (f) {
        fwrite(current, 1, current_size, f);
        fclose(f);
        fprintf(stderr, "fuzz: the input is in %s\n", crash);
    }
}

static void on_signal(int sig)
{
    save_current();
    signal(sig, SIG_DFL);
    raise(sig);
}

/* Of CPU time, and in all: on a loaded machine a short input may take long. */
static void limit(int cpu, unsigned all)
{
    setitimer(ITIMER_PROF, &(struct itimerval){.it_value.tv_sec = cpu}, NULL);
    alarm(all);
}

static void run_current(void)
{
    /* The exact size on the heap, so that ASan sees a read past the end. */
    uint8_t *copy = malloc(current_size ? current_size : 1);
    memcpy(copy, current, current_size);
    limit(SLOW_SECONDS, HUNG_SECONDS);
    LLVMFuzzerTestOneInput(copy, current_size);
    limit(0, 0);
    free(copy);
}

static void set_current(const Input *in)
{
    current_size = in->size < INPUT_MAX ? in->size : INPUT_MAX;
    memcpy(current, in->data, current_size);
}

static void remove_part(RngStream *r)
{
    size_t at = rng_stream_below(r, current_size + 1), n = rng_stream_below(r, (current_size - at) / (1 + rng_stream_below(r, 8)) + 1);
    memmove(current + at, current + at + n, current_size - at - n);
    current_size -= n;
}

static void insert(size_t at, const void *data, size_t n)
{
    uint8_t copy[INPUT_MAX];
    if (n > INPUT_MAX - current_size)
        n = INPUT_MAX - current_size;
    memcpy(copy, data, n); /* data may lie in current */
    memmove(current + at + n, current + at, current_size - at);
    memcpy(current + at, copy, n);
    current_size += n;
}

static void insert_token(RngStream *r)
{
    static const char *const tokens[] = {
        "{",   "}",    "[",        "]",    ":",    ",",  "\"",   "\\",   "\\u0000", "\\ud800", "\n",     "  ",   "- ",  "null", "0",
        "-1",  "1e999", "18446744073709551615", "9223372036854775808", "4294967296", "nan", "true", "&a ", "*a", "!!str ", "? ", "---\n",
        "<<",  "#",    "\xff",     "\xc3\xa9", "\xe2\x80\xa8", "\xf0\x9f\x98\x80", "%", "|\n", ">\n", "'", "`", "@", "\t", "(", ")", "<|",
    };
    const char *t = tokens[rng_stream_below(r, sizeof tokens / sizeof *tokens)];
    insert(rng_stream_below(r, current_size + 1), t, strlen(t));
}

static void mutate(RngStream *r)
{
    size_t at = current_size ? rng_stream_below(r, current_size) : 0;
    switch (rng_stream_below(r, current_size ? 8 : 2)) {
    case 0:
    case 1: insert_token(r); break;
    case 2: current[at] ^= (uint8_t)(1u << rng_stream_below(r, 8)); break;
    case 3: current[at] = (uint8_t)rng_stream_u32(r); break;
    case 4: remove_part(r); break;
    case 5: insert(rng_stream_below(r, current_size + 1), current + at, rng_stream_below(r, current_size - at) + 1); break;
    case 6: {
        const Input *other = &corpus[rng_stream_below(r, (uint64_t)corpus_count)];
        size_t from = rng_stream_below(r, other->size + 1);
        insert(at, other->data + from, rng_stream_below(r, other->size - from + 1));
        break;
    }
    default: current[at] = (uint8_t)"0123456789{}[]\":,"[rng_stream_below(r, 17)]; break;
    }
}

static int add_file(const char *path)
{
    Input *in = &corpus[corpus_count];
    if (corpus_count == CORPUS_MAX)
        return err_set(ERR_RANGE, "%s: more than %d files", path, CORPUS_MAX);
    TRY(io_file_read(&in->data, &in->size, path, 1 << 24));
    corpus_count++;
    return 0;
}

static int add(const char *path)
{
    IoNames names;
    if (!io_file_is_dir(path))
        return add_file(path);
    TRY(io_dir_list(&names, path, NULL));
    int rc = 0;
    for (int i = 0; rc == 0 && i < names.count; i++) {
        char *full;
        rc = io_path_join(&full, path, names.items[i]);
        if (rc == 0)
            rc = add_file(full);
        free(full);
    }
    io_names_deinit(&names);
    return rc;
}

int main(int argc, char **argv)
{
    static const int signals[] = {SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGALRM, SIGPROF};
    const char *name = io_path_name(argv[0]);
    double seconds = 0;
    uint64_t runs = 0, seed = 1;
    begin = clock_now();
    snprintf(crash, sizeof crash, "%s.crash", argv[0]);
    if (argc == 1 && strncmp(name, "fuzz_", 5) == 0) {
        char corpus_of[256];
        snprintf(corpus_of, sizeof corpus_of, "tests/fuzz/corpus/%s", name + 5);
        seconds = atof(getenv("FUZZ_SECONDS") ? getenv("FUZZ_SECONDS") : "3");
        if (add(corpus_of) < 0) {
            fprintf(stderr, "%s\n", err_message());
            return 2;
        }
    }
    for (int i = 1; i < argc; i++) {
        if (argv[i][0] == '-' && i + 1 < argc) {
            double v = atof(argv[i + 1]);
            if (strcmp(argv[i], "-seconds") == 0)
                seconds = v;
            else if (strcmp(argv[i], "-runs") == 0)
                runs = (uint64_t)v;
            else
                seed = (uint64_t)v;
            i++;
        } else if (add(argv[i]) < 0) {
            fprintf(stderr, "%s\n", err_message());
            return 2;
        }
    }
    if (!corpus_count || (seconds <= 0 && !runs)) {
        fprintf(stderr, "usage: %s [-seconds S] [-runs N] [-seed K] FILE|FOLDER...\n", argv[0]);
        return 2;
    }
    for (size_t i = 0; i < sizeof signals / sizeof *signals; i++)
        signal(signals[i], on_signal);
    if (__sanitizer_set_death_callback)
        __sanitizer_set_death_callback(save_current);
    for (int i = 0; i < corpus_count; i++) {
        set_current(&corpus[i]);
        run_current();
    }
    uint64_t done = 0;
    for (; (!runs || done < runs) && (seconds <= 0 || clock_now() - begin < seconds); done++) {
        RngStream r = rng_stream(rng_key(seed, RNG_TEST, done, 0));
        set_current(&corpus[rng_stream_below(&r, (uint64_t)corpus_count)]);
        for (uint64_t k = 1 + rng_stream_below(&r, 6); k > 0; k--)
            mutate(&r);
        run_current();
    }
    for (int i = 0; i < corpus_count; i++)
        free(corpus[i].data);
    printf("%s: %d files and %llu mutations in %.1f s\n", name, corpus_count, (unsigned long long)done, clock_now() - begin);
    if (argc == 1)
        printf("ok %s\n", name);
    return 0;
}
