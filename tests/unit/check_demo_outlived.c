/* Counting what outlived a restart: nothing counts that could have been pushed after it. */
#include <kveik/kveik.h>
#include <stdbool.h>
#include <string.h>

#include "base/rng.h"
#include "client/cli/demo_outlived.h"
#include "tests/lib/check_main.h"

enum { KEYS = 4000 };

/* Key i; they differ in the bytes that count. */
static void keys_make(uint8_t *keys, uint32_t first, uint32_t count)
{
    (void)memset(keys, 0, (size_t)count * KVEIK_KEY_BYTES);
    for (uint32_t i = 0; i < count; i++) {
        uint32_t number = first + i;
        (void)memcpy(keys + (size_t)i * KVEIK_KEY_BYTES, &number, sizeof number);
    }
}

static void pushed(struct demo_outlived *outlived, uint32_t first, uint32_t count)
{
    static uint8_t keys[KEYS * KVEIK_KEY_BYTES];
    keys_make(keys, first, count);
    demo_outlived_pushed(outlived, keys, count);
}

static void found(struct demo_outlived *outlived, uint32_t first, uint32_t count)
{
    static uint8_t keys[KEYS * KVEIK_KEY_BYTES];
    keys_make(keys, first, count);
    demo_outlived_found(outlived, keys, count);
}

START_TEST(nothing_without_a_restart)
    {
        struct demo_outlived outlived = {0};
        ck_assert_uint_eq(demo_outlived_count(&outlived), 0);
        pushed(&outlived, 0, 10);
        found(&outlived, 0, 10);
        ck_assert_uint_eq(demo_outlived_count(&outlived), 0);
        demo_outlived_finish(&outlived);
    }
END_TEST

START_TEST(counts_what_was_pushed_before)
    {
        struct demo_outlived outlived = {0};
        pushed(&outlived, 0, 3000); /* more than the first room */
        demo_outlived_restart(&outlived);
        found(&outlived, 2990, 30); /* 10 of them */
        found(&outlived, 2995, 1);  /* once more */
        ck_assert_uint_eq(demo_outlived_count(&outlived), 11);
        ck_assert_uint_eq(demo_outlived_count(&outlived), 11);
        demo_outlived_finish(&outlived);
        ck_assert_uint_eq(demo_outlived_count(&outlived), 0);
    }
END_TEST

START_TEST(what_was_found_before_was_there)
    {
        struct demo_outlived outlived = {0};
        found(&outlived, 5, 2); /* of an earlier run's, perhaps */
        demo_outlived_restart(&outlived);
        found(&outlived, 0, 10);
        ck_assert_uint_eq(demo_outlived_count(&outlived), 2);
        demo_outlived_finish(&outlived);
    }
END_TEST

START_TEST(what_was_pushed_anew_does_not_count)
    {
        struct demo_outlived outlived = {0};
        pushed(&outlived, 0, 10);
        demo_outlived_restart(&outlived);
        found(&outlived, 0, 10);
        pushed(&outlived, 4, 3); /* behind the finding: it may have been told late */
        ck_assert_uint_eq(demo_outlived_count(&outlived), 7);
        demo_outlived_finish(&outlived);
    }
END_TEST

/* Random runs; what is counted must be what a plain model counts. */
static void compare_with_model(uint64_t seed)
{
    enum { NUMBERS = 200, STEPS = 60 };
    bool before[NUMBERS] = {false};
    bool again[NUMBERS] = {false};
    uint32_t times[NUMBERS] = {0};
    struct demo_outlived outlived = {0};
    struct rng rng = {.state = seed};
    for (uint32_t step = 0; step < STEPS; step++) {
        bool restarted = step >= STEPS / 2;
        if (step == STEPS / 2) {
            demo_outlived_restart(&outlived);
        }
        uint32_t first = (uint32_t)rng_below(&rng, NUMBERS - 20);
        uint32_t count = (uint32_t)rng_below(&rng, 20);
        bool push = rng_below(&rng, 3) == 0;
        (push ? pushed : found)(&outlived, first, count);
        for (uint32_t i = first; i < first + count; i++) {
            before[i] = before[i] || !restarted;
            again[i] = again[i] || (restarted && push);
            times[i] += restarted && !push ? 1 : 0;
        }
    }
    uint64_t expected = 0;
    for (uint32_t i = 0; i < NUMBERS; i++) {
        expected += before[i] && !again[i] ? times[i] : 0;
    }
    ck_assert_uint_eq(demo_outlived_count(&outlived), expected);
    demo_outlived_finish(&outlived);
}

START_TEST(as_a_model_counts)
    {
        for (uint64_t seed = 1; seed <= 200; seed++) {
            compare_with_model(seed);
        }
    }
END_TEST

START_TEST(gives_up_rather_than_guess)
    {
        struct demo_outlived outlived = {0};
        pushed(&outlived, 0, 10);
        demo_outlived_restart(&outlived);
        found(&outlived, 0, 10);
        for (uint32_t i = 0; !outlived.again.incomplete; i++) {
            pushed(&outlived, 1000, KEYS);
            ck_assert_uint_lt(i, 1u << 20);
        }
        ck_assert_uint_eq(demo_outlived_count(&outlived), 0);
        demo_outlived_finish(&outlived);
    }
END_TEST

int main(void)
{
    const TTest *const tests[] = {nothing_without_a_restart,
                                  counts_what_was_pushed_before,
                                  what_was_found_before_was_there,
                                  what_was_pushed_anew_does_not_count,
                                  as_a_model_counts,
                                  gives_up_rather_than_guess};
    return check_main("demo_outlived", tests, ARRAY_COUNT(tests));
}
