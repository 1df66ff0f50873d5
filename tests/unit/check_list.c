#include "base/fault.h"
#include "tests/lib/core_fixture.h"
#include "tests/lib/unit.h"

static struct core_fixture fixture;
static uint32_t visited[1000];
static uint32_t visited_count;

static void visit(struct core *core, uint32_t item)
{
    (void)core;
    visited[visited_count++] = item;
}

START_TEST(visits_from_the_end)
    {
        struct core_limits limits = fixture_limits();
        fixture_open(&fixture, &limits);
        struct list list;
        list_init(&list);
        for (uint32_t i = 0; i < 100; i++) {
            ck_assert_int_eq(list_add(fixture.core, &list, i), ST_OK);
        }
        list_visit(fixture.core, &list, visit);
        ck_assert_uint_eq(visited_count, 100);
        for (uint32_t i = 0; i < 100; i++) {
            ck_assert_uint_eq(visited[i], 99 - i);
        }
        ck_assert_uint_eq(fixture.core->chunks.used, (100 + CHUNK_ITEMS - 1) / CHUNK_ITEMS);
        list_free(fixture.core, &list);
        ck_assert_uint_eq(fixture.core->chunks.used, 0);
        fixture_close(&fixture);
    }
END_TEST

START_TEST(removes_one_at_a_time)
    {
        struct core_limits limits = fixture_limits();
        fixture_open(&fixture, &limits);
        struct list list;
        list_init(&list);
        ck_assert(!list_remove(fixture.core, &list, 1));
        for (uint32_t i = 0; i < 70; i++) {
            ck_assert_int_eq(list_add(fixture.core, &list, i / 2), ST_OK);
        }
        for (uint32_t i = 0; i < 35; i++) {
            ck_assert(list_remove(fixture.core, &list, i));
            ck_assert(list_has(fixture.core, &list, i));
            ck_assert(list_remove(fixture.core, &list, i));
            ck_assert(!list_has(fixture.core, &list, i));
        }
        ck_assert_uint_eq(list.count, 0);
        ck_assert_uint_eq(fixture.core->chunks.used, 0);
        fixture_close(&fixture);
    }
END_TEST

START_TEST(survives_shortage)
    {
        struct core_limits limits = fixture_limits();
        fixture_open(&fixture, &limits);
        struct list list;
        list_init(&list);
        fault_set(FAULT_MMAP, 0, 1);
        ck_assert_int_eq(list_add(fixture.core, &list, 1), ST_NO_MEMORY);
        fault_clear();
        ck_assert_uint_eq(list.count, 0);
        list_free(fixture.core, &list);
        fixture_close(&fixture);
    }
END_TEST

UNIT_MAIN("list", visits_from_the_end, removes_one_at_a_time, survives_shortage)
