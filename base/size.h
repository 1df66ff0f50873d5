/*
 * Numbers, byte sizes and durations as people write them. The parsers accept nothing else than a
 * whole number and a unit, never overflow, and say in `error` (may be NULL) what would be right.
 */
#ifndef KVEIK_BASE_SIZE_H
#define KVEIK_BASE_SIZE_H

#include <stdint.h>

#include "base/error.h"

enum { SIZE_TEXT_BYTES = 32 };

/* Decimal digits only. ST_OK, ST_INVALID or ST_LIMIT (beyond 64 bits); so for all three. */
int number_parse(const char *text, uint64_t *number_out, struct error *error);

/* The number that `text` begins with, in base 10 or 16, for files of the kernel's; the first
 * character behind it, or NULL when there is none or it is beyond 64 bits. */
const char *number_prefix(const char *text, uint32_t base, uint64_t *number_out);

/* Plain bytes or with a unit, in any case: k, M, G, T, P and KiB, MiB, ... count by 1024,
 * kB, MB, ... by 1000. */
int size_parse(const char *text, uint64_t *bytes_out, struct error *error);

/* A unit is needed, except for 0: ms, s, min, h, d. */
int duration_parse(const char *text, uint64_t *ms_out, struct error *error);

/* Exact, in the largest unit that divides: "8GiB", "1000"; size_parse() reads it back. */
void size_format(uint64_t bytes, char text_out[SIZE_TEXT_BYTES]);

/* Rounded down, for tables, at most four digits: "7.9GiB", "312MiB". */
void size_format_short(uint64_t bytes, char text_out[SIZE_TEXT_BYTES]);

/* Exact, in the largest unit that divides: "2s", "250ms"; duration_parse() reads it back. */
void duration_format(uint64_t ms, char text_out[SIZE_TEXT_BYTES]);

#endif
