#include "base/size.h"

#include <ctype.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "base/assert.h"
#include "base/escape.h"

enum { QUOTE_BYTES = 64 };

struct unit {
    const char *name;
    uint64_t factor;
};

#define KIB UINT64_C(1024)
#define KB  UINT64_C(1000)

/* The first name of each factor, largest first, is the one that is written. */
static const struct unit size_units[] = {
    {"PiB", KIB *KIB *KIB *KIB *KIB},
    {"TiB", KIB *KIB *KIB *KIB},
    {"GiB", KIB *KIB *KIB},
    {"MiB", KIB *KIB},
    {"KiB", KIB},
    {"P", KIB *KIB *KIB *KIB *KIB},
    {"T", KIB *KIB *KIB *KIB},
    {"G", KIB *KIB *KIB},
    {"M", KIB *KIB},
    {"k", KIB},
    {"PB", KB *KB *KB *KB *KB},
    {"TB", KB *KB *KB *KB},
    {"GB", KB *KB *KB},
    {"MB", KB *KB},
    {"kB", KB},
    {"B", 1},
    {"", 1},
};
enum { SIZE_UNITS_WRITTEN = 5 };

static const struct unit duration_units[] = {
    {"d", UINT64_C(86400000)}, {"h", 3600000}, {"min", 60000}, {"s", 1000}, {"ms", 1},
};

/* A foreign text, made fit to stand in an error. */
struct quote {
    char text[QUOTE_BYTES];
};

static struct quote quote(const char *text)
{
    struct quote quoted;
    bool cut = false;
    size_t used = escape_text(text, strlen(text), quoted.text, sizeof quoted.text - 3, &cut);
    if (cut) {
        (void)memcpy(quoted.text + used, "...", sizeof "...");
    }
    return quoted;
}

/* Reads the digits at the front; *rest_out is what follows them, equal to `text` if none do. */
static bool read_digits(const char *text, uint64_t *number_out, const char **rest_out)
{
    uint64_t number = 0;
    bool fits = true;
    const char *at = text;
    for (; isdigit((unsigned char)*at); at++) {
        fits = fits && !__builtin_mul_overflow(number, UINT64_C(10), &number) &&
               !__builtin_add_overflow(number, (uint64_t)(*at - '0'), &number);
    }
    *rest_out = at;
    *number_out = number;
    return fits;
}

static int refuse_large(const char *text, struct error *error)
{
    return error_set(error, ST_LIMIT, "\"%s\" is too large: at most 64 bits", quote(text).text);
}

int number_parse(const char *text, uint64_t *number_out, struct error *error)
{
    KVEIK_ASSERT(text != NULL && number_out != NULL);
    uint64_t number = 0;
    const char *rest = text;
    bool fits = read_digits(text, &number, &rest);
    if (rest == text || *rest != '\0') {
        return error_set(error, ST_INVALID,
                         "\"%s\" is not a number: write decimal digits, such as 4096",
                         quote(text).text);
    }
    if (!fits) {
        return refuse_large(text, error);
    }
    *number_out = number;
    return ST_OK;
}

static uint32_t digit_of(char c)
{
    if (c >= '0' && c <= '9') {
        return (uint32_t)(c - '0');
    }
    return c >= 'a' && c <= 'f' ? (uint32_t)(c - 'a') + 10 : UINT32_MAX;
}

const char *number_prefix(const char *text, uint32_t base, uint64_t *number_out)
{
    KVEIK_ASSERT(base == 10 || base == 16);
    const char *at = text + strspn(text, " \t");
    const char *first = at;
    uint64_t number = 0;
    for (; digit_of(*at) < base; at++) {
        uint64_t digit = digit_of(*at);
        if (number > (UINT64_MAX - digit) / base) {
            return NULL;
        }
        number = number * base + digit;
    }
    if (at == first) {
        return NULL;
    }
    *number_out = number;
    return at;
}

static const struct unit *find_unit(const struct unit *units, size_t count, const char *name)
{
    for (size_t i = 0; i < count; i++) {
        if (strcasecmp(units[i].name, name) == 0) {
            return &units[i];
        }
    }
    return NULL;
}

