/* What libFuzzer calls; replay.c calls it with files under compilers that have no libFuzzer. */
#ifndef KVEIK_TESTS_FUZZ_FUZZ_H
#define KVEIK_TESTS_FUZZ_FUZZ_H

#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes); /* NOLINT: libFuzzer's name */

#endif
