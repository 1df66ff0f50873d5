#include <check.h>

#include "base/rng.h"
#include "tests/lib/check_main.h"

enum { DRAWS = 100000, BUCKETS = 10 };

/* The reference sequence of SplitMix64 for seed 1234567. */
START_TEST(known_sequence)
    {
        static const uint64_t expected[] = {
            UINT64_C(6457827717110365317), UINT64_C(3203168211198807973),
            UINT64_C(9817491932198370423), UINT64_C(4593380528125082431),
            UINT64_C(16408922859458223821)};
        struct rng rng = {.state = 1234567};
        for (size_t i = 0; i < ARRAY_COUNT(expected); i++) {
            ck_assert_uint_eq(rng_next(&rng), expected[i]);
        }
    }
END_TEST

START_TEST(stays_below_its_bound)
    {
        struct rng rng = {.state = 1};
        for (int i = 0; i < DRAWS; i++) {
            uint64_t bound = 1 + (rng_next(&rng) >> (i % 64));
            bound = bound == 0 ? UINT64_MAX : bound;
            ck_assert_uint_lt(rng_below(&rng, bound), bound);
        }
        ck_assert_uint_eq(rng_below(&rng, 1), 0);
    }
END_TEST

START_TEST(is_even_enough)
    {
        struct rng rng = {.state = 2};
        uint32_t counts[BUCKETS] = {0};
        for (int i = 0; i < DRAWS; i++) {
            counts[rng_below(&rng, BUCKETS)]++;
        }
        for (int i = 0; i < BUCKETS; i++) {
            /* five standard deviations of a binomial count: about 95 each */
            ck_assert_uint_gt(counts[i], DRAWS / BUCKETS - 475);
            ck_assert_uint_lt(counts[i], DRAWS / BUCKETS + 475);
        }
    }
END_TEST

int main(void)
{
    const TTest *const tests[] = {known_sequence, stays_below_its_bound, is_even_enough};
    return check_main("rng", tests, ARRAY_COUNT(tests));
}
