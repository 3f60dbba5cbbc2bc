/* A fuzz target is one file with this function (libFuzzer's signature). Link it with libFuzzer, or with standalone.c,
 * which runs the corpus and deterministic mutations of it with any compiler.
 *     gcc -fsanitize=address,undefined fuzz_config.c standalone.c libatelier.a ... && ./fuzz_config -seconds 5 corpus/config */
#ifndef FUZZ_H
#define FUZZ_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* For properties that must hold besides "does not crash". */
#define FUZZ_REQUIRE(x)                                                       \
    do {                                                                      \
        if (!(x)) {                                                           \
            fprintf(stderr, "%s:%d: not true: %s\n", __FILE__, __LINE__, #x); \
            abort();                                                          \
        }                                                                     \
    } while (0)

#endif
