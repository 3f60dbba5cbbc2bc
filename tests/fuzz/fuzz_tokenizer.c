#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "fuzz.h"
#include "text/clip_bpe.h"

#define VOCABULARY "tests/vectors/sd15-tiny/tokenizer"

static void encode(const ClipBpe *tok, const char *text, size_t size)
{
    int32_t out[CLIP_BPE_LENGTH], *ids = malloc((size + 1) * sizeof *ids);
    int n = 0, again = 0, room = (int)size;
    FUZZ_REQUIRE(clip_bpe_encode_bytes(tok, text, size, ids, room, &n) == 0);
    /* Every token comes from at least one byte, but U+FFFD (3 bytes) from one and NFC may lengthen threefold. */
    FUZZ_REQUIRE(n <= 9 * (int)size);
    for (int i = 0; i < n && i < room; i++)
        FUZZ_REQUIRE(ids[i] >= 0 && ids[i] < clip_bpe_vocab_size(tok));
    FUZZ_REQUIRE(clip_bpe_encode_bytes(tok, text, size, NULL, 0, &again) == 0 && again == n);
    FUZZ_REQUIRE(clip_bpe_encode_padded_bytes(tok, text, size, CLIP_BPE_LENGTH, out) == 0);
    int kept = n < CLIP_BPE_LENGTH - 2 ? n : CLIP_BPE_LENGTH - 2;
    FUZZ_REQUIRE(out[0] == clip_bpe_bos(tok) && out[kept + 1] == clip_bpe_eos(tok));
    for (int i = 0; i < kept && i < room; i++)
        FUZZ_REQUIRE(out[i + 1] == ids[i]);
    free(ids);
}

/* The input as a tokenizer.json. */
static void open_file(const uint8_t *data, size_t size)
{
    char dir[] = "/tmp/fuzz_tokenizer_XXXXXX", path[64];
    ClipBpe *tok = NULL;
    FUZZ_REQUIRE(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/tokenizer.json", dir);
    FILE *f = fopen(path, "wb");
    FUZZ_REQUIRE(f && fwrite(data, 1, size, f) == size && fclose(f) == 0);
    if (clip_bpe_open(&tok, dir) == 0)
        encode(tok, "a cat, it's <|endoftext|>", 25);
    else
        FUZZ_REQUIRE(strstr(err_message(), dir));
    clip_bpe_close(tok);
    unlink(path);
    rmdir(dir);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static ClipBpe *tok;
    if (!tok && clip_bpe_open(&tok, VOCABULARY) < 0) {
        fprintf(stderr, "%s\n", err_message());
        abort();
    }
    if (size && (data[0] == '{' || data[0] == '['))
        open_file(data, size);
    encode(tok, (const char *)data, size);
    return 0;
}
