#include "base/fault.h"
#include "base/heap.h"
#include "base/rng.h"
#include "storage/disk/bounce.h"
#include "storage/disk/io.h"
#include "tests/lib/check_main.h"

enum { BUDGET = 1024 * 1024, STEPS = 20000, HELD_MAX = 64 };

START_TEST(the_budget_holds)
    {
        struct bounce_pool pool;
        struct bounce *held[HELD_MAX] = {0};
        struct rng rng = {.state = 1};
        bounce_pool_init(&pool, BUDGET);
        uint32_t refused = 0;
        for (uint32_t step = 0; step < STEPS; step++) {
            struct bounce **slot = &held[rng_below(&rng, HELD_MAX)];
            if (*slot != NULL) {
                bounce_put(&pool, *slot);
                *slot = NULL;
            } else {
                uint64_t bytes = 1 + rng_below(&rng, 200000);
                *slot = bounce_get(&pool, bytes);
                refused += *slot == NULL;
                ck_assert(*slot == NULL || (*slot)->capacity >= bytes);
                ck_assert(*slot == NULL || (uintptr_t)(*slot)->bytes % DISK_ALIGN == 0);
            }
            /* a kept one may be four times what was asked for */
            ck_assert_uint_le(pool.out_bytes, BUDGET + 4 * 200000);
            ck_assert_uint_le(pool.idle_bytes, BUDGET / 4);
        }
        ck_assert_uint_gt(refused, 100);
        for (uint32_t i = 0; i < HELD_MAX; i++) {
            bounce_put(&pool, held[i]);
        }
        bounce_pool_finish(&pool);
        ck_assert_int_eq(heap_outstanding(), 0);
    }
END_TEST

START_TEST(a_large_one_goes_alone)
    {
        struct bounce_pool pool;
        bounce_pool_init(&pool, BUDGET);
        struct bounce *small = bounce_get(&pool, 1);
        ck_assert_ptr_nonnull(small);
        ck_assert_ptr_null(bounce_get(&pool, 2 * BUDGET));
        bounce_put(&pool, small);
        struct bounce *large = bounce_get(&pool, 2 * BUDGET);
        ck_assert_ptr_nonnull(large);
        ck_assert_ptr_null(bounce_get(&pool, 1));
        bounce_put(&pool, large);
        ck_assert_uint_le(pool.idle_bytes, BUDGET / 4); /* not kept */
        bounce_pool_finish(&pool);
        ck_assert_int_eq(heap_outstanding(), 0);
    }
END_TEST

START_TEST(no_memory_is_told)
    {
        struct bounce_pool pool;
        bounce_pool_init(&pool, BUDGET);
        for (int64_t i = 0; i < 2; i++) {
            fault_set(FAULT_HEAP, i, 1);
            ck_assert_ptr_null(bounce_get(&pool, 1));
            fault_clear();
            ck_assert_uint_eq(pool.out_bytes, 0);
        }
        bounce_put(&pool, NULL);
        bounce_pool_finish(&pool);
        ck_assert_int_eq(heap_outstanding(), 0);
    }
END_TEST

int main(void)
{
    const TTest *const tests[] = {the_budget_holds, a_large_one_goes_alone, no_memory_is_told};
    return check_main("bounce", tests, ARRAY_COUNT(tests));
}
