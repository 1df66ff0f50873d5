#include <string.h>

#include <check.h>

#include "base/status.h"
#include "tests/lib/check_main.h"

struct row {
    const char *name;
    const char *text;
    int number;
};

static const struct row rows[] = {
#define X(status_name_, status_number, status_text_)                                               \
    {.name = #status_name_, .text = (status_text_), .number = (status_number)},
    STATUS_TABLE(X)
#undef X
};

START_TEST(every_code_has_its_words)
    {
        for (size_t i = 0; i < ARRAY_COUNT(rows); i++) {
            ck_assert_str_eq(status_name(rows[i].number), rows[i].name);
            ck_assert_str_eq(status_text(rows[i].number), rows[i].text);
            ck_assert_uint_gt(strlen(rows[i].text), 0);
        }
    }
END_TEST

START_TEST(numbers_are_used_once_and_without_gaps)
    {
        int lowest = 0;
        int highest = 0;
        for (size_t i = 0; i < ARRAY_COUNT(rows); i++) {
            lowest = rows[i].number < lowest ? rows[i].number : lowest;
            highest = rows[i].number > highest ? rows[i].number : highest;
            for (size_t j = 0; j < i; j++) {
                ck_assert_int_ne(rows[i].number, rows[j].number);
            }
        }
        ck_assert_int_eq(highest - lowest + 1, (int)ARRAY_COUNT(rows));
    }
END_TEST

/* The numbers travel on the wire: these pins break when one is changed by mistake. */
START_TEST(numbers_stay)
    {
        ck_assert_int_eq(ST_OK, 0);
        ck_assert_int_eq(ST_MISS, 1);
        ck_assert_int_eq(ST_PENDING, 3);
        ck_assert_int_eq(ST_INVALID, -1);
        ck_assert_int_eq(ST_NO_MEMORY, -2);
        ck_assert_int_eq(ST_DEADLINE, -8);
        ck_assert_int_eq(ST_UNKNOWN_ID, -10);
        ck_assert_int_eq(ST_LIMIT, -17);
        ck_assert_int_eq(ST_MISMATCH, -20);
        ck_assert_int_eq(ST_INTERNAL, -23);
    }
END_TEST

START_TEST(strangers_are_named_as_such)
    {
        ck_assert_str_eq(status_name(12345), "UNKNOWN");
        ck_assert_str_eq(status_text(-12345), "unknown status");
    }
END_TEST

int main(void)
{
    const TTest *const tests[] = {every_code_has_its_words, numbers_are_used_once_and_without_gaps,
                                  numbers_stay, strangers_are_named_as_such};
    return check_main("status", tests, ARRAY_COUNT(tests));
}
