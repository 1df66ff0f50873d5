#include <string.h>

#include "base/fault.h"
#include "tests/lib/core_fixture.h"
#include "tests/lib/unit.h"

static struct core_fixture f;
static const struct core_group groups[] = {{CORE_EVERY, 0, 2, 2},
                                           {CORE_WINDOW, 40, 1, 2},
                                           {CORE_STATE, 0, 1, 1}};
static uint32_t space;
static uint32_t shapes[3];

/* One space with the groups [from, from + count). */
static void open_groups(uint32_t from, uint32_t count, uint32_t grains)
{
    struct core_limits limits = fixture_limits();
    fixture_open(&f, &limits);
    (void)fixture_session(&f, 0, "a", 0);
    space = fixture_space(&f, 0, 1, groups + from, count);
    for (uint32_t g = 0; g < count; g++) {
        struct core_ranges all = {0, groups[from + g].layer_count, 0, groups[from + g].head_count};
        shapes[g] = fixture_shape(&f, 0, space, g, grains, all, 512);
    }
}

static const struct core_action *ask(const struct core_event *event)
{
    const struct core_action *reply = fixture_step(&f, event, ACTION_REPLY);
    ck_assert_ptr_nonnull(reply);
    return reply;
}

START_TEST(every_needs_all_from_the_beginning)
    {
        open_groups(0, 1, 1);
        fixture_store(&f, 0, shapes[0], 0, 5);
        fixture_store(&f, 0, shapes[0], 6, 4);
        ck_assert_uint_eq(fixture_hit(&f, 0, space, 0, 10), 5);
        ck_assert_uint_eq(fixture_hit(&f, 0, space, 5, 5), 0);
        ck_assert_uint_eq(fixture_hit(&f, 0, space, 6, 4), 4);
        ck_assert_uint_eq(fixture_hit(&f, 0, space, 0, 0), 0);
        fixture_close(&f);
    }
END_TEST

START_TEST(window_needs_the_last_tokens)
    {
        open_groups(1, 1, 1);
        fixture_store(&f, 0, shapes[0], 4, 3);                  /* 4 5 6 */
        ck_assert_uint_eq(fixture_hit(&f, 0, space, 0, 10), 7); /* 40 tokens: 3 keys */
        ck_assert_uint_eq(fixture_hit(&f, 0, space, 0, 6), 0);  /* 3 is missing */
        fixture_store(&f, 0, shapes[0], 0, 2);                  /* 0 1 */
        ck_assert_uint_eq(fixture_hit(&f, 0, space, 0, 6), 2);  /* a short prompt needs no more */
        fixture_close(&f);
    }
END_TEST

/* A partial tail counts for what it holds: the window reaches one block further back. */
START_TEST(window_behind_a_partial_tail)
    {
        open_groups(1, 1, 1);
        (void)fixture_push(&f, 0, shapes[0], 7, 3, 1); /* 7 8 and one token of 9 */
        (void)fixture_done(&f, 0, f.last_request, ST_OK);
        struct core_event event = fixture_lookup(&f, 0, space, 0, 10);
        event.u.lookup.tail_tokens = 1;
        ck_assert_uint_eq(ask(&event)->hit_keys, 0); /* 1 + 16 + 16 of 40 */
        fixture_store(&f, 0, shapes[0], 6, 1);
        event = fixture_lookup(&f, 0, space, 0, 10);
        event.u.lookup.tail_tokens = 1;
        const struct core_action *reply = ask(&event);
        ck_assert_uint_eq(reply->hit_keys, 10);
        ck_assert_uint_eq(reply->hit_tokens, 145);
        fixture_close(&f);
    }
END_TEST

START_TEST(state_needs_the_end_only)
    {
        open_groups(2, 1, 1);
        fixture_store(&f, 0, shapes[0], 3, 1);
        fixture_store(&f, 0, shapes[0], 7, 1);
        ck_assert_uint_eq(fixture_hit(&f, 0, space, 0, 10), 8);
        ck_assert_uint_eq(fixture_hit(&f, 0, space, 0, 7), 4);
        ck_assert_uint_eq(fixture_hit(&f, 0, space, 0, 3), 0);
        fixture_close(&f);
    }
END_TEST

