#include "base/fault.h"
#include "tests/lib/core_fixture.h"
#include "tests/lib/unit.h"

static struct core_fixture f;
static const struct core_group group = {CORE_EVERY, 0, 2, 2};
static const struct core_ranges whole = {0, 2, 0, 2};
static uint32_t space;

static uint32_t open_shape(uint32_t grains, uint64_t bytes)
{
    struct core_limits limits = fixture_limits();
    fixture_open(&f, &limits);
    (void)fixture_session(&f, 0, "a", 0);
    space = fixture_space(&f, 0, 1, &group, 1);
    return fixture_shape(&f, 0, space, 0, grains, whole, bytes);
}

START_TEST(filling_then_ready_then_gone)
    {
        uint32_t shape = open_shape(4, 2048);
        const struct core_action *copy = fixture_push(&f, 0, shape, 0, 6, 3);
        ck_assert_int_eq(copy->kind, ACTION_COPY);
        ck_assert_uint_eq(copy->copy_count, 2);
        ck_assert_uint_eq(copy->copies[1].tokens, 19);
        ck_assert_uint_eq(fixture_hit(&f, 0, space, 0, 6), 0);
        core_check(f.core);
        (void)fixture_done(&f, 0, f.last_request, ST_OK);
        ck_assert_uint_eq(fixture_hit(&f, 0, space, 0, 5), 5);
        struct core_gauges g = fixture_gauges(&f);
        ck_assert_uint_eq(g.blocks, 2);
        ck_assert_uint_eq(g.keys, 6);
        ck_assert_uint_eq(g.part_bytes, 4096);
        while (lru_oldest(f.core) != NONE) {
            part_drop(f.core, lru_oldest(f.core));
            core_check(f.core);
        }
        g = fixture_gauges(&f);
        ck_assert_uint_eq(g.blocks + g.parts + g.keys + g.slot_bytes, 0);
        fixture_close(&f);
    }
END_TEST

START_TEST(failed_copies_leave_nothing)
    {
        uint32_t shape = open_shape(1, 512);
        ck_assert_uint_eq(fixture_push(&f, 0, shape, 0, 5, 16)->copy_count, 5);
        const struct core_action *reply = fixture_done(&f, 0, f.last_request, ST_MEMORY);
        ck_assert_int_eq(reply->status, ST_MEMORY);
        ck_assert_ptr_nonnull(reply->text);
        struct core_gauges g = fixture_gauges(&f);
        ck_assert_uint_eq(g.blocks + g.parts + g.keys + g.slot_bytes, 0);
        ck_assert_uint_eq(fixture_counters(&f).push_failed, 5);
        fixture_close(&f);
    }
END_TEST

START_TEST(parts_in_use_are_in_no_list)
    {
        uint32_t shape = open_shape(1, 512);
        fixture_store(&f, 0, shape, 0, 3);
        uint32_t part = lru_oldest(f.core);
        part_ref(f.core, part);
        part_ref(f.core, part);
        ck_assert_uint_eq(shape_at(f.core, shape)->idle_parts, 2);
        ck_assert_uint_ne(lru_oldest(f.core), part);
        part_pin(f.core, part, true);
        part_unref(f.core, part);
        part_unref(f.core, part);
        ck_assert_uint_eq(shape_at(f.core, shape)->idle_parts, 2);
        ck_assert_uint_eq(fixture_gauges(&f).pinned_bytes, 512);
        core_check(f.core);
        part_pin(f.core, part, false);
        ck_assert_uint_eq(shape_at(f.core, shape)->lru_new, part);
        part_pin(f.core, part, true);
        part_drop(f.core, part);
        ck_assert_uint_eq(fixture_gauges(&f).pinned_bytes, 0);
        fixture_close(&f);
    }
END_TEST

/* One client that repeats a key cannot make others' chains long. */
START_TEST(repeated_keys_are_refused_in_the_end)
    {
        uint32_t shape = open_shape(64, 512);
        uint8_t keys[64 * CORE_KEY_BYTES] = {0};
        uint32_t refused = 0;
        for (uint32_t i = 0; i < 16; i++) {
            keys[63 * CORE_KEY_BYTES] = (uint8_t)(1 + i); /* the last one tells blocks apart */
            struct core_push_run run = {shape, keys, 64, 1, 64 * GRAIN_TOKENS, NULL};
            struct core_event event = {.kind = EVENT_PUSH,
                                       .u.push = {.space = space, .runs = &run, .run_count = 1}};
            if (fixture_step(&f, &event, ACTION_COPY) != NULL) {
                (void)fixture_done(&f, 0, 0, ST_OK);
            } else {
                refused++;
            }
            core_check(f.core);
        }
        ck_assert_uint_ge(refused, 6);
        ck_assert_uint_eq(fixture_counters(&f).push_refused, refused);
        fixture_close(&f);
    }
END_TEST

UNIT_MAIN("part", filling_then_ready_then_gone, failed_copies_leave_nothing,
          parts_in_use_are_in_no_list, repeated_keys_are_refused_in_the_end)
