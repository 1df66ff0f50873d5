#include <pthread.h>

#include <check.h>

#include "base/fault.h"
#include "tests/lib/check_main.h"

enum { THREADS = 4, PASSES = 1000 };

START_TEST(fires_after_the_countdown)
    {
        ck_assert(!fault_fires(FAULT_OPEN));
        fault_set(FAULT_OPEN, 2, 3);
        for (int i = 0; i < 10; i++) {
            ck_assert_int_eq(fault_fires(FAULT_OPEN), i >= 2 && i < 5);
        }
        ck_assert_int_eq(fault_fired(FAULT_OPEN), 3);
        fault_clear();
    }
END_TEST

START_TEST(points_are_apart)
    {
        fault_set(FAULT_SEND, 0, 1);
        fault_set(FAULT_RECEIVE, 1, 1);
        ck_assert(!fault_fires(FAULT_HEAP));
        ck_assert(!fault_fires(FAULT_RECEIVE));
        ck_assert(fault_fires(FAULT_SEND));
        ck_assert(fault_fires(FAULT_RECEIVE));
        ck_assert_int_eq(fault_fired(FAULT_HEAP), 0);
        fault_clear();
    }
END_TEST

START_TEST(clear_disarms)
    {
        fault_set(FAULT_MMAP, 0, 100);
        ck_assert(fault_fires(FAULT_MMAP));
        fault_clear();
        ck_assert(!fault_fires(FAULT_MMAP));
        ck_assert_int_eq(fault_fired(FAULT_MMAP), 0);
    }
END_TEST

static void *pass_many(void *arg)
{
    int *fired = arg;
    for (int i = 0; i < PASSES; i++) {
        *fired += fault_fires(FAULT_COPY);
    }
    return NULL;
}

START_TEST(threads_share_the_countdown)
    {
        pthread_t threads[THREADS];
        int fired[THREADS] = {0};
        fault_set(FAULT_COPY, PASSES, INT64_MAX);
        for (int i = 0; i < THREADS; i++) {
            ck_assert_int_eq(pthread_create(&threads[i], NULL, pass_many, &fired[i]), 0);
        }
        int sum = 0;
        for (int i = 0; i < THREADS; i++) {
            ck_assert_int_eq(pthread_join(threads[i], NULL), 0);
            sum += fired[i];
        }
        ck_assert_int_eq(sum, (THREADS - 1) * PASSES);
        ck_assert_int_eq(fault_fired(FAULT_COPY), sum);
        fault_clear();
    }
END_TEST

int main(void)
{
    const TTest *const tests[] = {fires_after_the_countdown, points_are_apart, clear_disarms,
                                  threads_share_the_countdown};
    return check_main("fault", tests, ARRAY_COUNT(tests));
}