START_TEST(all_rules_at_once_and_step_cuts)
    {
        open_groups(0, 3, 1);
        fixture_store(&f, 0, shapes[0], 0, 12);
        fixture_store(&f, 0, shapes[1], 2, 10); /* windows ending at 5 .. 12 keys */
        fixture_store(&f, 0, shapes[2], 5, 1);  /* states at 6, 8 and 11 keys */
        fixture_store(&f, 0, shapes[2], 7, 1);
        fixture_store(&f, 0, shapes[2], 10, 1);
        ck_assert_uint_eq(fixture_hit(&f, 0, space, 0, 12), 11);
        static const uint32_t hits[][2] = {{0, 11}, {1, 11}, {2, 8}, {3, 6},
                                           {4, 8},  {5, 0},  {8, 8}};
        for (size_t i = 0; i < ARRAY_COUNT(hits); i++) {
            struct core_event event = fixture_lookup(&f, 0, space, 0, 12);
            event.u.lookup.step_grains = hits[i][0];
            event.u.lookup.lease = true;
            const struct core_action *reply = ask(&event);
            ck_assert_uint_eq(reply->hit_keys, hits[i][1]);
            ck_assert_uint_eq(reply->hit_tokens, hits[i][1] * 16);
            /* n parts of `every`, three of the window, one state */
            ck_assert_uint_eq(reply->hit_bytes, hits[i][1] == 0 ? 0 : (hits[i][1] + 4) * 512);
            ck_assert((reply->lease != 0) == (hits[i][1] > 0));
        }
        fixture_close(&f);
    }
END_TEST

START_TEST(steps_that_keys_do_not_divide)
    {
        open_groups(0, 1, 4);
        fixture_store(&f, 0, shapes[0], 0, 40);
        struct core_event event = fixture_lookup(&f, 0, space, 0, 0);
        event.u.lookup.keys = fixture_keys(&f, 3, 10, 4);
        event.u.lookup.key_count = 10;
        event.u.lookup.key_grains = 4;
        event.u.lookup.step_grains = 6; /* least common multiple: 12 grains, 3 keys */
        ck_assert_uint_eq(ask(&event)->hit_keys, 9);
        event.u.lookup.step_grains = 2;
        ck_assert_uint_eq(ask(&event)->hit_keys, 10);
        fixture_close(&f);
    }
END_TEST

/* Several ranks' parts of one large block once counted for every grain of it. */
START_TEST(parts_of_large_blocks_count_once)
    {
        open_groups(0, 1, 8);
        for (uint32_t h = 0; h < 2; h++) {
            struct core_ranges half = {0, 2, h, 1};
            fixture_store(&f, 0, fixture_shape(&f, 0, space, 0, 8, half, 512), 0, 16);
        }
        struct core_event event = fixture_lookup(&f, 0, space, 0, 16);
        event.u.lookup.lease = true;
        event.u.lookup.origins = true;
        const struct core_action *reply = ask(&event);
        ck_assert_uint_eq(reply->hit_keys, 16);
        ck_assert_uint_eq(reply->hit_bytes, 4 * 512);
        ck_assert_uint_eq(reply->origins[0].keys, 16);
        ck_assert_uint_eq(fixture_gauges(&f).leased_bytes, 4 * 512);
        fixture_close(&f);
    }
END_TEST

START_TEST(origins_say_who_pushed)
    {
        open_groups(0, 3, 1);
        (void)fixture_session(&f, 1, "bb", 0);
        ck_assert_uint_eq(fixture_space(&f, 1, 1, groups, 3), space);
        for (uint32_t g = 0; g < 3; g++) {
            struct core_event use = {
                .kind = EVENT_SHAPE_USE, .session = 1, .u.handle.handle = shapes[g]};
            ck_assert_int_eq(fixture_step(&f, &use, ACTION_SHAPE)->status, ST_OK);
        }
        fixture_store(&f, 0, shapes[0], 0, 4);
        fixture_store(&f, 1, shapes[0], 4, 2);
        fixture_store(&f, 1, shapes[1], 0, 6);
        fixture_store(&f, 0, shapes[2], 5, 1);
        struct core_event event = fixture_lookup(&f, 0, space, 0, 6);
        event.u.lookup.origins = true;
        const struct core_action *reply = ask(&event);
        ck_assert_uint_eq(reply->hit_keys, 6);
        ck_assert_uint_eq(reply->origin_count, 2);
        ck_assert_uint_eq(reply->origins[0].keys, 4);
        ck_assert_uint_eq(reply->origins[1].keys, 2);
        ck_assert_mem_eq(reply->origins[1].instance_id, "bb", 2);
        /* with a state group alone, what the lookup before had left was read */
        struct core_want want = {2, {0, 1, 0, 1}};
        event.u.lookup.wants = &want;
        event.u.lookup.want_count = 1;
        reply = ask(&event);
        ck_assert_uint_eq(reply->hit_keys, 6);
        ck_assert_uint_eq(reply->origin_count, 1);
        ck_assert_uint_eq(reply->origins[0].keys, 1);
        ck_assert_mem_eq(reply->origins[0].instance_id, "a", 1);
        fixture_close(&f);
    }