int size_parse(const char *text, uint64_t *bytes_out, struct error *error)
{
    KVEIK_ASSERT(text != NULL && bytes_out != NULL);
    uint64_t number = 0;
    const char *rest = text;
    bool fits = read_digits(text, &number, &rest);
    const struct unit *unit = find_unit(size_units, ARRAY_COUNT(size_units), rest);
    if (rest == text || unit == NULL) {
        return error_set(error, ST_INVALID,
                         "\"%s\" is not a size: write a whole number and a unit (k, MiB, GiB, "
                         "...), such as 512MiB or 8GiB",
                         quote(text).text);
    }
    uint64_t bytes = 0;
    if (!fits || __builtin_mul_overflow(number, unit->factor, &bytes)) {
        return refuse_large(text, error);
    }
    *bytes_out = bytes;
    return ST_OK;
}

int duration_parse(const char *text, uint64_t *ms_out, struct error *error)
{
    KVEIK_ASSERT(text != NULL && ms_out != NULL);
    uint64_t number = 0;
    const char *rest = text;
    bool fits = read_digits(text, &number, &rest);
    const struct unit *unit = find_unit(duration_units, ARRAY_COUNT(duration_units), rest);
    bool zero = rest != text && *rest == '\0' && number == 0 && fits;
    if (rest == text || (unit == NULL && !zero)) {
        return error_set(error, ST_INVALID,
                         "\"%s\" is not a duration: write a whole number and one of ms, s, min, "
                         "h, d, such as 250ms or 2s",
                         quote(text).text);
    }
    uint64_t ms = 0;
    if (!zero && (!fits || __builtin_mul_overflow(number, unit->factor, &ms))) {
        return refuse_large(text, error);
    }
    *ms_out = ms;
    return ST_OK;
}

void size_format(uint64_t bytes, char text_out[SIZE_TEXT_BYTES])
{
    for (size_t i = 0; i < SIZE_UNITS_WRITTEN; i++) {
        uint64_t factor = size_units[i].factor;
        if (bytes != 0 && bytes % factor == 0) {
            (void)snprintf(text_out, SIZE_TEXT_BYTES, "%llu%s",
                           (unsigned long long)(bytes / factor), size_units[i].name);
            return;
        }
    }
    (void)snprintf(text_out, SIZE_TEXT_BYTES, "%llu", (unsigned long long)bytes);
}

void size_format_short(uint64_t bytes, char text_out[SIZE_TEXT_BYTES])
{
    size_t i = 0;
    while (i < SIZE_UNITS_WRITTEN && bytes < size_units[i].factor) {
        i++;
    }
    if (i == SIZE_UNITS_WRITTEN) {
        (void)snprintf(text_out, SIZE_TEXT_BYTES, "%lluB", (unsigned long long)bytes);
        return;
    }
    /* tenths by integers: rounding a double could show 1024MiB where 1.0GiB is meant */
    uint64_t factor = size_units[i].factor;
    uint64_t whole = bytes / factor;
    uint64_t tenths = (bytes % factor) / (factor / 1024) * 10 / 1024;
    if (whole >= 10 || tenths == 0) {
        (void)snprintf(text_out, SIZE_TEXT_BYTES, "%llu%s", (unsigned long long)whole,
                       size_units[i].name);
    } else {
        (void)snprintf(text_out, SIZE_TEXT_BYTES, "%llu.%llu%s", (unsigned long long)whole,
                       (unsigned long long)tenths, size_units[i].name);
    }
}

void duration_format(uint64_t ms, char text_out[SIZE_TEXT_BYTES])
{
    for (size_t i = 0; i < ARRAY_COUNT(duration_units); i++) {
        uint64_t factor = duration_units[i].factor;
        if (ms % factor == 0 && (ms != 0 || factor == 1)) {
            (void)snprintf(text_out, SIZE_TEXT_BYTES, "%llu%s", (unsigned long long)(ms / factor),
                           duration_units[i].name);
            return;
        }
    }
}
