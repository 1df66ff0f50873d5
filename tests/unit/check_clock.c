#include <time.h>

#include <check.h>

#include "base/clock.h"
#include "tests/lib/check_main.h"

enum { READINGS = 100000 };

START_TEST(never_runs_backwards)
    {
        uint64_t last = clock_ns();
        for (int i = 0; i < READINGS; i++) {
            uint64_t now = clock_ns();
            ck_assert_uint_ge(now, last);
            last = now;
        }
    }
END_TEST

START_TEST(counts_nanoseconds)
    {
        const struct timespec pause = {.tv_nsec = 20 * 1000000};
        uint64_t before_ns = clock_ns();
        uint64_t before_ms = clock_ms();
        ck_assert_int_eq(nanosleep(&pause, NULL), 0);
        ck_assert_uint_ge(clock_ns() - before_ns, 20 * 1000000);
        ck_assert_uint_ge(clock_ms() - before_ms, 19);
        ck_assert_uint_lt(clock_ms() - before_ms, 60 * 1000); /* not micro-, not seconds */
    }
END_TEST

int main(void)
{
    const TTest *const tests[] = {never_runs_backwards, counts_nanoseconds};
    return check_main("clock", tests, ARRAY_COUNT(tests));
}
