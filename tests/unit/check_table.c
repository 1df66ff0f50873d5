#include <stdio.h>
#include <time.h>

#include "base/fault.h"
#include "base/rng.h"
#include "base/status.h"
#include "daemon/core/table.h"
#include "tests/lib/unit.h"

enum { MILLION = 1000000 };

static uint32_t hash_of(uint32_t key)
{
    struct rng rng = {key};
    return (uint32_t)rng_next(&rng);
}

static uint32_t times_found(const struct table *table, uint32_t hash, uint32_t key)
{
    uint32_t count = 0;
    for (const struct bucket *b = table_bucket(table, hash); b != NULL;
         b = table_overflow(table, b)) {
        for (uint32_t i = 0; i < b->count; i++) {
            count += b->entries[i].hash == hash && b->entries[i].key == key ? 1 : 0;
        }
    }
    return count;
}

static uint64_t now_ns(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

START_TEST(grows_to_a_million_and_empties)
    {
        struct table table;
        ck_assert_int_eq(table_init(&table, MILLION), ST_OK);
        uint64_t worst = 0;
        for (uint32_t i = 0; i < MILLION; i++) {
            uint64_t begin = now_ns();
            ck_assert_int_eq(table_insert(&table, hash_of(i), i), ST_OK);
            uint64_t took = now_ns() - begin;
            worst = took > worst ? took : worst;
        }
        (void)printf("worst insert: %llu us\n", (unsigned long long)worst / 1000);
        ck_assert_uint_eq(table.entries, MILLION);
        uint64_t primaries = ((uint64_t)1 << table.level) + table.split;
        ck_assert_uint_le(primaries, MILLION / 4);
        ck_assert_uint_ge(primaries, MILLION / 6);
        for (uint32_t i = 0; i < MILLION; i += 3) {
            ck_assert_uint_eq(times_found(&table, hash_of(i), i), 1);
        }
        for (uint32_t i = 0; i < MILLION; i++) {
            table_remove(&table, hash_of(i), i);
        }
        ck_assert_uint_eq(table.entries, 0);
        ck_assert_uint_eq(table.overflow.used, 0);
        table_finish(&table);
    }
END_TEST

/* Many entries of one hash once kept their bucket from being split, and so the table from growing.
 */
START_TEST(duplicates_are_bounded_and_do_not_stop_growth)
    {
        struct table table;
        ck_assert_int_eq(table_init(&table, MILLION), ST_OK);
        uint32_t many = 0;
        while (table_insert(&table, 5, many) == ST_OK) {
            many++;
        }
        ck_assert_uint_ge(many, TABLE_SAME_MAX);
        ck_assert_uint_le(many, TABLE_SAME_MAX + BUCKET_ENTRIES);
        ck_assert_int_eq(table_insert(&table, 5, many), ST_LIMIT);
        for (uint32_t i = 0; i < 100000; i++) {
            ck_assert_int_eq(table_insert(&table, hash_of(i), i), ST_OK);
        }
        ck_assert_uint_ge(((uint64_t)1 << table.level) + table.split, 100000 / 6);
        for (uint32_t i = 0; i < many; i++) {
            ck_assert_uint_eq(times_found(&table, 5, i), 1);
            table_remove(&table, 5, i);
        }
        for (uint32_t i = 0; i < 100000; i++) {
            ck_assert_uint_eq(times_found(&table, hash_of(i), i), 1);
            table_remove(&table, hash_of(i), i);
        }
        ck_assert_uint_eq(table.overflow.used, 0);
        table_finish(&table);
    }
END_TEST

START_TEST(random_histories)
    {
        enum { KEYS = 3000 };
        static bool in[KEYS];
        struct table table;
        struct rng rng = {11};
        ck_assert_int_eq(table_init(&table, KEYS), ST_OK);
        for (uint32_t i = 0; i < 300000; i++) {
            uint32_t key = (uint32_t)rng_below(&rng, KEYS);
            uint32_t hash = hash_of(key / 4); /* four of each */
            ck_assert_uint_eq(times_found(&table, hash, key), in[key] ? 1 : 0);
            if (in[key]) {
                table_remove(&table, hash, key);
            } else {
                ck_assert_int_eq(table_insert(&table, hash, key), ST_OK);
            }
            in[key] = !in[key];
        }
        table_finish(&table);
    }
END_TEST

START_TEST(survives_shortage)
    {
        struct table table;
        for (int n = 0; n < 3; n++) {
            fault_set(FAULT_MMAP, n, 1);
            ck_assert_int_eq(table_init(&table, 1000), ST_NO_MEMORY);
            fault_clear();
            table_finish(&table);
        }
        ck_assert_int_eq(table_init(&table, MILLION), ST_OK);
        fault_set(FAULT_MMAP, 0, INT64_MAX);
        uint32_t stored = 0;
        while (stored < MILLION && table_insert(&table, hash_of(stored), stored) == ST_OK) {
            stored++;
        }
        ck_assert_uint_lt(stored, MILLION); /* neither buckets nor overflow can be had */
        fault_clear();
        for (uint32_t i = 0; i < stored; i++) {
            ck_assert_uint_eq(times_found(&table, hash_of(i), i), 1);
        }
        ck_assert_int_eq(table_insert(&table, hash_of(stored), stored), ST_OK);
        table_finish(&table);
    }
END_TEST

UNIT_MAIN("table", grows_to_a_million_and_empties, duplicates_are_bounded_and_do_not_stop_growth,
          random_histories, survives_shortage)
