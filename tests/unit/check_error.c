#include <errno.h>
#include <string.h>

#include <check.h>

#include "base/error.h"
#include "tests/lib/check_main.h"

START_TEST(sets_and_returns)
    {
        struct error error = {0};
        ck_assert_int_eq(error_set(&error, ST_LIMIT, "%d pages of %s", 3, "tea"), ST_LIMIT);
        ck_assert_int_eq(error.status, ST_LIMIT);
        ck_assert_str_eq(error.text, "3 pages of tea");
    }
END_TEST

START_TEST(wraps_outermost_first)
    {
        struct error error = {0};
        (void)error_set(&error, ST_IO, "disk full");
        ck_assert_int_eq(error_wrap(&error, "segment %d", 7), ST_IO);
        ck_assert_int_eq(error_wrap(&error, "store"), ST_IO);
        ck_assert_str_eq(error.text, "store: segment 7: disk full");
    }
END_TEST

START_TEST(names_the_errno)
    {
        struct error error = {0};
        ck_assert_int_eq(error_errno(&error, ST_IO, ENOENT, "open %s", "x"), ST_IO);
        ck_assert_str_eq(error.text, "open x: No such file or directory");
        ck_assert_int_eq(error_errno(&error, ST_IO, 987654, "open"), ST_IO);
        ck_assert_ptr_nonnull(strstr(error.text, "open: "));
    }
END_TEST

START_TEST(needs_no_object)
    {
        ck_assert_int_eq(error_set(NULL, ST_QUOTA, "x"), ST_QUOTA);
        ck_assert_int_eq(error_errno(NULL, ST_IO, EIO, "x"), ST_IO);
        ck_assert_int_eq(error_wrap(NULL, "x"), ST_INTERNAL);
    }
END_TEST

START_TEST(cuts_what_is_too_long)
    {
        char endless[3 * ERROR_TEXT_BYTES];
        (void)memset(endless, 'a', sizeof endless - 1);
        endless[sizeof endless - 1] = '\0';
        struct error error = {0};
        (void)error_set(&error, ST_IO, "%s", endless);
        ck_assert_uint_eq(strlen(error.text), ERROR_TEXT_BYTES - 1);
        (void)error_wrap(&error, "front");
        ck_assert_uint_eq(strlen(error.text), ERROR_TEXT_BYTES - 1);
        ck_assert_int_eq(strncmp(error.text, "front: aaa", strlen("front: aaa")), 0);
        (void)error_wrap(&error, "%s", endless);
        ck_assert_uint_eq(strlen(error.text), ERROR_TEXT_BYTES - 1);
        (void)error_errno(&error, ST_IO, EIO, "%s", endless);
        ck_assert_uint_eq(strlen(error.text), ERROR_TEXT_BYTES - 1);
    }
END_TEST

int main(void)
{
    const TTest *const tests[] = {sets_and_returns, wraps_outermost_first, names_the_errno,
                                  needs_no_object, cuts_what_is_too_long};
    return check_main("error", tests, ARRAY_COUNT(tests));
}