END_TEST

START_TEST(nonsense_is_refused)
    {
        open_groups(0, 2, 1);
        struct core_want good = {0, {0, 2, 0, 2}};
        struct core_want wants[CORE_WANTS_MAX + 1];
        for (uint32_t w = 0; w <= CORE_WANTS_MAX; w++) {
            wants[w] = good;
        }
        struct core_want bad[] = {{2, {0, 1, 0, 1}},
                                  {0, {0, 3, 0, 1}},
                                  {0, {UINT32_MAX, 2, 0, 1}},
                                  {0, {0, 1, 1, UINT32_MAX}},
                                  {0, {0, 0, 0, 1}}};
        for (size_t i = 0; i < ARRAY_COUNT(bad); i++) {
            struct core_event event = fixture_lookup(&f, 0, space, 0, 3);
            event.u.lookup.wants = &bad[i];
            event.u.lookup.want_count = 1;
            ck_assert_int_eq(ask(&event)->status, ST_INVALID);
        }
        static const uint32_t numbers[][4] = {/* key_grains, tail, key_count, wants */
                                              {0, 16, 3, 0},
                                              {257, 16, 3, 0},
                                              {1, 0, 3, 0},
                                              {1, 17, 3, 0},
                                              {256, 16, 1u << 20, 0},
                                              {1, 16, (1u << 20) + 1, 0},
                                              {1, 16, 3, CORE_WANTS_MAX + 1}};
        for (size_t i = 0; i < ARRAY_COUNT(numbers); i++) {
            struct core_event event = fixture_lookup(&f, 0, space, 0, 3);
            event.u.lookup.key_grains = numbers[i][0];
            event.u.lookup.tail_tokens = numbers[i][1];
            event.u.lookup.key_count = numbers[i][2];
            event.u.lookup.wants = wants;
            event.u.lookup.want_count = numbers[i][3];
            ck_assert_int_eq(ask(&event)->status, ST_INVALID);
        }
        struct core_event event = fixture_lookup(&f, 0, 5, 0, 3);
        ck_assert_int_eq(ask(&event)->status, ST_INVALID);
        fixture_close(&f);
    }
END_TEST

START_TEST(lease_quota_and_shortage)
    {
        struct core_limits limits = fixture_limits();
        limits.instance_lease_bytes_max = 4 * 512;
        limits.leases_max = 2;
        fixture_open(&f, &limits);
        (void)fixture_session(&f, 0, "a", 0);
        space = fixture_space(&f, 0, 1, groups, 1);
        struct core_ranges all = {0, 2, 0, 2};
        uint32_t shape = fixture_shape(&f, 0, space, 0, 1, all, 512);
        fixture_store(&f, 0, shape, 0, 8);
        struct core_event event = fixture_lookup(&f, 0, space, 0, 5);
        event.u.lookup.lease = true;
        ck_assert_int_eq(ask(&event)->status, ST_QUOTA);
        ck_assert_uint_eq(f.actions.items[0].lease, 0);
        ck_assert_uint_ne(fixture_lease(&f, 0, space, 0, 1), 0);
        uint64_t second = fixture_lease(&f, 0, space, 0, 1);
        event = fixture_lookup(&f, 0, space, 0, 1);
        event.u.lookup.lease = true;
        ck_assert_int_eq(ask(&event)->status, ST_LIMIT);
        ck_assert_int_eq(fixture_release(&f, 0, second), ST_OK);
        ck_assert_uint_ne(fixture_lease(&f, 0, space, 0, 3), 0);
        fixture_close(&f);
    }
END_TEST

UNIT_MAIN("lookup", every_needs_all_from_the_beginning, window_needs_the_last_tokens,
          window_behind_a_partial_tail, state_needs_the_end_only, all_rules_at_once_and_step_cuts,
          steps_that_keys_do_not_divide, parts_of_large_blocks_count_once, origins_say_who_pushed,
          nonsense_is_refused, lease_quota_and_shortage)
