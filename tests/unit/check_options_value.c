#include <string.h>

#include <check.h>

#include "tests/lib/check_main.h"
#include "tests/lib/options_fixture.h"

struct sample {
    enum option_index option;
    const char *text;
    int status;
    uint64_t number;
    const char *says;
};

static const struct sample samples[] = {
    {AT_VERBOSE, "yes", ST_OK, 1, ""},
    {AT_VERBOSE, "TRUE", ST_OK, 1, ""},
    {AT_VERBOSE, "on", ST_OK, 1, ""},
    {AT_VERBOSE, "0", ST_OK, 0, ""},
    {AT_VERBOSE, "off", ST_OK, 0, ""},
    {AT_VERBOSE, "maybe", ST_INVALID, 0, "\"maybe\" is neither yes nor no: write yes or no"},
    {AT_VERBOSE, "", ST_INVALID, 0, "\"\" is neither"},
    {AT_THREADS, "64", ST_OK, 64, ""},
    {AT_THREADS, "0", ST_LIMIT, 0, "0 is too small: write at least 1"},
    {AT_THREADS, "65", ST_LIMIT, 0, "65 is too large: write at most 64"},
    {AT_THREADS, "4294967297", ST_LIMIT, 0, "too large"},
    {AT_THREADS, "four", ST_INVALID, 0, "\"four\" is not a number"},
    {AT_BLOCKS, "18446744073709551615", ST_OK, UINT64_MAX, ""},
    {AT_BLOCKS, "18446744073709551616", ST_LIMIT, 0, "too large"},
    {AT_CPU, "64MiB", ST_OK, UINT64_C(64) << 20, ""},
    {AT_CPU, "63MiB", ST_LIMIT, 0, "63MiB is too small: write at least 64MiB"},
    {AT_CPU, "17TiB", ST_LIMIT, 0, "17TiB is too large: write at most 16TiB"},
    {AT_CPU, "8 GB", ST_INVALID, 0, "such as 512MiB"},
    {AT_TIMEOUT, "0", ST_OK, 0, ""},
    {AT_TIMEOUT, "1h", ST_OK, 3600000, ""},
    {AT_TIMEOUT, "61min", ST_LIMIT, 0, "61min is too large: write at most 1h"},
    {AT_TIMEOUT, "2", ST_INVALID, 0, "such as 250ms"},
    {AT_NAME, "", ST_OK, 0, ""},
    {AT_NAME, "0123456789012345678901234567890123", ST_LIMIT, 0, "write at most 32"},
    {AT_DIR, "", ST_LIMIT, 0, "write at least 1"},
    {AT_LOG, "warn", ST_OK, LOG_LEVEL_WARN, ""},
    {AT_LOG, "DEBUG", ST_OK, LOG_LEVEL_DEBUG, ""},
    {AT_LOG, "loud", ST_INVALID, 0, "write one of error, warn, info, debug"},
    {AT_LOG, "\x1b[2J", ST_INVALID, 0, "\"\\x1b[2J\" is not known here"},
};

START_TEST(takes_and_refuses)
    {
        for (size_t i = 0; i < ARRAY_COUNT(samples); i++) {
            const struct option_spec *spec = &brewery_specs[samples[i].option];
            struct error error = {0};
            struct option_value value = {.number = 77};
            int status = option_value_parse(spec, samples[i].text, &value, &error);
            ck_assert_msg(status == samples[i].status, "%s: %s", samples[i].text, error.text);
            ck_assert_msg(strstr(error.text, samples[i].says) != NULL, "%s", error.text);
            ck_assert_uint_eq(value.number, status == ST_OK ? samples[i].number : 77);
            ck_assert_int_eq(option_value_parse(spec, samples[i].text, &value, NULL), status);
        }
    }
END_TEST

START_TEST(limits_in_words)
    {
        static const char *const limits[ARRAY_COUNT(brewery_specs)] = {
            "",
            "1 to 64",
            "at least 16",
            "64MiB to 16TiB",
            "0ms to 1h",
            "",
            "",
            "one of error, warn, info, debug"};
        for (size_t i = 0; i < ARRAY_COUNT(brewery_specs); i++) {
            char text[OPTION_LIMITS_BYTES];
            option_value_limits(&brewery_specs[i], text);
            ck_assert_str_eq(text, limits[i]);
        }
    }
END_TEST

START_TEST(stores_only_its_own_field)
    {
        for (size_t i = 0; i < ARRAY_COUNT(brewery_specs); i++) {
            const struct option_spec *spec = &brewery_specs[i];
            unsigned char settings[sizeof(struct brewery)];
            (void)memset(settings, 0xee, sizeof settings);
            struct option_value value = {.number = 1, .text = "x"};
            option_value_store(spec, &value, settings);
            size_t end = spec->offset + option_value_bytes(spec->kind);
            for (size_t j = 0; j < sizeof settings; j++) {
                ck_assert(settings[j] == 0xee || (j >= spec->offset && j < end));
            }
            ck_assert_int_ne(settings[spec->offset], 0xee);
        }
    }
END_TEST

int main(void)
{
    const TTest *const tests[] = {takes_and_refuses, limits_in_words, stores_only_its_own_field};
    return check_main("options_value", tests, ARRAY_COUNT(tests));
}
