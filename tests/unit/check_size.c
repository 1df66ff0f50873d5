#include <string.h>

#include <check.h>

#include "base/rng.h"
#include "base/size.h"
#include "tests/lib/check_main.h"

enum { ROUNDS = 20000 };

struct sample {
    const char *text;
    int status;
    uint64_t value;
};

typedef int (*parse_fn)(const char *text, uint64_t *out, struct error *error);

static void check_samples(parse_fn parse, const struct sample *samples, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        struct error error = {0};
        uint64_t value = 77;
        int status = parse(samples[i].text, &value, &error);
        ck_assert_msg(status == samples[i].status, "\"%s\" gave %d", samples[i].text, status);
        ck_assert_msg(value == (status == ST_OK ? samples[i].value : 77), "\"%s\"",
                      samples[i].text);
        ck_assert_int_eq(error.status, status);
        ck_assert_int_eq(error.text[0] == '\0', status == ST_OK);
        ck_assert_int_eq(parse(samples[i].text, &value, NULL), status);
    }
}

START_TEST(numbers)
    {
        const struct sample samples[] = {
            {"0", ST_OK, 0},
            {"007", ST_OK, 7},
            {"18446744073709551615", ST_OK, UINT64_MAX},
            {"18446744073709551616", ST_LIMIT, 0},
            {"99999999999999999999999999", ST_LIMIT, 0},
            {"", ST_INVALID, 0},
            {"-1", ST_INVALID, 0},
            {"+1", ST_INVALID, 0},
            {" 1", ST_INVALID, 0},
            {"1 ", ST_INVALID, 0},
            {"0x10", ST_INVALID, 0},
            {"1e3", ST_INVALID, 0},
        };
        check_samples(number_parse, samples, ARRAY_COUNT(samples));
    }
END_TEST

START_TEST(sizes)
    {
        const struct sample samples[] = {
            {"0", ST_OK, 0},
            {"4096", ST_OK, 4096},
            {"4096B", ST_OK, 4096},
            {"64k", ST_OK, UINT64_C(64) << 10},
            {"64K", ST_OK, UINT64_C(64) << 10},
            {"64kib", ST_OK, UINT64_C(64) << 10},
            {"64kB", ST_OK, 64000},
            {"512MiB", ST_OK, UINT64_C(512) << 20},
            {"8GiB", ST_OK, UINT64_C(8) << 30},
            {"8G", ST_OK, UINT64_C(8) << 30},
            {"8GB", ST_OK, UINT64_C(8000000000)},
            {"3T", ST_OK, UINT64_C(3) << 40},
            {"16383PiB", ST_OK, UINT64_C(16383) << 50},
            {"16384PiB", ST_LIMIT, 0},
            {"18446744073709551616", ST_LIMIT, 0},
            {"18446744073709551616k", ST_LIMIT, 0},
            {"1.5GiB", ST_INVALID, 0},
            {"8 GiB", ST_INVALID, 0},
            {"GiB", ST_INVALID, 0},
            {"-8GiB", ST_INVALID, 0},
            {"8GiBs", ST_INVALID, 0},
            {"8Gi", ST_INVALID, 0},
            {"", ST_INVALID, 0},
        };
        check_samples(size_parse, samples, ARRAY_COUNT(samples));
    }
END_TEST

START_TEST(durations)
    {
        const struct sample samples[] = {
            {"0", ST_OK, 0},
            {"250ms", ST_OK, 250},
            {"2s", ST_OK, 2000},
            {"2S", ST_OK, 2000},
            {"5min", ST_OK, 300000},
            {"3h", ST_OK, 10800000},
            {"1d", ST_OK, 86400000},
            {"18446744073709551615ms", ST_OK, UINT64_MAX},
            {"18446744073709551615s", ST_LIMIT, 0},
            {"18446744073709551616ms", ST_LIMIT, 0},
            {"18446744073709551616", ST_INVALID, 0},
            {"5", ST_INVALID, 0},
            {"5m", ST_INVALID, 0},
            {"s", ST_INVALID, 0},
            {"", ST_INVALID, 0},
            {"-5s", ST_INVALID, 0},
        };
        check_samples(duration_parse, samples, ARRAY_COUNT(samples));
    }
END_TEST

START_TEST(errors_say_what_would_be_right)
    {
        struct error error = {0};
        uint64_t value = 0;
        ck_assert_int_eq(size_parse("1.5GiB", &value, &error), ST_INVALID);
        ck_assert_ptr_nonnull(strstr(error.text, "\"1.5GiB\" is not a size"));
        ck_assert_ptr_nonnull(strstr(error.text, "such as 512MiB"));
        ck_assert_int_eq(duration_parse("5", &value, &error), ST_INVALID);
        ck_assert_ptr_nonnull(strstr(error.text, "such as 250ms"));
    }
END_TEST

START_TEST(hostile_texts_stay_short_and_harmless)
    {
        char text[4096];
        (void)memset(text, '\x1b', sizeof text - 1);
        text[sizeof text - 1] = '\0';
        struct error error = {0};
        uint64_t value = 0;
        ck_assert_int_eq(size_parse(text, &value, &error), ST_INVALID);
        ck_assert_ptr_null(strchr(error.text, '\x1b'));
        ck_assert_ptr_nonnull(strstr(error.text, "...\" is not a size"));
    }
END_TEST

START_TEST(what_is_written_reads_back)
    {
        struct rng rng = {.state = 1};
        char text[SIZE_TEXT_BYTES];
        uint64_t back = 0;
        for (int i = 0; i < ROUNDS; i++) {
            uint64_t value = rng_next(&rng) >> rng_below(&rng, 64) << rng_below(&rng, 64);
            size_format(value, text);
            ck_assert_int_eq(size_parse(text, &back, NULL), ST_OK);
            ck_assert_uint_eq(back, value);
            duration_format(value, text);
            ck_assert_int_eq(duration_parse(text, &back, NULL), ST_OK);
            ck_assert_uint_eq(back, value);
        }
        size_format(UINT64_C(8) << 30, text);
        ck_assert_str_eq(text, "8GiB");
        size_format(1000, text);
        ck_assert_str_eq(text, "1000");
        duration_format(0, text);
        ck_assert_str_eq(text, "0ms");
        duration_format(90000, text);
        ck_assert_str_eq(text, "90s");
    }
END_TEST

START_TEST(short_forms_are_short)
    {
        const struct {
            uint64_t bytes;
            const char *text;
        } samples[] = {
            {0, "0B"},
            {1023, "1023B"},
            {1024, "1KiB"},
            {1536, "1.5KiB"},
            {10 * 1024 + 512, "10KiB"},
            {(UINT64_C(1) << 30) - 1, "1023MiB"},
            {(UINT64_C(79) << 30) / 10, "7.8GiB"},
            {UINT64_MAX, "16383PiB"},
        };
        for (size_t i = 0; i < ARRAY_COUNT(samples); i++) {
            char text[SIZE_TEXT_BYTES];
            size_format_short(samples[i].bytes, text);
            ck_assert_str_eq(text, samples[i].text);
        }
    }
END_TEST

int main(void)
{
    const TTest *const tests[] = {
        numbers,
        sizes,
        durations,
        errors_say_what_would_be_right,
        hostile_texts_stay_short_and_harmless,
        what_is_written_reads_back,
        short_forms_are_short,
    };
    return check_main("size", tests, ARRAY_COUNT(tests));
}
