#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "base/assert.h"
#include "base/options_internal.h"
#include "base/size.h"

static const char *const yes_words[] = {"yes", "true", "on", "1", NULL};
static const char *const no_words[] = {"no", "false", "off", "0", NULL};

static int find_word(const char *const *words, const char *text)
{
    for (int i = 0; words[i] != NULL; i++) {
        if (strcasecmp(words[i], text) == 0) {
            return i;
        }
    }
    return -1;
}

size_t option_value_bytes(enum option_kind kind)
{
    switch (kind) {
    case OPTION_BOOL:
        return sizeof(bool);
    case OPTION_U32:
    case OPTION_CHOICE:
        return sizeof(uint32_t);
    case OPTION_U64:
    case OPTION_SIZE:
    case OPTION_DURATION_MS:
        return sizeof(uint64_t);
    case OPTION_STRING:
    case OPTION_PATH:
        return sizeof(const char *);
    }
    KVEIK_UNREACHABLE("an option kind outside the enum");
}

static uint64_t number_max(const struct option_spec *spec)
{
    if (spec->max != 0) {
        return spec->max;
    }
    return spec->kind == OPTION_U32 ? UINT32_MAX : UINT64_MAX;
}

static size_t text_max(const struct option_spec *spec)
{
    return spec->max != 0 ? (size_t)spec->max : OPTION_TEXT_BYTES_MAX;
}

static void format_number(const struct option_spec *spec, uint64_t number,
                          char out[SIZE_TEXT_BYTES])
{
    if (spec->kind == OPTION_SIZE) {
        size_format(number, out);
    } else if (spec->kind == OPTION_DURATION_MS) {
        duration_format(number, out);
    } else {
        (void)snprintf(out, SIZE_TEXT_BYTES, "%" PRIu64, number);
    }
}

static void join_words(const char *const *words, char *out, size_t out_bytes)
{
    size_t used = (size_t)snprintf(out, out_bytes, "one of");
    for (int i = 0; words[i] != NULL && used < out_bytes; i++) {
        used +=
            (size_t)snprintf(out + used, out_bytes - used, "%s %s", i == 0 ? "" : ",", words[i]);
    }
}

void option_value_limits(const struct option_spec *spec, char out[OPTION_LIMITS_BYTES])
{
    char min[SIZE_TEXT_BYTES];
    char max[SIZE_TEXT_BYTES];
    out[0] = '\0';
    switch (spec->kind) {
    case OPTION_CHOICE:
        join_words(spec->choices, out, OPTION_LIMITS_BYTES);
        break;
    case OPTION_U32:
    case OPTION_U64:
    case OPTION_SIZE:
    case OPTION_DURATION_MS:
        format_number(spec, spec->min, min);
        format_number(spec, number_max(spec), max);
        if (spec->max != 0) {
            (void)snprintf(out, OPTION_LIMITS_BYTES, "%s to %s", min, max);
        } else if (spec->min != 0) {
            (void)snprintf(out, OPTION_LIMITS_BYTES, "at least %s", min);
        }
        break;
    case OPTION_BOOL:
    case OPTION_STRING:
    case OPTION_PATH:
        break;
    }
}

static int parse_number(const struct option_spec *spec, const char *text, uint64_t *number_out,
                        struct error *error)
{
    uint64_t number = 0;
    int status = ST_OK;
    if (spec->kind == OPTION_SIZE) {
        status = size_parse(text, &number, error);
    } else if (spec->kind == OPTION_DURATION_MS) {
        status = duration_parse(text, &number, error);
    } else {
        status = number_parse(text, &number, error);
    }
    if (status != ST_OK) {
        return status;
    }
    uint64_t max = number_max(spec);
    if (number < spec->min || number > max) {
        char is[SIZE_TEXT_BYTES];
        char limit[SIZE_TEXT_BYTES];
        bool small = number < spec->min;
        format_number(spec, number, is);
        format_number(spec, small ? spec->min : max, limit);
        return error_set(error, ST_LIMIT, "%s is too %s: write at %s %s", is,
                         small ? "small" : "large", small ? "least" : "most", limit);
    }
    *number_out = number;
    return ST_OK;
}

static int parse_choice(const struct option_spec *spec, const char *text, uint64_t *number_out,
                        struct error *error)
{
    int found = find_word(spec->choices, text);
    if (found < 0) {
        char shown[OPTION_SHOWN_BYTES];
        char limits[OPTION_LIMITS_BYTES];
        option_show(text, shown);
        option_value_limits(spec, limits);
        return error_set(error, ST_INVALID, "%s is not known here: write %s", shown, limits);
    }
    *number_out = (uint64_t)found;
    return ST_OK;
}

static int parse_bool(const char *text, uint64_t *number_out, struct error *error)
{
    bool yes = find_word(yes_words, text) >= 0;
    if (!yes && find_word(no_words, text) < 0) {
        char shown[OPTION_SHOWN_BYTES];
        option_show(text, shown);
        return error_set(error, ST_INVALID, "%s is neither yes nor no: write yes or no", shown);
    }
    *number_out = yes ? 1 : 0;
    return ST_OK;
}

static int parse_text(const struct option_spec *spec, const char *text, struct error *error)
{
    size_t bytes = strlen(text);
    if (bytes > text_max(spec)) {
        return error_set(error, ST_LIMIT, "%zu bytes are too long: write at most %zu", bytes,
                         text_max(spec));
    }
    if (bytes < spec->min) {
        return error_set(error, ST_LIMIT, "%zu bytes are too short: write at least %" PRIu64, bytes,
                         spec->min);
    }
    return ST_OK;
}

int option_value_parse(const struct option_spec *spec, const char *text,
                       struct option_value *value_out, struct error *error)
{
    KVEIK_ASSERT(spec != NULL && text != NULL && value_out != NULL);
    struct option_value value = {.text = text};
    int status = ST_OK;
    switch (spec->kind) {
    case OPTION_BOOL:
        status = parse_bool(text, &value.number, error);
        break;
    case OPTION_CHOICE:
        status = parse_choice(spec, text, &value.number, error);
        break;
    case OPTION_U32:
    case OPTION_U64:
    case OPTION_SIZE:
    case OPTION_DURATION_MS:
        status = parse_number(spec, text, &value.number, error);
        break;
    case OPTION_STRING:
    case OPTION_PATH:
        status = parse_text(spec, text, error);
        break;
    }
    if (status == ST_OK) {
        *value_out = value;
    }
    return status;
}

void option_value_store(const struct option_spec *spec, const struct option_value *value,
                        void *settings)
{
    char *field = (char *)settings + spec->offset;
    bool truth = value->number != 0;
    uint32_t narrow = (uint32_t)value->number;
    switch (spec->kind) {
    case OPTION_BOOL:
        (void)memcpy(field, &truth, sizeof truth);
        break;
    case OPTION_U32:
    case OPTION_CHOICE:
        KVEIK_ASSERT(value->number <= UINT32_MAX);
        (void)memcpy(field, &narrow, sizeof narrow);
        break;
    case OPTION_U64:
    case OPTION_SIZE:
    case OPTION_DURATION_MS:
        (void)memcpy(field, &value->number, sizeof value->number);
        break;
    case OPTION_STRING:
    case OPTION_PATH:
        (void)memcpy(field, &value->text, sizeof value->text);
        break;
    }
}
