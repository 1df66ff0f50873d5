#include <string.h>

#include "base/fault.h"
#include "base/rng.h"
#include "base/status.h"
#include "daemon/core/keys.h"
#include "tests/lib/unit.h"

static uint8_t bytes[BLOCK_KEYS_MAX * KEY_BYTES];

START_TEST(keeps_keys_and_owners)
    {
        struct keys keys;
        ck_assert_int_eq(keys_init(&keys, 1024), ST_OK);
        for (uint32_t i = 0; i < sizeof bytes; i++) {
            bytes[i] = (uint8_t)(i * 7);
        }
        uint32_t first = keys_take(&keys, bytes, 5, 42);
        ck_assert_uint_eq(first % 8, 0);
        ck_assert_mem_eq(keys_at(&keys, first), bytes, 5 * KEY_BYTES);
        ck_assert_uint_eq(keys_owner(&keys, first + 4), 42);
        ck_assert_uint_eq(keys.used, 5);
        ck_assert_uint_eq(keys.taken, 8);
        keys_give(&keys, first, 5);
        ck_assert_uint_eq(keys.taken, 0);
        keys_finish(&keys);
    }
END_TEST

/* Before runs were joined, keys freed in one size could not be had in another. */
START_TEST(other_sizes_get_the_place_of_those_that_went)
    {
        struct keys keys;
        ck_assert_int_eq(keys_init(&keys, 1024), ST_OK);
        uint32_t singles[1024];
        for (uint32_t i = 0; i < 1024; i++) {
            singles[i] = keys_take(&keys, bytes, 1, i);
            ck_assert_uint_ne(singles[i], NONE);
        }
        ck_assert(!keys_room(&keys, 1));
        ck_assert_uint_eq(keys_take(&keys, bytes, 1, 0), NONE);
        for (uint32_t i = 0; i < 1024; i++) {
            keys_give(&keys, singles[(i * 389) % 1024], 1);
        }
        for (uint32_t i = 0; i < 4; i++) {
            ck_assert(keys_room(&keys, 256));
            ck_assert_uint_ne(keys_take(&keys, bytes, 256, i), NONE);
        }
        ck_assert(!keys_room(&keys, 1));
        keys_finish(&keys);
    }
END_TEST

START_TEST(random_sizes_never_overlap)
    {
        enum { RUNS = 64, KEYS = 8192 };
        static uint32_t owner[KEYS];
        struct keys keys;
        struct rng rng = {3};
        uint32_t first[RUNS];
        uint32_t count[RUNS] = {0};
        ck_assert_int_eq(keys_init(&keys, KEYS), ST_OK);
        for (uint32_t i = 0; i < 100000; i++) {
            uint32_t r = (uint32_t)rng_below(&rng, RUNS);
            if (count[r] != 0) {
                for (uint32_t k = 0; k < count[r]; k++) {
                    ck_assert_uint_eq(owner[first[r] + k], r + 1);
                    ck_assert_uint_eq(keys_owner(&keys, first[r] + k), r);
                    owner[first[r] + k] = 0;
                }
                keys_give(&keys, first[r], count[r]);
                count[r] = 0;
                continue;
            }
            uint32_t wanted = 1 + (uint32_t)rng_below(&rng, i % 2 == 0 ? 4 : BLOCK_KEYS_MAX);
            bool room = keys_room(&keys, wanted);
            first[r] = keys_take(&keys, bytes, wanted, r);
            ck_assert(room == (first[r] != NONE));
            count[r] = first[r] == NONE ? 0 : wanted;
            for (uint32_t k = 0; k < count[r]; k++) {
                ck_assert_uint_eq(owner[first[r] + k], 0);
                owner[first[r] + k] = r + 1;
            }
        }
        keys_finish(&keys);
    }
END_TEST

START_TEST(survives_shortage)
    {
        struct keys keys;
        for (int n = 0; n < 2; n++) {
            fault_set(FAULT_MMAP, n, 1);
            ck_assert_int_eq(keys_init(&keys, 1024), ST_NO_MEMORY);
            fault_clear();
            keys_finish(&keys);
        }
        ck_assert_int_eq(keys_init(&keys, 0), ST_INVALID);
        ck_assert_int_eq(keys_init(&keys, 1024), ST_OK);
        for (int n = 0; n < 2; n++) {
            fault_set(FAULT_MMAP, n, 1);
            ck_assert_uint_eq(keys_take(&keys, bytes, 3, 0), NONE);
            fault_clear();
        }
        ck_assert_uint_eq(keys_take(&keys, bytes, 3, 0), 0);
        keys_finish(&keys);
    }
END_TEST

UNIT_MAIN("keys", keeps_keys_and_owners, other_sizes_get_the_place_of_those_that_went,
          random_sizes_never_overlap, survives_shortage)
