#include "storage/disk/health.h"
#include "tests/lib/check_main.h"

START_TEST(a_few_failures_in_a_row_are_too_many)
    {
        struct health health = {0};
        ck_assert(health_up(&health, 0));
        health_bad(&health, 10);
        health_bad(&health, 11);
        ck_assert(health_up(&health, 11));
        health_good(&health);
        health_bad(&health, 12);
        health_bad(&health, 13);
        ck_assert(health_up(&health, 13));
        health_bad(&health, 14);
        ck_assert(!health_up(&health, 14));
        ck_assert(!health_up(&health, 1013));
        ck_assert(health_up(&health, 1014));
    }
END_TEST

START_TEST(it_is_asked_later_and_later)
    {
        struct health health = {0};
        uint64_t now = 0;
        uint64_t waits[] = {1000, 2000, 4000, 8000, 15000, 15000, 15000, 15000};
        health_down(&health, now);
        for (size_t i = 0; i < ARRAY_COUNT(waits); i++) {
            ck_assert(!health_up(&health, now + waits[i] - 1));
            health_bad(&health, now + 1); /* in flight since before: not counted twice */
            now += waits[i];
            ck_assert(health_up(&health, now));
            health_bad(&health, now);
        }
        health_good(&health);
        ck_assert(health_up(&health, now));
        health_down(&health, now);
        ck_assert(health_up(&health, now + 1000));
    }
END_TEST

int main(void)
{
    const TTest *const tests[] = {a_few_failures_in_a_row_are_too_many,
                                  it_is_asked_later_and_later};
    return check_main("health", tests, ARRAY_COUNT(tests));
}
