#include <string.h>

#include <check.h>

#include "tests/lib/check_main.h"
#include "tests/lib/options_fixture.h"

START_TEST(finds_by_the_exact_name)
    {
        ck_assert_int_eq(option_find(&brewery_table, "cpu-bytes"), AT_CPU);
        ck_assert_int_eq(option_find(&brewery_table, "cpu-byte"), -1);
        ck_assert_int_eq(option_find(&brewery_table, ""), -1);
    }
END_TEST

START_TEST(suggests_what_was_meant)
    {
        ck_assert_str_eq(option_nearest(&brewery_table, "cpu-byte"), "cpu-bytes");
        ck_assert_str_eq(option_nearest(&brewery_table, "cpu_bytes"), "cpu-bytes");
        ck_assert_str_eq(option_nearest(&brewery_table, "CPU-BYTES"), "cpu-bytes");
        ck_assert_str_eq(option_nearest(&brewery_table, "thread"), "threads");
        ck_assert_str_eq(option_nearest(&brewery_table, "timoeut"), "timeout");
        ck_assert_str_eq(option_nearest(&brewery_table, "loglevel"), "log-level");
        ck_assert_ptr_null(option_nearest(&brewery_table, "frobnicate-the-wort"));
        char endless[5000];
        (void)memset(endless, 'a', sizeof endless - 1);
        endless[sizeof endless - 1] = '\0';
        ck_assert_ptr_null(option_nearest(&brewery_table, endless));
    }
END_TEST

START_TEST(environment_names)
    {
        char name[OPTION_NAME_BYTES];
        option_environment_name(&brewery_table, "cpu-bytes", name);
        ck_assert_str_eq(name, "BREWERY_CPU_BYTES");
    }
END_TEST

START_TEST(shows_foreign_texts)
    {
        char shown[OPTION_SHOWN_BYTES];
        option_show("plain", shown);
        ck_assert_str_eq(shown, "\"plain\"");
        option_show("a\nb", shown);
        ck_assert_str_eq(shown, "\"a\\nb\"");
        char endless[500];
        (void)memset(endless, '\x01', sizeof endless - 1);
        endless[sizeof endless - 1] = '\0';
        option_show(endless, shown);
        ck_assert_uint_lt(strlen(shown), sizeof shown);
        ck_assert_str_eq(shown + strlen(shown) - 4, "...\"");
    }
END_TEST

int main(void)
{
    const TTest *const tests[] = {finds_by_the_exact_name, suggests_what_was_meant,
                                  environment_names, shows_foreign_texts};
    return check_main("options_names", tests, ARRAY_COUNT(tests));
}
